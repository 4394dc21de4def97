"""Operators that broadcast their inputs against each other: Add, Mul, Max, Where, PRelu ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.analysis.normalised_sums import in_doubt
from onnxfc.builder import ops
from onnxfc.builder.continued import continued, grid_blames
from onnxfc.builder.rule_context import Outcome, RuleContext, tensor_of
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Cause
from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import ADDITIVE, ARITHMETIC, BROADCAST, SCALING
from onnxfc.head.fc_to_conv import take_bias
from onnxfc.head.meet_grids import all_scores, around_batch, beside_windows, lies_on, lift_fixed, uniform
from onnxfc.head.placed_windows import beside_map
from onnxfc.head.windows import affine, window_of_map
from onnxfc.layout.axes import Group, Groups, channels, holds_images, kinds, lengths, places_in, pure
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.lists import Row, levels
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, Window, is_map, provenance_of_all
from onnxfc.rules.expand import of_one_place
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Array


@rule(*BROADCAST, on=FEATURES, attributes=("direction", "fmod"))
def on_features(ctx: RuleContext) -> Outcome:
    """(x + c) W is x W + c W: a constant per feature stays pending, for the FC layer that absorbs it.

    All else needs the scores, and works on them cell by cell.
    """
    return _pending(ctx) or on_scores(ctx)


def _pending(ctx: RuleContext) -> Outcome | None:
    if ctx.op_type not in ARITHMETIC:
        return None
    at = 1 if ctx.op_type in {"Add", "Mul"} and isinstance(ctx.views[0], Fixed) else 0
    view, fixed = ctx.views[at], ctx.views[1 - at]
    if not isinstance(view, Window):
        return None
    other = ctx.weights(ctx.node.input[1 - at]) if isinstance(fixed, Fixed) else None
    if other is None or not _per_feature(other, view, len(ctx.shape_out())):
        return None
    if not np.issubdtype(other.dtype, np.floating) and other.dtype.kind != "V":
        return None
    operand = np.broadcast_to(_without_batch(other, view.index.ndim), view.index.shape).astype(np.float64)
    return [affine(view, *_as_affine(ctx.op_type, operand))]


def _per_feature(value: Array, view: Window, rank: int) -> bool:
    """Whether the constant broadcasts over the batch, to features of the window's own shape."""
    if rank != view.index.ndim + 1 or value.ndim > rank or (value.ndim == rank and value.shape[0] != 1):
        return False
    shape = _without_batch(value, view.index.ndim).shape
    return all(have in (1, want) for have, want in zip(shape[::-1], view.index.shape[::-1], strict=False))


def _without_batch(value: Array, features: int) -> Array:
    return value[0] if value.ndim == features + 1 else value


def _as_affine(op_type: str, operand: Array) -> tuple[Array | None, Array | None]:
    if op_type in ADDITIVE:
        return None, operand if op_type == "Add" else -operand
    return (operand if op_type == "Mul" else 1.0 / operand), None


def on_scores(ctx: RuleContext) -> Outcome:
    """Score maps cell by cell; fixed inputs get grid axes of extent 1."""
    lifted = [view for view in ctx.views if isinstance(view, ScoreMap | Window | Placed)]
    if not ctx.own and any(is_map(view) and not view.provenance.windows for view in lifted):
        return beside_windows(ctx) or beside_map(ctx, "combines") or ctx.rejoins()
    scores = all_scores(ctx, ctx.views)
    if isinstance(scores, Refusal):
        return scores
    found = [_of_rank(ctx, score) for score in scores]
    if any(score.batch_axis or 1 + len(score.features) != len(ctx.shape_out()) for score in found):
        return _around_batch(ctx, found)
    provenance = Provenance.join([score.provenance for score in found])
    assert provenance is not None
    queue, grid = iter(found), len(provenance.fields)
    inputs = [
        next(queue).tensor if isinstance(view, ScoreMap | Window | Placed) else lift_fixed(ctx, position, grid)
        for position, view in enumerate(ctx.views)
    ]
    biased = _biased(ctx, inputs)
    if biased is None:
        ctx.keep(inputs)
    return [ScoreMap(biased or ctx.node.output[0], ctx.shape_out()[1:], provenance, ctx.batch_axis_out())]


