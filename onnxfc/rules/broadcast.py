"""Operators that broadcast their inputs against each other: Add, Mul, Max, Where, PRelu ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.analysis.table_sums import summed_by
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site, tensor_of
from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import BROADCAST
from onnxfc.head.fc_to_conv import take_bias
from onnxfc.head.meet_grids import beside_windows, lies_on, lift_fixed, meet, uniform
from onnxfc.head.windows import affine, to_scores, window_of_map
from onnxfc.layout.axes import Group, Groups, channels, kinds, places_in, pure
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, Window, is_map
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Array


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
    tensor = ops.unsqueeze(site.draft, score.tensor, range(1, 1 + missing))
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


PER_PLACE = "combines what relates the places with values for each place of the native size"
NO_VALUES = "such a table has no values for other sizes"


@rule(*BROADCAST, on=PLACED, attributes=("direction", "fmod"))
def broadcast(site: Site) -> Outcome | None:
    """Placed tensors that lie on each other, with constants and context spread over them."""
    placed = [view for view in site.views if isinstance(view, Placed)]
    pooled = _pooled_beside_map(site, placed)
    if pooled is not None:
        return pooled
    groups = _laid(site, placed)
    if groups is None:
        return _unlike(site, placed)
    trace = Trace.of_placed(placed)
    if trace is None:
        return None if any(view.is_folded for view in placed) else site.refuse(*GRIDS)
    inputs, everywhere = _inputs(site, placed, groups)
    if None in inputs:
        return _row_of_weights(site, placed) or _positional(site, placed, inputs.index(None))
    refusal = _beside_windows(site, placed)
    if refusal is not None:
        return refusal
    by_size = [position for position in range(len(site.views)) if site.follows_size(position)]
    trace = _with_context(site, trace, bool(by_size) or everywhere)
    site.keep([tensor for tensor in inputs if tensor is not None])
    made = _made(site, placed, groups, trace)
    return [_per_place(site, made, by_size[0]) if by_size and made.is_folded else made]


def _inputs(site: Site, placed: Sequence[Placed], groups: Groups) -> tuple[list[str | None], bool]:
    """The tensors, None where one has a value for every place; whether one has that at any size."""
    inputs, everywhere = [], False
    for position, view in enumerate(site.views):
        tensor = _spread(site, position, groups)
        if tensor is None and lies_on(site, position, groups, placed):
            assert isinstance(view, Fixed)
            tensor, everywhere = view.tensor, True
        inputs.append(tensor)
    return inputs, everywhere


def _beside_windows(site: Site, placed: Sequence[Placed]) -> Refusal | None:
    """What a pool of a head left may not meet context."""
    if not any(view.trace.windows for view in placed):
        return None
    if any(view.is_strip for view in placed):
        return site.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    return beside_windows(site)


GRIDS = ("grids-differ", "combines maps of different stride")
_APART = ("axes-differ", "combines maps whose spatial axes do not lie on each other")


def _laid(site: Site, placed: Sequence[Placed]) -> Groups | None:
    """The axes of the result; None where different ones lie on each other."""
    shape = site.shape_out()
    rows = [((),) * (len(shape) - len(view.groups)) + view.groups for view in placed]
    if any(len(row) != len(shape) for row in rows):
        return None
    found: list[Group] = []
    for axis, length in enumerate(shape):
        held = {row[axis] for row in rows if row[axis]}
        if len(held) > 1:
            return None
        found.append(held.pop() if held else channels(length))
    places = [(atom.side, atom.place) for atom in places_in(found)]
    whole = len(places) == len(set(places)) and _lengths_fit(found, site.shape_out())
    return tuple(found) if whole and not any(view.parts != placed[0].parts for view in placed) else None


def _lengths_fit(groups: Sequence[Group], shape: Sequence[int]) -> bool:
    """Whether nothing is spread over the places of the native size."""
    return all(math.prod(a.length for a in group) == length for group, length in zip(groups, shape, strict=True))


def _pooled_beside_map(site: Site, placed: Sequence[Placed]) -> Outcome | None:
    """A map of one place natively beside a larger one, or spread by a constant: a pool that meets its trunk again."""
    maps = [view for view in placed if view.is_map]
    if len(maps) < len(placed):
        return None
    big = max(maps, key=lambda view: (len(view.groups), view.extent))
    spatial = _from_right(big)
    if any(_from_right(view) != spatial for view in maps) or len(big.groups) != len(site.shape_out()):
        return site.refuse(*_APART)
    small = [view for view in maps if view.extent != big.extent]
    spread = any(site.shape_out()[axis] != length for axis, length in zip(big.spatial, big.extent, strict=True))
    return _meets(site, small or maps) if small or spread else None


def _from_right(view: Placed) -> tuple[int, ...]:
    """Spatial axes counted from the last, as broadcasting aligns them."""
    return tuple(axis - len(view.groups) for axis in view.spatial)


def _meets(site: Site, small: Sequence[Placed]) -> Outcome:
    """A pooled map meets a larger one: each window its own, or none may."""
    if any(not view.trace.windows for view in small):
        return site.refuse("sizes-differ", "spreads a map of native extent 1 over a larger one")
    return on_scores(site) if site.own else site.rejoins()


def _unlike(site: Site, placed: Sequence[Placed]) -> Refusal | None:
    """Axes that hold different things lie on each other."""
    if any(view.other for view in placed):
        return site.refuse("position-table", PER_PLACE, NO_VALUES)
    return None if any(view.is_folded for view in placed) else site.refuse(*_APART)


def _row_of_weights(site: Site, placed: Sequence[Placed]) -> Outcome | None:
    """A table times a map whose places are then summed up: weights of each window's features."""
    view = placed[0]
    alone = site.op_type in {"Div", "Mul"} and len(placed) == 1 and view.is_map and not view.trace.windows
    kinds = summed_by(site, view.groups) if alone else None
    if kinds is None:
        return None
    site.views = tuple(window_of_map(site, other) if is_map(other) else other for other in site.views)
    return on_scores(site) if "GlobalAveragePool" in kinds else on_features(site)


