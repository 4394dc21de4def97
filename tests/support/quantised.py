"""Quantised networks: what onnxruntime makes of them, and ways to spoil one."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from hazards import CHECK, complete
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from onnxfc import check_pair
from onnxfc.rewriter.api import rewrite


def optimised(
    model: onnx.ModelProto,
    folder: Path,
    level: ort.GraphOptimizationLevel = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
) -> Counter[str]:
    """How many nodes of each operator onnxruntime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.graph_optimization_level = level
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


class Layer:
    """One layer of a quantised model: its weight and its bias, in either form, to be changed."""

    def __init__(self, model: onnx.ModelProto, node: onnx.NodeProto) -> None:
        makers = {name: item for item in model.graph.node for name in item.output}
        self.model = model
        if node.op_type == "ConvInteger":
            readers = {name: item for item in model.graph.node for name in item.input}
            behind = readers[node.output[0]]
            several = behind.op_type == "Sub"  # a zero point for each output, times the sum of the features
            scaled = readers[(readers[behind.output[0]] if several else behind).output[0]]
            added = readers[scaled.output[0]]
            self.weight, self.zero = (node, 1), (makers[behind.input[1]], 1) if several else (node, 3)
            self.scale = (makers[scaled.input[1]], 1)
            self.shift = (node, 2)
            self.bias = (added, 1)
        elif node.op_type == "QLinearConv":
            self.weight, self.scale, self.zero = ((node, at) for at in (3, 4, 5))
            self.shift = (node, 2)
            self.bias = (node, 8)
        else:
            given, weight, bias = (makers[name] for name in node.input)
            self.weight, self.scale, self.zero = ((weight, at) for at in (0, 1, 2))
            self.shift = (given, 2)
            self.bias = (bias, 1)  # its scale: integers that say something else
        self.node, self.dequantise = node, makers.get(node.input[1])

    def change(self, where: tuple[onnx.NodeProto, int], work: Callable[[np.ndarray], np.ndarray]) -> None:
        """Give one node an input of its own."""
        node, at = where
        old = next(item for item in self.model.graph.initializer if item.name == node.input[at])
        value = numpy_helper.to_array(old)
        name = f"{old.name}_spoilt"
        self.model.graph.initializer.append(numpy_helper.from_array(work(value).astype(value.dtype), name))
        node.input[at] = name


def layers(model: onnx.ModelProto) -> list[Layer]:
    """The Convs of a rewritten model, in any form."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        weight = makers.get(node.input[1]) if node.op_type == "Conv" else None
        sums = node.op_type == "ConvInteger" and node.input[1].startswith("onnxfc_ones")
        if (node.op_type in {"ConvInteger", "QLinearConv"} and not sums) or (
            weight is not None and weight.op_type == "DequantizeLinear"
        ):
            found.append(Layer(model, node))
    return found


def scale_order(layer: Layer) -> None:
    """Scales of other outputs; one scale for all is a tenth more."""
    layer.change(layer.scale, lambda scale: np.roll(scale, 1) if scale.size > 1 else scale * 1.1)


def weight_zero(layer: Layer) -> None:
    layer.change(layer.zero, lambda zero: zero + 1)


def input_zero(layer: Layer) -> None:
    node, at = layer.shift
    graph, name = layer.model.graph, node.input[at]
    if all(item.name != name for item in graph.initializer):  # it is computed: one less
        graph.initializer.append(numpy_helper.from_array(np.array(1, np.uint8), f"{name}_one"))
        place = list(graph.node).index(node)
        graph.node.insert(place, onnx.helper.make_node("Sub", [name, f"{name}_one"], [f"{name}_spoilt"]))
        node.input[at] = f"{name}_spoilt"
        return
    layer.change(layer.shift, lambda zero: zero + 1)


def signs(layer: Layer) -> None:
    """Of the weights of the output that has the largest ones."""

    def turned(weight: np.ndarray) -> np.ndarray:
        middle = 128 if weight.dtype == np.uint8 else 0
        moved = weight.astype(int) - middle
        loud = int(np.abs(moved).sum(axis=tuple(range(1, moved.ndim))).argmax())
        moved[loud] *= -1
        return np.clip(moved + middle, np.iinfo(weight.dtype).min, np.iinfo(weight.dtype).max)

    layer.change(layer.weight, turned)


def bias(layer: Layer) -> None:
    layer.change(layer.bias, lambda value: value * 2)


SPOILS = (scale_order, weight_zero, input_zero, signs, bias)


class _Images(CalibrationDataReader):
    def __init__(self, model: onnx.ModelProto) -> None:
        [image] = model.graph.input
        shape = [dim.dim_value or 1 for dim in image.type.tensor_type.shape.dim]
        rng = np.random.default_rng(3)
        self.feeds = iter([{image.name: rng.standard_normal(shape).astype(np.float32)} for _ in range(16)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def by_onnxruntime(
    model: onnx.ModelProto, folder: Path, form: QuantFormat, per_channel: bool = True, **more: Any
) -> onnx.ModelProto:
    """A model as onnxruntime's quantiser makes it."""
    before, after = folder / "floats.onnx", folder / "integers.onnx"
    onnx.save(model, before)
    quantize_static(before, after, _Images(model), quant_format=form, per_channel=per_channel, **more)
    return onnx.load(after)


def dynamic_by_onnxruntime(model: onnx.ModelProto, folder: Path, per_channel: bool, signed: bool) -> onnx.ModelProto:
    """A model as onnxruntime's quantiser makes it, with scales that are taken when it runs."""
    before, after = folder / "floats.onnx", folder / "integers.onnx"
    onnx.save(model, before)
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    quantize_dynamic(before, after, ["Conv", "Gemm", "MatMul"], per_channel, weight_type=kind)
    return onnx.load(after)


def passes_as_a_stranger(original: onnx.ModelProto) -> None:
    """A rewrite is checked without what it says of itself, and a spoilt one found out."""
    made = complete(rewrite(original, prove=False))
    del made.metadata_props[:]
    done = check_pair(original, made, options=CHECK)
    assert done.passed, done.parity.summary()
    assert done.parity.window.status == "passed"
    spoilt = copy.deepcopy(made)
    SPOILS[0](layers(spoilt)[-1])
    assert not check_pair(original, spoilt, options=CHECK).passed
