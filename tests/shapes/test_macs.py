"""Multiply-adds of single nodes, counted by hand."""

from __future__ import annotations

import pytest
from onnx import helper

from onnxfc.shapes.macs import multiply_adds
from onnxfc.shapes.spec import Shape

QLINEAR = ["x", "x_scale", "x_zero", "weight", "w_scale", "w_zero", "y_scale", "y_zero"]
SHAPES = {"x": (1, 3, 9, 9), "weight": (8, 3, 4, 4), "w_scale": (8,), "w_zero": (8,), "y": (1, 8, 6, 6)}
SHAPES |= dict.fromkeys(("x_scale", "x_zero", "y_scale", "y_zero"), ())


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [("Conv", ["x", "weight"]), ("ConvInteger", ["x", "weight", "x_zero"]), ("QLinearConv", QLINEAR)],
)
def test_a_conv_multiplies_its_weight_at_each_place(op_type: str, inputs: list[str]) -> None:
    shapes: dict[str, Shape] = SHAPES
    node = helper.make_node(op_type, inputs, ["y"])
    assert multiply_adds([node], shapes) == 8 * 6 * 6 * 3 * 4 * 4


def test_an_fc_layer_multiplies_its_features() -> None:
    node = helper.make_node("Gemm", ["x", "weight", "bias"], ["y"], transB=1)
    assert multiply_adds([node], {"x": (2, 72), "weight": (10, 72), "bias": (10,), "y": (2, 10)}) == 2 * 72 * 10
