"""Shape and Size: what a tensor's dims are, in the original's sense."""

from __future__ import annotations

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.layout.views import Fixed, ScoreMap, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule


@rule("Shape", "Size", on=PLACED, attributes=("start", "end"))
def shape_of_placed(ctx: RuleContext) -> Outcome:
    """The map's dims now: computed sizes follow the image."""
    ctx.keep()
    return ctx.fixed()


@rule("Shape", on=FEATURES, attributes=("start", "end"))
def shape_of_features(ctx: RuleContext) -> Outcome:
    """(N, F1, ..., Fk) without the grid."""
    whole = _whole(ctx)
    if isinstance(whole, Refusal):
        return whole
    rank = len(ctx.shape_in())
    start, end, _ = slice(ctx.attrs.get("start", 0), ctx.attrs.get("end", rank)).indices(rank)
    return [Fixed(ops.slice_axis(ctx.builder, whole, 0, start, end))]


@rule("Size", on=FEATURES)
def size_of_features(ctx: RuleContext) -> Outcome:
    """N * F1 * ... * Fk without the grid."""
    whole = _whole(ctx)
    if isinstance(whole, Refusal):
        return whole
    return [Fixed(ops.reduce(ctx.builder, "ReduceProd", whole, [0], keepdims=False))]


def _whole(ctx: RuleContext) -> str | Refusal:
    """(N, F1, ..., Fk) as a tensor."""
    view = ctx.views[0]
    assert isinstance(view, Window | ScoreMap)
    if view.batch_axis:
        return ctx.refuse("mixes-batch", "asks for the shape of transposed features")
    tensor, features = (
        (view.sources[0].tensor, view.index.shape) if isinstance(view, Window) else (view.tensor, view.features)
    )
    given = [] if view.batch_axis is None else [ops.dims(ctx.builder, tensor, 0, 1)]
    return ops.concat(ctx.builder, [*given, ctx.builder.constant(list(features), "features")])
