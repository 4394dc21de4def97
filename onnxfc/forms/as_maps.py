"""All on maps (1, C, H, W): FC layers as Convs, with no Flatten, Reshape or Transpose before them.

Flatten of (1, C, h, w), then Gemm, is a Conv of h x w. A tensor (1, F) between two such layers is the map (1, F, 1, 1).
"""

from __future__ import annotations

import math

import numpy as np
import onnx

from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.forms.draft import Draft
from onnxfc.forms.follow import Follower, Rule, stays
from onnxfc.forms.weights import weight_of
from onnxfc.graph.index import attributes, copied, dependent, label
from onnxfc.graph.op_kinds import FLOATS, GEMMS, PLAIN_LAYERS, RESHAPING
from onnxfc.graph.quantised_operators import BIAS_AT, PRODUCTS, standing

_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_ADVICE = "leave out --form: --fixed-size alone writes every length as a number"


def as_maps(draft: Draft) -> Draft:
    """The draft on maps alone. Raises NothingToRewrite with what is no map."""
    made = Follower(draft, "map", _RULES).run()
    refusals = tuple(_refusals(made))
    if refusals:
        raise NothingToRewrite(str(refusals[0]), refusals)
    return made


def _refusals(draft: Draft) -> list[Refusal]:
    """What is left that is no map, or an FC layer still. Outputs may have the original's shape."""
    images = [info.name for info in draft.graph.inputs]
    moving, found = dependent(draft.nodes, images), []
    for node in draft.nodes:
        for name in moving.intersection(node.output) - {*draft.graph.outputs}:
            spec = draft.specs[name]
            if spec.shapes is not None and spec.rank != 4:
                told = "x".join(map(str, spec.native)) or "one number"
                found.append(Refusal("form-not-4d", label(node), f"{node.op_type} makes {told}, no map", _ADVICE))
        if node.op_type == "MatMulNBits":
            why = "MatMulNBits has no form as a Conv: its weight is in blocks of few bits"
            found.append(Refusal("form-fc-left", label(node), why, "write its weight in floats: --dequantize-head"))
        constant = any(name not in moving for name in node.input[:2])
        if node.op_type in {*PLAIN_LAYERS, *GEMMS} and constant and moving.intersection(node.input):
            why = f"{node.op_type} has no form as a Conv: its features are no channels, or its weight is computed"
            found.append(Refusal("form-fc-left", label(node), why, _ADVICE))
    return found


def _map_of(follower: Follower, name: str) -> str | None:
    """The map that a tensor is, or is followed as."""
    found = follower.followed.get(name, name)
    return found if len(follower.shape(found) or ()) == 4 else None


def _reshape(follower: Follower, node: onnx.NodeProto) -> str | None:
    """Of a map it need not be made."""
    before, after = follower.shape(node.input[0]), follower.shape(node.output[0])
    if stays(follower, node) is None and before and after and before[0] == after[0] and len(before) == 4:
        return str(node.input[0])
    return stays(follower, node)


def _pool(follower: Follower, node: onnx.NodeProto) -> str | None:
    """A Reduce over all places is a global pool, which keeps their axes; of integers one whose kernel is the map."""
    shape, after = follower.shape(node.input[0]), follower.shape(node.output[0])
    if shape is None or after is None or len(shape) != 4 or node.input[0] in follower.followed:
        return None
    axes = attributes(node).get("axes") or follower.draft.constant(node.input[1] if len(node.input) > 1 else "")
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return None
    if follower.draft.specs[node.input[0]].dtype not in FLOATS:
        return follower.emit(node, "MaxPool", [node.input[0]], (*after[:2], 1, 1), kernel_shape=shape[2:])
    return follower.emit(node, _POOLS[node.op_type], [node.input[0]], (*after[:2], 1, 1))


def _layer(follower: Follower, node: onnx.NodeProto) -> str | None:
    """An FC layer over (C, h, w) is a Conv of h x w: weights that are stored outputs first keep their bytes."""
    told, data, before = attributes(node), _map_of(follower, node.input[0]), follower.shape(node.input[0])
    quantised, turned = node.op_type not in PLAIN_LAYERS, bool(told.get("transB", 0))
    weight = weight_of(follower.draft, node.input[3 if quantised else 1])
    plain = all(told.get(name, free) == free for name, free in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)))
    if data is None or weight is None or before is None or not plain or weight.value.ndim != 2:
        return None
    outputs, features = weight.value.shape if turned else weight.value.shape[::-1]
    channels, *kernel = (follower.shape(data) or ())[1:]
    bias = _bias(follower, node, BIAS_AT if quantised else 2, outputs)
    result, dims = _result_of(node), (outputs, channels, *kernel)
    fits = before[1:] == (*[1] * (len(before) - 2), features) and channels * math.prod(kernel) == features
    if not fits or bias is None or result is None or not weight.scaled_along(int(not turned)):
        return None
    held = copied(weight.tensor, dims=dims) if turned else np.ascontiguousarray(weight.value.T).reshape(dims)
    made, after = follower.weight(weight, held, dims, 0), (before[0], outputs, 1, 1)
    if not quantised:
        return follower.emit(node, "Conv", [data, made, *bias], after, kernel_shape=kernel)
    inputs = [data, *node.input[1:3], made, *node.input[4:6], *result, *bias]
    return follower.emit(node, "QLinearConv", inputs, after, kernel_shape=kernel)


def _result_of(node: onnx.NodeProto) -> list[str] | None:
    """Scale and zero point of an integer result; None where a layer of integers makes floats."""
    stands = standing(node)
    if stands is None:
        return []
    return list(node.input[stands.result : stands.result + 2]) or None


def _bias(follower: Follower, node: onnx.NodeProto, at: int, outputs: int) -> list[str] | None:
    """A bias for each output; None where it is computed, or another for each image."""
    name = next(iter(node.input[at : at + 1]), "")
    if not name or node.op_type == "QLinearMatMul":
        return []
    if (weight := weight_of(follower.draft, name)) is not None and weight.by is not None:
        return [name] if weight.value.shape == (outputs,) else None
    found = follower.constant(name)
    if found is None or found.size not in (1, outputs) or found.shape[-1:] not in ((), (1,), (outputs,)):
        return None
    if found.shape == (outputs,):
        return [name]
    return [follower.hold(name, np.broadcast_to(found.reshape(-1), (outputs,)).copy())]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys((*PLAIN_LAYERS, *PRODUCTS), _layer),
}
