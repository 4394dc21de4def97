"""Pad, and a Conv's own pads, by numbers that are written down: a border, or what the image lacked to a square.

Such amounts are kept at every size, as a border is. Where natively they fill the image or map up to a square, or to
whole blocks, which it was not, the report says what they were taken for.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import SLIDING, weight_position
from onnxfc.graph.sliding import sliding_at
from onnxfc.layout.views import Placed


def told_pads(ctx: RuleContext, view: Placed, begin: Sequence[int], end: Sequence[int]) -> None:
    """Note it of amounts before and behind all axes. Of cells there is nothing to tell: they are those of each crop."""
    if ctx.state.of_windows or view.provenance.windows:
        return
    axes = view.spatial if min(view.spatial) < 2 else range(2, len(begin))
    least = min(min(begin[axis], end[axis]) for axis in axes)
    own = [ctx.shape_in()[axis] for axis in axes]
    amounts = [(begin[axis] - least, end[axis] - least) for axis in axes]
    filled = _filled(own, amounts) if least >= 0 else ""
    if filled and not _as_same(ctx, [*begin[2:], *end[2:]]):
        made = [side + sum(both) for side, both in zip(own, amounts, strict=True)]
        was, now = ("x".join(map(str, sides)) for sides in (own, made))
        why = f"pads {was} to {now} by plain numbers, which are taken for a border that is as wide at every size"
        ctx.remark("written-size", f"{why}, not for what is missing to {filled}: export it with open height and width")


def _filled(own: Sequence[int], amounts: Sequence[tuple[int, int]]) -> str:
    """What sides are filled up to; empty where they were that before, or the border is alike on all of them."""
    made = [side + sum(both) for side, both in zip(own, amounts, strict=True)]
    if len(set(amounts)) == 1 and max(amounts[0]) < 2:
        return ""
    if len(set(made)) == 1 < len(set(own)):
        return "a square"
    blocks = (n for n in _BLOCKS if made == [-(-side // n) * n for side in own])
    return next((f"multiples of {n}" for n in blocks), "")


_BLOCKS = (128, 64, 32, 16)
"""What sides of images and maps are filled up to multiples of."""


def _as_same(ctx: RuleContext, pads: Sequence[int]) -> bool:
    """Whether it pads as SAME does, for itself or a layer that reads it."""
    for node in (ctx.node, *ctx.state.graph.readers.get(ctx.node.output[0], ())):
        if node.op_type in SLIDING:
            at = weight_position(node.op_type)
            weight = ctx.native(node.input[at]).native if len(node.input) > at else ()
            hows = [{**attributes(node), "auto_pad": f"SAME_{end}"} for end in ("UPPER", "LOWER")]
            found = [sliding_at(how, ctx.shape_in(), weight) for how in hows]
            if any(how is not None and [*how.begin, *how.end] == list(pads) for how in found):
                return True
    return False
