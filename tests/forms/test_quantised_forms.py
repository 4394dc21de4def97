"""Forms of quantised models: the same integers, in other operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import FIXTURES, fixture_file, must_run
from hazards import CHECK, FEATURES, Net, complete, head, session
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantFormat
from quantised import by_onnxruntime, optimised

from onnxfc import NothingToRewrite, RewriteOptions, rewrite

IMAGE = np.random.default_rng(7).standard_normal((1, 2, 23, 19)).astype(np.float32)
ROUND = sorted(
    path.stem
    for path in (FIXTURES / "onnxruntime").glob("*.onnx")
    if path.stem.partition(".")[2].startswith(("qdq", "qoperator"))
)


def pooled(folder: Path, opset: int) -> onnx.ModelProto:
    """A maximum over the whole image, which onnxruntime's quantiser leaves on integers."""
    net = Net(opset)
    features = net.op("Relu", net.conv(net.image(size=(23, 19)), 2, 8))  # 11x9
    pool = net.op("MaxPool", features, kernel_shape=[11, 9], strides=[1, 1])
    scores = net.fc(net.op("Flatten", pool), 8, 6)
    return by_onnxruntime(net.model(scores), folder, QuantFormat.QOperator)


@pytest.mark.parametrize("opset", [13, 18])
def test_a_maximum_of_integers_over_the_whole_image(opset: int, tmp_path: Path) -> None:
    """There is no global pool of integers."""
    original = pooled(tmp_path, opset)
    [want] = session(original).run(None, {"image": IMAGE})
    form = rewrite(original, options=RewriteOptions(form="conv4d"), check_options=CHECK)
    [got] = session(complete(form)).run(None, {"image": IMAGE})
    np.testing.assert_array_equal(got.reshape(want.shape), want)
    kept = complete(rewrite(original, options=RewriteOptions(global_pool="keep"), check_options=CHECK))
    maps = rewrite(original, options=RewriteOptions(global_pool="keep", form="conv4d"), check_options=CHECK)
    np.testing.assert_array_equal(session(complete(maps)).run(None, {"image": IMAGE})[0].reshape(want.shape), want)
    assert "GlobalMaxPool" not in {node.op_type for node in kept.graph.node}
    for image in (IMAGE, IMAGE.repeat(2, axis=2)[:, :, :41]):
        grown = session(_for_size(original, image.shape[2:])).run(None, {"image": image})
        np.testing.assert_array_equal(session(kept).run(None, {"image": image})[0], grown[0])


def _for_size(model: onnx.ModelProto, size: tuple[int, ...]) -> onnx.ModelProto:
    """The network as it would be made for another image size."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for dim, length in zip(made.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        dim.dim_value = length
    del made.graph.value_info[:]
    pool = next(node for node in made.graph.node if node.op_type == "MaxPool")
    kernel = helper.make_attribute("kernel_shape", [(length - 1) // 2 for length in size])
    pool.attribute.remove(next(item for item in pool.attribute if item.name == "kernel_shape"))
    pool.attribute.append(kernel)
    return made


def stored(model: onnx.ModelProto, node: onnx.NodeProto) -> tuple[np.ndarray, list[np.ndarray], int]:
    """The weight of a layer as stored, its scale and zero point, and the axis of these; -1 where all share one."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    given, axis = list(node.input[3:6]), 1
    if node.op_type == "QGemm":
        axis -= helper.get_node_attr_value(node, "transB")
    if node.op_type in {"Gemm", "MatMul"}:
        by = next(item for item in model.graph.node if node.input[1] in item.output)
        given, axis = list(by.input), next((item.i for item in by.attribute if item.name == "axis"), 1)
    weight, *scales = (known[name] for name in given)
    return weight, scales, axis if scales[0].size > 1 else -1


def layers(model: onnx.ModelProto) -> list[tuple[np.ndarray, list[np.ndarray], int]]:
    kinds = {"Gemm", "MatMul", "QGemm", "QLinearMatMul"}
    return [stored(model, node) for node in model.graph.node if node.op_type in kinds]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", ROUND)
