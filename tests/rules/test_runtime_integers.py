"""What onnxruntime alone writes of integers: its own QuantizeLinear, channels-last maps, QLinearWhere, narrow types."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import FEATURES, OLD_RUNTIME, Net, complete, head, own_crops, refusal, session
from onnx import TensorProto, helper, numpy_helper

from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

M = 6
OWN = ["lenet.qdq_own_int4", "lenet.qdq_own_int16"]
CHANNELS_LAST = ["mini_densenet.nhwc_qoperator", "mobilenet.nhwc_qoperator", "softmax_opset13.nhwc_qdq"]
KINDS = [
    *((TensorProto.FLOAT8E4M3FN, 0, 0.01), (TensorProto.FLOAT8E5M2, 0, 0.01), (TensorProto.INT16, 0, 1e-4)),
    *((TensorProto.INT4, 0, 0.3), (TensorProto.UINT4, 8, 0.3), (TensorProto.UINT16, 32768, 1e-4)),
]


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


def proven(model: onnx.ModelProto) -> Rewrite:
    done = rewrite(model, check_options=CheckOptions(threads=1, samples=2))
    assert done.parity is not None
    assert done.parity.native.deviation < 1e-5
    assert done.parity.window.status == "passed"
    assert done.parity.certificate.status == "holds", done.parity.certificate.reason
    return done


@pytest.mark.parametrize("name", OWN)
def test_its_own_quantisation_stays_its_own(name: str) -> None:
    """Before operator set 21 ONNX has no QuantizeLinear of 4 or 16 bits."""
    original = loaded(name)
    done = proven(original)
    assert own_crops(original, done, as_written=True) < 1e-3
    made = complete(done)
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        before, after = ([n for n in model.graph.node if n.op_type == kind] for model in (original, made))
        assert {node.domain for node in after} == {"com.microsoft"}
        assert len(after) == len(before)
    old = {node.output[0]: node.SerializeToString() for node in original.graph.node}
    assert (
        sum(node.SerializeToString() != old.get(node.output[0]) for node in made.graph.node) == 6
    )  # weights, Convs, and a pair ahead of Flatten


@pytest.mark.parametrize("name", CHANNELS_LAST)
def test_channels_last(name: str) -> None:
    """As the same without onnxruntime's optimisation, at every size: the same integers, channels first."""
    first, _, form = name.partition(".nhwc_")
    done, plain = proven(loaded(name)), complete(rewrite(loaded(f"{first}.{form}"), prove=False))
    made = complete(done)
    kinds = Counter(node.op_type for node in made.graph.node if node.domain == "com.microsoft")
    assert not {"NhwcMaxPool", "QLinearConv"} & set(kinds)
    image, (height, width) = made.graph.input[0].name, done.claim.native_size
    for size in ((height + more, width + 2 * more) for more in (8, 13)):
        feed = {image: np.random.default_rng(size[0]).standard_normal((1, channels(made), *size)).astype(np.float32)}
        got, want = (session(model).run(None, feed)[0] for model in (made, plain))
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= (0.0 if "densenet" not in name else 0.02 * np.ptp(want))


