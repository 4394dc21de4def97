"""Segments that LERC wrote, with the places that it says have no value: NaN in an image of floats, or alpha.

What tifffile makes of such segments has numbers at these places, and bands in disorder where each has places of its
own. https://esri.github.io/lerc/doc/MANUAL.html
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from onnxfc.scanner.source import Array

LERC = 34887
_PARAMETERS = 50674
_THEN = {0: "", 1: "zlib_decode", 2: "zstd_decode"}


def lerc_decoded(page: Any, content: bytes, samples: int, blank: Array) -> Array:
    """(rows, columns, samples): places without a value are NaN, or ``blank`` in integers."""
    codecs = import_module("imagecodecs")
    then = _THEN[int(page.tags[_PARAMETERS].value[1])]
    values, mask = codecs.lerc_decode(getattr(codecs, then)(content) if then else content, masks=True)
    if page.parent.byteorder == ">":
        if values.dtype.kind == "f":
            raise ValueError("its floats were turned to big-endian before LERC took them for numbers; write it anew")
        values = values.byteswap()
    if mask is not None and mask.ndim == 3:
        values, mask = np.moveaxis(values, 0, 2), np.moveaxis(mask, 0, 2)
    elif mask is not None:
        mask = mask[:, :, None]
    values = values.reshape(*values.shape[:2], -1)
    if values.shape[2] == samples - 1:  # alpha is 0 where there is no value, and the most elsewhere
        there = np.ones((*values.shape[:2], 1), bool) if mask is None else mask
        most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
        return np.concatenate([values, np.where(there, most, 0).astype(values.dtype)], axis=2)
    if mask is not None:
        values = np.where(mask, values, values.dtype.type(np.nan) if values.dtype.kind == "f" else blank)
    return np.asarray(values)
