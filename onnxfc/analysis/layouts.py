"""Which axes of the original's tensors hold places of the image, alone or folded with others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from onnxfc.layout.axes import (
    Atom,
    Group,
    Groups,
    groups_of,
    is_map,
    keeps_channels,
    merged,
    of_length,
    places_in,
    regroup,
)
from onnxfc.layout.lists import in_one_row
from onnxfc.shapes.spec import Shape

Names = frozenset[str]
NONE: Names = frozenset()
LAID = 100
"""In the place of a place: an axis along which places were laid end to end."""


@dataclass(frozen=True)
class Layout:
    """How a tensor that is computed from the image holds its places. Each resolution and branch is the same image.

    ``axes``: of each axis its parts, the outermost first; None where they were mixed, of places ``hidden`` then.
    ``thin``: places of which a pool (named by its output) left an axis of extent 1. ``looks``: the pools whose result
    it is, and whose places it has not met since. ``own``: the pieces, weights of places and deviations that it is made
    from, place by place. ``flat``: places have become features, as no axis was left to channels alone.
    """

    axes: Groups | None
    thin: frozenset[tuple[int, str]] = frozenset()
    looks: Names = NONE
    own: Names = NONE
    hidden: frozenset[int] = frozenset()
    flat: bool = False

    @cached_property
    def solid(self) -> frozenset[int]:
        """The places that it has."""
        held = self.hidden if self.axes is None else places(atom for group in self.axes for atom in group)
        return held - {place for place, _ in self.thin}

    def thin_at(self, axis: int) -> Names:
        """The pools that left an axis with one place."""
        here = places(self.axes[axis]) if self.axes is not None else frozenset[int]()
        return frozenset(look for place, look in self.thin if place in here)

    def length(self, place: int) -> int:
        """How many there are natively."""
        atoms = [atom for group in self.axes or () for atom in group if atom.kind == "space" and atom.place == place]
        return max((atom.length for atom in atoms), default=1)

    @property
    def lost(self) -> Layout:
        """The same, where no axis can be told."""
        hidden = frozenset[int]() if self.flat else self.solid
        return replace(self, axes=None, hidden=hidden, thin=frozenset())

    @property
    def is_map(self) -> bool:
        """Whether each place has an axis of its own."""
        return self.axes is not None and is_map(self.axes)


def places(atoms: Iterable[Atom]) -> frozenset[int]:
    """The places among some parts of axes."""
    return frozenset(atom.place for atom in atoms if atom.kind == "space")


def of_image(shape: Shape, spatial: Sequence[int], batched: bool, still: Sequence[int] = ()) -> Layout:
    """The image's own: its batch first, if it has one; ``still``: axes that stay as long as they are."""
    return Layout(groups_of(shape, dict(enumerate(spatial)), batched, still))


def moved(layout: Layout, axes: Sequence[Group]) -> Layout:
    """The same elements in these axes."""
    return replace(layout, axes=tuple(merged(group) for group in axes))


def reshaped(layout: Layout, after: Shape) -> Layout:
    """Axes regrouped."""
    if layout.axes is None:
        return layout
    row = None if layout.thin else in_one_row(layout.axes, after, len(places_in(layout.axes)))
    made = _regrouped(layout, after) if row is None else moved(layout, row)
    flat = layout.flat if made.axes is None else bool(made.solid) and not keeps_channels(made.axes)
    return replace(made, flat=flat and not made.is_map)


def _regrouped(layout: Layout, after: Shape) -> Layout:
    """Axes of one place stay where they were, else they are folded into the axis before them."""
    atoms = [atom for group in layout.axes or () for atom in group]
    thin = {place for place, _ in layout.thin}
    rest = [atom for atom in atoms if not (atom.kind == "space" and atom.place in thin)]
    kept = _apart(atoms, after) or _apart(rest, after)
    if kept is not None:
        return moved(layout, kept)
    single = [atom for atom in rest if atom.kind == "space" and atom.length == 1]
    large = _apart([atom for atom in rest if atom not in single], after)
    if large is None:
        return layout.lost
    last = max((axis for axis, group in enumerate(large) if group), default=0)
    return moved(layout, [(*group, *single) if axis == last else group for axis, group in enumerate(large)])


def _apart(atoms: Sequence[Atom], after: Shape) -> Groups | None:
    """The atoms as these axes hold them."""
    return regroup([tuple(atoms)], after)


def resized(layout: Layout, after: Shape) -> Layout:
    """Each axis where it was, of other lengths."""
    if layout.axes is None or len(after) != len(layout.axes):
        return layout.lost
    made: list[Group] = []
    for group, length in zip(layout.axes, after, strict=True):
        if math.prod(atom.length for atom in group) == length:
            made.append(group)
        elif len(group) == 1 and group[0].kind != "channel":
            made.append((replace(group[0], length=length),))
        elif places(group):
            return layout.lost
        else:
            made.append(of_length(group, length))
    return moved(layout, made)


def aligned(layout: Layout, rank: int) -> Groups | None:
    """Its axes as broadcasting lays them on those of a result."""
    if layout.axes is None or len(layout.axes) > rank:
        return None
    return ((),) * (rank - len(layout.axes)) + layout.axes
