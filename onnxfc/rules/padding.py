"""Pad: constant, edge, reflect and wrap, with amounts that may follow the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnxfc.analysis.reference_sizes import contiguous, references
from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.layout.axes import channels, pure
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed
from onnxfc.rules.registry import PLACED, rule
from onnxfc.rules.written_pads import told_pads
from onnxfc.shapes.length import bounds


@rule("Pad", on=PLACED, attributes=("mode", "pads", "value"))
def pad(ctx: RuleContext) -> Outcome | None:
    """Conv of Pad is Conv: on spatial axes constant amounts are padding, as a Conv's pads are.

    Amounts that fill a map up to whole blocks stay as they are computed. Where they are before the map too, or fill it
    up to a square, they would move the grid: of cells they are frozen, as auto_pad is. Where the result meets a map of
    its size, it is padded to the size of that: a skip connection of an odd size.
    https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    view = ctx.placed_in()
    if not view.apart:
        return pooled_in_part(ctx) if view.is_strip else _more_channels(ctx, view)
    rank = len(ctx.shape_in())
    filled = ctx.follows_size(1)
    if filled and ctx.state.of_windows and (_moves_grid(ctx) or not ctx.same_on_grid(1)):
        ctx.freeze(1)
    amounts = _pad_amounts(ctx, rank)
    if amounts is None:
        return ctx.refuse("unknown-pads", "takes amounts that are not constant, and others at every size")
    begin, end = amounts
    if view.provenance.windows and any(begin[axis] or end[axis] for axis in view.spatial):
        return ctx.refuse("pools-then-convolves", "pads what a global pool left")
    provenance = _padded(ctx, view, begin, end)
    longer = view.is_map and not filled and ctx.opset >= 11 and min(begin) >= 0
    reference = _padded_like(ctx, view, begin, end) if longer else None
    if reference is None:
        ctx.keep()
        if not filled:
            told_pads(ctx, view, begin, end)
    elif not ctx.state.of_windows and not _told_apart(ctx, view, reference, begin, end):
        why = "brings the map to the size of another by plain numbers, and at other sizes more or less is missing: how "
        why += "much of it goes before the map is not told"
        return ctx.refuse("unknown-pads", why, "export it with open height and width, so that it is computed")
    else:
        provenance = provenance.blamed(ctx.blame(Cause.PADDED))
        _pad_to(ctx, view, reference, begin)
    return ctx.placed(view, provenance, view.where)


@rule("CenterCropPad", on=PLACED, attributes=("axes",))
def center_crop_pad(ctx: RuleContext) -> Outcome | None:
    """CenterCropPad to a computed size, or to that of a map that it meets, is that at any size. To the native size it
    is, of a crop, Pad by as much as natively, by less than nothing where it cuts.

    https://onnx.ai/onnx/operators/onnx__CenterCropPad.html
    """
    view = ctx.placed_in()
    if not view.apart:
        return pooled_in_part(ctx) if view.is_strip else None
    if view.provenance.windows:
        return ctx.refuse("pools-then-convolves", "crops or pads what a global pool left")
    begin, end = _around(ctx.shape_in(), ctx.shape_out())
    provenance = _bordered(ctx, view, begin, end)
    followed = _centred_like(ctx, view, begin, end, provenance)
    if followed is not None:
        return ctx.placed(view, followed, view.where)
    if not ctx.state.of_windows or ctx.shape_in()[0] != ctx.shape_out()[0]:
        to = "a size that does not grow as its map does" if ctx.follows_size(1) else "the native size"
        return ctx.refuse("size-locked", f"crops or pads whatever it is given to {to}", LEAVE)
    inputs = [view.tensor, ctx.builder.constant([*begin, *end], "pads")]
    ctx.builder.emit("Pad", inputs, ctx.node.output[0], instead=ctx.node)
    return ctx.placed(view, provenance, view.where)


