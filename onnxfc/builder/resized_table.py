"""A table that the graph itself resizes to the native number of places: to as many as there are now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import target
from onnxfc.builder.rule_context import RuleContext
from onnxfc.builder.state import Continued
from onnxfc.graph.index import attributes, copied
from onnxfc.graph.op_kinds import REORDERING, perm_of
from onnxfc.layout.axes import Groups, groups_of, lengths, places_in, regroup
from onnxfc.layout.views import Fixed, Placed


def resized(ctx: RuleContext, position: int, groups: Groups, like: Placed) -> Continued | None:
    """Resize(T, native size), moved about, is Resize(T, size of the map), moved likewise; None where it is none.

    ``groups``: the axes of the result, on whose places it lies; ``like``: the map that has them.
    """
    chain = _chain(ctx, ctx.node.input[position])
    table = _to_size_of(ctx, chain[0], like) if chain else None
    for node in chain[1:]:
        table = table and _moved(ctx, node, table)
    own = groups[len(groups) - len(table.groups) :] if table else ()
    if table is None or any(places_in([a]) and a != b for a, b in zip(table.groups, own, strict=False)):
        return None
    made = Continued(
        ctx.label,
        ctx.node.input[position],
        table.tensor,
        ("resize",) * ctx.state.rank,
        ((table.tensor, (-1,) * ctx.state.rank),),
    )
    ctx.notes.append(made)
    return made


def _chain(ctx: RuleContext, name: str) -> list[onnx.NodeProto]:
    """The nodes from a Resize to a tensor that do nothing but move its data; empty where there is no Resize."""
    found: list[onnx.NodeProto] = []
    node = ctx.state.graph.producers.get(name)
    while node is not None and node.op_type in REORDERING:
        found.insert(0, node)
        node = ctx.state.graph.producers.get(node.input[0])
    fits = node is not None and node.op_type == "Resize" and ctx.opset >= 11
    return [node, *found] if node is not None and fits else []


def _to_size_of(ctx: RuleContext, node: onnx.NodeProto, like: Placed) -> Placed | None:
    """The Resize to as many places as the map has."""
    before, after = (ctx.native(name).shapes for name in (node.input[0], node.output[0]))
    data, found = ctx.state.views[node.input[0]], attributes(node)
    if not isinstance(data, Fixed) or before is None or after is None or len(after[0]) != 2 + len(like.where):
        return None
    spatial = dict(zip(like.where, range(2, len(after[0])), strict=True))
    sizes = len(node.input) > 3 and bool(node.input[3])
    scales = ctx.state.native[node.input[2]].constant if not sizes and len(node.input) > 2 else None
    scaled = () if scales is None else np.asarray(before[0]) * scales
    exact = sizes or (len(scaled) == len(after[0]) and np.allclose(scaled, after[0], rtol=1e-6))
    plain = found.get("keep_aspect_ratio_policy", "stretch") in ("stretch", b"stretch")
    if before[0][:2] != after[0][:2] or after[0][2:] != like.extent or not exact or not plain:
        return None
    now = [ops.dims(ctx.builder, like.tensor, axis, axis + 1) for axis in like.spatial]
    copy = copied(node, output=[ctx.builder.fresh(f"{node.output[0]}_now")])
    copy.name = ctx.builder.node_name("", node.name or "resize")
    roi = node.input[1] if len(node.input) > 1 else ""
    ctx.builder.keep(copy, [data.tensor, roi, "", ops.numbers(ctx.builder, [*after[0][:2], *now])], {"axes": None})
    own = groups_of(after[0], spatial, batched=False)
    return Placed(copy.output[0], "", own, like.provenance, like)


def _moved(ctx: RuleContext, node: onnx.NodeProto, table: Placed) -> Placed | None:
    """Transposed, or its axes laid together otherwise."""
    shapes = ctx.native(node.output[0]).shapes
    if shapes is None:
        return None
    if node.op_type == "Transpose":
        perm: Sequence[int] = perm_of(attributes(node), len(table.groups))
        tensor = ops.transpose(ctx.builder, table.tensor, perm)
        return replace(table, tensor=tensor, groups=tuple(table.groups[axis] for axis in perm))
    groups = regroup(table.groups, shapes[0])
    if groups is None or lengths(groups) != shapes[0]:
        return None
    return replace(
        table, tensor=ops.reshape(ctx.builder, table.tensor, target(ctx.builder, table, groups)), groups=groups
    )
