"""What a scan should be like."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from onnxfc import errors
from onnxfc.errors import UsageError
from onnxfc.proof.providers import Provider
from onnxfc.scanner.source import EdgeMode

Activation = Literal["none", "softmax", "sigmoid"]
Context = Literal["whole", "per-tile"]
Exact = Literal["cells", "crops"]
Reduce = Literal["mean", "max"]


@dataclass(frozen=True)
class ScanOptions:
    """How the image is read, what the model is given, what becomes of its scores, and how the work is done.

    Reading: ``level`` of a pyramid; ``region`` (x, y, width, height) in its pixels; ``resample`` by a factor.
    Pixels: ``bands`` (counted from 1), ``scale``, ``mean``, ``std``: ``(pixel * scale - mean) / std``; ``bgr``.
    Model: ``output`` that is a map, native ``size`` where an original leaves it open, ``prove`` its rewriting.
    Scores: ``activation`` over the classes; ``classes`` to keep, by name or number; ``reduce`` to one vector.
    Cells: ``exact`` "crops" runs the original's whole crops one by one; ``compare`` so many cells with their crops;
    ``edge`` grows the image so that cells cover all of it; cells wholly in ``no_data`` are NaN; ``context`` "per-tile"
    lets operators that look at the whole image look at a tile.
    Lists: the ``top`` cells, or all from ``threshold`` on.
    Work: ``tile`` cells a side, or as many as ``memory`` MB allow; ``batch`` tiles in one run of the session;
    ``threads`` that compute, 0 for one each processor; ``provider`` to run on, NAME or NAME:key=value, the CPU if
    empty; ``resume`` goes on with what an earlier run left.

    >>> onnxfc.ScanOptions(scale=1 / 255, activation="softmax").tile is None
    True
    """

    level: int = 0
    region: tuple[int, int, int, int] | None = None
    resample: Fraction | float | None = None
    bands: tuple[int, ...] = ()
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    bgr: bool = False
    output: str | None = None
    size: tuple[int, ...] | None = None
    prove: bool = True
    activation: Activation = "none"
    classes: tuple[str | int, ...] = ()
    reduce: Reduce | None = None
    exact: Exact = "cells"
    compare: int = 0
    edge: EdgeMode = "none"
    no_data: float | None = None
    context: Context = "whole"
    top: int = 100
    threshold: float | None = None
    tile: int | None = None
    memory: int | None = None
    batch: int = 1
    threads: int = 0
    provider: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) is not None or name != "reduce":
                errors.choice(name, getattr(self, name), allowed)
        for name in ("bgr", "prove", "resume"):
            errors.flag(name, getattr(self, name))
        for name, least in (("level", 0), ("compare", 0), ("threads", 0), ("top", 1), ("batch", 1)):
            errors.whole(name, getattr(self, name), least)
            object.__setattr__(self, name, _plain(getattr(self, name)))
        if self.threads > _MOST_THREADS:
            raise UsageError(f"threads: must be a whole number from 0 to {_MOST_THREADS}, not {self.threads}")
        for name, unit in (("tile", ""), ("memory", "MB")):
            if getattr(self, name) is not None:
                errors.whole(name, getattr(self, name), 1, unit)
                object.__setattr__(self, name, _plain(getattr(self, name)))
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        for name in ("scale", "threshold", "no_data"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale):
            raise UsageError(f"scale: must be a finite number other than 0, such as 1/255, not {self.scale}")
        if self.threshold is not None and math.isnan(self.threshold):
            raise UsageError("threshold: must be a number, not NaN")
        self._check_lists()
        if self.provider != "":
            Provider.parse(self.provider)
        self._check_region()
        self._check_resample()

    def _check_lists(self) -> None:
        for name, items, such in (("bands", self.bands, "(1, 2, 3)"), ("classes", self.classes, "('dog', 3)")):
            several = errors.several(items, f"{name}: must be several such as {such}, not {items!r}")
            object.__setattr__(self, name, tuple(item if isinstance(item, str) else _plain(item) for item in several))
        for band in self.bands:
            errors.whole("bands", band, 1)
        for kind in self.classes:
            if not isinstance(kind, str):
                errors.whole("classes", kind, 0)

    def _check_region(self) -> None:
        if self.region is None:
            return
        if not isinstance(self.region, Iterable) or len(edges := tuple(self.region)) != 4:
            raise UsageError(f"region: must be x, y, width, height in pixels, not {self.region!r}")
        for name, value, least in zip(("x", "y", "width", "height"), edges, (0, 0, 1, 1), strict=True):
            errors.whole(f"region {name}", value, least)
        object.__setattr__(self, "region", tuple(map(int, edges)))

    def _check_resample(self) -> None:
        if self.resample is None:
            return
        try:
            given = self.resample if isinstance(self.resample, int | str | Fraction) else float(self.resample)
            factor = Fraction(given).limit_denominator(100_000)
        except (TypeError, ValueError, OverflowError) as error:
            raise UsageError(f"resample: must be a factor such as 0.5, not {self.resample!r}") from error
        if not Fraction(1, 64) <= factor <= 64:
            raise UsageError(f"resample: must be between 1/64 and 64, not {self.resample}")
        if self.no_data is not None:
            raise UsageError("resample: would mix no-data with pixels; leave one of them out")
        object.__setattr__(self, "resample", factor)


_CHOICES = {
    "activation": get_args(Activation),
    "context": get_args(Context),
    "exact": get_args(Exact),
    "edge": get_args(EdgeMode),
    "reduce": get_args(Reduce),
}


_MOST_THREADS = 1024


def _plain(item: Any) -> Any:
    """numpy's whole numbers as Python's."""
    return operator.index(item) if hasattr(item, "__index__") and not isinstance(item, bool) else item


def _number(name: str, value: Any) -> float:
    """Also NaN, which no data may be."""
    try:
        return float("x" if isinstance(value, str) else value)
    except (OverflowError, TypeError, ValueError) as error:
        raise UsageError(f"{name}: must be a number, not {value!r}") from error


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    items = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    try:
        found = tuple(float(item) for item in items)
    except (OverflowError, TypeError, ValueError) as error:
        raise UsageError(f"{name}: must be numbers, not {value!r}") from error
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{name}: must be finite numbers, not {value!r}")
    return found
