"""Products of what was computed from the image with itself: attention, Gram matrices, context by weighted sums.

A product is a contraction of axes, each made of atoms (the batch, channels, places). What is summed over places looks
at the whole image: it is context. Where that leaves no place it is a vector of the whole image, in the trunk; if it
never meets the trunk again, it was the head's, and each window has its own.

Sources: X. Wang et al., "Non-local Neural Networks", CVPR 2018; A. Vaswani et al., "Attention Is All You Need", 2017.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from onnxfc.analysis.counts import Growth
from onnxfc.analysis.normalised_sums import changed_shares, counted, divided, is_as_written, of_native_count, told_scale
from onnxfc.builder.axis_ops import provenance_of
from onnxfc.builder.continued import continued, grid_blames
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Blame, Cause
from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.graph.einsum_equation import matmul_letters
from onnxfc.layout.axes import (
    Atom,
    Group,
    Groups,
    axis_of_places,
    carried,
    channels,
    doubled,
    holds_images,
    is_map,
    kinds,
    merged,
    places_in,
)
from onnxfc.layout.axis_map import Field, Pixels
from onnxfc.layout.gathered import Gathered
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, Side, View, is_folded
from onnxfc.rules import unsupported
from onnxfc.rules.context_sums import follows_size
from onnxfc.rules.registry import PLACED, rule
from onnxfc.shapes.spec import Shape


@dataclass(frozen=True, eq=False)
class _Operand:
    """An input, a letter for each axis, these in atoms, and where its places come from, if it has any. ``tensor``: what
    is read instead of it; its axes over places of others are empty."""

    view: View
    term: str
    groups: Groups
    sides: tuple[Side, ...] = ()
    tensor: str = ""

    @property
    def moving(self) -> bool:
        return not isinstance(self.view, Fixed)


@dataclass(frozen=True)
class _Product:
    """A contraction of equal axes; ``letters``: the group of each, and the first operand that has it."""

    operands: Sequence[_Operand]
    out: str
    letters: Mapping[str, tuple[_Operand, Group]]

    @staticmethod
    def of(operands: Sequence[_Operand], out: str) -> _Product | None:
        """None where axes under one letter differ, or the images of a batch do not stay alone."""
        found: dict[str, tuple[_Operand, Group]] = {}
        for operand in operands:
            if len(set(operand.term)) < len(operand.term) or len(operand.term) != len(operand.groups):
                return None
            for letter, group in zip(operand.term, operand.groups, strict=True):
                known = found.get(letter, (operand, ()))[1]
                if known and group and _whole(group) != _whole(known):
                    return None
                if not known:
                    found[letter] = operand, group
        made = _Product(operands, out, found)
        return made if len(set(out)) == len(out) and made._keeps_batch() else None

    def _keeps_batch(self) -> bool:
        """Whether one axis of the result holds the batch, and so does each operand's own; or there are places of one
        image for good, without a batch."""
        holds = [letter for letter, (_, group) in self.letters.items() if "batch" in kinds(group)]
        if not holds:
            return bool(places_in([group for letter, (_, group) in self.letters.items() if letter in self.out]))
        if len(holds) != 1 or holds[0] not in self.out:
            return False
        return all(holds[0] in operand.term for operand in self.operands if operand.moving)

    def laid(self) -> tuple[Groups, list[Side]] | None:
        """The result's axes, and the sides that their places are on, in order; None where there are more than two."""
        order: list[tuple[_Operand, int]] = []
        groups = []
        for letter in self.out:
            operand, group = self.letters[letter]
            order += [k for k in dict.fromkeys((operand, atom.side) for atom in places_in([group])) if k not in order]
            now = {atom.side: order.index((operand, atom.side)) for atom in places_in([group])}
            groups.append(tuple(replace(a, side=now[a.side]) if a.kind == "space" else a for a in group))
        found = [operand.sides[side] for operand, side in order]
        if len(found) == 2 and not doubled(tuple(groups)) and _strides(found[0]) == _strides(found[1]):
            groups = [tuple(replace(atom, side=0) for atom in group) for group in groups]
            found = found[:1]
        return (tuple(groups), found) if len(found) < 3 else None

    @cached_property
    def meetings(self) -> list[_Meeting]:
        """Where places of an operand lie on those of the first that has them, which is itself at first."""
        found = []
        for operand in self.operands:
            for letter, group in zip(operand.term, operand.groups, strict=True):
                first, other = self.letters[letter]
                for at, (own, known) in enumerate(zip(group, other, strict=False)):
                    if own.kind == "space" == known.kind:
                        sides = first.sides[known.side], operand.sides[own.side]
                        found.append(_Meeting((letter, at), known, own, *sides))
        return found

    @property
    def sums_places(self) -> bool:
        return bool(places_in([group for letter, (_, group) in self.letters.items() if letter not in self.out]))

    @property
    def sides(self) -> list[Side]:
        return [side for operand in self.operands for side in operand.sides]

    @property
    def context(self) -> list[Context]:
        return [operand.view for operand in self.operands if isinstance(operand.view, Context)]

    @property
    def blames(self) -> Gathered[Blame]:
        """Those of all operands."""
        known = [side.provenance for side in self.sides] + [view.provenance for view in self.context]
        return Gathered.joined(provenance.blames for provenance in known)

    @property
    def bounds(self) -> frozenset[Boundary]:
        views = [operand.view for operand in self.operands]
        return frozenset[Boundary]().union(*(view.bounds for view in views if is_folded(view)))

    def seen(self, side: Side) -> Side:
        """A side of the result: blamed on all operands, with the parts of a whole of all that have the same places."""
        alike = [item.side for item in self.meetings if item.key[0] in self.out and item.first is side]
        shares = side.provenance.sums_to_one.union(*(other.provenance.sums_to_one for other in alike))
        blames = self.blames | side.provenance.blames
        return Side(side.like, replace(side.provenance, blames=blames, sums_to_one=shares))


