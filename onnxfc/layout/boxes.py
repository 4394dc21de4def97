"""Boxes of pixels, and where the places of a list stand in its row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxfc import errors
from onnxfc.errors import UsageError

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """Pixels ``start`` to ``stop`` (exclusive) per axis; before the image's first pixel they are negative.

    >>> onnxfc.Box(start=(0, 4), stop=(16, 20)).size
    (16, 16)
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """To cut the box out of an array's spatial axes; only for boxes within the image."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def clipped(self, size: Sequence[int]) -> Box:
        """What of it lies within an image of ``size`` pixels."""
        return Box(
            tuple(min(max(a, 0), n) for a, n in zip(self.start, size, strict=True)),
            tuple(max(min(b, n), 0) for b, n in zip(self.stop, size, strict=True)),
        )

    def within(self, size: Sequence[int]) -> bool:
        """Whether all of it lies within an image of ``size`` pixels."""
        return all(a >= 0 and b <= n for a, b, n in zip(self.start, self.stop, size, strict=True))


@dataclass(frozen=True)
class Places:
    """The places of one level of a list output, (N, places, K), for one image size.

    They stand in the row from ``first`` on: ``outer`` times a ``grid`` of places, row by row, each with ``inner``
    elements (the anchors of a place, ahead of all places or behind each). Place ``i`` reads ``size`` pixels from
    ``start + i * stride / per`` on. ``order``: of the axes, the outermost first, where it is not row by row: (1, 0) is
    column by column.

    >>> onnxfc.rewrite("fixtures/torch/list_places.dynamo.onnx", prove=False).geometry.places(64, 48)[0].grid
    (32, 24)
    """

    first: int
    grid: Grid
    outer: int
    inner: int
    stride: tuple[int, ...]
    per: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    order: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many elements of the row are of this level."""
        return self.outer * math.prod(self.grid) * self.inner

    def at(self, index: int) -> tuple[int, ...]:
        """The place of element ``index`` of the row. Raises UsageError for one of another level."""
        errors.whole("element", index, 0)
        if not self.first <= index < self.first + self.count:
            raise UsageError(f"element {index} is not of this level, {self.first} to {self.first + self.count - 1}")
        place = (index - self.first) // self.inner % math.prod(self.grid)
        order = self.order or range(len(self.grid))
        found = dict(zip(order, np.unravel_index(place, [self.grid[axis] for axis in order]), strict=True))
        return tuple(int(found[axis]) for axis in sorted(found))

    def field(self, *place: int) -> Box:
        """All pixels that a place depends on. Raises UsageError for one that is not there."""
        errors.place("a place of this level", place, len(self.grid), self.grid)
        each = zip(place, self.stride, self.per, self.start, strict=True)
        start = tuple(first + int(k) * stride // per for k, stride, per, first in each)
        return Box(start, tuple(a + n for a, n in zip(start, self.size, strict=True)))
