"""Numbers of a graph that stand for the native size, which another size would have others for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import combinations_with_replacement, permutations, product

import numpy as np
import onnx

from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph, attributes, inputs_of, label
from onnxfc.graph.op_kinds import ADDITIVE, ARITHMETIC, LIMITING, REORDERING, SCALING
from onnxfc.layout.lists import extents, lengths
from onnxfc.layout.views import Fixed, Placed, is_map
from onnxfc.shapes.image_inputs import Image, is_open
from onnxfc.shapes.spec import Array


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


_PLAIN = 8
"""Up to here a divisor may be any number (of boxes, a stride), though how many places a list has is known for certain:
3x3 are more. Beside the side of a grid's own map up to its half (a middle, a corner): YOLO's 7 cells are more."""


def in_sides(state: State, reading: Sequence[Image]) -> Refusal | None:
    """Coordinates and lists of places that reckon with the native image: kept within it, counted from its other side or
    its middle, divided by its height or width, or by their own number. At another size these are others."""
    sides = [image.shape[axis] for image in reading for axis in image.spatial]
    by_grids = _by_grids(state)
    for node in state.graph.live if state.dense else ():
        made, gridded = state.views.get(node.output[0]), node.output[0] in by_grids
        does = WITH_SIDES.get(node.op_type)
        if does is None or not isinstance(made, Placed):
            continue
        if is_map(made) and node.op_type not in LIMITING and not gridded:
            continue
        own = _of_map(state, made) if gridded and not _undone(state, node) else {}
        known = own | figures(sides, node.op_type) | _counts(state, node)
        told = next((f"{does} {known[item]}" for number in _read(state, node) if (item := near(number, known))), "")
        if gridded and not told:
            part = folded(few_numbers(_constants(state, node)), node.op_type, [*sides, *_cells(state, made)])
            told = part and f"{does} {part}"
        if told:
            why = f"{node.op_type} {told}, a plain number"
            data = next(name for name in inputs_of(node) if isinstance(state.views.get(name), Placed))
            advice = f"{export_open(state, reading)}; or end the model before it: --output-at {data}"
            return Refusal("size-locked", label(node), why, advice)
    return None


def export_open(state: State, reading: Sequence[Image]) -> str:
    """What to do about a number that is one of the native size, or is taken for one."""
    if is_open(state.graph, reading):
        return "let it be computed when the model runs; or, where it is one by chance alone, name another native --size"
    advice = "export the model with open height and width, so that it is computed"
    return f"{advice}; or, where the number is one by chance alone, at another native size"


def _of_map(state: State, made: Placed) -> dict[float, str]:
    """What tells of the sides of the map over which a grid lies, in cells."""
    sides = _cells(state, made)
    halves = dict.fromkeys([half for side in sides for half in (side / 2, (side - 1) / 2)], "half a side of the map")
    whole = dict.fromkeys([n for side in sides for n in (side - 1.0, float(side))], "a side of the map")
    return {number: f"{told} at the native size" for number, told in (halves | whole).items() if number > _PLAIN / 2}


def _cells(state: State, made: Placed) -> list[int]:
    return [side for extent in extents(made, state.rank) for side in extent]


def folded(numbers: Iterable[float], op_type: str, sides: Iterable[int]) -> str:
    """A part of a side that one of these numbers is, as what divides values: it is no round number, but what it makes
    of the side is (a percentage of it, a twelfth, its share of 1920 pixels)."""
    lengths = [length for side in sides if side > _PLAIN / 2 for length in (side, side - 1)]
    for number, side in product(numbers, lengths) if op_type in SCALING else ():
        made = number * side if op_type == "Mul" else side / (number or math.inf)
        if math.isclose(made, round(made), rel_tol=_ROUNDED) and _rounder(round(made), number, op_type):
            return f"{side} / {round(made)}"
    return ""


def _rounder(made: int, number: float, op_type: str) -> bool:
    """Whether nobody would write this number, and it is known what made it: whole numbers, one over such, quotients of
    small ones and those of few digits are written down."""
    digits, fraction = _digits(number), Fraction(number).limit_denominator(_SMALL)
    whole = any(math.isclose(n, round(n), rel_tol=_ROUNDED) for n in (number, 1 / number))
    quotient = fraction.numerator <= _SMALL and math.isclose(fraction, number, rel_tol=_ROUNDED)
    percent = made == 100 and (op_type == "Div" or digits > 3)
    return (
        1 < made < _WIDEST and not whole and (percent or (not quotient and digits > 3 and digits > _digits(made) + 1))
    )


_SMALL, _WIDEST = 16, 10_000
"""What quotients are made of that are written down (of boxes, of strides); pixels that no screen is wide."""
_ROUNDED = 2e-7
"""How far two roundings to a float move a number."""


def _digits(number: float) -> int:
    """How many digits a number has that are no zeros around it, as far as a float holds them."""
    return next((n for n in range(1, 8) if math.isclose(float(f"{number:.{n - 1}e}"), number, rel_tol=_ROUNDED)), 8)


def _undone(state: State, node: onnx.NodeProto) -> bool:
    """Whether all that a Div divides by is a part of what a Mul multiplies by next: cells become pixels so."""
    readers, by = list(_readers(state.graph, node)), _read(state, node)
    if node.op_type != "Div" or [reader.op_type for reader in readers] != ["Mul"]:
        return False
    then = [1 / number for number in _read(state, readers[0])]
    return bool(then) and all(any(near(times, {round(times / n) * n}) for n in by if n > 0) for times in then)


def figures(sides: Iterable[int], op_type: str) -> dict[float, str]:
    """Numbers that speak of an image with these sides, and what they are to such an operator."""
    sides, found = [side for side in sides if side >= FEWEST], dict[float, str]()
    for pair in combinations_with_replacement(sides, 2) if op_type in SCALING else ():
        found |= {math.hypot(*pair): "the diagonal of the native image"}
        found |= {float(math.prod(pair)): "the pixels of the native image"}
    halves = [half for side in sides for half in (side / 2, (side - 1) / 2) if half > FEWEST]
    found |= dict.fromkeys(halves, "half a side of the native image")
    return found | dict.fromkeys([n for side in sides for n in (side - 1.0, float(side))], "a side of the native image")


def near(number: float, known: Iterable[float]) -> float:
    """Which of these a number is, but for its rounding; 0 where it is none."""
    return next((item for item in known if abs(abs(number) - item) <= 1e-5 * item), 0.0)


def _by_grids(state: State) -> set[str]:
    """What is computed from grids of coordinates, element by element."""
    nodes = {label(node): node for node in state.graph.live}
    begun = [nodes[item.node] for item in state.continued if not item.alike]
    return {name for node in begun for other in _beside(state.graph, node, _readers) for name in other.output}


def _counts(state: State, node: onnx.NodeProto) -> dict[float, str]:
    """How many places there are natively in the lists that are divided."""
    views = [view for view in map(state.views.get, inputs_of(node)) if isinstance(view, Placed) and not is_map(view)]
    rows = [lengths(view, state.rank) for view in views if node.op_type in SCALING]
    many = [n for row in rows for n in (*row, sum(row)) if n > _PLAIN]
    return dict.fromkeys(map(float, many), "the native number of its places")


def _read(state: State, node: onnx.NodeProto) -> set[float]:
    return meant(_constants(state, node), node)


def _constants(state: State, node: onnx.NodeProto) -> list[Array]:
    constants = (state.native[name].constant for name in inputs_of(node))
    return [item for item in constants if item is not None]


def meant(constants: Iterable[Array], node: onnx.NodeProto) -> set[float]:
    """The few numbers that a node reads, or of which these are one part."""
    found = few_numbers(constants)
    found |= {float(attributes(node)["max"])} if "max" in attributes(node) else set()
    return {1 / number for number in found if number} if node.op_type == "Mul" else found


def few_numbers(constants: Iterable[Array]) -> set[float]:
    """Those of constants that are no tables."""
    few = [np.unique(item) for item in constants if item.dtype.kind in "fiu"]
    return {float(value) for item in few if item.size <= _FEW for value in item}


_FEW = 4
"""Numbers for the columns of boxes; more are a table."""
WITH_SIDES = {
    **dict.fromkeys(LIMITING, "keeps a list's values below"),
    **dict.fromkeys(SCALING, "divides a list's values by"),
    **dict.fromkeys(ADDITIVE, "counts a list's values from"),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"), "compares a list's values with"),
    "Mod": "divides a list's values by",
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
