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
from onnxfc.builder.axis_ops import provenance_of
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.axes import (
    Atom,
    Group,
    Groups,
    axis_of_places,
    channels,
    doubled,
    is_map,
    may_fold,
    merged,
    places_in,
)
from onnxfc.layout.axis_map import Field
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Provenance, SumToOne
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


def contract(ctx: RuleContext, terms: Sequence[str], out: str, *, sums_to_one: bool = False) -> Outcome | None:
    """The node as a contraction, one letter per axis (as in Einsum); None where it is none of equal axes.

    ``sums_to_one``: it is a mean weighted by its own Softmax, which does not grow with the image.
    """
    operands = [_operand(ctx, position) for position in range(len(terms))]
    found = [operand for operand in operands if operand is not None]
    alone = sum(operand.moving for operand in found) < 2 and not any(is_folded(v) for v in ctx.views)
    if len(found) < len(operands) or alone:
        return None
    return _contracted(ctx, found, terms, out, sums_to_one)


@rule(
    "Attention",
    on=PLACED,
    attributes=(
        *("is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap"),
        "softmax_precision",
    ),
)
def attention(ctx: RuleContext) -> Outcome | None:
    """softmax(Q K^T) V lies as Q does, over (N, heads, L, C) or (N, L, C): its weights sum to 1 over all places.

    https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    spare = any(ctx.has_input(position) for position in range(3, len(ctx.node.input)))
    used = any(ctx.output_used(position) for position in range(1, len(ctx.node.output)))
    if spare or used or ctx.attrs.get("is_causal", 0):
        return unsupported.attention(ctx)
    stack = "nh" if len(ctx.shape_in()) == 4 else "n"
    terms = [f"{stack}qc", f"{stack}kc", f"{stack}kv"]
    channels = [_operand(ctx, position) for position in range(3)]
    places = any(o is None or any(a.kind == "space" for a in o.groups[-1]) for o in channels)
    return (None if places else contract(ctx, terms, f"{stack}qv", sums_to_one=True)) or unsupported.attention(ctx)


def matmul(ctx: RuleContext) -> Outcome | None:
    """MatMul in letters: matrices in the last two axes, broadcast over all others."""
    ranks = [len(ctx.shape_in(position)) for position in (0, 1)]
    if min(ranks) < 2:
        return None
    stack = string.ascii_letters[3 : 3 + max(ranks) - 2]
    ahead = [stack[len(stack) - (rank - 2) :] for rank in ranks]
    return contract(ctx, [f"{ahead[0]}ab", f"{ahead[1]}bc"], f"{stack}ac")


def _operand(ctx: RuleContext, position: int) -> _Operand | None:
    view, shape = ctx.views[position], ctx.shape_in(position)
    if isinstance(view, Placed) and not view.is_strip and not view.provenance.windows:
        return _Operand(view, view.groups, view.sides)
    if isinstance(view, Context):
        batch = of_batch(ctx, view)
        return None if batch is None else _Operand(view, batch)
    if isinstance(view, Fixed) and not ctx.follows_size(position):
        return _Operand(view, tuple(channels(length) for length in shape))
    return None


def of_batch(ctx: RuleContext, view: Context) -> Groups | None:
    """The axes of context, whose first is the batch; None where it is not."""
    shapes = ctx.builder.spec(view.tensor).shapes or ()
    batches = [shape[0] for shape in ctx.state.image_shapes]
    if not shapes or [shape[:1] for shape in shapes] != [(batch,) for batch in batches]:
        return None
    return ((Atom("batch", batches[0]),), *(channels(length) for length in shapes[0][1:]))


def _contracted(
    ctx: RuleContext, operands: Sequence[_Operand], terms: Sequence[str], out: str, sums_to_one: bool
) -> Outcome | None:
    letters = _letters(operands, terms)
    if letters is None or len(set(out)) < len(out) or not _keeps_batch(operands, terms, letters, out):
        return None
    sides = _sides(operands, letters, out)
    if sides is None:
        return None
    groups, found = sides
    provenances = _provenances(ctx, operands, terms, letters, out, found)
    if provenances is None:
        return ctx.refuse("grids-differ", "relates maps of different stride place by place")
    summed = bool(places_in([group for letter, (_, group) in letters.items() if letter not in out]))
    relates = summed or doubled(groups)
    places = {atom.place for atom in places_in(groups)}
    if (places and places != set(range(ctx.state.rank))) or (ctx.per_window and relates):
        return None
    growing = [] if sums_to_one else _growing(ctx, operands, terms, letters, out)
    if growing and any(place < 0 for _, place in _shares_of(operands)):
        return changed_shares(ctx)
    now = [Side(side.like, provenance) for side, provenance in zip(found, provenances, strict=True)]
    made = _made(ctx, operands, groups, now)
    if made is None:
        return None
    _write(ctx, growing)
    looks = relates or any(isinstance(operand.view, Context) for operand in operands)
    return [_looking(ctx, made) if looks else made]


def _shares_of(operands: Sequence[_Operand]) -> frozenset[SumToOne]:
    """All that the operands hold of parts of a whole."""
    sides = [side.provenance.sums_to_one for operand in operands for side in operand.sides]
    return frozenset[SumToOne]().union(*sides)


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
    strides = [[field.stride for field in side.provenance.fields] for side in (one, two)]
    return strides[0] == strides[1]


def _provenances(
    ctx: RuleContext,
    operands: Sequence[_Operand],
    terms: Sequence[str],
    letters: dict[str, tuple[int, Group]],
    out: str,
    found: Sequence[Side],
) -> list[Provenance] | None:
    """What an element reads on each side, blamed on all operands; None where equal places are of different stride."""
    joined: list[tuple[Side, Side]] = []
    for operand, term in zip(operands, terms, strict=True):
        for letter, group in zip(term, operand.groups, strict=True):
            first, other = letters[letter]
            pairs = [(a, b) for a, b in zip(group, other, strict=False) if a.kind == "space" == b.kind]
            for own, known in pairs:
                mine = operand.sides[own.side].provenance.fields[own.place]
                theirs = operands[first].sides[known.side].provenance.fields[known.place]
                if mine.stride != theirs.stride:
                    return None
                if letter in out:
                    joined.append((operands[first].sides[known.side], operand.sides[own.side]))
    provenances = [side.provenance for operand in operands for side in operand.sides]
    provenances += [operand.view.provenance for operand in operands if isinstance(operand.view, Context)]
    blames = Gathered.joined(provenance.blames for provenance in provenances)
    return [
        replace(side.provenance, blames=blames | side.provenance.blames, sums_to_one=_sums_to_one(side, joined))
        for side in found
    ]


def _sums_to_one(side: Side, joined: Sequence[tuple[Side, Side]]) -> frozenset[SumToOne]:
    """Those of all operands that have the same places."""
    return side.provenance.sums_to_one.union(*(other.provenance.sums_to_one for own, other in joined if own is side))


def _growing(
    ctx: RuleContext,
    operands: Sequence[_Operand],
    terms: Sequence[str],
    letters: dict[str, tuple[int, Group]],
    out: str,
) -> list[tuple[Side, Atom]]:
    """The places over which this is a sum that grows with the image, as no operand sums to one along them."""
    found = []
    for letter, (first, group) in letters.items():
        for at, atom in enumerate(group):
            if letter in out or atom.kind != "space":
                continue
            held = [
                (operand.sides[own.side].provenance, own.place)
                for operand, term in zip(operands, terms, strict=True)
                for own in (operand.groups[term.index(letter)] if letter in term else ())[at : at + 1]
                if own.kind == "space"
            ]
            if not any(place == share for provenance, place in held for _, share in provenance.sums_to_one):
                found.append((operands[first].sides[atom.side], atom))
    return [] if not found or divided(ctx, _counts(ctx, found)) else found


def _counts(ctx: RuleContext, growing: Sequence[tuple[Side, Atom]]) -> Growth:
    """How many places are summed up together, at one probe after another but for the native size."""
    each = [counted(ctx, side.like.tensor, [side.like.where[atom.place]]) for side, atom in growing]
    return tuple(math.prod(lengths) for lengths in zip(*each, strict=True))


def _made(ctx: RuleContext, operands: Sequence[_Operand], groups: Groups, sides: Sequence[Side]) -> View | None:
    """The result's view; None where an axis mixes what must be apart."""
    name = ctx.node.output[0]
    folded = [operand.view for operand in operands if is_folded(operand.view)]
    if not sides:
        return _without_places(ctx, operands, groups)
    first, other = sides[0], sides[1] if len(sides) > 1 else None
    if is_map(groups):
        axes = axis_of_places(groups)
        return ctx.map_of(name, provenance_of(ctx, first.provenance, groups), [axes[place] for place in sorted(axes)])
    if not may_fold(groups):
        return None
    bounds = frozenset().union(*(view.bounds for view in folded))
    return Placed(name, name, groups, first.provenance, first.like, bounds=bounds, other=other)


