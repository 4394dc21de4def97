"""Counts of places that are written down in the file, as exporters leave them, beside sums over the whole image.

A mean of squared deviations times N / (N - 1), a sum (of products: a covariance) divided by N - 1 or N, the logarithm
of N: N is the native number of places. The network itself has another one at another size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple, TypeVar

import onnx

from onnxfc.analysis.flow import Flow, Look
from onnxfc.analysis.written_counts import CLOSE, MOVES, is_written, number
from onnxfc.builder.state import Unbiased
from onnxfc.graph.einsum_equation import letters_of
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import ADDITIVE, MEANS, SCALING

_ONWARD = {*MEANS, *MOVES, "Abs", "Neg", "ReduceMax", "ReduceMin", "Relu", "Sign", "Sqrt"}
"""What a figure may go through on its way to a count of places, beside powers and numbers."""
_FEW = 3
"""So few places are no count to be told from other numbers; nor is their root from a half."""
_NEAR = 1e-5

_Found = TypeVar("_Found")
_State = TypeVar("_State")
_Step = tuple[_Found | None, _State | None]
"""What was found at a node; as what to follow on what it makes, None where that is not followed."""


@dataclass(frozen=True)
class Counts:
    """Variances and covariances over N - 1, by the node that has made them; those over a part of the places, which are
    not made for another N; sums that are divided by N or N - 1; what else is multiplied with a power of N, and that."""

    made: dict[str, Unbiased] = field(default_factory=dict)
    partly: set[str] = field(default_factory=set)
    sums: set[str] = field(default_factory=set)
    times: dict[str, tuple[Fraction, int]] = field(default_factory=dict)


def unbiased(flow: Flow) -> Counts:
    """The counts that stand beside each look."""
    counts = Counts()
    for look in flow.looks.values():
        summed = _summed_up(flow, look)
        if summed.elements > 1 and flow.graph.producers[look.name].op_type in MEANS:
            _beside_mean(flow, look, summed, counts)
        elif summed.elements > 1 and _is_mean_by_hand(flow, look, summed, counts):
            counts.sums.add(look.name)
        _beside_difference(flow, look, summed, counts)
    return counts


def _beside_mean(flow: Flow, look: Look, summed: _Summed, counts: Counts) -> None:
    """A mean of squares is a variance times N / (N - 1); a mean, or a variance, times N is a sum."""
    squares, (count, axes, whole) = flow.graph.producers[look.name].input[0], summed
    less = (count / (count - 1),) if _are_squares(flow, squares) else ()
    made = {name: Unbiased(squares, axes, count) for name in _scaled_by(flow, look.name, less)[0]}
    if whole:
        counts.made.update(made)
    else:
        counts.partly.update(made)
    alone = not (flow.of_kind(look.own, "weights") or look.own & flow.shares.keys())  # of weights
    for name in (made or [look.name]) if alone and count > _FEW else ():
        counts.times.update(_times_count(flow, name, count))
        lengths = [flow.native[squares].native[axis] for axis in axes]
        counts.times.update(item for item in _times_lengths(flow, name, lengths) if item[0] not in counts.times)


def _beside_difference(flow: Flow, look: Look, summed: _Summed, counts: Counts) -> None:
    """A mean of products less a product of means is a covariance, wherever N / (N - 1) stands behind it."""
    node, (count, axes, whole) = flow.graph.producers[look.name], summed
    if count <= _FEW or node.op_type not in {*MEANS, "MatMul", "ReduceSum"}:
        return
    for name, power in _over_less(flow, look.name, count):
        if whole:
            counts.made.setdefault(name, Unbiased(node.input[0], axes, count, power))
        elif name not in counts.made:
            counts.partly.add(name)


_Less = tuple[bool, float]
"""Whether something was taken from a figure, and by which numbers it was multiplied since."""


def _over_less(flow: Flow, name: str, count: int) -> Iterator[tuple[str, float]]:
    """Where a difference of figures is multiplied with a power of N / (N - 1), and that power."""

    def step(node: onnx.NodeProto, name: str, known: _Less) -> _Step[tuple[str, float], _Less]:
        (less, factor), by = known, _factor(flow, node, name)
        powers = [_power_of(n, count / (count - 1)) for n in (by, factor * by)] if less and by else []
        power = next((power for power in powers if power is not None), None)
        if power is not None:
            return (node.output[0], power), None
        if by is None and node.op_type not in {*_ONWARD, *ADDITIVE}:
            return None, None
        return None, (less or node.op_type == "Sub", factor * by if by else 1.0)

    return _followed(flow, name, (False, 1.0), step)


def _followed(
    flow: Flow, name: str, state: _State, step: Callable[[onnx.NodeProto, str, _State], _Step[_Found, _State]]
) -> Iterator[_Found]:
    """What is found on the ways from a tensor on. A tensor that several ways lead to is followed once as the same."""

    def ways(name: str, state: _State) -> list[tuple[onnx.NodeProto, str, _State]]:
        return [(node, name, state) for node in [*flow.graph.readers.get(name, ())][::-1]]

    waiting, seen = ways(name, state), {(name, state)}
    while waiting:
        node, read, known = waiting.pop()
        found, onward = step(node, read, known)
        made = node.output[0]
        if found is not None:
            yield found
        if onward is not None and (made, onward) not in seen:
            seen.add((made, onward))
            waiting += ways(made, onward)


def _power_of(by: float, base: float) -> float | None:
    """Which power of the base a number is; None where it is another."""
    return next((power for power in (1.0, 0.5, -1.0, -0.5) if math.isclose(by, base**power, rel_tol=CLOSE)), None)


def _is_mean_by_hand(flow: Flow, look: Look, summed: _Summed, counts: Counts) -> bool:
    """Whether a sum is divided by N or N - 1; it is noted where that makes a variance of it."""
    node, (count, axes, whole) = flow.graph.producers[look.name], summed
    if node.op_type == "ReduceLogSumExp":
        return whole and _less_logarithm(flow, look.name, math.log(count))
    if node.op_type not in {"Einsum", "MatMul", "ReduceL1", "ReduceSum"}:
        return False
    less = 1 / (count - 1)
    wanted = (*((less,) if look.kind == "product" or _are_squares(flow, node.input[0]) else ()), 1 / count)
    if node.op_type == "MatMul":  # a Gram matrix, by the number of all features
        wanted += (1 / math.prod(flow.native[node.input[0]].native[-2:]),)
    found, each = _scaled_by(flow, look.name, wanted)
    made = {name: Unbiased(node.input[0], axes, count) for name, by in found.items() if by == less}
    if not whole:
        counts.partly.update(made)
        return each and not made
    counts.made.update(made)
    return each


class _Times(NamedTuple):
    """A mean of so many places, or what was made of it; one after another, of as many each time. ``grown``: how often
    more it was multiplied with what is computed from the image's size than divided by such."""

    places: tuple[int, ...]
    rooted: bool = False
    grown: int = 0


