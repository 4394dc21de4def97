"""Slice on maps: channels, borders, crops to another map's size, and pieces, which may be a head's or the trunk's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from types import MappingProxyType

import numpy as np
from onnx import TensorProto

from onnxfc.analysis.reference_sizes import images, references
from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph import op_kinds
from onnxfc.graph.index import attributes
from onnxfc.head.placed_windows import as_piece, pooled_in_part
from onnxfc.layout.axes import is_mixed, lengths, pure
from onnxfc.layout.axis_map import Pixels
from onnxfc.layout.lists import levels
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed
from onnxfc.rules.halves import half
from onnxfc.rules.joined_strips import axis_of, ends_of, sliced_part
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.length import bounds

Cuts = dict[int, tuple[int, int, int]]
"""Start, end and step of a Slice by axis."""


@rule("Slice", on=PLACED, attributes=("axes", "ends", "starts"))
def slice_(ctx: RuleContext) -> Outcome | None:
    """Slice along channels lies as the map does; along places it cuts off a border, and its steps multiply the stride.

    A piece of the native size is a window's, unless it meets a map of its size further on: then it is a crop to that.
    Where the trunk goes on behind a piece, a crop leaves out the same border at every size: of cells the native one, if
    it is computed in another way.

    https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    view, cuts = ctx.placed_in(), cuts_of(ctx)
    if view.is_folded:
        return _of_channels(ctx, view)
    if cuts is None:
        return ctx.refuse("unknown-axes", "takes bounds that are not constant")
    if 0 in (ctx.shape_out()[axis] for axis in view.spatial):
        return ctx.refuse("cut-out", "leaves no place of the native map")
    if view.parts and not view.is_list:
        return _joined_piece(ctx, view, cuts)
    if 0 in cuts and ctx.shape_in()[0] != ctx.shape_out()[0]:
        return images_taken(ctx, view) or (pooled_in_part(ctx) if view.is_strip else None)
    return _of_map(ctx, view, cuts)


def images_taken(ctx: RuleContext, view: Placed) -> Outcome | None:
    """Some of the images that lie behind each other, where their number is fixed, as that of frames is; None where more
    is cut or the batch may be another one."""
    if not ctx.may_swallow or any(ctx.shape_out(k)[1:] != ctx.shape_in()[1:] for k in range(len(ctx.node.output))):
        return None
    ctx.keep()
    return ctx.of_channels(view, 0)


def _of_map(ctx: RuleContext, view: Placed, cuts: Cuts) -> Outcome:
    """Places are cut off, or a piece is cut out."""
    along = {axis: cuts[axis] for axis in view.spatial if axis in cuts}
    if any(step < 0 for _, _, step in along.values()):
        return ctx.refuse("flipped", "turns the map around: a cell would read the other end of the image")
    if ctx.follows_size(1) or ctx.follows_size(2):
        return half(ctx, min(along, default=0)) or _computed_piece(ctx, view, cuts)
    if any(ctx.shape_in()[axis] < end < _OPEN for axis, (_, end, _) in along.items()) and not ctx.state.of_windows:
        return ctx.refuse("cut-out", "cuts off what is behind a fixed place", LEAVE)
    baked = [axis for axis, (_, end, _) in along.items() if 0 <= end < ctx.shape_in()[axis]]
    if baked:
        return _ended(ctx, view, cuts, baked)
    parts = [not op_kinds.is_border(start, end, ctx.shape_in()[axis]) for axis, (start, end, _) in along.items()]
    if any(start < 0 for start, _, _ in along.values()) or (any(parts) and not _joined_again(ctx, along)):
        return as_piece(ctx)
    return _sliced(ctx, view, cuts, _from_behind(cuts))


def _ended(ctx: RuleContext, view: Placed, cuts: Cuts, baked: Sequence[int]) -> Outcome:
    """Cuts that end at a fixed place of the native map: to another map's size, of a border, or a window's piece."""
    reference = next(_cropped_like(ctx, view, baked), None) if view.is_map else None
    if reference is not None:
        return _crop_to(ctx, view, reference, cuts, baked)
    return as_piece(ctx) if ctx.role == "head" else _cut_borders(ctx, view, cuts, baked)


def _joined_again(ctx: RuleContext, axes: Collection[int]) -> bool:
    """Whether it is laid end to end with other pieces and read by nothing else, as a map that is rolled around."""
    readers, rank = ctx.state.graph.readers.get(ctx.node.output[0], ()), len(ctx.shape_out())
    ends = [node.op_type == "Concat" and attributes(node)["axis"] % rank in axes for node in readers]
    return bool(ends) and all(ends)


