"""Operators on folded maps, (N * H * W, C), (N, H * W, C) ...: what leaves each place to itself stays as it is.

Each function returns None where that does not hold; then the node meets the rule for windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.lift import to_window, uniform
from onnxfc.regroup import (
    Groups,
    groups_of,
    is_folded,
    is_map,
    is_mixed,
    lengths,
    regroup,
    spatial_of,
    target,
    trace_of,
)
from onnxfc.rules.context import folded_as_context
from onnxfc.rules.elementwise import BROADCAST, UNARY, UNARY_ATTRIBUTES
from onnxfc.rules.indexing import picks
from onnxfc.rules.movement import move
from onnxfc.rules.pooling import REDUCTIONS, reduced_axes
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, positive
from onnxfc.views import Atom, Context, Fixed, Folded, Group, Map, Trace, View, Window


def fold(site: Site, view: Map, groups: Groups) -> Outcome | None:
    """A Reshape that regroups the axes of a map: a map again, or a folded one; None for anything else.

    Where no axis is left to channels, places have become features.
    """
    if not any(_pure(group) for group in groups):
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
    return [replace(view, tensor=name, groups=groups, window=_moved(site, view))]


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
    return [replace(view, tensor=name, groups=groups, window=_moved(site, view))]


def _at_probes(site: Site, view: Folded, groups: Groups) -> list[tuple[int, ...]] | None:
    """The shapes at the probes if the places follow the image."""
    found = []
    for shape in site.draft.spec(view.like.tensor).shapes or ():
        now = {place: shape[axis] for place, axis in enumerate(view.like.spatial)}
        made = []
        for group in groups:
            parts = [
                atom.length if atom.kind == "channel" else shape[0] if atom.kind == "batch" else now[atom.place]
                for atom in group
            ]
            factors = [atom.factor for atom in group if atom.kind == "space"]
            made.append(int(math.prod(parts) * math.prod(factors)))
        found.append(tuple(made))
    return found or None


def _moved(site: Site, view: Folded) -> Window | Refusal | None:
    """The window, moved too."""
    if not isinstance(view.window, Window):
        return view.window
    outcome = move(site, [view.window, *site.views[1:]])
    if isinstance(outcome, Refusal):
        return outcome
    return outcome[0] if isinstance(outcome[0], Window) else None


def _folded(site: Site) -> Folded:
    view = site.views[0]
    assert isinstance(view, Folded)
    return view


def _pure(group: Group) -> bool:
    """Whether an axis holds channels alone."""
    return all(atom.kind == "channel" for atom in group)


def _only_first(site: Site) -> bool:
    return isinstance(site.views[0], Folded) and all(view is None or isinstance(view, Fixed) for view in site.views[1:])


def _changed(site: Site, axis: int) -> list[View]:
    """The node's outputs, on one axis of which the channels have become others."""
    view, made = _folded(site), []
    for position, name in enumerate(site.node.output):
        length = site.shape_out(position)[axis]
        groups = (*view.groups[:axis], (Atom("channel", length),), *view.groups[axis + 1 :])
        made.append(replace(view, tensor=name, groups=groups, window=None))
    return list(made)


def _same(site: Site) -> list[View]:
    view = _folded(site)
    return [replace(view, tensor=name, window=None) for name in site.node.output]


@rule("Reshape", "Flatten", on=Folded, attributes=("allowzero", "axis"))
def reshape(site: Site) -> Outcome | None:
    """Regrouped; a map again where the places stand alone."""
    view = _folded(site)
    groups = regroup(view.groups, site.shape_out())
    return None if groups is None else regrouped(site, view, groups)


@rule("Transpose", on=Folded, attributes=("perm",))
def transpose(site: Site) -> Outcome | None:
    """The axes go where the permutation puts them."""
    return _turned(site, _folded(site))


@rule(*UNARY, on=Folded, attributes=UNARY_ATTRIBUTES)
def elementwise(site: Site) -> Outcome | None:
    """Each element alone."""
    if not _only_first(site):
        return None
    site.keep()
    return _same(site)


@rule(*BROADCAST, on=Folded, attributes=("direction", "fmod"))
def arithmetic(site: Site) -> Outcome | None:
    """Folded maps that lie on each other; constants and context must say the same at every place."""
    maps = [view for view in site.views if isinstance(view, Folded)]
    first = maps[0]
    others = [view for view in site.views if not isinstance(view, Folded)]
    if any(view.groups != first.groups for view in maps) or len(site.shape_out()) != len(first.groups):
        return None
    if not all(isinstance(view, Fixed | Context) for view in others):
        return None
    trace = Trace.join([view.trace for view in maps])
    inputs = [_spread(site, position, first.groups) for position in range(len(site.views))]
    if trace is None or any(tensor is None for tensor in inputs):
        return None
    joined: frozenset[str] = frozenset().union(*(view.joined for view in maps))
    for view in others:
        if isinstance(view, Context):
            joined |= view.trace.pools
            site.turns_out(view.trace, "context")
            trace = replace(trace, pools=trace.pools | view.trace.pools)
            trace = trace.tainted(site.taint("context"), *view.trace.taints)
    site.keep([tensor for tensor in inputs if tensor is not None])
    bounds = frozenset().union(*(view.bounds for view in maps))
    return [replace(first, tensor=site.node.output[0], trace=trace, bounds=bounds, window=None, joined=joined)]


