"""check(original, rewritten, claim): the proof, step by step.

The models are run one after the other, original, rewritten, head of the original, each in one session
that is closed before the next is opened. The verifier believes nothing that the claim says: what the
claim leaves out or gets wrong ends in a failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import ort_session
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.crops import compare_crops
from onnxfc.proof.head import Head, HeadPlan, plan_head
from onnxfc.proof.native import compare_native, compare_read
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import WINDOWED
from onnxfc.proof.reference_run import Evidence, Progress, observe
from onnxfc.proof.results import Conditions, CropResult, Parity, ParityResult, VerdictResult
from onnxfc.proof.sessions import RunError, Runner
from onnxfc.proof.shift import compare_shifted
from onnxfc.proof.sizes import Size, TooLarge, larger_sizes
from onnxfc.proof.static_checks import axes_problem, claim_problem, window_problem
from onnxfc.proof.synthetic_features import Mixed, compare_mixed, mixed_windows
from onnxfc.proof.trunk import compare_trunk, other_parity
from onnxfc.proof.windows import Capture, Heads, capture, compare_windows

_DEFAULT = CheckOptions()
_NOTHING = ParityResult("not applicable", reason="not reached")
_NATIVE_ONLY = ParityResult("not applicable", reason="the second model takes the native size only")


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
    Costs about ten native forward passes. ``progress`` gets short phrases. Raises UsageError for
    options that do not fit the model; whatever is wrong with the models or the claim is in the result.
    """
    options.must_fit(claim)
    return _Check(original, rewritten, claim, options, progress or (lambda _: None), source).run()


