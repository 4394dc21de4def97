"""Where an image lies on a map, and where the map of its scores does.

A transform takes columns and rows, counted from the corner of the first pixel, to map coordinates:
x = a * column + b * row + c, y = d * column + e * row + f. A raster whose coordinates are those of points is moved by
half a pixel, as GDAL does, and back when it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

Transform = tuple[float, float, float, float, float, float]
Tag = tuple[int, str, int, Any, bool]

_SCALE, _TIE, _MATRIX, _KEYS, _DOUBLES, _TEXT = 33550, 33922, 34264, 34735, 34736, 34737
_RASTER_TYPE, _POINT = 1025, 2


@dataclass(frozen=True)
class Georeference:
    """``point``: the file's coordinates are those of the middles of its pixels. ``keys``: its coordinate system."""

    transform: Transform
    point: bool = False
    keys: tuple[Tag, ...] = ()

    @classmethod
    def of_tags(cls, tags: Mapping[int, Any]) -> Georeference | None:
        """From the values of a GeoTIFF's tags; None where it has no transform."""
        found = _transform(tags)
        if found is None:
            return None
        directory = tuple(tags.get(_KEYS, ()))
        entries = {directory[k]: directory[k + 3] for k in range(4, len(directory) - 3, 4)}
        point = entries.get(_RASTER_TYPE) == _POINT
        kinds = ((_KEYS, "H"), (_DOUBLES, "d"), (_TEXT, "s"))
        keys = tuple((code, kind, _count(tags[code], kind), tags[code], True) for code, kind in kinds if code in tags)
        made = cls(found, point, keys)
        return made.moved(-0.5, -0.5) if point else made

    def moved(self, column: float, row: float) -> Georeference:
        """That of an image which begins at this column and row."""
        a, b, c, d, e, f = self.transform
        return replace(self, transform=(a, b, a * column + b * row + c, d, e, d * column + e * row + f))

    def scaled(self, across: float, down: float) -> Georeference:
        """That of an image whose pixels are so many times as large."""
        a, b, c, d, e, f = self.transform
        return replace(self, transform=(a * across, b * down, c, d * across, e * down, f))

    def place(self, column: float, row: float) -> tuple[float, float]:
        """Map coordinates."""
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f

    def tags(self) -> list[Tag]:
        """For a GeoTIFF of the same coordinate system and raster type."""
        a, b, c, d, e, f = (self.moved(0.5, 0.5) if self.point else self).transform
        if b == d == 0 and a > 0 and e < 0:
            where = [(_SCALE, "d", 3, (a, -e, 0.0), True), (_TIE, "d", 6, (0.0, 0.0, 0.0, c, f, 0.0), True)]
        else:
            matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
            where = [(_MATRIX, "d", 16, matrix, True)]
        return [*where, *self.keys]

    @property
    def epsg(self) -> int | None:
        """The code of its coordinate system, where it has one."""
        directory = next((tuple(tag[3]) for tag in self.keys if tag[0] == _KEYS), ())
        entries = {directory[k]: directory[k + 3] for k in range(4, len(directory) - 3, 4)}
        code = entries.get(3072) or entries.get(2048)
        return int(code) if code and code != 32767 else None


def _count(value: Any, kind: str) -> int:
    return len(value) + 1 if kind == "s" else len(value)


def _transform(tags: Mapping[int, Any]) -> Transform | None:
    """As GDAL reads them: a scale goes ahead of a matrix, its rows go down, and the first of its tie points counts."""
    across, down = (abs(float(item)) if k else float(item) for k, item in enumerate((*tags.get(_SCALE, ()), 0, 0)[:2]))
    if across and down:
        if len(tags.get(_TIE, ())) < 6:
            return None
        i, j, _, x, y, _ = (float(item) for item in tags[_TIE][:6])
        return across, 0.0, x - i * across, 0.0, -down, y + j * down
    if len(tags.get(_MATRIX, ())) == 16:
        m = [float(item) for item in tags[_MATRIX]]
        return m[0], m[1], m[3], m[4], m[5], m[7]
    return None
