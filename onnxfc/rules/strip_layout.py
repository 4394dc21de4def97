"""Movement of data on strips: laid along the pooled axis, end to end, or flattened for a group normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from onnxfc import emit
from onnxfc.rules import channels, layout, resample, slices
from onnxfc.rules.strips import cut, lend, places_of, strip_of
from onnxfc.rules.table import Function, rule
from onnxfc.site import Outcome, Site, axes_of, positive
from onnxfc.specs import Shape
from onnxfc.views import Map, Strip, Trace


@rule("Expand", "Resize", "Tile", "Upsample", on=Strip, attributes=resample.RESIZE)
def spread(site: Site) -> Outcome:
    """Laid along the axis that was pooled, as long as the map is there from which it was pooled: a map again."""
    view, before, after = strip_of(site), site.shape_in(), site.shape_out()
    places = _missing(site, view) if len(before) == len(after) else []
    copies = site.op_type in {"Expand", "Tile"}
    if not places or not (copies or site.opset < 11 or site.has_input(3)):
        return lend(site, _SAME_LENGTH[site.op_type])
    along = {view.like.spatial[place] for place in places}
    rest = [axis for axis in range(len(after)) if before[axis] != after[axis] and axis not in along]
    channels_too = copies and all(before[axis] == 1 and axis not in {0, *view.spatial} for axis in rest)
    regional = str(site.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize"
    if (rest and not channels_too) or regional:
        return site.refuse("size-locked", "spreads the map to the native size")
    target: list[int | str] = [after[axis] if axis in rest else 1 for axis in range(len(after))]
    for place in places:
        axis = view.like.spatial[place]
        target[axis] = emit.dims(site.draft, view.like.tensor, axis, axis + 1)
    site.draft.emit("Expand", [view.tensor, emit.numbers(site.draft, target)], site.node.output[0], instead=site.node)
    return [_laid_out(site, view, places)]


_SAME_LENGTH: dict[str, Function] = {
    "Expand": channels.expand,
    "Resize": resample.resize,
    "Tile": channels.tile,
    "Upsample": resample.resize,
}


def _missing(site: Site, view: Strip) -> list[int]:
    """The axes of the image on which it becomes as long as ``like`` is: its other axes lie as they lie there."""
    like, shape = view.like, site.native(view.like.original).native
    if view.parts or len(shape) != len(site.shape_in()):
        return []
    if any(axis != like.spatial[place] for place, axis in places_of(view).items()):
        return []
    gone = [place for place in range(len(like.spatial)) if place not in view.places]
    fits = [site.shape_in()[axis] == 1 < site.shape_out()[axis] == shape[axis] for axis in like.spatial]
    return [place for place in gone if fits[place]]


def _laid_out(site: Site, view: Strip, places: Sequence[int]) -> Map | Strip:
    """The view of the output, which follows the image on these axes too."""
    name, like = site.node.output[0], view.like
    fields = dict(zip(view.places, view.trace.fields, strict=True)) | {
        place: like.trace.fields[place] for place in places
    }
    order = sorted(fields)
    trace = replace(view.trace, fields=tuple(fields[place] for place in order))
    spatial = tuple(like.spatial[place] for place in order)
    if len(order) == site.state.rank:
        return Map(name, name, spatial, trace)
    return Strip(name, name, spatial, tuple(order), trace, like)


@rule("Squeeze", on=Strip, attributes=("axes",))
def squeeze(site: Site) -> Outcome:
    """Axes of extent 1 go, none that follows the image."""
    view, shape = strip_of(site), site.shape_in()
    axes = axes_of(site, 1, len(shape))
    unknown = axes is None and (site.has_input(1) or 1 in [shape[axis] for axis in view.spatial])
    if unknown or set(axes or ()) & {0, *view.spatial}:
        return cut(site)
    return lend(site, layout.squeeze)


@rule("Flatten", "Reshape", on=Strip, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome:
    """Axes regrouped, each of the strip's own left whole; or flattened for a group normalisation, and back."""
    view, before, after = strip_of(site), site.shape_in(), site.shape_out()
    if len(view.parts) == 1 and after == site.native(view.parts[0].original).native:
        return _unflattened(site, view)
    if after[:1] == before[:1] and _normalised(site) and _in_groups(before, after, view.spatial):
        tensor, name = view.tensor, site.node.output[0]
        emit.reshape(site.draft, tensor, [0, *after[1:-1], -1], name, site.node)
        trace = replace(view.trace, fields=view.trace.fields[:1])
        return [Strip(name, name, (len(after) - 1,), (), trace, view.like, (view,))]
    single = any(before[axis] == 1 for axis in view.spatial)  # which axis it then becomes cannot be told
    if before != after and (single or layout.survivors(before, after, view.spatial) is None):
        return cut(site)
    return lend(site, layout.reshape)


def _normalised(site: Site) -> bool:
    readers = site.state.graph.readers.get(site.node.output[0], ())
    return bool(readers) and all(node.op_type == "InstanceNormalization" for node in readers)


