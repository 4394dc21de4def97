"""Movement of data on windows and score maps: the index moves, or the axes are counted from the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.lift import all_scores, around_batch, beside_batch, meet, simplest, spread
from onnxfc.rules.indexing import look_up
from onnxfc.rules.table import FEATURES, rule
from onnxfc.rules.wrap import pieces_joined
from onnxfc.site import Outcome, Site, axes_of, positive
from onnxfc.specs import Shape
from onnxfc.views import Fixed, Index, ScoreMap, Source, Trace, View, Window, is_map

_MOVES = (
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
)
_MOVE_ATTRIBUTES = (*("allowzero", "axes", "axis", "ends", "num_outputs", "perm", "split", "starts"),)


@rule(*_MOVES, "Unsqueeze", on=FEATURES, attributes=_MOVE_ATTRIBUTES)
def moved_features(site: Site) -> Outcome:
    """The node's effect on the places of the features; on scores axis numbers made positive, the grid appended."""
    if any(isinstance(view, ScoreMap) for view in site.views):
        return over_scores(site, site.views)
    wrapped = None
    if site.op_type == "Concat" and not site.swallowed:
        wrapped = pieces_joined(site, positive(int(site.attrs["axis"]), len(site.shape_out())))
    if wrapped is not None and (isinstance(wrapped, list) or any(is_map(view) for view in site.views)):
        return wrapped
    if any(is_map(view) for view in site.views):
        return site.refuse("mixes-map-and-window", "combines a flattened map with one that is not")
    return move(site, site.views)


def move(site: Site, views: Sequence[View | None]) -> Outcome:
    """Run the original node on the windows' indices; every output is a window again."""
    windows = [view for view in views if isinstance(view, Window)]
    pending = any(view.scale is not None or view.shift is not None for view in windows)
    beside = site.op_type == "Concat" and len(windows) != len(site.node.input)
    if pending or beside or not isinstance(views[0], Window):
        return over_scores(site, views)
    if site.op_type == "Transpose":
        return [simplest(site, _transposed(site, windows[0]), site.node.output[0])]
    met = meet(site, windows)
    if isinstance(met, Refusal):
        return met
    windows = [view for view in met if isinstance(view, Window)]
    trace = Trace.join([view.trace for view in windows])
    away = any(view.batch_axis for view in windows)
    if trace is None or (away and not site.may_swallow):
        return site.refuse("mixes-batch", "moves features whose batch is not the first axis")
    sources, offsets = _pooled_sources(windows)
    queue = iter([view.index + offset for view, offset in zip(windows, offsets, strict=True)])
    indices = [next(queue) if isinstance(view, Window) else None for view in views]
    total = sum(source.features for source in sources)
    if away:
        moved = _moved_away(site, indices, [view.batch_axis for view in windows])
    else:
        moved = _moved_alone(site, indices) if site.swallowed else _moved(site, indices, total)
    if moved is None and site.shape_in()[0] == 1:
        return site.refuse("batch-baked", "takes its input for one image", "leave out --dynamic-batch")
    if moved is None:
        return site.refuse("mixes-batch", "moves data between the images of a batch")
    trunk = windows[0].trunk if len(windows) == 1 else None
    return [
        simplest(site, _compact(Window(sources, index, trace, trunk, batch_axis=axis)), name)
        for (index, axis), name in zip(moved, site.node.output, strict=True)
    ]


def _transposed(site: Site, view: Window) -> Window:
    """The features in their new order; the batch may stand anywhere among them."""
    batch_axis, order = _turned(site, view.batch_axis, view.index.ndim)
    return replace(view, index=view.index.transpose(order), batch_axis=batch_axis)


def _pooled_sources(windows: Sequence[Window]) -> tuple[tuple[Source, ...], list[int]]:
    """All sources behind each other, and where each window's features begin among them."""
    sources: list[Source] = []
    offsets = []
    for view in windows:
        offsets.append(sum(source.features for source in sources))
        sources.extend(view.sources)
    return tuple(sources), offsets


