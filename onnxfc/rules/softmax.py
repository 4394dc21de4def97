"""Softmax and its kin: over channels, over places, over scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.graph.op_kinds import SOFTMAX, axes_along
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import pure
from onnxfc.layout.provenance import Share, Trace
from onnxfc.layout.views import Placed, ScoreMap
from onnxfc.rules.registry import FEATURES, PLACED, rule


def over_places(site: Site, axes: Sequence[int]) -> Outcome | None:
    """Softmax along places: weights that sum up to 1 over the image, whatever its size.

    None where each window has its own.
    """
    view = site.views[0]
    assert isinstance(view, Placed)
    atoms = [atom for axis in axes for atom in view.groups[axis]]
    sides = {atom.side for atom in atoms if atom.kind == "space"}
    if (
        site.per_window
        or site.op_type in {"LogSoftmax", "LpNormalization"}
        or any(atom.kind == "batch" for atom in atoms)
    ):
        return None
    if len(sides) > 1:
        return None  # rows and columns of what relates places, together
    site.keep()
    shares = frozenset((site.name, atom.place) for atom in atoms if atom.kind == "space")
    made = replace(view, tensor=site.node.output[0], moved_by=None)
    return [_marked(made, site, dict.fromkeys(sides, shares))]


def _marked(view: Placed, site: Site, shares: dict[int, frozenset[Share]]) -> Placed:
    """Tainted, with shares along the places of each side."""

    def marked(trace: Trace, side: int) -> Trace:
        trace = replace(trace, shares=trace.shares | shares.get(side, frozenset()))
        return trace.tainted(site.taint("context"))

    other = view.other and replace(view.other, trace=marked(view.other.trace, 1))
    return replace(view, trace=marked(view.trace, 0), other=other)


@rule(*SOFTMAX, on=FEATURES, attributes=("axis",))
def softmax_scores(site: Site) -> Outcome:
    """Over features, cell by cell. Before opset 13 all axes from ``axis`` on are normalised together.

    https://onnx.ai/onnx/operators/onnx__Softmax.html
    """
    view = site.views[0]
    assert view is not None
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    axes = axes_along(site.op_type, site.attrs, len(scores.features) + 1, site.opset)
    axis = axes[0]
    if axis == 0 or scores.batch_axis:
        return site.refuse("mixes-batch", "normalises over the batch")
    if site.opset < 13:
        return _grid_first(site, scores, axis)
    site.keep([scores.tensor], axis=axis)
    return site.score_maps(scores.trace)


def _grid_first(site: Site, scores: ScoreMap, axis: int) -> Outcome:
    """With the grid before the features, flattening after ``axis`` leaves each cell to itself."""
    draft, grid, rank = site.draft, scores.grid, 1 + len(scores.features)
    ahead = [0, *grid, *range(1, rank)]
    tensor = ops.transpose(draft, scores.tensor, ahead)
    tensor = draft.emit(site.op_type, [tensor], axis=axis + len(grid), instead=site.node)
    back = [int(place) for place in np.argsort(ahead)]
    ops.transpose(draft, tensor, back, site.node.output[0])
    return site.score_maps(scores.trace)


@rule(*SOFTMAX, on=PLACED, attributes=("axis",))
def softmax(site: Site) -> Outcome | None:
    """Over the channels of each place; over places they are weights of the whole image, or of each window."""
    view, rank, normalised = site.placed_in(), len(site.shape_in()), set(site.axes_along())
    axis = min(normalised)
    if 0 in normalised and not view.is_folded:
        return site.refuse("mixes-batch", "normalises over the batch")
    if all(pure(view.groups[k]) for k in normalised):
        site.keep(axis=axis)
        return site.same()
    if view.is_folded:
        return over_places(site, sorted(normalised))
    if view.is_strip:
        return _over_space(site, axis)
    whole = normalised == set(view.spatial) and site.op_type != "LogSoftmax"
    if whole and not view.trace.windows and 1 not in view.extent:
        return softmax_scores(site) if site.per_window else _over_places(site, view)
    pooled = set(view.extent) == {1} and view.channels_first and axis == 1
    if not pooled and site.role == "context" and not view.trace.windows and site.op_type != "LogSoftmax":
        return _over_space(site, axis)
    if not pooled:
        return site.refuse("softmax-over-space", "normalises over the places of the native size")
    ahead = [0, *view.spatial, 1]
    tensor = ops.transpose(site.draft, view.tensor, ahead)
    tensor = site.draft.emit(site.op_type, [tensor], axis=rank - 1, instead=site.node)
    ops.transpose(site.draft, tensor, [int(place) for place in np.argsort(ahead)], site.node.output[0])
    return site.same()


def _over_places(site: Site, view: Placed) -> Outcome:
    """Weights that sum up to 1 over all places of the image: context."""
    site.keep()
    along = frozenset((site.name, place) for place in view.where)
    trace = view.trace.tainted(site.taint("context"))
    return site.same(replace(trace, shares=trace.shares | along))


def _over_space(site: Site, axis: int) -> Outcome:
    """A gate that weighs the places of an axis against each other, and then meets its trunk again: context."""
    site.keep(axis=axis)
    trace = site.placed_in().trace.tainted(site.taint("context"))
    return site.same(replace(trace, pools=trace.pools | {site.name}))