def _around_batch(ctx: RuleContext, scores: Sequence[ScoreMap]) -> Outcome:
    """Scores whose batch stands behind other axes, as steps (T, N, F) have it, beside constants."""
    [axis, *others], rank = {score.batch_axis for score in scores}, len(ctx.shape_out())
    refused = ctx.refuse("mixes-batch", "broadcasts the batch against other axes")
    if others or not axis or any(1 + len(score.features) != rank for score in scores):
        return refused
    queue, inputs, grid = iter(scores), list[str](), len(scores[0].grid)
    for view, name in zip(ctx.views, ctx.node.input, strict=True):
        value = ctx.weights(name) if isinstance(view, Fixed) else None
        if value is not None:
            value = value.reshape((1,) * (rank - value.ndim) + value.shape)
            ahead = np.moveaxis(value, axis, 0) if value.shape[axis] == 1 else None
            inputs += [] if ahead is None else [ctx.builder.constant(ahead.reshape(ahead.shape + (1,) * grid), name)]
        elif view is not None and not isinstance(view, Fixed | Context):
            inputs.append(next(queue).tensor)
    provenance = Provenance.join([score.provenance for score in scores])
    if len(inputs) < len(ctx.views) or provenance is None:
        return refused
    ctx.keep(inputs)
    return [around_batch(ctx, provenance, axis)]


def _of_rank(ctx: RuleContext, score: ScoreMap) -> ScoreMap:
    """A score map with as many axes as the result has, where the batch is 1 for good: with those that a constant of
    higher rank puts ahead of it, or without the one that a batch which had been swallowed has got again."""
    missing = len(ctx.shape_out()) - 1 - len(score.features)
    if missing == -1 and score.batch_axis is None and score.features[0] == 1:  # a first axis is that image's again
        tensor = ops.squeeze(ctx.builder, score.tensor, [1])
        return replace(score, tensor=tensor, features=score.features[1:], batch_axis=0)
    if missing <= 0 or score.batch_axis or not ctx.may_swallow:
        return score
    tensor = ops.unsqueeze(ctx.builder, score.tensor, range(1, 1 + missing))
    return replace(score, tensor=tensor, features=(1,) * missing + score.features)


def _biased(ctx: RuleContext, inputs: list[str]) -> str | None:
    """MatMul + Add is one FC layer: the Conv just written for the MatMul takes the constant as its bias."""
    if ctx.op_type != "Add" or len(inputs) != 2:
        return None
    for position in (0, 1):
        other = ctx.node.input[1 - position]
        own = inputs[position] == ctx.node.input[position]  # not another name of what others read too
        fixed = isinstance(ctx.views[1 - position], Fixed)
        if own and fixed and ctx.state.graph.uses[ctx.node.input[position]] == 1:
            made = take_bias(ctx, inputs[position], other, ctx.node.output[0])
            if made:
                return made
    return None


PER_PLACE = "combines what relates the places with values for each place of the native size"


@rule(*BROADCAST, on=PLACED, attributes=("direction", "fmod"))
def broadcast(ctx: RuleContext) -> Outcome | None:
    """map + map lies as both do; constants and context are spread over them."""
    placed = [view for view in ctx.views if isinstance(view, Placed)]
    pooled = _pooled_beside_map(ctx, placed)
    if pooled is not None:
        return pooled
    groups = _laid(ctx, placed)
    if groups is None:
        return _unlike(ctx, placed)
    provenance = provenance_of_all(placed)
    if provenance is None:
        met = all(view.provenance.windows for view in placed)  # pools of several stages, on their common grid
        return None if met or any(view.is_folded for view in placed) else ctx.refuse(*GRIDS)
    inputs, everywhere = _inputs(ctx, placed, groups)
    kept = ctx.state.global_pool == "keep"
    if (None in inputs or everywhere) and not kept:
        weighed = _row_of_weights(ctx, placed)
        if weighed is not None:
            return weighed
    if None in inputs:
        whole = _with_grids(ctx, placed, groups, inputs)
        if not isinstance(whole, list):
            return (_row_of_weights(ctx, placed) if kept else None) or whole
        inputs, provenance = whole, provenance.blamed(*grid_blames(ctx))
    return _beside_windows(ctx, placed) or _kept(ctx, placed, groups, provenance, everywhere, inputs)


def _inputs(ctx: RuleContext, placed: Sequence[Placed], groups: Groups) -> tuple[list[str | None], bool]:
    """The tensors, None where one has a value for every place; whether one has that at any size."""
    inputs, everywhere = [], False
    for position, view in enumerate(ctx.views):
        tensor = spread_over(ctx, position, groups)
        if tensor is None and lies_on(ctx, position, groups, placed):
            assert isinstance(view, Fixed)
            tensor, everywhere = view.tensor, True
        inputs.append(tensor)
    return inputs, everywhere


def _with_grids(
    ctx: RuleContext, placed: Sequence[Placed], groups: Groups, inputs: Sequence[str | None]
) -> list[str | None] | Refusal | None:
    """The tensors, where each that has a value for every place is a grid that goes on."""
    found = list(inputs)
    for position, tensor in enumerate(inputs):
        if tensor is None:
            grid = continued(ctx, position, groups, placed)
            if not isinstance(grid, Continued):
                return grid or _positional(ctx, placed, position)
            found[position] = grid.tensor
    return found


