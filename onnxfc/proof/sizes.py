"""Image sizes larger than native, in pixels: rectangular ones, on and off the stride grid."""

from __future__ import annotations

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

    The sizes are kept small: a few strides more than native, about half an image more in area.
    """
    native, stride = claim.native_size, claim.stride
    more = [min(4, max(1, round(0.15 * n / s))) for n, s in zip(native, stride, strict=True)]
    on = [k + i % 2 for i, k in enumerate(more)]
    off = [k + (i + 1) % 2 for i, k in enumerate(more)]
    sizes = [
        Size(
            tuple(n + k * s for n, k, s in zip(native, on, stride, strict=True)),
            tuple(k + 1 for k in on),
        ),
        Size(tuple(n + k * s + s // 2 for n, k, s in zip(native, off, stride, strict=True))),
    ]
    for pixels in options.sizes:
        if len(pixels) != len(native) or any(p < n for p, n in zip(pixels, native, strict=True)):
            raise UsageError(
                f"check size {'x'.join(map(str, pixels))} must have {len(native)} dims, "
                f"none smaller than the native {'x'.join(map(str, native))}"
            )
        sizes.append(Size(tuple(pixels)))
    return sizes
