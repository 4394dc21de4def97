"""Kernels and pools above an accelerator's limits, written with smaller ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import here
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, own_crops, session
from onnx import helper, numpy_helper

from onnxfc import NothingToRewrite, Rewrite, RewriteOptions, UsageError, check_pair, rewrite


def split(model: Any, **options: Any) -> Rewrite:
    """Not proven by onnxfc."""
    return rewrite(model, options=RewriteOptions(form="conv4d", **options), prove=False)


def sides(model: onnx.ModelProto) -> list[int]:
    """The longest side of every Conv's kernel."""
    kernels = [helper.get_attribute_value(item) for node in model.graph.node for item in node.attribute]
    names = [(node.op_type, item.name) for node in model.graph.node for item in node.attribute]
    return [max(k) for k, name in zip(kernels, names, strict=True) if name == ("Conv", "kernel_shape")]


def places(model: onnx.ModelProto) -> list[int]:
    """The places of every pool's window."""
    told = [
        math.prod(item.ints)
        for node in model.graph.node
        for item in node.attribute
        if "Pool" in node.op_type and item.name == "kernel_shape"
    ]
    shapes = {info.name: info.type.tensor_type.shape.dim for info in model.graph.value_info}
    whole = [node.input[0] for node in model.graph.node if node.op_type.startswith("Global")]
    return told + [math.prod(dim.dim_value for dim in list(shapes[name])[2:]) for name in whole]


def agree(original: onnx.ModelProto, form: onnx.ModelProto) -> None:
    onnx.checker.check_model(form, full_check=True)
    old, new = session(original), session(form)
    feed = {
        item.name: np.random.default_rng(2).standard_normal(item.shape).astype(np.float32) for item in new.get_inputs()
    }
    [want], [got] = old.run(None, feed), new.run(None, feed)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


def test_a_kernel_that_covers_its_map_is_reshape_and_1x1_with_the_same_bytes() -> None:
    path = fixture_file("mini_vgg.torchscript.onnx")
    done = split(path, max_kernel=3)
    form = complete(done)
    agree(onnx.load(path), form)
    assert max(sides(form)) == 3
    assert [node.op_type for node in form.graph.node].count("Reshape") == 1
    [told] = [item for item in done.replacements if "Reshape" in item.after]
    assert (told.before, told.after) == ("Conv 7x7 8→24", "Reshape and Conv 1x1 392→24")
    [weight] = [numpy_helper.to_array(item) for item in form.graph.initializer if list(item.dims) == [24, 392, 1, 1]]
    stored = [numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer]
    assert weight.tobytes() in [item.tobytes() for item in stored]


def test_at_a_larger_size_it_is_a_sum_of_smaller_ones() -> None:
    path = fixture_file("lenet.dynamo.onnx")
    done = split(path, max_kernel=3, fixed_size=(36, 40))
    form = complete(done)
    assert max(sides(form)) == 3
    told = [(item.before, item.after) for item in done.replacements][2:]
    assert told[-1] == ("Conv 4x4 8→32", "the sum of 4 Convs up to 3x3")
    assert own_crops(onnx.load(path), done, (2, 3)) < 1e-5


CONVS: dict[str, dict[str, Any]] = {
    "pads": {"kernel_shape": [5, 7], "pads": [2, 3, 2, 3]},
    "strides": {"kernel_shape": [5, 5], "strides": [2, 3]},
    "dilations": {"kernel_shape": [5, 4], "dilations": [2, 2], "pads": [1, 0, 3, 2]},
    "groups": {"kernel_shape": [7, 5], "group": 2, "pads": [3, 2, 3, 2]},
    "SAME": {"kernel_shape": [6, 6], "auto_pad": "SAME_LOWER", "strides": [3, 2]},
    "parts that read pads alone": {"kernel_shape": [11, 1], "pads": [10, 0, 0, 0]},
}


