"""Files that appear whole or not at all.

A :class:`NewFile` is written beside its target, on the same file system. Where the system can do it (Linux)
it has no name until it is complete, so that a process that is killed leaves nothing behind; elsewhere it
has a hidden temporary name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

from onnxfc.errors import WriteError

_ADVICE = {
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "its folder is not a folder",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open; write all tensors to one file",
}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns OSError into a WriteError that says what is wrong with ``target``."""
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise WriteError(f"{target}: cannot write: {why}") from error


class NewFile:
    """A file in the making: write to ``fd``, then :meth:`publish` it. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """``folder``: where it will be published. Raises OSError."""
        self._folder = folder
        self._temporary: Path | None = None
        self.fd = self._unnamed()
        if self.fd < 0:
            self._temporary = self._fresh()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self.fd = os.open(self._temporary, flags, 0o666)

    def _unnamed(self) -> int:
        """A descriptor of a file without a name; -1 where the system has none or cannot name it later."""
        flag = getattr(os, "O_TMPFILE", 0)
        if not flag:
            return -1
        try:
            fd = os.open(self._folder, flag | os.O_WRONLY, 0o666)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                return -1
            raise
        if os.path.exists(f"/proc/self/fd/{fd}"):
            return fd
        os.close(fd)
        return -1

    def _fresh(self) -> Path:
        return self._folder / f".onnxfc-{os.urandom(6).hex()}.tmp"

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary)

    def prepare(self, target: Path) -> None:
        """Do what takes time before :meth:`publish`, while the file has no name yet.

        A file that replaces another gets its owner and permissions, and is on the disk before it does. A new
        one needs no fsync: if the power fails, nothing is lost that was there.
        """
        with suppress(FileNotFoundError):
            self._inherit(target)
            os.fsync(self.fd)

    def _inherit(self, target: Path) -> None:
        """Owner (as far as we may), mode, and extended attributes, which access control lists are among."""
        was, now = os.lstat(target), os.fstat(self.fd)
        if (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
            for owner in (was.st_uid, -1):  # only root may give a file away; to a group of theirs anyone may
                with suppress(OSError):
                    os.fchown(self.fd, owner, was.st_gid)
                    break
        os.fchmod(self.fd, stat.S_IMODE(was.st_mode))  # after chown, which takes some of it away
        if hasattr(os, "listxattr"):
            with suppress(OSError):
                for name in os.listxattr(target):
                    os.setxattr(self.fd, name, os.getxattr(target, name))

    def publish(self, target: Path) -> None:
        """Give the file its name, once, replacing what is there."""
        if self._temporary is None and not os.path.lexists(target):
            with suppress(FileExistsError):
                self._link(target)
                return
        self.name_it()
        os.replace(cast(Path, self._temporary), target)
        self._temporary = None

    def name_it(self) -> None:
        """Give the file a temporary name, so that :meth:`publish` is a single rename."""
        if self._temporary is None:
            name = self._fresh()
            self._link(name)
            self._temporary = name

    def _link(self, name: Path) -> None:
        """Give a file without a name its first one; never two, as onnx refuses data with several links."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:  # a folder descriptor makes Python call linkat, which follows the link in /proc
            os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


def check_folder(folder: Path) -> None:
    """Raises OSError where no file can be made in ``folder``."""
    if not stat.S_ISDIR(os.stat(folder).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder")
    if not os.access(folder, os.W_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        raise OSError(errno.EROFS if read_only else errno.EACCES, "not writable")


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last; best effort, as some file systems cannot."""
    with suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
