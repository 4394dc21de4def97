"""Operators that change the resolution of a map: ConvTranspose, Resize, Upsample, DepthToSpace, SpaceToDepth."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np

from onnxfc.analysis.reference_sizes import RESIZED, contiguous, images, references, sized, sizes_like, sizes_with
from onnxfc.builder import ops
from onnxfc.builder.rule_context import Outcome, Site
from onnxfc.graph.op_kinds import halved
from onnxfc.head.per_window import per_window
from onnxfc.head.placed_windows import pooled_in_part
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Trace
from onnxfc.layout.views import Fixed, Placed, ScoreMap
from onnxfc.rules.expand import laid_out
from onnxfc.rules.registry import FEATURES, PLACED, rule
from onnxfc.shapes.spec import Shape

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


@rule("Resize", "Upsample", on=FEATURES, attributes=RESIZE)
def resized(site: Site) -> Outcome | None:
    """A decoder behind an FC layer; sizes that name the batch cannot follow."""
    if not any(isinstance(other, ScoreMap) for other in site.views):
        return None
    scales = site.attrs.get("scales") or site.constant(1 if len(site.node.input) == 2 else 2)
    rank, view = len(site.shape_in()), site.views[0]
    if scales is None or len(scales) != rank or scales[0] != 1 or site.swallowed:
        return site.refuse("mixes-batch", "resizes to sizes that name the batch, or by scales that are not constant")
    if not isinstance(view, ScoreMap) or any(not isinstance(other, Fixed) for other in site.views[1:] if other):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    return per_window(site, view)


_TRANSPOSED = ("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads", "strides")


@rule("ConvTranspose", on=PLACED, attributes=_TRANSPOSED)
def conv_transpose(site: Site) -> Outcome | None:
    """Finer by its strides. https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""
    view = site.views[0]
    if not isinstance(view, Placed) or not site.only_first:
        return site.refuse("dynamic-weight", "has a weight that depends on the image")
    if view.is_folded:
        return None
    if not _behind_channels(view):
        return site.refuse("layout", "slides over axes that are not the image's")
    rank = len(view.spatial)
    strides = tuple(site.attrs.get("strides") or (1,) * rank)
    kernel = tuple(site.attrs.get("kernel_shape") or site.shape_in(1)[2:])
    dilations = tuple(site.attrs.get("dilations") or (1,) * rank)
    pads = _cut_off(site, kernel, strides, dilations)
    if pads is None:
        return site.refuse("size-locked", "has an output of a fixed shape, larger than its kernel makes it")
    fields = []
    for field, k, s, p, q, d in zip(view.fields, kernel, strides, pads, pads[rank:], dilations, strict=False):
        # Output o takes inputs from (o + p - reach) / s to (o + p) / s; what is cut off counts as read.
        reach = (k - 1) * d
        finer = field.resampled(Fraction(s), Fraction(min(0, p - reach), s), Fraction(p, s))
        fields.append(finer.cut(0, max(0, q - reach)))
    if "output_shape" in site.attrs or "auto_pad" in site.attrs:
        site.keep(auto_pad=None, output_shape=None, pads=pads)
    else:
        site.keep()
    return site.placed(view, _resampled(site, view, fields), view.where)


def _cut_off(
    site: Site, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...] | None:
    """How much of the result is cut off at its borders, as explicit pads: what auto_pad or a fixed shape come to.

    None where something is added instead.
    """
    rank, auto = len(kernel), str(site.attrs.get("auto_pad") or "NOTSET")
    if auto == "VALID" or (auto == "NOTSET" and "output_shape" not in site.attrs):
        return tuple(site.attrs.get("pads") or (0,) * (2 * rank)) if auto == "NOTSET" else (0,) * (2 * rank)
    more = site.attrs.get("output_padding") or (0,) * rank
    sizes = zip(site.shape_in()[2:], site.shape_out()[2:], kernel, strides, dilations, more, strict=True)
    total = [(size - 1) * s + extra + (k - 1) * d + 1 - out for size, out, k, s, d, extra in sizes]
    if min(total) < 0:
        return None
    return halved(auto, total)


def _resampled(site: Site, view: Placed, fields: Sequence[Field]) -> Trace:
    """Other receptive fields along ``view.spatial``."""
    return view.trace.along(dict(zip(view.where, fields, strict=True))).tainted(site.taint("resampling"))


def _behind_channels(view: Placed) -> bool:
    return view.apart and view.spatial == tuple(range(2, len(view.groups)))


@rule("DepthToSpace", "SpaceToDepth", on=PLACED, attributes=("blocksize", "mode"))
def blocks(site: Site) -> Outcome | None:
    """Channels to places and back, in blocks."""
    view = site.placed_in()
    if view.is_folded:
        return None
    if not view.channels_first:
        return site.refuse("layout", "works on axes that are not the image's")
    size = int(site.attrs["blocksize"])
    site.keep()
    if site.op_type == "SpaceToDepth":
        coarser = {place: field.through(size, stride=size) for place, field in enumerate(view.fields)}
        return site.placed(view, view.trace.along(coarser), view.where)
    fields = [field.resampled(Fraction(size), Fraction(1, size) - 1, Fraction(0)) for field in view.fields]
    return site.placed(view, _resampled(site, view, fields), view.where)


