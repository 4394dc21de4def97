"""What the graph computes from constants alone: exporters leave it so where it is large."""

from __future__ import annotations

import math

from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.op_kinds import RESHAPING
from onnxfc.layout.views import Fixed
from onnxfc.shapes.spec import Array

_LARGEST = 1 << 24
"""Elements of the largest that is computed."""


def computed(ctx: RuleContext, name: str) -> Array | None:
    """The value of a tensor that depends on constants alone; None where it follows the image's size or an input."""
    return _value(ctx, name, {})


def _value(ctx: RuleContext, name: str, known: dict[str, Array | None]) -> Array | None:
    graph, view = ctx.state.graph, ctx.state.views.get(name)
    node, shapes = graph.producers.get(name), ctx.native(name).shapes
    if name in known or not isinstance(view, Fixed) or name in graph.overridable or shapes is None:
        return known.get(name)
    spec, tensor = ctx.builder.specs.get(view.tensor), graph.constant(name)
    known[name] = ctx.builder.model.array(tensor) if tensor is not None else spec.constant if spec else None
    if known[name] is None and node is not None and node.input and math.prod(shapes[0]) <= _LARGEST:
        inputs = [_value(ctx, item, known) if item else None for item in node.input]
        if node.op_type in RESHAPING and inputs[0] is not None:  # to a computed shape: natively, if anywhere
            known[name] = inputs[0].reshape(shapes[0])
        elif all(value is not None or not item for item, value in zip(node.input, inputs, strict=True)):
            known.update(zip(node.output, ctx.builder.inference.run(node, inputs), strict=True))
    return known[name]
