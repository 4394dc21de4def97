"""The way back: a Conv whose kernel covers its map is Flatten and Gemm, and so are the 1x1 Convs behind it.

onnxruntime's Conv reads its weight once for each image, a Gemm once for all. The weight keeps its bytes: (M, C, h, w)
is (M, F), outputs first. Where the file tells how the stored weight lay (:mod:`onnxfc.forms.weight_order`), it lies so
again, and features are put into its order before they are flattened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import onnx

from onnxfc.forms.draft import Draft
from onnxfc.forms.follow import Follower, Rule, stays
from onnxfc.forms.weight_order import WeightOrder
from onnxfc.graph.index import attributes, copied
from onnxfc.graph.op_kinds import RESHAPING


def as_rows(draft: Draft, orders: Mapping[str, WeightOrder]) -> tuple[Draft, tuple[onnx.NodeProto, ...]]:
    """The draft with Gemms, and the Convs that they were."""
    found: list[onnx.NodeProto] = []
    rules: dict[str, Rule] = {**dict.fromkeys(RESHAPING, stays), "Conv": partial(_layer, orders, found)}
    return Follower(draft, "row", rules).run(), tuple(found)


def _layer(
    orders: Mapping[str, WeightOrder], found: list[onnx.NodeProto], follower: Follower, node: onnx.NodeProto
) -> str | None:
    told, data, after = attributes(node), follower.shape(node.input[0]), follower.shape(node.output[0])
    weight, tensor = follower.constant(node.input[1]), follower.draft.graph.constant(node.input[1])
    if weight is None or tensor is None or data is None or after is None or told.get("group", 1) != 1:
        return None
    unpadded = told.get("auto_pad", "NOTSET") in {"NOTSET", "VALID"} and not any(told.get("pads", ()))
    covers = unpadded and weight.shape[1:] == data[1:] and set(after[2:]) == {1}
    if not covers or any(d != 1 and k != 1 for d, k in zip(told.get("dilations", ()), weight.shape[2:], strict=False)):
        return None
    order = orders.get(node.input[1])
    order = order if order is not None and order.fits(weight.shape) else None
    rows = follower.followed.get(node.input[0]) or _flat(follower, node, data, order)
    features = math.prod(weight.shape[1:])
    held = copied(tensor, dims=(len(weight), features)) if order is None else order.back(weight)
    inputs = [rows, follower.hold(node.input[1], held, own=True), *node.input[2:]]
    found.append(node)
    turned = int(order is None or order.outputs_first)
    return follower.emit(node, "Gemm", inputs, (after[0], len(weight)), transB=turned)


def _flat(follower: Follower, node: onnx.NodeProto, data: tuple[int, ...], order: WeightOrder | None) -> str:
    """The map as rows, its features in the order of the stored weight."""
    name, features = node.input[0], order.features if order is not None else tuple(range(len(data) - 1))
    wide = [axis for axis in features if data[1 + axis] > 1]
    if wide != sorted(wide):
        perm = [0, *(1 + axis for axis in features)]
        name = follower.before(node, "Transpose", name, [data[axis] for axis in perm], perm=perm)
    return follower.before(node, "Flatten", name, (data[0], math.prod(data[1:])), axis=1)
