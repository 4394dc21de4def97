"""The tiles of a job: here, by some threads, or by the tasks of a Dask cluster. Each reads, runs and writes its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
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

    ``dask``: a Client, or the address of a scheduler. A lost worker's tiles are run again. Raises ReadError or
    UsageError.
    """
    try:
        distributed = import_module("dask.distributed")
    except ImportError as error:
        raise UsageError("--dask needs the package distributed: pip install 'onnxfc[dask]'") from error
    own = not hasattr(dask, "scheduler_info")
    try:
        client = distributed.Client(dask, timeout=_PATIENCE) if own else dask
    except (OSError, ValueError) as error:
        raise ReadError(f"{dask}: no Dask scheduler answers there") from error
    futures: list[Any] = []
    try:
        shared = client.scatter(replace(job, at_once=_at_once(client)), broadcast=True)
        futures = client.map(_task, job.groups(numbers), job=shared, pure=False, retries=2)
        for future in distributed.as_completed(futures):
            done(len(future.result()))
    finally:
        client.cancel(futures)  # those that an error leaves behind
        if own:
            client.close()


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
