"""Images that are read window by window: the interface, arrays, and views of another image.

Whatever has ``shape`` (height, width, bands), ``dtype`` and ``read(y0, y1, x0, x1)``, which gives (y1 - y0, x1 - x0,
bands), can be scanned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnxfc.errors import ReadError, UsageError
from onnxfc.scanner.georeference import Georeference

Array = NDArray[Any]
EdgeMode = Literal["none", "reflect", "constant"]
ORIENTATION = 274
"""The tag in TIFF and EXIF."""


@runtime_checkable
class Source(Protocol):
    """An image that is read window by window."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width, bands."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a pixel's values."""

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """The pixels (y1 - y0, x1 - x0, bands) of rows ``y0`` to ``y1`` and columns ``x0`` to ``x1``, exclusive."""


@dataclass(frozen=True)
class OpenImage:
    """A source, and what its file says of it. ``alpha``: the number of that band. ``rows``: of a window over the full
    width that its reader keeps, where it is read in rows only. ``kept``: pixels that its reader keeps, in pieces of
    ``tall`` rows, where it is read in pieces."""

    source: Source
    alpha: int | None = None
    no_data: float | None = None
    georeference: Georeference | None = None
    rows: int | None = None
    kept: int | None = None
    tall: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.source.shape[0], self.source.shape[1]

    @property
    def bands(self) -> int:
        """Values of a pixel."""
        return self.source.shape[2]


class ArraySource:
    """Anything that is sliced like an array: (H, W), (H, W, bands), or (bands, H, W) where the first axis is the
    smallest, if nothing else is said; also with a batch of 1 before it, as models take it."""

    def __init__(self, array: Any, bands_first: bool | None = None) -> None:
        shape = tuple(array.shape)
        self._batch = (0,) * (len(shape) == 4 and shape[0] == 1)
        shape = shape[len(self._batch) :]
        if len(shape) not in (2, 3) or 0 in shape:
            raise ReadError(f"an image has two axes and perhaps bands, not the shape {tuple(array.shape)}")
        self._array = array
        first = bands_first if bands_first is not None else shape[0] < min(shape[1:])
        self._first = len(shape) == 3 and first
        height_width = shape[1:] if self._first else shape[:2]
        bands = 1 if len(shape) == 2 else shape[0] if self._first else shape[2]
        self.shape: tuple[int, int, int] = (height_width[0], height_width[1], bands)
        self.dtype: np.dtype[Any] = np.dtype(array.dtype).newbyteorder("=")

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """A copy."""
        if self._first:
            every = (*self._batch, slice(None), slice(y0, y1), slice(x0, x1))
            return np.moveaxis(np.array(self._array[every], self.dtype), 0, 2)
        return np.array(self._array[(*self._batch, slice(y0, y1), slice(x0, x1))], self.dtype).reshape(
            y1 - y0, x1 - x0, -1
        )


@dataclass(frozen=True)
class Mapped:
    """An array in a file, mapped anew for each reading: what was read before does not stay in memory."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Literal["C", "F"] = "C"

    def __getitem__(self, key: Any) -> Array:
        try:
            mapped = np.memmap(self.path, self.dtype, "r", self.offset, self.shape, self.order)
        except (OSError, ValueError) as error:  # it was there when the work began
            raise ReadError(f"{self.path}: cannot read: {error}") from error
        return np.array(mapped[key])

    @classmethod
    def npy(cls, path: Path) -> Mapped:
        """A .npy file. Raises ReadError where it is none, or cut short."""
        try:
            if not path.stat().st_size:
                raise EOFError  # older versions of numpy tell another reason
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise ReadError(f"{path}: cannot read: {error.strerror or error}") from error
        except ValueError as error:
            raise ReadError(f"{path}: is not a whole .npy array of numbers; write one with numpy.save") from error
        if not isinstance(found, np.memmap):
            raise ReadError(f"{path}: is an archive of arrays; give one .npy file")
        return cls(path, int(found.offset), found.shape, found.dtype, "C" if found.flags.c_contiguous else "F")


@dataclass(frozen=True)
class View:
    """Another image, seen in another way."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype


