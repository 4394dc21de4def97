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


def other_parity(claim: Claim, size: Size) -> Size:
    """A size one step of the grid larger on every axis: what was an odd number of steps is an even one."""
    axes = zip(size.pixels, claim.native_size, units_of(claim), strict=True)
    pixels = tuple(native + ((now - native) // unit + 1) * unit for now, native, unit in axes)
    places = zip(pixels, claim.native_size, claim.stride, strict=True)
    return Size(pixels, tuple((now - native) // stride + 1 for now, native, stride in places))


MOST_PIXELS = 1 << 21
"""Pixels of all sizes together at which only the trunk is looked at."""
_EVERY = 8
"""Up to such a period every remainder is tried, of a larger one powers of two and what they lack to be none."""


def further_sizes(claim: Claim, size: Size) -> list[Size]:
    """One more size on the grid; sizes of which one axis alone is larger than native; one step of the grid larger, and
    twice native, also of one axis alone; and sizes with other remainders of the period, other ones in height than in
    width."""
    native, steps, units = claim.native_size, claim.size_step, units_of(claim)
    found = [other_parity(claim, size)]
    left = MOST_PIXELS - math.prod(found[0].pixels)
    longest = max(units)
    some = range(1, longest) if longest <= _EVERY else [1 << k for k in range(longest.bit_length())]
    alone = [
        [(own == axis) * (unit + step % unit) for own, (unit, step) in enumerate(zip(units, steps, strict=True))]
        for axis in range(len(native))
    ]
    twice = [now - before for now, before in zip(claim.twice_native, native, strict=True)]
    halves = [[(own == axis) * more for own, more in enumerate(twice)] for axis in range(len(native))]
    rests = [
        [
            (-rest if axis % 2 else rest) % unit // step * step
            for axis, (unit, step) in enumerate(zip(units, steps, strict=True))
        ]
        for rest in dict.fromkeys((*some, *(longest - rest for rest in some)))
    ]
    for more in (*alone, units, twice, *halves, *rests):
        pixels = tuple(map(sum, zip(native, more, strict=True)))
        left -= math.prod(pixels)
        if any(more) and left > 0 and pixels not in [item.pixels for item in found]:
            found.append(Size(pixels))
    return found


def units_of(claim: Claim) -> list[int]:
    """Pixels by which an image grows so that every layer of the trunk sees the native size's remainder."""
    return [math.lcm(*axis) for axis in zip(claim.stride, claim.size_step, claim.period or claim.stride, strict=True)]


def on_grid(size: Size, claim: Claim) -> bool:
    """Whether every layer of the trunk sees the native size's remainder."""
    axes = zip(size.pixels, claim.native_size, units_of(claim), strict=True)
    return all((now - native) % unit == 0 for now, native, unit in axes)
