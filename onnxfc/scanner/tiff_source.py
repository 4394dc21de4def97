"""TIFF files of all kinds (BigTIFF, OME-TIFF, SVS, COG), window by window over the file's own tiles or strips."""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from onnxfc.errors import ReadError, UsageError
from onnxfc.scanner.georeference import Georeference
from onnxfc.scanner.source import Array, ArraySource, Mapped, OpenImage
from onnxfc.scanner.tiff_colours import JPEG, check_colours, seen
from onnxfc.scanner.tiff_lerc import LERC, lerc_decoded

CACHE = 48_000_000
"""Bytes of decoded tiles or strips that are kept for the next window."""
_LARGEST_SEGMENT = 1 << 30
_NO_DATA = 42113
_MASK = 4
"""The bit of a page's kind."""
_END_OF_JPEG = b"\xff\xd9"


def open_tiff(path: Path, level: int) -> OpenImage:
    """The first image of a TIFF file, at a level of its pyramid. Raises ReadError or UsageError."""
    tifffile = import_module("tifffile")
    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # for who asks to see what it thinks of files
    try:
        file = tifffile.TiffFile(path)
        series = file.series[0]
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError, struct.error) as error:
        raise ReadError(f"{path}: cannot be read as a TIFF file: {_line(error)}") from error
    if not 0 <= level < len(series.levels):
        raise UsageError(f"{path}: has levels 0 to {len(series.levels) - 1}, no level {level}")
    chosen, first = series.levels[level], series.levels[0].pages[0].aspage()
    pages, bands_first = _pages(path, chosen)
    page = pages[0]
    _check(path, pages)
    source: Any
    lock = threading.Lock()  # of the file, in which image and mask are read at one place at a time
    if len(pages) == 1 and page.is_memmappable:
        mapped = Mapped(path, page.dataoffsets[0], _plain(page), np.dtype(file.byteorder + page.dtype.char))
        source = ArraySource(mapped, bands_first)
    else:
        source = TiffSource(path, pages, _no_data(first), lock)
    found = OpenImage(source, _alpha(page), _no_data(first), _georeference(first, page), _rows(page, source))
    if page.is_tiled and isinstance(source, TiffSource):
        found = replace(found, kept=CACHE // (source.shape[2] * source.dtype.itemsize), tall=page.tilelength)
    return seen(found, page, _mask(path, file.series[1:], level, page, lock))


class SegmentCache:
    """Decoded tiles or strips, those that were asked for last. Who asks first decodes one: others wait for it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], Future[Array]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int], decode: Callable[[], Array]) -> Array:
        """By its page and number."""
        with self._lock:
            own = key not in self._kept
            segment = self._kept.setdefault(key, Future())
            self._kept.move_to_end(key)
        if own:
            try:
                self._keep(key, segment, decode())
            except BaseException as error:
                segment.set_exception(error)
                with self._lock:
                    self._kept.pop(key, None)
        return segment.result()

    def _keep(self, key: tuple[int, int], segment: Future[Array], pixels: Array) -> None:
        with self._lock:
            segment.set_result(pixels)
            self._bytes += pixels.nbytes if self._kept.get(key) is segment else 0
            while len(self._kept) > 1 and self._bytes > CACHE:
                oldest = self._kept.popitem(last=False)[1]
                self._bytes -= oldest.result().nbytes if oldest.done() else 0


class TiffSource:
    """One page, or a page for each band. Tiles that the file leaves out have its no-data value, 0 if it has none.
    ``lock``: of the file."""

    def __init__(self, path: Path, pages: list[Any], no_data: float | None, lock: threading.Lock) -> None:
        page = pages[0]
        self._path, self._pages = path, pages
        self._separate = page.planarconfig == 2 and page.samplesperpixel > 1
        bands = len(pages) if len(pages) > 1 else page.samplesperpixel
        self.shape: tuple[int, int, int] = (page.imagelength, page.imagewidth, bands)
        self.dtype: np.dtype[Any] = np.dtype(page.dtype)
        tiled = page.is_tiled
        self._segment = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
        self._across = -(-self.shape[1] // self._segment[1])
        self._down = -(-self.shape[0] // self._segment[0])
        self._blank = np.zeros((), self.dtype)
        if no_data is not None and (self.dtype.kind == "f" or no_data == np.float64(no_data).astype(self.dtype)):
            self._blank = np.float64(no_data).astype(self.dtype)
        self._kept = SegmentCache()
        self._lock = lock

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """Put together from its segments. Raises ReadError where one is damaged."""
        found = np.full((y1 - y0, x1 - x0, self.shape[2]), self._blank, self.dtype)
        for number, top, left in self._segments(y0, y1, x0, x1):
            for page, plane, bands in self._planes():
                piece = self._decoded(page, number + plane * self._down * self._across)
                if piece is not None:
                    _paste(found[:, :, bands], piece, top - y0, left - x0)
        return found

    def _segments(self, y0: int, y1: int, x0: int, x1: int) -> Iterator[tuple[int, int, int]]:
        """Number, first row and first column of each that has a part in the window."""
        height, width = self._segment
        for down in range(y0 // height, -(-y1 // height)):
            for across in range(x0 // width, -(-x1 // width)):
                yield down * self._across + across, down * height, across * width

    def _planes(self) -> list[tuple[int, int, slice]]:
        """Page, plane of it, and the bands that they are."""
        if len(self._pages) > 1:
            return [(k, 0, slice(k, k + 1)) for k in range(len(self._pages))]
        if self._separate:
            return [(0, k, slice(k, k + 1)) for k in range(self.shape[2])]
        return [(0, 0, slice(None))]

    def _decoded(self, page: int, number: int) -> Array | None:
        """None where the file leaves the segment out."""
        if not self._pages[page].databytecounts[number]:
            return None
        return self._kept.get((page, number), lambda: self._decode(self._pages[page], number))

    def _decode(self, page: Any, number: int) -> Array:
        """Rows, columns, bands."""
        with self._lock:  # all that reads in the file: what there is to know of a codec, too
            more = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
            if self._separate and page.compression in JPEG:
                page.photometric = 1  # each plane is grey to its codec
            decode = _told(self._path, lambda: page.decode)
            page.parent.filehandle.seek(page.dataoffsets[number])
            content = page.parent.filehandle.read(page.databytecounts[number])
        if page.compression == LERC:
            samples = 1 if self._separate or len(self._pages) > 1 else self.shape[2]
            return np.asarray(_told(self._path, lambda: lerc_decoded(page, content, samples, self._blank)))
        # Its codec makes grey of what is missing, and says nothing.
        if page.compression == 7 and not page.jpegheader and not content.rstrip(b"\0").endswith(_END_OF_JPEG):
            raise ReadError(f"{self._path}: tile {number} is cut short; copy the file again")
        return np.asarray(_told(self._path, lambda: decode(content, number, **more)[0][0]))


def _paste(found: Array, piece: Array, top: int, left: int) -> None:
    """What of a piece that begins at (top, left) lies within."""
    height, width = found.shape[:2]
    rows = slice(max(0, top), min(height, top + piece.shape[0]))
    columns = slice(max(0, left), min(width, left + piece.shape[1]))
    if rows.start < rows.stop and columns.start < columns.stop:
        found[rows, columns] = piece[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]


def _told(path: Path, action: Callable[[], Any]) -> Any:
    """Codecs raise what they like; the missing ones have an extra that brings them."""
    try:
        return action()
    except MemoryError:
        raise
    except Exception as error:
        text = _line(error)
        if "imagecodecs" in text:
            text += " (pip install 'onnxfc[scan]')"
        raise ReadError(f"{path}: cannot be decoded: {text}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _pages(path: Path, series: Any) -> tuple[list[Any], bool]:
    """The pages of an image that has rows, columns, and perhaps bands; whether bands come first within one page."""
    axes = "".join(a for a, n in zip(series.axes, series.shape, strict=True) if n > 1 or a in "YX")
    if axes.translate(str.maketrans("CI", "SS")) not in ("YX", "YXS", "SYX"):
        told = f"but has axes {series.axes} {series.shape}; write one page alone"
        raise UsageError(f"{path}: is no image of rows, columns and bands, {told}")
    pages = [page.aspage() for page in series.pages if page is not None]
    page = pages[0]
    if len(pages) > 1 and page.samplesperpixel > 1:
        raise UsageError(f"{path}: has bands on pages and within them, which is not understood")
    check_colours(path, page)
    return pages, axes[0] not in "YX" and len(pages) == 1


def _plain(page: Any) -> tuple[int, ...]:
    separate, _, length, width, contiguous = page.shaped
    if separate > 1:
        return separate, length, width
    return (length, width, contiguous)


def _check(path: Path, pages: list[Any]) -> None:
    """A file that is cut short is told now, not in the midst of the work."""
    have = os.path.getsize(path)
    for page in pages:
        ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=True) if n]
        if not page.dataoffsets or max(ends, default=0) > have:
            raise ReadError(f"{path}: is cut short: {have} bytes of {max(ends, default=0)}; copy it again")
        rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        size = min(rows, page.imagelength) * columns * page.samplesperpixel * page.dtype.itemsize
        if size > _LARGEST_SEGMENT and not page.is_memmappable:
            raise ReadError(f"{path}: is one piece of {size >> 20} MB when decoded; write it in tiles")


def _alpha(page: Any) -> int | None:
    """The number of the band that is alpha, where there is one."""
    extra = [int(item) for item in page.extrasamples or ()]
    found = [k for k, kind in enumerate(extra) if kind in (1, 2)]
    return int(page.samplesperpixel) - len(extra) + found[0] if found else None


def _mask(path: Path, others: Any, level: int, page: Any, lock: threading.Lock) -> TiffSource | None:
    """What says of the image's pixels whether they are data, 0 where they are not: a page of its own, as GDAL writes
    it."""
    for series in others:
        found = series.levels[level].pages[0].aspage() if level < len(series.levels) else page
        same = (found.imagelength, found.imagewidth) == (page.imagelength, page.imagewidth)
        if int(found.subfiletype) & _MASK and same:
            _check(path, [found])
            return TiffSource(path, [found], None, lock)
    return None


def _no_data(page: Any) -> float | None:
    tag = page.tags.get(_NO_DATA)
    try:
        return None if tag is None else float(str(tag.value).strip("\0 "))
    except ValueError:
        return None


def _georeference(first: Any, page: Any) -> Georeference | None:
    found = Georeference.of_tags({tag.code: tag.value for tag in first.tags})
    if found is None or page is first:
        return found
    return found.scaled(first.imagewidth / page.imagewidth, first.imagelength / page.imagelength)


def _rows(page: Any, source: Any) -> int | None:
    """So many rows of a striped image fit into the cache twice: threads read the next while others still read these. No
    fewer than a strip has; one alone is decoded once."""
    strip = int(page.rowsperstrip)
    if page.is_tiled or not isinstance(source, TiffSource) or strip >= source.shape[0]:
        return None
    row = int(source.shape[1] * source.shape[2] * source.dtype.itemsize)
    return max(strip, CACHE // 2 // row - 2 * strip)
