"""onnxfc.scan and `onnxfc scan` from end to end, against onnxruntime on crops and on whole images."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tifffile
from cli_runs import environment, fails, here, unwrapped
from fixture_files import FIXTURES, fixture_file, must_run
from hazards import Net
from PIL import Image
from schemas import follows
from systems import posix

from onnxfc import OnnxfcError, ReadError, ScanOptions, UsageError, WriteError, rewrite, scan
from onnxfc.scanner.api import run_scan
from onnxfc.scanner.job import Scoring
from onnxfc.scanner.open_image import open_image

DIGITS = fixture_file("digits.onnx")
CANVAS = FIXTURES / "trained" / "canvas.png"
PLACES = [
    (row["class"], int(row["y"]), int(row["x"])) for row in csv.DictReader((FIXTURES / "trained" / "canvas.csv").open())
]
SCALED = ScanOptions(scale=1 / 255, prove=False)


def crops_of(image: np.ndarray, size: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """All crops (rows, columns, bands, h, w) of an image (bands, H, W)."""
    views = np.lib.stride_tricks.sliding_window_view(image, size, (1, 2))
    return views[:, :: stride[0], :: stride[1]].transpose(1, 2, 0, 3, 4)


def original_on_crops(path: Path, image: np.ndarray, size: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """(classes, rows, columns) by the original, crop by crop."""
    session = ort.InferenceSession(path)
    name = session.get_inputs()[0].name
    crops = crops_of(image, size, stride)
    found = [[session.run(None, {name: np.ascontiguousarray(crop[None])})[0][0] for crop in row] for row in crops]
    return np.moveaxis(np.array(found), -1, 0)


def in_one_pass(path: Path, image: np.ndarray) -> np.ndarray:
    """The rewritten model over the whole image (bands, H, W)."""
    done = rewrite(path, prove=False)
    session = ort.InferenceSession(done.model.SerializeToString())
    return session.run(None, {session.get_inputs()[0].name: image[None]})[0][0]


def canvas() -> np.ndarray:
    return np.asarray(Image.open(CANVAS), np.float32)[None] / 255


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return in_one_pass(DIGITS, canvas())


def close(found: Any, wanted: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * float(np.ptp(wanted)))


# What comes out


def test_the_map_names_the_digits_in_their_places(whole: np.ndarray) -> None:
    made = scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, tile=7))
    close(made, whole)
    assert len(PLACES) == 20
    for name, y, x in PLACES:
        assert made.classes[int(made.at(y + 8, x + 8).argmax())] == name
        box = made.box(y // 4, x // 4)
        assert (box.start, box.stop) == ((y, x), (y + 16, x + 16))


@pytest.mark.parametrize("how", [{"tile": 1, "batch": 4}, {"tile": 5, "batch": 3}, {"memory": 3}, {}], ids=str)
def test_any_tiles_any_batch(how: dict[str, Any], whole: np.ndarray) -> None:
    found = run_scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, **how))
    close(found.map, whole)
    assert len(found.job.plan) > 1 or not how


def test_each_processor_has_a_tile_of_its_own(whole: np.ndarray) -> None:
    """As many as there are tiles and memory has room for."""
    for how, at_once in (
        ({"threads": 3}, 3),
        ({"threads": 1}, 1),
        ({"threads": 3, "memory": 1, "tile": 8}, 2),
        ({"threads": 64, "batch": 20}, 2),
        ({"threads": 3, "provider": "CPUExecutionProvider"}, 1),
    ):
        found = run_scan(DIGITS, CANVAS, options=ScanOptions(**{"scale": 1 / 255, "prove": False, "tile": 8, **how}))
        assert found.job.at_once == at_once, how
        close(found.map, whole)


def test_small_tiles_are_made_ready_before_the_session_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones are not, as those that wait would take much memory."""
    image = np.asarray(Image.open(CANVAS))
    done = run_scan(DIGITS, image, options=replace(SCALED, tile=10))
    job, worker = done.job, done.job.worker(done.model)
    loaded = worker.load([0])[0]
    assert loaded.pixels is not None
    assert (loaded.pixels.shape, loaded.pixels.dtype) == ((1, *job.plan.size), np.float32)
    monkeypatch.setattr("onnxfc.scanner.job._AHEAD", 4 * job.plan.size[0] * job.plan.size[1] - 1)
    waiting = worker.load([0])[0]
    assert waiting.pixels is not None
    assert (waiting.pixels.shape, waiting.pixels.dtype) == ((*job.plan.size, 1), np.uint8)
    blocks = [block for item in (loaded, waiting) for block in worker.run([item])]
    assert all(block is not None and block.flags.owndata for block in blocks)  # nothing of the session is held,
    assert [item.pixels for item in (loaded, waiting)] == [None, None]  # nor what it was given
    assert np.array_equal(blocks[0], blocks[1])


def test_a_rewritten_model_of_batch_one(tmp_path: Path, whole: np.ndarray) -> None:
    rewrite(DIGITS).save(tmp_path / "any.onnx")
    close(scan(tmp_path / "any.onnx", CANVAS, options=ScanOptions(scale=1 / 255, tile=9, batch=3)), whole)


def test_by_a_provider_that_is_named(whole: np.ndarray) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, tile=9, provider="CPUExecutionProvider")
    made = scan(DIGITS, CANVAS, options=options)
    close(made, whole)
    assert made.notes["provider"] == "CPUExecutionProvider"


