"""Operators of the spatial part: Conv, pools, Pad, normalisations over channels.

They stay as they are; what changes is what an element reads of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxfc import emit
from onnxfc.errors import Refusal
from onnxfc.graph import label
from onnxfc.receptive_field import Field
from onnxfc.rules.pooling import global_pool, partial_pool, strip
from onnxfc.rules.sisters import PADDED, contiguous, sisters
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, extent_of
from onnxfc.views import Fixed, Map, Strip, Taint, Trace

WINDOWED = (*("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "p", "pads"),)


@dataclass(frozen=True)
class Sliding:
    """Kernel, strides, dilations and native pads of a Conv or pool, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    frozen: bool

    def on(self, places: Sequence[int]) -> Sliding:
        """The part that slides over some of the axes (others are channels that were given axes of their own)."""

        def of(part: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(part[place] for place in places)

        return Sliding(of(self.kernel), of(self.strides), of(self.dilations), of(self.begin), of(self.end), self.frozen)

    @property
    def padded(self) -> bool:
        return any((*self.begin, *self.end))


@rule("Conv", "MaxPool", "AveragePool", "LpPool", on=Map, attributes=(*WINDOWED, "strides", "storage_order"))
def sliding(site: Site) -> Outcome:
    """A kernel that slides over the spatial axes; auto_pad is frozen to the pads of the native size.

    https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    view = site.views[0]
    assert isinstance(view, Map)
    wrong = _layout(site, view)
    if wrong is not None:
        return wrong
    how = sliding_of(site)
    if isinstance(how, Refusal):
        return how
    own, extent = how.on([axis - 2 for axis in view.spatial]), extent_of(site, view)
    if len(extent) == len(how.kernel) and _covers(site, how, extent):
        return global_pool(site, view, site.op_type.removesuffix("Pool"), keepdims=True)
    along = [] if site.state.open else covered(site, how, view)
    if along and site.role == "context":
        return strip(site, view, along, keepdims=True)
    if along and site.role == "head" and not site.decided:
        site.state.covering.add(site.label)
    elif along and site.role == "head" and site.state.global_pool == "window":
        return partial_pool(site, view, along, keepdims=True)
    if view.trace.windows and (own.padded or set(own.kernel) != {1} or set(own.strides) != {1}):
        return _over_pooled(site, view)
    trace = _through(site, view.trace, own, extent)
    changes: dict[str, Any] = {"auto_pad": None, "pads": [*how.begin, *how.end]} if how.frozen else {}
    if site.attrs.get("ceil_mode", 0) and not _partial(own, extent) and not site.state.dense:
        site.state.aligned = True
        changes["ceil_mode"] = 0  # it does nothing at the native size, and must not at others
    site.keep(**changes)
    return site.maps(trace, view.spatial)


def _covers(site: Site, how: Sliding, extent: tuple[int, ...]) -> bool:
    """Whether a pool spells a global pool: its one window holds the whole native map, and no padding that counts."""
    if site.op_type not in {"AveragePool", "MaxPool"} or site.role == "local" or set(how.dilations) != {1}:
        return False
    if site.state.open and (site.role == "context" or not _leads_to_fc(site)):
        return False
    if set(how.strides) == {1} and all(a + b == k - 1 for a, b, k in zip(how.begin, how.end, how.kernel, strict=True)):
        return False  # it keeps any map's size, and this one has a single place natively
    whole = all(k - a >= size for k, a, size in zip(how.kernel, how.begin, extent, strict=True))
    counted = how.padded and site.op_type == "AveragePool" and site.attrs.get("count_include_pad", 0)
    return whole and set(site.shape_out()[2:]) == {1} and not counted


def _leads_to_fc(site: Site) -> bool:
    """Whether all that reads the node, moved at most, is an FC layer: it is the head's pool, whatever its stride."""
    names = [site.node.output[0]]
    for name in names:
        for node in site.state.graph.readers.get(name, ()):
            if node.op_type in {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}:
                names.append(node.output[0])
            elif node.op_type not in {"Gemm", "MatMul"} or node.input[1] not in site.state.graph.initializers:
                return False
    return len(names) > 1 or bool(site.state.graph.readers.get(names[0]))


def covered(site: Site, how: Sliding, view: Map | Strip) -> list[int]:
    """The axes that a pool's one window covers natively, where it leaves all others alone."""
    if site.op_type not in {"AveragePool", "MaxPool"} or how.padded or set(how.dilations) != {1}:
        return []
    before, after = site.shape_in(), site.shape_out()
    axes = [axis for axis in view.spatial if after[axis] == 1 and how.kernel[axis - 2] == before[axis] > 1]
    rest = [axis - 2 for axis in range(2, len(before)) if axis not in axes]
    return axes if all(how.kernel[place] == how.strides[place] == 1 for place in rest) else []


def _over_pooled(site: Site, view: Map) -> Outcome:
    """Something slides over what a pool left: a pool of the trunk, if it is spelled as one."""
    makers = {label(node): node.op_type for node in site.state.graph.nodes}
    if not all(makers[name] in {"AveragePool", "MaxPool"} for name in view.trace.pools) or not view.trace.pools:
        return site.refuse("pools-then-convolves", "slides over what a global pool left")
    site.turns_out(view.trace, "local")
    site.keep()
    return site.maps(view.trace, view.spatial)


def _layout(site: Site, view: Map) -> Refusal | None:
    if min(view.spatial) < 2:
        return site.refuse("layout", "slides over axes that are not the image's")
    if any(not isinstance(other, Fixed) for other in site.views[1:] if other is not None):
        advice = "if that is an input of its own, name the image alone with --input"
        return site.refuse("dynamic-weight", "has a weight that depends on the image", advice)
    if site.output_used(1):
        return site.refuse("pool-indices", "gives the places of its maxima to another node")
    return None


def sliding_of(site: Site) -> Sliding | Refusal:
    """What the node's attributes say, at the native size."""
    extent = site.shape_in()[2:]
    rank = len(extent)
    kernel = tuple(site.attrs.get("kernel_shape") or site.shape_in(1)[2:])
    strides = tuple(site.attrs.get("strides") or (1,) * rank)
    dilations = tuple(site.attrs.get("dilations") or (1,) * rank)
    auto_pad = site.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    pads = tuple(site.attrs.get("pads") or (0,) * (2 * rank))
    if auto_pad.startswith("SAME"):
        totals = [
            (-(-size // s) - 1) * s + (k - 1) * d + 1 - size
            for size, k, s, d in zip(extent, kernel, strides, dilations, strict=True)
        ]
        less, more = [int(t / 2) for t in totals], [t - int(t / 2) for t in totals]
        pads = (*less, *more) if auto_pad == "SAME_UPPER" else (*more, *less)
        if any(pad < 0 for pad in pads[:rank]):
            return site.refuse(
                "same-padding", "has a stride so much larger than its kernel that SAME cuts the border off"
            )
        pads = tuple(max(pad, 0) for pad in pads)  # what is cut off behind is not read anyway
    elif auto_pad == "VALID":
        pads = (0,) * (2 * rank)
    return Sliding(kernel, strides, dilations, pads[:rank], pads[rank:], auto_pad.startswith("SAME"))


def _through(site: Site, trace: Trace, how: Sliding, extent: tuple[int, ...]) -> Trace:
    fields = tuple(
        field.through(k, s, p, d)
        for field, k, s, p, d in zip(trace.fields, how.kernel, how.strides, how.begin, how.dilations, strict=True)
    )
    taints = [site.taint("padding")] if how.padded else []
    if site.attrs.get("ceil_mode", 0) and (site.state.dense or _partial(how, extent)):
        taints.append(site.taint("partial window"))
    return Trace(fields, trace.taints | frozenset(taints), trace.windows, trace.pools, trace.dropped)


def _partial(how: Sliding, extent: tuple[int, ...]) -> bool:
    """Whether ceil_mode adds a window that reaches beyond the native map."""
    return any(
        (size + a + b - (k - 1) * d - 1) % s != 0
        for size, k, s, d, a, b in zip(extent, how.kernel, how.strides, how.dilations, how.begin, how.end, strict=True)
    )


@rule("LRN", on=Map, attributes=("alpha", "beta", "bias", "size"))
def lrn(site: Site) -> Outcome:
    """Normalises over neighbouring channels (axis 1) of one place."""
    return _over_channels(site)


@rule("BatchNormalization", on=Map, attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(site: Site) -> Outcome:
    """A scale and a shift per channel (axis 1). https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"""
    if site.attrs.get("training_mode", 0) or any(site.output_used(k) for k in range(1, len(site.node.output))):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if not site.attrs.get("spatial", 1):
        return site.refuse("position-table", "has statistics for every place of the native size")
    return _over_channels(site)


def _over_channels(site: Site) -> Outcome:
    view = site.views[0]
    assert isinstance(view, Map)
    if 1 in view.spatial:
        return site.refuse("layout", "works on axis 1, which is one of the image's")
    site.keep()
    return site.maps(view.trace, view.spatial)


@rule("Pad", on=Map, attributes=("mode", "pads", "value"))
def pad(site: Site) -> Outcome:
    """Constant amounts stay; on spatial axes they are padding as a Conv's is.

    Amounts that fill a map up to whole blocks stay as they are computed. Where they are before the map too, they would
    move the grid: they are frozen, as auto_pad is. Where the result meets a map of its size, it is padded to the size
    of that: a skip connection of an odd size.
    https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    view = site.views[0]
    assert isinstance(view, Map)
    rank = len(site.shape_in())
    amounts = _pad_amounts(site, rank)
    if amounts is None:
        return site.refuse("unknown-pads", "takes amounts that are not constant")
    begin, end = amounts
    filled = site.follows_size(1)
    most = _most_before(site, rank) if filled and site.state.dense else begin
    fields = tuple(
        field.cut(max(0, -begin[axis]) + most[axis] - begin[axis], max(0, -end[axis])).through(
            1, pad=max(0, most[axis])
        )
        for field, axis in zip(view.trace.fields, view.spatial, strict=True)
    )
    if _mode(site) != "constant":
        amounts_of = [(max(0, begin[axis]), max(0, end[axis])) for axis in view.spatial]
        fields = tuple(_mirrored(field, *pair) for field, pair in zip(fields, amounts_of, strict=True))
    touched = filled or any(begin[axis] > 0 or end[axis] > 0 for axis in view.spatial)
    taints: frozenset[Taint] = frozenset([site.taint("padding")] if touched else [])
    if touched and _mode(site) == "wrap":
        taints |= {site.taint("context")}  # it reads the far end
    if view.trace.windows and any(begin[axis] or end[axis] for axis in view.spatial):
        return site.refuse("pools-then-convolves", "pads what a global pool left")
    sister = None if filled else _padded_like(site, view, begin, end)
    if filled and not site.state.dense and _moves_grid(site):
        site.state.aligned = True
        site.freeze(1)
    if sister is None:
        site.keep()
    else:
        taints |= {site.taint(PADDED)}
        _pad_to(site, view, sister, begin)
    trace = Trace(fields, view.trace.taints | taints, view.trace.windows, view.trace.pools, view.trace.dropped)
    return site.maps(trace, view.spatial)


def _mode(site: Site) -> str:
    return str(site.attrs.get("mode") or "constant")


def _mirrored(field: Field, before: int, after: int) -> Field:
    """The field of a map that is padded with pixels of its own: those lie as far inside as the padding goes outside."""
    return replace(
        field,
        size=field.size + 2 * (before + after) * field.stride,
        start=field.start - 2 * after * field.stride,
    )


def _padded_like(site: Site, view: Map, begin: Sequence[int], end: Sequence[int]) -> Map | None:
    """A map of the same stride that the padded one meets. A pad that adds channels too is no matter of size."""
    channels = any(begin[axis] or end[axis] for axis in range(len(begin)) if axis not in view.spatial)
    if channels or site.opset < 11 or view.trace.windows or not contiguous(view) or min(begin) < 0:
        return None
    strides = [field.stride for field in view.trace.fields]
    met = sisters(site, view, view.spatial)
    return next((item for item in met if [field.stride for field in item.trace.fields] == strides), None)


def _pad_to(site: Site, view: Map, sister: Map, begin: Sequence[int]) -> None:
    """The same amounts before the map, as they keep it in its place, and behind it what is missing to the sister."""
    draft, first, last = site.draft, min(view.spatial), max(view.spatial) + 1
    own, wanted = (emit.dims(draft, item.tensor, first, last) for item in (view, sister))
    before = draft.constant(list(begin[first:last]), "pads")
    missing = draft.emit("Sub", [draft.emit("Sub", [wanted, own]), before])
    rest = [0] * (len(begin) - last)
    amounts = emit.numbers(draft, [*begin, *[0] * first, missing, *rest])
    site.keep([view.tensor, amounts, *site.tensors()[2:3]])


def _pad_amounts(site: Site, rank: int) -> tuple[list[int], list[int]] | None:
    """Native amounts before and behind each axis; None where they change on the grid of strides."""
    pads = site.attrs.get("pads")
    if pads is None:
        value = site.constant(1)
        if value is None or not site.same_on_grid(1):
            return None
        pads = value.tolist()
    return _by_axis(site, pads, rank)


def _by_axis(site: Site, pads: Sequence[int], rank: int) -> tuple[list[int], list[int]] | None:
    axes = list(range(rank)) if not site.has_input(3) else site.constant(3)
    if axes is None:
        return None
    begin, end = [0] * rank, [0] * rank
    for place, axis in enumerate(axes):
        begin[int(axis)], end[int(axis)] = int(pads[place]), int(pads[place + len(pads) // 2])
    return begin, end


def _most_before(site: Site, rank: int) -> list[int]:
    """The largest amount before each axis at any size that was looked at."""
    values = site.draft.spec(site.tensors()[1]).values or ()
    found = [_by_axis(site, value.tolist(), rank) for value in values]
    return [max(axis) for axis in zip(*(amounts[0] for amounts in found if amounts is not None), strict=True)]


def _moves_grid(site: Site) -> bool:
    """Whether the amounts before the map depend on the image's size."""
    values = site.draft.spec(site.tensors()[1]).values or ()
    return len({tuple(value[: len(value) // 2].tolist()) for value in values}) > 1
