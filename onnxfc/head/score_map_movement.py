"""Movement of data on score maps: axes counted from the first, the grid behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, axes_of, positive
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes
from onnxfc.head.meet_grids import all_scores, around_batch, beside_batch, spread
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Fixed, ScoreMap, View
from onnxfc.shapes.spec import Shape


def over_scores(site: Site, views: Sequence[View | None]) -> Outcome:
    """The node on score maps; each operator in its own way."""
    scores = all_scores(site, views)
    if isinstance(scores, Refusal):
        return scores
    trace = Trace.join([view.trace for view in scores])
    assert trace is not None
    if site.op_type == "Concat":
        queue = iter(scores)
        scores = [
            spread(site, position, scores[0]) if isinstance(view, Fixed) else next(queue)
            for position, view in enumerate(views)
        ]
    return _SCORES[site.op_type](site, scores, trace)


def _reshape(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view, features, axis = scores[0], site.shape_out()[1:], site.batch_axis_out()
    if site.shape_out()[:1] != site.shape_in()[:1] and site.may_swallow:
        features, axis = site.shape_out(), None
    elif view.batch_axis or site.shape_out()[:1] != site.shape_in()[:1]:
        if site.op_type == "Squeeze" and site.shape_in()[0] == 1:
            return site.refuse("batch-baked", "takes its input for one image", "leave out --dynamic-batch")
        return site.refuse("mixes-batch", "folds features into the batch")
    return _laid_out(site, view, features, axis, trace)


def _laid_out(site: Site, view: ScoreMap, features: Shape, axis: int | None, trace: Trace) -> Outcome:
    """The same features in other axes, the batch at ``axis``; a map again where they are channels of one place."""
    first = 1 + len(view.features)
    grid = len(trace.fields)
    if features == view.features:
        return [replace(view, trace=trace, batch_axis=axis)]
    if axis == 0 and len(features) == 1 + grid and features[1:] == (1,) * grid and view.features == features[:1]:
        return [site.map_of(site.node.output[0], trace, range(2, 2 + grid), view.tensor)]
    sizes = ops.dims(site.draft, view.tensor, first, first + grid)
    tensor = ops.reshape(site.draft, view.tensor, [0, *features, sizes], site.node.output[0], site.node)
    return [ScoreMap(tensor, features, trace, axis)]


def _transpose(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view = scores[0]
    batch_axis, order = turned(site, view.batch_axis, len(view.features))
    if order == list(range(len(order))):
        return [replace(view, batch_axis=batch_axis)]
    site.keep([view.tensor], perm=[0, *(1 + place for place in order), *view.grid])
    features = tuple(view.features[place] for place in order)
    return [ScoreMap(site.node.output[0], features, trace, batch_axis)]


def turned(site: Site, batch_axis: int | None, features: int) -> tuple[int | None, list[int]]:
    """Where a Transpose puts the batch, and the order of the features among themselves."""
    perm = list(site.attrs.get("perm") or range(features, -1, -1))
    if batch_axis is None:  # the swallowed batch is counted as the first axis, and stays it
        return None, [axis - 1 for axis in perm if axis != 0]
    order = [axis - (axis > batch_axis) for axis in perm if axis != batch_axis]
    return perm.index(batch_axis), order


def _unsqueeze(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view, rank = scores[0], len(site.shape_out())
    axes = axes_of(site, 1, rank)
    if axes is None or (0 in axes and view.batch_axis is None):
        return site.refuse("mixes-batch", "puts an axis before the batch")
    if 0 not in axes and not view.batch_axis:
        return _reshape(site, scores, trace)
    old = [axis for axis in range(rank) if axis not in axes]
    batch_axis = old[view.batch_axis or 0]
    ops.unsqueeze(site.draft, view.tensor, [beside_batch(axis, batch_axis) for axis in axes], site.node.output[0])
    return [around_batch(site, trace, batch_axis)]


def _squeeze(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view = scores[0]
    axes = axes_of(site, 1, len(site.shape_in()))
    if not view.batch_axis or axes is None or view.batch_axis in axes:
        return _reshape(site, scores, trace)
    own = [beside_batch(axis, view.batch_axis) for axis in axes]
    ops.squeeze(site.draft, view.tensor, own, site.node.output[0])
    return [around_batch(site, trace, view.batch_axis - sum(axis < view.batch_axis for axis in axes))]


def _concat(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    axis = positive(int(site.attrs["axis"]), len(site.shape_out()))
    batch_axes = {view.batch_axis for view in scores}
    batch_axis = scores[0].batch_axis or 0
    if axis == batch_axis or len(scores) != len(site.node.input) or len(batch_axes) > 1:
        return site.refuse("concat-fixed", "puts something else than features of the same images together")
    site.keep([view.tensor for view in scores], axis=beside_batch(axis, batch_axis))
    return [around_batch(site, trace, batch_axis)] if batch_axis else site.score_maps(trace)


def _gather(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    if not isinstance(site.views[1], Fixed):
        return look_up(site, scores, trace)
    if _takes_all(site, scores[0]):
        shape = site.native(site.node.output[0]).native
        alone = site.swallowed and shape[:1] != (1,)
        return _laid_out(site, scores[0], shape if alone else shape[1:], None if alone else 0, trace)
    return _axis(site, scores, trace)


def _takes_all(site: Site, view: ScoreMap) -> bool:
    """Whether a Gather picks every feature in order, as exporters write strided views: only the axes change."""
    places = site.constant(1)
    count = len(view.features)
    along = positive(int(site.attrs.get("axis", 0)), 1 + count) == 1 == count and not view.batch_axis
    return along and places is not None and np.array_equal(places.ravel(), np.arange(view.features[0]))


def _axis(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    axis = positive(int(site.attrs.get("axis", 0)), 1 + len(scores[0].features))
    if axis == 0 and site.op_type == "Gather" and site.may_swallow:
        return _reshape(site, scores, trace)  # x[0] of a batch of 1
    if axis == 0 or scores[0].batch_axis or len(scores) != 1:
        return site.refuse("mixes-batch", "works along the batch")
    site.keep([scores[0].tensor, *site.tensors_from(1)], axis=axis)
    return site.score_maps(trace)


def _slice(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    rank = 1 + len(scores[0].features)
    if scores[0].batch_axis:
        return site.refuse("mixes-batch", "works along the batch")
    if site.opset < 10:
        first = int(site.swallowed)
        axes = [
            positive(axis, rank) for axis in site.attrs.get("axes", range(first, first + len(site.attrs["starts"])))
        ]
        site.keep([scores[0].tensor], axes=axes)
        return site.score_maps(trace)
    given = axes_of(site, 3, rank)
    starts = site.constant(1)
    if starts is None or (given is None and site.has_input(3)):
        return site.refuse("unknown-axes", "takes axes that are not constant")
    first = int(site.swallowed)
    axes = given or list(range(first, first + len(starts)))
    inputs = [scores[0].tensor, *site.tensors_from(1)]
    inputs[3:4] = [site.draft.constant(np.array(axes, starts.dtype), "axes")]
    site.keep(inputs)
    return site.score_maps(trace)


def _appended(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    """Tile and Expand: amounts for the features, 1 for the batch and the grid."""
    view, shape = scores[0], site.shape_out()
    amounts = site.constant(1)
    if amounts is None or view.batch_axis or len(shape) != 1 + len(view.features) or shape[0] != site.shape_in()[0]:
        return site.refuse("mixes-batch", "spreads features over the batch")
    wanted = amounts.tolist() if site.op_type == "Tile" else [1, *shape[1:]]
    target = site.draft.constant([1, *wanted[1:], *[1] * len(trace.fields)], "amounts")
    site.keep([view.tensor, target])
    return site.score_maps(trace)


_SCORES = {
    "Concat": _concat,
    "Expand": _appended,
    "Flatten": _reshape,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _axis,
    "Squeeze": _squeeze,
    "Tile": _appended,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


def look_up(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    """Gather from a constant by the class numbers of each cell: the table's other axes move before the grid."""
    table, places = site.views[0], scores[-1]
    axis = positive(int(attributes(site.node).get("axis", 0)), len(site.native(site.node.input[0]).native))
    if not isinstance(table, Fixed) or axis != 0 or places.batch_axis:
        return site.refuse("mixes-batch", "reads by class numbers along another axis than a table's first")
    made = site.keep_renamed([table.tensor, places.tensor], axis=0)[0]
    first, grid = places.grid[0], len(places.grid)
    rank = len(site.draft.spec(made).native)
    order = [*range(first), *range(first + grid, rank), *places.grid]
    ops.transpose(site.draft, made, order, site.node.output[0])
    return site.score_maps(trace)
