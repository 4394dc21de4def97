"""Runs of the real command in a process of its own, and what they leave behind."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from click.testing import CliRunner
from fixture_files import fixture_file

from onnxfc.cli.main import main

ROOT = Path(__file__).parents[2]
LENET = fixture_file("lenet.dynamo.onnx")


def runner() -> CliRunner:
    """Both streams apart, which click before 8.2 does only if it is told."""
    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    return CliRunner(**apart)


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


def here(*args: object, cwd: Path | None = None) -> Run:
    """The same command in this process, which has loaded everything: a tenth of the time."""
    before = Path.cwd()
    with TemporaryFile() as out, TemporaryFile() as err:
        os.chdir(cwd or before)
        try:
            with _stream("stdout", 1, out), _stream("stderr", 2, err):
                main([str(item) for item in args], prog_name="onnxfc")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            os.chdir(before)
        said = []
        for stream in (out, err):
            stream.seek(0)
            said.append(stream.read().decode())
    return Run(code, *said)


@contextmanager
def _stream(name: str, number: int, file: IO[bytes]) -> Iterator[None]:
    """Let a standard stream go to a file, what libraries write below Python as well."""
    kept, before = os.dup(number), getattr(sys, name)
    os.dup2(file.fileno(), number)
    try:
        with open(number, "w", encoding="utf-8", closefd=False) as stream:
            setattr(sys, name, stream)
            yield
    finally:
        setattr(sys, name, before)
        os.dup2(kept, number)
        os.close(kept)


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


def fails(code: int, *args: object, cwd: Path, run: Callable[..., Run] = onnxfc) -> str:
    """A run that must end in ``code``, say one line and leave the folder as it was; returns that line."""
    before = listing(cwd)
    done = run(*args, cwd=cwd)
    assert done.code == code, done
    assert listing(cwd) == before
    return done.line


def misused(*args: object, cwd: Path, run: Callable[..., Run] = onnxfc) -> str:
    """As :func:`fails`, for options that click itself refuses: one line that names the help; returns the rest of it."""
    told, _, more = fails(2, *args, cwd=cwd, run=run).removeprefix("onnxfc: ").rpartition("; see ")
    assert more == f"onnxfc {args[0]} --help"
    return told
