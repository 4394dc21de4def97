"""Operators of the spatial part: Conv, pools, Pad, normalisations over channels.

They stay as they are; what changes is what an element reads of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from onnxfc import emit
from onnxfc.axes import channels, kinds, pure
from onnxfc.errors import Refusal
from onnxfc.receptive_field import Field
from onnxfc.rules.context import strip
from onnxfc.rules.pooling import global_pool, partial_pool
from onnxfc.rules.sisters import PADDED, contiguous, sisters
from onnxfc.rules.table import PLACED, rule
from onnxfc.rules.windowed import pooled_in_part
from onnxfc.site import Outcome, Site
from onnxfc.sliding import Sliding, sliding_at
from onnxfc.views import Placed, Trace

WINDOWED = (*("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "p", "pads"),)


@rule("Conv", "MaxPool", "AveragePool", "LpPool", on=PLACED, attributes=(*WINDOWED, "strides", "storage_order"))
def sliding(site: Site) -> Outcome | None:
    """A kernel that slides over the spatial axes; auto_pad is frozen to the pads of the native size.

    Over axes of places that were laid together, or of strips that were joined, only one of a single element goes.
    https://onnx.ai/onnx/operators/onnx__Conv.html, https://onnx.ai/onnx/operators/onnx__AveragePool.html
    """
    view = site.views[0]
    if not isinstance(view, Placed):
        return _weight_of_image(site)
    if not view.apart:
        return _over_joined(site, view) if view.parts else _pointwise(site, view)
    wrong = _layout(site, view)
    if wrong is not None:
        return wrong
    how = sliding_of(site)
    if isinstance(how, Refusal):
        return how
    return _pooled(site, view) or _slid(site, view, how)


def _pooled(site: Site, view: Placed) -> Outcome | None:
    """A pool whose one window covers the map, or one of its axes; None where it is none."""
    along = site.covers
    if view.is_map and len(along) == len(view.spatial):
        return global_pool(site, view, site.op_type.removesuffix("Pool"), keepdims=True)
    if along and (view.is_strip or site.role == "context"):
        return strip(site, view, along, keepdims=True)
    if along and site.state.global_pool == "window":
        return partial_pool(site, view, along, keepdims=True)
    return None


def _slid(site: Site, view: Placed, how: Sliding) -> Outcome:
    own = how.on([axis - 2 for axis in view.spatial])
    if view.trace.windows and (own.padded or set(own.kernel) != {1} or set(own.strides) != {1}):
        return site.refuse("pools-then-convolves", "slides over what a global pool left")
    trace = _through(site, view, own)
    changes = _frozen(how)
    if site.attrs.get("ceil_mode", 0) and not _partial(own, view.extent) and not site.state.dense:
        site.state.aligned = True
        changes["ceil_mode"] = 0  # it does nothing at the native size, and must not at others
    site.keep(**changes)
    return site.placed(view, trace, view.where)


def _over_joined(site: Site, view: Placed) -> Outcome:
    """A kernel slides over strips that were joined, across their seams too."""
    how = sliding_of(site)
    if isinstance(how, Refusal):
        return how
    if not site.only_first or kinds(view.groups[0]) != ["batch"] or not pure(view.groups[1]):
        return pooled_in_part(site)
    site.keep(**_frozen(how))
    made = site.of_channels(view, 1, view.trace.tainted(*([site.taint("padding")] * how.padded)))
    return [_as_long_now(site, item) for item in made if isinstance(item, Placed)]


def _as_long_now(site: Site, view: Placed) -> Placed:
    """With the lengths of the output, where a kernel went over axes."""
    pairs = zip(view.groups, site.shape_out(), strict=True)
    groups = [channels(n) if pure(group) else (replace(group[0], length=n),) for group, n in pairs]
    return replace(view, groups=tuple(groups))


def _frozen(how: Sliding) -> dict[str, Any]:
    """Attributes instead of auto_pad."""
    return {"auto_pad": None, "pads": [*how.begin, *how.end]} if how.frozen else {}


def _pointwise(site: Site, view: Placed) -> Outcome | None:
    """A Conv of one element over (N, C, H * W)."""
    alone = kinds(view.groups[0]) == ["batch"] and pure(view.groups[1])
    kernel = site.shape_in(1)[2:] if site.has_input(1) else site.attrs.get("kernel_shape", ())
    idle = (
        set(kernel) == {1} and not any(site.attrs.get("pads") or ()) and set(site.attrs.get("strides") or (1,)) == {1}
    )
    if not (site.only_first and alone and idle):
        return pooled_in_part(site) if view.is_strip else None
    site.keep()
    return site.of_channels(view, 1)


def _weight_of_image(site: Site) -> Refusal:
    advice = "if that is an input of its own, name the image alone with --input"
    return site.refuse("dynamic-weight", "has a weight that depends on the image", advice)


def _layout(site: Site, view: Placed) -> Refusal | None:
    if min(view.spatial) < 2:
        return site.refuse("layout", "slides over axes that are not the image's")
    if not site.only_first:
        return _weight_of_image(site)
    if site.output_used(1):
        return site.refuse("pool-indices", "gives the places of its maxima to another node")
    return None


def sliding_of(site: Site) -> Sliding | Refusal:
    """What the node's attributes say, at the native size."""
    weight = site.shape_in(1) if site.has_input(1) else ()
    found = sliding_at(site.attrs, site.shape_in(), weight)
    if found is None:
        return site.refuse("same-padding", "has a stride so much larger than its kernel that SAME cuts the border off")
    return found


