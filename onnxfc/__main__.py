"""``python -m onnxfc``, and the command ``onnxfc``."""

from __future__ import annotations

import gc
import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 130


def run() -> None:
    """The command line in a process of its own, which Ctrl-C ends."""
    signal.signal(signal.SIGINT, _leave)
    from onnxfc.cli.main import main

    try:
        main(prog_name="onnxfc")
    finally:
        gc.freeze()  # or Python looks through all that was ever imported before it ends


def _leave(number: int, frame: FrameType | None) -> None:
    """Leave at once: an exception may hit a library while it is being loaded, and what is half done has no name yet."""
    clear = "\r\033[K" if sys.stderr is not None and sys.stderr.isatty() else ""
    try:
        os.write(2, f"{clear}onnxfc: interrupted\n".encode())
    finally:
        os._exit(_INTERRUPTED)


if __name__ == "__main__":
    run()
