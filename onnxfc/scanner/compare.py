"""Cells against the crops that they stand for: what the original says of those."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.job import TileWorker
from onnxfc.scanner.score_map import Array, ScoreMap


@dataclass(frozen=True)
class Compared:
    """So many cells, their largest and median deviation from their crops as a share of the range of scores, and the
    share of cells whose best class is the crop's."""

    cells: int
    largest: float
    median: float
    same: float


def compare(worker: TileWorker, made: ScoreMap, count: int) -> Compared:
    """Cells at random, of those whose crop lies within the image and that have data."""
    job, rng = worker.job, np.random.default_rng(0)
    down, across = (axis.of_crops() for axis in job.plan.axes)
    total = down.cells * across.cells
    places = rng.choice(total, min(total, 4 * count), replace=False)
    cells: list[Array] = []
    crops: list[Array] = []
    for row, column in (divmod(int(place), across.cells) for place in places):
        cell = made[:, row, column]
        if len(cells) < count and not np.isnan(cell).any():
            cells.append(cell)
            crops.append(_of_crop(worker, down.begin(row), across.begin(column)))
    if not cells:
        raise UsageError("compare: no crop lies within the image and has data; leave it out")
    have, wanted = np.stack(cells), np.stack(crops)
    off = np.abs(have - wanted) / max(float(np.ptp(wanted)), 1e-12)
    same = float((have.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return Compared(len(cells), float(off.max()), float(np.median(off)), same)


def _of_crop(worker: TileWorker, top: int, left: int) -> Array:
    """The original's scores, which the rewritten model gives at the native size."""
    height, width = worker.native
    pixels = worker.image.source.read(top, top + height, left, left + width)
    scores = worker.session.run(worker.job.preparation.apply(pixels)[None])
    return worker.job.scoring.finish(scores[0])[:, 0, 0]
