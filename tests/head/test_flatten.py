"""Into the head: every way to flatten a map, in every order of its axes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, FEATURES, NATIVE, WINDOW, Net, bodied, proven, proven_or_refused, refusal

H, W = WINDOW
M = 6


def fc(net: Net, flat: str, before: int = FEATURES) -> str:
    return net.fc(flat, before, M)


def gone(model: onnx.ModelProto) -> bool:
    return not {"Flatten", "Gemm", "MatMul"} & {node.op_type for node in model.graph.node}


# Flatten


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("axis", [1, -3])
def test_flatten(batch: int | str, axis: int) -> None:
    done = proven(bodied(lambda net, tensor: fc(net, net.op("Flatten", tensor, axis=axis)), batch=batch))
    assert gone(done.model)
    assert done.map_at_twice == (6, 5)


def test_flatten_axis_0() -> None:
    """(1, F): as good as axis 1, for a batch of one."""
    proven(bodied(lambda net, tensor: fc(net, net.op("Flatten", tensor, axis=0))))


def test_flatten_axis_0_of_a_batch() -> None:
    """(1, 2 * F) mixes the images."""

    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Flatten", tensor, axis=0), 2 * FEATURES)

    assert refusal(bodied(body, batch=2)).code == "mixes-batch"


@pytest.mark.parametrize("axis", [2, 3, 4, -1, -2])
def test_flatten_further_axes_of_a_batch_of_one(axis: int) -> None:
    """(3, 20), (15, 4), (60, 1): channels in the batch's place. Then made (1, 60) again."""

    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Reshape", net.op("Flatten", tensor, axis=axis), net.ints(1, FEATURES)))

    proven_or_refused(bodied(body))


@pytest.mark.parametrize("opset", [7, 8, 9, 11, 13, 21])
def test_flatten_at_every_version(opset: int) -> None:
    proven(bodied(lambda net, tensor: fc(net, net.op("Flatten", tensor)), opset=opset))


def test_flatten_twice_and_reshape_between() -> None:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("Reshape", net.op("Flatten", tensor), net.ints(0, H, 3, W)))
        return fc(net, net.op("Flatten", net.op("Flatten", flat)))

    proven(bodied(body))


# Reshape to constants


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("batch", "target"),
    [
        (1, (1, -1)),
        (1, (-1, FEATURES)),
        (1, (0, -1)),
        (1, (1, FEATURES)),
        (1, (0, FEATURES)),
        (2, (2, -1)),
        (2, (-1, FEATURES)),
        (2, (0, -1)),
        (2, (2, FEATURES)),
        ("N", (-1, FEATURES)),
        ("N", (0, -1)),
    ],
)
@pytest.mark.parametrize("opset", [7, 17])
def test_reshape_constant_target(batch: int | str, target: tuple[int, ...], opset: int) -> None:
    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Reshape", tensor, net.ints(*target)))

    proven(bodied(body, batch=batch, opset=opset))


def test_reshape_bakes_the_batch_of_a_free_input() -> None:
    """(1, -1) on a batch called N: a batch of 2 would mix, but as the original would the same, batch 1 is proven."""

    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Reshape", tensor, net.ints(1, -1)))

    proven(bodied(body))


@pytest.mark.parametrize("target", [(1, -1), (-1, FEATURES)])
def test_reshape_with_allowzero(target: tuple[int, ...]) -> None:
    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Reshape", tensor, net.ints(*target), allowzero=1))

    proven(bodied(body))