def test_all_kinds_of_files_hold_the_same(tmp_path: Path, whole: np.ndarray) -> None:
    import rasterio
    import zarr

    outs = [tmp_path / f"map.{ending}" for ending in ("npy", "tif", "zarr", "png", "csv", "geojson")]
    made = scan(DIGITS, CANVAS, outs, options=ScanOptions(scale=1 / 255, tile=10, prove=False, threshold=-1e9))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in outs)
    close(made, whole)
    close(np.load(outs[0]), whole)
    with rasterio.open(outs[1]) as file:
        assert np.array_equal(file.read(), np.load(outs[0]))
        assert file.descriptions == made.classes
        assert file.profile["tiled"]
        assert np.isnan(file.nodata)
        assert json.loads(file.tags()["TIFFTAG_IMAGEDESCRIPTION"])["pixels"]["scale"] == 1 / 255
    stored = zarr.open(str(outs[2]), mode="r")
    assert np.array_equal(stored[:], np.load(outs[0]))
    assert stored.attrs["activation"] == "none"
    with outs[4].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == whole[0].size
    best = np.unravel_index(whole.argmax(), whole.shape)
    first = rows[0]
    assert (int(first["class"]), int(first["row"]), int(first["column"])) == best
    assert float(first["score"]) == pytest.approx(float(whole.max()), rel=1e-5)
    assert (int(first["y"]), int(first["x"])) == (4 * best[1], 4 * best[2])
    assert (first["width"], first["height"]) == ("16", "16")
    features = json.loads(outs[5].read_text())["features"]
    x, y = 4.0 * best[2], 4.0 * best[1]
    assert features[0]["geometry"]["coordinates"] == [[[x, y], [x + 16, y], [x + 16, y + 16], [x, y + 16], [x, y]]]


def test_classes_and_activations(whole: np.ndarray) -> None:
    powers = np.exp(whole - whole.max(axis=0))
    soft = scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, activation="softmax", classes=(7, "2")))
    assert soft.classes == ("7", "2")
    close(soft, (powers / powers.sum(axis=0))[[7, 2]])
    sigmoid = scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, activation="sigmoid"))
    close(sigmoid, 1 / (1 + np.exp(-whole)))
    with pytest.raises(UsageError, match="class dog: is none of 0, 1"):
        scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, classes=("dog",)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_activations_of_any_score(activation: Any) -> None:
    scores = np.array([[[-1e5, 0, 1e5]], [[1e5, 0, -np.inf]]], np.float32)
    half = [[[0, 0.5, 1]], [[1, 0.5, 0]]]
    assert np.array_equal(Scoring(activation).finish(scores), half)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_reduced_to_one_vector(how: Any, whole: np.ndarray, tmp_path: Path) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, reduce=how, tile=10)
    found = run_scan(DIGITS, CANVAS, [tmp_path / "scores.npy", tmp_path / "scores.csv"], options=options)
    wanted = whole.mean(axis=(1, 2)) if how == "mean" else whole.max(axis=(1, 2))
    close(found.vector, wanted)
    close(np.load(tmp_path / "scores.npy"), wanted)
    with (tmp_path / "scores.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == [str(k) for k in range(10)]
    with pytest.raises(UsageError, match=r"map\.tif: one vector is written to \.csv, \.npy"):
        scan(DIGITS, CANVAS, tmp_path / "map.tif", options=options)


def test_a_map_is_like_an_array(whole: np.ndarray, tmp_path: Path) -> None:
    made = scan(DIGITS, CANVAS, tmp_path / "map.zarr", options=ScanOptions(scale=1 / 255, prove=False, tile=6))
    assert (made.shape, made.dtype) == (whole.shape, np.float32)
    keys = (3, (3, 4), (slice(2, 5), 7), np.s_[:, 3:30:2, -9:], (-1, -1, -1), np.s_[..., 2])
    for key in keys:
        np.testing.assert_allclose(made[key], whole[key], atol=1e-4)
    picked = made.top(5)
    flat = whole.max(axis=0)
    assert [score for *_, score in picked] == pytest.approx(sorted(flat.ravel(), reverse=True)[:5], rel=1e-5)
    assert all(flat[row, column] == pytest.approx(score, rel=1e-4) for row, column, _, score in picked)
    assert len(made.top(1, threshold=4.0)) == int((flat >= 4).sum()) > 10
    with pytest.raises(IndexError):
        made[10]


# Crops, context, edges, no data


@pytest.mark.parametrize("batch", [1, 4])
def test_exact_crops_are_the_originals(batch: int) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, exact="crops", tile=11, batch=batch)
    close(scan(DIGITS, CANVAS, options=options), original_on_crops(DIGITS, canvas(), (16, 16), (4, 4)))


def test_exact_crops_of_a_fixed_batch() -> None:
    path = fixture_file("lenet_batch4.dynamo.onnx")
    image = np.random.default_rng(0).random((48, 60, 1), np.float32)
    found = scan(path, image, options=ScanOptions(prove=False, exact="crops"))
    session = ort.InferenceSession(path)
    crops = crops_of(np.moveaxis(image, 2, 0), (28, 28), (4, 4))
    name = session.get_inputs()[0].name
    wanted = [[session.run(None, {name: np.stack([crop] * 4)})[0][0] for crop in row] for row in crops]
    close(found, np.moveaxis(np.array(wanted), -1, 0))


def test_compared_with_crops(whole: np.ndarray) -> None:
    """All cells: the figures that the two maps give."""
    crops = original_on_crops(DIGITS, canvas(), (16, 16), (4, 4))
    found = run_scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, compare=37 * 57)).compared
    assert found is not None
    off = np.abs(whole - crops) / np.ptp(crops)
    assert found.cells == 37 * 57
    assert found.largest == pytest.approx(float(off.max()), rel=1e-3)
    assert found.median == pytest.approx(float(np.median(off)), rel=1e-3)
    assert found.same == pytest.approx(float((whole.argmax(0) == crops.argmax(0)).mean()), abs=1e-3)


