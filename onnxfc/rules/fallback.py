"""Operators without a rule of their own that treat the rows of their batch apart: run once per window."""

from __future__ import annotations

from dataclasses import replace

from onnxfc.builder.rule_context import Outcome, RuleContext, positive
from onnxfc.head.per_window import per_window
from onnxfc.layout.views import Fixed, ScoreMap, Window
from onnxfc.rules.context_sums import trace_summed
from onnxfc.rules.registry import FEATURES, rule

_ROWWISE = (
    *("AveragePool", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool"),
    *("GroupNormalization", "InstanceNormalization", "LpPool", "LRN", "MaxPool", "SpaceToDepth"),
    *("Det", "Trilu"),
)
_ROWWISE_ATTRIBUTES = (
    *("alpha", "auto_pad", "beta", "bias", "blocksize", "ceil_mode", "count_include_pad", "dilations", "epsilon"),
    *("group", "kernel_shape", "mode", "num_groups", "output_padding", "output_shape", "p", "pads", "size"),
    *("stash_type", "storage_order", "strides", "upper"),
)


@rule(*_ROWWISE, on=FEATURES, attributes=_ROWWISE_ATTRIBUTES)
def rowwise(ctx: RuleContext) -> Outcome | None:
    """Works on the inner axes of each row of its batch: features that were given a shape again."""
    view = ctx.views[0]
    if not any(isinstance(other, ScoreMap) for other in ctx.views):
        alone = ctx.op_type == "InstanceNormalization" and isinstance(view, Window)
        return per_window(ctx, view) if alone and view is not None else None
    if ctx.op_type in {"Det", "Trilu"} and len(ctx.shape_in()) < 3:
        return ctx.refuse("mixes-batch", "takes the batch for an axis of a matrix")
    if not isinstance(view, ScoreMap) or any(not isinstance(v, Fixed) for v in ctx.views[1:] if v is not None):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if view.batch_axis is None:
        return ctx.refuse("mixes-batch", "takes a feature axis for the batch")
    if ctx.op_type.startswith("Global"):
        view = replace(view, provenance=trace_summed(ctx, view.provenance))
    return per_window(ctx, view)


@rule("CumProd", "CumSum", "Pad", on=FEATURES, attributes=("exclusive", "mode", "pads", "reverse", "value"))
def along_features(ctx: RuleContext) -> Outcome:
    """Sums up or pads feature axes; never the batch."""
    rank = len(ctx.shape_in())
    view = ctx.views[0]
    assert view is not None
    if ctx.op_type in {"CumProd", "CumSum"}:
        axis = ctx.constant(1)
        touched = axis is None or positive(int(axis.item()), rank) == 0
    else:
        pads = ctx.attrs.get("pads", ctx.constant(1))
        touched = pads is None or ctx.has_input(3) or len(pads) != 2 * rank or bool(pads[0] or pads[rank])
    if touched or ctx.swallowed:
        return ctx.refuse("mixes-batch", "works along the batch, or along an axis that is not constant")
    return per_window(ctx, view)
