"""Dims of the new graph for axes made of atoms, and what the rules for folded maps share."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from onnxfc.builder import ops
from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.builder.rule_context import RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.axes import Atom, Group, Groups, axis_of_places, lengths
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed


def provenance_of(ctx: RuleContext, provenance: Provenance, groups: Groups) -> Provenance:
    """The provenance of a map whose places became coarser or finer: places to channels and back, in blocks."""
    fields = list(provenance.fields)
    finer = False
    for place, axis in axis_of_places(groups).items():
        outer, *inner = groups[axis]
        if outer.factor < 1:
            block = int(1 / outer.factor)
            fields[place] = fields[place].through(block, stride=block)
        size = math.prod(atom.length for atom in inner)
        if size > 1:
            finer = True
            fields[place] = fields[place].resampled(Fraction(size), Fraction(1, size) - 1, Fraction(0))
    made = replace(provenance, fields=tuple(fields))
    return made.blamed(ctx.blame(Cause.STEPS)) if finer else made


def target(builder: GraphBuilder, view: Placed, after: Groups) -> list[int | str]:
    """A Reshape's target at any size: numbers for channels, 0 for what stays, computed dims, and one -1."""
    before = view.groups
    moving = [axis for axis, group in enumerate(after) if any(atom.kind != "channel" for atom in group)]
    stay = [axis for axis in moving if before[axis : axis + 1] == after[axis : axis + 1]]
    last = next((axis for axis in reversed(moving) if axis not in stay), None)
    found: list[int | str] = []
    for axis, group in enumerate(after):
        if axis in stay or axis == last:
            found.append(-1 if axis == last else 0)
        elif axis in moving:
            found.append(length_of(builder, view, group))
        else:
            found.append(math.prod(atom.length for atom in group))
    return found


def length_of(builder: GraphBuilder, view: Placed, group: Group) -> str:
    """The length of an axis now, as int64 of shape (1,)."""
    number = math.prod(atom.length for atom in group if atom.kind == "channel")
    parts = [_of_atom(builder, view, atom) for atom in group if atom.kind != "channel"]
    if number > 1:
        parts.append(builder.constant([number], "factor"))
    total = parts[0]
    for part in parts[1:]:
        total = builder.emit("Mul", [total, part])
    return total


def _of_atom(builder: GraphBuilder, view: Placed, atom: Atom) -> str:
    if (atom,) in view.groups:
        axis = view.groups.index((atom,))
        return ops.dims(builder, view.tensor, axis, axis + 1)
    like = view.sides[atom.side].like
    axis, factor = measured(atom, like)
    length = ops.dims(builder, like.tensor, axis, axis + 1)
    if factor == 1:
        return length
    part = builder.constant([factor.denominator], "block")
    return builder.emit("Div", [length, part])


def measured(atom: Atom, like: Placed) -> tuple[int, Fraction]:
    """The axis of a map that tells how long a part of an axis is now, and how many times as long. That of the batch may
    hold frames of each image too, or be fixed and taken apart."""
    if atom.kind == "space":
        return like.where[atom.place], atom.factor
    return 0, Fraction(atom.length, lengths(like.groups[:1])[0])