def test_an_exact_model_equals_its_crops() -> None:
    image = np.random.default_rng(0).random((90, 97, 1), np.float32)
    found = run_scan(fixture_file("lenet.dynamo.onnx"), image, options=ScanOptions(prove=False, tile=5, compare=50))
    assert found.compared is not None
    assert found.compared.largest < 1e-5
    assert found.uncovered == (90 - 28 - 15 * 4, 97 - 28 - 17 * 4)


SE = fixture_file("se_net.dynamo.onnx")


def test_context_in_one_pass_or_refused() -> None:
    image = np.random.default_rng(0).random((150, 130, 3), np.float32)
    close(scan(SE, image, options=ScanOptions(prove=False)), in_one_pass(SE, np.moveaxis(image, 2, 0)))
    with pytest.raises(UsageError, match=r"looks at the whole image \(.+\), which in one pass needs about .* MB"):
        scan(SE, image, options=ScanOptions(prove=False, memory=2))
    found = scan(SE, image, options=ScanOptions(prove=False, memory=2, context="per-tile"))
    assert found.notes["context"] == "per-tile"
    assert not np.allclose(found, in_one_pass(SE, np.moveaxis(image, 2, 0)), atol=1e-4)


def test_coordinates_do_not_begin_anew_in_each_tile() -> None:
    path = fixture_file("grid_coordinates.dynamo.onnx")
    image = np.random.default_rng(0).random((50, 60, 3), np.float32)
    close(scan(path, image, options=ScanOptions(prove=False)), in_one_pass(path, np.moveaxis(image, 2, 0)))
    with pytest.raises(UsageError, match=r"coordinates span the image \(.+\): in each tile they would begin anew"):
        scan(path, image, options=ScanOptions(prove=False, context="per-tile"))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_edges_cover_every_pixel(mode: Any) -> None:
    image = np.random.default_rng(0).random((90, 97, 1), np.float32)
    path = fixture_file("lenet.dynamo.onnx")
    found = run_scan(path, image, options=ScanOptions(prove=False, tile=4, edge=mode))
    grown = np.pad(image, [(0, 2), (0, 3), (0, 0)], mode)
    close(found.map, in_one_pass(path, np.moveaxis(grown, 2, 0)))
    assert found.uncovered == (0, 0)
    small = run_scan(path, image[:20, :25], options=ScanOptions(prove=False, edge=mode))
    assert small.map.shape[1:] == (1, 1)


def test_cells_without_data_are_nan_and_all_others_unchanged(whole: np.ndarray) -> None:
    image = np.asarray(Image.open(CANVAS)).copy()
    image[:, 120:200] = 7
    options = ScanOptions(scale=1 / 255, prove=False, no_data=7, tile=6)
    made = scan(DIGITS, image, options=options)
    wanted = in_one_pass(DIGITS, image[None].astype(np.float32) / 255)
    dead = np.zeros(wanted.shape[1:], bool)
    dead[:, 30:47] = True  # columns 120 to 184, whose 16 pixels lie from 120 to 200
    wanted[:, dead] = np.nan
    assert np.array_equal(np.isnan(np.asarray(made)), np.isnan(wanted))
    np.testing.assert_allclose(np.asarray(made), wanted, atol=1e-3)
    assert not np.isnan(made.reduce("mean")).any()


@pytest.mark.parametrize("model", ["lenet_batch.dynamo", "digits", "mini_vgg.dynamo"])
@pytest.mark.parametrize("tile", [1, 4, 50])
def test_what_depends_on_a_pixel_that_is_no_number_is_none(model: str, tile: int) -> None:
    """onnxruntime's Relu and MaxPool make numbers of NaN, PyTorch's pass it on. A cell depends on a pixel where
    another value of it changes the cell, by onnxruntime alone."""
    path = fixture_file(f"{model}.onnx")
    bands, *native = (dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[1:])
    image = np.random.default_rng(3).random((bands, native[0] + 60, native[1] + 40)).astype(np.float32)
    holes = np.zeros(image.shape[1:], bool)
    holes[native[0] + 11, native[1] + 3] = holes[2:5, 3] = True
    wanted, other = (in_one_pass(path, np.where(holes, value, image).astype(np.float32)) for value in (0, 40))
    depends = (wanted != other).any(axis=0)
    assert 0 < depends.sum() < depends.size
    pixels = np.moveaxis(np.where(holes, np.nan, image).astype(np.float32), 0, 2)
    found = np.asarray(scan(path, pixels, options=ScanOptions(prove=False, tile=tile)))
    assert np.isnan(found[:, depends]).all()
    alive = ~np.isnan(found).any(axis=0)
    assert alive.sum() > 0.8 * (~depends).sum()
    np.testing.assert_allclose(found[:, alive], wanted[:, alive], rtol=0, atol=2e-5 * float(np.ptp(wanted)))


