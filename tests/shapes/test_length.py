"""Lengths in closed form, against plain numbers: collapsed floors, periods, the smaller of two, quotients, slack."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxfc.layout.axis_map import AxisMap
from onnxfc.shapes.dim_rules import slid
from onnxfc.shapes.length import BATCH, Dim, Length, Sampled, along, at, bounds, least, most, pixels, quotient, same

X, Y = pixels(0), pixels(1)
SIZES = range(1, 200)
QUIET = settings(deadline=None, database=None, max_examples=200)


def plain(length: int, kernel: int, stride: int, before: int, after: int, dilation: int, ceil: bool) -> int:
    """Windows counted one by one: all that lie within the padded axis; with ceil, one more that begins in it."""
    padded, reach = before + length + after, (kernel - 1) * dilation + 1
    whole = sum(1 for start in range(0, padded, stride) if start + reach <= padded)
    rest = padded - reach - (whole - 1) * stride
    return whole + (ceil and rest > 0 and whole * stride < before + length)


layer = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3), st.integers(1, 2))
STEPS: dict[str, Callable[[Dim, int], Dim]] = {
    "times": lambda n, k: n * k,
    "less": lambda n, k: n - k,
    "part": lambda n, k: n // k,
    "scaled": lambda n, k: math.floor(n * Fraction(3, k)),
    "rounded up": lambda n, k: -((-n) // k),
    "whole blocks": lambda n, k: n // k * k,
    "rest": lambda n, k: n - n // k * k,
    "at most": lambda n, k: least(n, (n + k) // 2),
    "at least": lambda n, k: most(n, 2 * (n // 2) + 3 - k),
}


@QUIET
@given(st.lists(st.one_of(layer, st.tuples(st.sampled_from(sorted(STEPS)), st.integers(1, 5))), max_size=5))
def test_composition(steps: list[tuple[int, ...] | tuple[str, int]]) -> None:
    """The closed form of a chain is the chain, at every size, for one size and for many at once."""
    length: Dim = X
    found = {size: size for size in SIZES}
    for step in steps:
        if isinstance(step[0], str):
            length, found = _stepped(length, found, STEPS[step[0]], int(step[1]))
        else:
            kernel, stride, before, after, dilation = map(int, step)
            length = slid(length, kernel, stride, (before, after), dilation)
            reach = (kernel - 1) * dilation + 1
            found = {x: (n + before + after - reach) // stride + 1 for x, n in found.items()}
    assert {size: at(length, {0: size}) for size in SIZES} == found
    if not isinstance(length, Length):
        return
    assert length.at({0: np.array(SIZES)}).tolist() == list(found.values())
    period, growth = length.period(0), length.growth(0)
    if growth is not None:
        assert growth * period == int(growth * period)
        assert all(at(length, {0: x + period}) == n + growth * period for x, n in found.items())


def _stepped(length: Dim, found: dict[int, int], step: Callable[[Dim, int], Dim], k: int) -> tuple[Dim, dict[int, int]]:
    made = {}
    for size, n in found.items():
        value = step(n, k)
        assert isinstance(value, int)
        made[size] = value
    return step(length, k), made


@QUIET
@given(layer, st.booleans(), st.integers(1, 60))
def test_windows_counted_one_by_one(how: tuple[int, int, int, int, int], ceil: bool, size: int) -> None:
    kernel, stride, before, after, dilation = how
    assume((kernel - 1) * dilation + 1 <= size + before + after)
    assume(not ceil or max(before, after) < kernel)  # as for every pool
    made = slid(X, kernel, stride, (before, after), dilation, ceil)
    assert at(made, {0: size}) == plain(size, kernel, stride, before, after, dilation, ceil)


def test_floors_collapse() -> None:
    """Three layers of stride 2 are one floor of 8; so are 2x2 pools, where two ways to say it are one."""
    chain = X
    for _ in range(3):
        chain = slid(chain, 3, 2, (1, 1))
    assert str(chain) == "floor((x0 + 7)/8)"
    assert chain == (X + 7) // 8
    assert (X // 2 // 2 + 3) // 2 == (X + 12) // 8
    assert (4 * (X // 2) + 6) // 8 == (X + 2) // 4 + 0 * X  # what is even stays even
    assert (2 * X + 5) // 2 == X + 2
    assert X - X == 0
    assert isinstance(2 * X - X - X + 3, int)


def test_upsampled_then_strided() -> None:
    """A Conv 2/2, twice as large, a pool 3/3, windows of 5: 1, 2, 2, 2 cells at 17, 18, 20, 21 pixels."""
    cells = slid(slid(X, 2, 2) * 2, 3, 3) - 4
    assert (cells.period(0), cells.growth(0)) == (6, Fraction(1, 3))
    assert [cells.at({0: size}) for size in (16, 17, 18, 20, 21, 22)] == [1, 1, 2, 2, 2, 3]
    assert AxisMap(stride=3, extent=cells).slack(16) is None
    assert AxisMap(stride=3, extent=slid(X, 3, 3) - 4).slack(16) == 1


@QUIET
@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 20), st.integers(1, 40))
def test_slack(stride: int, pad: int, fewer: int, native: int) -> None:
    """So many pixels less than native give as many, and one pixel less gives fewer."""
    axis = AxisMap(stride=stride, extent=(X + pad) // stride - fewer)
    slack = axis.slack(native)
    assert slack is not None
    assert 0 <= slack < stride
    assert axis.count(native - slack) == axis.count(native) == axis.count(native - slack - 1) + 1
    assert all(axis.count(n) == axis.count(native) + (n - native + slack) // stride for n in range(native, 200))


def test_slack_of_upsampled_features() -> None:
    assert AxisMap(stride=Fraction(1, 2), extent=2 * X).slack(10) == 0
    assert AxisMap(stride=Fraction(1, 2), extent=4 * (X // 2)).slack(10) is None


def test_equal_at_every_size() -> None:
    """A map and what is left of it, rounded up, in other words; and two that differ at odd sizes only."""
    assert X - X // 2 != (X + 1) // 2
    assert same(X - X // 2, (X + 1) // 2)
    assert not same((X + 1) // 2, X // 2)
    assert not same(X // 2, Y // 2)
    assert same(7, 7)
    assert not same(X, 7)


def test_smaller_of_two() -> None:
    """A padded Conv rounds up where a pool rounds down: the pool is never larger. Others need both."""
    assert least((X + 1) // 2, X // 2) == X // 2
    assert most((X + 1) // 2, X // 2) == (X + 1) // 2
    both = least(2 * (X // 2) + 1, X)
    assert both == X
    mixed = least(3 * (X // 3) + 1, 2 * (X // 2))
    assert [mixed.at({0: size}) for size in range(6, 12)] == [6, 6, 7, 8, 10, 10]
    assert least(mixed, X, mixed) == mixed
    assert least(X // 2, Y + X // 2) == X // 2
    assert bounds(X - 3 * (X // 3)) == (0, 2)
    assert bounds(X) is None
    assert least(5, X).growth(0) is None


def test_places_of_a_map() -> None:
    """Products of axes, taken apart again by a Reshape."""
    places = (X // 2) * (Y + 1) * 6
    assert places.at({0: 9, 1: 4}) == 120
    assert quotient([places], [6]) == (X // 2) * (Y + 1)
    assert quotient([places, 4], [Y + 1, 8]) == 3 * (X // 2)
    assert quotient([places], [places]) == 1
    assert quotient([places], [X]) is None
    assert places.growth(0) is None
    assert places.period(0) == 2
    assert ((X + 1) * (X + 1)).at({0: 3}) == 16
    assert quotient([X, 3], [2]) == X * Fraction(3, 2)


def test_what_is_alike_along_sizes() -> None:
    sizes = {0: np.arange(8, 40, 2), 1: 9}
    assert along(X - X // 2, sizes) == along(X // 2, sizes)
    assert along(X - Y, {0: np.arange(9), 1: np.arange(9)}) == along(
        0 * X + (Y - X), {0: np.arange(9), 1: np.arange(9)}
    )
    assert along(X, sizes) != along(Y, sizes)
    assert str(pixels(BATCH) + 1) == "n + 1"


def test_sampled() -> None:
    """What no formula covers: asked for one by one, and never taken for something else."""
    asked: list[int] = []

    def ask(sizes: dict[int, int]) -> int:
        asked.append(sizes[0])
        return math.isqrt(sizes[0])

    length = Length(frozenset([(Sampled("root", ask, [X]), 1)]))  # type: ignore[arg-type]
    assert length.at({0: 17}) == 4
    assert (2 * length + 1).at({0: np.array([16, 24, 25])}).tolist() == [9, 9, 11]
    assert asked == [17, 16, 24, 25]
    assert length.holds(Sampled)
    assert (length // 3).holds(Sampled)
    assert not X.holds(Sampled)
    assert bounds(length - length // 2) is None
    assert str(length) == "sampled root"


@pytest.mark.parametrize("number", [0, 5, Fraction(7, 2)])
def test_numbers_stay_numbers(number: int | Fraction) -> None:
    assert at(number, {}) == number
    assert X * 0 + number == number
    assert math.floor((X + number) - X) == math.floor(number)


def test_a_step_beyond_all_integers() -> None:
    """As a damaged stride makes it: no size has two places then."""
    steps = pixels(0) // (1 << 70)
    assert np.asarray(at(steps, {0: np.arange(1, 4)})).tolist() == [0, 0, 0]