def _beside_windows(ctx: RuleContext, placed: Sequence[Placed]) -> Refusal | None:
    """What a pool of a head left may not meet context."""
    if not any(view.provenance.windows for view in placed):
        return None
    if any(view.is_strip for view in placed):
        return ctx.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    return beside_windows(ctx)


GRIDS = ("grids-differ", "combines maps of different stride")
_APART = ("axes-differ", "combines maps whose spatial axes do not lie on each other")


def _laid(ctx: RuleContext, placed: Sequence[Placed]) -> Groups | None:
    """The axes of the result; None where different ones lie on each other."""
    shape = ctx.shape_out()
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
    whole = len(places) == len(set(places)) and lengths(tuple(found)) == shape  # nothing is spread over places
    return tuple(found) if whole and all(_beside_rows(ctx, placed[0], view) for view in placed) else None


def _beside_rows(ctx: RuleContext, first: Placed, view: Placed) -> bool:
    """Whether what was joined in a tensor are the same strips, or rows of as many places at every size."""
    return view.parts == first.parts or (bool(rows := _rows(ctx, view)) and rows == _rows(ctx, first))


def _rows(ctx: RuleContext, view: Placed) -> list[tuple[Row, object]]:
    """The rows of a list, each with how long the axes of its map are, at the probes."""
    found = [(part.like, row) for part, row in levels(view, ctx.state.rank)] if view.is_list else []
    shapes = [(like, row, ctx.builder.spec(like.tensor).shapes or ()) for like, row in found]
    return [(row, [[shape[axis] for axis in like.spatial] for shape in own]) for like, row, own in shapes]


def _pooled_beside_map(ctx: RuleContext, placed: Sequence[Placed]) -> Outcome | None:
    """A map of one place natively beside a larger one, or spread by a constant: a pool that meets its trunk again."""
    maps = [view for view in placed if view.is_map]
    if len(maps) < len(placed):
        return None
    big = max(maps, key=lambda view: (len(view.groups), view.extent))
    spatial = _from_right(big)
    turned = {id(view): _on_axes_of(ctx, view, spatial) for view in maps}
    ctx.views, maps = tuple(turned.get(id(view), view) for view in ctx.views), [*turned.values()]
    if any(_from_right(view) != spatial for view in maps) or len(big.groups) != len(ctx.shape_out()):
        return ctx.refuse(*_APART)
    small = [view for view in maps if view.extent != big.extent]
    spread = any(ctx.shape_out()[axis] != length for axis, length in zip(big.spatial, big.extent, strict=True))
    return _meets(ctx, small or maps) if small or spread else None


def _on_axes_of(ctx: RuleContext, view: Placed, spatial: Sequence[int]) -> Placed:
    """A pooled map with its cells on this axis, of which it has one place as of its own: the mean of an image of which
    an axis stays, behind Unsqueezes."""
    axes = [len(view.groups) + axis for axis in spatial]
    alone = len(axes) == 1 and view.extent == (1,) and bool(view.provenance.windows) and axes[0] > 0
    if not alone or axes == [*view.spatial] or view.groups[axes[0]]:
        return view
    order = list(range(len(view.groups)))
    order[view.spatial[0]], order[axes[0]] = axes[0], view.spatial[0]
    tensor = ops.transpose(ctx.builder, view.tensor, order)
    return replace(view, tensor=tensor, groups=tuple(view.groups[axis] for axis in order))


def _from_right(view: Placed) -> tuple[int, ...]:
    """Spatial axes counted from the last, as broadcasting aligns them."""
    return tuple(axis - len(view.groups) for axis in view.spatial)


def _meets(ctx: RuleContext, small: Sequence[Placed]) -> Outcome:
    """A pooled map meets a larger one: each window its own, or none may."""
    if any(not view.provenance.windows for view in small):
        return ctx.refuse("sizes-differ", "spreads a map of native extent 1 over a larger one")
    return on_scores(ctx) if ctx.own else ctx.rejoins()


def _unlike(ctx: RuleContext, placed: Sequence[Placed]) -> Refusal | None:
    """Axes that hold different things lie on each other."""
    if any(view.other for view in placed):
        return ctx.no_values(PER_PLACE)
    return None if any(view.is_folded for view in placed) else ctx.refuse(*_APART)


def _row_of_weights(ctx: RuleContext, placed: Sequence[Placed]) -> Outcome | None:
    """A table times a map whose places are then summed up: weights of each window's features."""
    view = placed[0]
    alone = ctx.op_type in SCALING and len(placed) == 1 and view.is_map and not view.provenance.windows
    kinds = ctx.state.roles.summed_by(ctx.name) if alone else None
    if kinds is None:
        return None
    ctx.views = tuple(window_of_map(ctx, other) if is_map(other) else other for other in ctx.views)
    return on_scores(ctx) if "GlobalAveragePool" in kinds else on_features(ctx)