def _positional(site: Site, placed: Sequence[Placed], position: int) -> Refusal | None:
    if any(view.other for view in placed):
        return site.refuse("position-table", PER_PLACE, NO_VALUES)
    if any(view.is_folded for view in placed):
        return None
    why = f"combines the map with {site.node.input[position]}, which has a value for every place of the native size"
    return site.refuse("position-table", why, NO_VALUES)


def _spread(site: Site, position: int, groups: Groups) -> str | None:
    """The input as it is, or with one value for all places; None where it differs between places or images."""
    view = site.views[position]
    if not isinstance(view, Fixed | Context):
        return "" if view is None else tensor_of(view)
    shape = site.draft.spec(view.tensor).native if isinstance(view, Context) else site.shape_in(position)
    own = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and -axis <= len(groups)]
    if isinstance(view, Context):
        moving = [groups[axis] for axis in own if not pure(groups[axis])]
        return view.tensor if all(kinds(g)[0] == "batch" == kinds(g)[-1] for g in moving) else None
    one = {"channel"} if site.free_batch else {"batch", "channel"}
    return uniform(site, position, [axis for axis in own if not _only(groups[axis], one)])


def _only(group: Group, allowed: set[str]) -> bool:
    return pure(group) or (len(group) == 1 and group[0].kind in allowed)


def _with_context(site: Site, trace: Trace, by_size: bool) -> Trace:
    """The trace with what is context among the inputs."""
    context = [view.trace for view in site.views if isinstance(view, Context)]
    taints = Gathered.joined([trace.taints, *(item.taints for item in context)])
    trace = replace(trace, pools=trace.pools.union(*(item.pools for item in context)), taints=taints)
    return trace.tainted(site.taint("context")) if context or by_size else trace


def _made(site: Site, placed: Sequence[Placed], groups: Groups, trace: Trace) -> Placed:
    """The view of the output."""
    first = max(placed, key=lambda view: len(view.sides))
    name = site.node.output[0]
    made = Placed(name, name, groups, trace, parts=first.parts, other=first.other)
    if made.is_map:
        return made
    bounds: frozenset[Boundary] = frozenset().union(*(view.bounds for view in placed))
    return replace(made, measured=first.like, bounds=bounds)


def _per_place(site: Site, view: Placed, position: int) -> Placed:
    """Perhaps divided by how many places there are (where it relates places: how many columns)."""
    if not _divides_by_places(site, view.sides[-1].like, position):
        return view
    shares = frozenset((site.name, place) for place in range(site.state.rank))
    if view.other is None:
        return replace(view, trace=replace(view.trace, shares=shares))
    return replace(view, other=replace(view.other, trace=replace(view.other.trace, shares=shares)))


def _divides_by_places(site: Site, like: Placed, position: int) -> bool:
    """Whether a number that follows the image's size is that of the places of ``like``, at every size."""
    values = site.draft.spec(site.tensors()[position]).values or ()
    shapes = site.draft.spec(like.tensor).shapes or ()
    counts = [math.prod(shape[axis] for axis in like.spatial) for shape in shapes]
    if site.op_type not in {"Div", "Mul"} or len(values) != len(counts) or any(value.size != 1 for value in values):
        return False
    factors = [float(value.ravel()[0]) for value in values]
    parts = [f / n if site.op_type == "Div" else f * n for f, n in zip(factors, counts, strict=True)]
    return bool(np.allclose(parts, parts[0], rtol=1e-5))
