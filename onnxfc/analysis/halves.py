"""Which nodes cut a map into two halves that come together again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxfc.graph import op_kinds
from onnxfc.graph.index import Graph, attributes
from onnxfc.shapes.spec import Spec


@dataclass(frozen=True)
class Halves:
    """Both halves of the map ``root``, and the result of the Concat that joins what is made of them."""

    root: str
    cut: tuple[str, str]
    joined: str


def halves_of(graph: Graph, native: Mapping[str, Spec], node: onnx.NodeProto, axis: int) -> Halves | None:
    """What becomes of the halves that a Slice or Split cuts, where it does, and each comes to the same Concat apart."""
    root = str(node.input[0])
    cutters = [other for other in graph.readers[root] if other.op_type == node.op_type]
    parts = [(name, _number(native, other, axis, name)) for other in cutters for name in other.output]
    halves = sorted((number, name) for name, number in parts if number is not None)
    if len(parts) != 2 or [number for number, _ in halves] != [0, 1]:
        return None
    (_, first), (_, second) = halves
    joined = _met(graph, native, (first, second), axis)
    return None if joined is None else Halves(root, (first, second), joined)


def _met(graph: Graph, native: Mapping[str, Spec], halves: tuple[str, str], axis: int) -> str | None:
    """The result of the Concat that two halves come to, each apart from the other, in their order."""
    (before, ends), (behind, others) = (_reached(graph, native, name, axis) for name in halves)
    if ends != others or len(ends) != 1 or before & behind:
        return None
    joined = min(ends)
    inputs = graph.producers[joined].input
    return joined if len(inputs) == 2 and inputs[0] in before and inputs[1] in behind else None


def _number(native: Mapping[str, Spec], node: onnx.NodeProto, axis: int, name: str) -> int | None:
    """Whether an output is natively the first half (0) or the second (1) of the map; None where it is none."""
    shape = native[node.input[0]].native
    if node.op_type == "Split":
        told = attributes(node)
        in_two = told.get("num_outputs") == 2 and len(node.input) == 1 and told.get("axis", 0) % len(shape) == axis
        return list(node.output).index(name) if in_two else None
    if native[name].shapes is None:  # it cannot run on its bounds
        return None
    read = (native[item].values if item else None for item in node.input[1:])
    given = [values[0].tolist() if values else None for values in read]
    cuts = op_kinds.cuts_of(attributes(node), given, len(shape)) if None not in given else None
    if cuts is None or set(cuts) != {axis} or cuts[axis][2] != 1:
        return None
    (start, end, _), length = cuts[axis], shape[axis]
    middle = -(-length // 2)
    return {(0, middle): 0, (middle, length): 1}.get((start, min(end, length)))


def _reached(graph: Graph, native: Mapping[str, Spec], half: str, axis: int) -> tuple[set[str], set[str]]:
    """What is made of a half, and the Concats along the axis that end it; no end where something is an output, or has
    another length."""
    names, ends, own = [half], set[str](), native[half].native
    for item in names:
        for node in graph.readers.get(item, ()):
            made = native[node.output[0]]
            shape = made.native if made.shapes is not None else ()
            if node.op_type == "Concat" and attributes(node)["axis"] % len(own) == axis:
                ends.add(str(node.output[0]))
            elif len(shape) != len(own) or shape[axis] != own[axis] or len(node.output) > 1:
                return set(names), set()
            elif node.output[0] not in names:
                names.append(str(node.output[0]))
    return set(names), set() if set(names) & set(graph.outputs) else ends
