"""An FC layer over a window as a Conv with the window as kernel; over scores as a 1x1 Conv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import LINEAR_SUMS, PLAIN_LAYERS, REORDERING
from onnxfc.head.conv_weights import Weight, can_turn, is_constant, kernel, shifted, vector
from onnxfc.head.windows import simplest, to_scores, typed, whole_channels
from onnxfc.layout.views import ScoreMap, Source, View, Window


@dataclass(frozen=True)
class Operands:
    """Which input carries the features; the result has its batch on axis ``batch_axis``."""

    view: Window | ScoreMap
    weight: Weight
    batch_axis: int


def shaped(ctx: RuleContext, found: Operands, features: tuple[int, ...] | None) -> Outcome:
    """The FC layer with its outputs as ``features`` axes (None: the one that it has)."""
    output = ctx.node.output[0]
    if features is None or len(features) == 1:
        scores = fully_connected(ctx, found, None, output)
        return scores if isinstance(scores, Refusal) else [scores]
    scores = fully_connected(ctx, found, None, "")
    if isinstance(scores, Refusal):
        return scores
    sizes = ops.dims(ctx.builder, scores.tensor, 2, 2 + len(scores.grid))
    tensor = ops.reshape(ctx.builder, scores.tensor, [0, *features, sizes], output)
    return [replace(scores, tensor=tensor, features=features)]


def fully_connected(ctx: RuleContext, found: Operands, bias: np.ndarray | None, output: str) -> ScoreMap | Refusal:
    """Write the Conv (one for each source, added up) that is this FC layer."""
    view, weight = found.view, found.weight
    if ctx.role == "context":
        return ctx.rejoins()
    if ctx.native(ctx.node.output[0]).dtype == TensorProto.DOUBLE:
        return ctx.refuse("float64", "is float64, for which onnxruntime has no Conv", "convert the model to float32")
    window = view if isinstance(view, Window) else _as_window(view)
    if ctx.in_blocks or _stays_in_integers(ctx, found, window):
        return _on_rows(ctx, found, window, output)
    readable = _readable(ctx, weight, window)
    if isinstance(readable, Refusal):
        return readable
    if readable.shift is not None:
        bias = shifted(ctx, weight, readable.shift) + (0.0 if bias is None else bias.astype(np.float64))
    total = _convs(ctx, weight, readable, bias, output)
    _report(ctx, weight, readable)
    if weight.quantised and not (ctx.in_integers or _requantised(ctx)):
        why = "its Conv is computed in floats by onnxruntime, which computes a Gemm in integers"
        ctx.remark("float-layer", f"{ctx.op_type} has no QuantizeLinear behind it: {why}")
    batch_axis = found.batch_axis or ctx.batch_axis_out()
    return ScoreMap(total, (weight.outputs,), replace(view.provenance, places=False), batch_axis=batch_axis)


def _readable(ctx: RuleContext, weight: Weight, window: Window) -> Window | Refusal:
    """The window whose features a Conv of this weight reads: of scores, where the weight cannot be turned to it."""
    if can_turn(ctx, weight, window):
        return window
    scores = to_scores(ctx, replace(window, batch_axis=0))
    if isinstance(scores, Refusal):
        return scores
    window = _as_window(scores)
    if not can_turn(ctx, weight, window):
        return ctx.refuse("dynamic-weight", "has a weight that is not a constant matrix")
    return window


def _convs(ctx: RuleContext, weight: Weight, window: Window, bias: np.ndarray | None, output: str) -> str:
    """A Conv for each source of the window, added up on their common grid; the first has the bias."""
    weights = kernel(ctx, weight, window)
    parts = []
    for position, (source, name) in enumerate(zip(window.sources, weights, strict=True)):
        own = [_bias_name(ctx, bias, weight, name)] if position == 0 and bias is not None else []
        parts.append(_conv(ctx, [source.tensor, name, *own], source, output if len(weights) == 1 else ""))
    if len({source.step for source in window.sources}) > 1:
        grid = range(2, 2 + len(window.provenance.fields))
        parts = ops.common(ctx.builder, [(part, grid) for part in parts])
    total = parts[0]
    for position, part in enumerate(parts[1:], 2):
        total = ctx.builder.emit("Add", [total, part], output if position == len(parts) else "")
    return total


def _on_rows(ctx: RuleContext, found: Operands, window: Window, output: str) -> ScoreMap | Refusal:
    """A weight of which no Conv can be made, or none as fast, times the features of each cell in a row."""
    largest = max(math.prod(source.extent) for source in window.sources)
    if largest > 1 or found.batch_axis:
        size = "x".join(map(str, window.sources[0].extent))
        why = f"MatMulNBits has a weight in blocks of few bits and reads windows of {size} places: no Conv does so"
        return Refusal("weight-blocks", ctx.label, why, "write its weight in floats: --dequantize-head")
    scores = to_scores(ctx, window)
    if isinstance(scores, Refusal):
        return scores
    rows = ops.transpose(ctx.builder, scores.tensor, [0, *scores.grid, 1])
    last, weight, flat = len(scores.grid) + 1, found.weight, ctx.op_type == "Gemm"
    given = ops.reshape(ctx.builder, rows, [-1, weight.inputs]) if flat else rows
    made = ctx.keep_renamed([given, *ctx.tensors_from(1)])[0]
    if flat:
        places = [ops.dims(ctx.builder, scores.tensor, start, end) for start, end in ((0, 1), (2, last + 1))]
        made = ops.reshape(ctx.builder, made, [*places, weight.outputs])
    tensor = ops.transpose(ctx.builder, made, [0, last, *range(1, last)], output)
    kind = "MatMulNBits" if ctx.in_blocks else ctx.op_type
    ctx.replaced(f"{kind} {weight.inputs}→{weight.outputs}", "the same on each cell")
    return ScoreMap(tensor, (weight.outputs,), replace(found.view.provenance, places=False))


def _stays_in_integers(ctx: RuleContext, found: Operands, window: Window) -> bool:
    """Whether it is a product of integers on single places whose result nothing quantises: onnxruntime has a kernel for
    that Gemm, and none for the Conv, which is up to six times slower in floats."""
    single = [math.prod(source.extent) for source in window.sources] == [1] and not found.batch_axis
    if not (single and found.weight.quantised and ctx.state.quantised.rows and ctx.op_type in PLAIN_LAYERS):
        return False
    ranks = [ctx.native(name).rank for name in ctx.node.input if name]
    plain = ranks[:2] == [2, 2] and max(ranks[2:], default=1) == 1 and not ctx.attrs.get("transA", 0)
    return plain and _reads_bytes(ctx) and not (ctx.in_integers or _requantised(ctx))


def _reads_bytes(ctx: RuleContext) -> bool:
    """Whether its features were uint8. Of int8 onnxruntime makes uint8 only where nothing else reads them, as what
    counts the cells does: the layer before would be left in floats instead."""
    node = ctx.state.graph.maker(ctx.node.input[0], past=REORDERING)
    return (
        node is not None and node.op_type == "DequantizeLinear" and ctx.native(node.input[0]).dtype == TensorProto.UINT8
    )


def _requantised(ctx: RuleContext) -> bool:
    """Whether the layer's result is quantised, with its bias and activation."""
    names = [ctx.node.output[0]]
    for name in names:
        for node in ctx.state.graph.readers.get(name, []):
            if node.op_type == "QuantizeLinear":
                return True
            names += node.output if node.op_type in {"Add", "Clip", "Relu"} else []
    return False


