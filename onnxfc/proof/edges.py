"""A quantised model whose values fall to either side of an edge between two integers.

What lies within rounding of such an edge becomes either integer, for nobody's fault, and layers behind it magnify the
step. So where a rewrite differs from the original, this is asked again with every value that is about to be rounded
moved by less than rounding may: nothing else of it changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
WAYS = 6
"""How often the original is asked; several values on edges may fall to different sides."""
_SCALES = {
    **dict.fromkeys(("QLinearAdd", "QLinearMul", "QLinearConv", "QLinearMatMul"), 6),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax"), 3),
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearReduceMean"), 3),
    **{"QuantizeLinear": 1, "QGemm": 7, "QLinearConcat": 0},
}
"""Where an operator that makes integers has their scale."""


class Edges:
    """Runs of a model whose rounded values are moved; nothing where nothing is rounded to integers."""

    def __init__(self, model: ModelFile, tensors: Sequence[str], engine: Engine) -> None:
        self._model, self._tensors, self._engine = model, tensors, engine
        self._runners: list[Runner] | None = None if engine.as_written else []

    def of(self, name: str, feeds: Mapping[str, Array]) -> list[Array]:
        """What it makes of a tensor from these inputs."""
        try:
            if self._runners is None:
                models = (self._model.with_proto(moved(self._model.proto, way)) for way in range(WAYS))
                self._runners = [Runner(model, self._tensors, self._engine) for model in models]
            return [runner.run(feeds)[name] for runner in self._runners]
        except RunError:
            self._runners = []
            return []


def moved(model: onnx.ModelProto, way: int) -> onnx.ModelProto:
    """The model with a bit of a step added to whatever is rounded to integers, or taken from it; ``way`` 0 and 1: the
    one or the other everywhere, from 2 on by the value's digits, as if at random."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for node in model.graph.node:
        at = _SCALES.get(node.op_type)
        if at is None or at >= len(node.input):
            made.graph.node.append(node)
        else:
            _Moved(node, at, way, made.graph).write()
    return made


@dataclass
class _Moved:
    """A node that rounds, before which its sum or its scale is changed."""

    node: onnx.NodeProto
    at: int
    way: int
    graph: onnx.GraphProto

    def write(self) -> None:
        new, sign = onnx.NodeProto(), -1.0 if self.way % 2 else 1.0
        new.CopyFrom(self.node)
        if self.node.op_type == "QuantizeLinear":
            by = self._op("Mul", self.node.input[1], self._number(sign * SHARE))
            if self.way > 1:
                digits = self._op("Sin", self._op("Mul", self.node.input[0], self._number(1e4 * self.way)))
                by = self._op("Mul", by, self._op("Sign", digits))
            new.input[0] = self._op("Add", self.node.input[0], by)
        else:
            new.input[self.at] = self._op("Mul", self.node.input[self.at], self._number(1 + sign * RELATIVE))
        self.graph.node.append(new)

    def _op(self, kind: str, *given: str) -> str:
        name = f"{self.node.output[0]}/moved{len(self.graph.node)}"
        self.graph.node.append(helper.make_node(kind, given, [name]))
        return name

    def _number(self, value: float) -> str:
        name = f"{self.node.output[0]}/by{len(self.graph.initializer)}"
        self.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.FLOAT, (), [value]))
        return name


def nearer(got: Array, want: Array, others: Sequence[Array]) -> Array:
    """``want``, or where one of the ``others`` is nearer to what was found, that."""
    for other in others:
        if other.shape == want.shape == got.shape:
            far = np.abs(np.subtract(got, want, dtype=np.float64)) > np.abs(np.subtract(got, other, dtype=np.float64))
            want = np.where(far, other, want)
    return want