def _spread(site: Site, position: int, groups: Groups) -> str | None:
    """The input as it is, or with one value for all places; None where it differs between places or images."""
    view = site.views[position]
    if isinstance(view, Folded):
        return view.tensor
    assert isinstance(view, Fixed | Context)
    shape = site.draft.spec(view.tensor).native
    axes = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and not _pure(groups[axis])]
    if isinstance(view, Context):
        return view.tensor if all(groups[axis][0].kind == "batch" == groups[axis][-1].kind for axis in axes) else None
    return uniform(site, position, axes)


@rule("MatMul", on=Folded)
def matmul(site: Site) -> Outcome | None:
    """Channels times a constant matrix, place by place."""
    if not _only_first(site) or len(site.shape_in(1)) != 2 or not _pure(_folded(site).groups[-1]):
        return None
    site.keep()
    return _changed(site, len(site.shape_out()) - 1)


@rule("Gemm", on=Folded, attributes=("alpha", "beta", "transA", "transB"))
def gemm(site: Site) -> Outcome | None:
    """The same, with places and images in the rows. https://onnx.ai/onnx/operators/onnx__Gemm.html"""
    if not _only_first(site) or site.attrs.get("transA", 0) or not _pure(_folded(site).groups[1]):
        return None
    bias = site.shape_in(2) if site.has_input(2) else ()
    if len(bias) == 2 and bias[0] != 1:
        return None
    site.keep()
    return _changed(site, 1)


@rule("Conv", on=Folded, attributes=("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"))
def pointwise(site: Site) -> Outcome | None:
    """A Conv of one element over (N, C, H * W)."""
    groups = _folded(site).groups
    alone = [atom.kind for atom in groups[0]] == ["batch"] and _pure(groups[1])
    idle = set(site.shape_in(1)[2:]) == {1} and not any(site.attrs.get("pads") or ())
    if not (_only_first(site) and alone and idle and set(site.attrs.get("strides") or (1,)) == {1}):
        return None
    site.keep()
    return _changed(site, 1)


@rule("BatchNormalization", on=Folded, attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(site: Site) -> Outcome | None:
    """A scale and a shift per channel (axis 1)."""
    used = any(site.output_used(k) for k in range(1, len(site.node.output)))
    if not (_only_first(site) and _pure(_folded(site).groups[1])) or site.attrs.get("training_mode", 0) or used:
        return None
    site.keep()
    return _same(site)


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
    return _over(site, range(axis, rank if flattening else axis + 1))


def _over(site: Site, axes: Sequence[int]) -> Outcome | None:
    if not (_only_first(site) and all(_pure(_folded(site).groups[axis]) for axis in axes)):
        return None
    site.keep()
    return _same(site)


@rule(*REDUCTIONS, on=Folded, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_channels(site: Site) -> Outcome | None:
    """Over channels, which stay as an axis of extent 1 or go."""
    view = _folded(site)
    axes = reduced_axes(site, len(view.groups))
    if not axes or not all(_pure(view.groups[axis]) for axis in axes):
        return folded_as_context(site, view, axes or ())
    site.keep()
    kept = bool(site.attrs.get("keepdims", 1))
    groups = [() if axis in axes else group for axis, group in enumerate(view.groups) if kept or axis not in axes]
    return [replace(view, tensor=site.node.output[0], groups=tuple(groups), window=None)]


@rule("Split", "Slice", "Gather", on=Folded, attributes=("axes", "axis", "ends", "num_outputs", "split", "starts"))
def part_of_channels(site: Site) -> Outcome | None:
    """Some of the channels."""
    view = _folded(site)
    before, after = lengths(view.groups), [site.shape_out(position) for position in range(len(site.node.output))]
    if not _only_first(site) or any(len(shape) != len(before) for shape in after) or is_mixed(view.groups):
        return None
    touched = {
        axis for shape in after for axis, pair in enumerate(zip(before, shape, strict=True)) if len(set(pair)) > 1
    }
    if len(touched) != 1 or not _pure(view.groups[min(touched)]):
        return None
    site.keep()
    return _changed(site, min(touched))


@rule("GatherND", on=Folded, attributes=("batch_dims",))
def picked_channels(site: Site) -> Outcome | None:
    """Some of the channels, one number each; exporters move their axis to the front for it."""
    if picks(site) is None or not _only_first(site) or not _pure(_folded(site).groups[0]):
        return None
    site.keep()
    return _changed(site, 0)


@rule("Concat", on=Folded, attributes=("axis",))
def concat(site: Site) -> Outcome | None:
    """Channels side by side."""
    maps = [view for view in site.views if isinstance(view, Folded)]
    axis = positive(int(site.attrs["axis"]), len(site.shape_out()))
    rest = {(*view.groups[:axis], *view.groups[axis + 1 :]) for view in maps}
    trace = Trace.join([view.trace for view in maps])
    if len(maps) != len(site.views) or len(rest) != 1 or trace is None:
        return None
    if not all(_pure(view.groups[axis]) for view in maps):
        return None
    site.keep()
    made = _changed(site, axis)[0]
    assert isinstance(made, Folded)
    return [replace(made, trace=trace, bounds=frozenset().union(*(view.bounds for view in maps)))]


@rule("Shape", "Size", on=Folded, attributes=("start", "end"))
def shape_of(site: Site) -> Outcome | None:
    """The dims now: computed sizes follow the image."""
    site.keep()
    return site.fixed()
