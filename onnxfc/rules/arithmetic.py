"""Operators that broadcast their inputs against each other: Add, Mul, Max, Where, PRelu ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.graph import label
from onnxfc.lift import beside_windows, lies_on, lift_fixed, meet, to_scores, to_window, uniform
from onnxfc.normalised import SOFTMAX
from onnxfc.regroup import groups_of
from onnxfc.rules.deviation import deviates, mean_of, weighed_deviation
from onnxfc.rules.elementwise import BROADCAST
from onnxfc.rules.fc import take_bias
from onnxfc.rules.table import rule
from onnxfc.rules.tables import summed_by
from onnxfc.site import Outcome, Site, extent_of, tensor_of
from onnxfc.specs import Array
from onnxfc.views import Context, Fixed, Map, ScoreMap, Trace, View, Window


@rule(*BROADCAST, on=Map, attributes=("direction", "fmod"))
def on_maps(site: Site) -> Outcome:
    """Maps that lie on each other, with constants and context spread over them."""
    maps = [view for view in site.views if isinstance(view, Map)]
    rank = len(site.shape_out())
    big = max(maps, key=lambda view: (len(site.native(view.original).native), extent_of(site, view)))
    spatial = _from_right(site, big)
    if any(_from_right(site, view) != spatial for view in maps) or len(site.native(big.original).native) != rank:
        return site.refuse("axes-differ", "combines maps whose spatial axes do not lie on each other")
    small = [view for view in maps if extent_of(site, view) != extent_of(site, big)]
    if small:
        return _rejoin(site, big, small)
    if any(site.shape_out()[axis] != extent for axis, extent in zip(big.spatial, extent_of(site, big), strict=True)):
        return _rejoin(site, big, maps)  # a constant spreads it
    context = [view for view in site.views if isinstance(view, Context)]
    apart = {view for view in context if weighed_deviation(site, view, groups_of(site, big))}
    pools = {view: frozenset[str]() if view in apart else view.trace.pools for view in context}
    beside = [replace(view.trace, fields=big.trace.fields, pools=pools[view]) for view in context]
    trace = Trace.join([*(view.trace for view in maps), *beside])
    if trace is None:
        return site.refuse("grids-differ", "combines maps of different stride")
    inputs = []
    for position in range(len(site.views)):
        tensor = places_alike(site, position, spatial)
        if tensor is None and lies_on(site, position, big):
            tensor = tensor_of(site.views[position] or big)
            trace = trace.tainted(site.taint("context"))
        if tensor is None:
            return _row_of_weights(site, big) or _positional(site, position)
        inputs.append(tensor)
    if any(site.follows_size(position) for position in range(len(site.views))):
        trace = trace.tainted(site.taint("context"))  # a count of the pixels, say
    refusal = beside_windows(site) if any(view.trace.windows for view in maps) else None
    if refusal is not None:
        return refusal
    _gates(site, maps)
    own = mean_of(site, big) if deviates(site, big) else None
    for view in site.views:
        if isinstance(view, Context):
            # a head's deviations have a mean of their own
            if own not in site.state.guessed and view not in apart:
                site.turns_out(view.trace, "context")
            trace = trace.tainted(site.taint("context"))
    site.keep(inputs)
    return site.maps(trace, big.spatial)


def _gates(site: Site, maps: Sequence[Map]) -> None:
    """What weighed the places of the image against each other for some of the maps turns out to be context."""
    trunk = [view.trace for view in maps if not view.trace.windows and len(view.spatial) == site.state.rank]
    common = frozenset.intersection(*(trace.pools for trace in trunk)) if trunk else frozenset()
    for trace in trunk:
        site.turns_out(replace(trace, pools=trace.pools - common), "context")


def _from_right(site: Site, view: Map) -> tuple[int, ...]:
    """Spatial axes counted from the last, as broadcasting aligns them."""
    return tuple(axis - len(site.native(view.original).native) for axis in view.spatial)


def _rejoin(site: Site, big: Map, small: Sequence[Map]) -> Outcome:
    """A pooled map meets a larger one: the pool is context (squeeze-and-excitation)."""
    if any(not view.trace.pools and not view.trace.windows for view in small):
        return site.refuse("sizes-differ", "spreads a map of native extent 1 over a larger one")
    if deviates(site, big):
        outcome = on_scores(site)
        if isinstance(outcome, list):
            return outcome
    return site.rejoins(small, big.tensor) or site.maps(big.trace, big.spatial)


def places_alike(site: Site, position: int, spatial: Sequence[int]) -> str | None:
    """The input as it is, or one value of it for all places; None where places have their own."""
    view = site.views[position]
    if not isinstance(view, Fixed | Context):
        return "" if view is None else tensor_of(view)
    spec = site.draft.spec(view.tensor) if isinstance(view, Context) else site.native(site.node.input[position])
    shape = spec.native  # context may have been spread over the native size: that is left to broadcasting
    if isinstance(view, Fixed) and site.free_batch:
        spatial = (*spatial, -len(site.shape_out()))
    own = [axis for axis in spatial if len(shape) + axis >= 0 and shape[len(shape) + axis] != 1]
    return view.tensor if not own else uniform(site, position, own) if isinstance(view, Fixed) else None


def _row_of_weights(site: Site, view: Map) -> Outcome | None:
    """A table times a map whose places are then summed up: weights of each window's features."""
    alone = site.op_type in {"Div", "Mul"} and sum(isinstance(other, Map) for other in site.views) == 1
    kinds = summed_by(site, groups_of(site, view)) if alone and not view.trace.windows else None
    if kinds is None:
        return None
    site.state.because[site.label] = _positional(site, 1 - site.views.index(view))
    site.views = tuple(to_window(site, other) if isinstance(other, Map) else other for other in site.views)
    return on_scores(site) if "GlobalAveragePool" in kinds else on_windows(site)


