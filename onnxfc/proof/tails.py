"""Nodes that pick places by their values, written otherwise than the original's: what both make of the same lists.

An optimiser or a converter leaves no node as it was. Both tails get the same tensors, those of images of two sizes and
others of the same scale, and must pick the same places. What decides (how much boxes overlap, which scores count) shows
only where a value lies in between: where it is a number in the file it must be the same number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.head import begin_at, part_of
from onnxfc.proof.inputs import Inputs
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.wiring import nodes_before, reads

_DECIDE = {"NonMaxSuppression": (2, 3, 4), "TopK": (1,)}
_DECIDE |= dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"), (0, 1))
_SAMPLES = 6
"""Images of each size."""
_SPREADS = (0.0, 0.5, 2.0, 8.0)
"""How much noise is added to lists, in their own scale: what a network says of noise is often all alike."""
_ROUNDING = 1e-5
"""Of the largest value: what is picked is moved and scaled, in whatever order."""


def tail_difference(original: ModelFile, rewritten: ModelFile, claim: Claim, options: CheckOptions) -> str | None:
    """What shows that the nodes behind compute something else; None where nothing does."""
    ends = [output.name for output in claim.outputs]
    own, other = (list(_decisive(file, claim, ends)) for file in (original, rewritten))
    if sorted(own) != sorted(other):
        return "other numbers decide what is picked"
    picked = False
    try:
        ahead = Runner(rewritten.with_proto(_with_ends(rewritten.proto, ends)), (), options.engine)
        inputs = Inputs(claim, ahead.inputs, options)
        tails: list[Runner] = []
        for size in (claim.native_size, claim.twice_native):
            for sample in range(_SAMPLES):
                kind = inputs.kinds[sample % len(inputs.kinds)]
                images = inputs.feeds(kind, sample, size=size)
                lists = ahead.run(images)
                tails = tails or [_tail(file, claim, ends, {**images, **lists}) for file in (original, rewritten)]
                for spread in _SPREADS:
                    feeds = {**images, **_spread(lists, spread, sample)}
                    mine, theirs = (tail.run(feeds) for tail in tails)
                    if name := next((name for name in claim.detections if not _same(mine[name], theirs[name])), ""):
                        return f"{name} is not the same for the same lists"
                    picked = picked or any(value.size for value in mine.values())
    except RunError as error:
        told = re.sub(r"\s+", " ", str(error))
        return f"they do not run alone: {told}"
    return None if picked else "they pick nothing of what was tried"


def _spread(lists: Arrays, spread: float, seed: int) -> Arrays:
    """The lists with noise of their own scale."""
    rng = np.random.default_rng([seed, int(spread * 10)])
    made = dict(lists)
    for name, value in lists.items():
        if spread and value.dtype.kind == "f" and value.size:
            scale = float(np.median(np.abs(value.astype(np.float64)))) or 1.0  # a few boxes may be without bounds
            made[name] = (value + spread * scale * rng.standard_normal(value.shape)).astype(value.dtype)
    return made


def _same(one: Array, two: Array) -> bool:
    if one.shape != two.shape or one.dtype != two.dtype:
        return False
    if one.dtype.kind != "f" or not one.size:
        return bool(np.array_equal(one, two))
    allowed = _ROUNDING * float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    return bool(np.allclose(one, two, rtol=0, atol=allowed, equal_nan=True))


def _behind(model: onnx.ModelProto, claim: Claim, ends: Sequence[str]) -> list[int]:
    """Positions of the nodes that make the detections of ``ends``."""
    cut = onnx.GraphProto()
    cut.node.extend(model.graph.node)
    for node in cut.node:
        if set(node.output) & set(ends):
            del node.input[:], node.attribute[:]
    made = nodes_before(cut, claim.detections)
    return [i for i in made if not set(cut.node[i].output) & set(ends)]


def _decisive(file: ModelFile, claim: Claim, ends: Sequence[str]) -> Iterator[tuple[str, int, bytes]]:
    """Numbers in the file by which nodes behind decide."""
    graph = file.proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = stored | {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    }
    for i in _behind(file.proto, claim, ends):
        node = graph.node[i]
        for place in _DECIDE.get(node.op_type, ()):
            tensor = constants.get(node.input[place]) if place < len(node.input) else None
            if tensor is not None and int(np.prod(tensor.dims)) == 1:
                value = file.array(tensor) if node.input[place] in stored else numpy_helper.to_array(tensor)
                yield node.op_type, place, value.tobytes()


def _with_ends(model: onnx.ModelProto, ends: Sequence[str]) -> onnx.ModelProto:
    """The model up to ``ends``; all inputs stay."""
    cut = part_of(model, "ahead", nodes_before(model.graph, ends), ends)
    cut.graph.input.extend(model.graph.input)
    cut.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in ends)
    return cut


def _tail(file: ModelFile, claim: Claim, ends: Sequence[str], values: Mapping[str, Array]) -> Runner:
    """The nodes behind as a model of their own; ``values``: of all that they may read."""
    model = file.proto
    cut = part_of(model, "tail", _behind(model, claim, ends), ())
    made = {name for node in cut.graph.node for name in node.output}
    held = {tensor.name for tensor in cut.graph.initializer}
    read = set().union(*(reads(node) for node in cut.graph.node)) - made - held
    begin_at(cut.graph, sorted(read), values)
    cut.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in claim.detections)
    return Runner(file.with_proto(cut), (), CheckOptions().engine)
