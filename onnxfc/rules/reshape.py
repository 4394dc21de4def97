"""Reshape, Flatten, Squeeze, Unsqueeze on maps and folded maps.

What leaves the spatial axes whole stays a map. What does not is a folded map, or a window whose index moves as the data
would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import measured, provenance_of, target
from onnxfc.builder.rule_context import Outcome, RuleContext, axes_of
from onnxfc.graph.index import attributes
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.head.windows import moved_to
from onnxfc.layout.axes import (
    BATCH_OF_ONE,
    Group,
    Groups,
    axis_of_places,
    batch_ahead,
    batch_first,
    carried,
    frames_first,
    groups_of,
    images_apart,
    is_map,
    is_still,
    keeps_channels,
    kinds,
    may_be_still,
    may_fold,
    places_in,
    regroup,
    survivors,
    with_batch,
)
from onnxfc.layout.lists import in_one_row, of_one_image, relaid, row_axis, rows, without_batch_of_one
from onnxfc.layout.views import Placed, View
from onnxfc.rules.channel_shuffle import permuted
from onnxfc.rules.fixed_parts import told_blocks
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.spec import Shape


@rule("Flatten", "Reshape", on=PLACED, attributes=("allowzero", "axis"))
def reshape(ctx: RuleContext) -> Outcome | None:
    """Reshape of a map regroups its atoms: places laid in a row and back again are the map.

    None where places become features of a window.
    """
    view = ctx.placed_in()
    after = ctx.shape_out()
    if view.apart:
        outcome = _of_map(ctx, view)
        if outcome is not None:
            return outcome
        if view.provenance.windows or 1 in view.extent:
            return pooled_in_part(ctx) if view.is_strip else None
    other = _relaid(ctx, view) if view.is_list else None
    if other is not None:
        return _in_row(ctx, replace(view, parts=other.parts), other.groups)
    groups = regroup(_as_meant(ctx, view), after)
    groups = groups and _of_images(ctx, groups)
    if groups is not None and ctx.state.rank < ctx.state.axes[1] and may_be_still(groups):
        groups = None
    if groups is not None and not ctx.state.of_windows and _in_a_row(groups, ctx.state.rank):
        return _regrouped(ctx, view, groups)
    if groups is None or not _stays(view, groups):
        return pooled_in_part(ctx) if view.is_strip else None
    return _regrouped(ctx, view, groups)


def _of_map(ctx: RuleContext, view: Placed) -> Outcome | None:
    """A map whose axes are left whole, or whose places are laid in one row; None where it is neither."""
    before, after = ctx.shape_in(), ctx.shape_out()
    places = survivors(before, after, view.spatial)
    clear = places is not None and not _unclear(view, before, after)
    lost = len(after) < len(before) and 1 in view.extent  # the channels' axis or that one: what follows tells which
    listed = _listed(ctx, view, after, in_row=clear) if lost or not clear else None
    if listed is not None or places is None or not clear:
        return listed
    return _each_alone(ctx, view, dict(zip(view.where, places, strict=True)))


def _relaid(ctx: RuleContext, view: Placed) -> Placed | None:
    """A list in the axes that the node makes; None where it is none any more."""
    found = relaid(view, ctx.shape_out())
    if found is None and ctx.may_swallow:
        found = relaid(without_batch_of_one(view), ctx.shape_out())
    if found is None:
        return None
    parts = tuple(replace(part, groups=_of_images(ctx, part.groups)) for part in found.parts)
    made = replace(found, groups=_of_images(ctx, found.groups), parts=parts)
    return made if row_axis(made, ctx.state.rank) is not None else None


def _as_meant(ctx: RuleContext, view: Placed) -> Groups:
    """The parts of its axes, with the batch as the Reshape means it."""
    first = ctx.shape_out()[0]
    groups = view.groups if ctx.free_batch else images_apart(view.groups, first)
    return batch_ahead(groups) if ctx.may_swallow and first == 1 else groups


def _of_images(ctx: RuleContext, groups: Groups) -> Groups:
    """The axes with the batch ahead; without that of one image for good, where it shares an axis with a list."""
    lists = ctx.may_swallow and not ctx.state.of_windows
    return with_batch(of_one_image(groups, ctx.state.rank) if lists else groups)


def _stays(view: Placed, groups: Groups) -> bool:
    """Whether it is a map, or can be one again, and its places have become no features."""
    features = view.apart and not keeps_channels(groups)
    return is_map(groups) or (not features and may_fold(groups))


def _in_a_row(groups: Groups, rank: int) -> bool:
    """Whether a map was flattened place by place, (N, H * W * C) or without its batch: parts of a list, where no head
    follows."""
    row = rows(groups[-1], rank) if all(kinds(group) == ["batch"] for group in groups[:-1]) else None
    return row is not None and row.outer == 1


def _listed(ctx: RuleContext, view: Placed, after: Shape, in_row: bool) -> Outcome | None:
    """A map whose places are laid in one row, as a level of a list; None where it is none, or (``in_row``) where a
    Concat joins them along another axis."""
    groups = in_one_row(view.groups, after, ctx.state.rank) if _joined(ctx) else None
    if groups is None:
        return None
    along = any(_joined(ctx, after[axis]) for axis, group in enumerate(groups) if places_in((group,)))
    if in_row and not along:
        return None
    return (_in_row if along or not is_map(groups) else _regrouped)(ctx, view, _of_images(ctx, groups))


def _joined(ctx: RuleContext, length: int = 0) -> bool:
    """Whether no head follows, and a Concat joins the places with others: they are a level of a list then. ``length``:
    along an axis that is as long."""
    graph, found = ctx.state.graph, list(ctx.node.output)
    for name in found if not ctx.state.of_windows else ():
        for node in graph.readers.get(name, ()):
            shapes = ctx.native(name).shapes
            if node.op_type == "Concat" and (not length or (shapes and shapes[0][attributes(node)["axis"]] == length)):
                return True
            found.extend(output for output in node.output if output not in found)
    return False


def _unclear(view: Placed, before: Shape, after: Shape) -> bool:
    """Whether it cannot be told which axis of a strip one of native extent 1 becomes."""
    return view.is_strip and before != after and 1 in view.extent


def _each_alone(ctx: RuleContext, view: Placed, where: Mapping[int, int]) -> Outcome:
    """Keep the node where its target follows the image, else write the target from the tensor's own dims."""
    after = ctx.shape_out()
    wanted = []
    for shape in ctx.builder.spec(view.tensor).shapes or ():
        dims = [shape[0], *after[1:]]
        for place, axis in where.items():
            dims[axis] = shape[view.where[place]]
        wanted.append(tuple(dims))
    outcome = [_with_still(ctx, view, made) for made in ctx.placed(view, view.provenance, where)]
    if ctx.try_keep(wanted):
        return outcome
    shuffle = permuted(ctx, view)
    if shuffle is not None:
        before, order = shuffle
        inputs = [before.tensor, ctx.builder.constant(order, "order")]
        ctx.builder.emit("Gather", inputs, ctx.node.output[0], instead=ctx.node, axis=1)
    else:
        groups = [view.groups[0], *groups_of(after, where)[1:]]
        for place, axis in where.items():
            groups[axis] = view.groups[view.where[place]]
        wanted_dims = target(ctx.builder, view, tuple(groups))
        ops.reshape(ctx.builder, view.tensor, wanted_dims, ctx.node.output[0], ctx.node)
    return outcome


