"""Grids of coordinates at larger sizes: by the rule that is claimed, what goes on from their native values.

A grid is affine: what it has at its first place, less a part of a step, and what a step is worth. The rule says which
of the two follows the size, and how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxfc.claim.claim import Claim, Grid
from onnxfc.proof.sessions import Array, Arrays
from onnxfc.proof.windows import Capture

_ROUNDING = 16
"""Units in the last place by which figures may be off."""


def grid_problem(claim: Claim, native: Arrays, shots: Sequence[Capture]) -> str | None:
    """The first grid that does not go on as it is said to, or None. ``native``: of the rewritten model."""
    for grid in claim.grids:
        for shot in shots if any(axis >= 0 for axis in grid.axes) else ():
            before, after = native[grid.rewritten], shot.values[grid.rewritten]
            wrong = _wrong(grid, before, after, claim.native_size, shot.size.pixels)
            if wrong:
                return f"wrong claim: {grid.rewritten}, which is {grid.original}, {wrong} {shot}"
    return None


@dataclass
class _Line:
    """A grid along one axis: its length, what a step is worth, and from where to where in steps it is spread."""

    count: int
    step: Array


def _wrong(grid: Grid, before: Array, after: Array, native: Sequence[int], now: Sequence[int]) -> str:
    if before.ndim != after.ndim or max(grid.axes) >= before.ndim:
        return "has other axes"
    kind = before.dtype
    before, after = before.astype(np.float64), after.astype(np.float64)
    largest = max(float(np.abs(value).max()) for value in (before, after))
    unit = float(np.finfo(kind).eps) if kind.kind == "f" else 0.0
    allowed = _ROUNDING * unit * largest
    old, new = (_lines(grid, value, allowed) for value in (before, after))
    if old is None or new is None:
        return "has no steps that are alike"
    origins = [_origin(grid, value, lines) for value, lines in ((before, old), (after, new))]
    for place, rule in enumerate(grid.rules):
        if place in old and place in new and rule:
            spans = (_span(rule, lines[place], size[place]) for lines, size in ((old, native), (new, now)))
            first, second = spans
            length = max(old[place].count, new[place].count, now[place] if rule == "image" else 1)
            if first.shape != second.shape or np.abs(first - second).max() > allowed * length:
                return f"does not go on by the rule {rule!r}"
    images = "image" in grid.rules
    if not images and (origins[0].shape != origins[1].shape or np.abs(origins[0] - origins[1]).max() > allowed * 2):
        return "does not begin as natively"
    return ""


def _lines(grid: Grid, value: Array, allowed: float) -> dict[int, _Line] | None:
    """What a step is worth along each place; None where steps differ, or are no numbers."""
    if not np.isfinite(value).all():
        return None
    found = {}
    for place, axis in enumerate(grid.axes):
        if axis < 0 or not grid.rules[place] or value.shape[axis] < 2:
            continue
        steps = np.diff(value, axis=axis)
        count = value.shape[axis]
        mean = (value.take([-1], axis=axis) - value.take([0], axis=axis)) / (count - 1)
        if np.abs(steps - mean).max() > 2 * allowed:
            return None
        found[place] = _Line(count, mean)
    for place, line in found.items():
        for other in found.keys() - {place}:
            line.step = line.step.take([0], axis=grid.axes[other])
    return found


def _span(rule: str, line: _Line, pixels: int) -> Array:
    """What stays as it is at every size."""
    times = {"ends": line.count - 1, "centres": line.count, "starts": line.count, "image": pixels}
    return line.step * times.get(rule, 1)


def _origin(grid: Grid, value: Array, lines: dict[int, _Line]) -> Array:
    """What the grid has where its first steps begin."""
    for place in lines:
        value = value.take([0], axis=grid.axes[place])
    for place, line in lines.items():
        value = value - line.step * (0.5 if grid.rules[place] == "centres" else 0)
    return value
