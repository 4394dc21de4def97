"""What can be said against a claim before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx

from onnxfc.claim.claim import Claim, Level, Output, elements_of
from onnxfc.proof.head import HeadPlan
from onnxfc.proof.output_forms import WINDOWED
from onnxfc.proof.sessions import Array

_RENAMED = (
    "; if a tool gave tensors other names, remove the second one's onnxfc.* metadata: it is read off the models then"
)


def claim_problem(original: onnx.ModelProto, rewritten: onnx.ModelProto, claim: Claim) -> str | None:
    """The first contradiction between the claim and the two models, or None."""
    different = _difference(original, rewritten, claim)
    if different is not None:
        return f"these are different models: {different}"
    wrong = _wrong(original, claim) or dims_problem(rewritten, claim, claim.native_size)
    return None if wrong is None else f"wrong claim: {wrong}"


def dims_problem(rewritten: onnx.ModelProto, claim: Claim, size: Sequence[int], every: bool = False) -> str | None:
    """An axis of an image that has one length alone, which the model declares otherwise: those that the claim tells as
    fixed, or ``every`` one. ``size``: of images that the model takes."""
    shapes = claim.image_shapes(size)
    declared = _declared(rewritten)
    for image in claim.inputs:
        axes = sorted({*image.fixed, *image.spatial}) if every else image.fixed
        dims, shape = declared.get(image.name, ()), shapes[image.name]
        for axis, name in zip(axes, image.named(axes), strict=True):
            if axis < len(dims) and (own := dims[axis].dim_value) != shape[axis]:
                has = f"has {own}" if own else "leaves it open"
                return f"the {name} of {image.name} is {shape[axis]} px alone, the second model {has}"
    return None


def _declared(model: onnx.ModelProto) -> Mapping[str, Sequence[Any]]:
    """The dims of its inputs."""
    return {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}


def one_size_problem(rewritten: onnx.ModelProto, claim: Claim) -> str | None:
    """An image that is declared for the native size alone, where the claim is one of any size."""
    declared = _declared(rewritten)
    for image in claim.inputs if not claim.fixed_size else ():
        dims = declared.get(image.name, ())
        size = tuple(image.shape[axis] for axis in image.spatial)
        if size and tuple(dims[axis].dim_value for axis in image.spatial if axis < len(dims)) == size:
            alone = f"{image.name} is {_text(size)} px alone in the second model, whose outputs are of any size"
            return f"{alone}; fix both, as onnxruntime.tools.make_dynamic_shape_fixed does, or neither"
    return None


def _difference(original: onnx.ModelProto, rewritten: onnx.ModelProto, claim: Claim) -> str | None:
    """What shows that the second model was not made of the first."""
    names = [value.name for value in original.graph.output]
    others = [value.name for value in rewritten.graph.output]
    if others != names:
        return f"the second one's outputs are {', '.join(others)}, not {', '.join(names)}"
    if _inputs(original) != _inputs(rewritten):
        told = (", ".join(sorted(_inputs(model))) for model in (rewritten, original))
        return "the second one's inputs are {}, not {}".format(*told)
    have = _tensors(original), _tensors(rewritten)
    for item in claim.boundaries:
        if item.original not in have[0]:
            return f"the head begins at {item.original}, which the original does not have{_RENAMED}"
        if item.rewritten not in have[1]:
            return f"the head begins at {item.rewritten}, which the second one does not have{_RENAMED}"
    for figure in claim.figures:
        kinds = {_dynamic(original, figure.original), _dynamic(rewritten, figure.rewritten)}
        if len(kinds) > 1 or 0 in kinds:
            return f"{figure.rewritten} is not what a DynamicQuantizeLinear says of all that it quantises"
    return _image_difference(original, claim)


def _dynamic(model: onnx.ModelProto, name: str) -> int:
    """Which output of a DynamicQuantizeLinear it is, its scale or its zero point; 0 for anything else, and where its
    integers are not what is read."""
    makers = [node for node in model.graph.node if node.op_type == "DynamicQuantizeLinear" and name in node.output]
    read = any(makers and makers[0].output[0] in node.input for node in model.graph.node)
    return list(makers[0].output).index(name) if read else 0


def _wrong(original: onnx.ModelProto, claim: Claim) -> str | None:
    names = [value.name for value in original.graph.output]
    if [output.name for output in claim.outputs] != names:
        return f"the claim does not speak of exactly the outputs {', '.join(names)}"
    if tuple(claim.inputs[0].shape[axis] for axis in claim.inputs[0].spatial) != claim.native_size:
        return f"the claimed native size {claim.native_size} is not that of input {claim.inputs[0].name}"
    return _image_problem(original, claim) or _field_problem(claim) or _steps_problem(claim)


def _field_problem(claim: Claim) -> str | None:
    """A cell is a cell: what is told of it twice must be the same. It reads what any output reads in it."""
    cells = [output for output in claim.outputs if output.form in ("map", "cells") and output.stride]
    if not cells or not claim.size:
        return None
    start = tuple(map(min, zip(*(output.start for output in cells), strict=True)))
    ends = ([a + n for a, n in zip(output.start, output.size, strict=True)] for output in cells)
    size = tuple(max(axis) - first for axis, first in zip(zip(*ends, strict=True), start, strict=True))
    wrong = next((output for output in cells if output.stride != claim.stride), None)
    if wrong is not None or (start, size) != (claim.start, claim.size):
        return f"a cell of {(wrong or cells[0]).name} does not read what a cell is said to read"
    return None


def _steps_problem(claim: Claim) -> str | None:
    """Strides and periods that cannot be all so: an image that is moved by a period moves every output by whole
    elements, and the stride of elements is told of the model, too."""
    for output in claim.outputs:
        parts: list[Output | Level] = [output, *output.levels]
        steps = ((part.stride, part.per) for part in parts if claim.period)
        if any(moved * n % step for told in steps for moved, step, n in zip(claim.period, *told, strict=False)):
            return f"an image moved by the period {claim.period} moves {output.name} by parts of its elements"
    own = elements_of(claim.outputs)
    if own is not None and own.form != "list" and own.stride:
        stride = tuple(-(-stride // per) for stride, per in zip(own.stride, own.per, strict=True))
        if stride != claim.stride:
            return f"the stride is {claim.stride}, of {own.name} it is {stride}"
    return None


def growth_problem(claim: Claim, native: Mapping[str, Array], size: Sequence[int], made: Mapping[str, Array]) -> str:
    """Which output has not grown with the image as its claimed stride says, "" if none: as the image is larger by whole
    periods, each has as many elements more as strides. A list's levels have, natively, what is left of them then.
    """
    grown = [now - before for now, before in zip(size, claim.native_size, strict=True)]
    if not claim.period or any(more % period for more, period in zip(grown, claim.period, strict=True)):
        return ""
    for output in claim.outputs:
        if output.form == "list":
            row = output.levels[0].axis
            places = sum(_natively(level, made[level.tensor].shape, grown) for level in output.levels)
            wrong = places != native[output.name].shape[row]
        else:
            old, new = native[output.name].shape, made[output.name].shape
            lacking = max(output.axes, default=0) >= min(len(old), len(new))
            told = bool(output.stride)  # one that is not claimed promises nothing
            wrong = output.form == "features" and (
                lacking or (told and _grown(output, old, grown) != [new[axis] for axis in output.axes])
            )
        if wrong:
            return f"{output.name} does not grow by the elements that its claimed stride promises"
    return ""


def _grown(output: Output, shape: Sequence[int], more: Sequence[int]) -> list[int]:
    steps = zip(output.axes, more, output.stride, output.per, strict=True)
    return [shape[axis] + pixels * per // stride for axis, pixels, stride, per in steps]


def _natively(level: Level, shape: Sequence[int], more: Sequence[int]) -> int:
    steps = zip(level.spatial, more, level.stride, level.per, strict=True)
    return level.outer * level.inner * math.prod(shape[a] - pixels * per // stride for a, pixels, stride, per in steps)


def _tensors(model: onnx.ModelProto) -> set[str]:
    return {value.name for value in model.graph.input} | {name for node in model.graph.node for name in node.output}


def _inputs(model: onnx.ModelProto) -> set[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name for value in model.graph.input} - weights


def _image_difference(original: onnx.ModelProto, claim: Claim) -> str | None:
    """An image of another shape."""
    declared = _declared(original)
    for image in claim.inputs:
        dims = [dim.dim_value for dim in declared.get(image.name, ())]
        if dims and (
            len(dims) != len(image.shape) or any(d not in (0, n) for d, n in zip(dims, image.shape, strict=True))
        ):
            return f"{image.name} is {_text(image.shape)} in the second one's claim, {_text(dims)} in the original"
    return None


def _text(shape: Sequence[int]) -> str:
    return "x".join(str(n or "N") for n in shape)


def _image_problem(original: onnx.ModelProto, claim: Claim) -> str | None:
    names = _inputs(original)
    for image in claim.inputs:
        if image.name not in names:
            return f"the claimed image input {image.name} does not exist"
    return None


def axes_problem(claim: Claim, native: Mapping[str, Array]) -> str | None:
    """Spatial axes that the original's trunk tensors do not have."""
    return _lacking(((boundary.original, boundary.spatial) for boundary in claim.boundaries), native)


def made_axes_problem(claim: Claim, made: Mapping[str, Array]) -> str | None:
    """Spatial axes that tensors of the rewritten model do not have."""
    told = [(boundary.rewritten, boundary.spatial) for boundary in claim.boundaries]
    told += [(level.tensor, level.spatial) for output in claim.outputs for level in output.levels]
    return _lacking(told, made)


def _lacking(told: Iterable[tuple[str, tuple[int, ...]]], values: Mapping[str, Array]) -> str | None:
    for name, spatial in told:
        rank = values[name].ndim
        if max(spatial) >= rank:
            return f"{name} has {rank} axes, claimed were spatial axes {spatial}"
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
