"""Multiply-adds of a graph, from its shapes: Conv, ConvTranspose, Gemm, MatMul. All else is small beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import onnx

from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import GEMMS, WEIGHT_AT, weight_position
from onnxfc.shapes.spec import Shape


def multiply_adds(nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of one pass; nodes whose shapes are unknown count nothing."""
    return sum(_of_node(node, shapes) for node in nodes)


def _of_node(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    given = [shapes.get(name) for name in (*node.input[:1], *node.input[weight_position(node.op_type) :][:1])]
    made = shapes.get(node.output[0])
    if len(given) < 2 or given[0] is None or given[1] is None or made is None:
        return 0
    left, right = given[0], given[1]
    if node.op_type in WEIGHT_AT:
        return prod(made) * prod(right[1:])
    if node.op_type == "ConvTranspose":
        return prod(left) * prod(right[1:])
    if node.op_type in GEMMS:
        return prod(made) * left[0 if attributes(node).get("transA", 0) else 1]
    if node.op_type in {"MatMul", "FusedMatMul", "MatMulInteger"} and left:
        return prod(made) * left[-1]
    return 0