def test_alpha_and_the_tag_of_gdal_are_no_data(tmp_path: Path) -> None:
    grey = np.asarray(Image.open(CANVAS))
    alpha = np.full_like(grey, 255)
    alpha[:100] = 0
    Image.fromarray(np.stack([grey, alpha], axis=-1), "LA").save(tmp_path / "image.png")
    tifffile.imwrite(tmp_path / "image.tif", np.where(alpha, grey, 9), extratags=[(42113, "s", 0, "9", True)])
    for name in ("image.png", "image.tif"):
        made = np.asarray(scan(DIGITS, tmp_path / name, options=SCALED))
        assert np.array_equal(np.isnan(made[0]).all(axis=1), np.arange(37) <= (100 - 16) // 4)


def test_no_data_is_not_mixed_with_pixels(tmp_path: Path) -> None:
    image = np.zeros((100, 100), np.float32)
    tifffile.imwrite(tmp_path / "image.tif", image, extratags=[(42113, "s", 0, "-9999", True)])
    with pytest.raises(UsageError, match=r"no-data \(-9999.0\) would be mixed with pixels by --resample"):
        scan(DIGITS, tmp_path / "image.tif", options=ScanOptions(prove=False, resample=0.5))


# Pixels


def uint8_model() -> onnx.ModelProto:
    net = Net(17)
    image = net.input("image", [1, 3, 12, 12], onnx.TensorProto.UINT8)
    pooled = net.op("AveragePool", net.op("Cast", image, to=1), kernel_shape=[4, 4], strides=[4, 4])
    return net.model(net.fc(net.op("Flatten", pooled), 27, 5))


def test_a_model_of_bytes_gets_bytes() -> None:
    model = uint8_model()
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    done = rewrite(model, prove=False)
    session = ort.InferenceSession(done.model.SerializeToString())
    wanted = session.run(None, {"image": np.moveaxis(image, 2, 0)[None]})[0][0]
    close(scan(model, image, options=ScanOptions(prove=False, tile=3)), wanted)
    with pytest.raises(UsageError, match="the model takes uint8 pixels, the image has uint16"):
        scan(model, image.astype(np.uint16), options=ScanOptions(prove=False))
    onnx.helper.set_model_props(model, {"standardization_mean": "[0.4]", "standardization_std": "[0.2]"})
    made = scan(model, image, options=ScanOptions(prove=False, tile=3))  # which are for pixels that are no bytes
    close(made, wanted)
    assert (made.notes["pixels"]["scale"], made.notes["pixels"]["mean"]) == (1, [])
    with pytest.raises(UsageError, match="leave scale, mean and std out"):
        scan(model, image, options=ScanOptions(prove=False, scale=0.5))


def colour_model(**metadata: str) -> onnx.ModelProto:
    net = Net(17)
    pooled = net.op("AveragePool", net.input("image", [1, 3, 12, 12]), kernel_shape=[4, 4], strides=[4, 4])
    model = net.model(net.fc(net.op("Flatten", pooled), 27, 3))
    onnx.helper.set_model_props(model, metadata)
    return model


def test_frames_of_an_axis_of_their_own_are_bands() -> None:
    """One after the other, as (N, T, C, H, W) lies."""
    done = rewrite(fixture_file("frames_apart.dynamo.onnx"), prove=False)
    image = np.random.default_rng(0).random((12, 49, 57), np.float32)
    found = scan(done.file, image, options=ScanOptions(tile=2))
    made = ort.InferenceSession(done.file.loaded().SerializeToString())
    whole = made.run(None, {"image": image.reshape(1, 4, 3, 49, 57)})[0]
    np.testing.assert_allclose(found, whole[0], rtol=0, atol=2e-6 * np.ptp(whole))


@pytest.mark.parametrize("name", ["frames_mean", "frames_shifted", "frames_assigned"])
def test_frames_that_are_the_batch_are_no_images_of_their_own(name: str) -> None:
    done = rewrite(fixture_file(f"{name}.dynamo.onnx"), prove=False)
    with pytest.raises(UsageError, match="takes 4 images that belong together"):
        scan(done.file, np.zeros((40, 40, 3), np.float32))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_scale_of_the_whole_image_is_that_of_each_tile_where_that_is_allowed(batch: int) -> None:
    """DynamicQuantizeLinear takes one for all images of a batch: such an original is rewritten for a batch of one."""
    must_run("digits.dynamic")
    file, image = fixture_file("digits.dynamic.onnx"), np.random.default_rng(0).random((36, 36), np.float32)
    image *= np.linspace(0.1, 1, 36, dtype=np.float32)
    made = ort.InferenceSession(rewrite(file, prove=False).file.loaded().SerializeToString())
    whole, first = (made.run(None, {"image": part[None, None]})[0][0] for part in (image, image[:24, :24]))
    assert np.array_equal(scan(file, image, options=ScanOptions(prove=False, batch=batch)), whole)
    tiles = scan(file, image, options=ScanOptions(prove=False, batch=batch, tile=1, context="per-tile"))
    assert np.array_equal(tiles[:, 0, 0], first[:, 0, 0])
    assert not np.array_equal(first[:, 0, 0], whole[:, 0, 0])


def test_mean_and_std_and_names_from_the_models_metadata() -> None:
    mean, std = (0.4, 0.5, 0.3), (0.2, 0.3, 0.25)
    metadata = {"standardization_mean": str(list(mean)), "standardization_std": json.dumps(std)}
    model = colour_model(**metadata, class_names="{0: 'sky', 1: 'field', 2: 'sea'}")
    image = np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8)
    made = scan(model, image, options=ScanOptions(prove=False, classes=("sea",)))
    prepared = ((image / 255 - mean) / std).astype(np.float32)
    done = ort.InferenceSession(rewrite(model, prove=False).model.SerializeToString())
    close(made, done.run(None, {"image": np.moveaxis(prepared, 2, 0)[None]})[0][0][2:])
    assert made.classes == ("sea",)
    assert made.notes["pixels"]["mean"] == list(mean)
    told = scan(model, image, options=ScanOptions(prove=False, scale=1 / 255, mean=mean, std=std))
    np.testing.assert_array_equal(np.asarray(told)[2:], np.asarray(made))


def test_names_of_any_script(tmp_path: Path) -> None:
    import rasterio
    import zarr

    names = ("Übergang", "桜 <&>", '"a", b\n')
    model = colour_model(class_names=json.dumps(dict(enumerate(names))))
    image = np.random.default_rng(0).integers(0, 256, (40, 44, 3), np.uint8)
    outs = [tmp_path / f"map.{ending}" for ending in ("tif", "csv", "geojson", "png", "zarr")]
    made = scan(model, image, outs, options=ScanOptions(prove=False, threshold=-1e9))
    assert made.classes == names
    with rasterio.open(outs[0]) as file:
        assert file.descriptions == names
    best = {names[k] for k in np.asarray(made).argmax(axis=0).flat}
    with outs[1].open(encoding="utf-8", newline="") as told:
        assert {row["class"] for row in csv.DictReader(told)} == best
    features = json.loads(outs[2].read_text("utf-8"))["features"]
    assert {item["properties"]["class"] for item in features} == best
    assert zarr.open(str(outs[4]), mode="r").shape == made.shape


