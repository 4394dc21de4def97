"""Transpose on maps and folded maps."""

from __future__ import annotations

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.graph.op_kinds import perm_of
from onnxfc.head.placed_windows import windowed
from onnxfc.head.windows import moved_to
from onnxfc.rules.registry import PLACED, rule


@rule("Transpose", on=PLACED, attributes=("perm",))
def transpose(ctx: RuleContext) -> Outcome:
    """Transpose of a map is the map with its axes in another order.

    https://onnx.ai/onnx/operators/onnx__Transpose.html
    """
    view = ctx.placed_in()
    perm = perm_of(ctx.attrs, len(view.groups))
    alone = len(view.groups) < 2 + len(view.spatial)  # places without channels may be what an FC layer reads
    features = view.provenance.windows or (alone and ctx.state.of_windows)
    if perm[0] != 0 and view.is_map and features:
        return windowed(ctx)
    ctx.keep()
    groups = tuple(view.groups[axis] for axis in perm)
    return [moved_to(ctx, view, groups)]
