"""A tensor's type, its shape and its small values, at several image sizes at once."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
SMALL = 4096
"""Tensors of at most this many elements have their values followed (sizes, axes, amounts)."""

_COMPARED = 64
"""Values of at most this many elements are the same if they are equal, larger ones if they are the same array."""


class InferenceFailed(Exception):
    """A node cannot run on the shapes it is given; ``str()`` is what shape inference said."""


class UnknownShape(InferenceFailed):
    """Or they are not known."""


@dataclass(frozen=True)
class Spec:
    """Element type, the shape at every probe, and the value at every probe where it is known.

    ``shapes`` is None where inference could not tell. ``follows``: the value is computed from the image's size, though
    it is the same at all probes; then values at sizes off their grid come behind those of the probes.
    """

    dtype: int
    shapes: tuple[Shape, ...] | None
    values: tuple[Array, ...] | None = None
    follows: bool = False

    @property
    def native(self) -> Shape:
        """The shape at the native size. Raises UnknownShape where it is not known."""
        if self.shapes is None:
            raise UnknownShape("the shape of what it works on cannot be inferred")
        return self.shapes[0]

    @property
    def rank(self) -> int:
        return len(self.native)

    def varies(self, axis: int) -> bool:
        """Whether this dim depends on the image (or on a batch that is free)."""
        assert self.shapes is not None
        return len({shape[axis] for shape in self.shapes}) > 1

    def at(self, probe: int) -> Spec:
        """What it is at one probe alone."""
        shapes = None if self.shapes is None else self.shapes[probe : probe + 1]
        return Spec(self.dtype, shapes, None if self.values is None else self.values[probe : probe + 1])

    def spread(self, probes: int) -> Spec:
        """What is known natively, of something that no size changes."""
        shapes = None if self.shapes is None else self.shapes[:1] * probes
        return Spec(self.dtype, shapes, None if self.values is None else self.values[:1] * probes)

    @cached_property
    def told(self) -> Hashable:
        """All that two specs have to agree in. A large value is the same only if it is the same array."""
        if self.values is None:
            return self.dtype, self.shapes
        few = [value.size <= _COMPARED and value.dtype != object for value in self.values]
        values = (value.tobytes() if small else id(value) for small, value in zip(few, self.values, strict=True))
        return self.dtype, self.shapes, tuple(value.shape for value in self.values), tuple(values)

    @property
    def constant(self) -> Array | None:
        """The value, where it is the same at every size."""
        return None if self.follows else self.alike

    @cached_property
    def alike(self) -> Array | None:
        """The value, where it is the same at every size that was looked at."""
        if self.values is None or any(not _same(value, self.values[0]) for value in self.values):
            return None
        return self.values[0]

    @property
    def factor(self) -> float | None:
        """The number by which this is a multiple of an identity matrix; None where it is none."""
        value = self.constant
        if value is None or value.ndim != 2 or value.shape[0] != value.shape[1] or value.dtype.kind != "f":
            return None
        found = value[0, 0]
        return float(found) if np.array_equal(value, found * np.eye(len(value), dtype=value.dtype)) else None


def of_array(value: Array, probes: int) -> Spec:
    """The spec of a constant."""
    dtype = int(helper.np_dtype_to_tensor_dtype(value.dtype))
    values = (value,) * probes if value.size <= SMALL else None
    return Spec(dtype, (tuple(value.shape),) * probes, values)


def of_tensor(tensor: onnx.TensorProto, load: Any, probes: int) -> Spec:
    """The spec of an initializer; ``load`` reads its value where it is small."""
    shape = tuple(tensor.dims)
    if math.prod(shape) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
        return Spec(int(tensor.data_type), (shape,) * probes, (load(tensor),) * probes)
    return Spec(int(tensor.data_type), (shape,) * probes)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f"))