def _in_groups(before: Shape, after: Shape, spatial: Sequence[int]) -> bool:
    """Whether the last axis takes in all axes that follow the image, and those before it are parts of the channels."""
    return math.prod(before[1 : min(spatial)]) % math.prod(after[1:-1]) == 0


def _unflattened(site: Site, view: Strip) -> Outcome:
    """The strip as it was before it was flattened, in all its elements."""
    part = view.parts[0]
    now, then = (site.draft.spec(item.tensor).shapes or () for item in (view, part))
    if [math.prod(shape) for shape in now] != [math.prod(shape) for shape in then]:
        return cut(site)
    name = site.node.output[0]
    shape = site.draft.emit("Shape", [part.tensor])
    site.draft.emit("Reshape", [view.tensor, shape], name, instead=site.node)
    trace = replace(view.trace, fields=part.trace.fields)
    return [replace(part, tensor=name, original=name, trace=trace)]


@rule("Concat", on=Strip, attributes=("axis",))
def concat(site: Site) -> Outcome:
    """Channels side by side; or strips end to end, as coordinate attention lays rows and columns."""
    axis = positive(int(site.attrs["axis"]), len(site.shape_out()))
    strips = [view for view in site.views if isinstance(view, Strip)]
    if len(strips) < len(site.views) or not all(axis in view.spatial for view in strips):
        return lend(site, layout.concat)
    trace = Trace.join([view.trace for view in strips if len(view.spatial) == 1])
    if trace is None or any(len(view.spatial) > 1 or view.parts for view in strips):
        return site.refuse("grids-differ", "lays strips of different stride end to end")
    site.keep()
    name = site.node.output[0]
    return [Strip(name, name, (axis,), (), trace, strips[0].like, tuple(strips))]


@rule("Split", on=Strip, attributes=("axis", "num_outputs", "split"))
def split(site: Site) -> Outcome:
    """Channels; or the strips that were laid end to end, each as long as it is now."""
    view, axis = strip_of(site), positive(int(site.attrs.get("axis", 0)), len(site.shape_in()))
    if axis not in view.spatial:
        return lend(site, slices.split)
    ends = _ends(site, view)
    found = list(accumulate(site.shape_out(position)[axis] for position in range(len(site.node.output))))
    if not ends or found != ends or site.opset < 10:
        return site.refuse("cut-out", "cuts pieces of the native size out of the map")
    if site.opset < 13:  # Split takes its lengths as numbers
        return [_sliced(site, view, number, name) for number, name in enumerate(site.node.output)]
    lengths = emit.concat(site.draft, [_length(site, part) for part in view.parts])
    site.draft.emit("Split", [view.tensor, lengths], list(site.node.output), instead=site.node, axis=axis)
    return [_part(view, number, name) for number, name in enumerate(site.node.output)]


@rule("Slice", on=Strip, attributes=("axes", "ends", "starts"))
def slice_(site: Site) -> Outcome:
    """Channels or borders; or one of the strips that were laid end to end."""
    view, cuts = strip_of(site), slices.cuts_of(site)
    ends = _ends(site, view)
    if cuts is None or not ends or set(cuts) != set(view.spatial) or site.opset < 10:
        return lend(site, slices.slice_)
    (axis, (start, end, step)) = next(iter(cuts.items()))
    bounds = slice(start, end, step).indices(site.shape_in()[axis])
    whole = [(first, last, 1) for first, last in zip([0, *ends], ends, strict=False)]
    if bounds not in whole:
        return site.refuse("cut-out", "cuts pieces of the native size out of the map")
    return [_sliced(site, view, whole.index(bounds), site.node.output[0])]


def _sliced(site: Site, view: Strip, number: int, name: str) -> Strip:
    """One of the strips that were laid end to end, cut out behind those before it."""
    draft = site.draft
    begin = draft.constant([0], "start")
    for part in view.parts[:number]:
        begin = draft.emit("Add", [begin, _length(site, part)])
    stop = draft.emit("Add", [begin, _length(site, view.parts[number])])
    axis = draft.constant(list(view.spatial), "axis")
    draft.emit("Slice", [view.tensor, begin, stop, axis], name, instead=site.node)
    return _part(view, number, name)


def _ends(site: Site, view: Strip) -> list[int]:
    """Where each of the strips that were laid end to end ends natively; empty where they are that no more."""
    if not view.parts:
        return []
    axis = view.spatial[0]
    total = [shape[axis] for shape in site.draft.spec(view.tensor).shapes or ()]
    lengths = [
        sum(shape[part.spatial[0]] for part, shape in zip(view.parts, shapes, strict=True))
        for shapes in zip(*(site.draft.spec(part.tensor).shapes or () for part in view.parts), strict=True)
    ]
    natively = [site.native(part.original).native[part.spatial[0]] for part in view.parts]
    return list(accumulate(natively)) if total == lengths else []


def _length(site: Site, part: Strip) -> str:
    axis = part.spatial[0]
    return emit.dims(site.draft, part.tensor, axis, axis + 1)


def _part(view: Strip, number: int, name: str) -> Strip:
    part = view.parts[number]
    return Strip(name, name, view.spatial, part.places, view.trace, part.like)
