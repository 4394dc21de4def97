"""Figures of the whole image that are repeated as often as there are places natively."""

from __future__ import annotations

from onnxfc.builder.rule_context import RuleContext
from onnxfc.layout.views import Placed

_FEW = 8
"""So few copies may be any number."""


def told_copies(ctx: RuleContext) -> None:
    """Note such a figure, step by step of a sequence say, that meets none of these places: another image has others."""
    made = ctx.builder.specs[ctx.node.output[0]]
    if len(set(made.shapes or ())) != 1:
        return
    before = (1,) * (made.rank - len(ctx.shape_in())) + ctx.shape_in()
    longer = {after for was, after in zip(before, made.native, strict=True) if was == 1 < after}
    if not longer:
        return
    lengths = {n for other in ctx.state.views.values() if isinstance(other, Placed) for n in other.extent}
    if many := sorted(n for n in longer & lengths if n > _FEW):
        why = f"{ctx.op_type} repeats a figure of the whole image {many[0]} times, as many as there are places natively"
        ctx.remark("native-scale", f"{why}; where the network's own follow the image, export it with open dims")
