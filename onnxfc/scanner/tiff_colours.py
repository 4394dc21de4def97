"""What the numbers in a TIFF file mean: colours of a palette, white as 0, colours that alpha was multiplied with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.source import ORIENTATION, Array, Masked, OpenImage, Oriented, Recoded, Source

JPEG = (6, 7, 34892, 33007)
_GREY, _COLOURS, _PALETTE, _RAW = (0, 1), 2, 3, (32803, 34892)
_YCBCR, _YCBCR_JPEG2000, _INTO_COLOURS = 6, 33003, (*JPEG, 34927, 50001)
"""That come out of their codec as red, green and blue: JPEG and WebP."""
_PREMULTIPLIED = 1


def check_colours(path: Path, page: Any) -> None:
    """Raises UsageError where pixels would be something else than they look."""
    kind, codec = page.photometric, page.compression
    known = kind in (*_GREY, _COLOURS, _PALETTE, *_RAW) or (kind == _YCBCR and codec in _INTO_COLOURS)
    if not known or codec == _YCBCR_JPEG2000:
        name = kind.name if not known else "YCBCR"
        told = f"its pixels are {name} as {codec.name}, not grey or red, green and blue"
        raise UsageError(f"{path}: {told}; convert it")
    if kind in (0, _PALETTE) and page.dtype.kind not in "ub":
        raise UsageError(f"{path}: its pixels are {kind.name} of {page.dtype}, which is not understood; convert it")


def seen(found: OpenImage, page: Any, mask: Source | None) -> OpenImage:
    """An image as its pixels are meant, and as it stands: but for images on a map, whose coordinates count stored rows
    and columns. A mask becomes alpha."""
    if page.photometric == _PALETTE:
        found = _coloured(found, page)
    elif page.photometric == 0:
        found = _white_is_most(found, 2**page.bitspersample - 1)
    if found.alpha is not None and int((page.extrasamples or (0,))[0]) == _PREMULTIPLIED:
        found = replace(found, source=_recoded(found, _straight(found.alpha)))
    if mask is not None and found.alpha is None:
        found = replace(found, source=Masked(found.source, mask), alpha=found.bands)
    tag = page.tags.get(ORIENTATION)
    if tag is None or tag.value not in range(2, 9) or found.georeference is not None:
        return found
    return replace(found, source=Oriented(found.source, int(tag.value)), rows=None)


def _recoded(found: OpenImage, recode: Any) -> Recoded:
    return Recoded(found.source, found.bands, found.source.dtype, recode)


def _coloured(found: OpenImage, page: Any) -> OpenImage:
    """Red, green and blue; where there is an index for no data, alpha as well."""
    table = (np.asarray(page.colormap, np.uint16).T >> 8).astype(np.uint8)
    alpha = found.no_data is not None
    if alpha:
        table = np.column_stack([table, np.where(np.arange(len(table)) == found.no_data, 0, 255).astype(np.uint8)])
    source = Recoded(found.source, table.shape[1], table.dtype, lambda pixels: table[pixels[:, :, 0].astype(np.intp)])
    return replace(found, source=source, alpha=3 if alpha else None, no_data=None)


def _white_is_most(found: OpenImage, most: int) -> OpenImage:
    def recode(pixels: Array) -> Array:
        turned = np.asarray(pixels ^ pixels.dtype.type(most))
        if found.alpha is not None:
            turned[:, :, found.alpha] = pixels[:, :, found.alpha]
        return turned

    no_data = None if found.no_data is None else most - found.no_data
    return replace(found, source=_recoded(found, recode), no_data=no_data)


def _straight(alpha: int) -> Any:
    """Colours that were multiplied with alpha, divided by it."""

    def recode(pixels: Array) -> Array:
        most = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
        share = pixels[:, :, alpha : alpha + 1] / np.float64(most)
        whole = np.divide(pixels, share, out=np.zeros(pixels.shape), where=share > 0)
        if pixels.dtype.kind in "iu":
            whole = np.minimum(np.rint(whole), most)
        whole[:, :, alpha] = pixels[:, :, alpha]
        return whole.astype(pixels.dtype)

    return recode
