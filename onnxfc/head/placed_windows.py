"""A placed tensor as the native window that a head reads of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.axis_ops import provenance_of, target
from onnxfc.builder.rule_context import ATTENTION, LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.graph.index import label
from onnxfc.graph.op_kinds import READABLE, RECURRENT
from onnxfc.head.index_movement import move
from onnxfc.head.windows import window_of_map
from onnxfc.layout.axes import BATCH_OF_ONE, Atom, Groups, kinds, lengths, places_in
from onnxfc.layout.views import Index, Placed, Source, View, Window
from onnxfc.shapes.spec import Shape


def windowed(ctx: RuleContext) -> Outcome:
    """The node's effect on data alone, on windows of what it reads."""
    views: list[View | None] = []
    for view in ctx.views:
        found = window_of(ctx, view) if isinstance(view, Placed) else view
        if isinstance(found, Refusal):
            return found
        views.append(found)
    return move(ctx, views)


def of_sequence(ctx: RuleContext) -> Refusal | None:
    """A step of a recurrent layer has read others of the image, so that its place there is no window's."""
    nodes = {item.node for view in ctx.views if isinstance(view, Placed) for item in view.provenance.blames}
    if any(label(node) in nodes for node in ctx.state.graph.live if node.op_type in RECURRENT):
        return ctx.refuse("recurrent", "picks steps of a recurrent layer at their native places", _LAST)
    return None


def as_piece(ctx: RuleContext) -> Outcome:
    """A piece of the native map, as features of a window."""
    refused = of_sequence(ctx)
    if refused is not None:
        return refused
    outcome = windowed(ctx)
    if isinstance(outcome, Refusal):
        return outcome
    return [_of_piece(ctx, view) if isinstance(view, Window) else view for view in outcome]


def beside_map(ctx: RuleContext, does: str) -> Refusal | None:
    """A piece of the native map meets a map, which grows."""
    pools = {pool for view in ctx.views if isinstance(view, Window) for pool in view.provenance.pools}
    if not pools & ctx.state.roles.pieces:
        return None
    return ctx.refuse("cut-out", f"{does} a piece of the native map with what grows as the map does", LEAVE)


_LAST = "write the last step as -1, or take the last state (h_n), which is the same of a layer that reads forward"


def _of_piece(ctx: RuleContext, view: Window) -> Window:
    return replace(view, provenance=view.provenance.behind(ctx.name))


def window_of(ctx: RuleContext, view: Placed) -> Window | Refusal:
    """A placed tensor as a native window (N, *native shape)."""
    if ctx.weighs_image(view):
        return ctx.weighed_over_image()
    if view.is_map:
        return window_of_map(ctx, view)
    if view.is_strip:
        return pooled_in_part(ctx)
    if 0 in ctx.builder.spec(view.tensor).native:
        return ctx.refuse("size-locked", "reads what is empty at the native size", LEAVE)
    if view.is_list:
        return ctx.refuse("size-locked", "reads a list of places, of which the native size has so many", LEAVE)
    return _dequantised(ctx, view) or _moved(ctx, view) or _taken_apart(ctx, view)


def pooled_in_part(ctx: RuleContext) -> Refusal:
    """A strip has no windows."""
    return ctx.refuse("partial-pool", "reads the native places of what was pooled over one axis of the image")


def _dequantised(ctx: RuleContext, view: Placed) -> Window | Refusal | None:
    """The window of the integers, as what they stand for; None where it was not made of integers."""
    node = ctx.state.graph.producers.get(view.original)
    integers = ctx.state.views[node.input[0]] if node is not None and node.op_type == "DequantizeLinear" else None
    if node is None or not isinstance(integers, Placed) or ctx.native(node.input[0]).dtype not in READABLE:
        return None
    window = window_of(ctx, integers)
    if isinstance(window, Refusal):
        return window
    own = RuleContext(ctx.state, node)
    sources = [
        replace(item, tensor=own.keep_renamed([item.tensor, *own.tensors_from(1)])[0]) for item in window.sources
    ]
    return replace(window, sources=tuple(sources))


def _moved(ctx: RuleContext, view: Placed) -> Window | Refusal | None:
    """The window of what it was moved from, moved as the data was; None where more was done to it."""
    if view.moved_by is None:
        return None
    before = RuleContext(ctx.state, view.moved_by)
    first = before.views[0]
    if not isinstance(first, Placed) or not (first.is_map or first.moved_by is not None):
        return None
    window = window_of(before, first)
    if not isinstance(window, Window) or window.batch_axis is None:
        return window if isinstance(window, Refusal) else None
    outcome = move(before, [window, *before.views[1:]])
    if isinstance(outcome, Refusal):
        return outcome
    return outcome[0] if isinstance(outcome[0], Window) else None


