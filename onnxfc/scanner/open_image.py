"""From what a user gives, a path or an array, to an image that is read window by window."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from onnxfc.errors import ReadError, UsageError
from onnxfc.scanner.source import ORIENTATION, Array, ArraySource, Mapped, OneByOne, OpenImage, Oriented, Source, View


def given(image: Any) -> Any:
    """A picture of pillow, or whatever else says that it is an array, as one. Raises UsageError."""
    if isinstance(image, str | Path) or hasattr(image, "shape"):
        return image
    if hasattr(image, "__array_interface__") or hasattr(image, "__array__"):
        return np.asarray(image)
    raise UsageError(f"image: must be a path, an array or a source, not {type(image).__name__}")


def open_image(image: Any, level: int = 0) -> OpenImage:
    """A file by its ending, an array, or a source. ``level``: of a pyramid, 0 is the largest.

    Raises ReadError or UsageError.
    """
    if isinstance(image, str | Path):
        return _opened(Path(image), level)
    if level:
        raise UsageError("level: an array has no levels")
    if hasattr(image, "read") and not hasattr(image, "__getitem__"):
        return OpenImage(OneByOne(_Own(_shaped(image))))
    return OpenImage(ArraySource(image) if isinstance(image, np.ndarray) else OneByOne(ArraySource(image)))


def needs(module: str, path: Path, extra: str = "onnxfc[scan]") -> Any:
    """A module that reads or writes this kind of file. Raises ReadError where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ReadError(f"{path}: needs the package {module}: pip install '{extra}'") from error


def _opened(path: Path, level: int) -> OpenImage:
    if not path.exists():
        raise ReadError(f"{path}: there is no such image; check the path")
    if not path.is_file() and not path.is_dir():  # a pipe may wait for ever
        raise ReadError(f"{path}: is not a regular file; give the path of an image file")
    ending = path.suffix.lower()
    reader = _zarr if any((path / name).exists() for name in _ZARR) else _READERS.get(ending)
    if reader is None and path.is_dir():
        raise UsageError(f"{path}: is a folder, and none of zarr; give an image file")
    if reader is None:
        raise UsageError(f"{path}: images of this kind are not read; known are {', '.join(sorted(_READERS))}")
    if level and reader in (_npy, _picture):
        raise UsageError(f"{path}: has no level {level}, it is no pyramid; leave level out")
    try:
        return reader(path, level)
    except OSError as error:
        raise ReadError(f"{path}: cannot read: {error.strerror or str(error)[:200]}") from error
    except EOFError as error:  # of an empty file; on the command line it would pass for Ctrl-C
        raise ReadError(f"{path}: is empty or cut short; write it again") from error


class _Own(View):
    """A user's own, which gives what it says."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.source.shape))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Also where it names a type of numpy."""
        return np.dtype(self.source.dtype)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """The window. Raises ReadError where it is another or none."""
        found: Any = self.source.read(y0, y1, x0, x1)
        wanted = (y1 - y0, x1 - x0, self.shape[2])
        have = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        if not isinstance(found, np.ndarray) or found.shape != wanted:
            raise ReadError(f"the image's reader gives {have} where an array {wanted} was asked for; mend it")
        if not np.can_cast(found.dtype, self.dtype, "same_kind" if self.dtype.kind == "f" else "safe"):
            raise ReadError(f"the image's reader gives {have} where its dtype is {self.dtype}; mend it")
        return found.copy()  # its reader may fill the same array again


def _shaped(source: Any) -> Source:
    """A user's own, whose shape must be whole."""
    try:
        whole = isinstance(source, Source) and min(map(operator.index, source.shape)) > 0 and len(source.shape) == 3
        fits = whole and isinstance(source.shape, tuple) and np.dtype(source.dtype).kind in "iufb"
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UsageError("image: needs shape (height, width, bands), dtype and read(y0, y1, x0, x1)")
    made: Source = source
    return made


def _npy(path: Path, level: int) -> OpenImage:
    return OpenImage(ArraySource(Mapped.npy(path)))


def _tiff(path: Path, level: int) -> OpenImage:
    needs("tifffile", path)
    from onnxfc.scanner.tiff_source import open_tiff

    return open_tiff(path, level)


