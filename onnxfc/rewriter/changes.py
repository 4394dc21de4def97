"""What a rewrite changed of a model, in figures: operators, multiply-adds, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.macs import multiply_adds
from onnxfc.shapes.memory import weight_bytes
from onnxfc.shapes.model_shapes import Shapes


@dataclass(frozen=True)
class Changes:
    """Each as before and after: nodes of each operator, multiply-adds at the native size, bytes of weights."""

    operators: Mapping[str, tuple[int, int]]
    multiply_adds: tuple[int, int]
    weights: tuple[int, int]


def changes(original: ModelFile, rewritten: ModelFile, claim: Claim) -> Changes:
    """Between two models of the same image inputs; nothing is run."""
    before, after = (Counter(str(node.op_type) for node in file.proto.graph.node) for file in (original, rewritten))
    return Changes(
        operators={name: (before[name], after[name]) for name in sorted(before | after)},
        multiply_adds=(_cost(original, claim), _cost(rewritten, claim)),
        weights=(weight_bytes(original.proto.graph), weight_bytes(rewritten.proto.graph)),
    )


def _cost(file: ModelFile, claim: Claim) -> int:
    shapes = Shapes(file)
    return multiply_adds(shapes.graph.live, shapes.at(claim.image_shapes(claim.native_size)) or {})