def _positional(site: Site, position: int) -> Refusal:
    return site.refuse(
        "position-table",
        f"combines the map with {site.node.input[position]}, which has a value for every place of the native size",
        "such a table has no values for other sizes",
    )


@rule(*BROADCAST, on=Window, attributes=("direction", "fmod"))
def on_windows(site: Site) -> Outcome:
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


@rule(*BROADCAST, on=ScoreMap, attributes=("direction", "fmod"))
def on_scores(site: Site) -> Outcome:
    """Score maps cell by cell; fixed inputs get grid axes of extent 1."""
    refusal = beside_windows(site)
    if refusal is not None:
        return refusal
    lifted = [view for view in site.views if isinstance(view, ScoreMap | Window | Map)]
    scores = [to_scores_or_rejoin(site, view) for view in lifted]
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
        tensor_of(next(queue)) if isinstance(view, ScoreMap | Window | Map) else lift_fixed(site, position, grid)
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


def to_scores_or_rejoin(site: Site, view: View) -> ScoreMap | Outcome:
    """A lifted view as scores; a whole map beside pooled scores means that the pool was context."""
    if isinstance(view, Map) and not view.trace.windows and not deviates(site, view):
        return _scores_meet_map(site, view)
    return to_scores(site, view)


def _scores_meet_map(site: Site, view: Map) -> ScoreMap | Outcome:
    heads = {name for name, role in site.state.roles.items() if role == "head"}
    lifted = [other for other in site.views if isinstance(other, ScoreMap | Window)]
    softmaxes = {label(node) for node in site.state.graph.nodes if node.op_type in SOFTMAX}
    own = all(other.trace.pools - view.trace.pools <= heads for other in lifted)  # but for those of the trunk
    if own and any(other.trace.pools & softmaxes for other in lifted):
        return to_scores(site, view)  # weights of each window and the window's own features
    pooled = [other for other in site.views if isinstance(other, ScoreMap | Window)]
    return site.rejoins(pooled, view.tensor) or site.maps(view.trace, view.spatial)
