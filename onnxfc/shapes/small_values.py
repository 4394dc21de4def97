"""The arithmetic of sizes: small values by numpy, as onnx's reference evaluator computes them.

To import that evaluator takes longer than to read a VGG-16, and most graphs ask it for a handful of integers only.
What is not here (:func:`evaluated` gives None) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
Attributes = dict[str, onnx.AttributeProto]
Inputs = Sequence[Array | None]

_TYPES = {np.dtype(name) for name in ("bool", "int32", "int64", "float32", "float64")}
_CAST = {int(getattr(onnx.TensorProto, name)) for name in ("BOOL", "INT32", "INT64", "FLOAT", "DOUBLE")}


def evaluated(node: onnx.NodeProto, inputs: Inputs) -> Array | None:
    """The one output of a node, given its inputs (None for absent ones); None where it is not computed here."""
    function = _FUNCTIONS.get(node.op_type)
    if function is None or node.domain not in {"", "ai.onnx"} or len(node.output) != 1:
        return None
    if any(value is not None and value.dtype not in _TYPES for value in inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            found = function({item.name: item for item in node.attribute}, inputs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # the evaluator says the same of inputs that do not fit
    return None if found is None else np.asarray(found)


_Function = Callable[[Attributes, Inputs], Any]


def _int(told: Attributes, name: str, default: int) -> int:
    return int(told[name].i) if name in told else default


def _ints(told: Attributes, name: str, inputs: Inputs, place: int) -> list[int] | None:
    """A list that is an attribute in older operator sets and input ``place`` in newer ones; None where absent."""
    if name in told:
        return list(told[name].ints)
    value = inputs[place] if place < len(inputs) else None
    return None if value is None else [int(item) for item in value.reshape(-1)]


def _given(inputs: Inputs, *places: int) -> list[Array]:
    """Inputs that must be there, by default all."""
    found = [inputs[place] for place in places or range(len(inputs))]
    if any(value is None for value in found):
        raise ValueError("an input is absent")
    return [value for value in found if value is not None]


def _alike(inputs: Inputs) -> list[Array]:
    """All inputs, which must be of one type."""
    found = _given(inputs)
    if len({value.dtype for value in found}) != 1:
        raise TypeError("inputs are of different types")
    return found


def _binary(function: Callable[[Array, Array], Any]) -> _Function:
    def call(_: Attributes, inputs: Inputs) -> Any:
        left, right = _alike(inputs)
        return function(left, right)

    return call


def _logical(function: Callable[[Array, Array], Any]) -> _Function:
    def call(_: Attributes, inputs: Inputs) -> Any:
        left, right = _alike(inputs)
        return function(left, right) if left.dtype == bool else None

    return call


def _variadic(function: Callable[[Array, Array], Array]) -> _Function:
    return lambda _, inputs: reduce(function, _alike(inputs))


def _unary(function: Callable[[Array], Any]) -> _Function:
    def call(_: Attributes, inputs: Inputs) -> Any:
        [value] = _given(inputs)
        return None if value.dtype == bool else function(value).astype(value.dtype)

    return call


def _reduction(function: Callable[..., Any]) -> _Function:
    def call(told: Attributes, inputs: Inputs) -> Any:
        [value] = _given(inputs, 0)
        axes = _ints(told, "axes", inputs, 1)
        if not axes and _int(told, "noop_with_empty_axes", 0):
            return value
        if value.dtype.kind != "i":
            return None
        keep = bool(_int(told, "keepdims", 1))
        return np.asarray(function(value, axis=tuple(axes) if axes else None, keepdims=keep)).astype(value.dtype)

    return call


def _quotient(left: Array, right: Array) -> Any:
    """Integers are divided towards zero."""
    if left.dtype.kind != "i":
        return None if left.dtype == bool else np.divide(left, right)
    below, rest = np.floor_divide(left, right), np.remainder(left, right)
    return below + ((rest != 0) & ((left < 0) ^ (right < 0))).astype(below.dtype)


def _mod(told: Attributes, inputs: Inputs) -> Any:
    left, right = _alike(inputs)
    return np.fmod(left, right) if _int(told, "fmod", 0) else np.mod(left, right)


def _cast(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs)
    if told["to"].i not in _CAST:
        return None
    return value.astype(onnx.helper.tensor_dtype_to_np_dtype(told["to"].i))


def _concat(told: Attributes, inputs: Inputs) -> Any:
    return np.concatenate(_alike(inputs), axis=told["axis"].i)


def _constant_of_shape(told: Attributes, inputs: Inputs) -> Any:
    [shape] = _given(inputs)
    value = numpy_helper.to_array(told["value"].t) if "value" in told else np.zeros(1, np.float32)
    return np.full(tuple(shape), value.reshape(-1)[0], value.dtype)


def _expand(_: Attributes, inputs: Inputs) -> Any:
    value, shape = _given(inputs)
    return np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(shape))).copy()


def _flatten(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs)
    axis = _int(told, "axis", 1)
    return value.reshape(int(np.prod(value.shape[:axis])) if axis else 1, -1)


def _gather(told: Attributes, inputs: Inputs) -> Any:
    value, indices = _given(inputs)
    return np.take(value, indices, axis=_int(told, "axis", 0))


def _identity(_: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs)
    return value.copy()


def _not(_: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs)
    return np.logical_not(value) if value.dtype == bool else None


def _range(_: Attributes, inputs: Inputs) -> Any:
    start, end, step = _alike(inputs)
    return np.arange(start.item(), end.item(), step.item()).astype(start.dtype)


def _reshape(told: Attributes, inputs: Inputs) -> Any:
    value, target = _given(inputs)
    keeps = not _int(told, "allowzero", 0)
    return value.reshape([value.shape[k] if not n and keeps else int(n) for k, n in enumerate(target)])


def _slice(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs, 0)
    starts, ends = _ints(told, "starts", inputs, 1), _ints(told, "ends", inputs, 2)
    axes, steps = _ints(told, "axes", inputs, 3), _ints(told, "steps", inputs, 4)
    if starts is None or ends is None:
        return None
    cut = [slice(None)] * value.ndim
    for start, end, axis, step in zip(
        starts, ends, axes or range(len(starts)), steps or [1] * len(starts), strict=True
    ):
        cut[axis] = slice(start, end, step)
    return value[tuple(cut)]


def _squeeze(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs, 0)
    axes = _ints(told, "axes", inputs, 1)
    return np.squeeze(value, None if axes is None else tuple(axes))


def _tile(_: Attributes, inputs: Inputs) -> Any:
    value, repeats = _given(inputs)
    return np.tile(value, tuple(repeats)) if len(repeats) == value.ndim else None


def _transpose(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs)
    return np.transpose(value, list(told["perm"].ints) if "perm" in told else None)


def _unsqueeze(told: Attributes, inputs: Inputs) -> Any:
    [value] = _given(inputs, 0)
    axes = _ints(told, "axes", inputs, 1)
    return None if axes is None else np.expand_dims(value, tuple(axes))


def _where(_: Attributes, inputs: Inputs) -> Any:
    condition, yes, no = _given(inputs)
    return np.where(condition, yes, no) if condition.dtype == bool and yes.dtype == no.dtype else None


_FUNCTIONS: dict[str, _Function] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _logical(np.logical_and),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Div": _binary(_quotient),
    "Equal": _binary(np.equal),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": _identity,
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _not,
    "Or": _logical(np.logical_or),
    "Range": _range,
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