def _with_still(ctx: RuleContext, view: Placed, made: View) -> View:
    """Where an axis of the image that stays has survived, it is known as such."""
    still = [axis for axis, group in enumerate(view.groups) if is_still(group)]
    found = survivors(ctx.shape_in(), ctx.shape_out(), still) if still else None
    if not found or not isinstance(made, Placed):
        return made
    own = groups_of(ctx.shape_out(), made.where, still=found)
    return replace(made, groups=(made.groups[0], *own[1:]))


def _in_row(ctx: RuleContext, view: Placed, groups: Groups) -> Outcome:
    """Write the Reshape from one grouping to another."""
    wanted = _at_probes(ctx, view, groups)
    if wanted is None or not ctx.try_keep(wanted):
        ops.reshape(ctx.builder, view.tensor, target(ctx.builder, view, groups), ctx.node.output[0], ctx.node)
    return [moved_to(ctx, view, groups)]


def _regrouped(ctx: RuleContext, view: Placed, groups: Groups) -> Outcome:
    """The same, where what lies within each place makes finer places of a map."""
    told_blocks(ctx, view, groups)
    outcome = _in_row(ctx, view, groups)
    if is_map(groups):
        [made] = ctx.placed(view, provenance_of(ctx, view.provenance, groups), axis_of_places(groups))
        assert isinstance(made, Placed)
        own = carried(groups, made.groups)
        return [replace(made, groups=(groups[0], *own[1:]), moved_by=ctx.node)]
    return outcome


