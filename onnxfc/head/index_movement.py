"""Movement of data on windows: nothing moves but the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder.rule_context import OWN_BATCH, Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.head.frames import frames_apart
from onnxfc.head.meet_grids import meet
from onnxfc.head.score_map_movement import over_scores, turned
from onnxfc.head.windows import simplest
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Index, Source, View, Window


def move(ctx: RuleContext, views: Sequence[View | None]) -> Outcome:
    """Run the original node on the windows' indices; every output is a window again."""
    first, windows = views[0], [view for view in views if isinstance(view, Window)]
    if not isinstance(first, Window) or not _by_index(ctx, windows):
        return over_scores(ctx, views)
    if ctx.op_type == "Transpose":
        return [simplest(ctx, _transposed(ctx, first), ctx.node.output[0])]
    met = meet(ctx, windows)
    if isinstance(met, Refusal):
        return met
    windows = [view for view in met if isinstance(view, Window)]
    provenance = Provenance.join([view.provenance for view in windows])
    if provenance is None or (any(view.batch_axis for view in windows) and not ctx.may_swallow):
        return ctx.refuse("mixes-batch", "moves features whose batch is not the first axis")
    sources, offsets = _pooled_sources(windows)
    moved = _by_node(ctx, views, windows, offsets)
    if moved is None:
        frames = frames_apart(ctx, first) if ctx.op_type == "Reshape" else None
        return _mixed(ctx) if frames is None else [frames]
    trunk = windows[0].trunk if all(view.trunk is windows[0].trunk for view in windows) else None
    return [
        simplest(ctx, _compact(Window(sources, index, provenance, trunk, batch_axis=axis)), name)
        for (index, axis), name in zip(moved, ctx.node.output, strict=True)
    ]


def _by_index(ctx: RuleContext, windows: Sequence[Window]) -> bool:
    """Whether all that moves are elements of windows, on which nothing is pending."""
    beside = ctx.op_type == "Concat" and len(windows) != len(ctx.node.input)
    return not beside and all(view.scale is None and view.shift is None for view in windows)


def _by_node(
    ctx: RuleContext, views: Sequence[View | None], windows: Sequence[Window], offsets: Sequence[int]
) -> Moved | None:
    """The indices behind the node; None where images of the batch would mix."""
    queue = iter([view.index + offset for view, offset in zip(windows, offsets, strict=True)])
    indices = [next(queue) if isinstance(view, Window) else None for view in views]
    if any(view.batch_axis for view in windows):
        return _moved_away(ctx, indices, [view.batch_axis for view in windows])
    total = sum(source.features for view in windows for source in view.sources)
    return _moved_alone(ctx, indices) if ctx.swallowed else _moved(ctx, indices, total)


def _mixed(ctx: RuleContext) -> Refusal:
    if ctx.shape_in()[0] == 1:
        return ctx.refuse("batch-baked", "takes its input for one image", OWN_BATCH)
    return ctx.refuse("mixes-batch", "moves data between the images of a batch")


def _transposed(ctx: RuleContext, view: Window) -> Window:
    """The features in their new order; the batch may stand anywhere among them."""
    batch_axis, order = turned(ctx, view.batch_axis, view.index.ndim)
    return replace(view, index=view.index.transpose(order), batch_axis=batch_axis)


def _pooled_sources(windows: Sequence[Window]) -> tuple[tuple[Source, ...], list[int]]:
    """All sources behind each other, and where each window's features begin among them. Pieces of one map, none of
    which has what another has, are of one source."""
    first = windows[0].sources
    features = sum(source.features for source in first)
    if all(view.sources == first for view in windows) and sum(view.index.size for view in windows) <= features:
        return first, [0] * len(windows)
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


def _moved(ctx: RuleContext, indices: Sequence[Index | None], total: int) -> Moved | None:
    """The node run on numbers that name each element; None where images of the batch would mix."""
    batch = ctx.shape_in()[0]
    if batch == 0:
        return None
    step = np.arange(batch, dtype=np.int64) * total
    named = [None if index is None else np.stack([index + offset for offset in step]) for index in indices]
    moved: Moved = []
    for result in ctx.evaluate(named):
        if result is None:
            return None
        if result.ndim == 0 or result.shape[0] != batch:
            if batch > 1 or not ctx.may_swallow:  # frames of one image are rows, too
                return None
            moved.append((np.asarray(result, np.int64), None))
            continue
        if any(not np.array_equal(result[row], result[0] + offset) for row, offset in enumerate(step)):
            return None
        moved.append((np.asarray(result[0], np.int64), 0))
    return moved


def _moved_alone(ctx: RuleContext, indices: Sequence[Index | None]) -> Moved | None:
    """As :func:`_moved`, for the one image whose batch axis was swallowed; a Reshape may bring the axis back."""
    moved: Moved = []
    for position, result in enumerate(ctx.evaluate(indices)):
        if result is None:
            return None
        axis = ctx.batch_axis_out(position)
        moved.append((np.asarray(result if axis is None else result[0], np.int64), axis))
    return moved


def _moved_away(ctx: RuleContext, indices: Sequence[Index | None], batch_axes: Sequence[int | None]) -> Moved | None:
    """As :func:`_moved`, for one image whose batch axis stands among the features."""
    axes = iter(batch_axes)
    whole = [None if index is None else np.expand_dims(index, next(axes) or 0) for index in indices]
    if any(index is not None and index.shape != ctx.shape_in(at) for at, index in enumerate(whole)):
        return None  # heads of attention on the batch's axis
    moved: Moved = []
    for result in ctx.evaluate(whole):
        if result is None:
            return None
        first = result.ndim > 0 and result.shape[0] == 1
        moved.append((np.asarray(result[0] if first else result, np.int64), 0 if first else None))
    return moved
