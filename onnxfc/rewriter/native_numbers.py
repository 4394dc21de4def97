"""Numbers of a graph that stand for the native size, which another size would have others for."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from itertools import permutations

import numpy as np
import onnx

from onnxfc.builder.state import State
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph, attributes, inputs_of, label
from onnxfc.graph.op_kinds import ADDITIVE, ARITHMETIC, LIMITING, REORDERING, SCALING, SPREADING, UNARY
from onnxfc.layout.axes import places_in
from onnxfc.layout.lists import lengths
from onnxfc.layout.views import Context, Fixed, Placed, is_map
from onnxfc.rewriter.computed_grids import computed_grids, grows, is_computed, meeting, sides_of
from onnxfc.rewriter.side_numbers import IN_PIXELS, PLAIN, WEIGHING, figures, folded, near, of_map, roots
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
                return Refusal("grid-rule", label(node), why, f"{advice}: {state.ending([moving])}")
    for begun in graph.live:
        scaled = _by_native_size(state, reading, begun) if _makes_parts(state, begun) else None
        if scaled is not None:
            why = "Mul multiplies coordinates, parts of an image of any size, by its native size, a plain number"
            advice = f"{export_open(state, reading)}{_before(state, scaled[0])}"
            return Refusal("size-locked", label(scaled[0]), why, advice)
    return None


def _makes_parts(state: State, node: onnx.NodeProto) -> bool:
    """Whether it divides a grid that is computed of the image's size by that size."""
    if node.op_type != "Div" or not grows(state, node.input[0]):
        return False
    return is_computed(state, node.input[1]) and not grows(state, node.input[1])


def in_sides(state: State, reading: Sequence[Image]) -> Refusal | None:
    """Coordinates and lists of places that reckon with the native image: kept within it, counted from its other side or
    its middle, divided by its height or width, or by their own number. At another size these are others. So are figures
    that coordinates of the whole image were summed up to."""
    sides = [image.shape[axis] for image in reading for axis in image.spatial]
    pixels = _in_pixels(state, sides)
    stay = [image.shape[axis] for image in reading for axis in image.fixed]
    by_grids, computed = _by_grids(state), computed_grids(state)
    offsets, stepped = _offsets(state, by_grids), _by_grids(state, stepped=True)
    warping = _read_at(state.graph)
    for node in state.graph.live:
        if node.output[0] in offsets and (told := _of_offsets(state, node, sides, pixels)):
            why = f"{node.op_type} multiplies what is added to coordinates by {told}, a plain number"
            return Refusal("size-locked", label(node), why, export_open(state, reading))
        cells = (by_grids | computed).get(node.output[0], frozenset())
        if node.output[0] not in computed and not _is_asked(state, node, cells, warping):
            continue
        if told := _told(state, node, (sides, stay, pixels), cells):
            advice = f"{export_open(state, reading)}{_before(state, node)}"
            return Refusal("size-locked", label(node), f"{node.op_type} {told}, a plain number", advice)
        if inner := _inside(state, node, {*sides, *pixels}) if node.output[0] in stepped else 0.0:
            why = f"compares coordinates with {inner:g}, a plain number, which may be a part of the native image's size"
            advice = f"{_opened(state, reading)}{_before(state, node)}"
            return Refusal("size-locked", label(node), f"{node.op_type} {why}", advice)
    return None


def _in_pixels(state: State, sides: Sequence[int]) -> set[int]:
    """The sides of maps in pixels, their places times their strides, where they are not those of the image: it is no
    multiple of the stride."""
    maps = [view for view in state.views.values() if isinstance(view, Placed) and is_map(view)]
    fields = [pair for view in maps for pair in zip(view.provenance.fields, view.extent, strict=True)]
    found = {(int(field.stride * extent), field.stride) for field, extent in fields}
    return {n for n, stride in found if any(-4 * stride < n - side < stride and n != side for side in sides)}


def _is_asked(state: State, node: onnx.NodeProto, cells: Collection[int], warping: Container[str]) -> bool:
    """Whether the numbers that a node reads may speak of the native image."""
    made = state.views.get(node.output[0])
    if cells and node.op_type in ARITHMETIC and node.output[0] in warping:
        return False  # their rule has looked at its numbers
    if is_map(made) and node.op_type not in LIMITING and not cells:
        return False
    return (not state.of_windows and isinstance(made, Placed)) or (bool(cells) and isinstance(made, Context))


def _read_at(graph: Graph) -> set[str]:
    """What is nothing but coordinates that a GridSample reads a map at, or on its way there."""
    found = set[str]()
    for node in reversed(graph.live):
        for name in node.output:
            readers = graph.readers.get(name, [])
            taken = (found.issuperset(r.output) or (r.op_type == "GridSample" and name != r.input[0]) for r in readers)
            if readers and name not in graph.outputs and all(taken):
                found.add(name)
    return found


def _before(state: State, node: onnx.NodeProto) -> str:
    """Where the model may end instead: at the data that a node reads, where nodes compute that."""
    data = [name for name in inputs_of(node) if isinstance(state.views.get(name), Placed | Context)]
    ends = state.ending(data[:1])
    return f"; or end the model before it: {ends}" if ends else ""


