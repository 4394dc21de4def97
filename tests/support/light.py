"""The ``light_*.onnx`` models inside the onnx package: real graphs whose weights are ConstantOfShape nodes.

As they are, all weights are alike and no input reaches an output. :func:`randomised` gives them weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
CENTRED = {"inception_v1"}
"""Deep, without BatchNormalization: random weights let all images look alike unless every layer is centred."""
PRIME = 1_000_003
"""So many numbers are drawn, and repeated: no two rows of a weight are alike."""


def path(name: str) -> Path:
    return FOLDER / f"light_{name}.onnx"


def randomised(name: str, folder: Path, seed: int = 0) -> Path:
    """A file, its weights beside it, with random ones in place of the constants, scaled so that signals keep their
    size."""
    model = onnx.load(path(name))
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(PRIME, dtype=np.float32)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    constants = [node for node in model.graph.node if node.op_type == "ConstantOfShape" and node.input[0] in known]
    weights = {key: value.copy() for key, value in known.items() if value.dtype == np.float32}
    for tensor in [tensor for tensor in model.graph.initializer if tensor.name in weights]:
        model.graph.initializer.remove(tensor)
    for node in constants:
        weights[node.output[0]] = _value(noise, tuple(known[node.input[0]]), *_use(model, node.output[0]))
        model.graph.node.remove(node)
    image = rng.standard_normal([1, 3, 224, 224], dtype=np.float32)
    last = [node for node in model.graph.node if node.op_type in {"Gemm", "Conv"}][-1]
    values = {**known, **weights, next(info.name for info in model.graph.input if info.name not in known): image}
    for node in model.graph.node:
        values |= _run(model, node, values)
        made = values[node.output[0]]
        if node.op_type == "Conv" and name in CENTRED:
            _weight(model, node, weights)[...] /= made.std()
            weights[node.input[2]][...] -= made.mean(axis=(0, 2, 3))  # what the layer makes has mean 0, deviation 1
            weights[node.input[2]][...] /= made.std()
            values[node.output[0]] = (made - made.mean(axis=(0, 2, 3), keepdims=True)) / made.std()
        if node == last:
            _weight(model, node, weights)[...] /= made.std()
            break
    return _written(model, weights, folder / "model.onnx")


def _run(model: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a node makes, whose weights are given to it as inputs are: nothing of them is copied."""
    given = {tensor: values[tensor] for tensor in node.input if tensor}
    kinds = {tensor: helper.np_dtype_to_tensor_dtype(value.dtype) for tensor, value in given.items()}
    inputs = [helper.make_tensor_value_info(tensor, kind, given[tensor].shape) for tensor, kind in kinds.items()]
    graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=node.output[0])])
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return {node.output[0]: session.run(None, given)[0]}


def _weight(model: onnx.ModelProto, node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> np.ndarray:
    """That of a layer, or the one behind a Reshape."""
    name = node.input[1]
    return weights[next((other.input[0] for other in model.graph.node if name in other.output), name)]


def _written(model: onnx.ModelProto, weights: Mapping[str, np.ndarray], file: Path) -> Path:
    at = 0
    with (file.parent / "weights").open("wb") as data:
        for name, value in weights.items():
            data.write(memoryview(value).cast("B"))
            tensor = model.graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT, dims=value.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, told in (("location", "weights"), ("offset", str(at)), ("length", str(value.nbytes))):
                tensor.external_data.add(key=key, value=told)
            at += value.nbytes
    file.write_bytes(model.SerializeToString())
    return file


def _use(model: onnx.ModelProto, name: str) -> tuple[onnx.NodeProto, int]:
    node = next(node for node in model.graph.node if name in node.input)
    return node, list(node.input).index(name)


def _value(noise: np.ndarray, shape: tuple[int, ...], node: onnx.NodeProto, position: int) -> np.ndarray:
    noise = np.resize(noise, shape)
    if node.op_type == "BatchNormalization":
        return 0.1 * noise if position in (2, 3) else 1 + 0.1 * np.abs(noise)
    if len(shape) > 1 and node.op_type in {"Conv", "Gemm", "MatMul", "Reshape"}:
        noise *= np.float32(math.sqrt(2 / math.prod(shape[1:])))
        return noise
    return 0.01 * noise if node.op_type in {"Conv", "Gemm", "Add"} else 1 + 0.1 * noise
