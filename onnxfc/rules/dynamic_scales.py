"""DynamicQuantizeLinear: integers by a scale and a zero point that are taken from all that it is given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxfc.builder import ops
from onnxfc.builder.rule_context import OWN_BATCH, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.head.windows import to_scores
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, ScoreMap, View, Window
from onnxfc.rules.registry import FEATURES, PLACED, rule

KIND = "DynamicQuantizeLinear"
_SHARED = ("mixes-batch", "takes one scale for all images of a batch, which is fixed here", OWN_BATCH)


@rule(KIND, on=PLACED)
def dynamic_placed(ctx: RuleContext) -> Outcome:
    """The integers lie as the map does. Scale and zero point are of the whole image: context.

    https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html
    """
    if _freed(ctx):
        return ctx.refuse(*_SHARED)
    ctx.keep()
    view = ctx.placed_in()
    integers = view.output(ctx.node.output[0], provenance=view.provenance.blamed(ctx.blame(Cause.CONTEXT)))
    return [integers, *_figures(ctx, integers.provenance)]


@rule(KIND, on=FEATURES)
def dynamic_features(ctx: RuleContext) -> Outcome:
    """Of windows, all that they are cut out of is quantised as one; of scores, those of all cells.

    If the user wants it, each cell has its own scale.
    """
    view, own = ctx.views[0], ctx.state.quantised.per_window
    if _freed(ctx):
        return ctx.refuse(*_SHARED)
    if isinstance(view, Window) and _whole(view) and not own:
        provenance = view.provenance.blamed(ctx.blame(Cause.CONTEXT))
        source = view.sources[0]
        ctx.keep([source.tensor])
        moved = replace(source, tensor=ctx.node.output[0])
        return [replace(view, sources=(moved,), provenance=provenance, trunk=None), *_figures(ctx, provenance)]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    if own:
        return _each_cell(ctx, scores)
    ctx.keep([scores.tensor])
    provenance = scores.provenance.blamed(ctx.blame(Cause.CONTEXT))
    return [replace(scores, tensor=ctx.node.output[0], provenance=provenance), *_figures(ctx, provenance)]


def _freed(ctx: RuleContext) -> bool:
    """Whether it is an option that frees the batch, so that each image would have a scale of others."""
    shapes = [info.type.tensor_type.shape.dim for info in ctx.state.graph.inputs]
    return ctx.free_batch and all(dims[0].dim_value > 0 for dims in shapes if dims)


def _whole(view: Window) -> bool:
    """Whether it is all of one map, in some order."""
    index = view.index.ravel()
    return view.plain and index.size == view.sources[0].features == len(np.unique(index))


def _figures(ctx: RuleContext, provenance: Provenance) -> list[View]:
    whole = replace(provenance, windows=frozenset(), sums_to_one=frozenset())
    return [Context(name, whole) for name in ctx.node.output[1:]]


def _each_cell(ctx: RuleContext, scores: ScoreMap) -> Outcome:
    """The operator as it is specified, with a scale and a zero point for each cell, of all images of the batch.

    scale = (max(0, x) - min(0, x)) / 255, zero point = round(-min(0, x) / scale), y = round(x / scale) + zero point.
    """
    readers = [node for name in ctx.node.output[1:] for node in ctx.state.graph.readers.get(name, [])]
    if any(node.op_type != "DequantizeLinear" for node in readers):
        return ctx.refuse("quantised", "gives its scale to other nodes than products of integers")
    builder, x, whole = ctx.builder, scores.tensor, range(1 + len(scores.features))
    zero, most = (builder.constant(np.array(value, np.float32), "bound") for value in (0, 255))
    low = builder.emit("Min", [ops.reduce(builder, "ReduceMin", x, whole, keepdims=True), zero])
    high = builder.emit("Max", [ops.reduce(builder, "ReduceMax", x, whole, keepdims=True), zero])
    width = builder.emit("Sub", [high, low])
    one = builder.constant(np.array(1, np.float32), "one")
    scale = builder.emit("Where", [builder.emit("Equal", [width, zero]), one, builder.emit("Div", [width, most])])
    shift = builder.emit("Round", [builder.emit("Neg", [builder.emit("Div", [low, scale])])])
    moved = builder.emit("Add", [builder.emit("Round", [builder.emit("Div", [x, scale])]), shift])
    within = builder.emit("Min", [builder.emit("Max", [moved, zero]), most])
    integers = builder.emit("Cast", [within], ctx.node.output[0], instead=ctx.node, to=TensorProto.UINT8)
    shift = builder.emit("Cast", [shift], to=TensorProto.UINT8)
    provenance = scores.provenance if ctx.may_swallow else scores.provenance.blamed(ctx.blame(Cause.CONTEXT))
    made = replace(scores, tensor=integers, provenance=provenance)
    return [made, *(Context(name, provenance) for name in (scale, shift))]
