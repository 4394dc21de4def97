"""Lists that an exporter computed in part: anchors of one level from the shape of its map, of another as numbers.

A map that was resized to another's size has a shape that PyTorch's older exporter does not know, the others' it does.
What is computed tells how the level that it belongs to goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from onnxfc.builder.computed_constants import computed
from onnxfc.builder.rule_context import RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.index import inputs_of, label
from onnxfc.graph.op_kinds import FLOATS
from onnxfc.layout.affine import Affine
from onnxfc.layout.axes import places_in
from onnxfc.layout.axis_map import Pixels
from onnxfc.layout.views import Fixed, Placed, View
from onnxfc.shapes.spec import Array, Shape

_CLOSE = 1e-5
"""How far two ways to the same coordinates may be apart, of the largest."""


def natively(ctx: RuleContext, position: int) -> Array | None:
    """What such a list is natively, to single precision; None where its length follows no image, or it has other
    inputs."""
    view = ctx.views[position]
    shapes = ctx.builder.spec(view.tensor).shapes if isinstance(view, Fixed) else None
    if shapes is None or len(set(shapes)) < 2:
        return None
    value = computed(ctx, ctx.node.input[position], lambda like: ctx.builder.spec(like.tensor).native)
    return value.astype(np.float32) if value is not None and value.dtype == np.float64 else value


def goes_on(
    ctx: RuleContext, name: str, value: Array, axis: int, levels: Sequence[tuple[Affine, Mapping[int, Pixels]]]
) -> bool:
    """Whether its levels with their steps are what the graph computes for images that are some periods larger, but for
    those that it has as numbers, of which one is left. ``levels``: each with its strides; they lie along ``axis``."""
    strides = [stride for _, own in levels for stride in own.values()]
    if any(int(stride) != stride for stride in strides):
        return False
    period = math.lcm(*(int(stride) for stride in strides))
    return all(_grows(ctx, name, value, axis, levels, period * times) for times in _TIMES)


_TIMES = (1, 2, 3, 7, 20, 60)
"""By so many periods: what is clamped, or rounded to more than a stride, is so far away only."""


def _grows(
    ctx: RuleContext,
    name: str,
    value: Array,
    axis: int,
    levels: Sequence[tuple[Affine, Mapping[int, Pixels]]],
    period: int,
) -> bool:
    """The same for one image, larger by ``period`` pixels along its first axis, and twice as many along the next."""

    def larger(like: Placed) -> Shape | None:
        shape = list(ctx.builder.spec(like.tensor).native)
        for place, at in like.where.items():
            more = period * (place + 1) / like.fields[place].stride
            shape[at] += int(more)
            if more != int(more):
                return None
        return tuple(shape)

    found, first, native, grown = computed(ctx, name, larger), 0, 0, 0
    for table, own in levels:
        more = {place: period * (place + 1) // int(stride) for place, stride in own.items()}
        for extent in (more, dict.fromkeys(more, 0)):
            wanted = _continued(table, extent)
            part = None if found is None else _rows(found, axis, first, wanted.shape[axis])
            if part is not None and part.shape == wanted.shape and _alike(part, wanted):
                first += wanted.shape[axis]
                grown += extent is more
                break
        native += _continued(table, dict.fromkeys(more, 0)).shape[axis]
    return found is not None and 0 < grown < len(levels) and (first, native) == (found.shape[axis], value.shape[axis])


def _rows(value: Array, axis: int, first: int, length: int) -> Array:
    return value[(slice(None),) * axis + (slice(first, first + length),)]


def _alike(one: Array, two: Array) -> bool:
    return bool(np.abs(one - two).max(initial=0.0) <= _CLOSE * np.abs(two).max(initial=0.0))


def _continued(table: Affine, more: Mapping[int, int]) -> Array:
    """The level with as many more places along each axis, by its steps."""
    made = table.base
    for place, axis in table.axes.items():
        index = np.arange(table.length(place) + more[place])
        slope = table.slopes.get(place, np.zeros(1))
        made = made + slope * index.reshape([-1 if k == axis else 1 for k in range(table.base.ndim)])
    lengths = iter(made.shape)
    return made.reshape([math.prod(next(lengths) for _ in group) for group in table.groups])


def told_of_steps(ctx: RuleContext, refusal: Refusal) -> Refusal:
    """A table is refused for what it is: its values follow the image's size, but are as many as natively. PyTorch's new
    exporter writes down how many steps torch.linspace has, and with it affine_grid."""
    if refusal.code not in ("position-table", "grid-rule"):
        return refusal
    state, names = ctx.state, inputs_of(ctx.node)
    placed = [view for name in names if isinstance(view := state.views.get(name), Placed)]
    extents = {atom.length for view in placed for atom in places_in(view.groups)} - {1}
    names = [name for name in names if _is_table(state.views.get(name))]
    for name in names:
        spec, node = state.builder.specs.get(name), state.graph.producers.get(name)
        values = spec.values if spec is not None and spec.dtype in FLOATS and len(set(spec.shapes or ())) == 1 else None
        if values and not _alike(values[0], values[-1]) and not extents.isdisjoint(values[0].shape):
            why = f"reads a table made of {name}, of which the file has as many values as natively"
            return ctx.refuse(refusal.code, f"{why}, though they follow the image's size: {_LINSPACE}", _STEPS)
        names += [
            item for item in (inputs_of(node) if node else ()) if item not in names and _is_table(state.views[item])
        ]
    return refusal


def _is_table(view: View | None) -> bool:
    """Whether it is computed from no element of the image, or a grid is in it."""
    return not isinstance(view, Placed) or any(blame.cause is Cause.GRID for blame in view.provenance.blames)


_LINSPACE = "the exporter writes linspace and affine_grid so"
_STEPS = "make the table of torch.arange, which is exported as it is computed"


def half_computed(ctx: RuleContext) -> Refusal | None:
    """That what a node reads is one of these."""
    state, names = ctx.state, [name for name in inputs_of(ctx.node) if isinstance(ctx.state.views.get(name), Fixed)]
    for name in names:
        node = state.graph.producers.get(name)
        read = inputs_of(node) if node is not None else []
        names += [item for item in read if item not in names]
        known = [(item, spec.shapes) for item in read if (spec := state.builder.specs.get(item)) and spec.shapes]
        fixed, follows = ([item for item, shapes in known if (len(set(shapes)) > 1) is grow] for grow in (False, True))
        if node is not None and node.op_type == "Concat" and fixed and follows:
            why = f"Concat lays {fixed[0]}, a list for the native size, beside {follows[0]}, which is computed for any"
            return Refusal("size-locked", label(node), why, "export it with open height and width")
    return None