def _inside(state: State, node: onnx.NodeProto, sides: Collection[int]) -> float:
    """A number that coordinates are compared with: it lies within the image and is no small one, or none that people
    write; 0 where there is none."""
    numbers = sorted(few_numbers(_read(state, node))) if node.op_type in COMPARING else ()
    return next((n for n in numbers if PLAIN < n < max(sides) or (n > 0 and folded([n], "Div", sides))), 0.0)


_Native = tuple[Sequence[int], Sequence[int], Collection[int]]
"""Sides of the image that are free, and that stay, and sides of maps in pixels."""


def _told(state: State, node: onnx.NodeProto, native: _Native, cells: Collection[int]) -> str:
    """What a node does with a number that speaks of the native image, or of the maps that its coordinates lie over."""
    (sides, stay, pixels), does = native, WITH_SIDES.get(node.op_type)
    if does is None:
        return ""
    known = figures(pixels, node.op_type, stay, IN_PIXELS) | figures(sides, node.op_type, stay) | _counts(state, node)
    constants = _read(state, node)
    if cells and not _undone(state, node):
        known = of_map(cells) | roots(sides, node.op_type, stay) | known
    numbers = meant(constants, node)
    if node.op_type in ADDITIVE and isinstance(state.views.get(node.output[0]), Fixed):
        numbers -= {-number for number in numbers}  # half a box to each side
    part = next((known[item] for number in numbers if (item := near(number, known))), "")
    part = part or (folded(few_numbers(constants), node.op_type, [*sides, *pixels, *cells]) if cells else "")
    return part and f"{does} {part}"


def export_open(state: State, reading: Sequence[Image]) -> str:
    """What to do about a number that is one of the native size, or is taken for one."""
    how = "name another native --size" if is_open(state.graph, reading) else "at another native size"
    what = "it" if is_open(state.graph, reading) else "the number"
    return f"{_opened(state, reading)}; or, where {what} is one by chance alone, {how}"


def _opened(state: State, reading: Sequence[Image]) -> str:
    if is_open(state.graph, reading):
        return "let it be computed when the model runs"
    return "export the model with open height and width, so that it is computed"


def _offsets(state: State, by_grids: Container[str]) -> set[str]:
    """What is scaled on its way to where it is added to coordinates: a network's own scores."""
    nodes = {label(node): node for node in state.graph.live}
    meets = [nodes[item.node] for item in state.continued if not item.alike]
    meets += [node for node in state.graph.live if any(name in by_grids for name in node.input)]
    meets += meeting(state)
    ahead = (
        other for node in meets if node.op_type in ADDITIVE for other in _beside(state.graph, node, _makers, _each)
    )
    return {name for node in ahead if node.op_type in SCALING for name in node.output if name not in by_grids}


def _each(node: onnx.NodeProto) -> bool:
    return node.op_type in {*UNARY, *LIMITING}


def _of_offsets(state: State, node: onnx.NodeProto, sides: Sequence[int], pixels: Collection[int]) -> str:
    """What of the native image these are multiplied by."""
    view, numbers = state.views.get(node.output[0]), few_numbers(_read(state, node))
    if not isinstance(view, Placed):
        return ""
    known = figures(pixels, "", whose=IN_PIXELS) | figures(sides, "")
    known = {n: told for n, told in known.items() if n not in {field.stride for field in view.fields}}
    by = {1 / n for n in numbers if n} if node.op_type == "Div" else numbers
    told = next((known[item] for number in by if (item := near(number, known))), "")
    return told or folded(by, "Div", [*sides, *pixels, *(atom.length for atom in places_in(view.groups))])


def _undone(state: State, node: onnx.NodeProto) -> bool:
    """Whether all that a Div divides by is a part of what a Mul multiplies by next: cells become pixels so."""
    readers, by = list(_readers(state.graph, node)), meant(_read(state, node), node)
    if node.op_type != "Div" or [reader.op_type for reader in readers] != ["Mul"]:
        return False
    then = [1 / number for number in meant(_read(state, readers[0]), readers[0])]
    return bool(then) and all(any(near(times, {round(times / n) * n}) for n in by if n > 0) for times in then)


def _by_grids(state: State, stepped: bool = False) -> dict[str, frozenset[int]]:
    """What is computed from grids of coordinates, element by element or summed up, and the sides of the maps that
    these lie over. ``stepped``: from grids that grow with the image."""
    nodes, found = {label(node): node for node in state.graph.live}, dict[str, frozenset[int]]()
    tables = [item for item in state.continued if not item.alike and (not stepped or "step" in item.rules)]
    for begun in [*(nodes[item.node] for item in tables), *meeting(state)]:
        sides = sides_of(state, begun)
        behind = _beside(state.graph, begun, _readers, lambda node: node.op_type in _COUNTING or _scales(state, node))
        for name in {name for node in behind for name in node.output}:
            found[name] = found.get(name, frozenset()) | sides
    return found


