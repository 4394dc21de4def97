"""Tables that are affine along the image's axes: cell indices, anchors' centres, coordinates from -1 to 1.

``v[c, y, x] = base[c] + slope_y[c] * y + slope_x[c] * x``, to the rounding of the type. Such a table has values for
other sizes by a rule: a step stays what it is (``step``), or the table is spread over as many places as there are now
(``ends``, ``centres``, ``starts``, by what of the places lies on its ends) or over as many pixels (``image``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any, Literal

import numpy as np

from onnxfc.layout.axes import Atom, Group, Groups, lengths
from onnxfc.layout.axis_map import Pixels
from onnxfc.shapes.spec import Array

Rule = Literal["step", "middle", "ends", "centres", "starts", "image"]
"""``middle``: steps too, but counted from the middle or the last place; only told from others, and not gone on by."""
Grids = Literal["step", "map", "image"]
"""What a user may say of tables whose values do not show the rule."""

_OFFSET: Mapping[Rule, float] = {"ends": 0.0, "centres": 0.5, "starts": 0.0}
"""Where in its step the first place lies."""
_UNIT, _SIGNED = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True)
class Affine:
    """A table over the places of one map.

    ``groups``: of each of its axes, what it is made of; one channel where it has one element for all. ``base`` and
    ``slopes`` (by place) have an axis for each of these atoms, of extent 1 where it is a place.
    """

    groups: Groups
    base: Array = field(repr=False)
    slopes: Mapping[int, Array] = field(repr=False)

    @property
    def atoms(self) -> Group:
        """What its axes are made of, in order."""
        return tuple(atom for group in self.groups for atom in group)

    @property
    def axes(self) -> dict[int, int]:
        """Which of the atoms a place is."""
        return {atom.place: axis for axis, atom in enumerate(self.atoms) if atom.kind == "space"}

    @property
    def still(self) -> Array:
        """Of each channel what all places have; 0 of those that move."""
        moves = [slope != 0 for slope in self.slopes.values()]
        return np.where(np.logical_or.reduce(moves), 0, self.base) if moves else self.base

    @property
    def counted(self) -> bool:
        """Whether places are numbered one row (or column) behind the other."""
        pairs = (
            (self.slopes[outer], self.slopes[inner] * self.length(inner))
            for outer, inner in permutations(self.slopes, 2)
        )
        return any(bool(np.any((row != 0) & np.isclose(step, row, rtol=1e-4, atol=0))) for step, row in pairs)

    @property
    def counted_beside(self) -> bool:
        """Whether places are numbered behind each other in rows that do not become more: along an axis that stays."""
        stay = [axis for axis, atom in enumerate(self.atoms) if atom.kind != "space" and atom.length > 1]
        for place, axis in product(self.slopes, stay):
            row = np.broadcast_to(self.slopes[place] * self.length(place), self.base.shape)
            row = row.take(range(self.base.shape[axis] - 1), axis=axis)
            if np.all((row != 0) & np.isclose(np.diff(self.base, axis=axis), row, rtol=1e-4, atol=0)):
                return True
        return False

    def length(self, place: int) -> int:
        """How many places there are natively."""
        return self.atoms[self.axes[place]].length

    def sequences(self, place: int) -> list[tuple[float, float]]:
        """First value and step of each channel that moves along a place."""
        moving = self.slopes[place]
        pairs = zip(np.broadcast_to(self.base, moving.shape).flat, moving.flat, strict=True)
        return sorted({(float(first), float(step)) for first, step in pairs if step})


def affine(value: Array, groups: Groups) -> Affine | None:
    """A table that is broadcast to ``groups``; None where it is no affine function of the places."""
    own = _groups_of(value, groups)
    if own is None:
        return None
    atoms = [atom for group in own for atom in group]
    axes = {atom.place: axis for axis, atom in enumerate(atoms) if atom.kind == "space"}
    exact = value.reshape([atom.length for atom in atoms]).astype(np.float64)
    base, slopes = exact, dict[int, Array]()
    for axis in axes.values():
        base = base.take([0], axis=axis)
    made, allowed = base, _rounding(value.dtype) * np.abs(exact).max(axis=tuple(axes.values()), keepdims=True)
    for place, axis in axes.items():
        slope = _slope(exact, axis, list(axes.values()), allowed)
        if slope.any():
            slopes[place] = slope
        made = made + slope * np.arange(exact.shape[axis]).reshape([-1 if k == axis else 1 for k in range(exact.ndim)])
    return Affine(own, base, slopes) if bool(np.all(np.abs(made - exact) <= allowed)) else None


def _groups_of(value: Array, groups: Groups) -> Groups | None:
    """What each axis of a table that is broadcast to ``groups`` is made of; None where these are not whole channels,
    and each place once, or it holds no numbers."""
    last = groups[len(groups) - value.ndim :]
    own = tuple((Atom("channel", 1),) if n == 1 else group for n, group in zip(value.shape, last, strict=True))
    atoms = [atom for group in own for atom in group]
    places = [atom.place for atom in atoms if atom.kind == "space"]
    plain = all(atom.kind in ("channel", "space") and atom.side == 0 and atom.factor == 1 for atom in atoms)
    fits = len(set(places)) == len(places) and lengths(own) == value.shape and value.dtype.kind in "fiu"
    return own if plain and fits else None


def _rounding(dtype: np.dtype[Any]) -> float:
    """By which part of its largest value a table of this type may miss a straight line."""
    steps = 1 if dtype == np.float16 else 4
    return steps * float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def _slope(exact: Array, axis: int, places: Sequence[int], allowed: Array) -> Array:
    """By how much it grows with each step along an axis, at the first place of the others; whole where it may be."""
    along = exact
    for other in places:
        along = along if other == axis else along.take([0], axis=other)
    steps = max(1, exact.shape[axis] - 1)
    slope = (along.take([-1], axis=axis) - along.take([0], axis=axis)) / steps
    whole = np.round(slope)
    return np.asarray(np.where(np.abs(slope - whole) * steps <= allowed, whole, slope))


def shown_rules(table: Affine, place: int, stride: Pixels) -> set[Rule]:
    """The rules that its values along a place show: steps of one place or of so many pixels as places lie apart, from
    the first on; -1 to 1, or 0 to 1 from the first place to the last."""
    length, pairs = table.length(place), table.sequences(place)
    found: set[Rule] = set()
    if {abs(step) for _, step in pairs} <= {1.0, float(stride)}:
        found |= _counted(pairs, length)
    if _spread(pairs, length, "ends", (_SIGNED, _UNIT)):
        found.add("ends")
    if _spread(pairs, length, "centres", (_SIGNED,)):
        found.add("centres")
    return found


def given_rule(table: Affine, place: int, stride: Pixels, pixels: int, given: Grids | None) -> Rule | None:
    """What a user's word makes of it along a place; None where it does not fit. ``pixels``: of the image, natively."""
    if given == "image":
        return "image" if of_pixels(table, place, stride, pixels) is not None else None
    if given == "map":
        pairs, length = table.sequences(place), table.length(place)
        return next((rule for rule in _OFFSET if _spread(pairs, length, rule, (_SIGNED, _UNIT))), None)
    return given


