"""Operators that never have a rule, and why; a product of the image with itself: attention, or a table ahead of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import onnx

from onnxfc.builder.rule_context import ATTENTION, LEAVE, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes, label
from onnxfc.graph.op_kinds import (
    BROADCAST,
    COVERING,
    CUTTING,
    GLOBAL_POOLS,
    PRODUCTS,
    QUANTISED,
    RECURRENT,
    REDUCTIONS,
    REORDERING,
    SOFTMAX,
    UNARY,
)
from onnxfc.layout.axes import pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Lifted, Placed, Window, is_map


def _reasons(code: str, why: str, advice: str, *ops: str) -> dict[str, tuple[str, str, str]]:
    return dict.fromkeys(ops, (code, why, advice))


_STATIC = "quantise it with fixed scales, or rewrite the float model, then quantise it"
WHY = {
    **_reasons("recurrent", "reads its input as one sequence", LEAVE, *RECURRENT),
    **_reasons("attention", ATTENTION, LEAVE, "Attention", "MultiHeadAttention"),
    **_reasons(
        *("data-dependent", "has an output whose shape depends on the values", "leave out the post-processing"),
        *("Compress", "NonMaxSuppression", "NonZero", "Unique"),
    ),
    **_reasons("quantised", "computes with integers in a form that is not supported here", _STATIC, *QUANTISED),
}


def attention(ctx: RuleContext) -> Refusal:
    """The product relates places of the native size; a table of theirs or a class token ahead of it is the reason."""
    if [getattr(view, "batch_axis", None) for view in ctx.views] == [0, 1] and len(ctx.shape_out()) == 2:
        return ctx.refuse("mixes-batch", "relates the images of the batch to each other", LEAVE)
    found = table_weighed(ctx) or ctx.refuse("attention", ATTENTION, LEAVE)
    for node in _ahead(ctx):
        table = next((name for name in node.input if node.op_type in BROADCAST and _is_table(ctx, name)), None)
        if table is not None:
            to = "to the weights of attention" if _onto_weights(ctx, node) else "to places that attention relates"
            why = f"{node.op_type} adds {table} {to}, a table with a value for every native place"
            return replace(found, code="position-table", node=label(node), reason=why, advice=ctx.without_values)
        if node.op_type == "Concat" and _adds_token(ctx, node):
            return ctx.refuse("attention", f"weighs places beside a class token, which {label(node)} {_TOKEN}", LEAVE)
    return found


_TRANSFORMER = (
    "warps a map by what is made of all places of the native size (a spatial transformer): each crop has its own warp"
)
_TOKEN = "lays before them as if it were a place: such rows are known for the native size only"


def table_weighed(ctx: RuleContext) -> Refusal | None:
    """Coordinates, say, of which attention takes the mean: matching, as optical flow has it."""
    table = next((name for name in ctx.node.input if _is_table(ctx, name)), None)
    relates = any(isinstance(view, Placed) and view.other for view in ctx.views)
    if ctx.op_type not in PRODUCTS or table is None or not relates:
        return None
    return ctx.no_values(f"weighs {table}, which has a row for every place of the native size, by attention")


def _onto_weights(ctx: RuleContext, node: onnx.NodeProto) -> bool:
    """Whether a Softmax makes weights of what a node makes, element by element, before it is multiplied."""
    names = list(node.output)
    for name in names:
        for reader in ctx.state.graph.readers.get(name, ()):
            if reader.op_type in SOFTMAX:
                return True
            if reader.op_type in {*BROADCAST, *REORDERING, *UNARY}:
                names += [item for item in reader.output if item not in names]
    return False


def _ahead(ctx: RuleContext) -> Iterator[onnx.NodeProto]:
    """The nodes ahead that were not understood as what is placed, the nearest first."""
    graph, seen = ctx.state.graph, {ctx.node.output[0]}
    queue = deque(ctx.node.input)
    while queue:
        name = queue.popleft()
        node = graph.producers.get(name)
        view = ctx.state.views.get(name)
        if name in seen or node is None or isinstance(view, Fixed | Context | Placed):
            continue  # what came of a table there was understood
        seen.add(name)
        yield node
        queue.extend(item for item in node.input if item)


def _adds_token(ctx: RuleContext, node: onnx.NodeProto) -> bool:
    """Whether something that is no place of the image is laid beside places."""
    views = [ctx.state.views.get(name) for name in node.input]
    axis = int(attributes(node)["axis"])
    rows = any(isinstance(view, Placed) and not pure(view.groups[axis]) for view in views)
    return rows and any(isinstance(view, Fixed | Context) for view in views)


def _is_table(ctx: RuleContext, name: str) -> bool:
    if not isinstance(ctx.state.views.get(name), Fixed) or ctx.native(name).shapes is None:
        return False
    return sum(length > 1 for length in ctx.native(name).native) > 1


def sums_places(ctx: RuleContext, provenance: Provenance, summed: Sequence[int], left: Sequence[int]) -> bool:
    """Whether a product of features sums over all places of a window and leaves none: as was seen of the original, or
    where its lengths tell. Beside places on free axes there may be as many more, on axes that stay."""
    if ctx.name in ctx.state.roles.placeless:
        return True
    places = max((math.prod(item.extent) for item in provenance.windows), default=1)
    some = places > 1 and ctx.state.rank < ctx.state.axes[1]
    held = [any(n == places or (some and n % places == 0) for n in _runs(item)) for item in (summed, left)]
    return provenance.places and held == [True, False]


def _runs(lengths: Sequence[int]) -> set[int]:
    """How many elements lie on neighbouring axes together."""
    ends = range(1, len(lengths) + 1)
    return {math.prod(lengths[first:end]) for end in ends for first in range(end)}


def no_rule(ctx: RuleContext) -> Refusal:
    """Why there is none: by what the operator is, or by what it works on."""
    if ctx.op_type in WHY:
        code, why, advice = WHY[ctx.op_type]
        if ctx.op_type == "NonMaxSuppression":
            advice = f"end the model before it: {ctx.state.ending(ctx.node.input[:2])}"
        if code == "attention":
            return attention(ctx)
        return ctx.refuse(code, why, advice)
    if ctx.op_type == "AffineGrid" or (ctx.op_type == "GridSample" and is_map(ctx.views[0])):
        return ctx.refuse("head-rejoins-trunk", _TRANSFORMER, "run the original on crops")
    lifted = [view for view in ctx.views if isinstance(view, Lifted)]
    windows = [view for view in lifted if isinstance(view, Window)]
    if any(_half_pooled(view, ctx.state.roles.pieces) for view in windows):
        return ctx.refuse(
            "partial-pool", "works on what a pool of one axis left, which does not meet its map again", LEAVE
        )
    if windows:
        return _on_a_piece(ctx, lifted)
    return ctx.refuse("unsupported-operator", "is not supported here", LEAVE)


def _on_a_piece(ctx: RuleContext, lifted: Sequence[Lifted]) -> Refusal:
    """That the node works on a part of the native map, or on what was made of all of it."""
    image = len(ctx.shape_in()) == 2 + ctx.state.rank
    advice = f"{LEAVE}, or name the piece: --input {ctx.node.input[0]}" if image else LEAVE
    cuts, producers = ctx.state.roles.pieces, ctx.state.graph.producers
    behind = {pool for view in lifted for pool in view.provenance.pools}
    pieces = sorted(pool for pool in behind if pool in cuts or producers[pool].op_type in CUTTING)
    if pieces:
        why = f"cuts a piece out of the map of the native size, and {ctx.op_type} works on it"
        return Refusal("cut-out", label(producers[pieces[0]]), why, advice)
    pooled = sorted(pool for pool in behind if producers[pool].op_type in {*REDUCTIONS, *GLOBAL_POOLS, *COVERING})
    if pooled:
        why = f"takes together places of each window, and {ctx.op_type} works on what it leaves as on a map"
        return Refusal("partial-pool", label(producers[pooled[0]]), f"{producers[pooled[0]].op_type} {why}", LEAVE)
    rank = max(len(source.extent) for view in lifted if isinstance(view, Window) for source in view.sources)
    if len(ctx.shape_in()) < 2 + rank:
        why = "works along the places of the native map in one row, past the ends of its rows"
        return ctx.refuse("cut-out", why, advice)
    return ctx.refuse("cut-out", "works on a piece of the map that was cut out or flattened before", advice)


def _half_pooled(view: Window, pieces: frozenset[str]) -> bool:
    return any(pool not in pieces for pool in view.provenance.pools) and any(
        len({n > 1 for n in source.extent}) > 1 for source in view.sources
    )
