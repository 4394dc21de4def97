"""Reduce operators: over channels, over places, over features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.analysis.normalised_sums import in_part, scale_of, weighs
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext, axes_of
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import FLOATS, REDUCTIONS
from onnxfc.head.fc_to_conv import rows_of_weights
from onnxfc.head.meet_grids import around_batch, beside_batch
from onnxfc.head.windows import boundary, simplest, to_scores, whole_channels
from onnxfc.layout.axes import BATCH_OF_ONE, Groups, holds_images, places_in, pure, with_batch
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Index, Placed, ScoreMap, Source, Window
from onnxfc.rules.context_sums import (
    left_of,
    of_image,
    strip,
    trace_summed,
    weighed_apart,
    whole_image,
    window_as_context,
    write_scaled,
)
from onnxfc.rules.pooling import KINDS, PARTIAL, global_pool, partial_pool, pool_name, window_pool
from onnxfc.rules.registry import FEATURES, PLACED, rule

_BOUNDED = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"}
"""Reductions over places that say the same at every size once they are brought to the native number of places."""

_ALIKE = {"ReduceMax", "ReduceMean", "ReduceMin"}
"""Reductions that say the same of a list of places however long it is."""


def reduce_places(ctx: RuleContext, axes: Sequence[int]) -> Outcome | None:
    """A figure of the whole image, or of a whole row of what relates places: None where each window has its own."""
    view = ctx.placed_in()
    if not _of_whole_image(ctx, view, axes):
        return None
    kept = bool(ctx.attrs.get("keepdims", 1))
    left = _left(ctx, view, left_of(view, axes, kept))
    if left is None:
        return None
    atoms = places_in([view.groups[axis] for axis in axes])
    side = view.sides[atoms[0].side]
    scale = scale_of(ctx, side.provenance, view.tensor, axes, [atom.place for atom in atoms])
    write_scaled(ctx, scale, view.tensor, axes, kept)
    return [left]


def _of_whole_image(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> bool:
    """Whether a reduction over places is context, and one of those that say the same at every size."""
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    one_side = len({atom.side for atom in atoms if atom.kind == "space"}) == 1  # not rows and columns together
    bounded = ctx.op_type in _BOUNDED and not any(atom.kind == "batch" for atom in atoms)
    weighted = ctx.weighs_image(view)
    return one_side and bounded and not ctx.per_window and (bool(view.other) or weighted or ctx.role == "context")


def _left(ctx: RuleContext, view: Placed, groups: Groups) -> Context | Placed | None:
    """The view of what is left of the axes."""
    name = ctx.node.output[0]
    atoms = [atom for group in groups for atom in group if atom.kind == "space"]
    blames = Gathered.joined(side.provenance.blames for side in view.sides) | {ctx.blame(Cause.CONTEXT)}
    if not atoms:
        if not groups or not holds_images(groups[0]):
            return None
        fields = (Field(),) * ctx.state.rank
        return Context(name, Provenance(fields, blames).behind(ctx.name))
    sides = {atom.side for atom in atoms}
    if len(sides) != 1 or {atom.place for atom in atoms} != set(range(ctx.state.rank)):
        return None
    side = view.sides[sides.pop()]
    groups = tuple(tuple(replace(atom, side=0) for atom in group) for group in groups)
    provenance = replace(side.provenance, blames=blames)
    made = Placed(name, name, groups, provenance, side.like, bounds=view.bounds)
    return replace(made, measured=None, bounds=frozenset()) if made.is_map else made


def folded_as_context(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Outcome | None:
    """A reduction over all places, as the node stands; None where it is none, or not known to be context."""
    reduced = [atom for axis in axes for atom in view.groups[axis]]
    every = sum(atom.kind == "space" for group in view.groups for atom in group)
    places = sum(atom.kind == "space" for atom in reduced)
    if ctx.role != "context" or not places or places < every or any(atom.kind == "batch" for atom in reduced):
        return _of_list(ctx, view, axes)
    scale = scale_of(ctx, view.provenance, view.tensor, axes, [atom.place for atom in reduced if atom.kind == "space"])
    write_scaled(ctx, scale, view.tensor, axes, bool(ctx.attrs.get("keepdims", 1)))
    return [of_image(ctx, view.provenance)]


def _of_stack(ctx: RuleContext, view: Placed, keepdims: bool) -> Outcome | None:
    """Over maps of the only image that are laid beside each other on a first axis, as torch.stack has them."""
    images, *rest = view.groups
    if not ctx.may_swallow or images[:1] != BATCH_OF_ONE or len(images) == 1 or not (keepdims or rest[:1] == [()]):
        return None
    ctx.keep()
    groups = (BATCH_OF_ONE, *rest) if keepdims else with_batch(tuple(rest))
    return [replace(item, groups=groups) for item in ctx.same() if isinstance(item, Placed)]


@rule(*REDUCTIONS, on=PLACED, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_placed(ctx: RuleContext) -> Outcome | None:
    """Reduce over channels lies as the map does; over places it is a pool, of a window or of the whole image."""
    view = ctx.placed_in()
    rank, keepdims = len(view.groups), bool(ctx.attrs.get("keepdims", 1))
    axes = reduced_axes(ctx, rank)
    if axes is None:
        return ctx.refuse("unknown-axes", "takes axes that are not constant")
    if (doubt := _doubt(ctx, view, axes)) is not None:
        return doubt
    if 0 in axes and view.apart:
        if ctx.may_swallow and view.is_map and set(view.spatial) <= set(axes):
            return _statistic(ctx, view, axes, keepdims)
        if list(axes) == [0] and (stacked := _of_stack(ctx, view, keepdims)) is not None:
            return stacked
        return ctx.refuse("mixes-batch", "reduces over the batch")
    if all(pure(view.groups[axis]) for axis in axes):
        ctx.keep()
        return [replace(item, groups=left_of(view, axes, keepdims)) for item in ctx.same() if isinstance(item, Placed)]
    if view.is_folded:
        return reduce_places(ctx, axes) or folded_as_context(ctx, view, axes)
    if view.is_strip:
        unclear = weighs(ctx, view.provenance, [axis for axis in axes if axis in view.spatial]) is None
        return weighed_apart(ctx) if unclear else strip(ctx, view, axes, keepdims)
    return _of_map(ctx, view, axes, keepdims)


def _of_list(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Outcome | None:
    """A kept figure of a list of places that says the same however long that is. None where something that works along
    the list stands ahead of it: shares of a longer one would be smaller."""
    own = Gathered.joined(part.provenance.blames for part in view.parts)
    along = any(item.cause is Cause.CONTEXT and item not in own for item in view.provenance.blames)
    kept = ctx.state.global_pool == "keep" and ctx.role == "head" and view.is_list and ctx.op_type in _ALIKE
    if not kept or along:
        return None
    made = whole_image(ctx, view, axes, bool(ctx.attrs.get("keepdims", 1)))
    return made if isinstance(made, Refusal) else [made]


def _doubt(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Refusal | None:
    """Why a reduction over places cannot be told: of shares of the image, not of a window's own, that were changed."""
    of_windows = ctx.per_window and ctx.state.global_pool != "keep"
    if of_windows or not places_in([view.groups[axis] for axis in axes]):
        return None
    return in_part(ctx, [side.provenance for side in view.sides], view.tensor, axes)