def test_round_trip_gives_the_integers_byte_for_byte(name: str, tmp_path: Path) -> None:
    """Conv4d and back: weights, scales, zero points, their axis, and what onnxruntime makes of the layers."""
    must_run(name)
    original = onnx.load(fixture_file(f"{name}.onnx"))
    between = complete(rewrite(original, options=RewriteOptions(form="conv4d"), check_options=CHECK))
    assert layers(between) == []
    done = rewrite(between, options=RewriteOptions(form="gemm"), check_options=CHECK)
    model = complete(done)
    onnx.checker.check_model(model, full_check=True)
    want, got = layers(original), layers(model)
    assert len(got) == len(want) + (2 if name.startswith("mobilenet") else 0)  # Convs of its gates, 1x1 on one place
    for old, new in zip(want, [item for item in got if item[0].shape in {old[0].shape for old in want}], strict=True):
        assert new[0].tobytes() == old[0].tobytes()
        assert [item.tobytes() for item in new[1]] == [item.tobytes() for item in old[1]]
        assert new[2] == old[2]
    if not name.startswith("mobilenet"):
        kinds = ("QGemm", "Gemm", "MatMul", "QLinearConv", "Conv")
        before, after = optimised(original, tmp_path), optimised(model, tmp_path)
        assert [after[kind] for kind in kinds] == [before[kind] for kind in kinds]
    old_session, new_session = session(original), session(model)
    [image] = old_session.get_inputs()
    feed = {image.name: np.random.default_rng(1).standard_normal(image.shape).astype(np.float32)}
    [scores], [same] = old_session.run(None, feed), new_session.run(None, feed)
    assert same.shape == scores.shape
    np.testing.assert_array_equal(same, scores)


@pytest.mark.parametrize(
    ("name", "kinds"), [("se_net.qdq", ("Conv", "Gemm")), ("se_net.qoperator", ("QLinearConv", "QGemm"))]
)
def test_gates_are_maps(name: str, kinds: tuple[str, str]) -> None:
    """The FC layers of squeeze-and-excitation, and a Sigmoid between integers."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    done = rewrite(original, options=RewriteOptions(form="conv4d"), check_options=CHECK)
    model = complete(done)
    moving = {"image"}
    shapes = {info.name: info.type.tensor_type.shape.dim for info in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if moving.intersection(node.input):
            moving.update(node.output)
            assert all(len(shapes[out]) == 4 for out in node.output)
    count = [sum(node.op_type == kind for node in model.graph.node) for kind in kinds]
    was = [sum(node.op_type == kind for node in original.graph.node) for kind in kinds]
    assert count == [sum(was), 0]
    feed = {"image": np.random.default_rng(2).standard_normal(done.claim.inputs[0].shape).astype(np.float32)}
    [want], [got] = session(original).run(None, feed), session(model).run(None, feed)
    np.testing.assert_array_equal(got.reshape(want.shape), want)


def there_and_back(original: onnx.ModelProto) -> onnx.ModelProto:
    """By way of conv4d, with the same scores to the bit."""
    between = complete(rewrite(original, options=RewriteOptions(form="conv4d"), check_options=CHECK))
    model = complete(rewrite(between, options=RewriteOptions(form="gemm"), check_options=CHECK))
    onnx.checker.check_model(model, full_check=True)
    [image] = original.graph.input
    shape = [dim.dim_value or 1 for dim in image.type.tensor_type.shape.dim]
    feed = {image.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    wants, made = (session(item, as_written=True).run(None, feed)[0] for item in (original, model))
    np.testing.assert_array_equal(made, wants)
    return model


DYNAMIC = {"digits": 4, "lenet": 2, "mini_resnet": 1, "mini_vgg": 3, "mobilenet": 4, "se_net": 3}
"""FC layers, with the sums of features where outputs have several zero points, and the 1x1 Convs of gates."""


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", DYNAMIC)
def test_round_trip_of_dynamic_scales(name: str) -> None:
    must_run(f"{name}.dynamic")
    original = onnx.load(fixture_file(f"{name}.dynamic.onnx"))
    model = there_and_back(original)
    old, new = ({item.name: numpy_helper.to_array(item) for item in m.graph.initializer} for m in (original, model))
    sums = [node for node in original.graph.node if node.op_type == "MatMulInteger"]
    assert sum(node.op_type == "MatMulInteger" for node in model.graph.node) == DYNAMIC[name]
    for node in sums:
        assert new[node.input[1]].tobytes() == old[node.input[1]].tobytes()
        assert new[node.input[1]].shape == old[node.input[1]].shape


@pytest.mark.parametrize("per_channel", [True, False])
def test_round_trip_of_floats_that_are_rounded(per_channel: bool, tmp_path: Path) -> None:
    """A QuantizeLinear ahead of the weight's DequantizeLinear: the floats stay, and both go with them."""
    model = head(lambda net, flat: net.fc(net.op("Relu", net.fc(flat, FEATURES, 6)), 6, 5))
    extra = {"AddQDQPairToWeight": True}
    original = by_onnxruntime(model, tmp_path, QuantFormat.QDQ, per_channel, extra_options=extra)
    model = there_and_back(original)
    before, after = ([node for node in m.graph.node if node.op_type == "Gemm"] for m in (original, model))
    assert len(before) == len(after) == 2
    for one, two in zip(before, after, strict=True):
        assert rounded(model, two) == rounded(original, one)
    done = rewrite(original, options=RewriteOptions(form="conv4d", max_kernel=2), check_options=CHECK)
    assert sides(complete(done)) == {1, 2}


