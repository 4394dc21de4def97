"""Lengths that follow the image's size, in closed form: exact integers at every size.

A layer takes an axis of ``n`` elements to ``floor((n + pads - reach) / stride) + 1``. Such floors collapse,
``floor((floor((x + a) / m) + b) / n) = floor((x + a + m b) / (m n))``, so that a chain of layers is one floor again.
What does not collapse (upsampled, then strided; the smaller of two maps) stays a sum of floors with a period:
``f(x + period) = f(x) + growth * period``. Compare "quasi-affine maps" of MLIR and isl.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from typing import Any, Union

import numpy as np

Sizes = Mapping[int, Any]
"""By axis of the image its length in pixels: a number, or an array of as many sizes as are asked for at once."""

Dim = Union[int, "Length"]
Number = Union[int, Fraction, "Length"]

BATCH = -1
"""The number of images, where that is free, beside the axes 0, 1 ... of the image."""


@dataclass(frozen=True)
class Pixels:
    """The image's length on one of its axes."""

    axis: int


@dataclass(frozen=True)
class Floor:
    """``floor(of / by)``"""

    of: Length
    by: int


@dataclass(frozen=True)
class Least:
    """The smallest of several."""

    of: frozenset[Dim]


@dataclass(frozen=True)
class Product:
    """Powers of lengths, multiplied: the places of a flattened map."""

    of: frozenset[tuple[Length, int]]


@dataclass(frozen=True, eq=False)
class Sampled:
    """What no formula covers: asked for size by size. ``given`` are the lengths that it is computed from."""

    ask: Callable[[Sizes], int] = field(repr=False)
    name: str
    given: tuple[Length, ...] = ()


Atom = Union[Pixels, Floor, Least, Product, Sampled]


