"""Cells, boxes, fields and halos where a global pool was dropped or kept, against onnxruntime."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fixture_files import fixture_file
from hazards import CHECK, Net, session
from schemas import follows

from onnxfc import Box, Geometry, RewriteOptions, UsageError, inspect, rewrite
from onnxfc.cli.main import main
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.check import check
from onnxfc.rewriter.api import Rewrite

POOLED = ("mean_head.dynamo", "mean_head.torchscript", "mini_resnet.dynamo", "mini_resnet.torchscript")


def made(name: str, **options: Any) -> Rewrite:
    return rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(**options), prove=False)


def noise(*size: int, number: int = 0) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((1, 3, *size)).astype(np.float32)


def scores(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    result: np.ndarray = session(model).run(None, {model.graph.input[0].name: image})[0]
    return result


def trunk_of_resnet18() -> onnx.ModelProto:
    """Its strides, and one padded Conv for each of its blocks that have one; 224x224 px."""
    net = Net(17)
    tensor = net.conv(net.image(size=(224, 224), channels=3), 3, 2, (7, 7), pads=[3] * 4)
    tensor = net.op("MaxPool", tensor, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for _ in range(3):
        tensor = net.op("Tanh", net.conv(tensor, 2, 2, pads=[1] * 4))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", tensor))
    return net.model(net.fc(pooled, 2, 3))


# Dropped: the map's own elements


def test_a_dropped_pool_of_resnet18() -> None:
    """Five strides of 2; a field of 7 + 2 * (2 + 4 + 8 + 16) px, 3 + 2 + 4 + 8 + 16 px of them before the image."""
    model = rewrite(trunk_of_resnet18(), options=RewriteOptions(global_pool="drop"), prove=False).model
    geometry = Geometry.from_model(model)
    assert geometry.cells(480, 640) == scores(model, noise(480, 640)).shape[2:] == (15, 20)
    assert geometry.native_cells == geometry.cells(224, 224) == (7, 7)
    assert geometry.stride == (32, 32)
    assert geometry.field_size == (67, 67)
    assert geometry.field_start == (-33, -33)
    assert geometry.halo == ((64, 2), (64, 2))


@pytest.mark.parametrize("name", POOLED)
def test_cells_of_a_dropped_pool(name: str) -> None:
    """From below the smallest size to twice native, another size on each axis."""
    done = made(name, global_pool="drop")
    geometry, run = Geometry.from_model(done.model), session(done.model)
    (native, _), (smallest, _) = geometry.native_size, geometry.smallest_size
    assert geometry == inspect(fixture_file(f"{name}.onnx"), options=RewriteOptions(global_pool="drop")).geometry
    for height in [smallest, smallest + 1, *range(native - 5, native + 20, 3), 2 * native]:
        size = (height, max(smallest, 2 * native + 7 - height))
        found = run.run(None, {done.claim.inputs[0].name: noise(*size)})[0].shape[2:]
        assert geometry.cells(*size) == found, size
    assert geometry.cells(smallest, smallest) == (1, 1)
    if smallest > 1:
        assert geometry.cells(smallest - 1, smallest) == (0, 1)


@pytest.mark.parametrize("name", POOLED)
def test_field_of_a_dropped_pool(name: str) -> None:
    """A pixel changes only cells whose field holds it; of a trunk without padding, exactly those."""
    done = made(name, global_pool="drop")
    geometry = Geometry.from_model(done.model)
    size = (geometry.native_size[0] + 9, 2 * geometry.native_size[1])
    image = noise(*size)
    before = scores(done.model, image)[0]
    axis = np.arange(0, min(size), 5)
    for row, column in zip(axis, axis[::-1], strict=True):
        moved = image.copy()
        moved[..., row, column] += 50
        changed = np.abs(scores(done.model, moved)[0] - before).max(axis=0) > 1e-4
        for cell in np.ndindex(*changed.shape):
            field = geometry.field(*cell)
            inside = all(a <= p < b for a, p, b in zip(field.start, (row, column), field.stop, strict=True))
            assert inside or not changed[cell], (cell, row, column)
            assert changed[cell] or not inside or "mean_head" not in name, (cell, row, column)


def test_boxes_of_a_dropped_pool() -> None:
    """The mean over the cells of the native grid, from a cell on, is what the original says of the cell's box."""
    done = made("mean_head.dynamo", global_pool="drop")
    geometry, original = Geometry.from_model(done.model), onnx.load(fixture_file("mean_head.dynamo.onnx"))
    image = noise(30, 26)
    found = scores(done.model, image)
    rows, columns = geometry.native_cells
    assert found.shape[2:] == (6, 5)
    for row, column in ((0, 0), (1, 2), (3, 2)):
        box = geometry.box(row, column)
        assert box.within((30, 26))
        want = scores(original, np.ascontiguousarray(image[(..., *box.slices)]))
        got = found[:, :, row : row + rows, column : column + columns].mean(axis=(2, 3))
        assert np.abs(got - want).max() < 1e-5 * np.ptp(found)


