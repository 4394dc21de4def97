"""Figures of the whole image that windows turn out to hold: sums by a uniform weight, reductions of whole channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfc.analysis.normalised_sums import Scale, rescaled, scale_of, weighs
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.errors import Refusal
from onnxfc.head.windows import whole_channels
from onnxfc.layout.axes import Groups
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Share, Trace
from onnxfc.layout.views import Context, Index, Placed, Window
from onnxfc.shapes.spec import Array


def of_image(site: Site, trace: Trace) -> Context:
    """The node's output as a figure of the whole image."""
    trace = replace(trace.tainted(site.taint("context")), fields=(Field(),) * site.state.rank)
    return Context(site.node.output[0], replace(trace, pools=trace.pools | {site.name}))


def window_as_context(site: Site, view: Window, channels: Index, op_type: str = "") -> Outcome:
    """The reduction of whole channels, each feature's own, over the map that the window is of."""
    if view.trunk is None:
        return site.refuse("unsupported-reduction", "pools something else than a map")
    rows, count = _rows(site, view, channels)
    made = site.draft.fresh(f"{site.node.output[0]}_reduced")
    scale = scale_of(site, view.trunk, rows, [2], range(len(view.trunk.fields)))
    if not rescaled(site, scale, rows, [2], False, count, made):
        ops.reduce(site.draft, op_type or site.op_type, rows, [2], False, made, site.node)
    ops.reshape(site.draft, made, [0, *site.shape_out()[1:]], site.node.output[0])
    return [of_image(site, view.trunk)]


def _rows(site: Site, view: Window, channels: Index) -> tuple[str, int]:
    """(N, features, all elements of their channels), and how many these are natively."""
    source = view.sources[0]
    tensor, taken = source.tensor, channels.ravel()
    if not np.array_equal(taken, np.arange(source.channels)):
        tensor = site.draft.emit("Gather", [tensor, site.draft.constant(taken, "channels")], axis=1)
    features = taken.size // channels.shape[-1]
    return ops.reshape(site.draft, tensor, [0, features, -1]), channels.shape[-1] * math.prod(source.extent)


@dataclass(frozen=True)
class Even:
    """A product with a constant that is the same at all places: the sum of ``channels``, once each.

    ``factor``: what the weights of the places amount to natively. ``mean``: shape that the mean has for the product.
    """

    view: Window
    channels: Index
    factor: Array
    mean: tuple[int, ...]


def even_matmul(site: Site, at: int) -> Even | None:
    """A MatMul whose input ``at`` is summed over places alike; None elsewhere."""
    view, weight = site.views[at], site.weights(site.node.input[1 - at])
    if not isinstance(view, Window) or weight is None or weight.ndim > 2:
        return None
    axis, summed = view.index.ndim - 1 - at, weight.ndim - 1 if at else 0
    rest = [length for place, length in enumerate(view.index.shape) if place != axis]
    if weight.ndim == 2:
        rest.insert(axis, 1)
    return _even(view, [axis], weight, (summed,), rest)


def even_einsum(site: Site, at: int, view: Window, axes: Sequence[int]) -> Even | None:
    """An Einsum that sums ``axes`` (of the index) with nothing but the places' common weight; None elsewhere."""
    weight = site.weights(site.node.input[1 - at])
    if weight is None or len(axes) != weight.ndim or min(axes, default=-1) < 0:
        return None
    rest = [length for place, length in enumerate(view.index.shape) if place not in axes]
    return _even(view, axes, weight, tuple(range(weight.ndim)), rest)


def _even(
    view: Window, axes: Sequence[int], weight: Array, summed: tuple[int, ...], mean: Sequence[int]
) -> Even | None:
    channels = whole_channels(view, axes)
    if channels is None or view.trunk is None or view.trunk.shares or math.prod(view.sources[0].extent) == 1:
        return None
    first = weight
    for axis in summed:
        first = first.take([0], axis=axis)
    if not bool(np.all(weight == first)):
        return None
    factor = weight.sum(axis=summed, keepdims=weight.ndim > len(summed), dtype=np.float64).astype(weight.dtype)
    return Even(view, channels, np.asarray(factor), tuple(mean))


