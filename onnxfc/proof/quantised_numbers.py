"""Which scales, zero points and integers of a rewritten model are the original's: read off both files, nothing is run.

A rewrite makes none of its own, but for a few that follow from the original's. One of the trunk that is off by one may
move a score no further than rounding does, and is seen here all the same.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
import onnx

from onnxfc.io.model_file import ModelFile
from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Stored, Weights

_AT: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("DequantizeLinear", "QuantizeLinear"), (1,)),
    **dict.fromkeys(("QLinearAdd", "QLinearConv", "QLinearMatMul", "QLinearMul"), (1, 4, 6)),
    **{f"QLinear{kind}": (1, 3) for kind in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax")},
    "QGemm": (1, 4, 7),
    "QLinearWhere": (2, 5, 7),
}
"""Which inputs of an operator are scales; each has its zero point behind it."""
_SUMS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), ((), (2, 3))),
    "DynamicQuantizeMatMul": ((2,), (3,)),
    "MatMulIntegerToFloat": ((2, 3), (4, 5)),
}
"""Products of integers: their scales, which a Mul behind them may have instead, and their zero points."""
_BIAS = {"QGemm": 6, "QLinearConv": 8}
"""Which input is a bias, whose scale is the product of the first two."""
_BITS = ("K", "N", "bits", "block_size")
"""What says how a MatMulNBits has its integers."""
_LAYERS = ("Conv", "ConvTranspose", "FusedConv", "FusedGemm", "Gemm")
_MIDDLES = {"uint8": 128, "uint16": 1 << 15, "uint4": 8, "uint2": 2}
"""Zero points and integers are counted from here, where their type has no sign."""
_EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Pair:
    """A scale and a zero point, each one number for all or one for each place, or one of them alone. A zero point that
    is not written has no value either, and is 0 (``nought``). ``eps``: rounding of the scale."""

    scale: Array | None
    zero: Array | None
    nought: bool
    eps: float = 2.0**-23

    @property
    def alone(self) -> bool:
        """Whether it is a scale that goes with any zero point."""
        return self.zero is None and not self.nought

    @property
    def key(self) -> tuple[object, ...]:
        return *(None if item is None else item.tobytes() for item in (self.scale, self.zero)), self.nought

    def differs(self, other: _Pair) -> str:
        """What of it ``other`` has not; "" if it has all."""
        if self.scale is not None and not _close(self.scale, other.scale, 4 * max(self.eps, other.eps)):
            return "scale"
        if self.zero is None or other.zero is None:
            alike = self.nought and other.nought
        else:
            alike = _close(self.zero, other.zero, 0)
        return "" if alike or self.alone else "zero point"


def _close(one: Array, two: Array | None, rtol: float) -> bool:
    return two is not None and one.shape == two.shape and bool(np.allclose(one, two, rtol=rtol, atol=0))


@dataclass(frozen=True)
class _Integers:
    """A weight or bias of a node; ``ahead``: how many rows lie before the axis that its scales go along, 0 for one;
    ``beside``: its scale and zero point, as far as the node has them."""

    node: onnx.NodeProto
    stored: Stored
    ahead: int
    beside: _Pair | None

    def come_of(self, other: _Integers) -> bool:
        """As they are in any shape, one for all outputs, or a part of a kernel; by scales along the same axis."""
        mine, theirs = self.stored.values, other.stored.values
        along = 0 in (self.ahead, other.ahead) or self.ahead == other.ahead
        along = along and self._goes_with(other.beside)
        if theirs.size == 1:
            theirs = np.broadcast_to(theirs.reshape(()), mine.shape)
        return along and (_equal(mine, theirs) or any(_equal(mine, part) for part in _parts(theirs, mine.shape)))

    def _goes_with(self, other: _Pair | None) -> bool:
        if self.beside is None or other is None:
            return True
        known = self.beside if other.scale is not None else replace(self.beside, scale=None)
        return not known.differs(other)


def foreign(original: ModelFile, other: ModelFile, known: Container[str]) -> str:
    """The first scale, zero point or weight of ``other`` that is none of the original's, in words; "" if all are.
    ``known``: names of weights that are."""
    mine, theirs = _Numbers(original), _Numbers(other)
    for node, blocks in theirs.blocks if mine.blocks else ():  # none: an optimiser made them of other nodes
        if not any(_same_blocks(blocks, have) for _, have in mine.blocks):
            return f"the weight of {_label(node)}, its scales or its zero points are none of the first model's blocks"
    others = [item for item in theirs.integers if item.stored.name not in known]
    others = [item for item in others if not any(map(item.come_of, mine.integers))]
    rounded = [theirs.rounds(item, mine) for item in others]
    new = [id(item.node) for item, one in zip(others, rounded, strict=True) if one]
    told = _pair_of_none([(node, pair) for node, pair in theirs.read if id(node) not in new], mine)
    for item, one in zip(others, rounded, strict=True):
        own = f"{item.stored.name} of {_label(item.node)} is no weight or bias of the first model, integer by integer"
        told = told or ("" if one else own)
    return told


def _same_blocks(one: Sequence[Array | int], two: Sequence[Array | int]) -> bool:
    return len(one) == len(two) and all(map(np.array_equal, reversed(one), reversed(two)))


def _pair_of_none(read: Sequence[tuple[onnx.NodeProto, _Pair]], original: _Numbers) -> str:
    pairs = original.all() if read else []
    exactly = {pair.key for pair in pairs}
    for node, pair in read:
        others = {""} if pair.key in exactly else {pair.differs(item) for item in pairs}
        if "" not in others:
            what = "zero point" if "zero point" in others else "scale"
            return f"a {what} of {_label(node)} is none of the first model's"
    return ""


class _Numbers:
    """What a model stores of scales, zero points and integers. ``read``: pairs, each with a node that reads it."""

    def __init__(self, model: ModelFile) -> None:
        self._weights = Weights(model)
        self.read: list[tuple[onnx.NodeProto, _Pair]] = []
        self.integers: list[_Integers] = []
        self.blocks: list[tuple[onnx.NodeProto, list[Array | int]]] = []
        self._products: list[_Pair] = []
        nodes = [node for node in self._weights.nodes if node.domain in ("", "ai.onnx", "com.microsoft")]
        dynamic = {name for node in nodes if node.op_type == "DynamicQuantizeLinear" for name in node.output}
        for node in nodes:
            if node.op_type in _SUMS or (node.op_type == "Mul" and dynamic.intersection(node.input)):
                self._sum(node, *_SUMS.get(node.op_type, ((0, 1), ())))
            elif node.op_type in _AT or node.op_type == "QLinearConcat":
                self._pairs(node, _AT.get(node.op_type, range(0, len(node.input), 3)))
            elif node.op_type == "MatMulNBits":
                parts = [self._stored(node, place) for place in range(1, 5)]
                numbers = [item.i for item in sorted(node.attribute, key=lambda item: item.name) if item.name in _BITS]
                self.blocks.append((node, [*(np.zeros(0) if one is None else one.values for one in parts), *numbers]))

    @cached_property
    def floats(self) -> list[Array]:
        """Weights and biases that are not quantised."""
        layers = [node for node in self._weights.nodes if node.op_type in _LAYERS]
        stored = [self._stored(node, place) for node in layers for place in (1, 2)]
        return [item.values for item in stored if item is not None and not item.step]

    def all(self) -> list[_Pair]:
        found = [pair for _, pair in self.read]
        zeros = [pair for pair in found if pair.scale is None]
        scales = [pair for pair in found if pair.alone]
        return [
            *found,
            *self._products,
            *(replace(one, scale=two.scale, eps=two.eps) for one, two in product(zeros, scales)),
        ]

    def rounds(self, item: _Integers, other: _Numbers) -> bool:
        """Whether integers stand for floats that ``other`` has: so onnxruntime writes the last ones of a quantised
        model."""
        made = self._floats_of(item)
        alike = [] if made is None else [one for one in other.floats if one.shape == made.values.shape]
        return made is not None and any((np.abs(made.values - one) <= 0.51 * made.step).all() for one in alike)

    def _floats_of(self, item: _Integers) -> Stored | None:
        if item.node.op_type == "DequantizeLinear":
            return self._weights.of(item.node.output[0])
        scale = None if item.beside is None or item.stored.values.ndim != 1 else item.beside.scale
        return (
            None
            if scale is None or scale.size not in (1, item.stored.values.size)
            else Stored("", item.stored.values * scale, None, float(scale.max()))
        )

    def _pairs(self, node: onnx.NodeProto, at: Sequence[int]) -> None:
        scales = [self._stored(node, place) for place in at]
        own: dict[int, _Pair] = {}
        for place, scale in zip(at, scales, strict=True):
            if scale is not None:
                own[place - 1] = _pair(scale, self._stored(node, place + 1))
        self.read += ((node, pair) for pair in own.values())
        if len(at) > 1:
            own.pop(at[-1] - 1, None)  # of the result
        known = [item for item in scales[:2] if item is not None]
        if len(known) == 2 and known[0].values.size == 1:  # of a bias
            made = _number(known[0]) * _number(known[1])
            self._products.append(_Pair(made, None, nought=True, eps=max(map(_eps, known))))
            own[_BIAS.get(node.op_type, -1)] = self._products[-1]
        if node.op_type == "QLinearSoftmax" and (result := scales[-1]) is not None:
            whole = 1 / np.floor(1 / _number(result))
            self._products.append(replace(_pair(result, self._stored(node, at[-1] + 1)), scale=whole))
        self._weights_of(node, {*at, *(place + 1 for place in at)}, own)

    def _sum(self, node: onnx.NodeProto, scales: Sequence[int], zeros: Sequence[int]) -> None:
        own: dict[int, _Pair] = {}
        for place in zeros:
            found = self._stored(node, place)
            if found is not None or not "".join(node.input[place : place + 1]):
                own[place - zeros[-1] + 1] = _pair(None, found)
            if found is None or found.values.size > 1:
                self._products.append(_pair(None, None))  # 0, where it is taken off the sum by hand
        self.read += ((node, pair) for pair in own.values())
        for place in scales:
            if (found := self._stored(node, place)) is not None:
                self.read.append((node, _Pair(_number(found), None, nought=False, eps=_eps(found))))
        self._weights_of(node, {*scales, *zeros}, own)

    def _weights_of(self, node: onnx.NodeProto, beside: Container[int], own: Mapping[int, _Pair]) -> None:
        for place in range(len(node.input)):
            found = None if place in beside else self._stored(node, place)
            if found is not None and _is_integer(found.values) and not _sums_up(node, found.values):
                scale = self._stored(node, 1) if node.op_type == "DequantizeLinear" else None
                self.integers.append(_Integers(node, found, _ahead(node, found.values, scale), own.get(place)))

    def _stored(self, node: onnx.NodeProto, place: int) -> Stored | None:
        return self._weights.of(node.input[place]) if place < len(node.input) and node.input[place] else None


def _ahead(node: onnx.NodeProto, values: Array, scale: Stored | None) -> int:
    if scale is None or scale.values.size == 1 or not values.ndim:
        return 0
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    return math.prod(values.shape[: axis % values.ndim])


def _pair(scale: Stored | None, zero: Stored | None) -> _Pair:
    number, eps = (None, 0.0) if scale is None else (_number(scale), _eps(scale))
    if zero is None:
        return _Pair(number, None, nought=True, eps=eps)
    own = _number(zero)
    return _Pair(number, own - _middle(zero.values), nought=not own.any(), eps=eps)


def _number(stored: Stored) -> Array:
    """For all or for each place, in float64; those of blocks in a row, whichever way they lie."""
    found: Array = stored.values.astype(np.float64).ravel()
    found = np.sort(found) if sum(length > 1 for length in stored.values.shape) > 1 else found
    return found[:1] if (found == found[:1]).all() else found


def _middle(values: Array) -> int:
    return _MIDDLES.get(values.dtype.name, 0)


def _eps(stored: Stored) -> float:
    return _EPS.get(stored.values.dtype.name, 2.0**-23)


def _sums_up(node: onnx.NodeProto, values: Array) -> bool:
    """Whether it adds up features, of which a zero point is taken that a ConvInteger has no room for."""
    return node.op_type in _SUMS and bool((values == 1).all())


def _is_integer(values: Array) -> bool:
    return values.dtype.kind in "iu" or values.dtype.name in ("int4", "uint4", "int2", "uint2")


def _equal(one: Array, two: Array) -> bool:
    """The same integers in a row, of any type."""
    if one.size != two.size:
        return False
    first, second = one.reshape(-1), two.reshape(-1)
    moved = _middle(one) - _middle(two)
    for begin in range(0, first.size, _BLOCK):
        some, others = (item[begin : begin + _BLOCK] for item in (first, second))
        if one.dtype != two.dtype:
            some, others = some.astype(np.int64) - moved, others.astype(np.int64)
        if not np.array_equal(some, others):
            return False
    return True


def _parts(kernel: Array, shape: Sequence[int]) -> Iterator[Array]:
    """Those of a shape, cut out of a kernel's places."""
    if kernel.ndim == len(shape) > 2 and kernel.shape[:2] == tuple(shape[:2]):
        spare = (range(have - length + 1) for have, length in zip(kernel.shape[2:], shape[2:], strict=True))
        for begins in product(*spare):
            cut = (slice(begin, begin + length) for begin, length in zip(begins, shape[2:], strict=True))
            yield kernel[(slice(None), slice(None), *cut)]


def _label(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]
