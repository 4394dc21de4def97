"""How a Conv's weight comes of an FC layer's: the same bytes, another order, a scale, a rounding. Read, not run.

Both are matrices of outputs and features, (M, F); the features of a Conv's are channels and places, (C, *kernel).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Stored

Relation = Literal["same", "permuted", "scaled", "folded", "rounded"]

_ROWS = 64
"""Rows that are compared at a time, and that a relation is tried on first."""
_PROJECTIONS = 6
_NEAR = 4
"""Neighbours in the order of one projection among which a column is looked for."""
_NAMES = {0: "C", 1: "CL", 2: "CHW", 3: "CDHW"}


@dataclass(frozen=True)
class Matrix:
    """A weight as (M, F); ``kernel``: what its features are made of, channels and places, for a Conv's. ``beside``: the
    numbers that go with a quantised one, as far as a file holds them, and the step of a bias in integers. ``laid``: how
    its file lays the elements, where that is in no order of axes."""

    node: str
    stored: Stored
    values: Array
    kernel: tuple[int, ...] = ()
    beside: Mapping[str, Array] = field(default_factory=dict)
    laid: str = ""

    def other_beside(self, other: Matrix) -> str:
        """What goes with both weights and is not the same; "" if nothing."""
        low, high = sorted(float(beside.get("step", np.zeros(1))[0]) for beside in (self.beside, other.beside))
        room = {"bias": 0.51 * high if not low else 0.0}
        both = [name for name in ("scale", "zero point", "bias") if name in self.beside and name in other.beside]
        return next((x for x in both if not _alike(self.beside[x], other.beside[x], room.get(x, 0.0))), "")

    @property
    def plain(self) -> bool:
        """Whether its bytes are those of the matrix."""
        return self.stored.span is not None and bool(self.values.flags.c_contiguous)


def _alike(one: Array, two: Array, atol: float) -> bool:
    """The same but for roundings of float32, and of a bias to integers."""
    return one.shape == two.shape and bool(np.allclose(one, two, rtol=2.0**-21, atol=atol))


@dataclass(frozen=True)
class Found:
    """A relation that holds for every value; ``order`` tells a permutation, ``error`` is the largest, relative to
    the largest weight, in float64."""

    relation: Relation
    order: str = ""
    error: float = 0.0


def same(fc: Matrix, other: Matrix) -> Found | None:
    """Byte for byte the same."""
    if fc.values.shape != other.values.shape or fc.values.dtype != other.values.dtype:
        return None
    one, two = fc.stored.span, other.stored.span
    if fc.plain and other.plain and one is not None and two is not None:
        return Found("same") if one.equals(two) else None
    if not (fc.values.flags.c_contiguous and other.values.flags.c_contiguous):
        return None
    return Found("same") if _equal(fc.values, other.values) else None


def permuted(fc: Matrix, conv: Matrix) -> Found | None:
    """The same values in another order of axes."""
    if fc.values.dtype != conv.values.dtype:
        return None
    for values, order in _orders(fc, conv):
        if _equal(values, _kernels(conv)):
            return Found("permuted", order)
    return None


def scaled(fc: Matrix, conv: Matrix) -> Found | None:
    """The values times one figure, or one for each feature or output, or rounded; in some order of axes."""
    if {fc.values.dtype.kind, conv.values.dtype.kind} != {"f"} or _in_integers(fc, conv):
        return None
    for values, order in _orders(fc, conv):
        for axis in (0, 1):
            found = _scaled(values, _kernels(conv), axis, conv.stored.step)
            if found is not None:
                return Found(found.relation, order, found.error)
    return None


def _in_integers(fc: Matrix, conv: Matrix) -> bool:
    """Whether both are quantised: then no rewrite changes the scale, and a rounding would be another integer."""
    return bool(fc.stored.step and conv.stored.step)


def _orders(fc: Matrix, conv: Matrix) -> Iterator[tuple[Array, str]]:
    """The FC layer's values as (M, C, *kernel), for every order in which its features may have been flattened."""
    if fc.values.shape != conv.values.shape:
        return
    turned = "" if fc.values.flags.c_contiguous else "transposed"
    parts = conv.kernel or fc.values.shape[1:]
    seen = set()
    for perm in itertools.permutations(range(len(parts))):
        order = tuple(axis for axis in perm if parts[axis] > 1)
        if order in seen:
            continue
        seen.add(order)
        lengths = [parts[axis] for axis in perm]
        back = [1 + perm.index(axis) for axis in range(len(parts))]
        names = _NAMES.get(len(parts) - 1, "")
        own = "" if list(perm) == sorted(perm) else f"features in the order {', '.join(names[axis] for axis in perm)}"
        yield _split(fc.values, lengths).transpose(0, *back), ", ".join(filter(None, (turned, own)))


