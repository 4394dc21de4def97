"""Operators that broadcast, on features of windows: cell by cell, or pending for the FC layer that absorbs them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.lift import beside_windows, lift_fixed, meet, to_scores
from onnxfc.op_kinds import BROADCAST
from onnxfc.rules.fc import take_bias
from onnxfc.rules.table import FEATURES, rule
from onnxfc.site import Outcome, Site, tensor_of
from onnxfc.specs import Array
from onnxfc.views import Fixed, Placed, ScoreMap, Trace, Window, is_map


@rule(*BROADCAST, on=FEATURES, attributes=("direction", "fmod"))
def on_features(site: Site) -> Outcome:
    """A constant per feature stays pending, for the FC layer that absorbs it; all else needs the scores."""
    return _pending(site) or on_scores(site)


def _pending(site: Site) -> Outcome | None:
    if site.op_type not in {"Add", "Sub", "Mul", "Div"}:
        return None
    at = 1 if site.op_type in {"Add", "Mul"} and isinstance(site.views[0], Fixed) else 0
    view, fixed = site.views[at], site.views[1 - at]
    if not isinstance(view, Window):
        return None
    other = site.weights(site.node.input[1 - at]) if isinstance(fixed, Fixed) else None
    if other is None or not _per_feature(other, view, len(site.shape_out())):
        return None
    if not np.issubdtype(other.dtype, np.floating) and other.dtype.kind != "V":
        return None
    operand = np.broadcast_to(_without_batch(other, view.index.ndim), view.index.shape).astype(np.float64)
    return [affine(view, *_as_affine(site.op_type, operand))]


def _per_feature(value: Array, view: Window, rank: int) -> bool:
    """Whether the constant broadcasts over the batch, to features of the window's own shape."""
    if rank != view.index.ndim + 1 or value.ndim > rank or (value.ndim == rank and value.shape[0] != 1):
        return False
    shape = _without_batch(value, view.index.ndim).shape
    return all(have in (1, want) for have, want in zip(shape[::-1], view.index.shape[::-1], strict=False))


def _without_batch(value: Array, features: int) -> Array:
    return value[0] if value.ndim == features + 1 else value


def _as_affine(op_type: str, operand: Array) -> tuple[Array | None, Array | None]:
    if op_type in {"Add", "Sub"}:
        return None, operand if op_type == "Add" else -operand
    return (operand if op_type == "Mul" else 1.0 / operand), None


def affine(view: Window, scale: Array | None, shift: Array | None) -> Window:
    """The window followed by x * scale + shift, of the index's shape, in float64."""
    if scale is not None:
        view = replace(
            view,
            scale=scale if view.scale is None else view.scale * scale,
            shift=None if view.shift is None else view.shift * scale,
        )
    if shift is not None:
        view = replace(view, shift=shift if view.shift is None else view.shift + shift)
    return view


def on_scores(site: Site) -> Outcome:
    """Score maps cell by cell; fixed inputs get grid axes of extent 1."""
    refusal = beside_windows(site)
    if refusal is not None:
        return refusal
    lifted = [view for view in site.views if isinstance(view, ScoreMap | Window | Placed)]
    if not site.own and any(is_map(view) and not view.trace.windows for view in lifted):
        return site.rejoins()
    scores = [to_scores(site, view) for view in lifted]
    for score in scores:
        if not isinstance(score, ScoreMap):
            return score
    met = meet(site, [score for score in scores if isinstance(score, ScoreMap)])
    if isinstance(met, Refusal):
        return met
    found = [_of_rank(site, score) for score in met if isinstance(score, ScoreMap)]
    if any(score.batch_axis or 1 + len(score.features) != len(site.shape_out()) for score in found):
        return site.refuse("mixes-batch", "broadcasts the batch against other axes")
    trace = Trace.join([score.trace for score in found])
    assert trace is not None
    queue = iter(found)
    grid = len(trace.fields)
    inputs = [
        tensor_of(next(queue)) if isinstance(view, ScoreMap | Window | Placed) else lift_fixed(site, position, grid)
        for position, view in enumerate(site.views)
    ]
    inputs = _biased(site, inputs) or _written(site, inputs)
    return [ScoreMap(inputs[0], site.shape_out()[1:], trace, site.batch_axis_out())]


def _of_rank(site: Site, score: ScoreMap) -> ScoreMap:
    """A score map with the axes that a constant of higher rank puts ahead of it, where the batch is 1 for good."""
    missing = len(site.shape_out()) - 1 - len(score.features)
    if missing <= 0 or score.batch_axis or not site.may_swallow:
        return score
    tensor = emit.unsqueeze(site.draft, score.tensor, range(1, 1 + missing))
    return replace(score, tensor=tensor, features=(1,) * missing + score.features)


def _written(site: Site, inputs: list[str]) -> list[str]:
    site.keep(inputs)
    return [site.node.output[0]]


def _biased(site: Site, inputs: list[str]) -> list[str] | None:
    """MatMul + Add is one FC layer: the Conv just written for the MatMul takes the constant as its bias."""
    if site.op_type != "Add" or len(inputs) != 2:
        return None
    for position in (0, 1):
        other = site.node.input[1 - position]
        own = inputs[position] == site.node.input[position]  # not another name of what others read too
        fixed = isinstance(site.views[1 - position], Fixed)
        if own and fixed and site.state.graph.uses[site.node.input[position]] == 1:
            made = take_bias(site, inputs[position], other, site.node.output[0])
            if made:
                return [made]
    return None
