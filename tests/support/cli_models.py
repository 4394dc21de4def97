"""Small models that the command line must refuse, and one that is slow to prove."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    fan_in = max(int(np.prod(shape[1:])), 1)
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto], given: list[int], out: list[int], dtype: int = FLOAT, **weights: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", dtype, given)],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tokens() -> onnx.ModelProto:
    """Token numbers, an embedding, its mean, an FC layer: a text classifier."""
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["words"], name="embed"),
        helper.make_node("ReduceMean", ["words"], ["text"], name="mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["text", "w", "b"], ["y"], name="fc", transB=1),
    ]
    return _model(nodes, [1, 12], [1, 4], INT64, table=_noise(50, 16), w=_noise(4, 16), b=_noise(4))


def recurrent() -> onnx.ModelProto:
    """The rows of an image read by an LSTM, whose last state an FC layer reads."""
    nodes = [
        helper.make_node("Squeeze", ["x", "one"], ["rows"], name="squeeze"),
        helper.make_node("Transpose", ["rows"], ["sequence"], name="transpose", perm=[1, 0, 2]),
        helper.make_node("LSTM", ["sequence", "w", "r"], ["", "last"], name="lstm", hidden_size=8),
        helper.make_node("Squeeze", ["last", "zero"], ["state"], name="last"),
        helper.make_node("Gemm", ["state", "v", "b"], ["y"], name="fc", transB=1),
    ]
    axes = {"one": np.array([1]), "zero": np.array([0])}
    return _model(
        nodes, [1, 1, 20, 16], [1, 3], w=_noise(1, 32, 16), r=_noise(1, 32, 8), v=_noise(3, 8), b=_noise(3), **axes
    )


def headless() -> onnx.ModelProto:
    """Two Convs and no FC layer."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "v"], ["y"], name="second"),
    ]
    return _model(nodes, [1, 3, 16, 16], [1, 2, 12, 12], w=_noise(4, 3, 3, 3), v=_noise(2, 4, 3, 3))


def flat() -> onnx.ModelProto:
    """An image that enters as a flat vector."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=1)]
    return _model(nodes, [1, 784], [1, 10], w=_noise(10, 784), b=_noise(10))


def flat_reshaped() -> onnx.ModelProto:
    """An image that enters as a flat vector and is reshaped inside, before a Conv."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["picture"], name="reshape"),
        helper.make_node("Conv", ["picture", "w"], ["a"], name="conv", strides=[2, 2]),
        helper.make_node("Flatten", ["a"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], name="fc", transB=1),
    ]
    weights = {"w": _noise(4, 1, 2, 2), "v": _noise(3, 4 * 8 * 8), "b": _noise(3)}
    return _model(nodes, [1, 256], [1, 3], shape=np.array([1, 1, 16, 16]), **weights)


def constant() -> onnx.ModelProto:
    """A classifier whose FC weights are 0, so that no input reaches its output."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Flatten", ["a"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], name="fc", transB=1),
    ]
    zeros = np.zeros((3, 4 * 6 * 6), np.float32)
    return _model(nodes, [1, 3, 8, 8], [1, 3], w=_noise(4, 3, 3, 3), v=zeros, b=_noise(3))


def slow() -> onnx.ModelProto:
    """A classifier whose proof takes seconds: many Convs at full size."""
    nodes = [helper.make_node("Conv", ["x", "first"], ["a0"], name="first")]
    for k in range(12):
        nodes.append(helper.make_node("Conv", [f"a{k}", "w"], [f"r{k}"], name=f"conv{k}"))
        nodes.append(helper.make_node("Relu", [f"r{k}"], [f"a{k + 1}"], name=f"relu{k}"))
    nodes += [
        helper.make_node("MaxPool", ["a12"], ["p"], name="pool", kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v", "b"], ["y"], name="fc", transB=1),
    ]
    weights = {"first": _noise(48, 3, 3, 3), "w": _noise(48, 48, 3, 3) * np.float32(1.4)}
    return _model(nodes, [1, 3, 282, 282], [1, 5], **weights, v=_noise(5, 48 * 16 * 16), b=_noise(5))


def write(model: onnx.ModelProto, path: Path, **how: object) -> Path:
    onnx.save(model, path, **how)
    return path
