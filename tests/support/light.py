"""The ``light_*.onnx`` models inside the onnx package: real graphs whose weights are ConstantOfShape nodes.

As they are, all weights are alike and no input reaches an output. :func:`randomised` gives them weights.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
CENTRED = {"inception_v1"}
"""Deep, without BatchNormalization: random weights let all images look alike unless every layer is centred."""


def path(name: str) -> Path:
    return FOLDER / f"light_{name}.onnx"


def randomised(name: str, seed: int = 0) -> onnx.ModelProto:
    """The model with random initializers, scaled so that signals keep their size, in place of its constants."""
    model = onnx.load(path(name))
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants = [node for node in model.graph.node if node.op_type == "ConstantOfShape" and node.input[0] in shapes]
    for node in constants:
        value = _value(rng, tuple(shapes[node.input[0]]), *_use(model, node.output[0]))
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        model.graph.node.remove(node)
    image = rng.standard_normal([1, 3, 224, 224], dtype=np.float32)
    if name in CENTRED:
        for node in model.graph.node:
            if node.op_type == "Conv":
                _centre(model, node, image)
    last = [node for node in model.graph.node if node.op_type in {"Gemm", "Conv"}][-1]
    _scale(model, last, 1 / _run(model, last.output[0], image).std())
    return model


def _centre(model: onnx.ModelProto, node: onnx.NodeProto, image: np.ndarray) -> None:
    """Let every channel have mean 0 and the layer deviation 1 on ``image``."""
    values = _run(model, node.output[0], image)
    _scale(model, node, 1 / values.std())
    bias = _weight(model, node.input[2])
    before = numpy_helper.to_array(bias)
    shift = (values.mean(axis=(0, 2, 3)) - before) / values.std()
    bias.CopyFrom(numpy_helper.from_array(-shift.astype(np.float32), bias.name))


def _scale(model: onnx.ModelProto, node: onnx.NodeProto, factor: float) -> None:
    weight = _weight(model, node.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))


def _run(model: onnx.ModelProto, tensor: str, image: np.ndarray) -> np.ndarray:
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=tensor))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return values


def _weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    """The initializer, or the one behind a Reshape."""
    name = next((node.input[0] for node in model.graph.node if name in node.output), name)
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def _use(model: onnx.ModelProto, name: str) -> tuple[onnx.NodeProto, int]:
    node = next(node for node in model.graph.node if name in node.input)
    return node, list(node.input).index(name)


def _value(rng: np.random.Generator, shape: tuple[int, ...], node: onnx.NodeProto, position: int) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if node.op_type == "BatchNormalization":
        return (0.1 * noise if position in (2, 3) else 1 + 0.1 * np.abs(noise)).astype(np.float32)
    if len(shape) > 1 and node.op_type in {"Conv", "Gemm", "MatMul", "Reshape"}:
        return noise * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return 0.01 * noise if node.op_type in {"Conv", "Gemm", "Add"} else (1 + 0.1 * noise).astype(np.float32)
