"""Tables with a value for every place of the native size, continued to any size where they are affine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import target
from onnxfc.builder.computed_constants import computed
from onnxfc.builder.half_computed import goes_on, half_computed, natively
from onnxfc.builder.resized_table import resized
from onnxfc.builder.rule_context import LEAVE, RuleContext
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Blame, Cause
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import GLOBAL_POOLS
from onnxfc.layout.affine import (
    Affine,
    Grids,
    Rule,
    affine,
    axis_of_figures,
    given_rule,
    of_pixels,
    offset_of,
    order_of_figures,
    shown_rules,
)
from onnxfc.layout.axes import Groups, places_in
from onnxfc.layout.axis_map import Pixels
from onnxfc.layout.views import Fixed, Placed
from onnxfc.shapes.spec import Array

_WAYS: dict[Grids, str] = {
    "step": "step (steps as they are)",
    "map": "map (spread over the places)",
    "image": "image (over the pixels)",
}
NO_RULE = "such a table has no values for other sizes"


@dataclass(frozen=True)
class _Level:
    """What of a table lies over the places of one map; ``rows``: of which it has an axis, be they one or more."""

    table: Affine
    like: Placed
    strides: Mapping[int, Pixels]
    rows: frozenset[int]

    @property
    def single(self) -> set[int]:
        """Axes of one place."""
        return {place for place, axis in self.like.where.items() if self.like.groups[axis][0].length == 1}

    @property
    def unseen(self) -> bool:
        """Whether channels that stay may be such that move along an axis of one place."""
        moves = sum(slope != 0 for slope in self.table.slopes.values())
        return bool(self.single - self.table.slopes.keys() and self.table.slopes) and not np.all(moves)

    @property
    def one_row(self) -> bool:
        """Whether it moves along the only row: coordinates in it, or numbers that go on in the next one."""
        return bool(self.table.slopes and self.single & self.rows)

    @property
    def beside(self) -> bool:
        """Whether what lies in a row with one place differs, along an axis of the image that stays, say: it may move
        along that place, too."""
        atoms = self.table.atoms
        rows = [group for group in self.table.groups if self.single and places_in([group])]
        axes = [axis for axis, atom in enumerate(atoms) if any(atom is own for group in rows for own in group)]
        return any(bool(np.ptp(self.table.base, axis=axis).any()) for axis in axes)


@dataclass(frozen=True)
class _Table:
    """A table of the native size by what lies over each map, joined on ``axis``; ``spread``: whether it goes from end
    to end of the map, as the operator says. ``parts``: whether no value is beyond 1."""

    name: str
    dtype: np.dtype[Any]
    levels: Sequence[_Level]
    axis: int
    spread: bool
    parts: bool

    @property
    def places(self) -> list[int]:
        """Along which it moves."""
        return sorted({place for level in self.levels for place in level.table.slopes})

    def shown(self, place: int) -> set[Rule]:
        """The rules that fit the values of all levels along a place; where several do, the one that fits all places."""
        shown, every = self._fitting(place), set.intersection(*map(self._fitting, self.places))
        return every if len(every) == 1 else shown

    def _fitting(self, place: int) -> set[Rule]:
        shown = set.intersection(*(shown_rules(item.table, place, item.strides[place]) for item in self.levels))
        return shown - {"step", "middle"} if self.spread else shown


def continued(
    ctx: RuleContext, position: int, groups: Groups, placed: Sequence[Placed], spread: bool = False
) -> Continued | Refusal | None:
    """The table that a Fixed input is, for as many places as there are now; None where it is not affine.

    ``groups``: the axes of the result, on whose places it lies; ``placed``: what it meets; ``spread``:
    whether the operator says that -1 to 1 are the map's ends.
    """
    name = ctx.node.input[position]
    if not isinstance(ctx.views[position], Fixed) or any(view.provenance.windows or view.other for view in placed):
        return None
    whole = ctx.state.dense or ctx.state.undivided
    if not whole and any(view.is_folded for view in placed):
        return None  # a value for each feature of a window, as a crop has it
    own = resized(ctx, position, groups, placed[0].like) if whole and not spread else None
    if own is not None or ctx.follows_size(position):
        return own
    value = computed(ctx, name)
    half = natively(ctx, position) if value is None else None
    table = _table(ctx, name, half if value is None else value, groups, placed, spread)
    if table is None:
        return None if half is None else half_computed(ctx)
    chosen = _rules(ctx, table, half)
    if chosen is None or isinstance(chosen, Refusal):
        return chosen
    return _written(ctx, table, chosen) if whole else windows_have_others(ctx, name)


def _table(
    ctx: RuleContext, name: str, value: Array | None, groups: Groups, placed: Sequence[Placed], spread: bool
) -> _Table | None:
    """A value by what lies over each map; None where that is not affine."""
    levels = None if value is None else _levels(value, groups, placed)
    if value is None or levels is None:
        return None
    axis, dtype = _axis_of_levels(groups) + value.ndim, helper.tensor_dtype_to_np_dtype(ctx.native(name).dtype)
    return _Table(name, dtype, levels, axis, spread, bool(np.abs(value).max() <= 1))


def _rules(ctx: RuleContext, table: _Table, half: Array | None) -> Mapping[int, Rule] | Refusal | None:
    """The rule along each place; of what is computed in part that which it shows there, too."""
    chosen = _unseen(ctx, table) or _chosen(ctx, table)
    if half is None or isinstance(chosen, Refusal):
        return chosen
    levels = [(level.table, level.strides) for level in table.levels]
    steps = set(chosen.values()) <= {"step"} and ctx.state.grids in (None, "step")
    return chosen if steps and goes_on(ctx, table.name, half, table.axis, levels) else half_computed(ctx)


def _levels(value: Array, groups: Groups, placed: Sequence[Placed]) -> list[_Level] | None:
    """What lies over the places of each map; None where one is not affine, or moves along a place its map lacks."""
    found = []
    for part, laid, view in _pieces(value, groups, placed):
        table = affine(part, laid)
        if table is None or not table.axes.keys() <= view.like.where.keys():
            return None
        strides = {place: item.stride for place, item in enumerate(view.provenance.fields)}
        rows = frozenset(atom.place for atom in places_in(laid[len(laid) - part.ndim :]))
        found.append(_Level(table, view.like, strides, rows))
    return found


def _unseen(ctx: RuleContext, table: _Table) -> Refusal | None:
    """A table whose values at the native size do not tell its steps."""
    stays = ctx.state.axes[1] > ctx.state.rank
    unseen = any(level.unseen or (stays and level.beside) for level in table.levels)
    if unseen or any(level.single.intersection(table.places) for level in table.levels):
        why = f"reads {table.name}, a grid that has but one place along an axis and shows no step there"
        return ctx.refuse("grid-rule", why, "export the model anew for larger images")
    if any(level.table.slopes.keys() != set(table.places) for level in table.levels):
        why = f"reads {table.name}, a grid that shows no step in one level where it does in another"
        return ctx.refuse("grid-rule", why, "export the model anew for larger images")
    if not table.spread and any(level.one_row for level in table.levels):
        why = f"reads {table.name}, which moves along the one row of places: does it go on in the next, or begin anew?"
        return ctx.refuse("grid-rule", why, "export the model anew for larger images")
    if not table.spread and any(item.table.counted or (stays and item.table.counted_beside) for item in table.levels):
        why = f"reads {table.name}, which counts the places row by row: how many there are in a row is in each number"
        return ctx.refuse("grid-rule", why, NO_RULE)
    return None


def _written(ctx: RuleContext, table: _Table, chosen: Mapping[int, Rule]) -> Continued | Refusal:
    """The table for as many places as there are now, by the rules chosen; refused where the user says that its figures
    are parts of the image, and it does not tell which is height and which width."""
    levels, rank = table.levels, ctx.state.rank
    image = ctx.state.grids == "image" and not table.spread
    order = order_of_figures(levels[0].table, *ctx.state.axes) if image else ()
    lengths = image and any(level.table.still.any() for level in levels)
    if lengths and not order:
        why = f"reads {table.name}, of which --grids image does not know what is height and what width"
        return ctx.refuse("grid-rule", why)
    grids = [_laid(ctx, level, chosen, order if lengths else (), table.dtype) for level in levels]
    made = [_filled(ctx, level, grid, len(levels) > 1) for level, grid in zip(levels, grids, strict=True)]
    tensor = made[0] if len(made) == 1 else ctx.builder.emit("Concat", made, axis=table.axis)
    told = tuple(chosen.get(place, "") for place in range(rank))
    given = any(len(table.shown(place)) != 1 for place in chosen)
    axes = [tuple(level.table.axes.get(k, -1) for k in range(rank)) for level in levels]
    each = tuple(zip(grids, axes, strict=True)) if chosen or lengths else ((tensor, (-1,) * rank),)
    parts, numbers = bool(chosen) and table.parts, _numbers(levels, given)
    note = Continued(ctx.label, table.name, tensor, told, each, given, order, lengths, parts, numbers)
    ctx.notes.append(note)
    return note


def _numbers(levels: Sequence[_Level], given: bool) -> frozenset[float]:
    """The values that are no coordinates; where they go on as the user says, the first place's are asked, too."""
    plain = (level.table.base if given else level.table.still for level in levels)
    return frozenset(float(number) for item in plain for number in np.unique(item))


