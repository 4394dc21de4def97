"""A scan as data, and what is done for each of its tiles: read, prepare, run, write. The same here and elsewhere."""

from __future__ import annotations

import math
import os
import threading
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import compress
from typing import Any

import numpy as np

from onnxfc.scanner.chunk_store import ChunkStore
from onnxfc.scanner.open_image import open_image
from onnxfc.scanner.options import Activation
from onnxfc.scanner.plan import Axis, Plan, Span, Tile
from onnxfc.scanner.prepare import Preparation
from onnxfc.scanner.scan_model import ScanModel
from onnxfc.scanner.source import Array, Edged, EdgeMode, OpenImage, Region, Resampled

CROPS = 32
"""That are run at once."""
_AHEAD = 8_000_000
"""Bytes of a tile, as the model takes it, up to which it is prepared before the session is free for it."""


@dataclass(frozen=True)
class Frame:
    """What of an image is looked at: a level, a region of it (x, y, width, height), resized, grown to a size."""

    level: int = 0
    region: tuple[int, int, int, int] | None = None
    factor: Fraction = Fraction(1)
    size: tuple[int, int] | None = None
    edge: EdgeMode = "none"

    def open(self, image: Any) -> OpenImage:
        """The image so. Raises ReadError or UsageError."""
        return self.of(open_image(image, self.level))

    def of(self, opened: OpenImage) -> OpenImage:
        """The same of one that is open."""
        source, place, rows = opened.source, opened.georeference, opened.rows
        if self.region is not None:
            left, top, width, height = self.region
            source = Region(source, (top, left), (height, width))
            place = None if place is None else place.moved(left, top)
        if self.factor != 1:
            source = Resampled(source, self.factor)
            place = None if place is None else place.scaled(float(1 / self.factor), float(1 / self.factor))
            rows = None if rows is None else int(rows * self.factor)
        if self.size is not None:
            source = Edged(source, self.size, self.edge)
        return replace(opened, source=source, georeference=place, rows=rows)

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column of the level where it begins."""
        return (0, 0) if self.region is None else (self.region[1], self.region[0])


@dataclass(frozen=True)
class Scoring:
    """What becomes of scores. ``crops``: run each cell's crop alone. ``classes``: those that are kept."""

    activation: Activation = "none"
    classes: tuple[int, ...] | None = None
    crops: bool = False
    no_data: float | None = None
    alpha: int | None = None

    def finish(self, scores: Array) -> Array:
        """Of (classes, ...)."""
        with np.errstate(over="ignore", invalid="ignore"):  # the sigmoid of -1e5 is 1 / inf
            if self.activation == "sigmoid":
                scores = 1 / (1 + np.exp(-scores))
            elif self.activation == "softmax":
                scores = np.exp(scores - scores.max(axis=0, keepdims=True))
                scores /= scores.sum(axis=0, keepdims=True)
        return scores if self.classes is None else scores[list(self.classes)]

    def valid(self, pixels: Array) -> Array | None:
        """Which pixels (h, w) are data; None where all are."""
        found: Array | None = None
        if self.no_data is not None:
            same = np.isnan(pixels) if np.isnan(self.no_data) else pixels == self.no_data
            colours = [band for band in range(pixels.shape[2]) if band != self.alpha]
            found = np.asarray(~same[:, :, colours].all(axis=2))
        if self.alpha is not None:
            seen = pixels[:, :, self.alpha] != 0
            found = seen if found is None else found & seen
        return None if found is None or found.all() else found


