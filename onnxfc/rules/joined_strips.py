"""Strips that were joined end to end on one axis, and are taken apart again."""

from __future__ import annotations

from itertools import accumulate

from onnxfc.builder import ops
from onnxfc.builder.rule_context import RuleContext
from onnxfc.layout.axes import Atom
from onnxfc.layout.views import Placed


def axis_of(view: Placed) -> int:
    """The axis on which they are joined."""
    return next(axis for axis, group in enumerate(view.groups) if any(atom.kind == "joined" for atom in group))


def ends_of(ctx: RuleContext, view: Placed) -> list[int]:
    """Where each strip ends natively; empty where they are not as long together any more."""
    axis = axis_of(view)
    total = [shape[axis] for shape in ctx.builder.spec(view.tensor).shapes or ()]
    rows = zip(*(ctx.builder.spec(part.tensor).shapes or () for part in view.parts), strict=True)
    now = [sum(shape[part.spatial[0]] for part, shape in zip(view.parts, shapes, strict=True)) for shapes in rows]
    return list(accumulate(part.extent[0] for part in view.parts)) if total == now else []


def length_of(ctx: RuleContext, part: Placed) -> str:
    """How long a strip is now, as int64 of shape (1,)."""
    axis = part.spatial[0]
    return ops.dims(ctx.builder, part.tensor, axis, axis + 1)


def sliced_part(ctx: RuleContext, view: Placed, number: int, name: str) -> Placed:
    """One of the strips, cut out behind those before it."""
    builder = ctx.builder
    begin = builder.constant([0], "start")
    for part in view.parts[:number]:
        begin = builder.emit("Add", [begin, length_of(ctx, part)])
    stop = builder.emit("Add", [begin, length_of(ctx, view.parts[number])])
    axis = builder.constant([axis_of(view)], "axis")
    builder.emit("Slice", [view.tensor, begin, stop, axis], name, instead=ctx.node)
    return part_of(view, number, name)


def part_of(view: Placed, number: int, name: str) -> Placed:
    """The view of one strip, which lies as the joined ones do."""
    part, axis = view.parts[number], axis_of(view)
    place = next(iter(part.where))
    groups = (*view.groups[:axis], (Atom("space", part.extent[0], place),), *view.groups[axis + 1 :])
    return Placed(name, name, groups, view.provenance, part.like)
