"""Trunks that hold the native size, so that the original's runs at no other: asked node by node."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net
from onnx import helper, numpy_helper

from onnxfc import rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check, node_by_node

NATIVE_ALONE = "in the original's node, given the second model's own features"


def gated() -> onnx.ModelProto:
    """A gate by the mean of the whole map, and a connection around it that is resized to a length in the file."""
    net = Net()
    tensor = net.op("Relu", net.conv(net.image(1, (17, 17)), 2, 6))
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", tensor), 6, 6, (1, 1), strides=[1, 1]))
    gated = net.op("Mul", tensor, gate)
    low = net.op("MaxPool", gated, kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)
    tensor = net.op("Add", gated, net.op("Resize", low, "", "", net.ints(1, 6, 8, 8), mode="nearest"))
    tensor = net.op("Relu", net.conv(tensor, 6, 8))
    return net.model(net.fc(net.op("Flatten", tensor), 8 * 3 * 3, 5))


def node_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == kind)


def native_part(model: onnx.ModelProto) -> None:
    """The gate reads the native size's places alone."""
    node = node_of(model, "GlobalAveragePool")
    at = list(model.graph.node).index(node)
    for name, values in {"starts": [0, 0], "ends": [8, 8], "axes": [2, 3]}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    model.graph.node.insert(at, helper.make_node("Slice", [node.input[0], "starts", "ends", "axes"], ["part"]))
    model.graph.node[at + 1].input[0] = "part"


def further_pads(model: onnx.ModelProto) -> None:
    """A column behind the map, which natively no window reads."""
    next(item for item in node_of(model, "MaxPool").attribute if item.name == "pads").ints[-1] += 1


def largest(model: onnx.ModelProto) -> None:
    """What rounds otherwise where the native map has no remainder."""
    node_of(model, "MaxPool").attribute.append(helper.make_attribute("ceil_mode", 1))


