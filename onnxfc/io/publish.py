"""Let a model and its data files appear as one, for readers, for other writers, and whenever we are killed.

Two files cannot be replaced in one step, and the model refers to its data by name. So no data file is ever
changed or replaced: new data gets a name that nobody has, and the model, which is replaced in one step, says
which one. A reader finds the data that its model was written with, or, long after, none; never another's.

- The name is the one that was asked for where it is free and the model that stands there has not used it;
  else that name with a mark, ``out.onnx.data`` as ``out.onnx.onnxfc-1a2b3c4d.data``.
- Data that is there already, byte for byte, is referred to and not written again.
- Who writes holds a lock on the folder while names are given out. What the replaced model refers to stays,
  for those who are still reading, until the next save. Then it is removed if it is ours by its mark (a ``p``
  behind the mark: the plain name was ours, too), and no model in the folder refers to it.
- Where the folder cannot be locked nothing is reused or removed; the names are as safe.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from onnxfc.errors import ReadError
from onnxfc.io import protobuf_wire
from onnxfc.io.atomic_write import TEMPORARY, NewFile, locked, sync_folder
from onnxfc.io.byte_source import FileSource, Span, write_all
from onnxfc.io.external_data import all_tensors, entries, is_external, is_private

DETACH = 1 << 20  # inline values of this size are copied on their own rather than serialized with the rest
_PAGE, _SMALL = 4096, 64  # data offsets: large tensors on a page, so that a reader can map them
_LARGEST_MODEL = 2**31
_MARKED = re.compile(r"(?P<stem>.+)\.onnxfc-[0-9a-f]{8}(?P<plain>p?)(?P<suffix>\.[^.]*)?")

Pieces = Callable[[Mapping[str, str]], list[protobuf_wire.Piece]]
"""The model file, its data files called as the mapping says."""


class DataFile:
    """What goes into one data file, and where."""

    def __init__(self) -> None:
        self.size = 0
        self.spans: dict[tuple[int, int, int], tuple[int, Span]] = {}

    def place(self, span: Span) -> int:
        """The offset of ``span`` in the file; bytes that are used twice are written once."""
        key = (id(span.source), span.offset, span.length)
        if key not in self.spans:
            step = _PAGE if span.length >= DETACH else _SMALL
            offset = -(-self.size // step) * step
            self.spans[key] = (offset, span)
            self.size = offset + span.length
        return self.spans[key][0]

    def write(self, fd: int) -> None:
        for offset, span in self.spans.values():
            os.lseek(fd, offset, os.SEEK_SET)
            span.copy(fd)
        os.ftruncate(fd, self.size)

    def equals(self, path: Path) -> bool:
        """Whether the file at ``path`` holds the very same bytes."""
        try:
            there = FileSource(path)
            if there.size != self.size or path.is_symlink():
                return False
            return all(span.equals(Span(there, offset, span.length)) for offset, span in self.spans.values())
        except (OSError, ReadError):
            return False


def publish(target: Path, files: Mapping[str, DataFile], pieces: Pieces, inputs: Sequence[FileSource]) -> list[Path]:
    """Write ``files`` and the model at ``target``; returns the data files that it refers to. Raises OSError.

    ``files``: by the names that were asked for, relative to the model's folder. ``inputs`` are never removed.
    """
    with ExitStack() as stack:
        work = _Publication(target, files, stack)
        work.write_data()
        with locked(target.parent) as alone:
            names = work.appear(pieces)
            if alone:
                work.remove_stale(names, inputs)
    if work.replaced:
        sync_folder(target.parent)
    return [target.parent / name for name in names.values()]


class _Publication:
    """One model on its way to ``target``, its files closed with ``stack``."""

    def __init__(self, target: Path, files: Mapping[str, DataFile], stack: ExitStack) -> None:
        self._target = target
        self._folder = target.parent
        self._files = files
        self._stack = stack
        self._written: dict[str, NewFile] = {}
        self._kept: dict[str, tuple[str, os.stat_result]] = {}
        self._former: frozenset[str] = frozenset()
        self.replaced = target.exists()

    def write_data(self) -> None:
        """Write what is not there yet, into files without a name."""
        self._former = data_names(self._target)
        for name, file in self._files.items():
            there = self._there(name)
            if there is not None and file.equals(self._folder / there):
                self._kept[name] = (there, os.stat(self._folder / there))
            else:
                self._written[name] = self._new(name)

    def _there(self, name: str) -> str | None:
        """The file that may hold the same data: the replaced model's, or one of the name that was asked for."""
        used = next((former for former in sorted(self._former) if name in (former, _plain(former))), name)
        return used if os.path.lexists(self._folder / used) else None

    def _new(self, name: str) -> NewFile:
        file = self._stack.enter_context(NewFile((self._folder / name).parent))
        self._files[name].write(file.fd)
        file.prepare(self._folder / (self._there(name) or name), durable=self.replaced)
        return file

    def appear(self, pieces: Pieces) -> dict[str, str]:
        """Give the data its names, then publish the model that says so; no data where that fails."""
        self._former = data_names(self._target)
        self._drop_changed()
        while True:
            names = {name: self._name(name) for name in self._files}
            model = self._model(pieces(names))
            try:
                if all(self._written[name].claim(self._folder / names[name]) for name in self._written):
                    model.publish(self._target)
                    return names
            finally:
                self._withdraw(names)
            self._written = {name: self._new(name) for name in self._written}

    def _drop_changed(self) -> None:
        """Write what was there when we looked, and was removed or changed until we held the lock."""
        for name, (there, seen) in list(self._kept.items()):
            with suppress(OSError):
                now = os.stat(self._folder / there)
                if (now.st_ino, now.st_size, now.st_mtime_ns) == (seen.st_ino, seen.st_size, seen.st_mtime_ns):
                    continue
            del self._kept[name]
            self._written[name] = self._new(name)

    def _name(self, name: str) -> str:
        if name in self._kept:
            return self._kept[name][0]
        used = any(name in (former, _plain(former)) for former in self._former)
        if not used and not os.path.lexists(self._folder / name):
            return name
        return _marked(name, plain=name in self._former)

    def _withdraw(self, names: Mapping[str, str]) -> None:
        """Take back the names of our new data where, for whatever reason, the model does not refer to them."""
        published = data_names(self._target) if self._written else frozenset()
        for name in self._written:
            if self._written[name].named and names[name] not in published:
                (self._folder / names[name]).unlink(missing_ok=True)

    def _model(self, pieces: list[protobuf_wire.Piece]) -> NewFile:
        file = self._stack.enter_context(NewFile(self._folder))
        for piece in pieces:
            if isinstance(piece, Span):
                piece.copy(file.fd)
            else:
                write_all(file.fd, memoryview(piece))  # type: ignore[arg-type]
        file.prepare(self._target, durable=self.replaced)
        return file

    def remove_stale(self, names: Mapping[str, str], inputs: Sequence[FileSource]) -> None:
        """Remove data of ours that neither this model nor the one before it refers to, nor any beside it."""
        stale = {name for name in self._ours() if name not in self._former and name not in names.values()}
        if stale:
            stale -= _referenced(self._folder, stale)
        for name in stale:
            with suppress(OSError):
                info = os.stat(self._folder / name)
                if not any(source.is_same_file(info) for source in inputs):
                    os.unlink(self._folder / name)

    def _ours(self) -> Iterator[str]:
        """Marked files, and plain names that the model before says were ours."""
        for folder in {PurePosixPath("."), *(PurePosixPath(name).parent for name in self._files)}:
            for name in os.listdir(self._folder / folder):
                path = str(folder / name)
                plain = _plain(path) or ""
                default = plain.startswith(f"{self._target.name}.") and plain.endswith(".data")
                if plain in self._files or default:
                    yield path
        for former in self._former:
            found = _MARKED.fullmatch(former)
            if found and found["plain"]:
                yield str(_plain(former))


