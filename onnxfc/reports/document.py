"""A report as data: what JSON can hold, and the file that it is written to."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxfc.errors import WriteError
from onnxfc.io.atomic_write import NewFile, writing
from onnxfc.io.byte_source import write_all

if TYPE_CHECKING:
    from onnxfc.proof.results import Parity


def parity_as_json(parity: Parity | None) -> dict[str, Any] | None:
    """The outcome of a proof."""
    if parity is None:
        return None
    plain: dict[str, Any] = _finite(dataclasses.asdict(parity))
    return plain | {"passed": parity.passed, "summary": parity.summary()}


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def as_bytes(document: dict[str, Any]) -> bytes:
    """A report as the text of a file."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def _onto(path: Path, content: bytes) -> None:
    """Onto a pipe or a device. Opening a pipe that nobody reads would wait for ever."""
    try:
        fd = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO and path.is_fifo():
            raise WriteError(f"{path}: is a pipe that nobody reads; start its reader first") from error
        raise
    if hasattr(os, "O_NONBLOCK"):
        os.set_blocking(fd, True)
    with open(fd, "wb") as file:
        file.write(content)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a report, whole or not at all; a pipe or device is written to as it is. Raises WriteError."""
    target = Path(os.path.realpath(path))
    with writing(path):
        if path.exists() and not path.is_file():
            _onto(path, content)
            return
        with NewFile(target.parent) as file:
            write_all(file.fd, memoryview(content))
            file.prepare(target, durable=target.exists())
            file.publish(target)
