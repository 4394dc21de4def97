"""Movement of data on score maps: axes counted from the first, the grid behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, OWN_BATCH, Outcome, RuleContext, axes_of, positive
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes
from onnxfc.head.meet_grids import all_scores, around_batch, beside_batch, spread
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, ScoreMap, View
from onnxfc.shapes.spec import Shape


def over_scores(ctx: RuleContext, views: Sequence[View | None]) -> Outcome:
    """The node on score maps; each operator in its own way."""
    scores = all_scores(ctx, views)
    if isinstance(scores, Refusal):
        return scores
    provenance = Provenance.join([view.provenance for view in scores])
    assert provenance is not None
    if ctx.op_type == "Concat":
        queue = iter(scores)
        scores = [
            spread(ctx, position, scores[0]) if isinstance(view, Fixed) else next(queue)
            for position, view in enumerate(views)
        ]
    return _SCORES[ctx.op_type](ctx, scores, provenance)


def _reshape(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    view, features, axis = scores[0], ctx.shape_out()[1:], ctx.batch_axis_out()
    moves = ctx.shape_out()[:1] != ctx.shape_in()[:1] and ctx.shape_in()[0] == 1  # else it has frames for rows
    if ctx.may_swallow and (view.batch_axis or moves):
        features, axis = ctx.shape_out(), None
    elif view.batch_axis or ctx.shape_out()[:1] != ctx.shape_in()[:1]:
        if ctx.op_type == "Squeeze" and ctx.shape_in()[0] == 1:
            return ctx.refuse("batch-baked", "takes its input for one image", OWN_BATCH)
        return _other_rows(ctx, view, provenance)
    return _laid_out(ctx, view, features, axis, provenance)


def _other_rows(ctx: RuleContext, view: ScoreMap, provenance: Provenance) -> Outcome:
    """Frames of each image, which were rows of the batch, as features, or features as rows: (N * T, F) as (N, T, F)."""
    if view.batch_axis or ctx.batch_axis_out() is None:
        return ctx.refuse("mixes-batch", "folds features into the batch")
    features, first = ctx.shape_out()[1:], 1 + len(view.features)
    sizes = ops.dims(ctx.builder, view.tensor, first, first + len(provenance.fields))
    tensor = ops.reshape(ctx.builder, view.tensor, [-1, *features, sizes], ctx.node.output[0], ctx.node)
    return [ScoreMap(tensor, features, provenance)]


def _laid_out(ctx: RuleContext, view: ScoreMap, features: Shape, axis: int | None, provenance: Provenance) -> Outcome:
    """The same features in other axes, the batch at ``axis``; a map again where they are channels of one place."""
    first = 1 + len(view.features)
    grid = len(provenance.fields)
    if features == view.features:
        return [replace(view, provenance=provenance, batch_axis=axis)]
    if axis == 0 and len(features) == 1 + grid and features[1:] == (1,) * grid and view.features == features[:1]:
        return [ctx.map_of(ctx.node.output[0], provenance, range(2, 2 + grid), view.tensor)]
    sizes = ops.dims(ctx.builder, view.tensor, first, first + grid)
    tensor = ops.reshape(ctx.builder, view.tensor, [0, *features, sizes], ctx.node.output[0], ctx.node)
    return [ScoreMap(tensor, features, provenance, axis)]


def _transpose(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    view = scores[0]
    batch_axis, order = turned(ctx, view.batch_axis, len(view.features))
    if order == list(range(len(order))):
        return [replace(view, batch_axis=batch_axis)]
    ctx.keep([view.tensor], perm=[0, *(1 + place for place in order), *view.grid])
    features = tuple(view.features[place] for place in order)
    return [ScoreMap(ctx.node.output[0], features, provenance, batch_axis)]


def turned(ctx: RuleContext, batch_axis: int | None, features: int) -> tuple[int | None, list[int]]:
    """Where a Transpose puts the batch, and the order of the features among themselves."""
    perm = list(ctx.attrs.get("perm") or range(features, -1, -1))
    if batch_axis is None:  # the swallowed batch is counted as the first axis, and stays it
        return None, [axis - 1 for axis in perm if axis != 0]
    order = [axis - (axis > batch_axis) for axis in perm if axis != batch_axis]
    return perm.index(batch_axis), order


def _unsqueeze(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    view, rank = scores[0], len(ctx.shape_out())
    axes = axes_of(ctx, 1, rank)
    frames = view.batch_axis is not None and ctx.shape_in()[view.batch_axis] > 1
    if axes is None or (0 in axes and frames and ctx.may_swallow):
        return ctx.refuse("mixes-batch", "puts an axis before the batch")
    if view.batch_axis is None or (0 not in axes and not view.batch_axis):
        return _reshape(ctx, scores, provenance)
    old = [axis for axis in range(rank) if axis not in axes]
    batch_axis = old[view.batch_axis or 0]
    ops.unsqueeze(ctx.builder, view.tensor, [beside_batch(axis, batch_axis) for axis in axes], ctx.node.output[0])
    return [around_batch(ctx, provenance, batch_axis)]


def _squeeze(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    view = scores[0]
    axes = axes_of(ctx, 1, len(ctx.shape_in()))
    if not view.batch_axis or axes is None or view.batch_axis in axes:
        return _reshape(ctx, scores, provenance)
    own = [beside_batch(axis, view.batch_axis) for axis in axes]
    ops.squeeze(ctx.builder, view.tensor, own, ctx.node.output[0])
    return [around_batch(ctx, provenance, view.batch_axis - sum(axis < view.batch_axis for axis in axes))]


def _concat(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    axis = positive(int(ctx.attrs["axis"]), len(ctx.shape_out()))
    batch_axes = {view.batch_axis for view in scores}
    batch_axis = scores[0].batch_axis or 0
    if axis == batch_axis or len(scores) != len(ctx.node.input) or len(batch_axes) > 1:
        return ctx.refuse("concat-fixed", "puts something else than features of the same images together")
    ctx.keep([view.tensor for view in scores], axis=beside_batch(axis, batch_axis))
    return [around_batch(ctx, provenance, batch_axis)] if batch_axis else ctx.score_maps(provenance)


def _gather(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    if not isinstance(ctx.views[1], Fixed):
        return look_up(ctx, scores, provenance)
    if _takes_all(ctx, scores[0]):
        shape = ctx.native(ctx.node.output[0]).native
        alone = ctx.swallowed and shape[:1] != (1,)
        return _laid_out(ctx, scores[0], shape if alone else shape[1:], None if alone else 0, provenance)
    return _axis(ctx, scores, provenance)


def _takes_all(ctx: RuleContext, view: ScoreMap) -> bool:
    """Whether a Gather picks every feature in order, as exporters write strided views: only the axes change."""
    places = ctx.constant(1)
    count = len(view.features)
    along = positive(int(ctx.attrs.get("axis", 0)), 1 + count) == 1 == count and not view.batch_axis
    return along and places is not None and np.array_equal(places.ravel(), np.arange(view.features[0]))


def _axis(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    view, axis = scores[0], positive(int(ctx.attrs.get("axis", 0)), 1 + len(scores[0].features))
    batch = view.batch_axis or 0
    if axis == batch and ctx.op_type == "Gather" and ctx.may_swallow and ctx.shape_in()[axis] == 1:
        return _reshape(ctx, scores, provenance)  # x[0] of a batch of 1
    if axis == batch or len(scores) != 1:
        return ctx.refuse("mixes-batch", "works along the batch")
    ctx.keep([view.tensor, *ctx.tensors_from(1)], axis=beside_batch(axis, batch))
    if not batch:
        return ctx.score_maps(provenance)
    gone = 1 - len(ctx.shape_in(1)) if ctx.op_type == "Gather" and axis < batch else 0
    made = [around_batch(ctx, provenance, batch - gone, position) for position in range(len(ctx.node.output))]
    return [*made]


def _slice(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    rank = 1 + len(scores[0].features)
    if scores[0].batch_axis:
        return ctx.refuse("mixes-batch", "works along the batch")
    if ctx.opset < 10:
        first = int(ctx.swallowed)
        axes = [positive(axis, rank) for axis in ctx.attrs.get("axes", range(first, first + len(ctx.attrs["starts"])))]
        ctx.keep([scores[0].tensor], axes=axes)
        return ctx.score_maps(provenance)
    given = axes_of(ctx, 3, rank)
    starts = ctx.constant(1)
    if starts is None or (given is None and ctx.has_input(3)):
        return ctx.refuse("unknown-axes", "takes axes that are not constant")
    first = int(ctx.swallowed)
    axes = given or list(range(first, first + len(starts)))
    inputs = [scores[0].tensor, *ctx.tensors_from(1)]
    inputs[3:4] = [ctx.builder.constant(np.array(axes, starts.dtype), "axes")]
    ctx.keep(inputs)
    return ctx.score_maps(provenance)


def _appended(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    """Tile and Expand: amounts for the features, 1 for the batch and the grid."""
    view, shape = scores[0], ctx.shape_out()
    amounts = ctx.constant(1)
    if amounts is None or view.batch_axis or len(shape) != 1 + len(view.features) or shape[0] != ctx.shape_in()[0]:
        return ctx.refuse("mixes-batch", "spreads features over the batch")
    piece = not ctx.state.roles.pieces.isdisjoint(provenance.pools)
    rank = len(provenance.fields)
    if piece and shape[-rank:] != ctx.shape_in()[-rank:] and any(shape[-rank:] == b.extent for b in provenance.windows):
        return ctx.refuse("cut-out", "spreads what was pooled of a piece over the map's native places", LEAVE)
    wanted = amounts.tolist() if ctx.op_type == "Tile" else [1, *shape[1:]]
    target = ctx.builder.constant([1, *wanted[1:], *[1] * len(provenance.fields)], "amounts")
    ctx.keep([view.tensor, target])
    return ctx.score_maps(provenance)


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


def look_up(ctx: RuleContext, scores: Sequence[ScoreMap], provenance: Provenance) -> Outcome:
    """Gather from a constant by the class numbers of each cell: the table's other axes move before the grid."""
    table, places = ctx.views[0], scores[-1]
    axis = positive(int(attributes(ctx.node).get("axis", 0)), len(ctx.native(ctx.node.input[0]).native))
    if not isinstance(table, Fixed) or axis != 0 or places.batch_axis:
        return ctx.refuse("mixes-batch", "reads by class numbers along another axis than a table's first")
    made = ctx.keep_renamed([table.tensor, places.tensor], axis=0)[0]
    first, grid = places.grid[0], len(places.grid)
    rank = len(ctx.builder.spec(made).native)
    order = [*range(first), *range(first + grid, rank), *places.grid]
    ops.transpose(ctx.builder, made, order, ctx.node.output[0])
    return ctx.score_maps(provenance)
