"""Gather and its kin: channels picked, places picked, look-ups by computed places, blocks of places (im2col)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxfc.analysis.picked_blocks import Blocks, picked_blocks
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext, positive
from onnxfc.errors import Refusal
from onnxfc.head.meet_grids import all_scores, spread
from onnxfc.head.placed_windows import as_piece, of_sequence
from onnxfc.head.windows import moved_to
from onnxfc.layout.axes import BATCH_OF_ONE, carried, channels, frames_first, is_still, kinds, pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Fixed, Index, Placed, ScoreMap, Window, is_map
from onnxfc.rules.context_sums import of_image
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Array


@rule("OneHot", on=FEATURES, attributes=("axis",))
def one_hot(ctx: RuleContext) -> Outcome | None:
    """OneHot of a score map is one with a new feature axis; counted from the first it stays before the grid.

    https://onnx.ai/onnx/operators/onnx__OneHot.html
    """
    view = ctx.views[0]
    if isinstance(view, Window):
        return None
    if not isinstance(view, ScoreMap) or any(not isinstance(other, Fixed) for other in ctx.views[1:]):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    axis = positive(int(ctx.attrs.get("axis", -1)), len(ctx.shape_out()))
    if axis == 0 or view.batch_axis:
        return ctx.refuse("mixes-batch", "puts an axis before the batch")
    ctx.keep([view.tensor, *ctx.tensors_from(1)], axis=axis)
    return ctx.score_maps(view.provenance)


def picks(ctx: RuleContext) -> Index | None:
    """What a GatherND picks along the first axes of its data, a row of places each; None where it does anything else.

    https://onnx.ai/onnx/operators/onnx__GatherND.html
    """
    places = ctx.constant(1)
    if ctx.attrs.get("batch_dims", 0) or places is None or places.ndim != 2:
        return None
    return np.asarray(places, np.int64)


@rule("GatherND", on=FEATURES, attributes=("batch_dims",))
def picked(ctx: RuleContext) -> Outcome:
    """GatherND is Gather along the features, laid on one axis, where the batch was moved behind them."""
    view, rows = ctx.views[0], picks(ctx)
    known = isinstance(view, Window | ScoreMap) and rows is not None and (view.batch_axis or 0) >= rows.shape[1]
    if not known or rows is None or not isinstance(view, Window | ScoreMap):
        return ctx.refuse("mixes-batch", "picks along the batch, or by places that are not constant")
    at, moved = tuple(rows.T), view.batch_axis - rows.shape[1] + 1 if view.batch_axis else None
    if isinstance(view, Window):
        scale, shift = (None if work is None else work[at] for work in (view.scale, view.shift))
        piece = replace(view, provenance=view.provenance.behind(ctx.name), trunk=None, batch_axis=moved)
        return [replace(piece, index=view.index[at], scale=scale, shift=shift)]
    length, rest = rows.shape[1], view.features[rows.shape[1] :]
    places, tensor = np.ravel_multi_index(at, view.features[:length], mode="wrap"), view.tensor
    if length > 1:
        grid = [ops.dims(ctx.builder, tensor, axis, axis + 1) for axis in view.grid]
        tensor = ops.reshape(ctx.builder, tensor, [0, math.prod(view.features[:length]), *rest, *grid])
    tensor = ctx.builder.emit("Gather", [tensor, ctx.builder.constant(places, "places")], axis=1, instead=ctx.node)
    return [replace(view, tensor=tensor, features=(len(places), *rest), batch_axis=moved)]


@rule("GatherElements", "ScatterElements", on=FEATURES, attributes=("axis", "reduction"))
def elements(ctx: RuleContext) -> Outcome:
    """GatherElements along features is that of each cell: data, places and updates all get the grid.

    https://onnx.ai/onnx/operators/onnx__GatherElements.html
    """
    scores = all_scores(ctx, ctx.views)
    if isinstance(scores, Refusal):
        return scores
    axis = ctx.axis()
    alone = ctx.swallowed and len(scores) == len(ctx.views)
    if axis == 0 or any(view.batch_axis != (None if alone else 0) for view in scores):
        return ctx.refuse("mixes-batch", "works along the batch")
    queue = iter(scores)
    inputs = [
        spread(ctx, position, scores[0]) if isinstance(view, Fixed) else next(queue)
        for position, view in enumerate(ctx.views)
    ]
    ctx.keep([view.tensor for view in inputs], axis=axis)
    provenance = Provenance.join([view.provenance for view in scores])
    assert provenance is not None
    return ctx.score_maps(provenance)


def unfold(ctx: RuleContext, view: Placed, axis: int) -> Outcome | None:
    """The map with an axis of ``size`` places within each block beside a spatial one that counts blocks.

    None where the Gather picks anything else than blocks at even steps up to the border.
    """
    index, shape = ctx.constant(1), ctx.shape_in()
    if view.provenance.windows or ctx.opset < 11 or index is None or not isinstance(ctx.views[1], Fixed):
        return None
    found = picked_blocks(ctx.state.graph, ctx.node, index, shape[axis], len(shape))
    if found is None:
        return None
    within = index[0] if found.first else index[:, 0]
    if ctx.follows_size(1):
        if ctx.builder.spec(ctx.tensors()[1]).varies(1 if found.first else 0):  # larger blocks, not more of them
            return None
        ctx.keep()
    else:
        inputs = [view.tensor, _places_of(ctx, view, axis, within, found)]
        ctx.builder.emit("Gather", inputs, ctx.node.output[0], instead=ctx.node, axis=axis)
    place, own = view.spatial.index(axis), axis + found.first
    field = view.provenance.fields[place].through(int(within[-1]) + 1, stride=found.step)
    where = {k: other + (other >= own) for k, other in view.where.items()}
    [made] = ctx.placed(view, view.provenance.along({place: field}), where)
    assert isinstance(made, Placed)
    return [replace(made, groups=carried((*view.groups[:own], (), *view.groups[own:]), made.groups))]


def _places_of(ctx: RuleContext, view: Placed, axis: int, within: Array, blocks: Blocks) -> str:
    """The same table for the map's length now."""
    builder = ctx.builder
    length = ops.squeeze(builder, ops.dims(builder, view.tensor, axis, axis + 1), [0])
    zero, stride, last = (builder.constant(np.array(n, np.int64), "blocks") for n in (0, blocks.step, int(within[-1])))
    starts = builder.emit("Range", [zero, builder.emit("Sub", [length, last]), stride])
    if blocks.first:
        return builder.emit(
            "Add", [ops.unsqueeze(builder, starts, [1]), builder.constant(within.astype(np.int64), "within")]
        )
    return builder.emit("Add", [builder.constant(within.astype(np.int64)[:, None], "within"), starts])


