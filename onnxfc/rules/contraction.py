"""Products of what was computed from the image with itself: attention, Gram matrices, context by weighted sums.

A product is a contraction of axes, each made of atoms (the batch, channels, places). What is summed over places looks
at the whole image: it is context. Where that leaves no place it is a vector of the whole image, in the trunk; if it
never meets the trunk again, it was the head's, and each window has its own.

Sources: X. Wang et al., "Non-local Neural Networks", CVPR 2018; A. Vaswani et al., "Attention Is All You Need", 2017.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxfc.analysis.counts import Growth
from onnxfc.analysis.normalised_sums import changed_shares, counted, divided, of_native_count
from onnxfc.builder.axis_ops import trace_of
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.layout.axes import Atom, Group, Groups, axis_of_places, channels, doubled, is_map, may_fold, merged
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Share, Trace
from onnxfc.layout.views import Context, Fixed, Placed, Side, View, is_folded
from onnxfc.rules import unsupported
from onnxfc.rules.registry import PLACED, rule


@dataclass(frozen=True)
class _Operand:
    """An input, its axes in atoms, and where its places come from (nowhere: context and constants)."""

    view: View
    groups: Groups
    sides: tuple[Side, ...] = ()

    @property
    def moving(self) -> bool:
        return not isinstance(self.view, Fixed)


def contract(site: Site, terms: Sequence[str], out: str, *, shares: bool = False) -> Outcome | None:
    """The node as a contraction, one letter per axis (as in Einsum); None where it is none of equal axes.

    ``shares``: it is a mean weighted by its own Softmax, which does not grow with the image.
    """
    operands = [_operand(site, position) for position in range(len(terms))]
    found = [operand for operand in operands if operand is not None]
    alone = sum(operand.moving for operand in found) < 2 and not any(is_folded(v) for v in site.views)
    if len(found) < len(operands) or alone:
        return None
    return _contracted(site, found, terms, out, shares)


@rule(
    "Attention",
    on=PLACED,
    attributes=(
        *("is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap"),
        "softmax_precision",
    ),
)
def attention(site: Site) -> Outcome | None:
    """softmax(Q K^T) V over (N, heads, L, C) or (N, L, C). https://onnx.ai/onnx/operators/onnx__Attention.html"""
    spare = any(site.has_input(position) for position in range(3, len(site.node.input)))
    used = any(site.output_used(position) for position in range(1, len(site.node.output)))
    if spare or used or site.attrs.get("is_causal", 0):
        return unsupported.attention(site)
    stack = "nh" if len(site.shape_in()) == 4 else "n"
    terms = [f"{stack}qc", f"{stack}kc", f"{stack}kv"]
    channels = [_operand(site, position) for position in range(3)]
    places = any(o is None or any(a.kind == "space" for a in o.groups[-1]) for o in channels)
    return (None if places else contract(site, terms, f"{stack}qv", shares=True)) or unsupported.attention(site)


def matmul(site: Site) -> Outcome | None:
    """MatMul in letters: matrices in the last two axes, broadcast over all others."""
    ranks = [len(site.shape_in(position)) for position in (0, 1)]
    if min(ranks) < 2:
        return None
    stack = string.ascii_letters[3 : 3 + max(ranks) - 2]
    ahead = [stack[len(stack) - (rank - 2) :] for rank in ranks]
    return contract(site, [f"{ahead[0]}ab", f"{ahead[1]}bc"], f"{stack}ac")


def _operand(site: Site, position: int) -> _Operand | None:
    view, shape = site.views[position], site.shape_in(position)
    if isinstance(view, Placed) and not view.is_strip and not view.trace.windows:
        return _Operand(view, view.groups, view.sides)
    if isinstance(view, Context):
        batch = of_batch(site, view)
        return None if batch is None else _Operand(view, batch)
    if isinstance(view, Fixed) and not site.follows_size(position):
        return _Operand(view, tuple(channels(length) for length in shape))
    return None


def of_batch(site: Site, view: Context) -> Groups | None:
    """The axes of context, whose first is the batch; None where it is not."""
    shapes = site.draft.spec(view.tensor).shapes or ()
    batches = [shape[0] for shape in site.state.image_shapes]
    if not shapes or [shape[:1] for shape in shapes] != [(batch,) for batch in batches]:
        return None
    return ((Atom("batch", batches[0]),), *(channels(length) for length in shapes[0][1:]))


