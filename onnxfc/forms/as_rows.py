"""The way back: a Conv whose kernel covers its map is Flatten and Gemm, and so are the 1x1 Convs behind it.

onnxruntime's Conv reads its weight once for each image, a Gemm once for all. The weight keeps its bytes: (M, C, h, w)
is (M, F), outputs first. Where the file tells how the stored weight lay (:mod:`onnxfc.forms.weight_order`), it lies so
again, and features are put into its order before they are flattened. A QLinearConv is a QGemm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from onnxfc.forms.draft import Draft
from onnxfc.forms.follow import Follower, Rule, stays
from onnxfc.forms.weight_order import WeightOrder
from onnxfc.forms.weights import quantised_again, weight_of
from onnxfc.graph.index import attributes, copied
from onnxfc.graph.op_kinds import KERNELS, MICROSOFT, RESHAPING, WEIGHT_AT
from onnxfc.shapes.spec import Shape


@dataclass(frozen=True)
class Replaced:
    """A Conv that is an FC layer, the shape of its weight, and whether that is stored: else the Conv stays."""

    node: onnx.NodeProto
    weight: tuple[int, ...]
    stored: bool


def as_rows(draft: Draft, orders: Mapping[str, WeightOrder]) -> tuple[Draft, tuple[Replaced, ...]]:
    """The draft with Gemms, and the Convs that are FC layers."""
    found: list[Replaced] = []
    layer = partial(_layer, orders, found)
    rules: dict[str, Rule] = {**dict.fromkeys(RESHAPING, stays), **dict.fromkeys((*KERNELS, "ConvInteger"), layer)}
    return Follower(draft, "row", rules).run(), tuple(found)


def _layer(
    orders: Mapping[str, WeightOrder], found: list[Replaced], follower: Follower, node: onnx.NodeProto
) -> str | None:
    name, data = node.input[WEIGHT_AT[node.op_type]], follower.shape(node.input[0])
    shape, after = follower.shape(name), follower.shape(node.output[0])
    if data is None or shape is None or after is None or not _covers(attributes(node), data, shape, after):
        return None
    weight = weight_of(follower.draft, name)
    stored = weight is not None and weight.scaled_along(0)
    found.append(Replaced(node, shape, stored))
    if weight is None or not stored:
        return None
    order = orders.get(weight.name)
    sums = node.op_type == "ConvInteger"
    order = order if order is not None and order.fits(shape) and not (sums and order.outputs_first) else None
    rows = follower.followed.get(node.input[0]) or _flat(follower, node, data, order)
    dims, after = (shape[0], math.prod(shape[1:])), (after[0], shape[0])
    turned = order is None or order.outputs_first
    held = copied(weight.tensor, dims=dims) if order is None else order.back(weight.value)
    if sums:  # features first
        held = np.ascontiguousarray(weight.value.reshape(dims).T) if order is None else held
        made = follower.weight(weight, held, dims[::-1], 1)
        return follower.emit(node, "MatMulInteger", [rows, made, *node.input[2:]], after)
    made = follower.weight(weight, held, dims if turned else dims[::-1], int(not turned))
    if node.op_type == "Conv":
        return follower.emit(node, "Gemm", [rows, made, *node.input[2:]], after, transB=int(turned))
    inputs = [rows, *node.input[1:3], made, *node.input[4:6], *(node.input[8:] or [""]), *node.input[6:8]]
    return follower.emit(node, "QGemm", inputs, after, domain=MICROSOFT, transB=int(turned))


def _covers(told: Mapping[str, Any], data: Shape, weight: Shape, after: Shape) -> bool:
    """Whether a Conv has one window, the whole map."""
    unpadded = told.get("auto_pad", "NOTSET") in {"NOTSET", "VALID"} and not any(told.get("pads", ()))
    gaps = any(d != 1 and k != 1 for d, k in zip(told.get("dilations", ()), weight[2:], strict=False))
    return unpadded and not gaps and told.get("group", 1) == 1 and weight[1:] == data[1:] and set(after[2:]) == {1}


def _flat(follower: Follower, node: onnx.NodeProto, data: tuple[int, ...], order: WeightOrder | None) -> str:
    """The map as rows, its features in the order of the stored weight."""
    name, features = node.input[0], order.features if order is not None else tuple(range(len(data) - 1))
    wide = [axis for axis in features if data[1 + axis] > 1]
    if wide != sorted(wide):
        perm = [0, *(1 + axis for axis in features)]
        name = follower.before(node, "Transpose", [name], [data[axis] for axis in perm], perm=perm)
    rows = (data[0], math.prod(data[1:]))
    name = follower.before(node, "Flatten", [name], rows, axis=1)
    for item in quantised_again(follower.draft, node.input[0]):
        name = follower.before(node, item.op_type, [name, *item.given], rows, like=item.like, domain=item.domain)
    return name
