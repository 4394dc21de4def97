"""From one view to another: a map as a window, a window as scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import helper

from onnxfc.builder import ops
from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.builder.rule_context import RuleContext
from onnxfc.claim.claim import Boundary
from onnxfc.errors import Refusal
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import READABLE, perm_of
from onnxfc.layout.axes import Groups, lengths
from onnxfc.layout.views import Index, Placed, ScoreMap, Source, View, Window, is_map
from onnxfc.shapes.spec import Array

UNROLLED = 1 << 26
"""Elements that windows unrolled may have at twice the native size: a quarter of a gigabyte in float32."""
ONE_HOT = 1 << 21
"""The same before opset 11, where they are elements of kernels in the file too."""


def channels_first(ctx: RuleContext, view: Placed) -> tuple[str, int]:
    """A map as (N, C, *spatial): the tensor, and C. Several channel axes become one, in their order."""
    shape = lengths(view.groups)
    channel_axes = _channel_axes(view)
    tensor = ops.transpose(ctx.builder, view.tensor, [0, *channel_axes, *view.spatial])
    channels = math.prod(shape[axis] for axis in channel_axes)
    if len(channel_axes) != 1:
        first = len(channel_axes) + 1
        sizes = ops.dims(ctx.builder, tensor, first, first + len(view.spatial))
        tensor = ops.reshape(ctx.builder, tensor, [0, channels, sizes])
    return tensor, channels


def untransposed(ctx: RuleContext, view: Placed) -> Placed:
    """The same map before the Transpose nodes that made it channels-last, where there is one channels-first."""
    before = view
    while not before.channels_first:
        node = before.moved_by
        earlier = ctx.state.views[node.input[0]] if node is not None and node.op_type == "Transpose" else None
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


def window_of_map(ctx: RuleContext, view: Placed) -> Window:
    """A map seen as one native window (N, *native shape)."""
    coarser = _of_coarser(ctx, view)
    if coarser is not None:
        return coarser
    before = untransposed(ctx, view)
    tensor, channels = channels_first(ctx, before)
    windows = view.provenance.windows or frozenset({boundary(ctx, before)})
    fields = tuple(item.through(length) for item, length in zip(view.fields, view.extent, strict=True))
    provenance = replace(view.provenance, fields=fields, windows=windows)
    source = Source(tensor, channels, view.extent, (1,) * len(view.extent))
    return Window((source,), places_of(view), provenance, trunk=view.provenance)


def _of_coarser(ctx: RuleContext, view: Placed) -> Window | None:
    """The window of the map from which finer places were made, a fraction of a pixel apart, as its data was moved: of
    columns that stay, laid within each free row."""
    node = view.moved_by
    before = ctx.state.views[node.input[0]] if node is not None else None
    if node is None or not is_map(before) or all(field.stride == int(field.stride) for field in view.fields):
        return None
    window = window_of_map(ctx, before)
    index, shape = window.index, lengths(view.groups)[1:]
    if node.op_type == "Transpose":
        perm = perm_of(attributes(node), index.ndim + 1)
        index = index[None].transpose(perm)[0]
    if math.prod(shape) != index.size:  # some of it was laid into the batch
        return None
    return replace(window, index=index.reshape(shape))


def boundary(ctx: RuleContext, view: Placed) -> Boundary:
    """Where the head begins, for the proof: at the integers, where the map is made of some."""
    node = ctx.state.graph.producers.get(view.original)
    integers = ctx.state.views[node.input[0]] if node is not None and node.op_type == "DequantizeLinear" else None
    if is_map(integers) and ctx.native(integers.original).dtype in READABLE:
        return boundary(ctx, integers)
    return Boundary(view.original, view.tensor, view.spatial, view.extent, (1,) * len(view.extent))


def bounds_of(ctx: RuleContext, view: Placed) -> frozenset[Boundary]:
    """Where the head begins if one follows."""
    if not view.is_map:
        return view.bounds
    return view.provenance.windows or frozenset({boundary(ctx, untransposed(ctx, view))})


def moved_to(ctx: RuleContext, view: Placed, groups: Groups) -> Placed:
    """The node's one output, which is ``view`` with its data moved to these axes."""
    made = view.output(ctx.node.output[0], groups=groups, moved_by=ctx.node)
    if made.is_map:
        return replace(made, measured=None, bounds=frozenset())
    return replace(made, measured=view.like, bounds=bounds_of(ctx, view))


def simplest(ctx: RuleContext, window: Window, name: str = "") -> Window | ScoreMap | Placed:
    """The window as a map, if it is all of one in its own layout; as scores, if it is one element per channel.

    ``name``: the tensor of the original that it stands for.
    """
    source = window.sources[0]
    if not window.plain or window.batch_axis or not window.in_order or set(source.step) != {1}:
        return window
    if set(source.extent) == {1} and window.index.ndim == 1:
        return ScoreMap(source.tensor, window.index.shape, window.provenance, window.batch_axis)
    whole = window.index.shape == (source.channels, *source.extent) and window.batch_axis == 0
    if whole and window.trunk is not None and name:
        return ctx.map_of(name, window.trunk, range(2, 2 + len(source.extent)), source.tensor)
    if whole and name and set(source.extent) == {1}:  # what a pool left, channels first again
        return ctx.map_of(name, window.provenance, range(2, 2 + len(source.extent)), source.tensor)
    return window


