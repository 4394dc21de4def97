"""onnxruntime's operators on maps in blocks of channels (NCHWc), as ONNX's that have the same shapes.

Those weights stay in blocks: what is made here tells shapes and is not run.
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/graph/contrib_ops/nchwc_schema_defs.cc
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.index import Graph, Names, attributes, copied, refill
from onnxfc.graph.op_kinds import NCHWC
from onnxfc.io.model_file import ModelFile

_FUSED = ("activation", "activation_params")


def shaped_as(model: ModelFile) -> ModelFile:
    """The model with ONNX's operators in place of those in blocks; the very same where there are none."""
    if not any(node.domain == NCHWC for node in model.proto.graph.node):
        return model
    unblocking = _Unblocking(Graph(model.proto).names())
    proto = copied(model.proto)
    refill(proto.graph, node=[made for node in model.proto.graph.node for made in unblocking.standing(node)])
    proto.graph.initializer.extend(unblocking.numbers)
    return model.with_proto(proto)


class _Unblocking:
    def __init__(self, names: Names) -> None:
        self.names = names
        self.numbers: list[onnx.TensorProto] = []

    def standing(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """What stands in the place of a node."""
        if node.domain != NCHWC:
            yield node
            return
        told = attributes(node)
        last = bool(told.get("channels_last", 0))
        if node.op_type == "ReorderInput":
            yield self._node(node, "Transpose", node.input[:1], perm=[0, 3, 1, 2] if last else [0, 1, 2, 3])
        elif node.op_type == "ReorderOutput":
            cut = self._node(node, "Slice", [node.input[0], *map(self._number, ([0], [told["channels"]], [1]))])
            cut.output[0] = self.names.unused(node.output[0])
            yield cut
            yield self._node(node, "Transpose", cut.output[:1], perm=[0, 2, 3, 1] if last else [0, 1, 2, 3])
        elif node.op_type == "Upsample":
            scales = self._number(np.array(told["scales"], np.float32))
            yield self._node(node, "Resize", [node.input[0], "", scales])
        else:
            made = copied(node, attribute=[item for item in node.attribute if item.name not in _FUSED])
            made.domain, added = "", list(node.input[3:])
            if added:  # a Conv's result is added to it
                del made.input[3:]
                made.output[0] = self.names.unused(node.output[0])
            yield made
            if added:
                yield self._node(node, "Add", [made.output[0], *added])

    def _node(self, node: onnx.NodeProto, kind: str, inputs: Sequence[str], perm: Sequence[int] = ()) -> onnx.NodeProto:
        made = helper.make_node(kind, inputs, node.output[:1], node.name)
        made.attribute.extend([helper.make_attribute("perm", perm)] if perm else [])
        return made

    def _number(self, value: Sequence[int] | np.ndarray) -> str:
        name = self.names.unused("onnxfc_blocks")
        self.numbers.append(numpy_helper.from_array(np.asarray(value), name))
        return name
