"""Grids of coordinates that the graph computes of the image's size, ahead of what they meet."""

from __future__ import annotations

import onnx

from onnxfc.builder.state import State
from onnxfc.graph.index import inputs_of
from onnxfc.graph.op_kinds import ARITHMETIC
from onnxfc.layout.axes import places_in
from onnxfc.layout.views import Fixed, Placed


def computed_grids(state: State) -> dict[str, frozenset[int]]:
    """What of the graph has more elements in larger images, though nothing of it is read from them, and the sides of
    the maps that it meets."""
    found = dict[str, frozenset[int]]()
    for node in [*meeting(state), *(node for node in state.graph.live if node.op_type == "GridSample")]:
        sides = sides_of(state, node)
        ahead = [name for name in inputs_of(node) if grows(state, name)]
        for name in ahead:
            found[name] = found.get(name, frozenset()) | sides
            made = state.graph.producers.get(name)
            read = inputs_of(made) if made is not None else []
            ahead += [item for item in read if item not in ahead and grows(state, item)]
    return found


def meeting(state: State) -> list[onnx.NodeProto]:
    """The nodes that reckon with such a grid and a map or a list, or lay it beside these."""
    beside = (node for node in state.graph.live if node.op_type in _MEETING)
    placed = (node for node in beside if isinstance(state.views.get(node.output[0]), Placed))
    return [node for node in placed if any(grows(state, name) for name in inputs_of(node))]


_MEETING = ARITHMETIC | {"Concat", "Max", "Min"}


def sides_of(state: State, node: onnx.NodeProto) -> frozenset[int]:
    """The sides of the maps that a node works on."""
    views = [view for name in (*node.input, *node.output) if isinstance(view := state.views.get(name), Placed)]
    parts = [part for view in views for part in view.parts or (view,)]
    return frozenset(atom.length for part in parts for atom in places_in(part.groups))


def grows(state: State, name: str) -> bool:
    """Whether it is fixed, and has more elements in larger images; larger batches may have more, too."""
    view = state.views.get(name)
    spec = state.builder.specs.get(view.tensor) if isinstance(view, Fixed) else None
    for row in zip(*((spec and spec.shapes) or ()), strict=False):
        pairs = zip(row, state.batches, strict=False)
        if any(n not in (row[0], row[0] * batch // state.batches[0]) for n, batch in pairs):
            return True
    return False


def is_computed(state: State, name: str) -> bool:
    """Whether it is computed of the image's size, or of the batch's: no number that is written down."""
    view = state.views.get(name)
    spec = state.builder.specs.get(view.tensor) if isinstance(view, Fixed) else None
    return grows(state, name) or (spec is not None and spec.values is not None and spec.constant is None)
