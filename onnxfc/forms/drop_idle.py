"""Nodes that do nothing at this size: a Reshape to the shape that is there, a Slice of all, a pool of one element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxfc.forms.draft import Draft, captured_names, renamed
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import COVERING, GLOBAL_POOLS, IDLE, RESHAPING, perm_of

_SAME_WHERE_SHAPED = {*RESHAPING, *GLOBAL_POOLS, "Cast", "Expand", "Tile", *IDLE}
"""They leave their input alone where it keeps its shape and type."""
_OF_ONE = {"ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum"}
"""Of one element each is that element."""


def drop_idle(draft: Draft) -> Draft:
    """The draft without them. Tensors that are kept by name take the place of what they were made of."""
    made = {name for node in draft.nodes for name in node.output}
    fast = draft.kept | captured_names(draft.nodes)
    source: dict[str, str] = {}
    instead: dict[str, str] = {}
    left = []
    for node in draft.nodes:
        before, after = source.get(node.input[0], node.input[0]) if node.input else "", node.output[0]
        before = instead.get(before, before)
        if not _is_idle(draft, node):
            left.append(node)
        elif after not in fast:
            source[after] = before
        elif before in made and before not in fast and before not in instead.values():
            instead[before] = after
        else:
            left.append(node)
    source = {name: instead.get(other, other) for name, other in source.items()}
    return draft.with_nodes(renamed(left, {**source, **instead}))


def _is_idle(draft: Draft, node: onnx.NodeProto) -> bool:
    if len(node.output) != 1 or not node.input or not draft.is_idle_shape(node.input[0], node.output[0]):
        return False
    told = attributes(node)
    if node.op_type in _SAME_WHERE_SHAPED | _OF_ONE:
        return True
    if node.op_type == "Concat":
        return len(node.input) == 1
    if node.op_type == "Transpose":
        return _keeps_order(draft.specs[node.input[0]].native, told)
    if node.op_type == "Slice":
        steps = draft.constant(node.input[4]) if len(node.input) > 4 and node.input[4] else np.ones(1)
        return steps is not None and bool((steps > 0).all())  # as many elements from first to last: all of them
    if node.op_type == "Pad":
        pads = told.get("pads", draft.constant(node.input[1]) if len(node.input) > 1 else None)
        return pads is not None and not np.any(pads)
    if node.op_type in COVERING:
        return all(set(told.get(name, [free])) == {free} for name, free in _SMALLEST.items()) and "auto_pad" not in told
    return False


_SMALLEST = {"kernel_shape": 1, "strides": 1, "pads": 0}


def _keeps_order(shape: tuple[int, ...], told: Mapping[str, Any]) -> bool:
    """Whether only axes of one element change places."""
    perm = [axis for axis in perm_of(told, len(shape)) if shape[axis] != 1]
    return perm == sorted(perm)
