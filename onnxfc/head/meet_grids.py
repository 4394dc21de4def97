"""Windows and score maps on one grid, and what is fixed made ready to meet them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import TypeVar

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.computed_constants import computed
from onnxfc.builder.rule_context import RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.index import inputs_of
from onnxfc.graph.op_kinds import BROADCAST, COPYING, QUANTISING, UNARY
from onnxfc.head.windows import to_scores
from onnxfc.layout.axes import Groups, holds_images, places_in
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Fixed, Placed, ScoreMap, View, Window
from onnxfc.shapes.length import same
from onnxfc.shapes.spec import Array, Shape

Cells = TypeVar("Cells", bound=Window | ScoreMap | Placed)


def meet(ctx: RuleContext, views: Sequence[Cells], *, outputs: bool = False) -> list[Cells] | Refusal:
    """Windows and score maps on their common grid, whose stride is the least common multiple of theirs; a refusal where
    one is a fraction of a pixel that divides no other."""
    doubt = _mean_of_others(ctx, views, outputs)
    if doubt is not None:
        return doubt
    each = ([field.stride for field in view.provenance.fields] for view in views)
    grid = [_common(strides) for strides in zip(*each, strict=True)]
    met = []
    for view in views:
        own = [field.stride for field in view.provenance.fields]
        if any(coarse % stride for coarse, stride in zip(grid, own, strict=True)):
            return ctx.refuse("grids-differ", f"combines windows at strides {own} and {grid}")
        steps = tuple(int(coarse // stride) for coarse, stride in zip(grid, own, strict=True))
        if view.provenance.dropped and set(steps) != {1}:
            why = f"keeps every place of its map, at stride {own}, beside windows at {grid}"
            return ctx.refuse("grids-differ", why, "use --global-pool window")
        met.append(view if set(steps) == {1} else every(ctx, view, steps))
    _tell_multiples(ctx, views, grid)
    thinned = any(now is not before for now, before in zip(met, views, strict=True))
    return _trimmed(ctx, met) if thinned and not outputs else met


def _tell_multiples(ctx: RuleContext, views: Sequence[Cells], grid: Sequence[int | Fraction]) -> None:
    """Note a grid that is coarser than each of those that meet on it, as their strides do not divide each other."""
    strides = dict.fromkeys(tuple(field.stride for field in view.provenance.fields) for view in views)
    if any(coarse not in axis for coarse, axis in zip(grid, zip(*strides, strict=True), strict=True)):
        *most, last = ("x".join(map(str, stride)) for stride in sorted(strides))
        why = f"meets windows that lie {', '.join(most)} and {last} px apart: cells lie at their common multiple"
        ctx.remark("common-multiple", f"{why}, {'x'.join(map(str, grid))} px")


def as_many_cells(ctx: RuleContext, scores: list[ScoreMap | Placed]) -> list[ScoreMap | Placed] | Refusal:
    """Cells of one stride cut to as many cells as the smallest has, where their trunks round differently; an
    activation map has a cell for each place anyway."""
    if any(view.provenance.dropped for view in scores):
        return scores
    extents = ctx.builder.extents
    extents.follow(ctx.builder.nodes)
    found = [extents.dims(view.tensor) for view in scores]
    dims = [[own[axis] for axis in axes_of(view)] for own, view in zip(found, scores, strict=True) if own is not None]
    differ = any(not same(a, b) for own in dims[1:] for a, b in zip(dims[0], own, strict=True))
    if not differ and (len(dims) == len(scores) or ctx.opset < ops.COMMON_SINCE):
        return scores
    if ctx.opset < ops.COMMON_SINCE:
        why = f"gives other cells than another output at some sizes; operator set {ctx.opset} cuts none to as many"
        return ctx.refuse("old-opset", why, "convert it with onnx.version_converter")
    return _trimmed(ctx, scores)


def _trimmed(ctx: RuleContext, views: list[Cells]) -> list[Cells]:
    """As they are where one is not computed yet."""
    scores = [(view.tensor, axes_of(view)) for view in views if not isinstance(view, Window)]
    if len(scores) < len(views):
        return views
    cut = iter(ops.common(ctx.builder, scores))
    return [view if isinstance(view, Window) else replace(view, tensor=next(cut)) for view in views]


def axes_of(view: ScoreMap | Placed) -> tuple[int, ...]:
    """The axes of its cells."""
    return view.grid if isinstance(view, ScoreMap) else view.spatial


def _mean_of_others(ctx: RuleContext, views: Sequence[Cells], outputs: bool) -> Refusal | None:
    """Where a pool was dropped, the mean over its elements is the score: at once only for all that have the same.
    ``outputs`` beside each other need the same strides only."""

    def elements(provenance: Provenance) -> Hashable:
        windows = frozenset((item.extent, item.step) for item in provenance.windows)
        return (provenance.fields, windows) if provenance.dropped else None

    strides = {tuple(field.stride for field in view.provenance.fields) for view in views}
    same = len(strides) == 1 if outputs else len({elements(view.provenance) for view in views}) == 1
    if same or not any(view.provenance.dropped for view in views):
        return None
    why = "stands beside scores whose pool is dropped, and the mean of these is taken over other elements"
    return ctx.refuse("grids-differ" if outputs else "drop-not-affine", why, "use --global-pool window")


def _common(strides: Sequence[int | Fraction]) -> int | Fraction:
    if any(stride.denominator > 1 for stride in strides):
        return max(strides)
    return math.lcm(*(stride.numerator for stride in strides))


def every(ctx: RuleContext, view: Cells, steps: tuple[int, ...]) -> Cells:
    """Every ``steps``-th cell on each axis."""
    provenance = view.provenance.every(steps)
    if not isinstance(view, Window):
        tensor = ops.every(ctx.builder, view.tensor, dict(zip(axes_of(view), steps, strict=True)))
        return replace(view, tensor=tensor, provenance=provenance)
    sources = tuple(
        replace(source, step=tuple(a * b for a, b in zip(source.step, steps, strict=True))) for source in view.sources
    )
    return replace(view, sources=sources, provenance=provenance, trunk=None)


def all_scores(ctx: RuleContext, views: Sequence[View | None]) -> list[ScoreMap] | Refusal:
    """All that is lifted among ``views`` as score maps on one grid, in order."""
    refusal = beside_windows(ctx)
    if refusal is not None:
        return refusal
    scores: list[ScoreMap] = []
    for view in views:
        if isinstance(view, Window | ScoreMap | Placed):
            found = to_scores(ctx, view)
            if not isinstance(found, ScoreMap):
                return found
            scores.append(found)
    met = meet(ctx, scores)
    return met if isinstance(met, Refusal) else [view for view in met if isinstance(view, ScoreMap)]


def beside_batch(axis: int, batch_axis: int) -> int:
    """Where a feature axis of the original, which has its batch on ``batch_axis``, stands in a score map."""
    return axis + (axis < batch_axis)


def around_batch(ctx: RuleContext, provenance: Provenance, batch_axis: int, position: int = 0) -> ScoreMap:
    """The node's output as a score map whose original has its batch on this axis."""
    shape = ctx.shape_out(position)
    return ScoreMap(ctx.node.output[position], shape[:batch_axis] + shape[batch_axis + 1 :], provenance, batch_axis)


