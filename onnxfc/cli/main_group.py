"""What surrounds every command: standard streams, and what the system refuses, as one line and an exit code."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from contextlib import suppress
from typing import Any, TextIO

import click

from onnxfc.errors import ExitCode

_WHY: dict[int | None, str] = {
    errno.EPIPE: "nobody reads it any more",
    errno.ENOSPC: "the disk is full",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}


_PLAIN: tuple[tuple[str, Any], ...] = (
    (r"^Invalid value for (.+?): ", lambda found: found[1].replace("'", "") + ": "),
    (r"^Invalid value: ", ""),
    (r"^(Missing|No such)", lambda found: found[1].lower()),
    (r" is not a valid integer( range)?$", " is not a whole number"),
    (r" is not a valid float( range)?$", " is not a number"),
    (r" is not in the range x>=(\S+)$", r" is too small, it must be \1 or more"),
    (r" is not in the range x>(\S+)$", r" is too small, it must be more than \1"),
)
"""Click's words, and those for people."""

_NO_ARGUMENT: Any = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""By which newer versions of click show the help."""
_FEWEST_FILES = 8  # that must be free


class MainGroup(click.Group):
    """Commands whose errors are one line on stderr, those of the system as well."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """As click's, but for what is said of the system's errors, and their exit codes."""
        plain: Any = super().main
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of a model whose values overflow
        if not extra.pop("standalone_mode", True):
            return plain(*args, standalone_mode=False, **extra)
        try:
            _open_streams()
            code = plain(*args, standalone_mode=False, **extra)
            _flush()
        except click.ClickException as error:
            if isinstance(error, _NO_ARGUMENT):
                with suppress(OSError):
                    error.show()
            else:
                complain(f"onnxfc: {misuse(error)}")
            code = error.exit_code
        except click.Abort:
            complain("onnxfc: interrupted")
            code = ExitCode.INTERRUPTED
        except (OSError, ImportError, MemoryError, _NotPrinted) as error:
            told = _told(error)
            if told is None:
                raise
            complain(f"onnxfc: {told}")
            code = ExitCode.IO
        _let_go(sys.stdout)
        _let_go(sys.stderr)
        raise SystemExit(code if isinstance(code, int) else ExitCode.DONE)


def misuse(error: click.ClickException) -> str:
    """What click says of a command line, in one line and in plain words."""
    told = error.format_message().rstrip(".")
    for pattern, plain in _PLAIN:
        told = re.sub(pattern, plain, told)
    told = "; ".join(told.splitlines())
    context = getattr(error, "ctx", None)
    return f"{told}; see {context.command_path} --help" if context is not None else told


class _NotPrinted(Exception):
    """Stdout could not be written. No OSError: click leaves silently on some of them."""


def show(text: str) -> None:
    """Print to stdout, whole, now; what cannot be printed is an error."""
    if sys.stdout is None:
        raise _NotPrinted("it is closed")
    try:
        click.echo(text)
    except OSError as error:
        raise _NotPrinted(_why(error)) from error
    _flush()


def _flush() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise _NotPrinted(_why(error)) from error


def complain(text: str) -> None:
    """One line on stderr, as far as there is one."""
    with suppress(OSError):
        click.echo(text, err=True)


def _open_streams() -> None:
    """Let no file that is opened later get the number of a standard stream that was closed.

    Raises OSError where too few files may be opened to load onnxruntime, which complains of that itself, at length.
    """
    opened: list[int] = []
    try:
        while len(opened) < _FEWEST_FILES:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            if number > 2:
                opened.append(number)
    finally:
        for number in opened:
            os.close(number)


def _told(error: Exception) -> str | None:
    """What the system refused, for a person; None where the error is none of the system's."""
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    if isinstance(error, _NotPrinted):
        return f"standard output: cannot write: {error}"
    if not isinstance(error, OSError):  # an import that finds no free descriptor says so in its text alone
        return _WHY[errno.EMFILE] if os.strerror(errno.EMFILE) in str(error) else None
    if error.errno == errno.ENOENT and not error.filename:
        return "the working directory does not exist any more; change to another one"
    if error.errno == errno.EMFILE:
        return _WHY[errno.EMFILE]
    return f"{error.filename}: {_why(error)}" if error.filename else _why(error)


def _why(error: OSError) -> str:
    return _WHY.get(error.errno, error.strerror or str(error))


def _let_go(stream: TextIO | None) -> None:
    """Drop what a stream still holds and cannot write, or Python would complain of it at its end."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
