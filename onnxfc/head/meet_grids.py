"""Windows and score maps on one grid, and what is fixed made ready to meet them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Site
from onnxfc.errors import Refusal
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import Groups, places_in
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, View, Window


def meet(site: Site, views: Sequence[Window | ScoreMap]) -> list[Window | ScoreMap] | Refusal:
    """Windows and score maps on their common grid, the coarsest; a refusal where strides do not divide it."""
    grid = [max(strides) for strides in zip(*([field.stride for field in v.trace.fields] for v in views), strict=True)]
    met = []
    for view in views:
        own = [field.stride for field in view.trace.fields]
        if any(coarse % stride for coarse, stride in zip(grid, own, strict=True)):
            return site.refuse("grids-differ", f"combines windows at strides {own} and {grid}")
        steps = tuple(int(coarse // stride) for coarse, stride in zip(grid, own, strict=True))
        met.append(view if set(steps) == {1} else every(site, view, steps))
    scores = [view for view in met if isinstance(view, ScoreMap)]
    if len(scores) == len(met) and any(now is not before for now, before in zip(met, views, strict=True)):
        ranks = {len(view.features) for view in scores}
        if len(ranks) == 1:
            cut = ops.common(site.draft, [view.tensor for view in scores], scores[0].grid[0], len(grid))
            return [replace(view, tensor=tensor) for view, tensor in zip(scores, cut, strict=True)]
    return met


def every(site: Site, view: Window | ScoreMap, steps: tuple[int, ...]) -> Window | ScoreMap:
    """Every ``steps``-th cell on each axis."""
    trace = view.trace.every(steps)
    if isinstance(view, ScoreMap):
        tensor = ops.every(site.draft, view.tensor, dict(zip(view.grid, steps, strict=True)))
        return replace(view, tensor=tensor, trace=trace)
    sources = tuple(
        replace(source, step=tuple(a * b for a, b in zip(source.step, steps, strict=True))) for source in view.sources
    )
    return replace(view, sources=sources, trace=trace, trunk=None)


def all_scores(site: Site, views: Sequence[View | None]) -> list[ScoreMap] | Refusal:
    """All that is lifted among ``views`` as score maps on one grid, in order."""
    refusal = beside_windows(site)
    if refusal is not None:
        return refusal
    scores: list[ScoreMap] = []
    for view in views:
        if isinstance(view, Window | ScoreMap | Placed):
            found = to_scores(site, view)
            if not isinstance(found, ScoreMap):
                return found
            scores.append(found)
    met = meet(site, scores)
    return met if isinstance(met, Refusal) else [view for view in met if isinstance(view, ScoreMap)]


def beside_batch(axis: int, batch_axis: int) -> int:
    """Where a feature axis of the original, which has its batch on ``batch_axis``, stands in a score map."""
    return axis + (axis < batch_axis)


def around_batch(site: Site, trace: Trace, batch_axis: int) -> ScoreMap:
    """The node's output as a score map whose original has its batch on this axis."""
    shape = site.shape_out()
    return ScoreMap(site.node.output[0], shape[:batch_axis] + shape[batch_axis + 1 :], trace, batch_axis)


def beside_windows(site: Site) -> Refusal | None:
    """A result of the whole image must not meet one of a window: no cell would be what the original says."""
    if any(isinstance(view, Context) for view in site.views):
        return site.refuse(
            *("context-beside-windows", "combines a result of the whole image with one of each window"),
            "use --global-pool window",
        )
    return None


def lift_fixed(site: Site, position: int, grid: int) -> str:
    """A fixed (or context) input with ``grid`` axes of extent 1 appended, ready to broadcast."""
    name = site.node.input[position]
    spec = site.native(name)
    view = site.views[position]
    assert isinstance(view, Fixed | Context)
    if spec.shapes is not None and spec.rank == 0:
        return view.tensor
    value = site.weights(name)
    if value is not None and spec.native.count(1) == spec.rank:
        return view.tensor
    if value is not None:
        return site.draft.constant(value.reshape(value.shape + (1,) * grid), name)
    return ops.unsqueeze(site.draft, view.tensor, range(spec.rank, spec.rank + grid))


