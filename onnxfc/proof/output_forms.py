"""What each form of output promises, and how one cell is read out of it.

With g spatial axes and an original output of shape W = (N, F1, ..., Fk): ``map`` is (*W, *grid);
``cells`` is W with the grid in axes of extent 1; ``activation`` is (*W, *features) whose mean over a
window is the score; ``mean``, ``max`` and ``global`` are W; ``features`` is W but for its spatial axes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxfc.claim.claim import Boundary, Claim, Output
from onnxfc.proof.sessions import Array

WINDOWED = ("map", "cells", "activation", "mean", "max")
"""Forms made of windows; ``mean`` and ``max`` are made of all of them."""

REDUCED = ("mean", "max")


class FormError(Exception):
    """An output does not have the shape that its form promises; the text is one line."""


def grid_axes(output: Output, rank: int, dims: int) -> tuple[int, ...]:
    """The axes that are not W's own, for an original output of ``rank`` and ``dims`` spatial axes."""
    if output.form in ("map", "activation"):
        expected = tuple(range(rank, rank + dims))
        if output.axes not in ((), expected):
            raise FormError(f"{output.name} claims grid axes {output.axes}, a map has {expected}")
        return expected
    if output.form == "cells" and (len(set(output.axes)) != dims or not max(output.axes) < rank):
        raise FormError(f"{output.name} claims grid axes {output.axes}, the image has {dims} spatial axes")
    if output.form == "features" and not (output.axes and all(axis < rank for axis in output.axes)):
        raise FormError(f"{output.name} claims spatial axes {output.axes}, it has {rank} axes")
    if output.form not in ("cells", "features") and output.axes:
        raise FormError(f"{output.name} claims axes {output.axes}, form '{output.form}' has none")
    return output.axes


def check_shape(output: Output, got: Array, want: tuple[int, ...], dims: int, *, native: bool) -> None:
    """Raise FormError unless ``got`` has the promised shape for the original's shape ``want``."""
    axes = grid_axes(output, len(want), dims)
    expected: list[int | None] = [*want, *[1] * (len(axes) if output.form in ("map", "activation") else 0)]
    for axis in axes:
        if not native or output.form == "activation":
            expected[axis] = None
    for level in output.levels if not native else ():
        if level.axis >= len(expected):
            raise FormError(f"{output.name} claims a list on axis {level.axis}, it has {len(want)} axes")
        expected[level.axis] = None
    fits = len(got.shape) == len(expected)
    fits = fits and all(e is None or e == n for e, n in zip(expected, got.shape, strict=False))
    if output.form == "cells" and any(want[axis] != 1 for axis in axes):
        raise FormError(f"{output.name} claims grid axes {axes}, which had more than one element {list(want)}")
    if not fits:
        shape = ", ".join(str(n or "any") for n in expected)
        raise FormError(
            f"{output.name} has shape {list(got.shape)} instead of [{shape}], which form '{output.form}' has where "
            f"the original has {list(want)}"
        )


def level_name(output: Output, number: int) -> str:
    """What the places of one level of a list are called."""
    return f"{output.name}, level {number + 1}"


def unlisted(claim: Claim, values: Mapping[str, Array]) -> dict[str, Array]:
    """The levels of lists as maps: the row's axis becomes outer, the places' axes, inner. Raises FormError."""
    found: dict[str, Array] = {}
    for output in claim.outputs:
        first = 0
        for number, level in enumerate(output.levels):
            order = level.order or range(len(level.spatial))
            value, grid = values[output.name], [values[level.tensor].shape[level.spatial[k]] for k in order]
            last = first + level.outer * level.inner * math.prod(grid)
            shape = (*value.shape[: level.axis], level.outer, *grid, level.inner, *value.shape[level.axis + 1 :])
            if value.shape[level.axis] < last:
                raise FormError(f"{output.name} has fewer places than its levels")
            apart, turned = value.take(range(first, last), level.axis).reshape(shape), level.axis + 1
            found[level_name(output, number)] = np.moveaxis(
                apart, range(turned, turned + len(grid)), [turned + k for k in order]
            )
            first = last
        if output.levels and first != values[output.name].shape[output.levels[0].axis]:
            raise FormError(f"{output.name} has more places than its levels")
    return found


