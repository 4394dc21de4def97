"""Cells, boxes, fields and halos, against brute force and against onnxruntime."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, own_crops, proven, session
from hypothesis import assume, event, given, note, seed
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from random_networks import SEED, drawn, random_network, still_varies

from onnxfc import Box, Geometry, NothingToRewrite, ReadError, RewriteOptions, UsageError, rewrite
from onnxfc.claim.claim import PREFIX
from onnxfc.layout.axis_map import Field
from onnxfc.rewriter.api import Rewrite

QUIET = drawn(60)

layer = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2))


@seed(0)
@QUIET
@given(st.lists(layer, min_size=1, max_size=4), st.integers(0, 5))
def test_field_against_brute_force(layers: list[tuple[int, int, int, int]], element: int) -> None:
    """The pixels that an element reads, followed back layer by layer, one set at a time."""
    field, places = Field(), {element}
    for kernel, stride, pad, dilation in layers:
        field = field.through(kernel, stride, pad, dilation)
    for kernel, stride, pad, dilation in reversed(layers):
        places = {place * stride - pad + k * dilation for place in places for k in range(kernel)}
    assert min(places) == field.start + element * field.stride
    assert max(places) + 1 == min(places) + field.size


@seed(0)
@QUIET
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 9)), min_size=1, max_size=4), st.integers(1, 4))
def test_joined_fields(parts: list[tuple[int, int]], stride: int) -> None:
    fields = [Field(size, stride, start) for start, size in parts]
    joined = Field.join(fields)
    assert joined is not None
    read = {start + k for start, size in parts for k in range(size)}
    assert (joined.start, joined.start + joined.size) == (min(read), max(read) + 1)
    assert Field.join([*fields, Field(1, stride + 1)]) is None


def test_cells_where_dims_have_no_closed_form() -> None:
    """Pads that the graph computes of the image's size: the native grid is what grows."""
    file = rewrite(fixture_file("keras_coordinates.torch.onnx"), prove=False).file
    made = ort.InferenceSession(file.loaded().SerializeToString())
    [whole] = made.run(None, {"image": np.zeros((1, 54, 52, 3), np.float32)})
    assert Geometry.from_model(file).cells(54, 52) == whole.shape[1:3] == (25, 24)


# Networks whose cells tell which pixels they read: all weights 1, no activation, one bright pixel


