"""What FC layers make, compared beside the outputs.

A Softmax far out, a Sign or a class number hides what happens before it: inputs of any kind give the same few values.
What the FC layers before it make varies all the same, and an error shows there. So both models are looked at with the
results of their FC layers as further outputs; an output that no input moves rests on the FC layers right before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from onnxfc.claim.claim import Claim, Layer, Output
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.narrowest import coarser, narrowest
from onnxfc.proof.quantisation import quantisation_steps
from onnxfc.proof.sessions import Array
from onnxfc.proof.tolerance import Precision
from onnxfc.proof.wiring import reads


@dataclass(frozen=True)
class Compared:
    """Both models with the same outputs, and the claim that speaks of them all; ``own``: those that they had.

    ``precision``: of each tensor of the original, or of what the second model has for it, if that is coarser.
    """

    original: ModelFile
    rewritten: ModelFile
    claim: Claim
    own: tuple[str, ...]
    precision: Mapping[str, Precision]


def with_layers(original: ModelFile, rewritten: ModelFile, claim: Claim) -> Compared:
    """FC layers as further outputs, under the original's names where nothing else is called so."""
    own = tuple(output.name for output in claim.outputs)
    protos = _copy(original), _copy(rewritten)
    taken = [{name for node in proto.graph.node for name in node.output} for proto in protos]
    layers, more = [], []
    for layer in claim.layers:
        if layer.original in own:
            layers.append(layer)
        elif layer.original in taken[0] and layer.rewritten in taken[1]:
            name = layer.original
            while name != layer.rewritten and name in taken[1]:
                name += "'"
            for proto, tensor in zip(protos, (layer.original, layer.rewritten), strict=True):
                _show(proto.graph, tensor, name)
            layers.append(Layer(name, name, layer.form))
            more.append(Output(name, layer.form))
    shown = replace(claim, outputs=(*claim.outputs, *more), layers=tuple(layers))
    models = original.with_proto(protos[0]), rewritten.with_proto(protos[1])
    precision = _precision(*models, shown)
    return Compared(*models, shown, own, precision)


def _precision(original: ModelFile, rewritten: ModelFile, claim: Claim) -> dict[str, Precision]:
    mine, theirs = rounded(original), rounded(rewritten)
    pairs = [(output.name, output.name) for output in claim.outputs]
    pairs += [(boundary.original, boundary.rewritten) for boundary in claim.boundaries]
    both = [(name, other) for name, other in pairs if name in mine and other in theirs]
    return mine | {name: coarser(mine[name], theirs[other]) for name, other in both}


def rounded(model: ModelFile) -> dict[str, Precision]:
    steps = quantisation_steps(model)
    return {name: replace(found, step=steps.get(name, 0.0)) for name, found in narrowest(model.proto).items()}


def _copy(model: ModelFile) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    return proto


def _show(graph: onnx.GraphProto, tensor: str, name: str) -> None:
    """Let a tensor be an output called ``name``."""
    if tensor != name:
        graph.node.append(helper.make_node("Identity", [tensor], [name]))
    graph.output.append(onnx.ValueInfoProto(name=name))


def behind_layers(graph: onnx.GraphProto, output: str, known: Iterable[Layer]) -> list[str]:
    """Those of the ``known`` FC layers that are right before an output."""
    layers = {layer.original for layer in known} - {output}
    maker = {name: node for node in graph.node for name in node.output if name}
    seen: dict[str, None] = {}
    stack = [output]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen[name] = None
            stack += reads(maker[name]) if name in maker and name not in layers else []
    return [name for name in seen if name in layers]


def told_apart(values: Sequence[Array]) -> Iterator[Array]:
    """What a layer's units say other than each other: the same added to all of them tells no class from another."""
    for value in values:
        rest = value.astype(np.float64).reshape(len(value), -1) if value.ndim else value.reshape(1, 1)
        yield rest - rest.mean(axis=1, keepdims=True) if rest.shape[1] > 1 else rest
