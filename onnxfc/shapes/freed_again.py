"""Rewritten models that were fixed to one image size afterwards, by onnxruntime's make_dynamic_shape_fixed, say."""

from __future__ import annotations

import onnx

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile


def fixed_size(model: ModelFile, claim: Claim) -> tuple[int, ...] | None:
    """The one size of the images that a rewritten model takes; None where it takes more.

    A model whose input alone says the native size, beside outputs of any size, contradicts itself: that is no such one.
    """
    if claim.fixed_size:
        return None  # it was made so, and its graph is that of no other size
    infos = {info.name: info for info in model.proto.graph.input}
    for image in claim.inputs:
        dims = infos[image.name].type.tensor_type.shape.dim if image.name in infos else []
        size = tuple(dims[axis].dim_value for axis in image.spatial if axis < len(dims))
        if len(size) == len(claim.native_size) and all(size) and (size != claim.native_size or _one_grid(model, claim)):
            return size
    return None


def _one_grid(model: ModelFile, claim: Claim) -> bool:
    """Whether some output has a grid, and all grids are declared with numbers."""
    infos = {info.name: info.type.tensor_type.shape.dim for info in model.proto.graph.output}
    dims = [infos[item.name][axis] for item in claim.outputs for axis in item.axes if axis < len(infos[item.name])]
    return bool(dims) and all(dim.dim_value for dim in dims)


def freed_again(model: ModelFile, claim: Claim) -> ModelFile:
    """The same graph without the sizes that are declared: at the one that it has, it computes the same."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    spatial = {image.name: image.spatial for image in claim.inputs}
    for info in proto.graph.input:
        for axis in spatial.get(info.name, ()):
            info.type.tensor_type.shape.dim[axis].Clear()
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    del proto.graph.value_info[:]
    return model.with_proto(proto)
