"""Operators that change the resolution of a map: ConvTranspose, Resize, Upsample, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from onnxfc import emit
from onnxfc.receptive_field import Field
from onnxfc.rules.elementwise import UNARY
from onnxfc.rules.table import rule
from onnxfc.site import Outcome, Site, extent_of
from onnxfc.views import Fixed, Map, Trace

_TRANSPOSED = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides")


@rule("ConvTranspose", on=Map, attributes=_TRANSPOSED)
def conv_transpose(site: Site) -> Outcome:
    """Finer by its strides. https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""
    view = _channels_first(site)
    if view is None:
        return site.refuse("layout", "slides over axes that are not the image's")
    if "output_shape" in site.attrs or str(site.attrs.get("auto_pad", "NOTSET")) != "NOTSET":
        return site.refuse("size-locked", "has an output of a fixed shape")
    if any(not isinstance(other, Fixed) for other in site.views[1:] if other is not None):
        return site.refuse("dynamic-weight", "has a weight that depends on the image")
    rank = len(view.spatial)
    strides = tuple(site.attrs.get("strides") or (1,) * rank)
    kernel = tuple(site.attrs.get("kernel_shape") or site.shape_in(1)[2:])
    dilations = tuple(site.attrs.get("dilations") or (1,) * rank)
    pads = tuple(site.attrs.get("pads") or (0,) * (2 * rank))
    fields = []
    for field, k, s, p, d in zip(view.trace.fields, kernel, strides, pads, dilations, strict=False):
        # Output o takes inputs from (o + p - (k - 1) * d) / s to (o + p) / s.
        fields.append(field.resampled(Fraction(s), Fraction(p - (k - 1) * d, s), Fraction(p, s)))
    site.keep()
    return site.maps(_resampled(site, view.trace, fields), view.spatial)


def _resampled(site: Site, trace: Trace, fields: Sequence[Field]) -> Trace:
    return replace(trace.tainted(site.taint("resampling")), fields=tuple(fields))


def _channels_first(site: Site) -> Map | None:
    view = site.views[0]
    assert isinstance(view, Map)
    return view if view.spatial == tuple(range(2, len(site.shape_in()))) else None


@rule("DepthToSpace", "SpaceToDepth", on=Map, attributes=("blocksize", "mode"))
def blocks(site: Site) -> Outcome:
    """Channels to places and back, in blocks."""
    view = _channels_first(site)
    if view is None:
        return site.refuse("layout", "works on axes that are not the image's")
    size = int(site.attrs["blocksize"])
    site.keep()
    if site.op_type == "SpaceToDepth":
        fields = tuple(field.through(size, stride=size) for field in view.trace.fields)
        return site.maps(replace(view.trace, fields=fields), view.spatial)
    fields = tuple(field.resampled(Fraction(size), Fraction(1, size) - 1, Fraction(0)) for field in view.trace.fields)
    return site.maps(_resampled(site, view.trace, fields), view.spatial)


RESIZE = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
    *(
        "extrapolation_value",
        "keep_aspect_ratio_policy",
        "mode",
        "nearest_mode",
        "scales",
        "height_scale",
        "width_scale",
    ),
)


