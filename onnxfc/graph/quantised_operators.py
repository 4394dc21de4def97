"""Operators on integers as the operators on floats that they stand for, between Dequantize and Quantize.

QLinearAdd(a, b) is QuantizeLinear(Add(DequantizeLinear(a), DequantizeLinear(b))), and so for the others.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.channels_last import channels_first
from onnxfc.graph.index import Graph, Names, attributes, copied, refill
from onnxfc.graph.integer_products import unfused
from onnxfc.graph.op_kinds import MICROSOFT, QUANTISING
from onnxfc.io.model_file import ModelFile

BIAS_AT = 6
"""QGemm's bias: integers whose scale is that of its input times that of its weight."""


@dataclass(frozen=True)
class Standing:
    """``floats``: the operator that it stands for. ``data``: inputs that hold integers, each with its scale and zero
    point behind it. ``result``: the input that holds the scale of the output, before its zero point. ``as_is``: how
    many inputs before all these both have."""

    floats: str
    data: tuple[int, ...]
    result: int
    as_is: int = 0


_TWO, _ONE = ((0, 3), 6), ((0,), 3)
_KINDS: dict[str, Any] = {
    **{f"QLinear{kind}": (kind, *_TWO) for kind in ("Add", "MatMul", "Mul")},
    **{f"QLinear{kind}": (kind, *_ONE) for kind in ("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid")},
    "QLinearSoftmax": ("Softmax", *_ONE),
    "QGemm": ("Gemm", (0, 3), 7),
    "QLinearWhere": ("Where", (1, 4), 7, 1),
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
    model = unfused(channels_first(model))
    if not any(standing(node) for node in model.proto.graph.node):
        return model
    proto = copied(model.proto)
    opening = _Opening(model, Graph(model.proto))
    nodes = [item for node in model.proto.graph.node for item in opening.opened(node)]
    refill(proto.graph, node=nodes)
    proto.graph.initializer.extend(opening.scales)
    return model.with_proto(proto)


def in_own_domain(model: ModelFile) -> ModelFile:
    """The model with ONNX's QuantizeLinear and DequantizeLinear in place of onnxruntime's, which take more types of
    integers before operator set 21; the very same where there are none."""
    nodes = list(model.proto.graph.node)
    if not any(map(is_contributed, nodes)):
        return model
    proto = copied(model.proto)
    for node in filter(is_contributed, proto.graph.node):
        node.domain = ""
    return model.with_proto(proto)


def is_contributed(node: onnx.NodeProto) -> bool:
    """Whether it quantises or dequantises, in onnxruntime's domain."""
    return node.domain == MICROSOFT and node.op_type in QUANTISING


class _Opening:
    def __init__(self, model: ModelFile, graph: Graph) -> None:
        self.model, self.graph, self.names = model, graph, graph.names()
        self.node_names = Names(node.name for node in graph.nodes)
        self.scales: list[onnx.TensorProto] = []

    def opened(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        stands = standing(node)
        if stands is None or not self._fits(node, stands):
            return [node]
        before, given = [], list(node.input[: stands.as_is])
        for at in stands.data:
            axis = None if at != 3 else int(node.op_type != "QGemm" or attributes(node).get("transB", 0) != 1)
            before.append(self._node(node, "DequantizeLinear", list(node.input[at : at + 3]), axis=axis))
            given.append(before[-1].output[0])
        if node.op_type == "QGemm" and len(node.input) > BIAS_AT and node.input[BIAS_AT]:
            bias = [node.input[BIAS_AT], self._product(node.input[1], node.input[4])]
            before.append(self._node(node, "DequantizeLinear", bias, axis=0))
            given.append(before[-1].output[0])
        floats = self._node(node, stands.floats, given)
        floats.attribute.extend(item for item in node.attribute if item.name not in OWN)
        end = list(node.input[stands.result : stands.result + 2])
        if stands.floats == "Softmax":
            end[0] = self._whole(end[0])
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
        if stands.floats == "Softmax" and self._size(end[0]) != 1:
            return False
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
        return self._scale(f"{two}_product", first.reshape(()) * second)

    def _whole(self, scale: str) -> str:
        """onnxruntime's QLinearSoftmax multiplies by the whole part of 1 / scale: by 254 where that is 1/255."""
        value = self._constant(scale)
        assert value is not None
        whole = np.floor(np.float32(1) / value.astype(np.float32))
        return scale if whole == 1 / value else self._scale(scale, 1 / whole)

    def _scale(self, hint: str, value: np.ndarray) -> str:
        name = self.names.unused(hint)
        self.scales.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name
