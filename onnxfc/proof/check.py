"""check(original, rewritten, claim): the proof, step by step.

The models are run one after the other, original, rewritten, head of the original, each in one session
that is closed before the next is opened. The verifier believes nothing that the claim says: what the
claim leaves out or gets wrong ends in a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import ort_session
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.bounded import bounded
from onnxfc.proof.certificate import certify
from onnxfc.proof.crops import compare_crops
from onnxfc.proof.detections import ahead, behind_problem, tail_problem
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.folded import apart, fold_problem
from onnxfc.proof.grids import grid_problem
from onnxfc.proof.kernels import compare_kernels, on_integers
from onnxfc.proof.layers import Compared, with_layers
from onnxfc.proof.memory import shortage, sliced
from onnxfc.proof.native import compare_native, compare_providers, compare_read
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.providers import CPU
from onnxfc.proof.reference_run import is_small, observe
from onnxfc.proof.results import Conditions, CropResult, Parity, ParityResult, VerdictResult
from onnxfc.proof.sessions import RunError, Runner, Unseen
from onnxfc.proof.shift import compare_shifted, why_not
from onnxfc.proof.sizes import Size, TooLarge, further_sizes, larger_sizes
from onnxfc.proof.static_checks import axes_problem, claim_problem, growth_problem, one_size_problem
from onnxfc.proof.trunk import compare_trunk
from onnxfc.proof.window_parity import NATIVE_ONLY, Plans, WindowParity
from onnxfc.proof.windows import Capture, capture

_DEFAULT = CheckOptions()
_NOTHING = ParityResult("not run", reason="not reached")
_NO_CROPS = CropResult("not run", reason="not reached")
_DISAGREE = "the models do not agree"


def check(
    original: ModelFile,
    rewritten: ModelFile,
    claim: Claim,
    options: CheckOptions = _DEFAULT,
    progress: Callable[[str], None] | None = None,
    source: ModelFile | None = None,
) -> Parity:
    """Put ``claim`` about ``rewritten`` to the test against ``original``, by running both.

    ``source``: the file that ``original`` was made of (functions inlined, say): both must agree at the native size too.
    Costs about twelve native forward passes of a large model. ``progress`` gets short phrases. Raises UsageError for
    options that do not fit the model, ProofFailed where time or memory that ``options`` bound run out; whatever is
    wrong with the models or the claim is in the result.

    >>> result = onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False)
    >>> original = onnxfc.ModelFile.open("fixtures/trained/digits.onnx")
    >>> onnxfc.check(original, result.file, result.claim).passed
    True
    """
    options.must_fit(claim)
    if options.bounded:
        within = options.unbounded
        return bounded(lambda: check(original, rewritten, claim, within, progress, source), options)
    problem, whole, all_told = None, (original, rewritten), claim
    if claim.detections:
        problem = tail_problem(original, rewritten, claim)
        original, rewritten, claim = ahead(original, rewritten, claim)
    problem = problem or claim_problem(original.proto, rewritten.proto, claim)
    problem = problem or (one_size_problem(rewritten.proto, claim) if options.larger else None)
    few = (original, rewritten, claim, options) if problem else sliced(original, rewritten, claim, options)
    if on_integers(original) or on_integers(rewritten):
        few = (*few[:3], replace(few[3], as_written=True))
    source = source if few[0] is original and source is not original else None
    once = _Check(*few, progress or (lambda _: None), source, problem, is_small(original))
    found = once.run()
    if not (found.passed or found.vacuous is not None or once.thorough):
        found = replace(once, thorough=True).run()  # what rounding does was not measured, and may be all that there is
    if found.passed and all_told.detections and (stops := behind_problem(*whole, all_told, options)):
        found = replace(found, native=replace(found.native, status="failed", reason=stops))
    grids = {grid.original for grid in claim.grids}
    return replace(found, certificate=certify(original, rewritten, grids)) if found.native.compared else found


def _unfold(evidence: Evidence, claim: Claim) -> None:
    """From here on features are maps, also where the original holds places otherwise."""
    folded = {item.original: item for item in claim.boundaries if item.folded}
    for sample in (*evidence.samples, *evidence.rounded):
        sample.values.update({name: apart(item, sample.values[name]) for name, item in folded.items()})


class _Stop(Exception):
    """Nothing can be compared; the text is one line."""


@dataclass
class _Larger:
    """What the rewritten model made of larger images; ``further``: of more sizes, at which no crops are run.
    ``fallen``: nodes that its provider left to the CPU."""

    shift: ParityResult
    captures: list[Capture] = field(default_factory=list)
    further: list[Capture] = field(default_factory=list)
    fallen: tuple[str, ...] = ()


@dataclass
class _Check:
    original: ModelFile
    rewritten: ModelFile
    claim: Claim
    options: CheckOptions
    progress: Progress
    source: ModelFile | None
    problem: str | None
    thorough: bool
    started: float = field(default_factory=time.perf_counter)

    def run(self) -> Parity:
        try:
            pair, sizes = self._prepared()
            plans = Plans.of(pair)
            evidence = self._observed(pair, plans, sizes)
        except _Stop as stop:
            failed = ParityResult("failed", reason=str(stop))
            return self._parity(None, failed, _NOTHING, _NO_CROPS)
        if evidence.vacuous is not None:
            return self._parity(evidence, _NOTHING, _NOTHING, _NO_CROPS)
        native, windows = (Tally(self.options, evidence.noise, evidence.flips) for _ in range(2))
        larger = self._run_rewritten(pair, evidence, sizes, native, windows)
        parity = WindowParity(pair, plans, evidence, self.options, self.progress)
        window = parity.result([*larger.captures, *larger.further], windows)
        return self._concluded(pair, evidence, larger, native, window, windows)

    def _prepared(self) -> tuple[Compared, list[Size]]:
        """The models with their FC layers shown, and the sizes to run. Raises _Stop."""
        if self.problem is not None:
            raise _Stop(self.problem)
        try:
            sizes = larger_sizes(self.claim, self.options)
        except TooLarge as error:
            raise _Stop(f"wrong claim: {error}") from error
        short = shortage(self.original.proto, self.claim, sizes)
        if short:
            raise _Stop(short)
        return with_layers(self.original, self.rewritten, self.claim), sizes

    def _observed(self, pair: Compared, plans: Plans, sizes: list[Size]) -> Evidence:
        """What the original does. Raises _Stop."""
        tensors = [*(boundary.original for boundary in self.claim.boundaries), *plans.tensors]
        try:
            evidence = observe(pair, tensors, sizes, self.options, self.progress, thorough=self.thorough)
        except RunError as error:
            why = "cannot be looked at" if isinstance(error, Unseen) else "does not run"
            raise _Stop(f"the original {why}: {error}") from error
        if evidence.vacuous is not None:
            return evidence
        problem = fold_problem(self.claim, evidence.native)
        if problem is None:
            _unfold(evidence, self.claim)
            problem = axes_problem(self.claim, evidence.native)
        if problem is not None:
            raise _Stop(f"wrong claim: {problem}")
        return evidence

    def _run_rewritten(
        self, pair: Compared, evidence: Evidence, sizes: list[Size], native: Tally, windows: Tally
    ) -> _Larger:
        """All that needs the rewritten model as a whole, in one session."""
        larger = _Larger(shift=_NOTHING if self.options.larger else NATIVE_ONLY)
        try:
            if self.source is not None:
                self.progress("the original as its file stands")
                compare_read(self.source, evidence, pair.claim, native)
            self.progress("loading the rewritten model")
            runner = Runner(pair.rewritten, self._watched, replace(self.options.engine, strict=True))
            larger.fallen = runner.fallen
            compare_native(runner, evidence, pair.claim, native, self.progress)
            if self.options.larger:
                larger.captures = capture(runner, evidence, pair.claim, sizes, windows, self.progress)
                self._grids(runner, evidence, larger.captures, windows)
                self._grown(evidence, larger.captures, windows)
            if self.options.larger and self.thorough and not native.reasons and not windows.reasons:
                larger.shift = compare_shifted(runner, evidence, pair.claim, self.options, self.progress)
                larger.further = self._further(runner, evidence, pair.claim, sizes[0], windows)
        except RunError as error:
            native.fail(f"the rewritten model does not load: {error}")
        return larger

    def _grids(self, runner: Runner, evidence: Evidence, shots: list[Capture], tally: Tally) -> None:
        """A failure where a grid of coordinates does not go on as it is claimed to."""
        native = runner.run(evidence.samples[0].feeds) if self.claim.grids else {}
        problem = grid_problem(self.claim, native, shots)
        if problem is not None:
            tally.fail(problem)

    def _grown(self, evidence: Evidence, shots: list[Capture], tally: Tally) -> None:
        """A failure where an output does not grow with the image as claimed."""
        found = (growth_problem(self.claim, evidence.native, shot.size.pixels, shot.values) for shot in shots)
        problem = next(filter(None, found), "")
        if problem:
            tally.fail(f"wrong claim: {problem}")

    @property
    def _watched(self) -> list[str]:
        """Tensors of the rewritten model that are compared, or tell how long a list is, beside its outputs."""
        names = [boundary.rewritten for boundary in self.claim.boundaries]
        names += [grid.rewritten for grid in self.claim.grids]
        names += [figure.rewritten for figure in self.claim.figures]
        return names + [level.tensor for output in self.claim.outputs for level in output.levels]

    def _provider(self, pair: Compared, evidence: Evidence) -> ParityResult:
        """The provider against the CPU."""
        if self.options.engine.provider is None:
            return ParityResult("not applicable", reason="everything was run on the CPU")
        self.progress("the original on the CPU")
        return compare_providers(pair.original, evidence, pair.claim, self.options)

    def _further(self, runner: Runner, evidence: Evidence, claim: Claim, size: Size, tally: Tally) -> list[Capture]:
        """More sizes of a small model: of the other parity than the first, and off the grid."""
        if not evidence.small:
            return []
        own = Tally(self.options)
        sizes = further_sizes(claim, size)
        shots = capture(runner, evidence, claim, sizes, own, self.progress)
        tally.reasons += own.reasons
        tally.sizes += own.sizes
        self._grown(evidence, shots, tally)
        return shots

    def _concluded(
        self, pair: Compared, evidence: Evidence, larger: _Larger, native: Tally, window: ParityResult, windows: Tally
    ) -> Parity:
        """What is compared last, where everything else has agreed, and all results."""
        written = self.options.engine.as_written and native.result().status == "passed"
        kernels = compare_kernels(pair, evidence, self.options, native, self.progress) if written else None
        result = native.result()
        crops = CropResult("not run", reason=_DISAGREE)
        trunk = ParityResult("not run", reason=_DISAGREE) if self.options.larger else NATIVE_ONLY
        if "failed" not in (result.status, window.status):
            crops = compare_crops(larger.captures, evidence, pair.claim, self.options)
            trunk = self._trunk(pair, [*larger.captures, *larger.further], evidence)
            if self.options.larger and not self.thorough:
                larger.shift = self._shift(pair, evidence, trunk)
        evidence.vacuous = next(iter([*native.vacuous, *windows.vacuous]), None)
        result, window = (
            replace(item, reason=item.reason + evidence.drowned) if item.status == "failed" else item
            for item in (result, window)
        )
        parity = self._parity(evidence, result, window, crops, larger.fallen)
        return replace(
            parity, shift=larger.shift, trunk=trunk, provider=self._provider(pair, evidence), kernels=kernels
        )

    def _trunk(self, pair: Compared, shots: list[Capture], evidence: Evidence) -> ParityResult:
        """Trunk parity; a large model's at the first size only."""
        if not self.options.larger:
            return NATIVE_ONLY
        chosen = shots if evidence.small else [shot for shot in shots if shot.size == shots[0].size]
        return compare_trunk(pair.original, pair.rewritten, chosen, evidence, pair.claim, self.options, self.progress)

    def _shift(self, pair: Compared, evidence: Evidence, trunk: ParityResult) -> ParityResult:
        """Shift consistency of a large model, where its trunk could not be compared with the original's own."""
        against = why_not(evidence, pair.claim)
        if against is not None:
            return against
        if trunk.status == "passed" and not trunk.reason:
            where = ", ".join("x".join(map(str, size)) for size in trunk.sizes)
            return ParityResult("not run", reason=f"the original's own trunk says what is right at {where} px")
        runner = Runner(pair.rewritten, self._watched, self.options.engine)
        return compare_shifted(runner, evidence, pair.claim, self.options, self.progress)

    def _parity(
        self,
        evidence: Evidence | None,
        native: ParityResult,
        window: ParityResult,
        crops: CropResult,
        fallen: tuple[str, ...] = (),
    ) -> Parity:
        samples = evidence.samples if evidence else []
        conditions = Conditions(
            seed=self.options.seed,
            threads=self.options.threads,
            provider=str(self.options.engine.provider or CPU),
            on_cpu=fallen,
            onnxruntime=ort_session.version(),
            inputs=tuple(kind.name for kind in evidence.kinds) if evidence else (),
            samples=len(samples),
            batches=tuple(dict.fromkeys(s.batch or (evidence.batch if evidence else 1) for s in samples)),
            seconds=time.perf_counter() - self.started,
        )
        verdict = VerdictResult(self.claim.verdict, tuple(self.claim.blame))
        vacuous, rests = (evidence.vacuous, tuple(evidence.rests)) if evidence else (None, ())
        return Parity(native, window, crops, verdict, conditions, vacuous, rests=rests)