@pytest.mark.parametrize("name", POOLED)
def test_tile_with_its_halo_of_a_dropped_pool(name: str) -> None:
    """Elements 4..6 of each axis from a tile of their own pixels and the halo; with a pixel less they differ."""
    done = made(name, global_pool="drop")
    geometry = Geometry.from_model(done.model)
    assert geometry.halo is not None
    stride, (before, after) = geometry.stride[0], geometry.halo[0]
    start, stop = 4 * stride - before, 7 * stride + after
    image = noise(stop + 40, stop + 40)
    whole = scores(done.model, image)[..., 4:7, 4:7]
    scale = np.abs(whole).max()

    def tile(end: int) -> np.ndarray:
        first = before // stride
        cut = np.ascontiguousarray(image[..., start:end, start:end])
        return scores(done.model, cut)[..., first : first + 3, first : first + 3]

    assert np.abs(tile(stop) - whole).max() < 1e-5 * scale
    less = tile(stop - 1)
    assert less.shape != whole.shape or np.abs(less - whole).max() > 1e-7 * scale


def test_a_field_that_is_told_too_narrow_is_found() -> None:
    """The map's own field and that of the trunk are put to the test: they are what moves with the image."""
    original = ModelFile.open(fixture_file("mini_resnet.dynamo.onnx"))
    done = made("mini_resnet.dynamo", global_pool="drop")
    claim, output = done.claim, done.claim.outputs[0]
    right = check(original, done.file, claim, CHECK).shift
    assert right.status == "passed", right.reason
    assert {item.name for item in right.outputs} == {"scores", claim.boundaries[0].rewritten}
    narrow: dict[str, Any] = {"size": (35, 35), "start": (-17, -17)}
    for wrong in (replace(claim, outputs=(replace(output, **narrow),)), replace(claim, **narrow)):
        assert check(original, done.file, wrong, CHECK).shift.status == "failed"


# Kept: one score for the whole image


@pytest.mark.parametrize("options", [{"global_pool": "keep"}, {"global_pool": "drop", "output": "mean"}])
@pytest.mark.parametrize("name", POOLED)
def test_one_score_for_the_whole_image(name: str, options: dict[str, Any]) -> None:
    done = made(name, **options)
    geometry, run = Geometry.from_model(done.model), session(done.model)
    assert geometry.whole_image
    assert geometry.context
    assert geometry.halo is None
    assert geometry == inspect(fixture_file(f"{name}.onnx"), options=RewriteOptions(**options)).geometry
    native = geometry.native_size
    assert geometry.native_cells == (1, 1)
    assert geometry.box(0, 0) == geometry.field(0, 0) == Box((0, 0), native)
    low = geometry.smallest_size
    for size in (low, (low[0], native[1]), native, (native[0] + 1, native[1] + 7), (3 * native[0], native[1])):
        values = run.run(None, {done.claim.inputs[0].name: noise(*size)})
        assert values[0].shape == (1, 10 if "mean_head" in name else 2)
        assert geometry.cells(*size) == (1, 1)
        assert geometry.box(0, 0, size=size) == geometry.field(0, 0, size=size) == Box((0, 0), size)
    if min(low) > 1:
        assert geometry.cells(low[0] - 1, low[1]) == (0, 1)


def test_one_score_depends_on_every_corner() -> None:
    """Also on pixels beyond the native size, and below it there is a score too."""
    done = made("mean_head.dynamo", global_pool="keep")
    for size in ((14, 14), (26, 34)):
        image = noise(*size)
        before = scores(done.model, image)
        assert before.shape == (1, 10)
        for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
            moved = image.copy()
            moved[..., row, column] += 50
            assert np.abs(scores(done.model, moved) - before).max() > 1e-4


