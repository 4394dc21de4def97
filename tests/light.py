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
    _calibrate(model, rng)
    return model


def _calibrate(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Scale the last weights so that the scores before the softmax have deviation 1: saturated ones prove little."""
    names = {tensor.name: tensor for tensor in model.graph.initializer}
    last = [node for node in model.graph.node if node.op_type in {"Gemm", "Conv"}][-1]
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    image = rng.standard_normal(given.shape, dtype=np.float32)
    scores = session.run(None, {given.name: image})[0]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    weight = names[last.input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) / scores.std(), weight.name))


def _use(model: onnx.ModelProto, name: str) -> tuple[onnx.NodeProto, int]:
    node = next(node for node in model.graph.node if name in node.input)
    return node, list(node.input).index(name)


def _value(rng: np.random.Generator, shape: tuple[int, ...], node: onnx.NodeProto, position: int) -> np.ndarray:
    noise = rng.standard_normal(shape, dtype=np.float32)
    if node.op_type == "BatchNormalization":
        return (0.1 * noise if position in (2, 3) else 1 + 0.1 * np.abs(noise)).astype(np.float32)
    if len(shape) > 1 and node.op_type in {"Conv", "Gemm", "MatMul"}:
        return noise * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    return 0.1 * noise if node.op_type in {"Conv", "Gemm", "Add"} else (1 + 0.1 * noise).astype(np.float32)
