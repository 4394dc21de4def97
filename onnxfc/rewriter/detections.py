"""What lies behind lists and is as long as the values say: left as it is, node for node.

NonMaxSuppression takes any number of places, and so does what reads its result. Only what was written down for the
native size would be wrong there: how many places there are, how large the image is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfc.claim.claim import OWN_FORMS
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph, Names, attributes, copied, dependent, ending, inputs_of, label, refill, subgraphs
from onnxfc.graph.op_kinds import ARG, BROADCAST, CUTTING, LENGTHS, LIMITING, PICKING, REORDERING, UNARY
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.lists import extents, lengths, levels
from onnxfc.layout.views import Fixed, Placed
from onnxfc.rewriter.native_numbers import WITH_SIDES, export_open, few_numbers, meant, numbers_of
from onnxfc.rewriter.side_numbers import FEWEST, figures, folded, near

if TYPE_CHECKING:
    from onnxfc.builder.state import State
    from onnxfc.claim.claim import Output
    from onnxfc.shapes.image_inputs import Image
    from onnxfc.shapes.spec import Spec

_UNSTEADY = {*ARG, "And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"}
"""What makes truth values and numbers of scores, which the last digit may change: the scores are compared instead."""
_AXES = {("Slice", 3), ("Slice", 4), ("Squeeze", 1), ("Unsqueeze", 1), ("CumSum", 1)}
"""Inputs that tell axes and steps, no lengths."""
_NO_LENGTHS = {
    *("axis", "axes", "perm", "to", "keepdims", "largest", "sorted", "center_point_box", "select_last_index"),
    *("batch_dims", "exclusive", "reverse", "allowzero", "start", "end", "num_outputs"),
}
_MOVING = {*REORDERING, *BROADCAST, *UNARY, *CUTTING, "Concat", "Gather"}
_SMALL = 64
"""Elements of a constant that may be numbers; of a larger one, a table, only the dims are looked at."""


@dataclass(frozen=True)
class Tail:
    """The nodes of a model that are left as they are, in order; ``reads``: the inner tensors that they read of the
    image, ``makes``: the model's outputs that they make."""

    model: ModelFile
    nodes: tuple[onnx.NodeProto, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def picking(self) -> list[onnx.NodeProto]:
        """Those that pick places by their values."""
        return [node for node in self.nodes if node.op_type in PICKING]

    @property
    def ahead(self) -> ModelFile:
        """The model up to what they read."""
        own = [info.name for info in self.model.proto.graph.output if info.name not in self.makes]
        return self.model.with_proto(ending(self.model.proto, dict.fromkeys((*own, *self.reads))))

    def behind(self, made: onnx.ModelProto, state: State, images: Sequence[Image]) -> onnx.ModelProto:
        """A model that was made of what is ahead, with these nodes behind it. What both need and is not alike there is
        made once more, under another name."""
        counts = _counts(self, state, images)
        there = {name: node for node in made.graph.node for name in node.output if name}
        names, nodes = Graph(made).names(), []
        tensors, renamed = self._constants(made, names)
        for node in self.nodes:
            own = copied(node, input=[renamed.get(name, name) for name in node.input])
            if all(there.get(name) == own for name in own.output if name):
                continue
            renamed |= {name: names.unused(name) for name in node.output if name in there}
            refill(own, output=[renamed.get(name, name) for name in own.output])
            nodes.append(own)
        infos = {info.name: info for info in made.graph.output}
        declared = [infos.get(info.name) or _open(info, counts) for info in self.model.proto.graph.output]
        inner = [info for name, info in infos.items() if name in self.reads]
        graph = copied(made.graph, node=[*made.graph.node, *nodes], value_info=[*made.graph.value_info, *inner])
        graph.initializer.extend(tensors)
        refill(graph, output=map(copied, declared))
        model = copied(made)
        model.graph.CopyFrom(graph)
        return model

    def _constants(self, made: onnx.ModelProto, names: Names) -> tuple[list[onnx.TensorProto], dict[str, str]]:
        """What of the original's constants the nodes read and ``made`` has not, or has changed; new names for these."""
        have = {tensor.name: tensor for tensor in made.graph.initializer}
        read = {name for node in self.nodes for name in inputs_of(node)}
        lacking, renamed = [], dict[str, str]()
        for tensor in self.model.proto.graph.initializer:
            own = have.get(tensor.name)
            if tensor.name not in read or own == tensor:
                continue
            one = copied(tensor)
            if own is not None:
                one.name = renamed[tensor.name] = names.unused(tensor.name)
            lacking.append(one)
        return lacking, renamed


def tail_of(model: ModelFile, images: Sequence[Image], within: Collection[str] = ()) -> Tail | None:
    """What picks places by their values, and all behind it, with what makes the tensors ``within`` ahead of it; None
    where nothing does."""
    graph = Graph(model.proto)
    valued = [node for node in graph.live if node.op_type not in LENGTHS]
    data = dependent(valued, [image.name for image in images])  # computed of its values, and not of its size alone
    behind = _behind(graph, data)
    makes = tuple(name for name in graph.outputs if name in behind)
    if not makes:
        return None
    ahead = data - behind - dependent(graph.live, within) - _unsteady(graph, data)
    own: list[onnx.NodeProto] = []
    wanted = set(makes)
    for node in reversed(graph.live):
        if any(name not in ahead or node.op_type == "Cast" for name in node.output if name in wanted):
            own.append(node)
            wanted.update(inputs_of(node))
    made = {info.name for info in graph.inputs}.union(*(node.output for node in own))
    reads = dict.fromkeys(name for node in reversed(own) for name in inputs_of(node) if name in data - made)
    return Tail(model, tuple(own[::-1]), tuple(reads), makes)


def _behind(graph: Graph, data: Container[str]) -> set[str]:
    """What is picked of that by its values, and all that is computed from it."""
    begun = [node for node in graph.live if node.op_type in PICKING and any(name in data for name in node.input)]
    return dependent(graph.live, [name for node in begun for name in node.output if name])


def _unsteady(graph: Graph, data: Container[str]) -> set[str]:
    """Truth values and numbers of scores, and what is computed of nothing else of the image."""
    found = set[str]()
    for node in graph.live:
        read = [name for name in inputs_of(node) if name in data]
        if node.op_type in _UNSTEADY or (read and found.issuperset(read)):
            found.update(node.output)
    return found


def _open(info: onnx.ValueInfoProto, counts: Container[int]) -> onnx.ValueInfoProto:
    """As it is declared, but for lengths that are others at other sizes."""
    made = copied(info)
    for dim in made.type.tensor_type.shape.dim:
        if dim.dim_value in counts:
            dim.Clear()
    return made


def of_windows(tail: Tail, outputs: Sequence[Output]) -> set[str]:
    """What the nodes read that is not the original's own at other sizes, but of each window."""
    return {output.name for output in outputs if output.name in tail.reads and output.form not in OWN_FORMS}


def left_too(tail: Tail, state: State, outputs: Sequence[Output], refusals: Collection[Refusal]) -> set[str]:
    """What is not the original's own at other sizes, but can be left as it is with what reads it: the nodes that make
    it move elements, or read lists. Of ``outputs`` ahead of the tail, or where there are none of refused nodes."""
    graph, refused = Graph(tail.model.proto), {refusal.node for refusal in refusals}
    if outputs:
        nodes = [graph.producers.get(name) for name in sorted(of_windows(tail, outputs))]
    else:
        nodes = [node for node in graph.live if label(node) in refused]
    if not all(node is not None and (node.op_type in _MOVING or _reads_lists(node, state)) for node in nodes):
        return set()
    return {name for node in nodes if node is not None for name in node.output if name}


def _reads_lists(node: onnx.NodeProto, state: State) -> bool:
    """Whether all that it reads of the image are lists."""
    views = [view for view in map(state.views.get, inputs_of(node)) if not isinstance(view, Fixed)]
    return all(isinstance(view, Placed) and levels(view, state.rank) for view in views)


def not_behind(tail: Tail, option: str) -> Refusal:
    """That an option does not hold behind the first node that picks places by their values."""
    node = tail.picking[0]
    why = f"{node.op_type} leaves as many as the values of one image say, which {option} cannot have"
    return Refusal("data-dependent", label(node), why, f"leave out {option}, or {_ended(tail)}")


def _ended(tail: Tail) -> str:
    """How to end the model ahead of the nodes."""
    computed = Graph(tail.model.proto).producers
    ends = " ".join(f"--output-at {output.name}" for output in tail.ahead.proto.graph.output if output.name in computed)
    return f"end the model before it: {ends}"


def objection(
    tail: Tail, state: State, images: Sequence[Image], stopped: onnx.NodeProto | None = None
) -> Refusal | None:
    """Why nodes cannot be left as they are behind what was made of the model ahead of them; None where they can.
    ``stopped``: the first that runs at the native size only."""
    first = tail.picking[0]
    counts = _counts(tail, state, images)
    graph, advice = Graph(tail.model.proto), f"{export_open(state, images)}; or {_ended(tail)}"
    for node in tail.nodes:
        if _cuts_else(node, graph, state.builder.specs):
            continue
        found = _held(node, graph, tail.model, counts, state.builder.specs)
        if found:
            where = "" if node in tail.picking else f" behind {first.op_type}"
            why = f"{node.op_type}{where} holds {found}, which is another at other sizes"
            return Refusal("data-dependent", label(node), why, advice)
    if stopped is not None:
        why = f"{stopped.op_type} does not take what is left ahead of {first.op_type} at other sizes"
        return Refusal("data-dependent", label(stopped), why, advice)
    return None


def _held(
    node: onnx.NodeProto, graph: Graph, model: ModelFile, counts: Mapping[int, str], specs: Mapping[str, Spec]
) -> str:
    """What of the native size a node holds."""
    if node.op_type in PICKING:  # so many of all
        counts = {n: told for n, told in counts.items() if told == _PLACES}
    found = next((counts[n] for n in _numbers(node, graph, model) if n in counts), "")
    found = found or _of_sides(node, specs, counts)
    rows = [n for n, told in counts.items() if told == _PLACES]
    if not found and node.op_type in {"Expand", "Reshape"}:
        whole = [n for n in _numbers(node, graph, model) if any(n % count == 0 for count in rows) and n > 0]
        return _PLACES if whole else ""
    return found


def _cuts_else(node: onnx.NodeProto, graph: Graph, specs: Mapping[str, Spec]) -> bool:
    """Whether it picks along axes that no place is on: columns of boxes, or of the three numbers of each box that
    NonMaxSuppression leaves."""
    if node.op_type not in {*CUTTING, "Gather"}:
        return False
    data, spec = graph.producers.get(node.input[0]), specs.get(node.input[0])
    axes = _axes(node, graph)
    if data is not None and data.op_type == "NonMaxSuppression":
        return {int(axis) % 2 for axis in axes} == {1}
    if spec is None or spec.shapes is None:
        return False
    return not any(len({shape[axis] for shape in spec.shapes}) > 1 for axis in axes or range(spec.rank))


def _axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    """Along which a Slice, Split or Gather works; empty where a Slice does not say."""
    attrs = attributes(node)
    if node.op_type != "Slice":
        return [int(attrs.get("axis", 0))]
    told = graph.constant(node.input[3]) if len(node.input) > 3 else None
    return [int(axis) for axis in (attrs.get("axes", []) if told is None else numpy_helper.to_array(told).ravel())]


_PLACES = "the number of places of the native size"
_IMAGE = "the height or width of the native image"
_MAP = "the height or width of the map at the native size"


def _counts(tail: Tail, state: State, images: Sequence[Image]) -> Mapping[int, str]:
    """Numbers that are others at other sizes, and what they are."""
    found = _of_maps(tail, state)
    names = {name for node in tail.nodes for name in (*node.input, *node.output)} & state.builder.specs.keys()
    for shapes in filter(None, (state.builder.specs[name].shapes for name in sorted(names))):
        found |= {lengths[0]: _PLACES for lengths in zip(*shapes, strict=True) if len(set(lengths)) > 1}
    sides = [length for image in images for length in image.size]
    areas = dict.fromkeys((math.prod(image.size) for image in images), "the number of pixels of the native image")
    found = areas | dict.fromkeys(sides, _IMAGE) | found
    return {count: told for count, told in found.items() if count > 1}


def _of_maps(tail: Tail, state: State) -> dict[int, str]:
    """Of the maps and lists that the nodes read."""
    found: dict[int, str] = {}
    for name in tail.reads:
        view = state.views[name]
        if isinstance(view, Placed):
            maps, rows = extents(view, state.rank), lengths(view, state.rank)
            found |= dict.fromkeys([side for extent in maps for side in extent], _MAP)
            found |= dict.fromkeys((*map(math.prod, maps), *rows, *accumulate(rows)), _PLACES)
    return found


def _numbers(node: onnx.NodeProto, graph: Graph, model: ModelFile) -> Iterator[int]:
    """The whole numbers that a node holds or reads as constants, and the dims of these."""
    for name, value in attributes(node).items():
        if name not in _NO_LENGTHS and (node.op_type, name) != ("Constant", "value"):
            yield from _whole(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    for position, name in enumerate(node.input):
        tensor = graph.constant(name) if name else None
        if tensor is not None and (node.op_type, position) not in _AXES and not node.op_type.startswith("Reduce"):
            yield from (length for length in tensor.dims if length > 1)
            yield from _whole(model.array(tensor)) if math.prod(tensor.dims) <= _SMALL else ()
    for body in subgraphs(node):
        yield from (n for tensor in body.initializer for n in _whole(model.array(tensor)))
        inner = Graph(onnx.ModelProto(graph=body))
        for each in body.node:
            yield from _numbers(each, inner, model)


def _of_sides(node: onnx.NodeProto, specs: Mapping[str, Spec], counts: Mapping[int, str]) -> str:
    """What of the image's sides, or of a map's last place, its numbers are."""
    sides = [n for n, told in counts.items() if told == _IMAGE]
    known = figures(sides, node.op_type)
    if node.op_type in LIMITING:
        known |= {n - 1.0: _MAP for n, told in counts.items() if told == _MAP and n >= FEWEST}
    read = [specs[name].constant for name in numbers_of(node) if name in specs and node.op_type in WITH_SIDES]
    constants = [value for value in read if value is not None]
    told = next((known[item] for number in meant(constants, node) if (item := near(number, known))), "")
    return told or folded(few_numbers(constants), node.op_type, sides)


def _whole(value: object) -> Iterator[int]:
    if isinstance(value, onnx.GraphProto | str):
        return
    array = np.asarray(value)
    if array.dtype.kind in "iuf":
        yield from (int(n) for n in array.ravel().tolist() if abs(n) < 1 << 31 and n == int(n))
