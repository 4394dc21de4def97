"""What a graph computes from shapes, operator by operator: exact numbers, and lengths in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from onnxfc.shapes.length import Dim, Length, Number, least, most, quotient, whole
from onnxfc.shapes.node_call import NodeCall, Values, objects
from onnxfc.shapes.small_values import moved


def values_of(call: NodeCall, output: int) -> Values | None:
    """The elements of a node's output; None where no rule tells."""
    node = call.node
    if node.op_type in _SHAPES and not node.domain:
        dims = call.dims(0)
        return None if dims is None else _SHAPES[node.op_type](call, dims)
    parts = [call.values(k) for k in range(len(node.input))]
    spec = call.made[output]
    if node.domain or spec is None or parts[0] is None:
        return None
    if node.op_type in _RESHAPED:
        return parts[0].reshape(spec.native)
    if node.op_type == "ReduceProd":
        return objects([math.prod(parts[0].flat)]).reshape(spec.native) if math.prod(spec.native) == 1 else None
    if node.op_type in {"Concat", "Gather", "Slice", "Transpose"}:
        return _moved(call, parts)
    rule = _RULES.get(node.op_type)
    return None if rule is None else _elementwise(rule, call, output, parts)


_RESHAPED = {"Identity", "Reshape", "Squeeze", "Unsqueeze"}


def _moved(call: NodeCall, parts: list[Values | None]) -> Values | None:
    """Where the elements come from may not follow the image."""
    known = [part for part in parts if part is not None]
    if len(known) < len(call.inputs):
        return None
    if call.node.op_type == "Concat":
        return moved(call.node, *known)
    if any(call.moving(k) for k in call.inputs[1:]):
        return None
    places = [part if k == 0 or part is None else part.astype(np.int64) for k, part in enumerate(parts)]
    return moved(call.node, *places)


def _elementwise(rule: Callable[..., Any], call: NodeCall, output: int, parts: list[Values | None]) -> Values | None:
    """Element by element, broadcast: from the first two inputs, then with the next."""
    integers = call.of_integers(output)
    total = parts[0]
    for part in parts[1:] or [None]:
        if total is None or (part is None and len(parts) > 1):
            return None
        given = np.broadcast(total) if part is None else np.broadcast(total, part)
        found = [rule(integers, *items) for items in given]
        if any(item is None for item in found):
            return None
        total = objects(whole(item) for item in found).reshape(given.shape)
    return total


def _divided(integers: bool, one: Number, by: Number) -> Any:
    found = quotient([one], [by])
    return math.floor(found) if found is not None and integers else found


def _rest(integers: bool, one: Number, by: Number) -> Any:
    return one - (one // by) * by if isinstance(by, int) and by > 0 else None


def _of_whole(function: Callable[..., Dim]) -> Callable[..., Dim | None]:
    def both(integers: bool, *items: Any) -> Dim | None:
        fractions = any(isinstance(item, Fraction) or (isinstance(item, Length) and item.per > 1) for item in items)
        return None if fractions else function(*items)

    return both


_SHAPES: dict[str, Callable[[NodeCall, Any], Values]] = {
    "Shape": lambda call, dims: objects(dims[call.attrs.get("start", 0) : call.attrs.get("end", len(dims))]),
    "Size": lambda call, dims: objects([math.prod(dims)]).reshape(()),
}

_RULES: dict[str, Callable[..., Any]] = {
    "Add": lambda integers, a, b: a + b,
    "Cast": lambda integers, item: math.floor(item) if integers else item,
    "Ceil": lambda integers, item: -math.floor(-item),
    "Div": _divided,
    "Floor": lambda integers, item: math.floor(item),
    "Max": _of_whole(most),
    "Min": _of_whole(least),
    "Mod": _rest,
    "Mul": lambda integers, a, b: a * b,
    "Neg": lambda integers, item: -item,
    "Sub": lambda integers, a, b: a - b,
}
