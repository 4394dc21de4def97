"""Conv weights in NCHWc, the layout in blocks of channels that onnxruntime writes when it optimises for one processor.

The node keeps the shape (O, C, *kernel) and fills O and C up to whole blocks with zeros; the elements lie otherwise: as
OIHWBo (blocks of outputs, where the features enter as NCHW) or OIHWBiBo (blocks of both). The file says neither which
nor how wide a block is (16 with AVX-512, 8 without). Source: onnxruntime's ``MlasReorderFilterOIHWBo`` and
``MlasReorderFilterOIHWBiBo``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxfc.proof.sessions import Array

DOMAIN = "com.microsoft.nchwc"
_WIDTHS = (16, 8)


def readings(stored: Array) -> Iterator[Array]:
    """The weight (O, C, *kernel) by every layout that fits, without what fills the last blocks up."""
    outputs, channels, *kernel = stored.shape
    for width in (width for width in _WIDTHS if outputs % width == 0):
        one = stored.reshape(outputs // width, channels, -1, width).transpose(0, 3, 1, 2)
        yield _cut(one.reshape(outputs, channels, *kernel), width)
        if channels % width == 0:
            both = stored.reshape(outputs // width, channels // width, -1, width, width).transpose(0, 4, 1, 3, 2)
            yield _cut(both.reshape(outputs, channels, *kernel), width)


def _cut(values: Array, width: int) -> Array:
    for axis in (0, 1):
        others = tuple(other for other in range(values.ndim) if other != axis)
        used = np.flatnonzero(values.any(axis=others))
        last = int(used[-1]) + 1 if used.size else 1
        length = values.shape[axis]
        values = values.take(range(max(last, length - width + 1)), axis)
    return values
