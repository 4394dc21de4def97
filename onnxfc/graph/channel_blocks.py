"""onnxruntime's operators on maps in blocks of channels (NCHWc): as ONNX's that have the same shapes, and their maps as
other runtimes hold them.

The weights stay in blocks: what ``shaped_as`` makes tells shapes and is not run.
https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/graph/contrib_ops/nchwc_schema_defs.cc
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.index import Graph, Names, attributes, copied, refill
from onnxfc.graph.op_kinds import NCHWC
from onnxfc.io.model_file import ModelFile

WIDEST = 16
"""Channels in a block, at most."""
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


def in_blocks(model: ModelFile) -> list[str]:
    """Maps in blocks of channels: what its operators make and what others make of that, up to where it is reordered."""
    found: dict[str, None] = {}
    for node in model.proto.graph.node:
        blocks = node.op_type != "ReorderOutput" if node.domain == NCHWC else any(name in found for name in node.input)
        found |= dict.fromkeys(name for name in node.output if name and blocks)
    return list(found)


def read_out(model: ModelFile, channels: Mapping[str, int]) -> tuple[ModelFile, dict[str, str]]:
    """The model with these maps in blocks made as ONNX has them, too, and their names there: of so many channels,
    without what fills blocks up."""
    proto, names, found = copied(model.proto), Graph(model.proto).names(), {}
    for name, count in channels.items():
        found[name] = made = names.unused(f"{name} in NCHW")
        proto.graph.node.append(helper.make_node("ReorderOutput", [name], [made], made, domain=NCHWC, channels=count))
    return model.with_proto(proto), found


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
