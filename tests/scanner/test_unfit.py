"""What a scan does not take, and what a map is not asked for: told, never guessed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tifffile
from fixture_files import fixture_file

from onnxfc import OnnxfcError, ReadError, ScanOptions, ScoreMap, UsageError, WriteError, scan
from onnxfc.io.atomic_write import locked
from onnxfc.scanner import chunk_store
from onnxfc.scanner.chunk_store import ChunkStore

DIGITS = fixture_file("digits.onnx")
PLAIN: dict[str, Any] = {"scale": 1 / 255, "prove": False}


def small(*outputs: Path, image: np.ndarray | None = None, **options: Any) -> ScoreMap:
    pixels = np.random.default_rng(1).integers(0, 255, (24, 40)).astype(np.uint8)
    made = scan(DIGITS, pixels if image is None else image, outputs, options=ScanOptions(**PLAIN | options))
    assert isinstance(made, ScoreMap)
    return made


@pytest.mark.parametrize(
    ("image", "options", "says"),
    [
        (np.zeros((24, 40), complex), {}, "pixels of type complex128 are no numbers that a model takes"),
        (np.zeros((24, 40, 1, 1), np.uint8), {}, r"two axes and perhaps bands, not the shape \(24, 40, 1, 1\)"),
        (np.zeros((24, 0), np.uint8), {}, r"two axes and perhaps bands, not the shape \(24, 0\)"),
        (
            np.zeros((24, 40), np.uint8),
            {"mean": (1, 2)},
            "mean: needs one number for all bands, or one for each of the 1",
        ),
        (
            np.zeros((24, 40), np.uint8),
            {"std": (1, 2)},
            "std: needs one number for all bands, or one for each of the 1",
        ),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_images(image: np.ndarray, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OnnxfcError, match=says):
        small(image=image, **options)


def test_what_a_map_is_asked_for() -> None:
    made = small()
    assert made.shape == (10, 3, 7)
    assert made.reduce("max") == pytest.approx(made[:].max(axis=(1, 2)))
    assert made.reduce("mean") == pytest.approx(made[:].mean(axis=(1, 2)), rel=1e-5)
    with pytest.raises(UsageError, match="how: must be one of 'mean', 'max', not 'median'"):
        made.reduce("median")
    with pytest.raises(UsageError, match="top: must be 1 or more, not 0"):
        made.top(0)
    with pytest.raises(UsageError, match="a map is sliced with positive steps"):
        made[:, ::-1]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_map_without_data_has_no_figure(how: str) -> None:
    made = small(image=np.zeros((24, 40), np.uint8), no_data=0)
    assert np.isnan(made[:]).all()
    assert np.isnan(made.reduce(how)).all()


@pytest.mark.parametrize("kind", [None, 3])
def test_a_map_without_data_is_painted(kind: int | None) -> None:
    """The map over the image is the image in grey."""
    made = small(image=np.full((24, 40), 90, np.uint8), no_data=90)
    over = np.asarray(made.overlay(kind))
    assert (over == 90).all(axis=2).sum() > 0.1 * over[:, :, 0].size


def test_two_maps_of_one_scan(tmp_path: Path) -> None:
    made = small(tmp_path / "one.zarr", tmp_path / "two.zarr")
    one, two = (ChunkStore.open(tmp_path / f"{name}.zarr") for name in ("one", "two"))
    every = (slice(None),) * 3
    np.testing.assert_array_equal(two.read(*every), made[:])
    np.testing.assert_array_equal(one.read(*every), made[:])


def test_a_folder_that_is_no_map_stays(tmp_path: Path) -> None:
    (tmp_path / "notes.zarr").mkdir()
    (tmp_path / "notes.zarr" / "mine.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"notes\.zarr: exists and is no zarr array"):
        small(tmp_path / "notes.zarr")
    assert (tmp_path / "notes.zarr" / "mine.txt").read_text() == "mine"


def test_where_no_map_can_be_is_told_before_the_work(tmp_path: Path) -> None:
    class Unread:
        shape, dtype = (60, 60, 1), np.dtype(np.uint8)

        def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            raise AssertionError

    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    for out, says in (("mine.zarr", "is no zarr array of format 2"), ("no/map.zarr", "the folder does not exist")):
        with pytest.raises(WriteError, match=says):
            scan(DIGITS, Unread(), tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.zarr"]


def test_another_kind_of_array_is_no_map(tmp_path: Path) -> None:
    small(tmp_path / "map.zarr")
    small(tmp_path / "map.zarr")  # an older map is replaced
    header = tmp_path / "map.zarr" / ".zarray"
    told = json.loads(header.read_text())
    header.write_text(json.dumps({**told, "dtype": "<f8"}))
    with pytest.raises(ReadError, match="is no map of scores: is another kind of zarr array"):
        ChunkStore.open(tmp_path / "map.zarr")


def test_archives_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npy", one=np.zeros((24, 40), np.uint8))
    (tmp_path / "many.npy.npz").rename(tmp_path / "many.npy")
    with pytest.raises(ReadError, match=r"many\.npy: is an archive of arrays; give one \.npy file"):
        scan(DIGITS, tmp_path / "many.npy", options=ScanOptions(**PLAIN))


@pytest.mark.parametrize("factor", [0, -1, 1 / 65, 65, "1/100"])
def test_images_are_not_resampled_beyond_sense(factor: Any) -> None:
    with pytest.raises(UsageError, match="resample: must be between 1/64 and 64"):
        ScanOptions(resample=factor)
    assert ScanOptions(resample=1 / 64).resample == ScanOptions(resample="1/64").resample
    assert ScanOptions(resample=64).resample == 64


def test_alpha_is_the_band_that_says_so(tmp_path: Path) -> None:
    """Of two bands more than colours, the first is no alpha: it is 0 everywhere, and no cell is left out for that."""
    grey = np.random.default_rng(2).integers(0, 255, (24, 40)).astype(np.uint8)
    alpha = np.full_like(grey, 255)
    alpha[:, :20] = 0
    bands = np.stack([grey, np.zeros_like(grey), alpha], axis=-1)
    tifffile.imwrite(tmp_path / "bands.tif", bands, photometric="minisblack", extrasamples=[0, 2])
    made = scan(DIGITS, tmp_path / "bands.tif", options=ScanOptions(bands=(1,), **PLAIN))
    alone = small(image=grey)
    empty = np.isnan(np.asarray(made)).all(axis=(0, 1))
    assert empty.tolist() == [True, True, False, False, False, False, False]
    np.testing.assert_allclose(np.asarray(made)[..., ~empty], alone[:][..., ~empty], atol=1e-4)


class Odd:
    """A source whose windows are made by a function of their pixels."""

    shape, dtype = (60, 80, 1), np.uint8

    def __init__(self, window: Callable[[np.ndarray], Any]) -> None:
        self.window = window

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Any:
        pixels = np.arange(60 * 80, dtype=np.uint8).reshape(60, 80, 1)
        return self.window(pixels[y0:y1, x0:x1])


@pytest.mark.sweep(16)
@pytest.mark.parametrize("more", [{}, {"resample": 0.5}, {"edge": "reflect"}], ids=str)
@pytest.mark.parametrize(
    ("window", "says"),
    [
        (lambda pixels: pixels.tolist(), "gives list where an array"),
        (lambda pixels: None, "gives NoneType where an array"),
        (lambda pixels: pixels[:, :, 0], r"gives uint8 \(\d+, \d+\) where an array \(\d+, \d+, 1\) was asked for"),
        (lambda pixels: pixels / 255, "gives float64 .* where its dtype is uint8"),
    ],
)
def test_windows_that_are_none(window: Any, says: str, more: dict[str, Any]) -> None:
    options = ScanOptions(scale=1 / 255, prove=False, **more)
    with pytest.raises(ReadError, match=says):
        scan(DIGITS, Odd(window), options=options)
    pixels = np.arange(60 * 80, dtype=np.uint8).reshape(60, 80)
    found, wanted = (scan(DIGITS, image, options=options) for image in (Odd(lambda pixels: pixels), pixels))
    assert np.array_equal(np.asarray(found), np.asarray(wanted))


@pytest.mark.parametrize("out", [None, 5, ["map.npy", None]])
def test_outputs_are_paths(out: Any) -> None:
    with pytest.raises(UsageError, match="out: must be a path or several"):
        scan(DIGITS, np.zeros((24, 40), np.uint8), out)


def test_numbers_of_numpy_are_numbers() -> None:
    options: dict[str, Any] = {"bands": (1,), "classes": (3,), "region": (0, 0, 30, 20), "no_data": 3.0}
    found = small(**{name: np.array(value) for name, value in options.items()})
    assert np.array_equal(np.asarray(found), np.asarray(small(**options)))
    assert found.notes == small(**options).notes


class OneBuffer:
    """A reader that gives the same array again and again."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.dtype = pixels, (*pixels.shape, 1), pixels.dtype
        self.buffers: dict[tuple[int, int], np.ndarray] = {}

    def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        found = self.buffers.setdefault((y1 - y0, x1 - x0), np.empty((y1 - y0, x1 - x0, 1), self.dtype))
        found[:, :, 0] = self.pixels[y0:y1, x0:x1]
        return found