def _times_count(flow: Flow, name: str, count: int) -> Iterator[tuple[str, tuple[Fraction, int]]]:
    """Where a mean, or a power of it, is multiplied with or divided by its native count, or the root of that."""

    def step(node: onnx.NodeProto, name: str, known: _Times) -> _Step[tuple[str, tuple[Fraction, int]], _Times]:
        made, by, more = node.output[0], _factor(flow, node, name), _by_size(flow, node, name)
        rooted = known.rooted or bool(by and not is_written(by))  # what nobody writes is its root
        powers = ((n, _power(by or 0, n, rooted)) for n in known.places if known.grown == 0)
        for places, power in powers:
            if power is not None:
                return (made, (power, places)), None
        root = node.op_type == "Sqrt" or (node.op_type == "Pow" and number(flow, node.input[1]) == 0.5)
        mean = made in flow.looks and node.op_type in MEANS
        if not (mean or by is not None or more or root or _goes_on(flow, node)):
            return None, None
        also = {n * _summed_up(flow, flow.looks[made]).elements for n in known.places} if mean else set[int]()
        return None, _Times(tuple(sorted({*known.places, *also})), known.rooted or root, known.grown + more)

    return _followed(flow, name, _Times((count,)), step)


def _times_lengths(flow: Flow, name: str, lengths: Sequence[int]) -> Iterator[tuple[str, tuple[Fraction, int]]]:
    """Where a mean over these lengths is multiplied with one of them, some times their product, or a large number that
    nobody writes, as the native image's number of pixels is: a sum of some kind."""
    count = math.prod(lengths)
    known = {*lengths, *(count * k for k in range(2, _LARGE)), *(count / k for k in range(2, _LARGE))}
    meant = [n for n in known if n > _FEW] if len(lengths) > 1 else []

    def step(node: onnx.NodeProto, name: str, by: float) -> _Step[tuple[str, tuple[Fraction, int]], float]:
        factor, made = _factor(flow, node, name), node.output[0]
        by *= factor or 1.0
        scaled = factor not in (None, 1.0)
        if scaled and (any(math.isclose(by, n, rel_tol=_NEAR) for n in meant) or (by > _LARGE and not is_written(by))):
            return (made, (Fraction(1), count)), None
        return None, by if factor is not None or node.op_type in MEANS else None

    return _followed(flow, name, 1.0, step)


_LARGE = 16
"""So many times a mean is seldom taken."""


