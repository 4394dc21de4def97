"""Operators along one axis: ArgMax, TopK, LpNormalization, and normalisations of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.graph.op_kinds import ARG, ROW_NORMS
from onnxfc.head.per_window import per_window
from onnxfc.head.windows import whole_channels
from onnxfc.layout.axes import kinds, pure
from onnxfc.layout.views import Fixed, Placed, Window
from onnxfc.rules.context_sums import window_as_context
from onnxfc.rules.registry import FEATURES, PLACED, rule

_ATTRIBUTES = ("axis", "k", "keepdims", "largest", "p", "select_last_index", "sorted")


@rule(*ARG, *ROW_NORMS, "TopK", on=FEATURES, attributes=(*_ATTRIBUTES, "epsilon", "stash_type"))
def along_axis(ctx: RuleContext) -> Outcome:
    """f along the features of a window is f of each window: each row of the batch apart."""
    axis = ctx.axis()
    if axis == 0:
        return ctx.refuse("mixes-batch", "works along the batch")
    if any(not isinstance(view, Fixed) for view in ctx.views[1:] if view is not None):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    view = ctx.views[0]
    assert view is not None
    channels = whole_channels(view, [axis - 1]) if isinstance(view, Window) and _largest(ctx) else None
    if channels is not None and isinstance(view, Window) and ctx.role == "context":
        outcome = window_as_context(ctx, view, channels, "ReduceMax")
        return [*outcome, Fixed("")] if isinstance(outcome, list) else outcome
    if ctx.role == "context" and ctx.op_type not in ROW_NORMS:
        return ctx.refuse("along-space", "works along the places of the native size", LEAVE)
    return per_window(ctx, view, axis=axis)


def _largest(ctx: RuleContext) -> bool:
    """Whether a TopK says the largest value alone, and not where it stands."""
    count = ctx.attrs.get("k") if ctx.opset < 10 else ctx.constant(1)
    one = ctx.op_type == "TopK" and count is not None and bool(np.all(np.asarray(count) == 1))
    return one and bool(ctx.attrs.get("largest", 1)) and not ctx.output_used(1)


@rule(*ARG, "LpNormalization", "TopK", on=PLACED, attributes=_ATTRIBUTES)
def along_channels(ctx: RuleContext) -> Outcome | None:
    """f along a channel axis is f at each place: the output lies as the map does, and so does a norm over the image."""
    view = ctx.placed_in()
    axis = ctx.axis()
    places = [kind for kind in kinds(view.groups[axis]) if kind != "channel"]
    if ctx.op_type == "LpNormalization" and not ctx.per_window and set(places) == {"space"}:
        ctx.keep()
        return ctx.same(blamed=True)
    if view.apart and axis in view.spatial:
        return ctx.refuse("along-space", "works along the places of the native size")
    made = kept(ctx, view, [axis])
    if not isinstance(made, list):
        return made
    if not ctx.attrs.get("keepdims", 1) and ctx.op_type in ARG:
        groups = view.groups[:axis] + view.groups[axis + 1 :]
        return [replace(item, groups=groups) for item in made if isinstance(item, Placed)]
    return ctx.of_channels(view, axis)


def kept(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Outcome | None:
    if 0 in axes and view.apart:
        return ctx.refuse("mixes-batch", "works along the batch")
    if not ctx.only_first:
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    if not all(pure(view.groups[axis]) for axis in axes):
        return None
    ctx.keep()
    return ctx.same()
