"""Pairs of an original and a right rewrite, made by hand from one set of weights, for the verifier's tests.

The rewrite is made by a function of many options; its defaults are right, and every option is a mistake
that a rewriter could make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxfc.claim.claim import Claim

OPSET = 17


@dataclass(frozen=True)
class Pair:
    """Two models and what is claimed of the second."""

    original: onnx.ModelProto
    rewritten: onnx.ModelProto
    claim: Claim


class Net:
    """Collects nodes and weights; ``node`` gives back the name of the node's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        if all(tensor.name != name for tensor in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(
        self,
        inputs: dict[str, list[Any]],
        outputs: dict[str, list[Any]],
        kind: int = TensorProto.FLOAT,
        output_kinds: dict[str, int] | None = None,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, kind, dims) for name, dims in inputs.items()],
            [
                helper.make_tensor_value_info(name, (output_kinds or {}).get(name, kind), dims)
                for name, dims in outputs.items()
            ],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def he(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> np.ndarray:
    """Random weights that keep the size of what passes through them."""
    fan = int(np.prod(shape[1:])) or 1
    return (gain * rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)


def mistaken_claim(claim: Claim, wrong: str) -> Claim:
    """The claim with the mistake named ``wrong``, if it is one in the claim."""
    dims = len(claim.native_size)
    boundary, image = claim.boundaries[0], claim.inputs[0]
    changes: dict[str, dict[str, Any]] = {
        "claim: extent": {"boundaries": (replace(boundary, extent=tuple(e - 1 for e in boundary.extent)),)},
        "claim: step": {"boundaries": (replace(boundary, step=(2,) * dims),)},
        "claim: spatial axes": {"boundaries": (replace(boundary, spatial=tuple(range(1, 1 + dims))),)},
        "claim: boundary": {"boundaries": (replace(boundary, original="r1", rewritten="r1", extent=(12,) * dims),)},
        "claim: boundary missing": {"boundaries": ()},
        "claim: boundary unknown": {"boundaries": (replace(boundary, rewritten="nowhere"),)},
        "claim: stride": {"stride": (4,) * dims},
        "claim: native size": {
            "native_size": (18,) * dims,
            "inputs": (replace(image, shape=(*image.shape[:2], *[18] * dims)),),
        },
        "claim: form": {"outputs": tuple(replace(o, form="activation") for o in claim.outputs)},
        "claim: form features": {"outputs": tuple(replace(o, form="features") for o in claim.outputs)},
        "claim: form map": {"outputs": tuple(replace(o, form="map") for o in claim.outputs)},
        "claim: form global": {"outputs": tuple(replace(o, form="global", axes=()) for o in claim.outputs)},
        "claim: form mean": {"outputs": tuple(replace(o, form="mean", axes=()) for o in claim.outputs)},
        "claim: axes": {"outputs": tuple(replace(o, axes=tuple(range(1, 1 + dims))) for o in claim.outputs)},
        "claim: outputs": {"outputs": claim.outputs[1:]},
        "claim: verdict": {"verdict": "exact"},
    }
    return replace(claim, **changes.get(wrong, {}))
