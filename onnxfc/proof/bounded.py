"""A proof in a process of its own, with an end to its time and its memory; a crash of onnxruntime ends that alone.

The process is a fork: models need not be written for it, and what it makes of them comes back through a pipe.
"""

from __future__ import annotations

import errno
import math
import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn, TypeVar

from onnxfc.errors import ProofFailed, UsageError

if TYPE_CHECKING:
    from onnxfc.proof.options import CheckOptions

_T = TypeVar("_T")
_MEGABYTE = 1 << 20
_GRACE = 2
"""Seconds after its time in which the process ends itself, if this one is no more."""


def bounded(job: Callable[[], _T], options: CheckOptions) -> _T:
    """What ``job`` returns or raises in a process with the limits of ``options``.

    Raises ProofFailed where the process does not come to its end, UsageError where the system has no such processes.
    """
    if not hasattr(os, "fork"):
        raise UsageError("timeout and memory: need a system with fork and resource limits, such as Linux")
    if options.memory is not None and not sys.platform.startswith("linux"):
        raise UsageError("memory: only Linux counts all that a process takes; leave it out, timeout can be given here")
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        _run(job, options, writer)
    os.close(writer)
    told = None
    try:
        told = _read(reader, options.timeout)
    finally:
        os.close(reader)
        if told is None:  # else it has closed its end, and is ending by itself
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if told is None:
        given = f"the {options.timeout:g} s that it was given"
        raise ProofFailed(f"the proof took longer than {given}, and was stopped: give it more time")
    if not told or status:
        raise ProofFailed(_death(status, options))
    returned, value = pickle.loads(told)
    if not returned:
        raise value
    result: _T = value
    return result


def _run(job: Callable[[], _T], options: CheckOptions, writer: int) -> NoReturn:
    """The child's whole life. It leaves without what Python does at an exit: that is for the parent to do."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the parent says that it was interrupted
        if options.timeout is not None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(math.ceil(min(options.timeout, _LONG)) + _GRACE)
        if not os.isatty(2):  # no progress is shown; what libraries say of their end, the parent says in one line
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        told = _outcome(job, options)
        while told:
            told = told[os.write(writer, told) :]
        code = 0
    finally:
        os._exit(code)


def _outcome(job: Callable[[], _T], options: CheckOptions) -> bytes:
    failed = pickle.dumps((False, ProofFailed(_too_much(options.memory))))  # while there is memory for it
    try:
        if options.memory is not None:
            _limit(options.memory)
        return pickle.dumps((True, job()))
    except MemoryError:
        return failed
    except Exception as error:
        # a library that finds no room is not loaded, or not compiled
        cramped = options.memory is not None and isinstance(error, ImportError | SystemError)
        short = cramped or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        return failed if short else pickle.dumps((False, error))


def _limit(memory: int) -> None:
    """Of what is the process's own; mapped files are not. Raises ProofFailed where that is more before it begins.

    What every proof needs is loaded before: a library that finds no memory for itself may say anything.
    """
    import resource

    import onnxruntime  # noqa: F401

    taken = 0
    with suppress(OSError), open("/proc/self/status") as status:
        taken = next((-(-int(line.split()[1]) // 1024) for line in status if line.startswith("VmData:")), 0)
    if memory < taken:
        raise ProofFailed(f"{_too_much(memory)}: Python and onnxruntime alone take {taken} MB")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = min(memory * _MEGABYTE, sys.maxsize if hard == resource.RLIM_INFINITY else hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


_LONG = 1e8
"""Seconds that a system can wait for at once; some three years."""


def _read(reader: int, timeout: float | None) -> bytes | None:
    """All that the child says; None where its time has come."""
    until = None if timeout is None else time.monotonic() + timeout
    told = b""
    while True:
        left = None if until is None else min(_LONG, max(0.0, until - time.monotonic()))
        if not select.select([reader], [], [], left)[0]:
            return None
        piece = os.read(reader, _MEGABYTE)
        if not piece:
            return told
        told += piece


def _too_much(memory: int | None) -> str:
    given = "there is" if memory is None else f"the {memory} MB that it was given"
    return f"the proof needs more memory than {given}"


def _death(status: int, options: CheckOptions) -> str:
    name = signal.Signals(-status).name if status < 0 else f"exit code {status}"
    if status == -signal.SIGKILL:
        return f"the proof's process was killed ({name}), most likely because memory ran out"
    more = "" if options.memory is None else f"; it may have needed more than the {options.memory} MB that it was given"
    who = "onnxruntime crashed in the proof's process" if status < 0 else "the proof's process ended by itself"
    return f"{who} ({name}){more}"
