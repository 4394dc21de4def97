"""Weights in integers follow their FC layer: one scale, one for each output, blocks, other orders, in floats first."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, FEATURES, WINDOW, Net, bodied, complete, head, proven, refusal
from onnx import TensorProto, helper, numpy_helper

M = 6


def proven_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnxruntime makes MatMulNBits of a DequantizeLinear and a MatMul, which rounds its features to integers, too.

    Its sums are a thousandth off; the proof's sessions, which pack no weights, compute them in floats.
    """
    return complete(proven(model, crops=False))


def integers(
    net: Net, *shape: int, axis: int | None, dtype: Any = np.int8, zero: bool = True, **more: Any
) -> tuple[str, ...]:
    """A DequantizeLinear of random integers, with a scale for each place along ``axis``; what it makes."""
    kind = np.iinfo(dtype)
    weight = net.const(net.rng.integers(kind.min, kind.max, shape, endpoint=True), dtype=dtype)
    scales = () if axis is None else (shape[axis],)
    scale = net.const(net.rng.uniform(0.5, 2, scales) / (kind.max - kind.min) / 3)
    points = [net.const(net.rng.integers(-9, 9, scales) + (kind.max + kind.min + 1) // 2, dtype=dtype)] if zero else []
    given = {} if axis is None else {"axis": axis}
    return str(net.op("DequantizeLinear", weight, scale, *points, **given, **more)), weight, scale, *points


def node_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    """The only one of its kind."""
    [node] = [node for node in model.graph.node if node.op_type == kind]
    return node


def value(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(item for item in model.graph.initializer if item.name == name))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("axis", [None, 0, -2])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_gemm(axis: int | None, dtype: Any, opset: int) -> None:
    model = head(
        lambda net, flat: net.op("Gemm", flat, integers(net, M, FEATURES, axis=axis, dtype=dtype)[0], transB=1),
        opset=opset,
    )
    made, old = complete(proven(model)), node_of(model, "DequantizeLinear")
    new = node_of(made, "DequantizeLinear")
    assert value(made, new.input[0]).tobytes() == value(model, old.input[0]).tobytes()
    assert value(made, new.input[0]).shape == (M, CHANNELS, *WINDOW)
    assert list(new.input[1:]) == list(old.input[1:])
    assert [item.i for item in new.attribute] == [0]


@pytest.mark.parametrize("axis", [1, -1])
def test_matmul_with_a_scale_for_each_column(axis: int) -> None:
    """Axis 1 of (K, M) is the output: axis 0 of the Conv's weight."""
    model = head(lambda net, flat: net.op("MatMul", flat, integers(net, FEATURES, M, axis=axis)[0]))
    made, old = proven_matmul(model), node_of(model, "DequantizeLinear")
    new = node_of(made, "DequantizeLinear")
    assert [(item.name, item.i) for item in new.attribute] == [("axis", 0)]
    want = value(model, old.input[0]).T.reshape(M, CHANNELS, *WINDOW)
    np.testing.assert_array_equal(value(made, new.input[0]), want)
    assert list(new.input[1:]) == list(old.input[1:])


def test_turned_behind_its_scale() -> None:
    """PyTorch writes a Transpose between the weight and its product."""

    def body(net: Net, flat: str) -> str:
        weight = net.op("Transpose", integers(net, M, FEATURES, axis=0)[0], perm=[1, 0])
        return str(net.op("Add", net.op("MatMul", flat, weight), net.random(M)))

    made = proven_matmul(head(body))
    assert [node.op_type for node in made.graph.node if node.op_type in {"Transpose", "Reshape"}] == []
    assert value(made, node_of(made, "DequantizeLinear").input[0]).shape == (M, CHANNELS, *WINDOW)


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_stored_in_floats(kind: str) -> None:
    """As quantisation in training leaves it: a QuantizeLinear and a DequantizeLinear of a weight in floats."""
    axis, shape = (0, (M, FEATURES)) if kind == "Gemm" else (1, (FEATURES, M))

    def body(net: Net, flat: str) -> str:
        given = [net.const(net.rng.uniform(0.002, 0.01, M)), net.const(np.zeros(M), dtype=np.int8)]
        stored = net.op("QuantizeLinear", net.random(*shape), *given, axis=axis)
        weight = net.op("DequantizeLinear", stored, *given, axis=axis)
        return str(net.op(kind, flat, weight, **({"transB": 1} if kind == "Gemm" else {})))

    made = proven_matmul(head(body))
    quantise, back = node_of(made, "QuantizeLinear"), node_of(made, "DequantizeLinear")
    assert value(made, quantise.input[0]).shape == (M, CHANNELS, *WINDOW)
    assert back.input[0] == quantise.output[0]
    assert [node.attribute[0].i for node in (quantise, back)] == [0, 0]


def test_zero_points_are_written() -> None:
    """onnxruntime computes in integers only with them."""
    model = head(lambda net, flat: net.op("MatMul", flat, integers(net, FEATURES, M, axis=1, zero=False)[0]))
    made = proven_matmul(model)
    zero = value(made, node_of(made, "DequantizeLinear").input[2])
    assert zero.dtype == np.int8
    assert not zero.any()
    assert zero.shape == (M,)


def test_channels_last() -> None:
    def body(net: Net, before: str) -> str:
        flat = net.op("Flatten", net.op("Transpose", before, perm=[0, 2, 3, 1]))
        return str(net.op("Gemm", flat, integers(net, M, FEATURES, axis=0)[0], transB=1))

    model = bodied(body)
    made = complete(proven(model))
    old = value(model, node_of(model, "DequantizeLinear").input[0])
    new = value(made, node_of(made, "DequantizeLinear").input[0])
    np.testing.assert_array_equal(new, old.reshape(M, *WINDOW, CHANNELS).transpose(0, 3, 1, 2))


def test_two_maps_read_by_one_layer() -> None:
    """Each has its part of the integers, and the same scales."""

    def body(net: Net, before: str) -> str:
        both = [net.op("Flatten", before), net.op("Flatten", net.op("Sigmoid", before))]
        weight = integers(net, M, 2 * FEATURES, axis=0)[0]
        return str(net.op("Gemm", net.op("Concat", *both, axis=1), weight, net.random(M), transB=1))

    model = bodied(body)
    made = complete(proven(model))
    parts = [node for node in made.graph.node if node.op_type == "DequantizeLinear"]
    assert len({node.name for node in parts}) == len(parts) == 2
    assert parts[0].input[1:] == parts[1].input[1:]
    halves = [value(made, node.input[0]).reshape(M, -1) for node in parts]
    np.testing.assert_array_equal(
        np.concatenate(halves, axis=1), value(model, node_of(model, "DequantizeLinear").input[0])
    )


def test_features_read_twice() -> None:
    """Integers cannot be added up: the window is computed first."""

    def body(net: Net, flat: str) -> str:
        twice = net.op("Gather", flat, net.ints(*range(FEATURES), 0, 1, 2), axis=1)
        return str(net.op("Gemm", twice, integers(net, M, FEATURES + 3, axis=0)[0], transB=1))

    made = complete(proven(head(body)))
    assert value(made, node_of(made, "DequantizeLinear").input[0]).shape == (M, FEATURES + 3, 1, 1)


def test_scaled_features() -> None:
    """A BatchNormalization before the layer cannot go into its integers."""

    def body(net: Net, flat: str) -> str:
        given = [net.const(net.rng.uniform(0.5, 2, FEATURES)) for _ in range(4)]
        return str(
            net.op("Gemm", net.op("BatchNormalization", flat, *given), integers(net, M, FEATURES, axis=0)[0], transB=1)
        )

    made = complete(proven(head(body)))
    assert value(made, node_of(made, "DequantizeLinear").input[0]).dtype == np.int8


def test_shared_by_two_layers() -> None:
    def body(net: Net, before: str) -> str:
        weight = integers(net, M, FEATURES, axis=0)[0]
        one, two = (
            net.op("Gemm", net.op("Flatten", item), weight, transB=1) for item in (before, net.op("Sigmoid", before))
        )
        return str(net.op("Add", one, two))

    made = complete(proven(bodied(body)))
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    assert sum(item.data_type == TensorProto.INT8 and len(item.dims) == 4 for item in made.graph.initializer) == 1


def test_bias_in_integers_stays_so() -> None:
    def body(net: Net, flat: str) -> str:
        weight, _, scale, *_ = integers(net, M, FEATURES, axis=0)
        stored = net.const(net.rng.integers(-999, 999, M), dtype=np.int32)
        bias = net.op("DequantizeLinear", stored, scale, out="bias", axis=0)
        return str(net.op("Gemm", flat, weight, bias, transB=1))

    made = complete(proven(head(body)))
    assert [node.input[2] for node in made.graph.node if node.op_type == "Conv"][-1] == "bias"


@pytest.mark.parametrize("how", ["alpha", "scale for each input", "blocks"])
def test_what_has_no_form_of_a_conv_is_computed_in_the_graph(how: str) -> None:
    """The integers stay as they are stored; what they stand for is turned."""

    def body(net: Net, flat: str) -> str:
        if how == "alpha":
            return str(net.op("Gemm", flat, integers(net, M, FEATURES, axis=0)[0], transB=1, alpha=0.5))
        if how == "scale for each input":
            return str(net.op("Gemm", flat, integers(net, M, FEATURES, axis=1)[0], transB=1))
        stored = net.const(net.rng.integers(-128, 127, (M, FEATURES)), dtype=np.int8)
        scale = net.const(net.rng.uniform(0.001, 0.01, (M, FEATURES // 10)))
        weight = net.op("DequantizeLinear", stored, scale, axis=1, block_size=10)
        return str(net.op("Gemm", flat, weight, transB=1))

    model = head(body, opset=21)
    made = complete(proven(model))
    old, new = node_of(model, "DequantizeLinear"), node_of(made, "DequantizeLinear")
    assert new == old
    assert value(made, new.input[0]).tobytes() == value(model, old.input[0]).tobytes()


@pytest.mark.parametrize("bits", [4, 16])
def test_other_widths(bits: int) -> None:
    """Four bits are packed by two: the very same bytes."""
    kind = {4: TensorProto.INT4, 16: TensorProto.INT16}[bits]
    high = 2 ** (bits - 1)
    numbers = np.random.default_rng(0).integers(-high, high, (M, FEATURES))
    stored = helper.make_tensor("stored", kind, numbers.shape, numbers.ravel().tolist())

    def body(net: Net, flat: str) -> str:
        net.weights.append(stored)
        scale = net.const(net.rng.uniform(0.5, 1, M) / high / 4)
        weight = net.op("DequantizeLinear", "stored", scale, axis=0)
        return str(net.op("Gemm", flat, weight, transB=1))

    made = complete(proven(head(body, opset=21)))
    tensor = next(item for item in made.graph.initializer if item.name == node_of(made, "DequantizeLinear").input[0])
    assert tensor.data_type == kind
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).reshape(M, FEATURES).astype(int), numbers)


def test_activations_with_a_scale_for_each_channel() -> None:
    def body(net: Net, before: str) -> str:
        given = [net.const(net.rng.uniform(0.01, 0.02, CHANNELS)), net.const(np.zeros(CHANNELS), dtype=np.int8)]
        integers = net.op("QuantizeLinear", before, *given, axis=1)
        flat = net.op("Flatten", net.op("DequantizeLinear", integers, *given, axis=1))
        return net.fc(str(flat), FEATURES, M)

    found = refusal(bodied(body))
    assert found.code == "quantised"
    assert "more than one scale for what comes from the image" in found.reason