def _whole(group: Group) -> Group:
    """An axis as what it holds, whichever side its places are on."""
    return tuple(replace(atom, side=0) for atom in merged(group))


@dataclass(frozen=True)
class _Meeting:
    """Places of the ``first`` operand that has their letter, and of another under the same; where on the axis."""

    key: tuple[str, int]
    known: Atom
    own: Atom
    first: Side
    side: Side

    @property
    def on_one_grid(self) -> bool:
        strides = _strides(self.first), _strides(self.side)
        return strides[0][self.known.place] == strides[1][self.own.place]


def _strides(side: Side) -> list[Pixels]:
    return [field.stride for field in side.provenance.fields]


def contract(ctx: RuleContext, terms: Sequence[str], out: str, *, sums_to_one: bool = False) -> Outcome | None:
    """The node as a contraction, one letter per axis (as in Einsum); None where it is none of equal axes.

    ``sums_to_one``: it is a mean weighted by its own Softmax, which does not grow with the image.
    """
    operands = [_operand(ctx, position, term) for position, term in enumerate(terms)]
    for position, term in enumerate(terms):
        grid = _grid(ctx, position, term, operands)
        if isinstance(grid, Refusal):
            return grid
        operands[position] = grid or operands[position]
    found = [operand for operand in operands if operand is not None]
    alone = sum(operand.moving for operand in found) < 2 and not any(is_folded(v) for v in ctx.views)
    product = None if len(found) < len(operands) or alone else _Product.of(found, out)
    laid = None if product is None else product.laid()
    made = None if product is None or laid is None else _contracted(ctx, product, *laid, sums_to_one)
    return made or unsupported.table_weighed(ctx)


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
    return None if min(ranks) < 2 else contract(ctx, *matmul_letters(ranks))


