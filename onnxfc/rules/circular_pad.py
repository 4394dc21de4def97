"""Maps put together from pieces of themselves, as circular padding and rolling do, or with a border kept as it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.axes import lengths
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed, is_map
from onnxfc.shapes.spec import Array

_OPEN = 2**31 - 1


@dataclass(frozen=True)
class Piece:
    """A part of a map, from ``start`` to ``end`` on one axis, natively."""

    start: int
    end: int


def pieces_joined(ctx: RuleContext, axis: int) -> Outcome | None:
    """A Concat along a spatial axis of border pieces of one map and the map itself: padding that wraps around.

    Or of the map's two parts the other way round; None where the pieces are of several maps.
    """
    cut = [name for name in ctx.node.input if not is_map(ctx.state.views[name])] or _small_parts(ctx, axis)
    roots = {_cut_from(ctx, name) for name in cut}
    root = min(roots, default="")
    view = ctx.state.views.get(root)
    if len(roots) != 1 or not is_map(view) or axis not in view.spatial:
        return None
    pieces = [_piece(ctx, root, name, axis) for name in ctx.node.input]
    found = [piece for piece in pieces if piece is not None]
    others = [place for place, piece in enumerate(pieces) if piece is None]
    if len(others) == 1:
        return _bordered(ctx, view, axis, pieces, others[0])
    if others:
        return None
    return _turned(ctx, view, axis, found)


def _turned(ctx: RuleContext, view: Placed, axis: int, found: list[Piece]) -> Outcome:
    """All of them are pieces of one map."""
    length = lengths(view.groups)[axis]
    whole = [place for place, piece in enumerate(found) if (piece.start, piece.end) == (0, length)]
    borders = len(whole) == 1 and all(
        piece.end == length if place < whole[0] else piece.start == 0
        for place, piece in enumerate(found)
        if place != whole[0]
    )
    if not borders and sum(piece.end - piece.start for piece in found) != length:
        return ctx.refuse("cut-out", "joins pieces of the map that overlap, or leave places of it out")
    if not borders:
        return _rolled(ctx, view, axis, found, length)
    return _wrapped(ctx, view, axis, found, whole[0])


def _small_parts(ctx: RuleContext, axis: int) -> list[str]:
    """What was cut out of a map, and is no half of it."""
    roots = {name: root for name in ctx.node.input if (root := _cut_from(ctx, name))}
    return [name for name, root in roots.items() if 2 * ctx.native(name).native[axis] < ctx.native(root).native[axis]]


def _bordered(ctx: RuleContext, view: Placed, axis: int, pieces: list[Piece | None], at: int) -> Outcome | None:
    """Border pieces of a map before and behind another one that was made of it, as pre-emphasis keeps the first sample:
    x[0], x[1] - a x[0], x[2] - a x[1] ... None where the pieces are not those of the same border."""
    other, length = ctx.views[at], lengths(view.groups)[axis]
    place = view.spatial.index(axis)
    if not is_map(other) or other.spatial != view.spatial or other.provenance.windows:
        return None
    (own, stride), inputs, offset = (view.fields[place], view.fields[place].stride), list[str](), 0
    reads = [replace(other.fields[place], start=other.fields[place].start - stride * _before(pieces[:at]))]
    for number, piece in enumerate(pieces):
        if piece is None:
            inputs.append(other.tensor)
            offset += lengths(other.groups)[axis]
            continue
        border = piece.end <= length // 2 if number < at else piece.start >= length // 2
        if not border:
            return None
        reads.append(replace(own, start=own.start + (piece.start - offset) * stride))
        behind = (piece.start - length, piece.end - length or _OPEN)
        inputs.append(_cut(ctx, view, axis, (piece.start, piece.end) if number < at else behind))
        offset += piece.end - piece.start
    joined = Field.join(reads)
    made = view.provenance.along({} if joined is None else {place: joined})
    provenance = Provenance.join([made, replace(other.provenance, fields=made.fields)])
    if joined is None or provenance is None:
        return None
    ctx.keep(inputs)
    return ctx.placed(view, provenance.blamed(ctx.blame(Cause.PADDING)), view.where)


def _before(pieces: Sequence[Piece | None]) -> int:
    return sum(piece.end - piece.start for piece in pieces if piece is not None)


def _cut(ctx: RuleContext, view: Placed, axis: int, bounds: tuple[int, int]) -> str:
    return ctx.builder.emit("Slice", [view.tensor, *(ctx.builder.constant([n], "slice") for n in (*bounds, axis))])


_PART = 4
"""A part of the image by which a network rolls it is no smaller: windows of attention are shifted by less."""


def _rolled(ctx: RuleContext, view: Placed, axis: int, pieces: list[Piece], length: int) -> Outcome:
    """x[s:] ahead of x[:s] at any size, as windows of attention are shifted; counted from the nearer end."""
    shift = pieces[0].start
    if ctx.state.of_windows:
        return ctx.refuse("flipped", "rolls the map around: a cell would read the far end of the image")
    if pieces != [Piece(shift, length), Piece(0, shift)] or 2 * shift == length:
        return ctx.refuse("flipped", "lays the map's parts in another order, half and half or more of them", LEAVE)
    by = shift if 2 * shift < length else shift - length
    if abs(by) > 1 and length % by == 0 and length <= _PART * abs(by):
        why = f"rolls the map around by {abs(by)} of {length} places, and by as many at every size"
        ctx.remark("fixed-parts", f"{why}; where that is a part of the image, keep its native size")
    ctx.keep([_cut(ctx, view, axis, bounds) for bounds in ((by, _OPEN), (0, by))])
    place = view.spatial.index(axis)
    provenance = view.provenance.along({place: view.provenance.fields[place].through(1, pad=-by)})
    return ctx.placed(view, provenance.blamed(ctx.blame(Cause.CONTEXT)), view.where)


def _wrapped(ctx: RuleContext, view: Placed, axis: int, pieces: list[Piece], whole: int) -> Outcome:
    inputs = []
    for place, piece in enumerate(pieces):
        count = piece.end - piece.start
        bounds = (-count, _OPEN) if place < whole else (0, count)
        inputs.append(view.tensor if place == whole else _cut(ctx, view, axis, bounds))
    ctx.keep(inputs)
    before = _before(pieces[:whole])
    place = view.spatial.index(axis)
    provenance = view.provenance.along({place: view.provenance.fields[place].through(1, pad=before)})
    return ctx.placed(view, provenance.blamed(ctx.blame(Cause.PADDING), ctx.blame(Cause.CONTEXT)), view.where)


def _cut_from(ctx: RuleContext, name: str) -> str:
    node = ctx.state.graph.producers.get(name)
    return "" if node is None or node.op_type != "Slice" or ctx.opset < 10 else str(node.input[0])


def _piece(ctx: RuleContext, root: str, name: str, axis: int) -> Piece | None:
    shape = ctx.native(root).native
    if name == root:
        return Piece(0, shape[axis])
    if _cut_from(ctx, name) != root:
        return None
    node = ctx.state.graph.producers[name]
    places = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
    taken = ctx.builder.inference.run(node, [places, *(_value(ctx, item) for item in node.input[1:])])[0]
    if taken is None or taken.shape[:axis] != shape[:axis] or taken.shape[axis + 1 :] != shape[axis + 1 :]:
        return None
    row = np.moveaxis(taken, axis, 0).reshape(taken.shape[axis], -1)[:, 0]
    if not len(row) or not np.array_equal(row, np.arange(row[0], row[0] + len(row))):
        return None
    return Piece(int(row[0]), int(row[-1]) + 1)


def _value(ctx: RuleContext, name: str) -> Array | None:
    values = ctx.native(name).values if name else None
    return None if values is None else values[0]
