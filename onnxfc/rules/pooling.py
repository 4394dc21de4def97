"""Global pools in all their spellings, and pools of the trunk that cover the native map.

A global pool over the trunk is a window: the native window's pool with stride 1 (``window``), or it stays global
(``keep``), or it goes (``drop``). One that rejoins its trunk is context and stays global whatever the option.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxfc.analysis.normalised_sums import FLOATS, in_part, rescaled
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.head.windows import boundary, channels_first, places_of, simplest, untransposed, window_of_map
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Context, Index, Placed, Source, View, Window
from onnxfc.rules.context_sums import follows_size, scale_along, strip
from onnxfc.rules.registry import PLACED, rule

POOLS = {"GlobalAveragePool": "Average", "GlobalMaxPool": "Max", "ReduceMean": "Average", "ReduceMax": "Max"}
POOLS |= {"AveragePool": "Average", "MaxPool": "Max", "ReduceSum": "Sum", "ReduceMin": "Min", "ReduceL1": "L1"}
POOLS |= {"ReduceL2": "L2", "ReduceSumSquare": "SumSquare", "ReduceLogSum": "LogSum"}
PARTIAL = {"ReduceMean", "ReduceMax", "ReduceSum"}


@rule("GlobalAveragePool", "GlobalMaxPool", on=PLACED)
def global_pool_operator(site: Site) -> Outcome | None:
    """(N, C, *spatial) to (N, C, 1, ...). https://onnx.ai/onnx/operators/onnx__GlobalAveragePool.html"""
    view = site.placed_in()
    if not view.apart:
        return pooled_in_part(site) if view.is_strip else None
    if min(view.spatial) < 2 or (view.is_map and not view.channels_first):
        return site.refuse("layout", "pools over axes that are not the image's")
    if view.is_strip:
        return strip(site, view, view.spatial, keepdims=True)
    return global_pool(site, view, POOLS[site.op_type], keepdims=True)


def global_pool(site: Site, view: Placed, kind: str, keepdims: bool) -> Outcome:
    """One pool over the whole native window, by the option or as context."""
    extent = view.extent
    if site.role == "context" or (site.state.global_pool == "keep" and not view.trace.windows):
        return _kept_global(site, view, kind, extent)
    if kind != "Max" and site.draft.spec(view.tensor).dtype not in FLOATS:
        return site.refuse(
            "unsupported-reduction", "works on integers, of which onnxruntime has no average over windows"
        )
    source = untransposed(site, view)
    if site.state.global_pool == "drop" and not view.trace.windows:
        if kind != "Average":
            return site.refuse("drop-not-affine", "is no average: its map has no scores", "use --global-pool window")
        trace = replace(view.trace, dropped=True)
        tensor = channels_first(site, source)[0]
    else:
        tensor = window_pool(site, channels_first(site, source)[0], extent, kind)
        fields = tuple(item.through(length) for item, length in zip(view.trace.fields, extent, strict=True))
        trace = replace(view.trace, fields=fields)
    windows = trace.windows or frozenset({boundary(source)})
    trace = replace(trace, windows=windows, pools=trace.pools | {site.name})
    site.replaced(f"{site.op_type} {'x'.join(map(str, extent))}", _after(site, kind, extent, trace))
    return [_pooled(site, view, tensor, trace, keepdims)]


def _after(site: Site, kind: str, extent: tuple[int, ...], trace: Trace) -> str:
    if trace.dropped:
        return "no pool"
    return f"{pool_name(kind)} {'x'.join(map(str, extent))}, stride 1"


def _kept_global(site: Site, view: Placed, kind: str, extent: tuple[int, ...]) -> Outcome:
    """The same vector from an image of any size."""
    doubt = in_part(site, [view.trace], view.tensor, view.spatial)
    if doubt is not None:
        return doubt
    scale, keepdims = (
        scale_along(site, view, view.spatial),
        site.op_type != "Einsum" and bool(site.attrs.get("keepdims", 1)),
    )
    if site.role != "context" and scale != "same":
        return follows_size(site, scale)
    if rescaled(site, scale, view.tensor, view.spatial, keepdims):
        pass
    elif site.op_type in {"AveragePool", "MaxPool"}:
        site.draft.emit(f"Global{kind}Pool", [view.tensor], site.node.output[0], instead=site.node)
    else:
        site.keep()
    trace = replace(view.trace.tainted(site.taint("context")), fields=(Field(),) * site.state.rank)
    if site.role != "context":
        site.replaced(site.op_type, "kept global")
        whole = site.op_type not in {"AveragePool", "MaxPool"}  # these are global at the native size only
        weighed = any(place >= 0 for _, place in view.trace.shares)  # by its own places: a head begins before that
        if whole and not weighed and len(view.spatial) == site.state.rank:
            trace = replace(trace, windows=frozenset({boundary(view)}))
    return [Context(site.node.output[0], replace(trace, pools=trace.pools | {site.name}))]


