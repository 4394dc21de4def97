"""Let an inner tensor be the image input: for models that take the image as a flat vector and reshape it inside."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from onnxfc.errors import UsageError
from onnxfc.graph.index import Graph, inputs_of
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Spec


def begin_at(model: ModelFile, graph: Graph, native: Mapping[str, Spec], name: str) -> ModelFile:
    """The model from tensor ``name`` on, which becomes an input of its native shape. Raises UsageError."""
    spec = native.get(name)
    if name not in graph.producers or spec is None:
        close = ", ".join(sorted(info.name for info in graph.inputs))
        raise UsageError(f"--input {name}: the model has no such tensor (its inputs are {close})")
    if spec.shapes is None:
        raise UsageError(f"--input {name}: the shape of this tensor cannot be inferred")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    shape: list[int | str] = list(spec.native)
    if shape and any(info.type.tensor_type.shape.dim[0].dim_param for info in graph.inputs if _has_dims(info)):
        shape[0] = "batch"
    nodes = _behind(graph, name)
    needed = {item for node in nodes for item in inputs_of(node)} | set(graph.outputs)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    kept = [info for info in graph.proto.input if info.name in needed]
    del proto.graph.input[:]
    proto.graph.input.extend([helper.make_tensor_value_info(name, spec.dtype, shape), *kept])
    weights = [tensor for tensor in graph.proto.initializer if tensor.name in needed]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(weights)
    return model.with_proto(proto)


def _has_dims(info: onnx.ValueInfoProto) -> bool:
    return len(info.type.tensor_type.shape.dim) > 0


def _behind(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """The nodes that the outputs need once ``name`` is given."""
    wanted, kept = set(graph.outputs) - {name}, []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.output):
            wanted.update(item for item in inputs_of(node) if item != name)
            kept.append(node)
    return kept[::-1]
