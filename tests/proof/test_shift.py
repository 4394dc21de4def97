"""Interior shift consistency: what lies well inside two overlapping images is the same in both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnxfc import Geometry, ProofFailed, RewriteOptions, rewrite
from onnxfc.claim.claim import Output
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.proof.results import Parity
from onnxfc.proof.shift import Target, _of_windows, targets
from onnxfc.rewriter.api import Rewrite

FLAT = {"pads": [1, 1, 1, 1], "strides": [1, 1]}


def fixture(name: str, **options: Any) -> Rewrite:
    return rewrite(fixture_file(f"{name}.onnx"), check_options=CHECK, options=RewriteOptions(**options))


def shift_of(done: Rewrite) -> Any:
    assert done.parity is not None
    return done.parity.shift


def unet(up: str = "Resize", **resize: Any) -> onnx.ModelProto:
    """Two levels down and up again, with skip connections: padded Convs of 3x3 throughout."""
    net = Net()
    one = net.op("Relu", net.conv(net.input("image", [1, 2, 32, 32]), 2, 4, **FLAT))
    two = net.op("Relu", net.conv(net.op("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2]), 4, 8, **FLAT))
    deep = net.op("Relu", net.conv(net.op("MaxPool", two, kernel_shape=[2, 2], strides=[2, 2]), 8, 8, **FLAT))
    back = net.op("ConvTranspose", deep, net.random(8, 8, 2, 2), strides=[2, 2])
    wide = net.op("Relu", net.conv(net.op("Concat", back, two, axis=1), 16, 4, **FLAT))
    if up == "Resize":
        full = net.op("Resize", wide, "", net.const([1, 1, 2, 2]), **resize)
    else:
        full = net.op("ConvTranspose", wide, net.random(4, 4, 3, 3), strides=[2, 2], pads=[1, 1, 0, 0])
    return net.model(net.conv(net.op("Concat", full, one, axis=1), 8, 3, **FLAT))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("lenet.dynamo", ["scores", "max_pool2d_1"]),
        ("digits", ["scores", "max_pool2d_1"]),
        ("two_outputs.dynamo", ["scores", "features"]),
        ("mini_googlenet.dynamo", ["cat_1"]),  # its cells read 123 px
        ("keras_same.tf2onnx", ["Identity:0", "functional_17_1/max_pooling2d_8_1/MaxPool2d:0"]),
    ],
)
def test_right_rewrites(name: str, names: list[str]) -> None:
    found = shift_of(fixture(name))
    assert found.status == "passed", found.reason
    assert [item.name for item in found.outputs] == names
    assert found.compared >= 16
    assert found.deviation <= 1e-6
    first, second = found.sizes
    assert all(b == a + 1 for a, b in zip(first, second, strict=True))  # a trunk must not move with the image's size


@pytest.mark.parametrize("pool", ["drop", "keep"])
def test_other_forms(pool: str) -> None:
    found = shift_of(fixture("mean_head.dynamo", global_pool=pool))
    assert found.status == ("passed" if pool == "drop" else "not applicable")
    assert bool(found.reason) == (pool == "keep")


@pytest.mark.parametrize("output", ["mean", "max"])
def test_reduced_outputs_are_seen_through_their_trunk(output: str) -> None:
    found = shift_of(fixture("mini_vgg.dynamo", output=output))
    assert found.status == "passed"
    assert [item.name for item in found.outputs] == ["avg_pool2d"]


def test_context_has_no_interior() -> None:
    found = shift_of(fixture("se_net.dynamo"))
    assert found.status == "not applicable"
    assert found.reason.startswith("every element depends on the whole image (context: ")


def test_fields_too_large_to_be_worth_it() -> None:
    """Weights beyond the limit of small models, and a field of 74 px over images of 16: 1 + 2 + 10 * 6 + 3 + 2 * 4."""
    net = Net()
    tensor = net.conv(net.input("image", [1, 2, 16, 16]), 2, 160, strides=[1, 1], pads=[1, 1, 1, 1])
    for _ in range(10):
        how: dict[str, Any] = {"strides": [1, 1], "pads": [3, 3, 3, 3], "dilations": [3, 3]}
        tensor = net.op("Relu", net.conv(tensor, 160, 160, **how))
    model = net.model(net.conv(net.op("AveragePool", tensor, kernel_shape=[4, 4], strides=[4, 4]), 160, 4, **FLAT))
    found = shift_of(rewrite(model, check_options=CHECK))
    assert found.status == "not run"
    assert found.reason.endswith(", 74x74 px, would need images of 79x79 px")


@pytest.mark.parametrize(
    "model",
    [
        unet(mode="linear"),
        unet(mode="nearest"),
        unet(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        unet(mode="cubic"),
        unet("ConvTranspose"),
    ],
    ids=["linear", "nearest", "nearest floor", "cubic", "transposed"],
)
def test_networks_without_any_head(model: onnx.ModelProto) -> None:
    """Native parity, larger sizes and this are then the proof; and a tile with its halo is the whole image."""
    done = rewrite(model, check_options=CHECK)
    found = shift_of(done)
    assert found.status == "passed", found.reason
    assert done.claim.period == done.claim.size_step == (4, 4)
    assert found.compared >= 3
    geometry = Geometry.from_model(done.file)
    assert geometry.stride == (1, 1)
    assert geometry.cells(40, 64) == (40, 64)
    assert geometry.halo is not None
    (above, below), (left, right) = geometry.halo
    image = np.random.default_rng(0).standard_normal((1, 2, 32 + above + below, 32 + left + right)).astype(np.float32)
    grown = [-(-length // 4) * 4 + 40 for length in image.shape[2:]]
    whole = np.random.default_rng(1).standard_normal((1, 2, *[n + 4 for n in grown])).astype(np.float32)
    made = onnx_session(done.model)
    want = made.run(None, {"image": whole})[0]
    tile = whole[:, :, 4:, 4:][:, :, : grown[0], : grown[1]]
    got = made.run(None, {"image": np.ascontiguousarray(tile)})[0]
    inner = (slice(None), slice(None), slice(above, grown[0] - below), slice(left, grown[1] - right))
    assert np.abs(got[inner] - want[:, :, 4:, 4:][:, :, : grown[0], : grown[1]][inner]).max() < 1e-5


def onnx_session(model: onnx.ModelProto) -> Any:
    from hazards import session

    return session(model)


def test_a_resize_to_the_corners_depends_on_the_size() -> None:
    """align_corners: the ratio is (n - 1) / (m - 1), another one for every image."""
    try:
        done = rewrite(unet(mode="linear", coordinate_transformation_mode="align_corners"), check_options=CHECK)
    except ProofFailed:
        pytest.fail("a network that depends on the whole image is no failure of its proof")
    assert shift_of(done).status == "not applicable"
    assert any(item.startswith("context: ") for item in done.claim.blame)


# What it alone finds


def mistaken(done: Rewrite, spoil: Any, **claims: Any) -> Parity:
    model = done.model
    spoil(model)
    return check(done.original, ModelFile.open(model), replace(done.claim, **claims), CHECK)


def _auto_pad(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Conv" and any(item.name == "pads" for item in node.attribute):
            kept = [item for item in node.attribute if item.name != "pads"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("auto_pad", "SAME_UPPER")])


def _same_features() -> Rewrite:
    """A feature extractor with SAME padding and stride 2; at 32 pixels it pads nothing before, one behind."""
    net = Net()
    tensor = net.conv(net.input("image", [1, 2, 32, 32]), 2, 4, strides=[2, 2], auto_pad="SAME_UPPER")
    return rewrite(net.model(net.conv(net.op("Relu", tensor), 4, 4, strides=[1, 1])), check_options=CHECK)


def test_features_with_padding_that_follows_the_size() -> None:
    """At odd sizes SAME pads before as well: all features are then half a stride away. Nothing else can see it."""
    done = _same_features()
    assert shift_of(done).status == "passed"
    parity = mistaken(done, _auto_pad)
    assert parity.native.status == "passed"
    assert parity.shift.status == "failed"
    assert not parity.passed
    assert parity.summary().startswith("shift consistency failed: ")


def _position(model: onnx.ModelProto) -> None:
    """Add something that is 0 at the native size and grows with the number of places."""
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["right" if item == name else item for item in node.output]
    for key, value in (("native", 32 * 32), ("small", 1e-4)):
        kind = np.int64 if key == "native" else np.float32
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), key))
    model.graph.node.extend(
        [
            helper.make_node("Size", ["image_0"], ["size"]),
            helper.make_node("Sub", ["size", "native"], ["more"]),
            helper.make_node("Cast", ["more"], ["float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "small"], ["wrong"]),
            helper.make_node("Add", ["right", "wrong"], [name]),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(0), "zero"))
    model.graph.node.insert(0, helper.make_node("Gather", ["image", "zero"], ["whole"], axis=0))
    model.graph.node.insert(1, helper.make_node("Gather", ["whole", "zero"], ["image_0"], axis=0))


def test_features_that_depend_on_the_size_of_the_image() -> None:
    done = _same_features()
    parity = mistaken(done, _position)
    assert parity.native.status == "passed", parity.native.reason
    assert parity.shift.status == "failed"


def test_a_claim_of_too_small_a_field_is_found() -> None:
    done = fixture("mini_vgg.dynamo")
    output = done.claim.outputs[0]
    small = replace(output, start=(0, 0), size=done.claim.native_size)
    parity = mistaken(done, lambda model: None, outputs=(small,), start=(0, 0), size=done.claim.native_size)
    assert parity.shift.status == "failed"
    assert not parity.passed


def test_a_claim_of_another_stride_is_found() -> None:
    done = fixture("two_outputs.dynamo")
    scores, features = done.claim.outputs
    parity = mistaken(done, lambda model: None, outputs=(scores, replace(features, stride=(2, 2))))
    told = f"wrong claim: {features.name} does not grow by the elements that its claimed stride promises"
    assert (parity.window.status, parity.window.reason) == ("failed", told)


# Its arithmetic


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(
    st.integers(1, 8), st.integers(1, 2), st.integers(-9, 3), st.integers(1, 20), st.integers(1, 4), st.integers(0, 30)
)
def test_interior(stride: int, per: int, start: int, size: int, periods: int, more: int) -> None:
    """The first, the last and the number of elements within an image, against a count of them all."""
    target = Target("x", "x", (2,), (stride,), (per,), (start,), (size,))
    length = size + more

    def inside(element: int) -> bool:
        low = start + element * stride / per
        return low >= 0 and low + size <= length

    found = [element for element in range(-40, 200) if element >= 0 and inside(element)]
    first, last = target.first(0), target.last(0, length)
    assert found == list(range(first, last + 1))
    period = periods * stride
    moved = target.moved(0, period)
    assert moved * stride == period * per
    needed = target.needs(0, period)
    assert target.last(0, needed) >= target.first(0) + moved


def test_trunk_of_a_cell() -> None:
    """lenet: a cell reads 28 px, a window of 4x4 elements of stride 4, each of 16 px."""
    claim = fixture("lenet.dynamo").claim
    cell, element = targets(claim)
    assert (cell.size, cell.stride, cell.start) == ((28, 28), (4, 4), (0, 0))
    assert (element.size, element.stride, element.start) == ((16, 16), (4, 4), (0, 0))


@pytest.mark.parametrize(
    ("outputs", "windowed"),
    [
        ([Output("a", "map", stride=(2, 2))], True),
        ([Output("a", "activation", stride=(2, 2)), Output("b", "mean")], True),
        ([Output("a", "activation", stride=(2, 2)), Output("b", "max")], True),
        ([Output("a", "activation", stride=(2, 2))], False),
        ([Output("a", "activation")], True),
        ([Output("a", "features", stride=(2, 2))], True),
    ],
)
def test_cells_of_windows_and_of_single_elements(outputs: list[Output], windowed: bool) -> None:
    """Of a map whose pool was dropped, a cell is of one element."""
    assert _of_windows(outputs) == windowed
