"""A constant table times a map: rows of FC weights where the places of the product are summed up, and nothing else.

sum over a window of table * x is one row of an FC layer. Read off def-use edges: every way from the product leads to a
sum over its places, before anything slides over it, gives it out or meets it with another map.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxfc.builder.rule_context import RuleContext, positive
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import BROADCAST, IDLE, LINEAR_SUMS, PLAIN_LAYERS, RESHAPING, UNARY, perm_of
from onnxfc.layout.axes import Atom, Groups, lengths, places_in, regroup
from onnxfc.shapes.spec import Shape

_MOVES = {*IDLE, *RESHAPING}


def summed_by(ctx: RuleContext, own: Groups) -> set[str] | None:
    """The operators that sum up the places of the node's output, on these axes; None where more is done to it."""
    graph = ctx.state.graph
    ways: list[tuple[str, Groups]] = [(ctx.node.output[0], own)]
    kinds = set[str]()
    for name, groups in ways:
        readers = graph.readers.get(name, ())
        if name in graph.outputs or not readers:
            return None
        for node in readers:
            after = _behind(ctx, node, name, groups)
            if after is None:
                return None
            if places_in(after):
                ways += [(made, after) for made in node.output if made and (made, after) not in ways]
            elif ctx.state.roles.of.get(node.output[0]) == "context":
                return None
            else:
                kinds.add(node.op_type)
    return kinds


def _behind(ctx: RuleContext, node: onnx.NodeProto, name: str, groups: Groups) -> Groups | None:
    """The axes of the node's output in atoms; None where it is not known, or the places may be needed as such."""
    shape = ctx.native(node.output[0]).shapes
    if shape is None:
        return None
    if node.op_type in {*BROADCAST, *UNARY}:
        return _spread(groups, shape[0])
    if node.op_type in _MOVES:
        return regroup(groups, shape[0])
    if node.op_type == "Transpose":
        return tuple(groups[axis] for axis in perm_of(attributes(node), len(groups)))
    gone = _summed(ctx, node, name, len(groups))
    return None if gone is None or not gone else _without(groups, gone, shape[0])


def _spread(groups: Groups, shape: Shape) -> Groups | None:
    """The axes laid on others; None where the places are."""
    if len(shape) != len(groups):
        return None
    pairs = list(zip(groups, lengths(groups), shape, strict=True))
    if any(group and group[0].kind != "channel" and before != after for group, before, after in pairs):
        return None
    return tuple(group if before == after else (Atom("channel", after),) for group, before, after in pairs)


def _without(groups: Groups, gone: Sequence[int], shape: Shape) -> Groups | None:
    """The axes when some are summed up: those that are left hold what they held, where any of it is a place."""
    rest = tuple(group for axis, group in enumerate(groups) if axis not in gone)
    if not places_in(rest):
        return ()
    kept = tuple(() if axis in gone else group for axis, group in enumerate(groups))
    return next((made for made in (rest, kept) if lengths(made) == shape), None)


def _summed(ctx: RuleContext, node: onnx.NodeProto, name: str, rank: int) -> list[int] | None:
    """The axes that a node sums up; None where it is no sum."""
    if node.op_type in LINEAR_SUMS:
        return _reduced(ctx, node, rank)
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    if node.op_type in PLAIN_LAYERS and rank >= 2:
        first = node.input[0] == name
        turned = attributes(node).get("transA" if first else "transB", 0)
        return [rank - 2 if first == bool(turned) else rank - 1]
    if node.op_type == "Einsum" and "..." not in (equation := str(attributes(node)["equation"]).replace(" ", "")):
        left, arrow, out = equation.partition("->")
        term = left.split(",")[list(node.input).index(name)]
        return [axis for axis, letter in enumerate(term) if letter not in out] if arrow else None
    return None


def _reduced(ctx: RuleContext, node: onnx.NodeProto, rank: int) -> list[int] | None:
    axes = attributes(node).get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        values = ctx.native(node.input[1]).values
        axes = None if values is None else values[0].ravel().tolist()
    return None if axes is None else [positive(int(axis), rank) for axis in axes]
