"""What stood for operators on integers becomes operators on integers again, changed as the rewrite changed it.

DequantizeLinear, Conv, QuantizeLinear is QLinearConv; what stayed as it was is the original's own node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import helper

from onnxfc.graph.index import Graph, attributes, copied, needed, refill, remarks
from onnxfc.graph.op_kinds import MICROSOFT, QUANTISING
from onnxfc.graph.quantised_operators import OWN, PRODUCTS, is_contributed, standing

_POOL = frozenset({"QLinearAveragePool", "QLinearGlobalAveragePool"})


def in_integers(nodes: Sequence[onnx.NodeProto], graph: Graph, source: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes of a new graph, with operators on integers where ``source`` had them; what nothing reads is gone."""
    before = {node.output[0]: node for node in source.node if standing(node)}
    if not before:
        return list(nodes)
    making = {name: node for node in nodes for name in node.output}
    reads = Counter([*graph.outputs, *(name for node in nodes for name in node.input)])
    made = [_joined(node, before.get(node.output[0]), making, reads) or node for node in nodes]
    return needed(made, graph.outputs)


def _joined(
    node: onnx.NodeProto, own: onnx.NodeProto | None, making: dict[str, onnx.NodeProto], reads: Mapping[str, int]
) -> onnx.NodeProto | None:
    """One operator for a QuantizeLinear and what is before it; None where it is of another form now."""
    floats = making.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
    if floats is None or own is None or reads[node.input[0]] > 1:
        return None
    stands = standing(own)
    data = _dequantised(floats.input[stands.as_is if stands else 0 :], making)
    if data is None:
        return None
    if all(len(item) == 3 for item in data[:2]):
        if floats.op_type == "Conv" and own.op_type in PRODUCTS:
            bias = [item[0] for item in data[2:]]
            return _named(own, "QLinearConv", "", [*data[0], *data[1], *node.input[1:], *bias], floats)
        if floats.op_type == "AveragePool" and own.op_type in _POOL:
            return _named(own, "QLinearAveragePool", MICROSOFT, [*data[0], *node.input[1:]], floats)
    return _as_before(own, data, floats)


def _dequantised(names: Iterable[str], making: Mapping[str, onnx.NodeProto]) -> list[list[str]] | None:
    """What the DequantizeLinear before each of these reads; None where one is not."""
    given = [making.get(name) for name in names]
    data = [list(item.input) for item in given if item is not None and item.op_type == "DequantizeLinear"]
    return data if len(data) == len(given) else None


def _named(own: onnx.NodeProto, kind: str, domain: str, given: Sequence[str], floats: onnx.NodeProto) -> onnx.NodeProto:
    made = helper.make_node(kind, given, own.output, name=own.name, domain=domain)
    made.MergeFrom(remarks(own))
    made.attribute.extend(floats.attribute)
    return made


def _as_before(own: onnx.NodeProto, data: Sequence[Sequence[str]], floats: onnx.NodeProto) -> onnx.NodeProto | None:
    """The original's node, on what it reads now; None where another operator stands for it, or on more or less."""
    stands, made = standing(own), copied(own)
    if stands is None or floats.op_type != stands.floats:
        return None
    if len(data) - len(stands.data) not in (0, int(own.op_type == "QGemm")):
        return None
    made.input[: stands.as_is] = floats.input[: stands.as_is]
    for at, item in zip(stands.data, data, strict=False):
        made.input[at : at + 3] = [*item, *[""] * (3 - len(item))]
    refill(made, attribute=[*(item for item in own.attribute if item.name in OWN), *floats.attribute])
    same = list(made.input) == list(own.input) and attributes(made) == attributes(own)
    return own if same else made


def contributed_again(nodes: Sequence[onnx.NodeProto], source: onnx.GraphProto) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear in onnxruntime's domain, where ``source`` had them there, and new ones."""
    if not any(map(is_contributed, source.node)):
        return list(nodes)
    plain = {name for node in source.node if not is_contributed(node) for name in node.output}
    for node in nodes:
        if node.op_type in QUANTISING and node.output[0] not in plain:
            node.domain = MICROSOFT
    return list(nodes)
