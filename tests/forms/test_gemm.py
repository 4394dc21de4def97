"""The way back: Convs that cover their map become Gemms, with the original's bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import here, unwrapped
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, session
from onnx import helper, numpy_helper

from onnxfc import NothingToRewrite, Rewrite, RewriteOptions, UsageError, check_pair, rewrite
from onnxfc.forms.weight_order import WeightOrder

GEMM = RewriteOptions(form="gemm")
ROUND = [
    *("lenet.dynamo", "mini_alexnet.torchscript", "mini_vgg.torchscript", "mini_resnet.dynamo", "se_net.torchscript"),
    *("matmul_add.dynamo", "keras_flatten.export", "keras_flatten.nchw", "keras_same.tf2onnx", "rectangular.dynamo"),
]
"""Weights outputs first and last (MatMul), features in the order C, H, W and H, W, C (Keras), layers of gates."""


def conv4d(name: str, **options: Any) -> onnx.ModelProto:
    made = rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(form="conv4d", **options), prove=False)
    return complete(made)


def gemm(model: Any) -> Rewrite:
    return rewrite(model, options=GEMM, check_options=CHECK)


def values(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def layers(model: onnx.ModelProto) -> list[np.ndarray]:
    """Weights of FC layers, in order."""
    known = values(model)
    nodes = [node for node in model.graph.node if node.op_type in {"Gemm", "MatMul"}]
    return [known[node.input[1]] for node in nodes]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", ROUND)
def test_round_trip_gives_the_originals_weights_byte_for_byte(name: str, keep: bool) -> None:
    original = onnx.load(fixture_file(f"{name}.onnx"))
    between = conv4d(name, keep_output_shape=keep)
    assert layers(between) == []
    done = gemm(between)
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.certificate.status == "holds"
    model = complete(done)
    onnx.checker.check_model(model, full_check=True)
    want, got = layers(original), layers(model)
    assert [item.shape for item in got] == [item.shape for item in want]
    assert [item.tobytes() for item in got] == [item.tobytes() for item in want]
    names = values(original)
    assert all(value.tobytes() == names[name].tobytes() for name, value in values(model).items() if name in names)
    old, new = session(original), session(model)
    feed = {
        item.name: np.random.default_rng(1).standard_normal(item.shape).astype(np.float32) for item in new.get_inputs()
    }
    [want_scores], [got_scores] = old.run(None, feed), new.run(None, feed)
    assert got_scores.shape == want_scores.shape
    np.testing.assert_allclose(got_scores, want_scores, atol=1e-5 * np.ptp(want_scores))


def test_nothing_of_a_claim_is_left() -> None:
    """What is written is a classifier as others are: it can be rewritten again, and checked."""
    path = fixture_file("mini_vgg.torchscript.onnx")
    model = complete(gemm(conv4d("mini_vgg.torchscript")))
    assert not any(item.key.startswith("onnxfc.") for item in model.metadata_props)
    again = rewrite(model, check_options=CHECK)
    assert again.parity is not None
    assert again.parity.passed
    assert check_pair(path, model, options=CHECK).passed
    layer = next(node for node in model.graph.node if node.op_type == "Gemm")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == layer.input[1])
    value = numpy_helper.to_array(weight).copy()
    value[3] *= -1
    weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    assert not check_pair(path, model, options=CHECK).passed


def test_a_batch_that_is_free_stays_free() -> None:
    path = fixture_file("lenet_batch.dynamo.onnx")
    free = rewrite(path, options=RewriteOptions(dynamic_batch=True), prove=False)
    done = gemm(free)
    assert done.parity is not None
    assert done.parity.passed
    new, old = session(complete(done)), session(onnx.load(path))
    [info] = new.get_inputs()
    assert isinstance(info.shape[0], str)
    assert info.shape[1:] == [1, 28, 28]
    images = np.random.default_rng(0).standard_normal((5, 1, 28, 28)).astype(np.float32)
    [got] = new.run(None, {info.name: images})
    want = np.concatenate([old.run(None, {info.name: images[i : i + 1]})[0] for i in range(5)])
    np.testing.assert_allclose(got, want, atol=1e-5)


def _headed(body: Any) -> onnx.ModelProto:
    """The usual trunk, (1, 3, 5, 4), and a head of Convs."""
    net = Net()
    return net.model(body(net, net.trunk()))


def test_a_head_that_somebody_made_of_convs() -> None:
    """Between its layers a scale for each channel, a gate of its own channels, a Softmax over them, a Concat."""

    def body(net: Net, features: str) -> str:
        first = net.op("Conv", features, net.random(6, 3, 5, 4), net.random(6))
        scaled = net.op("Relu", net.op("Mul", net.random(6, 1, 1), first))
        both = net.op("Concat", scaled, net.op("Conv", net.op("Sigmoid", first), net.random(2, 6, 1, 1)), axis=1)
        scores = net.op("Conv", both, net.random(4, 8, 1, 1), net.random(4), kernel_shape=[1, 1], strides=[2, 2])
        return net.op("Squeeze", net.op("Softmax", scores, axis=1), net.ints(2, 3))

    model = _headed(body)
    done = gemm(model)
    form = complete(done)
    kinds = [node.op_type for node in form.graph.node]
    assert kinds.count("Gemm") == 3
    assert kinds.count("Conv") == kinds.count("Flatten") == 1
    assert "Squeeze" not in kinds
    feed = {"image": np.random.default_rng(0).standard_normal((1, 2, 11, 9)).astype(np.float32)}
    [want], [got] = session(model).run(None, feed), session(form).run(None, feed)
    np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("told", [{"pads": [1, 1, 1, 1]}, {"group": 3}, {"auto_pad": "SAME_UPPER", "strides": [5, 5]}])
def test_other_convs_are_left_alone(told: dict[str, Any]) -> None:
    """A padded one, one of groups: only what covers its map, unpadded, is an FC layer."""

    def body(net: Net, features: str) -> str:
        channels = 3 // told.get("group", 1)
        other = net.op("Conv", features, net.random(3, channels, 5, 4), **told)
        rest = net.op("ReduceMean", other, axes=[2, 3], keepdims=1)
        return net.op("Conv", rest, net.random(4, 3, 1, 1))

    model = _headed(body)
    form = complete(gemm(model))
    assert [node.op_type for node in form.graph.node].count("Gemm") == 1
    assert [node.op_type for node in form.graph.node].count("Conv") == 2
    feed = {"image": np.random.default_rng(0).standard_normal((1, 2, 11, 9)).astype(np.float32)}
    [want], [got] = session(model).run(None, feed), session(form).run(None, feed)
    assert got.shape == want.shape == (1, 4, 1, 1)
    np.testing.assert_allclose(got, want, atol=1e-5 * np.ptp(want))


def test_damaged_orders_are_not_followed() -> None:
    """The metadata may say anything: the weight then is the Conv's, outputs first."""
    for told in ("[]", '{"sequential_1/dense/MatMul": {"dims": [1]}}', "{"):
        model = conv4d("keras_flatten.nchw")
        next(item for item in model.metadata_props if item.key == "onnxfc.weights").value = told
        done = gemm(model)
        assert done.parity is not None
        assert done.parity.passed
        [node] = [node for node in done.model.graph.node if node.op_type == "Gemm"]
        assert {item.name: helper.get_attribute_value(item) for item in node.attribute} == {"transB": 1}


