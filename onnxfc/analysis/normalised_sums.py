"""Sums over the whole image as context: kept at the scale of the native size, as the layers behind them know it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from onnxfc.analysis.copies import told_copies
from onnxfc.analysis.counts import Growth, divisor
from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, RuleContext, tensor_of
from onnxfc.builder.state import Roles, Unbiased
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes, copied, inputs_of
from onnxfc.graph.op_kinds import (
    BROADCAST,
    COPYING,
    CUTTING,
    FLOATS,
    LENGTHS,
    MEANS,
    SAME_VALUES,
    SOFTMAX,
    SPREADING,
    SUMS,
    UNARY,
    axes_along,
)
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, Refused, View, Window
from onnxfc.shapes.spec import InferenceFailed, Spec

Scale = Literal["grows", "same", "shrinks", "follows"]


def scale_of(
    ctx: RuleContext, provenance: Provenance, tensor: str, axes: Sequence[int], places: Sequence[int]
) -> Scale:
    """How a reduction over ``axes`` of ``tensor`` follows the image's size, if no number behind it makes up for that.

    A sum grows, but for that of weights which sum up to 1 along ``places`` (of the image); a mean of these shrinks. Of
    what was divided by another sum of its own it follows the size as that does.
    """
    if ctx.name in ctx.state.roles.plain or not (_sums_up(ctx) or ctx.op_type in MEANS) or is_as_written(ctx):
        return "same"
    if any(name in ctx.state.roles.norms and place in places for name, place in provenance.sums_to_one):
        return "same" if ctx.op_type == "Einsum" else "follows"
    weighed = {place for _, place in provenance.sums_to_one}
    along = weighed & set(places)
    if along and along < set(places):
        raise InferenceFailed("it sums up at once what was weighed over some of the places only")
    counts = counted(ctx, tensor, axes)
    if _sums_up(ctx):
        doubted = not weighed.isdisjoint(~place for place in places)
        return "same" if along or doubted or divided(ctx, counts) else _growing(ctx, tensor)
    return "same" if not along or divided(ctx, tuple(1 / count for count in counts)) else "shrinks"


def is_as_written(ctx: RuleContext) -> bool:
    """Whether a sum follows the image's size as it does in the original, which takes images of any size; not where the
    count of a window's features may divide it, and no norm does. Raises InferenceFailed where a number of the file is
    the native count of its places: the network's own is another one at another size, and the file's is not."""
    of_window = any(isinstance(view, Window) for view in ctx.views) and ctx.name not in ctx.state.roles.steady
    if not ctx.state.as_written or of_window:
        return False
    if ctx.name in ctx.state.roles.by_number:
        raise InferenceFailed("a plain number, the native count of its places, makes a mean of it: let it be computed")
    return True


def _growing(ctx: RuleContext, tensor: str) -> Scale:
    """Of a sum that is held at its native scale. Raises InferenceFailed for one of integers that is kept, a result or a
    part of one: it would be rounded."""
    if ctx.builder.spec(tensor).dtype not in FLOATS and ctx.state.global_pool == "keep":
        raise InferenceFailed("it counts in integers, which are rounded at the scale of the native size")
    return "grows"


def _sums_up(ctx: RuleContext) -> bool:
    return ctx.op_type in SUMS or (ctx.op_type == "Einsum" and len(ctx.node.input) == 1)


def rescaled(
    ctx: RuleContext, scale: Scale, tensor: str, axes: Sequence[int], keepdims: bool, count: int = 0, output: str = ""
) -> bool:
    """Write the reduction at the scale of the native size, where the node itself has it not; ``count`` as below."""
    if scale == "grows":
        told_scale(ctx)
        steady(ctx, tensor, axes, keepdims, count, output)
    elif scale == "shrinks":
        count = count or math.prod(ctx.builder.spec(tensor).native[axis] for axis in axes)
        total = ops.reduce(ctx.builder, "ReduceSum", tensor, axes, keepdims)
        share = ops.scalar(ctx.builder, 1.0 / count, total)
        ctx.builder.emit("Mul", [total, share], output or ctx.node.output[0])
    return scale in ("grows", "shrinks")


def told_scale(ctx: RuleContext) -> None:
    """Note a sum whose scale the file does not show. Of cells there is nothing to tell: theirs is that of a crop."""
    if not ctx.state.of_windows and ctx.name not in ctx.state.roles.steady:
        why = f"{ctx.op_type} sums up the whole image, and is held at the scale that it has at the native size"
        ctx.remark(
            "native-scale", f"{why}; where the network's own grows with the image, export it with open height and width"
        )


def told_count(ctx: RuleContext) -> None:
    """Note a figure of the whole image that is multiplied by a power of the native number of places, or repeated."""
    if ctx.op_type in COPYING and isinstance(ctx.views[0], Context):
        told_copies(ctx)
    if ctx.state.dense and ctx.name in ctx.state.roles.counted and not ctx.state.as_written:
        why = f"{ctx.op_type} scales a figure of the whole image by the native number of its places, or a root of that"
        ctx.remark("native-scale", f"{why}; unless it is that by chance, export it with open height and width")


def counted(ctx: RuleContext, tensor: str, axes: Sequence[int]) -> Growth:
    """How many elements lie on these axes, at one probe after another but for the native size."""
    shapes = ctx.builder.spec(tensor).shapes or ()
    return tuple(float(math.prod(shape[axis] for axis in axes)) for shape in shapes[1:])


def weighs(ctx: RuleContext, provenance: Provenance, axes: Sequence[int]) -> bool | None:
    """Whether this sum over the places ``axes`` is their mean, by weights that a Softmax over just these gave them.

    None where the places of the image were weighed against each other, but this sum is something else; False where they
    were not, or this is no sum.
    """
    if ctx.op_type not in SUMS:
        return False
    makers = {node.output[0] for node in ctx.state.graph.nodes if node.op_type in SOFTMAX} | set(ctx.state.roles.shares)
    if makers.isdisjoint(provenance.pools):
        return False
    return True if set(axes) in _softmaxes_of_product(ctx) and ctx.op_type == "ReduceSum" else None


def _softmaxes_of_product(ctx: RuleContext) -> list[set[int]]:
    """Where the input is a product with a Softmax: the axes over which that is one."""
    graph, rank = ctx.state.graph, len(ctx.shape_in())
    product = graph.maker(ctx.node.input[0], past=SAME_VALUES)
    inputs = product.input if product is not None and product.op_type == "Mul" else ()
    factors = [graph.maker(name, past=SAME_VALUES) for name in inputs]
    made = [node for node in factors if node is not None and node.op_type == "Softmax"]
    alike = [node for node in made if len(ctx.native(node.output[0]).native) == rank]
    return [set(axes_along(node.op_type, attributes(node), rank, ctx.opset)) for node in alike]


def in_part(ctx: RuleContext, provenances: Iterable[Provenance], tensor: str, axes: Sequence[int]) -> Refusal | None:
    """A sum over places of what was combined with parts of a whole: what of it grows with the image is unknown."""
    doubt = ctx.op_type in SUMS and any(place < 0 for provenance in provenances for _, place in provenance.sums_to_one)
    return changed_shares(ctx) if doubt and not divided(ctx, counted(ctx, tensor, axes)) else None


def changed_shares(ctx: RuleContext) -> Refusal:
    makers = [ctx.state.graph.producers.get(name) for name in ctx.node.input]
    if any(node is not None and node.op_type == "DequantizeLinear" for node in makers):
        why = "sums up shares of the image that were rounded to integers: those of a larger image fall below a step"
        return ctx.refuse("quantised", why, "keep Softmax, and the product behind it, in floats (nodes_to_exclude)")
    return ctx.refuse("sum-over-image", "sums up what was divided by a sum over the image, and changed since", LEAVE)


def divided(ctx: RuleContext, counts: Growth) -> bool:
    """Whether the sum of so many elements is divided by their count. Raises InferenceFailed where by another number."""
    power = {"ReduceL2": 0.5, "ReduceLogSum": None, "ReduceLogSumExp": None}.get(ctx.op_type, 1.0)
    growth = None if power is None else tuple(count**power for count in counts)
    found = divisor(
        ctx.state.graph,
        ctx.node.output[0],
        growth,
        lambda name: _number(ctx, name),
        lambda node, name: _spreads(ctx, node, name),
    )
    if found == "other":
        raise InferenceFailed("it is divided by a number that follows the size of the image, but is not its count")
    return found == "count"


def _number(ctx: RuleContext, name: str) -> Growth | bool:
    """One number that is computed from the image's size, at the probes; whether it is that, where it is not known."""
    native = ctx.native(name) if name else None
    if native is None or native.shapes is None or math.prod(native.native) != 1:
        return False
    now, measured = _now(ctx, name), _measured(ctx, name)
    if now is None or now.values is None:
        return measured
    if now.constant is not None or ctx.follows_batch(now.values):
        return False
    return tuple(float(value.ravel()[0]) for value in now.values[1 : ctx.builder.probes])


