"""Resize to a size that is written down: which size is meant at other sizes of the image.

It is the size of a map that the result meets, of the image, of a map on the way from it, or a scale; else a part of the
image. Where several of these fit natively, and round otherwise, the report says which one was taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import chain

import numpy as np

from onnxfc.analysis.reference_sizes import contiguous, images, references, sized, sizes_like, sizes_with
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.index import inputs_of
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed, is_map
from onnxfc.rules.resized_reads import aligned, read_by, resampled_along
from onnxfc.shapes.length import Dim, at, pixels, same


def sized_like(ctx: RuleContext, view: Placed) -> Placed | None:
    """The map whose size is meant by fixed sizes: one that the result meets, the image itself, or one on the way."""
    policy = str(ctx.attrs.get("keep_aspect_ratio_policy", "stretch"))
    if (
        not view.is_map
        or not ctx.has_input(3)
        or policy != "stretch"
        or view.provenance.windows
        or not contiguous(view)
    ):
        return None
    known = chain(
        references(ctx, view, view.spatial), filter(partial(_finer, ctx, view), chain(images(ctx), _ahead(ctx)))
    )
    return next(known, None)


def _ahead(ctx: RuleContext) -> Iterator[Placed]:
    """The maps that the node's input is made of, the nearest first."""
    names = list(ctx.node.input[:1])
    for name in names:
        view, node = ctx.state.views.get(name), ctx.state.graph.producers.get(name)
        if is_map(view) and not view.provenance.windows:
            yield view
        names += [item for item in inputs_of(node) if item not in names] if node is not None else []


def _finer(ctx: RuleContext, view: Placed, other: Placed) -> bool:
    """Whether a map gets the size of another one on all axes, and is as much coarser now as their strides say.

    That is no coincidence: each layer may round once, so within two elements of the coarser map, and without padding
    it loses as much as an element reads.
    """
    if other.spatial != view.spatial or other.extent != sized(ctx, view) or other.extent == view.extent:
        return False
    own = zip(view.extent, view.fields, other.extent, other.fields, strict=True)
    coarser = [(length * f.stride / g.stride, f.size / g.stride, f.stride / g.stride, n) for length, f, n, g in own]
    return all(-2 * max(1, s) - size < length - n < 2 * max(1, s) for length, size, s, n in coarser)


def to_size_of(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction], other: Placed) -> Outcome:
    """To another map's size, whatever it is; to its own it is itself."""
    if other.tensor == view.tensor and ctx.shape_in() == ctx.shape_out():
        ctx.builder.emit("Identity", [view.tensor], ctx.node.output[0], instead=ctx.node)
        return ctx.placed(view, view.provenance, view.where)
    ctx.keep([*ctx.tensors()[:3], sizes_like(ctx, view, other)], axes=None)
    if not _meets(ctx, view, other) and other.tensor not in {item.tensor for item in images(ctx)}:
        _told(ctx, view, f"that of {other.original}")
    own = zip(view.fields, other.fields, strict=True)
    growth = [Fraction(field.stride) / Fraction(finer.stride) for field, finer in own]
    return ctx.placed(view, to_a_size(ctx, view, ratios, growth), view.where)


def to_a_size(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction], growth: Sequence[Fraction]) -> Provenance:
    """What is read by a map that follows another map's size.

    Where it grows in the native ratio, it has this ratio at all sizes of the stride grid, and off it one near it.
    Otherwise every size has its own ratio, which is context.
    """
    if list(ratios) != list(growth):
        return resampled_along(ctx, view, read_by(ctx, view, growth)).blamed(ctx.blame(Cause.CONTEXT))
    fields = view.fields if set(ratios) == {Fraction(1)} else read_by(ctx, view, ratios)
    provenance = view.provenance.along(dict(zip(view.where, fields, strict=True)))
    return aligned(ctx, view, provenance.blamed(ctx.blame(Cause.RESIZED)))