def _at_probes(ctx: RuleContext, view: Placed, groups: Groups) -> list[Shape] | None:
    """The shapes at the probes if the places follow the image."""
    sides = [side.like for side in view.sides]
    rows = zip(*(ctx.builder.spec(like.tensor).shapes or () for like in sides), strict=True)
    return [tuple(_now(group, sides, shapes) for group in groups) for shapes in rows] or None


def _now(group: Group, sides: list[Placed], shapes: tuple[Shape, ...]) -> int:
    """The length of an axis where the sides' maps have these shapes."""
    total: int | Fraction = 1
    for atom in group:
        if atom.kind in {"channel", "joined"}:
            total *= atom.length
        else:
            axis, factor = measured(atom, sides[atom.side])
            length = shapes[atom.side][axis]
            total *= length if factor == 1 else factor * length
    return int(total)


@rule("Unsqueeze", on=PLACED, attributes=("axes",))
def unsqueeze(ctx: RuleContext) -> Outcome:
    """Unsqueeze of a map is the map with further axes of extent 1. https://onnx.ai/onnx/operators/onnx__Unsqueeze.html"""
    view, rank = ctx.placed_in(), len(ctx.shape_out())
    axes = axes_of(ctx, 1, rank)
    if axes is None:
        return ctx.refuse("unknown-axes", "takes axes that are not constant")
    if 0 in axes and view.apart and not ctx.may_swallow:
        return ctx.refuse("mixes-batch", "puts an axis before the batch")
    groups = list(view.groups)
    for axis in sorted(axes):
        groups.insert(axis, ())
    ctx.keep()
    return [moved_to(ctx, view, (batch_first if view.apart else with_batch)(tuple(groups)))]


@rule("Squeeze", on=PLACED, attributes=("axes",))
def squeeze(ctx: RuleContext) -> Outcome | None:
    """Squeeze of a map is the map without axes of extent 1.

    None where they are the batch or places of native extent 1, which become the window.
    """
    view, shape = ctx.placed_in(), ctx.shape_in()
    axes = axes_of(ctx, 1, len(shape))
    if axes is None and not ctx.has_input(1):
        axes = [axis for axis, length in enumerate(shape) if length == 1]
    if axes is None or any(view.groups[axis] for axis in axes if not _is_spare(ctx, view, axis, axes)):
        return pooled_in_part(ctx) if view.is_strip else None
    ctx.keep()
    groups = tuple(group for axis, group in enumerate(view.groups) if axis not in axes)
    return [moved_to(ctx, view, frames_first(groups))]


def _is_spare(ctx: RuleContext, view: Placed, axis: int, axes: Sequence[int]) -> bool:
    """Whether the axis is the batch of one image for good."""
    return ctx.may_swallow and view.groups[axis] == BATCH_OF_ONE
