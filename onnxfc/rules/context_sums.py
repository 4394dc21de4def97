"""Figures of the whole image that windows turn out to hold: sums by a uniform weight, reductions of whole channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfc.analysis.normalised_sums import Scale, rescaled, scale_of, weighs
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import COVERING, FLOATS, PRODUCTS
from onnxfc.head.windows import whole_channels
from onnxfc.layout.axes import Groups
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance, SumToOne
from onnxfc.layout.views import Context, Index, Placed, Window
from onnxfc.shapes.spec import Array


def of_image(ctx: RuleContext, provenance: Provenance) -> Context:
    """The node's output as a figure of the whole image."""
    provenance = replace(provenance.blamed(ctx.blame(Cause.CONTEXT)), fields=(Field(),) * ctx.state.rank)
    return Context(ctx.node.output[0], provenance.behind(ctx.name))


def whole_image(ctx: RuleContext, view: Placed, axes: Sequence[int], keepdims: bool) -> Context | Refusal:
    """The reduction of a map as a figure of the whole image, the same at every size, or why it cannot be kept so."""
    scale = scale_along(ctx, view, axes)
    doubt = kept_alike(ctx, scale) if ctx.role != "context" else None
    if doubt is not None:
        return doubt
    write_scaled(ctx, scale, view.tensor, axes, keepdims)
    if ctx.role != "context":
        ctx.replaced(ctx.op_type, "kept global")
    return of_image(ctx, view.provenance)


def write_scaled(ctx: RuleContext, scale: Scale, tensor: str, axes: Sequence[int], keepdims: bool) -> None:
    """The node at the scale of the native size; a pool whose window covers the native map as one over all there is,
    which no global pool is of integers."""
    kind, name = ctx.op_type.removesuffix("Pool").replace("Average", "Mean"), ctx.node.output[0]
    if rescaled(ctx, scale, tensor, axes, keepdims):
        return
    if ctx.op_type not in COVERING:
        ctx.keep([tensor, *ctx.tensors_from(1)])
    elif list(axes) == list(range(2, len(ctx.shape_in()))) and ctx.builder.spec(tensor).dtype in FLOATS:
        ctx.builder.emit(f"Global{ctx.op_type}", [tensor], name, instead=ctx.node)
    else:
        ops.reduce(ctx.builder, f"Reduce{kind}", tensor, axes, True, name, ctx.node)


def window_as_context(ctx: RuleContext, view: Window, channels: Index, op_type: str = "") -> Outcome:
    """The reduction of whole channels, each feature's own, over the map that the window is of."""
    if view.trunk is None:
        return ctx.refuse("unsupported-reduction", "pools something else than a map")
    rows, count = _rows(ctx, view, channels)
    made = ctx.builder.fresh(f"{ctx.node.output[0]}_reduced")
    scale = scale_of(ctx, view.trunk, rows, [2], range(len(view.trunk.fields)))
    doubt = kept_alike(ctx, scale) if ctx.role != "context" else None
    if doubt is not None:
        return doubt
    if not rescaled(ctx, scale, rows, [2], False, count, made):
        ops.reduce(ctx.builder, op_type or ctx.op_type, rows, [2], False, made, ctx.node)
    batch = [0] if ctx.batch_axis_out() == 0 else []  # of one image the original may have none
    ops.reshape(ctx.builder, made, [*batch, *ctx.shape_out()[1:]], ctx.node.output[0])
    if ctx.role != "context":
        ctx.replaced(ctx.op_type, "kept global")
    return [of_image(ctx, view.trunk)]


def _rows(ctx: RuleContext, view: Window, channels: Index) -> tuple[str, int]:
    """(N, features, all elements of their channels), and how many these are natively."""
    source = view.sources[0]
    tensor, taken = source.tensor, channels.ravel()
    if not np.array_equal(taken, np.arange(source.channels)):
        tensor = ctx.builder.emit("Gather", [tensor, ctx.builder.constant(taken, "channels")], axis=1)
    features = taken.size // channels.shape[-1]
    return ops.reshape(ctx.builder, tensor, [0, features, -1]), channels.shape[-1] * math.prod(source.extent)


@dataclass(frozen=True)
class Even:
    """A product with a constant that is the same at all places: the sum of ``channels``, once each.

    ``factor``: what the weights of the places amount to natively. ``mean``: shape that the mean has for the product.
    """

    view: Window
    channels: Index
    factor: Array
    mean: tuple[int, ...]


def even_matmul(ctx: RuleContext, at: int) -> Even | None:
    """A MatMul whose input ``at`` is summed over places alike; None elsewhere."""
    view, weight = ctx.views[at], ctx.weights(ctx.node.input[1 - at])
    if not isinstance(view, Window) or weight is None or weight.ndim > 2:
        return None
    axis, summed = view.index.ndim - 1 - at, weight.ndim - 1 if at else 0
    rest = [length for place, length in enumerate(view.index.shape) if place != axis]
    if weight.ndim == 2:
        rest.insert(axis, 1)
    return _even(view, [axis], weight, (summed,), rest)


def even_einsum(ctx: RuleContext, at: int, view: Window, axes: Sequence[int]) -> Even | None:
    """An Einsum that sums ``axes`` (of the index) with nothing but the places' common weight; None elsewhere."""
    weight = ctx.weights(ctx.node.input[1 - at])
    if weight is None or len(axes) != weight.ndim or min(axes, default=-1) < 0:
        return None
    rest = [length for place, length in enumerate(view.index.shape) if place not in axes]
    return _even(view, axes, weight, tuple(range(weight.ndim)), rest)


