"""ScatterND and ScatterElements on maps: slice assignment, of which exporters write down every place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.computed_constants import computed
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.head.meet_grids import uniform
from onnxfc.head.windows import bounds_of
from onnxfc.layout.axes import Group, Groups, channels, pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, Placed, provenance_of_all
from onnxfc.rules.broadcast import GRIDS
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.spec import Array

Block = dict[int, tuple[int, int]]
"""By axis where the block that is written begins and ends, of axes that it does not fill: counted from before it and
from behind it, or both from the border that it is."""

_END = 2**31 - 1


@rule("ScatterElements", "ScatterND", on=PLACED, attributes=("axis", "reduction"))
def scatter(ctx: RuleContext) -> Outcome:
    """x[:, 2:5, :, 1:] = y is y between what is left of x before and behind it, axis by axis. Borders stay as wide as
    they are natively.

    https://onnx.ai/onnx/operators/onnx__ScatterND.html
    """
    block = _block(ctx) if ctx.attrs.get("reduction", "none") == "none" else None
    if block is None:
        return ctx.refuse("cut-out", "writes to places of the native size that are no block of the map", LEAVE)
    views = [view for view in (ctx.views[0], ctx.views[2]) if isinstance(view, Placed)]
    groups = _laid(ctx, views, block)
    if groups is None:
        return ctx.refuse("axes-differ", "writes into a map whose axes do not lie on those of what is written")
    borders = {groups[axis][0].place: ends for axis, ends in block.items() if not pure(groups[axis])}
    edge = _edge(ctx, block, groups) if len(borders) == 1 else None
    block = edge or block
    if borders and not edge and not _fits(ctx, block):
        return ctx.refuse("cut-out", "writes to a part of the map that does not grow as the map does", LEAVE)
    provenance = provenance_of_all([_moved(ctx, view, borders) for view in views])
    if provenance is None:
        return ctx.refuse(*GRIDS)
    whole, written = _whole(ctx, groups, block), _written(ctx, groups, block)
    if whole is None or written is None:
        return ctx.no_values("writes a value for every place of the native size")
    name = ctx.node.output[0]
    ctx.builder.emit("Identity", [_put(ctx, whole, written, list(block.items()))], name, instead=ctx.node)
    provenance = _near_edge(provenance, groups, edge or {})
    provenance = provenance.blamed(*([ctx.blame(Cause.PADDING)] if borders else []))
    return [_view(ctx, views[0], groups, provenance)]


def _block(ctx: RuleContext) -> Block | None:
    """The block that all places make up, in order; None where they make none."""
    places, shape = computed(ctx, ctx.node.input[1]), ctx.shape_in()
    if places is None or not places.size:
        return None
    if ctx.op_type == "ScatterND":
        ends = _ends(places.reshape(-1, places.shape[-1]) % shape[: places.shape[-1]])
        ends = ends and [*ends, *((0, length) for length in shape[len(ends) :])]
    else:
        axis = ctx.axis()
        rows = np.moveaxis(places, axis, 0).reshape(places.shape[axis], -1) % shape[axis]
        along = _ends(rows[:, :1]) if bool(np.all(rows == rows[:, :1])) else None
        ends = along and [*((0, n) for n in places.shape[:axis]), *along, *((0, n) for n in places.shape[axis + 1 :])]
    if ends is None or ctx.shape_in(2) != tuple(last - first for first, last in ends):
        return None
    pairs = enumerate(zip(ends, shape, strict=True))
    return {axis: (first, last - n) for axis, ((first, last), n) in pairs if (first, last) != (0, n)}


def _edge(ctx: RuleContext, block: Block, groups: Groups) -> Block | None:
    """The block as a border of the map that is filled with a constant, of less than its half and as wide at any size:
    counted from where it lies. None where it is no border."""
    axis = next(axis for axis in block if not pure(groups[axis]))
    (first, last), length = block[axis], ctx.shape_in()[axis]
    wide = length - first + last
    if (first and last) or 2 * wide >= length or not isinstance(ctx.views[2], Fixed):
        return None
    return {**block, axis: (-wide, 0) if first else (0, wide)}


def _near_edge(provenance: Provenance, groups: Groups, edge: Block) -> Provenance:
    """So far from the image's edge nothing is known of the border that is filled."""
    fields = {}
    for axis, (first, last) in ((axis, ends) for axis, ends in edge.items() if not pure(groups[axis])):
        place = groups[axis][0].place
        fields[place] = provenance.fields[place].through(1 + last - first, pad=last)
    return provenance.along(fields) if fields else provenance


def _fits(ctx: RuleContext, block: Block) -> bool:
    """Whether what is written follows the image, and is as large as the block at any size."""
    whole, _, written = (view.tensor if isinstance(view, Placed) else "" for view in ctx.views)
    shapes = [ctx.builder.spec(name).shapes if name else None for name in (whole, written)]
    if not written or not whole or None in shapes:
        return bool(written)
    pairs = zip(*(found or () for found in shapes), strict=True)
    return all(small[axis] == large[axis] - a + b for large, small in pairs for axis, (a, b) in block.items())


