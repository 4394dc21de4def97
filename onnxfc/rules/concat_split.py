"""Concat and Split: maps, folded maps and pieces beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from onnxfc.builder import ops
from onnxfc.builder.continued import continued, grid_blames
from onnxfc.builder.rule_context import LEAVE, OWN_BATCH, Outcome, RuleContext, positive, tensor_of
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.head.meet_grids import lies_on, uniform
from onnxfc.head.placed_windows import as_piece, windowed
from onnxfc.layout.axes import Atom, Group, Groups, channels, of_length, pure
from onnxfc.layout.lists import end_to_end, row_axis
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, provenance_of_all
from onnxfc.rules.broadcast import GRIDS, spread_over
from onnxfc.rules.circular_pad import pieces_joined
from onnxfc.rules.halves import half, halves_joined
from onnxfc.rules.joined_strips import ends_of, length_of, part_of, sliced_part
from onnxfc.rules.registry import PLACED, rule
from onnxfc.rules.slice import images_taken


@rule("Concat", on=PLACED, attributes=("axis",))
def concat(ctx: RuleContext) -> Outcome | None:
    """Concat along channels lies as its inputs do: tensors of one grid beside each other."""
    axis = positive(int(ctx.attrs["axis"]), len(ctx.shape_out()))
    placed = [view for view in ctx.views if isinstance(view, Placed)]
    if axis == 0 and all(view.apart for view in placed):
        return _of_images(ctx, placed)
    wrapped = halves_joined(ctx, axis) or pieces_joined(ctx, axis)
    if wrapped is not None:
        return wrapped
    if all(pure(view.groups[axis]) for view in placed):
        return _of_channels(ctx, placed, axis)
    if len(placed) < len(ctx.views) or any(pure(view.groups[axis]) for view in placed):
        return None
    if all(view.is_strip for view in placed):
        return _end_to_end(ctx, axis, placed)
    return _levels(ctx, axis, placed)


def _of_channels(ctx: RuleContext, placed: Sequence[Placed], axis: int) -> Outcome | None:
    folded = any(view.is_folded for view in placed)
    if len({_without(view.groups, axis) for view in placed}) > 1:
        return None if folded else ctx.refuse("axes-differ", _LIE)
    provenance, context = provenance_of_all(placed), len(placed) < len(ctx.views)
    if provenance is None and all(view.provenance.windows for view in placed) and not context:
        return windowed(ctx)  # pools of several stages, which meet on their common grid
    if provenance is None:
        return None if folded else ctx.refuse(*GRIDS)
    if context:
        return _beside_context(ctx, placed[0], axis, provenance)
    ctx.keep()
    return _beside(ctx, placed, axis, provenance)


def _of_images(ctx: RuleContext, placed: Sequence[Placed]) -> Outcome:
    """Both images of a pair behind each other, so that a trunk sees them at once: where each is one for good, as
    frames of one image."""
    if len(placed) < len(ctx.views):
        return ctx.refuse("mixes-batch", "lays what does not follow the image's size behind images, as a batch", LEAVE)
    if not ctx.may_swallow:
        advice = OWN_BATCH if ctx.free_batch else "export it with a batch of 1"
        return ctx.refuse("mixes-batch", "lays batches of several images behind each other", advice)
    outcome = _of_channels(ctx, placed, 0)
    return ctx.refuse("axes-differ", _LIE) if outcome is None else outcome


_LIE = "combines maps whose spatial axes do not lie on each other"


def _without(groups: Groups, axis: int) -> Groups:
    return groups[:axis] + groups[axis + 1 :]


def _beside(ctx: RuleContext, placed: Sequence[Placed], axis: int, provenance: Provenance) -> Outcome:
    """The output, whose channels are those of all."""
    first = placed[0]
    groups = (*first.groups[:axis], of_length(first.groups[axis], ctx.shape_out()[axis]), *first.groups[axis + 1 :])
    bounds = frozenset().union(*(view.bounds for view in placed))
    made = first.output(ctx.node.output[0], groups=groups, provenance=provenance)
    return [made if made.is_map else replace(made, bounds=bounds, measured=first.like)]


def _beside_context(ctx: RuleContext, like: Placed, axis: int, provenance: Provenance) -> Outcome | None:
    """Vectors of the whole image or constants beside a placed tensor: spread over it, whatever its size."""
    if like.provenance.windows:
        return ctx.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    inputs: list[str] = []
    everywhere = False
    for position, view in enumerate(ctx.views):
        assert view is not None
        if isinstance(view, Placed):
            inputs.append(view.tensor)
            continue
        alone = _one_for_all(ctx, position, like)
        if alone is None and isinstance(view, Context):
            why = "lays values of the whole image over the places of the native size, another one at each"
            return ctx.refuse("size-locked", why, LEAVE)
        if alone is None:
            own = (*like.groups[:axis], channels(ctx.shape_in(position)[axis]), *like.groups[axis + 1 :])
            grid = continued(ctx, position, own, [like])
            if not isinstance(grid, Continued):
                return grid or ctx.no_values(_TABLE)
            alone = grid.tensor
        everywhere |= isinstance(view, Context) or lies_on(ctx, position, like.groups, [like])
        inputs.append(_expanded(ctx, like, alone, axis))
    ctx.keep(inputs)
    blames = (*grid_blames(ctx), *([ctx.blame(Cause.CONTEXT)] if everywhere else []))
    return _beside(ctx, [like], axis, provenance.blamed(*blames))


_TABLE = "puts a value for every place of the native size beside the map"


def _expanded(ctx: RuleContext, like: Placed, tensor: str, axis: int) -> str:
    """Spread over all axes but ``axis`` as ``like`` has them."""
    rank = len(like.groups)
    own = ctx.builder.constant([ctx.builder.spec(tensor).native[axis]], "channels")
    parts = [ops.dims(ctx.builder, like.tensor, 0, axis)] if axis else []
    parts.append(own)
    if axis + 1 < rank:
        parts.append(ops.dims(ctx.builder, like.tensor, axis + 1, rank))
    return ctx.builder.emit("Expand", [tensor, ops.concat(ctx.builder, parts)])


def _one_for_all(ctx: RuleContext, position: int, like: Placed) -> str | None:
    """What is put beside a placed tensor, with one value for all its places; None where each place has its own."""
    view = ctx.views[position]
    if isinstance(view, Context):
        return spread_over(ctx, position, like.groups)
    if isinstance(view, Fixed) and lies_on(ctx, position, like.groups, [like]):
        return tensor_of(view)
    shape, rank = ctx.shape_in(position), len(like.groups)
    own = [axis - rank for axis in range(rank) if shape[axis] > 1 and not pure(like.groups[axis])]
    return uniform(ctx, position, own)


def _end_to_end(ctx: RuleContext, axis: int, strips: Sequence[Placed]) -> Outcome:
    """Strips one behind the other, as coordinate attention lays rows and columns."""
    alone = all(len(view.where) == 1 and not view.parts for view in strips)
    fields = [view.fields[0] for view in strips] if alone else []
    joined = strips[0].provenance.fields[0].join(fields) if fields else None
    provenance = (
        Provenance.join([replace(view.provenance, fields=(joined,) * ctx.state.rank) for view in strips])
        if joined
        else None
    )
    if provenance is None:
        return ctx.refuse("grids-differ", "lays strips of different stride end to end")
    ctx.keep()
    name, first = ctx.node.output[0], strips[0]
    group: Group = (Atom("joined", ctx.shape_out()[axis]),)
    groups = (*first.groups[:axis], group, *first.groups[axis + 1 :])
    return [Placed(name, name, groups, provenance, first.like, parts=tuple(strips))]


def _levels(ctx: RuleContext, axis: int, placed: Sequence[Placed]) -> Outcome | None:
    """Rows of places one behind the other, a level of the trunk each; None where they are none, or a head follows."""
    alike = len({_without(view.groups, axis) for view in placed}) == 1
    if ctx.state.of_windows or not alike or any(row_axis(view, ctx.state.rank) != axis for view in placed):
        return None
    ctx.keep()
    first, name = placed[0], ctx.node.output[0]
    parts = [part for view in placed for part in view.parts or (view,)]
    provenance = Provenance.join([replace(view.provenance, fields=first.provenance.fields) for view in placed])
    assert provenance is not None
    groups = end_to_end(parts, axis, ctx.shape_out()[axis])
    return [Placed(name, name, groups, provenance, first.like, parts=tuple(parts))]


@rule("Split", on=PLACED, attributes=("axis", "num_outputs", "split"))
def split(ctx: RuleContext) -> Outcome | None:
    """Split along channels lies as its input does.

    Parts of a spatial axis are pieces of the native map; strips that were joined are taken apart again.
    """
    view, axis = ctx.placed_in(), ctx.axis()
    if pure(view.groups[axis]) and not (axis == 0 and view.apart):
        ctx.keep()
        return ctx.of_channels(view, axis)
    if axis == 0 and view.apart:
        return images_taken(ctx, view) or ctx.refuse("mixes-batch", "works along the batch")
    if view.is_list:
        return ctx.refuse("cut-out", "cuts a list of places at the native number of places", LEAVE)
    if view.parts:
        return _apart(ctx, view, axis)
    return half(ctx, axis) or as_piece(ctx) if view.is_map else None


def _apart(ctx: RuleContext, view: Placed, axis: int) -> Outcome | Refusal:
    """The strips that were laid end to end, each as long as it is now."""
    ends = ends_of(ctx, view)
    found = list(accumulate(ctx.shape_out(position)[axis] for position in range(len(ctx.node.output))))
    if not ends or found != ends or ctx.opset < 10:
        return ctx.refuse("cut-out", "cuts pieces of the native size out of the map")
    if ctx.opset < 13:  # Split takes its lengths as numbers
        return [sliced_part(ctx, view, number, name) for number, name in enumerate(ctx.node.output)]
    lengths = ops.concat(ctx.builder, [length_of(ctx, part) for part in view.parts])
    ctx.builder.emit("Split", [view.tensor, lengths], list(ctx.node.output), instead=ctx.node, axis=axis)
    return [part_of(view, number, name) for number, name in enumerate(ctx.node.output)]