def test_pictures_of_pillow_are_images(whole: np.ndarray) -> None:
    close(scan(DIGITS, Image.open(CANVAS), options=SCALED), whole)
    with pytest.raises(UsageError, match="image: must be a path, an array or a source, not NoneType"):
        scan(DIGITS, None, options=SCALED)


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """With weights, input and output of half precision."""
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(item).astype(np.float16)
            item.CopyFrom(onnx.numpy_helper.from_array(array, item.name))
    for info in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return model


def test_a_model_of_half_precision(whole: np.ndarray) -> None:
    made = scan(half(onnx.load(DIGITS)), CANVAS, options=ScanOptions(scale=1 / 255, prove=False, tile=9))
    np.testing.assert_allclose(np.asarray(made), whole, atol=2e-3 * float(np.ptp(whole)))


def test_without_cells_to_compare_nothing_is_said() -> None:
    with pytest.raises(UsageError, match="compare: no crop lies within the image and has data"):
        run_scan(DIGITS, np.full((50, 50), 3, np.uint8), options=ScanOptions(prove=False, no_data=3, compare=5))


def test_bands_are_chosen_and_turned() -> None:
    model, image = colour_model(), np.random.default_rng(0).random((30, 30, 5), np.float32)
    session = ort.InferenceSession(rewrite(model, prove=False).model.SerializeToString())
    made = scan(model, image, options=ScanOptions(prove=False, bands=(5, 1, 2), bgr=True))
    close(made, session.run(None, {"image": np.moveaxis(image[:, :, [1, 0, 4]], 2, 0)[None]})[0][0])
    with pytest.raises(UsageError, match="takes 3 bands, the image has 5; choose with --bands 1,2,3, say"):
        scan(model, image, options=ScanOptions(prove=False))
    with pytest.raises(UsageError, match="bands: they are counted from 1, and the image has 5"):
        scan(model, image, options=ScanOptions(prove=False, bands=(1, 2, 6)))


@pytest.mark.parametrize("factor", ["7/5", "3/7", 3])
def test_boxes_of_a_resampled_image_are_no_wider_than_they_are(factor: Any) -> None:
    """Counted in fractions: where crops end on a pixel, a box does."""
    image = np.random.default_rng(0).integers(0, 255, (140, 140), np.uint8)
    made = scan(DIGITS, image, options=ScanOptions(scale=1 / 255, prove=False, resample=factor))
    for cell in range(made.shape[1]):
        begin = Fraction(4 * cell) / Fraction(factor)
        end = Fraction(4 * cell + 16) / Fraction(factor)
        box = made.box(cell, 0)
        assert (box.start[0], box.stop[0]) == (math.floor(begin), math.ceil(end))


def test_region_and_resampling_keep_places(whole: np.ndarray) -> None:
    made = scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, region=(40, 36, 120, 100)))
    close(made, in_one_pass(DIGITS, np.ascontiguousarray(canvas()[:, 36:136, 40:160])))
    assert made.box(0, 0).start == (36, 40)
    double = np.asarray(Image.open(CANVAS)).repeat(2, 0).repeat(2, 1)
    options = ScanOptions(scale=1 / 255, prove=False, region=(80, 72, 240, 200), resample=0.5, tile=5)
    half = scan(DIGITS, double, options=options)
    assert half.box(1, 2).start == (72 + 8, 80 + 16)
    assert half.box(1, 2).size == (32, 32)
    for cell in ((half.shape[1], 0), (0, half.shape[2]), (0.5, 0), (-1, 0)):
        with pytest.raises(UsageError, match="a cell of this map: "):
            half.box(*cell)
    for name, y, x in PLACES:
        if 40 < y < 110 and 44 < x < 140:
            assert half.classes[int(half.at(2 * y + 16, 2 * x + 16).argmax())] == name


# The work


def long_scan(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "onnxfc", "scan", str(DIGITS), str(folder / "big.npy"), str(folder / "map.npy")]
    command += ["--scale", "1/255", "--tile", "20", "--threads", "1", "--no-check", *more]
    return subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)


