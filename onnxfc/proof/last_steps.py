"""What the last operators before an output mean for comparing it.

Behind a threshold there are a few values, which are classes whatever their number type: a mask of zeros and ones is
compared exactly. A Sigmoid is right to roundings of 1, however small its values are.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxfc.proof.wiring import reads

_STEPS = frozenset(
    ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Sign", "Round", "Floor", "Ceil", "Hardmax", "OneHot")
)
_MOVES = frozenset(
    (
        "Cast",
        "Identity",
        "Reshape",
        "Flatten",
        "Transpose",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Split",
        "Gather",
        "Concat",
    )
)
_CHOICES = frozenset(("Where", "And", "Or", "Not", "Xor", "Neg", "Mul", "Add", "Sub", "Max", "Min", "Expand", "Tile"))
"""Of a few values they make a few values."""


def steps(graph: onnx.GraphProto, moving: set[str]) -> set[str]:
    """Tensors of which every element is one of a few values; ``moving`` depend on an image."""
    return _made_by(graph, _STEPS, _MOVES | _CHOICES, moving)


_SUMS = frozenset({"Add", "Mean", "ReduceMean", "ReduceSum", "Sum"})


def sigmoids(graph: onnx.GraphProto, moving: set[str]) -> set[str]:
    """Tensors whose elements a Sigmoid has made, or sums of such: however small, they are rounded as 1 is."""
    return _made_by(graph, frozenset({"Sigmoid"}), _MOVES | _SUMS, moving)


def _made_by(graph: onnx.GraphProto, makers: Iterable[str], onward: Iterable[str], moving: set[str]) -> set[str]:
    found: set[str] = set()
    for node in graph.node:
        handed = node.op_type in onward and reads(node) & moving
        if node.op_type in makers or (handed and handed <= found):
            found.update(moving.intersection(node.output))
    return found
