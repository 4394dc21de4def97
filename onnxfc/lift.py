"""From one view to another: windows become score maps, fixed tensors get grid axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from onnxfc import emit
from onnxfc.axes import Groups, lengths, places_in
from onnxfc.claim import Boundary
from onnxfc.draft import Draft
from onnxfc.errors import Refusal
from onnxfc.site import Site
from onnxfc.views import Context, Fixed, Index, Placed, ScoreMap, Source, Trace, View, Window, is_map

UNROLLED = 1 << 26
"""Elements that windows unrolled may have at twice the native size: a quarter of a gigabyte in float32."""
ONE_HOT = 1 << 21
"""The same before opset 11, where they are elements of kernels in the file too."""


def channels_first(site: Site, view: Placed) -> tuple[str, int]:
    """A map as (N, C, *spatial): the tensor, and C. Several channel axes become one, in their order."""
    shape = lengths(view.groups)
    channel_axes = _channel_axes(view)
    tensor = emit.transpose(site.draft, view.tensor, [0, *channel_axes, *view.spatial])
    channels = math.prod(shape[axis] for axis in channel_axes)
    if len(channel_axes) != 1:
        first = len(channel_axes) + 1
        sizes = emit.dims(site.draft, tensor, first, first + len(view.spatial))
        tensor = emit.reshape(site.draft, tensor, [0, channels, sizes])
    return tensor, channels


def untransposed(site: Site, view: Placed) -> Placed:
    """The same map before the Transpose nodes that made it channels-last, where there is one channels-first."""
    before = view
    while not before.channels_first:
        node = before.moved_by
        earlier = site.state.views[node.input[0]] if node is not None and node.op_type == "Transpose" else None
        if not is_map(earlier):
            return view
        before = earlier
    return before


def _channel_axes(view: Placed) -> list[int]:
    return [axis for axis in range(1, len(view.groups)) if axis not in view.spatial]


def places_of(view: Placed) -> Index:
    """Each native element's place in the order C, spatial; of the map's native shape without its batch."""
    shape = lengths(view.groups)
    order = [*_channel_axes(view), *view.spatial]
    places = np.arange(math.prod(shape[1:]), dtype=np.int64).reshape([shape[axis] for axis in order])
    return places.transpose(np.argsort(np.array(order) - 1, kind="stable"))


def window_of_map(site: Site, view: Placed) -> Window:
    """A map seen as one native window (N, *native shape)."""
    before = untransposed(site, view)
    tensor, channels = channels_first(site, before)
    windows = view.trace.windows or frozenset({boundary(before)})
    fields = tuple(item.through(length) for item, length in zip(view.fields, view.extent, strict=True))
    trace = replace(view.trace, fields=fields, windows=windows)
    source = Source(tensor, channels, view.extent, (1,) * len(view.extent))
    return Window((source,), places_of(view), trace, trunk=view.trace)


def boundary(view: Placed) -> Boundary:
    """Where the head begins, for the proof."""
    return Boundary(view.original, view.tensor, view.spatial, view.extent, (1,) * len(view.extent))


def bounds_of(site: Site, view: Placed) -> frozenset[Boundary]:
    """Where the head begins if one follows."""
    if not view.is_map:
        return view.bounds
    return view.trace.windows or frozenset({boundary(untransposed(site, view))})


def moved_to(site: Site, view: Placed, groups: Groups) -> Placed:
    """The node's one output, which is ``view`` with its data moved to these axes."""
    name = site.node.output[0]
    made = replace(view, tensor=name, original=name, groups=groups, moved_by=site.node)
    if made.is_map:
        return replace(made, measured=None, bounds=frozenset())
    return replace(made, measured=view.like, bounds=bounds_of(site, view))


def simplest(site: Site, window: Window, name: str = "") -> Window | ScoreMap | Placed:
    """The window as a map, if it is all of one in its own layout; as scores, if it is one element per channel.

    ``name``: the tensor of the original that it stands for.
    """
    source = window.sources[0]
    if not window.plain or window.batch_axis or not window.in_order or set(source.step) != {1}:
        return window
    if set(source.extent) == {1} and window.index.ndim == 1:
        return ScoreMap(source.tensor, window.index.shape, window.trace, window.batch_axis)
    whole = window.index.shape == (source.channels, *source.extent) and window.batch_axis == 0
    if whole and window.trunk is not None and name:
        return site.map_of(name, window.trunk, range(2, 2 + len(source.extent)), source.tensor)
    if whole and name and set(source.extent) == {1}:  # what a pool left, channels first again
        return site.map_of(name, window.trace, range(2, 2 + len(source.extent)), source.tensor)
    return window


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
            cut = emit.common(site.draft, [view.tensor for view in scores], scores[0].grid[0], len(grid))
            return [replace(view, tensor=tensor) for view, tensor in zip(scores, cut, strict=True)]
    return met


def every(site: Site, view: Window | ScoreMap, steps: tuple[int, ...]) -> Window | ScoreMap:
    """Every ``steps``-th cell on each axis."""
    trace = view.trace.every(steps)
    if isinstance(view, ScoreMap):
        tensor = emit.every(site.draft, view.tensor, dict(zip(view.grid, steps, strict=True)))
        return replace(view, tensor=tensor, trace=trace)
    sources = tuple(
        replace(source, step=tuple(a * b for a, b in zip(source.step, steps, strict=True))) for source in view.sources
    )
    return replace(view, sources=sources, trace=trace, trunk=None)


