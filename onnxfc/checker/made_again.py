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
from onnxfc.proof.sizes import Size, further_sizes, larger_sizes
from onnxfc.proof.tolerance import PRECISION
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

_MORE = 5
"""Further sizes: one more on the grid, two of which one axis alone is larger, odd where the native size is even, one
step of the grid, and twice native; all that there are where the original's own trunk does not show it. Not of models in
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
    sizes = _sizes(claim, options, small, 1 if _is_half(original) or _is_half(other) else _MORE if shown else None)
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


def _sizes(claim: Claim, options: CheckOptions, small: bool, more: int | None) -> list[Size]:
    """Those of a proof, and the user's; of a large model one and the user's. ``more``: how many further ones of a small
    model, None for all."""
    first, *rest = larger_sizes(claim, CheckOptions(check_sizes=options.check_sizes))
    return [first, *rest, *further_sizes(claim, first)[:more]] if small else [first, *rest[1:]]


def _is_half(model: ModelFile) -> bool:
    """Whether something is computed in half precision."""
    return any(kind.eps > PRECISION["float32"].eps for kind in narrowest(model.proto).values())
