"""What two graphs compute in the same way: the same operators, attributes, weights and inputs, all the way up.

Names do not matter, nor how an attribute's default is written; SAME padding equals the pads that it means at the
native size. Weights are compared by their bytes, and only those of which both models have one of the same shape; where
one model computes in half precision, as they are in that, and Casts do not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfc.graph.index import Graph, attributes, canonical_domain, dependent, inputs_of, label
from onnxfc.graph.op_kinds import IDLE, LENGTHS, POOLS, RESAMPLING, WEIGHT_AT, same_pads, weight_position
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.narrowest import coarser, narrowest
from onnxfc.shapes.spec import Shape

_SLIDING = {*WEIGHT_AT, *POOLS, "ConvTranspose"}
_SPATIAL = _SLIDING | {*RESAMPLING, "Pad", "LRN", "DepthToSpace", "SpaceToDepth", "InstanceNormalization"}
Key = str
Weight = tuple[int, Shape]
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_TINY = 2e-7
"""Converters to half precision replace what is smaller: by 0, or by the smallest number there is."""


@dataclass(frozen=True)
class Common:
    """A tensor of the original, and the tensor of the other model that is computed in the same way."""

    original: str
    other: str


def common_tensors(
    one: ModelFile, two: ModelFile, shapes: tuple[Mapping[str, Shape], Mapping[str, Shape]]
) -> dict[str, str]:
    """All tensors of the original that the other model computes in the same way, by what they are called there.

    ``shapes`` are those of both at the native size.
    """
    first, second = Graph(one.proto), Graph(two.proto)
    half = len({coarser(*narrowest(model.proto).values()) for model in (one, two)}) > 1
    weights = _weights(first, half) & _weights(second, half)
    mine = _keys(one, first, weights, shapes[0], half)
    theirs = _keys(two, second, weights, shapes[1], half)
    by_key: dict[Key, str] = {}
    for name, key in theirs.items():
        by_key.setdefault(key, name)
    return {name: by_key[key] for name, key in mine.items() if key in by_key}


def frontier(one: ModelFile, common: Mapping[str, str], images: Sequence[str]) -> list[Common]:
    """The deepest tensors in common: those that the part of the original reads which the other model does not have.

    ``images`` are the image inputs of both.
    """
    graph = Graph(one.proto)
    moving = dependent(graph.nodes, images)
    read = dict.fromkeys(name for node in _apart(graph, common) for name in inputs_of(node) if name in moving)
    return [Common(name, common[name]) for name in read if name in common]


def _apart(graph: Graph, common: Container[str]) -> Iterator[onnx.NodeProto]:
    """Live nodes of the original that the other model does not have; reading a shape is reading no values."""
    for node in graph.live:
        if node.op_type not in LENGTHS and any(name not in common for name in node.output if name):
            yield node


def padded_behind(file: ModelFile, tensors: set[str], shapes: Mapping[str, Shape]) -> str | None:
    """A node behind ``tensors`` that works on a map and sees its border: then windows of them are no windows of it."""
    graph, behind = Graph(file.proto), set(tensors)
    for node in graph.nodes:
        if not behind.intersection(inputs_of(node)):
            continue
        behind.update(node.output)
        if node.op_type in _SPATIAL and _sees_border(node, shapes.get(node.input[0], ())):
            return label(node)
    return None


def _sees_border(node: onnx.NodeProto, shape: Shape) -> bool:
    attrs = dict(attributes(node))
    if len(shape) < 3 or set(shape[2:]) == {1}:
        return False
    if node.op_type not in _SLIDING:
        return node.op_type != "LRN"
    padded = any(attrs.get("pads", ())) or str(attrs.get("auto_pad", "")).startswith("SAME")
    return padded or bool(attrs.get("ceil_mode"))


def _weights(graph: Graph, half: bool) -> set[Weight]:
    return {_told(tensor, half) for tensor in graph.initializers.values()}


def _told(tensor: onnx.TensorProto, half: bool) -> Weight:
    kind = onnx.TensorProto.FLOAT16 if half and tensor.data_type in _FLOATS else tensor.data_type
    return int(kind), tuple(tensor.dims)


def _keys(
    file: ModelFile, graph: Graph, weights: set[Weight], shapes: Mapping[str, Shape], half: bool
) -> dict[str, Key]:
    """A key for every tensor; equal keys mean equal computation."""
    keys = {info.name: f"input {info.name}" for info in graph.inputs}
    for name, tensor in graph.initializers.items():
        told = _told(tensor, half)
        keys[name] = _digest(file.array(tensor), half) if told in weights else f"weight {told} {id(file)}"
    for node in graph.nodes:
        for place, name in enumerate(node.output):
            keys[name] = _key(node, place, keys, shapes, half)
    return keys


def _key(node: onnx.NodeProto, place: int, keys: Mapping[str, Key], shapes: Mapping[str, Shape], half: bool) -> Key:
    inputs = [keys.get(name, f"? {name}") if name else "" for name in node.input]
    idle = node.op_type in IDLE or (half and node.op_type == "Cast")
    if idle and not place and not canonical_domain(node.domain):
        return inputs[0]
    if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
        return _digest(numpy_helper.to_array(node.attribute[0].t), half)
    told = [canonical_domain(node.domain), node.op_type, str(place), *inputs]
    told += [f"{key}={value!r}" for key, value in sorted(_meaning(node, shapes).items())]
    return hashlib.blake2b("\0".join(told).encode(), digest_size=16).hexdigest()


def _meaning(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> dict[str, object]:
    """Attributes that say something: without defaults, SAME as pads."""
    found: dict[str, object] = {
        item.name: item.SerializeToString(deterministic=True) if item.HasField("g") or item.HasField("t") else value
        for item, value in zip(node.attribute, attributes(node).values(), strict=True)
    }
    if node.op_type in _SLIDING:
        _slide(node, found, shapes)
    if onnx.defs.has(node.op_type, node.domain):
        schema = onnx.defs.get_schema(node.op_type, domain=node.domain)
        for name, item in schema.attributes.items():
            default = item.default_value
            if name in found and default.type and found[name] == _default(default):
                del found[name]
    return found


def _default(default: onnx.AttributeProto) -> object:
    value = onnx.helper.get_attribute_value(default)
    return value.decode() if isinstance(value, bytes) else value


def _slide(node: onnx.NodeProto, found: dict[str, object], shapes: Mapping[str, Shape]) -> None:
    """Spell what slides in one way: explicit pads, and nothing that goes without saying."""
    attrs = dict(attributes(node))
    auto = str(attrs.get("auto_pad", "NOTSET"))
    kernel = attrs.get("kernel_shape") or _weight_shape(node, shapes)[2:]
    if node.op_type != "ConvTranspose" and auto.startswith("SAME") and node.input[0] in shapes and kernel:
        ones = [1] * len(kernel)
        steps = [attrs.get(name) or ones for name in ("strides", "dilations")]
        found["pads"] = list(same_pads(auto, shapes[node.input[0]][2:], kernel, *steps))
    if auto in {"NOTSET", "VALID"} or "pads" in found:
        found.pop("auto_pad", None)
    for name, idle in (("pads", 0), ("strides", 1), ("dilations", 1)):
        if name in found and set(found[name]) == {idle}:  # type: ignore[call-overload]
            del found[name]
    if node.op_type == "Conv":
        found.pop("kernel_shape", None)


def _weight_shape(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Shape:
    return next((shapes.get(name, ()) for name in node.input[weight_position(node.op_type) :]), ())


def _digest(array: np.ndarray, half: bool) -> Key:
    """Type, shape and bytes; those of floats in half precision, if asked for."""
    if half and array.dtype.kind == "f":
        array = np.where(np.abs(array) < _TINY, 0, array).astype(np.float16)
    found = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
