"""Image sizes larger than native, in pixels: rectangular ones, on and off the stride grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from onnxfc.claim.claim import Claim, Level, Output
from onnxfc.errors import UsageError
from onnxfc.proof.options import CheckOptions

MOST = 1 << 28
"""Pixels of the largest image that is tried: 1 GB for each channel in float32."""


class TooLarge(Exception):
    """The claim would need larger images than can be tried; the text is one line."""


@dataclass(frozen=True)
class Size:
    """An image size; ``grid`` is the number of cells that the claimed stride promises, None off the grid."""

    pixels: tuple[int, ...]
    grid: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return "x".join(str(n) for n in self.pixels)


def larger_sizes(claim: Claim, options: CheckOptions) -> list[Size]:
    """One size on the grid, one off it, then the user's. Raises UsageError.

    The first grows more in width than in height, the second the other way round, also where the native image is not
    square. They are kept small: a few strides more than native, about half an image more in area. All are
    sizes that the model is claimed to take, native plus multiples of ``size_step``.
    """
    axes = list(zip(claim.native_size, claim.stride, claim.size_step, strict=True))
    units = [math.lcm(stride, step) for _, stride, step in axes]
    on, off = (_growth(claim.native_size, units, favoured, _coarsest(claim)) for favoured in (1, 0))
    rest = [_rest(stride, step) for _, stride, step in axes]
    sizes = [
        Size(
            tuple(n + grown for (n, _, _), grown in zip(axes, on, strict=True)),
            tuple(grown // stride + 1 for (_, stride, _), grown in zip(axes, on, strict=True)),
        ),
        Size(tuple(n + grown + r for (n, _, _), grown, r in zip(axes, off, rest, strict=True))),
    ]
    for size in sizes:
        if math.prod(size.pixels) > MOST:
            raise TooLarge(f"the claimed stride or size step would need images of {size} px")
    return sizes + [_users_size(claim.inputs[0].of_free(pixels), claim) for pixels in options.check_sizes]


def _coarsest(claim: Claim) -> list[int]:
    """Pixels on each axis by which every output grows: the stride of a cell, or of features that are coarser."""
    levels = [level for output in claim.outputs for level in output.levels]
    outputs: list[Output | Level] = [*claim.outputs, *levels]
    finest = [output for output in outputs if len(output.stride) == len(claim.stride)]
    coarse = [claim.stride, *(tuple(-(-s // p) for s, p in zip(o.stride, o.per, strict=True)) for o in finest)]
    return [max(axis) for axis in zip(*coarse, strict=True)]


def _growth(native: Sequence[int], units: Sequence[int], favoured: int, least: Sequence[int]) -> list[int]:
    """Pixels to grow by, multiples of ``units``: every second axis, from ``favoured`` on, more than its neighbours."""
    wanted = 0.15 * max(native)
    few = [min(4, round(wanted / unit)) for unit in units]
    grown = [max(count, -(-most // unit)) * unit for count, unit, most in zip(few, units, least, strict=True)]
    for axis in range(favoured, len(units), 2):
        others = [grown[other] for other in (axis - 1, axis + 1) if 0 <= other < len(units)]
        grown[axis] = (max([grown[axis], *others]) // units[axis] + 1) * units[axis]
    return grown


def _rest(stride: int, step: int) -> int:
    """A legal growth of about half a stride, 0 where every legal size is on the stride grid."""
    half = stride // 2 // step * step
    return half or (step if step < stride else 0)


def _users_size(pixels: tuple[int, ...], claim: Claim) -> Size:
    native, text = claim.native_size, "x".join(map(str, pixels))
    if len(pixels) != len(native) or any(p < n for p, n in zip(pixels, native, strict=True)):
        raise UsageError(
            f"--check-size {text}: must have {len(native)} lengths, none below the native {'x'.join(map(str, native))}"
        )
    if any((p - n) % step for p, n, step in zip(pixels, native, claim.size_step, strict=True)):
        raise UsageError(
            f"--check-size {text}: the model takes {'x'.join(map(str, native))} "
            f"plus multiples of {'x'.join(map(str, claim.size_step))}"
        )
    if math.prod(pixels) > MOST:
        raise UsageError(f"--check-size {text}: is more than the {MOST} pixels that a check takes")
    return Size(tuple(pixels))
