"""Operators that change the resolution of a map: ConvTranspose, Resize, Upsample, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

from onnxfc.analysis.reference_sizes import contiguous, sizes_with
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import halved
from onnxfc.head.per_window import per_window
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.layout.axis_map import Field
from onnxfc.layout.views import Fixed, Placed, ScoreMap
from onnxfc.rules.expand import laid_out
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.rules.resized_reads import aligned, read_by, resampled_along, stays_inside
from onnxfc.rules.written_sizes import by_scales, sized_like, to_a_size, to_size_of
from onnxfc.shapes.length import Dim, Length, axes_of
from onnxfc.shapes.spec import Shape

RESIZE = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"),
    *("keep_aspect_ratio_policy", "mode", "nearest_mode", "scales", "height_scale", "width_scale"),
)


@rule("Resize", "Upsample", on=FEATURES, attributes=RESIZE)
def resized(ctx: RuleContext) -> Outcome | None:
    """Resize of scores is Resize in each cell: a decoder behind an FC layer. Sizes must not name the batch."""
    if not any(isinstance(other, ScoreMap) for other in ctx.views):
        return None
    scales = ctx.attrs.get("scales") or ctx.constant(1 if len(ctx.node.input) == 2 else 2)
    rank, view = len(ctx.shape_in()), ctx.views[0]
    if scales is None or len(scales) != rank or scales[0] != 1 or ctx.swallowed:
        return ctx.refuse("mixes-batch", "resizes to sizes that name the batch, or by scales that are not constant")
    if not isinstance(view, ScoreMap) or any(not isinstance(other, Fixed) for other in ctx.views[1:] if other):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    return per_window(ctx, view)


_TRANSPOSED = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides")


@rule("ConvTranspose", on=PLACED, attributes=_TRANSPOSED)
def conv_transpose(ctx: RuleContext) -> Outcome | None:
    """ConvTranspose divides the stride by its own. https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""
    view = ctx.views[0]
    if not isinstance(view, Placed) or not ctx.only_first:
        return ctx.refuse("dynamic-weight", "has a weight that depends on the image")
    if view.is_folded:
        return None
    if not view.apart or min(view.spatial) < 2:
        return ctx.refuse("layout", "slides over axes that are not the image's")
    if view.provenance.windows:
        return _of_pooled(ctx)
    rank = len(view.groups) - 2
    strides = tuple(ctx.attrs.get("strides") or (1,) * rank)
    kernel = tuple(ctx.attrs.get("kernel_shape") or ctx.shape_in(1)[2:])
    dilations = tuple(ctx.attrs.get("dilations") or (1,) * rank)
    more = tuple(ctx.attrs.get("output_padding") or (0,) * rank)
    pads = _cut_off(ctx, kernel, strides, dilations)
    if pads is None:
        return ctx.refuse("size-locked", "has an output of a fixed shape, larger than its kernel makes it")
    steps = list(zip(kernel, strides, pads[:rank], pads[rank:], dilations, more, strict=True))
    fields = [laid(field, *steps[axis - 2]) for field, axis in zip(view.fields, view.spatial, strict=True)]
    inside = all(
        max((k - 1) * d - before, (k - 1) * d + extra - behind) < s for k, s, before, behind, d, extra in steps
    )
    if "output_shape" in ctx.attrs or "auto_pad" in ctx.attrs:
        ctx.keep(auto_pad=None, output_shape=None, pads=pads)
    else:
        ctx.keep()
    return ctx.placed(view, resampled_along(ctx, view, fields, inside), view.where)


def _of_pooled(ctx: RuleContext) -> Refusal:
    return ctx.refuse("pools-then-convolves", "spreads what a global pool left over several places")


def laid(field: Field, kernel: int, stride: int, before: int, behind: int, dilation: int, more: int = 0) -> Field:
    """What elements read where kernels are laid ``stride`` apart, so much cut off ``before`` and ``behind``, so many
    ``more`` put behind.

    Output o takes inputs from (o + before - reach) / stride to (o + before) / stride; what is cut off counts as read: o
    is there from the input on that is (o + before + behind - more - reach) / stride, rounded up.
    """
    reach = (kernel - 1) * dilation
    finer = field.resampled(Fraction(stride), Fraction(min(0, before - reach), stride), Fraction(before, stride))
    return finer.cut(0, max(0, behind - more - reach + stride - 1))


