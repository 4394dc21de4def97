"""Proofs that end: in time, within memory, whatever becomes of onnxruntime; and batches of thousands of images."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import LENET, environment, fails, onnxfc
from hazards import Net
from onnx import numpy_helper

from onnxfc import CheckOptions, ProofFailed, UsageError, check_pair, rewrite
from onnxfc.proof.bounded import bounded
from onnxfc.proof.sessions import SLICE

resource = pytest.importorskip("resource")  # without it there are no such proofs

LIMITS = CheckOptions(timeout=60, memory=4000)
BATCH = 500


def test_within_its_limits() -> None:
    plain = rewrite(LENET).parity
    done = rewrite(LENET, check_options=LIMITS)
    assert done.parity is not None
    assert plain is not None
    assert (done.parity.native, done.parity.window) == (plain.native, plain.window)


def test_a_check_within_its_limits(tmp_path: Path) -> None:
    rewrite(LENET, prove=False).save(tmp_path / "other.onnx")
    assert check_pair(LENET, tmp_path / "other.onnx", options=LIMITS).passed


def test_out_of_time(tmp_path: Path) -> None:
    told = fails(4, "rewrite", LENET, "out.onnx", "--timeout", 0.05, cwd=tmp_path)
    said = "the proof took longer than the 0.05 s that it was given, and was stopped: give it more time"
    assert told == f"onnxfc: {LENET}: {said}; nothing was written"
    rewrite(LENET, prove=False).save(tmp_path / "other.onnx")
    assert fails(4, "check", LENET, "other.onnx", "--timeout", 0.05, cwd=tmp_path).endswith(
        "and was stopped: give it more time"
    )
    run = onnxfc("check", LENET, tmp_path / "other.onnx", "--timeout", 0.05, "--report", tmp_path / "r.json")
    told_json = json.loads((tmp_path / "r.json").read_text())
    assert (run.code, told_json["exit_code"], told_json["status"]) == (4, 4, "error")


def test_out_of_memory(tmp_path: Path) -> None:
    told = fails(4, "rewrite", LENET, "out.onnx", "--memory", 20, cwd=tmp_path)
    assert re.search("needs more memory than the 20 MB that|may have needed more than the 20 MB that", told)


@pytest.mark.parametrize("command", ["rewrite", "check"])
def test_too_little_memory_is_never_told_as_something_else(command: str, tmp_path: Path) -> None:
    """Less than Python and onnxruntime take, a little more, and so on until the proof has room."""
    rewrite(LENET, prove=False).save(tmp_path / "other.onnx")
    names = (LENET, "other.onnx" if command == "check" else "out.onnx")
    first = fails(4, command, *names, "--memory", 20, cwd=tmp_path)
    found = re.search(r"needs more memory than the 20 MB that .*: Python and onnxruntime alone take (\d+) MB", first)
    assert found, first
    alone = int(found[1])
    for more in (-2, 2, 4, 6, 8, 11, 15):
        run = onnxfc(command, *names, "--memory", alone + more, cwd=tmp_path)
        assert run.code in ((0, 4) if more > 0 else (4,))
        if run.code:
            given = f"than the {alone + more} MB that it was given"
            ended = r"(crashed in the proof's process \(SIG\w+\)|the proof's process ended by itself \(exit code \d+\))"
            told = rf"the proof needs more memory {given}|{ended}; it may have needed more {given}"
            assert re.search(told, run.line), run.line


def test_a_library_that_is_not_there_is_no_lack_of_memory() -> None:
    def absent() -> None:
        raise ImportError("No module named 'onnxruntime'")

    with pytest.raises(ImportError, match="onnxruntime"):
        bounded(absent, CheckOptions(timeout=60))
    with pytest.raises(ProofFailed, match="needs more memory than the 4000 MB that it was given"):
        bounded(absent, LIMITS)


def test_limits_are_of_the_proof(tmp_path: Path) -> None:
    told = fails(2, "rewrite", LENET, "out.onnx", "--no-check", "--timeout", 5, cwd=tmp_path)
    assert "--timeout is for the proof" in told
    for wrong in ({"timeout": -1}, {"memory": 0}, {"memory": 1.5}):
        with pytest.raises(UsageError):
            CheckOptions(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGSEGV, r"onnxruntime crashed in the proof's process \(SIGSEGV\)"),
        (signal.SIGABRT, r"crashed in the proof's process \(SIGABRT\); it may have needed more than the 4000 MB"),
        (signal.SIGKILL, r"killed \(SIGKILL\), most likely because memory ran out"),
    ],
)
def test_a_process_that_dies(number: signal.Signals, told: str) -> None:
    options = LIMITS if number == signal.SIGABRT else CheckOptions(timeout=60)

    def die() -> None:
        faulthandler.disable()  # pytest's
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), number)

    with pytest.raises(ProofFailed, match=told):
        bounded(die, options)


def test_what_the_process_says() -> None:
    """A large result comes through the pipe; an exception is the caller's."""
    assert bounded(lambda: np.arange(1_000_000), LIMITS).sum() == 499_999_500_000

    def misused() -> None:
        raise UsageError("no such output")

    with pytest.raises(UsageError, match="no such output"):
        bounded(misused, LIMITS)
    began = time.monotonic()
    with pytest.raises(ProofFailed, match=r"longer than the 0\.1 s"):
        bounded(lambda: time.sleep(60), CheckOptions(timeout=0.1))
    assert time.monotonic() - began < 30


