"""The map that another one meets further on: where a size was baked in, it tells which size was meant.

A skip connection, say: what was resized or cropped to the native size of its reference must have the reference's size
at every image size, or the two do not fit together off the stride grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from onnxfc.builder import ops
from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.op_kinds import BROADCAST, FUSED_UNARY, MAP_NORMS, SLIDING, UNARY
from onnxfc.layout.views import Placed, is_map
from onnxfc.shapes.spec import Shape

_ALONG = {*UNARY, *FUSED_UNARY, *BROADCAST, *SLIDING, *MAP_NORMS}
_ALONG |= {"BatchNormalization", "Concat", "Dropout", "LRN", "LayerNormalization", "Pad", "Resize", "Slice"}
"""Operators behind which a map has the same size at every image size, where it has the same extent natively."""


def references(ctx: RuleContext, view: Placed, axes: Sequence[int]) -> Iterator[Placed]:
    """Maps of the output's native extent on ``axes`` that it meets, the nearest first.

    They are those that are computed already: where the reference itself is not, a map of its size before it.
    """
    looked = set[str]()
    own = {ctx.node.output[0]}
    for node in along(ctx, axes):
        if node.op_type == "Concat" or node.op_type in BROADCAST:
            others = [other for other in node.input if other not in own]
            for found in _before(ctx, others, axes, looked):
                if view.spatial == found.spatial and not found.provenance.windows:
                    yield found
        own.add(node.output[0])


def along(ctx: RuleContext, axes: Sequence[int]) -> Iterator[onnx.NodeProto]:
    """The nodes behind this one that leave its extents on ``axes`` as they are, the nearest first."""
    names, seen = [ctx.node.output[0]], {ctx.node.output[0]}
    for name in names:
        for node in ctx.state.graph.readers.get(name, ()):
            if node.op_type not in _ALONG or not _same(ctx, node.output[0], axes):
                continue
            yield node
            if node.output[0] not in seen:
                seen.add(node.output[0])
                names.append(node.output[0])


def _same(ctx: RuleContext, name: str, axes: Sequence[int]) -> bool:
    """Whether a tensor of the original has the node's own extents on ``axes``."""
    found, own = ctx.state.native.get(name), ctx.shape_out()
    shape = None if found is None or found.shapes is None else found.native
    return shape is not None and len(shape) == len(own) and all(shape[axis] == own[axis] for axis in axes)


def _before(ctx: RuleContext, others: Sequence[str], axes: Sequence[int], looked: set[str]) -> Iterator[Placed]:
    """The maps themselves if they are known, else those of their size that they are computed from; each once."""
    names = list(others)
    for item in names:
        if item in looked or not _same(ctx, item, axes) or item == ctx.node.output[0]:
            continue
        looked.add(item)
        view = ctx.state.views.get(item)
        if is_map(view):
            yield view
        node = ctx.state.graph.producers.get(item)
        if view is None and node is not None and node.op_type in _ALONG:
            names.extend(node.input)


def sizes_like(ctx: RuleContext, view: Placed, other: Placed) -> str:
    """The shape of ``view`` with the spatial dims of ``other`` (whose axes may stand elsewhere), as a tensor."""
    sizes = ops.dims(ctx.builder, other.tensor, min(other.spatial), max(other.spatial) + 1)
    return sizes_with(ctx, view, sizes)


def sizes_with(ctx: RuleContext, view: Placed, sizes: str) -> str:
    """The shape of ``view`` with these spatial dims, as a tensor; axes that stay get the written sizes."""
    builder, rank, made = ctx.builder, len(ctx.shape_out()), ctx.shape_out()
    first, last = min(view.spatial), max(view.spatial) + 1
    parts = []
    for begin, end in ((0, first), (last, rank)):
        if ctx.shape_in()[begin:end] == made[begin:end]:
            parts.append(ops.dims(builder, view.tensor, begin, end) if begin < end else "")
        else:
            batch = [ops.dims(builder, view.tensor, 0, 1)] if begin == 0 else []
            parts.append(ops.concat(builder, [*batch, builder.constant(made[begin + len(batch) : end], "sizes")]))
    return ops.concat(builder, [part for part in (parts[0], sizes, parts[1]) if part])


def images(ctx: RuleContext) -> Iterator[Placed]:
    """The images themselves."""
    for info in ctx.state.graph.inputs:
        view = ctx.state.views[info.name]
        if is_map(view):
            yield view


def sized(ctx: RuleContext, view: Placed) -> Shape:
    """The output's native extents on the spatial axes of ``view``."""
    shape = ctx.shape_out()
    return tuple(shape[axis] for axis in view.spatial)


def contiguous(view: Placed) -> bool:
    """Whether its spatial axes lie beside each other."""
    return view.spatial == tuple(range(view.spatial[0], view.spatial[0] + len(view.spatial)))
