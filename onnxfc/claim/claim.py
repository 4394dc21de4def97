"""What a rewritten model says of itself: which image, which windows, which outputs.

The claim is made by the rewriter, travels in the model's ``metadata_props`` under ``onnxfc.*``
keys, and is put to the test by :mod:`onnxfc.proof`, which believes none of it.
Sizes, strides and starts are in input pixels, height before width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from onnxfc.claim.blame import Blame
from onnxfc.claim.metadata import damage_of
from onnxfc.errors import ReadError

PREFIX = "onnxfc."

Form = Literal["map", "cells", "mean", "max", "activation", "global", "features"]
"""How an output of the rewritten model relates to the original's (N, F1, ..., Fk):

- ``map``: (N, F1, ..., Fk, *grid), one cell per window.
- ``cells``: the original's own rank; its axes of extent 1 listed in ``axes`` became the grid.
- ``mean``, ``max``: reduced over all cells; the original's own shape.
- ``activation``: as ``map``, but the pool was dropped: the mean over the ``extent`` cells of a window is its score.
- ``global``: the original's own shape at every size, from the whole image (global pool kept).
- ``features``: a trunk tensor, its spatial ``axes`` freed.
"""


@dataclass(frozen=True)
class ImageInput:
    """An image input: its native shape (batch as in the original, 1 where dynamic) and spatial axes."""

    name: str
    shape: tuple[int, ...]
    spatial: tuple[int, ...]


@dataclass(frozen=True)
class Boundary:
    """A trunk tensor that both models have, where the head begins.

    ``extent`` is the native window on ``spatial`` axes, ``step`` the distance of neighbouring
    cells, both in elements of this tensor. Batch is axis 0. ``folded``: where places share an axis in the original,
    as those of tokens do, which axes of the rewritten model's tensor lie on each axis of the original's, the outermost
    first; empty where both have the same axes.
    """

    original: str
    rewritten: str
    spatial: tuple[int, ...]
    extent: tuple[int, ...]
    step: tuple[int, ...]
    folded: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Layer:
    """What an FC layer of the head makes: a tensor of the original, that of the rewritten model, its form (``map``, or
    ``global``). Scores may hide it, saturated say, so that it is compared beside the outputs."""

    original: str
    rewritten: str
    form: Form


@dataclass(frozen=True)
class Output:
    """One output and its form; ``axes`` are those of the grid (``map``, ``cells``, ``activation``) or of ``features``.

    Where it has such axes: element ``i`` reads ``size`` pixels from ``start + i * stride / per`` on; ``per`` is above 1
    in upsampled features only. Empty where unknown.
    """

    name: str
    form: Form
    axes: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    per: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    size: tuple[int, ...] = ()


@dataclass(frozen=True)
class Claim:
    """All that a rewritten model says of itself.

    ``stride``, ``start`` and ``size`` are those of a cell; where the pool was dropped, of the map that it had pooled;
    where every output is ``global``, the whole native image. The model takes images of ``native_size`` plus any
    multiple of ``size_step`` on each axis. An image moved by ``period`` pixels gives the same trunk, moved by whole
    elements. ``slack``: so many pixels less than native still give the native grid. ``smallest_size`` has the
    first cell. ``halo``: pixels (before, after) that a tile needs around the crops of its cells, on each axis, empty
    where an operator looks at the whole image. All are empty where unknown.
    """

    native_size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    size_step: tuple[int, ...]
    verdict: Literal["exact", "approximate"]
    blame: tuple[str, ...]
    inputs: tuple[ImageInput, ...]
    boundaries: tuple[Boundary, ...]
    outputs: tuple[Output, ...]
    period: tuple[int, ...] = ()
    slack: tuple[int, ...] = ()
    smallest_size: tuple[int, ...] = ()
    halo: tuple[tuple[int, int], ...] = ()
    layers: tuple[Layer, ...] = ()

    def __post_init__(self) -> None:
        damage = damage_of(self, get_args(Form))
        if damage is not None:
            raise ValueError(damage)

    def image_shapes(self, size: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the image inputs for images of ``size`` pixels."""
        found = {}
        for image in self.inputs:
            shape = list(image.shape)
            for axis, length in zip(image.spatial, size, strict=True):
                shape[axis] = length
            found[image.name] = tuple(shape)
        return found

    @property
    def blames(self) -> tuple[Blame, ...]:
        """``blame`` as causes and nodes."""
        return tuple(map(Blame.parse, self.blame))

    @property
    def twice_native(self) -> tuple[int, ...]:
        """Twice the native size, or the first legal size from there on."""
        return tuple(
            length + -(-length // step) * step for length, step in zip(self.native_size, self.size_step, strict=True)
        )

    def to_metadata(self) -> dict[str, str]:
        """The claim as ``metadata_props`` entries: one JSON value per key."""
        return {PREFIX + key: json.dumps(value) for key, value in asdict(self).items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Claim | None:
        """Read a claim back; None where the model carries none. Raises ReadError where it is damaged."""
        if PREFIX + "native_size" not in metadata:
            return None
        known = {PREFIX + key: key for key in cls.__dataclass_fields__}
        try:
            raw: dict[str, Any] = {
                known[key]: _tuples(json.loads(value)) for key, value in metadata.items() if key in known
            }
            raw["inputs"] = tuple(ImageInput(**item) for item in raw["inputs"])
            raw["boundaries"] = tuple(Boundary(**item) for item in raw["boundaries"])
            raw["outputs"] = tuple(Output(**item) for item in raw["outputs"])
            raw["layers"] = tuple(Layer(**item) for item in raw.get("layers", ()))
            return cls(**raw)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            damage = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            told = f"the model's {PREFIX}* metadata is damaged: {damage}; rewrite the original again"
            raise ReadError(told) from error


def _tuples(value: Any) -> Any:
    """JSON has lists only; the claim is made of tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value