def windows_have_others(ctx: RuleContext, name: str) -> Refusal:
    """Why a head may not come of coordinates."""
    why = f"reads {name}, a grid of coordinates: a window of a larger image has others than the crop has"
    return ctx.refuse("grid-rule", why, _kept(ctx))


def _kept(ctx: RuleContext) -> str:
    """What helps where windows have no coordinates of their own."""
    heads = [ctx.state.graph.producers[name].op_type for name in ctx.state.roles.heads]
    pools = all(kind in (*GLOBAL_POOLS, "ReduceMean", "ReduceMax") for kind in heads)
    return "--global-pool keep makes one score of the whole image, over which it goes on" if pools else LEAVE


def grid_blames(ctx: RuleContext) -> list[Blame]:
    """Whom to blame where the node reads a grid that goes on."""
    moving = any(isinstance(note, Continued) and note.moves for note in ctx.notes)
    return [ctx.blame(Cause.GRID)] if moving else []


def _axis_of_levels(groups: Groups) -> int:
    """The axis, counted from behind, on which the places of several maps stand in a row; 0 where there is none."""
    return next((k - len(groups) for k, group in enumerate(groups) if [a.kind for a in group] == ["joined"]), 0)


def _pieces(value: Array, groups: Groups, placed: Sequence[Placed]) -> Iterator[tuple[Array, Groups, Placed]]:
    """What of the table belongs to each map, the axes that it lies on, and what has the map's places."""
    axis = _axis_of_levels(groups)
    if not axis or -axis > value.ndim or value.shape[axis] == 1:
        yield value, groups, placed[0]
        return
    first = 0
    for part in next(view.parts for view in placed if view.parts):
        row = next(group for group in part.groups if places_in([group]))
        own = (*groups[: axis + len(groups)], row, *groups[axis + len(groups) + 1 :])
        length = math.prod(atom.length for atom in row)
        yield value.take(range(first, first + length), axis=axis), own, part
        first += length


