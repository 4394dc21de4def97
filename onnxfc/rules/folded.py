"""Operators on folded maps, (N * H * W, C), (N, H * W, C) ...: what leaves each place to itself stays as it is.

Each function returns None where that does not hold; then the node meets the rule for windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.lift import to_window, uniform
from onnxfc.regroup import Groups, groups_of, is_folded, is_map, regroup, spatial_of, target, trace_of
from onnxfc.rules import products
from onnxfc.rules.context import folded_as_context
from onnxfc.rules.deviation import weighed_deviation
from onnxfc.rules.einsum import equation_of
from onnxfc.rules.elementwise import BROADCAST, UNARY, UNARY_ATTRIBUTES
from onnxfc.rules.folds import changed, folded_of, moved, only_first, pure, same
from onnxfc.rules.places import over_places, reduce_places
from onnxfc.rules.pooling import REDUCTIONS, reduced_axes
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, positive
from onnxfc.views import Context, Fixed, Folded, Map, Trace


def fold(site: Site, view: Map, groups: Groups) -> Outcome | None:
    """A Reshape that regroups the axes of a map: a map again, or a folded one; None for anything else.

    Where no axis is left to channels, places have become features.
    """
    if not any(pure(group) for group in groups):
        return None
    return regrouped(site, _as_folded(site, view), groups)


def _as_folded(site: Site, view: Map) -> Folded:
    window = to_window(site, view)
    return Folded(view.tensor, groups_of(site, view), view, view.trace, window.trace.windows, window)


def turn(site: Site, view: Map) -> Outcome:
    """A Transpose that moves the batch of a map: it may come back."""
    return _turned(site, _as_folded(site, view))


def _turned(site: Site, view: Folded) -> Outcome:
    perm = list(site.attrs.get("perm") or range(len(view.groups) - 1, -1, -1))
    site.keep()
    name, groups = site.node.output[0], tuple(view.groups[axis] for axis in perm)
    alone = all(len(group) == 1 for group in groups)
    if alone and is_map(groups):
        return [Map(name, name, spatial_of(groups), view.trace)]
    return [replace(view, tensor=name, groups=groups, window=moved(site, view))]


def regrouped(site: Site, view: Folded, groups: Groups) -> Outcome | None:
    """Write the Reshape from one grouping to another."""
    if not (is_map(groups) or is_folded(groups)):
        return None
    wanted = _at_probes(site, view, groups)
    if wanted is None or not site.try_keep(wanted):
        emit.reshape(
            site.draft, view.tensor, target(site.draft, view, view.groups, groups), site.node.output[0], site.node
        )
    name = site.node.output[0]
    if is_map(groups):
        return [Map(name, name, spatial_of(groups), trace_of(site, view.trace, groups))]
    return [replace(view, tensor=name, groups=groups, window=moved(site, view))]


def _at_probes(site: Site, view: Folded, groups: Groups) -> list[tuple[int, ...]] | None:
    """The shapes at the probes if the places follow the image."""
    found = []
    sides = [side.like for side in view.sides]
    for shapes in zip(*(site.draft.spec(like.tensor).shapes or () for like in sides), strict=True):
        now = {
            (side, place): shape[axis]
            for side, (like, shape) in enumerate(zip(sides, shapes, strict=True))
            for place, axis in enumerate(like.spatial)
        }
        made = []
        for group in groups:
            parts = [
                atom.length
                if atom.kind == "channel"
                else shapes[0][0]
                if atom.kind == "batch"
                else now[atom.side, atom.place]
                for atom in group
            ]
            factors = [atom.factor for atom in group if atom.kind == "space"]
            made.append(int(math.prod(parts) * math.prod(factors)))
        found.append(tuple(made))
    return found or None


@rule("Reshape", "Flatten", on=Folded, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome | None:
    """Regrouped; a map again where the places stand alone."""
    view = folded_of(site)
    groups = regroup(view.groups, site.shape_out())
    return None if groups is None else regrouped(site, view, groups)


@rule("Transpose", on=Folded, attributes=("perm",))
def transpose(site: Site) -> Outcome | None:
    """The axes go where the permutation puts them."""
    return _turned(site, folded_of(site))


@rule(*UNARY, on=Folded, attributes=UNARY_ATTRIBUTES)
def elementwise(site: Site) -> Outcome | None:
    """Each element alone."""
    if not only_first(site):
        return None
    site.keep()
    return same(site)


@rule(*BROADCAST, on=Folded, attributes=("direction", "fmod"))
def arithmetic(site: Site) -> Outcome | None:
    """Folded maps that lie on each other; constants and context must say the same at every place."""
    maps = [view for view in site.views if isinstance(view, Folded)]
    groups = _laid(maps)
    others = [view for view in site.views if not isinstance(view, Folded)]
    first = max(maps, key=lambda view: len(view.sides))
    differ = site.refuse("position-table", PER_PLACE, NO_VALUES) if first.other else None
    if groups is None or len(site.shape_out()) != len(groups):
        return differ
    if not all(isinstance(view, Fixed | Context) for view in others):
        return None
    trace = Trace.join([view.trace for view in maps])
    inputs = [_spread(site, position, groups) for position in range(len(site.views))]
    if trace is None or any(tensor is None for tensor in inputs):
        return differ
    by_size = [position for position in range(len(site.views)) if site.follows_size(position)]
    if by_size:
        trace = trace.tainted(site.taint("context"))  # a count of the pixels, say
    joined: frozenset[str] = frozenset().union(*(view.joined for view in maps))
    for view in others:
        if isinstance(view, Context):
            joined |= view.trace.pools
            if not weighed_deviation(site, view, groups):
                site.turns_out(view.trace, "context")
            trace = replace(trace, pools=trace.pools | view.trace.pools)
            trace = trace.tainted(site.taint("context"), *view.trace.taints)
    site.keep([tensor for tensor in inputs if tensor is not None])
    bounds = frozenset().union(*(view.bounds for view in maps))
    name = site.node.output[0]
    made = replace(first, tensor=name, groups=groups, trace=trace, bounds=bounds, window=None, joined=joined)
    return [_per_place(site, made, by_size[0]) if by_size else made]


def _divides_by_places(site: Site, like: Map, position: int) -> bool:
    """Whether a number that follows the image's size is that of the places of ``like``, at every size."""
    values = site.draft.spec(site.tensors()[position]).values or ()
    shapes = site.draft.spec(like.tensor).shapes or ()
    counts = [math.prod(shape[axis] for axis in like.spatial) for shape in shapes]
    if site.op_type not in {"Div", "Mul"} or len(values) != len(counts) or any(value.size != 1 for value in values):
        return False
    factors = [float(value.ravel()[0]) for value in values]
    parts = [f / n if site.op_type == "Div" else f * n for f, n in zip(factors, counts, strict=True)]
    return bool(np.allclose(parts, parts[0], rtol=1e-5))


