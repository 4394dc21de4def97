"""What stands between the flatten and the scores: normalisation, activations, branches, residuals, movement."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hazards import (
    CHANNELS,
    CHECK,
    FEATURES,
    OLD_ONNX,
    OLD_RUNTIME,
    WINDOW,
    Net,
    bodied,
    complete,
    head,
    own_crops,
    proven,
    proven_or_refused,
    refusal,
)
from onnx import TensorProto, numpy_helper

from onnxfc.rewriter.api import rewrite

M = 6
H, W = WINDOW


# BatchNormalization


def norm(net: Net, tensor: str, length: int, **attributes: Any) -> str:
    rest = [net.random(length), net.random(length), net.random(length)]
    return str(net.op("BatchNormalization", tensor, *rest, net.const(0.1 + net.rng.random(length)), **attributes))


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization_before_the_fc(opset: int) -> None:
    """A scale and a shift for each of the 60 features: all in the one Conv."""
    done = proven(head(lambda net, flat: net.fc(norm(net, flat, FEATURES), FEATURES, M), opset=opset))
    assert [node.op_type for node in done.model.graph.node] == ["Conv", "Tanh", "Conv"]


def test_batch_normalization_is_folded_in_float64() -> None:
    """Against numpy: w * gamma / sqrt(var + eps), b + w @ (beta - mean * that), with a large epsilon."""

    def body(net: Net, flat: str) -> str:
        return net.fc(norm(net, flat, FEATURES, epsilon=0.5), FEATURES, M)

    model = head(body)
    done = proven(model)
    stored = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}
    nodes = {node.op_type: node for node in model.graph.node}
    gamma, beta, mean, var = (stored[name] for name in nodes["BatchNormalization"].input[1:])
    weight, bias = (stored[name] for name in nodes["Gemm"].input[1:])
    scale = gamma / np.sqrt(var + 0.5)
    made = {tensor.name: numpy_helper.to_array(tensor) for tensor in complete(done).graph.initializer}
    conv = done.model.graph.node[-1]
    np.testing.assert_allclose(made[conv.input[1]].reshape(M, FEATURES), weight * scale, rtol=2e-7, atol=1e-12)
    np.testing.assert_allclose(made[conv.input[2]], bias + weight @ (beta - mean * scale), rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("opset", [7, 9, 15])
def test_batch_normalization_after_the_fc(opset: int) -> None:
    def body(net: Net, flat: str) -> str:
        hidden = net.op("Relu", norm(net, net.fc(flat, FEATURES, 8), 8))
        return norm(net, net.fc(hidden, 8, M), M)

    proven(head(body, opset=opset, batch=2))


def test_batch_normalization_then_activation_then_fc() -> None:
    """The activation stands between: the scale cannot wait for the FC."""
    proven(head(lambda net, flat: net.fc(net.op("Relu", norm(net, flat, FEATURES)), FEATURES, M)))


def test_batch_normalization_of_rows() -> None:
    """On (N, C, H*W) its axis 1 is the channels."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(0, CHANNELS, -1))
        return net.fc(net.op("Flatten", norm(net, rows, CHANNELS)), FEATURES, M)

    proven(bodied(body))


def test_batch_normalization_of_hwc_rows() -> None:
    """On (N, H, W*C) its axis 1 is the rows of the image: a table of places within the window."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", net.op("Transpose", tensor, perm=[0, 2, 3, 1]), net.ints(0, H, -1))
        return net.fc(net.op("Flatten", norm(net, rows, H)), FEATURES, M)

    proven_or_refused(bodied(body))


@pytest.mark.parametrize("opset", [14, 15])
def test_batch_normalization_in_training_mode_is_refused(opset: int) -> None:
    def body(net: Net, flat: str) -> str:
        rest = [
            net.random(FEATURES),
            net.random(FEATURES),
            net.random(FEATURES),
            net.const(np.ones(FEATURES)),
        ]
        made = net.op("BatchNormalization", flat, *rest, outputs=3, training_mode=1)
        return net.fc(made[0], FEATURES, M)

    assert refusal(head(body, opset=opset, infer=False, batch=2)).code == "training-mode"


def test_two_batch_normalizations_and_two_branches() -> None:
    """One flatten, two scales: neither FC may see the other's."""

    def body(net: Net, flat: str) -> list[str]:
        return [
            net.fc(norm(net, flat, FEATURES), FEATURES, M),
            net.fc(norm(net, flat, FEATURES), FEATURES, 4),
        ]

    proven(head(body))


