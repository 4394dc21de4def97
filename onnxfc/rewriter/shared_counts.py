"""What a Softmax or norm over places shared out, times their native number, however the product is spelled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import onnx

from onnxfc.analysis.written_counts import is_written
from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes, inputs_of, label
from onnxfc.graph.op_kinds import (
    ADDITIVE,
    ARG,
    COPYING,
    CUTTING,
    LAYER_NORMS,
    MEANS,
    PRODUCTS,
    REORDERING,
    SAME_VALUES,
    SCALING,
    SUMS,
    UNARY,
    axes_along,
)
from onnxfc.layout.axes import places_in
from onnxfc.layout.views import Context, Placed, is_map
from onnxfc.rewriter.native_numbers import COMPARING, export_open, few_numbers, plain
from onnxfc.rewriter.side_numbers import FEWEST, near
from onnxfc.shapes.image_inputs import Image


@dataclass(frozen=True)
class _Scaled:
    """What is known of a tensor's scale. ``counts``: among how many places it was shared out natively, to the power
    that was taken of it since; ``by``: the plain numbers that it was multiplied by, all in all; ``sides``: how many
    these places are along each axis. ``summed``: some of the places were summed up."""

    counts: frozenset[float] = frozenset()
    by: frozenset[float] = frozenset({1.0})
    sides: frozenset[float] = frozenset()
    summed: bool = False

    def to(self, power: float) -> _Scaled:
        counts, by, sides = (
            frozenset(_raised(n, power) for n in part if n) for part in (self.counts, self.by, self.sides)
        )
        return _few(counts, by, sides, self.summed)

    def times(self, other: _Scaled) -> _Scaled:
        both = {a * b for a, b in product(self.counts, other.counts)}
        by = frozenset(a * b for a, b in product(self.by, other.by))
        return _few(self.counts | other.counts | both, by, self.sides | other.sides, self.summed or other.summed)

    @property
    def held(self) -> bool:
        """Whether a number of these is the number of places, or one over it, or that along an axis; a square or root of
        one that is no small number, or some times it; or a large number that nobody writes, as that of the native
        image's pixels is."""
        sure = [n for n in self.counts if n != 1]
        some = [n * k for n in sure if n >= FEWEST for k in range(2, _FEW + 1)]
        some += [n / k for n in sure for k in range(2, _FEW + 1) if n / k >= FEWEST]
        powers = [n**power for n in sure if n >= FEWEST**2 for power in (0.5, 2)]
        known = (*sure, *some, *powers, *self.sides)
        odd = bool(sure) and any(n > FEWEST and not is_written(n) for n in self.by)
        return odd or any(near(number, {n, 1 / n}) for number in self.by for n in known)


_FEW = 16
"""Products of plain numbers; of more, none is the one that all was multiplied by."""
_LARGEST = 1e18
"""No power of a number of places that a model reckons with is larger; nor is one over it."""


def _few(counts: frozenset[float], by: frozenset[float], sides: frozenset[float], summed: bool) -> _Scaled:
    parts = (counts, by, sides)
    counts, by, sides = (frozenset(n for n in part if 1 / _LARGEST < abs(n) < _LARGEST) for part in parts)
    return _Scaled(counts, by if 0 < len(by) <= _FEW else frozenset({1.0}), sides, summed)


def _raised(number: float, power: float) -> float:
    """A power of its magnitude; infinite where that is too large to be held."""
    try:
        return float(abs(number) ** power)
    except OverflowError:
        return math.inf


_WHAT = "what a Softmax or norm shares out"
_CARRYING = {*REORDERING, *SAME_VALUES, *CUTTING, *COPYING, *ADDITIVE, "Gather", "Concat", "Neg", "Abs", "Relu", "Clip"}
_CARRYING |= {"Conv", "Dropout", "LeakyRelu", "Max", "Min", "Pad", "ReduceMax", "ReduceMin", "Sum", "Where"}
"""What makes something of shares that is as large as these are; the places are not summed up."""
_LEVEL = {*ARG, *LAYER_NORMS, "LpNormalization", "Sign"}
"""What is the same of any multiple."""
_CURVES = {*UNARY, "Softmax"} - {*_CARRYING, *_LEVEL, "Cast", "CastLike", "Identity", "Reciprocal", "Sqrt"}
_CURVES -= {"BitwiseNot", "DequantizeLinear", "IsInf", "IsNaN", "Not", "QuantizeLinear"}
"""What makes of a multiple of something no multiple of what it makes of that."""


