"""Run a command and print what it used, as JSON: seconds, and bytes of peak memory.

    python -I -S benchmarks/usage.py COMMAND...

``peak`` is the largest resident set, as the kernel counts it: file pages that are mapped count, though they are
the page cache's and can be given back. ``anonymous`` is the part that cannot be, the largest of samples taken
every 2 ms from /proc/PID/status (Linux; 0 elsewhere). This is a small process of its own because the kernel counts
what a process was before it called exec, too: a child of a large benchmark would begin with the memory of that.
"""

from __future__ import annotations

import json
import os
import sys
import time


def anonymous(pid: int) -> int:
    """Bytes of resident memory that no file stands behind; 0 where the system does not say."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"RssAnon:")), 0)


def measured(command: list[str]) -> dict[str, float]:
    """Run ``command`` to its end; ``code`` is its exit code, negative for a signal."""
    began = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ)
    largest = 0
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        largest = max(largest, anonymous(pid))
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    scale = 1 if sys.platform == "darwin" else 1024
    code = os.waitstatus_to_exitcode(status)
    cpu = usage.ru_utime + usage.ru_stime
    return {"code": code, "seconds": seconds, "cpu": cpu, "peak": usage.ru_maxrss * scale, "anonymous": largest}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1:])))
