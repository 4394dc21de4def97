"""Gather and GatherND on placed tensors: channels by number, blocks of places, pieces, tables that are read by class.

https://onnx.ai/onnx/operators/onnx__Gather.html, https://onnx.ai/onnx/operators/onnx__GatherND.html
"""

from __future__ import annotations

from dataclasses import replace

from onnxfc.axes import Groups, channels, pure
from onnxfc.rules.blocks import blocks
from onnxfc.rules.indexing import picks
from onnxfc.rules.table import PLACED, rule
from onnxfc.rules.windowed import as_piece
from onnxfc.site import Outcome, Site
from onnxfc.views import Fixed, Placed, is_map


@rule("Gather", on=PLACED, attributes=("axis",))
def gather(site: Site) -> Outcome | None:
    """Picks channels; an index of rank 0 takes the channel axis away. Or a table is read place by place."""
    if isinstance(site.views[0], Fixed):
        return _table_look_up(site)
    view, axis = site.placed_in(), site.axis()
    constant = isinstance(site.views[1], Fixed)
    if constant and axis == 0 and view.is_map and site.may_swallow:
        return None  # x[0] of a batch of 1
    if not constant or (axis == 0 and view.apart):
        return site.refuse("mixes-batch", "picks by what the image says, or along the batch")
    if view.is_map and axis in view.spatial:
        return blocks(site, view, axis) or as_piece(site)
    if not pure(view.groups[axis]):
        return None
    site.keep()
    name, picked = site.node.output[0], _picked_axes(site, axis)
    groups = (*view.groups[:axis], *picked, *view.groups[axis + 1 :])
    return [replace(view, tensor=name, original=name, groups=groups, moved_by=None)]


def _picked_axes(site: Site, axis: int) -> Groups:
    """The axes of the index, which take the place of the channels."""
    count = len(site.shape_in(1))
    return tuple(channels(length) for length in site.shape_out()[axis : axis + count])


def _table_look_up(site: Site) -> Outcome:
    """A constant's rows by the numbers of a map: the rows' axes are new channels, behind all others."""
    places = site.views[1]
    if not is_map(places) or site.axis() != 0:
        return site.refuse("dynamic-parameter", "reads a table along another axis than its first")
    site.keep()
    return site.placed(places, places.trace, places.where)


@rule("GatherND", on=PLACED, attributes=("batch_dims",))
def picked_channels(site: Site) -> Outcome | None:
    """Some of the channels, one number each; exporters move their axis to the front for it."""
    view = site.views[0]
    if picks(site) is None or not isinstance(view, Placed) or not site.only_first or not pure(view.groups[0]):
        return None
    site.keep()
    return site.of_channels(view, 0)