def test_reshape_in_several_steps() -> None:
    """(N, C, H*W), then (N, C*H*W)."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(0, 0, -1))
        return fc(net, net.op("Reshape", rows, net.ints(0, -1)))

    proven(bodied(body))


def test_reshape_to_one_dimension() -> None:
    """(F,) swallows the batch of 1; Unsqueeze or Gather gives it back."""

    def body(net: Net, tensor: str) -> str:
        flat = net.op("Reshape", tensor, net.ints(FEATURES))
        return fc(net, net.axes("Unsqueeze", flat, [0]))

    proven_or_refused(bodied(body))


@pytest.mark.parametrize("split", [(CHANNELS * H, W), (CHANNELS, H * W), (2, FEATURES // 2), (FEATURES // 5, 5)])
def test_reshape_to_matrices_and_back(split: tuple[int, int]) -> None:
    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(-1, *split))
        return fc(net, net.op("Flatten", net.op("Transpose", rows, perm=[0, 2, 1])))

    proven(bodied(body, batch=2))


# Reshape to what is computed


def batch_of(net: Net, tensor: str) -> str:
    return str(net.op("Gather", net.op("Shape", tensor), net.const(0, dtype=np.int64)))


def computed(net: Net, tensor: str, how: str) -> str:
    """A target (N, F) in the ways of the exporters."""
    shape = net.op("Shape", tensor)
    first = net.axes("Unsqueeze", batch_of(net, tensor), [0])
    if how == "concat -1":
        return str(net.op("Concat", first, net.ints(-1), axis=0))
    if how == "concat F":
        return str(net.op("Concat", first, net.ints(FEATURES), axis=0))
    if how == "product":
        dims = [net.op("Gather", shape, net.const(axis, dtype=np.int64)) for axis in (1, 2, 3)]
        product = net.op("Mul", net.op("Mul", dims[0], dims[1]), dims[2])
        return str(net.op("Concat", first, net.axes("Unsqueeze", product, [0]), axis=0))
    if how == "slice":
        rest = net.op("Slice", shape, net.ints(1), net.ints(4), net.ints(0))
        product = net.axes("ReduceProd", rest, [0], keepdims=1)
        return str(net.op("Concat", net.op("Slice", shape, net.ints(0), net.ints(1)), product, axis=0))
    if how == "gather indices":
        dims = net.op("Gather", shape, net.ints(0))
        return str(net.op("Concat", dims, net.ints(-1), axis=0))
    if how == "size":
        rest = net.op("Div", net.op("Size", tensor), net.op("Gather", shape, net.const(0, dtype=np.int64)))
        return str(net.op("Concat", first, net.axes("Unsqueeze", rest, [0]), axis=0))
    if how == "cast":
        as_float = net.op("Cast", first, to=onnx.TensorProto.FLOAT)
        again = net.op("Cast", net.op("Floor", as_float), to=onnx.TensorProto.INT64)
        return str(net.op("Concat", again, net.ints(-1), axis=0))
    if how == "shape attributes":
        return str(net.op("Concat", net.op("Shape", tensor, start=0, end=1), net.ints(-1), axis=0))
    if how == "where":
        pair = net.op("Concat", first, net.ints(-1), axis=0)
        is_zero = net.op("Equal", pair, net.ints(0, 0))
        return str(net.op("Where", is_zero, net.ints(1, 1), pair))
    raise AssertionError(how)


HOW = (
    "concat -1",
    "concat F",
    "product",
    "slice",
    "gather indices",
    "size",
    "cast",
    "shape attributes",
    "where",
)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_reshape_computed_target(how: str, batch: int | str) -> None:
    def body(net: Net, tensor: str) -> str:
        return fc(net, net.op("Reshape", tensor, computed(net, tensor, how)))

    proven(bodied(body, batch=batch))


def test_shape_of_the_image_itself() -> None:
    """The batch is read from the input, not from the trunk's end."""

    def body(net: Net, tensor: str) -> str:
        first = net.axes("Unsqueeze", batch_of(net, "image"), [0])
        return fc(net, net.op("Reshape", tensor, net.op("Concat", first, net.ints(-1), axis=0)))

    proven(bodied(body, batch="N"))


def test_reshape_that_keeps_the_map_with_a_computed_size() -> None:
    """A channel shuffle by Shape and Gather in the trunk is no flatten; the Flatten behind it is."""

    def body(net: Net, tensor: str) -> str:
        shape = net.op("Shape", tensor)
        dims = [net.axes("Unsqueeze", net.op("Gather", shape, net.const(a, dtype=np.int64)), [0]) for a in (0, 2, 3)]
        rows = net.op("Reshape", tensor, net.op("Concat", dims[0], net.ints(3, 1), dims[1], dims[2], axis=0))
        back = net.op("Transpose", rows, perm=[0, 2, 1, 3, 4])
        again = net.op("Reshape", back, net.op("Concat", dims[0], net.ints(-1), dims[1], dims[2], axis=0))
        return fc(net, net.op("Flatten", net.op("Relu", again)))

    proven(bodied(body, batch=2))


