"""Window parity, step by step: which heads are cut out of which model, and what each of them is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.baked import Shapes, frozen, native_shapes, place_by_place, says_the_same, stands_for_global
from onnxfc.proof.every_size import is_global
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.head import Head, HeadPlan, plan_head
from onnxfc.proof.layers import Compared
from onnxfc.proof.narrowest import input_types
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import WINDOWED
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import RunError
from onnxfc.proof.static_checks import window_problem
from onnxfc.proof.synthetic_features import Mixed, compare_mixed, mixed_windows
from onnxfc.proof.windows import Capture, Heads, compare_windows

_WHOLE = ("global",)
NATIVE_ONLY = ParityResult("not applicable", reason="the second model takes the native size only")


@dataclass(frozen=True)
class Plans:
    """The original's head for outputs made of windows, and for those of the whole image."""

    windows: HeadPlan
    whole: HeadPlan

    @staticmethod
    def of(pair: Compared) -> Plans:
        return Plans(*(_plan(pair.original, pair.claim, forms, original=True) for forms in (WINDOWED, _WHOLE)))

    @property
    def tensors(self) -> list[str]:
        """What the original must be asked for at the native size."""
        bounds = (*self.windows.boundaries, *self.whole.boundaries)
        return [*bounds, *(name for plan in (self.windows, self.whole) for name in (*plan.shapes, *plan.sides))]


def _plan(model: ModelFile, claim: Claim, forms: Sequence[str], *, original: bool) -> HeadPlan:
    return plan_head(
        model.proto.graph,
        [output.name for output in claim.outputs if output.form in forms],
        [boundary.original if original else boundary.rewritten for boundary in claim.boundaries],
        [image.name for image in claim.inputs],
        [figure.original if original else figure.rewritten for figure in claim.figures],
    )


@dataclass(frozen=True)
class WindowParity:
    """Both models, and all that was seen of the original."""

    pair: Compared
    plans: Plans
    evidence: Evidence
    options: CheckOptions
    progress: Progress

    def result(self, captures: list[Capture], tally: Tally) -> ParityResult:
        """Ask the heads what larger images must give; ``captures`` are what the rewritten model made of these."""
        if not self.options.larger:
            return NATIVE_ONLY
        if not self.options.windows and not tally.reasons:
            reason = (
                "the two models have no trunk tensor in common at which their heads begin; name one with --boundary"
            )
            return ParityResult("not applicable", reason=reason, sizes=tuple(tally.sizes))
        problem = window_problem(self.pair.claim, self.plans.windows, self.evidence.native)
        if problem is not None:
            tally.fail(problem)
        if not tally.reasons:
            try:
                self._compare(captures, tally)
            except RunError as error:
                tally.fail(f"the original's head does not run on its own: {error}")
        result = tally.result()
        windowed = any(output.form in WINDOWED for output in self.pair.claim.outputs)
        failed = tally.reasons or not all(output.passed for output in result.outputs)
        if not windowed and not failed and not result.compared:
            reason = "no output is made of windows; larger sizes were run, shapes and finiteness checked"
            return ParityResult("not applicable", reason=reason, sizes=result.sizes)
        return result

    def _compare(self, captures: list[Capture], tally: Tally) -> None:
        claim, evidence = self.pair.claim, self.evidence
        model = self.pair.original.proto
        nodes = [model.graph.node[i] for i in self.plans.whole.nodes]
        shapes = native_shapes(model, claim) if nodes else {}
        tail = self._own_head(_WHOLE, captures) if place_by_place(nodes, shapes) else None
        sized = stands_for_global([node for node in nodes if not is_global(node, shapes)], shapes)
        sized = sized or bool(frozen(nodes, self.pair.rewritten.proto.graph))
        whole = None if sized else self._head(self.plans.whole, shapes)
        same = says_the_same(nodes, model.graph) and whole is not None and not whole.counts
        heads = Heads(self._head(self.plans.windows), whole, tail, same)
        compare_windows(heads, captures, evidence, claim, tally, self.progress)
        mixed = self._mixed(heads.windows, captures, tally)
        del heads  # one head in memory at a time
        own = self._own_head(WINDOWED, captures) if mixed else None
        if own is not None:
            compare_mixed(own, mixed, claim, evidence, tally)

    def _head(self, plan: HeadPlan, shapes: Shapes | None = None) -> Head | None:
        if not plan.outputs or not plan.boundaries or plan.leak:
            return None
        self.progress("loading the original's head")
        original, claim, evidence = self.pair.original, self.pair.claim, self.evidence
        return Head(
            original, plan, evidence.native, self.options.engine, claim.boundaries, shapes, images=evidence.batch
        )

    def _mixed(self, head: Head | None, captures: list[Capture], tally: Tally) -> list[Mixed]:
        """Made-up features, where everything else has agreed."""
        if head is None or tally.result().status == "failed":
            return []
        self.progress("features put together from several windows")
        return mixed_windows(head, captures, self.pair.claim, self.evidence, self.options.seed)

    def _own_head(self, forms: Sequence[str], captures: list[Capture]) -> Head | None:
        """The rewritten model's head for outputs of these forms; None where it reads more than its boundaries."""
        plan = _plan(self.pair.rewritten, self.pair.claim, forms, original=False)
        if not plan.outputs or not plan.boundaries or plan.leak or plan.shapes:
            return None
        native, made = self.evidence.native, captures[0].values if captures else {}
        features = {
            b.rewritten: native[b.original].astype(made[b.rewritten].dtype if made else native[b.original].dtype)
            for b in self.pair.claim.boundaries
        }
        features |= {
            item.rewritten: native[item.original] for item in self.pair.claim.figures if item.original in native
        }
        types, feeds = input_types(self.pair.rewritten.proto), self.evidence.samples[0].feeds
        fed = {name: value.astype(types.get(name, value.dtype)) for name, value in feeds.items()}
        return Head(self.pair.rewritten, plan, fed | features, self.options.engine)
