"""Windows of images of all kinds against the whole image, as the library that wrote it reads it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
import zarr
from cli_runs import environment
from PIL import Image

from onnxfc import ReadError, UsageError
from onnxfc.scanner import tiff_source
from onnxfc.scanner.open_image import open_image
from onnxfc.scanner.source import ArraySource, Edged, OpenImage, Region, Resampled

SIZE = (203, 309)
OLD_ZARR = zarr.__version__.startswith("2.")


def picture(bands: int = 3, dtype: str = "uint8", size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth, so that lossy codecs are close, and different everywhere."""
    y, x = np.mgrid[: size[0], : size[1]]
    parts = [np.sin(y / (17 + 5 * k)) * np.cos(x / (23 - 3 * k)) + (x + y) / 400 for k in range(bands)]
    found = (np.stack(parts, axis=-1) + 1) * 80
    return found.astype(dtype) if np.dtype(dtype).kind == "f" else (found * np.iinfo(dtype).max / 512).astype(dtype)


def windows(opened: OpenImage, whole: np.ndarray) -> None:
    """Of all sizes, at borders and within, twice, since a reader may keep something."""
    height, width = whole.shape[:2]
    assert opened.source.shape == (height, width, whole.shape[2] if whole.ndim == 3 else 1)
    assert opened.source.dtype == whole.dtype
    whole = whole.reshape(height, width, -1)
    rng = np.random.default_rng(0)
    places = [(0, height, 0, width), (height - 1, height, width - 1, width), (0, 1, 0, width)]
    for _ in range(12):
        y, x = sorted(rng.integers(0, height + 1, 2)), sorted(rng.integers(0, width + 1, 2))
        places.append((y[0], max(y[1], y[0] + 1), x[0], max(x[1], x[0] + 1)))
    for y0, y1, x0, x1 in places + places[:4]:
        y1, x1 = min(y1, height), min(x1, width)
        if y0 < y1 and x0 < x1:
            np.testing.assert_array_equal(opened.source.read(y0, y1, x0, x1), whole[y0:y1, x0:x1])


RGB, TILE = {"photometric": "rgb"}, {"tile": (64, 48)}
KINDS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "tiles of JPEG": (3, "uint8", {**RGB, **TILE, "compression": "jpeg", "compressionargs": {"level": 95}}),
    "tiles of JPEG 2000": (3, "uint8", {**RGB, **TILE, "compression": "jpeg2000"}),
    "tiles of LZW": (1, "uint16", {**TILE, "compression": "lzw", "predictor": True}),
    "strips of LZW": (3, "uint8", {**RGB, "rowsperstrip": 7, "compression": "lzw", "predictor": True}),
    "strips of deflate": (1, "float32", {"rowsperstrip": 16, "compression": "deflate", "predictor": True}),
    "one strip": (3, "uint8", RGB),
    "one compressed strip": (3, "uint8", {**RGB, "compression": "zstd"}),
    "uncompressed tiles": (3, "uint16", {**RGB, **TILE}),
    "alpha": (4, "uint8", {**RGB, **TILE, "extrasamples": ["unassalpha"], "compression": "deflate"}),
    "many bands": (7, "uint16", {**TILE, "photometric": "minisblack", "planarconfig": "contig", "compression": "lzw"}),
    "signed": (1, "int16", {**TILE, "compression": "deflate"}),
}


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("kind", KINDS)
def test_tiff(kind: str, big: bool, tmp_path: Path) -> None:
    bands, dtype, how = KINDS[kind]
    array = picture(bands, dtype)
    path = tmp_path / "image.tif"
    tifffile.TiffWriter(path, bigtiff=big).write(array if bands > 1 else array[:, :, 0], **how)
    opened = open_image(path)
    windows(opened, tifffile.imread(path))
    assert opened.alpha == (3 if kind == "alpha" else None)


