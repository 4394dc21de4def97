"""Crop agreement: a cell against the original run on the crop of the image at cell * stride pixels.

Where the trunk pads, a crop sees zeros at its border and the large image sees pixels, so the two differ;
that is measured and no failure, unless the verdict says exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfc.claim import Claim, Output
from onnxfc.proof.forms import REDUCED, WINDOWED, FormError, cell_value, reduce_cells
from onnxfc.proof.observe import Evidence
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import CropResult
from onnxfc.proof.scale import Scale
from onnxfc.proof.sessions import Array
from onnxfc.proof.windows import Capture


@dataclass
class _Sums:
    """Deviations of all cells so far."""

    relative: list[Array] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    worst: tuple[float, str] = (0.0, "")
    excess: tuple[float, str, float] = (0.0, "", 0.0)


def compare_crops(captures: Sequence[Capture], evidence: Evidence, claim: Claim, options: CheckOptions) -> CropResult:
    """Compare the first size's outputs with the crops that the original was run on."""
    if not captures or not evidence.crops:
        return CropResult("not applicable", reason="no output is made of windows")
    shot, sums = captures[0], _Sums()
    for output in claim.outputs:
        scale = evidence.scales[output.name, shot.kind.name]
        if output.form in WINDOWED and not scale.problem:
            try:
                pairs = list(_pairs(output, shot, evidence, claim))
            except (FormError, IndexError, ValueError) as error:
                return CropResult("failed", reason=f"the cells cannot be read: {error}")
            _add(
                sums,
                output,
                pairs,
                scale,
                scale.tolerance(options, evidence.noise.get((output.name, shot.kind.name))),
            )
    if not sums.relative:
        return CropResult("not applicable", reason="no output has cells to compare with crops")
    every = np.concatenate([value.ravel() for value in sums.relative])
    excess, where, tolerance = sums.excess
    bad = claim.verdict == "exact" and excess > 1
    return CropResult(
        status="failed" if bad else "measured",
        deviation=float(every.max()),
        median=float(np.median(every)),
        top1=float(np.mean(sums.hits)) if sums.hits else None,
        tolerance=tolerance if claim.verdict == "exact" else None,
        cells=len(evidence.crops),
        compared=every.size,
        size=shot.size.pixels,
        worst=sums.worst[1],
        reason=f"{where} the cell differs from its crop by {excess:.1e} times the tolerance" if bad else "",
    )


def _pairs(output: Output, shot: Capture, evidence: Evidence, claim: Claim) -> Iterator[tuple[Array, Array, str]]:
    """Value found, value of the crop, and the place; reduced outputs only if all crops were run."""
    value = shot.values[output.name]
    crops = [(cell, values[output.name]) for cell, values in evidence.crops]
    if output.form in REDUCED:
        if len(crops) == int(np.prod(shot.size.grid or (0,))):
            want = reduce_cells(output.form, [crop for _, crop in crops])
            yield _like(value, want), want, f"{output.name} over all cells"
        return
    for cell, want in crops:
        got = cell_value(output, value, cell, want.ndim, claim)
        yield _like(got, want), want, f"{output.name} cell {cell}"


def _like(got: Array, want: Array) -> Array:
    """The images of the batch that the crops were taken of."""
    return got[: len(want)] if want.ndim else got


def _add(sums: _Sums, output: Output, pairs: list[tuple[Array, Array, str]], scale: Scale, tolerance: float) -> None:
    if not pairs:
        return
    if scale.exact:
        sums.hits += [bool((got == want).all()) for got, want, _ in pairs]
        if not all(sums.hits):
            sums.excess = (np.inf, output.name, 0.0)
        return
    wanted = np.stack([want for _, want, _ in pairs]).astype(np.float64)
    spread = float(wanted.max() - wanted.min()) or 1.0
    for got, want, where in pairs:
        difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
        relative = np.where(np.isfinite(difference), difference, np.inf) / spread
        sums.relative.append(relative)
        worst = float(relative.max())
        sums.worst = max(sums.worst, (worst, where))
        sums.excess = max(sums.excess, (worst * spread / tolerance, where, tolerance / spread))
        if want.ndim > 1 and want.shape[1] > 1:
            sums.hits += (got.argmax(axis=1) == want.argmax(axis=1)).ravel().tolist()
