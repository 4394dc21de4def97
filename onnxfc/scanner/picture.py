"""What people look at: the image, beside it the map over the image in grey, a title and a legend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.placing import Placing
from onnxfc.scanner.source import Array, OpenImage

_SIDE = 1200
_LEAST = 720
_CELL = 16
"""Pixels a side of a cell, where there is room."""
_ROOM, _SURE = 14, 0.75
"""Pixels a side that two letters need; which share of the range of scores is told by name."""
_MARGIN, _LINE, _COLUMN, _LETTERS = 16, 20, 190, 22
_WINDOW, _STRIP = (256, 4096), 64
"""Rows and columns of pixels that are read at once, about; rows of the picture painted at once."""
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Dark to bright, as matplotlib's viridis."""
COLOURS = (
    *((63, 144, 218), (255, 169, 14), (189, 31, 1), (146, 218, 221), (131, 45, 182)),
    *((169, 107, 89), (231, 99, 0), (185, 172, 112), (113, 117, 129), (148, 164, 162)),
)
"""Ten that people with any colour vision tell apart (M. Petroff, arXiv 2107.02270), the two greys last."""
_OTHERS = (40, 40, 40)

Colour = tuple[int, int, int]
Legend = list[tuple[Colour | None, str]]


@dataclass(frozen=True)
class _Painted:
    """Of each cell which colour of the ``palette`` it has, and how much of it, 0 to 1; NaN: no data. ``legend``: what
    colours mean. ``names``: of the colours, which are written into cells that have room for them; empty: nothing."""

    palette: Array
    colours: Array
    share: Array
    legend: Legend
    names: tuple[str, ...] = ()