PER_PLACE = "combines what relates the places with values for each place of the native size"
NO_VALUES = "such a table has no values for other sizes"


def _laid(maps: Sequence[Folded]) -> Groups | None:
    """The axes of folded maps that are broadcast against each other; None where different ones lie on each other."""
    rank = max(len(view.groups) for view in maps)
    rows = [((),) * (rank - len(view.groups)) + view.groups for view in maps]
    groups = tuple(max(axis, key=len) for axis in zip(*rows, strict=True))
    if any(group and group != wide for row in rows for group, wide in zip(row, groups, strict=True)):
        return None
    places = [(atom.side, atom.place) for group in groups for atom in group if atom.kind == "space"]
    return groups if len(places) == len(set(places)) else None


def _per_place(site: Site, view: Folded, position: int) -> Folded:
    """Perhaps divided by how many places there are (where it relates places: how many columns)."""
    if not _divides_by_places(site, view.sides[-1].like, position):
        return view
    shares = frozenset((site.label, place) for place in range(site.state.rank))
    if view.other is None:
        return replace(view, trace=replace(view.trace, shares=shares))
    return replace(view, other=replace(view.other, trace=replace(view.other.trace, shares=shares)))


def _spread(site: Site, position: int, groups: Groups) -> str | None:
    """The input as it is, or with one value for all places; None where it differs between places or images."""
    view = site.views[position]
    if isinstance(view, Folded):
        return view.tensor
    assert isinstance(view, Fixed | Context)
    shape = site.draft.spec(view.tensor).native
    axes = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and not pure(groups[axis])]
    if isinstance(view, Context):
        own = [groups[axis] for axis in axes if axis >= -len(groups)]
        batch = len(own) == len(axes) and all(group[:1] and group[0].kind == "batch" == group[-1].kind for group in own)
        return view.tensor if batch else None
    return uniform(site, position, axes)