def test_refusals() -> None:
    with pytest.raises(NothingToRewrite, match="no Conv's kernel covers its whole map at 63x63 px") as caught:
        gemm(fixture_file("mini_squeezenet.dynamo.onnx"))
    assert caught.value.refusals[0].code == "no-covering-conv"
    fixed = rewrite(
        fixture_file("lenet.dynamo.onnx"), options=RewriteOptions(fixed_size=(36, 40), form="conv4d"), prove=False
    )
    with pytest.raises(UsageError, match="this model takes images of 36x40 px alone"):
        gemm(complete(fixed))
    for options in ({"fixed_size": (28, 28)}, {"dynamic_batch": True}, {"output": "mean"}, {"global_pool": "keep"}):
        with pytest.raises(UsageError, match="--form gemm takes --size and --input alone"):
            RewriteOptions(form="gemm", **options)  # type: ignore[arg-type]


def test_on_the_command_line(tmp_path: Path) -> None:
    between, out = tmp_path / "conv4d.onnx", tmp_path / "gemm.onnx"
    original = fixture_file("mini_vgg.dynamo.onnx")
    assert here("rewrite", original, between, "--form", "conv4d", "-q").code == 0
    done = here("rewrite", between, out, "--form", "gemm")
    assert done.code == 0, done.err
    text = unwrapped(done.out)
    assert "Conv 7x7 8→24  ⇒ Gemm 392→24" in text
    assert "image size      56x56 px, as before" in text
    assert "certificate     3 FC weights are found in Convs: byte for byte" in text
    assert here("check", original, out).code == 0


@pytest.mark.parametrize(
    ("parts", "perm", "fits"),
    [
        ((5, 2, 6, 4), (0, 1, 2, 3), True),
        ((5, 6, 4, 2), (0, 3, 1, 2), True),
        ((5, 6, 4, 2), (0, 1, 2, 3), False),
        ((5, 2, 6, 4), (0, 1, 2, 7), False),
        ((5, 48), (0, 1), False),
    ],
)
def test_orders_that_metadata_may_claim(parts: tuple[int, ...], perm: tuple[int, ...], fits: bool) -> None:
    assert WeightOrder((5, 48), parts, perm).fits((5, 2, 6, 4)) is fits
