"""Operators whose kernel slides: Conv and the pools. They stay as they are; what changes is what an element reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.errors import Refusal
from onnxfc.graph.sliding import Sliding, sliding_at
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.layout.axes import channels, kinds, pure
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Placed
from onnxfc.rules.context_sums import strip
from onnxfc.rules.elementwise import MICROSOFT
from onnxfc.rules.pooling import global_pool, partial_pool
from onnxfc.rules.registry import PLACED, rule

WINDOWED = (*("auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "p", "pads"),)


@rule("FusedConv", on=PLACED, domain=MICROSOFT, attributes=(*WINDOWED, "strides", "activation", "activation_params"))
def fused_conv(site: Site) -> Outcome | None:
    """A Conv and the activation behind it; one with a third summand is refused."""
    if site.has_input(3):
        return site.refuse("unsupported-operator", "adds another map", "export without onnxruntime's optimisation")
    return sliding(site)


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
