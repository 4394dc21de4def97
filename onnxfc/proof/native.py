"""Native parity: the original and the rewritten model on the same native-size inputs."""

from __future__ import annotations

from onnxfc.claim import Claim
from onnxfc.proof.forms import FormError, native_value
from onnxfc.proof.observe import Evidence, Progress
from onnxfc.proof.sessions import RunError, Runner
from onnxfc.proof.tally import Tally


def compare_native(rewritten: Runner, evidence: Evidence, claim: Claim, tally: Tally, progress: Progress) -> None:
    """Run every sample and compare outputs and boundary tensors, where the inputs are informative."""
    free = rewritten.free_batch([image.name for image in claim.inputs])
    for i, sample in enumerate(evidence.samples):
        if sample.batch is not None and not free:
            continue
        progress(f"native size, sample {i + 1} of {len(evidence.samples)}")
        where = f"at native size, sample {i + 1}" + (f", batch {sample.batch}" if sample.batch else "")
        try:
            found = rewritten.run(sample.feeds)
        except RunError as error:
            tally.fail(f"the rewritten model does not run {where}: {error}")
            return
        kind = sample.kind.name
        for boundary in claim.boundaries:
            scale = evidence.scales[boundary.original, kind]
            got, want = found[boundary.rewritten], sample.values[boundary.original]
            tally.compare(boundary.rewritten, got, want, scale, kind, where)
        for output in claim.outputs:
            scale, want = evidence.scales[output.name, kind], sample.values[output.name]
            if scale.problem:
                continue
            try:
                got = native_value(output, found[output.name], want.shape, len(claim.native_size))
            except FormError as error:
                tally.fail(f"{error} {where}")
            else:
                tally.compare(output.name, got, want, scale, kind, where)
