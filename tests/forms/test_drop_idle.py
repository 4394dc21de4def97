"""Nodes that do nothing at one size are left out; those that only look so are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import Net, complete, session

from onnxfc import RewriteOptions, rewrite

IDLE: dict[str, tuple[str, list[list[int]], dict[str, Any]]] = {
    "Slice of all": ("Slice", [[0, 0], [99, 99], [2, 3]], {}),
    "Pad of nothing": ("Pad", [[0] * 8], {}),
    "Transpose of nothing": ("Transpose", [], {"perm": [0, 1, 2, 3]}),
    "MaxPool of one": ("MaxPool", [], {"kernel_shape": [1, 1]}),
    "Tile once": ("Tile", [[1, 1, 1, 1]], {}),
    "Concat of one": ("Concat", [], {"axis": 1}),
    "Cast to what it is": ("Cast", [], {"to": 1}),
}
BUSY: dict[str, tuple[str, list[list[int]], dict[str, Any]]] = {
    "AveragePool that is padded": (
        "AveragePool",
        [],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "MaxPool SAME": ("MaxPool", [], {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}),
    "Pad before, crop behind": ("Pad", [[0, 0, 1, 0, 0, 0, -1, 0]], {}),
}


def _model(op_type: str, inputs: list[list[int]], told: dict[str, Any]) -> onnx.ModelProto:
    """(1, 2, 11, 9): a Conv, the node, Tanh, FC."""
    net = Net()
    features = net.op(op_type, net.trunk(), *(net.ints(*item) for item in inputs), **told)
    return net.model(net.fc(net.op("Flatten", net.op("Tanh", features)), 60, 4))


def _agree(original: onnx.ModelProto, fixed: onnx.ModelProto) -> None:
    image = np.random.default_rng(0).standard_normal((1, 2, 11, 9)).astype(np.float32)
    [want], [got] = session(original).run(None, {"image": image}), session(fixed).run(None, {"image": image})
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


@pytest.mark.parametrize("case", IDLE)
def test_idle(case: str) -> None:
    model = _model(*IDLE[case])
    fixed = complete(rewrite(model, options=RewriteOptions(fixed_size=(11, 9)), prove=False))
    assert [node.op_type for node in fixed.graph.node] == ["Conv", "Tanh", "Tanh", "Conv"]
    _agree(model, fixed)


@pytest.mark.parametrize("case", BUSY)
def test_not_idle(case: str) -> None:
    model = _model(*BUSY[case])
    fixed = complete(rewrite(model, options=RewriteOptions(fixed_size=(11, 9)), prove=False))
    assert BUSY[case][0] in [node.op_type for node in fixed.graph.node]
    _agree(model, fixed)


def test_a_tensor_that_is_an_output_keeps_its_name() -> None:
    """The output is what the FC layer makes, by way of a node that does nothing."""
    net = Net()
    net.op("Identity", net.fc(net.flat(), 60, 4, out="inner"), out="scores")
    model = net.model("scores")
    fixed = complete(rewrite(model, options=RewriteOptions(fixed_size=(11, 9)), prove=False))
    assert [item.name for item in fixed.graph.output] == ["scores"]
    assert [node.op_type for node in fixed.graph.node].count("Identity") <= 1
    _agree(model, fixed)
