"""The outputs of the rewritten model: maps as they come, or reduced over their cells."""

from __future__ import annotations

from typing import Literal, TypeGuard

from onnxfc.builder import ops
from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.builder.rule_context import LEAVE, RuleContext
from onnxfc.builder.state import State
from onnxfc.claim.blame import Blame, Cause
from onnxfc.claim.claim import Output
from onnxfc.errors import Refusal
from onnxfc.graph.index import label
from onnxfc.graph.op_kinds import FLOATS
from onnxfc.head.frames import scores_apart
from onnxfc.head.meet_grids import as_many_cells, meet
from onnxfc.head.placed_windows import window_of
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import kinds, places_in
from onnxfc.layout.lists import levels, row_axis
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, Refused, ScoreMap, View, Window, is_map, is_strip

Form = Literal["map", "mean", "max"]


def finish(state: State, form: Form) -> tuple[list[Output], list[Provenance]] | list[Refusal]:
    """Give every output its final tensor under its own name; all refusals that keep one from it."""
    outputs, refusals = [], []
    provenances: list[tuple[bool, Provenance]] = []
    views = _on_one_grid(state)
    if isinstance(views, Refusal):
        return [views]
    done: dict[str, tuple[Output, Provenance | None] | Refusal] = {}
    for name, view in zip(state.graph.outputs, views, strict=True):
        if name not in done:  # one tensor may be listed twice
            done[name] = _output(state, name, view, form)
        made = done[name]
        if isinstance(made, Refusal):
            refusals.append(made)
            continue
        output, provenance = made
        outputs.append(output)
        provenances.extend([(output.form == "global", provenance)] if provenance else [])
    provenances.sort(key=lambda item: item[0])  # a cell's comes before that of the whole image
    return list(dict.fromkeys(refusals)) or (outputs, [provenance for _, provenance in provenances])


def maps_of_windows(state: State) -> dict[str, Provenance]:
    """Outputs in the form of the map that their windows come from, the places of which nothing has summed up."""
    found = {}
    for name in state.graph.outputs:
        view, shape = state.views[name], state.native[name].shapes
        if not isinstance(view, Window | ScoreMap) or shape is None or len(shape[0]) != 2 + state.rank:
            continue
        places = view.provenance.places or isinstance(view, Window)
        if places and any(item.extent == shape[0][2:] for item in view.provenance.windows):
            found[name] = view.provenance
    return found


def _on_one_grid(state: State) -> list[View] | Refusal:
    """The outputs' views; scores of different strides are thinned to the coarsest and cut to as many, so that their
    cells correspond."""
    scores: dict[str, Window | ScoreMap | Placed] = {}
    for name in state.graph.outputs:
        view = state.views[name] = _own_of_window(state, name, state.views[name])
        if _has_cells(view) and len(view.provenance.fields) == state.rank:
            scores[name] = view
    if len(scores) > 1:
        ctx = RuleContext(state, state.graph.producers[list(scores)[-1]])
        met = meet(ctx, list(scores.values()), outputs=True)
        if isinstance(met, Refusal):
            return met
        state.notes += ctx.notes
        made = [_as_scores(state, name, view) for name, view in zip(scores, met, strict=True)]
        cells = [view for view in made if not isinstance(view, Refusal)]
        cut = as_many_cells(ctx, cells) if len(cells) == len(made) else met  # what is refused is so below, one by one
        if isinstance(cut, Refusal):
            return cut
        state.views.update(zip(scores, cut, strict=True))
    return [state.views[name] for name in state.graph.outputs]


def _own_of_window(state: State, name: str, view: View) -> View:
    """Places that are laid together beside a head, as those of each window; another view as it is."""
    if not isinstance(view, Placed) or _is_list(state, view) or is_strip(view) or is_map(view) or _in_rows(view):
        return view
    found = _as_scores(state, name, view)
    return view if isinstance(found, Refusal) else found  # which is told where the output is finished


def _has_cells(view: View) -> TypeGuard[Window | ScoreMap | Placed]:
    """Whether it says one thing of each window: scores, or what a pool leaves in the form of a map."""
    pooled = is_map(view) and bool(view.provenance.windows) and not view.provenance.dropped
    return isinstance(view, Window | ScoreMap) or pooled


def _output(state: State, name: str, view: View, form: Form) -> tuple[Output, Provenance | None] | Refusal:
    if isinstance(view, Refused):
        return view.refusal
    if isinstance(view, Fixed | Context):
        return _of_whole_image(state, name, view)
    if isinstance(view, Placed) and _is_list(state, view):
        return _of_list(state, name, view)
    scores = _as_scores(state, name, view)
    if isinstance(scores, Refusal):
        return scores
    axes = scores.grid if isinstance(scores, ScoreMap) else scores.spatial
    tensor, crossed = scores.tensor, bool(scores.provenance.windows)
    if crossed and form != "map" and state.builder.spec(tensor).dtype not in FLOATS:
        return Refusal("no-mean", name, f"the {form} of class numbers or truth values says nothing", "use --output map")
    if crossed and form != "map":
        tensor = ops.reduce(state.builder, f"Reduce{form.title()}", tensor, axes, keepdims=is_map(scores))
    if isinstance(scores, ScoreMap) and scores.batch_axis is None:
        tensor, axes = _without_batch(state, name, tensor), tuple(axis - 1 for axis in axes)
    _named(state.builder, tensor, name)
    found, provenance = _form(scores, form), scores.provenance
    if found == "global":
        pools = (state.graph.producers[pool] for pool in sorted(provenance.pools))
        provenance = provenance.blamed(*(Blame(Cause.CONTEXT, label(pool)) for pool in pools))
    return Output(name, found, axes if form == "map" or not crossed else ()), provenance


