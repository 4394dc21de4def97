"""Which axes of an input are read as the image's: no reading that its dims or its readers rule out is tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, CHECK, FEATURES, Net, complete, own_crops, proven, refusal

from onnxfc import UsageError, check_pair, inspect
from onnxfc.graph.index import Graph
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.shapes.image_layouts import readings

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"


def read(net: Net, tensor: str, shape: Sequence[int | str]) -> list[tuple[int, ...]]:
    graph = Graph(net.model(tensor, infer=False))
    return readings(graph, "image", tuple(item if isinstance(item, int) else 1 for item in shape))[1]


def opened(shape: Sequence[int | str]) -> tuple[Net, str]:
    net = Net()
    return net, net.input("image", list(shape))


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        ((1, 3, 16, 24), [(2, 3)]),
        ((1, 1, 28, 28), [(2, 3)]),
        ((1, 16, 24, 3), [(1, 2)]),
        ((1, 28, 28, 1), [(1, 2)]),
        ((1, 3, 32, 4), [(2, 3), (1, 2)]),
        ((1, 12, 16, 24), [(2, 3), (1, 2)]),
        ((1, 4, 3, 24), [(2, 3), (1, 2)]),
        ((1, 3, "h", "w"), [(2, 3)]),
        ((1, "h", "w", 5), [(1, 2)]),
        ((1, 3, 8, 16, 16), [(2, 3, 4)]),
        ((1, 8, 16, 16, 3), [(1, 2, 3)]),
        ((1, 3, 160), [(2,), (1, 2), (1,)]),
        ((1, 28, 28), [(1, 2), (2,), (1,)]),
    ],
)
def test_dims_where_nothing_slides(shape: Sequence[int | str], found: list[tuple[int, ...]]) -> None:
    net, image = opened(shape)
    assert read(net, net.op("Relu", image), shape) == found


def test_a_conv_says_which_axis_its_channels_are() -> None:
    """Sixteen channels beside a width of three: dims alone would say otherwise."""
    shape = (1, 16, 24, 3)
    net, image = opened(shape)
    assert read(net, net.conv(net.op("Relu", image), 16, 4, (3, 3)), shape) == [(2, 3)]


@pytest.mark.parametrize("op_type", ["LeakyRelu", "HardSwish", "Softplus"])
def test_any_activation_before_the_conv_is_looked_through(op_type: str) -> None:
    shape = (1, 16, 24, 3)
    net, image = opened(shape)
    assert read(net, net.conv(net.op(op_type, image), 16, 4, (3, 3)), shape) == [(2, 3)]


def test_a_transpose_before_the_conv_says_the_opposite() -> None:
    shape = (1, 3, 16, 24)
    net, image = opened(shape)
    assert read(net, net.conv(net.op("Transpose", image, perm=[0, 3, 1, 2]), 24, 4, (3, 3)), shape) == [(1, 2)]


def test_pieces_beside_each_other_are_followed() -> None:
    """Every second pixel, four times, as channels: the Conv behind is the first that slides."""
    shape = (1, 3, 16, 24)
    net, image = opened(shape)
    pieces = [
        net.op("Slice", image, net.ints(*start), net.ints(16, 24), net.ints(2, 3), net.ints(2, 2))
        for start in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    assert read(net, net.conv(net.op("Concat", *pieces, axis=1), 12, 4), shape) == [(2, 3)]


def test_new_axes_and_axes_that_go() -> None:
    shape: Sequence[int] = (1, 20, 30)
    net, image = opened(shape)
    assert read(net, net.conv(net.axes("Unsqueeze", image, [1]), 1, 4), shape) == [(1, 2)]
    net, image = opened(shape)
    assert read(net, net.conv(image, 20, 4, (3,)), shape) == [(2,)]
    shape = (1, 20, 30, 1)
    net, image = opened(shape)
    assert read(net, net.conv(net.axes("Squeeze", image, [3]), 20, 4, (3,)), shape) == [(2, 3)]


def test_readers_that_disagree_rule_nothing_out() -> None:
    shape = (1, 12, 16, 24)
    net, image = opened(shape)
    one, two = net.conv(image, 12, 4), net.conv(net.op("Transpose", image, perm=[0, 3, 1, 2]), 24, 4)
    graph = Graph(net.model(one, two, infer=False))
    assert readings(graph, "image", shape)[1] == [(2, 3), (1, 2)]


def focused(table: bool) -> onnx.ModelProto:
    """Pixels to channels, a gate, a table of the native size, a Conv, an FC layer."""
    net = Net()
    image = net.input("image", [1, 3, 16, 24])
    pieces = [
        net.op("Slice", image, net.ints(*start), net.ints(16, 24), net.ints(2, 3), net.ints(2, 2))
        for start in ((0, 0), (1, 0), (0, 1), (1, 1))
    ]
    x = net.op("Concat", *pieces, axis=1)
    x = net.op("Mul", x, net.axes("ReduceMean", x, [2, 3], keepdims=1))
    x = net.op("Add", x, net.random(1, 12, 8, 12) if table else net.random(1, 12, 1, 1), out="added")
    x = net.conv(x, 12, 4, strides=[1, 1])
    return net.model(net.fc(net.op("Flatten", x), 240, 5))


def test_channels_are_never_taken_for_the_height() -> None:
    """What is refused channels first is refused: with that reason, though three rows of sixteen would have passed."""
    found = refusal(focused(table=True))
    assert (found.code, found.node) == ("position-table", "node_added")
    assert proven(focused(table=False), exact=False).claim.native_size == (16, 24)


def test_case_file() -> None:
    path = CASES / "channels-taken-for-height.onnx"
    if not path.is_file():
        pytest.skip(f"not there: {path}")
    assert refusal(onnx.load(path)).code == "position-table"


def test_channels_last_without_any_conv() -> None:
    """A network of FC layers alone over (N, H, W, 3): its windows are those of the last axis' channels."""
    net = Net()
    image = net.input("image", [1, 9, 7, 3])
    done = proven(net.model(net.fc(net.op("Flatten", net.op("Tanh", image)), 189, 4)))
    assert done.claim.native_size == (9, 7)
    assert np.prod(done.map_at_twice) == 10 * 8


