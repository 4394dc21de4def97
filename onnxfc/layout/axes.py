"""Axes as products of atoms (batch, channels, places), taken apart and laid together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal

from onnxfc.shapes.spec import Shape


@dataclass(frozen=True)
class Atom:
    """A part of an axis, of ``length`` elements natively.

    ``place``: which spatial axis of the image (``space``). ``factor``: how many times as many as the map has from which
    it comes, which is that of the ``side``: where places are multiplied with places, each place occurs twice.
    ``still``: channels that are an axis of the image which stays as long as it is, a width beside a free height.
    ``within``: channels that are the places within each place, where these were taken apart.
    """

    kind: Literal["batch", "channel", "space", "joined"]
    length: int
    place: int = 0
    factor: Fraction = Fraction(1)
    side: int = 0
    still: bool = field(default=False, compare=False)
    within: bool = field(default=False, compare=False)


Group = tuple[Atom, ...]
BATCH_OF_ONE: Group = (Atom("batch", 1),)
Groups = tuple[Group, ...]


def channels(length: int, still: bool = False, within: bool = False) -> Group:
    """An axis of channels; one of extent 1 holds nothing."""
    return (Atom("channel", length, still=still, within=within),) if length > 1 else ()


def is_still(group: Group) -> bool:
    """Whether an axis holds one of the image that stays as long as it is."""
    return any(atom.still for atom in group)


def is_within(group: Group) -> bool:
    """Whether an axis holds the places within each place."""
    return any(atom.within for atom in group)


def may_be_still(groups: Groups) -> bool:
    """Whether the channels beside a place on its axis may well be an axis of the image that stays: none is known to be
    elsewhere."""
    beside = any(len(group) > 1 and group[0].kind == "space" for group in groups)
    return beside and is_map(groups) and not any(map(is_still, groups))


def carried(before: Groups, after: Groups) -> Groups:
    """The axes of what a node makes, of which those of channels hold an axis of the image that stays, or the places
    within each place, where they did before; a node that gives it other axes makes no such."""
    if len(before) != len(after) or not any(is_still(group) or is_within(group) for group in before):
        return after
    alike = (kinds(now) == kinds(was) == ["channel"] and len(was) == 1 for was, now in zip(before, after, strict=True))
    return tuple(
        channels(now[0].length, is_still(was), was[0].within) if same else now
        for was, now, same in zip(before, after, alike, strict=True)
    )


def groups_of(shape: Shape, spatial: Mapping[int, int], batched: bool = True, still: Sequence[int] = ()) -> Groups:
    """The axes of a tensor whose batch is axis 0, if it has one; ``spatial``: the axis of each place, ``still``: axes
    of the image that stay."""
    places = {axis: place for place, axis in spatial.items()}
    return tuple(
        (Atom("space", length, places[axis]),)
        if axis in places
        else channels(length, axis in still)
        if axis or not batched
        else (Atom("batch", length),)
        for axis, length in enumerate(shape)
    )


def with_batch(groups: Groups) -> Groups:
    """The same, where a first axis of extent 1 is the batch of one image that had none."""
    without = not any(atom.kind == "batch" for group in groups for atom in group)
    return (BATCH_OF_ONE, *groups[1:]) if without and groups[:1] == ((),) else groups


def frames_first(groups: Groups) -> Groups:
    """The same, where the batch of one image was taken away ahead of frames, each of which is a map: (T, C, H, W)."""
    places = places_in(groups)
    maps = len(groups) == 2 + len(places) and not places_in(groups[:2]) and all(len(group) == 1 for group in groups[2:])
    without = not any(atom.kind == "batch" for group in groups for atom in group)
    sure = len(places) > 1 or not any(map(is_still, groups))  # else it may be (C, H, W) of which one axis stays
    frames = maps and without and sure and pure(groups[0])
    return ((*BATCH_OF_ONE, *groups[0]), *groups[1:]) if frames else with_batch(groups)


def batch_first(groups: Groups) -> Groups:
    """The same, where the first axis is of extent 1 and the batch, of one image for good, is another: which of them is
    the batch makes no difference."""
    if groups[:1] != ((),):
        return groups
    return with_batch(tuple(group[1:] if group[:1] == BATCH_OF_ONE else group for group in groups))


def batch_ahead(groups: Groups) -> Groups:
    """The same parts, where the batch of one image stands on an axis behind others, and may stand anywhere."""
    if BATCH_OF_ONE not in groups[1:]:
        return groups
    return (BATCH_OF_ONE, *(group for group in groups if group != BATCH_OF_ONE))


def images_apart(groups: Groups, first: int) -> Groups:
    """The same, where a fixed number of images becomes ``first`` on the first axis: the others are frames of each, on
    an axis that holds channels."""
    group = groups[0] if groups else ()
    if kinds(group) != ["batch"] or not 0 < first < group[0].length or group[0].length % first:
        return groups
    return ((Atom("batch", first), *channels(group[0].length // first)), *groups[1:])


def holds_images(group: Group) -> bool:
    """Whether an axis holds the batch, or frames of each of its images: what treats images alone treats these so."""
    return kinds(group)[:1] == ["batch"] and pure(group[1:])


def of_length(group: Group, length: int) -> Group:
    """An axis of channels, or one that holds the images of one, with so many of them."""
    own = channels(length, is_still(group))
    return (*BATCH_OF_ONE, *own) if group[:1] == BATCH_OF_ONE else own


def pure(group: Group) -> bool:
    """Whether an axis holds channels alone."""
    return all(atom.kind == "channel" for atom in group)


def kinds(group: Group) -> list[str]:
    """What an axis holds, the outermost first; channels beside each other once."""
    alone = (n == 0 or atom.kind != "channel" or group[n - 1].kind != "channel" for n, atom in enumerate(group))
    return [atom.kind for atom, first in zip(group, alone, strict=True) if first]


def places_in(groups: Sequence[Group]) -> list[Atom]:
    """All atoms of places."""
    return [atom for group in groups for atom in group if atom.kind == "space"]


def merged(group: Group, alike: bool = False, apart: bool = False) -> Group:
    """The same axis with neighbouring channels as one atom: heads of attention that were joined are channels again.
    An axis of the image that stays is none of them, unless all are ``alike``; nor are places within places, ``apart``.
    """
    if len(group) < 2:
        return tuple(group)
    found: list[Atom] = []
    for atom in group:
        other = found and (atom.still != found[-1].still or (apart and atom.within != found[-1].within))
        if found and atom.kind == "channel" == found[-1].kind and (alike or not other):
            still, within = found[-1].still and atom.still, found[-1].within and atom.within
            found[-1] = replace(found[-1], length=found[-1].length * atom.length, still=still, within=within)
        else:
            found.append(atom)
    return tuple(found)


def lengths(groups: Groups) -> Shape:
    """Native shape."""
    return tuple(math.prod(atom.length for atom in group) for group in groups)


def is_map(groups: Groups) -> bool:
    """Whether images are axis 0 and every spatial axis stands alone, or with finer places of its own: no axis of the
    image beside it."""
    spatial = [group for group in groups if any(atom.kind == "space" for atom in group)]
    alone = all(group[0].kind == "space" and pure(group[1:]) and not is_still(group) for group in spatial)
    finer = any(len(group) > 1 for group in spatial)
    own = len(groups) > 1 + len(spatial)  # without channels of their own places and channels are being flattened,
    own = own or (len(spatial) > 1 and all(len(group) > 1 for group in spatial))  # but where they went to every side
    once = bool(spatial) and not doubled(groups) and all(atom.side == 0 for group in groups for atom in group)
    return holds_images((groups or ((),))[0]) and alone and once and (own or not finer)


def doubled(groups: Groups) -> bool:
    """Whether a place occurs twice: each is related to each."""
    places = [atom.place for atom in places_in(groups)]
    return len(places) > len(set(places))


def is_mixed(groups: Groups) -> bool:
    """Whether an axis holds channels beside places, as the groups of a normalisation do."""
    apart = (kinds(tuple(atom for atom in group if not atom.still)) for group in groups)
    return any({"channel", "space"} <= set(held) for held in apart)


def may_fold(groups: Groups) -> bool:
    """Whether no axis holds channels beside places, where none is left to channels alone."""
    return not is_mixed(groups) or any(pure(group) for group in groups)


def keeps_channels(groups: Groups) -> bool:
    """Whether places have become no features: an axis is left to channels alone, or all of them are beside images."""
    beside = not is_mixed(groups) and any(holds_images(group) and len(group) > 1 for group in groups)
    return beside or any(pure(group) for group in groups)


def axis_of_places(groups: Groups) -> dict[int, int]:
    """The axis on which each place stands alone, or with finer places of its own."""
    return {group[0].place: axis for axis, group in enumerate(groups) if group and group[0].kind == "space"}


def regroup(groups: Sequence[Group], after: Shape) -> Groups | None:
    """The atoms as the axes of ``after`` hold them; None where an axis cuts an atom in no whole parts.

    Channels beside each other are all alike, and are split as needed. A spatial axis that is split has the coarser
    places outside and the places within each as channels.
    """
    atoms = tuple(atom for group in groups for atom in group if atom.kind != "channel" or atom.length > 1)
    made = (_regrouped(list(merged(atoms, alike, apart=True)), after) for alike in (False, True))
    return next((groups for groups in made if groups is not None), None)


def _regrouped(queue: list[Atom], after: Shape) -> Groups | None:
    """The atoms in order, as many on each axis as make its length."""
    found: list[Group] = []
    blocks: set[int] = set()
    for axis, length in enumerate(after):
        group = _taken(queue, length, blocks)
        if group is None:
            return None
        places = group and (group[-1].kind == "space" or group[-1].still)
        rows = places and axis + 2 == len(after) and after[-1] > 1
        if rows and _is_single(queue, "batch"):
            group.append(queue.pop(0))  # rows of places and images, not of images and channels
        found.append(merged(tuple(group)))
    return None if queue else _in_blocks(found, blocks)


def _taken(queue: list[Atom], length: int, blocks: set[int]) -> list[Atom] | None:
    """The first atoms of the queue, so many as make an axis of this length; None where that cuts one."""
    group: list[Atom] = []
    if length == 1 and _is_single(queue, "batch", "joined", "space"):
        group.append(queue.pop(0))
    left = length
    while left > 1:
        atom = queue.pop(0) if queue else None
        if atom is not None and left % atom.length:
            atom = _first_part(queue, atom, left, blocks)
        if atom is None:
            return None
        group.append(atom)
        left //= atom.length
    return group if math.prod(atom.length for atom in group) == length else None


def _first_part(queue: list[Atom], atom: Atom, outer: int, blocks: set[int]) -> Atom | None:
    """The outer part of an atom, whose inner one goes back into the queue."""
    parts = _split(atom, outer)
    if parts is None:
        return None
    if atom.kind == "space":
        blocks.add(parts[1].length)
    queue.insert(0, parts[1])
    return parts[0]


def _is_single(queue: Sequence[Atom], *allowed: str) -> bool:
    """Whether the next atom is one of these and of native length 1."""
    return bool(queue) and queue[0].kind in allowed and queue[0].length == 1


def _in_blocks(groups: list[Group], blocks: set[int]) -> Groups:
    """Where places are taken apart into blocks, an axis that is natively one block is taken apart too: (1, 3) of 3."""
    for axis, (before, group) in enumerate(pairwise(groups)):
        whole = len(group) == 1 and group[0].kind == "space" and {group[0].length} == blocks
        if not before and whole:
            size = group[0].length
            groups[axis] = (replace(group[0], length=1, factor=group[0].factor / size),)
            groups[axis + 1] = (Atom("channel", size, within=True),)
    return tuple(groups)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom] | None:
    if atom.kind in {"batch", "joined"} or atom.length % outer:
        return None
    inner = atom.length // outer
    factor = atom.factor / inner if atom.kind == "space" else atom.factor
    within = atom.within or atom.kind == "space"
    return replace(atom, length=outer, factor=factor), Atom("channel", inner, still=atom.still, within=within)


def survivors(before: Shape, after: Shape, spatial: Sequence[int]) -> tuple[int, ...] | None:
    """Where each of the axes ``spatial`` stands after a Reshape that leaves it whole; None where one does not survive.

    Both shapes are cut into the smallest runs of equal product; an axis survives alone in its run, axes of extent 1
    beside it apart. Where native extents of 1 leave it open, the axes keep their order from the last; a Reshape to the
    same shape leaves them where they are.
    """
    if after == before:
        return tuple(spatial)
    if after[:1] != before[:1]:
        return None
    found: dict[int, int] = {}
    end = len(after)
    for axis in sorted(spatial, reverse=True):
        place = _followed_by(after, math.prod(before[axis + 1 :]), before[axis], end)
        if place is None:
            return None
        found[axis] = end = place
    return tuple(found[axis] for axis in spatial)


def _followed_by(after: Shape, product: int, length: int, end: int) -> int | None:
    """The last axis before ``end`` of this length with this many elements behind it; never the batch."""
    fitting = (place for place in range(end - 1, 0, -1) if math.prod(after[place + 1 :]) == product)
    return next((place for place in fitting if after[place] == length), None)