def beside_windows(ctx: RuleContext) -> Refusal | None:
    """A result of the whole image must not meet one of a window: no cell would be what the original says."""
    if any(isinstance(view, Context) for view in ctx.views):
        return ctx.refuse(
            *("context-beside-windows", "combines a result of the whole image with one of each window"),
            "use --global-pool window",
        )
    return None


def lift_fixed(ctx: RuleContext, position: int, grid: int) -> str:
    """A fixed (or context) input with ``grid`` axes of extent 1 appended, ready to broadcast."""
    name = ctx.node.input[position]
    spec = ctx.native(name)
    view = ctx.views[position]
    assert isinstance(view, Fixed | Context)
    if spec.shapes is not None and spec.rank == 0:
        value = _of_window(ctx, position)
        return view.tensor if value is None else ctx.builder.constant(value, "native")
    value = ctx.weights(name)
    if value is not None and spec.native.count(1) == spec.rank:
        return view.tensor
    value = _of_window(ctx, position) if value is None else value
    if value is not None:
        return ctx.builder.constant(value.reshape(value.shape + (1,) * grid), name)
    return ops.unsqueeze(ctx.builder, view.tensor, range(spec.rank, spec.rank + grid))


def _of_window(ctx: RuleContext, position: int) -> Array | None:
    """What many values that are computed from the image's size come to natively, as they do in each window; None for
    anything else, and where the batch has a part in it."""
    name, view = ctx.node.input[position], ctx.views[position]
    if (
        not isinstance(view, Fixed)
        or ctx.builder.spec(view.tensor).constant is not None
        or computed(ctx, name) is not None
    ):
        return None

    def dims(like: Placed, times: int) -> Shape:
        native = ctx.builder.spec(like.tensor).native
        return tuple(n * times if holds_images(group) else n for n, group in zip(native, like.groups, strict=True))

    first = computed(ctx, name, partial(dims, times=1))
    again = computed(ctx, name, partial(dims, times=2)) if ctx.free_batch else first
    return first if first is not None and again is not None and np.array_equal(first, again) else None


