"""Expand and Tile, and a vector of the whole image that is spread over the places of the native size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxfc.analysis.reference_sizes import images, references
from onnxfc.builder import ops
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext, tensor_of
from onnxfc.claim.blame import Cause
from onnxfc.graph.index import inputs_of
from onnxfc.graph.op_kinds import BROADCAST, COPYING, REORDERING, RESAMPLING, SPREADING, UNARY, WEIGHT_AT
from onnxfc.head.meet_grids import uniform
from onnxfc.head.windows import moved_to
from onnxfc.layout.axes import channels, lengths
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, is_map
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.spec import Array


def spreads(ctx: RuleContext) -> bool:
    """Whether the node does that: one value of each channel for all places, or a sum (product ...) with constants.

    Or it spreads anything over what all its readers would broadcast it against.
    """
    name = ctx.node.output[0]
    if any(ctx.native(item).shapes is None for item in (*filter(None, ctx.node.input), name)):
        return False
    readers = ctx.state.graph.readers.get(name, ())
    if readers and all(node.op_type in WEIGHT_AT and node.input[0] != name for node in readers):
        return False  # a kernel lies on no places
    rank, after = 2 + ctx.state.rank, ctx.shape_out()
    context = _context(ctx)
    if ctx.op_type in SPREADING:
        same = len(context) == 1 and len(ctx.shape_in()) == rank and ctx.shape_in()[:2] == after[:2]
    else:
        same = ctx.op_type in BROADCAST and all(isinstance(view, Context | Fixed) for view in ctx.views)
    small = all(set(ctx.builder.spec(view.tensor).native[2:]) == {1} for view in context)
    small = small or ctx.op_type in RESAMPLING
    fits = same and small and len(after) == rank and set(after[2:]) != {1}
    if fits and ctx.op_type not in SPREADING:
        fits = next(_of_that_size(ctx), None) is not None  # asked last: it looks at all that was made before
    return fits or _met_at_once(ctx)


def _met_at_once(ctx: RuleContext) -> bool:
    """Whether all that read the node broadcast it against something of its output's shape."""
    name, graph = ctx.node.output[0], ctx.state.graph
    if ctx.op_type != "Expand" or name in graph.outputs:
        return False
    readers = graph.readers.get(name, [])
    others = [[other for other in node.input if other and other != name] for node in readers]
    made = {item: graph.producers[item].op_type for items in others for item in items if item in graph.producers}
    return all(
        node.op_type in BROADCAST
        and any(ctx.native(item).shapes == ctx.native(name).shapes and made.get(item) != "Expand" for item in items)
        for node, items in zip(readers, others, strict=True)
    )


def _context(ctx: RuleContext) -> list[Context]:
    """What is spread: sizes that are read off it do not count."""
    views = ctx.views if ctx.op_type in BROADCAST else ctx.views[:1]
    return [view for view in views if isinstance(view, Context)]


def spread(ctx: RuleContext) -> Outcome:
    """Left to broadcasting where nothing else reads it; else spread over the places of a map of that size."""
    context = _context(ctx)
    provenance = Provenance.join([replace(view.provenance, fields=context[0].provenance.fields) for view in context])
    assert provenance is not None
    name, several = ctx.node.output[0], ctx.op_type in RESAMPLING and set(ctx.shape_in()[2:]) != {1}
    alone = not several and _broadcast(ctx, name)
    tensor = context[0].tensor
    if ctx.op_type in BROADCAST:
        inputs = [_one_place(ctx, position) for position in range(len(ctx.views))]
        if any(item is None for item in inputs):
            return ctx.no_values("combines a value of the whole image with one for every place of the native size")
        found = [item for item in inputs if item is not None]
        tensor = name if alone else ctx.keep_renamed(found)[0]
        if alone:
            ctx.keep(found)
    if alone:
        return [Context(tensor, provenance)]
    like = next(_of_that_size(ctx), None)
    if like is None:
        why = "spreads values over the native size, and no map tells which size is meant"
        return ctx.refuse("size-locked", why, LEAVE)
    if several:
        ctx.keep()
        sizes = [[shape[2:] for shape in ctx.builder.spec(item).shapes or ()] for item in (name, like.tensor)]
        if sizes[0] != sizes[1]:
            return ctx.refuse("size-locked", "resizes what has one size at every size of the image to another such")
    else:
        _onto_places(ctx, tensor, like)
    return ctx.placed(like, like.provenance.blamed(*provenance.blames, ctx.blame(Cause.CONTEXT)), like.where)