# Constants


SHAPES = [(), (1,), (FEATURES,), (1, FEATURES), (1, 1)]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("first", [False, True])
def test_constants_before_the_fc(kind: str, shape: tuple[int, ...], first: bool) -> None:
    """In both orders: 1 - x and 1 / x are no x - 1 and x / 1."""

    def body(net: Net, flat: str) -> str:
        constant = net.const(np.sign(net.noise(*shape)) * (0.5 + net.rng.random(shape)))
        if kind == "Div" and first:
            flat = net.op("Add", flat, net.const(2.0))
        return net.fc(net.op(kind, *((constant, flat) if first else (flat, constant))), FEATURES, M)

    done = proven(head(body))
    if not first:
        assert [node.op_type for node in done.model.graph.node] == ["Conv", "Tanh", "Conv"]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", ["Add", "Sub", "Mul", "Div", "Max", "Pow", "PRelu"])
@pytest.mark.parametrize("shape", [(), (1,), (M,), (1, M), (1, 1), (2, M), (2, 1)])
def test_constants_after_the_fc(kind: str, shape: tuple[int, ...]) -> None:
    def body(net: Net, flat: str) -> str:
        scores = net.fc(flat, FEATURES, M)
        if kind == "Pow":
            scores = net.op("Sigmoid", scores)
        return str(net.op(kind, scores, net.const(0.5 + net.rng.random(shape))))

    if kind == "PRelu" and len(shape) > 1 and shape[0] == 2:
        pytest.skip("a slope per image is not what PRelu is for")
    proven(head(body, batch=2))


def test_constant_square_matrix_is_not_spread_over_the_grid() -> None:
    """Scores (M, M) plus a constant (M, M): batch and class, not class and place."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Add", net.fc(flat, FEATURES, M), net.random(M, M)))

    proven(head(body, batch=M))


def test_constant_per_place_of_a_square_map() -> None:
    """A grid as large as the classes must not be taken for them."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Mul", net.fc(flat, FEATURES, 3), net.random(3)))

    model = head(body)
    done = proven(model)
    assert own_crops(model, done, more=(2, 2)) < 1e-4


def test_position_table_is_refused() -> None:
    """A value for every place of the native map has none for others - but within a window it has its place."""

    def body(net: Net, tensor: str) -> str:
        return net.fc(net.op("Flatten", net.op("Add", tensor, net.random(1, CHANNELS, H, W))), FEATURES, M)

    proven_or_refused(bodied(body))


# Activations


def clip(net: Net, tensor: str) -> str:
    if net.opset < 11:
        return str(net.op("Clip", tensor, min=-0.5, max=0.5))
    return str(net.op("Clip", tensor, net.const(-0.5), net.const(0.5)))


ACTIVATIONS: dict[str, Callable[[Net, str], str]] = {
    "Relu": lambda net, x: net.op("Relu", x),
    "LeakyRelu": lambda net, x: net.op("LeakyRelu", x, alpha=0.3),
    "Elu": lambda net, x: net.op("Elu", x, alpha=0.7),
    "Selu": lambda net, x: net.op("Selu", x),
    "HardSigmoid": lambda net, x: net.op("HardSigmoid", x, alpha=0.4, beta=0.3),
    "Softplus": lambda net, x: net.op("Softplus", x),
    "ThresholdedRelu": lambda net, x: net.op("ThresholdedRelu", x, alpha=0.2),
    "Clip": clip,
    "Clip from below": lambda net, x: net.op("Clip", x, net.const(0.1)) if net.opset > 10 else clip(net, x),
    "PRelu": lambda net, x: net.op("PRelu", x, net.const(0.25)),
    "PRelu (1,)": lambda net, x: net.op("PRelu", x, net.const([0.25])),
    "SiLU": lambda net, x: net.op("Mul", x, net.op("Sigmoid", x)),
    "GELU": lambda net, x: net.op(
        "Mul",
        net.op("Mul", x, net.op("Add", net.op("Erf", net.op("Div", x, net.const(1.4142135))), net.const(1.0))),
        net.const(0.5),
    ),
    "HardSwish": lambda net, x: net.op(
        "Div",
        net.op("Mul", x, net.op("Relu", net.op("Add", x, net.const(3.0)))),
        net.const(6.0),
    ),
    "Dropout": lambda net, x: net.op("Dropout", x),
    "Identity": lambda net, x: net.op("Identity", x),
    "Cast": lambda net, x: net.op("Cast", net.op("Cast", x, to=TensorProto.DOUBLE), to=TensorProto.FLOAT),
    "Neg": lambda net, x: net.op("Neg", x),
    "Where": lambda net, x: net.op("Where", net.op("Greater", x, net.const(0.0)), x, net.const(-0.1)),
}


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("place", ["before", "between", "after"])
def test_activations(name: str, opset: int, place: str) -> None:
    """On the flattened window, between two FC layers, on the scores."""

    if name == "ThresholdedRelu" and opset < 10:
        pytest.skip("ThresholdedRelu came with operator set 10")

    def body(net: Net, flat: str) -> str:
        activation = ACTIVATIONS[name]
        flat = activation(net, flat) if place == "before" else flat
        hidden = net.fc(flat, FEATURES, 8)
        hidden = activation(net, hidden) if place == "between" else hidden
        scores = net.fc(hidden, 8, M)
        return activation(net, scores) if place == "after" else scores

    proven(head(body, opset=opset))


