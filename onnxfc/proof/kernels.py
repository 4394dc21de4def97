"""What onnxruntime's kernels on integers make of models that were proven as they are written.

Such a kernel stands for a DequantizeLinear, an operator on floats and a QuantizeLinear; it rounds where these do not,
and which operators have one differs between Gemm and Conv. So two models that say the same differ by a few quantisation
steps there: no more than that, unless a kernel takes something for granted that a file does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxfc.claim.claim import Output
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.evidence import Evidence, Progress, Sample
from onnxfc.proof.layers import Compared
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import native_value
from onnxfc.proof.results import Kernels
from onnxfc.proof.sessions import Arrays, RunError, Runner

MOST = 0.15
"""Of the signal, on average over all values: a kernel computes what the file says, but for some steps."""


def on_integers(model: ModelFile) -> bool:
    """Whether anything is quantised."""
    kinds = {node.op_type for node in model.proto.graph.node}
    return any(kind in ("DequantizeLinear", "QGemm") or kind.startswith("QLinear") for kind in kinds)


def compare_kernels(
    pair: Compared, evidence: Evidence, options: CheckOptions, tally: Tally, progress: Progress
) -> Kernels | None:
    """Run both models as onnxruntime does by default, on the native samples; fail where it makes something else."""
    engine = replace(options.engine, as_written=False)
    wanted, shares = [sample for sample in evidence.samples if sample.batch is None], []
    for whose, model in (("original", pair.original), ("rewritten model", pair.rewritten)):
        progress(f"the {whose} with kernels on integers")
        try:
            runner = Runner(model, (), engine)
            found = [runner.run(sample.feeds) for sample in wanted]
        except RunError as error:
            tally.fail(f"the {whose} does not run with onnxruntime's kernels on integers: {error}")
            return None
        own = {
            output.name: _moved(output, wanted, found, evidence, pair if model is pair.rewritten else None)
            for output in pair.claim.outputs
        }
        name, share = max(own.items(), key=lambda item: item[1])
        if share > MOST:
            tally.fail(
                f"onnxruntime computes {name} of the {whose} otherwise than its file says, by {share:.1e} of its "
                "signal on average, once it has made kernels on integers of it: the scale of a bias may not be that "
                "of the input times that of the weight, or a weight's not that of each output"
            )
            return None
        shares.append(share)
    return Kernels(*shares)


def _moved(
    output: Output, samples: Sequence[Sample], found: Sequence[Arrays], evidence: Evidence, pair: Compared | None
) -> float:
    """How far an output is off, on average over all values, in its signal; ``pair``: it is the rewritten model's."""
    scales = [evidence.scales[output.name, sample.kind.name] for sample in samples]
    signal = max(scale.signal for scale in scales)
    if any(scale.exact for scale in scales) or not signal:
        return 0.0
    off = total = 0.0
    for sample, values in zip(samples, found, strict=True):
        want, got = sample.values[output.name], values[output.name]
        if pair is not None:
            got = native_value(output, got, want.shape, len(pair.claim.native_size))
        off += float(abs(got.astype(np.float64) - want).sum())  # bytes would wrap around
        total += want.size
    return off / total / signal