@pytest.mark.parametrize(
    ("damage", "kind"), [(native_part, "GlobalAveragePool"), (further_pads, "MaxPool"), (largest, "MaxPool")]
)
def test_what_is_seen_at_larger_sizes_alone(damage: Callable[[onnx.ModelProto], None], kind: str) -> None:
    done = rewrite(gated(), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.trunk.status == "not applicable"
    assert "does not run" in done.parity.trunk.reason
    model = done.model
    damage(model)
    wrong = check(done.original, ModelFile.open(model), done.claim, CHECK)
    assert (wrong.native.status, wrong.trunk.status) == ("passed", "failed")
    assert wrong.trunk.reason.startswith(node_of(model, kind).output[0])
    assert NATIVE_ALONE in wrong.trunk.reason


@pytest.mark.parametrize(("exporter", "tensor"), [("dynamo", "conv2d_2"), ("torchscript", "/down/Conv_output_0")])
def test_pads_behind_the_map(exporter: str, tensor: str) -> None:
    done = rewrite(fixture_file(f"pyramid.{exporter}.onnx"), prove=False)
    model = done.model
    node = next(node for node in model.graph.node if tensor in node.output)
    next(item for item in node.attribute if item.name == "pads").ints[-1] += 1
    wrong = check(done.original, ModelFile.open(model), done.claim, CHECK)
    assert (wrong.native.status, wrong.trunk.status) == ("passed", "failed")
    assert (
        wrong.trunk.reason
        == f"{tensor} is float32 [1, 6, 9, 10] instead of float32 [1, 6, 9, 9] {NATIVE_ALONE}, at 34x36"
    )


RIGHT = ["context_mean.dynamo", "context_pooled.torchscript", "variances.dynamo", "grid_weighed.torchscript"]


@pytest.mark.parametrize("name", RIGHT)
def test_what_a_rewrite_may_do_otherwise(name: str) -> None:
    """A mean of what a Softmax shares out stays the sum that it is natively; counts follow the size."""
    done = rewrite(fixture_file(f"{name}.onnx"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed


def test_no_more_is_held_at_once_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_by_node, "_MOST", 20)
    shapes = {"a": (1, 4), "b": (1, 2, 8), "c": (1, 1)}
    assert node_by_node._held(["a", "b", "c"], shapes) == ["a", "b"]


def up_padded(stored: bool, size: tuple[int, int], axes: bool = False) -> onnx.ModelProto:
    """A map brought up to the size of a skip connection by amounts of the native size: they are stored, or computed of
    constants, as PyTorch's older exporter does."""
    net = Net(18) if axes else Net()
    one = net.conv(net.image(size=size), 2, 4, strides=[1, 1], pads=[1] * 4)
    low = net.op("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2])
    up = net.op("ConvTranspose", low, net.random(4, 4, 2, 2), strides=[2, 2])
    below, right = (length % 2 for length in size)
    amounts = net.ints(0, 0, below, right) if axes else net.ints(0, 0, 0, 0, 0, 0, below, right)
    amounts = amounts if stored else net.op("Reshape", net.op("Reshape", amounts, net.ints(2, -1)), net.ints(-1))
    up = net.op("Pad", up, amounts, *(["", net.ints(2, 3)] if axes else []))
    return net.model(net.op("Relu", net.conv(net.op("Concat", one, up, axis=1), 8, 4, strides=[1, 1])))


@pytest.mark.parametrize("size", [(17, 18), (18, 18)])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "computed"])
@pytest.mark.parametrize("axes", [False, True], ids=["all axes", "two axes"])
def test_a_pad_that_the_rewrite_computes_is_as_long_as_there(stored: bool, size: tuple[int, int], axes: bool) -> None:
    """The original's own amounts are those of its native size: none here, or one."""
    done = rewrite(up_padded(stored, size, axes), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert "Pad" in [node.op_type for node in done.model.graph.node]


def in_front(model: onnx.ModelProto) -> None:
    """What is missing comes before the map."""
    node = node_of(model, "Pad")
    moved = helper.make_node("Gather", [node.input[1], "turned"], ["before"])
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 6, 7, 4, 5, 2, 3]), "turned"))
    model.graph.node.insert(list(model.graph.node).index(node), moved)
    node_of(model, "Pad").input[1] = "before"


def by_ones(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "one"))
    node = node_of(model, "Pad")
    del node.input[2:]
    node.input.append("one")


def by_the_edge(model: onnx.ModelProto) -> None:
    node = node_of(model, "Pad")
    del node.attribute[:]
    node.attribute.append(helper.make_attribute("mode", "edge"))


@pytest.mark.parametrize("damage", [in_front, by_ones, by_the_edge])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "computed"])
def test_a_pad_that_the_rewrite_computes_wrongly(stored: bool, damage: Callable[[onnx.ModelProto], None]) -> None:
    """Natively nothing is missing."""
    done = rewrite(up_padded(stored, (18, 18)), check_options=CHECK)
    model = done.model
    damage(model)
    onnx.checker.check_model(model)
    wrong = check(done.original, ModelFile.open(model), done.claim, CHECK)
    assert (wrong.native.status, wrong.trunk.status) == ("passed", "failed")
    assert wrong.trunk.reason.startswith(node_of(model, "Pad").output[0])
    assert NATIVE_ALONE in wrong.trunk.reason


@pytest.mark.parametrize(("kind", "skipped"), [("GlobalMaxPool", True), ("MaxPool", False), ("Relu", False)])
def test_a_kernel_that_covers_the_native_map_and_is_kept_global_is_not_asked(kind: str, skipped: bool) -> None:
    """At most sizes the original's own leaves one place, too: another one's."""
    pool, other = helper.make_node("MaxPool", ["x"], ["y"]), helper.make_node(kind, ["x"], ["y"])
    assert node_by_node._follows(pool, other, {"x"}, {"x"}) == skipped
