"""Global pools in all their spellings, and pools of the trunk that cover the native map.

A global pool over the trunk is a window: the native window's pool with stride 1 (``window``), or it stays global
(``keep``), or it goes (``drop``). One that rejoins its trunk is context and stays global whatever the option.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.errors import Refusal
from onnxfc.graph.op_kinds import FLOATS
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.head.windows import boundary, channels_first, places_of, simplest, untransposed, window_of_map
from onnxfc.layout.axes import channels, pure
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Index, Placed, Source, View, Window
from onnxfc.rules.context_sums import strip, whole_image
from onnxfc.rules.registry import PLACED, rule

_POOLED = (
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"),
)
KINDS = {op: op.removeprefix("Global").removeprefix("Reduce").removesuffix("Pool") for op in _POOLED}
KINDS["ReduceMean"] = "Average"
"""What an operator makes of each window."""
PARTIAL = {"ReduceMean", "ReduceMax", "ReduceSum"}


@rule("GlobalAveragePool", "GlobalMaxPool", on=PLACED)
def global_pool_operator(ctx: RuleContext) -> Outcome | None:
    """GlobalAveragePool of the native window is AveragePool h x w at stride 1: (N, C, *spatial) to (N, C, 1, ...).

    https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html
    """
    view = ctx.placed_in()
    if not view.apart:
        return pooled_in_part(ctx) if view.is_strip else within_tiles(ctx, view)
    if min(view.spatial) < 2 or (view.is_map and not view.channels_first):
        return ctx.refuse("layout", "pools over axes that are not the image's")
    if view.is_strip:
        return strip(ctx, view, view.spatial, keepdims=True)
    return global_pool(ctx, view, KINDS[ctx.op_type], keepdims=True)


def within_tiles(ctx: RuleContext, view: Placed) -> Outcome | None:
    """A kernel or a pool over images that are places, as tiles are that were laid into the batch; None elsewhere."""
    if not ctx.only_first or not all(pure(group) for group in view.groups[1:]):
        return None
    ctx.keep()
    own = (view.groups[0], *map(channels, ctx.shape_out()[1:]))
    return [view.output(ctx.node.output[0], groups=own)]


def global_pool(ctx: RuleContext, view: Placed, kind: str, keepdims: bool) -> Outcome:
    """One pool over the whole native window, by the option or as context."""
    extent = view.extent
    if ctx.role == "context" or (ctx.state.global_pool == "keep" and not view.provenance.windows):
        return _kept_global(ctx, view)
    if ctx.weighs_image(view):
        return ctx.weighed_over_image()
    if kind != "Max" and ctx.builder.spec(view.tensor).dtype not in FLOATS:
        return ctx.refuse(
            "unsupported-reduction", "works on integers, of which onnxruntime has no average over windows"
        )
    source = untransposed(ctx, view)
    if ctx.state.global_pool == "drop" and not view.provenance.windows:
        if kind != "Average":
            return ctx.refuse("drop-not-affine", "is no average: its map has no scores", "use --global-pool window")
        provenance = replace(view.provenance, dropped=True)
        tensor = channels_first(ctx, source)[0]
    else:
        tensor = window_pool(ctx, channels_first(ctx, source)[0], extent, kind)
        fields = tuple(item.through(length) for item, length in zip(view.provenance.fields, extent, strict=True))
        provenance = replace(view.provenance, fields=fields)
    windows = provenance.windows or frozenset({boundary(ctx, source)})
    provenance = replace(provenance, windows=windows).behind(ctx.name)
    ctx.replaced(f"{ctx.op_type} {'x'.join(map(str, extent))}", _after(ctx, kind, extent, provenance))
    return [_pooled(ctx, view, tensor, provenance, keepdims)]


def _after(ctx: RuleContext, kind: str, extent: tuple[int, ...], provenance: Provenance) -> str:
    if provenance.dropped:
        return "no pool"
    return f"{pool_name(kind)} {'x'.join(map(str, extent))}, stride 1"


def _kept_global(ctx: RuleContext, view: Placed) -> Outcome:
    """The same vector from an image of any size."""
    keepdims = ctx.op_type != "Einsum" and bool(ctx.attrs.get("keepdims", 1))
    made = whole_image(ctx, view, view.spatial, keepdims)
    if isinstance(made, Refusal):
        return made
    # By its own places: a head begins before that. A count grows with features that are repeated.
    weighed = ctx.weighs_image(view) or ctx.name in ctx.state.roles.plain
    if ctx.role != "context" and not weighed and len(view.spatial) == ctx.state.rank:
        made = replace(made, provenance=replace(made.provenance, windows=frozenset({boundary(ctx, view)})))
    return [made]


def window_pool(ctx: RuleContext, tensor: str, extent: tuple[int, ...], kind: str) -> str:
    """A pool with stride 1 over ``extent`` of a channels-first map; norms and sums by way of the average."""
    builder, instead = ctx.builder, ctx.node
    if kind in {"L1", "Min"}:
        tensor = builder.emit("Abs" if kind == "L1" else "Neg", [tensor])
    elif kind in {"L2", "SumSquare"}:
        tensor = builder.emit("Mul", [tensor, tensor])
    pooled = tensor
    for kernel in _steps(ctx, tensor, extent, kind):
        pooled = builder.emit(
            pool_name(kind), [pooled], instead=instead, kernel_shape=kernel, strides=[1] * len(extent)
        )
    if kind not in {"Average", "Max", "Min"}:
        pooled = builder.emit("Mul", [pooled, ops.scalar(builder, float(np.prod(extent)), pooled)])
    last = {"L2": "Sqrt", "LogSum": "Log", "Min": "Neg"}.get(kind)
    return builder.emit(last, [pooled]) if last else pooled


def _steps(ctx: RuleContext, tensor: str, extent: tuple[int, ...], kind: str) -> list[list[int]]:
    """The kernels of a pool: one, or one for each axis where the mean over a large window would take long.

    From opset 19 on onnxruntime's AveragePool adds up every window anew, one number at a time (1000 windows of 13x13 on
    26x26: 93 ms, opset 18 takes 0.8 ms, two steps 11 ms), unless the channels fill blocks of 16.
    """
    slow = kind not in {"Max", "Min"} and ctx.builder.graph.opset >= 19 and ctx.builder.spec(tensor).native[1] % _BLOCK
    if not slow or math.prod(extent) <= _LARGE:
        return [list(extent)]
    rank = len(extent)
    wide = [axis for axis in reversed(range(rank)) if extent[axis] > 1]
    return [[extent[axis] if axis == place else 1 for axis in range(rank)] for place in wide]


_BLOCK, _LARGE = 16, 36
"""Channels of a block of onnxruntime's own layout; elements of a window that are summed up quickly in any case."""


