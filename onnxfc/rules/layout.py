"""Movement of data on maps: Transpose, Reshape, Flatten, Concat, Split, Slice, Gather, Squeeze, Unsqueeze.

What leaves the spatial axes whole stays a map. What does not makes a window, whose index moves as the data would.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from onnx import TensorProto

from onnxfc import emit
from onnxfc.lift import to_window, uniform
from onnxfc.receptive_field import Pixels
from onnxfc.regroup import groups_of, regroup
from onnxfc.rules.folded import fold, turn
from onnxfc.rules.movement import move
from onnxfc.rules.sisters import CROPPED, sisters
from onnxfc.rules.table import rule
from onnxfc.rules.wrap import permuted, pieces_joined
from onnxfc.site import Outcome, Site, axes_of, extent_of, positive, tensor_of
from onnxfc.specs import Shape
from onnxfc.views import Context, Fixed, Map, Trace, View


@rule("Transpose", on=Map, attributes=("perm",))
def transpose(site: Site) -> Outcome:
    """The spatial axes go where the permutation puts them."""
    view = _map(site)
    rank = len(site.shape_in())
    perm = list(site.attrs.get("perm") or range(rank - 1, -1, -1))
    if perm[0] != 0:
        return as_window(site) if view.trace.windows or rank < 2 + len(view.spatial) else turn(site, view)
    site.keep()
    name = site.node.output[0]
    return [Map(name, name, tuple(perm.index(axis) for axis in view.spatial), view.trace, behind=view)]


@rule("Unsqueeze", on=Map, attributes=("axes",))
def unsqueeze(site: Site) -> Outcome:
    """New channel axes of extent 1."""
    view, rank = _map(site), len(site.shape_out())
    axes = axes_of(site, 1, rank)
    if axes is None:
        return site.refuse("unknown-axes", "takes axes that are not constant")
    if 0 in axes:
        return site.refuse("mixes-batch", "puts an axis before the batch")
    old = [axis for axis in range(rank) if axis not in axes]
    site.keep()
    return site.maps(view.trace, tuple(old[axis] for axis in view.spatial))


@rule("Squeeze", on=Map, attributes=("axes",))
def squeeze(site: Site) -> Outcome:
    """Channel axes of extent 1 go; spatial axes of native extent 1 become the window."""
    view, shape = _map(site), site.shape_in()
    axes = axes_of(site, 1, len(shape))
    if axes is None or {0, *view.spatial} & set(axes):
        return as_window(site)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    site.keep()
    return site.maps(view.trace, tuple(rest.index(axis) for axis in view.spatial))


@rule("Concat", on=Map, attributes=("axis",))
def concat(site: Site) -> Outcome:
    """Maps of one grid beside each other in a channel axis."""
    rank = len(site.shape_out())
    axis = positive(int(site.attrs["axis"]), rank)
    maps = [view for view in site.views if isinstance(view, Map)]
    if axis == 0:
        return site.refuse("mixes-batch", "concatenates batches")
    wrapped = pieces_joined(site, axis)
    if wrapped is not None:
        return wrapped
    context = [view for view in site.views if isinstance(view, Context | Fixed)]
    if len(maps) + len(context) != len(site.views):
        return site.refuse("mixes-map-and-window", "combines a flattened map with one that is not")
    spatial = maps[0].spatial
    if any(view.spatial != spatial for view in maps):
        return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
    if axis in spatial:
        return as_window(site)
    trace = Trace.join([view.trace for view in maps])
    if trace is None:
        return site.refuse("grids-differ", "combines maps of different stride")
    if context:
        return _beside_context(site, maps[0], trace)
    site.keep()
    return site.maps(trace, spatial)


def _beside_context(site: Site, like: Map, trace: Trace) -> Outcome:
    """Vectors of the whole image or constants beside a map: spread over it, whatever its size."""
    if like.trace.windows or like.spatial != tuple(range(2, len(site.shape_out()))):
        return site.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    inputs: list[str] = []
    for view in site.views:
        tensor = tensor_of(view) if view is not None else ""
        if not isinstance(view, Map):
            spread = _one_for_all(site, len(inputs), like)
            if spread is None:
                return site.refuse(
                    *("position-table", "puts a value for every place of the native size beside the map"),
                    "such a table has no values for other sizes",
                )
            tensor, channels = spread, site.draft.spec(spread).native[1]
            ends = (
                emit.dims(site.draft, like.tensor, 0, 1),
                emit.dims(site.draft, like.tensor, 2, len(site.shape_out())),
            )
            shape = emit.concat(site.draft, [ends[0], site.draft.constant([channels], "channels"), ends[1]])
            tensor = site.draft.emit("Expand", [tensor, shape])
        inputs.append(tensor)
    site.keep(inputs)
    context = [site.taint("context")] if any(isinstance(view, Context) for view in site.views) else []
    return site.maps(trace.tainted(*context), like.spatial)


def _one_for_all(site: Site, position: int, like: Map) -> str | None:
    """What is put beside a map, with one value for all its places; None where each place has its own."""
    view = site.views[position]
    if isinstance(view, Context):
        site.turns_out(view.trace, "context")
        return view.tensor
    rank = len(site.shape_in(position))
    return uniform(site, position, [axis - rank for axis in (0, *like.spatial) if site.shape_in(position)[axis] > 1])


@rule("Split", on=Map, attributes=("axis", "num_outputs", "split"))
def split(site: Site) -> Outcome:
    """Parts of a channel axis."""
    return _along(site, positive(int(site.attrs.get("axis", 0)), len(site.shape_in())))


def _along(site: Site, axis: int) -> Outcome:
    view = _map(site)
    if axis == 0:
        return site.refuse("mixes-batch", "works along the batch")
    if axis in view.spatial:
        return as_window(site)
    site.keep()
    return site.maps(view.trace, view.spatial)


@rule("Slice", on=Map, attributes=("axes", "ends", "starts"))
def slice_(site: Site) -> Outcome:
    """Some of the channels, or a border cut off and every n-th place kept.

    A piece of the native size is a window's, unless it meets a map of its size further on: then it is a crop to that.

    https://onnx.ai/onnx/operators/onnx__Slice.html
    """
    view = _map(site)
    cuts = _cuts(site)
    if cuts is None:
        return site.refuse("unknown-axes", "takes bounds that are not constant")
    if 0 in cuts and site.shape_in()[0] != site.shape_out()[0]:
        return as_window(site)
    baked = [axis for axis in view.spatial if _is_baked(site, axis, cuts.get(axis))]
    sister = next(_cropped_like(site, view, baked), None) if baked else None
    fields, changes = list(view.trace.fields), dict[int, int | str]()
    for place, axis in enumerate(view.spatial):
        start, end, step = cuts.get(axis, (0, _OPEN, 1))
        if step < 0:
            return site.refuse("flipped", "turns the map around: a cell would read the other end of the image")
        if axis in baked and sister is not None:
            end -= site.shape_in()[axis]
            changes[axis] = _end_like(site, sister, axis, start, end)
        elif start < 0 or axis in baked:
            return as_window(site)
        else:
            changes[axis] = end if end < 0 else _OPEN
        field = fields[place].cut(start, -end if end < 0 else 0)
        fields[place] = replace(field, stride=field.stride * step)
    trace = replace(view.trace, fields=tuple(fields))
    return _sliced(site, view, cuts, changes, trace.tainted(site.taint(CROPPED)) if baked else trace)


def _is_baked(site: Site, axis: int, cut: tuple[int, int, int] | None) -> bool:
    """Whether a cut ends at a fixed place of the native map."""
    return cut is not None and cut[2] > 0 and 0 <= cut[1] < site.shape_in()[axis]


def _cropped_like(site: Site, view: Map, axes: Sequence[int]) -> Iterator[Map]:
    """Maps of the same stride that the slice meets: it is a crop to their size, whatever that is."""

    def strides(trace: Trace) -> list[Pixels]:
        return [field.stride for field, axis in zip(trace.fields, view.spatial, strict=True) if axis in axes]

    if view.trace.windows:
        return iter(())
    return (other for other in sisters(site, view, axes) if strides(other.trace) == strides(view.trace))


def _end_like(site: Site, sister: Map, axis: int, start: int, end: int) -> int | str:
    """Where a crop of a sister's size ends: so many elements behind its start. Before opset 10 counted from the end."""
    if site.opset < 10:
        return end
    size = emit.dims(site.draft, sister.tensor, axis, axis + 1)
    return site.draft.emit("Add", [size, site.draft.constant([start], "start")]) if start else size