def _contracted(
    site: Site, operands: Sequence[_Operand], terms: Sequence[str], out: str, shares: bool
) -> Outcome | None:
    letters = _letters(operands, terms)
    if letters is None or len(set(out)) < len(out) or not _keeps_batch(operands, terms, letters, out):
        return None
    over = [atom for letter, (_, group) in letters.items() if letter not in out for atom in group]
    summed = any(atom.kind == "space" for atom in over)
    sides = _sides(operands, letters, out)
    if sides is None:
        return None
    groups, found = sides
    places = [atom for group in groups for atom in group if atom.kind == "space"]
    traces = _traces(site, operands, terms, letters, out, found)
    if traces is None:
        return site.refuse("grids-differ", "relates maps of different stride place by place")
    if places and {atom.place for atom in places} != set(range(site.state.rank)):
        return None
    if site.per_window and (summed or doubled(groups)):
        return None
    growing = [] if shares else _growing(site, operands, terms, letters, out)
    inside = [side.trace for operand in operands for side in operand.sides]
    if growing and any(place < 0 for trace in inside for _, place in trace.shares):
        return changed_shares(site)
    made = _made(site, operands, groups, [Side(side.like, trace) for side, trace in zip(found, traces, strict=True)])
    if made is None:
        return None
    _write(site, growing)
    looks = summed or doubled(groups) or any(isinstance(operand.view, Context) for operand in operands)
    return [_looking(site, made) if looks else made]


def _letters(operands: Sequence[_Operand], terms: Sequence[str]) -> dict[str, tuple[int, Group]] | None:
    """For each letter its group, and the first operand that has it; None where axes under one letter differ."""
    found: dict[str, tuple[int, Group]] = {}
    for place, (operand, term) in enumerate(zip(operands, terms, strict=True)):
        if len(set(term)) < len(term) or len(term) != len(operand.groups):
            return None
        for letter, group in zip(term, operand.groups, strict=True):
            if not found.get(letter, (0, ()))[1]:
                found[letter] = (place, group)
            elif group and merged(group) != merged(found[letter][1]):
                return None
    return found


def _keeps_batch(
    operands: Sequence[_Operand], terms: Sequence[str], letters: dict[str, tuple[int, Group]], out: str
) -> bool:
    """Whether each image stays alone: one axis of the result holds the batch, and so does each operand's own."""
    holds = [letter for letter, (_, group) in letters.items() if any(atom.kind == "batch" for atom in group)]
    return (
        len(holds) == 1
        and holds[0] in out
        and all(holds[0] in term for operand, term in zip(operands, terms, strict=True) if operand.moving)
    )


def _sides(
    operands: Sequence[_Operand], letters: dict[str, tuple[int, Group]], out: str
) -> tuple[Groups, list[Side]] | None:
    """The result's axes, and the sides that their places are on, in order; None where there are more than two."""
    order: list[tuple[int, int]] = []
    groups = []
    for letter in out:
        place, group = letters[letter]
        for atom in group:
            if atom.kind == "space" and (place, atom.side) not in order:
                order.append((place, atom.side))
        groups.append(tuple(replace(a, side=order.index((place, a.side))) if a.kind == "space" else a for a in group))
    found = [operands[place].sides[side] for place, side in order]
    if len(found) == 2 and not doubled(tuple(groups)) and _alike(*found):
        groups = [tuple(replace(atom, side=0) for atom in group) for group in groups]
        found = found[:1]
    return (tuple(groups), found) if len(found) < 3 else None


def _alike(one: Side, two: Side) -> bool:
    """Whether both are places of maps that cover the image alike."""
    strides = [[field.stride for field in side.trace.fields] for side in (one, two)]
    return strides[0] == strides[1]


def _traces(
    site: Site,
    operands: Sequence[_Operand],
    terms: Sequence[str],
    letters: dict[str, tuple[int, Group]],
    out: str,
    found: Sequence[Side],
) -> list[Trace] | None:
    """What an element reads on each side, tainted by all operands; None where equal places are of different stride."""
    joined: list[tuple[Side, Side]] = []
    for operand, term in zip(operands, terms, strict=True):
        for letter, group in zip(term, operand.groups, strict=True):
            first, other = letters[letter]
            pairs = [(a, b) for a, b in zip(group, other, strict=False) if a.kind == "space" == b.kind]
            for own, known in pairs:
                mine = operand.sides[own.side].trace.fields[own.place]
                theirs = operands[first].sides[known.side].trace.fields[known.place]
                if mine.stride != theirs.stride:
                    return None
                if letter in out:
                    joined.append((operands[first].sides[known.side], operand.sides[own.side]))
    traces = [side.trace for operand in operands for side in operand.sides]
    traces += [operand.view.trace for operand in operands if isinstance(operand.view, Context)]
    taints = Gathered.joined(trace.taints for trace in traces)
    return [replace(side.trace, taints=taints | side.trace.taints, shares=_shares(side, joined)) for side in found]


