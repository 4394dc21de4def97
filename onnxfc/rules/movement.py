"""Movement of data on windows and score maps: entered here, done in :mod:`onnxfc.head`."""

from __future__ import annotations

from onnxfc.analysis.flow import stacks
from onnxfc.builder.rule_context import Outcome, RuleContext, positive
from onnxfc.graph.op_kinds import RESHAPING
from onnxfc.head.index_movement import move
from onnxfc.head.placed_windows import beside_map, windowed
from onnxfc.head.score_map_movement import over_scores
from onnxfc.layout.views import ScoreMap, is_map
from onnxfc.rules.circular_pad import pieces_joined
from onnxfc.rules.registry import FEATURES, rule

_MOVES = ("Concat", "Expand", "Gather", "Slice", "Split", "Tile", "Transpose", *RESHAPING)
_MOVE_ATTRIBUTES = (*("allowzero", "axes", "axis", "ends", "num_outputs", "perm", "split", "starts"),)


@rule(*_MOVES, on=FEATURES, attributes=_MOVE_ATTRIBUTES)
def moved_features(ctx: RuleContext) -> Outcome:
    """A move of a window's features is an order of the FC weights; one of scores keeps its axes, the grid appended."""
    if any(isinstance(view, ScoreMap) for view in ctx.views):
        return over_scores(ctx, ctx.views)
    wrapped = None
    if ctx.op_type == "Concat" and not ctx.swallowed:
        wrapped = pieces_joined(ctx, positive(int(ctx.attrs["axis"]), len(ctx.shape_out())))
    beside = any(is_map(view) for view in ctx.views)
    if wrapped is not None and (isinstance(wrapped, list) or beside):
        return wrapped
    if beside and stacks(ctx.state.graph, ctx.node):
        return windowed(ctx)  # the last piece goes on to the border
    if beside:
        whole = ctx.refuse("mixes-map-and-window", "combines a flattened map with one that is not")
        return beside_map(ctx, "joins") or whole
    return move(ctx, ctx.views)
