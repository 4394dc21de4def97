"""Tiles against one pass over the whole image, by onnxruntime itself: random networks, random tilings, real exports."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import session
from hypothesis import HealthCheck, Phase, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from random_networks import random_network, still_varies

from onnxfc import NothingToRewrite, OnnxfcError, RewriteOptions, UsageError, rewrite
from onnxfc.scanner.plan import Plan, axes_of
from onnxfc.scanner.scan_model import ScanModel

EXAMPLES = int(os.environ.get("ONNXFC_EXAMPLES", "40"))
QUIET = settings(
    deadline=None,
    database=None,
    max_examples=EXAMPLES,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
)


def plan_of(model: ScanModel, size: tuple[int, int], count: tuple[int, int]) -> Plan:
    return Plan(
        axes_of(model.geometry, size, model.local_halo, elements=model.elements, whole=False, even=model.resizes),
        count,
    )


def in_tiles(model: ScanModel, image: np.ndarray, plan: Plan) -> np.ndarray:
    """The map of an image (bands, H, W), tile by tile."""
    made = model.session(1)
    found = np.full((model.classes, *plan.grid), np.nan, np.float32)
    for tile in plan:
        rows, columns = tile.rows, tile.columns
        scores = made.run(image[None, :, rows.start : rows.stop, columns.start : columns.stop])[0]
        block = scores[:, rows.kept, columns.kept]
        assert block.shape[1:] == (rows.last - rows.first, columns.last - columns.first), tile
        assert np.isnan(found[:, rows.cells, columns.cells]).all()
        found[:, rows.cells, columns.cells] = block
    return found


def in_one_pass(model: ScanModel, image: np.ndarray, plan: Plan) -> np.ndarray:
    """By onnxruntime alone, its map laid as (classes, gH, gW)."""
    made = ort.InferenceSession(model.file.loaded().SerializeToString(), providers=["CPUExecutionProvider"])
    used = image[:, : plan.axes[0].length, : plan.axes[1].length]
    spatial = model.image.spatial
    laid = np.moveaxis(used[None], (2, 3), spatial) if spatial != (2, 3) else used[None]
    shape = model.image.shape
    laid = np.concatenate([laid] * (model.fixed_batch or 1)).astype(model.dtype)
    if len(shape) == 3:
        laid = laid[:, 0]
    [whole] = made.run([model.output.name], {model.image.name: laid})
    moved = np.moveaxis(whole, model.output.axes, (-2, -1))
    return moved.reshape(len(laid), -1, *moved.shape[-2:])[0]


def agree(model: ScanModel, image: np.ndarray, plan: Plan) -> bool:
    """To the rounding of sums; gives whether bit for bit."""
    tiled, whole = in_tiles(model, image, plan), in_one_pass(model, image, plan)
    assert tiled.shape == whole.shape
    scale = max(float(np.ptp(whole)), 1e-3 * float(np.abs(whole).max()), 1e-6)
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=2e-5 * scale)
    return bool(np.array_equal(tiled, whole))


def opened(proto: onnx.ModelProto) -> ScanModel | None:
    """A random network, if onnxruntime runs it and it has a map."""
    try:
        return ScanModel.open(proto, prove=False) if still_varies(proto, session) else None
    except (NothingToRewrite, UsageError, RuntimeException):
        return None


@seed(0)
@QUIET
@given(st.data())
def test_random_networks_in_random_tiles(data: Any) -> None:
    proto, network = random_network(data.draw)
    note(f"{network.story}")
    assume(network.rank == 2)
    model = opened(proto)
    assume(model is not None)
    assert model is not None
    assume(not model.geometry.context)
    size = tuple(n + data.draw(st.integers(0, 40)) for n in model.claim.native_size)
    count = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    plan = plan_of(model, (size[0], size[1]), count)
    image = np.random.default_rng(1).standard_normal((model.channels, *size)).astype(np.float32)
    event("bit for bit" if agree(model, image, plan) else "to rounding")
    event("one tile" if len(plan) == 1 else "tiles")


REAL = ("lenet.dynamo", "digits", "mini_vgg.dynamo", "mini_resnet.torchscript", "mini_densenet.dynamo")
REAL += (
    "mini_googlenet.torchscript",
    "keras_same.tf2onnx",
    "keras_gap.tf2onnx",
    "lenet_batch4.dynamo",
    "swallowed_for_good.dynamo",
    "cut_and_padded.torchscript",
)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("count", [(1, 2), (3, 5), (7, 4)], ids=str)
def test_real_networks(name: str, count: tuple[int, int]) -> None:
    """On and off the period of the grid, tiles of one cell included, and images that the last tile does not fill."""
    model = ScanModel.open(fixture_file(f"{name}.onnx"), prove=False)
    claim = model.claim
    size = tuple(n + 9 * s + more for n, s, more in zip(claim.native_size, claim.stride, (5, 3), strict=True))
    plan = plan_of(model, (size[0], size[1]), count)
    assert len(plan) > 4
    image = np.random.default_rng(2).random((model.channels, *size), np.float32)
    same = agree(model, image, plan)
    assert same or name != "lenet.dynamo"


@pytest.mark.parametrize("name", ["borders.dynamo", "multi_head.torchscript", "two_outputs.dynamo"])
def test_outputs_on_grids_of_their_own(name: str) -> None:
    path = fixture_file(f"{name}.onnx")
    outputs = [item.name for item in ScanModel.open(path, prove=False).claim.outputs]
    assert len(outputs) > 1
    for output in outputs:
        model = ScanModel.open(path, output, prove=False)
        size = tuple(n + 3 * p + 5 for n, p in zip(model.claim.native_size, model.geometry.period, strict=True))
        plan = plan_of(model, (size[0], size[1]), (4, 3))
        assert len(plan) > 1
        agree(model, np.random.default_rng(2).random((model.channels, *size), np.float32), plan)


@pytest.mark.parametrize("name", ["mini_resnet.dynamo", "mini_googlenet.torchscript"])
def test_map_whose_pool_was_dropped(name: str) -> None:
    done = rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(global_pool="drop"), prove=False)
    model = ScanModel.open(done.file)
    assert model.elements
    plan = plan_of(model, (250, 171), (5, 4))
    assert len(plan) > 4
    agree(model, np.random.default_rng(2).random((model.channels, 250, 171), np.float32), plan)


def test_all_cells_are_in_one_tile() -> None:
    model = ScanModel.open(fixture_file("mini_vgg.dynamo.onnx"), prove=False)
    for length in range(56, 140, 3):
        for count in range(1, 9):
            plan = plan_of(model, (length, 56), (count, count))
            spans = [tile.rows for tile in plan]
            assert [cell for span in spans for cell in range(span.first, span.last)] == list(range(plan.grid[0]))
            assert all(0 <= span.start < span.stop <= length for span in spans)
            assert {span.pixels for span in spans} == {plan.size[0]}


def test_tiles_read_no_more_than_fits() -> None:
    model = ScanModel.open(fixture_file("mini_vgg.dynamo.onnx"), prove=False)
    axis = plan_of(model, (5000, 400), (1, 1)).axes[0]
    for pixels in (150, 200, 400, 1000, 6000):
        count = axis.fitting(pixels)
        assert axis.size(count) <= pixels
        assert count == axis.cells or axis.size(count + 2) > pixels - 16


def test_small_image_is_refused() -> None:
    model = ScanModel.open(fixture_file("lenet.dynamo.onnx"), prove=False)
    with pytest.raises(OnnxfcError, match=r"27x100 px, the model needs 28x28 at least"):
        plan_of(model, (27, 100), (1, 1))


def test_memory_of_a_pass_grows_with_its_tensors() -> None:
    """The first Conv of the digits network makes 8 maps of the image's size, its Relu 8 more, both in blocks of 16."""
    model = ScanModel.open(fixture_file("digits.onnx"), prove=False)
    assert isinstance(model.file.proto, onnx.ModelProto)
    pixels = 400 * 600
    assert model.pass_bytes((400, 600)) == pytest.approx(1.25 * 4 * 32 * pixels, rel=0.2)