def by_shared_count(state: State, reading: Sequence[Image]) -> Refusal | None:
    """What a Softmax or norm over places shared out, times their native number, where nothing sums it up again: another
    size has another number of them."""
    if not any(_shared(state, node) for node in state.graph.live):
        return None
    found: dict[str, _Scaled] = {}
    for node in state.graph.live:
        found |= dict.fromkeys(filter(None, node.output), _made(state, node, found))
        if _holds_figures(state, node, found):
            why = f"has sums of {_WHAT}, scaled by the native number of its places, a plain number"
            return Refusal("size-locked", label(node), f"{node.op_type} {why}", export_open(state, reading))
        if why := _bent(state, node, found):
            why = f"{node.op_type} {why} the native number of its places, a plain number"
            return Refusal("size-locked", label(node), why, export_open(state, reading))
        name = node.output[0]
        held = node.op_type in SCALING and found[name].held and isinstance(state.views.get(name), Placed)
        if held and state.roles.summed_by(name) is None:
            why = f"scales {_WHAT} by the native number of its places, a plain number"
            return Refusal("size-locked", label(node), f"{node.op_type} {why}", export_open(state, reading))
    return None


def _holds_figures(state: State, node: onnx.NodeProto, found: Mapping[str, _Scaled]) -> bool:
    """Whether a node makes something else of a figure of the image that is scaled so, or such a one is the result: no
    number behind takes it back."""
    read = () if node.op_type in {*_RULES, *_CARRYING, *_LEVEL} else inputs_of(node)
    names = [*read, *(name for name in node.output if name in state.graph.outputs)]
    return any(name in found and found[name].held and isinstance(state.views.get(name), Context) for name in names)


def _bent(state: State, node: onnx.NodeProto, found: Mapping[str, _Scaled]) -> str:
    """What a node makes of scaled shares that no sum behind it makes good: by a curve, or a threshold. What
    a Softmax makes of numbers that were scaled by the root of how many they are is no multiple, either."""
    read = [name for name in inputs_of(node) if name in found and isinstance(state.views.get(name), Placed)]
    if node.op_type == "Softmax" and (counts := _shared(state, node)) and _tempered(state, node, max(counts)):
        return "shares out what was scaled by the root of"
    if node.op_type in _CURVES and any(found[name].held for name in read):
        return f"bends {_WHAT}, times"
    if node.op_type not in COMPARING or not any(found[name].counts for name in read):
        return ""
    first, other = (_known(state, found, node, name) for name in node.input[:2])
    return f"compares {_WHAT} with" if first.times(other.to(-1)).held else ""


def _tempered(state: State, node: onnx.NodeProto, count: float) -> bool:
    """Whether what a Softmax shares out among so many places was scaled by their root, a number that nobody writes."""
    root, maker = math.sqrt(count), state.graph.maker(node.input[0], past=SAME_VALUES)
    while maker is not None and maker.op_type in SCALING:
        numbers = [(name, plain(state, maker, name)) for name in maker.input]
        known = few_numbers([value for _, value in numbers if value is not None])
        if any(not is_written(n) and near(n, {root, 1 / root}) for n in known if n):
            return True
        rest = [name for name, value in numbers if value is None]
        maker = state.graph.maker(rest[0], past=SAME_VALUES) if len(rest) == 1 else None
    return False


def _summed(node: onnx.NodeProto, read: Sequence[_Scaled]) -> _Scaled:
    """Of figures of the whole image. A mean of shares is held at its native scale, with the number beside it."""
    if node.op_type in MEANS and not read[0].summed:
        return _Scaled()
    first, *others = read if node.op_type in PRODUCTS else read[:1]
    for other in others:
        first = first.times(other)
    return replace(first, summed=True)


def _made(state: State, node: onnx.NodeProto, found: Mapping[str, _Scaled]) -> _Scaled:
    """How what a node makes is scaled."""
    if counts := _shared(state, node):
        return _Scaled(counts, sides=_sides(state, node))
    laid = isinstance(state.views.get(node.output[0]), Placed)  # a figure over places again is no share of them
    figures = {name for name in inputs_of(node) if laid and isinstance(state.views.get(name), Context)}
    read = [_Scaled() if name in figures else _known(state, found, node, name) for name in inputs_of(node)]
    if node.op_type in {*SUMS, *MEANS, *PRODUCTS} and isinstance(state.views.get(node.output[0]), Context):
        return _summed(node, read)
    if node.op_type in SUMS and _along_some(state, node):
        return replace(read[0], summed=bool(read[0].counts))
    if rule := _RULES.get(node.op_type):
        return rule(read)
    return _carried(read, node) if node.op_type in _CARRYING else _Scaled()