def _onto_places(ctx: RuleContext, tensor: str, like: Placed) -> None:
    """One value of each channel at all places of a map."""
    ends = ((tensor, 0, 2), (like.tensor, 2, len(ctx.shape_out())))
    shape = ops.concat(ctx.builder, [ops.dims(ctx.builder, *part) for part in ends])
    ctx.builder.emit("Expand", [tensor, shape], ctx.node.output[0], instead=ctx.node)


def _one_place(ctx: RuleContext, position: int) -> str | None:
    """An input with one place; None where it has several that differ."""
    view = ctx.views[position]
    if not isinstance(view, Fixed):
        return "" if view is None else tensor_of(view)
    shape = ctx.shape_in(position)
    own = {len(shape) - 1 - place for place in range(ctx.state.rank)}
    own |= {0} if ctx.free_batch and len(shape) == len(ctx.shape_out()) else set()
    axes = [axis - len(shape) for axis, length in enumerate(shape) if axis in own and length > 1]
    return uniform(ctx, position, axes)


def of_one_place(ctx: RuleContext, view: Context, position: int, axes: Sequence[int]) -> str | None:
    """A figure of the whole image that was spread over axes of the native size, at one place; None where places may
    differ."""
    graph, name, steps = ctx.state.graph, ctx.node.input[position], list[onnx.NodeProto]()
    while (node := graph.producers.get(name)) is not None and (way := _onto(ctx, node)) is not None:
        steps, name = [node, *steps] if node.op_type in {*REORDERING, *COPYING} else steps, way
    shape = ctx.native(name).native
    index: Array | None = np.arange(math.prod(shape)).reshape(shape)
    for step in steps:
        given = [ctx.native(item).values if item else () for item in step.input[1:]]
        values = [value[0] if value else None for value in given]
        index = None if None in given else ctx.builder.inference.run(step, [index, *values])[0]
    if index is None or any((index != index.take([0], axis)).any() for axis in axes):
        return None
    tensor = view.tensor
    for axis in axes:
        tensor = ops.slice_axis(ctx.builder, tensor, index.ndim + axis, 0, 1)
    return tensor


def _onto(ctx: RuleContext, node: onnx.NodeProto) -> str | None:
    """The input that a node moves, copies, or works on element by element; None where it does anything else."""
    if node.op_type in {*REORDERING, *COPYING, *UNARY}:
        return str(node.input[0])
    others = [name for name in inputs_of(node) if not isinstance(ctx.state.views[name], Fixed)]
    rest = [ctx.native(name) for name in inputs_of(node) if name not in others]
    alone = all(spec.shapes and math.prod(spec.native) == 1 for spec in rest)
    return others[0] if node.op_type in BROADCAST and len(others) == 1 and alone else None


def _broadcast(ctx: RuleContext, name: str) -> bool:
    """Whether all that reads a tensor spreads it by itself."""
    readers = ctx.state.graph.readers.get(name, ())
    if name in ctx.state.graph.outputs or not readers:
        return False
    return all(
        node.op_type in {*BROADCAST, "Concat"} or (node.op_type in UNARY and _broadcast(ctx, node.output[0]))
        for node in readers
    )


def _of_that_size(ctx: RuleContext) -> Iterator[Placed]:
    """Maps of the output's native extents: those that it meets, the image, and all others."""
    spatial = tuple(range(2, len(ctx.shape_out())))
    known = [view for view in ctx.state.views.values() if is_map(view)]
    model = next((view for view in known if view.spatial == spatial and not view.provenance.windows), None)
    if model is not None:
        yield from references(ctx, model, spatial)
    for view in [*images(ctx), *reversed(known)]:
        own = lengths(view.groups)
        if view.spatial == spatial and not view.provenance.windows and own[2:] == ctx.shape_out()[2:]:
            yield view


@rule("Expand", on=PLACED)
def expand(ctx: RuleContext) -> Outcome | None:
    """Expand of a tensor to its own shape is the tensor, along channels of extent 1 copies of it.

    Places must not be spread.
    """
    view = ctx.placed_in()
    if view.is_folded:
        return _copied_folded(ctx, view)
    laid = laid_out(ctx, view)
    if laid is not None:
        return laid
    before, after = ctx.shape_in(), ctx.shape_out()
    of_windows = bool(view.provenance.windows) and set(view.extent) == {1} and len(before) == len(after)
    if before == after or (of_windows and _met_at_once(ctx)):
        ctx.builder.emit("Identity", [view.tensor], ctx.node.output[0], instead=ctx.node)
        return ctx.same()
    if of_windows:
        return ctx.rejoins()
    extent = tuple(after[axis] for axis in view.spatial) if len(before) == len(after) else ()
    if before[0] != after[0] or view.extent != extent:
        return ctx.refuse("size-locked", "spreads the map to the native size")
    ones = [1 if axis == 0 or axis in view.spatial else length for axis, length in enumerate(after)]
    ctx.keep([view.tensor, ctx.builder.constant(np.array(ones, np.int64), "shape")])
    return ctx.placed(view, view.provenance, view.where)


