"""Softmax and its kin: over channels, over places, over scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product, takewhile

import numpy as np
import onnx

from onnxfc.analysis.normalised_sums import in_doubt
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.op_kinds import SOFTMAX, axes_along
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import kinds, pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed, ScoreMap
from onnxfc.rules.registry import FEATURES, PLACED, rule


def over_places(ctx: RuleContext, axes: Sequence[int]) -> Outcome | None:
    """Softmax along places: weights that sum up to 1 over the image, whatever its size.

    None where each window has its own.
    """
    view = ctx.views[0]
    assert isinstance(view, Placed)
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    sides = {atom.side for atom in atoms if atom.kind == "space"}
    if ctx.per_window or ctx.op_type == "LpNormalization" or any(atom.kind == "batch" for atom in atoms):
        return None
    if parts := _taken_apart(ctx, view, axes):
        why = f"relates places that lie {' x '.join(map(str, parts))} apart"
        return ctx.refuse(
            "size-locked", f"{why}, and nothing tells whether their number grows or their distance", _OPEN
        )
    if len(sides) > 1:
        return None  # rows and columns of what relates places, together
    ctx.keep()
    shares = frozenset((ctx.name, atom.place) for atom in atoms if atom.kind == "space")
    shares = in_doubt(shares) if ctx.op_type == "LogSoftmax" else shares  # until they are raised again

    def marked(side: int, own: Provenance) -> Provenance:
        shared = replace(own, sums_to_one=own.sums_to_one | (shares if side in sides else frozenset()))
        return shared.blamed(ctx.blame(Cause.CONTEXT))

    return [view.output(ctx.node.output[0]).each_side(marked)]


def _taken_apart(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> list[int]:
    """How far apart the places on these axes were taken of a map, where those between them lie on other axes, or on the
    batch's: MaxViT's grid of a fixed number of places looks so, and so do blocks of a fixed size. Empty elsewhere."""
    found = _laid_onto_batch(ctx, view, axes)
    beside = (group for axis, group in enumerate(view.groups) if axis not in axes)
    within = [atom.length for group in beside for atom in group if atom.within]
    related = any(atom.kind == "space" for axis in axes for atom in view.groups[axis])
    return found or (within if related else [])


def _laid_onto_batch(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> list[int]:
    """The same, where a node lays those between them onto the batch's axis."""
    if not any(kinds(group) == ["batch", "channel"] for group in view.groups):
        return []
    places = sorted({atom.place for axis in axes for atom in view.groups[axis] if atom.kind == "space"})
    reshapes = [node for node in ctx.state.graph.live if node.op_type == "Reshape"]
    for parts, between in product([_split(ctx, node) for node in reshapes], [_onto_batch(ctx, n) for n in reshapes]):
        apart = [parts.get(place, 0) for place in places]
        if apart and Counter(apart) <= Counter(between):
            return apart
    return []


def _onto_batch(ctx: RuleContext, node: onnx.NodeProto) -> list[int]:
    """The axes right behind the batch's that a node lays onto that."""
    before, after = (ctx.state.views.get(name) for name in (node.input[0], node.output[0]))
    if not isinstance(before, Placed) or not isinstance(after, Placed):
        return []
    if kinds(before.groups[0]) != ["batch"] or kinds(after.groups[0]) != ["batch", "channel"]:
        return []
    return [group[0].length for group in takewhile(lambda group: kinds(group) == ["channel"], before.groups[1:])]


def _split(ctx: RuleContext, node: onnx.NodeProto) -> dict[int, int]:
    """The places that a node takes apart, each with how many lie together then."""
    views = [ctx.state.views.get(name) for name in (node.input[0], node.output[0])]
    before, after = ([a for group in view.groups for a in group] if isinstance(view, Placed) else [] for view in views)
    pairs = [(one, two.length) for one, two in pairwise(after) if (one.kind, two.kind) == ("space", "channel")]
    whole = {(atom.place, atom.length) for atom in before if atom.kind == "space"}
    return {one.place: length for one, length in pairs if length > 1 and (one.place, one.length * length) in whole}


_OPEN = "export it with open height and width, so that the sizes are computed"


