"""Fused operators of onnxruntime's optimised dumps (domain com.microsoft): as the operators that they are made of."""

from __future__ import annotations

import math
from dataclasses import replace

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import FUSED_UNARY, MICROSOFT, QUANTISING, UNARY, UNARY_ATTRIBUTES
from onnxfc.head.windows import to_scores
from onnxfc.layout.views import Context, Fixed, Placed, Refused, ScoreMap, View, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule


@rule(*UNARY, on=PLACED, attributes=UNARY_ATTRIBUTES)
def elementwise(ctx: RuleContext) -> Outcome:
    """f(map) lies as the map does: each element alone."""
    refusal = _not_alone(ctx)
    if refusal is not None:
        return refusal
    ctx.keep()
    by_size = any(ctx.follows_size(position) for position in range(1, len(ctx.views)))
    return ctx.same(blamed=by_size)


rule(*FUSED_UNARY, on=PLACED, domain=MICROSOFT, attributes=UNARY_ATTRIBUTES)(elementwise)


@rule(*UNARY, on=FEATURES, attributes=UNARY_ATTRIBUTES)
def elementwise_features(ctx: RuleContext) -> Outcome:
    """The activation of a window is the window of the map's activation."""
    view, refusal = ctx.views[0], _not_alone(ctx)
    if refusal is not None:
        return refusal
    if isinstance(view, Window):
        pending = view.scale is not None or view.shift is not None
        if not pending or ctx.op_type == "Identity":
            return [_on_sources(ctx, view)]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    ctx.keep([scores.tensor, *ctx.tensors_from(1)])
    return [replace(scores, tensor=ctx.node.output[0])]


def _not_alone(ctx: RuleContext) -> Refusal | None:
    """The reason where what it does to an element depends on more than this element."""
    if not ctx.only_first and not _of_whole_image(ctx):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if ctx.op_type in QUANTISING and math.prod(ctx.native(ctx.node.input[1]).native) > 1:
        advice = "quantise activations per tensor"
        return ctx.refuse("quantised", "has more than one scale for what comes from the image", advice)
    return None


def _of_whole_image(ctx: RuleContext) -> bool:
    """Whether it goes between integers and floats by a scale and a zero point of the whole image."""
    alone = all(isinstance(view, Fixed | Context) or view is None for view in ctx.views[1:])
    return alone and ctx.op_type in QUANTISING


rule(*FUSED_UNARY, on=FEATURES, domain=MICROSOFT, attributes=UNARY_ATTRIBUTES)(elementwise_features)


def _on_sources(ctx: RuleContext, view: Window) -> Window:
    """The node written once for every map that the window reads."""
    if ctx.op_type == "Identity":
        return view
    made = [ctx.keep_renamed([source.tensor, *ctx.tensors_from(1)])[0] for source in view.sources]
    sources = [replace(source, tensor=tensor) for source, tensor in zip(view.sources, made, strict=True)]
    return replace(view, sources=tuple(sources))


_DROPOUT = ("ratio", "seed", "is_test")


@rule("Dropout", on=FEATURES, attributes=_DROPOUT)
@rule("Dropout", on=PLACED, attributes=_DROPOUT)
def dropout(ctx: RuleContext) -> Outcome:
    """Dropout in inference is the identity (its mask must not be used)."""
    view = ctx.views[0]
    training = ctx.constant(2)
    if ctx.has_input(2) and (training is None or bool(training.any())):
        return ctx.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if ctx.output_used(1):
        return ctx.refuse("dropout-mask", "gives its mask to another node", "export the model in eval mode")
    mask: list[View] = [Refused(ctx.refuse("dropout-mask", "mask"))] * (len(ctx.node.output) - 1)
    if isinstance(view, Window):
        return [view, *mask]
    assert isinstance(view, Placed | ScoreMap)
    ctx.keep([view.tensor, *ctx.tensors_from(1)])
    first = ctx.same()[0] if isinstance(view, Placed) else replace(view, tensor=ctx.node.output[0])
    return [first, *mask]
