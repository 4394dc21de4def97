"""Places in a row, one level of the trunk behind the other, as detectors give their scores: (N, places, K)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from onnxfc.layout.axes import BATCH_OF_ONE, Atom, Group, Groups, kinds, places_in, regroup
from onnxfc.layout.views import Placed
from onnxfc.shapes.spec import Shape


@dataclass(frozen=True)
class Row:
    """All places of a level in a row: ``outer`` times, each with ``inner`` elements; ``order``: the axes of the image,
    the outermost first, empty where that is their own order."""

    outer: int
    inner: int
    order: tuple[int, ...] = ()


def rows(group: Group, rank: int) -> Row | None:
    """How the places of an image lie on an axis; None where it is no such row."""
    kinds = [atom.kind for atom in group]
    if kinds.count("space") != rank or set(kinds) - {"space", "channel"}:
        return None
    first = kinds.index("space")
    places = group[first : first + rank]
    order = tuple(atom.place for atom in places)
    if sorted(order) != list(range(rank)) or any((atom.factor, atom.side) != (Fraction(1), 0) for atom in places):
        return None
    outer, inner = (math.prod(atom.length for atom in part) for part in (group[:first], group[first + rank :]))
    return Row(outer, inner, () if list(order) == sorted(order) else order)


def lengths(view: Placed, rank: int) -> list[int]:
    """How long the levels of a list are natively."""
    return [math.prod(part.like.extent) * row.outer * row.inner for part, row in levels(view, rank)]


def extents(view: Placed, rank: int) -> list[tuple[int, ...]]:
    """How many places its maps natively have along each axis of the image: a list's levels, or its own."""
    return [part.like.extent for part in [part for part, _ in levels(view, rank)] or [view]]


def of_one_image(groups: Groups, rank: int) -> Groups:
    """The same, where the batch, of one image for good, shares its axis with such a row: it is left out there."""
    alone = (group[:1] == BATCH_OF_ONE and rows(group[1:], rank) is not None for group in groups)
    return tuple(group[one:] for group, one in zip(groups, alone, strict=True))


def row_axis(view: Placed, rank: int) -> int | None:
    """The axis of a placed tensor that is a row of all its places, or of several levels; None where there is none."""
    if view.other or view.provenance.windows:
        return None
    for axis, group in enumerate(view.groups):
        if [atom.kind for atom in group] == ["joined"] and view.is_list:
            return axis
        if rows(group, rank) is not None:
            return axis if not places_in((*view.groups[:axis], *view.groups[axis + 1 :])) else None
    return None


def in_one_row(groups: Groups, after: Shape, rank: int) -> Groups | None:
    """The axes of a map whose places are laid in one row, also where there is one row or column of them natively; None
    where they are not."""
    atoms = tuple(atom for group in groups for atom in group)
    places = tuple(places_in(groups))
    if "space" not in kinds(atoms) or rows(places, rank) is None:
        return None
    first = kinds(atoms).index("space")
    if atoms[first : first + rank] != places:
        return None
    whole = Atom("space", math.prod(atom.length for atom in places))
    made = regroup([(*atoms[:first], whole, *atoms[first + rank :])], after)
    if made is None or not any(whole in group for group in made):
        return None
    return tuple(tuple(part for atom in group for part in (places if atom == whole else (atom,))) for group in made)


def levels(view: Placed, rank: int) -> list[tuple[Placed, Row]]:
    """The levels of a placed tensor with such an axis, in their order."""
    found = []
    for part in view.parts or (view,):
        axis = row_axis(part, rank)
        row = None if axis is None else rows(part.groups[axis], rank)
        if row is None:
            return []
        found.append((part, row))
    return found


def end_to_end(parts: list[Placed], axis: int, length: int) -> Groups:
    """The axes of rows that were laid one behind the other."""
    first = parts[0].groups
    return (*first[:axis], (Atom("joined", length),), *first[axis + 1 :])


def split_rows(view: Placed, after: Shape) -> tuple[Groups, tuple[Placed, ...]] | None:
    """A list whose elements are taken apart, (N, places * K) as (N, places, K), each level's likewise; None where they
    are not."""
    axis = next(k for k, group in enumerate(view.groups) if [atom.kind for atom in group] == ["joined"])
    [atom] = view.groups[axis]
    if axis + 1 >= len(after) or not after[axis] or atom.length % after[axis]:
        return None
    inner = atom.length // after[axis]
    if after[axis + 1 :][:1] != (inner,) or inner == 1:
        return None
    parts = []
    for part in view.parts:
        own = math.prod(item.length for item in part.groups[axis])
        made = None if own % inner else regroup(part.groups, (*after[:axis], own // inner, *after[axis + 1 :]))
        if made is None:
            return None
        parts.append(replace(part, groups=made))
    groups = (*parts[0].groups[:axis], (replace(atom, length=after[axis]),), *parts[0].groups[axis + 1 :])
    return groups, tuple(parts)
