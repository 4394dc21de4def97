"""BatchNormalization, LayerNormalization, GroupNormalization, InstanceNormalization, LRN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import LAYER_NORMS
from onnxfc.head.windows import affine, to_scores
from onnxfc.layout.axes import holds_images, pure
from onnxfc.layout.views import Fixed, Placed, ScoreMap, View, Window
from onnxfc.rules.along_axis import along_axis, kept
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Array


@rule("LRN", on=PLACED, attributes=("alpha", "beta", "bias", "size"))
def lrn(ctx: RuleContext) -> Outcome | None:
    """LRN lies as the map does: over neighbouring channels (axis 1) of one place."""
    return _over_channels(ctx)


_BATCH_NORM = ("epsilon", "momentum", "spatial", "training_mode")


def _training(ctx: RuleContext) -> Refusal | None:
    old = ctx.opset < 14 and any(ctx.node.output[1:])  # with statistics among its outputs it makes its own
    if ctx.attrs.get("training_mode", 0) or old:
        return ctx.refuse("training-mode", "is in training mode", "export the model in eval mode")
    return None


@rule("BatchNormalization", on=PLACED, attributes=_BATCH_NORM)
def batch_normalization(ctx: RuleContext) -> Outcome | None:
    """BatchNormalization lies as the map does: a scale and a shift per channel (axis 1). In training mode it takes the
    statistics of the map itself, which for a batch of 1 are those of an InstanceNormalization.

    https://onnx.ai/onnx/operators/onnx__BatchNormalization.html
    """
    if (training := _training(ctx)) is not None:
        alone = ctx.may_swallow and not any(ctx.output_used(k) for k in range(1, len(ctx.node.output)))
        return (_of_own_tensors(ctx) or whole_map_normalization(ctx)) if alone else training
    if not ctx.attrs.get("spatial", 1):
        if len((ctx.native(ctx.node.input[1]).shapes or ((),))[0]) == 1:
            told = "has spatial=0 but a value a channel, a fault of MXNet's exporter; onnxruntime cannot run it"
            return ctx.refuse("unsupported-operator", told, "set spatial to 1, and slopes of PRelu to (C, 1, 1)")
        return ctx.no_values("has statistics for every place of the native size", "")
    return _over_channels(ctx)


def _of_own_tensors(ctx: RuleContext) -> Outcome | None:
    """As the InstanceNormalization that it is, which writes no statistics, where weights are equal: onnxruntime makes
    one tensor of them, the scale and the variance say, and writes over it; None where they are not."""
    values = [ctx.weights(name) for name in ctx.node.input[1:]]
    known = [value.tobytes() for value in values if value is not None and value.size <= _MERGED]
    outcome = whole_map_normalization(ctx) if len(set(known)) < len(known) else None
    if outcome is None or isinstance(outcome, Refusal):
        return outcome
    ctx.builder.nodes.pop()
    epsilon, name = ctx.attrs.get("epsilon", 1e-5), ctx.node.output[0]
    ctx.builder.emit("InstanceNormalization", ctx.tensors()[:3], name, instead=ctx.node, epsilon=epsilon)
    why = "is in training mode with weights that are equal, and onnxruntime writes statistics over both"
    ctx.remark("training-mode", f"{why}: every run of the original gives other scores")
    return outcome


_MERGED = 8
"""Weights of up to so many values are made one."""


def _over_channels(ctx: RuleContext) -> Outcome | None:
    view = ctx.placed_in()
    if not pure(view.groups[1]) or not ctx.only_first:
        return ctx.refuse("layout", "works on axis 1, which is one of the image's") if view.apart else None
    ctx.keep()
    return ctx.same()


@rule(*LAYER_NORMS, on=PLACED, attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(ctx: RuleContext) -> Outcome | None:
    """LayerNormalization over channels that lie last is done at each place; over the whole window it is each window's.

    https://onnx.ai/onnx/operators/onnx__LayerNormalization.html
    """
    view, rank = ctx.placed_in(), len(ctx.shape_in())
    normalised = range(ctx.axis(), rank)
    if view.is_map and set(view.spatial) <= set(normalised):
        return along_axis(ctx) if ctx.per_window else _of_whole_map(ctx, view) or along_axis(ctx)
    if view.apart and set(normalised) & set(view.spatial):
        return ctx.no_values("normalises over the places of the native size, each with its own scale", "")
    return kept(ctx, view, normalised)


def _of_whole_map(ctx: RuleContext, view: Placed) -> Outcome | None:
    """LayerNormalization over all places of the image is InstanceNormalization of its rows, (N, 1, C H W), scaled and
    shifted behind: context. None where each place has a scale or a shift of its own, or its statistics are read."""
    builder, rank, axis = ctx.builder, len(view.groups), ctx.axis()
    tables = [ctx.weights(name) if name else None for name in ctx.node.input[1:]]
    rows = 1 if axis == 1 else ctx.shape_in()[1]
    alike = [_of_one_place(table, [k - rank for k in view.spatial]) for table in tables if table is not None]
    fixed = len(alike) == len(ctx.node.input) - 1 and all(item is not None for item in alike)
    if ctx.op_type != "LayerNormalization" or axis > 2 or not fixed or any(map(ctx.output_used, (1, 2))):
        return None
    flat = ops.reshape(builder, view.tensor, [0, rows, -1])
    kind = builder.spec(view.tensor).dtype
    one, zero = (builder.constant(np.full(rows, n, tensor_dtype_to_np_dtype(kind)), "same") for n in (1, 0))
    epsilon = float(ctx.attrs.get("epsilon", 1e-5))
    flat = builder.emit("InstanceNormalization", [flat, one, zero], instead=ctx.node, epsilon=epsilon)
    made = builder.emit("Reshape", [flat, builder.emit("Shape", [view.tensor])])
    scale, *shift = (builder.constant(np.asarray(table), "table") for table in alike)
    made = builder.emit("Mul", [made, scale], "" if shift else ctx.node.output[0])
    if shift:
        builder.emit("Add", [made, *shift], ctx.node.output[0])
    return ctx.same(blamed=True)


def _of_one_place(table: Array, axes: Sequence[int]) -> Array | None:
    """What all places have, along these axes (from the last); None where they have not the same."""
    own = [axis for axis in axes if -axis <= table.ndim]
    first: Array = table
    for axis in own:
        first = first.take([0], axis=axis)
    return first if bool(np.all(table == first)) else None


@rule("MeanVarianceNormalization", on=PLACED, attributes=("axes",))
def mean_variance_normalization(ctx: RuleContext) -> Outcome | None:
    """MeanVarianceNormalization over channels is done at each place, over all places of an image it is context.

    https://onnx.ai/onnx/operators/onnx__MeanVarianceNormalization.html
    """
    view, rank = ctx.placed_in(), len(ctx.shape_in())
    axes = {axis % rank for axis in ctx.attrs.get("axes", (0, 2, 3))}
    if 0 in axes and not ctx.may_swallow:
        return ctx.refuse("mixes-batch", "normalises over the batch")
    if not view.is_map or not axes & set(view.spatial):
        return kept(ctx, view, sorted(axes - {0}))
    if not set(view.spatial) <= axes:
        return ctx.refuse("along-space", "normalises over some axes of the image only")
    return whole_map_normalization(ctx)


@rule("InstanceNormalization", "GroupNormalization", on=PLACED, attributes=("epsilon", "num_groups", "stash_type"))
def whole_map_normalization(ctx: RuleContext) -> Outcome | None:
    """InstanceNormalization lies as the map does, with statistics of the whole map: context."""
    view = ctx.placed_in()
    if view.is_folded:
        return _grouped(ctx, view)
    if min(view.spatial, default=2) < 2:
        return ctx.refuse("layout", "normalises over axes that are not the image's")
    if view.provenance.windows:
        return ctx.refuse("pools-then-convolves", "normalises over what a global pool left")
    if not ctx.only_first:
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    ctx.keep()
    return ctx.same(blamed=True)


def _grouped(ctx: RuleContext, view: Placed) -> Outcome | None:
    """Group normalisation as exporters spell it: Reshape to (N, groups, -1), InstanceNormalization, Reshape back.

    The whole map is normalised, group by group: context. None where it does not become the map again at once: then it
    is a vector that is normalised.
    """
    node, groups = view.moved_by, view.groups
    if ctx.op_type != "InstanceNormalization" or node is None or not ctx.only_first:
        return None
    before = ctx.native(node.input[0]).shapes
    readers = ctx.state.graph.readers.get(ctx.node.output[0], ())
    again = all(other.op_type == "Reshape" and ctx.native(other.output[0]).shapes == before for other in readers)
    if not again or not holds_images(groups[0]) or not pure(groups[1]):
        return None
    ctx.keep()
    return ctx.same(blamed=True)


@rule("BatchNormalization", on=FEATURES, attributes=_BATCH_NORM)
def batch_normalization_features(ctx: RuleContext) -> Outcome:
    """(x s + t) W is x (s W) + t W: a scale and a shift per feature (axis 1), pending in a window."""
    if (training := _training(ctx)) is not None:
        return training
    if any(not isinstance(view, Fixed) for view in ctx.views[1:]):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    view = ctx.views[0]
    if isinstance(view, Window):
        pending = _pending(ctx, view)
        if pending is not None:
            return [pending]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    ctx.keep([scores.tensor, *ctx.tensors_from(1)])
    return ctx.score_maps(scores.provenance)


def _pending(ctx: RuleContext, view: Window) -> View | None:
    """gamma * (x - mean) / sqrt(var + eps) + beta as one scale and shift, in float64."""
    found = [ctx.weights(name) for name in ctx.node.input[1:5]]
    if any(value is None for value in found) or view.batch_axis:
        return None
    gamma, beta, mean, var = (np.asarray(value, np.float64) for value in found)
    scale = gamma / np.sqrt(var + float(ctx.attrs.get("epsilon", 1e-5)))
    shape = (-1,) + (1,) * (view.index.ndim - 1)
    scales, shifts = (np.broadcast_to(value.reshape(shape), view.index.shape) for value in (scale, beta - mean * scale))
    return affine(view, scales, shifts)