def _spreads(ctx: RuleContext, node: onnx.NodeProto, name: str) -> bool:
    """Whether a node lays this input on something larger that comes from the image, or repeats it."""
    sizes = [math.prod(spec.native) if spec.shapes else 0 for spec in map(ctx.native, (name, node.output[0]))]
    if node.op_type in SPREADING:
        return sizes[1] > sizes[0]
    others = [other for other in node.input if other not in {"", name}]
    fixed = all(isinstance(ctx.state.views.get(other), Fixed) for other in others)
    return node.op_type in BROADCAST and sizes[1] > sizes[0] and not fixed


def _measured(ctx: RuleContext, name: str) -> bool:
    """Whether a number is computed from a shape, and from nothing else of the image. That of a window is no such one.

    Raises InferenceFailed where that is the shape of a piece, ``x[0, 0]`` say: it would be that of a window.
    """
    graph, queue, found = ctx.state.graph, [name], set[str]()
    for item in queue:
        node = graph.producers.get(item)
        if node is None and not isinstance(ctx.state.views.get(item), Fixed):
            return False
        if node is not None and node.op_type in LENGTHS:
            found.add(node.input[0])
        elif node is not None:
            queue += [other for other in inputs_of(node) if other not in queue]
    if any(isinstance(ctx.state.views.get(item), Window) for item in found):
        return False
    makers = [graph.producers.get(item) for item in found]
    if any(maker is not None and maker.op_type in {*CUTTING, "Gather"} for maker in makers):
        raise InferenceFailed("it is divided by the size of a piece of the image, not of the map that it sums up")
    return bool(found)


