"""The command line where the system refuses: streams that are full or closed, no folder, no files, Ctrl-C."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import cli_models
import onnx
import pytest
from cli_runs import LENET, environment, listing, onnxfc
from fixture_files import fixture_file
from systems import posix

from onnxfc.errors import ExitCode
from onnxfc.rewriter.api import rewrite

pytestmark = posix  # they run a shell

MAIN = f"{sys.executable} -m onnxfc"
FULL = "onnxfc: standard output: cannot write: the disk is full\n"


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder with a model, and what it is rewritten to."""
    shutil.copy(LENET, tmp_path / "in.onnx")
    rewrite(LENET, prove=False).save(tmp_path / "made.onnx")
    return tmp_path


def shell(line: str, cwd: Path) -> tuple[int, str]:
    """Exit code and stderr of a line of sh, in which ``onnxfc`` is this one."""
    done = subprocess.run(
        ["sh", "-c", line.replace("onnxfc", MAIN)],
        cwd=cwd,
        env=environment(),
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    "command",
    ["inspect in.onnx", "inspect --json in.onnx", "rewrite in.onnx out.onnx", "check in.onnx made.onnx --samples 2"],
)
@pytest.mark.parametrize(
    ("where", "said"),
    [
        (">/dev/full", FULL),
        (">&-", "onnxfc: standard output: cannot write: it is closed\n"),
        ("| true", "onnxfc: standard output: cannot write: nobody reads it any more\n"),
    ],
)
def test_stdout_that_cannot_be_written(room: Path, command: str, where: str, said: str) -> None:
    line = f"(onnxfc {command}; echo $? >code) {where}" if "|" in where else f"onnxfc {command} {where}; echo $? >code"
    _, err = shell(line, room)
    assert err == said
    assert (room / "code").read_text() == "1\n"
    assert (room / "out.onnx").exists() == command.startswith("rewrite")  # whole, before it is told


@pytest.mark.parametrize("command", ["--help", "--version", "rewrite --help"])
def test_help_onto_a_full_disk(room: Path, command: str) -> None:
    code, err = shell(f"onnxfc {command} >/dev/full", room)
    assert (code, err.count("\n")) == (1, 1)
    assert "the disk is full" in err


def test_quiet_needs_no_stdout(room: Path) -> None:
    assert shell("onnxfc rewrite in.onnx out.onnx -q >&-", room) == (0, "")
    assert (room / "out.onnx").read_bytes() == (room / "made.onnx").read_bytes()


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_stderr_that_cannot_be_written(room: Path, where: str) -> None:
    assert shell(f"onnxfc inspect none.onnx {where}", room) == (1, "")
    assert shell(f"onnxfc rewrite in.onnx in.onnx {where}", room) == (2, "")
    assert shell(f"onnxfc inspect in.onnx >out {where}", room) == (0, "")


def test_no_standard_stream_at_all(room: Path) -> None:
    """What is opened first does not become stdout."""
    assert shell("onnxfc rewrite in.onnx out.onnx -q <&- >&- 2>&-", room)[0] == 0
    assert (room / "out.onnx").read_bytes() == (room / "made.onnx").read_bytes()


def test_a_working_directory_that_was_removed(room: Path) -> None:
    for source in ("../in.onnx", f"{room}/in.onnx"):
        code, err = shell(f"mkdir gone && cd gone && rmdir ../gone && onnxfc rewrite {source} out.onnx", room)
        assert (code, err) == (1, "onnxfc: the working directory does not exist any more; change to another one\n")
    line = f"mkdir gone && cd gone && rmdir ../gone && onnxfc rewrite -q {room}/in.onnx {room}/out.onnx"
    assert shell(line, room) == (0, "")
    for command in ("check ../in.onnx ../made.onnx", f"rewrite ../in.onnx {room}/new.onnx"):
        code, err = shell(f"mkdir gone && cd gone && rmdir ../gone && onnxfc {command}", room)
        assert (code, err) == (1, "onnxfc: the working directory does not exist any more; change to another one\n")
    assert not (room / "new.onnx").exists()


def test_few_files(room: Path) -> None:
    code, err = shell("ulimit -n 8; onnxfc rewrite in.onnx out.onnx", room)
    assert (code, err) == (1, "onnxfc: too many files are open; raise the limit (ulimit -n)\n")
    assert not (room / "out.onnx").exists()
    code, err = shell(
        "ulimit -n 14; onnxfc rewrite in.onnx out.onnx --save-as-external-data --external-data-size-threshold 0", room
    )
    assert code == 1
    assert "too many files are open; write all tensors to one file, or raise the limit" in err
    assert set(listing(room)) == {"in.onnx", "made.onnx"}


# Reports


