"""Sums over the whole image that may stay so: what comes of them does not grow with the image, or they are the result.

From each sum on it is reckoned to which power of it a tensor grows. Divided by another sum, or by the native count of
its places, or normalised, it grows no more. A layer with a bias, or an activation that knows a scale, would see another
one at every size.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations, permutations
from typing import Literal

import onnx

from onnxfc.analysis.flow import Flow
from onnxfc.analysis.layouts import NONE, Names, places
from onnxfc.analysis.written_counts import CLOSE, is_written
from onnxfc.graph.index import attributes, inputs_of
from onnxfc.graph.op_kinds import (
    ADDITIVE,
    ARG,
    CUTTING,
    IDLE,
    LAYER_NORMS,
    LENGTHS,
    MAP_NORMS,
    RESHAPING,
    SAME_VALUES,
    SCALING,
)

_MOVES = {*CUTTING, *IDLE, *RESHAPING, *SAME_VALUES, "Expand", "Gather", "Transpose"}
_SCALED = {
    "Abs",
    "LeakyRelu",
    "Neg",
    "Relu",
    "ReduceL1",
    "ReduceL2",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceSum",
}
_POWERS = {"Reciprocal": Fraction(-1), "ReduceSumSquare": Fraction(2), "Sqrt": Fraction(1, 2)}
_ALIKE = {"Add", "Clip", "Concat", "Max", "Mean", "Min", "Sub", "Sum"}
_BESIDE = {"Add", "Clip", "Max"}
"""What may hold a number that keeps a count from being too small: sum(x * m) / (sum(m) + 1)."""
_LEVEL = {*ARG, *LAYER_NORMS, *MAP_NORMS, "LpNormalization", "Sign"}
_WRITTEN = {"ScatterElements", "ScatterND"}
"""Slice assignment: figures side by side, as a loop over clusters writes them."""
_PRODUCTS = {"Einsum", "Gemm", "MatMul"}
_SMALL = 1e-3
"""A constant that only keeps a divisor from being nothing."""

End = Literal["level", "plain", "result", "other"]
"""What comes of a sum does not grow; it does not, but a number stands beside the sum, which is meant as it is; it is
the network's result; or anything else."""


@dataclass(frozen=True)
class KeptSums:
    """Sums of which all that comes is ``level``; those that are, moved and scaled at most, ``results`` of the network;
    those that a number of the file divides by the native count of their places: ``counted``."""

    level: Names
    results: Names
    counted: Names


def kept_sums(flow: Flow, times: Mapping[str, tuple[Fraction, int]]) -> KeptSums:
    """What comes of each sum over the whole image.

    ``times``: means times a power of the native count of their places, that power and the count: as good as sums.
    """
    found = _Sums(flow, times)
    results = found.with_ends("result") | found.with_ends("plain")
    return KeptSums(found.with_ends("level"), results, frozenset(found.counted))


def _made_of(number: float, places: int) -> bool:
    """Whether a divisor is a number of places, or a small part of one."""
    part = places / number
    return 0.5 < part < min(places, _TIMES) and math.isclose(part, round(part), rel_tol=CLOSE)


_TIMES = 16.5
"""So many times a mean may be meant."""


def _size(flow: Flow, name: str) -> list[int]:
    """The lengths of an image along its places."""
    axes = flow.layouts[name].axes or ()
    return [n for n, held in zip(flow.native[name].native, axes, strict=False) if places(held)]