def _positional(ctx: RuleContext, placed: Sequence[Placed], position: int) -> Refusal | None:
    if any(view.other for view in placed):
        return ctx.no_values(PER_PLACE)
    if any(view.is_folded for view in placed) and ctx.state.of_windows:
        return None  # features of a window, each with its own value
    why = f"combines the map with {ctx.node.input[position]}, which has a value for every place of the native size"
    return ctx.no_values(why)


def spread_over(ctx: RuleContext, position: int, groups: Groups) -> str | None:
    """The input as it is, or with one value for all places; None where it differs between places or images."""
    view = ctx.views[position]
    if not isinstance(view, Fixed | Context):
        return "" if view is None else tensor_of(view)
    shape = ctx.builder.spec(view.tensor).native if isinstance(view, Context) else ctx.shape_in(position)
    own = [axis for axis in range(-len(shape), 0) if shape[axis] > 1 and -axis <= len(groups)]
    if isinstance(view, Context):
        moving = [axis for axis in own if not (pure(groups[axis]) or holds_images(groups[axis]))]
        return of_one_place(ctx, view, position, moving) if moving else view.tensor
    moving = [axis for axis in own if not pure(groups[axis]) and (ctx.free_batch or not holds_images(groups[axis]))]
    return uniform(ctx, position, moving)


def with_context(ctx: RuleContext, provenance: Provenance, by_size: bool = False) -> Provenance:
    """The provenance with what is context among the inputs."""
    context = [view.provenance for view in ctx.views if isinstance(view, Context)]
    blames = Gathered.joined([provenance.blames, *(item.blames for item in context)])
    pools = Gathered.joined([provenance.pools, *(item.pools for item in context)])
    provenance = replace(provenance, pools=pools, blames=blames)
    return provenance.blamed(ctx.blame(Cause.CONTEXT)) if context or by_size else provenance


def _kept(
    ctx: RuleContext,
    placed: Sequence[Placed],
    groups: Groups,
    provenance: Provenance,
    everywhere: bool,
    inputs: Sequence[str | None],
) -> Outcome:
    """Write the node with these inputs; what it makes, with what a number of the image's size made of it."""
    by_size = [position for position in range(len(ctx.views)) if ctx.follows_size(position)]
    made = _made(ctx, placed, groups, with_context(ctx, provenance, bool(by_size) or everywhere))
    ctx.keep([tensor for tensor in inputs if tensor is not None])
    return [_per_place(ctx, made, by_size[0]) if by_size and made.is_folded else made]


def _made(ctx: RuleContext, placed: Sequence[Placed], groups: Groups, provenance: Provenance) -> Placed:
    """The view of the output."""
    first = max(placed, key=lambda view: len(view.sides))
    name = ctx.node.output[0]
    parts = (
        tuple(replace(part, groups=_with_row(groups, part)) for part in first.parts) if first.is_list else first.parts
    )
    made = Placed(name, name, groups, provenance, parts=parts, other=first.other)
    if made.is_map:
        return made
    bounds: frozenset[Boundary] = frozenset().union(*(view.bounds for view in placed))
    return replace(made, measured=first.like, bounds=bounds)


def _with_row(groups: Groups, part: Placed) -> Groups:
    """The axes of one level, where those of all are these."""
    [row] = [group for group in part.groups if places_in([group])]
    return tuple(row if kinds(group) == ["joined"] else group for group in groups)


def _per_place(ctx: RuleContext, view: Placed, position: int) -> Placed:
    """Perhaps divided by how many places there are (where it relates places: how many columns).

    Times another number that follows the size, parts of a whole are none any more.
    """
    if not _divides_by_places(ctx, view.sides[-1].like, position):
        return view.each_side(lambda _, own: replace(own, sums_to_one=in_doubt(own.sums_to_one)))
    sums_to_one = frozenset((ctx.name, place) for place in range(ctx.state.rank))
    last = 0 if view.other is None else 1
    return view.each_side(lambda k, own: replace(own, sums_to_one=sums_to_one) if k == last else own)


def _divides_by_places(ctx: RuleContext, like: Placed, position: int) -> bool:
    """Whether a number that follows the image's size is that of the places of ``like``, at every size."""
    values = ctx.builder.spec(ctx.tensors()[position]).values or ()
    shapes = ctx.builder.spec(like.tensor).shapes or ()
    counts = [math.prod(shape[axis] for axis in like.spatial) for shape in shapes]
    if ctx.op_type not in SCALING or len(values) != len(counts) or any(value.size != 1 for value in values):
        return False
    factors = [float(value.ravel()[0]) for value in values]
    parts = [f / n if ctx.op_type == "Div" else f * n for f, n in zip(factors, counts, strict=True)]
    return bool(np.allclose(parts, parts[0], rtol=1e-5))