@pytest.mark.sweep(16)
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("case", CONVS)
def test_sums_of_every_kind(case: str, opset: int, most: int) -> None:
    net = Net(opset)
    told = CONVS[case]
    weight = net.random(4, 4 // told.get("group", 1), *told["kernel_shape"])
    features = net.op("Conv", net.image(size=(14, 13), channels=4), weight, net.random(4), **told)
    shape = session(net.model(features, infer=False)).get_outputs()[0].shape
    scores = net.fc(net.op("Flatten", net.op("Tanh", features)), math.prod(shape[1:]), 3)
    model = net.model(scores)
    form = complete(split(model, max_kernel=most))
    assert max(sides(form)) <= most
    agree(model, form)


def test_pools_over_many_places_are_two() -> None:
    path = fixture_file("mini_resnet.dynamo.onnx")
    whole = complete(split(path))
    [most] = [count for count in places(whole) if count > 9]
    form = complete(split(path, max_pool=9))
    assert max(places(form)) <= 9 < most
    agree(onnx.load(path), form)
    other = fixture_file("se_net.dynamo.onnx")
    agree(onnx.load(other), complete(split(other, max_pool=9)))


def test_pools_that_slide_at_a_larger_size() -> None:
    path = fixture_file("maxpool_head.dynamo.onnx")
    claim = rewrite(path, prove=False).claim
    size = tuple(n + 2 * s for n, s in zip(claim.native_size, claim.stride, strict=True))
    before = complete(split(path, fixed_size=size))
    form = complete(split(path, fixed_size=size, max_pool=max(places(before)) - 1))
    assert max(places(form)) < max(places(before))
    feed = {claim.inputs[0].name: np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)}
    [want], [got] = session(before).run(None, feed), session(form).run(None, feed)
    np.testing.assert_allclose(got, want, atol=1e-6 * np.ptp(want))
    assert own_crops(onnx.load(path), split(path, fixed_size=size, max_pool=max(places(before)) - 1), (2, 2)) < 1e-5


def test_pools_that_are_no_two_are_refused() -> None:
    with pytest.raises(NothingToRewrite, match="of which one axis alone is more than 2") as caught:
        split(fixture_file("se_net.dynamo.onnx"), max_pool=2)
    assert caught.value.refusals[0].code == "form-pool"
    net = Net()
    pool = net.op("AveragePool", net.trunk(), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    with pytest.raises(NothingToRewrite, match="is padded, rounded up, dilated, or tells places"):
        split(net.model(net.fc(net.op("Flatten", pool), 60, 4)), max_pool=4)


def test_a_weight_that_is_computed_is_refused() -> None:
    """In blocks of few bits it is dequantised first, and that is not split."""
    with pytest.raises(NothingToRewrite, match="a weight that the graph computes") as caught:
        split(fixture_file("lenet.nbits_qdq.onnx"), max_kernel=2)
    assert caught.value.refusals[0].code == "form-kernel"


def test_proven_and_checked() -> None:
    path = fixture_file("mini_vgg.dynamo.onnx")
    wanted = RewriteOptions(form="conv4d", max_kernel=2, max_pool=2)
    done = rewrite(path, options=wanted, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.form.status == "passed"
    assert done.parity.certificate.status == "holds"
    assert check_pair(path, complete(done), options=CHECK).passed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_kernel": 3}, "--max-kernel is for --form conv4d; give both"),
        ({"max_pool": 3, "form": "gemm"}, "--max-pool is for --form conv4d; give both"),
        ({"max_kernel": 0, "form": "conv4d"}, "max_kernel: must be a whole number from 1 on, not 0"),
    ],
)
def test_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RewriteOptions(**options)


def test_on_the_command_line(tmp_path: Path) -> None:
    args = ("--form", "conv4d", "--max-kernel", 4, "--max-pool", 9, "--keep-output-shape")
    done = here("rewrite", fixture_file("mini_vgg.dynamo.onnx"), tmp_path / "out.onnx", *args)
    assert done.code == 0, done.err
    assert "⇒ Reshape and Conv 1x1 392→24" in done.out
