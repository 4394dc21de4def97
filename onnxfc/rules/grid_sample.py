"""GridSample: a map read at places that are computed from a map."""

from __future__ import annotations

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import is_map
from onnxfc.rules.broadcast import NO_VALUES
from onnxfc.rules.registry import PLACED, rule


@rule("GridSample", on=PLACED, attributes=("align_corners", "mode", "padding_mode"))
def grid_sample(ctx: RuleContext) -> Outcome | None:
    """GridSample at coordinates made from the map lies as the coordinates do: -1 to 1 are the map's ends at every size.

    Each element may read all of the map, so that it is context. Coordinates that are a table of the native size are
    refused. https://onnx.ai/onnx/operators/onnx__GridSample.html
    """
    view, grid = ctx.views
    if not is_map(view) or not is_map(grid):
        return ctx.refuse("position-table", "reads at coordinates that are a table of the native size", NO_VALUES)
    rank = ctx.state.rank
    if not view.channels_first or grid.spatial != tuple(range(1, 1 + rank)):
        return ctx.refuse("layout", "reads at coordinates of other axes than the image's")
    joined = Provenance.join([grid.provenance, view.provenance.along(dict(enumerate(grid.provenance.fields)))])
    if joined is None or joined.windows:
        return ctx.rejoins()
    ctx.keep()
    return ctx.placed(view, joined.blamed(ctx.blame(Cause.CONTEXT)), {k: 2 + k for k in range(rank)})
