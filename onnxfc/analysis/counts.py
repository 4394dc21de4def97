"""Sums that are divided by their count: means, however far from the sum the division stands.

From the sum on, along def-use edges, it is followed how what comes of it grows with the image: a mean grows no more.
A way ends where it is spread over places again. No order of nodes and no distance counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import onnx

from onnxfc.graph.index import Graph
from onnxfc.graph.op_kinds import BROADCAST

Growth = tuple[float, ...]
"""How large something is at one image size after another, but for a factor that is the same at all of them."""
Number = Callable[[str], "Growth | bool"]
"""A number that follows the image's size, at those sizes; whether it follows it, where it is not known there."""
Spreads = Callable[[onnx.NodeProto, str], bool]
"""Whether a node spreads this input over places."""
Found = Literal["count", "other", "nothing"]
"""By what a sum is divided: by its count; by a number that follows the size in another way; by no such number."""

_LINEAR = {"Abs", "Cast", "Concat", "Conv", "Dropout", "Einsum", "Expand", "Flatten", "Gather", "Gemm", "Identity"}
_LINEAR |= {"LeakyRelu", "MatMul", "Mean", "Mul", "Neg", "PRelu", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean"}
_LINEAR |= {"ReduceMin", "ReduceSum", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Sum", "Transpose"}
_LINEAR |= {"Add", "Unsqueeze"}
"""What they make of a multiple of their input is the same multiple, but for constants added."""


@dataclass(frozen=True)
class _Way:
    """A tensor that comes from the sum; how it grows (None: not known), and whether a number was reckoned with."""

    tensor: str
    growth: Growth | None
    reckoned: bool

    @property
    def found(self) -> Found:
        """What is known here, if the way goes no further."""
        if not self.reckoned:
            return "nothing"
        return "count" if self.growth is None or _steady(self.growth) else "other"


def divisor(graph: Graph, total: str, growth: Growth | None, number: Number, spreads: Spreads) -> Found:
    """By what the sum ``total`` is divided on its ways. ``growth``: of the sum, None where it is not known.

    Where it is divided on one way and not on another, the network reckons with the image's size: by its count.
    """
    ways = [_Way(total, growth, False)]
    seen, ends = set(ways), set[Found]()
    for way in ways:
        on = [] if way.found == "count" or not way.tensor else list(_behind(graph, way, number, spreads))
        ends |= set() if on else {way.found}
        ways += [made for made in dict.fromkeys(on) if made not in seen]
        seen.update(on)
    return "other" if "other" in ends else "count" if "count" in ends else "nothing"


def _behind(graph: Graph, way: _Way, number: Number, spreads: Spreads) -> Iterator[_Way]:
    """The ways on from a tensor; one that names no tensor is at its end."""
    for node in graph.readers.get(way.tensor, ()):
        if way.tensor not in node.input or spreads(node, way.tensor):
            yield replace(way, tensor="")
            continue
        numbers = [number(name) for name in node.input if name != way.tensor] if node.op_type in BROADCAST else []
        numbers = [found for found in numbers if found is not False]
        growth = _reckoned(node, way, numbers) if numbers else _grown(node, way)
        if growth is None and way.found == "other" and not numbers:
            yield replace(way, tensor="")  # it goes on as what it is
            continue
        yield from (_Way(name, growth, way.reckoned or bool(numbers)) for name in node.output if name)


def _reckoned(node: onnx.NodeProto, way: _Way, numbers: Sequence[Growth | bool]) -> Growth | None:
    """The growth of what a node makes of it with numbers that follow the size."""
    known = numbers[0]
    if node.op_type not in {"Div", "Mul"} or way.growth is None or not isinstance(known, tuple):
        return None
    pairs = list(zip(way.growth, known, strict=True))
    if node.op_type == "Mul":
        return tuple(a * b for a, b in pairs)
    return tuple(a / b if node.input[0] == way.tensor else b / a for a, b in pairs)


def _grown(node: onnx.NodeProto, way: _Way) -> Growth | None:
    """The growth of what a node makes of it alone, or with what does not follow the size."""
    power = 1.0 if node.op_type in _LINEAR else {"Sqrt": 0.5, "Reciprocal": -1.0}.get(node.op_type)
    if node.op_type == "Mul":
        power = float(list(node.input).count(way.tensor))
    elif node.op_type == "Div":
        power = float((node.input[0] == way.tensor) - (node.input[1] == way.tensor))
    return None if power is None or way.growth is None else tuple(value**power for value in way.growth)


def _steady(growth: Growth) -> bool:
    """Whether it no longer grows; a count less one is a count, at sizes large enough."""
    return max(growth) <= min(growth) * (1 + _CLOSE)


_CLOSE = 1e-3
"""How far from none a growth may be, between sizes of thousands of pixels."""
