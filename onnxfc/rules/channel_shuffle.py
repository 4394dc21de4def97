"""Channel shuffles: a Reshape, a Transpose and a Reshape that only move channels, as one order of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.index import attributes
from onnxfc.layout.axes import lengths
from onnxfc.layout.views import Placed, is_map
from onnxfc.shapes.spec import Array

_MOVES = {"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


def permuted(ctx: RuleContext, view: Placed) -> tuple[Placed, Array] | None:
    """The map, channels first, whose channels the output is in another order, and that order; None for anything else.

    A channel shuffle is Reshape, Transpose, Reshape: one Gather says the same and knows nothing of sizes.
    """
    name, nodes = ctx.node.input[0], [ctx.node]
    while (node := ctx.state.graph.producers.get(name)) is not None and node.op_type in _MOVES:
        nodes.append(node)
        name = node.input[0]
        before = ctx.state.views.get(name)
        if is_map(before) and len(nodes) > 1 and before.channels_first and not before.provenance.windows:
            order = _order(ctx, before, nodes[::-1])
            return None if order is None else (before, order)
    return None


def _order(ctx: RuleContext, before: Placed, nodes: Sequence[onnx.NodeProto]) -> Array | None:
    """Which channel each channel of the output is, if that is all that the nodes do."""
    shape = lengths(before.groups)
    after = ctx.shape_out()
    if len(after) != len(shape) or shape[2:] != after[2:] or shape[0] != after[0]:
        return None
    places = np.arange(int(np.prod(shape, dtype=np.int64))).reshape(shape)
    moved = places
    for node in nodes:
        if node.op_type == "Transpose":
            moved = np.transpose(moved, attributes(node).get("perm"))
        else:
            moved = moved.reshape(ctx.native(node.output[0]).native)
    size = int(np.prod(shape[2:], dtype=np.int64))
    order = moved[0].reshape(shape[1], -1)[:, 0] // size
    return np.asarray(order) if np.array_equal(moved, places[:, order]) else None
