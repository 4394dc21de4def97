"""How much memory a process may still take."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_CONTAINER = Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Bytes that this process may still take, of the machine's, its container's and its own limit; None where the
    system does not tell.

    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    found = []
    with suppress(OSError, ValueError, KeyError, IndexError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) << 10)
    with suppress(OSError, ValueError):
        most, used = (int((_CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(max(0, most - used))
    with suppress(ImportError, OSError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_DATA)[0]
        found += [soft] if soft != resource.RLIM_INFINITY else []
    return min(found, default=None)
