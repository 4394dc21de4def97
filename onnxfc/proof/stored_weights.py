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
        try:
            return None if inner is None else self._turned(node, inner)
        except (IndexError, ValueError):  # a node that cannot run on it
            return None

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
        if kind in ("DequantizeLinear", "QuantizeLinear"):
            turn = self._dequantised if kind == "DequantizeLinear" else self._quantised
            return turn(inner, node.input[1:], int(attributes.get("axis", 1)), int(attributes.get("block_size", 0)))
        if kind == "Transpose":
            perm = attributes.get("perm", range(values.ndim)[::-1])
            if sorted(perm) != list(range(values.ndim)):
                return None
            values = values.transpose(perm)
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
        while node is not None and node.op_type in _MOVES:
            node = self._makers.get(node.input[0])
        return list(node.input[1:3]) if node is not None and node.op_type == "DequantizeLinear" else []

    def of_integers(self, given: Sequence[str], axis: int = 0) -> Stored | None:
        """The weight of an operator on integers, with its scale and zero point, along its outputs' axis or for all."""
        inner = self.of(given[0])
        return None if inner is None else self._dequantised(inner, given[1:], axis)

    def in_blocks(self, node: onnx.NodeProto) -> Stored | None:
        """The weight of a MatMulNBits as (N, K): integers from the lowest bits of a byte on, blocks of a row one after
        the other. None where columns are sorted into blocks otherwise (``g_idx``)."""
        told = {item.name: item.i for item in node.attribute}
        rows, columns, bits, size = (told.get(key, default) for key, default in _BLOCKS.items())
        packed, scale, zero, order = (self.of(name) if name else None for name in [*node.input, "", "", ""][1:5])
        lost = any(node.input[3:5]) if zero is None else order is not None or any(node.input[4:5])
        if packed is None or scale is None or lost or bits not in (2, 4, 8) or min(rows, size) < 1:
            return None
        blocks = -(-columns // size)
        integers = _unpacked(packed.values.reshape(rows, -1), bits).astype(np.float64)
        middle = np.full((rows, blocks), 2.0 ** (bits - 1)) if zero is None else zero.values.reshape(rows, -1)
        middle = _unpacked(middle, bits)[:, :blocks] if middle.dtype == np.uint8 else middle
        if integers.size % (rows * blocks) or scale.values.size != rows * blocks or middle.shape != (rows, blocks):
            return None
        values = integers.reshape(rows, blocks, -1)[:, :, :size] - middle.astype(np.float64)[..., None]
        values = (values * scale.values.reshape(rows, blocks, 1)).astype(scale.values.dtype).reshape(rows, -1)
        return Stored(packed.name, np.ascontiguousarray(values[:, :columns]), None, float(scale.values.max()))

    def _dequantised(self, inner: Stored, given: Sequence[str], axis: int, block: int = 0) -> Stored | None:
        steps = self._steps(inner.values, given, axis, block)
        if steps is None:
            return None
        scale, zero = steps
        moved = np.float32(0) if zero is None else zero.astype(np.float32)
        return Stored(inner.name, (inner.values.astype(np.float32) - moved) * scale, None, float(scale.max()))

    def _quantised(self, inner: Stored, given: Sequence[str], axis: int, block: int) -> Stored | None:
        """The integers that a QuantizeLinear makes of floats; None where its type is not that of a zero point."""
        scale, zero = self._steps(inner.values, given, axis, block) or (None, None)
        if scale is None or zero is None or zero.dtype.kind not in "iu" or inner.values.dtype.kind != "f":
            return None
        ends = np.iinfo(zero.dtype)
        values = np.rint(inner.values.astype(np.float32) / scale) + zero
        return Stored(inner.name, np.clip(values, ends.min, ends.max).astype(zero.dtype))

    def _steps(self, values: Array, given: Sequence[str], axis: int, block: int) -> tuple[Array, Array | None] | None:
        """A scale and a zero point as they go with values: one for all, or along an axis for each place or block."""
        at, made = axis % max(1, values.ndim), list[Array]()
        for name in filter(None, given[:2]):
            found = self.of(name)
            if found is None:
                return None
            one = found.values
            if block and one.ndim == values.ndim > 0:
                one = np.repeat(one, block, at)[(slice(None),) * at + (slice(values.shape[at]),)]
            elif one.ndim <= 1 and one.size in (1, values.shape[at] if values.ndim else 1):
                one = one.reshape([-1 if a == at else 1 for a in range(values.ndim)])
            if one.ndim != values.ndim or any(n not in (1, m) for n, m in zip(one.shape, values.shape, strict=True)):
                return None
            made.append(one)
        return (made[0], made[1] if len(made) > 1 else None) if made else None


_MOVES = frozenset(("Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Gather"))
_TURNS = _MOVES | {"Cast", "DequantizeLinear", "QuantizeLinear"}
_BLOCKS = {"N": 0, "K": 0, "bits": 4, "block_size": 0}


def _unpacked(values: Array, bits: int) -> Array:
    """Rows of bytes as rows of the integers in them."""
    apart: Array = values[..., None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8(2**bits - 1)
    return apart.reshape(len(values), -1)


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
