"""Where the cells of a map lie in its image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from onnxfc.scanner.plan import Axis


@dataclass(frozen=True)
class Placing:
    """Where cells lie. ``axes``: of the image that was scanned; its pixel (0, 0) is ``corner`` (row, column) of the
    given image, which has 1 / ``factor`` of its pixels."""

    axes: tuple[Axis, Axis]
    corner: tuple[int, int] = (0, 0)
    factor: Fraction = Fraction(1)

    @property
    def offset(self) -> tuple[float, float]:
        """Where the square of a stride around the middle of cell (0, 0) begins, in pixels as they were scanned."""
        down, across = ((axis.own - axis.stride / axis.per) / 2 for axis in self.axes)
        return down, across

    @property
    def pitch(self) -> tuple[float, float]:
        """From one cell to the next, in pixels as they were scanned."""
        down, across = (axis.stride / axis.per for axis in self.axes)
        return down, across

    def given(self, place: int | Fraction, axis: int) -> Fraction:
        """A pixel of the given image, from one as it was scanned."""
        return self.corner[axis] + place / self.factor

    def scanned(self, place: float | Fraction, axis: int) -> float:
        """A pixel as it was scanned, from one of the given image."""
        return float((place - self.corner[axis]) * self.factor)

    def cell(self, place: float | Fraction, axis: int) -> int:
        """The cell whose middle is nearest to a pixel of the given image."""
        return math.floor(self.among_cells(place, axis))

    def among_cells(self, place: float | Fraction, axis: int) -> float:
        """Where a pixel of the given image lies, counted in cells."""
        return (self.scanned(place, axis) - self.offset[axis]) / self.pitch[axis]
