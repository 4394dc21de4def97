"""What stood for products of integers becomes such again: ConvInteger, Cast, Mul by both scales, Add of a bias.

Its sums are the original's own, number by number. A product that stayed as it was is the original's own nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxfc.builder import ops
from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.graph.index import attributes, copied, needed
from onnxfc.graph.integer_products import FLOATS, Product, products

_FLOATS = {*FLOATS.values()}


def integer_products(
    nodes: Sequence[onnx.NodeProto], builder: GraphBuilder, model: onnx.ModelProto
) -> list[onnx.NodeProto]:
    """The nodes of a new graph, with products of integers where ``model`` had them."""
    own = {made.floats: made for made in products(model)}
    if not own:
        return list(nodes)
    back = _Back(builder, own, nodes)
    made = [item for node in nodes for item in back.integers(node)]
    return needed(made, builder.graph.outputs)


class _Back:
    def __init__(self, builder: GraphBuilder, own: Mapping[str, Product], nodes: Sequence[onnx.NodeProto]) -> None:
        self.builder, self.own = builder, own
        self.making = {name: node for node in nodes for name in node.output}
        self._scales = {product.scales[0] for product in own.values()}
        self._ones = {name for product in own.values() if not product.behind for name in product.scales}
        reads = Counter(name for node in nodes for name in node.input)
        casts = [node for node in nodes if node.op_type == "Cast" and attributes(node)["to"] == TensorProto.INT32]
        self._whole: dict[str, str] = {node.input[0]: node.output[0] for node in casts if reads[node.input[0]] == 1}
        """What is made integers again, and as what."""
        self._gone: set[str] = set()

    def integers(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What stands in the place of a node."""
        if node.op_type == "DequantizeLinear" and self._each_cell(node.input[1]):
            yield from self._written_out(node)
            return
        if node.op_type == "Cast" and node.output[0] in self._gone:
            return
        data = [self._dequantised(name) for name in node.input[:2]] if node.op_type in _FLOATS else []
        if not all(data) or not data or not (data[0][1] in self._scales or self._each_cell(data[0][1])):
            yield node
            return
        own = self.own.get(node.output[0])
        if own is not None and data == [own.integers(0), own.integers(1)] and FLOATS[own.node.op_type] == node.op_type:
            alike = list(node.attribute) == list(own.node.attribute)
            made = own.node if alike else copied(own.node, attribute=node.attribute)
            if not own.behind and self._without_cast(node) != own.node.output[0]:
                yield node
                return
            yield made
            yield from own.behind
        elif node.op_type == "Conv":
            yield from self._convolved(node, *data)
        else:
            yield node

    def _without_cast(self, node: onnx.NodeProto) -> str:
        """What the Cast to integers behind a product makes, which falls away; "" where none is."""
        made = self._whole.get(node.output[0], "")
        self._gone.add(made)
        return made

    def _dequantised(self, name: str) -> list[str]:
        """What a DequantizeLinear reads; nothing where there is none."""
        node = self.making.get(name)
        return list(node.input) if node is not None and node.op_type == "DequantizeLinear" else []

    def _each_cell(self, scale: str) -> bool:
        """Whether each cell has a scale of its own."""
        return self.builder.spec(scale).rank > 1

    def _written_out(self, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
        """DequantizeLinear takes no scale for each cell."""
        builder, before = self.builder, len(self.builder.nodes)
        floats, shift = (builder.emit("Cast", [node.input[at]], to=TensorProto.FLOAT) for at in (0, 2))
        builder.emit("Mul", [builder.emit("Sub", [floats, shift]), node.input[1]], node.output[0])
        return self._taken(before)

    def _taken(self, before: int) -> Sequence[onnx.NodeProto]:
        made = self.builder.nodes[before:]
        del self.builder.nodes[before:]
        return made

    def _convolved(self, node: onnx.NodeProto, data: list[str], weight: list[str]) -> Sequence[onnx.NodeProto]:
        """ConvInteger takes one zero point of weights: others are taken off times the sum of the features. It takes one
        of features too: a cell's own is taken off times the sum of the weights."""
        builder, before = self.builder, len(self.builder.nodes)
        rank = builder.spec(weight[0]).rank
        told, zero, shift = attributes(node), self._zero(weight), data[2] if len(data) > 2 else self._none(data[0])
        each_cell = self._each_cell(data[1])
        moved, shift = (shift, self._none(data[0])) if each_cell else ("", shift)
        alone = len(np.unique(zero)) == 1
        point = builder.constant(zero.ravel()[0] if alone else zero.dtype.type(0), "zero_point")
        add = builder.graph.producers.get(node.output[0]) if len(node.input) > 2 else None
        known = [self.own[name] for name in (add.input if add else node.output) if name in self.own]
        first, both, cast, scaled = known[0].nodes if known else (node, None, None, None)
        whole = self._without_cast(node) if data[1] in self._ones else ""
        sums = whole if alone else ""
        integers = builder.emit("ConvInteger", [data[0], weight[0], shift, point], sums, instead=first, **told)
        if not alone:
            ones = builder.constant(np.ones([1, *builder.spec(weight[0]).native[1:]], np.int8), "ones")
            sums = builder.emit("ConvInteger", [data[0], ones, shift], **told)
            column = builder.constant(_column(zero.astype(np.int32), rank), "zeros")
            integers = builder.emit("Sub", [integers, builder.emit("Mul", [sums, column])], whole)
        if whole:
            return self._taken(before)
        if each_cell:
            own = builder.emit("Cast", [moved], to=TensorProto.INT32)
            sums = self._weights(weight, zero, rank)
            integers = builder.emit("Sub", [integers, builder.emit("Mul", [own, sums])])
        scales = builder.emit("Mul", [data[1], self._per_output(weight[1], rank)], instead=both)
        floats = builder.emit("Cast", [integers], instead=cast, to=TensorProto.FLOAT)
        bias = list(node.input[2:])
        result = builder.emit("Mul", [floats, scales], "" if bias else node.output[0], instead=scaled)
        if bias:
            builder.emit("Add", [result, self._per_output(bias[0], rank)], node.output[0], instead=add)
        return self._taken(before)

    def _zero(self, weight: Sequence[str]) -> np.ndarray:
        tensor = self._tensor(weight[2] if len(weight) > 2 else self._none(weight[0]))
        assert tensor is not None
        return self.builder.model.array(tensor)

    def _weights(self, weight: Sequence[str], zero: np.ndarray, rank: int) -> str:
        """The sum of each output's weights, by which a cell's zero point counts."""
        tensor = self._tensor(weight[0])
        assert tensor is not None
        value = self.builder.model.array(tensor)
        rows = value.reshape(len(value), -1).astype(np.int32) - zero.reshape(-1, 1).astype(np.int32)
        return self.builder.constant(_column(rows.sum(axis=1, dtype=np.int32), rank), "sums")

    def _none(self, integers: str) -> str:
        """A zero point of 0."""
        dtype = helper.tensor_dtype_to_np_dtype(self.builder.spec(integers).dtype)
        return self.builder.constant(np.zeros((), dtype), "zero_point")

    def _per_output(self, name: str, rank: int) -> str:
        """One number for each output, on the channels' axis."""
        tensor = self._tensor(name)
        if tensor is None:
            return ops.unsqueeze(self.builder, name, range(1, rank - 1))
        value = self.builder.model.array(tensor)
        return name if value.size == 1 else self.builder.constant(_column(value, rank), name)

    def _tensor(self, name: str) -> onnx.TensorProto | None:
        return self.builder.tensors.get(name) or self.builder.graph.constant(name)


def _column(value: np.ndarray, rank: int) -> np.ndarray:
    return value.reshape(-1, *[1] * (rank - 2))