@rule("MatMul", on=Folded)
def matmul(site: Site) -> Outcome | None:
    """Channels times a constant matrix, place by place; or what was computed from the image times itself."""
    if not only_first(site) or len(site.shape_in(1)) != 2:
        return products.matmul(site)
    if not pure(folded_of(site).groups[-1]):
        return None
    site.keep()
    return changed(site, len(site.shape_out()) - 1)


@rule("Einsum", on=Folded, attributes=("equation",))
def einsum(site: Site) -> Outcome | None:
    """Products in letters."""
    equation = equation_of(site)
    return products.product(site, equation.terms, equation.out)


@rule("Gemm", on=Folded, attributes=("alpha", "beta", "transA", "transB"))
def gemm(site: Site) -> Outcome | None:
    """The same, with places and images in the rows. https://onnx.ai/onnx/operators/onnx__Gemm.html"""
    if not only_first(site) or site.attrs.get("transA", 0) or not pure(folded_of(site).groups[1]):
        return None
    bias = site.shape_in(2) if site.has_input(2) else ()
    if len(bias) == 2 and bias[0] != 1:
        return None
    site.keep()
    return changed(site, 1)


@rule("Conv", on=Folded, attributes=("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"))
def pointwise(site: Site) -> Outcome | None:
    """A Conv of one element over (N, C, H * W)."""
    groups = folded_of(site).groups
    alone = [atom.kind for atom in groups[0]] == ["batch"] and pure(groups[1])
    idle = set(site.shape_in(1)[2:]) == {1} and not any(site.attrs.get("pads") or ())
    if not (only_first(site) and alone and idle and set(site.attrs.get("strides") or (1,)) == {1}):
        return None
    site.keep()
    return changed(site, 1)


@rule("BatchNormalization", on=Folded, attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(site: Site) -> Outcome | None:
    """A scale and a shift per channel (axis 1)."""
    used = any(site.output_used(k) for k in range(1, len(site.node.output)))
    if not (only_first(site) and pure(folded_of(site).groups[1])) or site.attrs.get("training_mode", 0) or used:
        return None
    site.keep()
    return same(site)


@rule("LayerNormalization", "RMSNormalization", on=Folded, attributes=("axis", "epsilon", "stash_type"))
def layer_normalization(site: Site) -> Outcome | None:
    """Over channels, where they are the last axes."""
    rank = len(site.shape_in())
    axis = positive(int(site.attrs.get("axis", -1)), rank)
    return _over(site, range(axis, rank))


@rule("Softmax", "LogSoftmax", "Hardmax", "LpNormalization", on=Folded, attributes=("axis", "p"))
def along_channels(site: Site) -> Outcome | None:
    """Along one channel axis. Before opset 13 Softmax takes all axes from its own on together."""
    rank, flattening = len(site.shape_in()), site.opset < 13 and site.op_type != "LpNormalization"
    axis = positive(int(site.attrs.get("axis", 1 if flattening else -1)), rank)
    axes = range(axis, rank if flattening else axis + 1)
    return _over(site, axes) or over_places(site, axes)


def _over(site: Site, axes: Sequence[int]) -> Outcome | None:
    if not (only_first(site) and all(pure(folded_of(site).groups[axis]) for axis in axes)):
        return None
    site.keep()
    return same(site)


@rule(*REDUCTIONS, on=Folded, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_channels(site: Site) -> Outcome | None:
    """Over channels, which stay as an axis of extent 1 or go."""
    view = folded_of(site)
    axes = reduced_axes(site, len(view.groups))
    if not axes:
        return None
    if not all(pure(view.groups[axis]) for axis in axes):
        return reduce_places(site, axes) or folded_as_context(site, view, axes)
    site.keep()
    kept = bool(site.attrs.get("keepdims", 1))
    groups = [() if axis in axes else group for axis, group in enumerate(view.groups) if kept or axis not in axes]
    return [replace(view, tensor=site.node.output[0], groups=tuple(groups), window=None)]


@rule("Shape", "Size", on=Folded, attributes=("start", "end"))
def shape_of(site: Site) -> Outcome | None:
    """The dims now: computed sizes follow the image."""
    site.keep()
    return site.fixed()
