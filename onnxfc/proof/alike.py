"""Features that both models make by the same operators: what these round, they round alike."""

from __future__ import annotations

from collections import Counter

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.wiring import nodes_before

_SUMS = frozenset(
    [
        *("AveragePool", "BatchNormalization", "Conv", "ConvInteger", "ConvTranspose", "FusedConv", "FusedGemm"),
        *("Gemm", "GlobalAveragePool", "MatMul", "MatMulInteger", "ReduceMean", "Softmax"),
    ]
)
_ROUNDING = frozenset({"DynamicQuantizeLinear", "QGemm", "QuantizeLinear"})
"""To integers, beside all of QLinear..."""


def alike(original: ModelFile, rewritten: ModelFile, claim: Claim) -> frozenset[str]:
    """The features, by their name in the original, that are rounded to integers, and before which both models have as
    many operators of each kind: of those with sums, not of what moves values or reckons with lengths."""
    return frozenset(
        item.original
        for item in claim.boundaries
        if _rounds(own := _kinds(original, item.original)) and own == _kinds(rewritten, item.rewritten)
    )


def _rounds(kinds: Counter[str]) -> bool:
    return any(kind not in _SUMS for kind in kinds)


def _kinds(model: ModelFile, name: str) -> Counter[str]:
    graph = model.proto.graph
    kinds = (graph.node[place].op_type for place in nodes_before(graph, [name]))
    return Counter(kind for kind in kinds if kind in _SUMS | _ROUNDING or kind.startswith("QLinear"))