def _of_map(ctx: RuleContext, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A reduction over all spatial axes is a global pool."""
    spatial = set(axes) & set(view.spatial)
    if ctx.weighs_image(view):
        return weighed_apart(ctx) if ctx.per_window else strip(ctx, view, axes, keepdims)
    weighed = weighs(ctx, view.provenance, sorted(spatial))
    if weighed is None:
        return weighed_apart(ctx)
    if weighed:
        return strip(ctx, view, axes, keepdims)
    if spatial == set(view.spatial) == set(axes) and ctx.op_type in KINDS:
        return global_pool(ctx, view, KINDS[ctx.op_type], keepdims)
    if spatial == set(view.spatial) and not view.provenance.windows:
        return _statistic(ctx, view, axes, keepdims)
    if view.provenance.windows and set(view.extent) == {1}:
        return reduce_features(ctx)
    if spatial == set(axes) and ctx.op_type in PARTIAL:
        return partial_pool(ctx, view, axes, keepdims)
    if (ctx.role == "context" or ctx.state.global_pool == "keep") and spatial != set(view.spatial):
        return strip(ctx, view, axes, keepdims)
    return _of_some(ctx, view, axes, keepdims)


def _of_some(ctx: RuleContext, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """Of a head, over some of its places."""
    spatial = set(axes) & set(view.spatial)
    if ctx.op_type in PARTIAL and spatial:
        return _of_both(ctx, view, axes, keepdims)
    if ctx.role != "context" and spatial and ctx.state.global_pool == "window":
        return reduce_features(ctx)
    return ctx.refuse("unsupported-reduction", f"reduces over axes {axes} of a map")


def _of_both(ctx: RuleContext, view: Placed, axes: Sequence[int], keepdims: bool) -> Outcome:
    """Over channels first, then over one axis of the image."""
    beside = [axis for axis in axes if axis not in view.spatial]
    made = ops.reduce(ctx.builder, ctx.op_type, view.tensor, beside, keepdims)
    begun = replace(view.provenance, windows=view.provenance.windows or frozenset({boundary(ctx, view)}))
    left = replace(view, tensor=made, groups=left_of(view, beside, keepdims), moved_by=None, provenance=begun)
    spatial = [axis if keepdims else axis - sum(k < axis for k in beside) for axis in axes if axis in view.spatial]
    return partial_pool(ctx, left, spatial, keepdims)


def reduced_axes(ctx: RuleContext, rank: int) -> list[int] | None:
    """Reduced axes; all where none are given (unless ``noop_with_empty_axes``)."""
    axes = axes_of(ctx, 1, rank)
    if axes is None and ctx.has_input(1):
        return None
    if not axes:
        return [] if ctx.attrs.get("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axes)


def _statistic(ctx: RuleContext, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A figure of the whole map, its channels too: of each window, or of the image where it meets its trunk again or
    the option keeps it global."""
    if ctx.role != "context" and ctx.state.global_pool != "keep":
        return reduce_features(ctx)
    made = whole_image(ctx, view, axes, keepdims)
    return made if isinstance(made, Refusal) else [made]


@rule(*REDUCTIONS, on=FEATURES, attributes=("axes", "keepdims", "noop_with_empty_axes"))
def reduce_window(ctx: RuleContext) -> Outcome:
    """Reduce over all places of a window is a global pool spelled by Reshape; over other features it is each cell's."""
    view = ctx.views[0]
    if not isinstance(view, Window):
        return reduce_features(ctx)
    axes = reduced_axes(ctx, view.index.ndim + 1)
    if axes and ctx.swallowed:  # all axes, of one image that has no batch
        axes = [axis for axis in axes if axis]
    inner = None if not axes or 0 in axes else [axis - 1 for axis in axes]
    rows = None if inner is None or ctx.role == "context" else rows_of_weights(ctx, view, inner)
    if rows is not None:
        return [rows]
    channels = None if inner is None else whole_channels(view, inner)
    if channels is None:
        return reduce_features(ctx)
    if channels.shape[-1] == 1 and ctx.op_type in KINDS:
        return _pool_of_window(ctx, view, channels)
    if ctx.role == "context" or (ctx.state.global_pool == "keep" and view.trunk is not None):
        return window_as_context(ctx, view, channels)
    return reduce_features(ctx)


def _pool_of_window(ctx: RuleContext, view: Window, channels: Index) -> Outcome:
    """The pool by the option; ``channels`` says which channel each remaining feature is."""
    kind, source, features, batch = KINDS[ctx.op_type], view.sources[0], ctx.shape_out()[1:], ctx.batch_axis_out()
    provenance = view.provenance.behind(ctx.name)
    spelled = f"{ctx.op_type} {'x'.join(map(str, source.extent))}"
    if weighs(ctx, view.provenance, ()) is None:
        return weighed_apart(ctx)
    keeps, every = ctx.state.global_pool == "keep", np.array_equal(channels.ravel(), np.arange(source.channels))
    pools = kind in {"Average", "Max"} and ctx.builder.spec(source.tensor).dtype in FLOATS
    if ctx.role == "context" or (keeps and not (pools and every and view.trunk is not None)):
        return window_as_context(ctx, view, channels)
    if keeps:
        vector = ctx.builder.emit(f"Global{kind}Pool", [source.tensor], instead=ctx.node)
        ops.reshape(ctx.builder, vector, [0, *features] if batch == 0 else features, ctx.node.output[0])
        ctx.replaced(spelled, "kept global")
        return [of_image(ctx, provenance)]
    if ctx.state.global_pool == "drop":
        if kind != "Average" or view.trunk is None:
            return ctx.refuse("drop-not-affine", "is no average: its map has no scores", "use --global-pool window")
        if any(set(item.step) != {1} for item in provenance.windows):
            why = "averages blocks of places, not the places of one map, as the scores of a map are"
            return ctx.refuse("drop-not-affine", why, "use --global-pool window")
        tensor, provenance = source.tensor, replace(provenance, fields=view.trunk.fields, dropped=True)
        ctx.replaced(spelled, "no pool")
    else:
        tensor = window_pool(ctx, source.tensor, source.extent, kind)
        ctx.replaced(spelled, f"{pool_name(kind)} {'x'.join(map(str, source.extent))}, stride 1")
    pooled = Source.of_cells(tensor, source.channels, len(source.extent))
    return [simplest(ctx, Window((pooled,), channels.reshape(features), provenance, batch_axis=batch))]


def reduce_features(ctx: RuleContext) -> Outcome:
    """Over features, cell by cell."""
    view = ctx.views[0]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    axes = reduced_axes(ctx, len(scores.features) + 1)
    if axes is None:
        return ctx.refuse("unknown-axes", "takes axes that are not constant")
    batch_axis = scores.batch_axis or 0
    provenance = trace_summed(ctx, scores.provenance)
    scores = replace(scores, provenance=provenance)
    if batch_axis in axes and (batch_axis or ctx.free_batch):
        return ctx.refuse("mixes-batch", "reduces over the batch")
    if not axes:
        ctx.keep([scores.tensor, *ctx.tensors_from(1)])
        return [replace(scores, tensor=ctx.node.output[0])]
    if batch_axis in axes:
        return _over_images(ctx, scores, axes)
    keepdims, own = bool(ctx.attrs.get("keepdims", 1)), [beside_batch(axis, batch_axis) for axis in axes]
    ops.reduce(ctx.builder, ctx.op_type, scores.tensor, own, keepdims, ctx.node.output[0], ctx.node)
    if not batch_axis:
        return ctx.score_maps(scores.provenance)
    batch_axis -= 0 if keepdims else sum(axis < batch_axis for axis in axes)
    return [around_batch(ctx, scores.provenance, batch_axis)]


def _over_images(ctx: RuleContext, scores: ScoreMap, axes: Sequence[int]) -> Outcome:
    """Over a fixed number of images, as frames are summed up; one is left in the new graph."""
    made = ops.reduce(ctx.builder, ctx.op_type, scores.tensor, axes, keepdims=True, instead=ctx.node)
    features = ctx.native(ctx.node.output[0]).native
    if ctx.attrs.get("keepdims", 1) and not ctx.swallowed:
        return [replace(scores, tensor=made, features=features[1:])]
    if not ctx.attrs.get("keepdims", 1) and len(axes) > 1:
        made = ops.squeeze(ctx.builder, made, [axis for axis in axes if axis])
    return [replace(scores, tensor=made, features=features, batch_axis=None)]
