"""Model-local functions and Ifs whose condition is a constant, as the nodes that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx
from onnx import inliner

from onnxfc.graph import Graph, attributes, canonical_domain, inputs_of
from onnxfc.model_file import ModelFile


def inlined(model: ModelFile, known: Mapping[str, bool] = MappingProxyType({})) -> ModelFile:
    """The model with nothing on the image's way folded away in functions; the very same where nothing is.

    ``known``: conditions, by tensor, that were found to be the same at every image size.
    """
    moving = _called_with_images(model.proto)
    if moving:
        model = model.with_proto(inliner.inline_selected_functions(model.proto, sorted(moving)))
    graph = Graph(model.proto)
    if any(_branch(graph, node, known) is not None for node in graph.nodes):
        model = model.with_proto(_without_ifs(graph, known))
    return model


def _called_with_images(model: onnx.ModelProto) -> set[tuple[str, str]]:
    """Functions that some node calls on what depends on an input."""
    functions = {(item.domain, item.name) for item in model.functions}
    weights = {tensor.name for tensor in model.graph.initializer}
    moving = {info.name for info in model.graph.input} - weights
    called = set()
    for node in model.graph.node:
        if moving.intersection(inputs_of(node)):
            moving.update(node.output)
            called.add((node.domain, node.op_type))
    pending, found = list(called & functions), set[tuple[str, str]]()
    while pending:  # and what those functions call
        own = pending.pop()
        found.add(own)
        body = next(item.node for item in model.functions if (item.domain, item.name) == own)
        pending += [key for key in {(n.domain, n.op_type) for n in body} & functions if key not in found]
    return found


def _branch(graph: Graph, node: onnx.NodeProto, known: Mapping[str, bool]) -> onnx.GraphProto | None:
    """The branch that an If always takes; None for all other nodes."""
    if node.op_type != "If" or canonical_domain(node.domain):
        return None
    if node.input[0] in known:
        chosen: onnx.GraphProto = attributes(node)["then_branch" if known[node.input[0]] else "else_branch"]
        return chosen
    condition = graph.initializers.get(node.input[0])
    producer = graph.producers.get(node.input[0])
    if condition is None and producer is not None and producer.op_type == "Constant":
        condition = attributes(producer).get("value")
    if condition is None or node.input[0] in graph.overridable:
        return None
    taken = bool(onnx.numpy_helper.to_array(condition).any())
    branch: onnx.GraphProto = attributes(node)["then_branch" if taken else "else_branch"]
    return branch


def _without_ifs(graph: Graph, known: Mapping[str, bool]) -> onnx.ModelProto:
    """Every If with a constant condition replaced by the nodes of its branch."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    del model.graph.node[:]
    taken_names = graph.names()
    for node in graph.nodes:
        branch = _branch(graph, node, known)
        if branch is None:
            model.graph.node.append(node)
            continue
        inner = {name for item in branch.node for name in item.output} | {t.name for t in branch.initializer}
        names = {name: f"{node.name or 'if'}_{name}" if name in taken_names else name for name in inner}
        names.update({info.name: node.output[place] for place, info in enumerate(branch.output) if info.name in inner})
        for tensor in branch.initializer:
            copy = model.graph.initializer.add()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name]
        for item in branch.node:
            copied = model.graph.node.add()
            copied.CopyFrom(item)
            copied.input[:] = [names.get(name, name) for name in item.input]
            copied.output[:] = [names.get(name, name) for name in item.output]
        for place, info in enumerate(branch.output):
            if info.name not in inner:
                model.graph.node.append(onnx.helper.make_node("Identity", [info.name], [node.output[place]]))
    return model