def _carried(read: Sequence[_Scaled], node: onnx.NodeProto) -> _Scaled:
    """Of what is as large as the shares that it is made of."""
    carried = [item for item in read if item.counts] or (read[:1] if node.op_type not in ADDITIVE else [])
    if not carried:
        return _Scaled()
    counts, by, sides = (
        frozenset[float]().union(*part)
        for part in zip(*((item.counts, item.by, item.sides) for item in carried), strict=True)
    )
    return _few(counts, by, sides, any(item.summed for item in carried))


def _power(read: Sequence[_Scaled]) -> _Scaled:
    return read[0].to(next(iter(read[1].by))) if len(read[1].by) == 1 else _Scaled()


_RULES: Mapping[str, Callable[[Sequence[_Scaled]], _Scaled]] = {
    "Div": lambda read: read[0].times(read[1].to(-1)),
    "Mul": lambda read: read[0].times(read[1]),
    "Pow": _power,
    "Reciprocal": lambda read: read[0].to(-1),
    "Sqrt": lambda read: read[0].to(0.5),
}


def _known(state: State, found: Mapping[str, _Scaled], node: onnx.NodeProto, name: str) -> _Scaled:
    """How something is scaled that a node reads: by itself, where it is a plain number or a few of them."""
    constant = plain(state, node, name)
    if constant is None:
        return found.get(name, _Scaled())
    return _Scaled(by=frozenset(few_numbers([constant]) - {0.0} or {1.0}))


def _shared(state: State, node: onnx.NodeProto) -> frozenset[float]:
    """Among how many places a node shares out natively, those on axes that are not freed too; none where it does not.
    What is divided by the root of a sum of squares is shared out among the root of them."""
    view, name, roles = state.views.get(node.output[0]), node.output[0], state.roles
    if not isinstance(view, Placed):
        return frozenset()
    if gone := roles.shares.get(name) or roles.norms.get(name):
        sizes = [math.prod(state.native[item].native) for item in inputs_of(node)]
        laid = [atom for group in view.groups for atom in group if atom.kind == "space" and atom.place in gone]
        counts = {float(max(sizes) // max(min(sizes), 1)), float(math.prod(atom.length for atom in laid))} - {1.0}
        return frozenset(counts if name in roles.shares else counts.union(map(math.sqrt, counts)))
    if node.op_type != "Softmax":
        return frozenset()
    shape = state.native[name].native
    axes = axes_along(node.op_type, attributes(node), len(shape), state.graph.opset)
    return frozenset({float(math.prod(shape[axis] for axis in axes))} if _has_places(view, axes) else ())


def _sides(state: State, node: onnx.NodeProto) -> frozenset[float]:
    """How many places it shares out among along each axis, where these are no few."""
    view, name = state.views.get(node.output[0]), node.output[0]
    assert isinstance(view, Placed)
    gone = state.roles.shares.get(name) or state.roles.norms.get(name)
    axes = range(len(view.groups))
    if not gone:
        axes = axes_along(node.op_type, attributes(node), len(view.groups), state.graph.opset)
    atoms = [atom for axis in axes for atom in view.groups[axis] if not gone or atom.place in gone]
    lengths = {atom.length for atom in atoms if atom.kind in ("space", "joined")}
    if any(field.stride.denominator > 1 for field in view.provenance.fields):  # rows, with columns that stay in each
        maps = {n for other in state.views.values() if is_map(other) for n in other.extent}
        lengths |= {n for n in maps if any(length % n == 0 for length in lengths)}
    return frozenset(float(length) for length in lengths if length > _SMALL)


_SMALL = 8
"""Up to here the length of an axis may be any number."""


def _along_some(state: State, node: onnx.NodeProto) -> bool:
    """Whether it sums up places along some axes, while others stay."""
    first, made = (state.views.get(name) for name in (node.input[0], node.output[0]))
    if not isinstance(first, Placed) or not isinstance(made, Placed):
        return False
    return {atom.place for atom in places_in(made.groups)} < {atom.place for atom in places_in(first.groups)}


def _has_places(view: Placed, axes: Iterable[int]) -> bool:
    return any(atom.kind in ("space", "joined") for axis in axes for atom in view.groups[axis])