def rounded(model: onnx.ModelProto, node: onnx.NodeProto) -> list[object]:
    """The floats, scale and zero point of a layer's weight, and along which axis."""
    makers = {name: item for item in model.graph.node for name in item.output}
    known = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    back = makers[node.input[1]]
    first = makers[back.input[0]]
    axes = [helper.get_node_attr_value(item, "axis") for item in (first, back) if known[back.input[1]].size > 1]
    assert first.op_type == "QuantizeLinear"
    assert list(first.input[1:]) == list(back.input[1:])
    return [[(known[name].shape, known[name].tobytes()) for name in first.input], axes]


def test_round_trip_of_scales_that_the_graph_computes() -> None:
    """PyTorch's fake quantisation: of the largest weight."""
    original = onnx.load(fixture_file("fake_quantised.torchscript.onnx"))
    model = there_and_back(original)
    old, new = ({item.name: numpy_helper.to_array(item) for item in m.graph.initializer} for m in (original, model))
    assert [new[f"fc{at}.weight"].tobytes() for at in (1, 2)] == [old[f"fc{at}.weight"].tobytes() for at in (1, 2)]


def test_an_fc_layer_whose_weight_is_in_blocks_stays() -> None:
    path = fixture_file("lenet.nbits_qdq.onnx")
    between = complete(rewrite(path, options=RewriteOptions(form="conv4d"), prove=False))
    with pytest.raises(NothingToRewrite, match="leave out --form gemm: the Convs compute the same") as found:
        rewrite(between, options=RewriteOptions(form="gemm"))
    assert {item.code for item in found.value.refusals} == {"form-fc-left"}
    assert len(found.value.refusals) == 2


def sides(model: onnx.ModelProto) -> set[int]:
    convs = [node for node in model.graph.node if node.op_type in {"Conv", "QLinearConv"}]
    return {side for node in convs for side in helper.get_node_attr_value(node, "kernel_shape")}


@pytest.mark.parametrize("name", ["lenet.qdq", "lenet.qdq_int4", "lenet.qdq_int16", "lenet.qdq_own_int16"])
def test_kernels_of_integers_in_parts(name: str, tmp_path: Path) -> None:
    """Each part by the scales of the whole, and the head's whole map as channels with the same bytes."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    done = rewrite(original, options=RewriteOptions(form="conv4d", max_kernel=3), check_options=CHECK)
    model = complete(done)
    onnx.checker.check_model(model, full_check=True)
    assert sides(model) == {1, 2, 3}
    told = [item.after for item in done.replacements]
    assert told[-3:] == [*["the sum of 4 Convs up to 3x3, in floats"] * 2, "Reshape and Conv 1x1 128→32"]
    old, new = ({item.name: numpy_helper.to_array(item) for item in m.graph.initializer} for m in (original, model))
    assert new["fc1.weight_quantized_channels"].tobytes() == old["fc1.weight_quantized"].tobytes()
    for layer in ("conv1", "conv2"):
        part = [value for name, value in new.items() if name.startswith(f"{layer}.weight_quantized_part")]
        rows = [np.concatenate(part[at : at + 2], axis=3) for at in (0, 2)]
        assert np.concatenate(rows, axis=2).tobytes() == old[f"{layer}.weight_quantized"].tobytes()
    if name == "lenet.qdq":
        assert optimised(model, tmp_path)["QLinearConv"] == 2  # both FC layers
    feed = {"image": np.random.default_rng(4).standard_normal((1, 1, 28, 28)).astype(np.float32)}
    [want], [got] = (session(item, as_written=True).run(None, feed) for item in (original, model))
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=np.ptp(want) * (1e-2 if "16" not in name else 1e-4))


def test_kernels_of_operators_on_integers(tmp_path: Path) -> None:
    """The whole map as channels; a sum of parts would be rounded part by part."""
    original = by_onnxruntime(head(lambda net, flat: net.fc(flat, FEATURES, 6)), tmp_path, QuantFormat.QOperator)
    done = rewrite(original, options=RewriteOptions(form="conv4d", max_kernel=3), check_options=CHECK)
    assert done.replacements[-1].after == f"Reshape and QLinearConv 1x1 {FEATURES}→6"
    assert sides(complete(done)) == {1, 3}
    feed = {"image": np.random.default_rng(4).standard_normal((1, 2, 11, 9)).astype(np.float32)}
    [want], [got] = session(original).run(None, feed), session(complete(done)).run(None, feed)
    np.testing.assert_array_equal(got.reshape(want.shape), want)
    with pytest.raises(NothingToRewrite, match="would be rounded part by part"):
        rewrite(original, options=RewriteOptions(form="conv4d", max_kernel=2))