def test_interrupted(tmp_path: Path) -> None:
    """Both processes end, with one line."""
    onnx.save(many(20_000, baked=True), tmp_path / "many.onnx")
    command = [sys.executable, "-m", "onnxfc", "rewrite", "many.onnx", "out.onnx", "--timeout", "100"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None and not children.read_text():
        time.sleep(0.02)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "onnxfc: interrupted\n"  # to its end, which needs the end of both
    assert process.returncode == 130


# Batches


def many(batch: int, *, baked: bool) -> onnx.ModelProto:
    """A classifier of so many images at once, the number written down in its Reshape too or not."""
    net = Net()
    x = net.op("Relu", net.conv(net.image(batch, (20, 20), channels=1), 1, 4))
    x = net.op("Reshape", x, net.ints(batch, 324)) if baked else net.op("Flatten", x)
    return net.model(net.fc(net.op("Relu", net.fc(x, 324, 16)), 16, 5, out="scores"), infer=False)


@pytest.mark.parametrize("baked", [False, True])
def test_large_batches_are_proven_on_a_few_images(baked: bool) -> None:
    """500 images are as many values as 8; and the model still takes 500."""
    done = rewrite(many(BATCH, baked=baked))
    assert done.parity is not None
    few = rewrite(many(SLICE, baked=baked)).parity
    assert few is not None
    assert (done.parity.passed, done.parity.native.compared) == (True, few.native.compared)
    assert done.parity.window.compared == few.window.compared > 0
    assert done.parity.trunk.status == "passed"
    assert done.claim.inputs[0].shape[0] == BATCH
    assert done.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == BATCH


@pytest.mark.parametrize("baked", [False, True])
def test_a_wrong_weight_is_found_in_a_large_batch(baked: bool) -> None:
    original = many(BATCH, baked=baked)
    other = rewrite(original, prove=False).model
    tensor = next(item for item in other.graph.initializer if list(item.dims) == [16, 4, 9, 9])
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    result = check_pair(original, other)
    assert not result.passed
    assert "scores deviates by" in result.parity.native.reason


def test_a_large_batch_takes_little_memory(tmp_path: Path) -> None:
    """17,370 images took 8 GB and minutes."""
    onnx.save(many(17_370, baked=False), tmp_path / "many.onnx")
    run = onnxfc("rewrite", tmp_path / "many.onnx", tmp_path / "out.onnx", "--memory", 400)
    assert run.code == 0, run


def test_absurd_sizes_are_told_before_they_are_run(tmp_path: Path) -> None:
    onnx.save(many(31, baked=False), tmp_path / "many.onnx")
    began: Any = time.monotonic()
    told = fails(4, "rewrite", "many.onnx", "out.onnx", "--check-size", "16000x16000", cwd=tmp_path)
    assert "the proof needs about " in told
    assert "GB of memory for 31 images of 16000x16000 px at once, and " in told
    assert time.monotonic() - began < 30
