"""``--global-pool keep``: one vector at any size, what the original gives once its dims are freed, rounding and all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hazards import Net, complete, session
from onnx import TensorProto, helper, numpy_helper

from onnxfc import RewriteOptions, rewrite
from onnxfc.errors import NothingToRewrite

KEEP = RewriteOptions(global_pool="keep")


def network(middle: Callable[[str], list[onnx.NodeProto]], *, free: bool, size: int) -> onnx.ModelProto:
    """Conv, Relu, ``middle`` from "r" to "m", global average, FC."""
    rng = np.random.default_rng(4)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "v": (8, 8, 3, 3), "o": (8, 8, 1, 1), "f": (5, 8), "c": (5,)}
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


def pointed(step: int, **attributes: str) -> Callable[[str], list[onnx.NodeProto]]:
    return lambda name: [helper.make_node("Conv", [name, "o"], ["m"], strides=[step] * 2, **attributes)]


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
    done = rewrite(network(middle, free=False, size=size), options=KEEP)
    assert done.parity is not None
    assert done.parity.trunk.status == "passed"
    kept, freed = session(done.model), session(network(middle, free=True, size=size))
    for more in (0, 1, 2, 5, 16, 17, 31):
        image = np.random.default_rng(more).normal(size=(1, 3, size + more, size + 2 * more)).astype(np.float32)
        [found], [wanted] = (run.run(None, {"x": image}) for run in (kept, freed))
        assert np.ptp(wanted) > 0.1
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("strides", [[1, 1], [7, 7]])
@pytest.mark.parametrize("between", [False, True])
def test_pool_that_is_global_by_its_size_beside_an_earlier_exit(strides: list[int], between: bool) -> None:
    """Between one native map and two the original's own pool sees its first window only: it cannot be asked there."""
    done = rewrite(two_exits(between, kernel_shape=[7, 7], strides=strides), options=KEEP)
    assert done.parity is not None
    assert done.parity.passed
    assert [output.form for output in done.claim.outputs] == ["map", "global"]
    truth = session(two_exits(between))
    image = np.random.default_rng(2).normal(size=(1, 2, 12, 9)).astype(np.float32)
    whole = session(complete(done)).run(None, {"image": image})[1]
    np.testing.assert_allclose(whole, truth.run(["late"], {"image": image})[0], rtol=1e-5, atol=1e-5)


def two_exits(between: bool, **pool: list[int]) -> onnx.ModelProto:
    """Two heads, an FC layer over the native map and one behind a pool, maybe with a Conv between; without a size of
    the pool: free, and with the latter head alone."""
    net = Net(17)
    x = net.op("Conv", net.input("image", [1, 2, 7, 7] if pool else [1, 2, "h", "w"]), net.random(3, 2, 1, 1))
    early = net.random(4, 147)
    deep = net.random(3, 3, 3, 3)
    late = net.op("Tanh", net.op("Conv", x, deep, pads=[1] * 4) if between else x)
    late = net.op("AveragePool", late, **pool) if pool else net.op("GlobalAveragePool", late)
    net.fc(net.op("Flatten", late), 3, 4, out="late")
    if not pool:
        return net.model("late")
    net.op("Gemm", net.op("Flatten", x), early, transB=1, out="early")
    return net.model("early", "late")


def test_pool_in_two_steps_behind_a_stride_beside_an_earlier_exit() -> None:
    """Seven places repeated are 14, of which a stride of two leaves 7 and not twice 4."""
    net = Net(17)
    x = net.op("Relu", net.input("image", [1, 2, 7, 7]))
    deep = net.op("Conv", x, net.random(3, 2, 1, 1), kernel_shape=[1, 1], strides=[1, 2])
    pooled = net.axes("ReduceMean", net.axes("ReduceMean", deep, [-1], keepdims=0), [-1], keepdims=0)
    done = rewrite(net.model(net.fc(pooled, 3, 4), net.fc(net.op("Flatten", x), 98, 3)), options=KEEP)
    assert [output.form for output in done.claim.outputs] == ["global", "map"]
    assert done.parity is not None
    assert done.parity.passed
    image = np.random.default_rng(2).normal(size=(1, 2, 9, 12)).astype(np.float32)
    weights = {item.name: numpy_helper.to_array(item) for item in done.original.proto.graph.initializer}
    kernel, fc, bias = (weights[node.input[at]] for node, at in _conv_and_fc(done.original.proto))
    wanted = np.maximum(image, 0)[..., ::2].mean(axis=(2, 3)) @ kernel[:, :, 0, 0].T @ fc.T + bias
    np.testing.assert_allclose(session(complete(done)).run(None, {"image": image})[0], wanted, rtol=1e-5, atol=1e-5)


def _conv_and_fc(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, int]]:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    fc = next(node for node in model.graph.node if node.op_type == "Gemm")
    return [(conv, 1), (fc, 1), (fc, 2)]


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_same_of_a_pool_of_one_place_in_every_two(kind: str) -> None:
    """onnxruntime does not run it on even sizes, where SAME is less than no padding."""
    pool = {"kernel_shape": [1, 1], "strides": [2, 2]}
    done = rewrite(network(one(kind, auto_pad="SAME_UPPER", **pool), free=False, size=15), options=KEEP)
    assert done.parity is not None
    assert done.parity.passed
    truth, ours = session(network(one(kind, **pool), free=True, size=0)), session(complete(done))
    for size in ((15, 15), (16, 18), (21, 20)):
        image = np.random.default_rng(2).normal(size=(1, 3, *size)).astype(np.float32)
        [found], [wanted] = ours.run(None, {"x": image}), truth.run(None, {"x": image})
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_same_that_cuts_something_off_at_other_sizes_is_refused() -> None:
    model = network(one("MaxPool", auto_pad="SAME_UPPER", kernel_shape=[2, 2], strides=[3, 3]), free=False, size=16)
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(model, options=KEEP)
    assert caught.value.refusals[0].code == "same-padding"
    assert rewrite(model).parity.passed


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_same_of_a_conv_of_one_place_in_every_two_pads_nothing(auto_pad: str) -> None:
    """What is left of an even size behind the last window is not read, and nothing stands ahead of the first."""
    model = network(pointed(2, auto_pad=auto_pad), free=False, size=16)
    truth, ours = session(network(pointed(2), free=True, size=0)), session(complete(rewrite(model, options=KEEP)))
    for size in ((16, 16), (21, 18), (30, 19)):
        image = np.random.default_rng(2).normal(size=(1, 3, *size)).astype(np.float32)
        [found], [wanted] = ours.run(None, {"x": image}), truth.run(None, {"x": image})
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert rewrite(model).claim.blame == ("padding: Conv -> a",)


def test_same_of_a_conv_that_leaves_out_a_part_ahead_is_refused() -> None:
    """Natively all of 17 is read; of 20, onnxruntime leaves out the first of three."""
    model = network(pointed(4, auto_pad="SAME_UPPER"), free=False, size=17)
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(model, options=KEEP)
    assert caught.value.refusals[0].code == "same-padding"
    assert rewrite(model).parity.passed
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(network(pointed(4, auto_pad="SAME_UPPER"), free=False, size=20))
    assert caught.value.refusals[0].code == "same-padding"


def one(kind: str, **attributes: Any) -> Callable[[str], list[onnx.NodeProto]]:
    return lambda name: [helper.make_node(kind, [name], ["m"], **attributes)]
