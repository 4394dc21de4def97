"""Halves of a map, as chunk cuts it in two, that are worked on one by one and joined again.

The file says that they are halves, by a Split in two or by bounds that it computes: of an odd number of places the
first has one more. Each lies as the map does, but for where the second begins, which is context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxfc.builder.rule_context import LEAVE, Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.graph import op_kinds
from onnxfc.graph.index import attributes, inputs_of
from onnxfc.graph.op_kinds import CUTTING
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed, is_map


@dataclass(frozen=True)
class _Halves:
    """Both halves of the map ``root``, and the result of the Concat that joins what is made of them."""

    root: str
    cut: tuple[str, str]
    joined: str


def half(ctx: RuleContext, axis: int) -> Outcome | None:
    """A Split or Slice that makes halves along an axis of the image, which are joined again; None for others."""
    view = ctx.placed_in()
    if _halves(ctx, axis) is None or (ctx.op_type == "Slice" and not _computed(ctx, view, axis)):
        return None
    ctx.keep()
    return ctx.placed(view, view.provenance.blamed(ctx.blame(Cause.CONTEXT)), view.where)


def halves_joined(ctx: RuleContext, axis: int) -> Outcome | None:
    """A Concat of both halves has the map's own places again; as they were, it is that map. None for others."""
    cutters = (RuleContext(ctx.state, node) for node in _ahead(ctx) if node.op_type in CUTTING)
    pairs = (_halves(own, axis) for own in cutters)
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


def _ahead(ctx: RuleContext) -> Iterator[onnx.NodeProto]:
    """The nodes that the node's inputs are made of, the nearest first."""
    names = inputs_of(ctx.node)
    for name in names:
        node = ctx.state.graph.producers.get(name)
        if node is not None:
            yield node
            names += [item for item in inputs_of(node) if item not in names]


def _halves(ctx: RuleContext, axis: int) -> _Halves | None:
    """What becomes of the halves that a node cuts, where it does, and each comes to the same Concat apart."""
    view, root = ctx.views[0], str(ctx.node.input[0])
    if ctx.state.of_windows or not is_map(view) or view.provenance.windows or axis not in view.spatial:
        return None
    cutters = [node for node in ctx.state.graph.readers[root] if node.op_type == ctx.op_type]
    parts = [(name, _number(ctx, node, axis, name)) for node in cutters for name in node.output]
    halves = sorted((number, name) for name, number in parts if number is not None)
    if len(parts) != 2 or [number for number, _ in halves] != [0, 1]:
        return None
    (_, first), (_, second) = halves
    joined = _met(ctx, first, second, axis)
    return None if joined is None else _Halves(root, (first, second), joined)


def _met(ctx: RuleContext, first: str, second: str, axis: int) -> str | None:
    """The result of the Concat that two halves come to, each apart from the other, in their order."""
    (before, ends), (behind, others) = (_reached(ctx, name, axis) for name in (first, second))
    if ends != others or len(ends) != 1 or before & behind:
        return None
    joined = min(ends)
    inputs = ctx.state.graph.producers[joined].input
    return joined if len(inputs) == 2 and inputs[0] in before and inputs[1] in behind else None


def _number(ctx: RuleContext, node: onnx.NodeProto, axis: int, name: str) -> int | None:
    """Whether an output is natively the first half (0) or the second (1) of the map; None where it is none."""
    shape = ctx.shape_in()
    if node.op_type == "Split":
        told = attributes(node)
        in_two = told.get("num_outputs") == 2 and len(node.input) == 1 and told.get("axis", 0) % len(shape) == axis
        return list(node.output).index(name) if in_two else None
    given = [values[0].tolist() if (values := ctx.native(item).values) else None for item in node.input[1:]]
    cuts = op_kinds.cuts_of(attributes(node), given, len(shape)) if None not in given else None
    if cuts is None or set(cuts) != {axis} or cuts[axis][2] != 1:
        return None
    (start, end, _), length = cuts[axis], shape[axis]
    middle = -(-length // 2)
    return {(0, middle): 0, (middle, length): 1}.get((start, min(end, length)))


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


def _reached(ctx: RuleContext, half: str, axis: int) -> tuple[set[str], set[str]]:
    """What is made of a half, and the Concats along the axis that end it; no end where something is an output, or has
    another length."""
    graph, names, ends = ctx.state.graph, [half], set[str]()
    own = ctx.native(half).native
    for item in names:
        for node in graph.readers.get(item, ()):
            made = ctx.native(node.output[0])
            shape = made.native if made.shapes is not None else ()
            if node.op_type == "Concat" and attributes(node)["axis"] % len(own) == axis:
                ends.add(str(node.output[0]))
            elif len(shape) != len(own) or shape[axis] != own[axis] or len(node.output) > 1:
                return set(names), set()
            elif node.output[0] not in names:
                names.append(str(node.output[0]))
    return set(names), set() if set(names) & set(graph.outputs) else ends
