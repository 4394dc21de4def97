"""What a check found: eight results that are never mixed up, as frozen data.

- native parity: both models agree at the native size.
- window parity: every cell equals the original's head run on that window of the same features.
- crop agreement: how far a cell is from the original run on the crop of the image; measured, not required.
- CPU against provider: the original where the check was run against the original on the CPU.
- trunk parity: the original's own trunk at larger sizes, where it runs there, is the rewritten model's.
- shift consistency: what lies well inside two overlapping images is the same in both.
- certificate: which Conv weight is which FC layer's weight, and whether quantised numbers are the original's, read off
  the two files.
- verdict: what the rewritten model says of itself (``exact``, ``approximate`` or ``extrapolated``), carried along.

Deviations and tolerances are given relative to the *signal* of an output: half the largest change that
different inputs cause in one of its elements. Crop deviations are relative to the score range, the
distance between the smallest and the largest score among the crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["passed", "failed", "not applicable", "not run"]
CropStatus = Literal["measured", "failed", "not applicable", "not run"]
"""``not applicable``: there is nothing to compare; ``not run``: there is, but it costs too much, or all has failed."""


@dataclass(frozen=True)
class OutputResult:
    """One output, or one trunk tensor, in one kind of comparison.

    ``deviation`` and ``tolerance`` are in units of ``signal``; integer outputs are compared exactly and
    ``deviation`` is then the share of values that differ, ``tolerance`` 0. ``noise`` is the original's own
    rounding noise (onnxruntime with against without graph optimisation), same unit, None if not measured
    (models whose weights are too large for a further copy, kernels that exist only optimised).
    ``compared`` counts values; ``worst`` says where the largest deviation is.
    """

    name: str
    passed: bool
    deviation: float
    tolerance: float
    compared: int
    worst: str
    signal: float
    magnitude: float
    noise: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class ParityResult:
    """Native or window parity, say. ``deviation`` and ``tolerance`` are those of the worst output. ``frozen``: which
    node of the trunk pads or rounds as at the native size, also where the original's own does otherwise.

    >>> onnxfc.check_pair("fixtures/trained/digits.onnx", "digits-any.onnx").parity.native.status
    'passed'
    """

    status: Status
    deviation: float = 0.0
    tolerance: float = 0.0
    compared: int = 0
    worst: str = ""
    outputs: tuple[OutputResult, ...] = ()
    reason: str = ""
    sizes: tuple[tuple[int, ...], ...] = ()
    frozen: str = ""


@dataclass(frozen=True)
class TriedCell:
    """A cell, and how far it is from its crop at most, relative to the score range."""

    cell: tuple[int, ...]
    deviation: float


@dataclass(frozen=True)
class CropResult:
    """Crop agreement: deviations relative to the score range, over ``cells`` cells at ``size`` pixels.

    ``top1`` is the share of cells whose best class is the crop's best class, None where the scores have
    no class axis; ``top5`` that of cells whose best class is among the crop's best five. ``worst_cell`` lies at the
    pixels ``worst_box`` (start, stop per axis). ``tried`` are the cells of all outputs. ``failed`` only if the verdict
    says exact, or exact crops were asked for, and the measurement says otherwise.

    >>> onnxfc.check_pair("fixtures/trained/digits.onnx", "digits-any.onnx").parity.crops.cells
    5
    """

    status: CropStatus
    deviation: float = 0.0
    median: float = 0.0
    top1: float | None = None
    top5: float | None = None
    tolerance: float | None = None
    cells: int = 0
    compared: int = 0
    size: tuple[int, ...] = ()
    worst: str = ""
    worst_cell: tuple[int, ...] = ()
    worst_box: tuple[tuple[int, int], ...] = ()
    tried: tuple[TriedCell, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Rest:
    """An output that no input moves, and why; the proof rests on the FC layers right before it."""

    output: str
    problem: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Kernels:
    """How far onnxruntime's kernels on integers, which it puts into a quantised model by default, move an output from
    what the file says: on average over all values of the native samples, in the signal of the output that moves most.
    """

    original: float
    rewritten: float


@dataclass(frozen=True)
class VerdictResult:
    """The static verdict of the claim, with its causes; nothing here is measured."""

    verdict: Literal["exact", "approximate", "extrapolated"]
    blame: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightResult:
    """The weight of one FC layer of the original, and the Conv weights ``found`` in the second model that it is.

    ``relation``: ``same`` (byte for byte), ``permuted`` (``order`` says how), ``scaled`` (by one figure), ``folded`` (a
    figure for each feature or output), ``rounded`` (in another number type), ``missing``, ``untold``
    (of one output with factors, which makes anything of anything; or its columns add up, of features that are read
    twice). ``error`` is the largest one in
    float64, relative to the largest weight.
    """

    node: str
    weight: str
    relation: Literal["same", "permuted", "scaled", "folded", "rounded", "missing", "untold"]
    found: tuple[str, ...] = ()
    order: str = ""
    error: float = 0.0


@dataclass(frozen=True)
class Certificate:
    """What the two files say of their weights, without a run: ``none`` where they do not say it, ``failed`` where a
    rewrite should, or has quantised numbers of its own. ``weights`` are those of FC layers that are none in the second
    model."""

    status: Literal["holds", "none", "failed"]
    weights: tuple[WeightResult, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Conditions:
    """What a reader needs to repeat the check. ``on_cpu``: nodes of the second model that the provider left to it."""

    seed: int
    threads: int
    onnxruntime: str
    inputs: tuple[str, ...]
    samples: int
    batches: tuple[int, ...]
    seconds: float
    provider: str = "CPUExecutionProvider"
    on_cpu: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parity:
    """The outcome of a check. ``vacuous`` says why nothing could be proven, and then nothing has passed. ``form``: what
    was made for one image size, against the model for any size that all else speaks of. ``kernels``: of quantised
    models, which are proven as their files say.

    >>> onnxfc.check_pair("fixtures/trained/digits.onnx", "digits-any.onnx").parity.summary()
    'proven on 11706 values, ...'
    """

    native: ParityResult
    window: ParityResult
    crops: CropResult
    verdict: VerdictResult
    conditions: Conditions
    vacuous: str | None = None
    shift: ParityResult = ParityResult("not run", reason="not reached")
    trunk: ParityResult = ParityResult("not run", reason="not reached")
    rests: tuple[Rest, ...] = ()
    certificate: Certificate = Certificate("none", reason="not reached")
    provider: ParityResult = ParityResult("not applicable", reason="not reached")
    form: ParityResult = ParityResult("not applicable", reason="the second model takes images of any size")
    kernels: Kernels | None = None

    @property
    def passed(self) -> bool:
        """True only if something was compared, and everything that was required agreed."""
        return (
            self.vacuous is None
            and self.native.status == "passed"
            and self.native.compared > 0
            and self.window.status != "failed"
            and self.shift.status != "failed"
            and self.trunk.status != "failed"
            and self.crops.status != "failed"
            and self.certificate.status != "failed"
            and self.provider.status != "failed"
            and self.form.status != "failed"
        )

    def summary(self) -> str:
        """One line for the user: why it failed, or what was proven."""
        required = (
            ("native parity", self.native),
            ("window parity", self.window),
            ("shift consistency", self.shift),
            ("trunk parity", self.trunk),
            ("CPU against provider", self.provider),
            ("form parity", self.form),
        )
        for name, result in required:
            if result.status == "failed":
                return f"{name} failed: {result.reason}"
        if self.certificate.status == "failed":
            return f"certificate failed: {self.certificate.reason}"
        if self.vacuous is not None:
            return f"the proof is vacuous: {self.vacuous}"
        if self.crops.status == "failed":
            claimed = "verdict contradicted" if self.verdict.verdict == "exact" else "crop agreement failed"
            return f"{claimed}: {self.crops.reason}"
        results = (self.native, self.window, self.shift, self.form)
        values = sum(result.compared for result in results)
        worst = max(result.deviation for result in results)
        outputs = {item.name for item in self.native.outputs}
        elsewhere = self.crops.compared or sum(result.compared for result in results[1:])
        elsewhere = elsewhere or not outputs.isdisjoint(item.name for item in self.trunk.outputs)
        where = "" if elsewhere else " of the native size alone"
        return f"proven on {values} values{where}, largest deviation {worst:.1e} of the signal"
