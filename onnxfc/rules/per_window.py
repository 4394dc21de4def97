"""Operators without a rule of their own that treat the rows of their batch apart: run once per window.

The grid is folded into the batch, the original node runs, the grid is unfolded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.lift import to_scores
from onnxfc.rules.context import trace_summed, whole_channels, window_as_context
from onnxfc.rules.resampling import RESIZE
from onnxfc.rules.table import FEATURES, rule
from onnxfc.site import LEAVE, Outcome, Site, positive, tensor_of
from onnxfc.views import Fixed, ScoreMap, View, Window

_NORMS = {"LayerNormalization", "LpNormalization", "RMSNormalization"}


@rule(
    *("ArgMax", "ArgMin", "LayerNormalization", "LpNormalization", "RMSNormalization", "TopK"),
    on=FEATURES,
    attributes=(
        "axis",
        "epsilon",
        "k",
        "keepdims",
        "largest",
        "p",
        "select_last_index",
        "sorted",
        "stash_type",
    ),
)
def along_axis(site: Site) -> Outcome:
    """Works along feature axes only: each row of the batch apart."""
    axis = site.axis()
    if axis == 0:
        return site.refuse("mixes-batch", "works along the batch")
    if any(not isinstance(view, Fixed) for view in site.views[1:] if view is not None):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    view = site.views[0]
    assert view is not None
    channels = whole_channels(view, [axis - 1]) if isinstance(view, Window) and _largest(site) else None
    if channels is not None and isinstance(view, Window) and site.role == "context":
        outcome = window_as_context(site, view, channels, "ReduceMax")
        return [*outcome, Fixed("")] if isinstance(outcome, list) else outcome
    if site.role == "context" and site.op_type not in _NORMS:
        return site.refuse("along-space", "works along the places of the native size", LEAVE)
    return per_window(site, view, axis=axis)


def _largest(site: Site) -> bool:
    """Whether a TopK says the largest value alone, and not where it stands."""
    count = site.attrs.get("k") if site.opset < 10 else site.constant(1)
    one = site.op_type == "TopK" and count is not None and bool(np.all(np.asarray(count) == 1))
    return one and bool(site.attrs.get("largest", 1)) and not site.output_used(1)


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


@rule("Resize", "Upsample", on=FEATURES, attributes=RESIZE)
def resized(site: Site) -> Outcome | None:
    """A decoder behind an FC layer; sizes that name the batch cannot follow."""
    if not any(isinstance(other, ScoreMap) for other in site.views):
        return None
    scales = site.attrs.get("scales") or site.constant(1 if len(site.node.input) == 2 else 2)
    rank, view = len(site.shape_in()), site.views[0]
    if scales is None or len(scales) != rank or scales[0] != 1 or site.swallowed:
        return site.refuse("mixes-batch", "resizes to sizes that name the batch, or by scales that are not constant")
    if not isinstance(view, ScoreMap) or any(not isinstance(other, Fixed) for other in site.views[1:] if other):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    return per_window(site, view)


def per_window(site: Site, view: View, at: int = 0, **changes: Any) -> Outcome:
    """Fold, run, unfold; ``at``: which input the view is."""
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    if scores.batch_axis or any(shape[:1] != site.shape_in(at)[:1] for shape in _outputs(site)):
        return site.refuse("mixes-batch", "does not keep the batch")
    draft, grid, rank = site.draft, scores.grid, 1 + len(scores.features)
    ahead = emit.transpose(draft, scores.tensor, [0, *grid, *range(1, rank)])
    sizes = emit.dims(draft, ahead, 0, 1 + len(grid))
    folded = emit.reshape(draft, ahead, [-1, *scores.features])
    inputs = [folded if place == at else tensor_of(other) if other else "" for place, other in enumerate(site.views)]
    made = site.keep_renamed(inputs, **changes)
    for position, (name, tensor) in enumerate(zip(site.node.output, made, strict=True)):
        if name:
            features = site.shape_out(position)[1:]
            unfolded = emit.reshape(draft, tensor, [sizes, *features])
            order = [0, *range(1 + len(grid), 1 + len(grid) + len(features)), *range(1, 1 + len(grid))]
            emit.transpose(draft, unfolded, order, name)
    site.state.notes.append(
        Refusal("per-window", site.label, f"{site.op_type} runs once per window, the grid folded into the batch")
    )
    return site.score_maps(scores.trace)


def _outputs(site: Site) -> list[tuple[int, ...]]:
    return [site.shape_out(position) for position, name in enumerate(site.node.output) if name]
