"""How a Conv's weight was made of a stored FC weight, so that the way back gives the very bytes.

A Conv's (M, C, *kernel) is the stored matrix, its axes split and put into another order: written in the metadata of a
form, read where Convs become Gemms again.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from onnxfc.claim.claim import PREFIX
from onnxfc.shapes.spec import Array

KEY = f"{PREFIX}weights"


@dataclass(frozen=True)
class WeightOrder:
    """The Conv's weight is the stored one of ``dims``, reshaped to ``parts``, transposed by ``perm``."""

    dims: tuple[int, ...]
    parts: tuple[int, ...]
    perm: tuple[int, ...]

    @property
    def outputs_first(self) -> bool:
        return self.perm[0] == 0

    @property
    def features(self) -> tuple[int, ...]:
        """The axes of a map (C, *kernel), counted from 0, in the order in which its features are flattened."""
        places = [place for place in range(len(self.parts)) if place != self.perm[0]]
        return tuple(self.perm.index(place) - 1 for place in places)

    def back(self, weight: Array) -> Array:
        """The stored weight."""
        return np.ascontiguousarray(weight.transpose(np.argsort(self.perm))).reshape(self.dims)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it can be that of a weight of this shape; metadata may be anything."""
        whole = sorted(self.perm) == list(range(len(shape))) and len(self.parts) == len(shape)
        own = whole and tuple(self.parts[place] for place in self.perm) == shape
        return own and len(self.dims) == 2 and math.prod(self.dims) == math.prod(shape) and shape[0] in self.dims


def order_of(stored: Array, weight: Array) -> WeightOrder | None:
    """The first order that holds for every value; None where there is none."""
    if stored.ndim != 2 or stored.size != weight.size or stored.dtype != weight.dtype:
        return None
    for order in _orders(stored.shape, weight.shape):
        if np.array_equal(stored.reshape(order.parts).transpose(order.perm), weight):
            return order
    return None


def _orders(dims: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[WeightOrder]:
    """Outputs first or last, features flattened in any order, that of the Conv first."""
    for features in itertools.permutations(range(1, len(shape))):
        for axes in ((0, *features), (*features, 0)):
            parts = tuple(shape[axis] for axis in axes)
            if shape[0] == dims[axes.index(0) and 1]:
                yield WeightOrder(dims, parts, tuple(axes.index(axis) for axis in range(len(shape))))


def written(orders: Mapping[str, WeightOrder]) -> str:
    """Orders by the weight's name, as metadata."""
    return json.dumps({name: asdict(order) for name, order in orders.items()})


def read(metadata: Mapping[str, str]) -> dict[str, WeightOrder]:
    """Read them back; what is damaged is left out, as nothing depends on it but the layout."""
    try:
        told = json.loads(metadata.get(KEY, "{}"))
        return {
            str(name): WeightOrder(**{key: tuple(map(int, value)) for key, value in own.items()})
            for name, own in told.items()
        }
    except (TypeError, ValueError, AttributeError, RecursionError):
        return {}
