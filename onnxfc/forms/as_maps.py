"""All on maps (1, C, H, W): FC layers as Convs, with no Flatten, Reshape or Transpose before them.

Flatten of (1, C, h, w), then Gemm, is a Conv of h x w. A tensor (1, F) between two such layers is the map (1, F, 1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import replace

import numpy as np
import onnx

from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.forms.draft import Draft
from onnxfc.forms.follow import Follower, Rule, stays
from onnxfc.forms.weights import weight_of
from onnxfc.graph.index import attributes, copied, dependent, label
from onnxfc.graph.op_kinds import FLOATS, GEMMS, LENGTHS, PLAIN_LAYERS, RESHAPING
from onnxfc.graph.quantised_operators import BIAS_AT, PRODUCTS, standing

_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_ADVICE = "leave out --form: --fixed-size alone writes every length as a number"


def as_maps(draft: Draft, original: onnx.GraphProto) -> Draft:
    """The draft on maps alone. Raises NothingToRewrite with what is no map, under the names of the ``original``."""
    made = Follower(draft, "map", _RULES).run()
    found = _refusals(made, {label(node) for node in original.node})
    refusals = tuple(sorted(found, key=lambda item: item.code != "form-fc-left"))  # why there is no map, first
    if refusals:
        raise NothingToRewrite(str(refusals[0]), refusals)
    return made


def _refusals(draft: Draft, own: Container[str]) -> Iterator[Refusal]:
    """What is left that is no map, or an FC layer still: of each node the first. Outputs may have the original's
    shape."""
    told: set[tuple[str, str]] = set()
    for node, found in _left(draft):
        name = _own_label(draft, node, own)
        why = found.reason if name == label(node) else f"of what is written for it, {found.reason}"
        if (found.code, name) not in told:
            told.add((found.code, name))
            yield replace(found, node=name, reason=why)


def _own_label(draft: Draft, node: onnx.NodeProto, own: Container[str]) -> str:
    """The original's node that a node is, or is written for: the next one on the way to an output."""
    waiting, seen = [node], list[str]()
    while waiting:
        at = waiting.pop(0)
        if label(at) in own:
            return label(at)
        new = [name for name in at.output if name not in seen]
        seen += new
        waiting += [reader for reader in draft.nodes if set(new).intersection(reader.input)]
    return label(node)


def _left(draft: Draft) -> Iterator[tuple[onnx.NodeProto, Refusal]]:
    nodes = [node for node in draft.nodes if node.op_type not in LENGTHS]
    moving = dependent(nodes, [info.name for info in draft.graph.inputs])
    maps = moving - _scales(draft, moving) - {*draft.graph.outputs}
    for node in nodes:
        constant = any(name not in moving for name in node.input[:2])
        if node.op_type == "MatMulNBits":
            why = "MatMulNBits has no form as a Conv: its weight is in blocks of few bits"
            yield node, Refusal("form-fc-left", "", why, "write its weight in floats: --dequantize-head")
        elif node.op_type in {*PLAIN_LAYERS, *GEMMS, "MatMulInteger"} and constant and moving.intersection(node.input):
            why = f"{node.op_type} has no form as a Conv: {_why_left(draft, node)}"
            yield node, Refusal("form-fc-left", "", why, _ADVICE)
        for name in maps.intersection(node.output):
            spec = draft.specs[name]
            if spec.shapes is not None and spec.rank != 4:
                shape = "x".join(map(str, spec.native)) or "one number"
                yield node, Refusal("form-not-4d", "", f"{node.op_type} makes {shape}, no map", _ADVICE)


def _why_left(draft: Draft, node: onnx.NodeProto) -> str:
    zeros = [draft.constant(name) for name in node.input[3:]] if node.op_type == "MatMulInteger" else []
    if any(value is not None and np.ptp(value) for value in zeros):
        return "outputs have zero points of their own, for which a ConvInteger has no room"
    return "its features are no channels, or its weight is computed"


def _scales(draft: Draft, moving: set[str]) -> set[str]:
    """What is taken of a whole map when the model runs, and products of that with constants."""
    found: set[str] = set()
    for node in draft.nodes:
        if node.op_type == "DynamicQuantizeLinear":
            found.update(node.output[1:])
        elif node.op_type in {"Cast", "Mul"} and found.intersection(node.input) >= moving.intersection(node.input):
            found.update(node.output)
    return found & moving


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
    quantised, turned = node.op_type in PRODUCTS, bool(told.get("transB", 0))
    weight = weight_of(follower.draft, node.input[3 if quantised else 1])
    plain = all(told.get(name, free) == free for name, free in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)))
    if data is None or weight is None or before is None or not plain or weight.value.ndim != 2:
        return None
    outputs, features = weight.value.shape if turned else weight.value.shape[::-1]
    channels, *kernel = (follower.shape(data) or ())[1:]
    given, dims = _beside_weight(follower, node, outputs), (outputs, channels, *kernel)
    fits = before[1:] == (*[1] * (len(before) - 2), features) and channels * math.prod(kernel) == features
    if not fits or given is None or not weight.scaled_along(int(not turned)):
        return None
    held = copied(weight.tensor, dims=dims) if turned else np.ascontiguousarray(weight.value.T).reshape(dims)
    made, after = follower.weight(weight, held, dims, 0), (before[0], outputs, 1, 1)
    kind = "QLinearConv" if quantised else "ConvInteger" if node.op_type == "MatMulInteger" else "Conv"
    return follower.emit(node, kind, [data, *given[0], made, *given[1]], after, kernel_shape=kernel)


def _beside_weight(follower: Follower, node: onnx.NodeProto, outputs: int) -> tuple[list[str], list[str]] | None:
    """What the Conv reads between its data and its weight, and behind both; None where it cannot read that."""
    if node.op_type == "MatMulInteger":
        zeros = [_one_zero(follower, name) for name in node.input[2:]]
        return None if None in zeros else ([], [str(zero) for zero in zeros])
    quantised = node.op_type in PRODUCTS
    bias, result = _bias(follower, node, BIAS_AT if quantised else 2, outputs), _result_of(node)
    if bias is None or result is None:
        return None
    return (list(node.input[1:3]), [*node.input[4:6], *result, *bias]) if quantised else ([], bias)


def _one_zero(follower: Follower, name: str) -> str | None:
    """A zero point as a ConvInteger takes it; None where outputs have several."""
    if not name or follower.single([name]):
        return name
    value = follower.constant(name)
    if value is None or (value != value.flat[0]).any():
        return None
    return follower.hold(name, value.flat[0].reshape(()))


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
    **dict.fromkeys((*PLAIN_LAYERS, *PRODUCTS, "MatMulInteger"), _layer),
}
