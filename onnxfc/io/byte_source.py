"""Where bytes are: in a file, mapped rather than read, or in memory.

A :class:`Span` is a stretch of bytes of a source. Files are watched: what has changed since it was opened
is not read any more. Copies are made by the kernel where it can.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from onnxfc.errors import ReadError

_CHUNK = 1 << 20  # fits into the processor's cache; 4 MB took three times as long to copy through
_PAGE = 4096
_LARGE = 1 << 23  # from here on a second thread is worth its start
_NO_KERNEL_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
_BINARY = getattr(os, "O_BINARY", 0)
ByteArray = np.ndarray[Any, np.dtype[np.uint8]]
Found = TypeVar("Found")


class Source(Protocol):
    """Something that holds bytes."""

    size: int

    def verify(self) -> None:
        """Raises ReadError if the bytes are not what they were."""

    def view(self, offset: int, length: int) -> ByteArray:
        """Some of the bytes, not writable."""

    def pieces(self, offset: int, length: int) -> Iterator[ByteArray]:
        """The same a piece at a time, whole numbers of each; a piece is gone with the next one."""

    def copy(self, out: int, offset: int, length: int) -> None:
        """Append some of the bytes to file descriptor ``out``."""


@dataclass(frozen=True)
class Span:
    """``length`` bytes of ``source`` from ``offset`` on."""

    source: Source
    offset: int
    length: int

    def __len__(self) -> int:
        return self.length

    def view(self) -> ByteArray:
        """The bytes, mapped where possible, not writable."""
        return self.source.view(self.offset, self.length)

    def pieces(self) -> Iterator[ByteArray]:
        """The bytes a piece at a time, read rather than mapped; a piece is gone with the next one."""
        return self.source.pieces(self.offset, self.length)

    def equals(self, other: Span) -> bool:
        """Whether both are the very same bytes."""
        if self.length != other.length:
            return False
        here = self.source is other.source and self.offset == other.offset
        return here or all(map(np.array_equal, self.pieces(), other.pieces()))

    def copy(self, out: int) -> None:
        """Append the bytes to file descriptor ``out``."""
        self.source.copy(out, self.offset, self.length)

    def each_part(self, work: Callable[[Span], Found]) -> list[Found]:
        """What ``work`` makes of one part after the other; two threads read a large span in less time than one."""
        middle = self.length // 2 // _PAGE * _PAGE
        if self.length < _LARGE or not hasattr(os, "preadv"):
            return [work(self)]
        from concurrent.futures import ThreadPoolExecutor  # takes as long to load as a small model to rewrite

        with ThreadPoolExecutor(1) as pool:
            try:
                first = pool.submit(work, Span(self.source, self.offset, middle))
            except RuntimeError:  # the system has no thread left
                return [work(self)]
            second = work(Span(self.source, self.offset + middle, self.length - middle))
            return [first.result(), second]


class MemorySource:
    """Bytes in memory; the buffer is shared, not copied."""

    def __init__(self, buffer: bytes | memoryview) -> None:
        self._view = memoryview(buffer).cast("B").toreadonly()
        self.size = len(self._view)

    def verify(self) -> None:
        """Memory that we hold does not change."""

    def view(self, offset: int, length: int) -> ByteArray:
        return np.frombuffer(self._view[offset : offset + length], np.uint8)

    def pieces(self, offset: int, length: int) -> Iterator[ByteArray]:
        for place in range(offset, offset + length, _CHUNK):
            yield self.view(place, min(_CHUNK, offset + length - place))

    def copy(self, out: int, offset: int, length: int) -> None:
        write_all(out, self._view[offset : offset + length])


class FileSource:
    """A regular file, and what it looked like when it was opened first."""

    def __init__(self, path: Path, *, keep_open: bool = False) -> None:
        """Raises OSError, or ReadError where ``path`` is not a regular file.

        ``keep_open``: also what is deleted or replaced stays readable. Not for data files: a model may have
        more of them than a process may open.
        """
        self.path = path
        self._fd = -1
        self._map: mmap.mmap | None = None
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # asked before opening: a pipe would wait for its writer
            kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
            raise ReadError(f"{path}: is {kind}; give the path of an ONNX file")
        fd = os.open(path, os.O_RDONLY | _BINARY)
        self.stat = os.fstat(fd)  # of what was opened: the name may stand for another file by now
        self.size = self.stat.st_size
        if keep_open:
            self._fd = fd
        else:
            os.close(fd)  # it was only to see that it can be opened

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the file, which is still the one that it was."""
        kept = self._fd >= 0
        try:
            fd = self._fd if kept else os.open(self.path, os.O_RDONLY | _BINARY)
        except OSError as error:
            raise ReadError(f"{self.path}: cannot be read any more: {error.strerror}") from error
        try:
            self._compare(os.fstat(fd))
            yield fd
        finally:
            if not kept:
                os.close(fd)

    def _compare(self, now: os.stat_result) -> None:
        was = self.stat
        same = (was.st_dev, was.st_ino, was.st_size, was.st_mtime_ns)
        if same != (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns):
            raise ReadError(f"{self.path}: changed while it was being read; try again once it is complete")

    def verify(self) -> None:
        """Raises ReadError if the file has changed since it was opened."""
        with self._opened():
            pass

    def is_same_file(self, other: os.stat_result) -> bool:
        """Whether ``other`` is this very file, by whichever name or link."""
        return os.path.samestat(self.stat, other)

    def map(self) -> memoryview:
        """The whole file, mapped; it must not be empty."""
        if self._map is None:
            with self._opened() as fd:
                self._map = self._mapped(fd)
        return memoryview(self._map)

    def _mapped(self, fd: int) -> mmap.mmap:
        try:
            return mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # a file in /sys, some network file systems
            why = getattr(error, "strerror", None) or error
            raise ReadError(f"{self.path}: cannot be mapped into memory: {why}; copy it to a local disk") from error

    def view(self, offset: int, length: int) -> ByteArray:
        if length >= _CHUNK:
            self.verify()  # a mapped page beyond the end of a file that shrank would kill the process
            return np.frombuffer(self.map(), np.uint8, length, offset)
        with self._opened() as fd:
            data = bytearray(length)
            done = _read_at(fd, memoryview(data), offset)
        return np.frombuffer(memoryview(data).toreadonly(), np.uint8, done)

    def pieces(self, offset: int, length: int, first: int = _CHUNK) -> Iterator[ByteArray]:
        """As of any source; the ``first`` piece may be a shorter one."""
        buffer = np.empty(min(_CHUNK, length), np.uint8)
        wanted = min(first, length)
        with self._opened() as fd:
            while wanted:
                done = 0
                while done < wanted:
                    count = _read_at(fd, buffer[done:wanted].data, offset + done)
                    if not count:
                        raise ReadError(f"{self.path}: became shorter while it was being read")
                    done += count
                yield buffer[:wanted]
                offset, length = offset + wanted, length - wanted
                wanted = min(_CHUNK, length)

    def copy(self, out: int, offset: int, length: int) -> None:
        """Append bytes to ``out``, within the kernel where whole pages go to whole pages, else through a buffer."""
        place = os.lseek(out, 0, os.SEEK_CUR)
        done = 0
        if (place - offset) % _PAGE == 0:
            with self._opened() as fd:
                done = _kernel_copy(fd, out, offset, length)

        def through_buffer(part: Span) -> None:
            at = place + part.offset - offset
            first = _CHUNK - at % _PAGE  # from then on on whole pages of ``out``
            for piece in self.pieces(part.offset, part.length, first):
                write_all(out, piece.data, at)
                at += len(piece)

        Span(self, offset + done, length - done).each_part(through_buffer)
        os.lseek(out, place + length, os.SEEK_SET)
        self.verify()