@rule("Gather", on=PLACED, attributes=("axis",))
def gather(ctx: RuleContext) -> Outcome | None:
    """Gather along channels lies as its input does; an index of rank 0 takes the channel axis away.

    Or a table is read place by place.
    """
    if isinstance(ctx.views[0], Fixed):
        return _table_look_up(ctx)
    view, axis = ctx.placed_in(), ctx.axis()
    constant = isinstance(ctx.views[1], Fixed)
    if constant and view.groups[axis] == BATCH_OF_ONE and ctx.may_swallow:  # x[0] of a batch of 1
        count = len(ctx.shape_in(1))
        ctx.keep()
        return [moved_to(ctx, view, frames_first((*view.groups[:axis], *[()] * count, *view.groups[axis + 1 :])))]
    if not constant or (axis == 0 and view.apart):
        return ctx.refuse("mixes-batch", "picks by what the image says, or along the batch")
    if view.is_map and axis in view.spatial:
        return unfold(ctx, view, axis) or _end_of_sequence(ctx, view, axis) or as_piece(ctx)
    if not pure(view.groups[axis]):
        return _end_of_sequence(ctx, view, axis) or of_sequence(ctx)
    ctx.keep()
    count = len(ctx.shape_in(1))  # the axes of the index take the place of the channels
    still = is_still(view.groups[axis])
    picked = [channels(length, still) for length in ctx.shape_out()[axis : axis + count]]
    groups = (*view.groups[:axis], *picked, *view.groups[axis + 1 :])
    return [view.output(ctx.node.output[0], groups=groups)]


def _end_of_sequence(ctx: RuleContext, view: Placed, axis: int) -> Outcome | None:
    """The first step of a recurrent layer, or one counted from the last: at every size what the file says, as its last
    state is. None where it is another one, or no step of such a layer."""
    places = ctx.constant(1)
    if places is None or places.ndim or places > 0 or kinds(view.groups[axis]) != ["space"] or not of_sequence(ctx):
        return None
    ctx.keep()
    return [of_image(ctx, view.provenance)]


def _table_look_up(ctx: RuleContext) -> Outcome:
    """A constant's rows by the numbers of a map: the rows' axes are new channels, behind all others."""
    places = ctx.views[1]
    if not is_map(places) or ctx.axis() != 0:
        return ctx.refuse("dynamic-parameter", "reads a table along another axis than its first")
    ctx.keep()
    return ctx.placed(places, places.provenance, places.where)


@rule("GatherND", on=PLACED, attributes=("batch_dims",))
def picked_channels(ctx: RuleContext) -> Outcome | None:
    """GatherND of one number each is Gather along the channels; exporters move their axis to the front for it."""
    view = ctx.views[0]
    rows = picks(ctx)
    if (
        rows is None
        or rows.shape[1] != 1
        or not isinstance(view, Placed)
        or not ctx.only_first
        or not pure(view.groups[0])
    ):
        return None
    ctx.keep()
    return ctx.of_channels(view, 0)