def half_open(layout: str) -> onnx.ModelProto:
    """A classifier of images whose one length is declared and whose other is not; or of signals."""
    net = Net()
    shape = {"NCHW": [1, 2, 11, "w"], "NHWC": [1, "h", 9, 2], "NLC": [1, "l", 2]}[layout]
    given = net.input("image", shape)
    kernel = (3,) if layout == "NLC" else (3, 3)
    if layout != "NCHW":
        given = net.op("Transpose", given, perm=[0, 2, 1] if layout == "NLC" else [0, 3, 1, 2])
    made = net.op("Conv", given, net.random(CHANNELS, 2, *kernel), strides=[2] * len(kernel))
    return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", made)), CHANNELS, 5))


@pytest.mark.parametrize(
    ("layout", "size", "given", "missing"),
    [
        ("NCHW", (11, 9), "11xW", "width"),
        ("NHWC", (11, 9), "Hx9", "height"),
        ("NLC", (15,), "L", "length"),
    ],
)
def test_a_length_that_is_left_open_is_asked_for(layout: str, size: tuple[int, ...], given: str, missing: str) -> None:
    model = half_open(layout)
    found = refusal(model)
    advice = f"give it with --size {given}, or keep one vector of each image: --global-pool keep"
    assert (found.code, found.advice) == ("unknown-native-size", advice)
    assert found.reason == f"the input's {missing} is dynamic, so its native size is not in the graph"
    if len(size) > 1:
        alone = next(n for n, told in zip(size, given.split("x"), strict=True) if str(n) != told)
        whole = f"the native size of image is {given.replace('H', '?').replace('W', '?')} in the file; "
        with pytest.raises(UsageError) as caught:
            rewrite(model, options=RewriteOptions(size=(alone,)))
        assert str(caught.value) == f"--size {alone}: {whole}give all of it: --size {size[0]}x{size[1]}"
        with pytest.raises(UsageError, match=f"give all of it: --size {given}$"):
            rewrite(model, options=RewriteOptions(size=(alone + 1, alone + 1)))
    kept = complete(rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK))
    assert not any(dim.dim_value for dim in kept.graph.input[0].type.tensor_type.shape.dim[1:] if dim.dim_value > 2)
    done = rewrite(model, options=RewriteOptions(size=size), check_options=CHECK)
    assert done.claim.native_size == size
    assert own_crops(model, done) < 1e-4


@pytest.mark.parametrize("height", [1 << 26, 1 << 50])
def test_an_image_that_no_machine_holds_is_not_begun_with(height: int) -> None:
    """A pool over its flattened places has an index of each: gigabytes for a file of kilobytes."""
    net = Net()
    x = net.op("Reshape", net.conv(net.input("image", [1, 3, height, 24]), 3, 4, strides=[4, 4]), net.ints(1, 4, -1))
    model = net.model(net.fc(net.axes("ReduceLogSumExp", x, [2], keepdims=0), 4, 5, out="scores"), infer=False)
    with pytest.raises(UsageError, match=f"image: an image of 1x3x{height}x24 has .* numbers, and no model"):
        rewrite(model)
    with pytest.raises(UsageError, match="no model runs on more"):
        inspect(model)


def test_a_batch_that_no_machine_holds_is_not_begun_with() -> None:
    net = Net()
    model = net.model(net.fc(net.flat(), FEATURES, 5, out="scores"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 62
    for action in (rewrite, inspect, lambda model: check_pair(model, model)):
        with pytest.raises(UsageError, match=rf"image: an image of {1 << 62}x[0-9x]+ has .* numbers, and no model"):
            action(model)
