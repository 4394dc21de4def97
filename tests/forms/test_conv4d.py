"""Models for accelerators: maps (1, C, H, W) alone, Conv for every FC layer, every attribute told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import here, unwrapped
from fixture_files import fixture_file
from hazards import CHECK, Net, bodied, complete, own_crops, session
from onnx import helper, numpy_helper

from onnxfc import NothingToRewrite, Rewrite, RewriteOptions, UsageError, check_pair, inspect, rewrite

CLASSICS = [
    *("lenet.dynamo", "mini_alexnet.dynamo", "mini_vgg.torchscript", "mini_resnet.dynamo", "mobilenet.torchscript"),
    *("se_net.dynamo", "se_net.torchscript", "mini_densenet.dynamo", "mini_googlenet.torchscript"),
    *("keras_flatten.export", "keras_mobile.tf2onnx", "keras_same.export", "matmul_add.dynamo", "lenet.qdq"),
]


def conv4d(model: Any, **options: Any) -> Rewrite:
    """Not proven by onnxfc."""
    return rewrite(model, options=RewriteOptions(form="conv4d", **options), prove=False)


def feed_of(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """An image for the one input."""
    [info] = session(model).get_inputs()
    return {info.name: np.random.default_rng(seed).standard_normal(info.shape).astype(np.float32)}


def holds(model: onnx.ModelProto) -> None:
    """What the form promises."""
    onnx.checker.check_model(model, full_check=True)
    infos = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    shapes = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in infos}
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        assert node.op_type not in {"Gemm", "MatMul", "Flatten", "Reshape", "Squeeze", "Unsqueeze"}
        told = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        assert told.get("auto_pad", b"NOTSET") == b"NOTSET"
        if node.op_type == "Conv":
            assert set(told) == {"kernel_shape", "strides", "pads", "dilations", "group"}
        for name in node.output:
            weight = node.op_type in {"Constant", "DequantizeLinear"} and set(node.input) <= constant
            assert weight or (len(shapes[name]) == 4 and 0 not in shapes[name]), name


@pytest.mark.parametrize("name", CLASSICS)
def test_classics(name: str) -> None:
    path = fixture_file(f"{name}.onnx")
    model = complete(conv4d(path))
    holds(model)
    feed = feed_of(model)
    [want], [got] = session(onnx.load(path)).run(None, feed), session(model).run(None, feed)
    assert got.shape == (*want.shape, 1, 1)
    step = 0.02 if name == "lenet.qdq" else 0
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=(1e-5 + step) * np.ptp(want))


@pytest.mark.parametrize("name", CLASSICS[:5])
def test_openvino_compiles_it_and_computes_the_same(name: str) -> None:
    """A second runtime, with a compiler of its own, against the original in onnxruntime."""
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'onnxfc[openvino]'")
    path = fixture_file(f"{name}.onnx")
    for keep in (False, True):
        model = complete(conv4d(path, keep_output_shape=keep))
        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        for seed in range(3):
            feed = feed_of(model, seed)
            [want] = session(onnx.load(path)).run(None, feed)
            got = compiled(feed)[compiled.output(0)]
            assert got.shape == (want.shape if keep else (*want.shape, 1, 1))
            np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-4 * np.ptp(want))


def test_at_another_size_its_cells_are_the_originals_on_crops() -> None:
    path = fixture_file("lenet.dynamo.onnx")
    done = conv4d(path, fixed_size=(36, 40))
    holds(complete(done))
    assert own_crops(onnx.load(path), done, (2, 3)) < 1e-5


def test_layers_of_a_gate_become_convs_with_their_bytes() -> None:
    """Squeeze-and-excitation is no head: its FC layers stay what they are in a model for any size."""
    path = fixture_file("se_net.torchscript.onnx")
    before = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    model = complete(conv4d(path))
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    free = rewrite(path, prove=False).model
    layers = [node for node in free.graph.node if node.op_type == "Gemm"]
    assert len(layers) == 2
    convs = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    for node in layers:
        mine = values[convs[node.name].input[1]]
        assert list(mine.dims) == [*before[node.input[1]].dims, 1, 1]
        assert numpy_helper.to_array(mine).tobytes() == numpy_helper.to_array(before[node.input[1]]).tobytes()


def test_keep_output_shape() -> None:
    path = fixture_file("mini_resnet.dynamo.onnx")
    done = conv4d(path, keep_output_shape=True)
    model = complete(done)
    [want], [got] = (session(item).run(None, feed_of(model)) for item in (onnx.load(path), model))
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5 * np.ptp(want))
    assert [node.op_type for node in model.graph.node][-2:] == ["Conv", "Reshape"]
    assert done.claim.outputs[0].form == "global"
    with pytest.raises(UsageError, match="output scores has 3x4 cells, which have no room in one vector"):
        conv4d(fixture_file("lenet.dynamo.onnx"), fixed_size=(36, 40), keep_output_shape=True)


@pytest.mark.parametrize("keep", [False, True])
def test_proven_and_checked(keep: bool) -> None:
    path = fixture_file("se_net.dynamo.onnx")
    wanted = RewriteOptions(form="conv4d", keep_output_shape=keep)
    done = rewrite(path, options=wanted, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.form.status == "passed"
    assert done.parity.form.sizes == (done.claim.native_size,)
    assert done.parity.certificate.status == "holds"
    assert len(done.parity.certificate.weights) == 3, "both layers of the gate, and the head"
    model = complete(done)
    assert check_pair(path, model, options=CHECK).passed
    seen = inspect(model)
    assert seen.geometry is not None
    assert seen.geometry.fixed_size == done.claim.native_size
    gate = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    gate.op_type = "HardSigmoid"
    assert not check_pair(path, model, options=CHECK).passed


def test_other_spellings_of_a_gate() -> None:
    """Means without their axes, MatMul and Add, a norm, a Softmax and a Concat between the layers."""

    def body(net: Net, features: str) -> str:
        mean = net.axes("ReduceMean", features, [2, 3], keepdims=0)
        peak = net.axes("ReduceMax", features, [-1, -2], keepdims=0)
        both = net.op("Concat", mean, peak, axis=-1)
        hidden = net.op("Add", net.random(1, 5), net.op("MatMul", both, net.random(6, 5)))
        figures = [net.const(np.full(5, value)) for value in (1.5, 0.25, 0.1, 2.0)]
        normed = net.op("BatchNormalization", hidden, *figures)
        shares = net.op("Softmax", net.op("PRelu", normed, net.random(5)), axis=1)
        gate = net.op(
            "Gemm", net.op("Clip", shares, net.const(0.01), net.const(0.9)), net.random(5, 3), net.random(1, 3)
        )
        gated = net.op("Mul", features, net.axes("Unsqueeze", net.op("Sigmoid", gate), [2, 3]))
        return net.fc(net.op("Flatten", gated), 60, 4)

    model = bodied(body)
    form = complete(conv4d(model))
    holds(form)
    kinds = [node.op_type for node in form.graph.node]
    assert kinds.count("Conv") == 4
    assert {"GlobalAveragePool", "GlobalMaxPool"} <= set(kinds)
    [want], [got] = session(model).run(None, feed_of(form)), session(form).run(None, feed_of(form))
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


@pytest.mark.parametrize(
    ("auto", "pads"), [("SAME_UPPER", [0, 1, 1, 1]), ("SAME_LOWER", [1, 1, 0, 1]), ("VALID", [0] * 4)]
)
def test_auto_pad_is_told_in_pads(auto: str, pads: list[int]) -> None:
    net = Net()
    features = net.op("Conv", net.image(size=(10, 9)), net.random(3, 2, 3, 3), strides=[2, 2], auto_pad=auto)
    rows, columns = (5, 5) if auto != "VALID" else (4, 4)
    model = net.model(net.fc(net.op("Flatten", net.op("Tanh", features)), 3 * rows * columns, 4))
    form = complete(conv4d(model))
    holds(form)
    told = {item.name: list(item.ints) for item in form.graph.node[0].attribute}
    assert told["pads"] == pads
    [want], [got] = session(model).run(None, feed_of(form)), session(form).run(None, feed_of(form))
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("convnext.dynamo", "form-fc-left", "MatMul has no form as a Conv"),
        ("branches.dynamo", "form-not-4d", "no map"),
        ("conv1d.dynamo", "form-not-4d", "no map"),
    ],
)
def test_what_has_no_such_form_is_refused(name: str, code: str, says: str) -> None:
    with pytest.raises(NothingToRewrite, match=says) as caught:
        conv4d(fixture_file(f"{name}.onnx"))
    assert caught.value.refusals[0].code == code
    own = {node.name for node in onnx.load(fixture_file(f"{name}.onnx")).graph.node}
    assert all(item.node in own for item in caught.value.refusals)
    assert "leave out --form" in caught.value.refusals[0].advice


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"keep_output_shape": True}, "--keep-output-shape is for --form conv4d"),
        ({"form": "conv4d", "dynamic_batch": True}, "--dynamic-batch is not for --form conv4d"),
        ({"form": "conv4d", "output": "mean"}, "--output mean is not for --form conv4d"),
        ({"form": "conv"}, "form: must be one of"),
        ({"keep_output_shape": 1}, "keep_output_shape: must be True or False"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RewriteOptions(**options)


def test_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "conv4d.onnx"
    done = here("rewrite", fixture_file("mini_vgg.dynamo.onnx"), out, "--form", "conv4d", "--keep-output-shape")
    assert done.code == 0, done.err
    assert "image size      56x56 px alone" in done.out
    assert "form parity     passed" in unwrapped(done.out)
    assert here("check", fixture_file("mini_vgg.dynamo.onnx"), out, "-v").code == 0
