"""Axes taken apart and laid together: what a Reshape does to a map, in atoms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from onnxfc import emit
from onnxfc.draft import Draft
from onnxfc.errors import Refusal
from onnxfc.receptive_field import Field
from onnxfc.site import ATTENTION, LEAVE, Site
from onnxfc.specs import Shape
from onnxfc.views import Atom, Folded, Group, Map, Source, Trace, Window

Groups = tuple[Group, ...]


def groups_of(site: Site, view: Map) -> Groups:
    """The axes of a map, one atom each."""
    shape = site.native(view.original).native
    places = {axis: place for place, axis in enumerate(view.spatial)}
    return tuple(
        (Atom("space", length, places[axis]) if axis in places else Atom("channel" if axis else "batch", length),)
        for axis, length in enumerate(shape)
    )


def regroup(groups: Sequence[Group], after: Shape) -> Groups | None:
    """The atoms as the axes of ``after`` hold them; None where an axis cuts an atom in no whole parts.

    Channels are split as needed. A spatial axis that is split has the coarser places outside and the places within
    each as channels.
    """
    queue = [atom for group in groups for atom in group if atom.kind != "channel" or atom.length > 1]
    found: list[Group] = []
    blocks: set[int] = set()
    for length in after:
        group: list[Atom] = []
        if length == 1 and queue and queue[0].kind != "channel" and queue[0].length == 1:
            group.append(queue.pop(0))
        while (left := length // math.prod(atom.length for atom in group)) > 1:
            if not queue:
                return None
            atom = queue.pop(0)
            if left % atom.length:
                parts = _split(atom, left)
                if parts is None:
                    return None
                blocks |= {parts[1].length} if atom.kind == "space" else set()
                atom = parts[0]
                queue.insert(0, parts[1])
            group.append(atom)
        if math.prod(atom.length for atom in group) != length:
            return None
        rows = group and group[-1].kind == "space" and len(found) + 2 == len(after) and after[-1] > 1
        if rows and queue and queue[0].kind == "batch" and queue[0].length == 1:
            group.append(queue.pop(0))  # rows of places and images, not of images and channels
        found.append(tuple(group))
    return None if queue else _in_blocks(found, blocks)


def _in_blocks(groups: list[Group], blocks: set[int]) -> Groups:
    """Where places are taken apart into blocks, an axis that is natively one block is taken apart too: (1, 3) of 3."""
    for axis, (before, group) in enumerate(pairwise(groups)):
        whole = len(group) == 1 and group[0].kind == "space" and {group[0].length} == blocks
        if not before and whole:
            size = group[0].length
            groups[axis] = (replace(group[0], length=1, factor=group[0].factor / size),)
            groups[axis + 1] = (Atom("channel", size),)
    return tuple(groups)


def _split(atom: Atom, outer: int) -> tuple[Atom, Atom] | None:
    if atom.kind == "batch" or atom.length % outer:
        return None
    inner = atom.length // outer
    factor = atom.factor / inner if atom.kind == "space" else atom.factor
    return replace(atom, length=outer, factor=factor), Atom("channel", inner)


def is_map(groups: Groups) -> bool:
    """Whether the batch is axis 0 and every spatial axis stands alone, or with finer places of its own."""
    spatial = [group for group in groups if any(atom.kind == "space" for atom in group)]
    alone = all(group[0].kind == "space" and all(a.kind == "channel" for a in group[1:]) for group in spatial)
    finer = any(len(group) > 1 for group in spatial)
    own = len(groups) > 1 + len(spatial)  # without channels of their own places and channels are being flattened
    once = bool(spatial) and not doubled(groups) and all(atom.side == 0 for group in groups for atom in group)
    return [atom.kind for group in groups[:1] for atom in group] == ["batch"] and alone and once and (own or not finer)


def merged(group: Group) -> Group:
    """The same axis with neighbouring channels as one atom, whichever side its places are on."""
    found: list[Atom] = []
    for atom in group:
        if found and atom.kind == "channel" == found[-1].kind:
            found[-1] = Atom("channel", found[-1].length * atom.length)
        else:
            found.append(replace(atom, side=0))
    return tuple(found)


def doubled(groups: Groups) -> bool:
    """Whether a place occurs twice: each is related to each."""
    places = [atom.place for group in groups for atom in group if atom.kind == "space"]
    return len(places) > len(set(places))


def is_folded(groups: Groups) -> bool:
    """Whether no axis holds channels beside places, where none is left to channels alone."""
    return not is_mixed(groups) or any(all(atom.kind == "channel" for atom in group) for group in groups)


def is_mixed(groups: Groups) -> bool:
    """Whether an axis holds channels beside places, as the groups of a normalisation do."""
    return any({"channel", "space"} <= {atom.kind for atom in group} for group in groups)


def spatial_of(groups: Groups) -> tuple[int, ...]:
    """The axis of each place, in their order."""
    found = {atom.place: axis for axis, group in enumerate(groups) for atom in group if atom.kind == "space"}
    return tuple(found[place] for place in sorted(found))


def trace_of(site: Site, trace: Trace, groups: Groups) -> Trace:
    """The trace of a map whose places became coarser or finer: places to channels and back, in blocks."""
    fields: list[Field] = []
    finer = False
    for axis, field in zip(spatial_of(groups), trace.fields, strict=True):
        outer, *inner = groups[axis]
        if outer.factor < 1:
            block = int(1 / outer.factor)
            field = field.through(block, stride=block)
        size = math.prod(atom.length for atom in inner)
        if size > 1:
            finer = True
            field = field.resampled(Fraction(size), Fraction(1, size) - 1, Fraction(0))
        fields.append(field)
    made = replace(trace, fields=tuple(fields))
    return made.tainted(site.taint("resampling")) if finer else made


def target(draft: Draft, view: Map | Folded, before: Groups, after: Groups) -> list[int | str]:
    """A Reshape's target at any size: numbers for channels, 0 for what stays, computed dims, and one -1."""
    moving = [axis for axis, group in enumerate(after) if any(atom.kind != "channel" for atom in group)]
    stay = [axis for axis in moving if before[axis : axis + 1] == after[axis : axis + 1]]
    last = next((axis for axis in reversed(moving) if axis not in stay), None)
    found: list[int | str] = []
    for axis, group in enumerate(after):
        if axis in stay or axis == last:
            found.append(-1 if axis == last else 0)
        elif axis in moving:
            found.append(_length(draft, view, before, group))
        else:
            found.append(math.prod(atom.length for atom in group))
    return found


