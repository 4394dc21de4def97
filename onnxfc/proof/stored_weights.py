"""Weights as a file holds them, behind whatever turns them on their way to an operator.

Values are mapped, not loaded; a Cast between floats is passed over, as what it rounds is for the comparison to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.io.byte_source import Span
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.sessions import Array

_LONGEST = 32
"""Nodes between a weight and its operator."""
_SPARSE = 1 << 24
"""Elements of the largest sparse weight that is laid out."""


@dataclass(frozen=True)
class Stored:
    """A weight: its values, the bytes where they are as they stand, and how far quantisation may have moved them."""

    name: str
    values: Array
    span: Span | None = None
    step: float = 0.0


class Weights:
    """All weights of a model's graph and its subgraphs, found by the name under which an operator reads them."""

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self.nodes = list(_nodes(file.proto.graph))
        self._makers = {name: node for node in self.nodes for name in node.output if name}
        self._tensors = {tensor.name: tensor for graph in _graphs(file.proto.graph) for tensor in graph.initializer}
        self._sparse = {item.values.name: item for item in file.proto.graph.sparse_initializer}

    def of(self, name: str, left: int = _LONGEST) -> Stored | None:
        """The weight called ``name``; None where it is none that a file holds."""
        if name in self._tensors:
            return self._stored(name, self._tensors[name])
        if name in self._sparse:
            return _dense(name, self._sparse[name])
        node = self._makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx", "com.microsoft") or not left:
            return None
        if node.op_type == "Constant":
            return self._constant(name, node.attribute[0]) if len(node.attribute) == 1 else None
        inner = self.of(node.input[0], left - 1) if node.op_type in _TURNS and node.input else None
        return None if inner is None else self._turned(node, inner)

    def _stored(self, name: str, tensor: onnx.TensorProto) -> Stored:
        return Stored(name, self._file.array(tensor), self._file.store.span(tensor))

    def _constant(self, name: str, attribute: onnx.AttributeProto) -> Stored | None:
        if attribute.name == "value":
            return self._stored(name, attribute.t)
        if attribute.name == "sparse_value":
            return _dense(name, attribute.sparse_tensor)
        value = helper.get_attribute_value(attribute)
        return Stored(name, np.asarray(value)) if attribute.name in ("value_float", "value_floats") else None

    def _turned(self, node: onnx.NodeProto, inner: Stored) -> Stored | None:
        """What a node makes of a weight; None where that is more than laying it otherwise or rounding it."""
        values, kind = inner.values, node.op_type
        if kind == "Identity" or (kind == "Cast" and _is_float(node)):
            return inner
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if kind == "DequantizeLinear":
            return self._dequantised(inner, node.input[1:], int(attributes.get("axis", 1)))
        if kind == "Transpose":
            values = values.transpose(attributes.get("perm"))
        elif kind == "Gather":
            places = self.of(node.input[1])
            if places is None:
                return None
            values = np.take(values, places.values, int(attributes.get("axis", 0)))
        elif kind == "Reshape":
            shape = self.of(node.input[1])
            wanted = [] if shape is None else shape.values.tolist()
            if shape is None or 0 in wanted:
                return None
            values = values.reshape(wanted)
        elif kind == "Flatten":
            axis = int(attributes.get("axis", 1))
            values = values.reshape(int(np.prod(values.shape[:axis])), -1)
        elif kind in ("Squeeze", "Unsqueeze"):
            # extents of 1 mean nothing to a comparison of rows and columns; a matrix has to stay one
            values = values if values.ndim <= 2 else values.squeeze()
        return replace(inner, values=values, span=inner.span if values.flags.c_contiguous else None)

    def behind(self, name: str) -> list[str]:
        """What the DequantizeLinear is given that makes an operator's features, which may be laid otherwise after it:
        the names of its scale and zero point."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _TURNS - {"DequantizeLinear", "Cast"}:
            node = self._makers.get(node.input[0])
        return list(node.input[1:3]) if node is not None and node.op_type == "DequantizeLinear" else []

    def of_integers(self, given: Sequence[str], axis: int = 0) -> Stored | None:
        """The weight of an operator on integers, with its scale and zero point, along its outputs' axis or for all."""
        inner = self.of(given[0])
        return None if inner is None else self._dequantised(inner, given[1:], axis)

    def _dequantised(self, inner: Stored, given: Sequence[str], axis: int) -> Stored | None:
        scale, zero = self.of(given[0]), self.of(given[1]) if len(given) > 1 else None
        if scale is None or scale.values.ndim > 1 or (len(given) > 1 and zero is None):
            return None
        rank = max(1, inner.values.ndim)
        shape = [-1 if a == axis % rank else 1 for a in range(inner.values.ndim)]
        fits = (1, inner.values.shape[axis % rank] if inner.values.ndim else 1)
        if scale.values.size not in fits or (zero is not None and zero.values.size not in fits):
            return None
        step = scale.values.reshape(shape)
        moved = zero.values.astype(np.float32).reshape(shape) if zero is not None else np.float32(0)
        values = (inner.values.astype(np.float32) - moved) * step
        return Stored(inner.name, values, None, float(step.max()))


_TURNS = frozenset(
    ("Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather", "DequantizeLinear")
)


def _is_float(node: onnx.NodeProto) -> bool:
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16)
    return any(item.name == "to" and item.i in floats for item in node.attribute)


def _dense(name: str, tensor: onnx.SparseTensorProto) -> Stored | None:
    count = int(np.prod(tensor.dims))
    try:
        values, places = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
        if count > _SPARSE:
            return None
        found: np.ndarray[Any, Any] = np.zeros(count, values.dtype)
        if places.ndim == 2:
            places = np.ravel_multi_index(tuple(places.T), tuple(tensor.dims))
        found[places] = values
    except (ValueError, TypeError, IndexError):  # damaged; onnxruntime says so
        return None
    return Stored(name, found.reshape(tuple(tensor.dims)))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        for node in found.node:
            for item in node.attribute:
                waiting += [item.g] if item.HasField("g") else list(item.graphs)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for found in _graphs(graph):
        yield from found.node
