"""Operators on strips: maps pooled over some of the image's axes as context (strip pooling, coordinate attention).

A strip's own axes follow the image as a map's do, so a rule for maps that leaves them whole holds for strips as well:
it sees the strip as a map of fewer axes. Broadcasting, or laying it along the pooled axis, makes it a map again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxfc.errors import Refusal
from onnxfc.receptive_field import Field
from onnxfc.rules import channels, einsum, elementwise, fc, layout, normalize, pooling, resample, sizes, trunk
from onnxfc.rules.arithmetic import on_maps, places_alike
from onnxfc.rules.elementwise import BROADCAST, UNARY
from onnxfc.rules.sums import weighs
from onnxfc.rules.table import RULES, Function, rule
from onnxfc.site import Outcome, Site, positive
from onnxfc.views import Context, Fixed, Map, Refused, Strip, Trace, View


def _as_map(view: Strip) -> Map:
    return Map(view.tensor, view.original, view.spatial, view.trace)


def lend(site: Site, function: Function) -> Outcome:
    """What a rule for maps makes of strips that lie on each other: strips along the same axes."""
    strips = [view for view in site.views if isinstance(view, Strip)]
    first = strips[0]
    if any(view.along != first.along for view in strips) or any(isinstance(view, Map) for view in site.views):
        return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
    site.views = tuple(_as_map(view) if isinstance(view, Strip) else view for view in site.views)
    outcome = function(site)
    if not isinstance(outcome, list):
        return outcome or cut(site)
    return _back(site, first, outcome)


def _back(site: Site, first: Strip, outcome: Sequence[View]) -> Outcome:
    """The maps as strips; what was a constant axis of the strip must be that natively too."""
    made: list[View] = []
    for view in outcome:
        if isinstance(view, Map) and len(view.spatial) == len(first.spatial):
            view = replace(first, tensor=view.tensor, original=view.original, spatial=view.spatial, trace=view.trace)
            if site.draft.spec(view.tensor).native != site.native(view.original).native:
                return site.refuse(
                    "axes-differ", "combines a strip of the map with what was spread over the native size"
                )
        elif not isinstance(view, Fixed | Refused):
            return cut(site)
        made.append(view)
    return made


def cut(site: Site) -> Refusal:
    return site.refuse("partial-pool", "reads the native places of what was pooled over one axis of the image")


def _lent(function: Function) -> Callable[[Site], Outcome]:
    return lambda site: lend(site, function)


def _enter(function: Function, *ops: str) -> None:
    """A rule for maps as the rule for strips, with the attributes that it reads."""
    for op in ops:
        rule(op, on=Strip, attributes=sorted(RULES["", op, Map].attributes))(_lent(function))


_enter(elementwise.elementwise, *UNARY)
_enter(elementwise.dropout, "Dropout")
_enter(trunk.batch_normalization, "BatchNormalization")
_enter(trunk.lrn, "LRN")
_enter(trunk.pad, "Pad")
_enter(channels.layer_normalization, "LayerNormalization", "RMSNormalization")
_enter(channels.along_channels, "ArgMax", "ArgMin", "LpNormalization", "TopK")
_enter(layout.transpose, "Transpose")
_enter(layout.unsqueeze, "Unsqueeze")
_enter(layout.gather, "Gather")
_enter(sizes.shape_of_map, "Shape", "Size")
_enter(fc.matmul, "MatMul")
_enter(fc.gemm, "Gemm")
_enter(einsum.on_map, "Einsum")
_enter(resample.conv_transpose, "ConvTranspose")


def strip_of(site: Site) -> Strip:
    view = site.views[0]
    assert isinstance(view, Strip)
    return view


@rule("Conv", "MaxPool", "AveragePool", "LpPool", on=Strip, attributes=(*trunk.WINDOWED, "strides", "storage_order"))
def sliding(site: Site) -> Outcome:
    """A kernel slides over the axes that are left, and over the one place of the others as over channels."""
    view, how = strip_of(site), trunk.sliding_of(site)
    if isinstance(how, Refusal):
        return how
    along = site.covers
    return pooling.strip(site, view, along, keepdims=True) if along else lend(site, trunk.sliding)


@rule(*pooling.REDUCTIONS, on=Strip, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_strip(site: Site) -> Outcome:
    """Over channels it stays a strip, over all axes that are left it is a pool of the whole image."""
    view = strip_of(site)
    axes = pooling.reduced_axes(site, len(site.shape_in()))
    if axes is None:
        return site.refuse("unknown-axes", "takes axes that are not constant")
    if 0 in axes:
        return site.refuse("mixes-batch", "reduces over the batch")
    spatial = [axis for axis in axes if axis in view.spatial]
    if not spatial:
        return lend(site, pooling.reduce_map)
    if weighs(site, view.trace, spatial) is None:
        return pooling.weighed_apart(site)
    return pooling.strip(site, view, axes, bool(site.attrs.get("keepdims", 1)))


@rule("GlobalAveragePool", "GlobalMaxPool", on=Strip)
def global_pool(site: Site) -> Outcome:
    """Over all axes that are left."""
    view = strip_of(site)
    if min(view.spatial) < 2:
        return site.refuse("layout", "pools over axes that are not the image's")
    return pooling.strip(site, view, view.spatial, keepdims=True)


@rule("InstanceNormalization", "GroupNormalization", on=Strip, attributes=("epsilon", "num_groups", "stash_type"))
def normalization(site: Site) -> Outcome:
    """Statistics of the whole strip."""
    view, name = strip_of(site), site.node.output[0]
    if min(view.spatial) < 2:
        return site.refuse("layout", "normalises over axes that are not the image's")
    if any(not isinstance(other, Fixed) for other in site.views[1:]):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    site.keep()
    return [replace(view, tensor=name, original=name, trace=view.trace.tainted(site.taint("context")))]


@rule("Softmax", "LogSoftmax", "Hardmax", on=Strip, attributes=("axis",))
def softmax(site: Site) -> Outcome:
    """Over channels, or over the places of an axis that is left: of the whole image too."""
    view, rank, flattening = strip_of(site), len(site.shape_in()), site.opset < 13
    axis = positive(int(site.attrs.get("axis", 1 if flattening else -1)), rank)
    normalised = set(range(axis, rank)) if flattening else {axis}
    if not normalised & set(view.spatial):
        return lend(site, normalize.softmax_map)
    if 0 in normalised:
        return site.refuse("mixes-batch", "normalises over the batch")
    site.keep(axis=axis)
    name, trace = site.node.output[0], view.trace.tainted(site.taint("context"))
    return [replace(view, tensor=name, original=name, trace=replace(trace, pools=trace.pools | {site.name}))]


@rule(*BROADCAST, on=Strip, attributes=("direction", "fmod"))
def arithmetic(site: Site) -> Outcome:
    """Strips along the same axes stay strips; beside a map, or a strip along another axis, they are spread over it."""
    strips = [view for view in site.views if isinstance(view, Strip)]
    lifted = [view for view in site.views if isinstance(view, Strip | Map)]
    if len(strips) == len(lifted) and len({view.along for view in strips}) == 1:
        return lend(site, on_maps)
    where = _met(site, lifted)
    if isinstance(where, Refusal):
        return where
    trace = _joined_trace(site, lifted, where)
    if isinstance(trace, Refusal):
        return trace
    rank, inputs = len(site.shape_out()), []
    for position, view in enumerate(site.views):
        tensor = places_alike(site, position, [axis - rank for axis in where.values()])
        if tensor is None:
            return site.refuse(
                "position-table", f"combines the map with a value for every place: {site.node.input[position]}"
            )
        inputs.append(tensor)
    site.keep(inputs)
    name, like = site.node.output[0], strips[0].like
    spatial = tuple(where[place] for place in sorted(where))
    if len(where) == site.state.rank:
        return [Map(name, name, spatial, trace)]
    return [Strip(name, name, spatial, tuple(sorted(where)), trace, like)]


def _met(site: Site, lifted: Sequence[Strip | Map]) -> dict[int, int] | Refusal:
    """The axis of the output that each axis of the image lies on, where all inputs agree on it."""
    where: dict[int, int] = {}
    rank = len(site.shape_out())
    for view in lifted:
        own = places_of(view)
        whole = len(site.native(view.original).native) == rank and not (isinstance(view, Strip) and view.parts)
        for place, axis in own.items():
            whole = whole and where.setdefault(place, axis) == axis
        if not whole:
            return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
    for view in lifted:
        shape, own = site.native(view.original).native, places_of(view)
        if len(set(where.values())) < len(where) or any(shape[where[place]] != 1 for place in where.keys() - own):
            return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
        if any(site.shape_out()[where[place]] == 1 for place in where.keys() - own):
            return site.refuse("partial-pool", "combines a strip with a map of one place along the pooled axis")
        if any(shape[axis] != site.shape_out()[axis] for axis in own.values()):
            return site.refuse("sizes-differ", "spreads a map of native extent 1 over a larger one")
        if view.trace.windows:
            return site.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    return where


def places_of(view: Strip | Map) -> dict[int, int]:
    """The axis of each axis of the image that it follows."""
    return dict(zip(view.places if isinstance(view, Strip) else range(len(view.spatial)), view.spatial, strict=True))


def _joined_trace(site: Site, lifted: Sequence[Strip | Map], where: dict[int, int]) -> Trace | Refusal:
    """The trace of what is computed from all of them, axis by axis."""
    fields: list[Field] = []
    for place in sorted(where):
        own = [view.trace.fields[list(places_of(view)).index(place)] for view in lifted if place in places_of(view)]
        joined = Field.join(own)
        if joined is None:
            return site.refuse("grids-differ", "combines maps of different stride")
        fields.append(joined)
    context = [view.trace for view in site.views if isinstance(view, Context)]
    traces = [replace(trace, fields=tuple(fields)) for trace in [*(view.trace for view in lifted), *context]]
    joined_trace = Trace.join(traces)
    assert joined_trace is not None
    by_size = any(site.follows_size(position) for position in range(len(site.views)))
    return joined_trace.tainted(*([site.taint("context")] if context or by_size else []))