@dataclass(frozen=True)
class OneByOne(View):
    """Read by one thread at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """The same window."""
        with self.lock:
            return self.source.read(y0, y1, x0, x1)


@dataclass(frozen=True)
class Recoded(View):
    """``bands`` of each pixel that follow from what it has."""

    bands: int
    kind: np.dtype[Any]
    recode: Callable[[Array], Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.source.shape[:2], self.bands)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.kind

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """The same window."""
        return self.recode(self.source.read(y0, y1, x0, x1))


@dataclass(frozen=True)
class Masked(View):
    """With alpha behind its bands: 0 where the mask is."""

    mask: Source

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, bands = self.source.shape
        return height, width, bands + 1

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """The same window of both."""
        most = np.iinfo(self.dtype).max if self.dtype.kind in "iu" else 1
        alpha = np.where(self.mask.read(y0, y1, x0, x1), most, 0).astype(self.dtype)
        return np.concatenate([self.source.read(y0, y1, x0, x1), alpha], axis=2)


@dataclass(frozen=True)
class Oriented(View):
    """As a camera held it. ``orientation``: the number in TIFF and EXIF; from 5 on rows are columns."""

    orientation: int

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, bands = self.source.shape
        return (width, height, bands) if self.orientation > 4 else (height, width, bands)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """A window of the image as it is stored, turned."""
        (height, width), turned = self.source.shape[:2], self.orientation > 4
        if turned:
            y0, y1, x0, x1 = x0, x1, y0, y1
        upward, leftward = self.orientation in (3, 4, 6, 7), self.orientation in (2, 3, 7, 8)
        rows = (height - y1, height - y0) if upward else (y0, y1)
        columns = (width - x1, width - x0) if leftward else (x0, x1)
        pixels = self.source.read(*rows, *columns)[:: -1 if upward else 1, :: -1 if leftward else 1]
        return pixels.swapaxes(0, 1) if turned else pixels


@dataclass(frozen=True)
class Region(View):
    """Height x width pixels of another image from (top, left) on."""

    corner: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        ends = [a + n for a, n in zip(self.corner, self.size, strict=True)]
        have = self.source.shape
        if min(self.corner) < 0 or min(self.size) < 1 or ends[0] > have[0] or ends[1] > have[1]:
            raise UsageError(
                f"region: reaches beyond the image, which has a width of {have[1]} and a height of {have[0]} px"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.size, self.source.shape[2])

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """From the other image, moved."""
        top, left = self.corner
        return self.source.read(top + y0, top + y1, left + x0, left + x1)


@dataclass(frozen=True)
class Edged(View):
    """Another image, grown at its bottom and right to ``size`` by its mirror image or by zeros."""

    size: tuple[int, int]
    mode: EdgeMode

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.size, self.source.shape[2])

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """What the image has, and what it is grown by."""
        cuts, pads, kept = zip(*map(self._axis, (y0, x0), (y1, x1), self.source.shape), strict=False)
        pixels = self.source.read(*cuts[0], *cuts[1])
        grown = np.pad(pixels, (*pads, (0, 0)), "constant" if self.mode == "constant" else "reflect")
        return np.asarray(grown[kept[0], kept[1]])

    @staticmethod
    def _axis(low: int, high: int, length: int) -> tuple[tuple[int, int], tuple[int, int], slice]:
        """What to read, by how much to grow it, what to keep: a mirror needs as many pixels as it shows."""
        more = max(0, high - length)
        begin = min(low, max(0, length - 1 - more)) if more else low
        return (begin, min(high, length)), (0, more), slice(low - begin, high - begin)


@dataclass(frozen=True)
class Resampled(View):
    """Another image, resized by ``factor``: linear between pixels, over all that a smaller pixel covers.

    Each pixel depends on its place in the whole image alone, so that windows meet exactly.
    """

    factor: Fraction

    @property
    def shape(self) -> tuple[int, ...]:
        height, width, bands = self.source.shape
        return int(height * self.factor), int(width * self.factor), bands

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """Rows first, then columns."""
        height, width = self.source.shape[:2]
        (top, rows, by_row), (left, columns, by_column) = self._taps(y0, y1, height), self._taps(x0, x1, width)
        work = np.result_type(self.dtype, np.float32)  # which has more digits than 16 bits, and float64 than 32
        pixels = self.source.read(top, int(rows.max()) + 1, left, int(columns.max()) + 1).astype(work)
        by_row, by_column = by_row.astype(work), by_column.astype(work)
        tall = sum(by_row[:, k, None, None] * pixels[rows[:, k] - top] for k in range(rows.shape[1]))
        wide = sum(by_column[None, :, k, None] * tall[:, columns[:, k] - left] for k in range(columns.shape[1]))
        found: Array = np.asarray(wide)
        if self.dtype.kind in "iub":
            found = np.rint(found)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            most = work.type(limits.max)
            most = np.nextafter(most, 0, dtype=work) if int(most) > limits.max else most
            found = np.clip(found, limits.min, most)
        return found.astype(self.dtype)

    def _taps(self, low: int, high: int, length: int) -> tuple[int, Array, Array]:
        """The first pixel that is read; the pixels that each new one is made of, and their weights."""
        step = 1 / float(self.factor)
        reach = max(1.0, step)
        centres = (np.arange(low, high) + 0.5) * step - 0.5
        first = np.ceil(centres - reach).astype(int)
        places = first[:, None] + np.arange(int(2 * reach) + 1)
        weights = np.maximum(0, 1 - np.abs(places - centres[:, None]) / reach)
        weights[(places < 0) | (places >= length)] = 0
        weights /= weights.sum(axis=1, keepdims=True)
        places = np.clip(places, 0, length - 1)
        return int(places.min()), places, weights
