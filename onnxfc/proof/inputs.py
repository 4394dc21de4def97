"""Images to check with: of several kinds and scales, at any size, the same for the same seed.

A trained network answers only to inputs of the scale it was trained on, so there is no single right
noise. Natural images are imitated by a smooth field (random values on a coarse lattice, interpolated) with
some white noise: neighbouring pixels agree, windows differ from one another, and images differ in
brightness, unlike white noise, of which averaging networks see always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from onnxfc.claim.claim import Claim, ImageInput
from onnxfc.errors import UsageError
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.sessions import Array, Arrays, InputInfo

Types = Mapping[str, np.dtype[Any]]
_SMALL = 1 << 14
"""Numbers in an image up to which it is kept."""
DATA = "data"
NORMAL = "normal"


@dataclass(frozen=True)
class Kind:
    """A kind of images: a smooth or white field of mean 0 and deviation 1, and what is made of it."""

    name: str
    smooth: bool
    shape: Callable[[Array], Array]


def _unit(field: Array) -> Array:
    return np.clip(0.5 + 0.25 * field, 0.0, 1.0)


FLOAT_KINDS = (
    Kind("natural", True, lambda x: x),
    Kind(NORMAL, False, lambda x: x),
    Kind("natural 0..1", True, _unit),
    Kind("natural 0..255", True, lambda x: 255 * _unit(x)),
    Kind("natural -117..138", True, lambda x: 255 * _unit(x) - 117),
    Kind("white 0..255", False, lambda x: 255 * _unit(x)),
    Kind("small 0.05", True, lambda x: 0.05 * x),
    Kind("strong 10", True, lambda x: 10 * x),
)
INTEGER_KINDS = (
    Kind("natural 0..255", True, lambda x: 255 * _unit(x)),
    Kind("white 0..255", False, lambda x: 255 * _unit(x)),
    Kind("dark 0..32", True, lambda x: 32 * _unit(x)),
    Kind("bright 192..255", True, lambda x: 192 + 63 * _unit(x)),
)


class Inputs:
    """Makes the values of all inputs of a pair of models. Raises UsageError for unfit ``options.data``.

    ``infos`` are the original's inputs, ``other`` the types of the second model's.
    """

    def __init__(
        self, claim: Claim, infos: Mapping[str, InputInfo], options: CheckOptions, other: Types | None = None
    ) -> None:
        self._images = {image.name: image for image in claim.inputs}
        self._native = claim.native_size
        self._infos = infos
        self._other = other or {}
        self._seed = options.seed
        self.inset: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        """A size of which the first image has the first native one in it, and where that begins, in pixels."""
        self._data = _user_data(claim, infos, options.data)
        integer = any(infos[name].dtype.kind in "iu" for name in self._images)
        self.kinds: tuple[Kind, ...] = INTEGER_KINDS if integer else FLOAT_KINDS
        if self._data:
            self.kinds = (Kind(DATA, True, lambda x: x),)

    @property
    def of_user(self) -> bool:
        """Whether the values are the user's, of which there are so many."""
        return bool(self._data)

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the image inputs."""
        return tuple(self._images)

    def feeds(self, kind: Kind, sample: int, batch: int | None = None, size: Sequence[int] = ()) -> Arrays:
        """One value for every input: ``batch`` None as in the original; ``size`` in pixels, () native."""
        grown = [now - native for now, native in zip(size or self._native, self._native, strict=True)]
        made: Arrays = {}
        for position, (name, info) in enumerate(self._infos.items()):
            image = self._images.get(name)
            if name in self._data:
                made[name] = self._from_data(name, sample, batch, grown)
            elif image is not None:
                seeds = self._seed, position, sample, self.kinds.index(kind)
                shape = _grow(image, batch, grown)
                made[name] = (_kept if math.prod(shape) <= _SMALL else _image)(seeds, kind, shape, image, info.dtype)
            else:
                rng = np.random.default_rng([self._seed, position, sample])
                made[name] = _side(rng, info, batch or self._batch())
        made = {name: self._rounded(name, value) for name, value in made.items()}
        if self.inset is not None and (tuple(size), sample) == (self.inset[0], 0):
            self._put(self.feeds(kind, 0, batch), made, self.inset[1])
        return made

    def _put(self, native: Arrays, larger: Arrays, begins: Sequence[int]) -> None:
        """Native images into larger ones."""
        for name, image in self._images.items():
            larger[name][image.cut(begins, [image.shape[axis] for axis in image.spatial])] = native[name]

    def _rounded(self, name: str, value: Array) -> Array:
        """What both models take alike, where the other one takes numbers of half precision; a copy, always."""
        return value.astype(self._other.get(name, value.dtype)).astype(value.dtype)

    def _batch(self) -> int:
        return next((image.batch for image in self._images.values()), 1)

    def _from_data(self, name: str, sample: int, batch: int | None, grown: Sequence[int]) -> Array:
        values, image = self._data[name], self._images.get(name)
        count = batch or self._batch()
        picked = values[np.arange(sample * count, (sample + 1) * count) % len(values)]
        if image is not None:
            shape = _grow(image, batch, grown)
            picked = picked if image.batched else picked[0]
            # Beyond the border of the user's images their mirror image goes on.
            pads = [(0, max(0, want - have)) for want, have in zip(shape, picked.shape, strict=True)]
            picked = np.pad(picked, pads, mode="symmetric")[tuple(slice(0, want) for want in shape)]
        return np.ascontiguousarray(picked.astype(self._infos[name].dtype))


def _grow(image: ImageInput, batch: int | None, grown: Sequence[int]) -> tuple[int, ...]:
    shape = image.grown(grown)
    return (batch or shape[0], *shape[1:]) if image.batched else shape


def _image(
    seeds: tuple[int, ...], kind: Kind, shape: tuple[int, ...], image: ImageInput, dtype: np.dtype[Any]
) -> Array:
    rng = np.random.default_rng(seeds)
    field: Array = rng.standard_normal(shape)
    if kind.smooth:
        brightness = rng.standard_normal((shape[0],) + (1,) * (len(shape) - 1))
        field = 0.8 * _smooth(rng, shape, image) + 0.45 * field + 0.4 * brightness
    values = kind.shape(field)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        values = np.clip(np.rint(values - (128 if dtype == np.int8 else 0)), limits.min, limits.max)
    return values.astype(dtype)


_kept = lru_cache(maxsize=256)(_image)
"""Small images are asked for many times: by each of both models, at each size, and when a check is done again."""


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], image: ImageInput) -> Array:
    """Random values on a lattice of a fifth of the native size, linearly interpolated to deviation 1."""
    spacing = {axis: max(1, image.shape[axis] // 5) for axis in image.spatial}
    lattice = tuple(n // spacing[a] + 2 if a in spacing else n for a, n in enumerate(shape))
    field: Array = rng.standard_normal(lattice)
    for axis in image.spatial:
        place = np.arange(shape[axis]) / spacing[axis]
        low = place.astype(np.int64)
        weight = (place - low).reshape((-1,) + (1,) * (len(shape) - 1 - axis))
        field = np.take(field, low, axis) * (1 - weight) + np.take(field, low + 1, axis) * weight
    return np.asarray(field * 1.5 ** (len(image.spatial) / 2))


def _side(rng: np.random.Generator, info: InputInfo, batch: int) -> Array:
    """Values for an input that is not an image; a free first dim is the batch, other free dims are 1."""
    shape = tuple((batch if i == 0 else 1) if dim is None else dim for i, dim in enumerate(info.shape))
    if info.dtype.kind == "f":
        return rng.standard_normal(shape).astype(info.dtype)
    return rng.integers(0, 2, shape).astype(info.dtype)


def _user_data(claim: Claim, infos: Mapping[str, InputInfo], data: Any) -> Arrays:
    """Check the user's inputs against the claim, and give at least two different samples."""
    if data is None:
        return {}
    images = {image.name: image for image in claim.inputs}
    if not isinstance(data, Mapping):
        if len(images) != 1:
            raise UsageError(f"the data must name its input, one of: {', '.join(images)}")
        data = {next(iter(images)): data}
    missing = [name for name in images if name not in data]
    unknown = [name for name in data if name not in infos]
    if missing or unknown:
        raise UsageError(f"the data must hold the inputs {', '.join(images)}, it holds {', '.join(map(str, data))}")
    if len({len(value) if np.ndim(value) else 0 for value in data.values()}) > 1:
        raise UsageError("the data's arrays differ in their number of samples (axis 0)")
    checked = {name: _fit(name, np.asarray(v), images.get(name), infos[name]) for name, v in data.items()}
    batch = next(image.batch for image in claim.inputs)
    if all(len(value) >= 2 * batch for value in checked.values()):
        return checked
    # Too few images to vary: add their mirror images along the last spatial axis.
    return {
        name: np.concatenate([value, np.flip(value, images[name].of_samples[1][-1]) if name in images else value])
        for name, value in checked.items()
    }


def _fit(name: str, value: Array, image: ImageInput | None, info: InputInfo) -> Array:
    if value.dtype.kind not in "fiub" or (info.dtype.kind in "iu" and value.dtype.kind == "f"):
        raise UsageError(f"the data for {name} is {value.dtype}, the model wants {info.dtype}")
    want, spatial = image.of_samples if image is not None else (info.shape, ())
    fits = value.ndim == len(want) and len(value) > 0
    for axis, extent in enumerate(want[1:], 1):
        fits = (
            fits and (extent is None or value.shape[axis] == extent)
            if axis not in spatial
            else (fits and value.shape[axis] >= (extent or 1))
        )
    if not fits:
        shape = ", ".join(["N", *(f"{n}{' or more' if a in spatial else ''}" for a, n in enumerate(want[1:], 1))])
        raise UsageError(f"the data for {name} has shape {value.shape}, the model wants ({shape})")
    if not np.isfinite(value).all():
        raise UsageError(f"the data for {name} holds NaN or infinite values")
    return value
