"""Write a model: edit its small skeleton, copy the large bytes.

The plan (:class:`_Plan`) decides for each tensor whether its bytes go into the model file or into a data
file beside it; :mod:`onnxfc.io.publish` lets the files appear together.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import onnx

from onnxfc import errors
from onnxfc.errors import ReadError, UsageError, WriteError
from onnxfc.io import protobuf_wire
from onnxfc.io.atomic_write import check_folder, writing
from onnxfc.io.byte_source import MemorySource, Span
from onnxfc.io.external_data import (
    LARGE,
    Store,
    entries,
    is_external,
    is_private,
    is_text,
    other_tensors,
    set_entries,
)
from onnxfc.io.protobuf_wire import RAW_DATA
from onnxfc.io.publish import DETACH, DataFile, publish

_STREAM = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/(self|\d+)/fd/\d+")
"""What another program has opened; to replace such a file would take it away from under that."""

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message may have; a model beyond it gets external data on its own."""

_SIZES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
SIZED_BY_FLOATS = frozenset({"OneHot", "Range", "Resize", "Upsample"})
"""Operators that make as many elements as floats say."""


@dataclass(frozen=True)
class SaveOptions:
    """Where weights go; the names and meanings are those of onnxruntime's tools.

    By default everything stays as it came: inline inline, external data in one file ``<OUT name>.data``
    beside OUT. ``save_as_external_data``: every initializer of at least ``external_data_size_threshold``
    bytes goes out of the model (but shapes, axes and the like, without which onnxruntime loads none), each into a file
    of its own, or with ``all_tensors_to_one_file`` into
    ``external_data_location`` (relative to OUT's folder; default ``<OUT name>.data``). Giving a location
    means one file. Models above 2 GB get external data in one file on their own.

    >>> options = onnxfc.SaveOptions(save_as_external_data=True, external_data_location="weights.data")
    >>> [path.name for path in onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).save("out.onnx", options)]
    ['weights.data']
    """

    save_as_external_data: bool = False
    all_tensors_to_one_file: bool = False
    external_data_location: str | None = None
    external_data_size_threshold: int = 1024

    def __post_init__(self) -> None:
        errors.flag("save_as_external_data", self.save_as_external_data)
        errors.flag("all_tensors_to_one_file", self.all_tensors_to_one_file)
        errors.whole("external_data_size_threshold", self.external_data_size_threshold, 0, "bytes")
        if not isinstance(self.external_data_location, str | None):
            raise UsageError(f"external_data_location: must be a file name, not {self.external_data_location!r}")

    @property
    def one_file(self) -> bool:
        """Whether all external tensors share a file."""
        return bool(self.all_tensors_to_one_file or self.external_data_location or not self.save_as_external_data)


def save(proto: onnx.ModelProto, store: Store, path: str | Path, options: SaveOptions) -> list[Path]:
    """Write ``proto`` over ``store`` to ``path``; see :meth:`onnxfc.io.model_file.ModelFile.save`."""
    target = check_target(path, store)
    plan = _Plan(proto, store, target, options)
    if plan.model_size() > PROTOBUF_LIMIT:
        forced = replace(options, save_as_external_data=True, all_tensors_to_one_file=True)
        plan = _Plan(proto, store, target, forced)
        if plan.model_size() > PROTOBUF_LIMIT:
            raise WriteError(
                f"{target}: the model is above 2 GB even without its weights; lower external_data_size_threshold"
            )
    for name in plan.files:
        _check_data_target(target, name, store)
    with writing(target):
        return publish(target, plan.files, plan.pieces, list(store.files()))


def check_target(path: str | Path, store: Store, options: SaveOptions | None = None) -> Path:
    """Refuse a target that cannot be written, or that belongs to the input, before any work is done for it.

    With ``options``, also a name for external data that cannot be, or would not be used. Returns the path of the
    file itself, links resolved.
    """
    with writing(Path(path)):
        info = _stat(path)  # of what was given: a pipe has no real path
    if info is not None and stat.S_ISDIR(info.st_mode):
        raise WriteError(f"{path}: is a directory; give the path of the file to write")
    if info is not None and (not stat.S_ISREG(info.st_mode) or _STREAM.fullmatch(os.path.normpath(path))):
        raise WriteError(f"{path}: is not a regular file; give another path")
    target = Path(os.path.realpath(path))
    if info is None:
        with writing(target):
            check_folder(target.parent)
    else:
        _refuse_input(target, info, store)
    if options is not None:
        _check_options(target, store, options)
        if options.save_as_external_data or store.has_data_files:
            _refuse_far_link(Path(path), target)
    return target


def _refuse_far_link(path: Path, target: Path) -> None:
    """A link to another folder: onnx and onnxruntime look for external data beside the link."""
    if path.is_symlink() and target.parent != Path(os.path.realpath(path.parent)):
        raise UsageError(f"{path}: is a link into another folder, where external data is not found; give {target}")


