"""MatMulNBits, whose weight is stored in blocks of few bits with a scale each, as the MatMul that it stands for.

https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulNBits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxfc.graph.index import Graph, attributes, copied, refill, remarks
from onnxfc.graph.op_kinds import MICROSOFT
from onnxfc.io.model_file import ModelFile

KIND = "MatMulNBits"
READ = 4
"""Inputs that are understood: features, integers, scales, zero points; no order of columns. A bias is an Add."""
_BIAS_AT = 5


def blocks_on_floats(model: ModelFile) -> tuple[ModelFile, Mapping[str, onnx.NodeProto]]:
    """The model with a MatMul in place of every MatMulNBits, and these by the names of their new weights (K, N); the
    very same where there are none."""
    found = [node for node in model.proto.graph.node if node.op_type == KIND and node.domain == MICROSOFT]
    if not found:
        return model, {}
    graph, own, weights = Graph(model.proto), dict[str, onnx.NodeProto](), []
    names, nodes = graph.names(), []
    for node in graph.nodes:
        value = _value(model, graph, node) if any(node is item for item in found) else None
        if value is None:
            nodes.append(node)
            continue
        name = names.unused(f"{node.input[1]}_floats")
        weights.append(model.tensor(name, np.ascontiguousarray(value.T)))
        own[name] = node
        bias = node.input[_BIAS_AT] if len(node.input) > _BIAS_AT else ""
        product = [names.unused(f"{node.output[0]}_product")] if bias else node.output
        made = helper.make_node("MatMul", [node.input[0], name], product, name=node.name)
        made.MergeFrom(remarks(node))
        nodes.append(made)
        if bias:
            nodes.append(helper.make_node("Add", [*product, bias], node.output, name=f"{node.name}_add"))
    proto = copied(model.proto)
    refill(proto.graph, node=nodes)
    proto.graph.initializer.extend(weights)
    return model.with_proto(proto), own


def _value(model: ModelFile, graph: Graph, node: onnx.NodeProto) -> np.ndarray | None:
    """The weight (N, K) in floats; None where it is of another form."""
    told, given = attributes(node), list(node.input)
    bits, block = int(told.get("bits", 4)), int(told.get("block_size", 0))
    stored = [None if name in graph.overridable else graph.constant(name) for name in given[1:READ] if name]
    if any(given[READ:_BIAS_AT]) or None in stored or bits not in (2, 4, 8) or block < 1:
        return None
    try:
        return _floats([model.array(item) for item in stored if item is not None], told["N"], told["K"], bits, block)
    except (KeyError, TypeError, ValueError):  # nobody has looked yet whether they fit
        return None


def _floats(stored: Sequence[np.ndarray], rows: int, columns: int, bits: int, block: int) -> np.ndarray:
    integers, scales, *zeros = stored
    blocks = -(-columns // block)
    values = _unpacked(integers.reshape(rows, -1), bits).reshape(rows, blocks, -1)[:, :, :block].astype(np.float64)
    middle: np.ndarray | float = 2.0 ** (bits - 1)
    if zeros:
        packed = zeros[0].dtype == np.uint8
        middle = (_unpacked(zeros[0].reshape(rows, -1), bits)[:, :blocks] if packed else zeros[0]).reshape(rows, -1, 1)
    floats = (values - middle) * scales.reshape(rows, blocks, 1).astype(np.float64)
    return np.asarray(floats.reshape(rows, -1)[:, :columns].astype(scales.dtype))


def _unpacked(value: np.ndarray, bits: int) -> np.ndarray:
    """Integers of so many bits, the lowest bits of a byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    apart = (value[..., None] >> shifts) & (2**bits - 1)
    return np.asarray(apart.reshape(*value.shape[:-1], -1))
