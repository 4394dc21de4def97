"""Places in a row, one level of the trunk behind the other, as detectors give their scores: (N, places, K)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from onnxfc.layout import axes
from onnxfc.layout.axes import (
    BATCH_OF_ONE,
    Atom,
    Group,
    Groups,
    channels,
    kinds,
    merged,
    places_in,
    pure,
    regroup,
)
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
    """The same, where the batch, of one image for good, shares its axis with such a row, wherever in it: it is left out
    there."""
    return tuple(_without_batch(group, rank) for group in groups)


def _without_batch(group: Group, rank: int) -> Group:
    alone = merged(tuple(atom for atom in group if (atom,) != BATCH_OF_ONE))
    row = kinds(alone) == ["joined"] or rows(alone, rank) is not None
    return alone if row else group


def without_batch_of_one(view: Placed) -> Placed:
    """A list of one image for good without its batch, which may stand between the places and their elements."""
    parts = tuple(without_batch_of_one(part) for part in view.parts)
    groups = tuple(tuple(atom for atom in group if (atom,) != BATCH_OF_ONE) for group in view.groups)
    return replace(view, groups=groups, parts=parts)


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
    block = (first, first + rank)
    return _row_of(atoms, _with_still(atoms, *block), after) or _row_of(atoms, block, after)


def _with_still(atoms: Group, first: int, last: int) -> tuple[int, int]:
    """The same atoms and the axes of the image beside them that stay, if there is but one place: of that alone nothing
    says on which of several axes of length 1 it comes to lie."""
    if math.prod(atom.length for atom in atoms[first:last]) == 1:
        while last < len(atoms) and atoms[last].still:
            last += 1
        while first and atoms[first - 1].still:
            first -= 1
    return first, last


def _row_of(atoms: Group, block: tuple[int, int], after: Shape) -> Groups | None:
    """The axes of ``after`` where these atoms, from one up to another, stay beside each other; else None."""
    first, last = block
    held = atoms[first:last]
    whole = Atom("space", math.prod(atom.length for atom in held))
    made = regroup([(*atoms[:first], whole, *atoms[last:])], after)
    if made is None or not any(whole in group for group in made):
        return None
    return _in_place_of(whole, held, made)


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


def relaid(view: Placed, after: Shape) -> Placed | None:
    """A list in other axes, each level's likewise: (N, places * K) as (N, places, K) and back, or without the batch of
    one image ahead. None where they cut the elements of a place otherwise, or the places do not come last ahead of
    these."""
    [joined] = [atom for group in view.groups for atom in group if atom.kind == "joined"]
    whole = Atom("space", joined.length)
    groups = regroup([tuple(whole if atom == joined else atom for atom in group) for group in view.groups], after)
    if groups is None or axes.lengths(groups) != after or len(places_in(groups)) != 1:
        return None
    [row] = places_in(groups)
    axis = next(k for k, group in enumerate(groups) if row in group)
    ahead, behind = groups[axis][: groups[axis].index(row)], groups[axis][groups[axis].index(row) + 1 :]
    rest = [_of_elements(part, joined.length // row.length, behind) for part in view.parts]
    if ahead not in ((), BATCH_OF_ONE) or not all(map(pure, (behind, *groups[axis + 1 :]))) or None in rest:
        return None
    own = replace(joined, length=row.length * math.prod(atom.length for atom in behind))
    laid = [(*groups[:axis], (*ahead, *item), *groups[axis + 1 :]) for item in ((own,), *filter(None, rest))]
    parts = (replace(part, groups=item) for part, item in zip(view.parts, laid[1:], strict=True))
    return replace(view, groups=laid[0], parts=tuple(parts))


def _of_elements(part: Placed, fewer: int, more: Group) -> Group | None:
    """The row of a level's places with so many times fewer elements each, or with more; None where they are no multiple
    of that."""
    [row] = [group for group in part.groups if places_in([group])]
    last = len(row) - 1 if row[-1].kind == "channel" else len(row)
    own = math.prod(atom.length for atom in row[last:])
    return None if own % fewer else merged((*row[:last], *channels(own // fewer), *more))


def _in_place_of(atom: Atom, parts: Group, groups: Groups) -> Groups:
    return tuple(tuple(own for item in group for own in (parts if item == atom else (item,))) for group in groups)
