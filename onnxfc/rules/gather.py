"""Gather and its kin: channels picked, places picked, look-ups by computed places, blocks of places (im2col)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, positive
from onnxfc.errors import Refusal
from onnxfc.head.meet_grids import all_scores, spread
from onnxfc.head.placed_windows import as_piece
from onnxfc.layout.axes import Groups, channels, pure
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Fixed, Index, Placed, ScoreMap, Window, is_map
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Array


@rule("OneHot", on=FEATURES, attributes=("axis",))
def one_hot(site: Site) -> Outcome | None:
    """A new feature axis; counted from the first it stays before the grid.

    https://onnx.ai/onnx/operators/onnx__OneHot.html
    """
    view = site.views[0]
    if isinstance(view, Window):
        return None
    if not isinstance(view, ScoreMap) or any(not isinstance(other, Fixed) for other in site.views[1:]):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    axis = positive(int(site.attrs.get("axis", -1)), len(site.shape_out()))
    if axis == 0 or view.batch_axis:
        return site.refuse("mixes-batch", "puts an axis before the batch")
    site.keep([view.tensor, *site.tensors_from(1)], axis=axis)
    return site.score_maps(view.trace)


def picks(site: Site) -> Index | None:
    """The places that a GatherND picks along the first axis of its data; None where it does anything else.

    https://onnx.ai/onnx/operators/onnx__GatherND.html
    """
    places = site.constant(1)
    if site.attrs.get("batch_dims", 0) or places is None or places.ndim != 2 or places.shape[1] != 1:
        return None
    return np.asarray(places[:, 0], np.int64)


@rule("GatherND", on=FEATURES, attributes=("batch_dims",))
def picked(site: Site) -> Outcome:
    """Some features, where their axis was moved before the batch."""
    view, places = site.views[0], picks(site)
    if places is None or not isinstance(view, Window | ScoreMap) or not view.batch_axis:
        return site.refuse("mixes-batch", "picks along the batch, or by places that are not constant")
    if isinstance(view, Window):
        scale, shift = (None if work is None else work[places] for work in (view.scale, view.shift))
        return [replace(view, index=view.index[places], scale=scale, shift=shift, trunk=None)]
    tensor = site.draft.emit("Gather", [view.tensor, site.draft.constant(places, "places")], axis=1, instead=site.node)
    return [replace(view, tensor=tensor, features=(len(places), *view.features[1:]))]


@rule("GatherElements", "ScatterElements", on=FEATURES, attributes=("axis", "reduction"))
def elements(site: Site) -> Outcome:
    """Element by element along a feature axis: data, places and updates all get the grid.

    https://onnx.ai/onnx/operators/onnx__GatherElements.html
    """
    scores = all_scores(site, site.views)
    if isinstance(scores, Refusal):
        return scores
    axis = site.axis()
    alone = site.swallowed and len(scores) == len(site.views)
    if axis == 0 or any(view.batch_axis != (None if alone else 0) for view in scores):
        return site.refuse("mixes-batch", "works along the batch")
    queue = iter(scores)
    inputs = [
        spread(site, position, scores[0]) if isinstance(view, Fixed) else next(queue)
        for position, view in enumerate(site.views)
    ]
    site.keep([view.tensor for view in inputs], axis=axis)
    trace = Trace.join([view.trace for view in scores])
    assert trace is not None
    return site.score_maps(trace)


def unfold(site: Site, view: Placed, axis: int) -> Outcome | None:
    """The map with an axis of ``size`` places within each block ahead of a spatial one that counts blocks.

    None where the Gather picks anything else than blocks at even steps up to the border.
    """
    index = site.constant(1)
    if view.trace.windows or site.opset < 11 or index is None or not isinstance(site.views[1], Fixed):
        return None
    steps = _strides_of(index, site.shape_in()[axis])
    if steps is None:
        return None
    step, dilation = steps
    if site.follows_size(1):
        site.keep()
    else:
        inputs = [view.tensor, _places_of(site, view, axis, index, step)]
        site.draft.emit("Gather", inputs, site.node.output[0], instead=site.node, axis=axis)
    place, reach = view.spatial.index(axis), (len(index) - 1) * dilation + 1
    trace = view.trace.along({place: view.trace.fields[place].through(reach, stride=step)})
    return site.placed(view, trace, {k: other + (other >= axis) for k, other in view.where.items()})


def _strides_of(index: Array, length: int) -> tuple[int, int] | None:
    """How many elements lie between blocks, and between places of a block; None where it is not so."""
    if index.ndim != 2 or min(index.shape) < 2:
        return None
    step, dilation = int(index[0, 1] - index[0, 0]), int(index[1, 0] - index[0, 0])
    rows, columns = (np.arange(count) for count in index.shape)
    even = np.array_equal(index, rows[:, None] * dilation + columns * step)
    whole = step > 0 and dilation > 0 and length - step <= index[-1, -1] < length
    return (step, dilation) if even and whole else None


def _places_of(site: Site, view: Placed, axis: int, index: Array, step: int) -> str:
    """The same index for the map's length now."""
    draft, reach = site.draft, int(index[-1, 0])
    length = ops.squeeze(draft, ops.dims(draft, view.tensor, axis, axis + 1), [0])
    zero, stride, last = (draft.constant(np.array(item, np.int64), "blocks") for item in (0, step, reach))
    starts = draft.emit("Range", [zero, draft.emit("Sub", [length, last]), stride])
    return draft.emit("Add", [draft.constant(index[:, :1].astype(np.int64), "within"), starts])


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
        return unfold(site, view, axis) or as_piece(site)
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
