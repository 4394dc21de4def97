"""Weights that a rewrite keeps: read off both files, nothing is run.

What dead units or rarely active ones make of a weight no input may show. A node that both models have, of one operator
and by the same names of what it reads and makes, reads the same floats in both.
"""

from __future__ import annotations

import numpy as np
import onnx

from onnxfc.io.model_file import ModelFile
from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Weights
from onnxfc.proof.tolerance import PRECISION

_ROUNDINGS = 16
"""By which what was computed anew may differ."""
_TINY = 2e-7
"""Converters to half precision replace what is smaller."""


def changed(original: ModelFile, other: ModelFile) -> str:
    """The first weight of ``other`` that is not the original's, in words; "" if all are. Of what a QuantizeLinear reads
    the integers are compared."""
    own = {node.output[0]: node for node in original.proto.graph.node if node.output}
    mine, theirs = Weights(original), Weights(other)
    for node in other.proto.graph.node:
        before = own.get(node.output[0]) if node.output and node.op_type != "QuantizeLinear" else None
        if before is None or (node.op_type, node.domain) != (before.op_type, before.domain):
            continue
        if name := _another(before, node, mine, theirs):
            return f"weight {name} of {node.name or node.output[0]} is not what it is in the first model"
    return ""


def _another(before: onnx.NodeProto, node: onnx.NodeProto, mine: Weights, theirs: Weights) -> str:
    """The name of a constant in which two nodes differ; "" where none does, and where else they read something else."""
    different = ""
    if len(before.input) != len(node.input):
        return ""
    for name, other in zip(before.input, node.input, strict=True):
        one, two = (weights.of(tensor) if tensor else None for weights, tensor in ((mine, name), (theirs, other)))
        if one is None or two is None:
            if name != other:
                return ""
        elif one.step or two.step:  # integers are compared as such
            continue
        elif not _same(one.values, two.values, name == other):
            different = other
    return different


def _same(one: Array, two: Array, kept: bool) -> bool:
    """Whether floats of one shape are the same, where types differ as far as the coarser one tells; others are taken
    for the same. What is not ``kept`` under its name was computed anew: a grid of coordinates."""
    names = one.dtype.name, two.dtype.name
    if one.shape != two.shape or not PRECISION.keys() >= set(names):
        return True
    if names[0] == names[1] and kept:
        return np.array_equal(one, two, equal_nan=True)
    eps = (1 if kept else _ROUNDINGS) * max(PRECISION[name].eps for name in names)
    wide = one.astype(np.float64), two.astype(np.float64)
    return bool(np.allclose(*wide, rtol=eps, atol=_TINY, equal_nan=True))