class Shown(Protocol):
    """What is painted, of a ScoreMap."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, rows, columns."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""

    @property
    def placing(self) -> Placing:
        """Where cells lie in the image."""

    @property
    def image(self) -> OpenImage:
        """What was scanned."""

    @property
    def notes(self) -> dict[str, Any]:
        """How the map was made."""

    def pieces(self, classes: slice) -> Iterator[tuple[int, Array]]:
        """Some classes in bands of rows, with the first row of each."""


def overlay(made: Shown, kind: str | int | None) -> Any:
    """A pillow image. ``kind``: one class, by name or number; else the best of each cell."""
    pillow = import_module("PIL.Image")
    chosen = 0 if made.shape[0] == 1 else None if kind is None else class_number(made.classes, kind)
    step = max(1, -(-max(made.image.size) // _SIDE))
    seen = _thumbnail(made.image, step)
    zoom = _zoom(max(seen.shape[:2]), min(made.placing.pitch) / step)
    seen = seen.repeat(zoom, axis=0).repeat(zoom, axis=1)
    places = [_cells(made, seen.shape[axis], step / zoom, axis) for axis in (0, 1)]
    shown = [np.unique(np.maximum(cells, 0)) for cells in places]
    painted = _heat(made, shown, chosen) if chosen is not None else _classes(made, shown)
    rows, columns = (np.where(k < 0, k, np.searchsorted(have, k)) for have, k in zip(shown, places, strict=True))
    panels = [pillow.fromarray(item) for item in (seen, _over(seen, rows, columns, painted))]
    _name(panels[1], rows, columns, painted)
    return _composed(panels, painted.legend, _title(made, chosen))


def class_number(names: tuple[str, ...], kind: str | int) -> int:
    """Of a class by its name or number. Raises UsageError."""
    if isinstance(kind, str) and kind in names:
        return names.index(kind)
    try:
        number = int(kind)
    except ValueError:
        number = -1
    if not 0 <= number < len(names):
        raise UsageError(f"class {kind}: is none of {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}")
    return number


def _zoom(longest: int, cell: float) -> int:
    """How many pixels of the picture a thumbnail's pixel gets; ``cell``: pixels of it from cell to cell."""
    wanted = max(-(-_LEAST // longest), round(_CELL / cell))
    return max(1, min(_SIDE // longest, wanted))


def _over(seen: Array, rows: Array, columns: Array, painted: _Painted) -> Array:
    """The map over the image in grey: colours on white, pale where the score is low, darker where the image is.
    ``rows``, ``columns``: which cell lies over each row and column of pixels."""
    found, lines = np.empty_like(seen), [_lines(cells) for cells in (rows, columns)]
    for top in range(0, len(rows), _STRIP):
        strip = slice(top, top + _STRIP)
        place = np.ix_(np.maximum(rows[strip], 0), np.maximum(columns, 0))
        share = painted.share[place]
        there = (rows[strip] >= 0)[:, None] & (columns >= 0) & np.isfinite(share)
        light = seen[strip].mean(axis=2, keepdims=True, dtype=np.float32) / 255
        tint = (255 - painted.palette[painted.colours[place]]) * np.where(there, share, 0)[:, :, None]
        mixed = np.where(there[:, :, None], (255 - tint) * (0.75 + 0.25 * light), 255 * light)
        edge = there & (lines[0][strip, None] | lines[1])
        mixed[edge] = mixed[edge] * 0.6 + 102
        found[strip] = mixed
    return found


def _lines(cells: Array) -> Array:
    """Where a cell begins; nowhere, if lines would be all that is seen."""
    edges = np.diff(cells, prepend=cells[0]) != 0
    return np.asarray(edges & (len(cells) >= 8 * np.count_nonzero(edges)))


def _name(panel: Any, rows: Array, columns: Array, painted: _Painted) -> None:
    """Write the names of classes into the cells that score most, where they have room."""
    edges = [np.flatnonzero(np.diff(cells, prepend=-1, append=-1)) for cells in (rows, columns)]
    if not painted.names or min(int(np.diff(item).max(initial=0)) for item in edges) < _ROOM:
        return
    drawing, fonts = import_module("PIL.ImageDraw").Draw(panel), import_module("PIL.ImageFont")
    font = fonts.load_default(max(11, min(int(np.diff(item).max()) for item in edges) // 2))
    down, across = ([(a + b) // 2 for a, b in pairwise(item)] for item in edges)
    for y, x in ((y, x) for y in down for x in across):
        row, column = rows[y], columns[x]
        if row >= 0 and column >= 0 and painted.share[row, column] >= _SURE:
            kind = painted.colours[row, column]
            ink = "black" if painted.palette[kind].sum() > 330 else "white"
            drawing.text((x, y), painted.names[kind], fill=ink, font=font, anchor="mm")


def _cells(made: Shown, count: int, step: float, axis: int) -> Array:
    """The cell over each of so many pixels, ``step`` of the image's apart; -1 where there is none."""
    placing, most = made.placing, made.shape[axis + 1]
    found = np.array([placing.cell(placing.given(Fraction((k + 0.5) * step), axis), axis) for k in range(count)])
    return np.where((found >= 0) & (found < most), found, -1)


def _thumbnail(image: OpenImage, step: int) -> Array:
    """RGB from 0 to 255, each pixel the mean of ``step`` x ``step``; there may be fewer at the end."""
    height, width = image.size
    colours = [band for band in range(image.bands) if band != image.alpha]
    colours = colours[:3] if len(colours) >= 3 else colours[:1]
    across = np.arange(0, width, step)
    wide = np.diff(np.append(across, width))[:, None]
    plain = image.source.dtype == np.uint8
    hidden = None if plain or image.no_data is None else image.no_data  # else all else would be of one grey beside it
    found = np.empty((-(-height // step), len(across), len(colours)), np.uint8 if plain else np.float32)
    tall, many = (max(1, side // step) for side in _WINDOW)
    for top in range(0, height, tall * step):
        for first in range(0, len(across), many):
            left, right = first * step, min(width, (first + many) * step)
            pixels = image.source.read(top, min(height, top + tall * step), left, right)[:, :, colours]
            for row in range(0, len(pixels), step):
                rows = pixels[row : row + step]
                if hidden is not None:
                    rows = np.where(rows == hidden, np.float32(np.nan), rows)
                sums = np.add.reduceat(rows.sum(axis=0, dtype=np.float32), across[first : first + many] - left, axis=0)
                found[(top + row) // step, first : first + many] = sums / (len(rows) * wide[first : first + many])
    if not plain:
        finite = found[np.isfinite(found)]
        low, high = float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf))
        found = np.clip((found - low) * (255 / max(high - low, 1e-12)), 0, 255)
        found = np.nan_to_num(found, nan=0).astype(np.uint8)
    return found.repeat(3 // len(colours), axis=2)


def _best(made: Shown, shown: list[Array], kind: int | None) -> tuple[Array, Array]:
    """Class and score of the cells that are ``shown`` (rows, columns): the best class's, or those of one. Of a large
    map no more than that is ever in memory."""
    kinds, scores = (np.zeros([*map(len, shown)], dtype) for dtype in (np.uint32, np.float32))
    for top, piece in made.pieces(slice(None) if kind is None else slice(kind, kind + 1)):
        first, last = np.searchsorted(shown[0], (top, top + piece.shape[1]))
        filled = np.nan_to_num(piece[:, shown[0][first:last] - top][:, :, shown[1]], nan=-np.inf)
        kinds[first:last], scores[first:last] = filled.argmax(axis=0), filled.max(axis=0)
    return kinds, scores


def _share(score: Array) -> tuple[Array, float, float]:
    """From 0 to 1, NaN where there is no data, and what these stand for."""
    alive = np.isfinite(score)
    low, high = (float(score[alive].min()), float(score[alive].max())) if alive.any() else (0.0, 0.0)
    return np.where(alive, (score - low) / max(high - low, 1e-12), np.nan), low, high


def _heat(made: Shown, shown: list[Array], kind: int) -> _Painted:
    share, low, high = _share(_best(made, shown, kind)[1])
    levels = np.arange(256) / 255 * (len(_STOPS) - 1)
    palette = np.stack([np.interp(levels, range(len(_STOPS)), stops) for stops in zip(*_STOPS, strict=True)], axis=1)
    legend: Legend = [(None, f"class {made.classes[kind]}")]
    legend += [(stop, _figure(low, high, k / 4)) for k, stop in reversed(list(enumerate(_STOPS)))]
    colours = np.rint(np.nan_to_num(share) * 255).astype(np.uint8)
    return _Painted(palette.astype(np.float32), colours, np.where(np.isnan(share), share, 1), legend)


def _classes(made: Shown, shown: list[Array]) -> _Painted:
    """The classes that have most of the map in colours, those first, all others in one."""
    kinds, score = _best(made, shown, None)
    share, low, high = _share(score)
    weights = np.nan_to_num(share) + np.isfinite(share)
    weight = np.sum([np.bincount(*row, made.shape[0]) for row in zip(kinds, weights, strict=True)], axis=0)
    there = np.flatnonzero(weight)
    coloured = there[np.argsort(-weight[there], kind="stable")][: len(COLOURS)]
    palette = np.full((made.shape[0], 3), _OTHERS, np.float32)
    palette[coloured] = np.reshape(COLOURS[: len(coloured)], (-1, 3))
    legend: Legend = [(None, "class")]
    legend += [(colour, made.classes[k]) for k, colour in zip(coloured, COLOURS, strict=False)]
    if len(there) > len(coloured):
        legend.append((_OTHERS, f"{len(there) - len(coloured)} others"))
    legend += [(None, ""), (None, "score")]
    legend += [(_pale(part), _figure(low, high, part)) for part in (1, 0.5, 0)]
    names = tuple(map(_plain, made.classes))
    return _Painted(palette, kinds, share, legend, names if max(map(len, names)) <= 2 else ())


def _figure(low: float, high: float, part: float) -> str:
    """The score at a part of the range, to a thousandth of it."""
    figure = low + (high - low) * part
    return f"{0 if abs(figure) < (high - low) / 1000 else figure:.3g}"


def _pale(share: float) -> Colour:
    """The first colour where the score is low or high."""
    red, green, blue = (round(255 + (part - 255) * share) for part in COLOURS[0])
    return red, green, blue


def _title(made: Shown, chosen: int | None) -> list[str]:
    """What is seen, in two lines."""
    notes, (_, rows, columns) = made.notes, made.shape
    model, image = (Path(notes[key].get("file", notes[key].get("folder", key))).name for key in ("model", "image"))
    own, pitch = (axis.own for axis in made.placing.axes), made.placing.pitch
    what = "the best class of each cell" if chosen is None else f"class {made.classes[chosen]}"
    after = "" if notes["activation"] == "none" else f", {notes['activation']}"
    sizes = f"each of the {'x'.join(map(str, own))} px around it, {'x'.join(f'{item:g}' for item in pitch)} px apart"
    return [f"{model} over {image}", f"{what}{after}: {rows}x{columns} cells, {sizes}"]


def _composed(panels: list[Any], legend: Legend, title: list[str]) -> Any:
    """The panels beside each other, or one above the other where they are wide; the title above, the legend right."""
    pillow, drawing, fonts = (import_module(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    width, height = panels[0].size
    wide = width > 1.2 * height
    right, down = (0, height + _MARGIN) if wide else (width + _MARGIN, 0)
    top, left = _MARGIN + _LINE * len(title) + 8, _MARGIN + right + width + _MARGIN
    bottom = max(top + down + height, top + _LINE * len(legend)) + _MARGIN
    font, large = fonts.load_default(14), fonts.load_default(18)
    across = max(left + _COLUMN, *(round(large.getlength(line)) + 2 * _MARGIN for line in title))
    whole = pillow.new("RGB", (across, bottom), "white")
    draw = drawing.Draw(whole)
    for k, line in enumerate(title):
        draw.text((_MARGIN, _MARGIN - 6 + k * (_LINE + 4)), _plain(line), fill="black", font=font if k else large)
    for k, panel in enumerate(panels):
        whole.paste(panel, (_MARGIN + k * right, top + k * down))
    for k, (colour, text) in enumerate(legend):
        y = top + _LINE * k
        if colour is not None:
            draw.rectangle((left, y + 1, left + 22, y + 15), fill=colour, outline="black")
        draw.text((left + (0 if colour is None else 30), y), _plain(text[:_LETTERS]), fill="black", font=font)
    return whole


def _plain(text: str) -> str:
    """In the letters that pillow's own font has."""
    return text.encode("latin-1", "replace").decode("latin-1")
