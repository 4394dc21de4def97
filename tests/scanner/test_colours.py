"""What the numbers in a file mean, and how it stands: as pillow and GDAL show it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import rasterio
import tifffile
from PIL import Image, ImageOps
from test_readers import picture, windows

from onnxfc import ReadError, ScanOptions, UsageError, scan
from onnxfc.scanner.job import Scoring
from onnxfc.scanner.open_image import open_image
from onnxfc.scanner.source import OpenImage

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
GREY = picture(1)[:, :, 0]
ORIENTATION = 274
OLD_GDAL = tuple(map(int, rasterio.__version__.split(".")[:2])) < (1, 4)


def as_pillow(path: Path, mode: str | None = None) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(path))
    return np.asarray(image.convert(mode) if mode else image)


def seen(path: Path) -> np.ndarray:
    opened = open_image(path)
    return opened.source.read(0, opened.size[0], 0, opened.size[1])


@pytest.mark.sweep(16)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpg", "strips", "tiles"])
def test_images_stand_as_the_camera_was_held(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"image.{kind if kind in ('png', 'jpg') else 'tif'}"
    if path.suffix == ".tif":
        how: dict[str, Any] = {"tile": (64, 48)} if kind == "tiles" else {"rowsperstrip": 7}
        more = {"extratags": [(ORIENTATION, "H", 1, orientation, True)], "compression": "deflate"}
        tifffile.imwrite(path, picture(), photometric="rgb", **how, **more)
    exif, turned = Image.Exif(), path if path.suffix != ".tif" else path.with_suffix(".png")
    exif[ORIENTATION] = orientation
    Image.fromarray(picture()).save(turned, exif=exif)
    windows(open_image(path), as_pillow(turned))  # Pillow 10 turns a TIFF twice


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_deep_colours_stand_so_too(orientation: int, tmp_path: Path) -> None:
    """Pillow writes no PNG of 16 bits a colour; its 8 bits stand as these must."""
    deep, plain, exif = tmp_path / "deep.png", tmp_path / "plain.png", Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(picture()).save(plain, exif=exif)
    content = imagecodecs.png_encode(picture().astype(np.uint16) * 257)
    told = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(told)) + b"eXIf" + told + struct.pack(">I", zlib.crc32(b"eXIf" + told))
    deep.write_bytes(content[:33] + chunk + content[33:])  # behind the header
    windows(open_image(deep), as_pillow(plain).astype(np.uint16) * 257)


def test_an_image_on_a_map_stands_as_its_coordinates_count(tmp_path: Path) -> None:
    """GDAL passes over the tag; the coordinates are those of stored rows and columns."""
    path = tmp_path / "image.tif"
    place = [(33550, "d", 3, (0.5, 0.5, 0.0), True), (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 2000.0, 0.0), True)]
    tifffile.imwrite(path, picture(), photometric="rgb", extratags=[(ORIENTATION, "H", 1, 3, True), *place])
    with rasterio.open(path) as file:
        assert np.array_equal(np.moveaxis(seen(path), 2, 0), file.read())


def test_palette(tmp_path: Path) -> None:
    paletted = Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=37)
    paletted.save(tmp_path / "pillow.tif")
    windows(open_image(tmp_path / "pillow.tif"), as_pillow(tmp_path / "pillow.tif", "RGB"))
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2], axis=-1).astype(np.uint8)
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "dtype": "uint8", "tiled": True, "blockysize": 64}
    size = {"width": GREY.shape[1], "height": GREY.shape[0], "blockxsize": 64}
    for no_data in (None, 40):
        path = tmp_path / "gdal.tif"
        with rasterio.open(path, "w", photometric="palette", nodata=no_data, **profile, **size) as file:
            file.write(GREY, 1)
            file.write_colormap(1, {k: (*map(int, colour), 255) for k, colour in enumerate(colours)})
        opened, wanted = open_image(path), colours[GREY]
        if no_data is not None:
            wanted = np.dstack([wanted, np.where(no_data == GREY, 0, 255).astype(np.uint8)])
        assert (opened.alpha, opened.no_data) == (None if no_data is None else 3, None)
        windows(opened, wanted)


def test_white_as_0(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tag = (42113, "s", 0, "9", True)
    tifffile.imwrite(path, GREY, photometric="miniswhite", tile=(64, 48), compression="lzw", extratags=[tag])
    opened = open_image(path)
    windows(opened, as_pillow(path))
    assert np.array_equal(as_pillow(path), 255 - GREY)
    assert opened.no_data == 255 - 9
    tifffile.imwrite(path, GREY.astype(np.uint16) * 257, photometric="miniswhite")
    windows(open_image(path), 65535 - GREY.astype(np.uint16) * 257)
    tifffile.imwrite(path, GREY > 50, photometric="miniswhite")
    windows(open_image(path), GREY <= 50)


def test_fewer_bits_than_a_byte(tmp_path: Path) -> None:
    size: dict[str, Any] = {"driver": "GTiff", "width": GREY.shape[1], "height": GREY.shape[0], "count": 1}
    for bits, dtype in ((1, "uint8"), (4, "uint8"), (12, "uint16")):
        array = (GREY.astype(np.uint16) * 16 >> (12 - bits)).astype(dtype)
        with rasterio.open(tmp_path / "image.tif", "w", dtype=dtype, nbits=bits, compress="deflate", **size) as file:
            file.write(array, 1)
        windows(open_image(tmp_path / "image.tif"), array.astype(bool) if bits == 1 else array)


def test_pixels_of_one_bit_are_not_scaled_as_bytes(tmp_path: Path) -> None:
    from test_scan import DIGITS

    tifffile.imwrite(tmp_path / "image.tif", GREY > 50)
    with pytest.raises(UsageError, match="pixels of one bit are 0 and 1"):
        scan(DIGITS, tmp_path / "image.tif", options=ScanOptions(prove=False, scale=1 / 255))


def test_colours_that_were_multiplied_with_alpha(tmp_path: Path) -> None:
    """As pillow divides them, to the last bit but one."""
    rgba, path = np.dstack([picture(), GREY + 40]), tmp_path / "image.tif"
    rgba[:50, :, 3] = 0
    rgba[:, :, :3] = rgba[:, :, :3] * (rgba[:, :, 3:] / 255)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["assocalpha"], tile=(64, 48))
    found, wanted = seen(path).astype(int), as_pillow(path)
    assert open_image(path).alpha == 3
    assert np.abs(found - wanted)[rgba[:, :, 3] > 0].max() <= 1
    opened = open_image(path)
    windows(OpenImage(opened.source), found.astype(np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_of_which_one_colour_is_transparent(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(GREY).convert(mode)
    image.save(tmp_path / "image.png", transparency=40 if mode == "L" else (40, 40, 40))
    opened = open_image(tmp_path / "image.png")
    assert opened.alpha == len(mode)
    wanted = np.dstack([GREY] * len(mode) + [np.where(GREY == 40, 0, 255)]).astype(np.uint8)
    windows(opened, wanted)


@pytest.mark.parametrize("codec", ["jpeg", "lzw", "zstd", "lerc", "none"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_tiffs_of_gdal(codec: str, interleave: str, tmp_path: Path) -> None:
    path, (height, width) = tmp_path / "image.tif", GREY.shape
    how: dict[str, Any] = {"compress": codec, "interleave": interleave, "BIGTIFF": "YES", "endianness": "BIG"}
    how |= {"photometric": "ycbcr"} if (codec, interleave) == ("jpeg", "pixel") else {}
    how |= {"tiled": True, "blockxsize": 32, "blockysize": 48, "dtype": "uint8"}
    if codec == "lerc" and OLD_GDAL:
        pytest.skip("the GDAL of this rasterio lacks the codec")
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=3, **how) as file:
        file.write(np.moveaxis(picture(), 2, 0))
    with rasterio.open(path) as file:
        wanted = np.moveaxis(file.read(), 0, 2).astype(int)
    off = np.abs(seen(path) - wanted)
    allowed = (6, 0.32) if codec == "jpeg" else (0, 0)  # libraries differ in how they spread its colours
    assert off.max() <= allowed[0]
    assert off.mean() <= allowed[1]


HOLES = {"whole": (), "a pixel": (slice(None), 50, 60), "a band of a pixel": (0, 50, 60), "a corner": (0, slice(0, 70))}


@pytest.mark.skipif(OLD_GDAL, reason="the GDAL of this rasterio lacks the codec")
@pytest.mark.parametrize("codec", ["lerc", "lerc_deflate", "lerc_zstd"])
@pytest.mark.parametrize("interleave", ["pixel", "band"])
@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_places_without_a_value_of_lerc(hole: Any, interleave: str, codec: str, tmp_path: Path) -> None:
    """LERC keeps NaN as a mask, and bands in another order where each has its own."""
    path, wanted = tmp_path / "image.tif", picture(dtype="float32").transpose(2, 0, 1).copy()
    if hole:
        wanted[hole] = np.nan
    how: dict[str, Any] = {
        "compress": codec,
        "interleave": interleave,
        "tiled": True,
        "blockxsize": 64,
        "blockysize": 48,
    }
    height, width = wanted.shape[1:]
    with rasterio.open(path, "w", driver="GTiff", width=width, height=height, count=3, dtype="float32", **how) as file:
        file.write(wanted)
    np.testing.assert_array_equal(seen(path).transpose(2, 0, 1), wanted)


@pytest.mark.skipif(OLD_GDAL, reason="the GDAL of this rasterio lacks the codec")
def test_numbers_of_lerc_in_big_endian_files(tmp_path: Path) -> None:
    path, wanted = tmp_path / "image.tif", picture(dtype="uint16").transpose(2, 0, 1)
    how: dict[str, Any] = {"compress": "lerc", "interleave": "pixel", "endianness": "BIG", "driver": "GTiff"}
    how |= {"width": wanted.shape[2], "height": wanted.shape[1], "count": 3}
    with rasterio.open(path, "w", dtype="uint16", **how) as file:
        file.write(wanted)
    np.testing.assert_array_equal(seen(path).transpose(2, 0, 1), wanted)
    with rasterio.open(path, "w", dtype="float32", **how) as file:
        file.write(wanted.astype(np.float32))
    with pytest.raises(ReadError, match="big-endian before LERC took them for numbers; write it anew"):
        seen(path)


@pytest.mark.parametrize(
    ("dtype", "no_data"), [("int16", -7), ("float32", float(np.finfo("float32").min)), ("uint8", None)]
)
def test_sparse_tiles_of_gdal_are_its_no_data(
    dtype: str, no_data: float | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    how: dict[str, Any] = {"tiled": True, "blockxsize": 64, "blockysize": 64, "SPARSE_OK": "TRUE", "dtype": dtype}
    path = tmp_path / "image.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=300, height=200, count=1, nodata=no_data, compress="lzw", **how
    ) as file:
        file.write(np.full((64, 64), 5, dtype), 1, window=rasterio.windows.Window(64, 64, 64, 64))
    opened = open_image(path)
    with rasterio.open(path) as file:
        windows(opened, file.read(1))
    assert opened.no_data == no_data
    if no_data is not None:
        valid = Scoring(no_data=opened.no_data).valid(opened.source.read(0, 200, 0, 300))
        assert valid is not None
        assert valid.sum() == 64 * 64
    assert capfd.readouterr().err == ""
    with tifffile.TiffFile(path) as file:
        assert min(file.pages[0].databytecounts) == 0


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB"])
def test_colours_that_are_no_red_green_and_blue(mode: str, tmp_path: Path) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / "image.tif")
    with pytest.raises(UsageError, match=r"its pixels are \w+ as NONE, not grey or red, green and blue; convert it"):
        open_image(tmp_path / "image.tif")


def test_jpeg_2000_of_other_colours(tmp_path: Path) -> None:
    """As old scanners of Aperio write it: the codec leaves it so."""
    how: dict[str, Any] = {"photometric": "rgb", "tile": (64, 48)}
    tifffile.imwrite(tmp_path / "image.tif", picture(), compression="aperio_jp2000_ycbc", **how)
    with pytest.raises(UsageError, match="YCBCR as APERIO_JP2000_YCBC"):
        open_image(tmp_path / "image.tif")
