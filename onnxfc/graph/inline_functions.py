"""Model-local functions on the image's way, as the nodes that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import onnx
from onnx import inliner

from onnxfc.errors import ReadError
from onnxfc.graph.index import copied, in_order, inputs_of, refill, subgraphs
from onnxfc.graph.inline_ifs import without_ifs
from onnxfc.graph.quantised_operators import on_floats
from onnxfc.graph.unpooling import with_unpools
from onnxfc.io.model_file import ModelFile


def inlined(model: ModelFile, known: Mapping[str, bool] = MappingProxyType({})) -> ModelFile:
    """The model with nothing on the image's way folded away in functions, Ifs, operators on integers and unpooling.

    It is the very same where nothing is.

    ``known``: conditions, by tensor, that were found to be the same at every image size.
    """
    model = sorted_nodes(model)
    moving = _called_with_images(model.proto)
    if moving:
        model = model.with_proto(_inlined(model, sorted(moving)))
    return on_floats(with_unpools(without_ifs(model, known)))


def _inlined(model: ModelFile, calls: Sequence[tuple[str, str]]) -> onnx.ModelProto:
    """Without these functions. Raises ReadError where onnx cannot take them apart (of other operator sets than the
    model's, or nested too deeply)."""
    try:
        return inliner.inline_selected_functions(_with_defaults(model.proto), [*calls])
    except Exception as error:  # of no common base
        why = str(error).strip().splitlines()[0]
        raise ReadError(f"{model.path or 'the given model'}: onnx cannot inline its functions: {why}") from error


def sorted_nodes(model: ModelFile) -> ModelFile:
    """The model with each node behind what it reads; the very same where that is so."""
    before = list(model.proto.graph.node)
    after = in_order(before)
    if all(one is other for one, other in zip(before, after, strict=True)):
        return model
    proto = copied(model.proto)
    refill(proto.graph, node=after)
    return model.with_proto(proto)


def _with_defaults(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every call's attributes spelled out, since the inliner does not know of defaults.

    https://onnx.ai/onnx/repo-docs/IR.html#functions
    """
    defaults = {(item.domain, item.name, item.overload): item.attribute_proto for item in model.functions}
    if not any(defaults.values()):
        return model
    copy = copied(model)
    pending = [*copy.graph.node, *(node for item in copy.functions for node in item.node)]
    while pending:
        node = pending.pop()
        given = {item.name for item in node.attribute}
        own = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(item for item in own if item.name not in given)
        pending.extend(inner for graph in subgraphs(node) for inner in graph.node)
    return copy


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
