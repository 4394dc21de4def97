"""Where the elements of a tensor come from, and why cells differ from crops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxfc.claim.claim import Boundary
from onnxfc.layout.axes import places_in
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.views import NO_TAINTS, Placed


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
    taints: Gathered[Taint] = NO_TAINTS
    windows: frozenset[Boundary] = frozenset()
    pools: frozenset[str] = frozenset()
    dropped: bool = False
    places: bool = False
    shares: frozenset[Share] = frozenset()

    def tainted(self, *taints: Taint) -> Trace:
        return replace(self, taints=self.taints | taints)

    def with_fields(self, fields: Iterable[Field]) -> Trace:
        """The same with other receptive fields, one for each of the image's axes."""
        return replace(self, fields=tuple(fields))

    def along(self, fields: Mapping[int, Field]) -> Trace:
        """The same with other receptive fields along some of the image's axes."""
        return self.with_fields(fields.get(place, own) for place, own in enumerate(self.fields))

    def every(self, steps: tuple[int, ...]) -> Trace:
        """The trace of every ``steps``-th cell on each axis."""
        windows = frozenset(
            replace(item, step=tuple(a * b for a, b in zip(item.step, steps, strict=True))) for item in self.windows
        )
        fields = tuple(item.every(step) for item, step in zip(self.fields, steps, strict=True))
        return replace(self, fields=fields, windows=windows)

    @staticmethod
    def of_placed(views: Sequence[Placed]) -> Trace | None:
        """The trace of what is computed from all of them, axis by axis; None where their strides differ."""
        fields: list[Field] = []
        for place in range(len(views[0].trace.fields)):
            own = [view for view in views if any(atom.place == place for atom in places_in(view.groups))]
            joined = Field.join([view.trace.fields[place] for view in own or views[:1]])
            if joined is None:
                return None
            fields.append(joined)
        return Trace.join([replace(view.trace, fields=tuple(fields)) for view in views])

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
            Gathered.joined(trace.taints for trace in found),
            frozenset().union(*(trace.windows for trace in found)),
            frozenset().union(*(trace.pools for trace in found)),
            any(trace.dropped for trace in found),
            any(trace.places for trace in found),
            frozenset().union(*(trace.shares for trace in found)),
        )
