"""Let inner tensors be the image input, as where the image enters as a flat vector, or the outputs, ahead of what makes
labels of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import helper

from onnxfc.errors import UsageError
from onnxfc.graph.index import Graph, copied, ending, inputs_of, needed, refill
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Spec


def begin_at(model: ModelFile, graph: Graph, native: Mapping[str, Spec], name: str) -> ModelFile:
    """The model from tensor ``name`` on, which becomes an input of its native shape. Raises UsageError."""
    spec = native.get(name)
    if name not in graph.producers or spec is None:
        close = ", ".join(sorted(info.name for info in graph.inputs))
        raise UsageError(f"--input {name}: the model has no such tensor; its inputs are {close}")
    if spec.shapes is None:
        raise UsageError(f"--input {name}: the shape of this tensor cannot be inferred")
    proto = copied(model.proto)
    shape: list[int | str] = list(spec.native)
    if shape and any(dim.dim_param for info in graph.inputs for dim in list(info.type.tensor_type.shape.dim)[:1]):
        shape[0] = "batch"
    nodes = needed(graph.nodes, graph.outputs, given=name)
    read = {item for node in nodes for item in inputs_of(node)} | set(graph.outputs)
    image = helper.make_tensor_value_info(name, spec.dtype, shape)
    kept = [info for info in graph.proto.input if info.name in read]
    weights = [tensor for tensor in graph.proto.initializer if tensor.name in read]
    refill(proto.graph, node=nodes, input=[image, *kept], initializer=weights)
    return model.with_proto(proto)


def end_at(model: ModelFile, names: Sequence[str]) -> ModelFile:
    """The model up to these tensors, which become its outputs; what only its own outputs need is left out. Raises
    UsageError."""
    graph = Graph(model.proto)
    for name in names:
        if name not in graph.producers:
            own = ", ".join(name for name in graph.outputs)
            raise UsageError(f"--output-at {name}: no node of the model makes such a tensor (its outputs are {own})")
    nodes = needed(graph.nodes, names)
    read = {item for node in nodes for item in inputs_of(node)}
    proto = ending(model.proto, dict.fromkeys(names))
    kept = [info for info in graph.proto.input if info.name in read]
    weights = [tensor for tensor in graph.proto.initializer if tensor.name in read]
    refill(proto.graph, node=nodes, input=kept, initializer=weights)
    return model.with_proto(proto)
