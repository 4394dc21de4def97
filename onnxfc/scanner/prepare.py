"""From pixels to what a model takes: bands, scale, mean and standard deviation."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxfc.errors import UsageError
from onnxfc.scanner.options import ScanOptions
from onnxfc.scanner.scan_model import ScanModel
from onnxfc.scanner.source import Array, OpenImage


@dataclass(frozen=True)
class Preparation:
    """``(pixel * scale - mean) / std`` of the chosen bands (counted from 0), as the model's type of number."""

    bands: tuple[int, ...]
    dtype: str
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) not in (0, 1, len(self.bands)):
                raise UsageError(f"{name}: needs one number for all bands, or one for each of the {len(self.bands)}")
        if 0 in self.std:
            raise UsageError("std: must not be 0")
        if np.dtype(self.dtype).kind in "iu" and (self.scale != 1 or self.mean or self.std):
            raise UsageError(f"the model takes {self.dtype} pixels as they are; leave scale, mean and std out")

    def apply(self, pixels: Array) -> Array:
        """(h, w, bands) to (bands, h, w)."""
        kind = np.dtype(self.dtype)
        work = np.dtype(np.float32) if kind == np.float16 else kind
        made = np.empty((len(self.bands), *pixels.shape[:2]), work)
        for k, band in enumerate(self.bands):
            made[k] = pixels[:, :, band]
            if self.scale != 1:
                made[k] *= work.type(self.scale)
            if self.mean:
                made[k] -= work.type(self.mean[k % len(self.mean)])
            if self.std:
                made[k] /= work.type(self.std[k % len(self.std)])
        return made.astype(kind, copy=False)

    @property
    def text(self) -> str:
        """For a person."""
        parts = [f"bands {','.join(str(band + 1) for band in self.bands)}"]
        parts += [f"x {self.scale:.6g}"] if self.scale != 1 else []
        parts += [f"- {', '.join(f'{item:g}' for item in self.mean)}"] if self.mean else []
        parts += [f"/ {', '.join(f'{item:g}' for item in self.std)}"] if self.std else []
        return " ".join(parts) if len(parts) > 1 else f"{parts[0]} as they are"


def preparation(model: ScanModel, image: OpenImage, options: ScanOptions) -> Preparation:
    """As told, else as the model's metadata says, else pixels as they are."""
    chosen, scale, mean, std = _bands(model, image, options.bands), options.scale, options.mean, options.std
    if model.dtype.kind in "iu" and image.source.dtype != model.dtype:
        raise UsageError(f"the model takes {model.dtype} pixels, the image has {image.source.dtype}; convert it")
    if image.source.dtype.kind not in "iufb":
        raise UsageError(f"pixels of type {image.source.dtype} are no numbers that a model takes")
    if image.source.dtype.kind == "b" and scale is not None and scale < 1:
        raise UsageError("scale: the image's pixels of one bit are 0 and 1; leave scale out")
    if scale is None and not mean and not std and model.dtype.kind not in "iu":  # which takes pixels as they are
        mean, std = (_numbers(model.metadata(), f"standardization_{name}") for name in ("mean", "std"))
        if mean or std:  # which are those of pixels between 0 and 1
            kind = image.source.dtype
            scale = 1 / float(np.iinfo(kind).max) if kind.kind == "u" else 1.0
    order = chosen[::-1] if options.bgr else chosen
    return Preparation(order, str(model.dtype), 1.0 if scale is None else scale, mean, std)


def _bands(model: ScanModel, image: OpenImage, given: tuple[int, ...]) -> tuple[int, ...]:
    have = tuple(band for band in range(image.bands) if band != image.alpha)
    found = tuple(band - 1 for band in given) or have
    if any(not 0 <= band < image.bands for band in found):
        raise UsageError(f"bands: they are counted from 1, and the image has {image.bands}")
    if len(found) != model.channels:
        told = f"{'--bands names' if given else 'the image has'} {len(found)}"
        advice = ",".join(str(have[k % len(have)] + 1) for k in range(model.channels))
        many = f"{model.channels} band{'s' * (model.channels > 1)}"
        raise UsageError(f"the model takes {many}, {told}; choose with --bands {advice}, say")
    return found


def _numbers(metadata: Mapping[str, str], key: str) -> tuple[float, ...]:
    """A list in the model's metadata, as the Deepness plugin for QGIS writes it."""
    found = parsed(metadata.get(key))
    return tuple(float(item) for item in found) if isinstance(found, list | tuple) else ()


def parsed(text: str | None) -> Any:
    """JSON, or what Python prints of a value; None where it is neither."""
    with suppress(ValueError):
        return json.loads(text or "null")
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text or "")
    return None


def class_names(metadata: Mapping[str, str], classes: int) -> tuple[str, ...]:
    """Names from the model's metadata (``class_names`` of Deepness, ``names`` of Ultralytics), else numbers."""
    found = next((item for key in ("class_names", "names") if (item := parsed(metadata.get(key)))), None)
    if isinstance(found, list | tuple):
        found = dict(enumerate(found))
    if not isinstance(found, dict):
        found = {}
    named = {str(key): str(value) for key, value in found.items()}
    return tuple(named.get(str(k), str(k)) for k in range(classes))