def by_scales(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> Outcome | None:
    """Resize to the native sizes as a Resize by the same ratio; a refusal where that is not the same thing."""
    parts = _parts_of_image(ctx, view)
    if any(ratio.denominator != 1 and ratio.numerator != 1 for ratio in ratios) and parts is not None:
        return _to_part_of_image(ctx, view, ratios, parts)
    if not ctx.has_input(3) or any(ratio.denominator != 1 and ratio.numerator != 1 for ratio in ratios):
        return ctx.refuse("size-locked", "resizes to the native size", _AS_SCALES)
    if view.extent == (1,) * len(view.spatial):
        return ctx.refuse("size-locked", "resizes to the native size", _AS_SCALES)
    if any(ratio.denominator != 1 for ratio in ratios):
        return _to_a_part(ctx, view, ratios)
    scales = np.divide(ctx.shape_out(), ctx.shape_in(), dtype=np.float32)
    scales[0] = 1
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        scales[axis] = float(ratio)
    ctx.keep([view.tensor, ctx.tensors()[1], ctx.builder.constant(scales, "scales")], axes=None)
    _told(ctx, view, f"{_by(ratios)} times its map's")
    return None


_AS_SCALES = "export it with open height and width, or give a scale_factor in place of the size"
_SHORTEST = 16
"""Of fewer places a size may be any number, and is no part of the image."""


def _by(ratios: Sequence[Fraction]) -> str:
    return "x".join(dict.fromkeys(map(str, ratios)))


def _meets(ctx: RuleContext, view: Placed, other: Placed) -> bool:
    """Whether the result meets a map of this size further on."""
    return any(item.tensor == other.tensor for item in references(ctx, view, view.spatial))


def _parts_of_image(ctx: RuleContext, view: Placed) -> list[int] | None:
    """By which powers of two the image's sides are divided, and rounded down, for the written size; None where by none,
    or it is one of few places."""
    found, wanted = list(images(ctx)), sized(ctx, view)
    plain = view.is_map and not view.provenance.windows and contiguous(view) and ctx.has_input(3)
    if not plain or len(found) != 1 or len(found[0].extent) != len(wanted) or min(wanted) < _SHORTEST:
        return None
    parts = [side // length for side, length in zip(found[0].extent, wanted, strict=True)]
    axes = zip(found[0].extent, wanted, parts, strict=True)
    fits = all(k > 1 and k & (k - 1) == 0 and side // k == length for side, length, k in axes)
    return parts if fits else None


def _to_part_of_image(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction], parts: Sequence[int]) -> Outcome:
    """To half of the image, say, rounded down: no map has this size natively."""
    builder, image = ctx.builder, next(images(ctx))
    sides = ops.dims(builder, image.tensor, min(image.spatial), max(image.spatial) + 1)
    sizes = builder.emit("Div", [sides, builder.constant(np.asarray(parts, np.int64), "parts")])
    ctx.keep([*ctx.tensors()[:3], sizes_with(ctx, view, sizes)], axes=None)
    growth = [Fraction(field.stride) / part for field, part in zip(view.fields, parts, strict=True)]
    ctx.remark(
        "written-size", f"is resized to {_spelled(ctx, view)}, a plain number, which is taken for {_part(parts)}"
    )
    return ctx.placed(view, to_a_size(ctx, view, ratios, growth), view.where)


def _part(parts: Sequence[int]) -> str:
    return f"1/{'x1/'.join(dict.fromkeys(map(str, parts)))} of the image"


def _spelled(ctx: RuleContext, view: Placed) -> str:
    return "x".join(map(str, sized(ctx, view)))


def _told(ctx: RuleContext, view: Placed, taken: str) -> None:
    """Note what a written size was taken for, where another reading that fits natively rounds otherwise."""
    extents = ctx.builder.extents
    extents.follow(ctx.builder.nodes)
    made = extents.dims(ctx.node.output[0])
    for other, dims in _readings(ctx, view) if made is not None else ():
        for axis, place, dim in zip(view.spatial, view.where, dims, strict=True):
            if made is not None and not same(made[axis], dim):
                extent = next(images(ctx)).extent
                sides = {**dict(enumerate(extent)), place: extent[place] + np.arange(_MANY)}
                first = extent[place] + int(np.argmax(np.not_equal(at(made[axis], sides), at(dim, sides))))
                why = f"is resized to {_spelled(ctx, view)}, a plain number, which is taken for {taken}"
                return ctx.remark("written-size", f"{why}, not for {other}: at {first} px these differ")
    return None


_MANY = 1 << 10


def _readings(ctx: RuleContext, view: Placed) -> Iterator[tuple[str, Sequence[Dim]]]:
    """All that a size may be, which does not meet a map; by axis of the image."""
    extents, wanted = ctx.builder.extents, sized(ctx, view)
    own = extents.dims(view.tensor)
    ratios = [Fraction(n, m) for n, m in zip(wanted, view.extent, strict=True)]
    if own is not None and all(ratio.denominator == 1 for ratio in ratios):
        lengths = zip(view.spatial, ratios, strict=True)
        yield f"{_by(ratios)} times its map's", [own[axis] * ratio.numerator for axis, ratio in lengths]
    if (parts := _parts_of_image(ctx, view)) is not None:
        yield _part(parts), [pixels(place) // k for place, k in zip(view.where, parts, strict=True)]
    for other in filter(partial(_finer, ctx, view), _ahead(ctx)):
        if (dims := extents.dims(other.tensor)) is not None:
            yield f"that of {other.original}", [dims[axis] for axis in other.spatial]


def _to_a_part(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> Outcome:
    """To a half of the size, say: where that is rounded the ratio is another, which is not so with scales."""
    builder = ctx.builder
    sizes: list[int | str] = [ops.dims(builder, view.tensor, 0, 1), *ctx.shape_out()[1:]]
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        length = ops.dims(builder, view.tensor, axis, axis + 1)
        if ratio.numerator != 1:
            length = builder.emit("Mul", [length, builder.constant([ratio.numerator], "factor")])
        if ratio.denominator != 1:
            length = builder.emit("Div", [length, builder.constant([ratio.denominator], "part")])
        sizes[axis] = length
    ctx.keep([*ctx.tensors()[:3], ops.numbers(builder, sizes)], axes=None)
    return ctx.placed(view, to_a_size(ctx, view, ratios, ratios), view.where)