@pytest.mark.parametrize("kind", ["tiles of JPEG", "strips of LZW"])
def test_threads_share_what_they_decode(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile is decoded once, by one of them; all see the same."""
    bands, dtype, how = KINDS[kind]
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture(bands, dtype), **how)
    whole, opened = tifffile.imread(path), open_image(path)
    decoded: list[int] = []
    decode = tiff_source.TiffSource._decode

    def counting(self: Any, page: Any, number: int) -> np.ndarray:
        decoded.append(number)
        return decode(self, page, number)

    monkeypatch.setattr(tiff_source.TiffSource, "_decode", counting)

    def window(number: int) -> bool:
        y, x = number * 13 % 150, number * 29 % 250
        return np.array_equal(opened.source.read(y, y + 50, x, x + 50), whole[y : y + 50, x : x + 50])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(window, range(200)))
    assert len(decoded) == len(set(decoded)) > 20


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("how", [{}, {**TILE}, {"rowsperstrip": 9, "compression": "deflate"}], ids=str)
def test_tiff_with_a_plane_for_each_band(endian: Any, how: dict[str, Any], tmp_path: Path) -> None:
    array, path = picture(4, "uint16"), tmp_path / "image.tif"
    planes = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    with tifffile.TiffWriter(path, byteorder=endian) as file:
        file.write(planes, photometric="minisblack", planarconfig="separate", **how)
    windows(open_image(path), array)


@pytest.mark.parametrize("how", [{}, {**TILE, "compression": "lzw"}], ids=str)
def test_ome_tiff_with_a_page_for_each_channel(how: dict[str, Any], tmp_path: Path) -> None:
    array, path = picture(3, "uint16"), tmp_path / "image.ome.tif"
    planes = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    tifffile.imwrite(path, planes, metadata={"axes": "CYX"}, photometric="minisblack", ome=True, **how)
    windows(open_image(path), array)


def test_levels_of_a_pyramid(tmp_path: Path) -> None:
    array, path = picture(), tmp_path / "image.ome.tif"
    half = array[: SIZE[0] // 2 * 2 : 2, : SIZE[1] // 2 * 2 : 2]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(array, subifds=1, **RGB, **TILE)
        file.write(half, subfiletype=1, **RGB, **TILE)
    windows(open_image(path), array)
    windows(open_image(path, level=1), half)
    with pytest.raises(UsageError, match="levels 0 to 1, no level 2"):
        open_image(path, level=2)


def test_levels_of_an_svs_file(tmp_path: Path) -> None:
    """As Aperio's scanners write them: the baseline, a thumbnail in strips, the levels, all of them pages."""
    array, path = picture(size=(512, 768)), tmp_path / "image.svs"
    told = {"description": "Aperio Image Library v1\n768x512 [0,0 768x512] (64x48) JPEG/RGB Q=70", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        file.write(array, **RGB, **TILE, compression="jpeg", **told)
        file.write(array[::8, ::8], **RGB, rowsperstrip=16, compression="jpeg", **told)
        file.write(array[::4, ::4], **RGB, **TILE, compression="jpeg", **told)
    windows(open_image(path), tifffile.imread(path, series=0, level=0))
    assert open_image(path, level=1).size == (128, 192)


def test_sparse_tiff_is_zero_where_nothing_was_written(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"

    def tiles() -> Any:
        for number in range(6):
            yield None if number == 1 else np.full((64, 64), number + 1, np.uint8)

    tifffile.imwrite(path, tiles(), shape=(128, 192), dtype=np.uint8, tile=(64, 64), compression="deflate")
    found = open_image(path).source.read(0, 128, 0, 192)
    assert not found[:64, 64:128].any()
    assert (found[64:, 128:] == 6).all()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("first", [False, True], ids=["bands last", "bands first"])
def test_npy(order: Any, first: bool, tmp_path: Path) -> None:
    array = picture(3, "float32")
    np.save(tmp_path / "image.npy", np.array(np.moveaxis(array, 2, 0) if first else array, order=order))
    windows(open_image(tmp_path / "image.npy"), array)
    windows(open_image(array), array)
    windows(open_image(array[:, :, 0]), array[:, :, 0])


def test_zarr_arrays_and_levels(tmp_path: Path) -> None:
    array = picture()
    zarr.save(str(tmp_path / "array.zarr"), array)
    windows(open_image(tmp_path / "array.zarr"), array)
    group = zarr.open_group(str(tmp_path / "levels.zarr"), mode="w")
    for level in range(2):
        group[str(level)] = np.moveaxis(array[:: 1 + level, :: 1 + level], 2, 0)[None]
    windows(open_image(tmp_path / "levels.zarr"), array)
    windows(open_image(tmp_path / "levels.zarr", level=1), array[::2, ::2])


@pytest.mark.parametrize("version", [2, pytest.param(3, marks=pytest.mark.skipif(OLD_ZARR, reason="writes no 3"))])
def test_images_of_ome_zarr(version: Literal[2, 3], tmp_path: Path) -> None:
    """As microscopes write them, (t, c, z, y, x): one plane, levels under names of their own, in the group of the first
    image, whose folder has no ending."""
    array = picture()
    more: Any = {} if OLD_ZARR else {"zarr_format": version}
    root = zarr.open_group(str(tmp_path / "slide.zarr"), mode="w", **more)
    group = root.create_group("0")
    names = ("whole", "by10", "by3")
    for name, step in zip(names, (1, 10, 3), strict=True):
        group[name] = np.moveaxis(array[::step, ::step], 2, 0)[None, :, None]
    levels = [{"datasets": [{"path": name} for name in ("whole", "by3", "by10")]}]
    group.attrs.update({"multiscales": levels} if version == 2 else {"ome": {"multiscales": levels}})
    for path in (tmp_path / "slide.zarr", tmp_path / "slide.zarr" / "0"):
        windows(open_image(path), array)
        windows(open_image(path, level=1), array[::3, ::3])
        with pytest.raises(UsageError, match="has levels 0 to 2, no level 3"):
            open_image(path, level=3)
    zarr.open_group(str(tmp_path / "empty.zarr"), mode="w").create_group("labels")
    with pytest.raises(UsageError, match="is a group without arrays; give the path of one of labels"):
        open_image(tmp_path / "empty.zarr")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_png(mode: str, tmp_path: Path) -> None:
    array = picture(4)
    image = Image.fromarray(array[:, :, 0].astype(np.uint16) * 200) if mode == "I;16" else Image.fromarray(array)
    image = image if mode == "I;16" else image.convert("RGB").convert(mode)
    image.save(tmp_path / "image.png")
    wanted = {"P": "RGB", "1": "L"}.get(mode)
    opened = open_image(tmp_path / "image.png")
    windows(opened, np.asarray(image.convert(wanted) if wanted else image))
    assert opened.alpha == (3 if mode == "RGBA" else None)


def test_deep_colours_of_a_png_are_whole(tmp_path: Path) -> None:
    """Pillow would keep 8 of 16 bits."""
    codecs = pytest.importorskip("imagecodecs")
    array = picture(3, "uint16")
    (tmp_path / "image.png").write_bytes(codecs.png_encode(array))
    windows(open_image(tmp_path / "image.png"), array)


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "image.jpg")
    windows(open_image(tmp_path / "image.jpg"), np.asarray(Image.open(tmp_path / "image.jpg")))


class Checkers:
    """A user's own source."""

    shape, dtype = (SIZE[0], SIZE[1], 1), np.dtype(np.uint8)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        return ((np.arange(y0, y1)[:, None] + np.arange(x0, x1)) % 2)[:, :, None].astype(np.uint8)


def test_a_source_of_ones_own() -> None:
    windows(open_image(Checkers()), Checkers().read(0, SIZE[0], 0, SIZE[1]))
    with pytest.raises(UsageError, match="an array has no levels"):
        open_image(Checkers(), level=1)


# Views


def test_region() -> None:
    array = picture()
    windows(OpenImage(Region(ArraySource(array), (20, 31), (100, 200))), array[20:120, 31:231])
    with pytest.raises(UsageError, match="beyond the image, which has a width of 309 and a height of 203 px"):
        Region(ArraySource(array), (104, 0), (100, 100))


@pytest.mark.parametrize("grown", [(203, 309), (204, 320), (230, 309), (500, 700)], ids=str)
@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_edges(mode: Any, grown: tuple[int, int]) -> None:
    array = picture()
    more = [(0, new - old) for new, old in zip(grown, SIZE, strict=True)]
    windows(OpenImage(Edged(ArraySource(array), grown, mode)), np.pad(array, [*more, (0, 0)], mode))


@pytest.mark.parametrize(
    "factor", [Fraction(1, 2), Fraction(1, 3), Fraction(2, 5), Fraction(3, 2), Fraction(2)], ids=str
)
def test_resampled_windows_meet(factor: Fraction) -> None:
    resized = Resampled(ArraySource(picture()), factor)
    windows(OpenImage(resized), resized.read(0, resized.shape[0], 0, resized.shape[1]))


@pytest.mark.parametrize("factor", [Fraction(1, 3), Fraction(3, 2)], ids=str)
def test_resampled_as_pillow_does(factor: Fraction) -> None:
    array = picture(size=(204, 306))
    resized = Resampled(ArraySource(array), factor)
    found = resized.read(0, resized.shape[0], 0, resized.shape[1])
    size = resized.shape[1], resized.shape[0]
    wanted = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "uint64", "int16", "bool"])