_COUNTING = {*UNARY, *LIMITING, "Max", "Pow", "ReduceSum"}
"""What makes coordinates of such, beside arithmetic and moves."""


def _scales(state: State, node: onnx.NodeProto) -> bool:
    """Whether a product's weight is no table, but a diagonal, say."""
    weights = [state.native[name].constant for name in numbers_of(node)] if node.op_type in WEIGHING else []
    return any(weight is not None and few_numbers([weight]) for weight in weights)


def _counts(state: State, node: onnx.NodeProto) -> dict[float, str]:
    """How many places there are natively in the lists that are divided."""
    views = [view for view in map(state.views.get, inputs_of(node)) if isinstance(view, Placed) and not is_map(view)]
    rows = [lengths(view, state.rank) for view in views if node.op_type in SCALING]
    many = [n for row in rows for n in (*row, sum(row)) if n > PLAIN]
    return dict.fromkeys(map(float, many), "the native number of its places")


def numbers_of(node: onnx.NodeProto) -> list[str]:
    """The inputs whose numbers scale or limit its values: not those that are added to what is weighed."""
    first, last = (4, 5) if node.op_type == "BatchNormalization" else (0, 2 if node.op_type in WEIGHING else None)
    return [name for name in node.input[first:last] if name]


def _read(state: State, node: onnx.NodeProto) -> list[Array]:
    return [number for name in numbers_of(node) if (number := plain(state, node, name)) is not None]


def plain(state: State, node: onnx.NodeProto, name: str) -> Array | None:
    """The constant that a node reads, if it is one; of a grid so coarse that its values are few, those that are no
    coordinates, and none of what is computed."""
    constant = state.native[name].constant if name in state.native else None
    if constant is None or not few_numbers([constant]):
        return constant
    if is_computed(state, name):
        return None
    own = [item for item in state.continued if (item.node, item.table) == (label(node), name) and not item.alike]
    numbers = next((item.numbers for item in own), None)
    return constant if numbers is None else np.array(sorted(numbers))


def meant(constants: Iterable[Array], node: onnx.NodeProto) -> set[float]:
    """The few numbers that a node reads, or of which these are one part."""
    found = few_numbers(constants)
    found |= {float(attributes(node)["max"])} if "max" in attributes(node) else set()
    if node.op_type == "BatchNormalization":
        return {math.sqrt(number) for number in found if number > 0}
    return {1 / number for number in found if number} if node.op_type in {"Mul", *WEIGHING} else found


def few_numbers(constants: Iterable[Array]) -> set[float]:
    """Those of constants that are no tables."""
    held = [item.ravel() for item in constants if item.dtype.kind in "fiu"]
    few = [item if item.size <= _FEW else np.unique(item) for item in held]
    return {float(value) for item in few if item.size <= _FEW for value in item}


_FEW = 4
"""Numbers for the columns of boxes; more are a table."""
COMPARING = ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
WITH_SIDES = {
    **dict.fromkeys(LIMITING, "keeps a list's values below"),
    **dict.fromkeys(SCALING, "divides a list's values by"),
    **dict.fromkeys(ADDITIVE, "counts a list's values from"),
    **dict.fromkeys((*COMPARING, "Max"), "compares a list's values with"),
    **dict.fromkeys(("BatchNormalization", "Mod", *WEIGHING), "divides a list's values by"),
}


def _by_native_size(state: State, reading: Sequence[Image], begun: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """The Mul behind a node by lengths that are those of an image, and what it multiplies by them."""
    sizes = {float(image.shape[axis]) for image in reading for axis in (*image.spatial, *image.fixed)}
    for node in _beside(state.graph, begun, _readers, lambda node: node.op_type in SPREADING):
        for number, other in permutations(node.input) if node.op_type == "Mul" else ():
            fixed = isinstance(state.views[number], Fixed) and not is_computed(state, number)
            value = state.native[number].constant if fixed else None
            if value is not None and set(map(float, value.flat)) <= sizes:
                return node, other
    return None


_Next = Callable[[Graph, onnx.NodeProto], Iterable[onnx.NodeProto]]


def _makers(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    return (graph.producers[name] for name in inputs_of(node) if name in graph.producers)


def _readers(graph: Graph, node: onnx.NodeProto) -> Iterable[onnx.NodeProto]:
    return (reader for name in node.output for reader in graph.readers.get(name, ()))


def _beside(
    graph: Graph, node: onnx.NodeProto, following: _Next, too: Callable[[onnx.NodeProto], bool] = lambda _: False
) -> list[onnx.NodeProto]:
    """The nodes ahead of one or behind it that work on each element alone, or move them; or do something else, too."""
    found = list(following(graph, node))
    for other in found:
        if other.op_type in _EACH_ALONE or too(other):
            found.extend(item for item in following(graph, other) if item not in found)
    return found


_EACH_ALONE = ARITHMETIC | REORDERING | {"Cast", "Concat", "Exp", "Gather", "Sigmoid", "Slice", "Split", "Tanh"}