def uniform(site: Site, position: int, axes: Sequence[int]) -> str | None:
    """A Fixed input with one value along ``axes`` (negative) instead of as many that are all alike; None where not."""
    view = site.views[position]
    assert isinstance(view, Fixed)
    if not axes:
        return view.tensor
    if not _alike(site, site.node.input[position], tuple(axes)):
        return None
    value = site.weights(site.node.input[position])
    if value is None:
        tensor = view.tensor
        for axis in axes:
            tensor = ops.slice_axis(site.draft, tensor, axis + site.draft.spec(tensor).rank, 0, 1)
        return tensor
    for axis in axes:
        value = value.take([0], axis=axis)
    return site.draft.constant(value, view.tensor)


_ALIKE = {"Add", "Cast", "Div", "Exp", "Expand", "Identity", "Mul", "Neg", "Pow", "Sigmoid", "Sqrt", "Sub"}


def _alike(site: Site, name: str, axes: tuple[int, ...]) -> bool:
    """Whether a tensor that does not depend on the image has equal values along ``axes``, at any size."""
    value = site.weights(name)
    if value is not None:
        own = [axis for axis in axes if -axis <= value.ndim]
        return all(bool(np.all(value == value.take([0], axis=axis))) for axis in own)
    node = site.state.graph.producers.get(name)
    if node is None or node.op_type not in {*_ALIKE, "ConstantOfShape"}:
        return False
    read = [] if node.op_type == "ConstantOfShape" else node.input[:1] if node.op_type == "Expand" else node.input
    return all(_alike(site, item, axes) for item in read)


def lies_on(site: Site, position: int, groups: Groups, placed: Sequence[Placed]) -> bool:
    """Whether a Fixed input has a value for every place at any size, as coordinates computed from Shape have.

    ``groups``: the axes of the result, on whose places it has the dims of one of ``placed``, or 1.
    """
    view = site.views[position]
    own = site.draft.spec(view.tensor).shapes if isinstance(view, Fixed) else None
    if own is None or len(set(own)) < 2:
        return False
    axes = [
        axis for axis in range(-len(own[0]), 0) if -axis <= len(groups) and places_in(groups[axis : axis + 1 or None])
    ]
    return all(_as_long(site, [shape[axis] for shape in own], axis, placed) for axis in axes)


def _as_long(site: Site, lengths: Sequence[int], axis: int, placed: Sequence[Placed]) -> bool:
    """Whether an axis is as long as one of ``placed`` is there, or 1, at every size."""
    held = [view for view in placed if -axis <= len(view.groups) and view.groups[axis]]
    found = [[shape[axis] for shape in site.draft.spec(view.tensor).shapes or ()] for view in held]
    return any(
        len(whole) == len(lengths) and all(mine in (1, now) for mine, now in zip(lengths, whole, strict=True))
        for whole in found
    )


def spread(site: Site, position: int, like: ScoreMap) -> ScoreMap:
    """A fixed (or context) input (N, F1, ..., Fk) as scores that are the same in every cell of ``like``."""
    draft, grid = site.draft, len(like.grid)
    view = site.views[position]
    assert isinstance(view, Fixed | Context)
    features = site.shape_in(position)[1:]
    tensor = ops.unsqueeze(draft, view.tensor, range(1 + len(features), 1 + len(features) + grid))
    batch = ops.dims(draft, like.tensor, 0, 1)
    cells = ops.dims(draft, like.tensor, like.grid[0], like.grid[0] + grid)
    target = ops.concat(draft, [batch, *([draft.constant(list(features), "features")] if features else []), cells])
    return ScoreMap(draft.emit("Expand", [tensor, target]), features, like.trace, like.batch_axis)