def counting_net(
    layers: list[tuple[int, int, int, int]], dims: int, size: int
) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Convs of ones without bias, Flatten, an FC layer of ones."""
    nodes, weights, name = [], [], "image"
    length = size
    for number, (kernel, stride, pad, dilation) in enumerate(layers):
        weights.append(numpy_helper.from_array(np.ones((1, 1, *[kernel] * dims), np.float32), f"w{number}"))
        how = {"strides": [stride] * dims, "pads": [pad] * (2 * dims), "dilations": [dilation] * dims}
        nodes.append(helper.make_node("Conv", [name, f"w{number}"], [f"c{number}"], name=f"conv{number}", **how))
        name = f"c{number}"
        length = (length + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
        assert length >= 1
    weights.append(numpy_helper.from_array(np.ones((1, length**dims), np.float32), "fc"))
    nodes.append(helper.make_node("Flatten", [name], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "fc"], ["scores"], name="gemm", transB=1))
    graph = helper.make_graph(
        nodes,
        "counting",
        [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 1, *[size] * dims])],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 1])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), (length,) * dims


@seed(0)
@QUIET
@given(st.lists(layer, min_size=1, max_size=3), st.integers(6, 16), st.data())
def test_cells_boxes_and_fields_in_onnxruntime(layers: list[tuple[int, int, int, int]], size: int, data: Any) -> None:
    """One bright pixel lights exactly the cells whose field holds it; and there are as many cells as said."""
    extent = size
    for kernel, stride, pad, dilation in layers:
        extent = (extent + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
        assume(extent >= 1)
    model, _ = counting_net(layers, 1, size)
    done = rewrite(model, prove=False)
    geometry, made = Geometry.from_model(done.model), session(done.model)
    assert geometry.native_size == (size,)
    stride = geometry.stride[0]
    for length in range(1, geometry.smallest_size[0]):
        assert geometry.cells(length) == (0,)
    for length in range(max(geometry.smallest_size[0], 1), size + 2 * stride + 2):
        image = np.zeros((1, 1, length), np.float32)
        pixel = data.draw(st.integers(0, length - 1))
        image[0, 0, pixel] = 1
        scores = made.run(None, {"image": image})[0][0, 0]
        assert geometry.cells(length) == scores.shape
        for cell, score in enumerate(scores):
            field = geometry.field(cell)
            inside = field.start[0] <= pixel < field.stop[0]
            assert inside or score == 0
            dense = all(d == 1 and k >= s and not pad for k, s, pad, d in layers)
            assert not (dense and inside) or score > 0
            assert geometry.box(cell) == Box((cell * stride,), (cell * stride + size,))


def test_three_axes() -> None:
    model, extent = counting_net([(2, 1, 0, 1), (2, 2, 1, 1)], 3, 9)
    done = rewrite(model, prove=False)
    geometry = Geometry.from_model(done.model)
    assert extent == (5, 5, 5)
    assert geometry.stride == (2, 2, 2)
    assert geometry.field_start == (-1, -1, -1)
    assert geometry.field_size == (11, 11, 11)
    assert geometry.cells(9, 10, 13) == (1, 1, 3)
    assert session(done.model).run(None, {"image": np.zeros((1, 1, 9, 10, 13), np.float32)})[0].shape == (1, 1, 1, 1, 3)
    assert geometry.box(0, 1, 2) == Box((0, 2, 4), (9, 11, 13))
    assert geometry.field(0, 1, 2) == Box((-1, 1, 3), (10, 12, 14))


# Real networks

MODELS = (
    "lenet.dynamo",
    "conv1d.torchscript",
    "conv3d.dynamo",
    "digits",
    "mini_alexnet.dynamo",
    "mini_densenet.dynamo",
    "mini_googlenet.torchscript",
    "mini_resnet.dynamo",
    "mini_squeezenet.dynamo",
    "mini_vgg.dynamo",
    "mobilenet.dynamo",
    "shuffle.dynamo",
    "keras_same.tf2onnx",
    "keras_flatten.export",
    "uint8_nhwc.dynamo",
)


@cache
def model_of(name: str) -> Rewrite:
    return rewrite(fixture_file(f"{name}.onnx"), prove=False)


def run(done: Rewrite, image: np.ndarray) -> np.ndarray:
    """The first output as (*features, *grid): the map of the first image of the batch."""
    result: np.ndarray = _session(done.file.path).run(None, {done.claim.inputs[0].name: image})[0]
    return result[0]


@cache
def _session(path: Any) -> ort.InferenceSession:
    return session(model_of(path.name.removesuffix(".onnx")).model)


def image_of(done: Rewrite, size: tuple[int, ...], number: int = 0) -> np.ndarray:
    shape = done.claim.image_shapes(size)[done.claim.inputs[0].name]
    noise = np.random.default_rng(number).random(shape)
    made = next(info for info in done.file.proto.graph.input if info.name == done.claim.inputs[0].name)
    integer = made.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    return (255 * noise).astype(np.uint8) if integer else (2 * noise - 1).astype(np.float32)


@pytest.mark.parametrize("name", MODELS)
def test_cells_of_real_networks(name: str) -> None:
    """Every size from the smallest one to native + 2 strides, another one on each axis."""
    done = model_of(name)
    geometry = Geometry.from_model(done.file)
    axes = range(len(geometry.stride))
    most = 2 * max(geometry.stride) + 2
    room = [n - small for n, small in zip(geometry.native_size, geometry.smallest_size, strict=True)]
    for more in range(-max(room), most):
        size = tuple(geometry.native_size[a] + max(-room[a], (more + 3 * a) % most if more > 0 else more) for a in axes)
        size = tuple(
            n + (length - n) // step * step
            for n, length, step in zip(geometry.native_size, size, geometry.size_step, strict=True)
        )
        found = run(done, image_of(done, size))
        assert geometry.cells(*size) == found.shape[-len(axes) :], size
    assert geometry.cells(*geometry.smallest_size) == (1,) * len(axes)
    too_small = [n - step for n, step in zip(geometry.smallest_size, geometry.size_step, strict=True)]
    if min(too_small) > 0:
        assert geometry.cells(*too_small) == (0,) * len(axes)


PADDED = ("digits", "mini_alexnet.dynamo", "mini_vgg.dynamo", "mini_googlenet.torchscript", "mini_squeezenet.dynamo")


@pytest.mark.parametrize("name", [*PADDED, "lenet.dynamo", "mini_densenet.dynamo", "keras_same.tf2onnx"])
def test_tile_with_its_halo_is_the_whole_image(name: str) -> None:
    """Cells 4..5 of each axis, from a tile cut with the halo; without it the padded networks differ."""
    done = model_of(name)
    geometry = Geometry.from_model(done.file)
    halo = geometry.halo
    assert halo is not None
    first, last = geometry.box(4, 4), geometry.box(5, 5)
    before, after = [a for a, _ in halo], [b for _, b in halo]
    start = [max(0, a - b) for a, b in zip(first.start, before, strict=True)]
    stop = [b + c for b, c in zip(last.stop, after, strict=True)]
    big = tuple(n + 40 for n in stop)
    image = image_of(done, big)
    whole = run(done, image)[..., 4:6, 4:6]
    axes = done.claim.inputs[0].spatial

    def cells(low: list[int], high: list[int]) -> np.ndarray:
        place = [slice(None)] * image.ndim
        for axis, a, b in zip(axes, low, high, strict=True):
            place[axis] = slice(a, b)
        i, j = ((c - a) // s for c, a, s in zip(first.start, low, geometry.stride, strict=True))
        return run(done, np.ascontiguousarray(image[tuple(place)]))[..., i : i + 2, j : j + 2]

    scale = float(np.abs(whole).max())
    assert np.abs(cells(start, stop) - whole).max() < 1e-5 * scale
    bare = np.abs(cells(list(first.start), list(last.stop)) - whole).max()
    if name in PADDED:
        assert bare > 1e-4 * scale


def test_halo_of_context_is_the_whole_image() -> None:
    geometry = Geometry.from_model(model_of("se_net.dynamo").file)
    assert geometry.context
    assert geometry.halo is None


def test_vgg_by_hand() -> None:
    """A trunk of 64 pixels and stride 8: 2 + 2 + 2 Convs of 3x3, three pools, then a window of 7x7 cells."""
    geometry = Geometry.from_model(model_of("mini_vgg.dynamo").file)
    claim = model_of("mini_vgg.dynamo").claim
    assert geometry.stride == geometry.period == (8, 8)
    assert geometry.native_size == (56, 56)
    assert geometry.field_start == claim.start
    assert geometry.field(1, 2).start == (claim.start[0] + 8, claim.start[1] + 16)
    assert geometry.box(1, 2) == Box((8, 16), (64, 72))
    assert geometry.box(1, 2).slices == (slice(8, 64), slice(16, 72))
    assert geometry.field(0, 0).clipped((56, 40)) == Box((0, 0), (56, 40))
    assert geometry.box(1, 0).within((64, 56))
    assert not geometry.box(1, 0).within((63, 56))
    assert geometry.cells(112, 63) == (8, 1)
    assert Box((0, 3), (2, 9)).size == (2, 6)


def test_read_from_the_file_alone(tmp_path: Any) -> None:
    done = model_of("mini_alexnet.dynamo")
    done.save(tmp_path / "out.onnx")
    geometry = Geometry.from_model(tmp_path / "out.onnx")
    assert geometry == Geometry.from_model((tmp_path / "out.onnx").read_bytes()) == Geometry.from_model(done.model)
    hash(geometry)


def test_files_of_older_versions() -> None:
    """Without what later versions added, the same comes from the graph."""
    model = model_of("mini_alexnet.dynamo").model
    geometry = Geometry.from_model(model)
    assert geometry.slack == (5, 5)
    kept = [item for item in model.metadata_props if item.key not in {f"{PREFIX}slack", f"{PREFIX}period"}]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    assert Geometry.from_model(model) == geometry


def test_errors() -> None:
    with pytest.raises(ReadError, match="was not rewritten by onnxfc"):
        Geometry.from_model(fixture_file("lenet.dynamo.onnx"))
    geometry = Geometry.from_model(model_of("lenet.dynamo").file)
    for size in ((28,), (28, 28, 28), (0, 28)):
        with pytest.raises(UsageError, match="an image of this model has a height and a width"):
            geometry.cells(*size)
    with pytest.raises(UsageError, match="a cell of this model has 2 indices, not 1"):
        geometry.box(3)
    broken = model_of("lenet.dynamo").model
    broken.metadata_props[0].value = "["
    with pytest.raises(ReadError, match="metadata is damaged"):
        Geometry.from_model(broken)


# Any network


def _runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs the original; its exceptions have no common base."""
    try:
        return still_varies(model, session)
    except Exception:
        return False


