"""Numbers that speak of the sides of an image or of a map: the sides, their last places, halves, roots, parts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, product

from onnxfc.graph.op_kinds import ADDITIVE, PRODUCTS, SCALING

FEWEST = 16
"""Below it a limit is one of activations (ReLU6), and a divisor any number, whatever the image's size."""
PLAIN = 8
"""Up to here a divisor may be any number (of boxes, a stride), though how many places a list has is known for certain:
3x3 are more. Beside the side of a grid's own map up to its half (a middle, a corner): YOLO's 7 cells are more."""
IN_PIXELS = "a native map in pixels"
WEIGHING = {*PRODUCTS, "Conv", "Gemm"}


def figures(
    sides: Iterable[int], op_type: str, stay: Iterable[int] = (), whose: str = "the native image"
) -> dict[float, str]:
    """Numbers that speak of an image with these sides, beside those that ``stay``, and what they are to such an
    operator."""
    sides, found = [side for side in sides if side >= FEWEST], dict[float, str]()
    for pair in _pairs(sides, stay) if op_type in SCALING else ():
        found |= {math.hypot(*pair): f"the diagonal of {whose}"}
        found |= {float(math.prod(pair)): f"the pixels of {whose}"}
    halves = [half for side in sides for half in (side / 2, (side - 1) / 2) if half > FEWEST]
    found |= dict.fromkeys(halves, f"half a side of {whose}")
    return found | dict.fromkeys([n for side in sides for n in (side - 1.0, float(side))], f"a side of {whose}")


def near(number: float, known: Iterable[float]) -> float:
    """Which of these a number is, but for its rounding; 0 where it is none."""
    return next((item for item in known if abs(abs(number) - item) <= 1e-5 * item), 0.0)


def of_map(sides: Iterable[int]) -> dict[float, str]:
    """What tells of the sides of the map over which a grid lies, in cells."""
    halves = dict.fromkeys([half for side in sides for half in (side / 2, (side - 1) / 2)], "half a side of the map")
    whole = dict.fromkeys([n for side in sides for n in (side - 1.0, float(side))], "a side of the map")
    return {number: f"{told} at the native size" for number, told in (halves | whole).items() if number > PLAIN / 2}


def _pairs(sides: Sequence[int], stay: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Two sides of an image, of which one at least is free."""
    yield from combinations_with_replacement(sides, 2)
    yield from product(sides, [side for side in stay if side >= FEWEST])


def roots(sides: Iterable[int], op_type: str, stay: Iterable[int]) -> dict[float, str]:
    """What coordinates and their roots are divided by, and their logarithms are less; a whole number may be any."""
    long = [side for side in sides if side >= FEWEST]
    areas = [math.sqrt(one * two) for one, two in _pairs(long, stay)]
    found = [*map(math.sqrt, long), *areas] if op_type in SCALING else []
    known = dict.fromkeys([root for root in found if root != round(root)], "the root of a side of the native image")
    known |= dict.fromkeys([root for root in areas if root in known], "the root of the native image's pixels")
    logs = map(math.log, long) if op_type in ADDITIVE else ()
    return known | dict.fromkeys(logs, "the logarithm of a side of the native image")


def folded(numbers: Iterable[float], op_type: str, sides: Iterable[int]) -> str:
    """A part of a side that one of these numbers is, as what divides values: it is no round number, but what it makes
    of the side is (a percentage of it, a twelfth, its share of 1920 pixels)."""
    lengths = [length for side in sides if side > PLAIN / 2 for length in (side, side - 1)]
    if op_type not in {*SCALING, *WEIGHING}:
        return ""
    scales = {abs(number) for number in numbers if number and math.isfinite(number)}
    for number, side in product(scales, lengths):
        made = side / number if op_type == "Div" else number * side
        close = math.isfinite(made) and math.isclose(made, round(made), rel_tol=_ROUNDED)
        if close and _rounder(round(made), number, op_type):
            return f"{side} / {round(made)}"
    return ""


def _rounder(made: int, number: float, op_type: str) -> bool:
    """Whether nobody would write this number, and it is known what made it: whole numbers, one over such, quotients of
    small ones and those of few digits are written down."""
    digits, fraction = _digits(number), Fraction(number).limit_denominator(_SMALL)
    whole = any(math.isclose(n, round(n), rel_tol=_ROUNDED) for n in (number, 1 / number))
    odd = fraction.denominator // (fraction.denominator & -fraction.denominator)
    near_one = odd == 1 or (odd == 3 and 1 < 4 * number < 16)
    quotient = near_one and fraction.numerator <= _SMALL and math.isclose(fraction, number, rel_tol=_ROUNDED)
    percent = made == 100 and (op_type == "Div" or digits > 3)
    rounder = percent or (not quotient and digits > 3 and digits > _digits(made) + 1)
    return 1 < made < _WIDEST and not whole and rounder


_SMALL, _WIDEST = 16, 10_000
"""What quotients are made of that are written down (of boxes, of strides); pixels that no screen is wide."""
_ROUNDED = 2e-7
"""How far two roundings to a float move a number."""


def _digits(number: float) -> int:
    """How many digits a number has that are no zeros around it, as far as a float holds them."""
    return next((n for n in range(1, 8) if math.isclose(float(f"{number:.{n - 1}e}"), number, rel_tol=_ROUNDED)), 8)
