"""What people look at: the image, beside it the map over the image in grey, a title and a legend."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.source import Array, OpenImage

if TYPE_CHECKING:
    from onnxfc.scanner.score_map import ScoreMap

_SIDE = 1200
_LEAST = 720
_CELL = 16
"""Pixels a side of a cell, where there is room."""
_ROOM, _SURE = 14, 0.75
"""Pixels a side that two letters need; which share of the range of scores is told by name."""
_MARGIN, _LINE, _COLUMN, _LETTERS = 16, 20, 190, 22
_WINDOW, _PIECE = (512, 4096), 1 << 20
"""Rows and columns of pixels, and scores, that are read at once, about."""
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
    """Of each cell its colour, and how much of it there is, 0 to 1; NaN: no data. ``legend``: what colours mean.
    ``names``: what is written into cells, where they have room for it; empty: nothing."""

    colours: Array
    share: Array
    legend: Legend
    names: Array | None = None


def overlay(made: ScoreMap, kind: str | int | None) -> Any:
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
    panels = [pillow.fromarray(item.astype(np.uint8)) for item in (seen, _over(seen, rows, columns, painted))]
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
    place = np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))
    share = painted.share[place][:, :, None]
    there = ((rows >= 0)[:, None] & (columns >= 0)[None])[:, :, None] & np.isfinite(share)
    light = seen.mean(axis=2, keepdims=True) / 255
    mixed = (255 + (painted.colours[place] - 255) * np.where(there, share, 0)) * (0.75 + 0.25 * light)
    found = np.where(there, mixed, 255 * light)
    for axis, cells in ((0, rows), (1, columns)):
        edges = np.flatnonzero(np.diff(cells)) + 1
        if len(cells) >= 8 * len(edges):  # else lines would be all that is seen
            lines = (edges,) if axis == 0 else (slice(None), edges)
            found[lines] = np.where(there[lines], found[lines] * 0.6 + 102, found[lines])
    return np.asarray(found)


def _name(panel: Any, rows: Array, columns: Array, painted: _Painted) -> None:
    """Write the names of classes into the cells that score most, where they have room."""
    edges = [np.flatnonzero(np.diff(cells, prepend=-1, append=-1)) for cells in (rows, columns)]
    if painted.names is None or min(int(np.diff(item).max(initial=0)) for item in edges) < _ROOM:
        return
    drawing, fonts = import_module("PIL.ImageDraw").Draw(panel), import_module("PIL.ImageFont")
    font = fonts.load_default(max(11, min(int(np.diff(item).max()) for item in edges) // 2))
    down, across = ([(a + b) // 2 for a, b in pairwise(item)] for item in edges)
    for y, x in ((y, x) for y in down for x in across):
        row, column = rows[y], columns[x]
        if row >= 0 and column >= 0 and painted.share[row, column] >= _SURE:
            ink = "black" if painted.colours[row, column].sum() > 330 else "white"
            drawing.text((x, y), painted.names[row, column], fill=ink, font=font, anchor="mm")


def _cells(made: ScoreMap, count: int, step: float, axis: int) -> Array:
    """The cell over each of so many pixels, ``step`` of the image's apart; -1 where there is none."""
    placing, most = made.placing, made.shape[axis + 1]
    found = np.array([placing.cell(placing.given((k + 0.5) * step, axis), axis) for k in range(count)])
    return np.where((found >= 0) & (found < most), found, -1)