def test_inspect_tells_dropped_and_kept() -> None:
    path = str(fixture_file("mean_head.dynamo.onnx"))
    told = {}
    for pool in ("drop", "keep"):
        shown = CliRunner().invoke(main, ["inspect", path, "--global-pool", pool, "--at", "26x30"]).output
        lines = shown.splitlines()
        told[pool] = {line[:15].strip(): line[16:] for line in lines if line[:15].strip()}
        text = CliRunner().invoke(main, ["inspect", path, "--global-pool", pool, "--json"]).output
        follows(json.loads(text), "inspect")
    found = scores(made("mean_head.dynamo", global_pool="drop").model, noise(26, 30))
    assert found.shape[2:] == (5, 6)
    assert told["drop"]["element"] == "every 4x4 px; reads 10x10 px from 0 on"
    assert told["drop"]["cells"].startswith("5x6 elements at 26x30 px; ")
    assert told["keep"]["score"] == "one for the whole image"
    assert told["keep"]["cost"].endswith(" multiply-adds at 26x30 px")
    assert "cells" not in told["keep"]


# Boxes beyond the image


def test_last_boxes_are_clipped_on_request() -> None:
    """A padded trunk has a cell for a part of a window: its box ends beyond the image."""
    geometry = Geometry.from_model(made("mini_resnet.dynamo").model)
    model = made("mini_resnet.dynamo").model
    size = (70, 81)
    assert geometry.cells(*size) == scores(model, noise(*size)).shape[2:] == (2, 3)
    last = geometry.box(1, 2)
    assert last == Box((16, 32), (80, 96))
    assert not last.within(size)
    assert geometry.box(1, 2, size=size) == Box((16, 32), (70, 81)) == last.clipped(size)
    assert geometry.box(0, 1, size=size) == geometry.box(0, 1)
    assert geometry.field(1, 2, size=size) == geometry.field(1, 2).clipped(size) == Box((0, 0), size)
    image = noise(*size)
    assert image[(..., *geometry.box(1, 2, size=size).slices)].shape == (1, 3, 54, 49)
    with pytest.raises(UsageError, match="an image of this model has a height and a width"):
        geometry.box(1, 2, size=(70,))


@pytest.mark.parametrize("name", ["box", "field"])
@pytest.mark.parametrize(("cell", "size", "says"), [
    ((1.5, 2), None, "a cell of this model: an index: must be a whole number from 0 on, not 1.5"),
    (("1", "2"), None, "must be a whole number from 0 on, not '1'"),
    ((-1, 0), None, "must be a whole number from 0 on, not -1"),
    ((True, 0), None, "must be a whole number from 0 on, not True"),
    ((10, 10), (70, 81), "a cell of this model: there is none at 10x10, the grid is 2x3"),
    ((2, 0), (70, 81), "there is none at 2x0, the grid is 2x3"),
    ((0, 3), (70, 81), "there is none at 0x3, the grid is 2x3"),
    ((0, 0), (8, 8), "there is none at 0x0, the grid is 0x0"),
    ((0, 0), 81, "an image of this model has a height and a width"),
])  # fmt: skip
def test_cells_that_are_not_there(name: str, cell: tuple[int, ...], size: tuple[int, ...] | None, says: str) -> None:
    geometry = Geometry.from_model(made("mini_resnet.dynamo").model)
    with pytest.raises(UsageError, match=says):
        getattr(geometry, name)(cell, size=size)


def test_numbers_of_numpy_are_cells() -> None:
    found = Geometry.from_model(made("mini_resnet.dynamo").model).box(*np.argwhere(np.ones((2, 3)))[-1])
    assert found == Box((16, 32), (80, 96))
    assert {type(pixel) for pixel in (*found.start, *found.stop)} == {int}


def test_one_score_has_one_cell() -> None:
    geometry = rewrite(
        fixture_file("mini_resnet.dynamo.onnx"), options=RewriteOptions(global_pool="keep"), prove=False
    ).geometry
    assert geometry.box(0, 0).start == (0, 0)
    with pytest.raises(UsageError, match="a cell of this model: there is none at 0x1, the grid is 1x1"):
        geometry.box(0, 1)


CASES = Path(__file__).parents[2] / "shared" / "cases"
"""Found by random search; where they are not at hand, tests of pools do."""


@pytest.mark.skipif(not CASES.is_dir(), reason="no shared cases here")
def test_shared_cases_of_kept_reductions() -> None:
    """A maximum and a sum over the one channel and all places are kept: a count, for the image as a whole."""
    path = CASES / "keep-ignored-chw.onnx"
    done = rewrite(path, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    features, most = session(done.model).run(None, {"x": noise(64, 48)})
    assert features.shape == (1, 1, 32, 24)
    assert most.shape == (1,)
    assert most[0] == features.max()
    path = CASES / "keep-ignored-sum-chw.onnx"
    done = rewrite(path, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    features, total = session(done.model).run(None, {"x": noise(64, 48)})
    assert (features.shape, total.shape) == ((1, 1, 32, 24), (1,))
    np.testing.assert_allclose(total, features.sum(), rtol=1e-5)