def even_as_context(site: Site, found: Even) -> Outcome:
    """The mean over all places, times what the weights amount to natively."""
    assert found.view.trunk is not None
    mean = ops.reduce(site.draft, "ReduceMean", _rows(site, found.view, found.channels)[0], [2], False)
    shaped = ops.reshape(site.draft, mean, [0, *found.mean])
    times = site.draft.constant(found.factor, "factor")
    site.draft.emit("Mul", [shaped, times], site.node.output[0], instead=site.node)
    return [of_image(site, found.view.trunk)]


def strip(site: Site, view: Placed, axes: Sequence[int], keepdims: bool) -> Outcome:
    """A pool over some of the axes that follow the image, as context; over all that are left of them it is global."""
    weighed = weighs(site, view.trace, [axis for axis in axes if axis in view.spatial])
    kept_head = site.role != "context" and site.state.global_pool == "keep" and not weighed
    scale = "same" if weighed else scale_along(site, view, axes)
    if any(axis in view.spatial and site.shape_in()[axis] == 1 for axis in axes):
        return site.refuse("partial-pool", "pools an axis on which the native map has one place")
    if kept_head and scale != "same":
        return follows_size(site, scale)
    if rescaled(site, scale, view.tensor, axes, keepdims):
        pass
    elif site.op_type in {"AveragePool", "MaxPool"}:
        kind = "ReduceMax" if site.op_type == "MaxPool" else "ReduceMean"
        ops.reduce(site.draft, kind, view.tensor, axes, True, site.node.output[0], site.node)
    else:
        site.keep([view.tensor, *site.tensors_from(1)])
    trace = replace(view.trace.tainted(site.taint("context")), pools=view.trace.pools | {site.name})
    trace, name = replace(trace, shares=_shares_left(view, axes)), site.node.output[0]
    if all(axis in axes for axis in view.spatial):
        if kept_head:
            site.replaced(site.op_type, "kept global")
        return [Context(name, replace(trace, fields=(Field(),) * site.state.rank))]
    return [Placed(name, name, left_of(view, axes, keepdims), trace, view.like)]


def left_of(view: Placed, axes: Sequence[int], keepdims: bool) -> Groups:
    """The axes behind a reduction."""
    return tuple(() if k in axes else group for k, group in enumerate(view.groups) if keepdims or k not in axes)


def follows_size(site: Site, scale: Scale) -> Refusal:
    why = "a sum, which grows" if scale == "grows" else "a mean of what sums up to 1, which shrinks"
    return site.refuse("sum-over-image", f"is {why} with the image", "use --global-pool window")


def _shares_left(view: Placed, axes: Sequence[int]) -> frozenset[Share]:
    """The shares along places that were not summed up."""
    gone = set(_along(view, axes))
    return frozenset((name, place) for name, place in view.trace.shares if max(place, ~place) not in gone)


def weighed_apart(site: Site) -> Refusal:
    """A sum of what a Softmax over other places has shared out: how it grows with the image cannot be told."""
    return site.refuse("softmax-over-space", "sums up what was weighed over the places of the native size")


def scale_along(site: Site, view: Placed, axes: Sequence[int]) -> Scale:
    """How a reduction of a map follows the image's size."""
    return scale_of(site, view.trace, view.tensor, axes, _along(view, axes))


def _along(view: Placed, axes: Sequence[int]) -> list[int]:
    """Which axes of the image these are; of strips end to end none is."""
    return [place for place, axis in view.where.items() if axis in axes]


def trace_summed(site: Site, trace: Trace) -> Trace:
    """The trace of a reduction's result: with fewer features than a window has places, these were summed up."""
    most = max((math.prod(item.extent) for item in trace.windows), default=1)
    return replace(trace, places=trace.places and math.prod(site.shape_out()[1:]) >= most)
