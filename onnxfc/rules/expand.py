"""Expand and Tile: channels copied; strips and vectors of the whole image laid out over the map again.

https://onnx.ai/onnx/operators/onnx__Expand.html, https://onnx.ai/onnx/operators/onnx__Tile.html
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxfc import emit
from onnxfc.axes import lengths
from onnxfc.rules.table import PLACED, rule
from onnxfc.site import Outcome, Site
from onnxfc.views import Placed


@rule("Expand", on=PLACED)
def expand(site: Site) -> Outcome | None:
    """To the tensor's own shape it changes nothing; else the places must not be spread."""
    view = site.placed_in()
    if view.is_folded:
        return None
    laid = laid_out(site, view)
    if laid is not None:
        return laid
    before, after = site.shape_in(), site.shape_out()
    if before == after:
        site.draft.emit("Identity", [view.tensor], site.node.output[0], instead=site.node)
        return site.same()
    if view.trace.windows and set(view.extent) == {1} and len(before) == len(after):
        return site.rejoins()
    extent = tuple(after[axis] for axis in view.spatial) if len(before) == len(after) else ()
    if before[0] != after[0] or view.extent != extent:
        return site.refuse("size-locked", "spreads the map to the native size")
    ones = [1 if axis == 0 or axis in view.spatial else length for axis, length in enumerate(after)]
    site.keep([view.tensor, site.draft.constant(np.array(ones, np.int64), "shape")])
    return site.placed(view, view.trace, view.where)


@rule("Tile", on=PLACED)
def tile(site: Site) -> Outcome | None:
    """Copies of channels beside each other."""
    view, amounts = site.placed_in(), site.constant(1)
    if view.is_folded:
        return None
    laid = laid_out(site, view)
    if laid is not None:
        return laid
    if amounts is None or int(amounts[0]) != 1:
        return site.refuse("mixes-batch", "repeats the images of a batch, or how often is not constant")
    if any(int(amounts[axis]) != 1 for axis in view.spatial):
        if view.trace.windows and set(view.extent) == {1}:
            return site.rejoins()
        return site.refuse("size-locked", "puts copies of the map side by side, so that its borders would move inside")
    site.keep()
    return site.placed(view, view.trace, view.where)


def laid_out(site: Site, view: Placed) -> Outcome | None:
    """A strip along the axis that was pooled, as long as the map is there; None where it is not laid out."""
    before, after = site.shape_in(), site.shape_out()
    copies = site.op_type in {"Expand", "Tile"}
    known = view.is_strip and len(before) == len(after) and (copies or site.opset < 11 or site.has_input(3))
    places = _missing(view, after) if known else []
    if not places:
        return _copied_elsewhere(site, view) if copies and len(before) == len(after) else None
    along = {view.like.where[place] for place in places}
    rest = [axis for axis in range(len(after)) if before[axis] != after[axis] and axis not in along]
    regional = str(site.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize"
    if regional or not _copied_channels(view, rest if copies else (), rest):
        return site.refuse("size-locked", "spreads the map to the native size")
    wanted: list[int | str] = [after[axis] if axis in rest else 1 for axis in range(len(after))]
    for axis in along:
        wanted[axis] = emit.dims(site.draft, view.like.tensor, axis, axis + 1)
    site.draft.emit("Expand", [view.tensor, emit.numbers(site.draft, wanted)], site.node.output[0], instead=site.node)
    trace = view.trace.along({place: view.like.trace.fields[place] for place in places})
    return site.placed(view, trace, {place: view.like.where[place] for place in (*view.where, *places)})


def _copied_elsewhere(site: Site, view: Placed) -> Outcome | None:
    """A refusal where copies are laid along an axis that was pooled, as it lies in the map."""
    before, after = site.shape_in(), site.shape_out()
    gone = [axis for place, axis in view.like.where.items() if place not in view.where] if view.is_strip else []
    if not any(axis < len(before) and before[axis] == 1 < after[axis] for axis in gone):
        return None
    return site.refuse("partial-pool", "spreads what was pooled over one axis to a length that its map has not")


def _copied_channels(view: Placed, copied: Sequence[int], rest: Sequence[int]) -> bool:
    """Whether the other axes that change are ``copied``: channels of extent 1."""
    return all(axis in copied and axis and not view.groups[axis] for axis in rest)


def _missing(view: Placed, after: Sequence[int]) -> list[int]:
    """The axes of the image on which it becomes as long as the map is: its other axes lie as they lie there."""
    like, shape = view.like, lengths(view.like.groups)
    if view.parts or len(shape) != len(after):
        return []
    if any(axis != like.where[place] for place, axis in view.where.items()):
        return []
    gone = [place for place in like.where if place not in view.where]
    return [k for k in gone if not view.groups[like.where[k]] and 1 < after[like.where[k]] == shape[like.where[k]]]