def window_pool(site: Site, tensor: str, extent: tuple[int, ...], kind: str) -> str:
    """A pool with stride 1 over ``extent`` of a channels-first map; norms and sums by way of the average."""
    draft, instead = site.draft, site.node
    if kind in {"L1", "Min"}:
        tensor = draft.emit("Abs" if kind == "L1" else "Neg", [tensor])
    elif kind in {"L2", "SumSquare"}:
        tensor = draft.emit("Mul", [tensor, tensor])
    pooled = tensor
    for kernel in _steps(site, tensor, extent, kind):
        pooled = draft.emit(pool_name(kind), [pooled], instead=instead, kernel_shape=kernel, strides=[1] * len(extent))
    if kind not in {"Average", "Max", "Min"}:
        pooled = draft.emit("Mul", [pooled, ops.scalar(draft, float(np.prod(extent)), pooled)])
    last = {"L2": "Sqrt", "LogSum": "Log", "Min": "Neg"}.get(kind)
    return draft.emit(last, [pooled]) if last else pooled


def _steps(site: Site, tensor: str, extent: tuple[int, ...], kind: str) -> list[list[int]]:
    """The kernels of a pool: one, or one for each axis where the mean over a large window would take long.

    From opset 19 on onnxruntime's AveragePool adds up every window anew, one number at a time (1000 windows of 13x13 on
    26x26: 93 ms, opset 18 takes 0.8 ms, two steps 11 ms), unless the channels fill blocks of 16.
    """
    slow = kind not in {"Max", "Min"} and site.draft.graph.opset >= 19 and site.draft.spec(tensor).native[1] % _BLOCK
    if not slow or math.prod(extent) <= _LARGE:
        return [list(extent)]
    rank = len(extent)
    wide = [axis for axis in reversed(range(rank)) if extent[axis] > 1]
    return [[extent[axis] if axis == place else 1 for axis in range(rank)] for place in wide]


_BLOCK, _LARGE = 16, 36
"""Channels of a block of onnxruntime's own layout; elements of a window that are summed up quickly in any case."""


def _pooled(site: Site, view: Placed, tensor: str, trace: Trace, keepdims: bool) -> View:
    """The pool's output: as a map whose extent is the grid where that is its layout, else as scores."""
    rank, name = len(site.shape_in()), site.node.output[0]
    first = view.spatial == tuple(range(2, rank)) and rank == 2 + len(view.spatial)
    if keepdims and first:
        return site.map_of(name, trace, view.spatial, tensor)
    channels = int(np.prod(site.shape_out()[1:], dtype=np.int64))
    source = Source.of_cells(tensor, channels, len(view.spatial))
    index = np.arange(channels).reshape(site.shape_out()[1:])
    return simplest(site, Window((source,), index, trace))


def partial_pool(site: Site, view: Placed, axes: list[int], keepdims: bool) -> Outcome:
    """A pool over some of the spatial axes: the rest of the window is still to come."""
    if site.role != "context" and site.state.global_pool == "drop":
        return site.refuse("partial-pool", "pools only one of the spatial axes", "use --global-pool window")
    if site.role == "context" or site.state.global_pool == "keep":
        return strip(site, view, axes, keepdims)
    window = window_of_map(site, view)
    source = window.sources[0]
    kernel = tuple(length if axis in axes else 1 for axis, length in zip(view.spatial, source.extent, strict=True))
    tensor = window_pool(site, source.tensor, kernel, POOLS[site.op_type])
    rest = tuple(1 if axis in axes else length for axis, length in zip(view.spatial, source.extent, strict=True))
    places = _first_of_each(places_of(view), axes, source.extent, rest)
    if not keepdims:
        places = places.squeeze(tuple(axis - 1 for axis in axes))
    trace = replace(window.trace, pools=window.trace.pools | {site.name})
    site.replaced(f"{site.op_type} {'x'.join(map(str, kernel))}", f"pool {'x'.join(map(str, kernel))}, stride 1")
    pooled = replace(source, tensor=tensor, extent=rest)
    return [simplest(site, Window((pooled,), places, trace))]


def _first_of_each(places: Index, axes: list[int], extent: tuple[int, ...], rest: tuple[int, ...]) -> Index:
    """The places in the pooled map, from those in the map: pooled axes have extent 1."""
    kept = places.take([0], axis=axes[0] - 1)
    for axis in axes[1:]:
        kept = kept.take([0], axis=axis - 1)
    channel, *where = np.unravel_index(kept, (int(places.size) // math.prod(extent), *extent))
    return np.asarray(np.ravel_multi_index((channel, *where), (int(channel.max()) + 1, *rest)))


def pool_name(kind: str) -> str:
    return "MaxPool" if kind in {"Max", "Min"} else "AveragePool"