def _chosen(ctx: RuleContext, table: _Table) -> dict[int, Rule] | Refusal:
    """The rule along each place: the one that all levels show, or what the user says of it."""
    found: dict[int, Rule] = {}
    given = None if table.spread else ctx.state.grids
    for place in table.places:
        shown, asked = table.shown(place), _asked(ctx, table, place, given)
        rule = next(iter(shown if len(shown) == 1 else asked)) if 1 in (len(shown), len(asked)) else None
        if rule is None or (given and None in asked):
            rules = f"{'several rules' if len(shown) > 1 else 'the rule'} ({', '.join(sorted(shown))})"
            fits = f"fit {rules}" if shown else "show no rule"
            why = f"reads {table.name}, a grid of coordinates whose values {fits} by which it goes on for other sizes"
            ask = LEAVE if table.spread else _ways(ctx, table)
            return ctx.refuse("grid-rule", why, f"--grids {given} does not fit it" if given else ask)
        found[place] = rule
    return found


def _asked(ctx: RuleContext, table: _Table, place: int, given: Grids | None) -> set[Rule | None]:
    """What the levels make along a place of what the user says."""
    pixels = _pixels(ctx)[place]
    return {given_rule(item.table, place, item.strides[place], pixels, given) for item in table.levels}


def _ways(ctx: RuleContext, table: _Table) -> str:
    """What the user may say of it: those of the words that fit."""
    asked = {way: [_asked(ctx, table, place, way) for place in table.places] for way in _WAYS}
    fit = [_WAYS[way] for way, rules in asked.items() if all(len(rule) == 1 and None not in rule for rule in rules)]
    return f"say how to go on: --grids {' or '.join(filter(None, (', '.join(fit[:-1]), fit[-1])))}"


def _image(ctx: RuleContext) -> Placed:
    views = (ctx.state.views[info.name] for info in ctx.state.graph.inputs)
    return next(view for view in views if isinstance(view, Placed))


def _pixels(ctx: RuleContext) -> dict[int, int]:
    """How many pixels the image has natively along each place."""
    view = _image(ctx)
    return {place: view.groups[axis][0].length for place, axis in view.where.items()}