def _now(ctx: RuleContext, name: str) -> Spec | None:
    """What a tensor is at every probe, though the walk may not have come to it; None where that is unknown."""
    view, builder = ctx.state.views.get(name), ctx.builder
    if isinstance(view, Window | Refused):
        return None
    if view is not None:
        return builder.specs.get(view.tensor)
    node = ctx.state.graph.producers.get(name)
    given = [_now(ctx, item) if item else None for item in node.input] if node else []
    if node is None or any(spec is None for spec, item in zip(given, node.input, strict=True) if item):
        return None
    try:
        made = builder.inference.infer(node, given, builder.probes)
    except InferenceFailed:
        return None
    return made[list(node.output).index(name)]


_KEEP_SUMS_TO_ONE = {
    *("Cast", "Div", "Dropout", "Einsum", "Expand", "Flatten", "Gather", "Hardmax", "Identity", "MatMul", "Mul", "Neg"),
    *("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Reshape", "Slice", "Softmax", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}
"""Operators after which parts of a whole are that still, whatever else they were multiplied with."""


def sums_to_one_behind(roles: Roles, node: onnx.NodeProto, given: Sequence[View], view: View) -> View:
    """A node's output with what in it sums to one, still or from now on; in doubt (the place inverted) after work on
    each place."""
    made = roles.shares.get(node.output[0]) or roles.norms.get(node.output[0])
    if made and isinstance(view, Placed) and view.other is None:
        shares = frozenset((node.output[0], place) for place in made)
        return replace(view, provenance=replace(view.provenance, sums_to_one=view.provenance.sums_to_one | shares))
    if isinstance(view, Context):
        sides = [side for item in given if isinstance(item, Placed) for side in item.sides]
        names = frozenset(name for side in sides for name, _ in side.provenance.sums_to_one)
        return replace(view, provenance=view.provenance.behind(*names))
    if not isinstance(view, Placed) or not any(side.provenance.sums_to_one for side in view.sides):
        return view
    if _hold(node, given):
        return view
    each = node.op_type in {*BROADCAST, *UNARY, "BatchNormalization", "Conv", "Gemm"}
    before = frozenset().union(
        *(side.provenance.sums_to_one for item in given if isinstance(item, Placed) for side in item.sides)
    )

    def behind(_: int, own: Provenance) -> Provenance:
        doubted = in_doubt(own.sums_to_one & before) if each else frozenset()
        return replace(own, sums_to_one=own.sums_to_one - before | doubted)

    return view.each_side(behind)


def in_doubt(sums_to_one: Iterable[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """What may be parts of a whole no longer: the places inverted."""
    return frozenset((name, min(place, ~place)) for name, place in sums_to_one)


def _hold(node: onnx.NodeProto, given: Sequence[View]) -> bool:
    """Whether parts of a whole among the inputs are that still behind the node."""
    if node.op_type in {"Add", "Sub", "Sum"}:
        return all(_sure(item) for item in given)
    if node.op_type in {"Conv", "Gemm"}:
        return len(node.input) == 2
    return node.op_type in _KEEP_SUMS_TO_ONE and (node.op_type != "Div" or _sure(given[0]))


def _sure(view: View) -> bool:
    return isinstance(view, Placed) and any(k >= 0 for side in view.sides for _, k in side.provenance.sums_to_one)


def of_native_count(ctx: RuleContext, axes: Sequence[tuple[str, int, int]], like: str) -> str:
    """How often the native places are held in those there are now, inverted: 1 at the native size.

    ``axes``: tensor, axis, and the native number of places on it.
    """
    builder, count = ctx.builder, math.prod(length for _, _, length in axes)
    native = builder.constant(np.asarray(count, np.float32), "places")
    now = _present(ctx, [(tensor, axis) for tensor, axis, _ in axes], TensorProto.FLOAT)
    ratio = builder.emit("Div", [native, now])
    dtype = builder.spec(like).dtype
    return ratio if dtype == TensorProto.FLOAT else builder.emit("Cast", [ratio], to=dtype)


def as_many_as_now(ctx: RuleContext, found: Unbiased) -> None:
    """The node's output, a variance over N - 1, for n places now: times n (N - 1) / ((n - 1) N), natively 1."""
    builder, name, squares = ctx.builder, ctx.node.output[0], ctx.state.views[found.squares]
    made = builder.fresh(f"{name}_natively")
    builder.keep(copied(ctx.node, output=[made]), ctx.tensors(), {})
    now = _present(ctx, [(tensor_of(squares), axis) for axis in found.axes], TensorProto.FLOAT)
    less = builder.emit("Sub", [now, ops.scalar(builder, 1.0, now)])
    above = builder.emit("Mul", [now, ops.scalar(builder, found.count - 1.0, now)])
    below = builder.emit("Mul", [less, ops.scalar(builder, float(found.count), now)])
    ratio, dtype = builder.emit("Div", [above, below]), builder.spec(made).dtype
    if found.power != 1:
        ratio = builder.emit("Pow", [ratio, ops.scalar(builder, found.power, ratio)])
    builder.emit("Mul", [made, builder.emit("Cast", [ratio], to=dtype) if dtype != TensorProto.FLOAT else ratio], name)


def _present(ctx: RuleContext, axes: Sequence[tuple[str, int]], dtype: int) -> str:
    """How many elements there are now on axes (tensor, axis) together, as a scalar of this element type."""
    builder = ctx.builder
    now, *more = [ops.dims(builder, tensor, axis, axis + 1) for tensor, axis in axes]
    for length in more:
        now = builder.emit("Mul", [now, length])
    return builder.emit("Cast", [ops.squeeze(builder, now, [0])], to=dtype)


def steady(
    ctx: RuleContext, tensor: str, axes: Sequence[int], keepdims: bool, count: int = 0, output: str = ""
) -> None:
    """The node's output as the mean over the places times their native number, which at the native size is the sum.

    ``count``: how many elements are summed up natively, where they are not those of ``axes`` of the node's own input.
    ``output``: another name for it.
    """
    builder, output = ctx.builder, output or ctx.node.output[0]
    count = count or math.prod(ctx.shape_in()[axis] for axis in axes)
    if ctx.op_type == "ReduceLogSumExp":
        return _steady_log(ctx, tensor, axes, keepdims, count, output)
    dtype = builder.spec(tensor).dtype
    integers = dtype not in FLOATS  # a count: onnxruntime has no mean of integers
    whole = integers and not _read_as_floats(ctx)
    if integers:
        tensor = builder.emit("Cast", [tensor], to=TensorProto.DOUBLE)
    if ctx.op_type == "ReduceL1":
        tensor = builder.emit("Abs", [tensor])
    elif ctx.op_type in {"ReduceL2", "ReduceSumSquare"}:
        tensor = builder.emit("Mul", [tensor, tensor])
    mean = ops.reduce(builder, "ReduceMean", tensor, axes, keepdims)
    last = {"ReduceL2": "Sqrt", "ReduceLogSum": "Log"}.get(ctx.op_type)
    total = builder.emit("Mul", [mean, ops.scalar(builder, float(count), mean)], "" if last or whole else output)
    if last:
        total = builder.emit(last, [total], "" if whole else output)
    if whole:
        half = builder.emit("Add", [total, ops.scalar(builder, 0.5, mean)])
        builder.emit("Cast", [builder.emit("Floor", [half])], output, to=dtype)
    return None


def _read_as_floats(ctx: RuleContext) -> bool:
    """Whether all that reads a count makes floats of it at once, so that a part of one need not be rounded."""
    readers, name = ctx.state.graph.readers.get(ctx.name, ()), ctx.name
    return name not in ctx.state.graph.outputs and all(
        node.op_type == "Cast" and attributes(node)["to"] in FLOATS for node in readers
    )


def _steady_log(ctx: RuleContext, tensor: str, axes: Sequence[int], keepdims: bool, count: int, output: str) -> None:
    """log(sum(exp(x))) less the logarithm of how many more elements there are than natively."""
    builder = ctx.builder
    total = ops.reduce(builder, ctx.op_type, tensor, axes, keepdims)
    now = _present(ctx, [(tensor, axis) for axis in axes], builder.spec(tensor).dtype)
    more = builder.emit("Div", [now, ops.scalar(builder, float(count), tensor)])
    builder.emit("Sub", [total, builder.emit("Log", [more])], output)
