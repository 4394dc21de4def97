"""Crop agreement: a cell against the original run on the crop of the image at cell * stride pixels.

Where the trunk pads, a crop sees zeros at its border and the large image sees pixels, so the two differ;
that is measured and no failure, unless the verdict says exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfc.claim.claim import Claim, Output
from onnxfc.proof.accumulator import distance
from onnxfc.proof.edges import nearer
from onnxfc.proof.evidence import Evidence
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import REDUCED, WINDOWED, FormError, cell_value, reduce_cells
from onnxfc.proof.results import CropResult, TriedCell
from onnxfc.proof.sessions import Array
from onnxfc.proof.tolerance import Scale
from onnxfc.proof.windows import Capture

_Pair = tuple[Array, Array, str, tuple[int, ...]]
"""Value found, value wanted, where, and the cell (none for reduced outputs)."""


@dataclass
class _Sums:
    """Deviations of all cells so far."""

    relative: list[Array] = field(default_factory=list)
    differing: list[Array] = field(default_factory=list)
    hits: list[bool] = field(default_factory=list)
    near: list[bool] = field(default_factory=list)
    tried: list[TriedCell] = field(default_factory=list)
    worst: tuple[float, str, tuple[int, ...]] = (-1.0, "", ())
    excess: tuple[float, str, float] = (0.0, "", 0.0)


def compare_crops(captures: Sequence[Capture], evidence: Evidence, claim: Claim, options: CheckOptions) -> CropResult:
    """Compare the first size's outputs with the crops that the original was run on."""
    if not captures or not evidence.crops:
        return _without(options, "no output is made of windows")
    try:
        sums, aside = _summed(captures[0], evidence, claim, options)
    except FormError as error:
        return CropResult("failed", reason=f"the cells cannot be read: {error}")
    found = sums.relative or sums.differing  # of integers: 1 where they differ
    if not found:
        return _without(options, "no output has cells to compare with crops")
    every = np.concatenate([value.ravel() for value in found])
    excess, where, tolerance = max(sums.excess, aside.excess)
    required = _required(options, claim)
    bad = required and excess > 1
    cell = sums.worst[2]
    return CropResult(
        status="failed" if bad else "measured",
        deviation=float(every.max()),
        median=float(np.median(every)),
        top1=float(np.mean(sums.hits)) if sums.hits else None,
        top5=float(np.mean(sums.near)) if sums.near else None,
        tolerance=tolerance if required else None,
        cells=len(evidence.crops),
        compared=every.size,
        size=captures[0].size.pixels,
        worst=sums.worst[1],
        worst_cell=cell,
        worst_box=tuple((i * s, i * s + n) for i, s, n in zip(cell, claim.stride, claim.native_size, strict=False)),
        tried=tuple(sums.tried),
        reason=f"{where} differs from its crop by {excess:.1e} times the tolerance" if bad else "",
    )


def _required(options: CheckOptions, claim: Claim) -> bool:
    """Whether cells must agree with crops."""
    return options.against_crops == "exact" or claim.verdict == "exact"


def _summed(shot: Capture, evidence: Evidence, claim: Claim, options: CheckOptions) -> tuple[_Sums, _Sums]:
    """Deviations of the outputs that are told, and of those that must agree all the same."""
    told, sums, aside = _told(evidence), _Sums(), _Sums()
    wanted = {output.name for output in claim.outputs} if _required(options, claim) else told
    for output in claim.outputs:
        scale = evidence.scales[output.name, shot.kind.name]
        if output.form not in WINDOWED or scale.problem or output.name not in wanted:
            continue
        pairs = _pairs(output, shot, evidence, claim)
        scale = scale.over([want for _, want, *_ in pairs])
        tolerance = scale.tolerance(options.of(output.name), evidence.noise.get((output.name, shot.kind.name)))
        if _required(options, claim):
            pairs = [_on_edges(pair, output, evidence, 0.0 if scale.exact else tolerance) for pair in pairs]
        _add(sums if output.name in told else aside, output, pairs, scale, tolerance)
    return sums, aside


def _told(evidence: Evidence) -> set[str]:
    """Outputs whose deviations are measured: the models' own, or the FC layers on which those rest."""
    hidden = {rest.output for rest in evidence.rests}
    return {*evidence.own} - hidden | {layer for rest in evidence.rests for layer in rest.layers}


def _without(options: CheckOptions, reason: str) -> CropResult:
    """Nothing to compare: no failure, unless crops were asked to agree."""
    return CropResult("failed" if options.against_crops == "exact" else "not applicable", reason=reason)


def _pairs(output: Output, shot: Capture, evidence: Evidence, claim: Claim) -> list[_Pair]:
    """Value found, value of the crop, and the place; reduced outputs only if all crops were run. Raises FormError."""
    value = shot.values[output.name]
    crops = [(cell, values[output.name]) for cell, values in evidence.crops]
    try:
        if output.form not in REDUCED:
            each = ((cell_value(output, value, cell, want.ndim, claim), want, cell) for cell, want in crops)
            return [(_like(got, want), want, f"{output.name} cell {cell}", cell) for got, want, cell in each]
        if len(crops) != int(np.prod(shot.size.grid or (0,))):
            return []
        want = reduce_cells(output.form, [crop for _, crop in crops])
        return [(_like(value, want), want, f"{output.name} over all cells", ())]
    except (IndexError, ValueError) as error:
        raise FormError(str(error)) from error


def _like(got: Array, want: Array) -> Array:
    """The images of the batch that the crops were taken of."""
    return got[: len(want)] if want.ndim else got


def _on_edges(pair: _Pair, output: Output, evidence: Evidence, tolerance: float) -> _Pair:
    """What the original says of the crop, where values lie on the edge between two integers the nearest to the cell."""
    got, want, where, cell = pair
    if not cell or distance(got, want) <= tolerance:
        return pair
    return got, nearer(got, want, evidence.others(output.name, dict(evidence.crops)[cell]), tolerance), where, cell


def _add(sums: _Sums, output: Output, pairs: list[_Pair], scale: Scale, tolerance: float) -> None:
    if not pairs:
        return
    if scale.exact:
        same = [bool((got == want).all()) for got, want, *_ in pairs]
        sums.hits += same
        sums.differing += [(got != want).astype(np.float64) for got, want, *_ in pairs]
        if not all(same):
            sums.excess = (np.inf, output.name, 0.0)
        return
    wanted = np.stack([want for _, want, *_ in pairs]).astype(np.float64)
    spread = float(wanted.max() - wanted.min()) or 1.0
    for got, want, where, cell in pairs:
        difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
        relative = np.where(np.isfinite(difference), difference, np.inf) / spread
        sums.relative.append(relative)
        worst = float(relative.max())
        sums.worst = max(sums.worst, (worst, where, cell))
        if cell:
            sums.tried.append(TriedCell(cell, worst))
        excess = worst * spread / tolerance if tolerance else worst and np.inf
        sums.excess = max(sums.excess, (excess, where, tolerance / spread))
        if want.ndim > 1 and want.shape[1] > 1:
            best = got.argmax(axis=1)
            sums.hits += (best == want.argmax(axis=1)).ravel().tolist()
            sums.near += _among_best(want, best).ravel().tolist()


def _among_best(want: Array, best: Array) -> Array:
    """Whether the classes ``best`` (without axis 1) are among the five best of ``want``."""
    fifth = np.sort(want, axis=1)[:, -min(5, want.shape[1])]
    chosen = np.take_along_axis(want, np.expand_dims(best, 1), axis=1)[:, 0]
    return np.asarray(chosen >= fifth)