def _from_behind(cuts: Cuts, lengths: Mapping[int, int] = MappingProxyType({})) -> dict[int, int]:
    """The ends by axis, counted from behind, or open; ``lengths``: of axes that end at a fixed place."""
    return {axis: min(end - lengths.get(axis, 0), 0) or _OPEN for axis, (_, end, _) in cuts.items()}


def _of_channels(ctx: RuleContext, view: Placed) -> Outcome | None:
    """Some channels of a folded tensor; None where more is cut, or they are features of a window."""
    before, after = ctx.shape_in(), ctx.shape_out()
    touched = [axis for axis, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) > 1]
    features = is_mixed(view.groups) and (ctx.state.of_windows or not levels(view, ctx.state.rank))
    if not ctx.only_first or features or len(touched) != 1 or not pure(view.groups[touched[0]]):
        return None
    ctx.keep()
    return ctx.of_channels(view, touched[0])


def _joined_piece(ctx: RuleContext, view: Placed, cuts: Cuts) -> Outcome:
    """Channels of strips that were joined, or one of the strips."""
    axis = axis_of(view)
    if axis not in cuts:
        return _of_channels(ctx, view) or pooled_in_part(ctx)
    ends = ends_of(ctx, view)
    start, end, step = cuts[axis]
    bounds = slice(start, end, step).indices(ctx.shape_in()[axis])
    whole = [(first, last, 1) for first, last in zip([0, *ends], ends, strict=False)]
    if len(cuts) > 1 or bounds not in whole or ctx.opset < 10:
        return ctx.refuse("cut-out", "cuts pieces of the native size out of the map")
    return [sliced_part(ctx, view, whole.index(bounds), ctx.node.output[0])]


def _crop_to(ctx: RuleContext, view: Placed, reference: Placed, cuts: Cuts, baked: Sequence[int]) -> Outcome:
    """As much as makes it as large as its reference, whatever that is."""
    ends = _from_behind(cuts, {axis: ctx.shape_in()[axis] for axis in baked})
    written = {axis: _end_like(ctx, reference, axis, cuts[axis][0], ends[axis]) for axis in baked}
    blamed = replace(view, provenance=view.provenance.blamed(ctx.blame(Cause.CROPPED)))
    return _sliced(ctx, blamed, cuts, ends, written)


def _cut_borders(ctx: RuleContext, view: Placed, cuts: Cuts, baked: Sequence[int]) -> Outcome:
    """Cut off as much of the border at any size.

    Where the trunk goes on behind it alone, only what is cut off on both sides is a border; else it is a piece. If it
    meets its trunk again, another map of its extent says so. Half of the map or less is a part of it, and no border.
    """
    for axis in baked:
        (start, end, _), length = cuts[axis], ctx.shape_in()[axis]
        meant = start == length - end or ctx.role == "context"
        if start < 0 or not (meant and op_kinds.is_border(start, end, length)):
            return as_piece(ctx)
    return _sliced(ctx, view, cuts, _from_behind(cuts, {axis: ctx.shape_in()[axis] for axis in baked}))


_GOES_ON = "and more than FC layers works on it"


def _computed_piece(ctx: RuleContext, view: Placed, cuts: Cuts) -> Outcome:
    """Bounds that are computed from the image's size stay so, if the piece begins at one place at every size.

    A part of the map (its first half, say) may be a head's: then it is the part of a window.
    """
    ctx.keep()
    old, new = (ctx.builder.spec(name).shapes or () for name in (view.tensor, ctx.node.output[0]))
    axes = [axis for axis in view.spatial if axis in cuts]
    rest = [[a[axis] - b[axis] * cuts[axis][2] for a, b in zip(old, new, strict=True)] for axis in axes]
    steady = all(max(cut) - min(cut) < cuts[axis][2] for axis, cut in zip(axes, rest, strict=True))
    if not steady and ctx.role == "head" and not ctx.state.dense:
        ctx.builder.nodes.pop()
        return as_piece(ctx)
    start = ctx.builder.spec(ctx.tensors()[1])
    begins = start.alike if not ctx.state.dense else ctx.constant(1) if ctx.same_on_grid(1) else None
    on_grid = begins is not None and begins.min() >= 0 and steady
    if not on_grid and (ctx.state.dense or not ctx.state.undivided):
        return _off_grid(ctx, view, cuts)
    provenance = _provenance(view, _at_most(ctx, cuts), _cut_behind(ctx, view, cuts))
    return ctx.placed(view, provenance if on_grid else provenance.blamed(ctx.blame(Cause.CONTEXT)), view.where)


def _off_grid(ctx: RuleContext, view: Placed, cuts: Cuts) -> Outcome:
    """A part that does not grow as the map does: of a crop it is what it is natively."""
    if ctx.state.dense:
        return ctx.refuse("cut-out", f"cuts out a part that does not grow as the map does, {_GOES_ON}", LEAVE)
    ctx.builder.nodes.pop()
    ctx.freeze(1)
    ctx.freeze(2)
    return _of_map(ctx, view, cuts)


