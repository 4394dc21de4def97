"""What an earlier run left: taken up by the same scan only, and never for more than it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import zarr
from fixture_files import FIXTURES, fixture_file
from PIL import Image

from onnxfc import OnnxfcError, ScanOptions, UsageError, WriteError, scan
from onnxfc.scanner.api import Scan, run_scan

CANVAS = FIXTURES / "trained" / "canvas.png"
HOW: dict[str, Any] = {"scale": 1 / 255, "prove": False}


class Ended(KeyboardInterrupt):
    """By Ctrl-C, in the midst of the work."""


def left(model: Any, image: Any, out: Path, **options: Any) -> list[Path]:
    """Begin a scan, end it, and tell the tiles that it left."""

    def progress(phrase: str) -> None:
        if phrase.startswith("tile ") and int(phrase.split()[1]) >= 6:
            raise Ended

    with pytest.raises(Ended):
        scan(model, image, out, options=ScanOptions(**{"tile": 8, **HOW, **options}), progress=progress)
    assert not out.exists()
    found = sorted(out.with_name(f"{out.name}.part").glob("0.*"))
    assert len(found) >= 6
    return found


def resumed(model: Any, image: Any, out: Path, **options: Any) -> Scan:
    return run_scan(model, image, out, options=ScanOptions(**{"tile": 8, **HOW, **options}, resume=True))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A model whose weights are a file of their own, an image, an output."""
    model = onnx.load(fixture_file("digits.onnx"))
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    shutil.copy(CANVAS, tmp_path / "image.png")
    return tmp_path / "model.onnx", tmp_path / "image.png", tmp_path / "map.npy"


def touched(path: Path) -> None:
    os.utime(path, ns=(0, 1))


CHANGES: dict[str, Any] = {
    "the model": lambda folder: touched(folder / "model.onnx"),
    "its weights": lambda folder: touched(folder / "weights"),
    "the image": lambda folder: touched(folder / "image.png"),
    "scale": {"scale": 1 / 16},
    "mean": {"mean": 0.5},
    "region": {"region": (0, 0, 200, 160)},
    "activation": {"activation": "softmax"},
    "classes": {"classes": (3,)},
    "crops": {"exact": "crops"},
    "edge": {"edge": "reflect"},
    "resample": {"resample": 0.5},
    "no data": {"no_data": 3.0},
    "tile": {"tile": 9},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_scan_does_not_go_on(change: str, files: tuple[Path, Path, Path]) -> None:
    left(*files)
    options = CHANGES[change]
    if callable(options):
        options(files[0].parent)
        options = {}
    with pytest.raises(UsageError, match="is what another scan left; run without --resume"):
        resumed(*files, **options)


def test_another_array_or_folder_does_not_go_on(files: tuple[Path, Path, Path]) -> None:
    model, image, out = files
    array = np.asarray(Image.open(image)).copy()
    left(model, array, out)
    assert resumed(model, array, out).tiles_before >= 6
    left(model, array, out.with_name("b.npy"))
    array[5, 5] += 1
    with pytest.raises(UsageError, match="another scan"):
        resumed(model, array, out.with_name("b.npy"))
    stored = zarr.open(str(image.with_name("image.zarr")), mode="w", shape=array.shape, chunks=(40, 40), dtype="u1")
    stored[:] = array
    left(model, image.with_name("image.zarr"), out.with_name("c.npy"))
    stored[5, 5] = 0
    with pytest.raises(UsageError, match="another scan"):
        resumed(model, image.with_name("image.zarr"), out.with_name("c.npy"))


def test_whatever_memory_is_free_now(files: tuple[Path, Path, Path]) -> None:
    tiles = left(*files, tile=None, memory=1)
    wanted = scan(files[0], files[1], options=ScanOptions(**HOW))
    found = resumed(*files, tile=None, memory=500, threads=1)
    assert found.tiles_before == len(tiles)
    np.testing.assert_allclose(np.asarray(found.map), np.asarray(wanted), atol=1e-4)


def test_nothing_half_written_is_taken_for_whole(files: tuple[Path, Path, Path]) -> None:
    """A chunk that the power's failure cut short, and a folder without the header that is written last."""
    wanted = np.asarray(scan(files[0], files[1], options=ScanOptions(**HOW)))
    first, *others = left(*files)
    os.truncate(first, 100)
    found = resumed(*files)
    assert found.tiles_before == len(others)
    np.testing.assert_allclose(np.asarray(found.map), wanted, atol=1e-4)
    files[2].unlink()
    left(*files)[0].with_name(".zarray").unlink()
    assert resumed(*files).tiles_before == 0


def test_an_error_before_the_first_tile_leaves_nothing(files: tuple[Path, Path, Path]) -> None:
    before = sorted(files[2].parent.iterdir())
    with pytest.raises(OnnxfcError):  # no such scheduler, or no package for it
        scan(*files, options=ScanOptions(**HOW, resume=True), dask="nowhere")
    assert sorted(files[2].parent.iterdir()) == before


def test_a_folder_of_ones_own_is_not_removed(files: tuple[Path, Path, Path]) -> None:
    own = files[2].with_name("map.npy.part")
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"map\.npy\.part: is in the way"):
        scan(*files, options=ScanOptions(**HOW))
    assert (own / "notes.txt").read_text() == "mine"


