"""Tensors whose values are elsewhere: in the model's own file, in files beside it, in memory.

:class:`Store` finds the bytes of a tensor and guards the model's folder: no model makes us read anything
outside of it. Source of the format: https://onnx.ai/onnx/repo-docs/ExternalData.html
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx

from onnxfc.errors import ReadError
from onnxfc.io.byte_source import FileSource, MemorySource, Source, Span
from onnxfc.io.protobuf_wire import LOCATION

MEMORY = "onnxfc:memory"
"""The ``location`` of a reference to an array in memory; ``offset`` is its number."""

LARGE = 1024
"""Initializers of at least so many bytes stay in the file; shapes, axes and the like are below it."""

_PRIVATE = "onnxfc:"
_T = onnx.TensorProto
_PACKED_BITS = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}
_NUMPY_NAMES = (
    *("FLOAT", "DOUBLE", "FLOAT16", "COMPLEX64", "COMPLEX128", "BOOL"),
    *("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
)
NUMPY_TYPES = frozenset(_T.DataType.Value(name) for name in _NUMPY_NAMES)
"""Data types whose raw data numpy understands on its own."""


def _bits(data_type: int) -> int | None:
    """Bits of one element in raw data; None where there is no raw form that we know."""
    if data_type in NUMPY_TYPES:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8
    names = dict(zip(_T.DataType.values(), _T.DataType.keys(), strict=True))
    name = names.get(data_type, "")
    if name.startswith("FLOAT8"):
        return 8
    return 16 if name == "BFLOAT16" else _PACKED_BITS.get(name)


def raw_size(tensor: onnx.TensorProto) -> int | None:
    """Bytes that the values of ``tensor`` take as raw data, by its dims; None where that is not known."""
    bits = _bits(tensor.data_type)
    if bits is None or any(dim < 0 for dim in tensor.dims):
        return None
    count = 1
    for dim in tensor.dims:
        count *= dim
    return -(-count * bits // 8)


def entries(tensor: onnx.TensorProto) -> dict[str, str]:
    """The ``external_data`` of a tensor."""
    return {entry.key: entry.value for entry in tensor.external_data}


def set_entries(tensor: onnx.TensorProto, pairs: Iterable[tuple[str, object]]) -> None:
    """Make ``tensor`` an external one with exactly this ``external_data``."""
    del tensor.external_data[:]
    tensor.data_location = _T.EXTERNAL
    for key, value in pairs:
        tensor.external_data.add(key=key, value=str(value))


def inline(tensor: onnx.TensorProto, span: Span) -> None:
    """Put the bytes that a tensor refers to into it."""
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    tensor.raw_data = span.view().tobytes()


def is_text(name: str) -> bool:
    """Whether a file name is UTF-8 text, without which no model can refer to it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the values are elsewhere: in a file beside the model, or behind a private reference."""
    return bool(tensor.data_location == _T.EXTERNAL)


def is_private(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor is a reference that only this process understands."""
    return is_external(tensor) and entries(tensor).get("location", "").startswith(_PRIVATE)