def channels(model: onnx.ModelProto) -> int:
    return int(model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def test_transposes_between_are_gone() -> None:
    made = complete(rewrite(loaded("softmax_opset13.nhwc_qdq"), prove=False))
    assert not [node for node in made.graph.node if node.op_type == "Transpose"]
    assert [node.op_type for node in made.graph.node if node.op_type.endswith("Pool")] == ["MaxPool"] * 2


def rounded(net: Net, tensor: str, kind: int = TensorProto.UINT8, zero: int = 128, scale: float = 0.02) -> str:
    """A QuantizeLinear and its DequantizeLinear."""
    point = net.fresh("zero")
    net.weights.append(helper.make_tensor(point, kind, [], [zero]))
    given = [net.const(np.array(scale)), point]
    return str(net.op("DequantizeLinear", net.op("QuantizeLinear", tensor, *given), *given))


@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime does not run some of these types")
@pytest.mark.parametrize("on_map", [False, True])
@pytest.mark.parametrize(("kind", "zero", "scale"), KINDS)
def test_types_that_numpy_does_not_read(kind: int, zero: int, scale: float, on_map: bool) -> None:
    """The proof looks at floats behind them instead."""

    def body(net: Net, flat: str) -> str:
        return rounded(net, net.fc(rounded(net, flat, kind, zero, scale), FEATURES, M), kind, zero, 3 * scale)

    def whole(net: Net) -> str:
        flat = net.op("Flatten", rounded(net, net.trunk(), kind, zero, scale))
        return net.fc(str(flat), FEATURES, M)

    net = Net(21)
    model = net.model(whole(net)) if on_map else head(body, opset=21)
    assert own_crops(model, proven(model), as_written=True) < 1e-5


@pytest.mark.parametrize("place", ["window", "fixed", "scores"])
def test_where(place: str) -> None:
    """QLinearWhere(condition, x, y) is Where between what its integers stand for."""

    def body(net: Net, flat: str) -> str:
        scale, zero = net.const(np.array(0.02)), net.const(np.array(128), dtype=np.uint8)
        features = net.fc(flat, FEATURES, M) if place == "scores" else flat
        count = M if place == "scores" else FEATURES
        condition = str(net.op("Less", features, net.const(np.array(0.1))))
        if place == "fixed":
            condition = net.const(net.rng.integers(0, 2, (1, count)), dtype=bool)
        low, high = (net.op("QuantizeLinear", net.op(kind, features), scale, zero) for kind in ("Relu", "Neg"))
        operands = [low, scale, zero, high, scale, zero, scale, zero]
        made = net.op("QLinearWhere", condition, *operands, domain="com.microsoft")
        return net.fc(str(net.op("DequantizeLinear", made, scale, zero)), count, M)

    model = head(body)
    done = proven(model)
    assert own_crops(model, done, as_written=True) < 1e-6
    kinds = Counter(node.op_type for node in complete(done).graph.node)
    assert (kinds["QLinearWhere"], kinds["Where"]) == ((1, 0) if place == "scores" else (0, 1))


def test_softmax_by_the_whole_part_of_its_scale() -> None:
    """onnxruntime's kernel multiplies by 254 where the scale is a little more than 1/255."""
    model = loaded("softmax_opset13.nhwc_qdq")
    node = next(item for item in model.graph.node if item.op_type == "QLinearSoftmax")
    scale = next(item for item in model.graph.initializer if item.name == node.input[3])
    assert 1 / numpy_helper.to_array(scale) == pytest.approx(255, abs=1e-3)
    assert own_crops(model, proven(model)) == 0.0


def test_what_cannot_be_followed() -> None:
    def attention(net: Net, flat: str) -> str:
        scale, zero = net.const(np.array(0.02)), net.const(np.array(128), dtype=np.uint8)
        tokens = net.op("QuantizeLinear", net.op("Reshape", net.fc(flat, FEATURES, 24), net.ints(1, 3, 8)), scale, zero)
        weight, own = (
            net.const(net.rng.integers(-99, 99, (8, 24)), dtype=np.int8),
            net.const(np.array(0), dtype=np.int8),
        )
        given = [tokens, weight, net.random(24), scale, net.const(np.array(0.01)), "", zero, own]
        made = net.op("QAttention", *given, domain="com.microsoft", num_heads=2)
        return net.fc(str(net.op("Reshape", made, net.ints(1, 24))), 24, M)

    def integers(net: Net, flat: str) -> str:
        whole = net.op("Cast", net.op("Mul", flat, net.const(np.array(40.0))), to=TensorProto.INT32)
        made = net.op("MatMul", whole, net.const(net.rng.integers(-9, 9, (FEATURES, M)), dtype=np.int32))
        return str(net.op("Cast", made, to=TensorProto.FLOAT))

    found = refusal(head(attention))
    assert (found.code, found.reason) == ("unsupported-operator", "QAttention is attention as onnxruntime fuses it")
    assert found.advice == "fuse and quantise it after the rewrite"
    assert refusal(head(integers)).reason == "MatMul multiplies int32 numbers, as no Conv does"


def test_shares_of_the_image_in_integers_are_refused() -> None:
    """Attention over places: the weights of a larger image fall below a step, and are 0 then."""
    net, channel = Net(17), 8
    tokens = net.op("Transpose", net.op("Reshape", net.trunk(1, channel), net.ints(1, channel, -1)), perm=[0, 2, 1])
    products = net.op("MatMul", tokens, net.op("Transpose", tokens, perm=[0, 2, 1]))
    shares = rounded(net, str(net.op("Softmax", products, axis=-1)), TensorProto.UINT8, 0, 1 / 255)
    made = net.op("Add", tokens, net.op("MatMul", shares, tokens))
    flat = net.axes("ReduceMean", str(made), [1], keepdims=0)
    found = refusal(net.model(net.fc(flat, channel, M)))
    assert found.code == "quantised"
    assert "those of a larger image fall below a step" in found.reason
    assert "nodes_to_exclude" in found.advice