def _shares(side: Side, joined: Sequence[tuple[Side, Side]]) -> frozenset[Share]:
    """Those of all operands that have the same places."""
    return side.trace.shares.union(*(other.trace.shares for own, other in joined if own is side))


def _growing(
    site: Site, operands: Sequence[_Operand], terms: Sequence[str], letters: dict[str, tuple[int, Group]], out: str
) -> list[tuple[Side, Atom]]:
    """The places over which this is a sum that grows with the image, as no operand holds shares along them."""
    found = []
    for letter, (first, group) in letters.items():
        for at, atom in enumerate(group):
            if letter in out or atom.kind != "space":
                continue
            held = [
                (operand.sides[own.side].trace, own.place)
                for operand, term in zip(operands, terms, strict=True)
                for own in (operand.groups[term.index(letter)] if letter in term else ())[at : at + 1]
                if own.kind == "space"
            ]
            if not any(place == share for trace, place in held for _, share in trace.shares):
                found.append((operands[first].sides[atom.side], atom))
    return [] if not found or divided(site, _counts(site, found)) else found


def _counts(site: Site, growing: Sequence[tuple[Side, Atom]]) -> Growth:
    """How many places are summed up together, at one probe after another but for the native size."""
    each = [counted(site, side.like.tensor, [side.like.where[atom.place]]) for side, atom in growing]
    return tuple(math.prod(lengths) for lengths in zip(*each, strict=True))


def _made(site: Site, operands: Sequence[_Operand], groups: Groups, sides: Sequence[Side]) -> View | None:
    """The result's view; None where an axis mixes what must be apart."""
    name = site.node.output[0]
    folded = [operand.view for operand in operands if is_folded(operand.view)]
    if not sides:
        return _without_places(site, operands, groups)
    first, other = sides[0], sides[1] if len(sides) > 1 else None
    if is_map(groups):
        axes = axis_of_places(groups)
        return site.map_of(name, trace_of(site, first.trace, groups), [axes[place] for place in sorted(axes)])
    if not may_fold(groups):
        return None
    bounds = frozenset().union(*(view.bounds for view in folded))
    return Placed(name, name, groups, first.trace, first.like, bounds=bounds, other=other)


def _without_places(site: Site, operands: Sequence[_Operand], groups: Groups) -> View:
    """Context; or folded still, where the batch is not an axis of its own."""
    traces = [side.trace for operand in operands for side in operand.sides]
    traces += [operand.view.trace for operand in operands if isinstance(operand.view, Context)]
    folded = [operand.view for operand in operands if is_folded(operand.view)]
    taints = Gathered.joined(trace.taints for trace in traces)
    pools = frozenset[str]().union(
        *(o.view.trace.pools for o in operands if isinstance(o.view, Context))
    )  # none of the trunk's
    name = site.node.output[0]
    trace = Trace((Field(),) * site.state.rank, taints, pools=pools)
    if [atom.kind for atom in groups[0]] == ["batch"]:
        return Context(name, trace)
    sides = [side for operand in operands for side in operand.sides]
    bounds = frozenset().union(*(view.bounds for view in folded))
    trace = replace(sides[0].trace, taints=taints)
    return Placed(name, name, groups, trace, sides[0].like, bounds=bounds)


def _looking(site: Site, made: View) -> View:
    """Marked as what looks at the whole image, by this node."""
    assert isinstance(made, Context | Placed)
    trace = made.trace.tainted(site.taint("context"))
    if isinstance(made, Context):
        trace = replace(trace, pools=trace.pools | {site.name})
    return replace(made, trace=trace)


def _write(site: Site, growing: Sequence[tuple[Side, Atom]]) -> None:
    """The node; a sum that grows with the image at the scale of the native size."""
    if not growing:
        site.keep()
        return
    made = site.keep_renamed(site.tensors())[0]
    factors = [(side.like.tensor, side.like.spatial[atom.place], atom.length) for side, atom in growing]
    site.draft.emit("Mul", [made, of_native_count(site, factors, made)], site.node.output[0])