_OPEN = 2**31 - 1
"""The end of a Slice that goes on to the border, whatever the size."""


def _cuts(site: Site) -> dict[int, tuple[int, int, int]] | None:
    """Start, end and step by axis; None where they are not constant."""
    rank = len(site.shape_in())
    if site.opset < 10:
        starts, ends = list(site.attrs["starts"]), list(site.attrs["ends"])
        axes, steps = list(site.attrs.get("axes", range(len(starts)))), [1] * len(starts)
    else:
        given = [site.constant(place) for place in range(1, 5)]
        if any(value is None and site.has_input(place) for place, value in enumerate(given, 1)) or given[0] is None:
            return None
        starts, ends = given[0].tolist(), np.asarray(given[1]).tolist()
        axes = list(range(len(starts))) if given[2] is None else given[2].tolist()
        steps = [1] * len(starts) if given[3] is None else given[3].tolist()
    found = zip(starts, ends, steps, strict=True)
    return {positive(int(axis), rank): cut for axis, cut in zip(axes, found, strict=True)}


def _sliced(
    site: Site,
    view: Map,
    cuts: dict[int, tuple[int, int, int]],
    ends: dict[int, int | str],
    trace: Trace,
) -> Outcome:
    """The node as it is, or with its ends opened where they were baked at the native size."""
    outcome = site.maps(trace, view.spatial)
    if all(ends.get(axis, end) == end or end >= _OPEN for axis, (_, end, _) in cuts.items()):
        site.keep()
        return outcome
    opened = [ends.get(axis, end) for axis, (_, end, _) in cuts.items()]
    if site.opset < 10:
        site.keep(ends=opened)
        return outcome
    inputs = site.tensors()
    inputs[2] = emit.numbers(site.draft, opened)
    if site.native(site.node.input[1]).dtype != TensorProto.INT64:
        return site.refuse("size-locked", "takes a slice that ends at the native size")
    site.keep(inputs)
    return outcome