def _through(site: Site, view: Placed, how: Sliding) -> Trace:
    steps = zip(view.where, view.fields, how.kernel, how.strides, how.begin, how.dilations, strict=True)
    fields = {place: field.through(k, s, p, d) for place, field, k, s, p, d in steps}
    taints = [site.taint("padding")] if how.padded else []
    if site.attrs.get("ceil_mode", 0) and (site.state.dense or _partial(how, view.extent)):
        taints.append(site.taint("partial window"))
    trace = replace(view.trace.along(fields).tainted(*taints), places=False)
    return trace if set(how.kernel) == {1} else replace(trace, shares=frozenset())


def _partial(how: Sliding, extent: tuple[int, ...]) -> bool:
    """Whether ceil_mode adds a window that reaches beyond the native map."""
    return any(
        (size + a + b - (k - 1) * d - 1) % s != 0
        for size, k, s, d, a, b in zip(extent, how.kernel, how.strides, how.dilations, how.begin, how.end, strict=True)
    )


@rule("LRN", on=PLACED, attributes=("alpha", "beta", "bias", "size"))
def lrn(site: Site) -> Outcome | None:
    """Normalises over neighbouring channels (axis 1) of one place."""
    return _over_channels(site)


@rule("BatchNormalization", on=PLACED, attributes=("epsilon", "momentum", "spatial", "training_mode"))
def batch_normalization(site: Site) -> Outcome | None:
    """A scale and a shift per channel (axis 1). https://onnx.ai/onnx/operators/onnx__BatchNormalization.html"""
    if site.attrs.get("training_mode", 0) or any(site.output_used(k) for k in range(1, len(site.node.output))):
        return site.refuse("training-mode", "is in training mode", "export the model in eval mode")
    if not site.attrs.get("spatial", 1):
        return site.refuse("position-table", "has statistics for every place of the native size")
    return _over_channels(site)


def _over_channels(site: Site) -> Outcome | None:
    view = site.placed_in()
    if not pure(view.groups[1]) or not site.only_first:
        return site.refuse("layout", "works on axis 1, which is one of the image's") if view.apart else None
    site.keep()
    return site.same()


@rule("Pad", on=PLACED, attributes=("mode", "pads", "value"))
def pad(site: Site) -> Outcome | None:
    """Constant amounts stay; on spatial axes they are padding as a Conv's is.

    Amounts that fill a map up to whole blocks stay as they are computed. Where they are before the map too, they would
    move the grid: they are frozen, as auto_pad is. Where the result meets a map of its size, it is padded to the size
    of that: a skip connection of an odd size.
    https://onnx.ai/onnx/operators/onnx__Pad.html
    """
    view = site.placed_in()
    if not view.apart:
        return pooled_in_part(site) if view.is_strip else None
    rank = len(site.shape_in())
    amounts = _pad_amounts(site, rank)
    if amounts is None:
        return site.refuse("unknown-pads", "takes amounts that are not constant")
    begin, end = amounts
    if view.trace.windows and any(begin[axis] or end[axis] for axis in view.spatial):
        return site.refuse("pools-then-convolves", "pads what a global pool left")
    filled = site.follows_size(1)
    trace = _padded(site, view, begin, end)
    sister = None if filled or not view.is_map else _padded_like(site, view, begin, end)
    if filled and _moves_grid(site):
        site.state.aligned = True
        if not site.state.dense:
            site.freeze(1)
    if sister is None:
        site.keep()
    else:
        trace = trace.tainted(site.taint(PADDED))
        _pad_to(site, view, sister, begin)
    return site.placed(view, trace, view.where)


def _padded(site: Site, view: Placed, begin: Sequence[int], end: Sequence[int]) -> Trace:
    """What is read by a map that is padded, or cut where amounts are negative."""
    filled, mode = site.follows_size(1), _mode(site)
    most = _most_before(site, len(begin)) if filled and site.state.dense else begin
    fields = {}
    for place, axis in view.where.items():
        cut = max(0, -begin[axis]) + most[axis] - begin[axis]
        field = view.trace.fields[place].cut(cut, max(0, -end[axis])).through(1, pad=max(0, most[axis]))
        mirrored = mode != "constant"
        fields[place] = _mirrored(field, max(0, begin[axis]), max(0, end[axis])) if mirrored else field
    touched = filled or any(begin[axis] > 0 or end[axis] > 0 for axis in view.spatial)
    trace = replace(view.trace.along(fields), places=False, shares=frozenset())
    far = touched and mode == "wrap"  # it reads the far end
    return trace.tainted(*([site.taint("padding")] * touched), *([site.taint("context")] * far))


def _mode(site: Site) -> str:
    return str(site.attrs.get("mode") or "constant")


def _mirrored(field: Field, before: int, after: int) -> Field:
    """The field of a map that is padded with pixels of its own: those lie as far inside as the padding goes outside."""
    return replace(
        field,
        size=field.size + 2 * (before + after) * field.stride,
        start=field.start - 2 * after * field.stride,
    )


def _padded_like(site: Site, view: Placed, begin: Sequence[int], end: Sequence[int]) -> Placed | None:
    """A map of the same stride that the padded one meets. A pad that adds channels too is no matter of size."""
    channels = any(begin[axis] or end[axis] for axis in range(len(begin)) if axis not in view.spatial)
    if channels or site.opset < 11 or view.trace.windows or not contiguous(view) or min(begin) < 0:
        return None
    strides = [field.stride for field in view.trace.fields]
    met = sisters(site, view, view.spatial)
    return next((item for item in met if [field.stride for field in item.trace.fields] == strides), None)


def _pad_to(site: Site, view: Placed, sister: Placed, begin: Sequence[int]) -> None:
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
