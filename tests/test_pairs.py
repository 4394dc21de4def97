"""``check_pair`` on pairs that nobody but their maker has seen: other trunks, other sizes, other layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import Net, complete
from mutations import change
from onnx import helper, numpy_helper

from onnxfc import CheckOptions, check_pair, rewrite
from onnxfc.checking import Checked
from onnxfc.proof import Parity

ONE = CheckOptions(threads=1)


def dropping(pad: int = 0) -> onnx.ModelProto:
    """A trunk whose last pool leaves a row and a column of 13 unread: 32 px, stride 4, slack 2."""
    net = Net(17)
    x = net.image(1, (32, 32), 3)
    for before, after in ((3, 6), (6, 8)):
        x = net.op("Relu", net.conv(x, before, after, strides=[1, 1], pads=[pad] * 4))
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    side = 8 if pad else 6
    x = net.op("Relu", net.fc(net.op("Flatten", x), 8 * side**2, 12))
    return net.model(net.fc(x, 12, 5, out="scores"))


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    return complete(rewrite(model, prove=False))


def without_claim(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.metadata_props[:]
    return copy


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def other_trunk(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half the weights in the first Conv, twice its result: what no comparison of graphs finds equal."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for name in conv.input[1:]:
        half = numpy_helper.to_array(weight(model, name)) / 2
        weight(model, name).CopyFrom(numpy_helper.from_array(half.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    place = next(i for i, node in enumerate(model.graph.node) if node is conv)
    made = conv.output[0]
    conv.output[0] = "half"
    model.graph.node.insert(place + 1, helper.make_node("Mul", ["half", "two"], [made]))
    return model


def appended(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Nodes behind the first output: they read ``y`` and make its new value ``z``."""
    name = model.graph.output[0].name
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
    for node in model.graph.node:
        node.output[:] = ["y" if item == name else item for item in node.output]
    for node in nodes:
        node.output[:] = [name if item == "z" else item for item in node.output]
        model.graph.node.append(node)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def scaled_where(model: onnx.ModelProto, larger: str, smaller: str) -> onnx.ModelProto:
    """1 % too much where one side of the image has grown more than the other."""
    image = next(info for info in model.graph.input if info.name == "image")
    native = {"height": 32, "width": 14}
    assert len(image.type.tensor_type.shape.dim) == 4
    return appended(
        model,
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Gather", ["shape", "three"], ["width"]),
        helper.make_node("Sub", [larger, "native_1"], ["more"]),
        helper.make_node("Sub", [smaller, "native_2"], ["less"]),
        helper.make_node("Greater", ["more", "less"], ["wrong"]),
        helper.make_node("Where", ["wrong", "factor", "one"], ["scale"]),
        helper.make_node("Mul", ["y", "scale"], ["z"]),
        two=2,
        three=3,
        native_1=native[larger],
        native_2=native[smaller],
        factor=np.float32(1.01),
        one=np.float32(1),
    )


def rectangle() -> onnx.ModelProto:
    """32x14 px, stride 2: 0.15 of the one side and of the other are different numbers of cells."""
    net = Net(17)
    x = net.op("Tanh", net.conv(net.image(1, (32, 14), 2), 2, 4))
    return net.model(net.fc(net.op("Flatten", x), 4 * 15 * 6, 5, out="scores"))


@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("sides", [("height", "width"), ("width", "height")])
def test_images_that_grow_more_in_one_direction(sides: tuple[str, str], claimed: bool) -> None:
    original = rectangle()
    right = rewritten(original)
    assert check_pair(original, right, options=ONE).passed
    wrong = scaled_where(right if claimed else without_claim(right), *sides)
    done = check_pair(original, wrong, options=ONE)
    assert not done.passed
    assert done.parity.window.status == "failed"


def windowed(done: Checked) -> Parity:
    assert done.parity.window.status == "passed", done.parity.summary()
    assert done.parity.window.compared > 100
    return done.parity


def test_windows_of_a_trunk_that_leaves_elements_unread() -> None:
    """The graphs differ from the image on: off the grid the last window of the image lacks what nobody reads."""
    original = dropping()
    other = without_claim(other_trunk(rewritten(original)))
    done = check_pair(original, other, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.claim.slack == (2, 2)
    assert any((n - 32) % 4 >= 2 for size in windowed(done).window.sizes for n in size)


@pytest.mark.parametrize("claimed", [True, False])
def test_cells_that_are_too_many_off_the_grid(claimed: bool) -> None:
    """A pool that rounds up: at the native size, and on the grid, it is the same."""
    net = Net(17)
    x = net.op("Relu", net.conv(net.image(1, (22, 22), 3), 3, 6, strides=[1, 1]))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    original = net.model(net.fc(net.op("Flatten", x), 600, 5, out="scores"))
    right = rewritten(original)
    wrong = right if claimed else without_claim(right)
    change(next(node for node in wrong.graph.node if node.op_type == "MaxPool"), ceil_mode=1)
    done = check_pair(original, wrong, options=ONE)
    assert not done.passed
    assert "cells" in done.parity.window.reason