def _around(before: Sequence[int], after: Sequence[int]) -> tuple[list[int], list[int]]:
    """By how much CenterCropPad pads on both sides, or cuts: the odd one is behind, of a cut too."""
    missing = [wanted - length for length, wanted in zip(before, after, strict=True)]
    begin = [more // 2 if more > 0 else -(-more // 2) for more in missing]
    return begin, [more - part for more, part in zip(missing, begin, strict=True)]


def _centred_like(
    ctx: RuleContext, view: Placed, begin: Sequence[int], end: Sequence[int], provenance: Provenance
) -> Provenance | None:
    """What is read where the size follows the image; None, and nothing is written, where it does not, or where the map
    would lie elsewhere in each image, though it is one or cells come of it."""
    like = None if ctx.follows_size(1) or not view.is_map else _padded_like(ctx, view, begin, end)
    if not ctx.follows_size(1) and like is None:
        return None
    if like is None:
        ctx.keep()
    else:
        sizes = ops.dims(ctx.builder, like.tensor, min(like.spatial), max(like.spatial) + 1)
        ctx.keep([view.tensor, sizes], axes=list(view.spatial))
    shapes = (ctx.builder.spec(name).shapes or () for name in (view.tensor, ctx.node.output[0]))
    moves = any(_around(before, after)[0] != list(begin) for before, after in zip(*shapes, strict=True))
    if moves and not ctx.state.undivided:
        ctx.builder.nodes.pop()
        return None
    cut = any(begin[axis] < 0 or end[axis] < 0 for axis in view.spatial)
    cause = Cause.CONTEXT if moves else Cause.CROPPED if cut else Cause.PADDED
    return provenance.blamed(ctx.blame(cause))


def _bordered(ctx: RuleContext, view: Placed, begin: Sequence[int], end: Sequence[int]) -> Provenance:
    """What is read by a map that is padded with zeros by these amounts, or cut where they are negative."""
    fields = {
        place: view.provenance.fields[place]
        .cut(max(0, -begin[axis]), max(0, -end[axis]))
        .through(1, pad=max(0, begin[axis]))
        for place, axis in view.where.items()
    }
    padded = any(begin[axis] > 0 or end[axis] > 0 for axis in view.spatial)
    provenance = replace(view.provenance.along(fields), places=False, sums_to_one=frozenset())
    return provenance.blamed(ctx.blame(Cause.PADDING)) if padded else provenance


def _more_channels(ctx: RuleContext, view: Placed) -> Outcome | None:
    """Tokens with more channels each, as linear attention lays ones below its values; None where places are padded."""
    amounts = _pad_amounts(ctx, len(view.groups))
    if amounts is None or view.other is not None or view.provenance.windows:
        return None
    axes = [axis for axis, more in enumerate(zip(*amounts, strict=True)) if any(more)]
    if not all(axis and pure(view.groups[axis]) for axis in axes):
        return None
    ctx.keep()
    groups = (
        channels(n) if k in axes else group
        for k, (group, n) in enumerate(zip(view.groups, ctx.shape_out(), strict=True))
    )
    provenance = replace(view.provenance, sums_to_one=frozenset())
    made = view.output(ctx.node.output[0], groups=tuple(groups), provenance=provenance)
    return [replace(made, bounds=view.bounds, measured=view.like)]


def _padded(ctx: RuleContext, view: Placed, begin: Sequence[int], end: Sequence[int]) -> Provenance:
    """What is read by a map that is padded, or cut where amounts are negative."""
    filled, mode = ctx.follows_size(1), str(ctx.attrs.get("mode") or "constant")
    most = _most_before(ctx, len(begin)) if filled and not ctx.state.of_windows else begin
    fields = {}
    for place, axis in view.where.items():
        cut = max(0, -begin[axis]) + most[axis] - begin[axis]
        field = view.provenance.fields[place].cut(cut, max(0, -end[axis])).through(1, pad=max(0, most[axis]))
        mirrored = mode != "constant"
        fields[place] = _mirrored(field, max(0, begin[axis]), max(0, end[axis])) if mirrored else field
    touched = filled or any(begin[axis] > 0 or end[axis] > 0 for axis in view.spatial)
    provenance = replace(view.provenance.along(fields), places=False, sums_to_one=frozenset())
    far = touched and (mode == "wrap" or not _steady(ctx))  # it reads the far end, or depends on where that is
    return provenance.blamed(*([ctx.blame(Cause.PADDING)] * touched), *([ctx.blame(Cause.CONTEXT)] * far))


def _mirrored(field: Field, before: int, after: int) -> Field:
    """The field of a map that is padded with pixels of its own: those lie as far inside as the padding goes outside."""
    return replace(
        field,
        size=field.size + 2 * (before + after) * field.stride,
        start=field.start - 2 * after * field.stride,
    )


def _padded_like(ctx: RuleContext, view: Placed, begin: Sequence[int], end: Sequence[int]) -> Placed | None:
    """A map of the same stride that the padded or cut one meets. A pad that adds channels too is no matter of size."""
    channels = any(begin[axis] or end[axis] for axis in range(len(begin)) if axis not in view.spatial)
    if channels or view.provenance.windows or not contiguous(view):
        return None
    strides = [field.stride for field in view.provenance.fields]
    met = references(ctx, view, view.spatial)
    return next((item for item in met if [field.stride for field in item.provenance.fields] == strides), None)


_FAR = 1 << 30


def _told_apart(ctx: RuleContext, view: Placed, like: Placed, begin: Sequence[int], end: Sequence[int]) -> bool:
    """Whether as much goes before the map at every size: half of what is missing, rounded down as networks write it, or
    nothing, as the native amounts show. Of a place that is too much they may not; the note says so."""
    extents = ctx.builder.extents
    extents.follow(ctx.builder.nodes)
    own, wanted = extents.dims(view.tensor), extents.dims(like.tensor)
    if own is None or wanted is None:
        return False
    unclear = False
    for at, axis in zip(view.spatial, like.spatial, strict=True):
        least, most = bounds(wanted[axis] - own[at]) or (-_FAR, _FAR)
        halved = least // 2 == most // 2 == begin[at]
        behind = not begin[at] and (end[at] > 1 or end[at] < 0)
        if least < most and not halved and not behind:
            if begin[at] or (least, most) != (-1, 0):
                return False
            unclear = True
    if unclear:
        why = "brings the map to the size of another by plain numbers: where a place is too much, the last one goes"
        ctx.remark("written-size", f"{why}, not the first; export it with open height and width if that is not so")
    return True


def _pad_to(ctx: RuleContext, view: Placed, reference: Placed, begin: Sequence[int]) -> None:
    """The same amounts before the map, as they keep it in its place, and behind it what is missing to the reference."""
    builder, first, last = ctx.builder, min(view.spatial), max(view.spatial) + 1
    own, wanted = (ops.dims(builder, item.tensor, first, last) for item in (view, reference))
    before = builder.constant(list(begin[first:last]), "pads")
    missing = builder.emit("Sub", [builder.emit("Sub", [wanted, own]), before])
    rest = [0] * (len(begin) - last)
    amounts = ops.numbers(builder, [*begin, *[0] * first, missing, *rest])
    ctx.keep([view.tensor, amounts, *ctx.tensors()[2:3]])


def _pad_amounts(ctx: RuleContext, rank: int) -> tuple[list[int], list[int]] | None:
    """Native amounts before and behind each axis; None where a map would have others on the grid of strides."""
    pads = ctx.attrs.get("pads")
    if pads is None:
        value = ctx.constant(1)
        if value is None or (ctx.state.dense and not _steady(ctx)):
            return None
        pads = value.tolist()
    return _by_axis(ctx, pads, rank)


def _steady(ctx: RuleContext) -> bool:
    """Whether it pads alike at all sizes on the grid of strides."""
    return "pads" in ctx.attrs or ctx.same_on_grid(1)


def _by_axis(ctx: RuleContext, pads: Sequence[int], rank: int) -> tuple[list[int], list[int]] | None:
    axes = list(range(rank)) if not ctx.has_input(3) else ctx.constant(3)
    if axes is None:
        return None
    begin, end = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        begin[int(axis)], end[int(axis)] = int(pads[place]), int(pads[place + len(pads) // 2])
    return begin, end


def _most_before(ctx: RuleContext, rank: int) -> list[int]:
    """The largest amount before each axis at any size that was looked at."""
    values = ctx.builder.spec(ctx.tensors()[1]).values or ()
    found = [_by_axis(ctx, value.tolist(), rank) for value in values]
    return [max(axis) for axis in zip(*(amounts[0] for amounts in found if amounts is not None), strict=True)]


def _moves_grid(ctx: RuleContext) -> bool:
    """Whether the amounts before the map depend on the image's size."""
    values = ctx.builder.spec(ctx.tensors()[1]).values or ()
    return len({tuple(value[: len(value) // 2].tolist()) for value in values}) > 1
