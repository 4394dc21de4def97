"""How a tensor of the original is represented in the new graph.

Native shapes below are the original's, at the native size; N is the batch, always axis 0 of the
tensor in the new graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import onnx

from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.layout.axes import Groups, holds_images, places_in, pure
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance

Index = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fixed:
    """Has nothing to do with the image: constants, side inputs, sizes computed from Shape."""

    tensor: str


@dataclass(frozen=True)
class Context:
    """Computed from the whole image (a global pool that stays global): the same shape at every size."""

    tensor: str
    provenance: Provenance


@dataclass(frozen=True)
class Side:
    """One of the two maps whose places a product relates: the map that has their dims, and what an element reads."""

    like: Placed = field(repr=False)
    provenance: Provenance


@dataclass(frozen=True)
class Placed:
    """The same tensor as in the original, where each axis is known as a product of the batch, channels and places.

    ``original`` is its name in the original, ``groups`` says of each axis which atoms it is made of. A *map* has each
    of the image's axes alone on one axis of its own; a *strip* lacks some, as it was pooled over them; in a *folded*
    tensor axes are laid together. ``provenance.fields`` says of each of the image's axes what an element reads. A map
    that has crossed ``provenance.windows`` has native extent 1 on its spatial axes: they are the grid.

    ``measured``: the map whose dims tell how long its places are now; None where that is this map itself.
    ``moved_by``: the node that made it, where that did nothing but move the data of its first input.
    ``parts``: strips, or rows of all places, that were joined end to end on one axis. ``bounds``: the maps that it
    comes from, where the head begins if one follows.
    ``other``: the second side of what relates places to places; ``measured`` and ``provenance`` are the first.
    """

    tensor: str
    original: str
    groups: Groups
    provenance: Provenance
    measured: Placed | None = field(default=None, repr=False)
    moved_by: onnx.NodeProto | None = field(default=None, repr=False)
    parts: tuple[Placed, ...] = field(default=(), repr=False)
    bounds: frozenset[Boundary] = frozenset()
    other: Side | None = field(default=None, repr=False)

    @property
    def like(self) -> Placed:
        """The map whose dims tell how long its places are now."""
        return self.measured or self

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where the places of each side come from."""
        first = Side(self.like, self.provenance)
        return (first,) if self.other is None else (first, self.other)

    def output(self, name: str, **changes: Any) -> Placed:
        """What a node makes of it that lies as it does, but for ``changes``."""
        return replace(self, **{"tensor": name, "original": name, "moved_by": None, **changes})

    def each_side(self, change: Callable[[int, Provenance], Provenance]) -> Placed:
        """With other provenances; ``change`` is given the number of the side."""
        other = self.other and replace(self.other, provenance=change(1, self.other.provenance))
        return replace(self, provenance=change(0, self.provenance), other=other)

    @cached_property
    def where(self) -> dict[int, int]:
        """The axis of each place that stands alone on it, by the number of the place."""
        single = {axis: group[0] for axis, group in enumerate(self.groups) if len(group) == 1}
        alone = {atom.place: axis for axis, atom in single.items() if atom.kind == "space" and atom.side == 0}
        return {place: alone[place] for place in sorted(alone)}

    @property
    def spatial(self) -> tuple[int, ...]:
        """The axes of its places, in the order of the image's axes."""
        return tuple(self.where.values())

    @property
    def fields(self) -> tuple[Field, ...]:
        """What an element reads, along each of ``spatial``."""
        return tuple(self.provenance.fields[place] for place in self.where)

    @property
    def extent(self) -> tuple[int, ...]:
        """Native lengths of ``spatial``."""
        return tuple(self.groups[axis][0].length for axis in self.spatial)

    @cached_property
    def apart(self) -> bool:
        """Whether images are axis 0, and every place that it has stands alone on an axis: a map or a strip."""
        places = sum(atom.kind == "space" for group in self.groups for atom in group)
        first = bool(self.groups) and holds_images(self.groups[0])
        return first and not self.parts and not self.other and 0 < places == len(self.where)

    @property
    def is_map(self) -> bool:
        """Whether each of the image's axes has an axis of its own."""
        return self.apart and len(self.where) == len(self.provenance.fields)

    @property
    def is_strip(self) -> bool:
        """Whether it lacks some of the image's axes, or strips are joined in it."""
        return (bool(self.parts) and not self.is_list) or (self.apart and not self.is_map)

    @property
    def is_list(self) -> bool:
        """Whether rows of places were laid one behind the other in it."""
        return bool(self.parts) and not self.parts[0].is_strip

    @property
    def is_folded(self) -> bool:
        """Whether axes of the image are laid together with others, or the batch is not axis 0."""
        return not self.apart and (not self.parts or self.is_list)

    @property
    def channels_first(self) -> bool:
        """Whether it is (N, C, *spatial)."""
        return self.is_map and self.spatial == tuple(range(2, len(self.groups)))


