"""The original node, run once per window: the grid is folded into the batch and unfolded again."""

from __future__ import annotations

from typing import Any

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, tensor_of
from onnxfc.errors import Refusal
from onnxfc.head.windows import to_scores
from onnxfc.layout.views import ScoreMap, View

NORMS = {"LayerNormalization", "LpNormalization", "RMSNormalization"}


def per_window(site: Site, view: View, at: int = 0, **changes: Any) -> Outcome:
    """Fold, run, unfold; ``at``: which input the view is."""
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    if scores.batch_axis or any(shape[:1] != site.shape_in(at)[:1] for shape in _outputs(site)):
        return site.refuse("mixes-batch", "does not keep the batch")
    draft, grid, rank = site.draft, scores.grid, 1 + len(scores.features)
    ahead = ops.transpose(draft, scores.tensor, [0, *grid, *range(1, rank)])
    sizes = ops.dims(draft, ahead, 0, 1 + len(grid))
    folded = ops.reshape(draft, ahead, [-1, *scores.features])
    inputs = [folded if place == at else tensor_of(other) if other else "" for place, other in enumerate(site.views)]
    made = site.keep_renamed(inputs, **changes)
    for position, (name, tensor) in enumerate(zip(site.node.output, made, strict=True)):
        if name:
            features = site.shape_out(position)[1:]
            unfolded = ops.reshape(draft, tensor, [sizes, *features])
            order = [0, *range(1 + len(grid), 1 + len(grid) + len(features)), *range(1, 1 + len(grid))]
            ops.transpose(draft, unfolded, order, name)
    site.state.notes.append(
        Refusal("per-window", site.label, f"{site.op_type} runs once per window, the grid folded into the batch")
    )
    return site.score_maps(scores.trace)


def _outputs(site: Site) -> list[tuple[int, ...]]:
    return [site.shape_out(position) for position, name in enumerate(site.node.output) if name]
