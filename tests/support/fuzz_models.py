"""Hostile models against the whole command line: no traceback, no crash, no hang, one line to every error.

``python tests/support/fuzz_models.py --seconds 3600`` goes on for an hour from ``--first``; each case has a number,
which makes it again: ``--case NUMBER`` runs one and keeps its files. The suite runs the first few hundred.

Each case damages a fixture, or what a rewrite made of one, in its bytes or its graph, and gives it to inspect, rewrite
or check. Cases run in a process of their own with a limit on memory, which is replaced where it dies or hangs. A crash
within onnxruntime, on a model that it took, is its own.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
from cli_runs import environment
from fixture_files import fixture_models
from mutants import damaged, mutated, pick

LARGEST = 30_000  # bytes of a fixture that serves as a seed
MEMORY = 4 << 30
PATIENCE = 90.0  # seconds for one case


def seeds() -> list[Path]:
    return sorted(path for path in fixture_models() if path.stat().st_size <= LARGEST)


def prepare(folder: Path, number: int) -> list[str]:
    """Write the files of a case; returns its command line."""
    rng = np.random.default_rng([20, number])
    source = min(seeds(), key=lambda path: zlib.crc32(f"{number} {path.name}".encode()))  # as good as whatever joins
    good, bad = folder / "good.onnx", folder / "bad.onnx"
    good.write_bytes(source.read_bytes())
    if rng.random() < 0.3 and run(["rewrite", str(good), str(folder / "made.onnx"), "--no-check"])[0] == 0:
        base = folder / "made.onnx"
        commands = [["check", str(good), str(bad)], ["inspect", str(bad)], ["check", str(good), str(bad)]]
    else:
        base = good
        commands = [["rewrite", str(bad), str(folder / "out.onnx")], ["inspect", str(bad)]]
        commands += [["rewrite", str(bad), str(folder / "out.onnx"), "--no-check"], ["check", str(bad), str(good)]]
        commands += [["check", str(bad), str(bad)], ["check", str(good), str(bad)]]
    if rng.random() < 0.3:
        bad.write_bytes(damaged(rng, base.read_bytes()))
    else:
        bad.write_bytes(mutated(rng, onnx.load(base)).SerializeToString())
    command = list(pick(rng, commands))
    more: list[list[str]] = [[], [], [], ["-v"]] if command[0] != "inspect" else [[], ["--json"], ["-v"]]
    if command[0] == "rewrite":
        more += [["--global-pool", "keep"], ["--output", "mean"], ["--dynamic-batch"], ["--size", "24x24"]]
    return command + pick(rng, more)


def run(command: list[str]) -> tuple[int, str, str]:
    """Exit code, stderr, and the traceback if there is one."""
    from onnxfc.cli.main import main

    told = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(told):
            main(command, prog_name="onnxfc")
    except SystemExit as end:
        return int(end.code or 0), told.getvalue(), ""
    except BaseException:
        return -1, told.getvalue(), traceback.format_exc()
    return 0, told.getvalue(), ""


def verdict(command: list[str]) -> str:
    """What is wrong with the outcome of a command; empty where nothing is."""
    code, told, trace = run(command)
    if trace:
        return trace
    if code not in (0, 1, 2, 3, 4):
        return f"exit code {code}"
    lines = told.splitlines()
    listed = code == 3 and "-v" in command  # all refusals
    if code and ((len(lines) != 1 and not listed) or not lines[0].startswith("onnxfc: ")):
        return f"exit code {code} with {len(lines)} lines: {told[:500]!r}"
    return ""


def worker() -> None:
    """A case for each number on stdin; its verdict, escaped, as a line on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            command = prepare(Path(folder), int(line))
            wrong = verdict(command)
        print(repr(f"{' '.join(command).replace(folder, '.')}\n{wrong}" if wrong else ""), file=out, flush=True)


class Worker:
    """A process that runs cases, replaced where it has died."""

    def __init__(self) -> None:
        self.told = tempfile.TemporaryFile("w+")  # noqa: SIM115
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.told}
        command = [sys.executable, "-X", "faulthandler", __file__, "--worker"]
        self.process = subprocess.Popen(command, env=environment(), text=True, **pipes)

    def case(self, number: int) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return str(ast.literal_eval(line))
        if not ready:
            self.close()
            return f"no answer within {PATIENCE:.0f} seconds"
        self.told.seek(0)
        told = self.told.read()
        if "onnxruntime_inference_collection.py" in told:  # its own crash, on a model that it took
            return ""
        return f"died: {self.process.wait()}\n{told}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.told.close()


def fuzz(first: int, count: int | None, seconds: float) -> tuple[int, dict[int, str]]:
    """How many cases were run, and what was found, by number."""
    found: dict[int, str] = {}
    until, number = time.monotonic() + seconds, first
    made = Worker()
    try:
        while time.monotonic() < until and (count is None or number < first + count):
            wrong = made.case(number)
            if wrong:
                found[number] = wrong
                print(f"--- case {number}: {wrong}", flush=True)
            if made.process.poll() is not None:
                made = Worker()
            number += 1
    finally:
        made.close()
    return number - first, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int)
    parser.add_argument("--case", type=int, help="run this one here, and keep its files")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker()
    elif given.case is not None:
        command = prepare(Path(tempfile.mkdtemp()), given.case)
        print("onnxfc", *command)
        print(verdict(command) or "nothing wrong")
    else:
        count, found = fuzz(given.first, given.count, given.seconds)
        print(f"{count} cases from {given.first} on, {len(found)} findings: {sorted(found)}")
        raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