def _of_list(state: State, name: str, view: Placed) -> tuple[Output, Provenance] | Refusal:
    """A list whose places stand one behind the other."""
    if row_axis(view, state.rank) is None:
        why = "some of the elements of a list's places come ahead of all places on one axis, where they would move"
        return Refusal("size-locked", name, f"{why} as the image grows", "leave them on an axis of their own")
    _named(state.builder, view.tensor, name)
    return Output(name, "list"), view.provenance


def _without_batch(state: State, name: str, tensor: str) -> str:
    """The scores of one image without their batch, in place of the original's Squeeze where that was not written."""
    own = state.graph.producers[name]
    written = any(node.name == own.name for node in state.builder.nodes)
    return ops.squeeze(state.builder, tensor, [0], instead=None if written else own)


def _of_whole_image(state: State, name: str, view: Fixed | Context) -> tuple[Output, Provenance | None] | Refusal:
    """A constant, or what a pool left that stays global."""
    heads = isinstance(view, Context) and not state.roles.heads.isdisjoint(view.provenance.pools)
    if heads and state.global_pool != "keep":
        return Refusal("unsupported-reduction", name, "the output is a figure of the whole image that has no windows")
    _named(state.builder, view.tensor, name)
    return Output(name, "global"), view.provenance if isinstance(view, Context) else None


def _as_scores(state: State, name: str, view: Placed | Window | ScoreMap) -> Placed | ScoreMap | Refusal:
    """A map as it is, all else as scores with the batch first."""
    if is_strip(view):
        why = "the output pools only one of the spatial axes"
        return Refusal("partial-pool", name, why, "use --global-pool window")
    if is_map(view) or (isinstance(view, Placed) and _in_rows(view)):
        return view
    ctx = RuleContext(state, state.graph.producers[name])
    window = window_of(ctx, view) if isinstance(view, Placed) else view
    scores = window if isinstance(window, Refusal) else to_scores(ctx, window)
    if isinstance(scores, ScoreMap) and scores.batch_axis and state.single:
        return scores_apart(ctx, scores, state.native[name].native)
    if isinstance(scores, ScoreMap) and scores.batch_axis:
        return Refusal("mixes-batch", name, "the output does not have its batch first")
    if isinstance(scores, ScoreMap) and scores.batch_axis is None and state.builder.spec(scores.tensor).native[0] != 1:
        return Refusal("mixes-batch", name, "the output has rows of the batch, and is of one image", LEAVE)
    return scores


def _is_list(state: State, view: Placed) -> bool:
    """Whether it is a list of places with their scores; a map that was flattened wholly is none."""
    found = levels(view, state.rank) if not (state.of_windows or view.apart) else []
    apart = len(view.groups) > 1 + any(kinds(group) == ["batch"] for group in view.groups)
    return bool(found) and (apart or view.is_list or all(_of_one_figure(part, state.rank) for part, _ in found))


def _of_one_figure(part: Placed, rank: int) -> bool:
    """Whether a level has one figure of each place, also of those along an axis of the image that stays."""
    axis = row_axis(part, rank)
    return axis is not None and all(atom.kind == "space" or atom.still for atom in part.groups[axis])


def _in_rows(view: Placed) -> bool:
    """Whether it is a map but for its batch, which is not axis 0: (T, N, K)."""
    alone = not (view.parts or view.other or view.provenance.windows) and len(view.where) == len(places_in(view.groups))
    return alone and len(view.where) == len(view.provenance.fields)


def _form(
    view: Placed | ScoreMap, form: Form
) -> Literal["map", "cells", "mean", "max", "activation", "features", "global"]:
    if not view.provenance.windows:
        return "features"
    if view.provenance.dropped:  # the mean of an affine head's scores is the score of the mean: a global pool again
        return "activation" if form == "map" else "global"
    if form != "map":
        return form
    return "cells" if is_map(view) else "map"


def _named(builder: GraphBuilder, tensor: str, name: str) -> None:
    """Let an output's tensor bear the output's name."""
    if tensor != name and not builder.rename(tensor, name):
        if builder.producer(name) is not None:
            builder.rename(name, builder.fresh(f"{name}_inner"))
        builder.emit("Identity", [builder.renamed.get(tensor, tensor)], name)
    builder.final.add(name)
