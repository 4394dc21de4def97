"""What the original's trunk may mean at another size, where its file was written for the native one.

Padding and rounding that follow the image's size go on doing so, or are what they are natively; a pool whose window
covers the native map slides over a larger one, or is over all of it. The file does not say which is meant: the
rewritten model must have done one of these.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.proof.baked import Shapes, attributes, auto_pad, covered, follows, is_on

MOST = 8
"""Readings that are tried at most."""


@dataclass(frozen=True)
class Readings:
    """A model in all its readings, as it stands first. ``open``: outputs of nodes of which there would be more than are
    tried, or one that cannot be written."""

    model: onnx.ModelProto
    changes: tuple[Callable[[onnx.GraphProto], None], ...]
    open: frozenset[str]

    @staticmethod
    def of(model: onnx.ModelProto, shapes: Shapes, other: onnx.GraphProto) -> Readings:
        """``shapes`` are the native ones; what the ``other`` model leaves as it is follows there, too."""
        fixed, pools, left = list[str](), list[str](), set[str]()
        kept = {node.output[0]: node.attribute for node in other.node if node.output}
        for node in model.graph.node:
            name = node.output[0]
            if node.input and follows(node) and node.attribute != kept.get(name):
                (fixed.append if _native_pads(node, model.graph, shapes) else left.add)(name)
            if covered(node, shapes):
                pools.append(name)
        changes = [partial(_as_natively, shapes=shapes, names=frozenset(fixed))] if fixed else []
        version = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
        changes += [partial(_over_all, shapes=shapes, name=name, version=version) for name in pools]
        if 1 << len(changes) > MOST:
            left.update(pools)
            changes = changes[:1] if fixed else []
        return Readings(model, tuple(changes), frozenset(left))

    def others(self) -> Iterator[onnx.ModelProto]:
        """All but the model as it stands, those with the fewest changes first."""
        for some in sorted(itertools.product((0, 1), repeat=len(self.changes)), key=sum):
            if any(some):
                made = onnx.ModelProto()
                made.CopyFrom(self.model)
                for change, chosen in zip(self.changes, some, strict=True):
                    if chosen:
                        change(made.graph)
                yield made


def _as_natively(graph: onnx.GraphProto, shapes: Shapes, names: frozenset[str]) -> None:
    for node in graph.node:
        pads = _native_pads(node, graph, shapes) if node.output[0] in names else None
        if pads is not None:
            _replace(node, auto_pad=None, ceil_mode=None, pads=pads)


def _native_pads(node: onnx.NodeProto, graph: onnx.GraphProto, shapes: Shapes) -> list[int] | None:
    """The native padding of a node that follows the image's size; None where no padding says it."""
    found = attributes(node)
    before, after = shapes.get(node.input[0], ())[2:], shapes.get(node.output[0], ())[2:]
    kernel = _kernel(node, graph)
    if not before or len(before) != len(after) or 0 in (*before, *after) or len(kernel) != len(before):
        return None
    auto, ceil = auto_pad(found), is_on(found, "ceil_mode")
    if node.op_type == "ConvTranspose" or (ceil and is_on(found, "count_include_pad")):
        return None
    rank = len(before)
    strides, dilations = (list(found[name].ints) if name in found else [1] * rank for name in ("strides", "dilations"))
    pads = list(found["pads"].ints) if "pads" in found and not auto.startswith(b"SAME") else [0] * 2 * rank
    for axis in range(rank):
        reach = (after[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        lack = max(0, reach - before[axis] - pads[axis] - pads[axis + rank])
        first = 0 if ceil else (lack + (auto == b"SAME_LOWER")) // 2
        pads[axis] += first
        pads[axis + rank] += lack - first
    return pads


def _kernel(node: onnx.NodeProto, graph: onnx.GraphProto) -> Sequence[int]:
    found = attributes(node)
    if "kernel_shape" in found:
        return list(found["kernel_shape"].ints)
    return next((list(t.dims)[2:] for t in graph.initializer if len(node.input) > 1 and t.name == node.input[1]), [])


def _over_all(graph: onnx.GraphProto, shapes: Shapes, name: str, version: int) -> None:
    """A pool over all places of the axes that its window covers natively: these are reduced before it."""
    place, node = next((i, node) for i, node in enumerate(graph.node) if node.output[0] == name)
    axes, found = covered(node, shapes), attributes(node)
    rank, made = len(shapes[node.input[0]]) - 2, f"{name}, over all places"
    kind = "ReduceMax" if node.op_type == "MaxPool" else "ReduceMean"
    if version < 18:
        reduce = helper.make_node(kind, [node.input[0]], [made], axes=axes, keepdims=1)
    else:
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{made}, axes"))
        reduce = helper.make_node(kind, [node.input[0], f"{made}, axes"], [made], keepdims=1)
    changed = {}
    for key, ends, idle in (("kernel_shape", 1, 1), ("strides", 1, 1), ("dilations", 1, 1), ("pads", 2, 0)):
        if key in found:
            values = list(found[key].ints)
            for axis in (axis - 2 + rank * end for axis in axes for end in range(ends)):
                values[axis] = idle
            changed[key] = values
    node.input[0] = made
    _replace(node, **changed)
    graph.node.insert(place, reduce)


def _replace(node: onnx.NodeProto, **changes: list[int] | None) -> None:
    kept = [item for item in node.attribute if item.name not in changes]
    kept += [helper.make_attribute(name, value) for name, value in changes.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend(kept)
