"""Movement of data on maps: Transpose, Reshape, Flatten, Concat, Split, Gather, Squeeze, Unsqueeze.

What leaves the spatial axes whole stays a map. What does not makes a window, whose index moves as the data would.
"""

from __future__ import annotations

import math
from dataclasses import replace

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.lift import lies_on, to_window, uniform
from onnxfc.regroup import groups_of, regroup
from onnxfc.rules.blocks import blocks
from onnxfc.rules.folded import fold, turn
from onnxfc.rules.movement import move
from onnxfc.rules.table import rule
from onnxfc.rules.wrap import permuted, pieces_joined
from onnxfc.site import LEAVE, Outcome, Site, axes_of, extent_of, positive, tensor_of
from onnxfc.specs import Shape
from onnxfc.views import Context, Fixed, Map, Trace, View, Window


@rule("Transpose", on=Map, attributes=("perm",))
def transpose(site: Site) -> Outcome:
    """The spatial axes go where the permutation puts them."""
    view = map_of(site)
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
    view, rank = map_of(site), len(site.shape_out())
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
    view, shape = map_of(site), site.shape_in()
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
    if trace is None and all(view.trace.windows for view in maps) and not context:
        return as_window(site)  # pools of several stages, which meet on their common grid
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
    everywhere = [isinstance(view, Context) or lies_on(site, place, like) for place, view in enumerate(site.views)]
    context = [site.taint("context")] if any(everywhere) else []
    return site.maps(trace.tainted(*context), like.spatial)


def _one_for_all(site: Site, position: int, like: Map) -> str | None:
    """What is put beside a map, with one value for all its places; None where each place has its own."""
    view = site.views[position]
    if isinstance(view, Context):
        return view.tensor
    if isinstance(view, Fixed) and lies_on(site, position, like):
        return view.tensor
    rank = len(site.shape_in(position))
    return uniform(site, position, [axis - rank for axis in (0, *like.spatial) if site.shape_in(position)[axis] > 1])


@rule("Gather", on=Map, attributes=("axis",))
def gather(site: Site) -> Outcome:
    """Picks channels; an index of rank 0 takes the channel axis away. Or a table is read place by place."""
    if isinstance(site.views[0], Fixed):
        return _table_look_up(site)
    view = map_of(site)
    axis = positive(int(site.attrs.get("axis", 0)), len(site.shape_in()))
    if isinstance(site.views[1], Fixed) and axis == 0 and site.may_swallow:
        return as_window(site)  # x[0] of a batch of 1
    if not isinstance(site.views[1], Fixed) or axis == 0:
        return site.refuse("mixes-batch", "picks by what the image says, or along the batch")
    if axis in view.spatial:
        return blocks(site, view, axis) or as_piece(site)
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
    view = map_of(site)
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


def map_of(site: Site) -> Map:
    view = site.views[0]
    assert isinstance(view, Map)
    return view


def as_piece(site: Site) -> Outcome:
    """A piece of the native map, as features of a window."""
    outcome = as_window(site)
    if isinstance(outcome, Refusal):
        return outcome
    return [_of_piece(site, view) if isinstance(view, Window) else view for view in outcome]


def _of_piece(site: Site, view: Window) -> Window:
    return replace(view, trace=replace(view.trace, pools=view.trace.pools | {site.name}))