def test_a_reader_may_fill_the_same_array_again() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (120, 140)).astype(np.uint8)
    options = ScanOptions(tile=5, batch=4, **PLAIN)
    made = scan(DIGITS, OneBuffer(pixels), options=options)
    np.testing.assert_array_equal(np.asarray(made), np.asarray(scan(DIGITS, pixels, options=options)))


def test_a_late_task_of_another_scan_writes_nothing(tmp_path: Path) -> None:
    """As one on a Dask worker is, whose scan was ended while it ran."""
    shape = (2, 4, 4)
    late = ChunkStore.create(tmp_path / "map.part", shape, shape, {"scale": 1}).marked()
    late.write(0, np.ones(shape))
    now = ChunkStore.create(tmp_path / "map.part", shape, shape, {"scale": 2})
    with pytest.raises(WriteError, match="another scan has begun there"):
        late.write(0, np.ones(shape))
    assert not now.has(0)


def test_a_folder_that_was_taken_away_is_locked_anew(tmp_path: Path) -> None:
    """A lock of the old one would hold nobody off."""
    folder = tmp_path / "map.part"
    folder.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with locked(folder):
            waiting = pool.submit(_held, folder)
            time.sleep(0.1)
            folder.rename(tmp_path / "map.zarr")
            folder.mkdir()
        assert waiting.result()


