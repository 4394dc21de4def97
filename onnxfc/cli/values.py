"""What the values of options are: one type each, which says what is wrong with a value and gives an example."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

Shape = tuple[str, tuple[int, ...]]

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType  # older versions of click cannot subscript it


_LONGEST = 60
"""So much of a value that is wrong is said again."""


def _length(text: str) -> int:
    """A number of pixels; 0 where it is none, or longer than any number that is reckoned with."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else 0


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


class Size(_Type):
    """``HxW`` in pixels; one number for a signal, three for a volume."""

    name = "HxW"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        """As it is written; click would shout."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        lengths = tuple(map(_length, str(value).lower().split("x")))
        if not 1 <= len(lengths) <= 3 or not all(lengths):
            self.fail(f"{_cut(value)!r} is not a size such as 384x512", param, ctx)
        return lengths


class InputShape(_Type):
    """``NAME:1x3x224x224`` or, as other tools write it, ``NAME:1,3,224,224`` or ``NAME:[1,3,224,224]``; a name and the
    shape. Without NAME it is that of the only input."""

    name = "[NAME:]1x3xHxW"

    def get_metavar(self, *_: Any, **__: Any) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Shape:
        if isinstance(value, tuple):
            return value
        name, _, shape = str(value).rpartition(":")
        lengths = tuple(_length(part.strip()) for part in shape.strip("[]").lower().replace(",", "x").split("x"))
        if not all(lengths):
            self.fail(f"{_cut(value)!r} is not a name and a shape such as image:1x3x224x224", param, ctx)
        return name, lengths


class ModelPath(click.Path):
    """The path of a model. A dash is no file: files are mapped, and replaced in one step."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-":
            self.fail("stdin and stdout cannot be used, give the path of a file (./- if it is called that)", param, ctx)
        if str(value).endswith("/") and not os.path.isdir(value):
            self.fail(f"{value!r} ends as folders do, give the path of a file", param, ctx)
        return super().convert(value, param, ctx)


class ReportPath(click.Path):
    """Where a report goes; a dash is stdout."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, dir_okay=False, allow_dash=True)


class Memory(_Type):
    """A number of MB, or ``800M``, ``2G``; as a whole number of MB."""

    name = "MB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]{1,40}(?:\.[0-9]{1,40})?)([MGT]?)B?", str(value).upper())
        amount = 0 if found is None else Fraction(found[1]) * {"G": 10**3, "T": 10**6}.get(found[2], 1)
        if not amount:
            self.fail(f"{_cut(value)!r} is not an amount of memory such as 800M or 2G", param, ctx)
        return math.ceil(amount)


class Tolerance(click.FloatRange):
    """A finite number from 0 on; a range alone takes NaN, with which nothing compares, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class Numbers(_Type):
    """One or more numbers separated by commas; ``count``: exactly so many; ``example`` of them."""

    def __init__(self, name: str, make: Callable[[str], Any], example: str, count: int | None = None) -> None:
        self.name, self._make, self._example, self._count = name, make, example, count

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = tuple(self._make(item) for item in value.split(","))
        except (ValueError, ZeroDivisionError):
            found = ()
        if not found or self._count not in (None, len(found)):
            self.fail(f"{value!r} is not {self.name}, such as {self._example}", param, ctx)
        return found[0] if self._count == 1 else found


def fraction(text: str) -> float:
    """``0.5`` or ``1/255``; no Fraction, which takes for ever where an exponent is large."""
    above, _, below = text.partition("/")
    number = float(above) / float(below or 1)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def name_or_number(text: str) -> str | int:
    """Of a class."""
    return int(text) if text.isdigit() else text