def _pooled(ctx: RuleContext, view: Placed, tensor: str, provenance: Provenance, keepdims: bool) -> View:
    """The pool's output: as a map whose extent is the grid where that is its layout, else as scores."""
    rank, name = len(ctx.shape_in()), ctx.node.output[0]
    first = view.spatial == tuple(range(2, rank)) and rank == 2 + len(view.spatial)
    if keepdims and first:
        return ctx.map_of(name, provenance, view.spatial, tensor)
    channels = int(np.prod(ctx.shape_out()[1:], dtype=np.int64))
    source = Source.of_cells(tensor, channels, len(view.spatial))
    index = np.arange(channels).reshape(ctx.shape_out()[1:])
    return simplest(ctx, Window((source,), index, provenance))


def partial_pool(ctx: RuleContext, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A pool over some of the spatial axes: the rest of the window is still to come."""
    if ctx.role != "context" and ctx.state.global_pool == "drop":
        return ctx.refuse("partial-pool", "pools only one of the spatial axes", "use --global-pool window")
    if ctx.role == "context" or ctx.state.global_pool == "keep":
        return strip(ctx, view, axes, keepdims)
    window = window_of_map(ctx, view)
    source = window.sources[0]
    kernel = tuple(length if axis in axes else 1 for axis, length in zip(view.spatial, source.extent, strict=True))
    tensor = window_pool(ctx, source.tensor, kernel, KINDS[ctx.op_type])
    rest = tuple(1 if axis in axes else length for axis, length in zip(view.spatial, source.extent, strict=True))
    places = _first_of_each(places_of(view), axes, source.extent, rest)
    if not keepdims:
        places = places.squeeze(tuple(axis - 1 for axis in axes))
    provenance = window.provenance.behind(ctx.name)
    ctx.replaced(f"{ctx.op_type} {'x'.join(map(str, kernel))}", f"pool {'x'.join(map(str, kernel))}, stride 1")
    pooled = replace(source, tensor=tensor, extent=rest)
    return [simplest(ctx, Window((pooled,), places, provenance))]


def _first_of_each(places: Index, axes: list[int], extent: tuple[int, ...], rest: tuple[int, ...]) -> Index:
    """The places in the pooled map, from those in the map: pooled axes have extent 1."""
    kept = places.take([0], axis=axes[0] - 1)
    for axis in axes[1:]:
        kept = kept.take([0], axis=axis - 1)
    channel, *where = np.unravel_index(kept, (int(places.size) // math.prod(extent), *extent))
    return np.asarray(np.ravel_multi_index((channel, *where), (int(channel.max()) + 1, *rest)))


def pool_name(kind: str) -> str:
    return "MaxPool" if kind in {"Max", "Min"} else "AveragePool"
