"""onnxruntime's operators on channels-last maps of integers, as those on channels-first maps between two Transposes.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from onnxfc.graph.index import Graph, Names, attributes, copied, needed, refill
from onnxfc.graph.op_kinds import MICROSOFT, WEIGHT_AT
from onnxfc.io.model_file import ModelFile

_POOLS = frozenset({"QLinearAveragePool", "QLinearGlobalAveragePool"})
_ONNX = {"NhwcMaxPool": "MaxPool", "QLinearConv": "QLinearConv"}
"""Those that have another name, or domain, where channels are first."""


def channels_first(model: ModelFile) -> ModelFile:
    """The model without operators on channels-last maps; the very same where there are none."""
    found = [node for node in model.proto.graph.node if _is_ours(node)]
    ranks = {rank for node in found if (rank := _rank(node, model.proto.graph))}
    if len(ranks) != 1:  # only global pools, which do not tell theirs, or several
        return model
    turning = _Turning(Graph(model.proto), ranks.pop())
    nodes = [item for node in model.proto.graph.node for item in turning.turned(node)]
    proto = copied(model.proto)
    refill(proto.graph, node=needed(nodes, [info.name for info in proto.graph.output]))
    return model.with_proto(proto)


def _is_ours(node: onnx.NodeProto) -> bool:
    last = node.op_type == "NhwcMaxPool" or bool(attributes(node).get("channels_last", 0))
    return node.domain == MICROSOFT and (node.op_type == "QLinearConv" or (last and node.op_type in {*_ONNX, *_POOLS}))


def _rank(node: onnx.NodeProto, graph: onnx.GraphProto) -> int:
    """How many axes its map has; 0 where it does not tell."""
    if node.op_type == "QLinearConv":
        return next(
            (len(item.dims) for item in graph.initializer if item.name == node.input[WEIGHT_AT[node.op_type]]), 0
        )
    return 2 + len(attributes(node)["kernel_shape"]) if "kernel_shape" in attributes(node) else 0


class _Turning:
    def __init__(self, graph: Graph, rank: int) -> None:
        self.graph, self.names = graph, graph.names()
        self.node_names = Names(node.name for node in graph.nodes)
        self.first, self.last = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
        self._channels_first: dict[str, str] = {}
        turns = [node for node in graph.nodes if self._turns(node, self.first)]
        self._wanted = {node.input[0]: node.output[0] for node in reversed(turns)}
        """What is turned to channels first anyway, and the first tensor that is made so."""

    @staticmethod
    def _turns(node: onnx.NodeProto, perm: list[int]) -> bool:
        return node.op_type == "Transpose" and list(attributes(node).get("perm", [])) == perm

    def turned(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What stands in the place of a node."""
        if not _is_ours(node):
            if self._turns(node, self.last):
                self._channels_first[node.output[0]] = node.input[0]
            if self._channels_first.get(node.input[0] if node.input else "") != node.output[0]:
                yield node
            return
        made = copied(node, attribute=[item for item in node.attribute if item.name != "channels_last"])
        if node.op_type in _ONNX:
            made.op_type, made.domain = _ONNX[node.op_type], ""
        if node.op_type == "QLinearConv" and not attributes(node).get("channels_last", 0):
            yield made
            return
        if node.input[0] not in self._channels_first:
            yield self._transpose(node.input[0], self.names.unused(f"{node.input[0]}_channels_first"), self.first)
        made.input[0] = self._channels_first[node.input[0]]
        made.output[0] = self._wanted.get(node.output[0]) or self.names.unused(f"{node.output[0]}_channels_first")
        yield made
        self._channels_first[node.output[0]] = made.output[0]
        yield self._transpose(made.output[0], node.output[0], self.last)

    def _transpose(self, given: str, output: str, perm: list[int]) -> onnx.NodeProto:
        if perm == self.first:
            self._channels_first[given] = output
        return helper.make_node(
            "Transpose", [given], [output], self.node_names.unused(f"{output}_transpose"), perm=perm
        )
