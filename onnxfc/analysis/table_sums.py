"""A constant table times a map: rows of FC weights where the places of the product are summed up, and nothing else.

sum over a window of table * x is one row of an FC layer. Read off def-use edges: every way from the product leads to a
sum over its places, before anything slides over it, gives it out or meets it with another map.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxfc.analysis.flow import Flow
from onnxfc.analysis.layouts import Layout
from onnxfc.builder.state import Role
from onnxfc.graph.op_kinds import BROADCAST, IDLE, LINEAR_SUMS, PLAIN_LAYERS, RESHAPING, UNARY

_KEEP = {*BROADCAST, *IDLE, *RESHAPING, *UNARY, "Transpose"}
_SUM = {*LINEAR_SUMS, *PLAIN_LAYERS, "Einsum", "GlobalAveragePool"}


def summed_by(flow: Flow, roles: Mapping[str, Role], name: str) -> frozenset[str] | None:
    """The operators that sum up the places of a tensor; None where more is done to it."""
    ways, kinds = [name], set[str]()
    for way in ways:
        readers = flow.graph.readers.get(way, ())
        if way in flow.graph.outputs or not readers:
            return None
        for node in readers:
            made = _behind(flow, node, flow.layouts[way])
            if made is None or (not made.solid and roles.get(node.output[0]) == "context"):
                return None
            if made.solid:
                ways += [other for other in node.output if other and other not in ways]
            else:
                kinds.add(node.op_type)
    return frozenset(kinds)


def _behind(flow: Flow, node: onnx.NodeProto, held: Layout) -> Layout | None:
    """What the node makes of places that it keeps, or sums up; None where they may be needed as such."""
    made = flow.layouts.get(node.output[0])
    if made is None or made.axes is None or not made.solid <= held.solid:
        return None
    if node.op_type in _KEEP:
        alike = all(made.length(place) == held.length(place) for place in held.solid)
        return made if made.solid == held.solid and alike else None
    return made if node.op_type in _SUM else None
