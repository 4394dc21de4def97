"""Sums over the whole image as context: kept at the scale of the native size, as the layers behind them know it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.graph import attributes, inputs_of
from onnxfc.rules.elementwise import BROADCAST, UNARY
from onnxfc.site import LEAVE, Site, positive
from onnxfc.specs import InferenceFailed, Spec
from onnxfc.views import Folded, Map, Refused, Trace, View, Window

SUMS = {"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"}
_SOFTMAX = {"Hardmax", "LogSoftmax", "Softmax"}
_SIZES = {"Shape", "Size"}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_NEAR = 12


def grows(site: Site, trace: Trace) -> bool:
    """Whether this is a sum that grows with the image, and nothing behind it divides it by the image's size."""
    alone = site.op_type == "Einsum" and len(site.node.input) == 1
    return (site.op_type in SUMS or alone) and not trace.shares and not divided(site)


def weighs(site: Site, trace: Trace, axes: Sequence[int]) -> bool | None:
    """Whether this sum over the places ``axes`` is their mean, by weights that a Softmax over just these gave them.

    None where the places of the image were weighed against each other, but this sum is something else; False where they
    were not, or this is no sum.
    """
    if site.op_type not in SUMS:
        return False
    makers = {node.output[0] for node in site.state.graph.nodes if node.op_type in _SOFTMAX}
    if not makers & trace.pools:
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


def in_part(site: Site, traces: Iterable[Trace]) -> Refusal | None:
    """A sum over places of what was combined with parts of a whole: what of it grows with the image is unknown."""
    if any(place < 0 for trace in traces for _, place in trace.shares) and not divided(site):
        return site.refuse("sum-over-image", "sums up weights that were changed since they summed up to 1", LEAVE)
    return None


def divided(site: Site) -> bool:
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
    """Whether a number follows the image's size; where that cannot be told yet, whether it is computed from a shape."""
    if site.native(name).shapes is None or site.native(name).native not in {(), (1,)}:
        return False
    now = _now(site, name)
    measured = _measured(site, name)
    if now is not None and now.values is not None:
        return now.constant is None and not site.follows_batch(now.values)
    return measured


def _measured(site: Site, name: str) -> bool:
    """Whether a number is computed from a shape.

    Raises InferenceFailed where that is the shape of a piece, ``x[0, 0]`` say: it would be that of a window.
    """
    producers, queue, found = site.state.graph.producers, [name], False
    while queue:
        node = producers.get(queue.pop())
        if node is None:
            continue
        if node.op_type not in _SIZES:
            queue += inputs_of(node)
            continue
        found, maker = True, producers.get(node.input[0])
        if maker is not None and maker.op_type in {"Gather", "Slice", "Split"}:
            raise InferenceFailed("it is divided by the size of a piece of the image, not of the map that it sums up")
    return found


def _now(site: Site, name: str) -> Spec | None:
    """What a tensor is at every probe, though the walk may not have come to it; None where that is unknown."""
    view, draft = site.state.views.get(name), site.draft
    if isinstance(view, Window | Refused):
        return None
    if view is not None:
        return draft.specs.get(view.tensor)
    node = site.state.graph.producers.get(name)
    given = [_now(site, item) if item else None for item in node.input] if node else []
    if node is None or any(spec is None for spec, item in zip(given, node.input, strict=True) if item):
        return None
    try:
        made = draft.inference.infer(node, given, draft.probes)
    except InferenceFailed:
        return None
    return made[list(node.output).index(name)]


_KEEP_SHARES = {
    *("Cast", "Div", "Dropout", "Einsum", "Expand", "Flatten", "Gather", "Hardmax", "Identity", "MatMul", "Mul", "Neg"),
    *("Reshape", "Slice", "Softmax", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators after which parts of a whole are that still, whatever else they were multiplied with."""


def shares_behind(node: onnx.NodeProto, given: Sequence[View], view: View) -> View:
    """A node's output with what it still holds of shares; in doubt (the place inverted) after work on each element."""
    if not isinstance(view, Map | Folded) or not any(side.shares for side in _traces(view)):
        return view
    all_hold = all(isinstance(item, Map | Folded) and _sure(item) for item in given)
    kept = node.op_type in _KEEP_SHARES or (node.op_type in {"Add", "Sub", "Sum"} and all_hold)
    if kept and (node.op_type != "Div" or _sure(given[0])):
        return view
    each = node.op_type in {*BROADCAST, *UNARY}

    def behind(trace: Trace) -> Trace:
        return replace(trace, shares=frozenset((name, min(k, ~k)) for name, k in trace.shares if each))

    if isinstance(view, Map) or view.other is None:
        return replace(view, trace=behind(view.trace))
    return replace(view, trace=behind(view.trace), other=replace(view.other, trace=behind(view.other.trace)))


def _traces(view: Map | Folded) -> list[Trace]:
    return [view.trace] if isinstance(view, Map) else [side.trace for side in view.sides]


def _sure(view: View) -> bool:
    return isinstance(view, Map | Folded) and any(k >= 0 for trace in _traces(view) for _, k in trace.shares)


def of_native_count(site: Site, axes: Sequence[tuple[str, int, int]], like: str) -> str:
    """How often the native places are held in those there are now, inverted: 1 at the native size.

    ``axes``: tensor, axis, and the native number of places on it.
    """
    draft, count = site.draft, math.prod(length for _, _, length in axes)
    native = draft.constant(np.asarray(count, np.float32), "places")
    now = _present(site, [(tensor, axis) for tensor, axis, _ in axes], TensorProto.FLOAT)
    ratio = draft.emit("Div", [native, now])
    dtype = draft.spec(like).dtype
    return ratio if dtype == TensorProto.FLOAT else draft.emit("Cast", [ratio], to=dtype)


def _present(site: Site, axes: Sequence[tuple[str, int]], dtype: int) -> str:
    """How many elements there are now on axes (tensor, axis) together, as a scalar of this element type."""
    draft = site.draft
    now, *more = [emit.dims(draft, tensor, axis, axis + 1) for tensor, axis in axes]
    for length in more:
        now = draft.emit("Mul", [now, length])
    return draft.emit("Cast", [emit.squeeze(draft, now, [0])], to=dtype)


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
    now = _present(site, [(tensor, axis) for axis in axes], draft.spec(tensor).dtype)
    more = draft.emit("Div", [now, emit.scalar(draft, float(count), tensor)])
    draft.emit("Sub", [total, draft.emit("Log", [more])], output)
