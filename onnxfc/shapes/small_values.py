"""The arithmetic of sizes: small values by numpy, as onnx's reference evaluator computes them.

To import that evaluator takes longer than to read a VGG-16, and most graphs ask it for a handful of integers only.
What is not here (:func:`evaluated` gives None) is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import cuts_of
from onnxfc.shapes.spec import Array

Attributes = Mapping[str, Any]
Function = Callable[..., Any]
"""Of the attributes, and the inputs one by one; optional ones are None where they are absent."""

_TYPES = {np.dtype(name) for name in ("bool", "int32", "int64", "float32", "float64")}
_CAST = {int(getattr(onnx.TensorProto, name)) for name in ("BOOL", "INT32", "INT64", "FLOAT", "DOUBLE")}


def evaluated(node: onnx.NodeProto, inputs: Sequence[Array | None]) -> Array | None:
    """The one output of a node, given its inputs (None for absent ones); None where it is not computed here."""
    if node.op_type not in _FUNCTIONS or node.domain not in {"", "ai.onnx"} or len(node.output) != 1:
        return None
    if any(value is not None and value.dtype not in _TYPES for value in inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            found = _FUNCTIONS[node.op_type](attributes(node), *inputs)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None  # the evaluator says the same of inputs that do not fit
    return None if found is None or np.asarray(found).dtype == object else np.asarray(found)


def moved(node: onnx.NodeProto, *inputs: Array | None) -> Array:
    """The elements of a Concat, Gather or Slice, whatever they are."""
    return np.asarray(_FUNCTIONS[node.op_type](attributes(node), *inputs))


def _alike(function: Function, kinds: str = "bifO") -> Function:
    """A function of inputs that must be of one type, of one of these kinds."""

    def call(_: Attributes, *inputs: Array) -> Any:
        [dtype] = {value.dtype for value in inputs}
        return function(*inputs) if dtype.kind in kinds else None

    return call


def _unary(function: Function) -> Function:
    return _alike(lambda value: function(value).astype(value.dtype), "if")


def _reduction(function: Function) -> Function:
    def call(told: Attributes, value: Array, axes: Array | None = None) -> Any:
        over = told.get("axes", axes)
        over = () if over is None else tuple(int(axis) for axis in over)
        if not over and told.get("noop_with_empty_axes", 0):
            return value
        if value.dtype.kind != "i":
            return None
        found = function(value, axis=over or None, keepdims=bool(told.get("keepdims", 1)))
        return np.asarray(found).astype(value.dtype)

    return call


def _quotient(left: Array, right: Array) -> Any:
    """Integers are divided towards zero."""
    if left.dtype.kind != "i":
        return np.divide(left, right)
    below, rest = np.floor_divide(left, right), np.remainder(left, right)
    return below + ((rest != 0) & ((left < 0) ^ (right < 0))).astype(below.dtype)


def _cast(told: Attributes, value: Array) -> Any:
    return value.astype(onnx.helper.tensor_dtype_to_np_dtype(told["to"])) if told["to"] in _CAST else None


def _constant_of_shape(told: Attributes, shape: Array) -> Any:
    value = numpy_helper.to_array(told["value"]) if "value" in told else np.zeros(1, np.float32)
    return np.full(tuple(shape), value.reshape(-1)[0], value.dtype)


def _flatten(told: Attributes, value: Array) -> Any:
    axis = told.get("axis", 1)
    return value.reshape(int(np.prod(value.shape[:axis])) if axis else 1, -1)


def _reshape(told: Attributes, value: Array, target: Array) -> Any:
    keeps = not told.get("allowzero", 0)
    return value.reshape([value.shape[k] if not n and keeps else int(n) for k, n in enumerate(target)])


def _slice(told: Attributes, value: Array, *bounds: Array | None) -> Any:
    cuts = cuts_of(told, bounds, value.ndim)
    return value[tuple(slice(*cuts.get(axis, (None,))) for axis in range(value.ndim))]


def _squeeze(told: Attributes, value: Array, axes: Array | None = None) -> Any:
    over = told.get("axes", axes)
    return np.squeeze(value, None if over is None else tuple(int(axis) for axis in over))


def _unsqueeze(told: Attributes, value: Array, axes: Array | None = None) -> Any:
    return np.expand_dims(value, tuple(int(axis) for axis in told.get("axes", axes)))


def _where(_: Attributes, condition: Array, yes: Array, no: Array) -> Any:
    return np.where(condition, yes, no) if condition.dtype == bool and yes.dtype == no.dtype else None


_FUNCTIONS: dict[str, Function] = {
    "Abs": _unary(np.abs),
    "Add": _alike(np.add),
    "And": _alike(np.logical_and, "b"),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Concat": lambda told, *parts: _alike(lambda *inputs: np.concatenate(inputs, told["axis"]))(told, *parts),
    "ConstantOfShape": _constant_of_shape,
    "Div": _alike(_quotient, "if"),
    "Equal": _alike(np.equal),
    "Expand": lambda _, value, to: np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(to))).copy(),
    "Flatten": _flatten,
    "Floor": _unary(np.floor),
    "Gather": lambda told, value, places: np.take(value, places, told.get("axis", 0)),
    "Greater": _alike(np.greater),
    "GreaterOrEqual": _alike(np.greater_equal),
    "Identity": lambda _, value: value.copy(),
    "Less": _alike(np.less),
    "LessOrEqual": _alike(np.less_equal),
    "Max": _alike(lambda *inputs: reduce(np.maximum, inputs)),
    "Min": _alike(lambda *inputs: reduce(np.minimum, inputs)),
    "Mod": lambda told, *parts: _alike(np.fmod if told.get("fmod", 0) else np.mod)(told, *parts),
    "Mul": _alike(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _alike(np.logical_not, "b"),
    "Or": _alike(np.logical_or, "b"),
    "Range": _alike(lambda first, end, step: np.arange(first.item(), end.item(), step.item()).astype(first.dtype)),
    "ReduceMax": _reduction(np.max),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _alike(np.subtract),
    "Tile": lambda _, value, repeats: np.tile(value, tuple(repeats)) if len(repeats) == value.ndim else None,
    "Transpose": lambda told, value: np.transpose(value, told.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