@dataclass
class _Check:
    original: ModelFile
    rewritten: ModelFile
    claim: Claim
    options: CheckOptions
    progress: Progress
    source: ModelFile | None

    def run(self) -> Parity:
        self.started = time.perf_counter()
        problem = claim_problem(self.original.proto, self.rewritten.proto, self.claim)
        if problem is not None:
            return self._stopped(problem)
        try:
            sizes = larger_sizes(self.claim, self.options)
        except TooLarge as error:
            return self._stopped(f"wrong claim: {error}")
        plans = self._plan(windowed=True), self._plan(windowed=False)
        tensors = [b.original for b in self.claim.boundaries]
        tensors += [name for plan in plans for name in (*plan.shapes, *plan.sides)]
        try:
            evidence = observe(self.original, self.claim, tensors, sizes[0], self.options, self.progress)
        except RunError as error:
            return self._stopped(f"the original does not run: {error}")
        if evidence.vacuous is not None:
            return self._parity(evidence, _NOTHING, _NOTHING, CropResult("not applicable"), evidence.vacuous)

        problem = axes_problem(self.claim, evidence.samples[0].values | evidence.samples[0].feeds)
        if problem is not None:
            return self._stopped(f"wrong claim: {problem}")
        native = Tally(self.options, evidence.noise)
        windows = Tally(self.options, evidence.noise)
        captures: list[Capture] = []
        further: list[Capture] = []
        shift = _NOTHING if self.options.larger else _NATIVE_ONLY
        try:
            if self.source is not None and self.source is not self.original:
                self.progress("the original as its file stands")
                compare_read(self.source, evidence, self.claim, native)
            self.progress("loading the rewritten model")
            names = [b.rewritten for b in self.claim.boundaries]
            runner = Runner(self.rewritten, names, self.options.threads)
            compare_native(runner, evidence, self.claim, native, self.progress)
            if self.options.larger:
                captures = capture(runner, evidence, self.claim, sizes, windows, self.progress)
            if self.options.larger and not native.reasons and not windows.reasons:
                shift = compare_shifted(runner, evidence, self.claim, self.options, self.progress)
                further = self._further(runner, evidence, sizes[0], windows)
            del runner
        except RunError as error:
            native.fail(f"the rewritten model does not load: {error}")
        window = self._windows(plans, captures, evidence, windows)
        result = native.result()
        crops = CropResult("not applicable", reason="the models do not agree")
        if "failed" not in (result.status, window.status):
            crops = compare_crops(captures, evidence, self.claim, self.options)
        trunk = self._trunk([*captures, *further], evidence, result, window)
        vacuous = next(iter([*native.vacuous, *windows.vacuous]), None)
        result, window = (
            replace(item, reason=item.reason + evidence.drowned) if item.status == "failed" else item
            for item in (result, window)
        )
        return replace(self._parity(evidence, result, window, crops, vacuous), shift=shift, trunk=trunk)

    def _plan(self, *, windowed: bool) -> HeadPlan:
        forms = WINDOWED if windowed else ("global",)
        return plan_head(
            self.original.proto.graph,
            [output.name for output in self.claim.outputs if output.form in forms],
            [boundary.original for boundary in self.claim.boundaries],
            [image.name for image in self.claim.inputs],
        )

    def _windows(
        self, plans: tuple[HeadPlan, HeadPlan], captures: list[Capture], evidence: Evidence, tally: Tally
    ) -> ParityResult:
        if not self.options.larger:
            return _NATIVE_ONLY
        if not self.options.windows and not tally.reasons:
            reason = "the two models have no trunk tensor in common at which their heads begin; name one with --at"
            return ParityResult("not applicable", reason=reason, sizes=tuple(tally.sizes))
        values = evidence.samples[0].values | evidence.samples[0].feeds
        problem = window_problem(self.claim, plans[0], values)
        if problem is not None:
            tally.fail(problem)
        if not tally.reasons:
            try:
                heads = Heads(self._head(plans[0], evidence), self._head(plans[1], evidence), self._tail(evidence))
                compare_windows(heads, captures, evidence, self.claim, tally, self.progress)
                mixed = self._mixed(heads.windows, captures, evidence, tally)
                del heads  # one head in memory at a time
                self._compare_mixed(mixed, evidence, tally)
            except RunError as error:
                tally.fail(f"the original's head does not run on its own: {error}")
        result = tally.result()
        windowed = any(output.form in WINDOWED for output in self.claim.outputs)
        failed = tally.reasons or not all(output.passed for output in result.outputs)
        if not windowed and not failed and not result.compared:
            reason = "no output is made of windows; larger sizes were run, shapes and finiteness checked"
            return ParityResult("not applicable", reason=reason, sizes=result.sizes)
        return result

    def _further(self, runner: Runner, evidence: Evidence, size: Size, tally: Tally) -> list[Capture]:
        """One more size for the trunk of a small model, of the other parity than the first."""
        if not evidence.small:
            return []
        own = Tally(self.options)
        shots = capture(runner, evidence, self.claim, [other_parity(self.claim, size)], own, self.progress)
        tally.reasons += own.reasons
        return shots

    def _trunk(
        self, shots: list[Capture], evidence: Evidence, native: ParityResult, window: ParityResult
    ) -> ParityResult:
        """Trunk parity, where everything else has agreed; a large model's at the first size only."""
        if not self.options.larger:
            return _NATIVE_ONLY
        if "failed" in (native.status, window.status):
            return ParityResult("not applicable", reason="the models do not agree")
        chosen = shots if evidence.small else [shot for shot in shots if shot.size == shots[0].size]
        return compare_trunk(self.original, self.rewritten, chosen, evidence, self.claim, self.options, self.progress)

    def _head(self, plan: HeadPlan, evidence: Evidence) -> Head | None:
        if not plan.outputs or not plan.boundaries or plan.leak:
            return None
        self.progress("loading the original's head")
        sample = evidence.samples[0]
        return Head(self.original, plan, sample.feeds | sample.values, self.options.threads)

    def _mixed(self, head: Head | None, captures: list[Capture], evidence: Evidence, tally: Tally) -> list[Mixed]:
        """Made-up features, where everything else has agreed."""
        if head is None or tally.result().status == "failed":
            return []
        self.progress("features put together from several windows")
        return mixed_windows(head, captures, self.claim, evidence, self.options.seed)

    def _compare_mixed(self, mixed: list[Mixed], evidence: Evidence, tally: Tally) -> None:
        head = self._own_head(evidence, WINDOWED) if mixed else None
        if head is not None:
            compare_mixed(head, mixed, self.claim, evidence, tally)

    def _tail(self, evidence: Evidence) -> Head | None:
        """The rewritten model's head for outputs of the whole image."""
        return self._own_head(evidence, ("global",))

    def _own_head(self, evidence: Evidence, forms: Sequence[str]) -> Head | None:
        """The rewritten model's head for outputs of these forms; None where it reads more than its boundaries."""
        plan = plan_head(
            self.rewritten.proto.graph,
            [output.name for output in self.claim.outputs if output.form in forms],
            [boundary.rewritten for boundary in self.claim.boundaries],
            [image.name for image in self.claim.inputs],
        )
        if not plan.outputs or not plan.boundaries or plan.leak or plan.shapes:
            return None
        sample = evidence.samples[0]
        values = sample.values | sample.feeds
        features = {b.rewritten: values[b.original] for b in self.claim.boundaries}
        return Head(self.rewritten, plan, sample.feeds | features, self.options.threads)

    def _stopped(self, reason: str) -> Parity:
        failed = ParityResult("failed", reason=reason)
        return self._parity(None, failed, _NOTHING, CropResult("not applicable"), None)

    def _parity(
        self,
        evidence: Evidence | None,
        native: ParityResult,
        window: ParityResult,
        crops: CropResult,
        vacuous: str | None,
    ) -> Parity:
        samples = evidence.samples if evidence else []
        conditions = Conditions(
            seed=self.options.seed,
            threads=self.options.threads,
            onnxruntime=ort_session.version(),
            inputs=tuple(kind.name for kind in evidence.kinds) if evidence else (),
            samples=len(samples),
            batches=tuple(dict.fromkeys(s.batch or (evidence.batch if evidence else 1) for s in samples)),
            seconds=time.perf_counter() - self.started,
        )
        verdict = VerdictResult(self.claim.verdict, tuple(self.claim.blame))
        return Parity(native, window, crops, verdict, conditions, vacuous)