def test_resampled_in_their_own_range(kind: str) -> None:
    """Half of equal pixels is that pixel, also the largest; half of bits is what most of them are."""
    if kind == "bool":
        bits = np.zeros((64, 64), bool)
        bits[:, 32:] = True
        half = Resampled(ArraySource(bits), Fraction(1, 2)).read(0, 32, 0, 32)[:, :, 0]
        assert half.dtype == bool
        np.testing.assert_array_equal(half[0], np.arange(32) >= 16)
        sparse = np.zeros((64, 64), bool)
        sparse[::4, ::4] = True
        assert not Resampled(ArraySource(sparse), Fraction(1, 2)).read(0, 32, 0, 32).any()
        return
    limits = np.iinfo(kind)
    for value in (limits.min, limits.max, limits.max // 2 + 1, min(2**24 + 1, limits.max)):
        found = Resampled(ArraySource(np.full((8, 8), value, kind)), Fraction(1, 2)).read(0, 4, 0, 4)
        assert abs(int(found[1, 1, 0]) - value) <= max(1, value >> 52)


# What cannot be read


def test_truncated_tiff(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture(), **RGB, **TILE, compression="deflate")
    content = path.read_bytes()
    for length in (4, 100, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(ReadError, match=r"image\.tif"):
            open_image(path).source.read(0, *SIZE[:1], 0, SIZE[1])


def test_damaged_tile(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture(), **RGB, **TILE, compression="deflate")
    with tifffile.TiffFile(path) as file:
        where = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[where : where + 8] = b"\0" * 8
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"image.tif: cannot be decoded"):
        open_image(path).source.read(0, SIZE[0], 0, SIZE[1])


def test_tile_of_jpeg_that_is_cut_short(tmp_path: Path) -> None:
    """As a download leaves it that was ended: zeros where the rest of it should be."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture(), **RGB, **TILE, compression="jpeg")
    with tifffile.TiffFile(path) as file:
        begin, count = file.pages[0].dataoffsets[5], file.pages[0].databytecounts[5]
    content = bytearray(path.read_bytes())
    content[begin + count // 2 : begin + count] = bytes(count - count // 2)
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"image\.tif: tile 5 is cut short; copy the file again"):
        open_image(path).source.read(0, SIZE[0], 0, SIZE[1])


def test_unknown_codec_names_the_extra(tmp_path: Path) -> None:
    """In a process without imagecodecs."""
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, picture(), **RGB, compression="jpeg2000", **TILE)
    code = f"""if True:
    import sys
    sys.modules["imagecodecs"] = None
    from onnxfc.scanner.open_image import open_image
    open_image({str(path)!r}).source.read(0, 10, 0, 10)
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, encoding="utf-8", check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert "ReadError" in last
    assert "pip install 'onnxfc[scan]'" in last


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.tif", None, "there is no such image"),
        ("text.tif", b"hello", "cannot be read as a TIFF"),
        ("text.png", b"hello", "cannot be decoded"),
        ("text.npy", b"hello", "is not a whole .npy array"),
        ("text.zarr", b"hello", "text.zarr"),
        ("text.xyz", b"hello", "images of this kind are not read"),
    ],
)
def test_what_is_no_image(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ReadError, UsageError), match=says):
        open_image(tmp_path / name)


