"""Which places of a map those of the resized one read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from onnxfc.builder.rule_context import RuleContext
from onnxfc.claim.blame import Cause
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Placed


def resampled_along(ctx: RuleContext, view: Placed, fields: Sequence[Field], inside: bool = False) -> Provenance:
    """Other receptive fields along ``view.spatial``."""
    return resampled(ctx, view.provenance.along(dict(zip(view.where, fields, strict=True))), inside)


def resampled(ctx: RuleContext, provenance: Provenance, inside: bool = False) -> Provenance:
    """Blamed for another resolution; ``inside``: of which no place reads beyond the map."""
    return provenance.blamed(ctx.blame(Cause.STEPS if inside else Cause.RESAMPLING))


def aligned(ctx: RuleContext, view: Placed, provenance: Provenance) -> Provenance:
    """In these modes the ratio of the last places, or the first place, depends on the whole size; with half pixels of
    PyTorch where there is one place, whose centre is the first pixel's."""
    how = str(ctx.attrs.get("coordinate_transformation_mode", ""))
    alone = how == "pytorch_half_pixel" and min(ctx.shape_out()[axis] for axis in view.spatial) == 1
    whole = alone or how in {"align_corners", "half_pixel_symmetric"}
    return provenance.blamed(ctx.blame(Cause.CONTEXT)) if whole else provenance


def read_by(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> list[Field]:
    reach = [_reach(ctx, ratio) for ratio in ratios]
    return [
        field.resampled(ratio, low, high) for field, ratio, (low, high) in zip(view.fields, ratios, reach, strict=True)
    ]


def _reach(ctx: RuleContext, ratio: Fraction) -> tuple[Fraction, Fraction]:
    """From where to where, relative to ``o / ratio``, place ``o`` reads at most, in elements.

    Its centre lies at ``o / ratio``, or with half pixels at ``(o + 0.5) / ratio - 0.5``; nearest and linear read
    one element around it, cubic two, and with antialias so many times more as the map gets smaller.

    There are as many places as the scaled length has whole ones, so that ``o`` is there from the element on that is
    (o + 1) / ratio - 1, rounded up: that counts as read, as a padding behind the map begins where no place is any more.
    """
    centre = Fraction(1, 2) / ratio - Fraction(1, 2)
    support = Fraction(2 if str(ctx.attrs.get("mode", "nearest")) == "cubic" else 1)
    if ctx.attrs.get("antialias", 0):
        support = support * max(Fraction(1), 1 / ratio) + 1
    there = Fraction(ratio.denominator - 1, ratio.numerator)
    return min(centre, Fraction(0)) - support, max(max(centre, Fraction(0)) + support, there)


def stays_inside(ctx: RuleContext, view: Placed, ratios: Sequence[Fraction]) -> bool:
    """Whether no place reads beyond the map, wherever it lies: at the border of a crop nothing is made up.

    Of linear ones those by a power of two, whose weights are the same at every place in float32, and of others those by
    a number that float32 holds.
    """
    old = ctx.op_type == "Upsample" or ctx.opset < 11
    mode, attrs = str(ctx.attrs.get("mode", "nearest")), ctx.attrs
    how = str(attrs.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel"))
    if how == "pytorch_half_pixel" and min(ctx.shape_out()[axis] for axis in view.spatial) > 1:
        how = "half_pixel"
    if attrs.get("antialias", 0) or mode not in {"nearest", "linear"} or how not in {"asymmetric", "half_pixel"}:
        return False
    half = Fraction(how == "half_pixel", 2)
    for axis, ratio in zip(view.spatial, ratios, strict=True):
        first, last = ((place + half) / ratio - half for place in (0, ctx.shape_out()[axis] - 1))
        rounding = "linear" if mode == "linear" else str(attrs.get("nearest_mode", "round_prefer_floor"))
        if old and mode == "nearest":
            rounding = "floor" if ratio >= 1 else "ceil"
        if rounding not in _NEAREST:  # onnxruntime says so
            return False
        low, high = _NEAREST[rounding]
        rounded = ratio.denominator if mode == "nearest" else ratio.numerator * ratio.denominator
        if rounded & (rounded - 1) or low(first) < 0 or high(last) >= ctx.shape_in()[axis]:
            return False
    return True


_NEAREST: dict[str, tuple[Callable[[Fraction], int], Callable[[Fraction], int]]] = {
    "linear": (math.floor, math.ceil),
    "floor": (math.floor, math.floor),
    "ceil": (math.ceil, math.ceil),
    "round_prefer_floor": (lambda at: math.ceil(at - Fraction(1, 2)),) * 2,
    "round_prefer_ceil": (lambda at: math.floor(at + Fraction(1, 2)),) * 2,
}
"""The first and the last place that are read around a centre."""
