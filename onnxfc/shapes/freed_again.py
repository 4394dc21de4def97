"""Rewritten models that were fixed to one image size afterwards, by onnxruntime's make_dynamic_shape_fixed, say."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile


def fixed_size(model: ModelFile, claim: Claim) -> tuple[int, ...] | None:
    """The lengths that a rewritten model's images have alone, 0 along axes that are open; None where all are.

    A model whose input alone says the native size, beside outputs of any size, contradicts itself: that is no such one.
    """
    if claim.fixed_size:
        return None  # it was made so, and its graph is that of no other size
    infos = {info.name: info for info in model.proto.graph.input}
    for image in claim.inputs:
        dims = infos[image.name].type.tensor_type.shape.dim if image.name in infos else []
        size = tuple(max(0, dims[axis].dim_value) for axis in image.spatial if axis < len(dims))
        if len(size) == len(claim.native_size) and any(size) and (size != claim.native_size or _one_grid(model, claim)):
            return size
    return None


def size_text(size: Sequence[int]) -> str:
    """A size of images, N along axes that are open."""
    return "x".join(str(n or "N") for n in size)


def _one_grid(model: ModelFile, claim: Claim) -> bool:
    """Whether all grids that outputs have are declared with numbers."""
    infos = {info.name: info.type.tensor_type.shape.dim for info in model.proto.graph.output}
    dims = [infos[item.name][axis] for item in claim.outputs for axis in item.axes if axis < len(infos[item.name])]
    return all(dim.dim_value for dim in dims)


def freed_again(model: ModelFile, claim: Claim, *, fixed: bool = False) -> ModelFile:
    """The same graph without the sizes that are declared, also along the axes that stay ``fixed``: at the ones that it
    has, it computes the same."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    every = {image.name: {*image.spatial, *image.fixed} if fixed else image.spatial for image in claim.inputs}
    for info in proto.graph.input:
        for axis in every.get(info.name, ()):
            info.type.tensor_type.shape.dim[axis].Clear()
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return model.with_proto(proto)