@rule(*SOFTMAX, on=FEATURES, attributes=("axis",))
def softmax_scores(ctx: RuleContext) -> Outcome:
    """Softmax over features is Softmax in each cell. Before opset 13 all axes from ``axis`` on are normalised together.

    https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    view = ctx.views[0]
    assert view is not None
    scores = to_scores(ctx, view)
    if not isinstance(scores, ScoreMap):
        return scores
    axes = axes_along(ctx.op_type, ctx.attrs, len(scores.features) + 1, ctx.opset)
    axis = axes[0]
    if axis == 0 or scores.batch_axis:
        return ctx.refuse("mixes-batch", "normalises over the batch")
    if ctx.opset < 13:
        return _grid_first(ctx, scores, axis)
    ctx.keep([scores.tensor], axis=axis)
    return ctx.score_maps(scores.provenance)


def _grid_first(ctx: RuleContext, scores: ScoreMap, axis: int) -> Outcome:
    """With the grid before the features, flattening after ``axis`` leaves each cell to itself."""
    builder, grid, rank = ctx.builder, scores.grid, 1 + len(scores.features)
    ahead = [0, *grid, *range(1, rank)]
    tensor = ops.transpose(builder, scores.tensor, ahead)
    tensor = builder.emit(ctx.op_type, [tensor], axis=axis + len(grid), instead=ctx.node)
    back = [int(place) for place in np.argsort(ahead)]
    ops.transpose(builder, tensor, back, ctx.node.output[0])
    return ctx.score_maps(scores.provenance)


@rule(*SOFTMAX, on=PLACED, attributes=("axis",))
def softmax(ctx: RuleContext) -> Outcome | None:
    """Softmax over channels lies as the map does; over places it is weights of the whole image, or of each window."""
    view, rank, normalised = ctx.placed_in(), len(ctx.shape_in()), set(ctx.axes_along())
    axis = min(normalised)
    if 0 in normalised and not view.is_folded:
        return ctx.refuse("mixes-batch", "normalises over the batch")
    if all(pure(view.groups[k]) for k in normalised):
        ctx.keep(axis=axis)
        return ctx.same()
    if view.is_folded:
        return over_places(ctx, sorted(normalised))
    if view.is_strip:
        return _of_strip(ctx, axis)
    if normalised == set(view.spatial) and not view.provenance.windows and 1 not in view.extent:
        return softmax_scores(ctx) if ctx.per_window else over_places(ctx, sorted(normalised))
    pooled = set(view.extent) == {1} and view.channels_first and axis == 1
    if not pooled:
        return _of_some(ctx, view, axis)
    ahead = [0, *view.spatial, 1]
    tensor = ops.transpose(ctx.builder, view.tensor, ahead)
    tensor = ctx.builder.emit(ctx.op_type, [tensor], axis=rank - 1, instead=ctx.node)
    ops.transpose(ctx.builder, tensor, [int(place) for place in np.argsort(ahead)], ctx.node.output[0])
    return ctx.same()


def _of_some(ctx: RuleContext, view: Placed, axis: int) -> Outcome:
    """Over some axes of a map: a gate of the trunk, or of each window of a head."""
    if ctx.role == "context" and not view.provenance.windows and ctx.op_type != "LogSoftmax":
        return _over_space(ctx, axis)
    if ctx.role != "context" and ctx.state.global_pool == "window":
        return softmax_scores(ctx)
    return ctx.refuse("softmax-over-space", "normalises over the places of the native size")


def _of_strip(ctx: RuleContext, axis: int) -> Outcome:
    """Along what a pool over its other axis left of the image: shares of it, where no window has its own."""
    made = over_places(ctx, ctx.axes_along())
    return _over_space(ctx, axis) if made is None else made


def _over_space(ctx: RuleContext, axis: int) -> Outcome:
    """A gate that weighs the places of an axis against each other, and then meets its trunk again: context."""
    ctx.keep(axis=axis)
    provenance = ctx.placed_in().provenance.blamed(ctx.blame(Cause.CONTEXT))
    return ctx.same(provenance.behind(ctx.name))
