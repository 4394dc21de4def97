"""Runs of the real command in a process of its own, and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fixture_files import fixture_file

ROOT = Path(__file__).parents[2]
LENET = fixture_file("lenet.dynamo.onnx")


@dataclass(frozen=True)
class Run:
    """Exit code and both streams of one command."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr; there must be exactly one, and nothing on stdout."""
        assert self.out == ""
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert "Traceback" not in self.err
        assert self.err.startswith("onnxfc: ")
        return self.err.strip()


def environment(**more: str) -> dict[str, str]:
    """The environment, with this checkout in front, whatever is installed."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUTF8": "1", **more}


def onnxfc(*args: object, cwd: Path | None = None, timeout: float = 120, **env: str) -> Run:
    """``python -m onnxfc ARGS`` with both streams as pipes."""
    done = subprocess.run(
        [sys.executable, "-m", "onnxfc", *map(str, args)],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
        encoding="utf-8",
    )
    return Run(done.returncode, done.stdout, done.stderr)


def unwrapped(text: str) -> str:
    """A report with each row in one line."""
    return text.replace("\n" + " " * 16, " ")


def processor_seconds() -> float:
    """What the processes that this one has waited for took so far."""
    times = os.times()
    return times.children_user + times.children_system


def listing(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Everything below a folder: kind and content by relative name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[str(path.relative_to(folder))] = (kind, path.read_bytes() if path.is_file() else b"")
    return found


def fails(code: int, *args: object, cwd: Path) -> str:
    """A run that must end in ``code``, say one line and leave the folder as it was; returns that line."""
    before = listing(cwd)
    run = onnxfc(*args, cwd=cwd)
    assert run.code == code, run
    assert listing(cwd) == before
    return run.line


def misused(*args: object, cwd: Path) -> str:
    """As :func:`fails`, for options that click itself refuses: usage, a hint, and the error in the last line."""
    before = listing(cwd)
    run = onnxfc(*args, cwd=cwd)
    assert run.code == 2, run
    assert run.out == ""
    assert "Traceback" not in run.err
    assert listing(cwd) == before
    lines = run.err.strip().splitlines()
    assert lines[0].startswith(f"Usage: onnxfc {args[0]}")
    assert len(lines) <= 4
    return lines[-1]
