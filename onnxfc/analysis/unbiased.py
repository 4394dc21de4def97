"""Counts of places that are written down in the file, as exporters leave them, beside sums over the whole image.

A mean of squared deviations times N / (N - 1), a sum (of products: a covariance) divided by N - 1 or N, the logarithm
of N: N is the native number of places. The network itself has another one at another size.
"""

from __future__ import annotations

import math

import onnx

from onnxfc.analysis.flow import Flow, Look
from onnxfc.analysis.layouts import Names
from onnxfc.analysis.written_counts import CLOSE, MOVES, number
from onnxfc.builder.state import Unbiased
from onnxfc.graph.op_kinds import ADDITIVE, MEANS, SCALING


def unbiased(flow: Flow) -> tuple[dict[str, Unbiased], Names]:
    """Variances and covariances over N - 1, by the node that has made them; sums that are divided by N or N - 1."""
    made, sums = dict[str, Unbiased](), set[str]()
    for look in flow.looks.values():
        node = flow.graph.producers[look.name]
        count, axes = _count(flow, look)
        if count < 2:
            continue
        if node.op_type == "ReduceLogSumExp":
            sums |= {look.name} if _less_logarithm(flow, look.name, math.log(count)) else set()
            continue
        mean = node.op_type in MEANS
        squares = node.op_type == "MatMul" or _are_squares(flow, node.input[0])
        if not (squares if mean else node.op_type in {"MatMul", "ReduceL1", "ReduceSum"}):
            continue
        less = (count if mean else 1) / (count - 1)
        wanted = (*((less,) if squares else ()), *(() if mean else (1 / count,)))
        if node.op_type == "MatMul":  # a Gram matrix, by the number of all features
            wanted += (1 / math.prod(flow.native[node.input[0]].native[-2:]),)
        found, each = _scaled_by(flow, look.name, wanted)
        made |= {name: Unbiased(node.input[0], axes, count) for name, by in found.items() if by == less}
        if not mean and each:
            sums.add(look.name)
    return made, frozenset(sums)


def _less_logarithm(flow: Flow, name: str, logarithm: float) -> bool:
    """Whether the logarithm of the native number of places is taken from all that comes of it, moved and scaled."""
    readers = flow.graph.readers.get(name, ())
    for node in readers:
        by, other = _factor(flow, node, name), number(flow, node.input[1]) if len(node.input) > 1 else None
        taken = node.op_type in ADDITIVE and node.input[0] == name and other is not None
        if taken and math.isclose(other or 0, logarithm if node.op_type == "Sub" else -logarithm, rel_tol=CLOSE):
            continue
        if by is None or not _less_logarithm(flow, node.output[0], logarithm * by):
            return False
    return bool(readers) and name not in flow.graph.outputs


def _count(flow: Flow, look: Look) -> tuple[int, tuple[int, ...]]:
    """How many elements are summed up, and along which axes; 0 where some places of the map are left."""
    name = flow.graph.producers[look.name].input[0]
    held = flow.layouts.get(name)
    if held is None or not held.solid <= look.gone:
        return 0, ()
    shape = flow.native[name].native
    axes = (len(shape) - 1,) if look.kind == "product" else look.axes
    return math.prod(shape[axis] for axis in axes) if look.kind in ("pool", "cover", "product") else 0, axes


def _are_squares(flow: Flow, name: str) -> bool:
    """Whether a tensor is that of squared differences, moved at most."""
    node = flow.graph.maker(name, past=MOVES)
    if node is None or node.op_type not in ("Mul", "Pow"):
        return False
    first, second = node.input
    root = flow.graph.producers.get(first)
    squared = first == second if node.op_type == "Mul" else number(flow, second) == 2
    return squared and root is not None and root.op_type == "Sub"


def _scaled_by(flow: Flow, name: str, wanted: tuple[float, ...], factor: float = 1.0) -> tuple[dict[str, float], bool]:
    """Tensors that are this one times one of ``wanted``, by numbers that follow each other at once, and that number;
    whether nothing else is made of it."""
    readers = flow.graph.readers.get(name, ())
    found, each = dict[str, float](), bool(readers) and name not in flow.graph.outputs
    for node in readers:
        by, made = _factor(flow, node, name), node.output[0]
        if by is None:
            each = False
            continue
        at = next((item for item in wanted if math.isclose(factor * by, item, rel_tol=CLOSE)), None)
        more, rest = ({made: at}, True) if at is not None else _scaled_by(flow, made, wanted, factor * by)
        found, each = found | more, each and rest
    return found, each


def _factor(flow: Flow, node: onnx.NodeProto, name: str) -> float | None:
    """The number by which a node scales this input; 1 where it moves it, None where it makes something else of it."""
    other = node.input[1] if len(node.input) > 1 and node.input[0] == name else node.input[0]
    if node.op_type in SCALING and other != name and (by := number(flow, other)):
        inverse = node.op_type == "Div"
        return None if inverse and node.input[0] != name else 1 / by if inverse else by
    return 1.0 if node.op_type in MOVES else None
