"""Tiles on a cluster of processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import environment
from fixture_files import FIXTURES, fixture_file
from PIL import Image

from onnxfc import ReadError, ScanOptions, rewrite, scan
from onnxfc.scanner import work

pytest.importorskip("distributed")

DIGITS = fixture_file("digits.onnx")
OPTIONS = ScanOptions(scale=1 / 255, prove=False, tile=20, threads=1)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, np.tile(np.asarray(Image.open(FIXTURES / "trained" / "canvas.png")), (6, 5)))
    return path


@pytest.fixture(scope="module")
def alone(image: Path) -> np.ndarray:
    return np.asarray(scan(DIGITS, image, options=OPTIONS))


@pytest.fixture(scope="module")
def client() -> Any:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_a_killed_worker_changes_nothing(client: Any, image: Path, alone: np.ndarray, tmp_path: Path) -> None:
    victims = [info["pid"] for info in client.run(_about).values()]
    killed: list[int] = []

    def progress(phrase: str) -> None:
        if phrase.startswith("tile ") and int(phrase.split()[1]) > 20 and not killed:
            os.kill(victims[0], signal.SIGKILL)
            killed.append(victims[0])

    made = scan(DIGITS, image, tmp_path / "map.zarr", options=OPTIONS, dask=client, progress=progress)
    assert killed
    assert np.array_equal(np.asarray(made), alone)
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]
    assert victims[0] not in {info["pid"] for info in client.run(_about).values()}
    arrays = scan(DIGITS, np.load(image), options=OPTIONS, dask=client)  # another job in the same processes
    assert np.array_equal(np.asarray(arrays), alone)
    rewrite(DIGITS, prove=False).save(tmp_path / "any.onnx")
    by_path = scan(tmp_path / "any.onnx", image, tmp_path / "map.tif", options=OPTIONS, dask=client)
    assert np.array_equal(np.asarray(by_path), alone)


def _about() -> dict[str, int]:
    return {"pid": os.getpid()}


def test_errors_of_workers_are_told(client: Any, image: Path, tmp_path: Path) -> None:
    class Failing:
        shape, dtype = (400, 400, 1), np.dtype(np.uint8)

        def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            raise ReadError("the disk fails")

    with pytest.raises(ReadError, match="the disk fails"):
        scan(DIGITS, Failing(), tmp_path / "map.npy", options=OPTIONS, dask=client)
    assert list(tmp_path.iterdir()) == []


def test_by_its_address(client: Any, image: Path, alone: np.ndarray, tmp_path: Path) -> None:
    """From a command of its own."""
    command = [sys.executable, "-m", "onnxfc", "scan", DIGITS, image, tmp_path / "map.npy", "--scale", "1/255"]
    command += ["--tile", "20", "--no-check", "--quiet", "--dask", client.scheduler.address]
    how: dict[str, Any] = {"env": environment(), "capture_output": True, "encoding": "utf-8", "timeout": 120}
    done = subprocess.run(command, check=False, **how)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert np.array_equal(np.load(tmp_path / "map.npy"), alone)
    told = subprocess.run([item for item in command if item != "--quiet"], check=True, **how).stdout
    assert [line.split()[2:] for line in told.splitlines() if line.startswith("time ")] == [["s"]]


def test_no_scheduler(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PATIENCE", 0.5)
    with pytest.raises(ReadError, match="no Dask scheduler answers there"):
        scan(DIGITS, image, tmp_path / "map.npy", options=OPTIONS, dask="tcp://127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


def test_no_workers(image: Path, tmp_path: Path) -> None:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=0, dashboard_address=None) as cluster,
        Client(cluster) as client,
        pytest.raises(ReadError, match="the Dask cluster has no workers; start some"),
    ):
        scan(DIGITS, image, tmp_path / "map.npy", options=OPTIONS, dask=client)
    assert list(tmp_path.iterdir()) == []
