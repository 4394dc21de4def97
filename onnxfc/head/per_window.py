"""The original node, run once per window: the grid is folded into the batch and unfolded again."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext, tensor_of
from onnxfc.head.windows import to_scores
from onnxfc.layout.views import Fixed, ScoreMap, View


def _follows(ctx: RuleContext, place: int, view: View | None) -> bool:
    """Whether a value or a length was computed from the image's size."""
    shapes = ctx.builder.spec(view.tensor).shapes if isinstance(view, Fixed) else None
    one_batch = {shape for shape, n in zip(shapes or (), ctx.state.batches, strict=False) if n == ctx.state.batches[0]}
    return ctx.follows_size(place) or len(one_batch) > 1


def per_window(ctx: RuleContext, view: View, at: int = 0, rows: int = 0, **changes: Any) -> Outcome:
    """Fold, run, unfold; ``at``: which input the view is, ``rows``: so many axes of its features are rows too."""
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    outputs = [ctx.shape_out(position) for position, name in enumerate(ctx.node.output) if name]
    if scores.batch_axis or any(shape[:1] != ctx.shape_in(at)[:1] for shape in outputs):
        return ctx.refuse("mixes-batch", "does not keep the batch")
    beside = [place for place, other in enumerate(ctx.views) if place != at and _follows(ctx, place, other)]
    unknown = next((ctx.node.input[place] for place in beside if ctx.constant(place) is None), None)
    if unknown is not None:
        return ctx.refuse("size-locked", f"reads {unknown}, which follows the size of the image", LEAVE)
    builder, grid, rank = ctx.builder, scores.grid, 1 + len(scores.features)
    ahead = ops.transpose(builder, scores.tensor, [0, *grid, *range(1, rank)])
    sizes = ops.dims(builder, ahead, 0, 1 + len(grid))
    folded = ops.reshape(builder, ahead, [-1, *scores.features[rows:]])
    inputs = [folded if place == at else tensor_of(other) if other else "" for place, other in enumerate(ctx.views)]
    for place in beside:  # for a window as for the image that it is natively
        inputs[place] = builder.constant(np.asarray(ctx.constant(place)))
    made = ctx.keep_renamed(inputs, **changes)
    for position, (name, tensor) in enumerate(zip(ctx.node.output, made, strict=True)):
        if name:
            features = ctx.shape_out(position)[1:]
            unfolded = ops.reshape(builder, tensor, [sizes, *features])
            order = [0, *range(1 + len(grid), 1 + len(grid) + len(features)), *range(1, 1 + len(grid))]
            ops.transpose(builder, unfolded, order, name)
    ctx.remark("per-window", f"{ctx.op_type} runs once per window, the grid folded into the batch")
    return ctx.score_maps(scores.provenance)
