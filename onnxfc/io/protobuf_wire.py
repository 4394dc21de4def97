"""The protobuf wire format, as far as the large tensors of a model need it.

A model is ``ModelProto.graph (7) → GraphProto.initializer (5) → TensorProto.raw_data (9)``.
:func:`skeleton` copies a model without the large payloads of its initializers and leaves a reference in
the place of each; :func:`splice` puts payloads back. Both touch only the fields on that path: every other
byte, unknown fields included, is passed on as it stands.

The bytes come from files that nobody vouches for, so each length is held against the message that
contains it, a varint may have ten bytes, and groups are skipped without recursion.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import onnx

VARINT, I64, LEN, GROUP, END_GROUP, I32 = range(6)
_FIXED = {I64: 8, I32: 4}
_MAX_DEPTH = 100  # of groups: protobuf's own limit

_GRAPH = 7  # in ModelProto
_INITIALIZER = 5  # in GraphProto
_DATA_TYPE, _DATA_LOCATION = 2, 14  # in TensorProto
RAW_DATA = 9
# Packed float_data and double_data are, byte for byte, what raw_data would be.
_PACKED_LIKE_RAW = {4: onnx.TensorProto.FLOAT, 10: onnx.TensorProto.DOUBLE}
# segment, the typed *_data fields, raw_data, external_data: where a tensor's values may be.
_VALUES = frozenset({3, 4, 5, 6, 7, RAW_DATA, 10, 11, 13})

LOCATION = "onnxfc:source"
"""The ``location`` of a reference into the very file (or bytes) that the model was read from."""


class WireError(ValueError):
    """The bytes are not a protobuf message; ``missing`` > 0: the message ends so many bytes too early."""

    def __init__(self, message: str, missing: int = 0) -> None:
        super().__init__(message)
        self.missing = missing


class Field(NamedTuple):
    """One field: its number, wire type, and where its tag and its payload ``start:end`` are."""

    number: int
    kind: int
    tag: int
    start: int
    end: int


class Sized(Protocol):
    """What stands for bytes that are elsewhere; only its length counts here."""

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Payload:
    """Bytes to be spliced into an initializer as TensorProto field ``number``."""

    span: Sized
    number: int = RAW_DATA


Piece = memoryview | bytes | Sized
_Edit = Callable[[int, int], list[Piece] | None]


def read_varint(buf: memoryview, pos: int, end: int) -> tuple[int, int]:
    """The varint at ``pos`` and the position after it; at most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if pos >= end:
            raise WireError(f"the message ends within a number at byte {pos}", missing=1)
        byte = buf[pos]
        pos += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, pos
    raise WireError(f"a number at byte {pos - 10} has more than ten bytes")


