"""Reduce operators: over channels, over places, over features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.analysis.normalised_sums import in_part, rescaled, scale_of, weighs
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, axes_of
from onnxfc.graph.op_kinds import REDUCTIONS
from onnxfc.head.fc_to_conv import rows_of_weights
from onnxfc.head.meet_grids import around_batch, beside_batch
from onnxfc.head.windows import simplest, to_scores, whole_channels
from onnxfc.layout.axes import Atom, Groups, pure
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Context, Index, Placed, ScoreMap, Source, Window
from onnxfc.rules.context_sums import (
    left_of,
    of_image,
    scale_along,
    strip,
    trace_summed,
    weighed_apart,
    window_as_context,
)
from onnxfc.rules.pooling import PARTIAL, POOLS, global_pool, partial_pool, pool_name, window_pool
from onnxfc.rules.registry import FEATURES, PLACED, rule

_BOUNDED = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}
"""Reductions over places that say the same at every size once they are brought to the native number of places."""


def reduce_places(site: Site, axes: Sequence[int]) -> Outcome | None:
    """A figure of the whole image, or of a whole row of what relates places: None where each window has its own."""
    view = site.views[0]
    assert isinstance(view, Placed)
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    if any(atom.kind == "batch" for atom in atoms) or site.op_type not in _BOUNDED:
        return None
    if len({atom.side for atom in atoms if atom.kind == "space"}) > 1:
        return None  # rows and columns of what relates places
    weighted = any(place >= 0 for _, place in view.trace.shares)
    if site.per_window or not (view.other or weighted or site.role == "context"):
        return None
    kept = bool(site.attrs.get("keepdims", 1))
    groups = tuple(() if axis in axes else group for axis, group in enumerate(view.groups) if kept or axis not in axes)
    doubt = in_part(site, [side.trace for side in view.sides], view.tensor, axes)
    if doubt is not None:
        return doubt
    left = _left(site, view, groups)
    if left is None:
        return None
    sides = {atom.side for atom in atoms if atom.kind == "space"}
    places = [atom.place for atom in atoms if atom.kind == "space"]
    if not rescaled(
        site, scale_of(site, view.sides[sides.pop()].trace, view.tensor, axes, places), view.tensor, axes, kept
    ):
        site.keep()
    return [left]


def _left(site: Site, view: Placed, groups: Groups) -> Context | Placed | None:
    """The view of what is left of the axes."""
    name = site.node.output[0]
    atoms = [atom for group in groups for atom in group if atom.kind == "space"]
    taints = Gathered.joined(side.trace.taints for side in view.sides) | {site.taint("context")}
    if not atoms:
        if [atom.kind for atom in groups[0]] != ["batch"]:
            return None
        fields = (Field(),) * site.state.rank
        return Context(name, Trace(fields, taints, pools=frozenset({site.name})))
    sides = {atom.side for atom in atoms}
    if len(sides) != 1 or {atom.place for atom in atoms} != set(range(site.state.rank)):
        return None
    side = view.sides[sides.pop()]
    groups = tuple(tuple(_first_side(atom) for atom in group) for group in groups)
    trace = replace(side.trace, taints=taints)
    made = Placed(name, name, groups, trace, side.like, bounds=view.bounds)
    return replace(made, measured=None, bounds=frozenset()) if made.is_map else made


def _first_side(atom: Atom) -> Atom:
    return replace(atom, side=0)


def folded_as_context(site: Site, view: Placed, axes: Sequence[int]) -> Outcome | None:
    """A reduction over all places, as the node stands; None where it is none, or not known to be context."""
    reduced = [atom for axis in axes for atom in view.groups[axis]]
    every = sum(atom.kind == "space" for group in view.groups for atom in group)
    places = sum(atom.kind == "space" for atom in reduced)
    if site.role != "context" or not places or places < every or any(atom.kind == "batch" for atom in reduced):
        return None
    scale = scale_of(site, view.trace, view.tensor, axes, [atom.place for atom in reduced if atom.kind == "space"])
    if not rescaled(site, scale, view.tensor, axes, bool(site.attrs.get("keepdims", 1))):
        site.keep()
    return [of_image(site, view.trace)]


@rule(*REDUCTIONS, on=PLACED, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_placed(site: Site) -> Outcome | None:
    """Over channels a tensor stays placed as it is; over places it is a pool, of a window or of the whole image."""
    view = site.placed_in()
    rank, keepdims = len(view.groups), bool(site.attrs.get("keepdims", 1))
    axes = reduced_axes(site, rank)
    if axes is None:
        return site.refuse("unknown-axes", "takes axes that are not constant")
    if 0 in axes and view.apart:
        return site.refuse("mixes-batch", "reduces over the batch")
    if all(pure(view.groups[axis]) for axis in axes):
        return _over_channels(site, view, axes, keepdims)
    if view.is_folded:
        return reduce_places(site, axes) or folded_as_context(site, view, axes)
    if view.is_strip:
        return _of_strip(site, view, axes, keepdims)
    return _of_map(site, view, axes, keepdims)


def _of_strip(site: Site, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """Over all axes that are left it is a pool of the whole image."""
    if weighs(site, view.trace, [axis for axis in axes if axis in view.spatial]) is None:
        return weighed_apart(site)
    return strip(site, view, axes, keepdims)


def _of_map(site: Site, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A reduction over all spatial axes is a global pool."""
    spatial = set(axes) & set(view.spatial)
    if any(place >= 0 for _, place in view.trace.shares):
        return weighed_apart(site) if site.per_window else strip(site, view, axes, keepdims)
    weighed = weighs(site, view.trace, sorted(spatial))
    if weighed is None:
        return weighed_apart(site)
    if weighed:
        return strip(site, view, axes, keepdims)
    if spatial == set(view.spatial) == set(axes) and site.op_type in POOLS:
        return global_pool(site, view, POOLS[site.op_type], keepdims)
    if spatial == set(view.spatial) and not view.trace.windows:
        return _statistic(site, view, axes, keepdims)
    if view.trace.windows and set(view.extent) == {1}:
        return reduce_features(site)
    if spatial == set(axes) and site.op_type in PARTIAL:
        return partial_pool(site, view, axes, keepdims)
    if site.role == "context" and spatial != set(view.spatial):
        return strip(site, view, axes, keepdims)
    return site.refuse("unsupported-reduction", f"reduces over axes {axes} of a map")