def test_prelu_per_feature() -> None:
    proven(head(lambda net, flat: net.fc(net.op("PRelu", flat, net.random(FEATURES)), FEATURES, M)))
    proven(head(lambda net, flat: net.op("PRelu", net.fc(flat, FEATURES, M), net.random(M))))


def test_prelu_per_channel_of_the_map() -> None:
    def body(net: Net, tensor: str) -> str:
        return net.fc(net.op("Flatten", net.op("PRelu", tensor, net.random(CHANNELS, 1, 1))), FEATURES, M)

    proven(bodied(body))


@pytest.mark.parametrize("training", [None, False])
def test_dropout_of_opset_12(training: bool | None) -> None:
    def body(net: Net, flat: str) -> str:
        more = [] if training is None else [net.const(training, dtype=np.bool_)]
        made = net.op("Dropout", flat, net.const(0.5), *more, outputs=2)
        return net.fc(made[0], FEATURES, M)

    proven(head(body))


def test_dropout_in_training_mode_is_refused() -> None:
    def body(net: Net, flat: str) -> str:
        return net.fc(net.op("Dropout", flat, net.const(0.5), net.const(True, dtype=np.bool_)), FEATURES, M)

    assert refusal(head(body)).code == "training-mode"


# Several FC layers, branches


def test_three_fc_layers() -> None:
    def body(net: Net, flat: str) -> str:
        hidden = net.op("Relu", net.fc(net.op("Relu", net.fc(flat, FEATURES, 9)), 9, 8))
        return str(net.op("Softmax", net.fc(net.op("Dropout", hidden), 8, M), axis=1))

    done = proven(head(body))
    assert [item.after for item in done.replacements] == ["Conv 5x4 3→9", "Conv 1x1 9→8", "Conv 1x1 8→6"]


def test_several_outputs_from_one_flatten() -> None:
    """Age, sex and mood; of different lengths."""

    def body(net: Net, flat: str) -> list[str]:
        return [
            net.fc(flat, FEATURES, 1),
            str(net.op("Softmax", net.fc(flat, FEATURES, 2))),
            net.fc(flat, FEATURES, M),
        ]

    done = proven(head(body))
    assert [output.form for output in done.claim.outputs] == ["map", "map", "map"]


def test_features_and_scores_as_outputs() -> None:
    """A map as an output stays a map."""

    def body(net: Net, tensor: str) -> list[str]:
        return [str(net.op("Relu", tensor)), net.fc(net.op("Flatten", tensor), FEATURES, M)]

    done = proven(bodied(body))
    assert [output.form for output in done.claim.outputs] == ["features", "map"]


def test_the_flattened_window_itself_as_an_output() -> None:
    """(N, 60) becomes (N, 60, gH, gW): the windows unrolled, beside the scores."""

    def body(net: Net, flat: str) -> list[str]:
        return [flat, net.fc(flat, FEATURES, M)]

    proven(head(body))


def test_hidden_features_as_an_output() -> None:
    def body(net: Net, flat: str) -> list[str]:
        hidden = net.op("Relu", net.fc(flat, FEATURES, 8))
        return [net.fc(hidden, 8, M), hidden]

    proven(head(body, batch="N"))