def begun(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until some tiles are done."""
    until = time.monotonic() + 60
    while len(list(folder.glob("map.npy.part/0.*"))) < 20:
        assert time.monotonic() < until
        assert process.poll() is None, "done before it could be killed"
        time.sleep(0.002)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """An image of many tiles, and its map."""
    folder = tmp_path_factory.mktemp("big")
    image = np.tile(np.asarray(Image.open(CANVAS)), (12, 8))
    np.save(folder / "big.npy", image)
    return folder / "big.npy", in_one_pass(DIGITS, image[None].astype(np.float32) / 255)


@posix
@pytest.mark.parametrize("end", [getattr(signal, "SIGKILL", 9), signal.SIGINT, signal.SIGTERM], ids=str)
def test_ended_and_resumed(end: signal.Signals, big: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    os.link(big[0], tmp_path / "big.npy")
    process = long_scan(tmp_path)
    begun(tmp_path, process)
    process.send_signal(end)
    _, told = process.communicate(timeout=60)
    assert process.returncode == (130 if end == signal.SIGINT else -end)
    assert told == (b"onnxfc: interrupted\n" if end == signal.SIGINT else b"")
    assert not (tmp_path / "map.npy").exists()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "map.npy.part").glob("0.*")}
    done = here(
        *("scan", DIGITS, tmp_path / "big.npy", tmp_path / "map.npy", "--scale", "1/255", "--tile", "20"),
        *("--no-check", "--resume", "--report", tmp_path / "report.json"),
    )
    assert done.code == 0, done
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(before) <= report["tiles"]["from_before"] + 1
    assert 20 <= report["tiles"]["from_before"] < report["tiles"]["count"]
    close(np.load(tmp_path / "map.npy"), big[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.npy", "map.npy", "report.json"]


def test_what_another_scan_left_is_not_resumed(big: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    os.link(big[0], tmp_path / "big.npy")
    process = long_scan(tmp_path)
    begun(tmp_path, process)
    process.kill()
    process.communicate()
    run = here(
        *("scan", DIGITS, tmp_path / "big.npy", tmp_path / "map.npy", "--scale", "1/16", "--tile", "20"),
        *("--no-check", "--resume"),
    )
    assert run.code == 2
    assert "is what another scan left; run without --resume" in run.line


class Failing:
    """A source whose disk fails in the end."""

    shape, dtype = (400, 400, 1), np.dtype(np.uint8)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        if y1 > 300:
            raise ReadError("the disk fails")
        return np.zeros((y1 - y0, x1 - x0, 1), np.uint8)


class Single:
    """A source that two threads may not read at once, as files by other libraries."""

    shape, dtype = (300, 400, 1), np.dtype(np.uint8)

    def __init__(self) -> None:
        self.at_once, self.most = 0, 0

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        time.sleep(0.002)
        self.at_once -= 1
        return np.zeros((y1 - y0, x1 - x0, 1), np.uint8)


def test_sources_of_ones_own_are_read_by_one_thread_at_a_time() -> None:
    source = Single()
    found = run_scan(DIGITS, source, options=ScanOptions(scale=1 / 255, prove=False, tile=10, threads=4))
    assert found.job.at_once == 4
    assert source.most == 1


class Faulty(Failing):
    """Which has a bug: another window than it was asked for, or an exception of its own."""

    def __init__(self, *, raises: bool) -> None:
        self.raises = raises

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        if y1 > 300 and self.raises:
            raise IndexError("a bug")
        return np.zeros((y1 - y0, x1 - x0 + (y1 > 300), 1), np.uint8)


def test_faulty_sources_are_told(tmp_path: Path) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, tile=10)
    with pytest.raises(ReadError, match=r"gives uint8 \(\d+, \d+, 1\) where an array .* was asked for; mend"):
        scan(DIGITS, Faulty(raises=False), tmp_path / "map.tif", options=options)
    with pytest.raises(IndexError, match="a bug"):
        scan(DIGITS, Faulty(raises=True), tmp_path / "map.tif", options=options)
    assert list(tmp_path.iterdir()) == []


def test_errors_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="the disk fails"):
        scan(DIGITS, Failing(), tmp_path / "map.tif", options=ScanOptions(scale=1 / 255, prove=False, tile=10))
    assert list(tmp_path.iterdir()) == []
    options = ScanOptions(scale=1 / 255, prove=False, tile=10, resume=True)
    with pytest.raises(ReadError):
        scan(DIGITS, Failing(), tmp_path / "map.tif", options=options)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif.part"]


def test_progress_says_rate_and_time_left() -> None:
    said: list[str] = []
    scan(DIGITS, CANVAS, options=ScanOptions(scale=1 / 255, prove=False, tile=20), progress=said.append)
    assert any(line.startswith("tile 6 of 6, ") and line.endswith(" 0 s left") for line in said)


# The command


def test_command(tmp_path: Path) -> None:
    done = here("scan", DIGITS, CANVAS, tmp_path / "map.png", tmp_path / "best.csv", "--scale", "1/255", "--top", "5")
    assert done.code == 0
    assert done.err == ""
    lines = dict(line.split(None, 1) for line in unwrapped(done.out).splitlines())
    assert lines["image"] == "160x240 px, bands: 1, uint8"
    assert lines["map"] == "37x57 cells, classes: 10"
    assert "rewritten on the way, verdict approximate" in lines["model"]
    assert len((tmp_path / "best.csv").read_text().splitlines()) == 6


def test_reports_obey_their_schema(tmp_path: Path) -> None:
    command = (
        "scan",
        DIGITS,
        CANVAS,
        tmp_path / "v.csv",
        "--reduce",
        "max",
        "--no-check",
        "--compare",
        "3",
        "--report",
    )
    done = here(*command, "-")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    follows(found, "scan")
    assert (found["map"]["shape"], found["status"]) == ([10, 37, 57], "done")
    assert here(*command, tmp_path / "report.json", "--level", "3").code == 2
    found = json.loads((tmp_path / "report.json").read_text())
    follows(found, "scan")
    assert "has no level 3" in found["message"]


def test_command_quiet_and_options(tmp_path: Path) -> None:
    done = here(
        *("scan", DIGITS, CANVAS, tmp_path / "map.npy", "--quiet", "--scale", "1/255", "--mean", "0.1", "--std", "2"),
        *("--region", "4,8,100,90", "--class", "3", "--class", "4", "--memory", "40M", "--batch", "2", "--no-check"),
    )
    assert (done.code, done.out, done.err) == (0, "", "")
    image = (canvas()[:, 8:98, 4:104] - np.float32(0.1)) / 2
    close(np.load(tmp_path / "map.npy"), in_one_pass(DIGITS, image)[3:5])


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("none.onnx", CANVAS, "map.npy"), 1, "none.onnx: there is no such file"),
        ((DIGITS, "none.png", "map.npy"), 1, "none.png: there is no such image"),
        (
            (DIGITS, "small.npy", "map.npy"),
            2,
            "the image has 12x50 px, the model needs 16x16 at least; --edge reflect or constant grows it",
        ),
        ((DIGITS, ".", "map.npy"), 2, ".: is a folder, and none of zarr; give an image file"),
        ((DIGITS, CANVAS, "map.npy", "--region", "0,0,999,9"), 2, "onnxfc: --region: reaches beyond the image"),
        ((DIGITS, CANVAS, "map.npy", "--class", "cat"), 2, "onnxfc: --class cat: is none of 0, 1, 2"),
        ((DIGITS, "colours.npy", "map.npy"), 2, "the model takes 1 band, the image has 3; choose with --bands 1, say"),
        ((DIGITS, "cut.tif", "map.npy"), 1, "cut.tif: is cut short"),
        ((DIGITS, CANVAS, "map.bmp"), 2, "map.bmp: maps are written to .csv, .geojson"),
        ((DIGITS, CANVAS, "no/folder/map.npy"), 1, "the folder does not exist"),
        ((DIGITS, "colours.npy", "colours.npy"), 2, "is the image, which is never changed"),
        ((DIGITS, CANVAS, "map.npy", "map.npy"), 2, "two outputs are the same file"),
        ((DIGITS, CANVAS, "map.npy", "--memory", "1", "--batch", "99"), 2, "one cell needs about"),
        ((DIGITS, CANVAS, "map.npy", "--region", "0,0,400,20"), 2, "beyond the image, which has a width of 240"),
        ((DIGITS, "empty.npy", "map.npy"), 1, "empty.npy: is empty or cut short"),
        ((DIGITS, CANVAS, "map.npy", "--level", "1"), 2, "has no level 1"),
        ((DIGITS, CANVAS, "map.npy", "--resample", "100"), 2, "must be between 1/64 and 64"),
        ((DIGITS, CANVAS, "map.npy", "--output", "other"), 2, "is no map of scores; give scores"),
        ((DIGITS, CANVAS, "map.npy", "--std", "0"), 2, "std: must not be 0"),
        ((DIGITS, CANVAS, "map.npy", "--provider", "NoSuch"), 2, "NoSuch"),
        ((fixture_file("conv1d.dynamo.onnx"), CANVAS, "map.npy"), 2, "1-dimensional input"),
        ((fixture_file("keras_rescaled.export.onnx"), CANVAS, "map.npy"), 2, "has inputs besides the image"),
        ((fixture_file("siamese.dynamo.onnx"), CANVAS, "map.npy"), 2, "several image inputs"),
    ],
    ids=lambda item: "-".join(Path(str(part)).name for part in item) if isinstance(item, tuple) else "",
)
def test_bad_input_is_one_line(arguments: tuple[Any, ...], code: int, says: str, tmp_path: Path) -> None:
    np.save(tmp_path / "small.npy", np.zeros((12, 50), np.uint8))
    np.save(tmp_path / "colours.npy", np.zeros((50, 50, 3), np.uint8))
    tifffile.imwrite(tmp_path / "whole.tif", np.zeros((200, 200), np.uint8), tile=(64, 64))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:-1000])
    (tmp_path / "empty.npy").touch()
    assert says in fails(code, "scan", *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    ("options", "outs", "says"),
    [
        ([], ["map.npy"], "map.npy.part: cannot write: the file would be larger than the system allows"),
        (["--tile", "4"], ["map.csv", "map.tif"], "map.tif: cannot write: the file would be larger than"),
        (["--tile", "4"], ["a.zarr", "b.zarr", "map.csv", "map.npy"], "map.npy: cannot write: the file would be"),
    ],
)
def test_full_disk(options: list[str], outs: list[str], says: str, tmp_path: Path) -> None:
    """The system allows files of 64 kB: the map's chunk does not fit, or an output; then there is none."""
    np.save(tmp_path / "big.npy", np.zeros((400, 400), np.uint8))
    script = 'ulimit -f 64; exec "$0" -m onnxfc scan "$@" --scale 1/255 --no-check'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, DIGITS, "big.npy", *outs, *options],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["big.npy"]