def _power(by: float, count: int, rooted: bool) -> Fraction | None:
    """Which power of the count a number is: 1, -1 or, behind a root, one half of these."""
    powers = [Fraction(sign, of) for of in ((1, 2) if rooted and count > _FEW + 1 else (1,)) for sign in (1, -1)]
    return next((power for power in powers if math.isclose(by, count**power, rel_tol=_NEAR)), None)


def _by_size(flow: Flow, node: onnx.NodeProto, name: str) -> int:
    """1 where a node multiplies its input with what is computed from the image's size, -1 where it divides by such."""
    others = [item for item in node.input if item != name]
    if node.op_type not in SCALING or len(others) != 1 or others[0] in flow.layouts or not flow.measured(others[0]):
        return 0
    return 1 if node.op_type == "Mul" else -1


def _goes_on(flow: Flow, node: onnx.NodeProto) -> bool:
    """Whether it makes a figure of one like it; gives a magnitude its sign again, say."""
    made_by = {flow.graph.producers[name].op_type for name in node.input if name in flow.graph.producers}
    return node.op_type in _ONWARD or (node.op_type == "Mul" and "Sign" in made_by)


def _less_logarithm(flow: Flow, name: str, logarithm: float) -> bool:
    """Whether the logarithm of the native number of places is taken from all that comes of it, moved and scaled."""
    readers = flow.graph.readers.get(name, ())
    for node in readers:
        by, other = _factor(flow, node, name), number(flow, node.input[1]) if len(node.input) > 1 else None
        taken = node.op_type in ADDITIVE and node.input[0] == name and other is not None
        if taken and math.isclose(other or 0, logarithm if node.op_type == "Sub" else -logarithm, rel_tol=CLOSE):
            continue
        if by is None or not _less_logarithm(flow, node.output[0], logarithm * by):
            return False
    return bool(readers) and name not in flow.graph.outputs


class _Summed(NamedTuple):
    """How many elements are summed up, 0 if that is not known, and along which axes; whether no place is left."""

    elements: int
    axes: tuple[int, ...]
    whole: bool


def _summed_up(flow: Flow, look: Look) -> _Summed:
    """What a look sums up of the map."""
    node = flow.graph.producers[look.name]
    held = flow.layouts.get(node.input[0])
    alone = node.op_type == "Einsum" and len(node.input) == 1
    if held is None or (look.kind not in ("pool", "cover", "product") and not alone):
        return _Summed(0, (), False)
    shape = flow.native[node.input[0]].native
    axes = _summed_axes(node, flow) if look.kind == "product" or alone else look.axes
    return _Summed(math.prod(shape[axis] for axis in axes), axes, held.solid <= look.gone)


def _summed_axes(node: onnx.NodeProto, flow: Flow) -> tuple[int, ...]:
    """The axes of a product's first factor that the result lacks."""
    ranks = [len(flow.native[name].native) for name in node.input]
    if node.op_type != "Einsum":
        return (ranks[0] - 1,)
    terms, out = letters_of(str(attributes(node)["equation"]), ranks)
    return tuple(axis for axis, letter in enumerate(terms[0]) if letter not in out)


def _are_squares(flow: Flow, name: str) -> bool:
    """Whether a tensor is that of squared differences, moved at most."""
    node = flow.graph.maker(name, past=MOVES)
    if node is None or node.op_type not in ("Mul", "Pow"):
        return False
    first, second = node.input
    root = flow.graph.producers.get(first)
    squared = first == second if node.op_type == "Mul" else number(flow, second) == 2
    return squared and root is not None and root.op_type == "Sub"


def _scaled_by(flow: Flow, name: str, wanted: tuple[float, ...], factor: float = 1.0) -> tuple[dict[str, float], bool]:
    """Tensors that are this one times one of ``wanted``, by a number or by several that follow each other at once, and
    that number; whether nothing else is made of it."""
    readers = flow.graph.readers.get(name, ())
    found, each = dict[str, float](), bool(readers) and name not in flow.graph.outputs
    for node in readers:
        by, made = _factor(flow, node, name), node.output[0]
        if by is None:
            each = False
            continue
        at = next((item for item in wanted for n in (factor * by, by) if math.isclose(n, item, rel_tol=CLOSE)), None)
        more, rest = ({made: at}, True) if at is not None else _scaled_by(flow, made, wanted, factor * by)
        found, each = found | more, each and rest
    return found, each


def _factor(flow: Flow, node: onnx.NodeProto, name: str) -> float | None:
    """The number by which a node scales this input; 1 where it moves it, None where it makes something else of it."""
    other = node.input[1] if len(node.input) > 1 and node.input[0] == name else node.input[0]
    if node.op_type in SCALING and other != name and (by := number(flow, other)):
        inverse = node.op_type == "Div"
        return None if inverse and node.input[0] != name else 1 / by if inverse else by
    return 1.0 if node.op_type in MOVES else None