@dataclass(frozen=True)
class Length:
    """``(constant + sum of factor * atom) / per``; whole at every size where it is the length of an axis.

    Made by arithmetic from :func:`pixels`, which gives a plain number where nothing is left that follows the image.
    """

    terms: frozenset[tuple[Atom, int]]
    constant: int = 0
    per: int = 1

    def __add__(self, other: Number) -> Any:
        terms, constant, per = _parts(other)
        common = math.lcm(self.per, per)
        mine, theirs = common // self.per, common // per
        found: Counter[Atom] = Counter({atom: factor * mine for atom, factor in self.terms})
        for atom, factor in terms:
            found[atom] += factor * theirs
        return _length(found, self.constant * mine + constant * theirs, common)

    def __mul__(self, other: Number) -> Any:
        if isinstance(other, Length):
            return _product(self, other)
        times = Fraction(other)
        found = {atom: factor * times.numerator for atom, factor in self.terms}
        return _length(found, self.constant * times.numerator, self.per * times.denominator)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Number) -> Any:
        return self + other * -1

    def __rsub__(self, other: Number) -> Any:
        return self * -1 + other

    def __floordiv__(self, by: int) -> Any:
        return math.floor(self * Fraction(1, by))

    def __floor__(self) -> Any:
        """The largest whole number below; floors within collapse."""
        by, whole, rest = self.per, Counter[Atom](), dict[Atom, int]()
        for atom, factor in self.terms:
            whole[atom], left = divmod(factor, by)
            if left:
                rest[atom] = left
        more, constant = divmod(self.constant, by)
        outside = _length(whole, more, 1)
        common = math.gcd(by, *rest.values())
        rest, constant, by = {atom: k // common for atom, k in rest.items()}, constant // common, by // common
        if not rest or by == 1:
            return _length(rest, constant, 1) + outside
        inner = [atom for atom, factor in rest.items() if isinstance(atom, Floor) and factor == 1]
        if len(inner) != 1:
            return _length({Floor(Length(frozenset(rest.items()), constant), by): 1}, 0, 1) + outside
        deeper = inner[0]
        del rest[deeper]
        return math.floor((deeper.of + _length(rest, constant, 1) * deeper.by) * Fraction(1, deeper.by * by)) + outside

    # What it is

    def at(self, sizes: Sizes) -> Any:
        """Its value for an image of these sizes."""
        total = self.constant + sum(factor * _at(atom, sizes) for atom, factor in self.terms)
        return total if self.per == 1 else Fraction(total, self.per)

    def growth(self, axis: int) -> Fraction | None:
        """By how much it grows with every pixel of an axis, in the long run; None where by no fixed amount."""
        found = [(factor, _growth(atom, axis)) for atom, factor in self.terms]
        if any(growth is None for _, growth in found):
            return None
        return sum((factor * Fraction(growth or 0) for factor, growth in found), Fraction(0)) / self.per

    def period(self, axis: int) -> int:
        """After so many pixels it has grown by a whole number, and goes on as before."""
        return math.lcm(1, *(_period(atom, axis) for atom, _ in self.terms))

    @property
    def axes(self) -> frozenset[int]:
        """The axes of the image that it depends on."""
        return frozenset[int]().union(*(_axes(atom) for atom, _ in self.terms))

    @property
    def sampled(self) -> bool:
        """Whether a part of it is no formula."""
        return any(isinstance(atom, Sampled) or any(item.sampled for item in _within(atom)) for atom, _ in self.terms)

    def __str__(self) -> str:
        told = [f"{'' if factor == 1 else factor}{_text(atom)}" for atom, factor in self.terms]
        text = " + ".join([*sorted(told), *([str(self.constant)] if self.constant else [])])
        return text if self.per == 1 else f"({text})/{self.per}"


def pixels(axis: int) -> Length:
    """The image's own length on an axis."""
    return Length(frozenset([(Pixels(axis), 1)]))


def sampled(ask: Callable[[Sizes], int], name: str, given: Iterable[Dim]) -> Length:
    """What is only known size by size, and depends on these lengths."""
    return Length(frozenset([(Sampled(ask, name, tuple(item for item in given if isinstance(item, Length))), 1)]))


def slid(
    length: Dim, kernel: int, stride: int = 1, pads: tuple[Dim, Dim] = (0, 0), dilation: int = 1, ceil: bool = False
) -> Dim:
    """Elements behind a Conv or pool; ``ceil``: a last window may reach beyond the padding, but begins before it.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    room: Any = length + pads[0] + pads[1] - (kernel - 1) * dilation - 1
    if not ceil:
        return value(room // stride + 1)
    return least((room + stride - 1) // stride + 1, (length + pads[0] - 1) // stride + 1)


def least(*items: Dim) -> Dim:
    """The smallest of several at every size; where one is never larger than another, that is gone."""
    left: list[Dim] = []
    for item in dict.fromkeys(part for item in items for part in _smallest_of(item)):
        if not any(_never_more(other, item) for other in left):
            left = [other for other in left if not _never_more(item, other)] + [item]
    return left[0] if len(left) == 1 else Length(frozenset([(Least(frozenset(left)), 1)]))


def most(*items: Dim) -> Dim:
    """The largest of several at every size."""
    return value(-least(*(value(-item) for item in items)))


def quotient(parts: Sequence[Dim], by: Sequence[Dim]) -> Number | None:
    """A product of lengths divided by another of which it is a multiple; None where that cannot be seen."""
    number, left = _factors(parts)
    other, gone = _factors(by)
    if number == 0 or other == 0 or gone - left:
        return None
    made: Any = reduce(lambda total, item: total * item, (left - gone).elements(), Fraction(number, other))
    return value(made)


def value(found: Any) -> Any:
    """A whole number as an int."""
    return int(found) if isinstance(found, Fraction) and found.denominator == 1 else found


def along(length: Length, sizes: Sizes) -> bytes:
    """All that a length is at many sizes: the same for two that are equal there."""
    found = np.broadcast_arrays(length.at(sizes), *sizes.values())[0]
    return np.ascontiguousarray(found, np.int64).tobytes()


def at(dim: Number, sizes: Sizes) -> Any:
    """A number, or what a length is at these sizes."""
    return dim.at(sizes) if isinstance(dim, Length) else dim


def same(one: Number, other: Number) -> bool:
    """Whether two are equal at every size."""
    if one == other:
        return True
    apart = one - other
    return isinstance(apart, Length) and bounds(apart) == (0, 0)


def steady(number: Number) -> bool:
    """Whether it is the same at every size."""
    found = bounds(number)
    return found is not None and found[0] == found[1]


def bounds(length: Number) -> tuple[int, int] | None:
    """The smallest and the largest value where it follows the image periodically; None where it grows, or may."""
    if not isinstance(length, Length):
        return (int(length), int(length)) if length == int(length) else None
    axes = sorted(length.axes)
    if length.sampled or any(length.growth(axis) != 0 for axis in axes):
        return None
    periods = [length.period(axis) for axis in axes]
    if math.prod(periods) > _MANY or any(_bent(atom) for atom, _ in length.terms):
        return None
    grid = np.meshgrid(*(np.arange(period, dtype=np.int64) for period in periods))
    values = np.asarray(length.at(dict(zip(axes, grid, strict=True))))
    return int(values.min()), int(values.max())


_MANY = 1 << 16
"""Sizes of one period that are looked at."""


def _parts(number: Number) -> tuple[Iterable[tuple[Atom, int]], int, int]:
    if isinstance(number, Length):
        return number.terms, number.constant, number.per
    return (), number.numerator, number.denominator


def _length(terms: Mapping[Atom, int], constant: int, per: int) -> Any:
    """In lowest terms; a number where nothing is left that follows the image."""
    found = {atom: factor for atom, factor in terms.items() if factor}
    if not found:
        return value(Fraction(constant, per))
    if per != 1:
        common = math.gcd(per, constant, *found.values())
        found, constant, per = {atom: k // common for atom, k in found.items()}, constant // common, per // common
    return Length(frozenset(found.items()), constant, per)


def _product(one: Length, other: Length) -> Any:
    number, factors = _factors([one, other])
    return Length(frozenset([(Product(frozenset(factors.items())), 1)])) * number


def _factors(parts: Sequence[Number]) -> tuple[Fraction, Counter[Length]]:
    """A number and lengths without a common divisor, of which a product is made."""
    number, found = Fraction(1), Counter[Length]()
    for part in parts:
        if not isinstance(part, Length):
            number *= part
            continue
        divisor = math.gcd(part.constant, *(factor for _, factor in part.terms))
        plain = part * Fraction(part.per, divisor)
        number *= Fraction(divisor, part.per)
        (atom, factor), *more = plain.terms
        if isinstance(atom, Product) and not more and not plain.constant and factor == 1:
            found.update(dict(atom.of))
        else:
            found[plain] += 1
    return number, found


def _smallest_of(item: Dim) -> Iterable[Dim]:
    """The parts of what is the smallest of several already."""
    if isinstance(item, Length) and len(item.terms) == 1 and item.per == 1:
        ((atom, factor),) = item.terms
        if isinstance(atom, Least) and factor == 1:
            return [value(part + item.constant) for part in atom.of]
    return [item]


def _never_more(one: Dim, other: Dim) -> bool:
    found = bounds(one - other)
    return found is not None and found[1] <= 0


def _within(atom: Atom) -> Iterable[Length]:
    """The lengths that an atom is made of."""
    if isinstance(atom, Floor):
        return (atom.of,)
    if isinstance(atom, Least):
        return tuple(item for item in atom.of if isinstance(item, Length))
    if isinstance(atom, Product):
        return tuple(item for item, _ in atom.of)
    return atom.given if isinstance(atom, Sampled) else ()


def _at(atom: Atom, sizes: Sizes) -> Any:
    if isinstance(atom, Pixels):
        return sizes[atom.axis]
    if isinstance(atom, Floor):
        return atom.of.at(sizes) // atom.by
    if isinstance(atom, Least):
        return (
            reduce(np.minimum, (at(item, sizes) for item in atom.of))
            if _many(sizes)
            else min(at(item, sizes) for item in atom.of)
        )
    if isinstance(atom, Product):
        return math.prod(item.at(sizes) ** power for item, power in atom.of)
    return _each(atom.ask, sizes)


def _many(sizes: Sizes) -> bool:
    return any(isinstance(size, np.ndarray) for size in sizes.values())


def _each(ask: Callable[[Sizes], int], sizes: Sizes) -> Any:
    """One after the other, where several sizes are asked for at once."""
    if not _many(sizes):
        return ask(sizes)
    arrays = np.broadcast_arrays(*(np.asarray(size) for size in sizes.values()))
    found = [
        ask(dict(zip(sizes, map(int, each), strict=True))) for each in zip(*(a.ravel() for a in arrays), strict=True)
    ]
    return np.reshape(found, arrays[0].shape)


def _axes(atom: Atom) -> frozenset[int]:
    if isinstance(atom, Pixels):
        return frozenset([atom.axis])
    return frozenset[int]().union(*(item.axes for item in _within(atom)))


def _growth(atom: Atom, axis: int) -> Fraction | None:
    if isinstance(atom, Pixels):
        return Fraction(atom.axis == axis)
    if isinstance(atom, Floor):
        growth = atom.of.growth(axis)
        return None if growth is None else growth / atom.by
    if isinstance(atom, Least):
        found = {item.growth(axis) if isinstance(item, Length) else Fraction(0) for item in atom.of}
        return None if None in found else min(growth for growth in found if growth is not None)
    return None if axis in _axes(atom) else Fraction(0)


def _period(atom: Atom, axis: int) -> int:
    inner = math.lcm(1, *(item.period(axis) for item in _within(atom)))
    growth = atom.of.growth(axis) if isinstance(atom, Floor) else None
    if growth is None or not isinstance(atom, Floor):
        return inner
    return inner * atom.by // math.gcd(int(growth * inner), atom.by)


def _bent(atom: Atom) -> bool:
    """Whether it is the smaller of two that grow apart, so that its first periods are not like those to come."""
    grow = (
        [[item.growth(axis) for item in atom.of if isinstance(item, Length)] for axis in _axes(atom)]
        if isinstance(atom, Least)
        else []
    )
    bent = isinstance(atom, Least) and (
        any(len(set(each)) > 1 for each in grow) or any(isinstance(i, int) for i in atom.of)
    )
    return bent or any(_bent(part) for item in _within(atom) for part, _ in item.terms)


def _text(atom: Atom) -> str:
    if isinstance(atom, Pixels):
        return "n" if atom.axis == BATCH else f"x{atom.axis}"
    if isinstance(atom, Floor):
        return f"floor(({atom.of})/{atom.by})"
    if isinstance(atom, Least):
        return f"min({', '.join(sorted(map(str, atom.of)))})"
    if isinstance(atom, Product):
        return "*".join(sorted(f"({item})" + (f"^{power}" if power > 1 else "") for item, power in atom.of))
    return f"sampled {atom.name}"