def test_reports_to_stdout(room: Path) -> None:
    run = onnxfc("rewrite", "in.onnx", "out.onnx", "--report", "-", cwd=room)
    assert (run.code, run.err, json.loads(run.out)["status"]) == (0, "", "rewritten")
    run = onnxfc("check", "in.onnx", "out.onnx", "--report", "-", cwd=room)
    assert (run.code, run.err, json.loads(run.out)["status"]) == (0, "", "passed")
    run = onnxfc("check", "in.onnx", "out.onnx", "--junit", "-", cwd=room)
    assert run.out.startswith("<?xml")
    run = onnxfc("rewrite", "none.onnx", "out.onnx", "--report", "-", cwd=room)
    assert (run.code, json.loads(run.out)["exit_code"]) == (1, 1)
    assert run.err == "onnxfc: none.onnx: there is no such file; check the path\n"
    run = onnxfc("check", "in.onnx", "out.onnx", "--report", "-", "--junit", "-", cwd=room)
    assert (run.code, run.line) == (2, "onnxfc: --junit -: is the file of --report too; give it one of its own")
    assert set(listing(room)) == {"in.onnx", "made.onnx", "out.onnx"}
    assert shell("onnxfc rewrite in.onnx out.onnx --report - >/dev/full", room) == (1, FULL)


def test_a_report_into_a_pipe(room: Path) -> None:
    os.mkfifo(room / "pipe")
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append((room / "pipe").read_text()))
    reader.start()
    assert onnxfc("rewrite", "in.onnx", "out.onnx", "--report", "pipe", "-q", cwd=room).code == 0
    reader.join(10)
    assert json.loads(found[0])["status"] == "rewritten"
    line = "onnxfc rewrite in.onnx out.onnx -q --report /dev/full"
    assert shell(line, room) == (1, "onnxfc: /dev/full: cannot write: the disk is full\n")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rewrite lone out.onnx", "lone: is not a regular file; give the path of an ONNX file"),
        ("rewrite in.onnx lone", "lone: is not a regular file; give another path"),
        ("check in.onnx lone", "lone: is not a regular file; give the path of an ONNX file"),
        ("check in.onnx made.onnx -q --report lone", "lone: is a pipe that nobody reads; start its reader first"),
        ("check in.onnx made.onnx -q --junit lone", "lone: is a pipe that nobody reads; start its reader first"),
        ("check in.onnx made.onnx --data lone", "lone: is not a regular file; give the path of a .npy file"),
        ("scan made.onnx lone.npy out.npy", "lone.npy: is not a regular file; give the path of an image file"),
        ("scan made.onnx lone.png out.npy", "lone.png: is not a regular file; give the path of an image file"),
        ("scan made.onnx lone.tif out.npy", "lone.tif: is not a regular file; give the path of an image file"),
    ],
)
def test_a_pipe_without_another_end(room: Path, command: str, said: str) -> None:
    """Opening it would wait for ever."""
    for name in ("lone", "lone.npy", "lone.png", "lone.tif"):
        os.mkfifo(room / name)
    assert shell(f"timeout 60 onnxfc {command}", room) == (1, f"onnxfc: {said}\n")


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev//stdout"])
def test_a_model_onto_stdout(room: Path, name: str) -> None:
    for where in ("| cat >got", ">got"):
        _, err = shell(f"onnxfc rewrite in.onnx {name} {where}", room)
        assert err == f"onnxfc: {Path(name)}: is not a regular file; give another path\n"
        assert (room / "got").read_bytes() == b""


# Ctrl-C


def loaded(process: subprocess.Popen[str], library: str) -> bool:
    with suppress(OSError):
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    return False


@pytest.mark.sweep(12)
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="tells when by what is loaded")
@pytest.mark.parametrize("later", [0.0, 0.15, 0.5])
@pytest.mark.parametrize("library", ["_multiarray_umath", "onnx_cpp2py", "onnxruntime_pybind"])
def test_interrupted(room: Path, library: str, later: float) -> None:
    """While libraries are loaded, where an exception would crash them, and in the proof: one line, nothing written."""
    cli_models.write(cli_models.slow(), room / "slow.onnx")
    (room / "old.onnx").write_bytes(b"old")
    before = listing(room)
    command = [sys.executable, "-m", "onnxfc", "rewrite", "slow.onnx", "old.onnx" if later else "new.onnx"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=room, env=environment(), text=True, **pipes) as run:
        while not loaded(run, library) and run.poll() is None:
            time.sleep(0.002)
        time.sleep(later)
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=100)
    assert (run.returncode, out, err) == (ExitCode.INTERRUPTED, "", "onnxfc: interrupted\n")
    assert listing(room) == before


# Python


def test_a_rewrite_says_that_it_is_not_pickled(room: Path) -> None:
    result = rewrite(room / "in.onnx", prove=False)
    for action in (pickle.dumps, copy.deepcopy):
        for item in (result, result.file):
            with pytest.raises(TypeError, match="cannot be pickled or copied, nor a Rewrite"):
                action(item)


def test_what_a_rewrite_found_is_pickled() -> None:
    result = rewrite(onnx.load(fixture_file("lenet.dynamo.onnx")))
    for item in (result.claim, result.parity, result.replacements, result.notes):
        assert pickle.loads(pickle.dumps(item)) == item
