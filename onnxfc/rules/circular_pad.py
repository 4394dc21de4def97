"""Maps put together from pieces of themselves, as circular padding and rolling do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.axes import lengths
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

    Where it is not padding but the map in another order, it is refused; None where the pieces are of several maps.
    """
    roots = {_cut_from(ctx, name) for name in ctx.node.input if not is_map(ctx.state.views[name])}
    root = min(roots, default="")
    view = ctx.state.views.get(root)
    if len(roots) != 1 or not is_map(view) or axis not in view.spatial:
        return None
    pieces = [_piece(ctx, root, name, axis) for name in ctx.node.input]
    found = [piece for piece in pieces if piece is not None]
    if len(found) < len(pieces):
        return None
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
        return ctx.refuse("flipped", "rolls the map around: a cell would read the far end of the image")
    return _wrapped(ctx, view, axis, found, whole[0])


def _wrapped(ctx: RuleContext, view: Placed, axis: int, pieces: list[Piece], whole: int) -> Outcome:
    inputs = []
    for place, piece in enumerate(pieces):
        count = piece.end - piece.start
        bounds = [-count, _OPEN] if place < whole else [0, count]
        cut = [ctx.builder.constant([item], "slice") for item in (*bounds, axis)]
        inputs.append(view.tensor if place == whole else ctx.builder.emit("Slice", [view.tensor, *cut]))
    ctx.keep(inputs)
    before = sum(piece.end - piece.start for piece in pieces[:whole])
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
