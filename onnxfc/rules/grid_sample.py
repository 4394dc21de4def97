"""GridSample: a map read at places that are computed from a map, or at a fixed warp of it."""

from __future__ import annotations

from onnxfc.builder import ops
from onnxfc.builder.continued import continued, windows_have_others
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Cause
from onnxfc.graph.index import attributes
from onnxfc.layout.axes import BATCH_OF_ONE, channels
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, is_map, on_image_axes
from onnxfc.rules.broadcast import with_context
from onnxfc.rules.coordinates import for_any_size
from onnxfc.rules.registry import PLACED, rule


@rule("GridSample", on=PLACED, attributes=("align_corners", "mode", "padding_mode"))
def grid_sample(ctx: RuleContext) -> Outcome | None:
    """GridSample at coordinates made from the map lies as the coordinates do: -1 to 1 are the map's ends at every size.

    So does one at constant coordinates that go from -1 to 1, or back. Each element may read all of the map, so
    that it is context. https://onnx.ai/onnx/operators/onnx__GridSample.html
    """
    view, grid = ctx.views
    if is_map(view) and isinstance(grid, Fixed | Context):
        return _as_computed(ctx, view, grid) or (
            _warped(ctx, view) if isinstance(grid, Fixed) else ctx.no_values(_TURNED)
        )
    if not is_map(view) or not is_map(grid):
        return ctx.no_values(_TABLE)
    if not on_image_axes(view) or grid.spatial != tuple(axis - 1 for axis in view.spatial):
        return ctx.refuse("layout", "reads at coordinates of other axes than the image's")
    at: str | None = grid.tensor
    if any(blame.cause is Cause.GRID for blame in grid.provenance.blames):
        at = for_any_size(ctx, ctx.node.input[1], grid.tensor)
    if at is None:
        why = "reads at a grid of coordinates and what is added to it, which may count places of the native size"
        return ctx.refuse("grid-rule", why, LEAVE)
    joined = Provenance.join([grid.provenance, view.provenance.along(dict(enumerate(grid.provenance.fields)))])
    if joined is None or joined.windows:
        return ctx.rejoins()
    ctx.keep([view.tensor, at])
    return ctx.placed(view, joined.blamed(ctx.blame(Cause.CONTEXT)), view.where)


_TABLE = "reads at coordinates that are a table of the native size"
_TURNED = f"{_TABLE}, turned by what the whole image is (a spatial transformer)"


def _as_computed(ctx: RuleContext, view: Placed, grid: Fixed | Context) -> Outcome | None:
    """At coordinates that the model computes for as many places as the map has, or whose size alone is written down.
    None where it computes none."""
    sizes = [shape[1:-1] for shape in ctx.builder.spec(grid.tensor).shapes or ()]
    now = [shape[2:] for shape in ctx.builder.spec(view.tensor).shapes or ()]
    if not on_image_axes(view) or ctx.shape_in(1)[1:-1] != ctx.shape_in()[2:] or view.provenance.windows:
        return None
    anew = None if sizes == now else _affine_grid(ctx, view)
    if sizes != now and anew is None:
        return None
    if ctx.state.of_windows:
        return windows_have_others(ctx, ctx.node.input[1])
    ctx.keep([view.tensor, anew or grid.tensor])
    return ctx.placed(view, with_context(ctx, view.provenance.blamed(ctx.blame(Cause.CONTEXT))), view.where)


def _affine_grid(ctx: RuleContext, view: Placed) -> str | None:
    """The grid of an AffineGrid to a size that is written down, of as many places as the map has now."""
    node = ctx.state.graph.producers.get(ctx.node.input[1])
    if node is None or node.op_type != "AffineGrid":
        return None
    turn = ctx.state.views[node.input[0]]
    if not isinstance(turn, Fixed | Context) or (isinstance(turn, Fixed) and ctx.free_batch):
        return None
    sizes = ops.dims(ctx.builder, view.tensor, 0, len(view.groups))
    return ctx.builder.emit("AffineGrid", [turn.tensor, sizes], **attributes(node))


def _warped(ctx: RuleContext, view: Placed) -> Outcome:
    """At a warp of as many places as the map has, which goes on from end to end of it: its own values show the rule,
    ``align_corners`` says only where they lie."""
    fits = on_image_axes(view) and ctx.shape_in(1)[:-1] == (1, *ctx.shape_in()[2:]) and not ctx.free_batch
    groups = (BATCH_OF_ONE, *view.groups[2:], channels(len(view.groups) - 2))
    grid = continued(ctx, 1, groups, [view], spread=True) if fits else None
    if not isinstance(grid, Continued):
        return grid or ctx.no_values(_TABLE)
    ctx.keep([view.tensor, grid.tensor])
    return ctx.placed(view, view.provenance.blamed(ctx.blame(Cause.CONTEXT)), view.where)
