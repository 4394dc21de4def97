"""One axis of a tensor as an exact map of the image: what an element reads, and how many there are at any size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from onnxfc.length import Dim, Length, at, least, pixels, same
from onnxfc.receptive_field import Field


@dataclass(frozen=True)
class AxisMap(Field):
    """``extent`` elements, of which number ``i`` reads ``size`` pixels from ``start + i * stride`` on."""

    extent: Dim = 1
    axis: int = 0

    def count(self, pixels: int) -> int:
        """How many there are in an image of so many pixels."""
        return int(at(self.extent, {self.axis: pixels}))

    @property
    def growth(self) -> Fraction | None:
        """How many more there are with every pixel, in the long run; None where by no fixed number."""
        return self.extent.growth(self.axis) if isinstance(self.extent, Length) else Fraction(0)

    def slack(self, native: int) -> int | None:
        """How many pixels less than native give as many elements, where their count is a single floor:
        ``count(n) = count(native) + floor((n - native + slack) / stride)``; else None.
        """
        most, before = math.ceil(self.stride), self.count(native)
        counts = at(self.extent, {self.axis: native + np.arange(1, most + 1)})
        slack = most - 1 - int(np.argmax(counts > before))
        steps = (pixels(self.axis) - native + slack) * (1 / Fraction(self.stride))
        return slack if same(self.extent, before + math.floor(steps)) else None


def slid(
    length: Any, kernel: int, stride: int = 1, pads: tuple[int, int] = (0, 0), dilation: int = 1, ceil: bool = False
) -> Any:
    """Elements behind a Conv or pool; ``ceil``: a last window may reach beyond the padding, but begins before it.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    room = length + (pads[0] + pads[1] - (kernel - 1) * dilation - 1)
    if not ceil:
        return room // stride + 1
    return least((room + stride - 1) // stride + 1, (length + pads[0] - 1) // stride + 1)