def _thumbnail(image: OpenImage, step: int) -> Array:
    """RGB from 0 to 255, each pixel the mean of ``step`` x ``step``."""
    height, width = image.size
    found = np.zeros((-(-height // step), -(-width // step), image.bands), np.float32)
    tall, wide = (step * max(1, side // step) for side in _WINDOW)
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            pixels = image.source.read(top, min(height, top + tall), left, min(width, left + wide))
            mean = _mean(_mean(pixels.astype(np.float32), step, 0), step, 1)
            at = top // step, left // step
            found[at[0] : at[0] + mean.shape[0], at[1] : at[1] + mean.shape[1]] = mean
    found = np.nan_to_num(found)
    colours = [band for band in range(image.bands) if band != image.alpha]
    found = found[:, :, colours[:3] if len(colours) >= 3 else [colours[0]] * 3]
    if image.source.dtype != np.uint8:
        low, high = float(found.min()), float(found.max())
        found = (found - low) * (255 / max(high - low, 1e-12))
    return np.asarray(found)


def _mean(pixels: Array, step: int, axis: int) -> Array:
    """Of so many rows or columns at a time; the last may be fewer."""
    edges = np.arange(0, pixels.shape[axis], step)
    counts = np.diff(np.append(edges, pixels.shape[axis]))
    shape = [1, 1, 1]
    shape[axis] = len(counts)
    return np.asarray(np.add.reduceat(pixels, edges, axis=axis) / counts.reshape(shape))


def _best(made: ScoreMap, shown: list[Array], kind: int | None) -> tuple[Array, Array]:
    """Class and score of the cells that are ``shown`` (rows, columns): the best class's, or those of one. Of a large
    map no more than that is ever in memory."""
    kinds, scores = [], []
    classes = slice(None) if kind is None else slice(kind, kind + 1)
    tall = max(1, _PIECE // (made.shape[2] * (made.shape[0] if kind is None else 1)))
    for top in range(0, made.shape[1], tall):
        rows = shown[0][(shown[0] >= top) & (shown[0] < top + tall)]
        piece = made.cells.read(classes, slice(top, min(made.shape[1], top + tall)), slice(None))
        filled = np.nan_to_num(piece[:, rows - top][:, :, shown[1]], nan=-np.inf)
        kinds.append(filled.argmax(axis=0))
        scores.append(filled.max(axis=0))
    return np.concatenate(kinds), np.concatenate(scores)


def _share(score: Array) -> tuple[Array, float, float]:
    """From 0 to 1, NaN where there is no data, and what these stand for."""
    alive = np.isfinite(score)
    low, high = (float(score[alive].min()), float(score[alive].max())) if alive.any() else (0.0, 0.0)
    return np.where(alive, (score - low) / max(high - low, 1e-12), np.nan), low, high


def _heat(made: ScoreMap, shown: list[Array], kind: int) -> _Painted:
    share, low, high = _share(_best(made, shown, kind)[1])
    stops = np.array(_STOPS, np.float32)
    where = np.nan_to_num(share) * (len(stops) - 1)
    below = np.minimum(where.astype(int), len(stops) - 2)
    part = (where - below)[:, :, None]
    colours = stops[below] * (1 - part) + stops[below + 1] * part
    legend: Legend = [(None, f"class {made.classes[kind]}")]
    legend += [(stop, _figure(low, high, k / 4)) for k, stop in reversed(list(enumerate(_STOPS)))]
    return _Painted(colours, np.where(np.isnan(share), share, 1), legend)


def _classes(made: ScoreMap, shown: list[Array]) -> _Painted:
    """The classes that have most of the map in colours, those first, all others in one."""
    kinds, score = _best(made, shown, None)
    share, low, high = _share(score)
    weight = np.bincount(kinds.ravel(), np.nan_to_num(share).ravel() + np.isfinite(share).ravel(), made.shape[0])
    there = np.flatnonzero(weight)
    coloured = there[np.argsort(-weight[there], kind="stable")][: len(COLOURS)]
    palette = np.full((made.shape[0], 3), _OTHERS, np.float32)
    palette[coloured] = COLOURS[: len(coloured)]
    legend: Legend = [(None, "class")]
    legend += [(colour, made.classes[k]) for k, colour in zip(coloured, COLOURS, strict=False)]
    if len(there) > len(coloured):
        legend.append((_OTHERS, f"{len(there) - len(coloured)} others"))
    legend += [(None, ""), (None, "score")]
    legend += [(_pale(part), _figure(low, high, part)) for part in (1, 0.5, 0)]
    names = np.array([_plain(name) for name in made.classes])
    return _Painted(palette[kinds], share, legend, names[kinds] if max(map(len, made.classes)) <= 2 else None)


def _figure(low: float, high: float, part: float) -> str:
    """The score at a part of the range, to a thousandth of it."""
    figure = low + (high - low) * part
    return f"{0 if abs(figure) < (high - low) / 1000 else figure:.3g}"


def _pale(share: float) -> Colour:
    """The first colour where the score is low or high."""
    red, green, blue = (round(255 + (part - 255) * share) for part in COLOURS[0])
    return red, green, blue


def _title(made: ScoreMap, chosen: int | None) -> list[str]:
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