def _read_at(fd: int, buffer: memoryview, offset: int) -> int:
    """How many bytes from there on were read into ``buffer``."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows
    data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def _kernel_copy(fd: int, out: int, offset: int, length: int) -> int:
    """As many of the bytes as the kernel copies on its own, from none to all.

    Where the distance is no whole number of pages it can share no blocks, and takes 1.3 times as long as a buffer does.
    """
    done = 0
    for copy in (_copy_file_range, _sendfile):
        with _unless_unable():
            while done < length and (count := copy(fd, out, offset + done, length - done)):
                done += count
    return done


@contextmanager
def _unless_unable() -> Iterator[None]:
    """Passes over a system or a pair of file systems that cannot copy in this way."""
    try:
        yield
    except AttributeError:  # there is no such function on this system
        pass
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise


def _copy_file_range(fd: int, out: int, offset: int, count: int) -> int:
    return os.copy_file_range(fd, out, min(count, 1 << 30), offset_src=offset)


def _sendfile(fd: int, out: int, offset: int, count: int) -> int:
    return os.sendfile(out, fd, offset, min(count, 1 << 30))


def write_all(out: int, data: memoryview, at: int | None = None) -> None:
    """Write all of ``data``, in as many pieces as the system wants: where ``out`` is, or ``at`` a place of it."""
    if at is not None and not hasattr(os, "pwrite"):  # Windows
        os.lseek(out, at, os.SEEK_SET)
        at = None
    while data:
        done = os.write(out, data[: 1 << 30]) if at is None else os.pwrite(out, data[: 1 << 30], at)
        data, at = data[done:], at if at is None else at + done
