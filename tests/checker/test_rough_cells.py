"""Cells that rounding alone moves far: a division by what is nearly nothing. They hide no damage beyond their noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from hazards import CHECK, complete
from onnx import TensorProto, helper, numpy_helper

from onnxfc import ModelFile, check_pair, rewrite


def _quotient() -> onnx.ModelProto:
    """Conv, Relu, and the quotient of two FC layers, the second of which is about 0 in some windows."""
    rng = np.random.default_rng(6)

    def weight(*shape: int) -> np.ndarray:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 1)
        return values.astype(np.float32)

    stored = {
        "kernel": weight(6, 3, 3, 3),
        "shift": weight(6) * np.float32(0.1),
        "over": weight(5, 294),
        "over_bias": weight(5) * np.float32(0.1),
        "under": weight(5, 294) * np.float32(3),
        "under_bias": np.full(5, 0.3, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "shift"], ["map"], strides=[2, 2]),
        helper.make_node("Relu", ["map"], ["lively"]),
        helper.make_node("Flatten", ["lively"], ["row"]),
        helper.make_node("Gemm", ["row", "over", "over_bias"], ["dividend"], transB=1),
        helper.make_node("Gemm", ["row", "under", "under_bias"], ["divisor"], transB=1),
        helper.make_node("Div", ["dividend", "divisor"], ["scores"]),
    ]
    ends = (("image", [1, 3, 15, 15]), ("scores", [1, 5]))
    image, scores = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends)
    weights = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "quotient", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_rough_cell_far_beyond_its_noise_is_damage(tmp_path: Path) -> None:
    """Quotients by less than 0.001 are made 0: in a few cells, far more than rounding moves them."""
    path = tmp_path / "quotient.onnx"
    onnx.save(_quotient(), path)
    done = rewrite(path)
    assert done.parity is not None
    assert done.parity.passed
    model = complete(done)
    at, last = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Div")
    name, last.output[0] = last.output[0], "quotient"
    for key, value in (("least", 0.001), ("nothing", 0.0)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), key))
    nodes = [
        helper.make_node("Abs", [last.input[1]], ["size"]),
        helper.make_node("Less", ["size", "least"], ["little"]),
        helper.make_node("Where", ["little", "nothing", "quotient"], [name]),
    ]
    for k, node in enumerate(nodes):
        model.graph.node.insert(at + 1 + k, node)
    told = check_pair(ModelFile.open(path), model, options=CHECK).parity
    assert told.native.status == "passed"
    assert told.window.status == "failed", told.summary()