def _counted(pairs: Sequence[tuple[float, float]], length: int) -> set[Rule]:
    """From where steps are counted: from the first place, where they are within a step of 0 there, corners of boxes in
    the mean; perhaps from the last or the middle, where one is below 0 at the first place and about 0 at these."""
    starts, slack = [first / step for first, step in pairs], 1 + 1e-3
    if abs(sum(starts)) >= slack * len(starts):
        return set()
    others = [abs(start + length - 1) < slack or -slack < 2 * start + length - 1 < 1 - 1e-3 for start in starts]
    unclear = any(start < 0 and other for start, other in zip(starts, others, strict=True))
    return {"step", "middle"} if unclear else {"step"}


def _spread(
    pairs: Sequence[tuple[float, float]], length: int, rule: Rule, wanted: Sequence[tuple[float, float]]
) -> bool:
    """Whether the places' ends, centres or starts divide one of these intervals, in one direction or the other."""
    offset, parts = _OFFSET[rule], length - 1 if rule == "ends" else length
    ends = [(first - offset * step, first + (parts - offset) * step) for first, step in pairs]
    return all(any(np.allclose(sorted(end), item, rtol=0, atol=1e-5) for item in wanted) for end in ends)


def of_pixels(table: Affine, place: int, stride: Pixels, pixels: int) -> tuple[float, float] | None:
    """Coordinates of pixels as parts of the image: what its first pixel has, and at which part of a step the first
    place lies. None where they are no such parts, from 0 or from -1 to 1."""
    part, found = float(stride) / pixels, set()
    for first, step in table.sequences(place):
        low = 0.0 if math.isclose(step, part, rel_tol=1e-5) else -1.0
        if low and not math.isclose(step, 2 * part, rel_tol=1e-5):
            return None
        found.add((low, round((first - low) / step, 4)))
    return found.pop() if len(found) == 1 else None


def offset_of(rule: Rule) -> float:
    """Where in its step the first place lies, by the rule."""
    return _OFFSET.get(rule, 0.0)


def order_of_figures(table: Affine, axes: Sequence[int], count: int) -> tuple[int, ...]:
    """Along which places the figures of a table lie, in turn: of (x, y, width, height) as x and y move, of (width,
    height) alone in this order; -1 for what lies along an axis that stays. Empty where its axes do not tell.

    ``axes``: which of the image's ``count`` axes the places are.
    """
    axis = axis_of_figures(table)
    moving = {} if axis is None else {axes[k]: np.moveaxis(slope, axis, 0) for k, slope in table.slopes.items()}
    order = {turn % 2: k for k, slope in moving.items() for turn, own in enumerate(slope) if own.any()}
    if count != 2 or axis is None or len(order) != len(set(order.values())) or len(order) != len(moving):
        return ()
    told = order.get(0, 1 - order.get(1, 0)), order.get(1, 1 - order.get(0, 1))
    return tuple(axes.index(k) if k in axes else -1 for k in told)


def axis_of_figures(table: Affine) -> int | None:
    """The axis of pairs x, y: the one of two or four channels."""
    alone = {id(group[0]) for group in table.groups if len(group) == 1 and group[0].kind == "channel"}
    found = [axis for axis, atom in enumerate(table.atoms) if id(atom) in alone and atom.length in (2, 4)]
    return found[0] if len(found) == 1 else None