@rule("Resize", "Upsample", on=Map, attributes=RESIZE)
def resize(site: Site) -> Outcome:
    """By scales it follows the image; to the sizes of another map too; to fixed sizes it is given the scales instead.

    https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    view = site.views[0]
    assert isinstance(view, Map)
    before, after = site.shape_in(), site.shape_out()
    if before[0] != after[0] or any(
        a != b for axis, (a, b) in enumerate(zip(before, after, strict=True)) if axis not in view.spatial
    ):
        return site.refuse("mixes-channels", "resizes other axes than the image's")
    if view.trace.pools and set(extent_of(site, view)) == {1} and before != after:
        return site.rejoins([view], view.tensor) or site.maps(view.trace, view.spatial)  # spread over the map again
    ratios = [Fraction(after[axis], before[axis]) for axis in view.spatial]
    if str(site.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        return site.refuse("size-locked", "crops to a region of the native size")
    partner = _partner(site, view, ratios) if any(1 not in (r.numerator, r.denominator) for r in ratios) else None
    if partner is not None:
        return _to_partner(site, view, partner)
    if not site.try_keep(_scaled(site, view, ratios)):
        outcome = _by_scales(site, view, ratios)
        if outcome is not None:
            return outcome
    if set(ratios) == {Fraction(1)}:
        return site.maps(view.trace, view.spatial)
    reach = [_reach(site, ratio) for ratio in ratios]
    fields = [
        field.resampled(ratio, low, high)
        for field, ratio, (low, high) in zip(view.trace.fields, ratios, reach, strict=True)
    ]
    trace = _resampled(site, view.trace, fields)
    if str(site.attrs.get("coordinate_transformation_mode", "")) == "align_corners":
        trace = trace.tainted(site.taint("context"))  # the ratio of the last places depends on the whole size
    return site.maps(trace, view.spatial)


def _reach(site: Site, ratio: Fraction) -> tuple[Fraction, Fraction]:
    """From where to where, relative to ``o / ratio``, place ``o`` reads at most, in elements.

    Its centre lies at ``o / ratio``, or with half pixels at ``(o + 0.5) / ratio - 0.5``; nearest and linear read
    one element around it, cubic two, and with antialias so many times more as the map gets smaller.
    """
    centre = Fraction(1, 2) / ratio - Fraction(1, 2)
    support = Fraction(2 if str(site.attrs.get("mode", "nearest")) == "cubic" else 1)
    if site.attrs.get("antialias", 0):
        support = support * max(Fraction(1), 1 / ratio) + 1
    return min(centre, Fraction(0)) - support, max(centre, Fraction(0)) + support


def _scaled(site: Site, view: Map, ratios: Sequence[Fraction]) -> list[tuple[int, ...]]:
    """Shapes at the probes if the map grows with the image."""
    wanted = []
    for shape in site.draft.spec(view.tensor).shapes or ():
        target = list(shape)
        for axis, ratio in zip(view.spatial, ratios, strict=True):
            target[axis] = int(shape[axis] * ratio)
        wanted.append(tuple(target))
    return wanted


_FORWARD = {*UNARY, "BatchNormalization", "Conv", "Dropout", "PRelu"}


def _partner(site: Site, view: Map, ratios: Sequence[Fraction]) -> Map | None:
    """The map that the resized one meets, where that is why it gets this size: a skip connection of an odd size."""
    name, after = site.node.output[0], site.shape_out()
    if not site.has_input(3) or "axes" in site.attrs or site.shape_in()[:2] != after[:2]:
        return None
    graph = site.state.graph
    while True:
        readers = [node for node in graph.nodes if name in node.input]
        if len(readers) != 1:
            return None
        node = readers[0]
        others = [site.state.views.get(item) for item in node.input if item != name]
        maps = [item for item in others if isinstance(item, Map) and not item.trace.windows]
        fitting = [item for item in maps if _fits(site, view, item, ratios)]
        if fitting:
            return fitting[0]
        if node.op_type not in _FORWARD or site.native(node.output[0]).native[2:] != after[2:]:
            return None
        name = node.output[0]


def _fits(site: Site, view: Map, other: Map, ratios: Sequence[Fraction]) -> bool:
    """Whether the other map has the size that is wanted, and is finer by whole steps, about so many as the ratio."""
    steps = [own.stride / field.stride for own, field in zip(view.trace.fields, other.trace.fields, strict=True)]
    close = all(step == round(ratio) for step, ratio in zip(steps, ratios, strict=True))
    same = extent_of(site, other) == tuple(site.shape_out()[axis] for axis in view.spatial)
    return close and same and view.spatial == other.spatial == tuple(range(2, len(site.shape_in())))


def _to_partner(site: Site, view: Map, partner: Map) -> Outcome:
    """To the other map's size, whatever it is. The ratio then depends on the size, which is context."""
    rank = len(site.shape_in())
    sizes = [emit.dims(site.draft, view.tensor, 0, 2), emit.dims(site.draft, partner.tensor, 2, rank)]
    site.keep([*site.tensors()[:3], emit.concat(site.draft, sizes)])
    fields = []
    for field, other in zip(view.trace.fields, partner.trace.fields, strict=True):
        ratio = Fraction(field.stride) / Fraction(other.stride)
        low, high = _reach(site, ratio)
        fields.append(field.resampled(ratio, low, high))
    return site.maps(_resampled(site, view.trace, fields).tainted(site.taint("context")), view.spatial)


def _by_scales(site: Site, view: Map, ratios: Sequence[Fraction]) -> Outcome | None:
    """Resize to the native sizes as a Resize by the same ratio; a refusal where that is not the same thing."""
    if not site.has_input(3) or any(ratio.denominator != 1 and ratio.numerator != 1 for ratio in ratios):
        return site.refuse("size-locked", "resizes to the native size")
    if "axes" in site.attrs or extent_of(site, view) == (1,) * len(view.spatial):
        return site.refuse("size-locked", "resizes to the native size")
    scales = np.ones(len(site.shape_in()), np.float32)
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        scales[axis] = float(ratio)
    site.keep([view.tensor, site.tensors()[1], site.draft.constant(scales, "scales")])
    return None