def all_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model, wherever it may be."""
    yield from model.graph.initializer
    yield from other_tensors(model)


_A = onnx.AttributeProto
_PLAIN = {_A.FLOAT, _A.INT, _A.STRING, _A.FLOATS, _A.INTS, _A.STRINGS}
"""Types of nearly all attributes, which hold no tensors."""


def other_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor but the main graph's initializers: sparse ones, in attributes, subgraphs, functions."""
    graphs = [g for info in model.training_info for g in (info.initialization, info.algorithm)]
    yield from _sparse(model.graph.sparse_initializer)
    for graph in graphs:
        yield from _of_graph(graph)
    nodes = [model.graph.node, *(g.node for g in graphs), *(f.node for f in model.functions)]
    attributes = [a for f in model.functions for a in f.attribute_proto]
    while nodes or attributes:  # not recursive: subgraphs may be nested deeper than Python's stack
        attributes += [a for node in (nodes.pop() if nodes else ()) for a in node.attribute if a.type not in _PLAIN]
        while attributes:
            attribute = attributes.pop()
            yield from [attribute.t] if attribute.HasField("t") else attribute.tensors
            yield from _sparse([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])
            yield from _sparse(attribute.sparse_tensors)
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _of_graph(graph)
                nodes.append(graph.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from _sparse(graph.sparse_initializer)


def _sparse(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for tensor in tensors:
        yield from (tensor.values, tensor.indices)


class Store:
    """All the sources of a model's weights; shared by every model that was derived from it."""

    def __init__(self, main: Source | None = None, path: Path | None = None) -> None:
        """``main``: what the model itself was read from; ``path``: where, None for models in memory."""
        self.main = main
        self._folder = path.parent if path is not None else None
        self._files: dict[str, FileSource] = {}
        self._held: list[MemorySource] = []

    def files(self) -> Iterator[FileSource]:
        """Every file that has been opened for this model."""
        if isinstance(self.main, FileSource):
            yield self.main
        yield from self._files.values()

    @property
    def has_data_files(self) -> bool:
        """Whether the model came with external data."""
        return bool(self._files)

    def hold(self, array: np.ndarray) -> list[tuple[str, object]]:
        """Keep ``array`` in memory; returns the ``external_data`` of a reference to it."""
        source = MemorySource(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        self._held.append(source)
        return [("location", MEMORY), ("offset", len(self._held) - 1), ("length", source.size)]

    def span(self, tensor: onnx.TensorProto) -> Span | None:
        """Where the bytes of ``tensor`` are; None where it carries them itself. Raises ReadError."""
        if not is_external(tensor):
            return None
        info = entries(tensor)
        location = info.get("location", "")
        offset = _number(tensor, info, "offset") or 0
        if location == MEMORY and offset < len(self._held):
            return Span(self._held[offset], 0, self._held[offset].size)
        source = self.main if location == LOCATION else self._file(tensor, location)
        if source is None:
            raise ReadError(f"tensor {tensor.name!r}: refers to the weights of another model")
        return _checked(tensor, source, offset, _number(tensor, info, "length"))

    def _file(self, tensor: onnx.TensorProto, location: str) -> FileSource:
        if location not in self._files:
            self._files[location] = self._open(tensor.name, location)
        return self._files[location]

    def _open(self, tensor: str, location: str) -> FileSource:
        where = f"external data {location!r} of tensor {tensor!r}"
        if not location or "\0" in location or location.startswith(_PRIVATE):
            raise ReadError(f"{where}: the model does not name a file; export it again")
        if self._folder is None:
            raise ReadError(f"{where}: cannot be found for a model in memory; give the model's path instead")
        folder = os.path.realpath(self._folder)
        path = os.path.realpath(os.path.join(folder, location))
        if os.path.isabs(location) or os.path.commonpath([folder, path]) != folder:
            raise ReadError(f"{where}: is outside of the model's folder; put a copy of it beside the model")
        try:
            return FileSource(Path(path))
        except OSError as error:
            hint = "; it belongs beside the model" if error.errno == errno.ENOENT else ""
            raise ReadError(f"{where}: cannot read {path}: {error.strerror}{hint}") from error


def _number(tensor: onnx.TensorProto, info: dict[str, str], key: str) -> int | None:
    text = info.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ReadError(f"tensor {tensor.name!r}: {key} {text[:40]!r} of its external data is not a size")
    return int(text)


def _checked(tensor: onnx.TensorProto, source: Source, offset: int, length: int | None) -> Span:
    """The span, within its source. Without a length, the tensor's own size is what counts."""
    if length is None:
        size = raw_size(tensor)
        length = max(source.size - offset, 0) if size is None else size
    if offset + length > source.size:
        where = source.path if isinstance(source, FileSource) else "the model"
        raise ReadError(
            f"{where}: tensor {tensor.name!r} needs bytes {offset} to {offset + length}, but there are only "
            f"{source.size}; the file is truncated or belongs to another model"
        )
    return Span(source, offset, length)
