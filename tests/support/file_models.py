"""Small and large models, made on the spot, for the tests of the file layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHARED = Path(__file__).parents[3] / "shared" / "models"


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal float32 noise."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def mlp(features: int = 64, hidden: int = 48, seed: int = 0) -> onnx.ModelProto:
    """Gemm → Relu → Gemm; ``w1`` (hidden, features) and ``w2`` (10, hidden) are large, the biases small."""
    weights = {
        "w1": noise(hidden, features, seed=seed),
        "b1": noise(hidden, seed=seed + 1),
        "w2": noise(10, hidden, seed=seed + 2),
        "b2": noise(10, seed=seed + 3),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="fc2", transB=1),
    ]
    return model(nodes, [numpy_helper.from_array(a, n) for n, a in weights.items()], [1, features], [1, 10])


def model(
    nodes: list[onnx.NodeProto], initializers: list[TensorProto], shape: list[int], out: list[int]
) -> onnx.ModelProto:
    """A model from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_data(folder: Path, proto: onnx.ModelProto, **options: object) -> Path:
    """Save ``proto`` as ``in.onnx`` with external data."""
    path = folder / "in.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    onnx.save_model(copy, str(path), save_as_external_data=True, **options)
    return path


def external(tensor: TensorProto, location: str, offset: str | None = None, length: str | None = None) -> None:
    """Make ``tensor`` refer to ``location``."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=value)


def write(path: Path, proto: onnx.ModelProto) -> Path:
    """Write ``proto`` as it is."""
    path.write_bytes(proto.SerializeToString())
    return path
