"""MatMulNBits again, where a MatMul stood for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxfc.graph.block_weights import READ
from onnxfc.graph.index import copied


def block_weights(nodes: Sequence[onnx.NodeProto], own: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes of a new graph; ``own``: the original's, by the weights that stood for theirs."""
    return [_again(node, own) for node in nodes] if own else list(nodes)


def _again(node: onnx.NodeProto, own: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    if node.op_type != "MatMul" or node.input[1] not in own:
        return node
    before = own[node.input[1]]
    made = copied(before, input=[node.input[0], *before.input[1:READ]], output=node.output)
    made.name = node.name
    return made