def uniform(ctx: RuleContext, position: int, axes: Sequence[int]) -> str | None:
    """A Fixed input with one value along ``axes`` (negative) instead of as many that are all alike; None where not, and
    where they may be lengths that are parts of the image."""
    view = ctx.views[position]
    assert isinstance(view, Fixed)
    if not axes:
        return view.tensor
    value = computed(ctx, ctx.node.input[position])
    lengths = ctx.state.grids in ("map", "image") and not (len(ctx.state.axes[0]) < ctx.state.axes[1] and _even(value))
    if lengths or not _alike(ctx, ctx.node.input[position], tuple(axes)):
        return None
    if value is None:
        tensor = view.tensor
        for axis in axes:
            tensor = ops.slice_axis(ctx.builder, tensor, axis + ctx.builder.spec(tensor).rank, 0, 1)
        return tensor
    for axis in axes:
        value = value.take([0], axis=axis)
    return ctx.builder.constant(value, view.tensor)


def _even(value: Array | None) -> bool:
    """Whether values go along one axis alone in equal steps: coordinates along an axis of the image that stays."""
    if value is None:
        return False
    moving = [axis for axis in range(value.ndim) if not np.array_equal(value, np.roll(value, 1, axis))]
    steps = np.diff(value, axis=moving[0]) if len(moving) == 1 and value.shape[moving[0]] > 2 else np.zeros(1)
    return bool(np.all(steps) and np.allclose(steps, steps.flat[0], rtol=1e-3))


_ALIKE = {*BROADCAST, *COPYING, *UNARY, "ConstantOfShape"} - QUANTISING  # whose scales may lie along an axis


def _alike(ctx: RuleContext, name: str, axes: tuple[int, ...]) -> bool:
    """Whether a tensor that does not depend on the image has equal values along ``axes``, at any size: as one value
    that was laid out along them has."""
    value = computed(ctx, name)
    if value is not None:
        own = [axis for axis in axes if -axis <= value.ndim]
        return all(bool(np.all(value == value.take([0], axis=axis))) for axis in own)
    shapes = ctx.builder.spec(name).shapes
    if shapes and all(shape[axis] == 1 for shape in shapes for axis in axes if -axis <= len(shape)):
        return True
    node = ctx.state.graph.producers.get(name)
    if node is None or node.op_type not in _ALIKE:
        return False
    read = [] if node.op_type == "ConstantOfShape" else node.input[:1] if node.op_type in COPYING else inputs_of(node)
    return all(_alike(ctx, item, axes) for item in read)


def lies_on(ctx: RuleContext, position: int, groups: Groups, placed: Sequence[Placed]) -> bool:
    """Whether a Fixed input has a value for every place at any size, as coordinates computed from Shape have.

    ``groups``: the axes of the result, on whose places it has the dims of one of ``placed``, or 1.
    """
    view = ctx.views[position]
    own = ctx.builder.spec(view.tensor).shapes if isinstance(view, Fixed) else None
    if own is None or len(set(own)) < 2:
        return False
    rows = {axis: groups[axis] for axis in range(-min(len(own[0]), len(groups)), 0)}
    axes = [axis for axis, row in rows.items() if places_in([row]) or any(atom.kind == "joined" for atom in row)]
    return all(_as_long(ctx, [shape[axis] for shape in own], axis, placed) for axis in axes)


def _as_long(ctx: RuleContext, lengths: Sequence[int], axis: int, placed: Sequence[Placed]) -> bool:
    """Whether an axis is as long as one of ``placed`` is there, or 1, at every size."""
    held = [view for view in placed if -axis <= len(view.groups) and view.groups[axis]]
    found = [[shape[axis] for shape in ctx.builder.spec(view.tensor).shapes or ()] for view in held]
    return any(
        len(whole) == len(lengths) and all(mine in (1, now) for mine, now in zip(lengths, whole, strict=True))
        for whole in found
    )


def spread(ctx: RuleContext, position: int, like: ScoreMap) -> ScoreMap:
    """A fixed (or context) input (N, F1, ..., Fk) as scores that are the same in every cell of ``like``."""
    builder, grid = ctx.builder, len(like.grid)
    view = ctx.views[position]
    assert isinstance(view, Fixed | Context)
    features = ctx.shape_in(position)[1:]
    tensor = ops.unsqueeze(builder, view.tensor, range(1 + len(features), 1 + len(features) + grid))
    batch = ops.dims(builder, like.tensor, 0, 1)
    cells = ops.dims(builder, like.tensor, like.grid[0], like.grid[0] + grid)
    target = ops.concat(builder, [batch, *([builder.constant(list(features), "features")] if features else []), cells])
    return ScoreMap(builder.emit("Expand", [tensor, target]), features, like.provenance, like.batch_axis)
