"""The map while it is made: a zarr array (format 2, uncompressed), a chunk for each tile.

A chunk is a file that appears in one step. So a tile is done when its chunk is there, whoever wrote it, and
nothing half-written is ever taken for whole.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxfc.errors import ReadError, WriteError
from onnxfc.io.atomic_write import TEMPORARY, NewFile, check_folder, locked, temporary, writing
from onnxfc.io.byte_source import write_all

Array = NDArray[Any]
Shape = tuple[int, int, int]

_HEADER, _NOTES = ".zarray", ".zattrs"
_WHOLE = re.compile(r"\.zarray|\.zattrs|0\.\d+\.\d+")
_OWN = re.compile(f"{_WHOLE.pattern}|{TEMPORARY.pattern}")
"""All that is ever in a store; the last are what a killed writer left."""


@dataclass(frozen=True)
class ChunkStore:
    """Scores (classes, rows, columns) in a folder; all classes of a tile are one chunk. ``mark``: that of the notes
    beside them, where another process writes, which may be late: another scan may have begun there."""

    path: Path
    shape: Shape
    chunk: Shape
    mark: str = field(default="", compare=False)

    @classmethod
    def create(cls, path: Path, shape: Shape, chunk: Shape, notes: Mapping[str, Any]) -> ChunkStore:
        """A new one, in place of what an earlier scan left there. Raises WriteError."""
        header = {
            "zarr_format": 2,
            "shape": shape,
            "chunks": chunk,
            "dtype": "<f4",
            "compressor": None,
            "fill_value": "NaN",
            "order": "C",
            "filters": None,
        }
        with writing(path):
            path.mkdir(exist_ok=True)
            if not all(map(_OWN.fullmatch, os.listdir(path))):
                raise WriteError(f"{path}: is in the way, and nothing that a scan left; move it")
            for name in sorted(os.listdir(path)):  # the header first: what is left is none
                (path / name).unlink()
            (path / _NOTES).write_text(json.dumps(notes, indent=1), "utf-8")
            (path / _HEADER).write_text(json.dumps(header), "utf-8")
        return cls(path, shape, chunk)

    @classmethod
    def open(cls, path: Path) -> ChunkStore:
        """One that was made by :meth:`create`. Raises ReadError."""
        try:
            header = json.loads((path / _HEADER).read_text("utf-8"))
            if header["compressor"] is not None or header["dtype"] != "<f4":
                raise ValueError("is another kind of zarr array")
            return cls(path, tuple(header["shape"]), tuple(header["chunks"]))
        except (OSError, ValueError, KeyError) as error:
            raise ReadError(f"{path}: is no map of scores: {error}") from error

    @staticmethod
    @contextmanager
    def alone(path: Path) -> Iterator[None]:
        """While a map is made there, no other scan makes one. Raises WriteError."""
        with ExitStack() as stack:
            held = False
            while not held:
                with writing(path), suppress(FileExistsError):
                    path.mkdir()
                with suppress(FileNotFoundError):  # who made it took it away
                    stack.enter_context(locked(path, patience=0))
                    held = True
            try:
                yield
            finally:
                with suppress(OSError):
                    path.rmdir()  # if nothing came of it

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether one was made: its header is written last, and removed first."""
        return (path / _HEADER).exists()

    @property
    def notes(self) -> dict[str, Any]:
        """What was written beside it."""
        try:
            return dict(json.loads((self.path / _NOTES).read_text("utf-8")))
        except (OSError, ValueError):
            return {}

    def marked(self) -> ChunkStore:
        """With the mark of its notes."""
        try:
            return replace(self, mark=hashlib.sha256((self.path / _NOTES).read_bytes()).hexdigest())
        except OSError:
            return replace(self, mark="none")

    @property
    def tall(self) -> int:
        """Rows of a chunk."""
        return self.chunk[1]

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of chunks."""
        return -(-self.shape[1] // self.chunk[1]), -(-self.shape[2] // self.chunk[2])

    def file(self, number: int) -> Path:
        """Of a tile, counted row by row."""
        row, column = divmod(number, self.tiles[1])
        return self.path / f"0.{row}.{column}"

    def has(self, number: int) -> bool:
        """Whether a tile is done: whole, also where the power failed before it was on the disk."""
        with suppress(FileNotFoundError):
            return self.file(number).stat().st_size == 4 * math.prod(self.chunk)
        return False

    def write(self, number: int, block: Array) -> None:
        """A tile's scores (classes, rows, columns). Raises WriteError."""
        whole = np.ascontiguousarray(block, "<f4")
        if whole.shape != self.chunk:  # the last of a row or column
            whole = np.full(self.chunk, np.nan, "<f4")
            whole[:, : block.shape[1], : block.shape[2]] = block
        with writing(self.path), NewFile(self.path) as new:
            write_all(new.fd, whole.data.cast("B"))
            if self.mark and self.marked().mark != self.mark:
                raise WriteError(f"{self.path}: another scan has begun there")
            new.publish(self.file(number))

    def read(self, classes: slice, rows: slice, columns: slice) -> Array:
        """A part; NaN where no tile is done yet. Only what is asked for is read."""
        count = len(range(*classes.indices(self.shape[0])))
        low, high = rows.indices(self.shape[1])[:2], columns.indices(self.shape[2])[:2]
        found = np.full((count, max(0, low[1] - low[0]), max(0, high[1] - high[0])), np.nan, np.float32)
        _, tall, wide = self.chunk
        for row in range(low[0] // tall, -(-low[1] // tall)):
            for column in range(high[0] // wide, -(-high[1] // wide)):
                to_rows, from_rows = _meet(low, row * tall, tall)
                to_columns, from_columns = _meet(high, column * wide, wide)
                with suppress(FileNotFoundError):
                    mapped = np.memmap(self.path / f"0.{row}.{column}", "<f4", "r", shape=self.chunk)
                    found[:, to_rows, to_columns] = mapped[classes, from_rows, from_columns]
        return found

    @contextmanager
    def copied(self, target: Path) -> Iterator[Callable[[], None]]:
        """A copy beside ``target``, in a folder that is nobody else's, and what gives it that name."""
        copy = ChunkStore(temporary(target.parent), self.shape, self.chunk)
        with writing(target):
            copy.path.mkdir()
        try:
            with writing(target):
                for name in filter(_WHOLE.fullmatch, sorted(os.listdir(self.path))):
                    shutil.copyfile(self.path / name, copy.path / name)
            yield partial(copy.move, target)
        finally:
            remove(copy.path)

    @staticmethod
    def check(target: Path) -> None:
        """Whether a map can be given this name. Raises WriteError."""
        with writing(target):
            check_folder(target.parent)
            if target.exists() and not (target / _HEADER).exists():
                raise WriteError(f"{target}: exists and is no zarr array of format 2; choose another name")

    def move(self, target: Path) -> None:
        """Give it its name, replacing an older map that is there. Raises WriteError."""
        self.check(target)
        with writing(target):
            if target.exists() and _exchanged(self.path, target):
                remove(self.path)
                return
            former = target.with_name(f".{target.name}.{os.getpid()}.old")
            if target.exists():
                os.replace(target, former)
            os.replace(self.path, target)
            remove(former)


_HERE, _EXCHANGE = -100, 2


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two folders have each other's name now, at no moment without one; Linux can do that alone.
    https://man7.org/linux/man-pages/man2/rename.2.html"""
    try:
        call = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def remove(path: Path) -> None:
    """A store, or nothing. Its header goes first: what is left is none."""
    with suppress(FileNotFoundError):
        (path / _HEADER).unlink()
    shutil.rmtree(path, ignore_errors=True)


def _meet(window: tuple[int, int], begin: int, length: int) -> tuple[slice, slice]:
    """What a window and a chunk have in common: counted in the window, and in the chunk."""
    low, high = max(window[0], begin), min(window[1], begin + length)
    return slice(low - window[0], high - window[0]), slice(low - begin, high - begin)
