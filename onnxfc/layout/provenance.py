"""Where the elements of a tensor come from, and why cells differ from crops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from onnxfc.claim.blame import Blame
from onnxfc.claim.claim import Boundary
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered

NO_BLAMES: Gathered[Blame] = Gathered()
NO_POOLS: Gathered[str] = Gathered()

SumToOne = tuple[str, int]
"""The node that made parts of a whole, and the place (number of a spatial axis) along which they are that."""


@dataclass(frozen=True)
class Provenance:
    """Where the elements of a view come from.

    ``fields``: per spatial axis, what one element (or cell) reads of the image.
    ``windows``: the trunk tensors whose windows it has crossed; empty in the trunk.
    ``pools``: the global pools it descends from. ``dropped``: some of them were taken out. ``places``: its features are
    places of a window one by one, which no FC layer has summed. ``sums_to_one``: along which places it holds parts of a
    whole (weights of a Softmax), so that a sum over them does not grow with the image.
    """

    fields: tuple[Field, ...]
    blames: Gathered[Blame] = NO_BLAMES
    windows: frozenset[Boundary] = frozenset()
    pools: Gathered[str] = NO_POOLS
    dropped: bool = False
    places: bool = False
    sums_to_one: frozenset[SumToOne] = frozenset()

    def blamed(self, *blames: Blame) -> Provenance:
        return replace(self, blames=self.blames | blames)

    def behind(self, *pools: str) -> Provenance:
        """The same, of what comes from these pools too."""
        return replace(self, pools=self.pools | pools)

    def along(self, fields: Mapping[int, Field]) -> Provenance:
        """The same with other receptive fields along some of the image's axes."""
        return replace(self, fields=tuple(fields.get(place, own) for place, own in enumerate(self.fields)))

    def every(self, steps: tuple[int, ...]) -> Provenance:
        """The provenance of every ``steps``-th cell on each axis."""
        windows = frozenset(
            replace(item, step=tuple(a * b for a, b in zip(item.step, steps, strict=True))) for item in self.windows
        )
        fields = tuple(item.every(step) for item, step in zip(self.fields, steps, strict=True))
        return replace(self, fields=fields, windows=windows)

    @staticmethod
    def join(provenances: Iterable[Provenance]) -> Provenance | None:
        """The provenance of what is computed from all of them; None where their grids do not meet."""
        found = list(provenances)
        joined = [Field.join(fields) for fields in zip(*(provenance.fields for provenance in found), strict=True)]
        fields = tuple(item for item in joined if item is not None)
        if len(fields) != len(joined):
            return None
        return Provenance(
            fields,
            Gathered.joined(provenance.blames for provenance in found),
            frozenset().union(*(provenance.windows for provenance in found)),
            Gathered.joined(provenance.pools for provenance in found),
            any(provenance.dropped for provenance in found),
            any(provenance.places for provenance in found),
            frozenset().union(*(provenance.sums_to_one for provenance in found)),
        )