def _taken_apart(ctx: RuleContext, view: Placed) -> Window | Refusal:
    """Every atom on an axis of its own, then channels first."""
    atoms = _with_batch(view.groups)
    if sorted(atom.place for atom in places_in(view.groups)) != list(range(len(view.provenance.fields))):
        return ctx.refuse("attention", ATTENTION, LEAVE)
    batch = 0 if kinds(view.groups[0]) == ["batch"] else None
    if batch is None and not ctx.may_swallow:
        return ctx.refuse("mixes-batch", "takes places or channels for images of the batch")
    order = sorted(range(len(atoms)), key=lambda k: (_ORDER[atoms[k].kind], atoms[k].place))
    apart = ops.reshape(ctx.builder, view.tensor, target(ctx.builder, view, tuple((a,) for a in atoms)))
    tensor = ops.transpose(ctx.builder, apart, order)
    extent = tuple(atoms[k].length for k in order if atoms[k].kind == "space")
    windows = _own_bound(ctx, view, tensor, order, extent) if _looked(view) else _in_blocks(view)
    if not windows:
        return ctx.refuse("attention", ATTENTION, LEAVE)
    channels = math.prod(atom.length for atom in atoms if atom.kind == "channel")
    first = len(atoms) - len(extent)
    if first != 2:
        sizes = ops.dims(ctx.builder, tensor, first, len(atoms))
        tensor = ops.reshape(ctx.builder, tensor, [0, channels, sizes])
    index = _elements([atoms[k] for k in order], order).reshape(
        lengths(view.groups)[1:] if batch == 0 else _of_one_image(view.groups)
    )
    trunk = provenance_of(ctx, view.provenance, tuple((atom,) for atom in places_in(view.groups)))
    fields = tuple(item.through(length) for item, length in zip(trunk.fields, extent, strict=True))
    provenance = replace(trunk, fields=fields, windows=windows)
    source = Source(tensor, channels, extent, (1,) * len(extent))
    return Window((source,), index, provenance, trunk=trunk, batch_axis=batch)


def _in_blocks(view: Placed) -> frozenset[Boundary]:
    """Where the head begins: as far apart as its places, each of which may be a block of those of the map."""
    atoms = sorted(places_in(view.groups), key=lambda atom: atom.place)
    return frozenset(replace(item, step=tuple(atom.factor.denominator for atom in atoms)) for item in view.bounds)


def _with_batch(groups: Groups) -> list[Atom]:
    """All atoms, with a batch of one image ahead where there is none."""
    atoms = [atom for group in groups for atom in group]
    return atoms if any(atom.kind == "batch" for atom in atoms) else [*BATCH_OF_ONE, *atoms]


def _elements(turned: Sequence[Atom], order: Sequence[int]) -> Index:
    """The numbers of a window's elements, in the order of the atoms before they were turned."""
    named = [atom.length for atom in turned if atom.kind != "batch"]
    return np.arange(math.prod(named), dtype=np.int64).reshape([1, *named]).transpose(np.argsort(order))


def _looked(view: Placed) -> bool:
    """Whether it is made of more of the image than its places in the maps that it comes from: these begin no head."""
    before = set(view.like.provenance.blames)
    return any(item.cause is Cause.CONTEXT and item not in before for item in view.provenance.blames)


def _own_bound(ctx: RuleContext, view: Placed, tensor: str, order: Sequence[int], extent: Shape) -> frozenset[Boundary]:
    """The tensor itself as where the head begins; none where the proof could not tell its axes apart."""
    at = iter(range(len(order)))
    folded = [tuple(order.index(next(at)) for _ in group) for group in view.groups]
    spatial = tuple(range(len(order) - len(extent), len(order)))
    if view.original in ctx.state.graph.outputs or any(sum(a not in spatial for a in axes) > 1 for axes in folded):
        return frozenset()
    return frozenset({Boundary(view.original, tensor, spatial, extent, (1,) * len(extent), tuple(folded))})


_ORDER = {"batch": 0, "channel": 1, "space": 2}


def _of_one_image(groups: Groups) -> Shape:
    """Native shape of one image, its batch left out of every axis."""
    return lengths(tuple(tuple(replace(a, length=1) if a.kind == "batch" else a for a in group) for group in groups))
