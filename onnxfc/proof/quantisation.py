"""How far one quantisation step reaches: an integer on the edge between two may fall to either side.

Two kernels that compute the same sums in another order differ in the last bit; a QuantizeLinear behind them then rounds
some elements to the next integer. So the values behind it may differ by one step, in few places. What is behind a layer
of floats may differ by a step times its largest weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxfc.io.model_file import ModelFile
from onnxfc.proof.sessions import Array

_LAYERS = {"Conv": 1, "FusedConv": 1, "FusedGemm": 1, "Gemm": 1, "MatMul": 1}
_MOVED = frozenset({"Identity", "Reshape", "Transpose"})


def quantisation_steps(model: ModelFile) -> dict[str, float]:
    """By tensor behind a quantisation of what the model is given: the difference that one step makes."""
    return _Steps(model).found


class _Steps:
    def __init__(self, model: ModelFile) -> None:
        self.model, graph = model, model.proto.graph
        self.found: dict[str, float] = {}
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._moving = {value.name for value in graph.input} - self._stored.keys()
        for node in graph.node:
            if self._moving.intersection(node.input):
                self._moving.update(node.output)
                step = self._of(node)
                self.found.update(dict.fromkeys(node.output, step) if step else {})

    def _of(self, node: onnx.NodeProto) -> float:
        kind, given = node.op_type, [self.found.get(name, 0.0) for name in node.input]
        if kind == "QuantizeLinear" and len(given) > 1:
            return max(1.0, given[0] / (self._largest(node.input[1]) or 1.0))
        if kind.startswith("QLinear") or (kind == "QGemm" and len(node.input) > 7):
            return 1.0
        if kind == "QGemm":
            return self._largest(node.input[1]) * self._largest(node.input[4]) * 255
        if kind == "DequantizeLinear" and len(given) > 1:  # of a domain whose operators nobody knows it may have one
            return given[0] * self._largest(node.input[1])
        if kind in _LAYERS and max(given):
            fixed = [self._largest(name) for name in node.input[:2] if name not in self._moving]
            return max(given) * max(fixed, default=1.0)
        if kind == "Add":
            return sum(given)
        factors = [self._largest(name) for name in node.input if kind == "Mul" and name not in self._moving]
        return max(given) * max(factors, default=1.0)

    def _largest(self, name: str) -> float:
        """The largest magnitude in a constant; 1 where it is computed otherwise."""
        value = self._value(name)
        return float(np.abs(value.astype(np.float64)).max(initial=0.0)) if value is not None else 1.0

    def _value(self, name: str) -> Array | None:
        node = self._makers.get(name)
        if name in self._stored:
            return self.model.array(self._stored[name])
        if node is None:
            return None
        told = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant" and "value" in told:
            return self.model.array(told["value"])
        if node.op_type in _MOVED:
            return self._value(node.input[0])
        return _dequantised([self._value(item) for item in node.input]) if node.op_type == "DequantizeLinear" else None


def _dequantised(given: Sequence[Array | None]) -> Array | None:
    """Bounds of what a DequantizeLinear of constants makes."""
    if any(value is None or not value.size for value in given):
        return None
    value, scale, *zero = (np.asarray(item).astype(np.float64) for item in given)
    low, high = value.min(), value.max()
    ends = [np.abs(end - item).max() for end in (low, high) for item in zero or [np.zeros(1)]]
    bounds: Array = np.asarray(ends) * scale.max()
    return bounds
