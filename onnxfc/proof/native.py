"""Native parity: the original and the rewritten model on the same native-size inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from onnxfc.claim.claim import Claim, Output
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.evidence import Evidence, Progress, Sample
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import FormError, native_value
from onnxfc.proof.providers import Engine
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner

COARSE = 0.1
"""Of the signal: a provider that is further from the CPU computes something else, not in fewer digits."""


def compare_native(rewritten: Runner, evidence: Evidence, claim: Claim, tally: Tally, progress: Progress) -> None:
    """Run every sample and compare outputs and boundary tensors, where the inputs are informative."""
    free = rewritten.free_batch(claim.inputs)
    done: list[Sample] = []
    if free and not evidence.free_batch:
        pair = _compare_freed(rewritten, evidence, claim, tally)
        done = pair if not evidence.thorough and len(pair) < len(evidence.samples) else []
    for i, sample in enumerate(evidence.samples):
        if (sample.batch is not None and not free) or any(sample is item for item in done):
            continue
        progress(f"native size, sample {i + 1} of {len(evidence.samples)}")
        where = f"at native size, sample {i + 1}" + (f", batch {sample.batch}" if sample.batch else "")
        try:
            found = rewritten.run(sample.feeds)
        except RunError as error:
            tally.fail(f"the rewritten model does not run {where}: {error}")
            return
        for boundary in claim.boundaries:
            names = boundary.original, boundary.rewritten
            _compare(names, found[boundary.rewritten], sample, evidence, tally, where)
        for output in claim.outputs:
            if evidence.scales[output.name, sample.kind.name].problem:
                continue
            try:
                shape = sample.values[output.name].shape
                got = native_value(output, found[output.name], shape, len(claim.native_size))
            except FormError as error:
                tally.fail(f"{error} {where}")
            else:
                _compare((output.name, output.name), got, sample, evidence, tally, where)
    _compare_rounded(rewritten, evidence, claim, tally)


def _compare_rounded(rewritten: Runner, evidence: Evidence, claim: Claim, tally: Tally) -> None:
    """Features that both models round alike, on some samples more."""
    for i, sample in enumerate(evidence.rounded, len(evidence.samples) + 1):
        found = rewritten.run(sample.feeds)
        for item in claim.boundaries:
            if item.original in evidence.alike:
                names = item.original, item.rewritten
                _compare(names, found[item.rewritten], sample, evidence, tally, f"at native size, sample {i}")


def compare_read(source: ModelFile, evidence: Evidence, claim: Claim, tally: Tally) -> None:
    """Run the original as its file stands, where the proof works with what was made of it (functions inlined)."""
    if {output.name for output in source.proto.graph.output} - {output.name for output in claim.outputs}:
        return  # it ends at inner tensors
    runner = Runner(source, [], tally.options.engine)
    for sample in evidence.samples:
        if set(sample.feeds) != set(runner.inputs):
            return  # it begins at an inner tensor
        found = runner.run(sample.feeds)
        for output in claim.outputs:
            name, where = output.name, "in the original once it is inlined"
            if name in found and not evidence.scales[name, sample.kind.name].problem:
                _compare((name, name), found[name], sample, evidence, tally, where)
    if evidence.edges is not None:
        evidence.edges.source = source


def compare_providers(original: ModelFile, evidence: Evidence, claim: Claim, options: CheckOptions) -> ParityResult:
    """The original on the CPU against the original where everything else is run: what is the provider's own doing."""
    if evidence.idle:
        return ParityResult("not applicable", reason=f"the original: {evidence.idle}")
    tally = Tally(replace(options, rtol=COARSE, atol=None, rtols={}, atols={}))
    runner = Runner(original, [], Engine(options.threads))
    for i, sample in enumerate(evidence.samples):
        found = runner.run(sample.feeds)
        for output in claim.outputs:
            scale = evidence.scales[output.name, sample.kind.name]
            if not scale.problem and not scale.exact:  # of two scores that are nearly alike, either may be the best
                where = f"on the CPU, sample {i + 1}"
                tally.compare(
                    output.name, sample.values[output.name], found[output.name], scale, sample.kind.name, where
                )
    result = tally.result()
    return result if result.compared else ParityResult("not applicable", reason="no output is a number")