@dataclass(frozen=True)
class Job:
    """All that another process needs. ``token``: this run's own; ``model``: a rewritten model as its path or its bytes;
    ``at_once``: so many groups of tiles are run at once on a machine, and share its ``threads`` (0: its processors)."""

    token: str
    model: Any
    output: str
    image: Any
    frame: Frame
    preparation: Preparation
    scoring: Scoring
    plan: Plan
    store: ChunkStore
    threads: int = 0
    provider: str = ""
    batch: int = 1
    at_once: int = 1

    def worker(self, model: ScanModel | None = None, image: OpenImage | None = None) -> TileWorker:
        """In this process."""
        # One thread that has a tile of its own waits for nobody, as threads that share one do at every operator.
        threads = self.threads if self.at_once == 1 else max(1, (self.threads or processors()) // self.at_once)
        opened = self.frame.open(self.image) if image is None else image
        return TileWorker(self, model or ScanModel.open(self.model, self.output), opened, threads)

    def in_order(self, image: OpenImage) -> list[int]:
        """All tiles: row by row, in columns so narrow that the reader still has what the tiles above have read."""
        down, across = self.plan.tiles
        wide = across
        if image.kept is not None:
            height, width = self.plan.size
            wide = max(1, image.kept // (height + 2 * image.tall) // width - 1)
        return [
            row * across + column
            for left in range(0, across, wide)
            for row in range(down)
            for column in range(left, min(across, left + wide))
        ]

    def groups(self, numbers: list[int]) -> list[list[int]]:
        """As many tiles as are run at once."""
        return [numbers[first : first + self.batch] for first in range(0, len(numbers), self.batch)]


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass
class _Loaded:
    """A tile's pixels (h, w, bands), or (bands, h, w) once they are ``prepared``; None where it has no data, or once
    the model has been given them. ``dead``: cells that have none."""

    tile: Tile
    pixels: Array | None
    dead: Array | None = None
    prepared: bool = False


class TileWorker:
    """Reads and runs tiles."""

    def __init__(self, job: Job, model: ScanModel, image: OpenImage, threads: int) -> None:
        self.job, self.image = job, image
        self.native = model.claim.native_size
        self._looks_around = model.geometry.context and not job.scoring.crops
        self.session = model.session(threads, job.provider)
        self._most = model.fixed_batch or job.batch
        self._crops_at_once = model.fixed_batch or CROPS
        self._free = threading.BoundedSemaphore(job.at_once)

    def do(self, numbers: list[int]) -> list[int]:
        """All of these tiles, from pixels to chunks."""
        loaded = self.load(numbers)
        with self._free:  # others are read and written meanwhile
            blocks = self.run(loaded)
        for item, block in zip(loaded, blocks, strict=True):
            self.job.store.write(item.tile.number, self._finished(item, block))
        return numbers

    def load(self, numbers: list[int]) -> list[_Loaded]:
        """What these tiles read."""
        return [self._load(self.job.plan[number]) for number in numbers]

    def _load(self, tile: Tile) -> _Loaded:
        rows, columns = tile.rows, tile.columns
        pixels = self.image.source.read(rows.start, rows.stop, columns.start, columns.stop)
        dead = self._dead(tile, pixels)
        if dead is not None and dead.all():
            return _Loaded(tile, None, dead)
        made = self.job.preparation
        small = math.prod(pixels.shape[:2]) * len(made.bands) * np.dtype(made.dtype).itemsize <= _AHEAD
        return _Loaded(tile, made.apply(pixels) if small else pixels, dead, small)

    def _prepared(self, item: _Loaded) -> Array:
        """Of large tiles only now, as most are of bytes: those that wait take less memory so, and what they are made of
        is not kept while the session runs."""
        pixels, item.pixels = item.pixels, None
        assert pixels is not None
        return pixels if item.prepared else self.job.preparation.apply(pixels)

    def _dead(self, tile: Tile, pixels: Array) -> Array | None:
        """Cells without a score: those whose crop has no valid pixel at all, and those that depend on a NaN, which
        some operators of onnxruntime pass on and others turn into a number. None where there are none."""
        found: Array | None = None
        valid = self.job.scoring.valid(pixels)
        if valid is not None:
            self._without_edge(tile, valid)
            found = self._count(tile, valid, around=False) == 0
        if pixels.dtype.kind == "f":
            spoiled = np.asarray(np.isnan(pixels[:, :, list(self.job.preparation.bands)]).any(axis=2))
            if spoiled.any():
                reached = self._count(tile, spoiled, around=True) > 0
                found = reached if found is None else found | reached
        return found

    def _without_edge(self, tile: Tile, valid: Array) -> None:
        """Zeros that the image is grown by are no data of its own: what lies beside them decides."""
        source = self.image.source
        if isinstance(source, Edged) and source.mode == "constant":
            height, width = source.source.shape[:2]
            valid[max(0, height - tile.rows.start) :] = False
            valid[:, max(0, width - tile.columns.start) :] = False

    def _count(self, tile: Tile, chosen: Array, around: bool) -> Array:
        """How many of the chosen pixels (h, w) each cell's crop has; ``around``: with all that the cell depends on."""
        sums = np.zeros((chosen.shape[0] + 1, chosen.shape[1] + 1), np.int64)
        sums[1:, 1:] = chosen.cumsum(0, dtype=np.int64).cumsum(1)
        (top, bottom), (left, right) = (
            self._reach(axis, span, around)
            for axis, span in zip(self.job.plan.axes, (tile.rows, tile.columns), strict=True)
        )
        corners = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)]
        return np.asarray(corners + sums[np.ix_(top, left)])

    def _reach(self, axis: Axis, span: Span, around: bool) -> tuple[Array, Array]:
        """First pixel and end of what each cell looks at, counted in the tile."""
        begin = np.array([axis.begin(cell) - span.start for cell in range(span.first, span.last)])
        if around and self._looks_around:
            begin, end = begin * 0, begin * 0 + span.pixels
        else:
            end = begin + axis.own + around * axis.after
            begin = begin - around * axis.before
        return np.clip(begin, 0, span.pixels), np.clip(end, 0, span.pixels)

    def run(self, loaded: list[_Loaded]) -> list[Array | None]:
        """What the model says of tiles, (classes, rows, columns); None where there is no data."""
        alive = [item.pixels is not None for item in loaded]
        live = list(compress(loaded, alive))
        blocks = iter([self._by_crops(item) for item in live] if self.job.scoring.crops else self._by_tiles(live))
        return [next(blocks) if has else None for has in alive]

    def _by_tiles(self, live: list[_Loaded]) -> list[Array]:
        blocks: list[Array] = []
        for first in range(0, len(live), self._most):
            group = live[first : first + self._most]
            tiles = [self._prepared(item) for item in group]
            scores = self.session.run(np.stack(tiles) if len(tiles) > 1 else tiles[0][None])
            blocks += [self._kept(item.tile, block) for item, block in zip(group, scores, strict=True)]
        return blocks

    def _kept(self, tile: Tile, block: Array) -> Array:
        """The tile's own cells. It has them all, and at the image's end there are no others. A copy: else the session
        would have to find room for its next scores beside these."""
        for axis, span, have in zip(self.job.plan.axes, (tile.rows, tile.columns), block.shape[1:], strict=True):
            ends = span.last == axis.cells and span.stop == axis.length
            assert have == span.kept.stop or (have > span.kept.stop and not ends), f"{tile} gives {block.shape}"
        return block[:, tile.rows.kept, tile.columns.kept].copy()

    def _by_crops(self, item: _Loaded) -> Array:
        (height, width), axes = self.native, self.job.plan.axes
        pixels = self._prepared(item)
        views = np.lib.stride_tricks.sliding_window_view(pixels, (height, width), (1, 2))
        views = views[:, :: axes[0].stride, :: axes[1].stride][:, item.tile.rows.kept, item.tile.columns.kept]
        views = views.transpose(1, 2, 0, 3, 4)
        places = [(i, j) for i in range(views.shape[0]) for j in range(views.shape[1])]
        parts = []
        for first in range(0, len(places), self._crops_at_once):
            crops = np.stack([views[place] for place in places[first : first + self._crops_at_once]])
            parts.append(self.session.run(crops).reshape(len(crops), -1))
        return np.concatenate(parts).T.reshape(-1, *views.shape[:2])

    def _finished(self, item: _Loaded, block: Array | None) -> Array:
        rows, columns = item.tile.rows, item.tile.columns
        if block is None:
            return np.full((self.job.store.shape[0], rows.last - rows.first, columns.last - columns.first), np.nan)
        done = self.job.scoring.finish(block)
        if item.dead is not None:
            done = np.where(item.dead, np.float32(np.nan), done)
        return done