def _ends(places: Array) -> list[tuple[int, int]] | None:
    """First and last of each coordinate, where every place between occurs once, the last axis the fastest."""
    first, last = places.min(axis=0), places.max(axis=0) + 1
    every = np.indices(last - first).reshape(len(first), -1).T + first
    return list(zip(first.tolist(), last.tolist(), strict=True)) if np.array_equal(every, places) else None


def _laid(ctx: RuleContext, views: Sequence[Placed], block: Block) -> Groups | None:
    """The result's axes; None where the map and what is written have not the same, or are more than one map."""
    found = {_groups(ctx, position, block) for position in (0, 2) if isinstance(ctx.views[position], Placed)}
    several = any(view.parts or view.other or view.provenance.windows for view in views)
    return found.pop() if len(found) == 1 and not several else None


def _groups(ctx: RuleContext, position: int, block: Block) -> Groups | None:
    """The result's axes as an input has them; None where the block does not fill an axis of something else than
    channels or of one place."""
    found: list[Group] = []
    for axis, (group, length) in enumerate(zip(ctx.placed_in(position).groups, ctx.shape_in(), strict=True)):
        if pure(group):
            found.append(channels(length))
        elif axis in block and (len(group) > 1 or group[0].kind != "space"):
            return None
        else:
            found.append((replace(group[0], length=length),) if axis in block else group)
    return tuple(found)


def _moved(ctx: RuleContext, view: Placed, borders: Block) -> Placed:
    """What is written, as it lies in the result: behind the borders."""
    if view is not ctx.views[2]:
        return view
    fields = {place: view.provenance.fields[place].through(1, pad=first) for place, (first, _) in borders.items()}
    return replace(view, provenance=view.provenance.along(fields))


def _whole(ctx: RuleContext, groups: Groups, block: Block) -> str | None:
    """What is written into, as large as it is now."""
    view = ctx.views[0]
    if isinstance(view, Placed):
        return view.tensor
    alone, written = _alone(ctx, 0, groups), ctx.placed_in(2).tensor
    sizes: list[int | str] = []
    for axis, (group, length) in enumerate(zip(groups, ctx.shape_in(), strict=True)):
        size: int | str = length if pure(group) else ops.dims(ctx.builder, written, axis, axis + 1)
        if isinstance(size, str) and axis in block:
            border = ctx.builder.constant([block[axis][0] - block[axis][1]], "border")
            size = ctx.builder.emit("Add", [size, border])
        sizes.append(size)
    return None if alone is None else ctx.builder.emit("Expand", [alone, ops.numbers(ctx.builder, sizes)])


def _written(ctx: RuleContext, groups: Groups, block: Block) -> str | None:
    """What is written, as large as it is now."""
    view = ctx.views[2]
    if isinstance(view, Placed):
        return view.tensor
    alone, place = _alone(ctx, 2, groups), ctx.placed_in().tensor
    for axis, (first, last) in block.items():
        place = ops.slice_axis(ctx.builder, place, axis, first, last or _END)
    sizes = ops.dims(ctx.builder, place, 0, len(groups))
    return None if alone is None else ctx.builder.emit("Expand", [alone, sizes])


def _alone(ctx: RuleContext, position: int, groups: Groups) -> str | None:
    """A constant with one value for all places; None where they have their own."""
    rank, shape = len(groups), ctx.shape_in(position)
    own = [axis - rank for axis, group in enumerate(groups) if not pure(group) and shape[axis] > 1]
    return uniform(ctx, position, own) if isinstance(ctx.views[position], Fixed) else None


def _put(ctx: RuleContext, whole: str, written: str, block: Sequence[tuple[int, tuple[int, int]]]) -> str:
    """The block in its place, one axis after the other."""
    if not block:
        return written
    (axis, (first, last)), *rest = block
    cut = [(0, first), (first, last or _END), (last, _END)]
    before, within, behind = (ops.slice_axis(ctx.builder, whole, axis, *ends) for ends in cut)
    parts = [before] * bool(first) + [_put(ctx, within, written, rest)] + [behind] * bool(last)
    return ctx.builder.emit("Concat", parts, axis=axis)


def _view(ctx: RuleContext, like: Placed, groups: Groups, provenance: Provenance) -> Placed:
    """The output; where it is no map, the map that tells how long its places are now."""
    name = ctx.node.output[0]
    made = like.output(name, groups=groups, provenance=provenance, measured=None)
    if made.is_map:
        return made
    order = sorted(range(len(groups)), key=lambda axis: [atom.kind for atom in groups[axis]][:1] != ["batch"])
    turned = tuple(groups[axis] for axis in order)
    measured = made.output(name, groups=turned, tensor=ops.transpose(ctx.builder, name, order))
    return replace(made, measured=measured if measured.is_map else like.like, bounds=bounds_of(ctx, like))