def _without_places(ctx: RuleContext, operands: Sequence[_Operand], groups: Groups) -> View:
    """Context; or folded still, where the batch is not an axis of its own."""
    provenances = [side.provenance for operand in operands for side in operand.sides]
    provenances += [operand.view.provenance for operand in operands if isinstance(operand.view, Context)]
    folded = [operand.view for operand in operands if is_folded(operand.view)]
    blames = Gathered.joined(provenance.blames for provenance in provenances)
    pools = Gathered.joined(
        o.view.provenance.pools for o in operands if isinstance(o.view, Context)
    )  # none of the trunk's
    name = ctx.node.output[0]
    provenance = Provenance((Field(),) * ctx.state.rank, blames, pools=pools)
    if [atom.kind for atom in groups[0]] == ["batch"]:
        return Context(name, provenance)
    sides = [side for operand in operands for side in operand.sides]
    bounds = frozenset().union(*(view.bounds for view in folded))
    provenance = replace(sides[0].provenance, blames=blames)
    return Placed(name, name, groups, provenance, sides[0].like, bounds=bounds)


def _looking(ctx: RuleContext, made: View) -> View:
    """Marked as what looks at the whole image, by this node."""
    assert isinstance(made, Context | Placed)
    provenance = made.provenance.blamed(ctx.blame(Cause.CONTEXT))
    if isinstance(made, Context):
        provenance = provenance.behind(ctx.name)
    return replace(made, provenance=provenance)


def _write(ctx: RuleContext, growing: Sequence[tuple[Side, Atom]]) -> None:
    """The node; a sum that grows with the image at the scale of the native size."""
    if not growing:
        ctx.keep()
        return
    made = ctx.keep_renamed(ctx.tensors())[0]
    factors = [(side.like.tensor, side.like.spatial[atom.place], atom.length) for side, atom in growing]
    ctx.builder.emit("Mul", [made, of_native_count(ctx, factors, made)], ctx.node.output[0])