def to_scores(ctx: RuleContext, view: View) -> ScoreMap | Refusal:
    """Compute a lifted view as a score map over the native window's features."""
    if isinstance(view, ScoreMap):
        return view
    if is_map(view):
        return to_scores(ctx, window_of_map(ctx, view))
    if not isinstance(view, Window):
        raise TypeError(f"{type(view).__name__} has no windows")
    if view.batch_axis:
        return ctx.refuse("mixes-batch", "reads features whose batch is not the first axis")
    most = UNROLLED if ctx.opset >= 11 else ONE_HOT
    if sum(source.features * math.prod(source.extent) for source in view.sources) > most:
        return ctx.refuse(
            "window-too-large",
            f"needs the {view.index.size} features of each window one by one, which would take too much memory",
            "only an FC layer can read a window of this size",
        )
    tensor = _gathered(ctx.builder, view)
    tensor = _shaped(ctx.builder, tensor, view)
    for op_type, operand in (("Mul", view.scale), ("Add", view.shift)):
        if operand is not None:
            value = np.broadcast_to(operand, view.index.shape).reshape(
                view.index.shape + (1,) * len(view.provenance.fields)
            )
            tensor = ctx.builder.emit(op_type, [tensor, typed(ctx.builder, value, tensor)])
    places = any(math.prod(source.extent) > 1 for source in view.sources)
    return ScoreMap(
        tensor, view.index.shape, replace(view.provenance, places=places or view.provenance.places), view.batch_axis
    )


def _gathered(builder: GraphBuilder, view: Window) -> str:
    """(N, features, *grid): every source's windows unrolled, then picked in the order of the index."""
    parts = [_unrolled(builder, source) for source in view.sources]
    if len({source.step for source in view.sources}) > 1:
        grid = range(2, 2 + len(view.provenance.fields))
        parts = ops.common(builder, [(part, grid) for part in parts])
    tensor = parts[0] if len(parts) == 1 else builder.emit("Concat", parts, axis=1)
    if view.in_order:
        return tensor
    return builder.emit("Gather", [tensor, builder.constant(view.index.ravel(), "order")], axis=1)


def _unrolled(builder: GraphBuilder, source: Source) -> str:
    """(N, C * extent, *grid): axis by axis picked with the places of every window, whatever the element type."""
    if math.prod(source.extent) == 1:
        return ops.every(builder, source.tensor, dict(enumerate(source.step, 2)))
    if builder.graph.opset < 11:
        return _one_hot(builder, source)
    rank, tensor = len(source.extent), source.tensor
    for axis in reversed(range(rank)):  # (N, C, H, W) to (N, C, H, kW, gW) to (N, C, kH, gH, kW, gW)
        places = _places(builder, source, axis)
        tensor = builder.emit("Gather", [tensor, places], axis=2 + axis)
    windows, grid = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    ahead = ops.transpose(builder, tensor, [0, 1, *windows, *grid])
    sizes = ops.dims(builder, ahead, 2 + rank, 2 + 2 * rank)
    return ops.reshape(builder, ahead, [0, source.features, sizes])


def _places(builder: GraphBuilder, source: Source, axis: int) -> str:
    """(extent, cells): where on a spatial axis the windows read."""
    length = ops.squeeze(builder, ops.dims(builder, source.tensor, 2 + axis, 3 + axis), [0])
    one = builder.constant(np.array(1 - source.extent[axis], np.int64), "length")
    zero, step = (builder.constant(np.array(item, np.int64), "start") for item in (0, source.step[axis]))
    starts = builder.emit("Range", [zero, builder.emit("Add", [length, one]), step])
    within = np.arange(source.extent[axis], dtype=np.int64)[:, None]
    return builder.emit("Add", [builder.constant(within, "within"), starts])


def _one_hot(builder: GraphBuilder, source: Source) -> str:
    """The same by a depthwise Conv, exact for finite floats: Range came with opset 11."""
    kernel = np.tile(np.eye(math.prod(source.extent)), (source.channels, 1)).reshape(-1, 1, *source.extent)
    weight = typed(builder, kernel, source.tensor)
    return builder.emit(
        "Conv",
        [source.tensor, weight],
        group=source.channels,
        kernel_shape=list(source.extent),
        strides=list(source.step),
    )


def _shaped(builder: GraphBuilder, tensor: str, view: Window) -> str:
    """Split the one feature axis into the native ones."""
    if view.index.ndim == 1:
        return tensor
    rank = len(view.provenance.fields)
    return ops.reshape(builder, tensor, [0, *view.index.shape, ops.dims(builder, tensor, 2, 2 + rank)])


def typed(builder: GraphBuilder, value: np.ndarray, like: str) -> str:
    """A constant of a tensor's element type."""
    return builder.constant(value.astype(helper.tensor_dtype_to_np_dtype(builder.spec(like).dtype)), "lifted")


def affine(view: Window, scale: Array | None, shift: Array | None) -> Window:
    """The window followed by x * scale + shift, of the index's shape, in float64."""
    if scale is not None:
        view = replace(
            view,
            scale=scale if view.scale is None else view.scale * scale,
            shift=None if view.shift is None else view.shift * scale,
        )
    if shift is not None:
        view = replace(view, shift=shift if view.shift is None else view.shift + shift)
    return view


def whole_channels(view: Window, axes: Sequence[int]) -> Index | None:
    """The channels whose whole windows lie along ``axes`` (of the index), last, for each other feature.

    None where it is anything else.
    """
    if not view.plain or view.batch_axis or set(view.sources[0].step) != {1}:
        return None
    length = math.prod(view.sources[0].extent)
    rows = np.moveaxis(view.index, axes, range(-len(axes), 0))
    rows = np.sort(rows.reshape(*rows.shape[: view.index.ndim - len(axes)], -1), axis=-1)
    if rows.shape[-1] % length:
        return None
    rows = rows.reshape(*rows.shape[:-1], -1, length)
    first = rows[..., :1]
    whole = bool(np.all(first % length == 0)) and bool(np.all(rows - first == np.arange(length)))
    return rows[..., 0] // length if whole else None
