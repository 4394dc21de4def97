"""What an optimiser folds into an operator: a factor, or a BatchNormalization, that stood behind it, and by which its
weight and bias are multiplied then. Read off the original, from which it follows what they have to be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Weights

_CONVS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Folded:
    """A ``scale`` and a ``shift`` of each output, or of all; ``axis``: that of the outputs. ``size``: of what a bias is
    added up, which cancels."""

    axis: int
    scale: Array
    shift: Array
    size: Array

    def weight(self, values: Array) -> tuple[Array, Array]:
        """The weight that stands for both, and its size."""
        shape = [1] * values.ndim
        shape[self.axis] = self.scale.size
        made = values.astype(np.float64) * self.scale.reshape(shape)
        return made, np.abs(made)

    def bias(self, values: Array) -> tuple[Array, Array]:
        """The bias that does, and the size of what it is the sum of."""
        scaled = values.astype(np.float64) * self.scale
        return scaled + self.shift, np.abs(scaled) + self.size


def folded_behind(
    node: onnx.NodeProto, rank: int, readers: Mapping[str, onnx.NodeProto], made: Collection[str], known: Weights
) -> Folded | None:
    """What stands behind a node of the original, whose weight has so many axes, and is not ``made`` in the other model;
    None where nothing does that could be folded."""
    axis = _outputs_axis(node)
    if axis is None or rank < 2:
        return None
    scale, shift, size, found = np.ones(1), np.zeros(1), np.zeros(1), False
    name, place = node.output[0], 1 - rank if node.op_type in _CONVS else -1
    while (behind := readers.get(name)) is not None and behind.output[0] not in made:
        step = _step(behind, name, place, known)
        if step is None:
            break
        factor, more, parts = step
        scale, shift, size = scale * factor, shift * factor + more, size * np.abs(factor) + parts
        name, found = behind.output[0], True
    return Folded(axis, scale, shift, size) if found else None


def _outputs_axis(node: onnx.NodeProto) -> int | None:
    """The axis of a weight along which outputs are; None where nothing is folded into such a node."""
    told = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Conv" or (node.op_type == "ConvTranspose" and told.get("group", 1) == 1):
        return 0 if node.op_type == "Conv" else 1
    if node.op_type == "Gemm":
        return (0 if told.get("transB") else -1) if told.get("beta", 1.0) == 1.0 else None
    return -1 if node.op_type == "MatMul" else None


def _step(node: onnx.NodeProto, name: str, place: int, known: Weights) -> tuple[Array, Array, Array] | None:
    """The factor of an operator on ``name``, what it adds, and the size of that; None where it does something else."""
    inputs = list(node.input)
    if node.op_type == "BatchNormalization" and inputs[0] == name:
        return _norm(node, known)
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or inputs.count(name) != 1:
        return None
    first = inputs[0] == name
    constant = known.of(inputs[1 if first else 0])
    if constant is None or constant.step or not _of_outputs(constant.values.shape, place):
        return None
    value, one, nothing = constant.values.astype(np.float64).reshape(-1), np.ones(1), np.zeros(1)
    if node.op_type == "Mul":
        return value, nothing, nothing
    if node.op_type == "Div":
        return (1 / value, nothing, nothing) if first and value.all() else None
    if node.op_type == "Add":
        return one, value, np.abs(value)
    return (one, -value, np.abs(value)) if first else (-one, value, np.abs(value))


def _norm(node: onnx.NodeProto, known: Weights) -> tuple[Array, Array, Array] | None:
    """The same of a BatchNormalization; None where the graph computes its figures."""
    found = [known.of(item) for item in node.input[1:5]]
    if any(item is None or item.values.ndim != 1 for item in found):
        return None
    scale, bias, mean, variance = (item.values.astype(np.float64) for item in found if item is not None)
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    factor = scale / np.sqrt(variance + epsilon)
    return factor, bias - mean * factor, np.abs(bias) + np.abs(mean * factor)


def _of_outputs(shape: tuple[int, ...], place: int) -> bool:
    """Whether a constant has one value, or one for each output, which are on axis ``place`` from the end."""
    count = math.prod(shape)
    return count == 1 or (len(shape) >= -place and shape[place] == count)
