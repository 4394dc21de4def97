"""Pools over more places than an accelerator takes, as two: over the columns, then over the rows of what is left.

A mean over h x w is the mean over h of means over w, and so is a maximum.
"""

from __future__ import annotations

import math

import onnx
from onnx import helper

from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.forms.draft import Draft
from onnxfc.graph.index import attributes, label, remarks
from onnxfc.shapes.spec import Spec

_GLOBAL = {"GlobalAveragePool": "AveragePool", "GlobalMaxPool": "MaxPool"}
_ADVICE = "leave out --max-pool, or allow it more places"


def split_pools(draft: Draft, most: int) -> Draft:
    """No pool over more than ``most`` places. Raises NothingToRewrite for those that are no two pools."""
    nodes, specs, done = list[onnx.NodeProto](), dict[str, Spec](), list[tuple[str, str, str]]()
    names = draft.names()
    for node in draft.nodes:
        kernel = _kernel(draft, node)
        if math.prod(kernel) <= most:
            nodes.append(node)
            continue
        first, second = _two(node, kernel, names.unused(f"{node.output[0]}_columns"), names.unused(node.name))
        nodes += [first, second]
        specs[first.output[0]] = _between(draft, node)
        size = "x".join(map(str, kernel))
        done.append((label(node), f"{node.op_type} {size}", f"{first.op_type} 1x{kernel[1]}, then {kernel[0]}x1"))
        if max(kernel) > most:
            raise _refused(node, f"is over {size} places, of which one axis alone is more than {most}")
    return draft.with_nodes(nodes, {}, specs).remarked(done)


def _kernel(draft: Draft, node: onnx.NodeProto) -> tuple[int, ...]:
    """The places of a pool; none of other operators, whose limit is another."""
    if node.op_type in _GLOBAL:
        return draft.specs[node.input[0]].native[2:]
    return tuple(attributes(node)["kernel_shape"]) if node.op_type in _GLOBAL.values() else ()


def _two(
    node: onnx.NodeProto, kernel: tuple[int, ...], between: str, name: str
) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The pool along the columns of each row, and the one along the rows."""
    told = attributes(node)
    padded = any(told.get("pads", ())) or told.get("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    if padded or told.get("ceil_mode", 0) or set(told.get("dilations", (1,))) != {1} or len(node.output) > 1:
        raise _refused(node, "is padded, rounded up, dilated, or tells places")
    op_type = _GLOBAL.get(node.op_type, node.op_type)
    strides = told.get("strides", (1, 1))
    steps = ((1, kernel[1]), (1, strides[1])), ((kernel[0], 1), (strides[0], 1))
    tensors = (node.input[0], between), (between, node.output[0])
    made = [
        helper.make_node(op_type, [source], [target], name=own, kernel_shape=size, strides=step, pads=[0] * 4)
        for (source, target), (size, step), own in zip(tensors, steps, (name, node.name), strict=True)
    ]
    made[1].MergeFrom(remarks(node))
    return made[0], made[1]


def _between(draft: Draft, node: onnx.NodeProto) -> Spec:
    """What the first pool makes: all rows, the columns of the result."""
    before, after = draft.specs[node.input[0]], draft.specs[node.output[0]]
    pairs = zip(before.shapes or (), after.shapes or (), strict=True)
    return Spec(after.dtype, tuple((*own[:3], made[3]) for own, made in pairs))


def _refused(node: onnx.NodeProto, why: str) -> NothingToRewrite:
    refusal = Refusal("form-pool", label(node), why, _ADVICE)
    return NothingToRewrite(str(refusal), (refusal,))
