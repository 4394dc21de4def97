"""Sums over the whole image as context: kept at the scale of the native size, as the layers behind them know it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import TensorProto

from onnxfc import emit
from onnxfc.graph import inputs_of
from onnxfc.site import Site

_SUMS = {"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"}
_SIZES = {"Shape", "Size"}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NEAR = 12


def grows(site: Site) -> bool:
    """Whether this is a sum that grows with the image, and nothing behind it divides it by the image's size."""
    return site.op_type in _SUMS and not _divided(site)


def _divided(site: Site) -> bool:
    """Whether the sum meets, a few nodes on, a number that was computed from a shape."""
    graph = site.state.graph
    names, seen = {site.node.output[0]}, 0
    for node in graph.nodes:
        if not names.intersection(node.input) or seen > _NEAR:
            continue
        seen += 1
        if node.op_type in {"Div", "Mul"} and any(_of_size(site, name) for name in node.input if name not in names):
            return True
        names.update(node.output)
    return False


def _of_size(site: Site, name: str) -> bool:
    """Whether a number is computed from a shape."""
    if site.native(name).shapes is None or site.native(name).native not in {(), (1,)}:
        return False
    queue = [name]
    while queue:
        node = site.state.graph.producers.get(queue.pop())
        if node is not None and node.op_type in _SIZES:
            return True
        queue += [] if node is None else inputs_of(node)
    return False


def steady(site: Site, tensor: str, axes: Sequence[int], keepdims: bool) -> None:
    """The node's output as the mean over the places times their native number, which at the native size is the sum."""
    draft, output = site.draft, site.node.output[0]
    dtype = draft.spec(tensor).dtype
    whole = dtype not in FLOATS  # a count: onnxruntime has no mean of integers
    if whole:
        tensor = draft.emit("Cast", [tensor], to=TensorProto.DOUBLE)
    count = math.prod(site.shape_in()[axis] for axis in axes)
    if site.op_type == "ReduceL1":
        tensor = draft.emit("Abs", [tensor])
    elif site.op_type in {"ReduceL2", "ReduceSumSquare"}:
        tensor = draft.emit("Mul", [tensor, tensor])
    mean = emit.reduce(draft, "ReduceMean", tensor, axes, keepdims)
    root = site.op_type == "ReduceL2"
    total = draft.emit("Mul", [mean, emit.scalar(draft, float(count), mean)], "" if root or whole else output)
    if root:
        total = draft.emit("Sqrt", [total], "" if whole else output)
    if whole:
        half = draft.emit("Add", [total, emit.scalar(draft, 0.5, mean)])
        draft.emit("Cast", [draft.emit("Floor", [half])], output, to=dtype)
