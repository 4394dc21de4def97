"""Boundaries whose places share an axis in the original: its tensor as the map that the other model has, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxfc.claim.claim import Boundary, Claim
from onnxfc.proof.sessions import Array


def apart(boundary: Boundary, value: Array, lengths: Sequence[int] = ()) -> Array:
    """The original's tensor with an axis for each place, of which there are natively as many as a window has."""
    if not boundary.folded:
        return value
    known = dict(zip(boundary.spatial, lengths or boundary.extent, strict=True))
    shape: list[int] = []
    for length, axes in zip(value.shape, boundary.folded, strict=True):
        rest = length // math.prod(known.get(axis, 1) for axis in axes)
        shape += [known.get(axis, rest) for axis in axes]
    order = [axis for axes in boundary.folded for axis in axes]
    return value.reshape(shape).transpose([int(axis) for axis in np.argsort(order)])


def together(boundary: Boundary, value: Array) -> Array:
    """A map as the original has it."""
    if not boundary.folded:
        return value
    shape = [math.prod(value.shape[axis] for axis in axes) for axes in boundary.folded]
    return value.transpose([axis for axes in boundary.folded for axis in axes]).reshape(shape)


def fold_problem(claim: Claim, native: Mapping[str, Array]) -> str | None:
    """What can be said against places that are claimed to share an axis; ``native`` are the original's tensors."""
    outputs = {output.name for output in claim.outputs}
    rows = {item.original: item.folded for item in claim.boundaries}
    for item in claim.boundaries:
        told = item.original not in outputs and rows[item.original] == item.folded
        if item.folded and not (told and _fits(item, native[item.original].shape)):
            return f"{item.original} does not hold places as claimed"
    return None


def _fits(boundary: Boundary, shape: Sequence[int]) -> bool:
    """Whether each axis is as long as the places that lie on it, and one more kind of features at most."""
    if len(shape) != len(boundary.folded):
        return False
    extent = dict(zip(boundary.spatial, boundary.extent, strict=True))
    for length, axes in zip(shape, boundary.folded, strict=True):
        held = math.prod(extent.get(axis, 1) for axis in axes)
        others = sum(axis not in extent for axis in axes)
        if others > 1 or length % held or (others == 0 and length != held):
            return False
    return True
