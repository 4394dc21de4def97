"""Image sizes larger than native, in pixels: rectangular ones, on and off the stride grid."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnxfc.claim import Claim
from onnxfc.errors import UsageError
from onnxfc.proof.options import CheckOptions


@dataclass(frozen=True)
class Size:
    """An image size; ``grid`` is the number of cells that the claimed stride promises, None off the grid."""

    pixels: tuple[int, ...]
    grid: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return "x".join(str(n) for n in self.pixels)


def larger_sizes(claim: Claim, options: CheckOptions) -> list[Size]:
    """One size on the grid, one off it (mirrored rectangle), then the user's. Raises UsageError.

    The sizes are kept small: a few strides more than native, about half an image more in area. All are
    sizes that the model is claimed to take, native plus multiples of ``size_step``.
    """
    axes = list(zip(claim.native_size, claim.stride, claim.size_step, strict=True))
    units = [math.lcm(stride, step) for _, stride, step in axes]
    more = [min(4, max(1, round(0.15 * n / u))) for n, u in zip(claim.native_size, units, strict=True)]
    on = [(k + i % 2) * u for i, (k, u) in enumerate(zip(more, units, strict=True))]
    off = [(k + (i + 1) % 2) * u for i, (k, u) in enumerate(zip(more, units, strict=True))]
    rest = [_rest(stride, step) for _, stride, step in axes]
    sizes = [
        Size(
            tuple(n + grown for (n, _, _), grown in zip(axes, on, strict=True)),
            tuple(grown // stride + 1 for (_, stride, _), grown in zip(axes, on, strict=True)),
        ),
        Size(tuple(n + grown + r for (n, _, _), grown, r in zip(axes, off, rest, strict=True))),
    ]
    return sizes + [_users_size(pixels, claim) for pixels in options.sizes]


def _rest(stride: int, step: int) -> int:
    """A legal growth of about half a stride, 0 where every legal size is on the stride grid."""
    half = stride // 2 // step * step
    return half or (step if step < stride else 0)


def _users_size(pixels: tuple[int, ...], claim: Claim) -> Size:
    native, text = claim.native_size, "x".join(map(str, pixels))
    if len(pixels) != len(native) or any(p < n for p, n in zip(pixels, native, strict=True)):
        raise UsageError(
            f"check size {text} must have {len(native)} dims, none smaller than the native {'x'.join(map(str, native))}"
        )
    if any((p - n) % step for p, n, step in zip(pixels, native, claim.size_step, strict=True)):
        raise UsageError(
            f"check size {text}: the model takes {'x'.join(map(str, native))} "
            f"plus multiples of {'x'.join(map(str, claim.size_step))}"
        )
    return Size(tuple(pixels))