def _split(values: Array, lengths: Sequence[int]) -> Array:
    """(M, *lengths) of (M, F), without a copy of a matrix that lies the other way round."""
    if values.flags.c_contiguous:
        return values.reshape(len(values), *lengths)
    return np.moveaxis(values.T.reshape(*lengths, len(values)), -1, 0)


def _kernels(conv: Matrix) -> Array:
    return conv.values.reshape(len(conv.values), *(conv.kernel or conv.values.shape[1:]))


def _blocks(one: Array, two: Array) -> Iterator[tuple[slice, Array, Array]]:
    for begin in range(0, len(one), _ROWS):
        place = slice(begin, begin + _ROWS)
        yield place, one[place], two[place]


def _equal(one: Array, two: Array) -> bool:
    return all(np.array_equal(a, b) for _, a, b in _blocks(one, two))


def _scaled(fc: Array, conv: Array, axis: int, step: float) -> Found | None:
    """As they are but for rounding, or with a figure for each feature (``axis`` 0, over all outputs) or each output."""
    plain = np.ones((1,) * fc.ndim)
    if axis == 0 and _error(fc[:_ROWS], conv[:_ROWS], plain, step) is not None:
        error = _error(fc, conv, plain, step)
        if error is not None:
            return Found("rounded", error=error)
    if fc.size < 2 * (fc[:1].size if axis == 0 else len(fc)):
        return None  # a factor for every value makes anything of anything
    scale = _scale(fc, conv, axis, _ROWS)
    if scale is None or _error(fc[:_ROWS], conv[:_ROWS], scale[:_ROWS], step) is None:
        return None
    scale = _scale(fc, conv, axis, len(fc))
    error = None if scale is None else _error(fc, conv, scale, step)
    if scale is None or error is None:
        return None
    used = scale[scale != 0]
    if 2 * used.size < scale.size:
        return None  # nothing is zero times everything
    one = used.size and np.ptp(used) <= 2 * _eps(fc, conv) * np.abs(used).max()
    return Found("scaled" if one else "folded", error=error)


def _scale(fc: Array, conv: Array, axis: int, rows: int) -> Array | None:
    """The figures by least squares in float64, for the first so many rows."""
    along = 0 if axis == 0 else tuple(range(1, fc.ndim))
    tops: list[Array] = []
    ends: list[Array] = []
    for _, a, b in _blocks(fc[:rows], conv[:rows]):
        one, two = a.astype(np.float64), b.astype(np.float64)
        tops.append((one * two).sum(axis=along, keepdims=True))
        ends.append((one * one).sum(axis=along, keepdims=True))
    if not tops:
        return None
    top, end = (sum(parts[1:], parts[0]) if axis == 0 else np.concatenate(parts) for parts in (tops, ends))
    found: Array = np.divide(top, end, out=np.zeros_like(top), where=end > 0)
    return found


def _error(fc: Array, conv: Array, scale: Array, step: float) -> float | None:
    """The largest error relative to the largest weight; None where one is more than roundings make. Tools write the
    smallest number of a type for all that is nearer to zero, of either sign."""
    worst = largest = 0.0
    eps, tiny = _eps(fc, conv), max(float(np.finfo(item.dtype).smallest_subnormal) for item in (fc, conv))
    for place, a, b in _blocks(fc, conv):
        want = a.astype(np.float64) * (scale[place] if len(scale) > 1 else scale)
        got = b.astype(np.float64)
        error = np.abs(got - want)
        if not (error <= 2 * eps * np.maximum(np.abs(want), np.abs(got)) + 2 * tiny + 0.51 * step).all():
            return None
        worst, largest = max(worst, float(error.max())), max(largest, float(np.abs(got).max()))
    return worst / largest if largest else (None if worst else 0.0)


