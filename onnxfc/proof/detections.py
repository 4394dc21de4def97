"""Outputs that are as long as the values say: the nodes that make them must be the original's own, or do the same.

One digit more or less may change which places are picked, so that such outputs cannot be held to a tolerance. What
these nodes read is compared instead, at every size, and the nodes themselves are read off the two files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from onnxfc.claim.claim import OWN_FORMS, Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.head import part_of
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.sessions import RunError, Runner
from onnxfc.proof.tails import tail_difference
from onnxfc.proof.wiring import nodes_before, reads


def ahead(original: ModelFile, rewritten: ModelFile, claim: Claim) -> tuple[ModelFile, ModelFile, Claim]:
    """Both models up to the tensors that the claim tells of, and the claim of these."""
    names = [output.name for output in claim.outputs]
    first, second = (file.with_proto(_up_to(file.proto, names)) for file in (original, rewritten))
    there = {node.name or f"{node.op_type} -> {node.output[0]}" for node in first.proto.graph.node}
    blame = tuple(str(item) for item in claim.blames if item.node in there)
    verdict = claim.verdict if blame or claim.verdict == "extrapolated" else "exact"
    return first, second, replace(claim, detections=(), blame=blame, verdict=verdict)


def _up_to(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    cut = part_of(model, model.graph.name, nodes_before(model.graph, names), names)
    needed = {name for node in cut.graph.node for name in reads(node)}
    cut.graph.input.extend(value for value in model.graph.input if value.name in needed)
    known = {value.name: value for value in [*model.graph.output, *model.graph.value_info]}
    cut.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in names)
    cut.metadata_props.extend(model.metadata_props)
    return cut


def tail_problem(original: ModelFile, rewritten: ModelFile, claim: Claim) -> str | None:
    """What of the nodes behind is not the original's own, or reads what is not at every size; None where nothing is."""
    names = [value.name for value in original.proto.graph.output]
    if [value.name for value in rewritten.proto.graph.output] != names:
        return "these are different models: they do not have the same outputs"
    told = {output.name: output.form for output in claim.outputs}
    if missing := [name for name in names if name not in told and name not in claim.detections]:
        return f"wrong claim: it does not speak of the output {missing[0]}"
    first, second = _pair(original, rewritten, claim)
    windows = [name for name in first.read | second.read if told[name] not in OWN_FORMS]
    if windows:
        return f"wrong claim: nodes behind read {windows[0]}, cells of windows"
    if _takes_several(rewritten, claim) and not _takes_several(original, claim):
        return f"{claim.detections[0]} is picked by the values of one image, but the second model takes several"
    return None


def _takes_several(model: ModelFile, claim: Claim) -> bool:
    """Whether the batch is open."""
    dims = {info.name: info.type.tensor_type.shape.dim for info in model.proto.graph.input}
    return all(image.batched and dims[image.name][0].dim_value <= 0 for image in claim.inputs if dims.get(image.name))


def _pair(original: ModelFile, rewritten: ModelFile, claim: Claim) -> tuple[_Made, _Made]:
    """How the detections are made in both."""
    told = {output.name: output.form for output in claim.outputs}
    first, second = (_Made(file, told) for file in (original, rewritten))
    for name in claim.detections:
        first.of(name), second.of(name)
    return first, second


class _Made:
    """How tensors of a model are made of those that a claim tells of, as digests."""

    def __init__(self, file: ModelFile, ends: Mapping[str, str]) -> None:
        graph = file.proto.graph
        self._file, self._ends = file, ends
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._sets = sorted((item.domain, item.version) for item in file.proto.opset_import)
        self._known: dict[str, bytes] = {}
        self.read = set[str]()

    def of(self, name: str) -> bytes:
        """A digest that is another where a node, an attribute or a constant is."""
        stack = [name]
        while stack:
            top = stack[-1]
            node = None if top in self._ends else self._makers.get(top)
            more = [] if node is None else [item for item in sorted(reads(node)) if item not in self._known]
            if more:
                stack.extend(more)
                continue
            self._known[stack.pop()] = self._leaf(top) if node is None else self._node(node, top)
        return self._known[name]

    def _leaf(self, name: str) -> bytes:
        if name in self._ends:
            self.read.add(name)
        value = self._weights.get(name)
        told = name.encode() if value is None else self._file.array(value).tobytes() + str(value.dims).encode()
        return hashlib.sha256(told).digest()

    def _node(self, node: onnx.NodeProto, name: str) -> bytes:
        found = hashlib.sha256(f"{node.domain} {node.op_type} {list(node.output).index(name)} {self._sets}".encode())
        for attribute in sorted(node.attribute, key=lambda item: item.name):
            found.update(attribute.SerializeToString(deterministic=True))
        inner = sorted(reads(node) - set(node.input))
        for item in (*node.input, *inner):
            found.update(self._known[item] if item else b"-")
        return found.digest()


def behind_problem(original: ModelFile, rewritten: ModelFile, claim: Claim, options: CheckOptions) -> str | None:
    """That the nodes behind compute something else than the original's, or that the whole model does not run; None
    where all is well."""
    first, second = _pair(original, rewritten, claim)
    for name in claim.detections:
        if first.of(name) != second.of(name):
            why = tail_difference(original, rewritten, claim, options)
            if why is not None:
                return f"wrong claim: the nodes that make {name} are not the original's own, and {why}"
            break
    return _run_problem(rewritten, claim, options)


def _run_problem(rewritten: ModelFile, claim: Claim, options: CheckOptions) -> str | None:
    """That the whole model does not run, at the native size or a larger one; None where it does, or where it reads more
    than images."""
    try:
        runner = Runner(rewritten, [], options.engine)
        if set(runner.inputs) - {image.name for image in claim.inputs}:
            return None
        for size in (claim.native_size, claim.twice_native) if options.larger else (claim.native_size,):
            numbers = np.random.default_rng(options.seed)
            shapes = claim.image_shapes(size)
            runner.run({name: numbers.standard_normal(shape) for name, shape in shapes.items()})
    except RunError as error:
        told = re.sub(r"\s+", " ", str(error))
        return f"the rewritten model does not run: {told}"
    return None
