"""Einsum: an FC layer where it sums all features against a weight; on scores each cell apart; on maps each place apart.

https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from onnxfc.builder.rule_context import Outcome, RuleContext, tensor_of
from onnxfc.claim.blame import Cause
from onnxfc.errors import Refusal
from onnxfc.graph.einsum_equation import letters_of
from onnxfc.head.conv_weights import Weight, resolve
from onnxfc.head.fc_to_conv import Operands, shaped
from onnxfc.head.meet_grids import all_scores
from onnxfc.head.placed_windows import window_of
from onnxfc.layout.axes import lengths
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, Window, is_folded, is_map
from onnxfc.rules import contraction
from onnxfc.rules.context_sums import even_as_context, even_einsum, trace_summed
from onnxfc.rules.pooling import global_pool
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.rules.unsupported import attention, sums_places


@dataclass(frozen=True)
class Equation:
    """One letter per axis of each input and of the output, the implied ones spelled out."""

    terms: tuple[str, ...]
    out: str

    @property
    def unused(self) -> list[str]:
        return [letter for letter in string.ascii_letters if letter not in "".join(self.terms) + self.out]

    def __str__(self) -> str:
        return f"{','.join(self.terms)}->{self.out}"


def equation_of(ctx: RuleContext) -> Equation:
    """The node's equation in the original's ranks, without ellipsis and with its output."""
    ranks = [len(ctx.native(name).native) for name in ctx.node.input]
    return Equation(*letters_of(str(ctx.attrs["equation"]), ranks))


@rule("Einsum", on=PLACED, attributes=("equation",))
def einsum(ctx: RuleContext) -> Outcome | None:
    """Einsum over channels is a product at each place; over C x h x w it is Conv h x w, with no flatten ahead."""
    placed = [position for position, view in enumerate(ctx.views) if isinstance(view, Placed)]
    summed = _summed(ctx) if len(ctx.views) == 1 else None
    if summed is not None:
        return summed
    equation, view = equation_of(ctx), ctx.placed_in(placed[0])
    made = contraction.contract(ctx, equation.terms, equation.out)
    if made is not None or any(is_folded(other) for other in ctx.views):
        return made
    if len(placed) > 1:
        return None if ctx.per_window else attention(ctx)
    return _on_channels(ctx, view, equation, placed[0])


def _on_channels(ctx: RuleContext, view: Placed, equation: Equation, at: int) -> Outcome:
    own = equation.terms[at]
    others = "".join(term for position, term in enumerate(equation.terms) if position != at)
    context = [other for other in ctx.views if isinstance(other, Context)]
    places = {place: own[axis] for place, axis in view.where.items()}
    batched = own[0] in others and len(context) != len(ctx.views) - 1
    if equation.out[:1] != own[:1] or batched or any(own.count(letter) > 1 for letter in own):
        return ctx.refuse("mixes-batch", "does not keep the batch as the first axis")
    if not any(letter in equation.out for letter in places.values()):
        return _over_all_places(ctx, view, equation, at)
    if any(letter in others or letter not in equation.out for letter in places.values()):
        return _over_space(ctx)
    provenance = view.provenance
    for other in context:
        provenance = replace(provenance, blames=provenance.blames | other.provenance.blames).blamed(
            ctx.blame(Cause.CONTEXT)
        )
    ctx.keep()
    return ctx.placed(view, provenance, {place: equation.out.index(letter) for place, letter in places.items()})


def _over_all_places(ctx: RuleContext, view: Placed, equation: Equation, at: int) -> Outcome:
    window = window_of(ctx, view)
    if isinstance(window, Refusal):
        return window
    made = _even(ctx, equation, at, window) or _fully_connected(ctx, equation, at, window)
    return made or _over_space(ctx)


def _summed(ctx: RuleContext) -> Outcome | None:
    """A sum over the image without a weight; None where it does anything else beside."""
    view, equation = ctx.placed_in(), equation_of(ctx)
    own = equation.terms[0]
    gone = {axis for axis, letter in enumerate(own) if letter not in equation.out}
    rest = "".join(letter for letter in own if letter in equation.out)
    if rest != equation.out or len(set(own)) < len(own) or not view.is_map or gone != set(view.spatial):
        return None
    return global_pool(ctx, view, "Sum", keepdims=False)


def _over_space(ctx: RuleContext) -> Refusal:
    return ctx.refuse("fc-over-space", "sums over the places of the native size")


@rule("Einsum", on=FEATURES, attributes=("equation",))
def on_features(ctx: RuleContext) -> Outcome:
    """Einsum over features is Conv, an FC layer; on scores it is the same with the letters of the grid appended."""
    equation = equation_of(ctx)
    lifted = [position for position, view in enumerate(ctx.views) if isinstance(view, Window | ScoreMap | Placed)]
    view = ctx.views[lifted[0]]
    trunk = [other for other in ctx.views if is_map(other) and not other.provenance.windows]
    if len(trunk) == 1 and ctx.shape_out() == lengths(trunk[0].groups):
        return _cell_by_cell(ctx, equation, lifted) if ctx.own else ctx.rejoins()
    if len(lifted) == 1 and isinstance(view, Window | ScoreMap) and not view.batch_axis:
        made = _even(ctx, equation, lifted[0], view) or _fully_connected(ctx, equation, lifted[0], view)
        if made is not None:
            return made
    return _cell_by_cell(ctx, equation, lifted)


def _even(ctx: RuleContext, equation: Equation, at: int, view: Window | ScoreMap) -> Outcome | None:
    """Context that sums places with one weight for all; None elsewhere."""
    if len(equation.terms) != 2 or not isinstance(view, Window):
        return None
    own, letters = equation.terms[at], equation.terms[1 - at]
    if equation.out != "".join(letter for letter in own if letter not in letters):
        return None
    found = even_einsum(ctx, at, view, [own.find(letter) - 1 for letter in letters])
    if found is None:
        return None
    return even_as_context(ctx, found) if ctx.role == "context" else _cell_by_cell(ctx, equation, [at])


def _fully_connected(ctx: RuleContext, equation: Equation, position: int, view: Window | ScoreMap) -> Outcome | None:
    """The layer, where the one other input is a weight with which every feature is summed; None elsewhere."""
    batch = 0 if view.batch_axis is None else 1
    own, other = equation.terms[position][batch:], 1 - position
    if len(equation.terms) != 2 or not isinstance(ctx.views[other], Fixed):
        return None
    weight, outputs = equation.terms[other], equation.out[batch:]
    lengths = dict(zip(own, ctx.shape_in(position)[1:], strict=True))
    own = "".join(letter for letter in own if lengths[letter] > 1 or letter in weight + outputs)
    every = len(set(own)) == len(own) and sorted(weight) == sorted(own + outputs)
    kept = equation.out[:batch] == equation.terms[position][:batch]
    if not every or not kept or (isinstance(view, ScoreMap) and len(own) != 1):
        return None
    shape = ctx.shape_in(other)
    sizes = {letter: shape[place] for place, letter in enumerate(weight)}
    if any(sizes[letter] != lengths[letter] for letter in own):
        return None  # a weight of extent 1 that is spread over the features
    flat = _flattened(view) if isinstance(view, Window) else view
    features = ctx.shape_out()[1:]
    order = tuple(weight.index(letter) for letter in outputs + own)
    size = flat.index.size if isinstance(flat, Window) else flat.features[0]
    found = Weight(ctx.node.input[other], order, size, math.prod(features))
    return shaped(ctx, Operands(flat, resolve(ctx, found), batch_axis=0), features)


def _flattened(view: Window) -> Window:
    scale, shift = (None if work is None else work.reshape(-1) for work in (view.scale, view.shift))
    return replace(view, index=view.index.reshape(-1), scale=scale, shift=shift)


def _cell_by_cell(ctx: RuleContext, equation: Equation, lifted: Sequence[int]) -> Outcome:
    scores = all_scores(ctx, ctx.views)
    if isinstance(scores, Refusal):
        return scores
    scores_at = dict(zip(lifted, scores, strict=True))
    provenance = Provenance.join([view.provenance for view in scores])
    cells = _with_grid(equation, lifted, len(scores[0].grid), ctx.swallowed)
    if provenance is None or cells is None or len({view.batch_axis for view in scores}) > 1:
        return ctx.refuse("mixes-batch", "sums over the batch, or moves it")
    if len(scores) > 1 and provenance.places:
        shapes = [ctx.native(name).native for name in ctx.node.input]
        sizes = dict(zip("".join(equation.terms), chain(*shapes), strict=True))
        summed = [length for letter, length in sizes.items() if letter not in equation.out]
        if not sums_places(ctx, provenance, summed, [sizes[letter] for letter in equation.out[1:]]):
            return attention(ctx)
        provenance = replace(provenance, places=False)
    provenance = trace_summed(ctx, provenance) if len(scores) == 1 else provenance
    now = [scores_at.get(place, view) for place, view in enumerate(ctx.views)]
    ctx.keep([tensor_of(view) for view in now if view is not None], equation=str(cells))
    return ctx.score_maps(provenance)


def _with_grid(equation: Equation, lifted: Sequence[int], axes: int, swallowed: bool) -> Equation | None:
    """The equation with grid axes behind its lifted terms; None where they do not share one batch, kept in front."""
    grid, spare = "".join(equation.unused[:axes]), equation.unused[axes]
    terms, ahead = list(equation.terms), spare if swallowed else ""
    for place in lifted:
        terms[place] = ahead + terms[place]
    out = ahead + equation.out
    batch = terms[lifted[0]][:1]
    if any(terms[place][:1] != batch or terms[place].count(batch) != 1 for place in lifted) or out[:1] != batch:
        return None
    for place in lifted:
        terms[place] += grid
    return Equation(tuple(terms), out + grid)
