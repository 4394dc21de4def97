"""Values in a claim that no rewrite could have written: read from a file, they may be of any type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

_MOST = 3
"""Axes of an image: those of a volume."""
_LONGEST = 1 << 13
"""Pixels of a period: the strides of a network have no larger common multiple."""
_FARTHEST = 1 << 31
"""Pixels, or places, of an axis: no tensor of a network is that long."""
_OPTIONAL = ("period", "smallest_size", "slack", "fixed_size")
"""Numbers of pixels on each axis that may be unknown."""


def damaged_pixels(claim: Any) -> Iterator[str]:
    """What of a claim's numbers of pixels is none, and whether there is an image that they are of."""
    if not integers(claim.native_size, 1, _MOST) or min(claim.native_size) < 1:
        yield f"native_size is {claim.native_size!r}"
    dims = len(claim.native_size)
    for name in ("stride", "size_step", "start", "size", *_OPTIONAL):
        value, least = getattr(claim, name), {"start": None, "slack": 0}.get(name, 1)
        if name in _OPTIONAL and value == ():
            continue
        if not integers(value, dims, dims) or (least is not None and min(value) < least):
            yield f"{name} is {value!r}"
    if not claim.inputs:
        yield "no image input is named"
    if any(slack >= stride for slack, stride in zip(claim.slack, claim.stride, strict=False)):
        yield f"slack is {claim.slack!r}, not below the stride"
    pairs = isinstance(claim.halo, tuple) and all(integers(pair, 2, 2) and min(pair) >= 0 for pair in claim.halo)
    if not pairs or len(claim.halo) not in (0, dims):
        yield f"halo is {claim.halo!r}"
    if max(claim.period, default=1) > _LONGEST:
        yield f"period is {claim.period!r}"


def integers(value: Any, least: int, most: int) -> bool:
    numbers = isinstance(value, tuple) and all(type(item) is int and abs(item) < _FARTHEST for item in value)
    return numbers and least <= len(value) <= most


def axes_fit(value: Any, count: int, first: int, end: int) -> bool:
    return integers(value, count, count) and len(set(value)) == count and all(first <= axis < end for axis in value)


def image_fits(image: Any, dims: int) -> bool:
    fits = (
        isinstance(image.name, str)
        and isinstance(image.batched, bool)
        and integers(image.shape, 1, 9)
        and min(image.shape) > 0
    )
    scaled = integers(image.scale, 2, 2) and min(image.scale) > 0 and math.gcd(*image.scale) == 1
    if not fits or not scaled or not isinstance(image.spatial, tuple) or not isinstance(image.fixed, tuple):
        return False
    fits = axes_fit((*image.spatial, *image.fixed), dims + len(image.fixed), int(image.batched), len(image.shape))
    return fits and dims + len(image.fixed) <= _MOST and len(image.spatial) == dims


def named(item: Any) -> bool:
    """Whether it names a tensor of either model."""
    return isinstance(item.original, str) and isinstance(item.rewritten, str)


def boundary_fits(item: Any, dims: int) -> bool:
    counted = all(integers(value, dims, dims) and min(value) > 0 for value in (item.extent, item.step))
    return named(item) and counted and axes_fit(item.spatial, dims, 1, 99) and _folded(item)


def _folded(item: Any) -> bool:
    """Whether each axis lies on one of the original's."""
    rows = item.folded
    if not isinstance(rows, tuple) or not all(isinstance(row, tuple) for row in rows):
        return False
    axes = tuple(axis for row in rows for axis in row)
    return not rows or (axes_fit(axes, len(axes), 0, len(axes)) and set(item.spatial) <= set(axes))


def layer_fits(item: Any) -> bool:
    return named(item) and item.form in ("map", "global")


def level_fits(item: Any, dims: int) -> bool:
    counted = (
        integers((item.axis, item.outer, item.inner), 3, 3) and min(item.axis, item.outer - 1, item.inner - 1) >= 0
    )
    told = (item.stride, item.per, item.start, item.size)
    fits = isinstance(item.tensor, str) and axes_fit(item.spatial, dims, 0, 99) and counted
    fits = fits and (item.order == () or axes_fit(item.order, dims, 0, dims))
    return fits and all(integers(value, dims, dims) for value in told) and min(*item.stride, *item.per, *item.size) > 0
