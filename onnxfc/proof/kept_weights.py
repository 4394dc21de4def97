"""Weights that a rewrite keeps: read off both files, nothing is run.

What dead units or rarely active ones make of a weight no input may show. A node that both models have, of one operator
and by the same names of what it reads and makes, reads the same floats in both; or those times what stood behind it,
where that is folded into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import onnx

from onnxfc.io.model_file import ModelFile
from onnxfc.proof import channel_blocks
from onnxfc.proof.folded_factors import folded_behind
from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Weights
from onnxfc.proof.tolerance import PRECISION
from onnxfc.proof.wiring import only_readers

_ROUNDINGS = 16
"""By which what was computed anew may differ."""
_TINY = 2e-7
"""Converters to half precision replace what is smaller."""


def changed(original: ModelFile, other: ModelFile) -> str:
    """The first weight of ``other`` that is not the original's, in words; "" if all are. Of what a QuantizeLinear reads
    the integers are compared."""
    own = {_made(node): node for node in original.proto.graph.node if node.output}
    pair = _Pair(original, other)
    for node in other.proto.graph.node:
        before = own.get(_made(node)) if node.output and node.op_type != "QuantizeLinear" else None
        if before is None or (node.op_type, node.domain) != (before.op_type, before.domain):
            continue
        if name := pair.another(before, node):
            return f"weight {name} of {node.name or node.output[0]} is not what it is in the first model"
    return ""


def _made(node: onnx.NodeProto) -> tuple[str, str]:
    """What a node is known by in both models: its output, or where onnxruntime lays maps in blocks of channels, whose
    tensors it counts anew in each model, the node's name."""
    return node.domain, node.name if node.domain == channel_blocks.DOMAIN and node.name else node.output[0]


class _Pair:
    """The weights of both models."""

    def __init__(self, original: ModelFile, other: ModelFile) -> None:
        self._mine, self._theirs = Weights(original), Weights(other)
        self._original, self._other = original.proto.graph, other.proto.graph

    def another(self, before: onnx.NodeProto, node: onnx.NodeProto) -> str:
        """The name of a constant in which two nodes differ; "" where none does, and where else they read something
        else."""
        different = ""
        if len(before.input) != len(node.input):
            return ""
        for place, (name, other) in enumerate(zip(before.input, node.input, strict=True)):
            mine, theirs = self._mine.of(name) if name else None, self._theirs.of(other) if other else None
            if mine is None or theirs is None:
                if name != other:
                    return ""
            elif mine.step or theirs.step:  # integers are compared as such
                continue
            elif not _same(mine.values, theirs.values, name == other):
                different = different if self._folded(before, place, mine.values, theirs.values) else other
        return different

    def _folded(self, node: onnx.NodeProto, place: int, mine: Array, theirs: Array) -> bool:
        """Whether a weight or bias of the original's ``node`` is what it has to be with that behind it folded in."""
        weight = self._mine.of(node.input[1]) if place in (1, 2) else None
        if weight is None:
            return False
        found = folded_behind(node, weight.values.ndim, self._readers, self._made, self._mine)
        if found is None or not PRECISION.keys() >= {mine.dtype.name, theirs.dtype.name}:
            return False
        want, size = found.weight(mine) if place == 1 else found.bias(mine)
        eps = _ROUNDINGS * max(PRECISION[values.dtype.name].eps for values in (mine, theirs))
        return want.shape == theirs.shape and bool((np.abs(want - theirs) <= eps * size + _TINY).all())

    @cached_property
    def _readers(self) -> Mapping[str, onnx.NodeProto]:
        return only_readers(self._original)

    @cached_property
    def _made(self) -> frozenset[str]:
        return frozenset(name for node in self._other.node for name in node.output)


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