def test_residual_mlp() -> None:
    def body(net: Net, flat: str) -> str:
        hidden = net.fc(flat, FEATURES, 8)
        for _ in range(2):
            hidden = net.op("Add", hidden, net.fc(net.op("Relu", net.fc(hidden, 8, 5)), 5, 8))
        return net.fc(hidden, 8, M)

    proven(head(body))


def test_residual_over_the_window() -> None:
    """The flattened window plus an FC of it, of the same length."""

    def body(net: Net, flat: str) -> str:
        return net.fc(net.op("Add", flat, net.op("Tanh", net.fc(flat, FEATURES, FEATURES))), FEATURES, M)

    proven(head(body))


def test_window_times_itself() -> None:
    proven(head(lambda net, flat: net.fc(net.op("Mul", flat, flat), FEATURES, M)))


def test_dueling_head() -> None:
    """value + advantage - mean(advantage)."""

    def body(net: Net, flat: str) -> str:
        value, advantage = net.fc(flat, FEATURES, 1), net.fc(flat, FEATURES, M)
        mean = net.axes("ReduceMean", advantage, [1], keepdims=1)
        return str(net.op("Add", value, net.op("Sub", advantage, mean)))

    proven(head(body))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum", "ReduceMax", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("axes", [[1], [-1]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_reductions_of_the_scores(kind: str, axes: list[int], keepdims: int, opset: int) -> None:
    """The last axis of the original is not the last of the map."""

    def body(net: Net, flat: str) -> str:
        return net.axes(kind, net.fc(flat, FEATURES, M), axes, keepdims=keepdims)

    proven(head(body, opset=opset, batch=2))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("gate", ["Split", "Slice", "Gather"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_glu(gate: str, axis: int, opset: int) -> None:
    """Half of an FC gates the other half."""
    if axis < 0 and opset < 11:
        pytest.skip("negative axes came with operator set 11")

    def body(net: Net, flat: str) -> str:
        both = net.fc(flat, FEATURES, 2 * M)
        left, right = halves(net, both, gate, axis)
        return str(net.op("Mul", left, net.op("Sigmoid", right)))

    proven(head(body, opset=opset))


def halves(net: Net, both: str, gate: str, axis: int) -> list[str]:
    if gate == "Split":
        if net.opset < 13:
            return list(net.op("Split", both, outputs=2, axis=axis, split=[M, M]))
        more: dict[str, Any] = {"num_outputs": 2} if net.opset >= 18 else {}
        return list(net.op("Split", both, outputs=2, axis=axis, **more))
    if gate == "Slice" and net.opset < 10:
        return [net.op("Slice", both, starts=[a], ends=[b], axes=[axis]) for a, b in ((0, M), (M, 2 * M))]
    if gate == "Slice":
        bounds = ((0, M), (M, 2**63 - 1))
        return [net.op("Slice", both, net.ints(a), net.ints(b), net.ints(axis)) for a, b in bounds]
    return [net.op("Gather", both, net.ints(*range(a, a + M)), axis=axis) for a in (0, M)]


@pytest.mark.parametrize("how", ["Slice", "Gather", "Split", "reversed", "twice", "one"])
def test_some_of_the_window_s_features(how: str) -> None:
    """An FC on a slice of the flattened window reads only some places and channels."""

    def body(net: Net, flat: str) -> str:
        if how == "Slice":
            return net.fc(net.op("Slice", flat, net.ints(7), net.ints(47), net.ints(1)), 40, M)
        if how == "Gather":
            return net.fc(net.op("Gather", flat, net.ints(3, 59, 0, 22), axis=1), 4, M)
        if how == "Split":
            first, second = net.op("Split", flat, net.ints(25, 35), outputs=2, axis=1)
            return str(net.op("Sub", net.fc(first, 25, M), net.fc(second, 35, M)))
        if how == "reversed":
            back = net.op("Slice", flat, net.ints(-1), net.ints(-1000), net.ints(1), net.ints(-1))
            return net.fc(back, FEATURES, M)
        if how == "twice":
            return net.fc(net.op("Gather", flat, net.ints(3, 3, 5, 3), axis=1), 4, M)
        one = net.op("Gather", flat, net.const(17, dtype=np.int64), axis=1)
        return net.fc(net.axes("Unsqueeze", one, [1]), 1, M)

    proven(head(body, batch=2))


# Concat


def test_flattened_branches_of_different_windows() -> None:
    """Two branches of the trunk with other kernels and the same stride, flattened and concatenated."""
    net = Net()
    trunk = net.trunk()
    branches = []
    length = 0
    for channels, kernel in ((2, (1, 1)), (4, (3, 2)), (1, (5, 4))):
        more = net.op("Tanh", net.conv(trunk, CHANNELS, channels, kernel, strides=[1, 1]))
        branches.append(net.op("Flatten", more))
        length += channels * (H + 1 - kernel[0]) * (W + 1 - kernel[1])
    proven(net.model(net.fc(net.op("Concat", *branches, axis=1), length, M)))


def test_concat_of_flatten_in_two_orders() -> None:
    def body(net: Net, tensor: str) -> str:
        chw = net.op("Flatten", tensor)
        hwc = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        return net.fc(net.op("Concat", hwc, chw, axis=-1), 2 * FEATURES, M)

    proven(bodied(body))


def test_concat_of_window_and_scores() -> None:
    def body(net: Net, flat: str) -> str:
        both = net.op("Concat", net.op("Relu", net.fc(flat, FEATURES, 8)), flat, axis=1)
        return net.fc(both, FEATURES + 8, M)

    proven(head(body))


def test_concat_of_a_window_with_itself() -> None:
    def body(net: Net, flat: str) -> str:
        both = net.op("Concat", flat, net.op("Relu", flat), flat, axis=1)
        return net.fc(both, 3 * FEATURES, M)

    proven(head(body))


@pytest.mark.parametrize("kind", ["Relu", "Sigmoid", "LeakyRelu"])
def test_activation_of_concatenated_branches(kind: str) -> None:
    """Two branches flattened and concatenated, and then one activation."""
    net = Net()
    trunk = net.trunk()
    parts = [net.conv(trunk, CHANNELS, 2, kernel, strides=[1, 1]) for kernel in ((1, 1), (3, 2))]
    both = net.op(kind, net.op("Concat", *(net.op("Flatten", part) for part in parts), axis=1))
    proven(net.model(net.fc(both, 2 * H * W + 2 * 3 * 3, M)))


def test_concat_with_pending_scales() -> None:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", tensor)
        scaled = net.op("Mul", flat, net.random(FEATURES))
        pooled = norm(net, net.op("Flatten", net.op("GlobalAveragePool", tensor)), CHANNELS)
        return net.fc(net.op("Concat", scaled, pooled, axis=1), FEATURES + CHANNELS, M)

    proven(bodied(body))


def test_branches_of_different_stride() -> None:
    """The skip branch has stride 2, the deep one 4: they meet on the coarser grid, or are refused."""
    net = Net()
    trunk = net.op("Tanh", net.conv(net.image(1, (15, 15)), 2, 3))
    deep = net.op("Tanh", net.conv(trunk, 3, 4))
    both = net.op("Concat", net.op("Flatten", trunk), net.op("Flatten", deep), axis=1)
    proven_or_refused(net.model(net.fc(both, 3 * 49 + 4 * 9, M)))


def test_side_input_is_spread_over_the_grid() -> None:
    """(N, 5) numbers beside the features: one value per image."""

    def body(net: Net, flat: str) -> str:
        side = net.input("side", [1, 5])
        return net.fc(net.op("Concat", flat, side, axis=1), FEATURES + 5, M)

    model = head(body)
    done = proven(model, crops=False)
    side = np.random.default_rng(4).standard_normal((1, 5)).astype(np.float32)
    assert own_crops(model, done, feed={"side": side}) < 1e-4


def test_side_input_added_to_the_scores() -> None:
    """A side input (N, M) goes to every cell."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Add", net.fc(flat, FEATURES, M), net.input("side", [2, M])))

    model = head(body, batch=2)
    done = proven(model, crops=False)
    side = np.random.default_rng(4).standard_normal((2, M)).astype(np.float32)
    assert own_crops(model, done, feed={"side": side}) < 1e-4


# Movement of scores


def test_reshape_and_transpose_of_scores() -> None:
    def body(net: Net, flat: str) -> str:
        pairs = net.op("Reshape", net.fc(flat, FEATURES, 12), net.ints(-1, 3, 4))
        turned = net.op("Transpose", pairs, perm=[0, 2, 1])
        return net.fc(net.op("Reshape", turned, net.ints(-1, 12)), 12, M)

    proven(head(body, batch=2))


def test_scores_of_two_axes_as_the_output() -> None:
    def body(net: Net, flat: str) -> str:
        pairs = net.op("Reshape", net.fc(flat, FEATURES, 12), net.ints(0, 3, 4))
        return str(net.op("Transpose", pairs, perm=[0, 2, 1]))

    done = proven(head(body, batch="N"))
    assert done.claim.outputs[0].axes == (3, 4)


@pytest.mark.parametrize("kind", ["Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile"])
def test_other_movement_of_scores(kind: str) -> None:
    def body(net: Net, flat: str) -> str:
        scores = net.fc(flat, FEATURES, M)
        if kind == "Squeeze":
            return net.axes("Squeeze", net.fc(scores, M, 1), [-1])
        if kind == "Unsqueeze":
            return str(net.op("Mul", net.axes("Unsqueeze", scores, [-1]), net.random(1, 1, 4)))
        if kind == "Flatten":
            return str(net.op("Flatten", net.op("Reshape", scores, net.ints(-1, 2, 3)), axis=-2))
        if kind == "Expand":
            rows = net.axes("Unsqueeze", scores, [1])
            return str(net.op("Mul", net.op("Expand", rows, net.ints(1, 3, 1)), net.random(3, M)))
        return str(net.op("Mul", net.op("Tile", scores, net.ints(1, 2)), net.random(2 * M)))

    proven(head(body, batch=2))


def test_conv_after_an_fc() -> None:
    """(N, 8) as (N, 8, 1, 1) through a 1x1 Conv."""

    def body(net: Net, flat: str) -> str:
        point = net.op("Reshape", net.fc(flat, FEATURES, 8), net.ints(-1, 8, 1, 1))
        return str(net.op("Flatten", net.op("Tanh", net.conv(point, 8, M, (1, 1), strides=[1, 1]))))

    proven(head(body))


def test_decoder_after_an_fc_is_refused_or_right() -> None:
    """(N, 8) as (N, 2, 2, 2) through a 2x2 Conv: an autoencoder, not a classifier."""

    def body(net: Net, flat: str) -> str:
        small = net.op("Reshape", net.fc(flat, FEATURES, 8), net.ints(-1, 2, 2, 2))
        return str(net.op("Conv", small, net.random(M, 2, 2, 2)))

    proven_or_refused(head(body))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", ["LayerNormalization", "LpNormalization", "TopK", "ArgMax", "L2 by hand", "by hand"])
def test_along_the_features(kind: str, place: str) -> None:
    if OLD_RUNTIME and (kind, place) == ("by hand", "before"):
        pytest.skip("the LayerNormalization that this onnxruntime makes of it is off where features are nearly alike")

    def body(net: Net, flat: str) -> Any:
        length = FEATURES if place == "before" else 8
        tensor = flat if place == "before" else net.fc(flat, FEATURES, 8)
        if kind == "LayerNormalization":
            made = net.op("LayerNormalization", tensor, net.random(length), net.random(length))
        elif kind == "LpNormalization":
            made = net.op("LpNormalization", tensor, axis=-1)
        elif kind == "TopK":
            made, length = net.op("TopK", tensor, net.ints(3), outputs=2)[0], 3
        elif kind == "ArgMax":
            found = net.op("Cast", net.op("ArgMax", tensor, axis=-1), to=TensorProto.FLOAT)
            made, length = net.op("Add", tensor, net.op("Mul", found, net.const(0.05))), length
        elif kind == "L2 by hand":
            size = net.op("Clip", net.axes("ReduceL2", tensor, [1], keepdims=1), net.const(1e-6))
            made = net.op("Div", tensor, net.op("Expand", size, net.op("Shape", tensor)))
        else:
            centred = net.op("Sub", tensor, net.axes("ReduceMean", tensor, [-1], keepdims=1))
            variance = net.axes("ReduceMean", net.op("Pow", centred, net.const(2.0)), [-1], keepdims=1)
            made = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-5))))
            made = net.op("Add", net.op("Mul", made, net.random(length)), net.random(length))
        return net.fc(made, length, M)

    proven(head(body))


def test_integer_outputs_of_an_exact_model_are_compared_with_crops() -> None:
    """ArgMax alone: a class number per cell."""
    done = proven(head(lambda net, flat: net.op("ArgMax", net.fc(flat, FEATURES, M), axis=1)))
    assert done.parity is not None
    assert done.parity.native.compared > 0


def test_crops_of_integer_outputs_are_reported() -> None:
    done = proven(head(lambda net, flat: net.op("ArgMax", net.fc(flat, FEATURES, M), axis=1)))
    assert done.parity is not None
    assert done.parity.crops.status == "measured"
    assert done.parity.crops.cells > 0


# What mixes the batch, or is no head


def test_mean_over_a_free_batch_is_refused() -> None:
    def body(net: Net, flat: str) -> str:
        scores = net.fc(flat, FEATURES, M)
        return str(net.op("Sub", scores, net.axes("ReduceMean", scores, [0], keepdims=1)))

    assert refusal(head(body, batch="N")).code == "mixes-batch"
    proven(head(body, batch=2))


def test_recurrent_reader_is_refused() -> None:
    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", net.op("Transpose", tensor, perm=[2, 0, 1, 3]), net.ints(H, 1, CHANNELS * W))
        weights = [net.random(1, 4 * 5, CHANNELS * W), net.random(1, 4 * 5, 5)]
        made = net.op("LSTM", rows, *weights, outputs=1, hidden_size=5)
        return str(net.op("Reshape", made, net.ints(1, -1)))

    found = refusal(bodied(body))
    assert found.code in {"recurrent", "mixes-batch"}


def test_self_attention_over_places_is_refused() -> None:
    """(N, 20, 3) times its transpose: every place looks at every other."""

    def body(net: Net, tensor: str) -> str:
        tokens = net.op("Transpose", net.op("Reshape", tensor, net.ints(0, CHANNELS, -1)), perm=[0, 2, 1])
        scores = net.op("Softmax", net.op("MatMul", tokens, net.op("Transpose", tokens, perm=[0, 2, 1])))
        return net.fc(net.op("Flatten", net.op("MatMul", scores, tokens)), FEATURES, M)

    proven_or_refused(bodied(body))


@pytest.mark.parametrize(("opset", "kind"), [(8, "Upsample"), (9, "Upsample"), (10, "Resize"), (13, "Resize")])
@pytest.mark.skipif(OLD_ONNX, reason="this version of onnx counts the batch of a Resize in float32")
def test_resized_picture_behind_an_fc(opset: int, kind: str) -> None:
    def body(net: Net, flat: str) -> str:
        picture = net.op("Reshape", net.fc(flat, FEATURES, 12), net.ints(-1, 3, 2, 2))
        if opset == 8:
            return str(net.op(kind, picture, scales=[1.0, 1.0, 2.0, 3.0], mode="nearest"))
        scales = net.const([1.0, 1.0, 2.0, 3.0])
        return str(net.op(kind, picture, *([scales] if opset < 11 else ["", scales])))

    assert proven(head(body, opset=opset, batch=2)).claim.outputs[0].axes == (4, 5)


def test_sum_along_the_features_by_an_axis_of_rank_1() -> None:
    proven(head(lambda net, flat: net.op("CumSum", net.fc(flat, FEATURES, M), net.ints(1)), batch=2))


def test_output_that_is_only_a_shape_is_refused() -> None:
    def body(net: Net, flat: str) -> str:
        return str(net.op("Shape", net.fc(flat, FEATURES, M)))

    assert refusal(head(body)).code == "no-head"


def test_two_images_of_different_size() -> None:
    """Both grow by the same number of pixels; the dims of the second have names of their own."""
    net = Net()
    parts = []
    for name, size in (("near", (11, 9)), ("far", (7, 7))):
        image = net.input(name, [1, 2, *size])
        parts.append(net.op("Flatten", net.op("Tanh", net.conv(image, 2, 3))))
    model = net.model(net.fc(net.op("Concat", *parts, axis=1), FEATURES + 27, M))
    done = rewrite(model, check_options=CHECK)
    assert done.replacements[0].after == "Conv 5x4 3→6 + 3x3 3→6"
    dims = [[dim.dim_param for dim in info.type.tensor_type.shape.dim][2:] for info in done.model.graph.input]
    assert dims == [["height", "width"], ["height_2", "width_2"]]


def test_nodes_in_another_order() -> None:
    """ONNX wants each node behind what it reads; onnxruntime runs it in any order."""
    model = head(lambda net, flat: net.fc(net.op("Relu", net.fc(flat, FEATURES, 8)), 8, 4))
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node][::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert len(proven(model).replacements) == 2
