"""Shape and Size: what a tensor's dims are, in the original's sense."""

from __future__ import annotations

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.layout.views import Fixed, ScoreMap, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule


@rule("Shape", "Size", on=PLACED, attributes=("start", "end"))
def shape_of_placed(ctx: RuleContext) -> Outcome:
    """Shape of a map is that of the map now: computed sizes follow the image."""
    ctx.keep()
    return ctx.fixed()


@rule("Shape", on=FEATURES, attributes=("start", "end"))
def shape_of_features(ctx: RuleContext) -> Outcome:
    """Shape of a score map is (N, F1, ..., Fk), without the grid."""
    rank = len(ctx.shape_in())
    start, end, _ = slice(ctx.attrs.get("start", 0), ctx.attrs.get("end", rank)).indices(rank)
    return [Fixed(ops.slice_axis(ctx.builder, _whole(ctx), 0, start, end))]


@rule("Size", on=FEATURES)
def size_of_features(ctx: RuleContext) -> Outcome:
    """Size of a score map is N * F1 * ... * Fk, without the grid."""
    return [Fixed(ops.reduce(ctx.builder, "ReduceProd", _whole(ctx), [0], keepdims=False))]


def _whole(ctx: RuleContext) -> str:
    """(N, F1, ..., Fk) as a tensor, the batch wherever the original has it."""
    view = ctx.views[0]
    assert isinstance(view, Window | ScoreMap)
    tensor, features = (
        (view.sources[0].tensor, view.index.shape) if isinstance(view, Window) else (view.tensor, view.features)
    )
    at = view.batch_axis
    given = [] if at is None else [ops.dims(ctx.builder, tensor, 0, 1)]
    sides = (features[: at or 0], features[at or 0 :])
    ahead, behind = ([ctx.builder.constant(list(side), "features")] if side else [] for side in sides)
    return ops.concat(ctx.builder, [*ahead, *given, *behind] or [ctx.builder.constant([], "features")])