@rule("Resize", "Upsample", on=PLACED, attributes=RESIZE)
def resize(site: Site) -> Outcome | None:
    """By scales it follows the image; to the sizes of another map too.

    Fixed sizes are those of the map that the result meets, or of the image; if neither, they become scales.

    https://onnx.ai/onnx/operators/onnx__Resize.html
    """
    view = site.placed_in()
    if not view.apart:
        return pooled_in_part(site) if view.is_strip else None
    laid = laid_out(site, view)
    if laid is not None:
        return laid
    before, after = site.shape_in(), site.shape_out()
    if any(a != b for axis, (a, b) in enumerate(zip(before, after, strict=True)) if axis not in view.spatial):
        return site.refuse("mixes-channels", "resizes other axes than the image's")
    if view.trace.windows and set(view.extent) == {1} and before != after:
        return site.rejoins()
    if str(site.attrs.get("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        return site.refuse("size-locked", "crops to a region of the native size")
    ratios = _given_scales(site, view) or [Fraction(after[axis], before[axis]) for axis in view.spatial]
    return _by_sizes(site, view, ratios) or _by_ratios(site, view, ratios)


def _by_sizes(site: Site, view: Placed, ratios: Sequence[Fraction]) -> Outcome | None:
    """To computed sizes, or those of the map that is meant; None where there is none."""
    if any(site.follows_size(position) for position in range(1, len(site.views))):
        growth = _kept(site, view)
        if growth is not None:
            return site.placed(view, _to_a_size(site, view, ratios, growth), view.where)
    other = _sized_like(site, view)
    return None if other is None else _to_size_of(site, view, ratios, other)


def _by_ratios(site: Site, view: Placed, ratios: Sequence[Fraction]) -> Outcome:
    if not site.try_keep(_scaled(site, view, ratios)):
        outcome = _by_scales(site, view, ratios)
        if outcome is not None:
            return outcome
    if set(ratios) == {Fraction(1)}:
        return site.same()
    trace = _aligned(site, _resampled(site, view, _fields(site, view, ratios)))
    return site.placed(view, trace, view.where)


def _given_scales(site: Site, view: Placed) -> list[Fraction] | None:
    """What the scales say, which the native extents may not show as they are rounded down; None without scales."""
    scales = site.attrs.get("scales")
    if site.op_type == "Resize" or site.opset >= 9:
        scales = site.constant(2 if site.op_type == "Resize" and site.opset >= 11 else 1)
    if scales is None or len(scales) == 0 or site.has_input(3):
        return None
    given = dict(zip(site.attrs.get("axes") or range(len(site.shape_in())), scales, strict=True))
    return [Fraction(float(given.get(axis, 1.0))).limit_denominator(_FINEST) for axis in view.spatial]


_FINEST = 128
"""Scales are fractions of small numbers, written as float32."""


def _fields(site: Site, view: Placed, ratios: Sequence[Fraction]) -> list[Field]:
    reach = [_reach(site, ratio) for ratio in ratios]
    return [
        field.resampled(ratio, low, high) for field, ratio, (low, high) in zip(view.fields, ratios, reach, strict=True)
    ]


def _aligned(site: Site, trace: Trace) -> Trace:
    """In these modes the ratio of the last places, or the first place, depends on the whole size."""
    whole = str(site.attrs.get("coordinate_transformation_mode", "")) in {"align_corners", "half_pixel_symmetric"}
    return trace.tainted(site.taint("context")) if whole else trace


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


def _scaled(site: Site, view: Placed, ratios: Sequence[Fraction]) -> list[tuple[int, ...]]:
    """Shapes at the probes if the map grows with the image."""
    wanted = []
    for shape in site.draft.spec(view.tensor).shapes or ():
        target = list(shape)
        for axis, ratio in zip(view.spatial, ratios, strict=True):
            target[axis] = int(shape[axis] * ratio)
        wanted.append(tuple(target))
    return wanted


def _kept(site: Site, view: Placed) -> list[Fraction] | None:
    """The node as it is, as its sizes are computed from the image's; returned is how much faster it then grows.

    A batch that was baked into them gives way. None, and nothing is written, where they do not follow the image.
    """
    site.keep()
    old, new = (site.draft.spec(name).shapes or () for name in (view.tensor, site.node.output[0]))
    kept = _grown(view, old, new) and (_same_beside(view, old, new) or _batch_freed(site, view))
    growth = _growth(view, old, new) if kept else None
    if growth is None and kept is not None:
        site.draft.nodes.pop()
    return growth


def _grown(view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """Whether both change from each image size to the next, on all spatial axes."""
    pairs = [pair for shapes in (old, new) for pair in pairwise(shapes)]
    return 1 < len(old) == len(new) and all(a[axis] != b[axis] for a, b in pairs for axis in view.spatial)


def _same_beside(view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> bool:
    """Whether batch and channels stay what they are."""
    others = [axis for axis in range(len(view.groups)) if axis not in view.spatial]
    return all(a[axis] == b[axis] for a, b in zip(old, new, strict=True) for axis in others)


def _batch_freed(site: Site, view: Placed) -> bool | None:
    """The node with the batch of its input in its sizes; None, and nothing is written, where that cannot be."""
    site.draft.nodes.pop()
    if not site.has_input(3) or "axes" in site.attrs or not contiguous(view):
        return None
    first, last = min(view.spatial), max(view.spatial) + 1
    sizes = ops.slice_axis(site.draft, site.tensors()[3], 0, first, last)
    site.keep([*site.tensors()[:3], sizes_with(site, view, sizes)])
    return True


def _growth(view: Placed, old: Sequence[Shape], new: Sequence[Shape]) -> list[Fraction] | None:
    """How much faster it grows than its input, by axis; None where that depends on another axis of the image, say."""
    steps = list(zip(pairwise(old), pairwise(new), strict=True))
    rates = [{Fraction(d[k] - c[k], b[k] - a[k]) for (a, b), (c, d) in steps} for k in view.spatial]
    return None if any(len(found) > 1 for found in rates) else [found.pop() for found in rates]


def _sized_like(site: Site, view: Placed) -> Placed | None:
    """The map whose size is meant by fixed sizes: the one that the result meets, or the image itself."""
    policy = str(site.attrs.get("keep_aspect_ratio_policy", "stretch"))
    if not view.is_map or not site.has_input(3) or policy != "stretch" or view.trace.windows or not contiguous(view):
        return None
    sister = next(references(site, view, view.spatial), None)
    return sister or next((image for image in images(site) if _whole_image(site, view, image)), None)


def _whole_image(site: Site, view: Placed, image: Placed) -> bool:
    """Whether a map gets the image's size on all axes, and is as much coarser now as its stride says.

    That is no coincidence: each layer may round once, so within two elements of the coarser map, and without padding
    it loses as much as an element reads.
    """
    if image.extent != sized(site, view) or not contiguous(image):
        return False
    own = zip(view.extent, view.fields, image.extent, strict=True)
    rounded = [2 * max(1, field.stride) for field in view.fields]
    return all(
        -most - field.size < length * field.stride - pixels < most
        for (length, field, pixels), most in zip(own, rounded, strict=True)
    )


def _to_size_of(site: Site, view: Placed, ratios: Sequence[Fraction], other: Placed) -> Outcome:
    """To another map's size, whatever it is."""
    site.keep([*site.tensors()[:3], sizes_like(site, view, other)], axes=None)
    own = zip(view.fields, other.fields, strict=True)
    growth = [Fraction(field.stride) / Fraction(finer.stride) for field, finer in own]
    return site.placed(view, _to_a_size(site, view, ratios, growth), view.where)


def _to_a_size(site: Site, view: Placed, ratios: Sequence[Fraction], growth: Sequence[Fraction]) -> Trace:
    """What is read by a map that follows another map's size.

    Where it grows in the native ratio, it has this ratio at all sizes of the stride grid, and off it one near it.
    Otherwise every size has its own ratio, which is context.
    """
    if list(ratios) != list(growth):
        return _resampled(site, view, _fields(site, view, growth)).tainted(site.taint("context"))
    fields = view.fields if set(ratios) == {Fraction(1)} else _fields(site, view, ratios)
    trace = view.trace.along(dict(zip(view.where, fields, strict=True)))
    return _aligned(site, trace.tainted(site.taint(RESIZED)))


def _by_scales(site: Site, view: Placed, ratios: Sequence[Fraction]) -> Outcome | None:
    """Resize to the native sizes as a Resize by the same ratio; a refusal where that is not the same thing."""
    if not site.has_input(3) or any(ratio.denominator != 1 and ratio.numerator != 1 for ratio in ratios):
        return site.refuse("size-locked", "resizes to the native size")
    if view.extent == (1,) * len(view.spatial):
        return site.refuse("size-locked", "resizes to the native size")
    if any(ratio.denominator != 1 for ratio in ratios):
        return _to_a_part(site, view, ratios)
    scales = np.ones(len(site.shape_in()), np.float32)
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        scales[axis] = float(ratio)
    site.keep([view.tensor, site.tensors()[1], site.draft.constant(scales, "scales")], axes=None)
    return None


def _to_a_part(site: Site, view: Placed, ratios: Sequence[Fraction]) -> Outcome:
    """To a half of the size, say: where that is rounded the ratio is another, which is not so with scales."""
    draft = site.draft
    sizes: list[int | str] = [ops.dims(draft, view.tensor, 0, 1), *site.shape_out()[1:]]
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        length = ops.dims(draft, view.tensor, axis, axis + 1)
        if ratio.numerator != 1:
            length = draft.emit("Mul", [length, draft.constant([ratio.numerator], "factor")])
        if ratio.denominator != 1:
            length = draft.emit("Div", [length, draft.constant([ratio.denominator], "part")])
        sizes[axis] = length
    site.keep([*site.tensors()[:3], ops.numbers(draft, sizes)], axes=None)
    return site.placed(view, _to_a_size(site, view, ratios, ratios), view.where)