@rule("Gather", on=Map, attributes=("axis",))
def gather(site: Site) -> Outcome:
    """Picks channels; an index of rank 0 takes the channel axis away. Or a table is read place by place."""
    if isinstance(site.views[0], Fixed):
        return _table_look_up(site)
    view = _map(site)
    axis = positive(int(site.attrs.get("axis", 0)), len(site.shape_in()))
    if isinstance(site.views[1], Fixed) and axis == 0 and site.may_swallow:
        return as_window(site)  # x[0] of a batch of 1
    if not isinstance(site.views[1], Fixed) or axis == 0:
        return site.refuse("mixes-batch", "picks by what the image says, or along the batch")
    if axis in view.spatial:
        return as_window(site)
    more = len(site.shape_in(1)) - 1
    site.keep()
    return site.maps(view.trace, tuple(place + more if place > axis else place for place in view.spatial))


def _table_look_up(site: Site) -> Outcome:
    """A constant's rows by the numbers of a map: the rows' axes are new channels, behind all others."""
    places = site.views[1]
    if not isinstance(places, Map) or positive(int(site.attrs.get("axis", 0)), len(site.shape_in())) != 0:
        return site.refuse("dynamic-parameter", "reads a table along another axis than its first")
    site.keep()
    return site.maps(places.trace, places.spatial)


@rule("Flatten", "Reshape", on=Map, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome:
    """Axes regrouped: a map where every spatial axis survives, else the flattened window.

    https://onnx.ai/onnx/operators/onnx__Reshape.html, https://onnx.ai/onnx/operators/onnx__Flatten.html
    """
    view = _map(site)
    before, after = site.shape_in(), site.shape_out()
    places = survivors(before, after, view.spatial)
    if places is not None:
        return _regrouped(site, view, after, places)
    groups = None if view.trace.windows or 1 in extent_of(site, view) else regroup(groups_of(site, view), after)
    return (None if groups is None else fold(site, view, groups)) or as_window(site)


def survivors(before: Shape, after: Shape, spatial: tuple[int, ...]) -> tuple[int, ...] | None:
    """Where each spatial axis stands after a Reshape that leaves it whole; None where one does not survive.

    Both shapes are cut into the smallest runs of equal product; an axis survives alone in its run, axes of extent 1
    beside it apart. Where native extents of 1 leave it open, the axes keep their order from the last.
    """
    if after[0] != before[0]:
        return None
    found: list[int] = []
    for axis in reversed(spatial):
        place = _followed_by(after, math.prod(before[axis + 1 :]), before[axis], found[0] if found else len(after))
        if place is None:
            return None
        found.insert(0, place)
    return tuple(found)


def _followed_by(after: Shape, product: int, length: int, end: int) -> int | None:
    """The last axis before ``end`` of this length with this many elements behind it; never the batch."""
    fitting = (place for place in range(end - 1, 0, -1) if math.prod(after[place + 1 :]) == product)
    return next((place for place in fitting if after[place] == length), None)


def _regrouped(site: Site, view: Map, after: Shape, places: tuple[int, ...]) -> Outcome:
    """Keep the node where its target follows the image, else write the target from the map's own dims."""
    wanted = []
    for shape in site.draft.spec(view.tensor).shapes or ():
        target = [shape[0], *after[1:]]
        for axis, place in zip(view.spatial, places, strict=True):
            target[place] = shape[axis]
        wanted.append(tuple(target))
    if site.try_keep(wanted):
        return site.maps(view.trace, places)
    shuffle = permuted(site, view)
    if shuffle is not None:
        before, order = shuffle
        inputs = [before.tensor, site.draft.constant(order, "order")]
        site.draft.emit("Gather", inputs, site.node.output[0], instead=site.node, axis=1)
    else:
        emit.reshape(site.draft, view.tensor, _target(site, view, after, places), site.node.output[0], site.node)
    return site.maps(view.trace, places)


def _target(site: Site, view: Map, after: Shape, places: tuple[int, ...]) -> list[int | str]:
    """Numbers for channels, 0 for dims that stay in their place, computed dims and one -1 for those that move."""
    target: list[int | str] = [0, *after[1:]]
    moved = []
    for axis, place in zip(view.spatial, places, strict=True):
        target[place] = 0
        if axis != place:
            moved.append((axis, place))
    for axis, place in moved[:-1]:
        target[place] = emit.dims(site.draft, view.tensor, axis, axis + 1)
    if moved:
        target[moved[-1][1]] = -1
    return target


def as_window(site: Site) -> Outcome:
    """What does not leave the places whole reads a native window: move its index instead."""
    views: list[View | None] = [to_window(site, view) if isinstance(view, Map) else view for view in site.views]
    return move(site, views)


def _map(site: Site) -> Map:
    view = site.views[0]
    assert isinstance(view, Map)
    return view