def _compact(view: Window) -> Window:
    """Leave out sources that the index no longer reads."""
    ends = np.cumsum([source.features for source in view.sources])
    owner = np.searchsorted(ends, view.index.ravel(), side="right")
    used = sorted(set(owner.tolist()))
    if len(used) in (0, len(view.sources)):  # none: an empty slice, which reads nothing
        return view
    starts = ends - [source.features for source in view.sources]
    kept = tuple(view.sources[place] for place in used)
    first = np.zeros(len(view.sources), np.int64)
    first[used] = np.cumsum([0, *(source.features for source in kept)])[:-1]
    index = view.index.ravel() - starts[owner] + first[owner]
    return replace(view, sources=kept, index=index.reshape(view.index.shape))


Moved = list[tuple[Index, int | None]]
"""For each output its index, and where its batch is (None where it was swallowed)."""


def _moved(site: Site, indices: Sequence[Index | None], total: int) -> Moved | None:
    """The node run on numbers that name each element; None where images of the batch would mix."""
    batch = site.shape_in()[0]
    if batch == 0:
        return None
    step = np.arange(batch, dtype=np.int64) * total
    named = [None if index is None else np.stack([index + offset for offset in step]) for index in indices]
    moved: Moved = []
    for result in site.evaluate(named):
        if result is None:
            return None
        if result.ndim == 0 or result.shape[0] != batch:
            if not site.may_swallow:
                return None
            moved.append((np.asarray(result, np.int64), None))
            continue
        if any(not np.array_equal(result[row], result[0] + offset) for row, offset in enumerate(step)):
            return None
        moved.append((np.asarray(result[0], np.int64), 0))
    return moved


def _moved_alone(site: Site, indices: Sequence[Index | None]) -> Moved | None:
    """As :func:`_moved`, for the one image whose batch axis was swallowed; a Reshape may bring the axis back."""
    moved: Moved = []
    for position, result in enumerate(site.evaluate(indices)):
        if result is None:
            return None
        axis = site.batch_axis_out(position)
        moved.append((np.asarray(result if axis is None else result[0], np.int64), axis))
    return moved


def _moved_away(site: Site, indices: Sequence[Index | None], batch_axes: Sequence[int | None]) -> Moved | None:
    """As :func:`_moved`, for one image whose batch axis stands among the features."""
    axes = iter(batch_axes)
    whole = [None if index is None else np.expand_dims(index, next(axes) or 0) for index in indices]
    moved: Moved = []
    for result in site.evaluate(whole):
        if result is None:
            return None
        first = result.ndim > 0 and result.shape[0] == 1
        moved.append((np.asarray(result[0] if first else result, np.int64), 0 if first else None))
    return moved


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
    sizes = emit.dims(site.draft, view.tensor, first, first + grid)
    tensor = emit.reshape(site.draft, view.tensor, [0, *features, sizes], site.node.output[0], site.node)
    return [ScoreMap(tensor, features, trace, axis)]


def _transpose(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view = scores[0]
    batch_axis, order = _turned(site, view.batch_axis, len(view.features))
    if order == list(range(len(order))):
        return [replace(view, batch_axis=batch_axis)]
    site.keep([view.tensor], perm=[0, *(1 + place for place in order), *view.grid])
    features = tuple(view.features[place] for place in order)
    return [ScoreMap(site.node.output[0], features, trace, batch_axis)]


def _turned(site: Site, batch_axis: int | None, features: int) -> tuple[int | None, list[int]]:
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
    emit.unsqueeze(site.draft, view.tensor, [beside_batch(axis, batch_axis) for axis in axes], site.node.output[0])
    return [around_batch(site, trace, batch_axis)]


def _squeeze(site: Site, scores: Sequence[ScoreMap], trace: Trace) -> Outcome:
    view = scores[0]
    axes = axes_of(site, 1, len(site.shape_in()))
    if not view.batch_axis or axes is None or view.batch_axis in axes:
        return _reshape(site, scores, trace)
    own = [beside_batch(axis, view.batch_axis) for axis in axes]
    emit.squeeze(site.draft, view.tensor, own, site.node.output[0])
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