def to_scores(site: Site, view: View) -> ScoreMap | Refusal:
    """Compute a lifted view as a score map over the native window's features."""
    if isinstance(view, ScoreMap):
        return view
    if is_map(view):
        return to_scores(site, window_of_map(site, view))
    if not isinstance(view, Window):
        raise TypeError(f"{type(view).__name__} has no windows")
    if view.batch_axis:
        return site.refuse("mixes-batch", "reads features whose batch is not the first axis")
    most = UNROLLED if site.opset >= 11 else ONE_HOT
    if sum(source.features * math.prod(source.extent) for source in view.sources) > most:
        return site.refuse(
            "window-too-large",
            f"needs the {view.index.size} features of each window one by one, which would take too much memory",
            "only an FC layer can read a window of this size",
        )
    tensor = _gathered(site.draft, view)
    tensor = _shaped(site.draft, tensor, view)
    for op_type, operand in (("Mul", view.scale), ("Add", view.shift)):
        if operand is not None:
            value = np.broadcast_to(operand, view.index.shape).reshape(view.index.shape + (1,) * len(view.trace.fields))
            tensor = site.draft.emit(op_type, [tensor, typed(site.draft, value, tensor)])
    places = any(math.prod(source.extent) > 1 for source in view.sources)
    return ScoreMap(tensor, view.index.shape, replace(view.trace, places=places or view.trace.places), view.batch_axis)


def _gathered(draft: Draft, view: Window) -> str:
    """(N, features, *grid): every source's windows unrolled, then picked in the order of the index."""
    parts = [_unrolled(draft, source) for source in view.sources]
    if len({source.step for source in view.sources}) > 1:
        parts = emit.common(draft, parts, 2, len(view.trace.fields))
    tensor = parts[0] if len(parts) == 1 else draft.emit("Concat", parts, axis=1)
    if view.in_order:
        return tensor
    return draft.emit("Gather", [tensor, draft.constant(view.index.ravel(), "order")], axis=1)


def _unrolled(draft: Draft, source: Source) -> str:
    """(N, C * extent, *grid): axis by axis picked with the places of every window, whatever the element type."""
    if math.prod(source.extent) == 1:
        return emit.every(draft, source.tensor, dict(enumerate(source.step, 2)))
    if draft.graph.opset < 11:
        return _one_hot(draft, source)
    rank, tensor = len(source.extent), source.tensor
    for axis in reversed(range(rank)):  # (N, C, H, W) to (N, C, H, kW, gW) to (N, C, kH, gH, kW, gW)
        places = _places(draft, source, axis)
        tensor = draft.emit("Gather", [tensor, places], axis=2 + axis)
    windows, grid = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    ahead = emit.transpose(draft, tensor, [0, 1, *windows, *grid])
    sizes = emit.dims(draft, ahead, 2 + rank, 2 + 2 * rank)
    return emit.reshape(draft, ahead, [0, source.features, sizes])


def _places(draft: Draft, source: Source, axis: int) -> str:
    """(extent, cells): where on a spatial axis the windows read."""
    length = emit.squeeze(draft, emit.dims(draft, source.tensor, 2 + axis, 3 + axis), [0])
    one = draft.constant(np.array(1 - source.extent[axis], np.int64), "length")
    zero, step = (draft.constant(np.array(item, np.int64), "start") for item in (0, source.step[axis]))
    starts = draft.emit("Range", [zero, draft.emit("Add", [length, one]), step])
    within = np.arange(source.extent[axis], dtype=np.int64)[:, None]
    return draft.emit("Add", [draft.constant(within, "within"), starts])


def _one_hot(draft: Draft, source: Source) -> str:
    """The same by a depthwise Conv, exact for finite floats: Range came with opset 11."""
    kernel = np.tile(np.eye(math.prod(source.extent)), (source.channels, 1)).reshape(-1, 1, *source.extent)
    weight = typed(draft, kernel, source.tensor)
    return draft.emit(
        "Conv",
        [source.tensor, weight],
        group=source.channels,
        kernel_shape=list(source.extent),
        strides=list(source.step),
    )


def _shaped(draft: Draft, tensor: str, view: Window) -> str:
    """Split the one feature axis into the native ones."""
    if view.index.ndim == 1:
        return tensor
    rank = len(view.trace.fields)
    return emit.reshape(draft, tensor, [0, *view.index.shape, emit.dims(draft, tensor, 2, 2 + rank)])


def typed(draft: Draft, value: np.ndarray, like: str) -> str:
    """A constant of a tensor's element type."""
    return draft.constant(value.astype(helper.tensor_dtype_to_np_dtype(draft.spec(like).dtype)), "lifted")


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
    return emit.unsqueeze(site.draft, view.tensor, range(spec.rank, spec.rank + grid))


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
            tensor = emit.slice_axis(site.draft, tensor, axis + site.draft.spec(tensor).rank, 0, 1)
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
    tensor = emit.unsqueeze(draft, view.tensor, range(1 + len(features), 1 + len(features) + grid))
    batch = emit.dims(draft, like.tensor, 0, 1)
    cells = emit.dims(draft, like.tensor, like.grid[0], like.grid[0] + grid)
    target = emit.concat(draft, [batch, *([draft.constant(list(features), "features")] if features else []), cells])
    return ScoreMap(draft.emit("Expand", [tensor, target]), features, like.trace, like.batch_axis)