def _as_window(view: ScoreMap) -> Window:
    channels = view.features[0]
    source = Source.of_cells(view.tensor, channels, len(view.provenance.fields))
    return Window((source,), np.arange(channels), view.provenance)


def _conv(ctx: RuleContext, inputs: list[str], source: Source, output: str) -> str:
    rank = len(source.extent)
    return ctx.builder.emit(
        "Conv",
        inputs,
        output,
        instead=ctx.node,
        kernel_shape=list(source.extent),
        strides=list(source.step),
        pads=[0] * (2 * rank),
        dilations=[1] * rank,
        group=1,
    )


def _bias_name(ctx: RuleContext, bias: np.ndarray, weight: Weight, like: str) -> str:
    """The bias initializer itself where it serves unchanged, else a new one."""
    own = ctx.node.input[2] if len(ctx.node.input) > 2 else ""
    if own in ctx.builder.specs and is_constant(ctx, own):
        value = ctx.weights(own)
        if value is not None and value.shape == (weight.outputs,) and np.array_equal(value, bias):
            return str(own)
    return vector(ctx, bias, weight.outputs, like)


def _report(ctx: RuleContext, weight: Weight, window: Window) -> None:
    sizes = " + ".join(
        f"{'x'.join(map(str, source.extent))} {source.channels}→{weight.outputs}" for source in window.sources
    )
    kind = "Integer" if ctx.in_integers else ""
    ctx.replaced(f"{ctx.op_type}{kind} {weight.inputs}→{weight.outputs}", f"Conv{kind} {sizes}")