GREY, STACK = np.zeros((64, 64), np.uint8), np.zeros((3, 2, 64, 64), np.uint8)


@pytest.mark.parametrize(
    ("array", "how", "says"),
    [
        (
            GREY[None, None].repeat(3, 0).repeat(2, 1),
            {"metadata": {"axes": "TZYX"}, "photometric": "minisblack"},
            "has axes TZYX",
        ),
        (GREY.astype(np.float32), {"photometric": "miniswhite"}, "MINISWHITE of float32"),
    ],
    ids=["stack", "white is 0"],
)
def test_tiffs_that_are_no_plain_image(array: np.ndarray, how: dict[str, Any], says: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", array, **how)
    with pytest.raises(UsageError, match=says):
        open_image(tmp_path / "image.tif")


def test_truncated_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", picture())
    content = (tmp_path / "image.npy").read_bytes()
    (tmp_path / "image.npy").write_bytes(content[:-1])
    with pytest.raises(ReadError, match=r"is not a whole .npy array"):
        open_image(tmp_path / "image.npy")


def test_whole_slide_image(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="openslide is not installed: pip install 'onnxfc[openslide]'")
    from onnxfc.scanner.open_image import _slide

    array, path = picture(size=(512, 768)), tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        for step in (1, 4):
            file.write(array[::step, ::step], tile=(256, 256), **RGB, compression="jpeg", subfiletype=int(step > 1))
    opened = _slide(path, 0)
    assert (opened.size, opened.bands, opened.alpha) == ((512, 768), 4, 3)
    found = opened.source.read(10, 300, 20, 700)
    assert np.abs(found[:, :, :3].astype(int) - tifffile.imread(path)[10:300, 20:700]).max() <= 2
    assert _slide(path, 1).size == (128, 192)


def test_image_of_vips(tmp_path: Path) -> None:
    vips = pytest.importorskip("pyvips", reason="pyvips is not installed: pip install 'onnxfc[vips]'")
    vips.Image.new_from_array(picture()).write_to_file(str(tmp_path / "image.v"))
    windows(open_image(tmp_path / "image.v"), picture())


@pytest.mark.parametrize(("module", "name"), [("openslide", "a.ndpi"), ("pyvips", "a.v")])
def test_missing_package_is_named(module: str, name: str, tmp_path: Path) -> None:
    if find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ReadError, match=rf"needs the package {module}: pip install 'onnxfc\["):
        open_image(tmp_path / name)
