"""Movement of data on maps: Transpose, Reshape, Flatten, Concat, Split, Slice, Gather, Squeeze, Unsqueeze.

What leaves the spatial axes whole stays a map. What does not makes a window, whose index moves as the data would.
"""

from __future__ import annotations

import math

from onnxfc import emit
from onnxfc.lift import to_window
from onnxfc.rules.movement import move
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, axes_of, positive
from onnxfc.specs import Shape
from onnxfc.views import Fixed, Map, Trace, View


@rule("Transpose", on=Map, attributes=("perm",))
def transpose(site: Site) -> Outcome:
    """The spatial axes go where the permutation puts them."""
    view = _map(site)
    rank = len(site.shape_in())
    perm = list(site.attrs.get("perm") or range(rank - 1, -1, -1))
    if perm[0] != 0:
        return as_window(site)
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
    if len(maps) != len(site.views):
        return site.refuse("concat-fixed", "puts something that does not depend on the image beside a map")
    spatial = maps[0].spatial
    if any(view.spatial != spatial for view in maps):
        return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
    if axis in spatial:
        return as_window(site)
    trace = Trace.join([view.trace for view in maps])
    if trace is None:
        return site.refuse("grids-differ", "combines maps of different stride")
    site.keep()
    return site.maps(trace, spatial)


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
    """Some of the channels; a slice of the places is a window's."""
    view = _map(site)
    starts = site.attrs.get("starts") or site.constant(1)
    given = site.attrs.get("axes")
    if given is None:
        given = site.constant(3) if site.has_input(3) else None
    if starts is None or (given is None and site.has_input(3)):
        return site.refuse("unknown-axes", "takes bounds that are not constant")
    axes = [positive(int(axis), len(site.shape_in())) for axis in (range(len(starts)) if given is None else given)]
    touched = set(axes) & {0, *view.spatial}
    if any(site.shape_in()[axis] != site.shape_out()[axis] for axis in touched):
        return as_window(site)
    after, free = site.shape_out(), {0, *view.spatial}
    wanted = [
        tuple(length if axis in free else after[axis] for axis, length in enumerate(shape))
        for shape in site.draft.spec(view.tensor).shapes or ()
    ]
    if not site.try_keep(wanted):
        return site.refuse("size-locked", "takes a slice that ends at the native size")
    return site.maps(view.trace, view.spatial)


@rule("Gather", on=Map, attributes=("axis",))
def gather(site: Site) -> Outcome:
    """Picks channels; an index of rank 0 takes the channel axis away."""
    view = _map(site)
    axis = positive(int(site.attrs.get("axis", 0)), len(site.shape_in()))
    if not isinstance(site.views[1], Fixed) or axis == 0:
        return site.refuse("mixes-batch", "picks by what the image says, or along the batch")
    if axis in view.spatial:
        return as_window(site)
    more = len(site.shape_in(1)) - 1
    site.keep()
    return site.maps(view.trace, tuple(place + more if place > axis else place for place in view.spatial))


@rule("Flatten", "Reshape", on=Map, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome:
    """Axes regrouped: a map where every spatial axis survives, else the flattened window.

    https://onnx.ai/onnx/operators/onnx__Reshape.html, https://onnx.ai/onnx/operators/onnx__Flatten.html
    """
    view = _map(site)
    before, after = site.shape_in(), site.shape_out()
    places = survivors(before, after, view.spatial)
    if places is None:
        return as_window(site)
    return _regrouped(site, view, after, places)


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
    if not site.try_keep(wanted):
        emit.reshape(site.draft, view.tensor, _target(site, view, after, places), site.node.output[0])
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