def test_more_than_the_disk_has_is_told_before(tmp_path: Path) -> None:
    class Endless:
        shape, dtype = (10_000_000, 10_000_000, 1), np.dtype(np.uint8)

        def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            raise AssertionError

    def needs(*outs: Path) -> int:
        options = ScanOptions(scale=1 / 255, prove=False, tile=200)
        with pytest.raises(WriteError, match=r"the map needs \d+ MB, \d+ are free there") as error:
            scan(DIGITS, Endless(), outs, options=options)
        return int(str(error.value).split(" MB")[0].split()[-1])

    once, zarr = needs(tmp_path / "map.csv"), tmp_path / "map.zarr"  # which becomes the output
    assert needs(zarr) == once > 1_000_000
    assert needs(zarr, tmp_path / "b.zarr") == needs(tmp_path / "map.npy") == pytest.approx(2 * once, abs=1)
    assert list(tmp_path.iterdir()) == []
    other = Path("/dev/shm")
    if other.is_dir() and other.stat().st_dev != tmp_path.stat().st_dev:
        assert needs(zarr, other / "onnxfc-b.zarr") == once


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation": "relu"}, "activation: must be one of"),
        ({"region": (1, 2, 3)}, "region: must be x, y, width, height"),
        ({"region": (0, 0, 0, 5)}, "region width"),
        ({"region": 5}, "region: must be x, y, width, height"),
        ({"bands": 1}, r"bands: must be several such as \(1, 2, 3\), not 1"),
        ({"bands": (1.5, 2, 3)}, "bands: must be a whole number from 1 on, not 1.5"),
        ({"bands": (0,)}, "bands: must be a whole number from 1 on, not 0"),
        ({"classes": 3}, r"classes: must be several such as \('dog', 3\), not 3"),
        ({"classes": (1.5,)}, "classes: must be a whole number from 0 on, not 1.5"),
        ({"no_data": "x"}, "no_data: must be a number, not 'x'"),
        ({"scale": "x"}, "scale: must be a number, not 'x'"),
        ({"provider": 5}, "provider: must be a name such as 'CUDA', not 5"),
        ({"threshold": "x"}, "threshold: must be a number, not 'x'"),
        ({"batch": 0}, "batch"),
        ({"mean": "a"}, "mean: must be numbers"),
        ({"mean": float("nan")}, "mean: must be finite"),
        ({"resample": "x"}, "resample: must be a factor"),
        ({"resample": 0.5, "no_data": 0.0}, "resample: would mix no-data"),
        ({"threshold": float("nan")}, "threshold: must be a number"),
    ],
    ids=str,
)
def test_options_are_what_they_should_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OnnxfcError, match=says):
        ScanOptions(**options)