@seed(SEED)
@QUIET
@given(st.data())
def test_verdict_and_geometry_of_random_networks(data: Any) -> None:
    """Cells are as many as said; `exact` cells equal crops; what is called approximate reads beyond its crop."""
    model, network = random_network(data.draw)
    note(f"{network.story}")
    assume(_runs(model))
    try:
        done = rewrite(model, prove=False)
    except NothingToRewrite:
        event("refused")
        return
    event(done.claim.verdict)
    geometry, made = Geometry.from_model(done.model), session(done.model)
    claim, image = done.claim, done.claim.inputs[0]
    forms = {output.form for output in claim.outputs}
    for more in (0, 1, 2, 3, 5, 8):
        size = tuple(n + more * step for n, step in zip(claim.native_size, claim.size_step, strict=True))
        values = made.run(None, {image.name: np.zeros(claim.image_shapes(size)[image.name], np.float32)})
        for output, value in zip(claim.outputs, values, strict=True):
            if output.form in {"map", "cells"}:
                assert geometry.cells(*size) == tuple(value.shape[axis] for axis in output.axes)
    if claim.verdict == "exact" and "global" not in forms:
        assert own_crops(model, done, more=(1, 1, 1), varied=False) < 1e-3
    native = geometry.field(*[0] * len(claim.stride))
    if claim.verdict == "exact":
        assert native.within(claim.native_size)
    elif "global" not in forms and all(item.startswith("padding") for item in claim.blame):
        # The network reads beyond its crop, unless strides jump over all that was padded.
        event("reads beyond its crop" if not native.within(claim.native_size) else "jumps over its padding")
        if native.within(claim.native_size):
            assert own_crops(model, done, more=(1, 1, 1), varied=False) < 1e-3


