"""Einsum: an FC layer where it sums all features against a weight; on scores each cell apart; on maps each place apart.

https://onnx.ai/onnx/operators/onnx__Einsum.html
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onnxfc.equation import letters_of
from onnxfc.errors import Refusal
from onnxfc.lift import all_scores, to_window
from onnxfc.rules import products
from onnxfc.rules.context import even_as_context, even_einsum
from onnxfc.rules.fc import Operands, shaped
from onnxfc.rules.pooling import global_pool
from onnxfc.rules.relations import attention, sums_places
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, tensor_of
from onnxfc.views import Context, Fixed, Map, ScoreMap, Trace, Window
from onnxfc.weights import Weight, resolve


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


def equation_of(site: Site) -> Equation:
    """The node's equation in the original's ranks, without ellipsis and with its output."""
    ranks = [len(site.native(name).native) for name in site.node.input]
    return Equation(*letters_of(str(site.attrs["equation"]), ranks))


@rule("Einsum", on=Map, attributes=("equation",))
def on_map(site: Site) -> Outcome:
    """Sums over channels alone, place by place; over all places too it is an FC layer that needs no flatten."""
    maps = [position for position, view in enumerate(site.views) if isinstance(view, Map)]
    summed = _summed(site) if len(site.views) == 1 else None
    if summed is not None:
        return summed
    equation, view = equation_of(site), site.views[maps[0]]
    made = products.product(site, equation.terms, equation.out)
    if made is not None or len(maps) > 1:
        return made or attention(site)
    assert isinstance(view, Map)
    own = equation.terms[maps[0]]
    others = "".join(term for position, term in enumerate(equation.terms) if position != maps[0])
    context = [other for other in site.views if isinstance(other, Context)]
    places = [own[axis] for axis in view.spatial]
    batched = own[0] in others and len(context) != len(site.views) - 1
    if equation.out[:1] != own[:1] or batched or any(own.count(letter) > 1 for letter in own):
        return site.refuse("mixes-batch", "does not keep the batch as the first axis")
    if not any(letter in equation.out for letter in places):
        window = to_window(site, view)
        return (
            _even(site, equation, maps[0], window)
            or _fully_connected(site, equation, maps[0], window)
            or _over_space(site)
        )
    if any(letter in others or letter not in equation.out for letter in places):
        return _over_space(site)
    trace = view.trace
    for other in context:
        trace = trace.tainted(site.taint("context"), *other.trace.taints)
    site.keep()
    return site.maps(trace, tuple(equation.out.index(letter) for letter in places))


def _summed(site: Site) -> Outcome | None:
    """A sum over the image without a weight; None where it does anything else beside."""
    view, equation = site.views[0], equation_of(site)
    assert isinstance(view, Map)
    own = equation.terms[0]
    gone = {axis for axis, letter in enumerate(own) if letter not in equation.out}
    rest = "".join(letter for letter in own if letter in equation.out)
    if rest != equation.out or len(set(own)) < len(own) or gone != set(view.spatial):
        return None
    return global_pool(site, view, "Sum", keepdims=False)


def _over_space(site: Site) -> Refusal:
    return site.refuse("fc-over-space", "sums over the places of the native size")


@rule("Einsum", on=(Window, ScoreMap), attributes=("equation",))
def on_features(site: Site) -> Outcome:
    """An FC layer, or on scores the same equation with the letters of the grid appended."""
    equation = equation_of(site)
    lifted = [position for position, view in enumerate(site.views) if isinstance(view, Window | ScoreMap | Map)]
    view = site.views[lifted[0]]
    trunk = [other for other in site.views if isinstance(other, Map) and not other.trace.windows]
    if len(trunk) == 1 and site.shape_out() == site.native(trunk[0].original).native:
        return _cell_by_cell(site, equation, lifted) if site.own else site.rejoins()
    if len(lifted) == 1 and isinstance(view, Window | ScoreMap) and not view.batch_axis:
        made = _even(site, equation, lifted[0], view) or _fully_connected(site, equation, lifted[0], view)
        if made is not None:
            return made
    return _cell_by_cell(site, equation, lifted)


def _even(site: Site, equation: Equation, at: int, view: Window | ScoreMap) -> Outcome | None:
    """Context that sums places with one weight for all; None elsewhere."""
    if len(equation.terms) != 2 or not isinstance(view, Window):
        return None
    own, letters = equation.terms[at], equation.terms[1 - at]
    if equation.out != "".join(letter for letter in own if letter not in letters):
        return None
    found = even_einsum(site, at, view, [own.find(letter) - 1 for letter in letters])
    if found is None:
        return None
    return even_as_context(site, found) if site.role == "context" else _cell_by_cell(site, equation, [at])


def _fully_connected(site: Site, equation: Equation, position: int, view: Window | ScoreMap) -> Outcome | None:
    """The layer, where the one other input is a weight with which every feature is summed; None elsewhere."""
    batch = 0 if view.batch_axis is None else 1
    own, other = equation.terms[position][batch:], 1 - position
    if len(equation.terms) != 2 or not isinstance(site.views[other], Fixed):
        return None
    weight, outputs = equation.terms[other], equation.out[batch:]
    lengths = dict(zip(own, site.shape_in(position)[1:], strict=True))
    own = "".join(letter for letter in own if lengths[letter] > 1 or letter in weight + outputs)
    every = len(set(own)) == len(own) and sorted(weight) == sorted(own + outputs)
    kept = equation.out[:batch] == equation.terms[position][:batch]
    if not every or not kept or (isinstance(view, ScoreMap) and len(own) != 1):
        return None
    shape = site.shape_in(other)
    sizes = {letter: shape[place] for place, letter in enumerate(weight)}
    if any(sizes[letter] != lengths[letter] for letter in own):
        return None  # a weight of extent 1 that is spread over the features
    flat = _flattened(view) if isinstance(view, Window) else view
    features = site.shape_out()[1:]
    order = tuple(weight.index(letter) for letter in outputs + own)
    size = flat.index.size if isinstance(flat, Window) else flat.features[0]
    found = Weight(site.node.input[other], order, size, math.prod(features))
    return shaped(site, Operands(flat, resolve(site, found), batch_axis=0), features)


def _flattened(view: Window) -> Window:
    scale, shift = (None if work is None else work.reshape(-1) for work in (view.scale, view.shift))
    return replace(view, index=view.index.reshape(-1), scale=scale, shift=shift)


def _cell_by_cell(site: Site, equation: Equation, lifted: Sequence[int]) -> Outcome:
    scores = all_scores(site, site.views)
    if isinstance(scores, Refusal):
        return scores
    scores_at = dict(zip(lifted, scores, strict=True))
    trace = Trace.join([view.trace for view in scores])
    cells = _with_grid(equation, lifted, len(scores[0].grid), site.swallowed)
    if trace is None or cells is None or len({view.batch_axis for view in scores}) > 1:
        return site.refuse("mixes-batch", "sums over the batch, or moves it")
    if len(scores) > 1 and trace.places:
        sizes = {
            k: n for t, name in zip(equation.terms, site.node.input, strict=True) for k, n in _sizes(site, t, name)
        }
        summed = [length for letter, length in sizes.items() if letter not in equation.out]
        if not sums_places(trace, summed, [sizes[letter] for letter in equation.out[1:]]):
            return attention(site)
        trace = replace(trace, places=False)
    now = [scores_at.get(place, view) for place, view in enumerate(site.views)]
    site.keep([tensor_of(view) for view in now if view is not None], equation=str(cells))
    return site.score_maps(trace)


def _sizes(site: Site, term: str, name: str) -> Iterator[tuple[str, int]]:
    return zip(term, site.native(name).native, strict=True)


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
