"""How a tensor of the original is represented in the new graph.

Native shapes below are the original's, at the native size; N is the batch, always axis 0 of the
tensor in the new graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxfc.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.receptive_field import Field

Index = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Taint:
    """Why cells differ from crops: a cause (``padding``, ``partial window``, ``context``) and its node."""

    cause: str
    node: str


Share = tuple[str, int]
"""The node that made parts of a whole, and the place (number of a spatial axis) along which they are that."""


@dataclass(frozen=True)
class Trace:
    """Where the elements of a view come from.

    ``fields``: per spatial axis, what one element (or cell) reads of the image.
    ``windows``: the trunk tensors whose windows it has crossed; empty in the trunk.
    ``pools``: the global pools it descends from. ``dropped``: some of them were taken out. ``places``: its features are
    places of a window one by one, which no FC layer has summed. ``shares``: along which places it holds parts of a
    whole (weights of a Softmax), so that a sum over them does not grow with the image.
    """

    fields: tuple[Field, ...]
    taints: frozenset[Taint] = frozenset()
    windows: frozenset[Boundary] = frozenset()
    pools: frozenset[str] = frozenset()
    dropped: bool = False
    places: bool = False
    shares: frozenset[Share] = frozenset()

    def tainted(self, *taints: Taint) -> Trace:
        return replace(self, taints=self.taints | frozenset(taints))

    def every(self, steps: tuple[int, ...]) -> Trace:
        """The trace of every ``steps``-th cell on each axis."""
        windows = frozenset(
            replace(item, step=tuple(a * b for a, b in zip(item.step, steps, strict=True))) for item in self.windows
        )
        fields = tuple(item.every(step) for item, step in zip(self.fields, steps, strict=True))
        return replace(self, fields=fields, windows=windows)

    @staticmethod
    def join(traces: Iterable[Trace]) -> Trace | None:
        """The trace of what is computed from all of them; None where their grids do not meet."""
        found = list(traces)
        joined = [Field.join(fields) for fields in zip(*(trace.fields for trace in found), strict=True)]
        fields = tuple(item for item in joined if item is not None)
        if len(fields) != len(joined):
            return None
        return Trace(
            fields,
            frozenset().union(*(trace.taints for trace in found)),
            frozenset().union(*(trace.windows for trace in found)),
            frozenset().union(*(trace.pools for trace in found)),
            any(trace.dropped for trace in found),
            any(trace.places for trace in found),
            frozenset().union(*(trace.shares for trace in found)),
        )


@dataclass(frozen=True)
class Fixed:
    """Has nothing to do with the image: constants, side inputs, sizes computed from Shape."""

    tensor: str


@dataclass(frozen=True)
class Context:
    """Computed from the whole image (a global pool that stays global): the same shape at every size."""

    tensor: str
    trace: Trace


@dataclass(frozen=True)
class Map:
    """The same tensor with its ``spatial`` axes freed. Axis 0 is the batch, all others are channels.

    ``original`` is its name in the original. A map that has crossed ``trace.windows`` has native
    extent 1 on its spatial axes: they are the grid. ``behind`` is the map that a Transpose made it from.
    """

    tensor: str
    original: str
    spatial: tuple[int, ...]
    trace: Trace
    behind: Map | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Strip:
    """A map pooled over some of the image's axes as context: these are gone, or of extent 1 at every size.

    ``spatial`` are the axes that follow the image, ``places`` says which axis of the image each is; all other axes are
    channels. ``like`` is the map that was pooled: it knows how long the image's other axes are. ``parts``: strips that
    were laid end to end on its one axis, or one that was flattened; that axis is then none of the image's.
    """

    tensor: str
    original: str
    spatial: tuple[int, ...]
    places: tuple[int, ...]
    trace: Trace
    like: Map = field(repr=False)
    parts: tuple[Strip, ...] = field(default=(), repr=False)

    @property
    def along(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What its axes are; strips of which this is the same lie on each other."""
        return self.places, tuple(part.tensor for part in self.parts)


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
    ``trunk`` is the trace of the one map that it came from: brought into its layout again, it is that map.
    ``scale`` and ``shift`` (float64, of the index's shape) are work that is still pending: x * scale + shift.
    ``batch_axis`` is where the original has its batch; None where a Reshape swallowed a batch of 1.
    """

    sources: tuple[Source, ...]
    index: Index = field(repr=False)
    trace: Trace
    trunk: Trace | None = None
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
class Atom:
    """A part of an axis: the batch, channels, or a spatial axis (number ``place``) of ``length`` elements natively.

    Spatial: ``factor`` times as many as the map has from which it comes, which is that of the ``side``: where places
    were multiplied with places, each place of an image occurs twice.
    """

    kind: Literal["batch", "channel", "space"]
    length: int
    place: int = 0
    factor: Fraction = Fraction(1)
    side: int = 0


Group = tuple[Atom, ...]


@dataclass(frozen=True)
class Side:
    """One of the two maps whose places a product relates: the map that has their dims, and what an element reads."""

    like: Map = field(repr=False)
    trace: Trace


@dataclass(frozen=True)
class Folded:
    """A map of which a Reshape laid axes together, no channels among places: (N, H * W, C), (N * H * W, C) ...

    The same tensor as in the original; ``groups`` says of each axis which atoms it is made of, the outermost first.
    ``like``: the map whose dims tell the spatial axes apart again. ``bounds``: the maps that it comes from, where the
    head begins if one follows. ``window``: the same as a window, as long as nothing but movement was done.
    ``other``: the second side of what relates places to places; ``like`` and ``trace`` are the first.
    """

    tensor: str
    groups: tuple[Group, ...]
    like: Map = field(repr=False)
    trace: Trace
    bounds: frozenset[Boundary]
    window: Window | Refusal | None = field(default=None, repr=False)
    other: Side | None = field(default=None, repr=False)

    @property
    def sides(self) -> tuple[Side, ...]:
        """Where the places of each side come from."""
        first = Side(self.like, self.trace)
        return (first,) if self.other is None else (first, self.other)


@dataclass(frozen=True)
class ScoreMap:
    """The original's (N, F1, ..., Fk) is now (N, F1, ..., Fk, *grid): one cell per window.

    ``batch_axis`` is where the original has its batch (None where a Reshape swallowed a batch of 1); in the new graph
    it stays axis 0.
    """

    tensor: str
    features: tuple[int, ...]
    trace: Trace
    batch_axis: int | None = 0

    @property
    def grid(self) -> tuple[int, ...]:
        """Axes of the grid in the new tensor."""
        first = 1 + len(self.features)
        return tuple(range(first, first + len(self.trace.fields)))


@dataclass(frozen=True)
class Refused:
    """Cannot be represented; whatever is computed from it cannot either."""

    refusal: Refusal


View = Fixed | Context | Map | Strip | Folded | Window | ScoreMap | Refused
Lifted = Map | Strip | Folded | Window | ScoreMap
