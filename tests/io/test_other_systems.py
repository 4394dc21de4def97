"""What Windows and macOS lack is done without: here it is taken away from Python before anything is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import ROOT, environment, onnxfc
from fixture_files import fixture_file

from onnxfc import CheckOptions, UsageError
from onnxfc.proof.bounded import bounded

WITHOUT = """
import os, sys
for name in {names}:
    if hasattr(os, name):
        delattr(os, name)
for name in ("fcntl", "pty", "resource", "termios"):
    sys.modules[name] = None
for name in ("supports_dir_fd", "supports_follow_symlinks"):
    setattr(os, name, set())
import shutil, types
shutil.disk_usage = lambda path: types.SimpleNamespace(free=1 << 40)  # which these systems have by other ways
"""
WINDOWS = (
    *("O_TMPFILE", "copy_file_range", "fchmod", "fchown", "listxattr", "pread", "preadv", "sendfile", "statvfs"),
    *("chown", "getuid", "geteuid", "fork", "sysconf", "sched_getaffinity", "O_NONBLOCK", "mkfifo"),
)
MACOS = ("O_TMPFILE", "copy_file_range", "listxattr", "sched_getaffinity")


@pytest.fixture(params=[WINDOWS, MACOS], ids=["windows", "macos"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """An environment whose Python lacks these."""
    folder = tmp_path / "system"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT.format(names=request.param))
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}


@pytest.mark.sweep(8)
def test_all_tests_can_be_collected(system: dict[str, str]) -> None:
    """Those of POSIX are skipped."""
    command = [sys.executable, "-m", "pytest", "-n0", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=environment(**system), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-3000:]


def test_memory_is_bounded_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the limit would bind next to nothing; time can be bounded."""
    monkeypatch.setattr("sys.platform", "darwin")
    with pytest.raises(UsageError, match="memory: only Linux counts all that a process takes"):
        bounded(lambda: 1, CheckOptions(memory=1000))
    assert bounded(lambda: 1, CheckOptions(timeout=60)) == 1


def test_a_rewrite(system: dict[str, str], tmp_path: Path) -> None:
    """A new file, then the same again over it; byte for byte what is written here."""
    source, out, here = fixture_file("lenet.dynamo.onnx"), tmp_path / "out.onnx", tmp_path / "here.onnx"
    assert onnxfc("rewrite", source, here).code == 0
    for _ in range(2):
        run = onnxfc("rewrite", source, out, **system)
        assert run.code == 0, run.err
        assert out.read_bytes() == here.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here.onnx", "out.onnx", "system"]


def test_external_data(system: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):
        options = ("--save-as-external-data", "--all-tensors-to-one-file")
        run = onnxfc("rewrite", fixture_file("lenet.dynamo.onnx"), out / "l.onnx", *options, **system)
        assert run.code == 0, run.err
    assert sorted(item.name for item in out.iterdir()) == ["l.onnx", "l.onnx.data"]
    onnx.checker.check_model(str(out / "l.onnx"))


def test_reports_and_checks(system: dict[str, str], tmp_path: Path) -> None:
    source, out = fixture_file("lenet.dynamo.onnx"), tmp_path / "out.onnx"
    assert onnxfc("rewrite", source, out, "--report", tmp_path / "r.html", **system).code == 0
    assert onnxfc("check", source, out, "--report", tmp_path / "c.json", **system).code == 0
    assert onnxfc("inspect", out, **system).code == 0


def test_a_scan(system: dict[str, str], tmp_path: Path) -> None:
    """Tiles, their folder and its lock, all kinds of files; twice, over what was there."""
    outs = ["map.npy", "map.tif", "map.png", "best.csv", "best.geojson", "map.zarr"]
    canvas = Path(__file__).parents[2] / "fixtures" / "trained" / "canvas.png"
    for _ in range(2):
        words = ("scan", fixture_file("digits.onnx"), canvas, *outs, "--tile", 10, "--resume")
        run = onnxfc(*words, cwd=tmp_path, **system)
        assert run.code == 0, run.err
    assert sorted(item.name for item in tmp_path.iterdir()) == sorted([*outs, "system"])
    assert np.load(tmp_path / "map.npy").shape == (10, 37, 57)


def test_a_folder_that_cannot_be_written(system: dict[str, str], tmp_path: Path) -> None:
    run = onnxfc("rewrite", fixture_file("lenet.dynamo.onnx"), tmp_path / "no" / "out.onnx", **system)
    assert run.code == 1
    assert run.line
