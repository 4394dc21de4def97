"""Operators on integers as the operators on floats that they stand for, between Dequantize and Quantize.

QLinearAdd(a, b) is QuantizeLinear(Add(DequantizeLinear(a), DequantizeLinear(b))), and so for the others.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.index import Graph, Names, attributes, copied, refill
from onnxfc.graph.integer_products import unfused
from onnxfc.graph.op_kinds import MICROSOFT
from onnxfc.io.model_file import ModelFile

BIAS_AT = 6
"""QGemm's bias: integers whose scale is that of its input times that of its weight."""


@dataclass(frozen=True)
class Standing:
    """``floats``: the operator that it stands for. ``data``: inputs that hold integers, each with its scale and zero
    point behind it. ``result``: the input that holds the scale of the output, before its zero point."""

    floats: str
    data: tuple[int, ...]
    result: int


_TWO, _ONE = ((0, 3), 6), ((0,), 3)
_KINDS = {
    **{f"QLinear{kind}": (kind, *_TWO) for kind in ("Add", "MatMul", "Mul")},
    **{f"QLinear{kind}": (kind, *_ONE) for kind in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")},
    "QLinearSoftmax": ("Softmax", *_ONE),
    "QGemm": ("Gemm", (0, 3), 7),
}
PRODUCTS = frozenset({"QGemm", "QLinearMatMul"})
OWN = frozenset({"channels_last", "opset"})
"""Attributes that the operator on floats does not have."""


def standing(node: onnx.NodeProto) -> Standing | None:
    """What an operator on integers stands for; None for all others, and forms that no one operator on floats has."""
    if node.domain not in ({MICROSOFT} if node.op_type != "QLinearMatMul" else {"", "ai.onnx"}):
        return None
    if node.op_type == "QLinearConcat":
        return Standing("Concat", tuple(range(2, len(node.input), 3)), 0)
    kind = _KINDS.get(node.op_type)
    told = attributes(node)
    if kind is None or told.get("channels_last", 0):
        return None
    if node.op_type == "QGemm" and told.get("alpha", 1.0) != 1.0:
        return None
    return Standing(*kind)


def on_floats(model: ModelFile) -> ModelFile:
    """The model with operators on floats in place of those on integers, and products of integers written out; the very
    same where there are none."""
    model = unfused(model)
    if not any(standing(node) for node in model.proto.graph.node):
        return model
    proto = copied(model.proto)
    opening = _Opening(model, Graph(model.proto))
    nodes = [item for node in model.proto.graph.node for item in opening.opened(node)]
    refill(proto.graph, node=nodes)
    proto.graph.initializer.extend(opening.scales)
    return model.with_proto(proto)


class _Opening:
    def __init__(self, model: ModelFile, graph: Graph) -> None:
        self.model, self.graph, self.names = model, graph, graph.names()
        self.node_names = Names(node.name for node in graph.nodes)
        self.scales: list[onnx.TensorProto] = []

    def opened(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        stands = standing(node)
        if stands is None or not self._fits(node, stands):
            return [node]
        before, given = [], []
        for at in stands.data:
            axis = None if at != 3 else attributes(node).get("transB", 0) ^ 1 if node.op_type == "QGemm" else 1
            before.append(self._node(node, "DequantizeLinear", list(node.input[at : at + 3]), axis=axis))
            given.append(before[-1].output[0])
        if node.op_type == "QGemm" and len(node.input) > BIAS_AT and node.input[BIAS_AT]:
            bias = [node.input[BIAS_AT], self._product(node.input[1], node.input[4])]
            before.append(self._node(node, "DequantizeLinear", bias, axis=0))
            given.append(before[-1].output[0])
        floats = self._node(node, stands.floats, given)
        floats.attribute.extend(item for item in node.attribute if item.name not in OWN)
        end = list(node.input[stands.result : stands.result + 2])
        if not end:  # QGemm's result may be in floats
            floats.output[:] = node.output
            return [*before, floats]
        made = self._node(node, "QuantizeLinear", [floats.output[0], *end])
        made.output[:] = node.output
        return [*before, floats, made]

    def _fits(self, node: onnx.NodeProto, stands: Standing) -> bool:
        """Whether all of it can be written in the model's operator set."""
        if stands.floats == "Softmax" and (attributes(node).get("opset", 0) < 13) != (self.graph.opset < 13):
            return False
        end = list(node.input[stands.result : stands.result + 2])
        if self.graph.opset < 10 or not all(end) or len(end) not in ((0, 2) if node.op_type == "QGemm" else (2,)):
            return False
        sizes = [self._size(node.input[at + 1]) for at in stands.data]
        return set(sizes) == {1} or (self.graph.opset >= 13 and sizes[0] == 1 < sizes[-1] and self._in_columns(node))

    def _in_columns(self, node: onnx.NodeProto) -> bool:
        """Whether it multiplies by a matrix, and adds no more than a vector: its scales are of the outputs."""
        bias = node.input[BIAS_AT] if node.op_type == "QGemm" and len(node.input) > BIAS_AT else ""
        ranks = [len(item.dims) for item in map(self._tensor, [node.input[3], bias]) if item is not None]
        return node.op_type in PRODUCTS and ranks == [2, *([1] if bias else [])]

    def _node(self, instead: onnx.NodeProto, kind: str, given: list[str], axis: int | None = None) -> onnx.NodeProto:
        name = instead.output[0] if kind != "DequantizeLinear" else given[0]
        made = helper.make_node(kind, [item for item in given if item], [self.names.unused(f"{name}_{kind.lower()}")])
        made.name = self.node_names.unused(f"{instead.name or instead.output[0]}_{kind.lower()}")
        if axis is not None and self.graph.opset >= 13:
            made.attribute.append(helper.make_attribute("axis", axis))
        return made

    def _tensor(self, name: str) -> onnx.TensorProto | None:
        return None if name in self.graph.overridable else self.graph.constant(name)

    def _constant(self, name: str) -> np.ndarray | None:
        tensor = self._tensor(name)
        return None if tensor is None else self.model.array(tensor)

    def _size(self, name: str) -> int:
        value = self._constant(name)
        return 0 if value is None else value.size

    def _product(self, one: str, two: str) -> str:
        first, second = self._constant(one), self._constant(two)
        assert first is not None
        assert second is not None
        name = self.names.unused(f"{two}_product")
        value = np.asarray(first.reshape(()) * second, np.float32)
        self.scales.append(numpy_helper.from_array(value, name))
        return name
