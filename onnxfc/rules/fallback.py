"""Operators without a rule of their own that treat the rows of their batch apart: run once per window."""

from __future__ import annotations

from dataclasses import replace

from onnxfc.builder.rule_context import Outcome, Site, positive
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
def rowwise(site: Site) -> Outcome | None:
    """Works on the inner axes of each row of its batch: features that were given a shape again."""
    view = site.views[0]
    if not any(isinstance(other, ScoreMap) for other in site.views):
        alone = site.op_type == "InstanceNormalization" and isinstance(view, Window)
        return per_window(site, view) if alone and view is not None else None
    if site.op_type in {"Det", "Trilu"} and len(site.shape_in()) < 3:
        return site.refuse("mixes-batch", "takes the batch for an axis of a matrix")
    if not isinstance(view, ScoreMap) or any(not isinstance(v, Fixed) for v in site.views[1:] if v is not None):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if view.batch_axis is None:
        return site.refuse("mixes-batch", "takes a feature axis for the batch")
    if site.op_type.startswith("Global"):
        view = replace(view, trace=trace_summed(site, view.trace))
    return per_window(site, view)


@rule("CumProd", "CumSum", "Pad", on=FEATURES, attributes=("exclusive", "mode", "pads", "reverse", "value"))
def along_features(site: Site) -> Outcome:
    """Sums up or pads feature axes; never the batch."""
    rank = len(site.shape_in())
    view = site.views[0]
    assert view is not None
    if site.op_type in {"CumProd", "CumSum"}:
        axis = site.constant(1)
        touched = axis is None or positive(int(axis.item()), rank) == 0
    else:
        pads = site.attrs.get("pads", site.constant(1))
        touched = pads is None or site.has_input(3) or len(pads) != 2 * rank or bool(pads[0] or pads[rank])
    if touched or site.swallowed:
        return site.refuse("mixes-batch", "works along the batch, or along an axis that is not constant")
    return per_window(site, view)
