"""Look-ups by computed places, in the head: each cell's own scores, or a table that is read by class number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.graph import attributes
from onnxfc.lift import all_scores, spread
from onnxfc.rules.table import FEATURES, rule
from onnxfc.site import Outcome, Site, positive
from onnxfc.views import Fixed, Index, ScoreMap, Trace, Window


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
    emit.transpose(site.draft, made, order, site.node.output[0])
    return site.score_maps(trace)
