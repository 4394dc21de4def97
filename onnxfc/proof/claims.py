"""What can be said against a claim before anything is run."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxfc.claim import Claim
from onnxfc.proof.forms import WINDOWED
from onnxfc.proof.head import HeadPlan
from onnxfc.proof.sessions import Array


def claim_problem(original: onnx.ModelProto, rewritten: onnx.ModelProto, claim: Claim) -> str | None:
    """The first contradiction between the claim and the two interfaces, or None."""
    names = tuple(value.name for value in original.graph.output)
    if tuple(value.name for value in rewritten.graph.output) != names:
        return f"the rewritten model's outputs are not the original's {', '.join(names)}"
    if tuple(output.name for output in claim.outputs) != names:
        return f"the claim does not speak of exactly the outputs {', '.join(names)}"
    if _inputs(original) != _inputs(rewritten):
        return "the two models do not have the same inputs"
    dims = len(claim.native_size)
    if not claim.inputs or not dims or {len(claim.stride), len(claim.size_step)} != {dims}:
        return "the claim names no image input, native size, stride or size step"
    if min(*claim.native_size, *claim.stride, *claim.size_step) < 1:
        return "the claim has a native size, stride or size step below 1"
    if tuple(claim.inputs[0].shape[axis] for axis in claim.inputs[0].spatial) != claim.native_size:
        return f"the claimed native size {claim.native_size} is not that of input {claim.inputs[0].name}"
    return _image_problem(original, claim) or _boundary_problem(claim)


def _inputs(model: onnx.ModelProto) -> set[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name for value in model.graph.input} - weights


def _image_problem(original: onnx.ModelProto, claim: Claim) -> str | None:
    declared = {value.name: value.type.tensor_type.shape.dim for value in original.graph.input}
    for image in claim.inputs:
        if image.name not in declared:
            return f"the claimed image input {image.name} does not exist"
        dims = [dim.dim_value for dim in declared[image.name]]
        if dims and (
            len(dims) != len(image.shape) or any(d not in (0, n) for d, n in zip(dims, image.shape, strict=True))
        ):
            return f"the claimed native shape {image.shape} of {image.name} is not the original's {dims}"
        if len(image.spatial) != len(claim.native_size):
            return f"the claimed spatial axes of {image.name} do not fit the native size"
    return None


def _boundary_problem(claim: Claim) -> str | None:
    dims = len(claim.native_size)
    for b in claim.boundaries:
        if not len(b.spatial) == len(b.extent) == len(b.step) == dims or min(b.step) < 1 or 0 in b.spatial:
            return f"the claimed window of {b.original} does not have {dims} spatial axes"
    return None


def window_problem(claim: Claim, plan: HeadPlan, native: Mapping[str, Array]) -> str | None:
    """What can be said against the claimed windows; ``native`` are the original's tensors at native size."""
    if not any(output.form in WINDOWED for output in claim.outputs):
        return None
    if not claim.boundaries:
        return "outputs are claimed to be made of windows, but no boundary of the head is named"
    if plan.leak:
        return f"the outputs depend on input {plan.leak} besides through the named boundaries"
    for boundary in claim.boundaries:
        shape = native[boundary.original].shape
        extent = tuple(shape[axis] for axis in boundary.spatial if axis < len(shape))
        if extent != boundary.extent:
            return f"the claimed window {boundary.extent} of {boundary.original} is {extent} at native size"
    if not plan.boundaries:
        return "no output depends on the named boundaries"
    return None
