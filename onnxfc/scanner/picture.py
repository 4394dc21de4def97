"""A thumbnail of the image with its map over it, and a legend: what people look at."""

from __future__ import annotations

import colorsys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.source import Array, OpenImage

if TYPE_CHECKING:
    from onnxfc.scanner.score_map import ScoreMap

_SIDE = 1600
_LEAST = 960
_LEGEND = 20
_WINDOW = (512, 4096)
"""Rows and columns that are read at once, about."""
_STOPS = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Dark to bright, as matplotlib's viridis."""


def overlay(made: ScoreMap, kind: str | int | None) -> Any:
    """A pillow image. ``kind``: one class, by name or number; else the best of each cell."""
    pillow, drawing = (import_module(f"PIL.{name}") for name in ("Image", "ImageDraw"))
    chosen = 0 if made.shape[0] == 1 else None if kind is None else class_number(made.classes, kind)
    step = max(1, -(-max(made.image.size) // _SIDE))
    base = _thumbnail(made.image, step).astype(np.float32)
    zoom = max(1, _LEAST // max(base.shape[:2]))
    colours, opacity, legend = _heat(made, chosen) if chosen is not None else _classes(made)
    rows = _cells(made, base.shape[0], step, 0)
    columns = _cells(made, base.shape[1], step, 1)
    inside = (rows >= 0)[:, None] & (columns >= 0)[None]
    place = np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))
    share = np.where(inside, opacity[place], 0)[:, :, None]
    mixed = base * (1 - share) + colours[place] * share
    picture = pillow.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))
    picture = picture.resize((picture.width * zoom, picture.height * zoom), pillow.Resampling.NEAREST)
    whole = pillow.new("RGB", (picture.width + 150, max(picture.height, 18 * len(legend) + 12)), "white")
    whole.paste(picture, (0, 0))
    draw = drawing.Draw(whole)
    for k, (colour, text) in enumerate(legend):
        y = 6 + 18 * k
        draw.rectangle((picture.width + 10, y, picture.width + 22, y + 12), fill=colour, outline="black")
        draw.text((picture.width + 28, y), text[:18].encode("latin-1", "replace").decode("latin-1"), fill="black")
    return whole


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


def _cells(made: ScoreMap, count: int, step: int, axis: int) -> Array:
    """The cell over each pixel of the thumbnail; -1 where there is none."""
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


Legend = list[tuple[tuple[int, int, int], str]]


def _best(made: ScoreMap) -> tuple[Array, Array]:
    """Class and score of each cell."""
    kinds, scores = [], []
    for _, piece in made.pieces():
        filled = np.nan_to_num(piece, nan=-np.inf)
        kinds.append(filled.argmax(axis=0))
        scores.append(filled.max(axis=0))
    return np.concatenate(kinds), np.concatenate(scores)


def _share(score: Array) -> tuple[Array, float, float]:
    """From 0 to 1, and what these stand for."""
    alive = np.isfinite(score)
    low, high = (float(score[alive].min()), float(score[alive].max())) if alive.any() else (0.0, 0.0)
    return np.where(alive, (score - low) / max(high - low, 1e-12), 0), low, high


def _heat(made: ScoreMap, kind: int) -> tuple[Array, Array, Legend]:
    score = made[kind].astype(np.float32)
    share, low, high = _share(score)
    stops = np.array(_STOPS, np.float32)
    where = share * (len(stops) - 1)
    below = np.minimum(where.astype(int), len(stops) - 2)
    part = (where - below)[:, :, None]
    colours = stops[below] * (1 - part) + stops[below + 1] * part
    legend: Legend = [((255, 255, 255), f"class {made.classes[kind]}")]
    legend += [(stop, f"{low + (high - low) * k / 4:.4g}") for k, stop in reversed(list(enumerate(_STOPS)))]
    return colours, np.where(np.isfinite(score), 0.2 + 0.45 * share, 0), legend


def _classes(made: ScoreMap) -> tuple[Array, Array, Legend]:
    kinds, score = _best(made)
    share, _, _ = _share(score)
    palette = [_colour(k) for k in range(made.shape[0])]
    alive = np.isfinite(score)
    count = np.bincount(kinds[alive], minlength=made.shape[0])
    frequent = sorted(np.argsort(-count, kind="stable")[:_LEGEND])
    legend: Legend = [(palette[k], made.classes[k]) for k in frequent if count[k]]
    return np.array(palette, np.float32)[kinds], np.where(alive, 0.7 * share, 0), legend


def _colour(number: int) -> tuple[int, int, int]:
    """Hues a golden angle apart, which are unlike however many there are."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.61803 % 1, 0.85, 0.95 if number % 2 else 0.7)
    return round(red * 255), round(green * 255), round(blue * 255)
