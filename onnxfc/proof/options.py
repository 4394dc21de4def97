"""Options of a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from numpy.typing import NDArray

from onnxfc import errors
from onnxfc.claim.claim import Claim
from onnxfc.proof.providers import Engine, Provider

AgainstCrops = Literal["measure", "exact"]
LEAST_SAMPLES, MOST_SAMPLES, MOST_THREADS = 2, 10_000, 1024
"""One sample shows nothing that moves; more is a slip: a proof would not end, and no machine has so many cores."""


@dataclass(frozen=True)
class CheckOptions:
    """How to check.

    ``rtol`` is relative to the signal of each output, ``atol`` is absolute; None takes the default of the
    output's number type. ``check_sizes`` are further image sizes in pixels, height before width. ``data`` holds
    the user's real inputs, batch first, of the native size or larger; a mapping names the inputs.
    ``threads`` 0 leaves the number to onnxruntime. ``rtols`` and ``atols`` are those of single outputs, by name.
    ``against_crops`` "exact": crop agreement is a requirement. ``windows`` False: the pair has no boundary in common,
    so that window parity is not applicable. ``larger`` False: the rewritten model takes the native size only.
    ``provider``: where to run, NAME or NAME:key=value,key=value; the CPU if empty. ``timeout`` (seconds) and ``memory``
    (MB): the proof runs in a process of its own, which is given so much. ``as_written``: what stands between a
    DequantizeLinear and a QuantizeLinear is computed as the file says, not by onnxruntime's kernels on integers; so a
    proof of quantised models does.
    Raises UsageError for values that mean nothing.

    >>> onnxfc.CheckOptions(rtol=1e-3, check_sizes=((64, 112),)).check_sizes
    ((64, 112),)
    """

    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    samples: int = 3
    check_sizes: tuple[tuple[int, ...], ...] = ()
    data: Mapping[str, NDArray[Any]] | NDArray[Any] | None = None
    threads: int = 0
    rtols: Mapping[str, float] = field(default_factory=dict)
    atols: Mapping[str, float] = field(default_factory=dict)
    against_crops: AgainstCrops = "measure"
    windows: bool = True
    larger: bool = True
    provider: str = ""
    timeout: float | None = None
    memory: int | None = None
    as_written: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            if getattr(self, name) is not None:
                errors.tolerance(name, getattr(self, name))
        for name in ("rtols", "atols"):
            errors.tolerances(name, getattr(self, name))
        ranges = (("seed", 0, None), ("samples", LEAST_SAMPLES, MOST_SAMPLES), ("threads", 0, MOST_THREADS))
        for name, least, most in ranges:
            errors.whole(name, getattr(self, name), least, most=most)
        errors.choice("against_crops", self.against_crops, get_args(AgainstCrops))
        for name in ("windows", "larger", "as_written"):
            errors.flag(name, getattr(self, name))
        if self.timeout is not None:
            errors.tolerance("timeout", self.timeout)
        if self.memory is not None:
            errors.whole("memory", self.memory, 1, "MB")
        if self.provider != "":
            Provider.parse(self.provider)
        object.__setattr__(self, "check_sizes", errors.sizes("check_sizes", self.check_sizes))

    def must_fit(self, claim: Claim) -> None:
        """Tolerances name outputs, or trunk tensors at which a head begins. Raises UsageError."""
        own = [*(output.name for output in claim.outputs), *(layer.original for layer in claim.layers)]
        own += [name for item in claim.boundaries for name in (item.original, item.rewritten)]
        for given in ("rtols", "atols"):
            errors.known(given, getattr(self, given), own)

    @property
    def bounded(self) -> bool:
        """Whether there is an end to time or memory."""
        return self.timeout is not None or self.memory is not None

    @property
    def unbounded(self) -> CheckOptions:
        """The same within the process that is bounded."""
        return replace(self, timeout=None, memory=None)

    @property
    def engine(self) -> Engine:
        """How sessions compute. Raises UsageError where the provider cannot be used here."""
        provider = Provider.parse(self.provider).found() if self.provider else None
        return Engine(self.threads, provider, as_written=self.as_written and provider is None)

    def of(self, name: str) -> CheckOptions:
        """The options as they are for one output."""
        if name not in self.rtols and name not in self.atols:
            return self
        return replace(self, rtol=self.rtols.get(name, self.rtol), atol=self.atols.get(name, self.atol))