def _operand(ctx: RuleContext, position: int, term: str = "") -> _Operand | None:
    view, shape = ctx.views[position], ctx.shape_in(position)
    if isinstance(view, Placed) and not view.is_strip and not view.provenance.windows:
        return _Operand(view, term, view.groups, view.sides)
    if isinstance(view, Context):
        batch = of_batch(ctx, view)
        return None if batch is None else _Operand(view, term, batch)
    if isinstance(view, Fixed) and not ctx.follows_size(position):
        return _Operand(view, term, tuple(channels(length) for length in shape))
    return None


def _grid(ctx: RuleContext, position: int, term: str, operands: Sequence[_Operand | None]) -> _Operand | Refusal | None:
    """A grid of coordinates over places that another operand relates to its own, for as many as there are now; None
    where it is none."""
    view, shape = ctx.views[position], ctx.shape_in(position)
    if not isinstance(view, Fixed) or not (ctx.state.dense or ctx.state.undivided):
        return None  # of a window each place has its own row
    over, likes = _under(term, shape, operands)
    if len(likes) != 1:
        return None
    own = tuple(() if axis in over else channels(length) for axis, length in enumerate(shape))
    found = ctx.builder.spec(view.tensor).shapes or ()
    if len(set(found)) > 1 or ctx.follows_size(position):
        as_long = all([now[axis] for now in found] == _lengths(ctx, group, likes[0]) for axis, group in over.items())
        return _Operand(view, term, own) if as_long else None
    groups = tuple(over.get(axis, group) for axis, group in enumerate(own))
    grid = continued(ctx, position, groups, likes)
    return _Operand(view, term, own, tensor=grid.tensor) if isinstance(grid, Continued) else grid


def _under(term: str, shape: Shape, operands: Sequence[_Operand | None]) -> tuple[dict[int, Group], list[Placed]]:
    """The axes on which places of folded operands lie, and the maps that have these, one for each side."""
    over, sides = dict[int, Group](), dict[tuple[_Operand, int], Placed]()
    for other in operands:
        if other is None or not is_folded(other.view) or len(other.term) != len(other.groups):
            continue
        held = dict(zip(other.term, other.groups, strict=True))
        for axis, letter in enumerate(term):
            places = places_in([held.get(letter, ())])
            if places and shape[axis] > 1:
                over[axis] = tuple(replace(a, side=0) if a.kind == "space" else a for a in held[letter])
                sides |= {(other, atom.side): other.sides[atom.side].like for atom in places}
    return over, list(sides.values())


def _lengths(ctx: RuleContext, group: Group, like: Placed) -> list[int]:
    """How long an axis is at the probes, whose places are those of a map."""
    shapes = ctx.builder.spec(like.tensor).shapes or ()
    each = ([a.factor * now[like.where[a.place]] if a.kind == "space" else a.length for a in group] for now in shapes)
    return [int(math.prod(parts)) for parts in each]


def of_batch(ctx: RuleContext, view: Context) -> Groups | None:
    """The axes of context, whose first is the batch, or heads of each image; None where it is not."""
    shapes = ctx.builder.spec(view.tensor).shapes or ()
    batches = ctx.state.batches
    own = shapes[0][0] // batches[0] if shapes and shapes[0] else 0
    if not own or [shape[:1] for shape in shapes] != [(batch * own,) for batch in batches]:
        return None
    first = (Atom("batch", batches[0]), *channels(own))
    return (first, *(channels(length) for length in shapes[0][1:]))


def _contracted(
    ctx: RuleContext, product: _Product, groups: Groups, sides: Sequence[Side], sums_to_one: bool
) -> Outcome | None:
    if not all(item.on_one_grid for item in product.meetings):
        return ctx.refuse("grids-differ", "relates maps of different stride place by place")
    relates = product.sums_places or doubled(groups)
    places = {atom.place for atom in places_in(groups)}
    if (places and places != set(range(ctx.state.rank))) or (ctx.per_window and relates):
        return None
    growing = [] if sums_to_one else _growing(ctx, product)
    doubt = _doubt(ctx, product, bool(sides)) if growing else None
    if doubt is not None:
        return doubt
    made = _made(ctx, product, groups, [product.seen(side) for side in sides])
    if made is None:
        return None
    _write(ctx, growing, [operand.tensor for operand in product.operands])
    made = replace(made, provenance=made.provenance.blamed(*grid_blames(ctx)))
    return [_looking(ctx, made) if relates or product.context else made]


