"""A tensor beside a figure of its own: less its mean, divided by its sum, less its largest. Told along the edges.

``exp(x) / sum(exp(x))`` is Softmax, ``exp(x - log(sum(exp(x))))`` is too, and ``x / sqrt(sum(x * x))`` is a norm: what
is so divided by its own is weights of places, as those of the operators are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import onnx

from onnxfc.analysis.flow import Flow, Step
from onnxfc.analysis.written_counts import counted
from onnxfc.graph.index import Graph, inputs_of
from onnxfc.graph.op_kinds import (
    BROADCAST,
    GLOBAL_POOLS,
    IDLE,
    MEANS,
    POOLS,
    REDUCTIONS,
    RESHAPING,
    SAME_VALUES,
    SUMS,
    UNARY,
)

_MOVES = {*IDLE, *RESHAPING, *SAME_VALUES, "Expand", "Transpose"}
_SCALES = {*_MOVES, "Abs", "Add", "Clip", "Div", "Log", "Max", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt"}
"""What may be done to a sum before something is divided by it: a gate has more."""
_EACH = {*_MOVES, *BROADCAST, *UNARY}
_POOLS = {*GLOBAL_POOLS, *POOLS, *REDUCTIONS}


def by_own_figure(step: Step) -> Literal["", "deviation", "weights"]:
    """What is made of a tensor and a figure of its own: the tensor less its mean over all places, or weights of these.

    A deviation that is divided by its own spread is no weights: a norm by hand.
    """
    if len(step.given) != 2 or len(step.node.input) != 2:
        return ""
    one, two = step.node.input
    orders = {"Div": ((one, two),), "Mul": ((one, two), (two, one)), "Sub": ((one, two), (two, one))}
    for whole, other in orders.get(step.op_type, ()):
        alone = list(_upwards(step.flow, whole, _EACH))
        path = _path(step.flow, other, set(alone))
        if path and step.op_type == "Sub" and _is_mean_of(step.flow, path, whole):
            return "deviation"
        if path and _divides(step, path):
            _note_sums(step, path, whole)
            if not _is_norm(step.flow, alone):
                return "weights"
    return ""


def _note_sums(step: Step, path: list[onnx.NodeProto], whole: str) -> None:
    """What is made relative to a sum of its own is so at every size: the sum is no other figure of the image.

    With a count beside it the sum is a mean; where that is computed, the sum stays what it is at every size.
    """
    flow, pools = step.flow, [node for node in path if node.op_type in _POOLS]
    sums = {node.output[0] for node in pools if node.op_type in SUMS}
    shared = any(flow.graph.uses[node.output[0]] > 1 for node in path)
    if step.op_type != "Sub":
        by = counted(step, path, whole) if sums else "written"
        made, to_one = [] if by else [step.name], _is_sum(path, pools) and not shared
    else:
        alike, by = _is_log_sum_exp(flow.graph, path, pools, whole) and not shared, ""
        readers = flow.graph.readers.get(step.name, ()) if alike else ()
        made, to_one = [node.output[0] for node in readers if node.op_type == "Exp"], True
    if made or by == "computed":
        (flow.shares if to_one else flow.norms).update(dict.fromkeys(made, _gone(flow, pools)))
        _are_divisors(flow, sums, shared)


def _are_divisors(flow: Flow, sums: set[str], shared: bool) -> None:
    """Sums that stay what they are; one that is read for something else too is meant so in the trunk alone."""
    (flow.shared if shared else flow.divisors).update(sums)


def _is_sum(path: Sequence[onnx.NodeProto], pools: Sequence[onnx.NodeProto]) -> bool:
    """Whether it is a sum, and not of anything else."""
    return _kinds(pools) == {"ReduceSum"} and not _kinds(path) & {"Abs", "Log", "Pow", "Sqrt"}


def _is_log_sum_exp(graph: Graph, path: Sequence[onnx.NodeProto], pools: Sequence[onnx.NodeProto], whole: str) -> bool:
    """Whether it is the logarithm of the sum of just this tensor's exponentials, moved at most."""
    if _kinds(path) & _SCALES - _MOVES - {"Log"}:
        return False
    if _kinds(pools) == {"ReduceSum"} and "Log" in _kinds(path):
        first = graph.producers.get(pools[-1].input[0])
        return first is not None and first.op_type == "Exp" and first.input[0] == whole
    return [node.op_type for node in pools] == ["ReduceLogSumExp"] and pools[0].input[0] == whole


def _kinds(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    return {node.op_type for node in nodes}


def _upwards(flow: Flow, name: str, through: set[str]) -> Iterator[str]:
    """A tensor, and those from which alone it is computed."""
    while True:
        yield name
        node = flow.graph.producers.get(name)
        given = {item for item in inputs_of(node) if item in flow.layouts} if node is not None else set()
        if node is None or node.op_type not in through or len(given) != 1:
            return
        name = given.pop()


def _path(flow: Flow, name: str, ends: set[str]) -> list[onnx.NodeProto]:
    """The nodes from a figure up to the first pool ahead of it; none where that pools something else."""
    found: list[onnx.NodeProto] = []
    last = 0
    for item in _upwards(flow, name, _EACH | _POOLS):
        if item in ends:
            return found[:last]
        if item not in flow.graph.producers:
            break
        found.append(flow.graph.producers[item])
        if item in flow.of_kind([item], "pool", "cover"):
            last = len(found)
    return []


def _gone(flow: Flow, pools: list[onnx.NodeProto]) -> frozenset[int]:
    """The places that some pools take; one over channels alone takes none."""
    looks = (flow.looks.get(node.output[0]) for node in pools)
    return frozenset[int]().union(*(look.gone for look in looks if look is not None))


def _is_mean_of(flow: Flow, path: list[onnx.NodeProto], whole: str) -> bool:
    """Whether it is the mean over all places of just this tensor, moved at most."""
    pools = [node for node in path if node.op_type in MEANS]
    gone = _gone(flow, pools)
    direct = pools[-1:] == path[-1:] and path[-1].input[0] == whole
    return (
        direct
        and all(node in pools or node.op_type in _MOVES for node in path)
        and bool(gone & flow.layouts[whole].solid)
    )


def _divides(step: Step, path: list[onnx.NodeProto]) -> bool:
    """Whether what has such a figure is made relative to it, a difference by its logarithm."""
    kinds = _kinds(path)
    if not kinds <= _SCALES | _POOLS:
        return False
    if step.op_type == "Sub":
        return bool(kinds & {"Log", "ReduceLogSum", "ReduceLogSumExp"}) or _is_raised(step.flow, step.name)
    return step.op_type == "Div" or bool(kinds & {"Reciprocal", "Div"})


def _is_raised(flow: Flow, name: str) -> bool:
    """Whether an exponential is all that is made of it, moved and scaled at most."""
    names = [name]
    for item in names:
        for node in flow.graph.readers.get(item, ()):
            if node.op_type in {*_MOVES, "Div", "Mul"} and node.input[0] == item:
                names.append(node.output[0])
            elif node.op_type != "Exp":
                return False
    return all(flow.graph.readers.get(item) for item in names)


def _is_norm(flow: Flow, alone: list[str]) -> bool:
    """Whether a deviation is divided, and no weights that were made from one."""
    deviates = bool(flow.layouts[alone[0]].own & flow.deviations)
    return deviates and not any(flow.graph.producers[name].op_type == "Exp" for name in alone[:-1])