def _copied_folded(ctx: RuleContext, view: Placed) -> Outcome | None:
    """Copies along axes that hold nothing, new ones ahead among them; None where others are to be longer."""
    after = ctx.shape_out()
    groups = ((),) * (len(after) - len(view.groups)) + view.groups
    if any(group and length != own for group, length, own in zip(groups, after, lengths(groups), strict=True)):
        return None
    copies = [1 if group else length for group, length in zip(groups, after, strict=True)]
    ctx.keep([view.tensor, ctx.builder.constant(np.array(copies, np.int64), "shape")])
    return [moved_to(ctx, view, tuple(group or channels(n) for group, n in zip(groups, after, strict=True)))]


@rule("Tile", on=PLACED)
def tile(ctx: RuleContext) -> Outcome | None:
    """Tile along channels lies as its input does: copies beside each other."""
    view, amounts = ctx.placed_in(), ctx.constant(1)
    if view.is_folded:
        return None
    laid = laid_out(ctx, view)
    if laid is not None:
        return laid
    if amounts is None or int(amounts[0]) != 1:
        return ctx.refuse("mixes-batch", "repeats the images of a batch, or how often is not constant")
    if any(int(amounts[axis]) != 1 for axis in view.spatial):
        if view.provenance.windows and set(view.extent) == {1}:
            return ctx.rejoins()
        return ctx.refuse("size-locked", "puts copies of the map side by side, so that its borders would move inside")
    ctx.keep()
    return ctx.placed(view, view.provenance, view.where)


def laid_out(ctx: RuleContext, view: Placed) -> Outcome | None:
    """A strip along the axis that was pooled, as long as the map is there; None where it is not laid out."""
    before, after = ctx.shape_in(), ctx.shape_out()
    if len(before) != len(after):
        return None
    places = _missing(view, after) if view.is_strip and _names_size(ctx) else []
    if not places:
        return _copied_elsewhere(ctx, view)
    along = {view.like.where[place] for place in places}
    rest = [axis for axis in range(len(after)) if before[axis] != after[axis] and axis not in along]
    if rest and not _copies_channels(ctx, view, rest):
        return ctx.refuse("size-locked", "spreads the map to the native size")
    if str(ctx.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        return ctx.refuse("size-locked", "spreads the map to the native size")
    wanted: list[int | str] = [after[axis] if axis in rest else 1 for axis in range(len(after))]
    for axis in along:
        wanted[axis] = ops.dims(ctx.builder, view.like.tensor, axis, axis + 1)
    ctx.builder.emit("Expand", [view.tensor, ops.numbers(ctx.builder, wanted)], ctx.node.output[0], instead=ctx.node)
    provenance = view.provenance.along({place: view.like.provenance.fields[place] for place in places})
    return ctx.placed(view, provenance, {place: view.like.where[place] for place in (*view.where, *places)})


def _names_size(ctx: RuleContext) -> bool:
    """Whether it makes copies to a size, or resizes to one: not by scales."""
    return ctx.op_type in COPYING or ctx.opset < 11 or ctx.has_input(3)


def _copies_channels(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> bool:
    """Whether it lays copies beside each other along axes that are all channels of extent 1."""
    return ctx.op_type in COPYING and all(axis and not view.groups[axis] for axis in axes)


def _copied_elsewhere(ctx: RuleContext, view: Placed) -> Outcome | None:
    """A refusal where copies are laid along an axis that was pooled, as it lies in the map."""
    before, after = ctx.shape_in(), ctx.shape_out()
    gone = [axis for place, axis in view.like.where.items() if place not in view.where] if view.is_strip else []
    longer = any(axis < len(before) and before[axis] == 1 < after[axis] for axis in gone)
    if ctx.op_type not in COPYING or not longer:
        return None
    return ctx.refuse("partial-pool", "spreads what was pooled over one axis to a length that its map has not")


def _missing(view: Placed, after: Sequence[int]) -> list[int]:
    """The axes of the image on which it becomes as long as the map is: its other axes lie as they lie there."""
    like, shape = view.like, lengths(view.like.groups)
    if view.parts or len(shape) != len(after):
        return []
    if any(axis != like.where[place] for place, axis in view.where.items()):
        return []
    gone = [place for place in like.where if place not in view.where]
    return [k for k in gone if not view.groups[like.where[k]] and 1 < after[like.where[k]] == shape[like.where[k]]]