def provenance_of_all(views: Sequence[Placed]) -> Provenance | None:
    """The provenance of what is computed from all of them, axis by axis; None where their strides differ."""
    fields: list[Field] = []
    for place in range(len(views[0].provenance.fields)):
        own = [view for view in views if any(atom.place == place for atom in places_in(view.groups))]
        joined = Field.join([view.provenance.fields[place] for view in own or views[:1]])
        if joined is None:
            return None
        fields.append(joined)
    return Provenance.join([replace(view.provenance, fields=tuple(fields)) for view in views])


@dataclass(frozen=True)
class Source:
    """A trunk tensor (N, C, *spatial) that a Window reads: ``extent`` elements on each spatial axis, ``step`` elements
    between neighbouring windows."""

    tensor: str
    channels: int
    extent: tuple[int, ...]
    step: tuple[int, ...]

    @staticmethod
    def of_cells(tensor: str, channels: int, rank: int) -> Source:
        """A map of which every element is a window."""
        return Source(tensor, channels, (1,) * rank, (1,) * rank)

    @property
    def features(self) -> int:
        return self.channels * int(np.prod(self.extent, dtype=np.int64))


@dataclass(frozen=True)
class Window:
    """A flattened window (N, F1, ..., Fk) of one or more maps, not yet computed.

    ``index`` has the native shape (F1, ..., Fk): each element's place in the sources' windows, each
    flattened in the order C, spatial, and laid one behind the other. Movement of data is movement of the index.
    ``trunk`` is the provenance of the one map that it came from: brought into its layout again, it is that map.
    ``scale`` and ``shift`` (float64, of the index's shape) are work that is still pending: x * scale + shift.
    ``batch_axis`` is where the original has its batch; None where a Reshape swallowed a batch of 1.
    """

    sources: tuple[Source, ...]
    index: Index = field(repr=False)
    provenance: Provenance
    trunk: Provenance | None = None
    scale: Array | None = field(default=None, repr=False)
    shift: Array | None = field(default=None, repr=False)
    batch_axis: int | None = 0

    @property
    def plain(self) -> bool:
        """One source, and nothing pending."""
        return len(self.sources) == 1 and self.scale is None and self.shift is None

    @property
    def in_order(self) -> bool:
        """Whether the features are just the sources' elements in their own order."""
        total = sum(source.features for source in self.sources)
        return self.index.size == total and bool(np.array_equal(self.index.ravel(), np.arange(total)))


@dataclass(frozen=True)
class ScoreMap:
    """The original's (N, F1, ..., Fk) is now (N, F1, ..., Fk, *grid): one cell per window.

    ``batch_axis`` is where the original has its batch (None where a Reshape swallowed a batch of 1); in the new graph
    it stays axis 0.
    """

    tensor: str
    features: tuple[int, ...]
    provenance: Provenance
    batch_axis: int | None = 0

    @property
    def grid(self) -> tuple[int, ...]:
        """Axes of the grid in the new tensor."""
        first = 1 + len(self.features)
        return tuple(range(first, first + len(self.provenance.fields)))


@dataclass(frozen=True)
class Refused:
    """Cannot be represented; whatever is computed from it cannot either."""

    refusal: Refusal


View = Fixed | Context | Placed | Window | ScoreMap | Refused
Lifted = Placed | Window | ScoreMap


def is_map(view: View | None) -> TypeGuard[Placed]:
    """Whether this is a map: each of the image's axes stands alone."""
    return isinstance(view, Placed) and view.is_map


def on_image_axes(view: View | None) -> TypeGuard[Placed]:
    """Whether it is a map (N, C, *axes), of which some axes follow the image and others may stay."""
    return is_map(view) and min(view.spatial) > 1 and pure(view.groups[1])


def is_strip(view: View | None) -> TypeGuard[Placed]:
    """Whether this was pooled over some of the image's axes as context."""
    return isinstance(view, Placed) and view.is_strip


def is_folded(view: View | None) -> TypeGuard[Placed]:
    """Whether axes of the image are laid together."""
    return isinstance(view, Placed) and view.is_folded
