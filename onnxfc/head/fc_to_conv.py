"""An FC layer over a window as a Conv with the window as kernel; over scores as a 1x1 Conv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.errors import Refusal
from onnxfc.head.conv_weights import Weight, can_turn, is_stored, kernel, shifted, vector
from onnxfc.head.windows import simplest, to_scores, typed, whole_channels
from onnxfc.layout.views import ScoreMap, Source, View, Window


@dataclass(frozen=True)
class Operands:
    """Which input carries the features; the result has its batch on axis ``batch_axis``."""

    view: Window | ScoreMap
    weight: Weight
    batch_axis: int


def shaped(site: Site, found: Operands, features: tuple[int, ...] | None) -> Outcome:
    """The FC layer with its outputs as ``features`` axes (None: the one that it has)."""
    output = site.node.output[0]
    if features is None or len(features) == 1:
        scores = fully_connected(site, found, None, output)
        return scores if isinstance(scores, Refusal) else [scores]
    scores = fully_connected(site, found, None, "")
    if isinstance(scores, Refusal):
        return scores
    sizes = ops.dims(site.draft, scores.tensor, 2, 2 + len(scores.grid))
    tensor = ops.reshape(site.draft, scores.tensor, [0, *features, sizes], output)
    return [replace(scores, tensor=tensor, features=features)]


def fully_connected(site: Site, found: Operands, bias: np.ndarray | None, output: str) -> ScoreMap | Refusal:
    """Write the Conv (one for each source, added up) that is this FC layer."""
    view, weight = found.view, found.weight
    if site.role == "context":
        return site.rejoins()
    if site.native(site.node.output[0]).dtype == TensorProto.DOUBLE:
        return site.refuse("float64", "is float64, for which onnxruntime has no Conv", "convert the model to float32")
    window = view if isinstance(view, Window) else _as_window(view)
    if not can_turn(site, weight, window):
        scores = to_scores(site, replace(window, batch_axis=0))
        if isinstance(scores, Refusal):
            return scores
        window = _as_window(scores)
        if not can_turn(site, weight, window):
            return site.refuse("dynamic-weight", "has a weight that is not a constant matrix")
    if window.shift is not None:
        bias = shifted(site, weight, window.shift) + (0.0 if bias is None else bias.astype(np.float64))
    weights = kernel(site, weight, window)
    parts = []
    for position, (source, name) in enumerate(zip(window.sources, weights, strict=True)):
        own = [_bias_name(site, bias, weight, name)] if position == 0 and bias is not None else []
        parts.append(_conv(site, [source.tensor, name, *own], source, output if len(weights) == 1 else ""))
    if len({source.step for source in window.sources}) > 1:
        parts = ops.common(site.draft, parts, 2, len(window.trace.fields))
    total = parts[0]
    for position, part in enumerate(parts[1:], 2):
        total = site.draft.emit("Add", [total, part], output if position == len(parts) else "")
    _report(site, weight, window)
    batch_axis = found.batch_axis or site.batch_axis_out()
    return ScoreMap(total, (weight.outputs,), replace(view.trace, places=False), batch_axis=batch_axis)


def _as_window(view: ScoreMap) -> Window:
    channels = view.features[0]
    source = Source.of_cells(view.tensor, channels, len(view.trace.fields))
    return Window((source,), np.arange(channels), view.trace)


def _conv(site: Site, inputs: list[str], source: Source, output: str) -> str:
    rank = len(source.extent)
    return site.draft.emit(
        "Conv",
        inputs,
        output,
        instead=site.node,
        kernel_shape=list(source.extent),
        strides=list(source.step),
        pads=[0] * (2 * rank),
        dilations=[1] * rank,
        group=1,
    )


def _bias_name(site: Site, bias: np.ndarray, weight: Weight, like: str) -> str:
    """The bias initializer itself where it serves unchanged, else a new one."""
    if len(site.node.input) > 2 and is_stored(site, site.node.input[2]) and site.node.input[2] in site.draft.specs:
        value = site.weights(site.node.input[2])
        if value is not None and value.shape == (weight.outputs,) and np.array_equal(value, bias):
            return str(site.node.input[2])
    return vector(site, bias, weight.outputs, like)


def _report(site: Site, weight: Weight, window: Window) -> None:
    sizes = " + ".join(
        f"{'x'.join(map(str, source.extent))} {source.channels}→{weight.outputs}" for source in window.sources
    )
    site.replaced(f"{site.op_type} {weight.inputs}→{weight.outputs}", f"Conv {sizes}")


def take_bias(site: Site, product: str, other: str, output: str) -> str | None:
    """Give the Conv that was just written for a MatMul the constant ``other`` as its bias; None where it cannot."""
    conv = site.draft.producer(product)
    value = site.weights(other)
    if conv is None or conv.op_type != "Conv" or len(conv.input) != 2 or value is None:
        return None
    if not site.draft.is_new(conv):
        return None
    outputs = site.draft.spec(product).native[1]
    per_output = value.size == 1 or value.shape[-1] == outputs == value.size
    if value.ndim > 2 or not per_output:
        return None
    name = (
        other if value.shape == (outputs,) and is_stored(site, other) else vector(site, value.ravel(), outputs, product)
    )
    site.draft.amend(conv, [*conv.input, name], output)
    return output


def rows_of_weights(site: Site, view: Window, axes: Sequence[int]) -> View | None:
    """The sum over whole windows of a table times each channel, as a depthwise Conv; None for anything else."""
    channels = whole_channels(replace(view, scale=None, shift=None), axes)
    double = site.native(site.node.output[0]).dtype == onnx.TensorProto.DOUBLE  # for which onnxruntime has no Conv
    if view.scale is None or channels is None or double or site.op_type not in {"ReduceMean", "ReduceSum"}:
        return None
    source, count = view.sources[0], math.prod(view.sources[0].extent)
    if not np.array_equal(channels.ravel(), np.arange(source.channels)):
        return None
    share = 1.0 / count if site.op_type == "ReduceMean" else 1.0
    order = np.argsort(view.index.ravel())
    weights, shifts = (None if work is None else share * work.ravel()[order] for work in (view.scale, view.shift))
    assert weights is not None
    inputs = [source.tensor, typed(site.draft, weights.reshape(-1, 1, *source.extent), source.tensor)]
    if shifts is not None:
        inputs.append(typed(site.draft, shifts.reshape(source.channels, -1).sum(axis=1), source.tensor))
    extent, group = list(source.extent), source.channels
    tensor = site.draft.emit("Conv", inputs, instead=site.node, kernel_shape=extent, group=group)
    size = "x".join(map(str, source.extent))
    site.replaced(f"{site.op_type} of weighted {size}", f"Conv {size}, each channel alone")
    pooled = Source.of_cells(tensor, source.channels, len(source.extent))
    trace = replace(view.trace, pools=view.trace.pools | {site.label})
    return simplest(site, Window((pooled,), channels.reshape(site.shape_out()[1:]), trace))
