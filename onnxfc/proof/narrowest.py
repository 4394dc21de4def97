"""The narrowest float type on the way from an image to a tensor: what rounds there decides how exact the tensor can be.

Half precision inside a model whose weights, inputs and outputs are float32 rounds all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxfc.proof.tolerance import PRECISION, Precision
from onnxfc.proof.wiring import reads

_NAMES = {
    TensorProto.DOUBLE: "float64",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}


def coarser(*found: Precision) -> Precision:
    """The coarsest of all, with the largest step of theirs; the finest that there is where there are none."""
    found = found or (PRECISION["float64"],)
    return replace(max(found, key=lambda item: item.eps), step=max(item.step for item in found))


def narrowest(model: onnx.ModelProto) -> dict[str, Precision]:
    """By tensor that depends on an input. A weight that is stored in half precision and cast first rounds nothing."""
    own = {item.name: _NAMES.get(item.data_type, "") for item in model.graph.initializer}
    fed = {value.name: _NAMES.get(value.type.tensor_type.elem_type, "") for value in model.graph.input}
    types, way = fed | own, {name: PRECISION[kind or "float64"] for name, kind in fed.items() if name not in own}
    for node in model.graph.node:
        given = reads(node)
        kind = _made(node) or next((types[name] for name in node.input if types.get(name)), "")
        types.update(dict.fromkeys(node.output, kind))
        before = [way[name] for name in given if name in way]
        if before:
            way.update(dict.fromkeys(node.output, coarser(*before, PRECISION[kind or "float64"])))
    return way


def _made(node: onnx.NodeProto) -> str:
    """The float type that a node writes down: that of a Cast, of a constant."""
    for item in node.attribute:
        if item.name == "to" and node.op_type == "Cast":
            return _NAMES.get(item.i, "")
        if item.HasField("t"):
            return _NAMES.get(item.t.data_type, "")
    return ""


def input_types(model: onnx.ModelProto) -> Mapping[str, np.dtype[np.generic]]:
    """numpy's types of the float inputs."""
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    return {name: np.dtype(helper.tensor_dtype_to_np_dtype(kind)) for name, kind in kinds.items() if kind in _NAMES}
