"""Receptive fields, one spatial axis at a time: pure integer algebra.

Source: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019. All lengths are in input pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from onnxfc.shapes.length import Dim, Length, at, pixels, same

Pixels = int | Fraction


@dataclass(frozen=True)
class Field:
    """What element ``i`` of a feature axis reads: ``size`` pixels from ``start + i * stride``.

    ``start`` is the first pixel and may be negative (padding). Upsampled maps have strides below 1.
    """

    size: Pixels = 1
    stride: Pixels = 1
    start: Pixels = 0

    def through(self, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> Field:
        """The field after a Conv or pool on this axis (``pad`` is the padding before)."""
        return Field(
            size=self.size + (kernel - 1) * dilation * self.stride,
            stride=self.stride * stride,
            start=self.start - pad * self.stride,
        )

    def cut(self, before: int, after: int) -> Field:
        """The field once ``before`` and ``after`` elements were cut off the axis.

        What was cut off counts as read: a padding behind it begins there, inside the image.
        """
        return Field(self.size + (before + after) * self.stride, self.stride, self.start)

    def every(self, step: int) -> Field:
        """The field of every ``step``-th element."""
        return Field(self.size, self.stride * step, self.start)

    def resampled(self, factor: Fraction, low: Fraction, high: Fraction) -> Field:
        """``factor`` times as dense: element ``o`` reads those from ``o / factor + low`` to ``+ high`` before."""
        return Field(
            size=_whole(self.size + (high - low) * self.stride),
            stride=_whole(self.stride / factor),
            start=_whole(self.start + low * self.stride),
        )

    @staticmethod
    def join(fields: Sequence[Field]) -> Field | None:
        """The smallest field that covers all of ``fields``; None where their strides differ."""
        if len({field.stride for field in fields}) != 1:
            return None
        start = min(field.start for field in fields)
        end = max(field.start + field.size for field in fields)
        return Field(size=end - start, stride=fields[0].stride, start=start)


def _whole(length: Pixels) -> Pixels:
    return int(length) if length.denominator == 1 else length


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
