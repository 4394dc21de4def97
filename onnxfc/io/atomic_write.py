"""Files that appear whole or not at all.

A :class:`NewFile` is written beside its target, on the same file system. Where the system can do it (Linux)
it has no name until it is complete, so that a process that is killed leaves nothing behind; elsewhere it
has a hidden temporary name.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from onnxfc.errors import WriteError

_fcntl: ModuleType | None
try:
    import fcntl as _fcntl
except ImportError:  # Windows
    _fcntl = None

TEMPORARY = re.compile(r"\.onnxfc-\w+\.tmp")
"""Hidden names of what is not complete; what a killed writer left has one, too."""
_PATIENCE = 60.0  # seconds for which another may hold the folder; names are given out in less than one

_ADVICE: dict[int | None, str] = {
    errno.ENOENT: "the folder does not exist; create it first",
    errno.ENOTDIR: "its folder is not a folder",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EMFILE: "too many files are open; write all tensors to one file, or raise the limit (ulimit -n)",
}


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns OSError into a WriteError that says what is wrong with ``target``."""
    try:
        yield
    except OSError as error:
        why = _ADVICE.get(error.errno, error.strerror or str(error))
        raise WriteError(f"{target}: cannot write: {why}") from error


def temporary(folder: Path) -> Path:
    """A hidden name that nobody has."""
    return folder / f".onnxfc-{os.urandom(6).hex()}.tmp"


class NewFile:
    """A file in the making: write to ``fd``, then :meth:`publish` it. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """``folder``: where it will be published. Raises OSError."""
        self._folder = folder
        self._temporary: Path | None = None
        self.named = False
        self.fd = self._unnamed()
        if self.fd < 0:
            self._temporary = temporary(self._folder)
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

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._temporary is not None:
            with suppress(OSError):
                os.unlink(self._temporary)

    def prepare(self, former: Path, *, durable: bool) -> None:
        """Do what takes time before :meth:`publish`, while the file has no name yet.

        It gets the owner and permissions of the ``former`` file, if there is one. ``durable``: it takes the place of
        something, and is on the disk before it does; else, if the power fails, nothing is lost that was there.
        """
        with suppress(FileNotFoundError):
            self._inherit(former)
        if durable:
            os.fsync(self.fd)

    def _inherit(self, target: Path) -> None:
        """Owner (as far as we may), mode, and extended attributes, which access control lists are among."""
        was, now = os.lstat(target), os.fstat(self.fd)
        if hasattr(os, "fchown") and (was.st_uid, was.st_gid) != (now.st_uid, now.st_gid):
            for owner in (was.st_uid, -1):  # only root may give a file away; to a group of theirs anyone may
                with suppress(OSError):
                    os.fchown(self.fd, owner, was.st_gid)
                    break
        if hasattr(os, "fchmod"):  # after chown, which takes some of it away
            os.fchmod(self.fd, stat.S_IMODE(was.st_mode))
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
        if self._temporary is None:
            name = temporary(self._folder)
            self._link(name)
            self._temporary = name
        self._rename(self._temporary, target)

    def claim(self, target: Path) -> bool:
        """Give the file a name that nobody has; False where somebody has it."""
        try:
            if self._temporary is None:
                self._link(target)
            else:  # an empty file holds the name for the moment
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
                self._rename(self._temporary, target)
        except FileExistsError:
            return False
        self.named = True
        return True

    def _rename(self, name: Path, target: Path) -> None:
        self._close()  # Windows renames no file that is open
        os.replace(name, target)
        self._temporary = None

    def _close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _link(self, name: Path) -> None:
        """Give a file without a name its first one; never two, as onnx refuses data with several links."""
        folder = os.open(self._folder, os.O_RDONLY)
        try:  # a folder descriptor makes Python call linkat, which follows the link in /proc
            os.link(f"/proc/self/fd/{self.fd}", name, src_dir_fd=folder, follow_symlinks=True)
        finally:
            os.close(folder)


@contextmanager
def locked(folder: Path, patience: float | None = None) -> Iterator[bool]:
    """Holds off other onnxfc processes that write into ``folder``; gives False where the system has no such lock.

    The lock ends with the process, however that ends. Raises WriteError where another one does not let go within
    ``patience`` seconds, a minute if None.
    """
    if _fcntl is None:
        yield False
        return
    held = False
    while not held:
        fd = os.open(folder, os.O_RDONLY)
        try:
            free = _flock(fd, folder, _PATIENCE if patience is None else patience)
            held = os.path.samestat(os.fstat(fd), os.stat(folder))  # who had it may have taken the folder away
            if held:
                yield free
        finally:
            os.close(fd)


def _flock(fd: int, folder: Path, patience: float) -> bool:
    until = time.monotonic() + patience
    while (free := _is_free(fd)) is None:
        if time.monotonic() > until:
            raise WriteError(f"{folder}: is locked by another process; try again once that is done")
        time.sleep(0.005)
    return free


def _is_free(fd: int) -> bool | None:
    """True once it is locked by us, None while another has it, False where folders cannot be locked."""
    assert _fcntl is not None
    try:
        _fcntl.flock(fd, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # some network file systems
        return False
    return True


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
