"""Open and save models without reading their weights.

Large initializers stay where they are, on disk: :attr:`ModelFile.proto` is a skeleton in which each of
them is a reference (ONNX external data with a private location) into the source file. A reference can be
renamed, reshaped to dims of the same element count, copied and removed like any other tensor;
:meth:`ModelFile.array` loads the values of one, :meth:`ModelFile.save` copies the bytes across.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import numpy_helper

from onnxfc import errors, interop
from onnxfc.errors import ReadError, UsageError
from onnxfc.io import protobuf_wire
from onnxfc.io.byte_source import FileSource, MemorySource, Source
from onnxfc.io.external_data import LARGE, NUMPY_TYPES, Store, all_tensors, inline, raw_size, set_entries
from onnxfc.io.save import SaveOptions, check_target, save

if TYPE_CHECKING:
    import onnx_graphsurgeon


@runtime_checkable
class HasFile(Protocol):
    """What holds an opened model, as the result of a rewrite does."""

    @property
    def file(self) -> ModelFile:
        """The model."""


Model: TypeAlias = "str | Path | bytes | onnx.ModelProto | ModelFile | HasFile | onnx_graphsurgeon.Graph"
"""All that a model may be given as."""

_T = onnx.TensorProto
_MAGIC = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint is one, too)"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x80\x02", "a Python pickle"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in onnxruntime's own format"),
)


class ModelFile:
    """An opened model: ``proto`` (to be treated as read-only), ``path`` (None in memory), its weights.

    >>> onnxfc.ModelFile.open("digits-any.onnx").proto.graph.input[0].name
    'image'
    """

    def __init__(self, proto: onnx.ModelProto, path: Path | None = None, store: Store | None = None) -> None:
        self.proto = proto
        self.path = path
        self.store = store if store is not None else Store(None, path)

    @classmethod
    def open(cls, source: Model) -> ModelFile:
        """Open a model file, the bytes of one, or a model that is in memory: a protobuf, an onnx-graphsurgeon graph, or
        what :func:`onnxfc.rewrite` returned. What is open already is given back.

        Raises ReadError where there is no ONNX model, or its external data is missing, too short or
        outside of the model's folder.
        """
        if isinstance(source, ModelFile):
            return source
        if interop.is_surgeon(source):
            source = interop.from_surgeon(source)
        elif isinstance(source, HasFile):
            return source.file
        if isinstance(source, onnx.ModelProto):
            model = cls(source)
        elif isinstance(source, bytes):
            model = cls._parse(memoryview(source), MemorySource(source), None)
        elif isinstance(source, (str, os.PathLike)):
            model = cls._from_path(Path(cast(str, source)))
        else:
            told = "a path, bytes, a protobuf, an onnx-graphsurgeon graph or what rewrite returned"
            raise UsageError(f"a model is given as {told}, not {type(source).__name__}")
        if not model.proto.HasField("graph"):
            raise ReadError(f"{model._where}: is not an ONNX model: it has no graph")
        for tensor in all_tensors(model.proto):
            model.store.span(tensor)  # to learn now, not in the midst of the work, that data is missing
        return model

    @classmethod
    def _from_path(cls, path: Path) -> ModelFile:
        try:
            source = FileSource(path, keep_open=True)
        except FileNotFoundError as error:
            raise ReadError(f"{path}: there is no such file; check the path") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ReadError(f"{path}: cannot read: {reason}") from error
        if not source.size:
            raise ReadError(f"{path}: is empty; export or download the model again")
        return cls._parse(source.map(), source, path)

    @classmethod
    def _parse(cls, data: memoryview, source: Source, path: Path | None) -> ModelFile:
        where = path or "the given bytes"
        if not len(data):
            raise ReadError(f"{where}: is empty; export or download the model again")
        try:
            proto = onnx.ModelProto.FromString(protobuf_wire.skeleton(data, LARGE))
        except (protobuf_wire.WireError, DecodeError) as error:
            raise ReadError(f"{where}: {_diagnosis(data, error)}") from error
        if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
            raise ReadError(f"{where}: {_diagnosis(data, None)}")
        if any(isinstance(text, bytes) for text in _names(proto)):  # protobuf's way to say so
            raise ReadError(f"{where}: has names that are not UTF-8 text; it is damaged, export it again")
        source.verify()
        return cls(proto, path, Store(source, path))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a model whose weights are in open files cannot be pickled or copied, nor a Rewrite, which has two: "
            "save() it and open the file there; its claim and parity can be pickled"
        )

    @property
    def _where(self) -> str:
        return str(self.path or "the given model")

    def with_proto(self, proto: onnx.ModelProto) -> ModelFile:
        """Another model over the same weights."""
        return ModelFile(proto, self.path, self.store)

    def tensor(self, name: str, array: np.ndarray) -> onnx.TensorProto:
        """A new initializer called ``name`` for a proto over these weights.

        A large array is kept as it is and referred to, not copied into the proto; do not change it.
        """
        tensor: onnx.TensorProto
        data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        if array.nbytes < LARGE or data_type not in NUMPY_TYPES or not array.dtype.isnative:
            tensor = numpy_helper.from_array(array, name)
            return tensor
        tensor = _T(name=name, data_type=data_type, dims=array.shape)
        set_entries(tensor, self.store.hold(array))
        return tensor

    def array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The values of one tensor, loaded alone and mapped where possible; treat them as read-only.

        Raises ReadError where its bytes cannot be read or do not fit its dims.
        """
        span = self.store.span(tensor)
        try:
            if span is None:
                return np.asarray(numpy_helper.to_array(tensor))
            if len(span) != raw_size(tensor):
                raise ValueError(f"{len(span)} bytes do not fit its type and dims {tuple(tensor.dims)}")
            data = span.view()
            if tensor.data_type not in NUMPY_TYPES:
                raw = _T(dims=tensor.dims, data_type=tensor.data_type, raw_data=data.tobytes())
                return np.asarray(numpy_helper.to_array(raw))
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
            array: np.ndarray = data.view(dtype).reshape(tuple(tensor.dims))
            return array
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            line = " ".join(str(error).split())
            raise ReadError(f"{self._where}: tensor {tensor.name!r} cannot be read: {line}") from error

    def loaded(self) -> onnx.ModelProto:
        """The model with all weights in it, as ``onnx.load`` gives it: costs their size in memory."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        for tensor in all_tensors(proto):
            if (span := self.store.span(tensor)) is not None:
                inline(tensor, span)
        return proto

    def check_target(self, path: str | Path, options: SaveOptions | None = None) -> None:
        """Whether :meth:`save` may write there: raises WriteError or UsageError now rather than later."""
        check_target(path, self.store, options or SaveOptions())

    def save(self, path: str | Path, options: SaveOptions | None = None) -> list[Path]:
        """Write the model to ``path``, atomically; large bytes are copied by the kernel. Returns its data files.

        Killed at any moment, it leaves the old model or the new one, each with its data; so do several writers
        (:mod:`onnxfc.io.publish` says how, and which names data files get). Raises WriteError where ``path``
        cannot be written, UsageError where it is one of the input's files, ReadError where the input has changed
        since it was opened.
        """
        errors.options("options", options, SaveOptions)
        return save(self.proto, self.store, path, options or SaveOptions())


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """All names that a program would look at; doc strings may be anything."""
    yield from (model.producer_name, *(item.key for item in model.metadata_props))
    yield from (item.domain for item in model.opset_import)
    yield from (text for function in model.functions for text in (function.name, function.domain))
    graphs, lists = [model.graph], [model.graph.node, *(function.node for function in model.functions)]
    for node in itertools.chain.from_iterable(lists):  # which grow by those of subgraphs
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        for attribute in node.attribute:
            yield attribute.name
            inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())]
            graphs += inner
            lists += [graph.node for graph in inner]
    for info in (info for graph in graphs for info in (*graph.input, *graph.output, *graph.value_info)):
        yield info.name
        for dim in info.type.tensor_type.shape.dim:
            yield from (dim.dim_param, dim.denotation)
    for tensor in all_tensors(model):
        yield tensor.name
        yield from (text for entry in tensor.external_data for text in (entry.key, entry.value))


def _diagnosis(data: memoryview, error: Exception | None) -> str:
    """What the bytes are, as they are not a model."""
    head = bytes(data[:512])
    for offset, magic, name in _MAGIC:
        if head[offset:].startswith(magic):
            return f"is not an ONNX model but {name}"
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the model itself; run `git lfs pull`"
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "is not an ONNX model but text; give the binary .onnx file"
    missing = error.missing if isinstance(error, protobuf_wire.WireError) else 0
    if missing and head[0] == 0x08:  # a model begins with its ir_version
        return "is truncated, or not an ONNX model; export or download it again"
    return "is not an ONNX model; give a file exported as .onnx"