def _marked(name: str, *, plain: bool) -> str:
    path = PurePosixPath(name)
    mark = f".onnxfc-{os.urandom(4).hex()}{'p' if plain else ''}"
    return str(path.with_name(f"{path.stem}{mark}{path.suffix}"))


def _plain(name: str) -> str | None:
    """The name without its mark; None where it has none."""
    found = _MARKED.fullmatch(name)
    return None if found is None else found["stem"] + (found["suffix"] or "")


def data_names(path: Path) -> frozenset[str]:
    """The data files that the model at ``path`` refers to; none where there is no model."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return frozenset()
        source = FileSource(path)
        if not 0 < source.size < _LARGEST_MODEL:
            return frozenset()
        proto = onnx.ModelProto.FromString(protobuf_wire.skeleton(source.map(), _PAGE))
    except (OSError, ReadError, protobuf_wire.WireError, DecodeError):
        return frozenset()
    tensors = (tensor for tensor in all_tensors(proto) if is_external(tensor) and not is_private(tensor))
    return frozenset(str(PurePosixPath(entries(tensor).get("location", ""))) for tensor in tensors)


def _referenced(folder: Path, names: set[str]) -> set[str]:
    """Those of ``names`` that some model in ``folder`` refers to. While we hold the lock, one that is not complete is
    what a killed writer left."""
    found: set[str] = set()
    for name in os.listdir(folder):
        if name not in names and not TEMPORARY.fullmatch(name):
            found |= names & data_names(folder / name)
    return found
