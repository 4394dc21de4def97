"""The map of an image's scores: an array with the places of its cells."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxfc import errors
from onnxfc.errors import UsageError
from onnxfc.layout.boxes import Box
from onnxfc.scanner.georeference import Georeference
from onnxfc.scanner.picture import overlay
from onnxfc.scanner.placing import Placing
from onnxfc.scanner.source import OpenImage

Array = NDArray[Any]
_PIECE = 1 << 20
"""Scores that are looked at together."""


class Cells(Protocol):
    """Scores (classes, rows, columns) that are read in parts."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, rows, columns."""

    @property
    def tall(self) -> int:
        """Rows that lie together, from a multiple of it on."""

    def read(self, classes: slice, rows: slice, columns: slice) -> Array:
        """A part."""


@dataclass(frozen=True)
class ArrayCells:
    """Of an array, which may be mapped from a file."""

    array: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        classes, rows, columns = self.array.shape
        return classes, rows, columns

    @property
    def tall(self) -> int:
        return self.shape[1]

    def read(self, classes: slice, rows: slice, columns: slice) -> Array:
        """A part."""
        return np.asarray(self.array[classes, rows, columns])


@dataclass(frozen=True)
class Picked:
    """Some cells, best first: rows, columns, classes and scores."""

    rows: Array
    columns: Array
    classes: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[tuple[int, int, int, float]]:
        for row, column, kind, score in zip(self.rows, self.columns, self.classes, self.scores, strict=True):
            yield int(row), int(column), int(kind), float(score)


@dataclass(frozen=True)
class ScoreMap:
    """Scores (classes, rows, columns) of an image, read when they are asked for. NaN: no data.

    ``classes``: their names. ``georeference``: of the cells, where the image has one. ``notes``: how it was made.
    ``image``: what was scanned.

    >>> made = onnxfc.scan("digits-any.onnx", "fixtures/trained/canvas.png", options=onnxfc.ScanOptions(scale=1 / 255))
    >>> made.shape, made.classes[made.at(20, 156).argmax()]
    ((10, 37, 57), '...')
    """

    cells: Cells
    classes: tuple[str, ...]
    placing: Placing
    georeference: Georeference | None
    notes: dict[str, Any]
    image: OpenImage = field(repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, rows, columns."""
        return self.cells.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the scores."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> Array:
        key = key if isinstance(key, tuple) else (key,)
        parts = [*key, *[slice(None)] * (3 - len(key))]
        if len(parts) != 3 or not all(isinstance(part, int | np.integer | slice) for part in parts):
            return np.asarray(np.asarray(self)[key])
        slices = [_as_slice(part, length) for part, length in zip(parts, self.shape, strict=True)]
        found = self.cells.read(*(slice(*part.indices(n)[:2]) for part, n in zip(slices, self.shape, strict=True)))
        steps = tuple(0 if not isinstance(part, slice) else slice(None, None, part.step) for part in parts)
        return np.asarray(found[steps])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.cells.read(slice(None), slice(None), slice(None)).astype(dtype or np.float32, copy=False)

    def at(self, y: float, x: float) -> Array:
        """The scores of the cell whose middle is nearest to a pixel of the image, where the map reaches."""
        row, column = (
            min(max(self.placing.cell(place, axis), 0), self.shape[axis + 1] - 1) for axis, place in enumerate((y, x))
        )
        return np.asarray(self[:, row, column])

    def box(self, row: int, column: int) -> Box:
        """The pixels of the image that a cell stands for. Raises UsageError for one that is not there."""
        errors.place("a cell of this map", (row, column), 2, self.shape[1:])
        first, last = [], []
        for axis, cell in enumerate((row, column)):
            own = self.placing.axes[axis]
            first.append(math.floor(self.placing.given(own.begin(cell), axis)))
            last.append(math.ceil(self.placing.given(own.begin(cell) + own.own, axis)))
        return Box(tuple(first), tuple(last))

    def pieces(self, classes: slice = slice(None), most: int = _PIECE) -> Iterator[tuple[int, Array]]:
        """The map, or some ``classes`` of it, in bands of rows of ``most`` scores, with the first row of each."""
        kinds, rows, columns = self.shape
        step = max(1, min(self.cells.tall, most // (len(range(*classes.indices(kinds))) * columns)))
        for top in range(0, rows, step):
            yield top, self.cells.read(classes, slice(top, min(rows, top + step)), slice(None))

    def top(self, count: int = 10, threshold: float | None = None) -> Picked:
        """The ``count`` best cells, each by its best class; with a ``threshold`` all cells from it on."""
        if count < 1:
            raise UsageError(f"top: must be 1 or more, not {count}")
        best: list[Array] = [np.zeros((4, 0))]
        for top, piece in self.pieces():
            filled = np.nan_to_num(piece, nan=-np.inf)
            score, kind = filled.max(axis=0), filled.argmax(axis=0)
            chosen = np.isfinite(score) if threshold is None else score >= threshold
            rows, columns = np.nonzero(chosen)
            best.append(np.stack([rows + top, columns, kind[chosen], score[chosen].astype(np.float64)]))
            if threshold is None:
                best = [_best(np.concatenate(best, axis=1), count)]
        found = np.concatenate(best, axis=1)
        rows, columns, classes, scores = _best(found, count if threshold is None else found.shape[1])
        return Picked(rows.astype(int), columns.astype(int), classes.astype(int), scores)

    def reduce(self, how: str = "mean") -> Array:
        """One vector: the mean or maximum of each class over all cells that have data."""
        errors.choice("how", how, ("mean", "max"))
        count, total = 0, np.zeros(self.shape[0])
        most = np.full(self.shape[0], -np.inf)
        for _, piece in self.pieces():
            alive = ~np.isnan(piece).any(axis=0)
            count += int(alive.sum())
            total += piece[:, alive].sum(axis=1, dtype=np.float64)
            most = np.maximum(most, piece[:, alive].max(axis=1, initial=-np.inf))
        if not count:
            return np.full(self.shape[0], np.nan, np.float32)
        return np.asarray(total / count if how == "mean" else most, np.float32)

    def overlay(self, kind: str | int | None = None) -> Any:
        """A pillow image: a thumbnail, coloured by the best class of each cell, or by the score of one class."""
        return overlay(self, kind)


def _as_slice(part: Any, length: int) -> slice:
    if isinstance(part, slice):
        if (part.step or 1) < 1:
            raise UsageError("a map is sliced with positive steps")
        return part
    number = part + length if part < 0 else part
    if not 0 <= number < length:
        raise IndexError(part)
    return slice(number, number + 1)


def _best(found: Array, count: int) -> Array:
    """The columns of the highest scores, ties in order of place."""
    order = np.lexsort((found[1], found[0], -found[3]))
    return np.asarray(found[:, order[:count]])