def _compare_freed(rewritten: Runner, evidence: Evidence, claim: Claim, tally: Tally) -> list[Sample]:
    """Two samples at once must give what each gives alone, and three of a small model; those that were run. Of side
    inputs whose batch stays, one sample's are fed: what the others give is not known then."""
    samples = [sample for sample in evidence.samples if sample.batch is None]
    images = {image.name for image in claim.inputs}
    sides = [name for name in rewritten.inputs if name not in images]
    stay = [name for name in sides if rewritten.inputs[name].shape[:1] not in ((), (None,))]
    for count in (2, 3) if evidence.small and len(samples) > 2 else (2,):
        if count > 2 and tally.result().status == "failed":
            break
        some = samples[:count]
        feeds = {name: np.concatenate([sample.feeds[name] for sample in some]) for name in some[0].feeds}
        for part in enumerate(some) if stay else ():
            own = feeds | {name: part[1].feeds[name] for name in stay}
            _compare_together(rewritten, own, [part], len(some), evidence, claim, tally)
        if not stay:
            _compare_together(rewritten, feeds, list(enumerate(some)), len(some), evidence, claim, tally)
    return [] if stay else samples[:2]


def _compare_together(
    rewritten: Runner,
    feeds: Arrays,
    parts: list[tuple[int, Sample]],
    count: int,
    evidence: Evidence,
    claim: Claim,
    tally: Tally,
) -> None:
    """``count`` samples at once; ``parts``: those of which is known what they give, by their place."""
    where = f"batch {count * evidence.batch}"
    try:
        found = rewritten.run(feeds)
    except RunError as error:
        tally.fail(f"the rewritten model does not run at {where}: {error}")
        return
    for boundary in claim.boundaries:
        names = boundary.original, boundary.rewritten
        _compare_parts(names, found[boundary.rewritten], parts, evidence, tally, where)
    try:
        for output in claim.outputs:
            _compare_images(output, found[output.name], parts, count, evidence, claim, tally, where)
    except FormError as error:
        tally.fail(f"{error} at {where}")


def _compare_images(
    output: Output,
    made: Array,
    parts: list[tuple[int, Sample]],
    count: int,
    evidence: Evidence,
    claim: Claim,
    tally: Tally,
    where: str,
) -> None:
    """One output of several samples at once; of which an image says nothing it has no batch."""
    wanted = [sample.values[output.name] for _, sample in parts]
    told = [part for part in parts if not evidence.scales[output.name, part[1].kind.name].problem]
    rows = sum(len(item) if item.ndim else 0 for item in wanted)  # some lay those of all images behind each other
    if wanted[0].ndim == 0 or (len(wanted[0]) != evidence.batch and made.shape[:1] != (rows,)) or not told:
        if output.name in evidence.moving and all(made.shape == item.shape for item in wanted):
            tally.fail(f"{output.name} is of one image at {where}")
        axis = _axis_of_images(made.shape, wanted[0].shape, count)
        for place, sample in told if axis else ():
            own = np.split(made, count, axis)[place]
            _compare((output.name, output.name), own, sample, evidence, tally, f"at native size, {where}")
        return
    first = rows if len(parts) == count else count * len(wanted[0])
    got = native_value(output, made, (first, *wanted[0].shape[1:]), len(claim.native_size))
    _compare_parts((output.name, output.name), got, told, evidence, tally, where)


def _axis_of_images(made: tuple[int, ...], alone: tuple[int, ...], count: int) -> int:
    """The axis behind the first on which several images lie, as sequences (T, N, K) have them; 0 where none is seen."""
    grown = [axis for axis, (now, one) in enumerate(zip(made, alone, strict=False)) if now != one]
    whole = len(made) == len(alone) and len(grown) == 1 and made[grown[0]] == count * alone[grown[0]]
    return grown[0] if whole else 0


def _compare_parts(
    names: tuple[str, str], got: Array, parts: list[tuple[int, Sample]], evidence: Evidence, tally: Tally, where: str
) -> None:
    """The rows of some samples that were run at once; ``names`` in the original and in the rewritten model."""
    for place, sample in parts:
        rows = len(sample.values[names[0]])
        own = got[place * rows : (place + 1) * rows]
        _compare(names, own, sample, evidence, tally, f"at native size, {where}")


def _compare(names: tuple[str, str], got: Array, sample: Sample, evidence: Evidence, tally: Tally, where: str) -> None:
    """What a model made of a sample against what the original did, which may be asked again; ``names``: in the original
    and in that model."""
    want, scale = sample.values[names[0]], evidence.scales[names[0], sample.kind.name]
    others = partial(evidence.others, names[0], sample.feeds)
    alike = names[0] in evidence.alike
    tally.compare(names[1], got, want, scale, sample.kind.name, where, others=others, alike=alike)
