"""Options of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class CheckOptions:
    """How to check.

    ``rtol`` is relative to the signal of each output, ``atol`` is absolute; None takes the default of the
    output's number type. ``sizes`` are further image sizes in pixels, height before width. ``data`` holds
    the user's real inputs, batch first, of the native size or larger; a mapping names the inputs.
    ``threads`` 0 leaves the number to onnxruntime.
    """

    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    samples: int = 3
    sizes: tuple[tuple[int, ...], ...] = ()
    data: Mapping[str, NDArray[Any]] | NDArray[Any] | None = None
    threads: int = 0