def reduced_axes(site: Site, rank: int) -> list[int] | None:
    """Reduced axes; all where none are given (unless ``noop_with_empty_axes``)."""
    axes = axes_of(site, 1, rank)
    if axes is None and site.has_input(1):
        return None
    if not axes:
        return [] if site.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axes)


def _over_channels(site: Site, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    site.keep()
    return [replace(item, groups=left_of(view, axes, keepdims)) for item in site.same() if isinstance(item, Placed)]


def _statistic(site: Site, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A figure of the whole map, its channels too: of each window, or of the image where it meets its trunk again."""
    if site.role != "context":
        return reduce_features(site)
    doubt = in_part(site, [view.trace], view.tensor, axes)
    if doubt is not None:
        return doubt
    if not rescaled(site, scale_along(site, view, axes), view.tensor, axes, keepdims):
        site.keep()
    return [of_image(site, view.trace)]


@rule(*REDUCTIONS, on=FEATURES, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_window(site: Site) -> Outcome:
    """Reducing exactly the whole window of each channel is a global pool spelled by Reshape; else over scores."""
    view = site.views[0]
    if not isinstance(view, Window):
        return reduce_features(site)
    axes = reduced_axes(site, view.index.ndim + 1)
    inner = None if not axes or 0 in axes else [axis - 1 for axis in axes]
    rows = None if inner is None or site.role == "context" else rows_of_weights(site, view, inner)
    if rows is not None:
        return [rows]
    channels = None if inner is None else whole_channels(view, inner)
    if channels is None:
        return reduce_features(site)
    if channels.shape[-1] == 1 and site.op_type in POOLS:
        return _pool_of_window(site, view, channels)
    if site.role == "context":
        return window_as_context(site, view, channels)
    return reduce_features(site)


def _pool_of_window(site: Site, view: Window, channels: Index) -> Outcome:
    """The pool by the option; ``channels`` says which channel each remaining feature is."""
    kind, source, features = POOLS[site.op_type], view.sources[0], site.shape_out()[1:]
    trace = replace(view.trace, pools=view.trace.pools | {site.name})
    spelled = f"{site.op_type} {'x'.join(map(str, source.extent))}"
    if weighs(site, view.trace, ()) is None:
        return weighed_apart(site)
    if site.role == "context":
        return window_as_context(site, view, channels)
    if site.state.global_pool == "keep":
        if kind not in {"Average", "Max"} or not np.array_equal(channels.ravel(), np.arange(source.channels)):
            return site.refuse("sum-over-image", "does not pool every channel once", "use --global-pool window")
        if view.trunk is None:
            return site.refuse("unsupported-reduction", "pools something else than a map")
        vector = site.draft.emit(f"Global{kind}Pool", [source.tensor], instead=site.node)
        ops.reshape(site.draft, vector, [0, *features], site.node.output[0])
        site.replaced(spelled, "kept global")
        return [Context(site.node.output[0], trace.tainted(site.taint("context")))]
    if site.state.global_pool == "drop":
        if kind != "Average" or view.trunk is None:
            return site.refuse("drop-not-affine", "is no average: its map has no scores", "use --global-pool window")
        tensor, trace = source.tensor, replace(trace, fields=view.trunk.fields, dropped=True)
        site.replaced(spelled, "no pool")
    else:
        tensor = window_pool(site, source.tensor, source.extent, kind)
        site.replaced(spelled, f"{pool_name(kind)} {'x'.join(map(str, source.extent))}, stride 1")
    pooled = Source.of_cells(tensor, source.channels, len(source.extent))
    return [simplest(site, Window((pooled,), channels.reshape(features), trace))]


def reduce_features(site: Site) -> Outcome:
    """Over features, cell by cell."""
    view = site.views[0]
    assert view is not None
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    axes = reduced_axes(site, len(scores.features) + 1)
    if axes is None:
        return site.refuse("unknown-axes", "takes axes that are not constant")
    batch_axis = scores.batch_axis or 0
    trace = trace_summed(site, scores.trace)
    scores = replace(scores, trace=trace)
    if batch_axis in axes:
        return site.refuse("mixes-batch", "reduces over the batch")
    if not axes:
        site.keep([scores.tensor, *site.tensors_from(1)])
        return [replace(scores, tensor=site.node.output[0])]
    keepdims, own = bool(site.attrs.get("keepdims", 1)), [beside_batch(axis, batch_axis) for axis in axes]
    ops.reduce(site.draft, site.op_type, scores.tensor, own, keepdims, site.node.output[0], site.node)
    if not batch_axis:
        return site.score_maps(scores.trace)
    batch_axis -= 0 if keepdims else sum(axis < batch_axis for axis in axes)
    return [around_batch(site, scores.trace, batch_axis)]