def _laid(
    ctx: RuleContext, level: _Level, chosen: Mapping[int, Rule], order: Sequence[int], dtype: np.dtype[Any]
) -> str:
    """One level, for as many places as its map has now, an axis for each of its atoms."""
    builder, table = ctx.builder, level.table
    kind: np.dtype[Any] = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
    kind = np.dtype(np.int64) if dtype.kind in "iu" and set(chosen.values()) <= {"step"} and not order else kind
    base, terms = _without_lengths(ctx, table, order, kind)
    for place, slope in table.slopes.items():
        rule, native = chosen[place], table.length(place)
        offset = offset_of(rule)
        if rule == "image":
            found = of_pixels(table, place, level.strides[place], _pixels(ctx)[place])
            assert found is not None
            low, offset = found
            base = np.where(slope != 0, low, base)
        else:
            base = base - offset * slope
        index = _index(ctx, level.like, place, rule, offset, native, kind)
        around = [axis for axis in range(slope.ndim) if axis != table.axes[place]]
        along = ops.unsqueeze(builder, index, around)
        terms.append(builder.emit("Mul", [along, builder.constant(slope.astype(kind), "step")]))
    if base.any() or not terms:
        terms.append(builder.constant(base.astype(kind), "first"))
    tensor = terms[0]
    for term in terms[1:]:
        tensor = builder.emit("Add", [tensor, term])
    if kind != dtype:
        tensor = builder.emit("Cast", [tensor], to=int(helper.np_dtype_to_tensor_dtype(dtype)))
    return tensor


def _without_lengths(
    ctx: RuleContext, table: Affine, order: Sequence[int], kind: np.dtype[Any]
) -> tuple[Array, list[str]]:
    """What a table has at its first place, less the lengths that are parts of the image; and these."""
    base, terms, axis = table.base, list[str](), axis_of_figures(table)
    for number, place in enumerate(order):
        turn = np.arange(base.shape[axis or 0]).reshape([-1 if k == axis else 1 for k in range(base.ndim)]) % 2
        own = np.where(turn == number, table.still, 0)
        if place >= 0 and own.any():
            base = base - own
            length = ctx.builder.constant(own.astype(kind), "length")
            terms.append(ctx.builder.emit("Mul", [_ratio(ctx, place, kind), length]))
    return base, terms


def _ratio(ctx: RuleContext, place: int, kind: np.dtype[Any]) -> str:
    """The image's native length over that of now, of shape (1,)."""
    image, native = _image(ctx), np.asarray(_pixels(ctx)[place], kind)
    axis = image.where[place]
    now = _cast(ctx, ops.dims(ctx.builder, image.tensor, axis, axis + 1), kind)
    return ctx.builder.emit("Div", [ctx.builder.constant(native), now])


def _filled(ctx: RuleContext, level: _Level, tensor: str, whole: bool) -> str:
    """On the table's own axes. ``whole``: with all its places, also where they are alike."""
    if not whole and len(level.table.groups) == len(level.table.atoms):
        return tensor
    where, atoms = level.like.where, level.table.atoms
    dims: list[int | str] = [atom.length for atom in atoms]
    for place, axis in level.table.axes.items():
        dims[axis] = ops.dims(ctx.builder, level.like.tensor, where[place], where[place] + 1)
    spread = ctx.builder.emit("Expand", [tensor, ops.numbers(ctx.builder, dims)])
    alone = Placed(spread, "", tuple((atom,) for atom in atoms), level.like.provenance, level.like)
    if len(level.table.groups) == len(atoms):
        return spread
    return ops.reshape(ctx.builder, spread, target(ctx.builder, alone, level.table.groups))


def _index(
    ctx: RuleContext, like: Placed, place: int, rule: Rule, offset: float, native: int, kind: np.dtype[Any]
) -> str:
    """The places by number as (places,): what the steps are to be multiplied with, as the rule has it."""
    builder, axis = ctx.builder, like.where[place]
    dim = ops.dims(builder, like.tensor, axis, axis + 1)
    ends = [
        builder.constant(np.asarray(0, np.int64)),
        ops.squeeze(builder, dim, [0]),
        builder.constant(np.asarray(1, np.int64)),
    ]
    index = builder.emit("Range", ends)
    if kind == np.int64:
        return index
    index = _cast(ctx, index, kind)
    if offset:
        index = builder.emit("Add", [index, builder.constant(np.asarray(offset, kind))])
    if rule == "step":
        return index
    if rule == "image":
        return builder.emit("Mul", [index, _ratio(ctx, place, kind)])
    now = _cast(ctx, dim, kind)
    if rule == "ends":  # one place alone lies at the first end
        one = builder.constant(np.asarray(1, kind))
        now = builder.emit("Max", [builder.emit("Sub", [now, one]), one])
        native -= 1
    return builder.emit("Mul", [index, builder.emit("Div", [builder.constant(np.asarray(native, kind)), now])])


def _cast(ctx: RuleContext, tensor: str, kind: np.dtype[Any]) -> str:
    return ctx.builder.emit("Cast", [tensor], to=int(helper.np_dtype_to_tensor_dtype(kind)))