def _eps(*arrays: Array) -> float:
    return max(float(np.finfo(item.dtype).eps) for item in arrays)


def gathered(fc: Matrix, convs: Sequence[Matrix]) -> tuple[list[Matrix], Found] | None:
    """Every column (what one feature gives each output) stands in one of the Convs, by itself, perhaps scaled.

    So it is where features were picked, moved, or come of several maps. With one output it is a mere number.
    """
    if len(fc.values) < 2:
        return None
    wanted = _directions(fc.values)
    missing, used, worst = ~wanted.any(axis=0), [], 0.0
    for conv in convs:
        nearest = _nearest(wanted, _directions(conv.values))
        error = _column_errors(fc.values, conv.values, nearest, alike=_in_integers(fc, conv))
        new = np.isfinite(error) & ~missing
        if new.any():
            used.append(conv)
            worst = max(worst, float(error[new].max()))
            missing |= new
    if not missing.all() or not used:
        return None
    return used, Found("folded" if worst else "permuted", "each feature in a place of its own", worst)


def added_up(fc: Matrix, convs: Iterable[Matrix]) -> bool:
    """Whether Convs that stand together, or one, have the sums over all features that each output has, and fewer
    columns."""
    eps = _eps(fc.values) * np.abs(fc.values).sum(axis=1, dtype=np.float64)
    wanted, begun = fc.values.sum(axis=1, dtype=np.float64), list[tuple[Array, int]]()
    for conv in convs:
        if len(conv.values) == len(fc.values):
            sums, columns = conv.values.sum(axis=1, dtype=np.float64), int(conv.values.any(axis=0).sum())
            begun = [(before + sums, count + columns) for before, count in [*begun, (np.zeros_like(sums), 0)]]
            if any(n < fc.values.shape[1] and (np.abs(found - wanted) <= eps).all() for found, n in begun):
                return True
    return False


def _directions(values: Array) -> Array:
    """A few projections of every column, of length one and a positive first: the same for every multiple of it."""
    random = np.random.default_rng(0).standard_normal((_PROJECTIONS, len(values)))
    sums = np.zeros((_PROJECTIONS, values.shape[1]))
    for place, rows, _ in _blocks(values, values):
        sums += random[:, place] @ rows.astype(np.float64)
    length = np.linalg.norm(sums, axis=0) * np.where(sums[0] < 0, -1, 1)
    found: Array = np.divide(sums, length, out=np.zeros_like(sums), where=length != 0)
    return found


def _nearest(wanted: Array, have: Array) -> Array:
    """For each column the one whose direction is nearest, among neighbours in the order of one projection."""
    order = np.argsort(have[0], kind="stable")
    at = np.searchsorted(have[0][order], wanted[0])
    best, distance = np.zeros(len(at), np.int64), np.full(len(at), np.inf)
    for near in range(-_NEAR, _NEAR):
        place = order[np.clip(at + near, 0, len(order) - 1)]
        found = np.abs(wanted - have[:, place]).max(axis=0)
        best, distance = np.where(found < distance, place, best), np.minimum(found, distance)
    return best


def _column_errors(fc: Array, conv: Array, columns: Array, *, alike: bool) -> Array:
    """How far each column of ``fc`` is from a multiple of its column of ``conv``, infinite where it is none; ``alike``:
    no multiple but the column itself."""
    top, end, largest = (np.zeros(fc.shape[1]) for _ in range(3))
    for place, rows, _ in _blocks(fc, fc):
        want, got = rows.astype(np.float64), conv[place][:, columns].astype(np.float64)
        top += (want * got).sum(axis=0)
        end += (want * want).sum(axis=0)
        largest = np.maximum(largest, np.abs(got).max(axis=0))
    scale = np.divide(top, end, out=np.zeros_like(top), where=end > 0)
    scale = np.ones_like(scale) if alike else scale
    error = np.zeros_like(scale)
    for place, rows, _ in _blocks(fc, fc):
        got = conv[place][:, columns].astype(np.float64)
        error = np.maximum(error, np.abs(got - rows.astype(np.float64) * scale).max(axis=0))
    relative = np.divide(error, largest, out=np.full_like(error, np.inf), where=largest > 0)
    return np.where(relative <= 2 * _eps(fc, conv), relative, np.inf)
