"""The tiles of a job: here, by some threads, or by the tasks of a Dask cluster. Each reads, runs and writes its own."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from onnxfc.errors import ReadError, UsageError
from onnxfc.scanner.job import Job, TileWorker

Done = Callable[[int], None]
_BESIDE = 1
"""Threads that read and write while as many as shall run do so."""
_PATIENCE = 10
"""Seconds within which a scheduler must answer."""
_RESTART = 30
"""Seconds within which another worker must be there, once all are lost."""
_IDLE = 3
"""Rounds after which no more is begun, if none of them has done a tile."""


def run_here(worker: TileWorker, numbers: list[int], done: Done) -> None:
    """Each thread takes the next tiles when it is done with its own."""
    groups = deque(worker.job.groups(numbers))
    threads = worker.job.at_once + _BESIDE
    lock = threading.Lock()

    def pull() -> None:
        while True:
            with lock:
                if not groups:
                    return
                group = groups.popleft()
            worker.do(group)
            with lock:
                done(len(group))

    with ThreadPoolExecutor(threads, "tiles") as pool:
        try:
            for future in as_completed([pool.submit(pull) for _ in range(threads)]):
                future.result()
        finally:
            groups.clear()  # what an error or Ctrl-C leaves


def run_on_dask(dask: Any, job: Job, numbers: list[int], done: Done) -> None:
    """Each task reads its own windows and writes its own chunks, into a folder that all machines see.

    ``dask``: a Client, or the address of a scheduler. Lost workers' tiles are run again. Raises ReadError, ClusterLost
    or UsageError.
    """
    try:
        distributed = import_module("dask.distributed")
    except ImportError as error:
        raise UsageError("--dask needs the package distributed: pip install 'onnxfc[dask]'") from error
    own = not hasattr(dask, "scheduler_info")
    with _silent(own):
        try:
            client = distributed.Client(dask, timeout=_PATIENCE) if own else dask
        except (OSError, ValueError) as error:
            raise ReadError(f"{dask}: no Dask scheduler answers there") from error
        except TypeError as error:
            raise UsageError(f"dask: must be a Client or the address of a scheduler, not {dask!r}") from error
        try:
            _rounds(distributed, client, replace(job, at_once=_at_once(client)), numbers, done)
        finally:
            if own:
                client.close()


class ClusterLost(ReadError):
    """Not for want of the scan's own: what is done is good, and the rest can be done later."""


@contextmanager
def _silent(own: bool) -> Iterator[None]:
    """What Dask logs of a lost scheduler over pages is told in a line, where the client is ours."""
    logs = [logging.getLogger(name) for name in ("distributed", "distributed.client") if own]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def _rounds(distributed: Any, client: Any, job: Job, numbers: list[int], done: Done) -> None:
    """Tiles whose workers took the job itself with them are handed out again with it."""
    closed = import_module("distributed.comm").CommClosedError
    lost = CancelledError, asyncio.CancelledError, distributed.KilledWorker, distributed.TimeoutError, closed
    left, idle = numbers, 0
    while True:
        futures: list[Any] = []
        told = 0
        try:
            shared = client.scatter(job, broadcast=True)
            futures = client.map(_task, job.groups(left), job=shared, pure=False, retries=2)
            for future in distributed.as_completed(futures):
                count = len(future.result())
                told += count
                done(count)
            return
        except (*lost, Exception) as error:
            if not isinstance(error, lost) and client.status == "running":
                raise
            before, left = len(left), [number for number in left if not job.store.has(number)]
            idle = 0 if len(left) < before else idle + 1
            if before - len(left) > told:
                done(before - len(left) - told)
            _wait(client)
            if idle == _IDLE:
                raise ClusterLost("the Dask workers die of their tiles; give them memory, or choose --tile") from error
        finally:
            with suppress(*lost, OSError):
                client.cancel(futures)  # those that an error leaves behind


def _wait(client: Any) -> None:
    """Until a nanny has started a worker anew. Raises ClusterLost."""
    try:
        if client.status == "running":
            client.wait_for_workers(1, timeout=_RESTART)
            return
    except Exception as error:  # of a connection that is lost there are many
        if client.status == "running":
            raise ClusterLost("the Dask cluster has lost all its workers; start some (dask worker ADDRESS)") from error
    raise ClusterLost("the Dask scheduler is lost; start it again (dask scheduler)")


def _at_once(client: Any) -> int:
    """The largest number of tasks that run on one machine at once. Raises ReadError."""
    hosts: dict[str, int] = {}
    for worker in client.scheduler_info(n_workers=-1)["workers"].values():
        hosts[worker["host"]] = hosts.get(worker["host"], 0) + worker["nthreads"]
    if not hosts:
        raise ReadError("the Dask cluster has no workers; start some (dask worker ADDRESS)")
    return max(hosts.values())


_WORKERS: dict[str, TileWorker] = {}
_LOCK = threading.Lock()


def _task(numbers: list[int], job: Job) -> list[int]:
    """In a worker's process, which keeps its session for the job's next task."""
    with _LOCK:
        if job.token not in _WORKERS:
            _WORKERS.clear()
            _WORKERS[job.token] = job.worker()
        worker = _WORKERS[job.token]
    return worker.do(numbers)


class Progress:
    """Says how far a scan is, how fast, and how long it will take."""

    def __init__(self, total: int, before: int, pixels: int, say: Callable[[str], None]) -> None:
        """``before``: tiles that are done already. ``pixels``: of the image."""
        self._total, self._before, self._done, self._say = total, before, before, say
        self._pixels, self._began = pixels, time.monotonic()

    def __call__(self, count: int) -> None:
        """So many tiles more."""
        self._done += count
        spent = time.monotonic() - self._began
        rate = (self._done - self._before) / max(spent, 1e-9)
        left = (self._total - self._done) / rate
        speed = rate * self._pixels / self._total / 1e6
        self._say(f"tile {self._done} of {self._total}, {speed:.1f} million pixels a second, {_time(left)} left")


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
