"""Numbers of a graph that stand for the native size, which another size would have others for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import onnx

from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph, attributes, inputs_of, label
from onnxfc.graph.op_kinds import ARITHMETIC, LIMITING, REORDERING, SCALING
from onnxfc.layout.views import Fixed, Placed, is_map
from onnxfc.shapes.image_inputs import Image


def in_native_pixels(state: State, reading: Sequence[Image]) -> Refusal | None:
    """Parts of the image, as the user said, that are multiplied by its native size later: a plain number in the graph.

    Steps come out in native pixels so, where all that is added to them goes with lengths that are parts of the image.
    """
    graph, tables = state.graph, {item.node for item in state.continued}
    nodes = {label(node): node for node in graph.live}
    for item in state.continued:
        if item.parts and item.given:
            ahead = {label(node) for node in _beside(graph, nodes[item.node], _makers)}
            scaled = _by_native_size(state, reading, nodes[item.node])
            if scaled is not None and (set(item.rules) - {"", "step"} or tables.isdisjoint(ahead)):
                node, moving = scaled
                why = f"Mul multiplies by the native size, a plain number, what {item.table} gives for any size"
                advice = "multiply by each image's own size yourself, and end the model before it"
                return Refusal("grid-rule", label(node), why, f"{advice}: --output-at {moving}")
    return None


FEWEST = 16
"""Below it a limit is one of activations (ReLU6), and a divisor any number, whatever the image's size."""


def in_sides(state: State, reading: Sequence[Image]) -> Refusal | None:
    """Values of a list of places that are kept within the native image, or divided by its height or width: at another
    size these are others."""
    sides = {float(image.shape[axis]) for image in reading for axis in image.spatial if image.shape[axis] >= FEWEST}
    for node in state.graph.live if state.dense else ():
        made = state.views.get(node.output[0])
        does = _WITH_SIDES.get(node.op_type) if isinstance(made, Placed) else None
        if does is None or (node.op_type in SCALING and is_map(made)):
            continue
        if sides & _meant(state, node):
            why = f"{node.op_type} {does} a side of the native image, a plain number"
            data = next(name for name in inputs_of(node) if isinstance(state.views.get(name), Placed))
            advice = "export it with open height and width, so that the number is computed; or end the model before it"
            return Refusal("size-locked", label(node), why, f"{advice}: --output-at {data}")
    return None


def _meant(state: State, node: onnx.NodeProto) -> set[float]:
    """Of which lengths the numbers that a node reads may be a whole, the last place or one part."""
    constants = (state.native[name].constant for name in inputs_of(node))
    found = {float(value) for item in constants if item is not None and item.size <= _FEW for value in item.flat}
    found |= {float(attributes(node)["max"])} if "max" in attributes(node) else set()
    if node.op_type == "Mul":
        return {float(part_of(number)) for number in found}
    return found if node.op_type == "Div" else found | {number + 1 for number in found}


def part_of(number: float) -> int:
    """The length of which a float is one part; 0 where it is that of none."""
    return length_at(1 / number) if number else 0


def length_at(number: float) -> int:
    """The length that a float is, but for its rounding; 0 where it is none."""
    return round(number) if FEWEST <= number < 1 << 31 and abs(number - round(number)) < 1e-5 * number else 0


_FEW = 4
"""Numbers for the columns of boxes; more are a table."""
_WITH_SIDES = {
    **dict.fromkeys(LIMITING, "keeps a list's values below"),
    **dict.fromkeys(SCALING, "divides a list's values by"),
}


def _by_native_size(state: State, reading: Sequence[Image], begun: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """The Mul behind a node by lengths that are those of an image, and what it multiplies by them."""
    sizes = {float(image.shape[axis]) for image in reading for axis in (*image.spatial, *image.fixed)}
    for node in _beside(state.graph, begun, _readers):
        for number, other in permutations(node.input) if node.op_type == "Mul" else ():
            value = state.native[number].constant if isinstance(state.views[number], Fixed) else None
            if value is not None and set(map(float, value.flat)) <= sizes:
                return node, other
    return None


_Next = Callable[[Graph, onnx.NodeProto], Iterable[onnx.NodeProto]]


def _makers(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    return (graph.producers[name] for name in inputs_of(node) if name in graph.producers)


def _readers(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    return (reader for name in node.output for reader in graph.readers.get(name, ()))


def _beside(graph: Graph, node: onnx.NodeProto, following: _Next) -> list[onnx.NodeProto]:
    """The nodes ahead of one or behind it that work on each element alone, or move them."""
    found = list(following(graph, node))
    for other in found:
        if other.op_type in _EACH_ALONE:
            found.extend(item for item in following(graph, other) if item not in found)
    return found


_EACH_ALONE = ARITHMETIC | REORDERING | {"Cast", "Concat", "Exp", "Gather", "Sigmoid", "Slice", "Split", "Tanh"}