def _cut_off(
    ctx: RuleContext, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """How much of the result is cut off at its borders, as explicit pads: what auto_pad or a fixed shape come to.

    None where something is added instead.
    """
    rank, auto = len(kernel), str(ctx.attrs.get("auto_pad") or "NOTSET")
    if auto == "VALID" or (auto == "NOTSET" and "output_shape" not in ctx.attrs):
        return tuple(ctx.attrs.get("pads") or (0,) * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    more = ctx.attrs.get("output_padding") or (0,) * rank
    sizes = zip(ctx.shape_in()[2:], ctx.shape_out()[2:], kernel, strides, dilations, more, strict=True)
    total = [(size - 1) * s + extra + (k - 1) * d + 1 - out for size, out, k, s, d, extra in sizes]
    if min(total) < 0:
        return None
    return halved(auto, total)


@rule("DepthToSpace", "SpaceToDepth", on=PLACED, attributes=("blocksize", "mode"))
def blocks(ctx: RuleContext) -> Outcome | None:
    """SpaceToDepth multiplies the stride by its blocks, DepthToSpace divides it."""
    view = ctx.placed_in()
    if view.is_folded:
        return None
    if not view.is_map or min(view.spatial) < 2:
        return ctx.refuse("layout", "works on axes that are not the image's")
    if view.provenance.windows:
        return _of_pooled(ctx)
    size = int(ctx.attrs["blocksize"])
    ctx.keep()
    if ctx.op_type == "SpaceToDepth":
        coarser = {place: field.through(size, stride=size) for place, field in enumerate(view.fields)}
        return ctx.placed(view, view.provenance.along(coarser), view.where)
    fields = [field.resampled(Fraction(size), Fraction(1, size) - 1, Fraction(0)) for field in view.fields]
    return ctx.placed(view, resampled_along(ctx, view, fields, inside=True), view.where)


@rule("Resize", "Upsample", on=PLACED, attributes=RESIZE)
def resize(ctx: RuleContext) -> Outcome | None:
    """Resize divides the stride by its scales, which follow the image; to the sizes of another map too.

    Fixed sizes are those of a map that the result meets, of the image, or of a map on the way from it; else scales.

    https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    view = ctx.placed_in()
    if not view.apart:
        return pooled_in_part(ctx) if view.is_strip else None
    laid = laid_out(ctx, view)
    if laid is not None:
        return laid
    before, after = ctx.shape_in(), ctx.shape_out()
    beside = [axis for axis in range(len(before)) if before[axis] != after[axis] and axis not in view.spatial]
    if min(beside, default=2) < 2:
        return ctx.refuse("mixes-channels", "resizes other axes than the image's")
    if view.provenance.windows and set(view.extent) == {1} and before != after:
        return ctx.rejoins()
    if str(ctx.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        return ctx.refuse("size-locked", "crops to a region of the native size")
    ratios = _given_scales(ctx, view) or [Fraction(after[axis], before[axis]) for axis in view.spatial]
    return _by_sizes(ctx, view, ratios) or _by_ratios(ctx, view, ratios)


def _by_sizes(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> Outcome | None:
    """To computed sizes, or those of the map that is meant; None where there is none."""
    if any(ctx.follows_size(position) for position in range(1, len(ctx.views))):
        growth = _kept(ctx, view)
        if growth is not None:
            return ctx.placed(view, to_a_size(ctx, view, ratios, growth), view.where)
        if not ctx.state.of_windows:
            return _to_whole_size(ctx, view, ratios)
    other = sized_like(ctx, view)
    return None if other is None else to_size_of(ctx, view, ratios, other)


def _to_whole_size(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> Outcome:
    """To a size that no axis follows alone: a square of the image's lesser length, say. A figure of the whole image is
    what comes of it, a map lies on no grid."""
    ctx.keep()
    old, new = (ctx.builder.spec(name).shapes or () for name in (view.tensor, ctx.node.output[0]))
    if ctx.state.dense or not new or not _same_beside(view, old, new):
        return ctx.refuse("size-locked", "resizes to a size that does not follow the image axis by axis")
    provenance = resampled_along(ctx, view, read_by(ctx, view, ratios)).blamed(ctx.blame(Cause.CONTEXT))
    return ctx.placed(view, provenance, view.where)


def _by_ratios(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> Outcome:
    if not ctx.try_keep(_scaled(ctx, view, ratios)):
        outcome = by_scales(ctx, view, ratios)
        if outcome is not None:
            return outcome
    if set(ratios) == {Fraction(1)}:
        return ctx.placed(view, view.provenance, view.where)
    provenance = resampled_along(ctx, view, read_by(ctx, view, ratios), stays_inside(ctx, view, ratios))
    if ctx.shape_in() == ctx.shape_out():  # which onnxruntime copies, whatever the scales
        provenance = provenance.blamed(ctx.blame(Cause.CONTEXT))
    return ctx.placed(view, aligned(ctx, view, provenance), view.where)


def _given_scales(ctx: RuleContext, view: Placed) -> list[Fraction] | None:
    """What the scales say, which the native extents may not show as they are rounded down; None without scales."""
    scales = ctx.attrs.get("scales")
    if ctx.op_type == "Resize" or ctx.opset >= 9:
        scales = ctx.constant(2 if ctx.op_type == "Resize" and ctx.opset >= 11 else 1)
    if scales is None or len(scales) == 0 or ctx.has_input(3):
        return None
    given = dict(zip(ctx.attrs.get("axes") or range(len(ctx.shape_in())), scales, strict=True))
    return [Fraction(float(given.get(axis, 1.0))).limit_denominator(_FINEST) for axis in view.spatial]


_FINEST = 128
"""Scales are fractions of small numbers, written as float32."""


def _scaled(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> list[tuple[int, ...]]:
    """Shapes at the probes if the map grows with the image; axes of the image that stay are as long as natively."""
    wanted = []
    for shape in ctx.builder.spec(view.tensor).shapes or ():
        target = [*shape[:2], *ctx.shape_out()[2:]]
        for axis, ratio in zip(view.spatial, ratios, strict=True):
            target[axis] = int(shape[axis] * ratio)
        wanted.append(tuple(target))
    return wanted


def _kept(ctx: RuleContext, view: Placed) -> list[Fraction] | None:
    """The node as it is, as its sizes are computed from the image's; returned is how much faster it then grows.

    A batch that was baked into them gives way. None, and nothing is written, where they do not follow the image.
    """
    ctx.keep()
    old, new = (ctx.builder.spec(name).shapes or () for name in (view.tensor, ctx.node.output[0]))
    kept = _grown(view, old, new) and (_same_beside(view, old, new) or _batch_freed(ctx, view))
    growth = _growth(ctx, view, old, new) if kept else None
    if growth is None and kept is not None:
        ctx.builder.nodes.pop()
    return growth


def _grown(view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """Whether both change from each image size to the next, on all spatial axes."""
    pairs = [pair for shapes in (old, new) for pair in pairwise(shapes)]
    return 1 < len(old) == len(new) and all(a[axis] != b[axis] for a, b in pairs for axis in view.spatial)


def _same_beside(view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """Whether batch and channels stay what they are."""
    others = [axis for axis in range(len(view.groups)) if axis not in view.spatial]
    return all(a[axis] == b[axis] for a, b in zip(old, new, strict=True) for axis in others)


def _batch_freed(ctx: RuleContext, view: Placed) -> bool | None:
    """The node with the batch of its input in its sizes; None, and nothing is written, where that cannot be."""
    ctx.builder.nodes.pop()
    if not ctx.has_input(3) or "axes" in ctx.attrs or not contiguous(view):
        return None
    first, last = min(view.spatial), max(view.spatial) + 1
    sizes = ops.slice_axis(ctx.builder, ctx.tensors()[3], 0, first, last)
    ctx.keep([*ctx.tensors()[:3], sizes_with(ctx, view, sizes)])
    return True


def _growth(ctx: RuleContext, view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> list[Fraction] | None:
    """How much faster it grows than its input, by axis; None where that depends on another axis of the image, say.

    By the closed forms, as probes need not divide by three; by the probes where a length is the smaller of two.
    """
    extents = ctx.builder.extents
    extents.follow(ctx.builder.nodes)
    before, after = (extents.dims(name) or () for name in (view.tensor, ctx.node.output[0]))
    rates = [_rate(before[k], after[k]) for k in view.spatial if before and after]
    if rates and None not in rates:
        return [rate for rate in rates if rate is not None]
    steps = list(zip(pairwise(old), pairwise(new), strict=True))
    seen = [{Fraction(d[k] - c[k], b[k] - a[k]) for (a, b), (c, d) in steps} for k in view.spatial]
    return None if any(len(found) > 1 for found in seen) else [found.pop() for found in seen]


def _rate(old: Dim, new: Dim) -> Fraction | None:
    """How much faster one length grows than another, where both follow one axis of the image."""
    axes = axes_of(old) | axes_of(new)
    if not isinstance(old, Length) or not isinstance(new, Length) or len(axes) != 1:
        return None
    (axis,) = axes
    slow, fast = old.growth(axis), new.growth(axis)
    return fast / slow if slow and fast else None
