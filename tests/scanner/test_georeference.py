"""Half-cell truth: what was planted on a map is found at its place, by rasterio in what scan wrote."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import rasterio
import tifffile
from hazards import Net
from rasterio.shutil import copy
from rasterio.transform import Affine

from onnxfc import ScanOptions, scan
from onnxfc.scanner.open_image import open_image

PIXEL = 0.5
ORIGIN = (400_000.0, 5_600_000.0)
NORTH_UP = Affine(PIXEL, 0, ORIGIN[0], 0, -PIXEL, ORIGIN[1])
TURNED = Affine.translation(*ORIGIN) * Affine.rotation(30) * Affine.scale(PIXEL, -PIXEL)


def finder() -> onnx.ModelProto:
    """20x20 pixels, stride 4: highest where the middle 4x4 pixels are bright and the others are not."""
    net = Net(17)
    pooled = net.op("AveragePool", net.input("image", [1, 1, 20, 20]), kernel_shape=[4, 4], strides=[4, 4])
    weight = np.full((5, 5), -0.1, np.float32)
    weight[2, 2] = 1
    rows = np.stack([weight.ravel(), -weight.ravel()])
    return net.model(net.op("Gemm", net.op("Flatten", pooled), net.const(rows), transB=1))


def planted(path: Path, transform: Affine, point: bool) -> tuple[float, float]:
    """An image with one bright square of 4x4 pixels; where its middle lies on the map."""
    image = np.zeros((300, 420), np.uint8)
    row, column = 132, 208  # the first pixel of the square: a multiple of the stride, so that one cell is in its middle
    image[row : row + 4, column : column + 4] = 200
    more = {"AREA_OR_POINT": "Point"} if point else {}
    profile: dict[str, Any] = {"driver": "GTiff", "tiled": True, "blockxsize": 128, "blockysize": 128}
    with rasterio.open(
        path, "w", width=420, height=300, count=1, dtype="uint8", crs="EPSG:25832", transform=transform, **profile
    ) as file:
        file.update_tags(**more)
        file.write(image, 1)
    return transform * (column + 2, row + 2)


@pytest.mark.parametrize("point", [False, True], ids=["area", "point"])
@pytest.mark.parametrize("transform", [NORTH_UP, TURNED], ids=["north up", "turned"])
@pytest.mark.parametrize("more", [{}, {"region": (101, 57, 250, 200)}, {"tile": 7}], ids=str)
def test_planted_object(transform: Affine, point: bool, more: dict[str, Any], tmp_path: Path) -> None:
    middle = planted(tmp_path / "image.tif", transform, point)
    outs = [tmp_path / name for name in ("map.tif", "best.csv", "best.geojson")]
    made = scan(finder(), tmp_path / "image.tif", outs, options=ScanOptions(prove=False, top=1, **more))
    off = (3, 3) if "region" in more else (0, 0)  # pixels from the grid of cells to the square, at most half a stride
    with rasterio.open(outs[0]) as file:
        band = file.read(1)
        row, column = np.unravel_index(band.argmax(), band.shape)
        found = file.xy(row, column)
        assert file.crs.to_epsg() == 25832
        assert file.tags().get("AREA_OR_POINT") == ("Point" if point else "Area")
        assert file.transform.a == pytest.approx(4 * transform.a)
        assert file.transform.e == pytest.approx(4 * transform.e)
        nearest = 1e-6 if not off[0] else PIXEL * 2 * 2**0.5
        assert np.hypot(found[0] - middle[0], found[1] - middle[1]) <= nearest
        for place in ((0, 0), (5, 9)):  # every cell's middle is the middle of its crop
            box = made.box(*place)
            crop = transform * ((box.start[1] + box.stop[1]) / 2, (box.start[0] + box.stop[0]) / 2)
            assert file.xy(*place) == pytest.approx(crop, abs=1e-6)
    with outs[1].open() as told:
        [line] = csv.DictReader(told)
    assert (float(line["map_x"]), float(line["map_y"])) == pytest.approx(found, abs=1e-3)
    document = json.loads(outs[2].read_text())
    assert document["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::25832"
    [feature] = document["features"]
    corners = np.array(feature["geometry"]["coordinates"][0])
    assert corners[:-1].mean(axis=0) == pytest.approx(found, abs=1e-6)
    sides = np.hypot(*np.diff(corners, axis=0).T)
    assert sides == pytest.approx(20 * PIXEL)


def test_resampled_image_keeps_its_place(tmp_path: Path) -> None:
    """Twice as many pixels: the square has 8x8 of them, which the cells are half as far apart for."""
    middle = planted(tmp_path / "image.tif", NORTH_UP, False)
    scan(finder(), tmp_path / "image.tif", tmp_path / "map.tif", options=ScanOptions(prove=False, resample=0.5))
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.a == pytest.approx(8 * PIXEL)
        band = file.read(1)
        found = file.xy(*np.unravel_index(band.argmax(), band.shape))
    assert np.abs(np.subtract(found, middle)).max() <= 4 * PIXEL


def test_a_level_of_a_pyramid_keeps_its_place(tmp_path: Path) -> None:
    planted(tmp_path / "image.tif", NORTH_UP, False)
    with rasterio.open(tmp_path / "image.tif", "r+") as file:
        file.build_overviews([2], rasterio.enums.Resampling.average)
    made = scan(finder(), tmp_path / "image.tif", tmp_path / "map.tif", options=ScanOptions(prove=False, level=1))
    assert made.shape == (2, (150 - 20) // 4 + 1, (210 - 20) // 4 + 1)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.transform.a == pytest.approx(8 * PIXEL)
        assert file.xy(0, 0) == pytest.approx((ORIGIN[0] + 20 * PIXEL, ORIGIN[1] - 20 * PIXEL))


def test_no_data_of_gdal(tmp_path: Path) -> None:
    image = np.zeros((200, 200), np.uint8) + 255
    image[:, :100] = 20
    with rasterio.open(
        tmp_path / "image.tif", "w", driver="GTiff", width=200, height=200, count=1, dtype="uint8", nodata=255
    ) as file:
        file.write(image, 1)
    scan(finder(), tmp_path / "image.tif", tmp_path / "map.tif", options=ScanOptions(prove=False))
    with rasterio.open(tmp_path / "map.tif") as file:
        mask = file.read_masks(1) > 0
    assert np.array_equal(mask[0], 4 * np.arange(mask.shape[1]) < 100)


@pytest.mark.parametrize("codec", ["jpeg", "deflate"])
def test_mask_of_gdal_is_alpha_at_every_level(codec: str, tmp_path: Path) -> None:
    """A cloud optimised GeoTIFF of an orthophoto: its mask is a page of its own, and so is each level's."""
    pixels, data = np.full((600, 800), 200, np.uint8), np.full((600, 800), 255, np.uint8)
    data[:300, :400] = 0
    how: dict[str, Any] = {"width": 800, "height": 600, "count": 1, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(tmp_path / "plain.tif", "w", transform=Affine(1, 0, 0, 0, -1, 0), **how) as file:
            file.write(pixels, 1)
            file.write_mask(data)
        copy(tmp_path / "plain.tif", tmp_path / "image.tif", driver="COG", compress=codec, blocksize=128)
    for level, step in enumerate((1, 2, 4)):
        opened = open_image(tmp_path / "image.tif", level)
        assert (opened.size, opened.bands, opened.alpha) == ((600 // step, 800 // step), 2, 1)
        assert np.array_equal(opened.source.read(0, *opened.size[:1], 0, opened.size[1])[:, :, 1], data[::step, ::step])
    for name in ("plain.tif", "image.tif"):
        made = np.asarray(scan(finder(), tmp_path / name, options=ScanOptions(prove=False, tile=11)))
        rows, columns = (4 * np.arange(n) for n in made.shape[1:])
        assert np.array_equal(np.isnan(made[0]), (rows + 20 <= 300)[:, None] & (columns + 20 <= 400)[None])


@pytest.mark.parametrize("codec", ["none", "deflate"])
def test_image_and_mask_of_one_file_are_read_at_once(codec: str, tmp_path: Path) -> None:
    """By several threads, each of which moves the one place at which the file is read."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(1, 60_000, (3, 400, 400), np.uint16)
    data = np.where(rng.random((400, 400)) < 0.5, 255, 0).astype(np.uint8)
    how: dict[str, Any] = {"width": 400, "height": 400, "count": 3, "dtype": "uint16", "interleave": "band"}
    how |= {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": codec}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(tmp_path / "image.tif", "w", transform=Affine(1, 0, 0, 0, -1, 0), **how) as file,
    ):
        file.write(pixels)
        file.write_mask(data)
    wanted = np.concatenate([pixels, np.where(data, 65535, 0)[None]]).astype(np.uint16)
    source = open_image(tmp_path / "image.tif").source

    def differ(number: int) -> int:
        rng = np.random.default_rng(number)
        places = rng.integers(0, 300, (40, 2))
        found = (np.moveaxis(source.read(y, y + 100, x, x + 100), 2, 0) for y, x in places)
        pieces = (wanted[:, y : y + 100, x : x + 100] for y, x in places)
        return sum(not np.array_equal(a, b) for a, b in zip(found, pieces, strict=True))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(differ, range(4))) == [0] * 4


_KEYS = (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633), True)
_SCALE = (33550, "d", 3, (2.0, 3.0, 0.0), True)
_TIE = (33922, "d", 6, (10.0, 20.0, 0.0, 100.0, 900.0, 0.0), True)
_MATRIX = (34264, "d", 16, (5.0, 1, 0, 7, -1, -5, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1), True)
PLACES: dict[str, list[Any]] = {
    "a tie point within": [_SCALE, _TIE],
    "two tie points": [_SCALE, (33922, "d", 12, (0.0, 0, 0, 100, 900, 0, 200, 200, 0, 500, 500, 0), True)],
    "rows that go up": [(33550, "d", 3, (2.0, -2.0, 0.0), True), _TIE],
    "a scale and a matrix": [_SCALE, _TIE, _MATRIX],
    "a matrix": [_MATRIX],
    "no scale": [(33550, "d", 3, (0.0, 0.0, 0.0), True), _TIE],
}


@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize("tags", PLACES.values(), ids=PLACES)
def test_places_are_those_of_gdal(tags: list[Any], tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 70), np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", image, extratags=[*tags, _KEYS])
    scan(finder(), tmp_path / "image.tif", tmp_path / "map.tif", options=ScanOptions(prove=False))
    with rasterio.open(tmp_path / "image.tif") as before, rasterio.open(tmp_path / "map.tif") as after:
        if before.transform.is_identity:
            assert after.transform.is_identity
            return
        wanted = before.transform * Affine.translation(8, 8) * Affine.scale(4)
        assert tuple(after.transform) == pytest.approx(tuple(wanted))
        assert after.crs == before.crs


@pytest.mark.parametrize("edge", ["none", "reflect", "constant"])
def test_what_an_image_is_grown_by_is_no_data(edge: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 200, (101, 103), np.uint8)
    image[40:] = 255
    made = np.asarray(scan(finder(), image, options=ScanOptions(prove=False, no_data=255, edge=edge)))
    assert np.isnan(made[0]).all(axis=1).tolist() == [4 * row >= 40 for row in range(made.shape[1])]
