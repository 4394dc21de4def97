"""Tiles on a cluster of processes, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import environment
from fixture_files import FIXTURES, fixture_file
from PIL import Image

from onnxfc import ReadError, ScanOptions, UsageError, rewrite, scan
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


def test_all_workers_are_killed(image: Path, alone: np.ndarray, tmp_path: Path) -> None:
    """With them goes the job that they were given; a nanny starts another."""
    from dask.distributed import Client, LocalCluster

    killed: list[int] = []
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):

        def progress(phrase: str) -> None:
            if phrase.startswith("tile ") and int(phrase.split()[1]) > 20 and not killed:
                killed.extend(info["pid"] for info in client.run(_about).values())
                for victim in killed:
                    os.kill(victim, signal.SIGKILL)

        made = scan(DIGITS, image, tmp_path / "map.npy", options=OPTIONS, dask=client, progress=progress)
    assert killed
    assert np.array_equal(np.asarray(made), alone)
    assert [path.name for path in tmp_path.iterdir()] == ["map.npy"]


def test_workers_that_die_of_their_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dask
    from dask.distributed import Client, LocalCluster

    class Deadly:
        shape, dtype = (400, 400, 1), np.dtype(np.uint8)

        def read(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            if y0 > 200:
                os.kill(os.getpid(), signal.SIGKILL)
            return np.zeros((y1 - y0, x1 - x0, 1), np.uint8)

    monkeypatch.setattr(work, "_IDLE", 1)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
        pytest.raises(ReadError, match=r"workers die of their tiles; .*; --resume goes on where it ended"),
    ):
        scan(DIGITS, Deadly(), tmp_path / "map.npy", options=OPTIONS, dask=client)
    assert [path.name for path in tmp_path.iterdir()] == ["map.npy.part"]


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


@pytest.mark.sweep(8)
@pytest.mark.parametrize("victim", ["scheduler", "worker"])
def test_a_lost_cluster_is_told_and_what_is_done_stays(
    victim: str, image: Path, alone: np.ndarray, tmp_path: Path
) -> None:
    """By processes as on machines: without a nanny nobody starts another worker."""
    from dask.distributed import Client

    out, how = tmp_path / "map.npy", {"env": environment(), "stderr": subprocess.DEVNULL}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask, port = [sys.executable, "-m", "distributed.cli.dask_"], address.rpartition(":")[2]
    begin = [f"{dask[2]}scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard"]
    scheduler = subprocess.Popen([*dask[:2], *begin], **how)
    join = [f"{dask[2]}worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker = subprocess.Popen([*dask[:2], *join], **how)
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
        script = "from onnxfc.scanner import work; work._RESTART = 1; from onnxfc.cli.main import main; main()"
        command = [sys.executable, "-c", script, "scan", DIGITS, image, out, "--scale", "1/255", "--no-check", "-q"]
        command += ["--tile", "4", "--threads", "1"]
        made = subprocess.Popen(
            [*command, "--dask", address], env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
        )
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("map.npy.part/0.*"))) < 30 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill({"scheduler": scheduler, "worker": worker}[victim].pid, signal.SIGKILL)
        told = made.communicate(timeout=60)[1]
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
    says = {
        "scheduler": "the Dask scheduler is lost; start it again (dask scheduler)",
        "worker": "the Dask cluster has lost all its workers; start some (dask worker ADDRESS)",
    }
    assert (made.returncode, told) == (1, f"onnxfc: {says[victim]}; --resume goes on where it ended\n")
    assert len(list(tmp_path.glob("map.npy.part/0.*"))) >= 30
    subprocess.run([*command, "--resume"], check=True, env=environment())
    np.testing.assert_allclose(np.load(out), alone, atol=1e-4)


def test_no_scheduler(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_PATIENCE", 0.5)
    with pytest.raises(ReadError, match="no Dask scheduler answers there"):
        scan(DIGITS, image, tmp_path / "map.npy", options=OPTIONS, dask="tcp://127.0.0.1:9")
    with pytest.raises(UsageError, match="dask: must be a Client or the address of a scheduler, not 5"):
        scan(DIGITS, image, tmp_path / "map.npy", options=OPTIONS, dask=5)
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