def test_a_folder_beside_the_second_output_is_not_touched(files: tuple[Path, Path, Path]) -> None:
    """Neither one's own, nor the tiles of another scan, nor that scan while it works."""
    model, image, out = files
    second = out.with_name("b.zarr")
    own = out.with_name("c.zarr.part")
    own.mkdir()
    (own / "notes.txt").write_text("mine")
    tiles = left(model, image, second)
    made = scan(model, image, [out.with_name("a.zarr"), second, out.with_name("c.zarr")], options=ScanOptions(**HOW))
    assert (own / "notes.txt").read_text() == "mine"
    assert all(tile.exists() for tile in tiles)
    for name in ("a.zarr", "b.zarr", "c.zarr"):
        assert np.array_equal(zarr.open(str(out.with_name(name)), mode="r")[:], np.asarray(made))
    assert resumed(model, image, second).tiles_before == len(tiles)

    def progress(phrase: str) -> None:
        if phrase.startswith("tile 6 "):
            scan(model, image, [out.with_name("a.zarr"), second], options=ScanOptions(**HOW))

    both = scan(model, image, second, options=ScanOptions(tile=8, **HOW), progress=progress)
    np.testing.assert_allclose(np.asarray(both), np.asarray(made), atol=1e-4)
    assert not [path.name for path in out.parent.iterdir() if path.suffix == ".tmp"]


def test_two_scans_at_once(files: tuple[Path, Path, Path]) -> None:
    """Into the same file: the second one ends at once, and the first one's map is whole."""
    told: list[str] = []

    def progress(phrase: str) -> None:
        if phrase.startswith("tile 6 "):
            with pytest.raises(WriteError) as error:
                scan(*files, options=ScanOptions(**HOW))
            told.append(str(error.value))

    made = scan(*files, options=ScanOptions(tile=8, **HOW), progress=progress)
    assert [text.split(": ", 1)[1] for text in told] == [
        "is locked by another process; try again once that is done",
    ]
    assert not np.isnan(np.asarray(made)).any()


def test_missing_tiles_are_told(files: tuple[Path, Path, Path]) -> None:
    def progress(phrase: str) -> None:
        if phrase.startswith("tile 6 "):
            for path in files[2].with_name("map.npy.part").glob("0.*"):
                path.unlink()

    with pytest.raises(WriteError, match="tiles are missing"):
        scan(*files, options=ScanOptions(tile=8, **HOW), progress=progress)