def _even(
    view: Window, axes: Sequence[int], weight: Array, summed: tuple[int, ...], mean: Sequence[int]
) -> Even | None:
    channels = whole_channels(view, axes)
    if channels is None or view.trunk is None or view.trunk.sums_to_one or math.prod(view.sources[0].extent) == 1:
        return None
    first = weight
    for axis in summed:
        first = first.take([0], axis=axis)
    if not bool(np.all(weight == first)):
        return None
    factor = weight.sum(axis=summed, keepdims=weight.ndim > len(summed), dtype=np.float64).astype(weight.dtype)
    return Even(view, channels, np.asarray(factor), tuple(mean))


def even_as_context(ctx: RuleContext, found: Even) -> Outcome:
    """The mean over all places, times what the weights amount to natively."""
    assert found.view.trunk is not None
    mean = ops.reduce(ctx.builder, "ReduceMean", _rows(ctx, found.view, found.channels)[0], [2], False)
    shaped = ops.reshape(ctx.builder, mean, [0, *found.mean])
    times = ctx.builder.constant(found.factor, "factor")
    ctx.builder.emit("Mul", [shaped, times], ctx.node.output[0], instead=ctx.node)
    return [of_image(ctx, found.view.trunk)]


def strip(ctx: RuleContext, view: Placed, axes: Sequence[int], keepdims: bool) -> Outcome:
    """A pool over some of the axes that follow the image, as context; over all that are left of them it is global."""
    weighed = weighs(ctx, view.provenance, [axis for axis in axes if axis in view.spatial])
    kept_head = ctx.role != "context" and ctx.state.global_pool == "keep" and not weighed
    scale = "same" if weighed else scale_along(ctx, view, axes)
    if any(axis in view.spatial and ctx.shape_in()[axis] == 1 for axis in axes):
        return ctx.refuse("partial-pool", "pools an axis on which the native map has one place")
    doubt = follows_size(ctx, scale) if kept_head else None
    if doubt is not None:
        return doubt
    write_scaled(ctx, scale, view.tensor, axes, keepdims)
    provenance = view.provenance.blamed(ctx.blame(Cause.CONTEXT)).behind(ctx.name)
    provenance, name = replace(provenance, sums_to_one=_shares_left(view, axes)), ctx.node.output[0]
    if all(axis in axes for axis in view.spatial):
        if kept_head:
            ctx.replaced(ctx.op_type, "kept global")
        return [Context(name, replace(provenance, fields=(Field(),) * ctx.state.rank))]
    return [Placed(name, name, left_of(view, axes, keepdims), provenance, view.like)]


def left_of(view: Placed, axes: Sequence[int], keepdims: bool) -> Groups:
    """The axes behind a reduction."""
    return tuple(() if k in axes else group for k, group in enumerate(view.groups) if keepdims or k not in axes)


def follows_size(ctx: RuleContext, scale: Scale) -> Refusal | None:
    """Why a head's reduction cannot stay global: it is another one for an image of another size. None if it can."""
    if scale == "same" or (scale == "grows" and ctx.name in ctx.state.roles.level):
        return None
    why = {"grows": "a sum, which grows", "shrinks": "a mean of what sums up to 1, which shrinks"}
    told = why.get(scale, "of what was divided by its own norm over the image, and follows that")
    product = ctx.op_type in PRODUCTS and len(ctx.node.input) > 1  # which has no windows
    advice = "divide it by the number of places, so that it is a mean" if product else "use --global-pool window"
    return ctx.refuse("sum-over-image", f"is {told} with the image", advice)


def kept_alike(ctx: RuleContext, scale: Scale) -> Refusal | None:
    """As :func:`follows_size`, of any reduction."""
    if scale == "same" and ctx.op_type == "ReduceProd":
        why = "is a product, which follows the image's size"
        return ctx.refuse("unsupported-reduction", why, "use --global-pool window")
    return follows_size(ctx, scale)


def _shares_left(view: Placed, axes: Sequence[int]) -> frozenset[SumToOne]:
    """The shares along places that were not summed up."""
    gone = set(_along(view, axes))
    return frozenset((name, place) for name, place in view.provenance.sums_to_one if max(place, ~place) not in gone)


def weighed_apart(ctx: RuleContext) -> Refusal:
    """A sum of what a Softmax over other places has shared out: how it grows with the image cannot be told."""
    return ctx.refuse("softmax-over-space", "sums up what was weighed over the places of the native size")


def scale_along(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Scale:
    """How a reduction of a map follows the image's size."""
    return scale_of(ctx, view.provenance, view.tensor, axes, _along(view, axes))


def _along(view: Placed, axes: Sequence[int]) -> list[int]:
    """Which axes of the image these are; of strips end to end none is."""
    return [place for place, axis in view.where.items() if axis in axes]


def trace_summed(ctx: RuleContext, provenance: Provenance) -> Provenance:
    """The provenance of a reduction's result: with fewer features than a window has places, these were summed up."""
    most = max((math.prod(item.extent) for item in provenance.windows), default=1)
    return replace(provenance, places=provenance.places and math.prod(ctx.shape_out()[1:]) >= most)
