"""Reading helpers over an ONNX graph: who makes a tensor, who reads it, what an attribute says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, TypeVar

import onnx
from onnx import helper

_Proto = TypeVar("_Proto")


class Graph:
    """An index over ``model.graph``; nothing in it is ever changed."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.proto = model.graph
        self.nodes = list(model.graph.node)
        self.opsets = {"": 1} | {canonical_domain(item.domain): item.version for item in model.opset_import}
        self.initializers = {tensor.name: tensor for tensor in model.graph.initializer}
        names = {info.name for info in model.graph.input}
        # Before IR version 4 every initializer had to be an input too, and none could be overridden.
        self.overridable = names & self.initializers.keys() if model.ir_version >= 4 else set[str]()
        self.inputs = [info for info in model.graph.input if info.name not in self.initializers]
        self.outputs = [info.name for info in model.graph.output]
        self.producers = {name: node for node in self.nodes for name in node.output if name}
        self.live = needed(self.nodes, self.outputs)
        self.uses: Counter[str] = Counter(self.outputs)
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.live:  # nothing is known of dead ones
            read = set(inputs_of(node))
            self.uses.update(read)
            for name in read:
                self.readers.setdefault(name, []).append(node)

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return int(self.opsets[""])

    def constant(self, name: str) -> onnx.TensorProto | None:
        """An initializer, or what a Constant node holds."""
        node = self.producers.get(name)
        known = {} if node is None or node.op_type != "Constant" else attributes(node)
        return self.initializers.get(name, known.get("value"))

    def maker(self, name: str, past: Collection[str]) -> onnx.NodeProto | None:
        """The node that makes a tensor, ahead of nodes of the kinds ``past``, which move it or leave it as it is."""
        node = self.producers.get(name)
        while node is not None and node.op_type in past:
            node = self.producers.get(node.input[0])
        return node

    def names(self) -> Names:
        """All tensor names in use."""
        found = set(self.initializers) | {info.name for info in self.proto.input}
        for node in self.nodes:
            found.update(node.output)
            found.update(inputs_of(node))
        return Names(found)


def canonical_domain(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain


def inputs_of(node: onnx.NodeProto) -> list[str]:
    """All tensors that a node reads, those that its subgraphs capture included."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        names.extend(captured(graph))
    return names


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes. What else these hold is not looked at: nearly all are numbers."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs
        elif attribute.type == onnx.AttributeProto.GRAPH and attribute.HasField("g"):
            yield attribute.g


def captured(graph: onnx.GraphProto) -> set[str]:
    """The tensors of the outer scope that a subgraph reads."""
    own = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer}
    own.update(name for node in graph.node for name in node.output)
    read = {name for node in graph.node for name in inputs_of(node)}
    read.update(info.name for info in graph.output)
    return read - own


def attributes(node: onnx.NodeProto) -> Mapping[str, Any]:
    """Attribute values by name; strings as str (what is no UTF-8, as some exporters leave it, as well as can be)."""
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {key: value.decode(errors="replace") if isinstance(value, bytes) else value for key, value in found.items()}


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its name, else what it makes."""
    return node.name or f"{node.op_type} -> {next((name for name in node.output if name), '?')}"


def remarks(proto: _Proto) -> _Proto:
    """What a node or tensor carries besides what it is: doc string, metadata, unknown fields; byte for byte."""
    kept: Any = copied(proto)
    for kind, _ in kept.ListFields():
        if kind.name not in ("doc_string", "metadata_props"):
            kept.ClearField(kind.name)
    return kept  # type: ignore[no-any-return]


def copied(proto: _Proto, **fields: Iterable[Any]) -> _Proto:
    """A copy, with other items in some of its repeated fields."""
    made: Any = type(proto)()
    made.CopyFrom(proto)
    refill(made, **fields)
    return made  # type: ignore[no-any-return]


def refill(proto: Any, **fields: Iterable[Any]) -> None:
    """Put other items into repeated fields; they may be some of those that are there."""
    for name, items in fields.items():
        kept = list(items)
        del getattr(proto, name)[:]
        getattr(proto, name).extend(kept)


class Names:
    """Names that are in use; none is ever given up."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._counts: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._taken

    def add(self, name: str) -> None:
        self._taken.add(name)

    def unused(self, hint: str) -> str:
        """``hint``, or with a number behind it, as a name that is not in use and now is."""
        name, count = hint, self._counts.get(hint, 1)
        while name in self._taken:
            count += 1
            name = f"{hint}_{count}"
        self._taken.add(name)
        self._counts[hint] = count
        return name


def in_order(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Nodes so that each follows what it reads: onnxruntime does not mind another order, though ONNX does."""
    makers = {name: position for position, node in enumerate(nodes) for name in node.output if name}
    needs = [{makers[name] for name in inputs_of(node) if name in makers} for node in nodes]
    if all(max(before, default=-1) < position for position, before in enumerate(needs)):
        return list(nodes)
    try:
        return [nodes[place] for place in TopologicalSorter(dict(enumerate(needs))).static_order()]
    except CycleError:
        return list(nodes)


def needed(nodes: Sequence[onnx.NodeProto], outputs: Iterable[str], given: str = "") -> list[onnx.NodeProto]:
    """The nodes that some output needs, in order; ``given``: a tensor that need not be made."""
    wanted, kept = set(outputs) - {given}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(inputs_of(node))
            wanted.discard(given)
    return kept[::-1]


def ending(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with these tensors as its outputs; its nodes stay."""
    known = {info.name: info for info in [*model.graph.output, *model.graph.value_info]}
    made = copied(model)
    refill(made.graph, output=[known.get(name) or onnx.ValueInfoProto(name=name) for name in names])
    return made


def dependent(nodes: Iterable[onnx.NodeProto], names: Iterable[str]) -> set[str]:
    """These tensors, and all that is computed from them; the nodes are in order."""
    found = set(names)
    for node in nodes:
        if found.intersection(inputs_of(node)):
            found.update(node.output)
    return found
