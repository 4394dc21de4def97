"""Sets of operators by what they do: the one place for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
    *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin"),
    *("Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("BitwiseNot", "Cast", "CastLike"),
)
"""Each element alone."""
BROADCAST = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Mod", "PRelu", "Where"),
    *("And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"),
)
"""Inputs spread over each other, then element by element."""
REDUCTIONS = (
    *("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
)
SUMS = frozenset({"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})
"""Reductions that grow with how many elements there are."""
MEANS = frozenset({"AveragePool", "GlobalAveragePool", "ReduceMean"})
SLIDING = ("AveragePool", "Conv", "FusedConv", "LpPool", "MaxPool")
"""A kernel over the spatial axes."""
SOFTMAX = ("Hardmax", "LogSoftmax", "Softmax")
SPREADING = frozenset({"Expand", "Resize", "Tile", "Upsample"})
"""Elements copied, or made between others."""
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
"""The same elements in the same order, in other axes."""

_DEFAULT_AXIS = dict.fromkeys(("ArgMax", "ArgMin", "Gather", "GatherElements", "ScatterElements", "Split"), 0)
_DEFAULT_AXIS |= dict.fromkeys(("LayerNormalization", "LpNormalization", "OneHot", "RMSNormalization", "TopK"), -1)
_DEFAULT_AXIS |= {"Flatten": 1}


def default_axis(op_type: str, opset: int) -> int | None:
    """The ``axis`` that an operator has where none is given; None where it has no default."""
    if op_type in SOFTMAX:
        return 1 if opset < 13 else -1
    return _DEFAULT_AXIS.get(op_type)


def axis_of(op_type: str, attrs: Mapping[str, Any], rank: int, opset: int) -> int:
    """The axis that an operator works along, counted from the first."""
    axis = int(attrs.get("axis", default_axis(op_type, opset)))
    return axis + rank if axis < 0 else axis


def axes_along(op_type: str, attrs: Mapping[str, Any], rank: int, opset: int) -> range:
    """The axes that an operator takes together: before operator set 13 a Softmax takes all from its own on."""
    axis = axis_of(op_type, attrs, rank, opset)
    return range(axis, rank if op_type in SOFTMAX and opset < 13 else axis + 1)


def same_pads(
    auto_pad: str, extent: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """What SAME_UPPER or SAME_LOWER means at this size, before all axes and behind them.

    Negative where a stride is so much larger than the kernel that the border is cut off.
    https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    sizes = zip(extent, kernel, strides, dilations, strict=True)
    return halved(auto_pad, [(-(-n // s) - 1) * s + (k - 1) * d + 1 - n for n, k, s, d in sizes])


def halved(auto_pad: str, totals: Sequence[int]) -> tuple[int, ...]:
    """Amounts shared out before and behind, the odd one behind with SAME_UPPER."""
    less = [int(total / 2) for total in totals]
    more = [total - part for total, part in zip(totals, less, strict=True)]
    return (*less, *more) if auto_pad == "SAME_UPPER" else (*more, *less)


UNARY_ATTRIBUTES = (
    *("alpha", "approximate", "beta", "bias", "detect_negative", "detect_positive", "gamma", "lambd"),
    *("max", "min", "round_mode", "saturate", "to"),
)
