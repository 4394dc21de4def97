"""A map in a few long parts: nothing in the file says whether larger images have more of them or longer ones.

So an exporter of one size leaves adaptive pools (``nn.AdaptiveAvgPool2d(2)`` is AveragePool of half the map) and
stripes, ``x.view(n, c, 4, h // 4, w)``. Parts stay as long as they are natively, as a pool's windows do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxfc.builder.rule_context import RuleContext
from onnxfc.graph.op_kinds import POOLS
from onnxfc.graph.sliding import Sliding
from onnxfc.layout.axes import Groups
from onnxfc.layout.views import Placed


def told_blocks(ctx: RuleContext, view: Placed, groups: Groups) -> None:
    """Note it of a Reshape from the view's axes to these. Of cells there is nothing to tell: they are those of each
    crop."""
    before, after, fields = _lengths(view.groups), _lengths(groups), view.provenance.fields
    whole = [place for place in after if place in before and fields[place].stride.denominator == 1]
    _told(ctx, view, [(before[place], after[place]) for place in whole])  # others are rows, with the columns that stay


def told_pools(ctx: RuleContext, view: Placed, how: Sliding) -> None:
    """Note it of a pool along the view's axes whose windows lie end to end and leave nothing out; of short parts, too,
    where another axis is pooled as a whole, as an adaptive pool to ``(4, 1)`` does."""
    if ctx.op_type in POOLS and how.kernel == how.strides and not how.padded and set(how.dilations) == {1}:
        sizes = zip(view.extent, how.kernel, strict=True)
        lengths = zip(ctx.attrs["kernel_shape"], ctx.shape_in()[2:], strict=True)
        least = 1 if any(kernel == length > 3 for kernel, length in lengths) else 0
        _told(ctx, view, [(places, places // length) for places, length in sizes if places % length == 0], least)


def _told(ctx: RuleContext, view: Placed, cuts: Sequence[tuple[int, int]], least: int = 0) -> None:
    """``least``: so long a part tells; 0 where it has to be as long as there are parts."""
    few = [(places, parts) for places, parts in cuts if parts > 1 and places // parts > (least or parts - 1)]
    if ctx.state.of_windows or view.provenance.windows or not few:
        return
    whole, parts, length = ("x".join(map(str, item)) for item in zip(*((p, n, p // n) for p, n in few), strict=True))
    why = f"cuts {whole} places into {parts} parts of {length}: they stay as long at every size, and larger images have"
    ctx.remark("fixed-parts", f"{why} more of them; where the network has {parts} of every image, keep its native size")


def _lengths(groups: Groups) -> Mapping[int, int]:
    return {atom.place: atom.length for group in groups for atom in group if atom.kind == "space"}
