"""Ifs on the image's way, as the nodes of their branches.

A constant condition takes its branch. A condition that is given when the model runs becomes a Where over both branches:
that says the same where both have one shape. https://onnx.ai/onnx/operators/onnx__If.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper, shape_inference

from onnxfc.graph.index import (
    Graph,
    Names,
    attributes,
    canonical_domain,
    copied,
    dependent,
    inputs_of,
    refill,
    subgraphs,
)
from onnxfc.io.model_file import ModelFile

_IMAGE_RANKS = {3, 4, 5}
_BRANCHES = ("then_branch", "else_branch")


def without_ifs(model: ModelFile, known: Mapping[str, bool]) -> ModelFile:
    """The model with the nodes of branches in place of their Ifs; the very same where there is nothing to do.

    ``known``: what some conditions always are, by tensor. An If of which no more than this can be told stays.
    """
    left: set[str] = set()
    while any(node.op_type == "If" for node in model.proto.graph.node):
        graph = Graph(model.proto)
        images = {info.name for info in graph.inputs if len(info.type.tensor_type.shape.dim) in _IMAGE_RANKS}
        moving = dependent(graph.nodes, images)
        chosen = [
            node for node in graph.nodes if node.output[0] not in left and _opens(model, graph, node, moving, known)
        ]
        if not chosen:
            break
        opened = _opened(model, graph, chosen, known)
        unlike = _unlike(opened, {name for node in chosen for name in node.output})
        left |= {node.output[0] for node in chosen if unlike.intersection(node.output)}
        if not unlike:
            model = model.with_proto(opened)
    return model


def _opens(model: ModelFile, graph: Graph, node: onnx.NodeProto, moving: set[str], known: Mapping[str, bool]) -> bool:
    if node.op_type != "If" or canonical_domain(node.domain):
        return False
    if any(attributes(node)[key].sparse_initializer for key in _BRANCHES):
        return False
    captured = moving.intersection(set(inputs_of(node)) - {node.input[0]})
    return _condition(model, graph, node, known) is not None or (bool(captured) and graph.opset >= 9)


def _condition(model: ModelFile, graph: Graph, node: onnx.NodeProto, known: Mapping[str, bool]) -> bool | None:
    """What the condition always is; None where that is not known."""
    if node.input[0] in known:
        return known[node.input[0]]
    value = None if node.input[0] in graph.overridable else graph.constant(node.input[0])
    return None if value is None else bool(model.array(value).any())


def _opened(
    file: ModelFile, graph: Graph, chosen: Sequence[onnx.NodeProto], known: Mapping[str, bool]
) -> onnx.ModelProto:
    """The model with the nodes of branches in place of the Ifs that were ``chosen``."""
    model = copied(graph.model)
    refill(model.graph, node=())
    taken = graph.names()
    opening = {node.output[0] for node in chosen}
    for node in graph.nodes:
        if node.output[0] not in opening:
            model.graph.node.append(node)
            continue
        always = _condition(file, graph, node, known)
        if always is not None:
            _lay(model.graph, attributes(node)[_BRANCHES[not always]], node, list(node.output), taken)
            continue
        pairs = []
        for key in _BRANCHES:
            outputs = [taken.unused(f"{name}_{key.partition('_')[0]}") for name in node.output]
            _lay(model.graph, attributes(node)[key], node, outputs, taken)
            pairs.append(outputs)
        for place, (yes, no, name) in enumerate(zip(*pairs, node.output, strict=True)):
            called = f"{node.name}_{place}" if place and node.name else node.name
            model.graph.node.append(helper.make_node("Where", [node.input[0], yes, no], [name], name=called))
    return model


def _lay(
    into: onnx.GraphProto, branch: onnx.GraphProto, node: onnx.NodeProto, outputs: Sequence[str], taken: Names
) -> None:
    """Append the branch's nodes and initializers, its own names made unique, its outputs called ``outputs``."""
    inner = [name for item in branch.node for name in item.output if name] + [t.name for t in branch.initializer]
    ends = {info.name: name for info, name in zip(branch.output, outputs, strict=True) if info.name in inner}
    names = {
        name: ends.get(name) or taken.unused(name if name not in taken else f"{node.name or 'if'}_{name}")
        for name in inner
    }
    for tensor in branch.initializer:
        into.initializer.append(tensor)
        into.initializer[-1].name = names[tensor.name]
    for item in branch.node:
        into.node.append(_renamed(item, names))
    for info, name in zip(branch.output, outputs, strict=True):
        if ends.get(info.name) != name:  # a tensor from outside, or one that is an output twice
            into.node.append(helper.make_node("Identity", [names.get(info.name, info.name)], [name]))


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """A copy of a node with other names for its tensors, also where its own subgraphs read them."""
    copy = copied(node)
    pending = [copy]
    while pending:
        item = pending.pop()
        item.input[:] = [names.get(name, name) for name in item.input]
        item.output[:] = [names.get(name, name) for name in item.output]
        for graph in subgraphs(item):
            pending.extend(graph.node)
            for info in graph.output:
                info.name = names.get(info.name, info.name)
    return copy


def _unlike(model: onnx.ModelProto, made: set[str]) -> set[str]:
    """Outputs of the Wheres in place of Ifs whose two branches are not known to have one type and shape."""
    selects = [node for node in model.graph.node if node.op_type == "Where" and made.intersection(node.output)]
    if not selects:
        return set()
    graph = inferred(model).graph
    infos = {info.name: info.type for info in [*graph.value_info, *graph.input, *graph.output]}
    return {node.output[0] for node in selects if not _same(infos.get(node.input[1]), infos.get(node.input[2]))}


def inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all the shapes that onnx can tell; as it is where what it declares contradicts them."""
    try:
        return shape_inference.infer_shapes(model)
    except (shape_inference.InferenceError, RuntimeError):
        return model


def _same(one: onnx.TypeProto | None, other: onnx.TypeProto | None) -> bool:
    if one is None or other is None or one.tensor_type.elem_type != other.tensor_type.elem_type:
        return False
    dims = [[(dim.dim_value, dim.dim_param) for dim in kind.tensor_type.shape.dim] for kind in (one, other)]
    return dims[0] == dims[1] and len(dims[0]) > 0 and all(any(dim) for dim in dims[0])