def test_channel_shuffle_with_the_native_size_baked_in() -> None:
    """ShuffleNet: Reshape (N, 2, 3, H, W), Transpose, Reshape (N, 6, H, W): the channels in another order."""
    net = Net(13)
    trunk = net.op("Tanh", net.conv(net.image(2), 2, 6))
    rows = net.op("Reshape", trunk, net.ints(2, 2, 3, H, W))
    mixed = net.op("Reshape", net.op("Transpose", rows, perm=[0, 2, 1, 3, 4]), net.ints(2, 6, H, W))
    more = net.op("Tanh", net.conv(mixed, 6, 4, (2, 2), strides=[1, 1]))
    out = net.fc(net.op("Flatten", more), 4 * (H - 1) * (W - 1), M)
    done = proven(net.model(out))
    kinds = [node.op_type for node in done.model.graph.node]
    assert (kinds.count("Conv"), kinds.count("Gather"), kinds.count("Reshape")) == (3, 1, 0)


# Squeeze


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], None])
def test_squeeze_a_window_of_one(opset: int, axes: list[int] | None) -> None:
    """A Conv as large as the map, and Squeeze. Without axes all extents of 1 go, but not a batch of 2."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("Tanh", net.conv(tensor, CHANNELS, 9, WINDOW, strides=[1, 1]))
        return fc(net, net.axes("Squeeze", point, axes), 9)

    done = proven(bodied(body, opset=opset, batch=2))
    assert done.map_at_twice == (6, 5)


@pytest.mark.parametrize("axes", [[-2, 3], [-2, -1]])
@pytest.mark.parametrize(
    "opset",
    [11, 13],
)
def test_squeeze_by_a_negative_axis_first(opset: int, axes: list[int]) -> None:
    def body(net: Net, tensor: str) -> str:
        point = net.op("Tanh", net.conv(tensor, CHANNELS, 9, WINDOW, strides=[1, 1]))
        return fc(net, net.axes("Squeeze", point, axes), 9)

    proven(bodied(body, opset=opset))


def test_squeeze_in_two_steps() -> None:
    def body(net: Net, tensor: str) -> str:
        point = net.op("Tanh", net.conv(tensor, CHANNELS, 9, WINDOW, strides=[1, 1]))
        return fc(net, net.axes("Squeeze", net.axes("Squeeze", point, [3]), [2]), 9)

    proven(bodied(body))


def test_squeeze_of_everything_at_batch_one() -> None:
    """(9,): the batch went too. A refusal is right."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("Tanh", net.conv(tensor, CHANNELS, 9, WINDOW, strides=[1, 1]))
        flat = net.axes("Unsqueeze", net.axes("Squeeze", point, None), [0])
        return fc(net, flat, 9)

    proven_or_refused(bodied(body))