def _doubt(ctx: RuleContext, product: _Product, placed: bool) -> Refusal | None:
    """Why a sum that grows with the image cannot be held at the scale of the native size: of changed shares, or what a
    head reads of the whole image."""
    if any(place < 0 for side in product.sides for _, place in side.provenance.sums_to_one):
        return changed_shares(ctx)
    roles = ctx.state.roles
    of_head = not placed and ctx.name in roles.heads and ctx.name not in roles.plain
    return follows_size(ctx, "grows") if of_head else None


def _growing(ctx: RuleContext, product: _Product) -> list[tuple[Side, Atom]]:
    """The places over which this is a sum that grows with the image, as no operand sums to one along them."""
    summed = [item for item in product.meetings if item.key[0] not in product.out]
    shared = {item.key for item in summed for _, place in item.side.provenance.sums_to_one if place == item.own.place}
    sums = {item.key: (item.first, item.known) for item in summed if item.key not in shared}
    found = list(sums.values())
    return [] if not found or is_as_written(ctx) or divided(ctx, _counts(ctx, found)) else found


def _counts(ctx: RuleContext, growing: Sequence[tuple[Side, Atom]]) -> Growth:
    """How many places are summed up together, at one probe after another but for the native size."""
    each = [counted(ctx, side.like.tensor, [side.like.where[atom.place]]) for side, atom in growing]
    return tuple(math.prod(lengths) for lengths in zip(*each, strict=True))


def _made(ctx: RuleContext, product: _Product, groups: Groups, sides: Sequence[Side]) -> Context | Placed | None:
    """The result's view; None where an axis mixes what must be apart. Without places it is context, if its batch is an
    axis of its own."""
    name = ctx.node.output[0]
    if not sides and holds_images(groups[0]):
        pools = Gathered.joined(view.provenance.pools for view in product.context)  # none of the trunk's
        return Context(name, Provenance((Field(),) * ctx.state.rank, product.blames, pools=pools))
    if is_map(groups):
        axes = axis_of_places(groups)
        provenance = provenance_of(ctx, sides[0].provenance, groups)
        made = ctx.map_of(name, provenance, [axes[place] for place in sorted(axes)])
        own = carried(groups, made.groups)
        return replace(made, groups=(groups[0], *own[1:]))  # the first may hold heads of each image too
    first, *more = sides or product.sides[:1]
    provenance = first.provenance if sides else replace(first.provenance, blames=product.blames)
    return Placed(name, name, groups, provenance, first.like, bounds=product.bounds, other=more[0] if more else None)


def _looking(ctx: RuleContext, made: Context | Placed) -> View:
    """Marked as what looks at the whole image, by this node."""
    provenance = made.provenance.blamed(ctx.blame(Cause.CONTEXT))
    return replace(made, provenance=provenance.behind(ctx.name) if isinstance(made, Context) else provenance)


def _write(ctx: RuleContext, growing: Sequence[tuple[Side, Atom]], instead: Sequence[str]) -> None:
    """The node; a sum that grows with the image at the scale of the native size. ``instead``: of its inputs, where not
    empty."""
    inputs = [new or old for new, old in zip_longest(instead, ctx.tensors(), fillvalue="")]
    if not growing:
        ctx.keep(inputs)
        return
    told_scale(ctx)
    made = ctx.keep_renamed(inputs)[0]
    factors = [(side.like.tensor, side.like.spatial[atom.place], atom.length) for side, atom in growing]
    ctx.builder.emit("Mul", [made, of_native_count(ctx, factors, made)], ctx.node.output[0])
