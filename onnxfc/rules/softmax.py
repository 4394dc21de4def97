"""Softmax and its kin: over channels, over places, over scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.op_kinds import SOFTMAX, axes_along
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import pure
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
    if (
        ctx.per_window
        or ctx.op_type in {"LogSoftmax", "LpNormalization"}
        or any(atom.kind == "batch" for atom in atoms)
    ):
        return None
    if len(sides) > 1:
        return None  # rows and columns of what relates places, together
    ctx.keep()
    shares = frozenset((ctx.name, atom.place) for atom in atoms if atom.kind == "space")

    def marked(side: int, own: Provenance) -> Provenance:
        shared = replace(own, sums_to_one=own.sums_to_one | (shares if side in sides else frozenset()))
        return shared.blamed(ctx.blame(Cause.CONTEXT))

    return [view.output(ctx.node.output[0]).each_side(marked)]


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
        return _over_space(ctx, axis)
    whole = normalised == set(view.spatial) and ctx.op_type != "LogSoftmax"
    if whole and not view.provenance.windows and 1 not in view.extent:
        return softmax_scores(ctx) if ctx.per_window else over_places(ctx, sorted(normalised))
    pooled = set(view.extent) == {1} and view.channels_first and axis == 1
    if not pooled and ctx.role == "context" and not view.provenance.windows and ctx.op_type != "LogSoftmax":
        return _over_space(ctx, axis)
    if not pooled:
        return ctx.refuse("softmax-over-space", "normalises over the places of the native size")
    ahead = [0, *view.spatial, 1]
    tensor = ops.transpose(ctx.builder, view.tensor, ahead)
    tensor = ctx.builder.emit(ctx.op_type, [tensor], axis=rank - 1, instead=ctx.node)
    ops.transpose(ctx.builder, tensor, [int(place) for place in np.argsort(ahead)], ctx.node.output[0])
    return ctx.same()


def _over_space(ctx: RuleContext, axis: int) -> Outcome:
    """A gate that weighs the places of an axis against each other, and then meets its trunk again: context."""
    ctx.keep(axis=axis)
    provenance = ctx.placed_in().provenance.blamed(ctx.blame(Cause.CONTEXT))
    return ctx.same(provenance.behind(ctx.name))