def _length(draft: Draft, view: Map | Folded, before: Groups, group: Group) -> str:
    """The length of an axis now, as int64 of shape (1,)."""
    number = math.prod(atom.length for atom in group if atom.kind == "channel")
    parts = [_of_atom(draft, view, before, atom) for atom in group if atom.kind != "channel"]
    if number > 1:
        parts.append(draft.constant([number], "factor"))
    total = parts[0]
    for part in parts[1:]:
        total = draft.emit("Mul", [total, part])
    return total


def _of_atom(draft: Draft, view: Map | Folded, before: Groups, atom: Atom) -> str:
    if (atom,) in before:
        axis = before.index((atom,))
        return emit.dims(draft, view.tensor, axis, axis + 1)
    like = view.sides[atom.side].like if isinstance(view, Folded) else view
    axis = like.spatial[atom.place] if atom.kind == "space" else 0
    length = emit.dims(draft, like.tensor, axis, axis + 1)
    if atom.factor == 1:
        return length
    part = draft.constant([atom.factor.denominator], "block")
    return draft.emit("Div", [length, part])


def unfolded(site: Site, view: Folded) -> Window | Refusal:
    """A folded map as a native window (N, *native shape)."""
    if view.window is not None:
        return view.window
    atoms = [atom for group in view.groups for atom in group]
    if sorted(atom.place for atom in atoms if atom.kind == "space") != list(range(len(view.trace.fields))):
        return site.refuse("attention", ATTENTION, LEAVE)
    batch = 0 if [atom.kind for atom in view.groups[0]] == ["batch"] else None
    if batch is None and not site.may_swallow:
        return site.refuse("mixes-batch", "takes places or channels for images of the batch")
    order = sorted(range(len(atoms)), key=lambda k: (_ORDER[atoms[k].kind], atoms[k].place))
    apart = emit.reshape(site.draft, view.tensor, target(site.draft, view, view.groups, tuple((a,) for a in atoms)))
    tensor = emit.transpose(site.draft, apart, order)
    extent = tuple(atoms[k].length for k in order if atoms[k].kind == "space")
    channels = math.prod(atom.length for atom in atoms if atom.kind == "channel")
    first = len(atoms) - len(extent)
    if first != 2:
        sizes = emit.dims(site.draft, tensor, first, len(atoms))
        tensor = emit.reshape(site.draft, tensor, [0, channels, sizes])
    named = [atoms[k].length for k in order if atoms[k].kind != "batch"]
    places = np.arange(channels * math.prod(extent)).reshape([1, *named]).transpose(np.argsort(order))
    index = places.reshape(lengths(view.groups)[1:] if batch == 0 else _alone(view.groups))
    fields = tuple(item.through(length) for item, length in zip(view.trace.fields, extent, strict=True))
    trace = replace(view.trace, fields=fields, windows=view.bounds)
    source = Source(tensor, channels, extent, (1,) * len(extent))
    return Window((source,), index, trace, trunk=view.trace, batch_axis=batch)


_ORDER = {"batch": 0, "channel": 1, "space": 2}


def _alone(groups: Groups) -> Shape:
    """Native shape of one image, its batch left out of every axis."""
    return lengths(tuple(tuple(replace(a, length=1) if a.kind == "batch" else a for a in group) for group in groups))


def lengths(groups: Groups) -> Shape:
    """Native shape."""
    return tuple(int(np.prod([atom.length for atom in group], dtype=np.int64)) for group in groups)
