"""``--global-pool keep``: one vector at any size, what the original gives once its dims are freed, rounding and all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hazards import session
from onnx import TensorProto, helper, numpy_helper

from onnxfc import RewriteOptions, rewrite


def network(middle: Callable[[str], list[onnx.NodeProto]], *, free: bool, size: int) -> onnx.ModelProto:
    """Conv, Relu, ``middle`` from "r" to "m", global average, FC."""
    rng = np.random.default_rng(4)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "f": (5, 8), "c": (5,)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 3, n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["r"]),
        *middle("r"),
        helper.make_node("GlobalAveragePool", ["m"], ["g"]),
        helper.make_node("Flatten", ["g"], ["e"]),
        helper.make_node("Gemm", ["e", "f", "c"], ["y"], transB=1),
    ]
    dims = [1, 3, "h", "w"] if free else [1, 3, size, size]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    scores = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "net", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def covering(kind: str) -> Callable[[str], list[onnx.NodeProto]]:
    """A VGG for CIFAR: its last pool just covers the native map, and the global pool stands behind it."""
    return lambda name: [
        helper.make_node("MaxPool", [name], ["p"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Conv", ["p", "v"], ["q"], pads=[1] * 4),
        helper.make_node(kind, ["q"], ["s"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["s"], ["m"]),
    ]


def rounding(kind: str) -> Callable[[str], list[onnx.NodeProto]]:
    return lambda name: [helper.make_node(kind, [name], ["m"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)]


def same(kind: str) -> Callable[[str], list[onnx.NodeProto]]:
    return lambda name: [helper.make_node("Conv", [name, "v"], ["m"], strides=[2, 2], auto_pad=kind)]


NETS = {
    "covering maximum": (covering("MaxPool"), 16),
    "covering mean": (covering("AveragePool"), 16),
    "maximum rounds up": (rounding("MaxPool"), 16),
    "mean rounds up": (rounding("AveragePool"), 16),
    "SAME_UPPER": (same("SAME_UPPER"), 15),
    "SAME_LOWER": (same("SAME_LOWER"), 15),
}


@pytest.mark.parametrize("name", NETS)
def test_a_kept_pool_at_every_size(name: str) -> None:
    middle, size = NETS[name]
    done = rewrite(network(middle, free=False, size=size), options=RewriteOptions(global_pool="keep"))
    assert done.parity is not None
    assert done.parity.trunk.status == "passed"
    kept, freed = session(done.model), session(network(middle, free=True, size=size))
    for more in (0, 1, 2, 5, 16, 17, 31):
        image = np.random.default_rng(more).normal(size=(1, 3, size + more, size + 2 * more)).astype(np.float32)
        [found], [wanted] = (run.run(None, {"x": image}) for run in (kept, freed))
        assert np.ptp(wanted) > 0.1
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())
