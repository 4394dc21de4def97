"""A quantised model whose values fall to either side of an edge between two integers.

What lies within rounding of such an edge becomes either integer, for nobody's fault, and layers behind it magnify the
step. So where a rewrite differs from the original, this is asked again with every value that is about to be rounded
moved by less than rounding may: nothing else of it changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxfc.io.model_file import ModelFile
from onnxfc.proof.providers import Engine
from onnxfc.proof.sessions import Array, RunError, Runner

SHARE = 2.0**-13
"""Of a step: sums of a thousand steps in another order differ by about so much."""
RELATIVE = 2.0**-20
"""Of the scale of an operator on integers, whose sums are exact: its kernels multiply by scales in different orders."""
WAYS = 24
"""How often the original is asked at most; several values on edges may fall to different sides."""
DIGITS, APART = 12.9898, 1.0
"""No multiple of the one is one of a circle; the other parts a value from its negative."""
_SIDE, _DRAW = "onnxfc/side", "onnxfc/draw"
"""Inputs of a model whose values are moved: 2 or -2 moves all to one side, 0 each by what the other draws."""
_SCALES = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "QLinearConv", "QLinearMatMul"), 6),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), 3),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean"), 3),
    **{"QGemm": 7, "QLinearConcat": 0, "QLinearWhere": 7},
}
"""Where an operator on integers has their scale."""
_ROUNDING = ("DynamicQuantizeLinear", "QuantizeLinear", "Round")


class Edges:
    """Runs of a model whose rounded values are moved; nothing where nothing is rounded to integers. ``source``: the
    file that it was made of, once that is known to agree; its operators on integers round in their own way."""

    def __init__(self, model: ModelFile, tensors: Sequence[str], engine: Engine) -> None:
        self._model, self._tensors, self._engine = model, tensors, engine
        kinds = {node.op_type for node in model.proto.graph.node}
        kernels = "DequantizeLinear" in kinds and not engine.as_written  # which round where the file does not
        rounds = not kinds.isdisjoint({*_SCALES, *_ROUNDING})
        self._asks = rounds and not kernels and engine.provider is None
        self._runner: Runner | None = None
        self._source: Runner | None = None
        self.source: ModelFile | None = None

    def of(self, name: str, feeds: Mapping[str, Array]) -> Iterator[Array]:
        """What it makes of a tensor from these inputs, each time with other values on the other side."""
        if self._asks and self.source is not None:
            yield from self._as_read(self.source, name, feeds)
        for way in range(WAYS if self._asks else 0):
            side, draw = (2.0 - 4 * way, 0.0) if way < 2 else (0.0, 1e4 * way)
            drawn = {_SIDE: np.array(side, np.float32), _DRAW: np.array(draw, np.float32)}
            try:
                if self._runner is None:
                    self._runner = Runner(self._model.with_proto(moved(self._model.proto)), self._tensors, self._engine)
                yield self._runner.run({**feeds, **drawn})[name]
            except RunError:
                self._asks = False
                return

    def _as_read(self, source: ModelFile, name: str, feeds: Mapping[str, Array]) -> Iterator[Array]:
        made = {item for node in source.proto.graph.node for item in node.output}
        try:
            if self._source is None:
                every = [*self._tensors, *(value.name for value in self._model.proto.graph.output)]
                self._source = Runner(source, [item for item in every if item in made], self._engine)
            yield from [value for item, value in self._source.run(feeds).items() if item == name]
        except RunError:
            self.source = None


def moved(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a bit of a step added to whatever is rounded to integers, or taken from it: the one or the other
    everywhere, or by the value's digits, as if at random."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    stored = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    moving = {value.name for value in model.graph.input} - stored.keys()
    for node in model.graph.node:
        moves = not moving.isdisjoint(node.input)
        moving.update(node.output if moves else ())
        at = _SCALES.get(node.op_type, 0 if node.op_type in _ROUNDING else None)
        several = node.op_type == "QuantizeLinear" and stored.get(node.input[1], 1) > 1
        if not moves or several or at is None or at >= len(node.input):
            made.graph.node.append(node)
        else:
            _Moved(node, at, made.graph).write()
    for name in (_SIDE, _DRAW):
        made.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ()))
    return made


@dataclass
class _Moved:
    """A node that rounds, before which its sum or its scale is changed."""

    node: onnx.NodeProto
    at: int
    graph: onnx.GraphProto

    def write(self) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(self.node)
        if self.node.op_type in _ROUNDING:
            if self.node.op_type == "DynamicQuantizeLinear":  # by the scale and zero point that it has taken
                new.output[0] = f"{self.node.output[0]}/unmoved"
                self.graph.node.append(new)
                new = helper.make_node("QuantizeLinear", [self.node.input[0], *new.output[1:]], self.node.output[:1])
            by = self._op("Mul", self._side(self.node.input[0]), self._number(SHARE))
            by = self._op("Mul", new.input[1], by) if new.op_type == "QuantizeLinear" else by
            new.input[0] = self._op("Add", self.node.input[0], by)
        else:
            by = self._op("Mul", self._side(self._number(len(self.graph.node))), self._number(RELATIVE))
            new.input[self.at] = self._op("Mul", self.node.input[self.at], self._op("Add", by, self._number(1)))
        self.graph.node.append(new)

    def _side(self, value: str) -> str:
        """1 or -1. Values on edges are multiples of half a step, whose sines turn together: an inner one parts them."""
        turned = self._op("Add", self._op("Mul", value, self._number(DIGITS)), self._number(APART))
        digits = self._op("Sin", turned)
        drawn = self._op("Sin", self._op("Mul", digits, _DRAW))
        return self._op("Sign", self._op("Add", drawn, _SIDE))

    def _op(self, kind: str, *given: str) -> str:
        name = f"{self.node.output[0]}/moved{len(self.graph.node)}"
        self.graph.node.append(helper.make_node(kind, given, [name]))
        return name

    def _number(self, value: float) -> str:
        name = f"{self.node.output[0]}/by{len(self.graph.initializer)}"
        self.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.FLOAT, (), [value]))
        return name


def nearer(got: Array, want: Array, others: Iterable[Array], enough: float = 0.0) -> Array:
    """``want``, or where one of the ``others`` is nearer to what was found, that; until all is near ``enough``."""
    for other in others:
        if not other.shape == want.shape == got.shape:
            continue
        far = np.abs(np.subtract(got, want, dtype=np.float64)) > np.abs(np.subtract(got, other, dtype=np.float64))
        want = np.where(far, other, want)
        if np.abs(np.subtract(got, want, dtype=np.float64)).max(initial=0.0) <= enough:
            break
    return want