def _stat(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _check_options(target: Path, store: Store, options: SaveOptions) -> None:
    location = options.external_data_location
    named = "all_tensors_to_one_file" if location is None else "external_data_location"
    given = location is not None or options.all_tensors_to_one_file
    if given and not options.save_as_external_data and not store.has_data_files:
        raise UsageError(f"{named}: needs save_as_external_data, as the input's weights are in the model file")
    if location is not None:
        _check_data_target(target, location, store)
    elif options.save_as_external_data or store.has_data_files:
        _must_be_text(target.name)


def _refuse_input(target: Path, info: os.stat_result, store: Store) -> None:
    if any(source.is_same_file(info) for source in store.files()):
        raise UsageError(f"{target}: is a file of the input model, which is never changed; choose another output")


def _must_be_text(name: str) -> None:
    if not is_text(name):
        raise UsageError(f"external data {name!r}: its name must be UTF-8 text, as the model refers to it by that")


def _check_data_target(target: Path, name: str, store: Store) -> None:
    data = target.parent / name
    folder = os.path.realpath(data.parent)
    pure = PurePosixPath(name)
    inside = os.path.commonpath([folder, target.parent]) == str(target.parent)
    named = bool(pure.name) and "\0" not in name and data != target
    if pure.is_absolute() or ".." in pure.parts or not inside or not named:
        raise UsageError(
            f"external_data_location {name!r}: must be a file in the output's folder, other than the output"
        )
    _must_be_text(name)
    with writing(data):
        check_folder(Path(folder))
        info = _stat(data)
    if info is not None:
        if not stat.S_ISREG(info.st_mode) or data.is_symlink():
            raise WriteError(f"{data}: is not a regular file; choose another name for the external data")
        _refuse_input(data, info, store)


class _Plan:
    """The model as it will be, and where the bytes of its tensors go."""

    def __init__(self, proto: onnx.ModelProto, store: Store, target: Path, options: SaveOptions) -> None:
        self._store = store
        self._options = options
        self._name = target.name
        self.files: dict[str, DataFile] = {}
        self._external: list[tuple[onnx.TensorProto, str]] = []
        self._inline: dict[int, protobuf_wire.Payload] = {}
        self._model = onnx.ModelProto()
        self._model.CopyFrom(proto)
        self._sizing = _sizing(self._model)
        for index, tensor in enumerate(self._model.graph.initializer):
            self._initializer(index, tensor)
        for tensor in other_tensors(self._model):
            self._other(tensor)

    def model_size(self) -> int:
        """Bytes of the model file; close enough."""
        return int(self._model.ByteSize()) + sum(len(p.span) + 16 for p in self._inline.values())

    def pieces(self, names: Mapping[str, str]) -> list[protobuf_wire.Piece]:
        """The model file, its data files called as ``names`` says."""
        for tensor, name in self._external:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = names[name]
        return protobuf_wire.splice(self._model.SerializeToString(), self._inline)

    def _initializer(self, index: int, tensor: onnx.TensorProto) -> None:
        span = self._store.span(tensor)
        size = len(tensor.raw_data) if span is None else len(span)
        if self._goes_out(tensor, span, size):
            self._put_out(tensor, span or _detach(tensor))
        elif span is not None:
            self._inline[index] = protobuf_wire.Payload(span, _restore_inline(tensor))
        elif size >= DETACH:
            self._inline[index] = protobuf_wire.Payload(_detach(tensor))

    def _other(self, tensor: onnx.TensorProto) -> None:
        """A tensor in an attribute, a subgraph or a function: stays as it came."""
        span = self._store.span(tensor)
        if span is None:
            return
        if not is_private(tensor) and self._goes_out(tensor, span, len(span)):
            self._put_out(tensor, span)
        elif _restore_inline(tensor) == RAW_DATA:
            tensor.raw_data = span.view().tobytes()
        else:
            raise ReadError(f"tensor {tensor.name!r}: typed values cannot be moved into a subgraph")

    def _goes_out(self, tensor: onnx.TensorProto, span: Span | None, size: int) -> bool:
        if span is None and not tensor.HasField("raw_data"):
            return False  # typed fields, strings
        if size < LARGE and (tensor.data_type in _SIZES or tensor.name in self._sizing):
            return False  # also where the input has it outside: no other model that onnxruntime loads comes of it
        large = size >= self._options.external_data_size_threshold
        if self._options.save_as_external_data:
            return large
        if is_external(tensor) and not is_private(tensor):
            return True
        # In a model with data files, values that are not from the model file were made from external ones.
        new = span is None or isinstance(span.source, MemorySource)
        return self._store.has_data_files and self._store.main is not None and new and large

    def _put_out(self, tensor: onnx.TensorProto, span: Span) -> None:
        name = self._file_name(tensor.name)
        offset = self.files.setdefault(name, DataFile()).place(span)
        known = {"location", "offset", "length", "checksum", "field", "data_location"}
        kept = [] if is_private(tensor) else [e for e in entries(tensor).items() if e[0] not in known]
        set_entries(tensor, [("location", name), ("offset", offset), ("length", len(span)), *kept])
        self._external.append((tensor, name))

    def _file_name(self, tensor: str) -> str:
        if self._options.one_file:
            name = self._options.external_data_location or f"{self._name}.data"
            _must_be_text(name)
            return name
        _must_be_text(self._name)
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", tensor)[:100]
        name, count = f"{self._name}.{safe}.data", 1
        while name in self.files:
            count += 1
            name = f"{self._name}.{safe}.{count}.data"
        return name


def _sizing(model: onnx.ModelProto) -> frozenset[str]:
    """Floats that tell onnxruntime how large a tensor is. While it infers shapes it reads nothing from data files, and
    loads no model where that is needed; so does it with small integers, whatever reads them."""
    nodes = (node for node in model.graph.node if node.op_type in SIZED_BY_FLOATS)
    return frozenset(name for node in nodes for name in node.input)


def _detach(tensor: onnx.TensorProto) -> Span:
    """Take the raw data out of a tensor."""
    source = MemorySource(tensor.raw_data)
    tensor.ClearField("raw_data")
    return Span(source, 0, source.size)


def _restore_inline(tensor: onnx.TensorProto) -> int:
    """Undo a reference; returns the number of the field that its bytes belong into."""
    info = entries(tensor) if is_private(tensor) else {}
    field_number = {"4": 4, "10": 10}.get(info.get("field", ""), RAW_DATA)
    del tensor.external_data[:]
    tensor.ClearField("data_location")
    if "data_location" in info:
        tensor.data_location = onnx.TensorProto.DEFAULT
    return field_number