def _at_most(ctx: RuleContext, cuts: Cuts) -> Cuts:
    """The cuts with the largest starts at any size that was looked at."""
    starts = np.max(np.stack(ctx.builder.spec(ctx.tensors()[1]).values or ()), axis=0)
    most = zip(cuts.items(), starts.tolist(), strict=True)
    return {axis: (int(start), end, step) for (axis, (_, end, step)), start in most}


def _cut_behind(ctx: RuleContext, view: Placed, cuts: Cuts) -> dict[int, int]:
    """How much is cut off behind at most, at any size, as ends from behind; natively where that is not known."""
    extents, ends = ctx.builder.extents, {}
    extents.follow(ctx.builder.nodes)
    before, after = (extents.dims(name) for name in (view.tensor, ctx.node.output[0]))
    for axis, (start, end, step) in cuts.items():
        own = min(0, end - ctx.shape_in()[axis] if end >= 0 else end)
        found = None if before is None or after is None else bounds(before[axis] - after[axis] * step)
        ends[axis] = own if found is None else min(own, start - found[1] - step + 1)
    return ends


def _provenance(view: Placed, cuts: Cuts, ends: Mapping[int, int]) -> Provenance:
    """Of a map without what was cut off; ``ends`` are counted from behind, 0 or more where nothing is."""
    fields = list(view.provenance.fields)
    for place, axis in view.where.items():
        if axis in cuts:
            start, _, step = cuts[axis]
            field = fields[place].cut(start, max(0, -ends[axis]))
            fields[place] = replace(field, stride=field.stride * step)
    return replace(view.provenance, fields=tuple(fields))


def _cropped_like(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Iterator[Placed]:
    """Maps of the same stride that the slice meets, or the image: it is a crop to their size, whatever that is."""

    def strides(provenance: Provenance) -> list[Pixels]:
        return [provenance.fields[place].stride for place, axis in view.where.items() if axis in axes]

    if view.provenance.windows:
        return iter(())
    wanted, shape = strides(view.provenance), ctx.shape_out()
    native = ((image, lengths(image.groups)) for image in images(ctx) if image.spatial == view.spatial)
    whole = (image for image, own in native if all(own[axis] == shape[axis] for axis in axes))
    return (other for other in chain(references(ctx, view, axes), whole) if strides(other.provenance) == wanted)


def _end_like(ctx: RuleContext, reference: Placed, axis: int, start: int, end: int) -> int | str:
    """Where a crop of a reference's size ends: so many elements behind its start. Before opset 10 counted from the
    end."""
    if ctx.opset < 10:
        return end
    size = ops.dims(ctx.builder, reference.tensor, axis, axis + 1)
    return ctx.builder.emit("Add", [size, ctx.builder.constant([start], "start")]) if start else size


_OPEN = 2**31 - 1
"""The end of a Slice that goes on to the border, whatever the size."""


def cuts_of(ctx: RuleContext) -> Cuts | None:
    """Start, end and step by axis; None where they are not constant."""
    bounds = [ctx.constant(place) for place in range(1, len(ctx.node.input))]
    if any(value is None and ctx.has_input(place) for place, value in enumerate(bounds, 1)):
        return None
    return op_kinds.cuts_of(ctx.attrs, [None if b is None else b.tolist() for b in bounds], len(ctx.shape_in()))


def _sliced(
    ctx: RuleContext, view: Placed, cuts: Cuts, ends: Mapping[int, int], written: Mapping[int, int | str] | None = None
) -> Outcome:
    """The node as it is, or with its ends opened where they were baked at the native size.

    ``ends``: by axis, counted from behind, or open. ``written``: what is to be written instead.
    """
    outcome = ctx.placed(view, _provenance(view, cuts, ends), view.where)
    own = {*view.spatial, 0} if ctx.free_batch else {*view.spatial}
    spatial: dict[int, int | str] = {axis: end for axis, end in ends.items() if axis in own}
    spatial |= written or {}
    if all(spatial.get(axis, end) == end or end >= _OPEN for axis, (_, end, _) in cuts.items()):
        ctx.keep()
        return outcome
    opened = [spatial.get(axis, end) for axis, (_, end, _) in cuts.items()]
    if ctx.opset < 10:
        ctx.keep(ends=opened)
        return outcome
    inputs = ctx.tensors()
    inputs[2] = ops.numbers(ctx.builder, opened)
    kind = ctx.native(ctx.node.input[1]).dtype
    if kind != TensorProto.INT64:
        inputs[2] = ctx.builder.emit("Cast", [inputs[2]], to=kind)
    ctx.keep(inputs)
    return outcome
