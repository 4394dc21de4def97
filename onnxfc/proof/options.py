"""Options of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from onnxfc import errors
from onnxfc.claim.claim import Claim


@dataclass(frozen=True)
class CheckOptions:
    """How to check.

    ``rtol`` is relative to the signal of each output, ``atol`` is absolute; None takes the default of the
    output's number type. ``sizes`` are further image sizes in pixels, height before width. ``data`` holds
    the user's real inputs, batch first, of the native size or larger; a mapping names the inputs.
    ``threads`` 0 leaves the number to onnxruntime. ``rtols`` and ``atols`` are those of single outputs, by name.
    ``crops_exact``: crop agreement is a requirement. ``windows`` False: the pair has no boundary in common, so
    that window parity is not applicable. ``larger`` False: the rewritten model takes the native size only.
    Raises UsageError for values that mean nothing.

    >>> onnxfc.CheckOptions(rtol=1e-3, sizes=((64, 112),)).sizes
    ((64, 112),)
    """

    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    samples: int = 3
    sizes: tuple[tuple[int, ...], ...] = ()
    data: Mapping[str, NDArray[Any]] | NDArray[Any] | None = None
    threads: int = 0
    rtols: Mapping[str, float] = field(default_factory=dict)
    atols: Mapping[str, float] = field(default_factory=dict)
    crops_exact: bool = False
    windows: bool = True
    larger: bool = True

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if getattr(self, name) is not None:
                errors.tolerance(name, getattr(self, name))
        for name in ("rtols", "atols"):
            errors.tolerances(name, getattr(self, name))
        for name, least in (("seed", 0), ("samples", 1), ("threads", 0)):
            errors.whole(name, getattr(self, name), least)
        for name in ("crops_exact", "windows", "larger"):
            errors.flag(name, getattr(self, name))
        object.__setattr__(self, "sizes", errors.sizes("sizes", self.sizes))

    def must_fit(self, claim: Claim) -> None:
        """Tolerances name outputs, or trunk tensors at which a head begins. Raises UsageError."""
        own = [*(output.name for output in claim.outputs), *(layer.original for layer in claim.layers)]
        own += [name for item in claim.boundaries for name in (item.original, item.rewritten)]
        for given in ("rtols", "atols"):
            errors.known(given, getattr(self, given), own)

    def of(self, name: str) -> CheckOptions:
        """The options as they are for one output."""
        if name not in self.rtols and name not in self.atols:
            return self
        return replace(self, rtol=self.rtols.get(name, self.rtol), atol=self.atols.get(name, self.atol))