# Upsampled, then strided: the windows are no single floor of the image's size

UPSAMPLED = {"upsampled": (3, 6, (20, 22)), "upsampled_thrice": (4, 12, (20, 20))}
"""Stride, period, native size."""


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", UPSAMPLED)
def test_cells_between_the_steps(name: str, exporter: str) -> None:
    """The size step is the period, in which the cells keep their places; their number is known at every size."""
    done = rewrite(fixture_file(f"{name}.{exporter}.onnx"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    stride, period, native = UPSAMPLED[name]
    geometry, made = Geometry.from_model(done.model), session(done.model)
    assert (geometry.native_size, geometry.stride) == (native, (stride, stride))
    assert geometry.size_step == geometry.period == (period, period)
    counts = set()
    for more in range(-4, 3 * period):
        size = (native[0] + more, native[1] + (7 * more) % 11)
        try:
            found = made.run(None, {"image": np.zeros((1, 3, *size), np.float32)})[0].shape[2:]
        except Exception:  # onnxruntime's have no common base
            found = None
        cells = geometry.cells(*size)
        assert cells == found if found is not None else 0 in cells, size
        counts.add(cells[0] - 1 - more // stride)
    assert len(counts) > 1, "a single floor would do"


@pytest.mark.parametrize("name", UPSAMPLED)
def test_cells_a_period_apart_are_the_original_on_its_crops(name: str) -> None:
    """Nothing is padded: moved by whole periods, a crop gives what the map has there."""
    path = fixture_file(f"{name}.dynamo.onnx")
    done, original = rewrite(path, prove=False), session(onnx.load(path))
    stride, period, native = UPSAMPLED[name]
    image = np.random.default_rng(3).standard_normal((1, 3, *(n + 2 * period for n in native))).astype(np.float32)
    scores = session(done.model).run(None, {"image": image})[0]
    scale = float(np.ptp(scores))
    for row, column in np.ndindex(3, 3):
        top, left = row * period, column * period
        crop = np.ascontiguousarray(image[:, :, top : top + native[0], left : left + native[1]])
        wanted = original.run(None, {"image": crop})[0]
        assert np.abs(scores[..., top // stride, left // stride] - wanted).max() < 1e-5 * scale


def test_sizes_between_the_steps_that_do_not_fit() -> None:
    """A padded Conv beside a pool: at odd sizes they differ by a place, and the model does not run."""
    net = Net(17)
    image = net.image(size=(16, 16))
    one = net.conv(image, 2, 2, pads=[1, 1, 1, 1])
    added = net.op("Add", one, net.op("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2]))
    geometry = Geometry.from_model(rewrite(net.model(net.fc(net.op("Flatten", added), 2 * 64, 4)), prove=False).model)
    assert geometry.size_step == (2, 2)
    assert geometry.cells(18, 20) == (2, 3)
    with pytest.raises(UsageError, match="the model takes 16x16 px plus multiples of 2x2"):
        geometry.cells(17, 16)
    assert pickle.loads(pickle.dumps(geometry)) == geometry


@pytest.mark.parametrize("fine_first", [True, False])
def test_outputs_of_two_strides_lie_on_one_grid(fine_first: bool) -> None:
    """The finer one is thinned, and says so: its cells are as far apart as the other's."""
    net = Net(17)
    fine = net.op("Tanh", net.conv(net.image(size=(17, 19)), 2, 3))
    coarse = net.op("Tanh", net.conv(fine, 3, 4))
    ends = [net.fc(net.op("Flatten", fine), 3 * 8 * 9, 5), net.fc(net.op("Flatten", coarse), 4 * 3 * 4, 5)]
    model = net.model(*(ends if fine_first else ends[::-1]))
    done = proven(model)
    assert [output.stride for output in done.claim.outputs] == [(4, 4), (4, 4)]
    assert done.claim.stride == (4, 4)
    assert own_crops(model, done) < 1e-5


def test_a_kept_global_pool_takes_every_size() -> None:
    """Nothing is windowed: the stride of the trunk is no step of the sizes."""
    done = rewrite(
        fixture_file("mean_head.dynamo.onnx"), options=RewriteOptions(global_pool="keep"), check_options=CHECK
    )
    assert done.claim.size_step == (1, 1)
    original = onnx.load(fixture_file("mean_head.dynamo.onnx"))
    for info in original.graph.input:
        for dim in list(info.type.tensor_type.shape.dim)[2:]:
            dim.dim_param = f"free_{len(dim.dim_param)}_{dim.dim_value}"
    del original.graph.value_info[:]
    image = np.random.default_rng(1).standard_normal((1, 3, 21, 19)).astype(np.float32)
    now = session(done.model).run(None, {"image": image})[0]
    assert np.abs(now - session(original).run(None, {"image": image})[0]).max() < 1e-5


def test_features_beside_one_score_have_a_stride_of_their_own() -> None:
    """A kept pool's score has no cells: what claim and geometry tell is the map's, as onnxruntime has it."""
    done = rewrite(
        fixture_file("context_mean.dynamo.onnx"), options=RewriteOptions(global_pool="keep"), check_options=CHECK
    )
    geometry, made = Geometry.from_model(done.model), session(done.model)
    assert [output.form for output in done.claim.outputs] == ["global", "features"]
    assert done.claim.stride == geometry.stride == (2, 2)
    assert done.claim.slack == (1, 1)
    for size in ((20, 20), (19, 20), (18, 19), (21, 23)):
        found = made.run(None, {"image": np.zeros((1, 3, *size), np.float32)})[1]
        assert geometry.cells(*size) == found.shape[2:], size


CASES = Path(__file__).parents[2] / "shared" / "cases"
"""Found by random search; where they are not at hand, the fixtures above do."""


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared cases here")
def test_shared_cases_upsampled() -> None:
    found = rewrite(CASES / "upsample-then-stride-cells.onnx", check_options=CHECK)
    geometry = Geometry.from_model(found.model)
    assert geometry.cells(14, 21) == (1, 2)
    assert geometry.size_step == geometry.period == (6, 6)
    refused = rewrite(CASES / "upsample-then-stride-refused.onnx", check_options=CHECK)
    assert refused.claim.size_step == refused.claim.period == (12, 12)
