"""Softmax and BatchNormalization in the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.axes import pure
from onnxfc.lift import to_scores
from onnxfc.op_kinds import SOFTMAX, axes_along
from onnxfc.rules.arithmetic import affine
from onnxfc.rules.places import over_places
from onnxfc.rules.table import FEATURES, PLACED, rule
from onnxfc.site import Outcome, Site
from onnxfc.views import Fixed, Placed, ScoreMap, View, Window

_BATCH_NORM = ("epsilon", "momentum", "spatial", "training_mode")


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
    tensor = emit.transpose(draft, scores.tensor, ahead)
    tensor = draft.emit(site.op_type, [tensor], axis=axis + len(grid), instead=site.node)
    back = [int(place) for place in np.argsort(ahead)]
    emit.transpose(draft, tensor, back, site.node.output[0])
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
    tensor = emit.transpose(site.draft, view.tensor, ahead)
    tensor = site.draft.emit(site.op_type, [tensor], axis=rank - 1, instead=site.node)
    emit.transpose(site.draft, tensor, [int(place) for place in np.argsort(ahead)], site.node.output[0])
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


@rule("BatchNormalization", on=FEATURES, attributes=_BATCH_NORM)
def batch_normalization_features(site: Site) -> Outcome:
    """A scale and a shift per feature (axis 1): pending in a window, as it is on scores."""
    if site.attrs.get("training_mode", 0) or any(site.output_used(k) for k in range(1, len(site.node.output))):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if any(not isinstance(view, Fixed) for view in site.views[1:]):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    view = site.views[0]
    if isinstance(view, Window):
        pending = _pending(site, view)
        if pending is not None:
            return [pending]
    assert view is not None
    scores = to_scores(site, view)
    if not isinstance(scores, ScoreMap):
        return scores
    site.keep([scores.tensor, *site.tensors_from(1)])
    return site.score_maps(scores.trace)


def _pending(site: Site, view: Window) -> View | None:
    """gamma * (x - mean) / sqrt(var + eps) + beta as one scale and shift, in float64."""
    found = [site.weights(name) for name in site.node.input[1:5]]
    if any(value is None for value in found) or view.batch_axis:
        return None
    gamma, beta, mean, var = (np.asarray(value, np.float64) for value in found)
    scale = gamma / np.sqrt(var + float(site.attrs.get("epsilon", 1e-5)))
    shape = (-1,) + (1,) * (view.index.ndim - 1)
    scales, shifts = (np.broadcast_to(value.reshape(shape), view.index.shape) for value in (scale, beta - mean * scale))
    return affine(view, scales, shifts)
