"""Numbers of places that stand in the file, as exporters of one size leave them: beside a sum, they make it a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import onnx

from onnxfc.analysis.flow import Flow, Step
from onnxfc.graph.op_kinds import IDLE, RESHAPING, SAME_VALUES, SCALING, SUMS

MOVES = {*IDLE, *RESHAPING, *SAME_VALUES}
CLOSE = 1e-6
_POWERS = {"Reciprocal": -1.0, "ReduceSumSquare": 2.0, "Sqrt": 0.5}


def is_written(number: float) -> bool:
    """Whether people write a number so: in two digits, or one over such. Exporters fold counts to any other one."""
    return any(math.isclose(float(f"{n:.2g}"), n, rel_tol=CLOSE) for n in (number, 1 / number))


def number(flow: Flow, name: str) -> float | None:
    """A number that stands in the file, or is computed from such."""
    value = None if name in flow.layouts or flow.measured(name) else flow.native[name].constant
    return float(value.ravel()[0]) if value is not None and value.size == 1 and value.dtype.kind in "fiu" else None


def counted(step: Step, path: Sequence[onnx.NodeProto], whole: str) -> Literal["", "computed", "written"]:
    """By what a quotient of something by its own sums is the same for any number of places, as these are means.

    ``path``: from what it is divided by up to the sums. They are means where a number on the path, right behind the
    quotient or ahead of it, in the ``whole``, is what their native count (or one less) amounts to there, or was
    computed from the image's size. One that counts a window's features is as good as written.
    """
    flow, way = step.flow, path[-1].input[0]
    grown, less, factor = 1.0, 1.0, 1.0
    for node in _onward(step, path):
        others = [name for name in node.input if name not in {way, ""}]
        power = _power(flow, node, way)
        grown, less, factor = grown**power, less**power, factor**power
        if node.op_type in SUMS:
            count = math.prod(flow.native[way].native) / math.prod(flow.native[node.output[0]].native)
            root = 0.5 if node.op_type == "ReduceL2" else 1.0
            grown, less = grown * count**root, less * max(count - 1, 1) ** root
        if node.op_type in SCALING and others:
            if others[0] not in flow.layouts and flow.measured(others[0]):
                return "computed" if flow.follows(others[0]) else "written"
            beside = _scaled_by(flow, whole, path) if node is step.node else number(flow, others[0]) or 1.0
            factor *= 1 / beside if node.op_type == "Div" and power > 0 else beside
            if beside != 1 and any(math.isclose(factor * most, 1, rel_tol=CLOSE) for most in (grown, less)):
                return "written"
        way = node.output[0]
    return ""


def _scaled_by(flow: Flow, whole: str, path: Sequence[onnx.NodeProto]) -> float:
    """By what number a tensor is more than what its sums are made of."""
    summed, factor = set(_alone(flow, path[-1].input[0])), 1.0
    for name in _alone(flow, whole):
        node = flow.graph.producers.get(name)
        if name in summed or node is None or node.op_type not in {*MOVES, *SCALING}:
            return factor if name in summed else 1.0
        others = [number(flow, item) or 1.0 for item in node.input if item not in flow.layouts]
        if node.op_type in SCALING and others:
            factor *= 1 / others[0] if node.op_type == "Div" else others[0]
    return 1.0


def _alone(flow: Flow, name: str) -> Iterator[str]:
    """A tensor, and those from which alone it is computed."""
    while True:
        yield name
        node = flow.graph.producers.get(name)
        given = {item for item in node.input if item in flow.layouts} if node is not None else set[str]()
        if len(given) != 1:
            return
        [name] = given


def _power(flow: Flow, node: onnx.NodeProto, way: str) -> float:
    """To which power of its input the node raises it."""
    if node.op_type == "Pow":
        return number(flow, node.input[1]) or 1.0
    if node.op_type == "Mul" and list(node.input) == [way, way]:
        return 2.0
    return -1.0 if node.op_type == "Div" and node.input[0] != way else _POWERS.get(node.op_type, 1.0)


def _onward(step: Step, path: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """From the sums to the quotient, and what is done to it alone: moved, and scaled by numbers."""
    yield from reversed(path)
    yield step.node
    graph, way = step.flow.graph, step.name
    while graph.uses[way] == 1 and (readers := graph.readers.get(way)):
        [node] = readers
        numbers = [name for name in node.input if name != way and name not in step.flow.layouts]
        if node.op_type not in MOVES and not (node.op_type in SCALING and len(numbers) == 1):
            return
        yield node
        way = node.output[0]
