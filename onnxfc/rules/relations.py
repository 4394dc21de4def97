"""Operators that never have a rule, and why; a product of the image with itself: attention, or a table ahead of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnxfc.errors import Refusal
from onnxfc.graph import label
from onnxfc.op_kinds import BROADCAST
from onnxfc.site import ATTENTION, LEAVE, Site
from onnxfc.views import Context, Fixed, Placed, Trace


def _reasons(code: str, why: str, advice: str, *ops: str) -> dict[str, tuple[str, str, str]]:
    return dict.fromkeys(ops, (code, why, advice))


WHY = {
    **_reasons("recurrent", "reads its input as one sequence", LEAVE, "GRU", "LSTM", "RNN"),
    **_reasons("attention", ATTENTION, LEAVE, "Attention", "MultiHeadAttention"),
    **_reasons("size-locked", "lays blocks out to an image of the native size", LEAVE, "Col2Im"),
    **_reasons(
        *("data-dependent", "has an output whose shape depends on the values", "leave out the post-processing"),
        *("Compress", "NonMaxSuppression", "NonZero", "Unique"),
    ),
    **_reasons(
        *("quantised", "belongs to a quantised model", "rewrite the float model, then quantise it"),
        *("ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QGemm", "QLinearAdd"),
        *("QLinearConv", "QLinearGlobalAveragePool", "QLinearMatMul", "QuantizeLinear"),
    ),
}


def attention(site: Site) -> Refusal:
    """The product relates places of the native size; where a table of theirs comes first, that is the reason."""
    found = site.refuse("attention", ATTENTION, LEAVE)
    table = _table(site)
    if table is None:
        return found
    node, name = table
    why = f"{node.op_type} gives what attention relates {name}, which has a value for every place of the native size"
    return replace(
        found, code="position-table", node=label(node), reason=why, advice="such a table has no values for other sizes"
    )


def _table(site: Site) -> tuple[onnx.NodeProto, str] | None:
    """The nearest node ahead that combines what comes from the image with a table of two axes or more."""
    graph, seen = site.state.graph, {site.node.output[0]}
    queue = deque(site.node.input)
    while queue:
        name = queue.popleft()
        node = graph.producers.get(name)
        view = site.state.views.get(name)
        if name in seen or node is None or isinstance(view, Fixed | Context | Placed):
            continue  # what came of a table there was understood
        seen.add(name)
        if node.op_type in BROADCAST:
            found = next((item for item in node.input if _is_table(site, item)), None)
            if found is not None:
                return node, found
        queue.extend(item for item in node.input if item)
    return None


def _is_table(site: Site, name: str) -> bool:
    if not isinstance(site.state.views.get(name), Fixed) or site.native(name).shapes is None:
        return False
    return sum(length > 1 for length in site.native(name).native) > 1


def sums_places(trace: Trace, summed: Sequence[int], left: Sequence[int]) -> bool:
    """Whether a product of features sums over all places of a window and leaves none, where its lengths tell."""
    places = max((math.prod(item.extent) for item in trace.windows), default=1)
    return trace.places and places in _runs(summed) and places not in _runs(left)


def _runs(lengths: Sequence[int]) -> set[int]:
    """How many elements lie on neighbouring axes together."""
    ends = range(1, len(lengths) + 1)
    return {math.prod(lengths[first:end]) for end in ends for first in range(end)}