def _picture(path: Path, level: int) -> OpenImage:
    """PNG and JPEG have no windows: they are decoded whole. Of 16 bits a colour pillow keeps 8 only."""
    pillow, turned = needs("PIL.Image", path), needs("PIL.ImageOps", path).exif_transpose
    pillow.MAX_IMAGE_PIXELS = None  # large images are what this is for
    if path.suffix.lower() == ".png" and _deep(path):
        codecs = needs("imagecodecs", path)
        found = _with_alpha(_decoded(path, lambda: codecs.png_decode(path.read_bytes())))
        with pillow.open(path) as image:
            held = image.getexif().get(ORIENTATION, 1)
        return replace(found, source=Oriented(found.source, held)) if held in range(2, 9) else found

    def decode() -> Array:
        with pillow.open(path) as image:
            other = {"1": "L", "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}.get(image.mode, image.mode)
            alpha = "A" if other in ("L", "RGB") and "transparency" in image.info else ""
            return np.asarray(turned(image.convert(other + alpha) if other + alpha != image.mode else image))

    return _with_alpha(_decoded(path, decode))


def _deep(path: Path) -> bool:
    """Whether a PNG has 16 bits a value."""
    with path.open("rb") as file:
        head = file.read(26)
    return len(head) == 26 and struct.unpack(">B", head[24:25])[0] == 16


def _decoded(path: Path, decode: Callable[[], Any]) -> Any:
    try:
        return decode()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise what they like
        raise ReadError(f"{path}: cannot be decoded: {' '.join(str(error).split())[:200]}") from error


def _with_alpha(array: Array) -> OpenImage:
    source = ArraySource(array)
    return OpenImage(source, alpha=source.shape[2] - 1 if source.shape[2] in (2, 4) else None)


def _zarr(path: Path, level: int) -> OpenImage:
    """An array, or a group of levels, as OME-Zarr has them; of several images the first."""
    zarr = needs("zarr", path)
    found = _decoded(path, lambda: zarr.open(str(path), mode="r"))
    while hasattr(found, "keys"):
        names = _levels(found)
        if not names and "0" in found:
            found = found["0"]
            continue
        if not 0 <= level < len(names):
            inner = f"is a group without arrays; give the path of one of {', '.join(sorted(found.keys()))}"
            raise UsageError(f"{path}: {f'has levels 0 to {len(names) - 1}, no level {level}' if names else inner}")
        found = _decoded(path, partial(found.__getitem__, names[level]))
        level = 0
    if level:
        raise UsageError(f"{path}: has no level {level}, it is no pyramid; leave level out")
    return OpenImage(ArraySource(_Squeezed(found)))


def _levels(group: Any) -> list[str]:
    """Paths of arrays, the largest first: as its metadata say (OME-Zarr 0.4 and 0.5), else by their names."""
    told = dict(group.attrs)
    told = told.get("ome", told)
    with suppress(KeyError, IndexError, TypeError):
        return [str(item["path"]) for item in told["multiscales"][0]["datasets"]]
    return sorted(group.array_keys(), key=lambda name: (len(name), name))


class _Squeezed:
    """Without axes of length 1, as time and depth are, where there are more than three."""

    def __init__(self, array: Any) -> None:
        self._array = array
        spare = [axis for axis, n in enumerate(array.shape) if n == 1][: max(0, len(array.shape) - 3)]
        self._kept = [axis for axis in range(len(array.shape)) if axis not in spare]
        self.shape, self.dtype = tuple(array.shape[axis] for axis in self._kept), array.dtype

    def __getitem__(self, key: Any) -> Array:
        parts: list[Any] = [slice(None) if axis in self._kept else 0 for axis in range(len(self._array.shape))]
        for axis, part in zip(self._kept, key if isinstance(key, tuple) else (key,), strict=False):
            parts[axis] = part
        return np.asarray(self._array[tuple(parts)])


class _Slide:
    """A whole slide image by openslide: RGB, and transparent where nothing was scanned."""

    def __init__(self, slide: Any, level: int) -> None:
        self._slide, self._level = slide, level
        width, height = slide.level_dimensions[level]
        self._zoom = slide.level_downsamples[level]
        self.shape, self.dtype = (height, width, 4), np.dtype(np.uint8)

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """openslide counts in pixels of level 0."""
        corner = round(x0 * self._zoom), round(y0 * self._zoom)
        return np.asarray(self._slide.read_region(corner, self._level, (x1 - x0, y1 - y0)))


def _slide(path: Path, level: int) -> OpenImage:
    module = needs("openslide", path, "onnxfc[openslide]")
    slide = _decoded(path, lambda: module.OpenSlide(str(path)))
    if not 0 <= level < slide.level_count:
        raise UsageError(f"{path}: has levels 0 to {slide.level_count - 1}, no level {level}")
    return OpenImage(_Slide(slide, level), alpha=3)


class _Vips:
    """An image by pyvips."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.shape = (image.height, image.width, image.bands)
        self.dtype = np.asarray(image.crop(0, 0, 1, 1).numpy()).dtype

    def read(self, y0: int, y1: int, x0: int, x1: int) -> Array:
        """A crop."""
        return np.asarray(self._image.crop(x0, y0, x1 - x0, y1 - y0).numpy()).reshape(y1 - y0, x1 - x0, -1)


def _vips(path: Path, level: int) -> OpenImage:
    module = needs("pyvips", path, "onnxfc[vips]")
    more = {"page": level} if level else {}
    return OpenImage(_Vips(_decoded(path, lambda: module.Image.new_from_file(str(path), **more))))


_ZARR = (".zarray", ".zgroup", "zarr.json")
"""A folder with one of these is an array or a group, whatever its name."""
_READERS: dict[str, Callable[[Path, int], OpenImage]] = {
    ".npy": _npy,
    **dict.fromkeys((".tif", ".tiff", ".svs", ".btf", ".tf8", ".ome"), _tiff),
    **dict.fromkeys((".png", ".jpg", ".jpeg"), _picture),
    ".zarr": _zarr,
    **dict.fromkeys((".ndpi", ".mrxs", ".scn", ".vms", ".bif"), _slide),
    **dict.fromkeys((".jp2", ".webp", ".v", ".vips", ".hdr"), _vips),
}