def test_window_of_one_flattened() -> None:
    """Flatten of (N, 9, 1, 1): the FC is a 1x1 Conv."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("Tanh", net.conv(tensor, CHANNELS, 9, WINDOW, strides=[1, 1]))
        return fc(net, net.op("Flatten", point), 9)

    done = proven(bodied(body))
    assert "Conv 1x1 9→6" in [item.after for item in done.replacements]


@pytest.mark.parametrize("ones", [(5, 1), (1, 4)])
def test_window_of_one_on_one_axis(ones: tuple[int, int]) -> None:
    def body(net: Net, tensor: str) -> str:
        kernel = (H + 1 - ones[0], W + 1 - ones[1])
        strip = net.op("Tanh", net.conv(tensor, CHANNELS, 4, kernel, strides=[1, 1]))
        return fc(net, net.op("Flatten", strip), 4 * math.prod(ones))

    proven(bodied(body))


# Orders


@pytest.mark.sweep(16)
@pytest.mark.parametrize("perm", [(0, *rest) for rest in itertools.permutations((1, 2, 3))])
@pytest.mark.parametrize("way", ["Flatten", "Reshape"])
def test_transpose_before_the_flatten(perm: tuple[int, ...], way: str) -> None:
    def body(net: Net, tensor: str) -> str:
        turned = net.op("Transpose", tensor, perm=list(perm))
        flat = net.op("Flatten", turned) if way == "Flatten" else net.op("Reshape", turned, net.ints(-1, FEATURES))
        return fc(net, flat)

    done = proven(bodied(body, batch=2))
    assert gone(done.model)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("perm", [(1, 0, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_batch_moved_away_and_back(perm: tuple[int, ...], batch: int | str) -> None:
    def body(net: Net, tensor: str) -> str:
        turned = net.op("Relu", net.op("Transpose", tensor, perm=list(perm)))
        back = net.op("Transpose", turned, perm=[perm.index(axis) for axis in range(4)])
        return fc(net, net.op("Flatten", back))

    proven(bodied(body, batch=batch))


@pytest.mark.parametrize("perm", [(1, 0, 2, 3), (1, 2, 3, 0), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_batch_of_one_moved_away(perm: tuple[int, ...]) -> None:
    def body(net: Net, tensor: str) -> str:
        turned = net.op("Transpose", tensor, perm=list(perm))
        return fc(net, net.op("Reshape", turned, net.ints(1, FEATURES)))

    proven(bodied(body))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("where", ["image", "map", "features", "scores", "pairs"])
def test_picked_by_lists(where: str, batch: int | str) -> None:
    """x[:, [2, 0]] as exporters write it: the axis moved to the front, GatherND, and back."""

    def pick(net: Net, x: str, rank: int, *places: int) -> str:
        perm = [1, 0, *range(2, rank)]
        picked = net.op("GatherND", net.op("Transpose", x, perm=perm), net.ints(*([place] for place in places)))
        return str(net.op("Transpose", picked, perm=perm))

    net = Net()
    image = net.image(batch)
    image = pick(net, image, 4, 1, 0) if where == "image" else image
    tensor = net.op("Tanh", net.conv(image, 2, CHANNELS))
    tensor = pick(net, tensor, 4, 2, 0, 1) if where == "map" else tensor
    flat = net.op("Flatten", tensor)
    flat = pick(net, flat, 2, *range(FEATURES - 1, -1, -1)) if where == "features" else flat
    scores = fc(net, flat)
    scores = pick(net, scores, 2, 4, 1, 3) if where == "scores" else scores
    if where == "pairs":
        scores = pick(net, net.op("Reshape", scores, net.ints(-1, 3, 2)), 3, 2, 0)
    proven(net.model(scores))


def nhwc(net: Net, body: str, channels: int = 2) -> str:
    """Images (N, H, W, C), Transpose, trunk, Transpose back, flatten."""
    image = net.input("image", [2, *NATIVE, channels])
    trunk = net.op("Tanh", net.conv(net.op("Transpose", image, perm=[0, 3, 1, 2]), channels, CHANNELS))
    back = net.op("Transpose", trunk, perm=[0, 2, 3, 1])
    if body == "relu between":
        back = net.op("Relu", back)
    return str(net.op("Reshape", back, net.ints(-1, FEATURES)))


@pytest.mark.parametrize("body", ["plain", "relu between"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_last_images(body: str, channels: int) -> None:
    net = Net()
    out = net.op("Add", net.op("MatMul", nhwc(net, body, channels), net.random(FEATURES, M)), net.random(M))
    done = proven(net.model(out))
    assert done.claim.inputs[0].spatial == (1, 2)
    assert done.claim.native_size == NATIVE


def test_channels_last_bias_and_scale_on_the_map() -> None:
    net = Net()
    image = net.input("image", [1, *NATIVE, 3])
    scaled = net.op("Mul", image, net.random(3))
    trunk = net.conv(net.op("Transpose", scaled, perm=[0, 3, 1, 2]), 3, CHANNELS)
    back = net.op("Transpose", trunk, perm=[0, 2, 3, 1])
    tanh = net.op("Tanh", net.op("Add", back, net.random(CHANNELS)))
    proven(net.model(net.fc(net.op("Flatten", tanh), FEATURES, M)))


def test_two_transposes_that_undo_each_other() -> None:
    def body(net: Net, tensor: str) -> str:
        last = net.op("Transpose", tensor, perm=[0, 2, 3, 1])
        first = net.op("Transpose", net.op("Tanh", last), perm=[0, 3, 1, 2])
        return fc(net, net.op("Flatten", first))

    proven(bodied(body))


def test_rows_and_columns_exchanged_in_the_trunk() -> None:
    """A Conv slides over the exchanged axes: which stride is which?"""

    def body(net: Net, tensor: str) -> str:
        turned = net.op("Transpose", tensor, perm=[0, 1, 3, 2])
        more = net.op("Tanh", net.conv(turned, CHANNELS, 4, (3, 2), strides=[1, 2]))
        return fc(net, net.op("Flatten", more), 4 * 2 * 2)

    proven_or_refused(bodied(body))


# Other dimensions


def test_one_dimension() -> None:
    net = Net()
    signal = net.input("signal", [2, 2, 31])
    trunk = net.op("Tanh", net.conv(signal, 2, 4, (3,)))
    done = proven(net.model(net.fc(net.op("Flatten", trunk), 60, M)))
    assert done.claim.native_size == (31,)
    assert done.claim.stride == (2,)


@pytest.mark.parametrize("perm", [(0, 1, 2, 3, 4), (0, 2, 3, 4, 1), (0, 4, 2, 3, 1)])
def test_three_dimensions(perm: tuple[int, ...]) -> None:
    net = Net()
    volume = net.input("volume", [1, 2, 5, 7, 9])
    trunk = net.op("Tanh", net.conv(volume, 2, 4, (3, 3, 3), strides=[1, 2, 2]))
    flat = net.op("Flatten", net.op("Transpose", trunk, perm=list(perm)))
    done = proven(net.model(net.fc(flat, 4 * 3 * 3 * 4, M)))
    assert done.claim.native_size == (5, 7, 9)
    assert done.claim.stride == (1, 2, 2)


def test_native_window_is_the_image() -> None:
    """No trunk at all: an FC on the pixels is a Conv as large as the image."""
    net = Net()
    image = net.input("image", [1, 2, 5, 4])
    done = proven(net.model(net.fc(net.op("Flatten", image), 40, M)))
    assert done.claim.stride == (1, 1)
    assert [item.after for item in done.replacements] == ["Conv 5x4 2→6"]


def test_flatten_behind_dropout_and_identity() -> None:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Identity", net.op("Flatten", net.op("Dropout", net.op("Identity", tensor))))
        return fc(net, net.op("Dropout", flat))

    proven(bodied(body))


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_fc_layers_over_the_places_of_each_channel(batch: int | str) -> None:
    """(N, C, H * W) times (H * W, K): what mixers of tokens do; once per window."""

    def body(net: Net, tensor: str) -> str:
        tokens = net.op("Reshape", tensor, net.ints(0, CHANNELS, -1))
        mixed = net.op("Tanh", net.op("MatMul", tokens, net.random(20, 6)))
        return str(net.op("ReduceMean", net.op("MatMul", mixed, net.random(6, M)), axes=[1], keepdims=0))

    done = proven(bodied(body, batch=batch))
    assert [item.after for item in done.replacements] == ["MatMul once per window"] * 2


def test_flattened_map_as_the_only_output_is_refused() -> None:
    found = refusal(bodied(lambda net, tensor: net.op("Flatten", tensor)))
    assert found.code == "no-head"
    assert "flattened map itself" in found.reason


def test_places_that_are_infinite_in_the_map_leave_others_alone() -> None:
    """exp overflows where a Where will not choose it; sums of zero times infinity would spread it over the window."""

    def body(net: Net, tensor: str) -> str:
        big = net.op("Flatten", net.op("Mul", tensor, net.const(300.0)))
        chosen = net.op("Where", net.op("Less", big, net.const(1.0)), net.op("Exp", big), net.op("Tanh", big))
        return net.fc(chosen, FEATURES, M)

    proven(bodied(body))


def test_whole_numbers_of_a_window_one_by_one() -> None:
    """The best channel of every place, compared with a number each: no float in it."""

    def body(net: Net, tensor: str) -> str:
        best = net.op("Flatten", net.op("ArgMax", tensor, axis=1, keepdims=0))
        same = net.op("Equal", best, net.ints(*(place % CHANNELS for place in range(20))))
        return net.fc(net.op("Cast", same, to=1), 20, M)

    proven(bodied(body))


def test_mean_of_the_features_of_a_map_of_one_channel() -> None:
    """(N, 1, H, W) flattened is (N, H * W): its mean is that of the window, not of the whole image."""
    net = Net()
    flat = net.op("Flatten", net.op("Relu", net.image(1, (7, 7), 1)))
    centred = net.op("Sub", flat, net.op("ReduceMean", flat, axes=[-1], keepdims=1))
    proven(net.model(net.op("Add", net.fc(centred, 49, M), net.fc(flat, 49, M))))
