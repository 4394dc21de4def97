"""What the graph computes from constants alone: exporters leave it so where it is large."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import RESHAPING
from onnxfc.layout.views import Fixed, Placed
from onnxfc.shapes.spec import Array, Shape

_LARGEST = 1 << 24
"""Elements of the largest that is computed."""


Dims = Callable[[Placed], Shape | None]


def computed(ctx: RuleContext, name: str, dims: Dims | None = None) -> Array | None:
    """The value of a tensor that depends on constants alone; None where it follows the image's size or an input.

    ``dims``: what the shapes of maps are taken for, on which it may depend then.
    """
    return _value(ctx, name, {}, dims)


def _value(ctx: RuleContext, name: str, known: dict[str, Array | None], dims: Dims | None) -> Array | None:
    graph, view = ctx.state.graph, ctx.state.views.get(name)
    node, shapes = graph.producers.get(name), ctx.native(name).shapes
    if name in known or not isinstance(view, Fixed) or name in graph.overridable or shapes is None:
        return known.get(name)
    spec, tensor = ctx.builder.specs.get(view.tensor), graph.constant(name)
    known[name] = ctx.builder.model.array(tensor) if tensor is not None else spec.constant if spec else None
    if known[name] is None and node is not None and node.input and math.prod(shapes[0]) <= _LARGEST:
        known.update(_made(ctx, node, known, dims))
    return known[name]


def _made(
    ctx: RuleContext, node: onnx.NodeProto, known: dict[str, Array | None], dims: Dims | None
) -> dict[str, Array | None]:
    """What a node makes of what it reads, if that is known."""
    like = ctx.state.views.get(node.input[0])
    if node.op_type == "Shape" and isinstance(like, Placed):
        return {node.output[0]: _shape(node, dims(like) if dims else None)}
    inputs = [_value(ctx, item, known, dims) if item else None for item in node.input]
    if node.op_type in RESHAPING and inputs[0] is not None and dims is None:  # to a computed shape: natively, if any
        return {node.output[0]: inputs[0].reshape(ctx.native(node.output[0]).native)}
    if any(value is None and item for item, value in zip(node.input, inputs, strict=True)):
        return {}
    return dict(zip(node.output, ctx.builder.inference.run(node, inputs), strict=True))


def _shape(node: onnx.NodeProto, shape: Shape | None) -> Array | None:
    """What a Shape makes of these dims."""
    found = attributes(node)
    return None if shape is None else np.array(shape[found.get("start", 0) : found.get("end", len(shape))], np.int64)
