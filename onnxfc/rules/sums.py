"""Sums over the whole image as context: kept at the scale of the native size, as the layers behind them know it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx
from onnx import TensorProto

from onnxfc import emit
from onnxfc.graph import attributes, inputs_of, label
from onnxfc.site import Site, positive
from onnxfc.views import Trace

_SUMS = {"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "Einsum"}
_SOFTMAX = {"Hardmax", "LogSoftmax", "Softmax"}
_SIZES = {"Shape", "Size"}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NEAR = 12


def grows(site: Site) -> bool:
    """Whether this is a sum that grows with the image, and nothing behind it divides it by the image's size."""
    return site.op_type in _SUMS and not _divided(site)


def weighs(site: Site, trace: Trace, axes: Sequence[int]) -> bool | None:
    """Whether this sum over the places ``axes`` is their mean, by weights that a Softmax over just these gave them.

    None where the places of the image were weighed against each other, but this sum is something else; False where they
    were not, or this is no sum.
    """
    makers = {label(node) for node in site.state.graph.nodes if node.op_type in _SOFTMAX}
    if site.op_type not in _SUMS or not makers & trace.pools:
        return False
    return True if set(axes) in _softmaxes_of_product(site) and site.op_type == "ReduceSum" else None


def _softmaxes_of_product(site: Site) -> list[set[int]]:
    """Where the input is a product with a Softmax: the axes over which that is one."""
    product, rank = _maker(site, site.node.input[0]), len(site.shape_in())
    factors = [] if product is None or product.op_type != "Mul" else [_maker(site, name) for name in product.input]
    found = []
    for node in factors:
        if node is not None and node.op_type == "Softmax" and len(site.native(node.output[0]).native) == rank:
            flattening = site.opset < 13
            axis = positive(int(attributes(node).get("axis", 1 if flattening else -1)), rank)
            found.append(set(range(axis, rank)) if flattening else {axis})
    return found


def _maker(site: Site, name: str) -> onnx.NodeProto | None:
    """The node that makes a tensor, before any that leave it as it is."""
    node = site.state.graph.producers.get(name)
    while node is not None and node.op_type in {"Cast", "Identity"}:
        node = site.state.graph.producers.get(node.input[0])
    return node


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


def steady(site: Site, tensor: str, axes: Sequence[int], keepdims: bool, count: int = 0, output: str = "") -> None:
    """The node's output as the mean over the places times their native number, which at the native size is the sum.

    ``count``: how many elements are summed up natively, where they are not those of ``axes`` of the node's own input.
    ``output``: another name for it.
    """
    draft, output = site.draft, output or site.node.output[0]
    count = count or math.prod(site.shape_in()[axis] for axis in axes)
    if site.op_type == "ReduceLogSumExp":
        return _steady_log(site, tensor, axes, keepdims, count, output)
    dtype = draft.spec(tensor).dtype
    whole = dtype not in FLOATS  # a count: onnxruntime has no mean of integers
    if whole:
        tensor = draft.emit("Cast", [tensor], to=TensorProto.DOUBLE)
    if site.op_type == "ReduceL1":
        tensor = draft.emit("Abs", [tensor])
    elif site.op_type in {"ReduceL2", "ReduceSumSquare"}:
        tensor = draft.emit("Mul", [tensor, tensor])
    mean = emit.reduce(draft, "ReduceMean", tensor, axes, keepdims)
    last = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(site.op_type)
    total = draft.emit("Mul", [mean, emit.scalar(draft, float(count), mean)], "" if last or whole else output)
    if last:
        total = draft.emit(last, [total], "" if whole else output)
    if whole:
        half = draft.emit("Add", [total, emit.scalar(draft, 0.5, mean)])
        draft.emit("Cast", [draft.emit("Floor", [half])], output, to=dtype)
    return None


def _steady_log(site: Site, tensor: str, axes: Sequence[int], keepdims: bool, count: int, output: str) -> None:
    """log(sum(exp(x))) less the logarithm of how many more elements there are than natively."""
    draft = site.draft
    total = emit.reduce(draft, site.op_type, tensor, axes, keepdims)
    lengths = [emit.dims(draft, tensor, axis, axis + 1) for axis in axes]
    now = lengths[0]
    for length in lengths[1:]:
        now = draft.emit("Mul", [now, length])
    cast = draft.emit("Cast", [emit.squeeze(draft, now, [0])], to=draft.spec(tensor).dtype)
    more = draft.emit("Div", [cast, emit.scalar(draft, float(count), tensor)])
    draft.emit("Sub", [total, draft.emit("Log", [more])], output)
