"""Lengths that follow the image's size, in closed form: exact integers at every size.

A layer takes an axis of ``n`` elements to ``floor((n + pads - reach) / stride) + 1``. Such floors collapse,
``floor((floor((x + a) / m) + b) / n) = floor((x + a + m b) / (m n))``, so that a chain of layers is one floor again.
What does not collapse (upsampled, then strided; the smaller of two maps) is a sum of floors with a period:
``f(x + period) = f(x) + growth * period``. Compare the quasi-affine maps of MLIR and isl.
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
"""By axis of the image its length in pixels: a number, or an array where many sizes are asked for at once."""

Dim = Union[int, "Length"]
Number = Union[int, Fraction, "Length"]

BATCH = -1
"""The number of images, where that is free, beside the axes 0, 1 ... of the image."""

_MANY = 1 << 16
"""Sizes of one period that are looked at, at most."""


@dataclass(frozen=True)
class Length:
    """``(constant + sum of factor * atom) / per``; whole at every size where it is the length of an axis.

    Made by arithmetic from :func:`pixels`, which gives a plain number where nothing is left that follows the image.
    """

    terms: frozenset[tuple[Atom, int]]
    constant: int = 0
    per: int = 1

    def __add__(self, other: Number) -> Any:
        if isinstance(other, int) and self.per == 1:
            return Length(self.terms, self.constant + other) if other else self
        terms, constant, per = _parts(other)
        common = math.lcm(self.per, per)
        mine, theirs = common // self.per, common // per
        found: Counter[Atom] = Counter({atom: factor * mine for atom, factor in self.terms})
        for atom, factor in terms:
            found[atom] += factor * theirs
        return _length(found, self.constant * mine + constant * theirs, common)

    def __mul__(self, other: Number) -> Any:
        if isinstance(other, Length):
            number, made = factors_of([self, other])
            return Length(frozenset([(Product(frozenset(made.items())), 1)])) * number
        times = Fraction(other)
        found = {atom: factor * times.numerator for atom, factor in self.terms}
        return _length(found, self.constant * times.numerator, self.per * times.denominator)

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Number) -> Any:
        return self + -other

    def __rsub__(self, other: Number) -> Any:
        return -self + other

    def __floordiv__(self, by: int) -> Any:
        return self if by == self.per == 1 else math.floor(self * Fraction(1, by))

    def __floor__(self) -> Any:
        """The largest whole number below. What is whole already comes out of the floor; floors within collapse."""
        whole: dict[Atom, int] = {}
        rest: dict[Atom, int] = {}
        for atom, factor in self.terms:
            whole[atom], left = divmod(factor, self.per)
            if left:
                rest[atom] = left
        more, constant = divmod(self.constant, self.per)
        outside = _length(whole, more, 1)
        common = math.gcd(self.per, *rest.values())
        rest, constant, by = {atom: k // common for atom, k in rest.items()}, constant // common, self.per // common
        if by == 1:
            return outside + _length(rest, constant, 1)
        if all(2 * factor > by for factor in rest.values()):  # floor(3x / 4) = x - floor((x + 3) / 4)
            less = _length({atom: by - factor for atom, factor in rest.items()}, by - 1 - constant, 1)
            return outside + _length(dict.fromkeys(rest, 1), 0, 1) - less // by
        deeper = [atom for atom, factor in rest.items() if isinstance(atom, Floor) and factor == 1]
        if len(deeper) != 1:
            return outside + Length(frozenset([(Floor(Length(frozenset(rest.items()), constant), by), 1)]))
        inner = deeper[0]
        del rest[inner]
        return outside + (inner.of + _length(rest, constant, 1) * inner.by) // (inner.by * by)

    # What it is

    def at(self, sizes: Sizes) -> Any:
        """Its value for an image of these sizes."""
        total = self.constant + sum(factor * atom.at(sizes) for atom, factor in self.terms)
        return total if self.per == 1 else Fraction(total, self.per)

    def growth(self, axis: int) -> Fraction | None:
        """By how much it grows with every pixel of an axis, in the long run; None where by no fixed amount."""
        total = Fraction(0)
        for atom, factor in self.terms:
            growth = atom.growth(axis)
            if growth is None:
                return None
            total += factor * growth
        return total / self.per

    def period(self, axis: int) -> int:
        """After so many pixels it has grown by a whole number, and goes on as before."""
        return math.lcm(*(atom.period(axis) for atom, _ in self.terms))

    @property
    def axes(self) -> frozenset[int]:
        """The axes of the image that it depends on."""
        return frozenset[int]().union(*(atom.axes for atom, _ in self.terms))

    def holds(self, kind: type[Atom]) -> bool:
        """Whether an atom of that kind is a part of it, however deep."""
        return any(isinstance(atom, kind) or any(item.holds(kind) for item in atom.within) for atom, _ in self.terms)

    def __str__(self) -> str:
        told = sorted(f"{'' if factor == 1 else factor}{atom}" for atom, factor in self.terms)
        text = " + ".join([*told, *([str(self.constant)] if self.constant else [])])
        return text if self.per == 1 else f"({text})/{self.per}"


class Atom:
    """A whole number that follows the image, of which lengths are sums."""

    @property
    def within(self) -> Sequence[Length]:
        """The lengths that it is made of."""
        return ()

    @property
    def axes(self) -> frozenset[int]:
        return frozenset[int]().union(*(item.axes for item in self.within))

    def at(self, sizes: Sizes) -> Any:
        raise NotImplementedError

    def growth(self, axis: int) -> Fraction | None:
        return None if axis in self.axes else Fraction(0)

    def period(self, axis: int) -> int:
        return math.lcm(*(item.period(axis) for item in self.within))


@dataclass(frozen=True)
class Pixels(Atom):
    """The image's own length on one of its axes."""

    axis: int

    @property
    def axes(self) -> frozenset[int]:
        return frozenset([self.axis])

    def at(self, sizes: Sizes) -> Any:
        return sizes[self.axis]

    def growth(self, axis: int) -> Fraction | None:
        return Fraction(axis == self.axis)

    def __str__(self) -> str:
        return "n" if self.axis == BATCH else f"x{self.axis}"


