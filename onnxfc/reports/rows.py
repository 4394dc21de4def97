"""Rows of the reports for people, and sizes in them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxfc.claim.claim import Claim


def size(lengths: Iterable[int]) -> str:
    """``224x224``."""
    return "x".join(map(str, lengths))


def image_sizes(claim: Claim) -> str:
    """Which it takes, where it does not take all."""
    return f"{size(claim.native_size)} px plus multiples of {size(claim.size_step)} px; pad other images to one"


def native(claim: Claim) -> str:
    """``224x224 px``; where axes stay fixed, which: ``width 100 px (height 32 px stays)``."""
    image = claim.inputs[0]
    if not image.fixed:
        others = [f"{item.name}: {size(item.size)} px, to scale" for item in claim.inputs if len(set(item.scale)) > 1]
        return f"{size(claim.native_size)} px" + (f" ({', '.join(others)})" if others else "")
    free, stay = (
        ", ".join(f"{name} {image.shape[axis]} px" for name, axis in zip(image.named(axes), axes, strict=True))
        for axes in (image.spatial, image.fixed)
    )
    return f"{free} ({stay} stay{'s' * (len(image.fixed) == 1)})"


def row(key: str, value: str) -> str:
    """A figure and its name, in lines of 100 columns."""
    room = textwrap.TextWrapper(100, f"{key:<15} ", " " * 16, break_long_words=False, break_on_hyphens=False)
    return room.fill(value)