def varint(value: int) -> bytes:
    """``value`` (not negative) as a varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(buf: memoryview, start: int, end: int) -> Iterator[Field]:
    """The fields of the message ``buf[start:end]`` in file order; a group is one field."""
    pos = start
    while pos < end:
        field = _field(buf, pos, end)
        if field.kind == END_GROUP:
            raise WireError(f"a group ends at byte {pos} that never began")
        if field.kind == GROUP:
            field = field._replace(end=_skip_group(buf, field.start, end))
        yield field
        pos = field.end


def _field(buf: memoryview, pos: int, end: int) -> Field:
    tag, start = read_varint(buf, pos, end)
    number, kind = tag >> 3, tag & 7
    if number == 0 or kind > I32:
        raise WireError(f"byte {pos} does not begin a field")
    if kind == LEN:
        length, start = read_varint(buf, start, end)
        stop = start + length
    elif kind == VARINT:
        stop = read_varint(buf, start, end)[1]
    else:
        stop = start + _FIXED.get(kind, 0)
    if stop > end:
        raise WireError(f"field {number} at byte {pos} is cut off", missing=stop - end)
    return Field(number, kind, pos, start, stop)


def _skip_group(buf: memoryview, pos: int, end: int) -> int:
    """The position after the group whose first field is at ``pos``."""
    depth = 1
    while depth:
        field = _field(buf, pos, end)
        depth += {GROUP: 1, END_GROUP: -1}.get(field.kind, 0)
        if depth > _MAX_DEPTH:
            raise WireError(f"groups are nested more than {_MAX_DEPTH} deep at byte {pos}")
        pos = field.end
    return pos


def skeleton(buf: memoryview, least: int) -> bytes:
    """The model in ``buf`` with references instead of initializer payloads of at least ``least`` bytes.

    A tensor whose values are in several places at once, or in a typed field that is not a plain array of
    bytes, stays as it is. Raises :class:`WireError`.
    """

    def graph(start: int, end: int) -> list[Piece] | None:
        return _edit(buf, start, end, _INITIALIZER, lambda s, e: _cut(buf, s, e, least))

    pieces = _edit(buf, 0, len(buf), _GRAPH, graph)
    return bytes(buf) if pieces is None else b"".join(pieces)  # type: ignore[arg-type]


def splice(model: bytes, payloads: Mapping[int, Payload]) -> list[Piece]:
    """The serialized ``model`` as pieces, payload ``i`` appended to initializer ``i`` of its graph."""
    buf = memoryview(model)
    index = -1

    def tensor(start: int, end: int) -> list[Piece] | None:
        nonlocal index
        index += 1
        if index not in payloads:
            return None
        payload = payloads[index]
        return [buf[start:end], _header(payload.number, len(payload.span)), payload.span]

    def graph(start: int, end: int) -> list[Piece] | None:
        return _edit(buf, start, end, _INITIALIZER, tensor)

    pieces = _edit(buf, 0, len(buf), _GRAPH, graph) if payloads else None
    return [model] if pieces is None else pieces


def _header(number: int, length: int) -> bytes:
    return varint(number << 3 | LEN) + varint(length)


def _edit(buf: memoryview, start: int, end: int, number: int, edit: _Edit) -> list[Piece] | None:
    """The message with each submessage ``number`` as ``edit`` has it; None where nothing changed."""
    pieces: list[Piece] = []
    copied = start
    for field in fields(buf, start, end):
        if field.number != number or field.kind != LEN:
            continue
        inner = edit(field.start, field.end)
        if inner is None:
            continue
        length = sum(len(piece) for piece in inner)
        pieces += [buf[copied : field.tag], _header(number, length), *inner]
        copied = field.end
    if not pieces:
        return None
    return [*pieces, buf[copied:end]]


def _cut(buf: memoryview, start: int, end: int, least: int) -> list[Piece] | None:
    """The tensor without its payload, a reference at its end; None where it has to stay inline."""
    if end - start < least:
        return None
    values: Field | None = None
    location: Field | None = None
    data_type = 0
    for field in fields(buf, start, end):
        if field.number in _VALUES:
            if values is not None or field.kind != LEN:
                return None
            values = field
        elif field.number == _DATA_LOCATION:
            if location is not None or field.kind != VARINT or read_varint(buf, field.start, end)[0]:
                return None
            location = field
        elif field.number == _DATA_TYPE and field.kind == VARINT:
            data_type = read_varint(buf, field.start, end)[0]
    if values is None or values.end - values.start < least or not _is_raw(values, data_type):
        return None
    gone = sorted((f for f in (values, location) if f is not None), key=lambda f: f.tag)
    pieces: list[Piece] = []
    for field in gone:
        pieces.append(buf[start : field.tag])
        start = field.end
    return [*pieces, buf[start:end], _reference(values, location is not None)]


def _is_raw(values: Field, data_type: int) -> bool:
    if values.number == RAW_DATA:
        return True
    size = 4 if values.number == 4 else 8
    return _PACKED_LIKE_RAW.get(values.number) == data_type and (values.end - values.start) % size == 0


def _reference(values: Field, explicit_location: bool) -> bytes:
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    entries = {"location": LOCATION, "offset": values.start, "length": values.end - values.start}
    if values.number != RAW_DATA:
        entries["field"] = values.number
    if explicit_location:
        entries["data_location"] = 0  # it was there though it says no more than its absence
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    data: bytes = tensor.SerializeToString()
    return data
