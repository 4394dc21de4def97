"""Which tensors and nodes of a graph hang together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

import onnx


def reads(node: onnx.NodeProto) -> set[str]:
    """All tensors that a node reads, those of its subgraphs included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            inner = set().union(*(reads(n) for n in graph.node)) | {value.name for value in graph.output}
            own = {name for n in graph.node for name in n.output}
            own |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            names |= inner - own
    return names


def only_readers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Of each tensor that one node reads and nobody else, that node."""
    found: dict[str, onnx.NodeProto | None] = {}
    for node in graph.node:
        found |= {name: None if name in found else node for name in reads(node)}
    found |= dict.fromkeys((value.name for value in graph.output), None)
    return {name: node for name, node in found.items() if node is not None}


def nodes_before(graph: onnx.GraphProto, names: Sequence[str]) -> list[int]:
    """Positions of the nodes that these tensors depend on."""
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    found: set[int] = set()
    stack = [maker[name] for name in names if name in maker]
    while stack:
        position = stack.pop()
        if position not in found:
            found.add(position)
            stack.extend(maker[name] for name in reads(graph.node[position]) if name in maker)
    return sorted(found)


def dependent(graph: onnx.GraphProto, inputs: Iterable[str], but: Container[str] = ()) -> set[str]:
    """All tensors that depend on these inputs otherwise than through those in ``but``. What depends on none is a
    constant: it must stay so, to the bit."""
    found, before = set(inputs), -1
    waiting = [(reads(node), node.output) for node in graph.node]
    while len(found) > before:  # nodes need not be in order
        before, left = len(found), []
        for read, made in waiting:
            if found.isdisjoint(read):
                left.append((read, made))
            else:
                found.update(name for name in made if name not in but)
        waiting = left
    return found