@dataclass(frozen=True)
class Floor(Atom):
    """``floor(of / by)``"""

    of: Length
    by: int

    @property
    def within(self) -> Sequence[Length]:
        return (self.of,)

    def at(self, sizes: Sizes) -> Any:
        return self.of.at(sizes) // min(self.by, 1 << 62)  # numpy has no larger ones

    def growth(self, axis: int) -> Fraction | None:
        growth = self.of.growth(axis)
        return None if growth is None else growth / self.by

    def period(self, axis: int) -> int:
        inner, growth = self.of.period(axis), self.of.growth(axis)
        return inner * (self.by if growth is None else self.by // math.gcd(int(growth * inner), self.by))

    def __str__(self) -> str:
        return f"floor(({self.of})/{self.by})"


@dataclass(frozen=True)
class Least(Atom):
    """The smallest of several."""

    of: frozenset[Dim]

    @property
    def within(self) -> Sequence[Length]:
        return [item for item in self.of if isinstance(item, Length)]

    def at(self, sizes: Sizes) -> Any:
        found = [at(item, sizes) for item in self.of]
        return reduce(np.minimum, found) if _many(sizes) else min(found)

    def growth(self, axis: int) -> Fraction | None:
        found = {item.growth(axis) if isinstance(item, Length) else Fraction(0) for item in self.of}
        return found.pop() if len(found) == 1 else None

    def __str__(self) -> str:
        return f"min({', '.join(sorted(map(str, self.of)))})"


@dataclass(frozen=True)
class Product(Atom):
    """Powers of lengths, multiplied: the places of a flattened map."""

    of: frozenset[tuple[Length, int]]

    @property
    def within(self) -> Sequence[Length]:
        return [item for item, _ in self.of]

    def at(self, sizes: Sizes) -> Any:
        return math.prod(item.at(sizes) ** power for item, power in self.of)

    def __str__(self) -> str:
        return "*".join(sorted(f"({item})" + (f"^{power}" if power > 1 else "") for item, power in self.of))


@dataclass(frozen=True, eq=False)
class Sampled(Atom):
    """What no formula covers: asked for size by size, and computed from the lengths ``within``.

    ``rates``: by how much it grows with each pixel of an axis, where that was seen.
    """

    name: str
    ask: Callable[[Sizes], int] = field(repr=False)
    within: Sequence[Length] = field(default=(), repr=False)
    rates: Mapping[int, Fraction] = field(default_factory=dict, repr=False)

    def at(self, sizes: Sizes) -> Any:
        if not _many(sizes):
            return self.ask(sizes)
        arrays = np.broadcast_arrays(*sizes.values())
        each = zip(*(array.ravel().tolist() for array in arrays), strict=True)
        found = [self.ask(dict(zip(sizes, size, strict=True))) for size in each]
        return np.reshape(found, arrays[0].shape)

    def growth(self, axis: int) -> Fraction | None:
        return self.rates.get(axis) if axis in self.axes else Fraction(0)

    def period(self, axis: int) -> int:
        rate = self.growth(axis)
        return math.lcm(super().period(axis), 1 if rate is None else rate.denominator)

    def __str__(self) -> str:
        return f"sampled {self.name}"


def pixels(axis: int) -> Length:
    """The image's own length on an axis."""
    return Length(frozenset([(Pixels(axis), 1)]))


def least(*items: Dim) -> Any:
    """The smallest of several at every size; where one is never smaller than another, it is gone."""
    left: list[Dim] = []
    for item in dict.fromkeys(part for whole in items for part in _smallest_of(whole)):
        if not any(_never_more(other, item) for other in left):
            left = [*(other for other in left if not _never_more(item, other)), item]
    return left[0] if len(left) == 1 else Length(frozenset([(Least(frozenset(left)), 1)]))


def most(*items: Dim) -> Any:
    """The largest of several at every size."""
    return -least(*(-item for item in items))


def quotient(parts: Sequence[Number], by: Sequence[Number]) -> Any:
    """A product of lengths divided by another of which it is a multiple; None where that cannot be seen."""
    number, left = factors_of(parts)
    other, gone = factors_of(by)
    if number == 0 or other == 0 or gone - left:
        return None
    return whole(math.prod((left - gone).elements(), start=number / other))


def whole(number: Any) -> Any:
    """A whole number as an int, all else as it is."""
    return int(number) if isinstance(number, Fraction) and number.denominator == 1 else number


def at(number: Number, sizes: Sizes) -> Any:
    """A number, or what a length is at these sizes."""
    return number.at(sizes) if isinstance(number, Length) else number


def axes_of(number: Number) -> frozenset[int]:
    """The axes of the image that it depends on."""
    return number.axes if isinstance(number, Length) else frozenset()


def along(length: Length, sizes: Sizes) -> bytes:
    """All that a length is at many sizes: the same for two that are equal there."""
    return np.ascontiguousarray(np.broadcast_arrays(length.at(sizes), *sizes.values())[0], np.int64).tobytes()


def same(one: Number, other: Number) -> bool:
    """Whether two are equal at every size."""
    return one == other or bounds(one - other) == (0, 0)


def bounds(number: Number) -> tuple[int, int] | None:
    """The smallest and the largest of a number that goes up and down with the image; None where it grows, or may."""
    if not isinstance(number, Length):
        return math.floor(number), math.ceil(number)
    axes = sorted(number.axes)
    periods = [number.period(axis) for axis in axes]
    if any(number.growth(axis) != 0 for axis in axes) or number.holds(Sampled) or math.prod(periods) > _MANY:
        return None
    values = np.asarray(number.at(dict(zip(axes, np.meshgrid(*map(np.arange, periods)), strict=True))))
    return int(values.min()), int(values.max())


def _parts(number: Number) -> tuple[Iterable[tuple[Atom, int]], int, int]:
    if isinstance(number, Length):
        return number.terms, number.constant, number.per
    return (), number.numerator, number.denominator


def _length(terms: Mapping[Atom, int], constant: int, per: int) -> Any:
    """In lowest terms; a number where nothing is left that follows the image."""
    found = {atom: factor for atom, factor in terms.items() if factor}
    if not found:
        return whole(Fraction(constant, per))
    if per != 1:
        common = math.gcd(per, constant, *found.values())
        found, constant, per = {atom: k // common for atom, k in found.items()}, constant // common, per // common
    return Length(frozenset(found.items()), constant, per)


def factors_of(parts: Sequence[Number]) -> tuple[Fraction, Counter[Length]]:
    """A number and lengths without a common divisor, of which a product is made."""
    number, found = Fraction(1), Counter[Length]()
    for part in parts:
        if not isinstance(part, Length):
            number *= part
            continue
        divisor = math.gcd(part.constant, *(factor for _, factor in part.terms))
        times = Fraction(divisor, part.per)
        plain, number = part if times == 1 else part * (1 / times), number * times
        (atom, factor), *more = plain.terms
        product = isinstance(atom, Product) and not more and not plain.constant and factor == 1
        found.update(dict(atom.of) if product and isinstance(atom, Product) else {plain: 1})
    return number, found


def _smallest_of(item: Dim) -> Iterable[Dim]:
    """The parts of what is the smallest of several already."""
    if isinstance(item, Length) and len(item.terms) == 1 and item.per == 1:
        ((atom, factor),) = item.terms
        if isinstance(atom, Least) and factor == 1:
            return [part + item.constant for part in atom.of]
    return [item]


def _never_more(one: Dim, other: Dim) -> bool:
    found = bounds(one - other)
    return (found is not None and found[1] <= 0) or _never_negative(other - one)


def _never_negative(number: Number) -> bool:
    """Whether it is plain that a number is 0 or more, as images have no fewer pixels."""
    if not isinstance(number, Length):
        return number >= 0
    return number.constant >= 0 and all(
        factor > 0 and not isinstance(atom, Least | Sampled) and all(map(_never_negative, atom.within))
        for atom, factor in number.terms
    )


def _many(sizes: Sizes) -> bool:
    return any(isinstance(size, np.ndarray) for size in sizes.values())