def take_bias(ctx: RuleContext, product: str, other: str, output: str) -> str | None:
    """Give the Conv that was just written for a MatMul the constant ``other`` as its bias; None where it cannot."""
    conv = ctx.builder.producer(product)
    value = ctx.weights(other)
    if conv is None or conv.op_type != "Conv" or len(conv.input) != 2 or value is None:
        return None
    if not ctx.builder.is_new(conv):
        return None
    outputs = ctx.builder.spec(product).native[1]
    per_output = value.size == 1 or value.shape[-1] == outputs == value.size
    if value.ndim > 2 or not per_output:
        return None
    name = (
        other if value.shape == (outputs,) and is_constant(ctx, other) else vector(ctx, value.ravel(), outputs, product)
    )
    ctx.builder.amend(conv, [*conv.input, name], output)
    return output


def rows_of_weights(ctx: RuleContext, view: Window, axes: Sequence[int]) -> View | None:
    """The sum over whole windows of a table times each channel, as a depthwise Conv; None for anything else."""
    channels = whole_channels(replace(view, scale=None, shift=None), axes)
    double = ctx.native(ctx.node.output[0]).dtype == onnx.TensorProto.DOUBLE  # for which onnxruntime has no Conv
    if view.scale is None or channels is None or double or ctx.op_type not in LINEAR_SUMS:
        return None
    if channels.shape[-1] != 1:  # the sum is over several channels
        return None
    source, count = view.sources[0], math.prod(view.sources[0].extent)
    if not np.array_equal(channels.ravel(), np.arange(source.channels)):
        return None
    share = 1.0 / count if ctx.op_type == "ReduceMean" else 1.0
    order = np.argsort(view.index.ravel())
    weights, shifts = (None if work is None else share * work.ravel()[order] for work in (view.scale, view.shift))
    assert weights is not None
    inputs = [source.tensor, typed(ctx.builder, weights.reshape(-1, 1, *source.extent), source.tensor)]
    if shifts is not None:
        inputs.append(typed(ctx.builder, shifts.reshape(source.channels, -1).sum(axis=1), source.tensor))
    extent, group = list(source.extent), source.channels
    tensor = ctx.builder.emit("Conv", inputs, instead=ctx.node, kernel_shape=extent, group=group)
    size = "x".join(map(str, source.extent))
    ctx.replaced(f"{ctx.op_type} of weighted {size}", f"Conv {size}, each channel alone")
    pooled = Source.of_cells(tensor, source.channels, len(source.extent))
    provenance = view.provenance.behind(ctx.label)
    return simplest(ctx, Window((pooled,), channels.reshape(ctx.shape_out()[1:]), provenance))
