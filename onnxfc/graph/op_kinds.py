"""Facts about operators, each said once: what they do, by sets of names; default axes; SAME pads.

A set is named for what its operators have in common. Other modules put their own sets together from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from onnx import TensorProto

MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""

NCHWC = "com.microsoft.nchwc"
"""That of those in blocks of channels, for one kind of processor."""

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Elu"),
    *("Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu"),
    *("Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin"),
    *("Sinh", "Softplus", "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu"),
    *("BitwiseNot", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"),
)
"""Each element alone."""
QUANTISING = frozenset({"DequantizeLinear", "QuantizeLinear"})
"""Between integers and floats, with one scale for all, or one for each place along an axis."""
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})
READABLE = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16})
"""Integers that NumPy reads too, unlike those of 4 bits and float8."""
FUSED_UNARY = ("Gelu", "QuickGelu")
"""Those of onnxruntime's own domain; they have one input."""
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
POOLS = ("AveragePool", "LpPool", "MaxPool")
COVERING = frozenset({"AveragePool", "MaxPool"})
"""Pools that are global at the native size where their one window covers the map."""
GLOBAL_POOLS = ("GlobalAveragePool", "GlobalMaxPool")
WEIGHT_AT = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3}
"""Operators that slide a kernel over the spatial axes and multiply, and which of their inputs is the kernel."""
KERNELS = ("Conv", "QLinearConv")
"""Those that a form writes in another way."""
SLIDING = ("Conv", "FusedConv", "QLinearConv", *POOLS)
"""A kernel over the spatial axes of the first input, which is known to be understood."""
QUANTISED = ("ConvInteger", "MatMulInteger", "QLinearMatMul")
"""Operators of quantised models that have no rule."""
GEMMS = ("FusedGemm", "Gemm")
PLAIN_LAYERS = frozenset({"Gemm", "MatMul"})
PRODUCTS = frozenset({"Einsum", "MatMul"})
"""What sums up products of two tensors."""
RECURRENT = ("GRU", "LSTM", "RNN")
SOFTMAX = ("Hardmax", "LogSoftmax", "Softmax")
OF_RUNTIME = {"LayerNormalization": 17}
"""Operators that onnxruntime has in every version of ONNX's own operator set, as its optimiser writes them there: the
version from which on ONNX has them, too."""
LAYER_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
"""The last is onnxruntime's own name of the second, in ONNX's own operator set."""
ROW_NORMS = (*LAYER_NORMS, "LpNormalization")
"""Each row along an axis alone."""
MAP_NORMS = ("GroupNormalization", "InstanceNormalization", "MeanVarianceNormalization")
"""By the figures of the whole map."""
ARG = ("ArgMax", "ArgMin")
PICKING = frozenset({"Compress", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
"""What picks elements by their values."""
RESAMPLING = ("Resize", "Upsample")
COPYING = ("Expand", "Tile")
SPREADING = frozenset({*COPYING, *RESAMPLING})
"""Elements copied, or made between others."""
RESHAPING = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
"""The same elements in the same order, in other axes."""
REORDERING = RESHAPING | {"Identity", "Transpose"}
"""The same elements, in any order."""
IDLE = frozenset({"Dropout", "Identity"})
"""Nothing at all, in inference."""
CUTTING = ("Slice", "Split")
LENGTHS = ("Shape", "Size")
"""What reads no element, only how many there are."""
SAME_VALUES = frozenset({"Cast", "Identity"})
ADDING_AXES = frozenset({"Flatten", "Reshape", "Unsqueeze"})
LINEAR_SUMS = frozenset({"ReduceMean", "ReduceSum"})
ARITHMETIC = frozenset({"Add", "Div", "Mul", "Sub"})
ADDITIVE = frozenset({"Add", "Sub"})
LIMITING = frozenset({"Clip", "Min"})
"""No value is above what they read."""
SCALING = frozenset({"Div", "Mul"})

_DEFAULT_AXIS = dict.fromkeys((*ARG, "Gather", "GatherElements", "ScatterElements", "Split"), 0)
_DEFAULT_AXIS |= dict.fromkeys((*ROW_NORMS, "OneHot", "TopK"), -1)


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


def cuts_of(attrs: Mapping[str, Any], bounds: Sequence[Iterable[Any] | None], rank: int) -> dict[int, Any]:
    """Start, end and step of a Slice by axis; ``bounds`` are its inputs behind the first, in newer operator sets."""
    given = [None if item is None else list(item) for item in bounds]
    names = ("starts", "ends", "axes", "steps")
    starts, ends, axes, steps = (attrs.get(n, item) for n, item in zip_longest(names, given))
    cuts = zip(starts, ends, steps or [1] * len(starts), strict=True)
    return {int(axis) % rank: cut for axis, cut in zip(axes or range(len(starts)), cuts, strict=True)}


def is_border(start: int, end: int, length: int) -> bool:
    """Whether a Slice cuts off a border: it leaves more than it takes, for a half may be a half at every size; or it
    takes one place from either side."""
    first, last, _ = slice(start, end).indices(length)
    return 2 * (last - first) > length or start == -end == 1


def perm_of(attrs: Mapping[str, Any], rank: int) -> Sequence[int]:
    """The order of axes that a Transpose makes."""
    return attrs.get("perm") or range(rank - 1, -1, -1)


def weight_position(op_type: str) -> int:
    """Which input holds the weight: the second, but for a few."""
    return WEIGHT_AT.get(op_type, 1)


def same_pads(
    auto_pad: str, extent: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[int, ...]:
    """What SAME_UPPER or SAME_LOWER means at this size, before all axes and behind them.

    0 where a stride is so much larger than the kernel that no window reads the last elements.
    https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    sizes = zip(extent, kernel, strides, dilations, strict=True)
    return halved(auto_pad, [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) for n, k, s, d in sizes])


def halved(auto_pad: str, totals: Sequence[int]) -> tuple[int, ...]:
    """Amounts shared out before and behind, the odd one behind with SAME_UPPER."""
    less = [total // 2 for total in totals]
    more = [total - part for total, part in zip(totals, less, strict=True)]
    return (*less, *more) if auto_pad == "SAME_UPPER" else (*more, *less)


UNARY_ATTRIBUTES = (
    *("alpha", "approximate", "axis", "beta", "bias", "block_size", "detect_negative", "detect_positive", "gamma"),
    *("lambd", "max", "min", "output_dtype", "precision", "round_mode", "saturate", "to"),
)