class _Sums:
    """Powers of tensors, where they grow; of which sums they come; how the ways of each sum end."""

    def __init__(self, flow: Flow, times: Mapping[str, tuple[Fraction, int]]) -> None:
        self.times = times
        self.flow, self.power, self.of = flow, dict[str, Fraction](), defaultdict[str, Names](frozenset)
        self.bare: set[str] = set()
        self.counts: dict[str, int] = {}
        self.lengths: dict[str, list[int]] = {}
        self.beside: set[str] = set()
        self.counted: set[str] = set()
        self.ends: defaultdict[str, set[End]] = defaultdict(set)
        self.images = [_size(flow, info.name) for info in flow.graph.inputs if info.name in flow.layouts]
        for node in flow.graph.live:
            self._visit(node)
        for name in self.power.keys() & set(flow.graph.outputs):
            self._end(name, "result" if name in self.bare else "other")

    def with_ends(self, end: End) -> Names:
        return frozenset(name for name, ends in self.ends.items() if ends == {end})

    def _end(self, name: str, end: End) -> None:
        for source in self.of[name]:
            self.ends[source].add(end)

    def _visit(self, node: onnx.NodeProto) -> None:
        read = () if node.op_type in LENGTHS else inputs_of(node)
        growing = [item for item in read if item in self.power]
        if not growing:
            self._begin(node)
            return
        made = self._power(node)
        if not made:
            plain = any(not self.beside.isdisjoint(self.of[item]) for item in growing)
            for item in growing:
                self._end(item, "other" if made is None else "plain" if plain else "level")
        else:
            for output in node.output:
                self.power[output], self.of[output] = made, NONE.union(*(self.of[item] for item in growing))
            self.bare.update(node.output if made == 1 and self._is_bare(node, growing) else ())

    def _is_bare(self, node: onnx.NodeProto, growing: Sequence[str]) -> bool:
        """Whether these are sums as such yet: moved, side by side, or counted from another number or in another unit,
        which is no number of their places."""
        others = [name for name in node.input if name not in {*growing, ""}]
        if not self.bare.issuperset(growing):
            return False
        if node.op_type == "Concat":
            return not others
        if node.op_type in ADDITIVE:
            return all(map(self._constant, others)) and len(growing) == 1
        return node.op_type in _MOVES or (node.op_type in SCALING and not self._counts_places(node, growing, others))

    def _counts_places(self, node: onnx.NodeProto, growing: Sequence[str], others: Sequence[str]) -> bool:
        """Whether what a sum is scaled by may be made of how many places it sums up, of some of its axes, or of the
        image."""
        lengths = [self.lengths[source] for source in self.of[growing[0]] if source in self.lengths]
        return len(growing) > 1 or self._may_count(node, others, lengths, 1.0)

    def _may_count(
        self, node: onnx.NodeProto, others: Sequence[str], lengths: Sequence[Sequence[int]], power: float
    ) -> bool:
        """Whether a number of a node may be made of these lengths, once it is raised to a power."""
        numbers = [abs(value) for name in others for value in self._constant(name) or [0.0]]
        by = [(1 / n if node.op_type == "Mul" else n) ** power for n in numbers if n]
        known = {math.prod(some) for own in lengths for k in range(len(own)) for some in combinations(own, k + 1)}
        known |= {math.prod(size) for size in self.images}
        return len(by) < len(numbers) or any(not is_written(n) or any(_made_of(n, many) for many in known) for n in by)

    def _scaled_before(self, name: str, lengths: Sequence[int]) -> bool:
        """Whether what is summed up was scaled by such a number at once: x / N, summed up, is a mean."""
        graph, power = self.flow.graph, 1.0
        while node := graph.producers.get(name):
            growing = [item for item in dict.fromkeys(node.input) if item in self.flow.layouts]
            others = [item for item in node.input if item and item not in growing]
            if len(growing) != 1 or node.op_type not in {*_MOVES, *SCALING, "Pow", "Sqrt"}:
                return False
            if node.op_type == "Pow":
                power *= abs((self._constant(node.input[1]) or [1.0])[0])
            elif node.op_type == "Sqrt" or len(node.input) > len(growing) + len(others):
                power *= 0.5 if node.op_type == "Sqrt" else 2.0
            elif node.op_type in SCALING and len(self._constant(others[0]) or ()) == 1:
                if self._may_count(node, others, [lengths], power):
                    return True
            elif node.op_type in SCALING:
                return False
            name = growing[0]
        return False

    def _begin(self, node: onnx.NodeProto) -> None:
        """Note what is a sum, or as good as one, and computed from none."""
        name = node.output[0]
        if name in self.times:
            self.power[name], self.counts[name] = self.times[name]
        elif self._is_sum(node):
            self.power[name] = Fraction(1)
            first, look = self.flow.layouts[node.input[0]], self.flow.looks[name]
            if look.kind == "product":  # which is held at its native scale
                self.counts[name] = math.prod(first.length(place) for place in look.gone)
            shape = self.flow.native[node.input[0]].native
            self.lengths[name] = [shape[axis] for axis in look.axes if axis < len(shape) and shape[axis] > 1]
            if not self._scaled_before(node.input[0], self.lengths[name]):
                self.bare.add(name)
        else:
            return
        self.of[name] = frozenset({name})

    def _is_sum(self, node: onnx.NodeProto) -> bool:
        """Whether it sums up places, and nothing that weights of these shared out."""
        look = self.flow.looks.get(node.output[0])
        if look is None or look.own or look.name in self.flow.divisors:
            return False
        return look.kind == "product" or (look.kind == "pool" and node.op_type == "ReduceSum")

    def _power(self, node: onnx.NodeProto) -> Fraction | None:
        """To which power of the sums the output grows; None where it is no power of them."""
        kind, given = node.op_type, [name for name in node.input if name]
        powers = [self.power.get(name, Fraction(0)) for name in given]
        if kind in _LEVEL:
            return Fraction(0)
        if kind in _MOVES | _SCALED | _POWERS.keys():
            return powers[0] * _POWERS.get(kind, Fraction(1)) if not any(powers[1:]) else None
        if kind in _ALIKE:
            return self._alike(node, given, powers)
        if kind in _WRITTEN:
            return self._written(node, given[0], powers)
        if kind in SCALING:
            made = powers[0] + powers[1] * (1 if kind == "Mul" else -1)
            return Fraction(0) if self._by_count(kind, given) else made
        if kind == "Pow":
            return self._raised(powers, given)
        if kind in _PRODUCTS:
            return sum(powers, Fraction(0)) if kind != "Gemm" or len(given) < 3 else None
        return None

    def _alike(self, node: onnx.NodeProto, given: Sequence[str], powers: Sequence[Fraction]) -> Fraction | None:
        """The one power of all that is no number; numbers beside a sum are noted."""
        numbers = {name for name in given if node.op_type in _BESIDE and len(given) < 3 and self._constant(name)}
        if not all(map(self._is_small, numbers)):
            self.beside.update(*(self.of.get(name, NONE) for name in given))
        small = numbers | set(filter(self._is_small, given))
        held = {power for name, power in zip(given, powers, strict=True) if name not in small}
        return held.pop() if len(held) == 1 and not attributes(node).keys() & {"min", "max"} else None

    def _written(self, node: onnx.NodeProto, into: str, powers: Sequence[Fraction]) -> Fraction | None:
        """The power of what is written among figures of the same power, or into zeros."""
        plain = not powers[1] and attributes(node).get("reduction", "none") == "none"
        alike = powers[0] == powers[2] or not any(self._constant(into) or [1])
        return powers[2] if plain and alike else None

    def _by_count(self, kind: str, given: Sequence[str]) -> bool:
        """Whether a sum is divided by the native count of its places, a number that makes it a mean, or a power of it
        by that of the count."""
        for name, other in permutations(given, 2) if kind == "Mul" else [given]:
            if not self.beside.isdisjoint(self.of.get(name, NONE)):
                continue
            value, counts = self._constant(other), {self.counts.get(source, 0) for source in self.of[name]}
            power = float(self.power.get(name, 0))
            if power and value and len(value) == len(counts) == 1 and (count := counts.pop()):
                by = value[0] if kind == "Div" else 1 / (value[0] or math.inf)
                if math.isclose(by, count**power, rel_tol=CLOSE):
                    self.counted |= NONE if self.flow.measured(other) else self.of[name]
                    return True
                return False
        return False

    def _is_small(self, name: str) -> bool:
        value = self._constant(name)
        return value is not None and max(map(abs, value)) <= _SMALL

    def _constant(self, name: str) -> Sequence[float] | None:
        """A few numbers that are known."""
        value = self.flow.native[name].constant if name not in self.flow.layouts else None
        return None if value is None or value.size == 0 or value.dtype.kind not in "fiu" else value.ravel().tolist()

    def _raised(self, powers: Sequence[Fraction], given: Sequence[str]) -> Fraction | None:
        exponent = self._constant(given[1])
        return powers[0] * Fraction(exponent[0]) if exponent is not None and len(exponent) == 1 else None
