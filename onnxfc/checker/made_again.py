"""A rewritten model at larger sizes, against a rewrite of the original that is made now, by the same options.

The proof knows nothing of what a rewrite does. Where the original runs at no other size, nothing shows it that a file
is damaged in what the native size does not read; here it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from onnxfc.claim.claim import Claim, Layer, Output
from onnxfc.errors import OnnxfcError
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.detections import ahead
from onnxfc.proof.kernels import on_integers
from onnxfc.proof.narrowest import narrowest
from onnxfc.proof.one_size import compare_at
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.reference_run import is_small
from onnxfc.proof.results import Parity, ParityResult
from onnxfc.proof.sizes import larger_sizes
from onnxfc.proof.tolerance import PRECISION
from onnxfc.proof.trunk import further_sizes
from onnxfc.rewriter.analyse import RewriteOptions
from onnxfc.rewriter.api import rewrite

_MORE = 3
"""Further sizes: one more on the grid, and two beside it that are odd where the native size is even. Not of models in
half precision, of which each size is another chance of a rounding that is seldom so large."""


def compare_made_again(
    original: ModelFile,
    other: ModelFile,
    claim: Claim,
    likely: Sequence[tuple[RewriteOptions, Claim]],
    parity: Parity,
    options: CheckOptions,
    progress: Callable[[str], None] | None,
) -> ParityResult | None:
    """A failure where none of the ``likely`` rewrites computes what ``other`` does at larger sizes. None else; where a
    large model's ``parity`` has shown it by the original's own trunk; and of quantised models, which an optimiser may
    round otherwise."""
    small, shown = is_small(original), parity.trunk.status == "passed" and not parity.trunk.reason
    if (shown and not small) or on_integers(original) or on_integers(other):
        return None
    sizes = larger_sizes(claim, CheckOptions())
    more = 1 if _is_half(original) or _is_half(other) else _MORE
    sizes = [*sizes, *further_sizes(claim, sizes[0])[:more]] if small else sizes[:1]
    worst: ParityResult | None = None
    for how, own in likely:
        try:
            made = rewrite(original, options=how, prove=False).file
        except OnnxfcError:
            return None
        first, second, told = ahead(made, other, own) if own.detections else (made, other, own)
        theirs = {item.original: item.rewritten for item in claim.layers}
        layers = [Layer(item.rewritten, theirs.get(item.original, ""), "global") for item in own.layers]
        outputs = [Output(item.name, "global") for item in own.outputs]
        for size in sizes:
            found = compare_at(size.pixels, first, second, told, layers, outputs, options, progress)
            if found.vacuous is None and found.native.status == "failed":
                why = found.native.reason.replace("at native size", f"at {size} px").replace("the original", "it")
                why = f"a rewrite of the original computes otherwise: {why}"
                worst = worst or replace(found.native, sizes=(size.pixels,), reason=why)
                break
        else:
            return None
    return worst


def _is_half(model: ModelFile) -> bool:
    """Whether something is computed in half precision."""
    return any(kind.eps > PRECISION["float32"].eps for kind in narrowest(model.proto).values())