def _held(folder: Path) -> bool:
    with locked(folder), pytest.raises(WriteError, match="locked"), locked(folder, patience=0):
        pass
    return True


def test_a_zarr_on_another_disk(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    with TemporaryDirectory(dir=other) as folder:
        target = Path(folder) / "map.zarr"
        for _ in range(2):
            made = small(tmp_path / "map.npy", target)
            np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), made[:])
            np.testing.assert_array_equal(ChunkStore.open(target).read(*(slice(None),) * 3), made[:])
            assert [path.name for path in Path(folder).iterdir()] == ["map.zarr"]
    assert [path.name for path in tmp_path.iterdir()] == ["map.npy"]


def test_no_data_of_integers_is_not_mixed_with_pixels(tmp_path: Path) -> None:
    """That of GDAL's tag, as what the user says is."""
    tags = [(42113, "s", 6, "-9999", True)]
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((60, 60), np.int16), extratags=tags)
    with pytest.raises(UsageError, match=r"no-data .* would be mixed with pixels by --resample"):
        scan(DIGITS, tmp_path / "image.tif", options=ScanOptions(resample="2/3", **PLAIN))


def test_scalars_of_numpy_are_numbers(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (60, 60)).astype(np.uint8)
    options = ScanOptions(
        **PLAIN | {"scale": np.float32(0.5), "resample": np.float32(0.5)},
        tile=np.int64(4),
        level=np.int64(0),
        batch=np.int64(2),
        threads=np.int32(1),
    )
    made = scan(DIGITS, image, tmp_path / "map.zarr", options=options)
    wanted = scan(DIGITS, image, options=ScanOptions(**PLAIN | {"scale": 0.5}, resample="1/2"))
    np.testing.assert_allclose(np.asarray(made), np.asarray(wanted), atol=1e-5)
    assert (options.tile, type(options.tile)) == (4, int)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((40, 40, 0), "uint8"),
        ((40.0, 40, 1), "uint8"),
        (("40", 40, 1), "uint8"),
        ((40, 40, 1), "nope"),
        ((40, 40), "u1"),
    ],
    ids=str,
)
def test_readers_of_no_image(shape: Any, dtype: Any) -> None:
    reader = OneBuffer(np.zeros((40, 40), np.uint8))
    reader.shape, reader.dtype = shape, dtype
    with pytest.raises(UsageError, match="needs shape"):
        scan(DIGITS, reader, options=ScanOptions(**PLAIN))


def test_more_threads_than_a_machine_has() -> None:
    with pytest.raises(UsageError, match="threads: must be a whole number from 0 to 1024, not 1000000"):
        ScanOptions(threads=10**6)


def test_an_image_that_is_taken_away_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((200, 200), np.uint8))

    def progress(phrase: str) -> None:
        if phrase.startswith("tile 2 "):
            (tmp_path / "image.npy").unlink(missing_ok=True)

    with pytest.raises(ReadError, match=r"image\.npy: cannot read"):
        scan(DIGITS, tmp_path / "image.npy", options=ScanOptions(tile=3, **PLAIN), progress=progress)


@pytest.mark.parametrize("way", ["exchanged", "one after the other"])
def test_an_older_map_is_replaced(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, every = (2, 4, 4), (slice(None),) * 3
    target = tmp_path / "map.zarr"
    if way != "exchanged":
        monkeypatch.setattr(chunk_store, "_exchanged", lambda one, other: False)
    for value in (1.0, 2.0):
        made = ChunkStore.create(tmp_path / "map.part", shape, shape, {})
        made.write(0, np.full(shape, value))
        made.move(target)
        np.testing.assert_array_equal(ChunkStore.open(target).read(*every), value)
        assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]


@pytest.mark.skipif(sys.platform != "linux", reason="folders are exchanged on Linux alone")
def test_folders_are_exchanged(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert chunk_store._exchanged(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert (tmp_path / "b" / "a").exists()