PEAK = """
    def peak():  # in kB, of this program alone: what getrusage tells begins with the peak of the parent
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith("VmHWM")).split()[1])
"""
linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read off /proc")


@linux
def test_peak_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    """Of a process of its own: 6 and 96 million pixels."""
    code = (
        """if True:
    import sys
    import numpy as np
    import onnxfc
    class Noise:
        def __init__(self, n): self.shape, self.dtype = (n, n, 1), np.dtype(np.uint8)
        def read(self, y0, y1, x0, x1): return np.full((y1 - y0, x1 - x0, 1), y0 % 251, np.uint8)
    options = onnxfc.ScanOptions(scale=1 / 255, prove=False, memory=50, classes=(3,), threads=1)
    onnxfc.scan(sys.argv[1], Noise(int(sys.argv[2])), sys.argv[3], options=options)
    """
        + PEAK
        + """
    print(peak())
    """
    )
    peaks = []
    for length in (2500, 10_000):
        command = [sys.executable, "-c", code, str(DIGITS), str(length), str(tmp_path / "map.npy")]
        done = subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks


@linux
@pytest.mark.parametrize("name", ["digits", "lenet_batch.dynamo", "mini_vgg.dynamo"])
def test_a_pass_takes_no_more_memory_than_is_counted(name: str) -> None:
    code = (
        """if True:
    import sys
    import numpy as np
    from onnxfc.scanner.scan_model import ScanModel
    model = ScanModel.open(sys.argv[1], prove=False)
    session = model.session(1)
    tile = np.ones((1, model.channels, 1024, 1024), np.float32)
    """
        + PEAK
        + """
    before = peak()
    for _ in range(3):
        session.run(tile)
    print(peak() - before, model.pass_bytes((1024, 1024)) / 1024)
    """
    )
    command = [sys.executable, "-c", code, fixture_file(f"{name}.onnx")]
    done = subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", check=True)
    taken, counted = map(float, done.stdout.split())
    assert 0.3 * counted < taken < 1.1 * counted


def test_strips_are_decoded_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of a striped image are as flat as the cache of its reader asks for."""
    from onnxfc.scanner import tiff_source

    grey = np.random.default_rng(0).integers(0, 255, (1200, 1500), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", grey, rowsperstrip=4, compression="deflate")
    monkeypatch.setattr(tiff_source, "CACHE", 300_000)
    decoded: list[int] = []
    decode = tiff_source.TiffSource._decode

    def counting(self: Any, page: Any, number: int) -> Any:
        decoded.append(number)
        return decode(self, page, number)

    monkeypatch.setattr(tiff_source.TiffSource, "_decode", counting)
    found = run_scan(DIGITS, tmp_path / "image.tif", options=SCALED)
    assert found.job.plan.size[0] * 1500 <= 300_000
    assert found.job.plan.tiles[1] > 1
    assert len(set(decoded)) == 300
    assert len(decoded) < 1.25 * 300
    close(found.map, in_one_pass(DIGITS, grey[None].astype(np.float32) / 255))


@pytest.mark.parametrize("rows", [600, 1200])
def test_strips_larger_than_the_cache_do_not_make_tiles_flat(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last strip that was decoded is kept, however large it is."""
    from onnxfc.scanner import tiff_source

    grey = np.random.default_rng(0).integers(0, 255, (1200, 1500), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", grey, rowsperstrip=rows, compression="deflate")
    monkeypatch.setattr(tiff_source, "CACHE", 300_000)
    found = run_scan(DIGITS, tmp_path / "image.tif", options=SCALED)
    assert found.job.plan.size[0] > 300


def test_tiles_of_a_wide_image_are_decoded_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of them do not fit into the cache of its reader."""
    from onnxfc.scanner import tiff_source

    grey = np.random.default_rng(0).integers(0, 255, (640, 3200), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", grey, tile=(64, 64), compression="deflate")
    monkeypatch.setattr(tiff_source, "CACHE", 3200 * 64)
    decoded: list[int] = []
    decode = tiff_source.TiffSource._decode

    def counting(self: Any, page: Any, number: int) -> Any:
        decoded.append(number)
        return decode(self, page, number)

    monkeypatch.setattr(tiff_source.TiffSource, "_decode", counting)
    found = run_scan(DIGITS, tmp_path / "image.tif", options=ScanOptions(scale=1 / 255, prove=False, tile=20))
    assert sorted(found.job.in_order(found.map.image)) == list(range(len(found.job.plan)))
    assert len(set(decoded)) == 500
    assert len(decoded) < 1.3 * 500
    close(found.map, in_one_pass(DIGITS, grey[None].astype(np.float32) / 255))


def test_readers_are_closed_over_no_copy(tmp_path: Path) -> None:
    """A slice of a mapped file is read, not the file."""
    np.save(tmp_path / "image.npy", np.arange(1000 * 1000).reshape(1000, 1000))
    window = open_image(tmp_path / "image.npy").source.read(10, 12, 20, 23)
    assert window.base is None or not isinstance(window.base, np.memmap)
    assert window[:, :, 0].tolist() == [[10020, 10021, 10022], [11020, 11021, 11022]]