def native_value(output: Output, got: Array, want: tuple[int, ...], dims: int) -> Array:
    """The output at native size in the original's shape. Raises FormError."""
    check_shape(output, got, want, dims, native=True)
    if output.form == "activation" and not got.size:
        raise FormError(f"{output.name} has no places")
    if output.form == "activation":
        mean: Array = got.astype(np.float64).mean(axis=grid_axes(output, len(want), dims))
        return mean.astype(got.dtype)
    return got.reshape(want) if output.form == "map" else got


def grid_of(output: Output, got: Array, rank: int, claim: Claim) -> tuple[int, ...] | None:
    """The number of cells that the output itself has, None for reduced forms."""
    axes = grid_axes(output, rank, len(claim.native_size))
    extents = tuple(got.shape[axis] for axis in axes)
    if output.form == "activation":
        window = pool_window(claim)
        return counts(extents, window.extent, window.step)
    return extents if output.form in ("map", "cells") else None


def pool_window(claim: Claim) -> Boundary:
    """The boundary whose windows an activation is averaged over. Raises FormError if that is not one."""
    windows = {(boundary.extent, boundary.step) for boundary in claim.boundaries}
    if len(windows) != 1:
        raise FormError("an activation was claimed, but the boundaries do not share one window")
    return claim.boundaries[0]


def counts(now: Sequence[int], extent: Sequence[int], step: Sequence[int]) -> tuple[int, ...]:
    """Windows of ``extent`` at every ``step`` that fit into ``now`` elements, per axis."""
    return tuple(max(0, (n - e) // s + 1) for n, e, s in zip(now, extent, step, strict=True))


def cell_value(output: Output, got: Array, index: Sequence[int], rank: int, claim: Claim) -> Array:
    """One cell in the original's shape, for ``map``, ``cells`` and ``activation``."""
    axes = grid_axes(output, rank, len(claim.native_size))
    place: list[int | slice] = [slice(None)] * got.ndim
    if output.form == "activation":
        window = pool_window(claim)
        for axis, i, extent, step in zip(axes, index, window.extent, window.step, strict=True):
            place[axis] = slice(i * step, i * step + extent)
        mean: Array = got[tuple(place)].astype(np.float64).mean(axis=axes)
        return mean.astype(got.dtype)
    for axis, i in zip(axes, index, strict=True):
        place[axis] = i if output.form == "map" else slice(i, i + 1)
    return np.asarray(got[tuple(place)])


def reduce_cells(form: str, cells: Sequence[Array]) -> Array:
    """What ``mean`` or ``max`` must be, from all cells."""
    if form == "max":
        return np.asarray(np.max(np.stack(cells), axis=0))
    mean: Array = np.stack(cells).astype(np.float64).mean(axis=0)
    return mean.astype(cells[0].dtype)


def pick_cells(grid: Sequence[int], seed: int, count: int, *, corners: bool = True) -> list[tuple[int, ...]]:
    """All corners and the centre, then random cells up to ``count``; all cells if there are no more."""
    every = int(np.prod(grid))
    if every <= count:
        return list(np.ndindex(*grid))
    ends = [sorted({0, n - 1}) for n in grid]
    chosen = dict.fromkeys(itertools.product(*ends)) if corners else {}
    chosen[tuple(n // 2 for n in grid)] = None
    for flat in np.random.default_rng(seed).permutation(every)[: 4 * count]:
        if len(chosen) >= count:
            break
        chosen[tuple(int(i) for i in np.unravel_index(int(flat), tuple(grid)))] = None
    return list(chosen)
