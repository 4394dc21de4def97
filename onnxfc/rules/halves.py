"""Halves of a map, as chunk cuts it in two, that are worked on one by one and joined again.

The file says that they are halves, by a Split in two or by bounds that it computes: of an odd number of places the
first has one more. Each lies as the map does, but for where the second begins, which is context.
"""

from __future__ import annotations

import numpy as np

from onnxfc.analysis.halves import Halves, halves_of
from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph.op_kinds import CUTTING
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed, is_map


def half(ctx: RuleContext, axis: int) -> Outcome | None:
    """A Split or Slice that makes halves along an axis of the image, which are joined again; None for others."""
    view = ctx.placed_in()
    if _halves(ctx, axis) is None or (ctx.op_type == "Slice" and not _computed(ctx, view, axis)):
        return None
    ctx.keep()
    return ctx.placed(view, view.provenance.blamed(ctx.blame(Cause.CONTEXT)), view.where)


def halves_joined(ctx: RuleContext, axis: int) -> Outcome | None:
    """A Concat of both halves has the map's own places again; as they were, it is that map. None for others."""
    seen = (node for node in ctx.state.graph.live if node.op_type in CUTTING and node.output[0] in ctx.state.views)
    pairs = (_halves(RuleContext(ctx.state, node), axis) for node in seen)
    found = next((pair for pair in pairs if pair is not None and pair.joined == ctx.node.output[0]), None)
    views = [view for view in ctx.views if is_map(view)]
    whole = ctx.state.views[found.root] if found is not None else None
    if found is None or not is_map(whole) or len(views) < len(ctx.views):
        return None
    ctx.keep()
    plain = tuple(ctx.node.input) == found.cut
    provenance = whole.provenance if plain else Provenance.join([view.provenance for view in views])
    if provenance is None or _lengths(ctx, whole.tensor, axis) != _lengths(ctx, ctx.node.output[0], axis):
        return ctx.refuse("cut-out", "joins halves that are not as long as the map that they were cut out of", LEAVE)
    return ctx.placed(whole, provenance, whole.where)


def _lengths(ctx: RuleContext, tensor: str, axis: int) -> list[int]:
    """At every size that is looked at."""
    return [shape[axis] for shape in ctx.builder.spec(tensor).shapes or ()]


def _halves(ctx: RuleContext, axis: int) -> Halves | None:
    """What becomes of the halves that a node cuts of a map; of a crop they are features."""
    view = ctx.views[0]
    if ctx.state.of_windows or not is_map(view) or view.provenance.windows or axis not in view.spatial:
        return None
    return halves_of(ctx.state.graph, ctx.state.native, ctx.node, axis)


def _computed(ctx: RuleContext, view: Placed, axis: int) -> bool:
    """Whether a Slice takes the same half at every size that is looked at, by bounds that are computed of it."""
    shapes = ctx.builder.spec(view.tensor).shapes or ()
    bounds = [ctx.builder.spec(tensor).values or () for tensor in ctx.tensors()[1:3]]
    if not ctx.follows_size(2) or any(len(values) != len(shapes) for values in bounds):
        return False
    lengths = _lengths(ctx, view.tensor, axis)
    starts, ends = ([int(np.ravel(value)[0]) for value in values] for values in bounds)
    found = [(start, min(end, length)) for start, end, length in zip(starts, ends, lengths, strict=True)]
    middles = [(-(-length // 2), length) for length in lengths]
    return found in ([(0, middle) for middle, _ in middles], middles)
