"""Concat and Split: maps, folded maps and pieces beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, positive, tensor_of
from onnxfc.errors import Refusal
from onnxfc.head.meet_grids import lies_on, uniform
from onnxfc.head.placed_windows import as_piece, windowed
from onnxfc.layout.axes import Atom, Group, Groups, channels, pure
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Context, Fixed, Placed
from onnxfc.rules.broadcast import GRIDS, NO_VALUES
from onnxfc.rules.circular_pad import pieces_joined
from onnxfc.rules.joined_strips import ends_of, length_of, part_of, sliced_part
from onnxfc.rules.registry import PLACED, rule


@rule("Concat", on=PLACED, attributes=("axis",))
def concat(site: Site) -> Outcome | None:
    """Tensors of one grid beside each other in a channel axis."""
    axis = positive(int(site.attrs["axis"]), len(site.shape_out()))
    placed = [view for view in site.views if isinstance(view, Placed)]
    if axis == 0 and all(view.apart for view in placed):
        return site.refuse("mixes-batch", "concatenates batches")
    wrapped = pieces_joined(site, axis)
    if wrapped is not None:
        return wrapped
    if all(pure(view.groups[axis]) for view in placed):
        return _of_channels(site, placed, axis)
    strips = all(view.is_strip and not pure(view.groups[axis]) for view in placed) and len(placed) == len(site.views)
    return _end_to_end(site, axis, placed) if strips else None


def _of_channels(site: Site, placed: Sequence[Placed], axis: int) -> Outcome | None:
    folded = any(view.is_folded for view in placed)
    if len({_without(view.groups, axis) for view in placed}) > 1:
        return None if folded else site.refuse("axes-differ", _LIE)
    trace, context = Trace.of_placed(placed), len(placed) < len(site.views)
    if trace is None and all(view.trace.windows for view in placed) and not context:
        return windowed(site)  # pools of several stages, which meet on their common grid
    if trace is None:
        return None if folded else site.refuse(*GRIDS)
    if context:
        return _beside_context(site, placed[0], axis, trace)
    site.keep()
    return _beside(site, placed, axis, trace)


_LIE = "combines maps whose spatial axes do not lie on each other"


def _without(groups: Groups, axis: int) -> Groups:
    return groups[:axis] + groups[axis + 1 :]


def _beside(site: Site, placed: Sequence[Placed], axis: int, trace: Trace) -> Outcome:
    """The output, whose channels are those of all."""
    first, name = placed[0], site.node.output[0]
    groups = (*first.groups[:axis], channels(site.shape_out()[axis]), *first.groups[axis + 1 :])
    bounds = frozenset().union(*(view.bounds for view in placed))
    made = replace(first, tensor=name, original=name, groups=groups, trace=trace, moved_by=None)
    return [made if made.is_map else replace(made, bounds=bounds, measured=first.like)]


def _beside_context(site: Site, like: Placed, axis: int, trace: Trace) -> Outcome | None:
    """Vectors of the whole image or constants beside a placed tensor: spread over it, whatever its size."""
    if like.trace.windows:
        return site.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    inputs: list[str] = []
    everywhere = False
    for position, view in enumerate(site.views):
        assert view is not None
        if isinstance(view, Placed):
            inputs.append(view.tensor)
            continue
        alone = _one_for_all(site, position, like)
        if alone is None:
            return site.refuse("position-table", _TABLE, NO_VALUES)
        everywhere |= isinstance(view, Context) or lies_on(site, position, like.groups, [like])
        inputs.append(_expanded(site, like, alone, axis))
    site.keep(inputs)
    return _beside(site, [like], axis, trace.tainted(*([site.taint("context")] if everywhere else [])))


_TABLE = "puts a value for every place of the native size beside the map"


def _expanded(site: Site, like: Placed, tensor: str, axis: int) -> str:
    """Spread over all axes but ``axis`` as ``like`` has them."""
    rank = len(like.groups)
    own = site.draft.constant([site.draft.spec(tensor).native[axis]], "channels")
    parts = [ops.dims(site.draft, like.tensor, 0, axis)] if axis else []
    parts.append(own)
    if axis + 1 < rank:
        parts.append(ops.dims(site.draft, like.tensor, axis + 1, rank))
    return site.draft.emit("Expand", [tensor, ops.concat(site.draft, parts)])


def _one_for_all(site: Site, position: int, like: Placed) -> str | None:
    """What is put beside a placed tensor, with one value for all its places; None where each place has its own."""
    view = site.views[position]
    if isinstance(view, Context):
        return view.tensor
    if isinstance(view, Fixed) and lies_on(site, position, like.groups, [like]):
        return tensor_of(view)
    shape, rank = site.shape_in(position), len(like.groups)
    own = [axis - rank for axis in range(rank) if shape[axis] > 1 and not pure(like.groups[axis])]
    return uniform(site, position, own)


def _end_to_end(site: Site, axis: int, strips: Sequence[Placed]) -> Outcome:
    """Strips one behind the other, as coordinate attention lays rows and columns."""
    alone = all(len(view.where) == 1 and not view.parts for view in strips)
    fields = [view.fields[0] for view in strips] if alone else []
    joined = strips[0].trace.fields[0].join(fields) if fields else None
    trace = Trace.join([replace(view.trace, fields=(joined,) * site.state.rank) for view in strips]) if joined else None
    if trace is None:
        return site.refuse("grids-differ", "lays strips of different stride end to end")
    site.keep()
    name, first = site.node.output[0], strips[0]
    group: Group = (Atom("joined", site.shape_out()[axis]),)
    groups = (*first.groups[:axis], group, *first.groups[axis + 1 :])
    return [Placed(name, name, groups, trace, first.like, parts=tuple(strips))]


@rule("Split", on=PLACED, attributes=("axis", "num_outputs", "split"))
def split(site: Site) -> Outcome | None:
    """Parts of a channel axis; those of a spatial one are pieces of the native map; strips are taken apart again."""
    view, axis = site.placed_in(), site.axis()
    if pure(view.groups[axis]) and not (axis == 0 and view.apart):
        site.keep()
        return site.of_channels(view, axis)
    if axis == 0 and view.apart:
        return site.refuse("mixes-batch", "works along the batch")
    if view.parts:
        return _apart(site, view, axis)
    return as_piece(site) if view.is_map else None


def _apart(site: Site, view: Placed, axis: int) -> Outcome | Refusal:
    """The strips that were laid end to end, each as long as it is now."""
    ends = ends_of(site, view)
    found = list(accumulate(site.shape_out(position)[axis] for position in range(len(site.node.output))))
    if not ends or found != ends or site.opset < 10:
        return site.refuse("cut-out", "cuts pieces of the native size out of the map")
    if site.opset < 13:  # Split takes its lengths as numbers
        return [sliced_part(site, view, number, name) for number, name in enumerate(site.node.output)]
    lengths = ops.concat(site.draft, [length_of(site, part) for part in view.parts])
    site.draft.emit("Split", [view.tensor, lengths], list(site.node.output), instead=site.node, axis=axis)
    return [part_of(view, number, name) for number, name in enumerate(site.node.output)]
