"""Maps put together from pieces of themselves, and channel shuffles: read off the original's own nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxfc.axes import lengths
from onnxfc.errors import Refusal
from onnxfc.graph import attributes
from onnxfc.site import Outcome, Site
from onnxfc.specs import Array
from onnxfc.views import Placed, is_map

_OPEN = 2**31 - 1
_MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def permuted(site: Site, view: Placed) -> tuple[Placed, Array] | None:
    """The map, channels first, whose channels the output is in another order, and that order; None for anything else.

    A channel shuffle is Reshape, Transpose, Reshape: one Gather says the same and knows nothing of sizes.
    """
    name, nodes = site.node.input[0], [site.node]
    while (node := site.state.graph.producers.get(name)) is not None and node.op_type in _MOVES:
        nodes.append(node)
        name = node.input[0]
        before = site.state.views.get(name)
        if is_map(before) and len(nodes) > 1 and before.channels_first and not before.trace.windows:
            order = _order(site, before, nodes[::-1])
            return None if order is None else (before, order)
    return None


def _order(site: Site, before: Placed, nodes: Sequence[onnx.NodeProto]) -> Array | None:
    """Which channel each channel of the output is, if that is all that the nodes do."""
    shape = lengths(before.groups)
    after = site.shape_out()
    if len(after) != len(shape) or shape[2:] != after[2:] or shape[0] != after[0]:
        return None
    places = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    moved = places
    for node in nodes:
        if node.op_type == "Transpose":
            moved = np.transpose(moved, attributes(node).get("perm"))
        else:
            moved = moved.reshape(site.native(node.output[0]).native)
    size = int(np.prod(shape[2:], dtype=np.int64))
    order = moved[0].reshape(shape[1], -1)[:, 0] // size
    return np.asarray(order) if np.array_equal(moved, places[:, order]) else None


@dataclass(frozen=True)
class Piece:
    """A part of a map, from ``start`` to ``end`` on one axis, natively."""

    start: int
    end: int


def pieces_joined(site: Site, axis: int) -> Outcome | None:
    """A Concat along a spatial axis of border pieces of one map and the map itself: padding that wraps around.

    Where it is not padding but the map in another order, it is refused; None where the pieces are of several maps.
    """
    roots = {_cut_from(site, name) for name in site.node.input if not is_map(site.state.views[name])}
    root = min(roots, default="")
    view = site.state.views.get(root)
    if len(roots) != 1 or not is_map(view) or axis not in view.spatial:
        return None
    pieces = [_piece(site, root, name, axis) for name in site.node.input]
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
    if not borders:
        return _rolled(site)
    return _wrapped(site, view, axis, found, whole[0])


def _rolled(site: Site) -> Refusal:
    return site.refuse("flipped", "rolls the map around: a cell would read the far end of the image")


def _wrapped(site: Site, view: Placed, axis: int, pieces: list[Piece], whole: int) -> Outcome:
    inputs = []
    for place, piece in enumerate(pieces):
        count = piece.end - piece.start
        bounds = [-count, _OPEN] if place < whole else [0, count]
        cut = [site.draft.constant([item], "slice") for item in (*bounds, axis)]
        inputs.append(view.tensor if place == whole else site.draft.emit("Slice", [view.tensor, *cut]))
    site.keep(inputs)
    before = sum(piece.end - piece.start for piece in pieces[:whole])
    place = view.spatial.index(axis)
    trace = view.trace.along({place: view.trace.fields[place].through(1, pad=before)})
    return site.placed(view, trace.tainted(site.taint("padding"), site.taint("context")), view.where)


def _cut_from(site: Site, name: str) -> str:
    node = site.state.graph.producers.get(name)
    return "" if node is None or node.op_type != "Slice" or site.opset < 10 else str(node.input[0])


def _piece(site: Site, root: str, name: str, axis: int) -> Piece | None:
    shape = site.native(root).native
    if name == root:
        return Piece(0, shape[axis])
    if _cut_from(site, name) != root:
        return None
    node = site.state.graph.producers[name]
    places = np.broadcast_to(np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))]), shape)
    taken = site.draft.inference.run(node, [places, *(_value(site, item) for item in node.input[1:])])[0]
    if taken is None or taken.shape[:axis] != shape[:axis] or taken.shape[axis + 1 :] != shape[axis + 1 :]:
        return None
    row = np.moveaxis(taken, axis, 0).reshape(taken.shape[axis], -1)[:, 0]
    if not len(row) or not np.array_equal(row, np.arange(row[0], row[0] + len(row))):
        return None
    return Piece(int(row[0]), int(row[-1]) + 1)


def _value(site: Site, name: str) -> Array | None:
    values = site.native(name).values if name else None
    return None if values is None else values[0]
