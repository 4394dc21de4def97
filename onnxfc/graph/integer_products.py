"""ConvInteger and MatMulInteger with what turns their sums into floats again, as the product of floats that they are.

Cast(ConvInteger(x, w, x_zero, w_zero)) * (x_scale * w_scale) is Conv(DequantizeLinear(x, x_scale, x_zero),
DequantizeLinear(w, w_scale, w_zero)): so onnxruntime's dynamic quantisation writes it behind a DynamicQuantizeLinear.
One that is scaled otherwise, as Keras does, is the Cast to integers of a product of floats whose scales are 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxfc.graph.index import Graph, Names, attributes, copied, refill
from onnxfc.graph.op_kinds import MICROSOFT, REORDERING
from onnxfc.io.model_file import ModelFile

FLOATS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}
_FUSED = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_MAKERS = {"DynamicQuantizeLinear", "QuantizeLinear"}


@dataclass(frozen=True)
class Product:
    """Nodes of the graph: the product of integers; ``behind`` it the Mul of both ``scales``, its Cast, the Mul by that,
    or none where the scales are 1. ``floats``: the result of the product that stands for it."""

    node: onnx.NodeProto
    scales: tuple[str, str]
    floats: str
    behind: tuple[onnx.NodeProto, ...] = ()

    @property
    def nodes(self) -> tuple[onnx.NodeProto | None, ...]:
        """The product and all three behind it, as far as it has them."""
        return (self.node, *(self.behind or (None,) * 3))

    @property
    def axis(self) -> int:
        """The outputs' axis of the weight."""
        return 0 if self.node.op_type == "ConvInteger" else 1

    def zero(self, at: int) -> str:
        """The zero point of one of the factors; "" if it has none."""
        return str(self.node.input[at + 2]) if len(self.node.input) > at + 2 else ""

    def integers(self, at: int) -> list[str]:
        """What a DequantizeLinear of one of the factors reads."""
        return [self.node.input[at], self.scales[at], *filter(None, [self.zero(at)])]


def products(model: onnx.ModelProto) -> Iterator[Product]:
    """All whose factors are integers with one zero point, the second's perhaps one for each output."""
    if not any(node.op_type in FLOATS for node in model.graph.node):
        return
    graph = Graph(model)
    names = graph.names()
    for node in graph.live:
        if node.op_type in FLOATS and node.domain in ("", "ai.onnx"):
            found = _scaled(graph, node) or _alone(graph, node, names)
            if found is not None:
                yield found


def _scaled(graph: Graph, node: onnx.NodeProto) -> Product | None:
    """One whose factors are quantised, the first with one scale for all, and that nothing but the chain reads."""
    cast = _only_reader(graph, node.output[0], "Cast")
    scaled = None if cast is None else _only_reader(graph, cast.output[0], "Mul")
    if cast is None or scaled is None or attributes(cast).get("to") != TensorProto.FLOAT:
        return None
    both = graph.producers.get(next((name for name in scaled.input if name != cast.output[0]), ""))
    if both is None or both.op_type != "Mul":
        return None
    for first, second in permutations(both.input):
        made = Product(node, (first, second), scaled.output[0], (both, cast, scaled))
        if _is_scale_of(graph, made.integers(0)) and _fits(graph, made, _shape(graph, second)):
            return made
    return None


def _alone(graph: Graph, node: onnx.NodeProto, names: Names) -> Product | None:
    scales = (f"{node.output[0]}_one_{at}" for at in (0, 1))
    made = Product(node, (next(scales), next(scales)), names.unused(f"{node.output[0]}_floats"))
    one = _shape_of_ones(graph, made, 0) in ([], [1])
    return made if one and _fits(graph, made, _shape_of_ones(graph, made, 1)) else None


def _shape_of_ones(graph: Graph, made: Product, at: int) -> list[int] | None:
    """That of a zero point; of one that is taken when the model runs, no dims."""
    maker = graph.producers.get(made.zero(at))
    computed = maker is not None and maker.op_type == "DynamicQuantizeLinear"
    return [] if computed or not made.zero(at) else _shape(graph, made.zero(at))


def _only_reader(graph: Graph, name: str, kind: str) -> onnx.NodeProto | None:
    readers = graph.readers.get(name, [])
    return readers[0] if len(readers) == graph.uses[name] == 1 and readers[0].op_type == kind else None


def _is_scale_of(graph: Graph, given: Sequence[str]) -> bool:
    """Whether integers were made with this scale and this zero point."""
    maker = graph.producers.get(given[0])
    while maker is not None and maker.op_type in REORDERING:
        maker = graph.producers.get(maker.input[0])
    if maker is None or maker.op_type not in _MAKERS:
        return False
    dynamic = maker.op_type == "DynamicQuantizeLinear"
    own = list(maker.output[1:3] if dynamic else maker.input[1:3])
    alone = dynamic or _size(graph, own[0]) == 1
    return own == list(given[1:]) and alone


def _fits(graph: Graph, made: Product, scale: list[int] | None) -> bool:
    """Whether DequantizeLinear can write the weight: one scale for all, or one for each output."""
    weight = _shape(graph, made.node.input[1])
    if scale is None or (made.zero(1) and _shape(graph, made.zero(1)) != scale):
        return False
    if scale in ([], [1]):
        return True
    rank = None if weight is None else len(weight)
    return graph.opset >= 13 and len(scale) == 1 and (made.axis == 0 or rank == 2)


def _shape(graph: Graph, name: str) -> list[int] | None:
    """That of a constant."""
    tensor = None if name in graph.overridable else graph.constant(name)
    return None if tensor is None else list(tensor.dims)


def _size(graph: Graph, name: str) -> int:
    shape = _shape(graph, name)
    return 0 if shape is None else int(shape in ([], [1]))


def products_on_floats(model: ModelFile) -> tuple[ModelFile, frozenset[str]]:
    """The model with products of floats in place of those of integers, and their results; the very same where there are
    none."""
    found = list(products(model.proto))
    if not found:
        return model, frozenset()
    graph = Graph(model.proto)
    names, node_names = graph.names(), Names(node.name for node in graph.nodes)
    for made in found:
        names.add(made.floats)
    instead = {id(made.behind[-1] if made.behind else made.node): made for made in found}
    gone = {id(node) for made in found for node in (made.node, *made.behind[1:])}
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        if id(node) in instead:
            nodes += _opened(instead[id(node)], names, node_names, graph.opset)
        elif id(node) not in gone:
            nodes.append(node)
    proto = copied(model.proto)
    refill(proto.graph, node=nodes)
    proto.graph.initializer.extend(_ones(graph, made, at) for made in found if not made.behind for at in (0, 1))
    return model.with_proto(proto), frozenset(made.floats for made in found)


def _ones(graph: Graph, made: Product, at: int) -> onnx.TensorProto:
    value = np.ones(_shape_of_ones(graph, made, at) or [], np.float32)
    return numpy_helper.from_array(value, made.scales[at])


def _opened(made: Product, names: Names, node_names: Names, opset: int) -> Iterator[onnx.NodeProto]:
    factors = []
    for at in (0, 1):
        given = made.integers(at)
        node = helper.make_node("DequantizeLinear", given, [names.unused(f"{given[0]}_dequantizelinear")])
        node.name = node_names.unused(f"{made.node.name or made.node.output[0]}_dequantizelinear")
        if at == 1 and opset >= 13:
            node.attribute.append(helper.make_attribute("axis", made.axis))
        factors.append(node.output[0])
        yield node
    product = helper.make_node(FLOATS[made.node.op_type], factors, [made.floats], name=made.node.name)
    product.attribute.extend(made.node.attribute)
    yield product
    if not made.behind:
        name = node_names.unused(f"{made.node.name or made.node.output[0]}_cast")
        yield helper.make_node("Cast", [made.floats], made.node.output, name=name, to=TensorProto.INT32)


def unfused(model: ModelFile) -> ModelFile:
    """The model with onnxruntime's fused products written out; the very same where there are none.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    if not any(node.op_type in _FUSED and node.domain == MICROSOFT for node in model.proto.graph.node):
        return model
    graph = Graph(model.proto)
    names, node_names = graph.names(), Names(node.name for node in graph.nodes)
    nodes: list[onnx.NodeProto] = []
    for node in graph.nodes:
        fused = node.op_type in _FUSED and node.domain == MICROSOFT
        nodes += _written_out(node, names, node_names) if fused else [node]
    proto = copied(model.proto)
    refill(proto.graph, node=nodes)
    return model.with_proto(proto)


def _written_out(node: onnx.NodeProto, names: Names, node_names: Names) -> Iterator[onnx.NodeProto]:
    def made(kind: str, given: Sequence[str], outputs: Sequence[str] = (), **told: Any) -> onnx.NodeProto:
        own = list(outputs) or [names.unused(f"{node.output[0]}_{kind.lower()}")]
        name = node.name if kind == "MatMulInteger" else node_names.unused(f"{node.name or own[0]}_{kind.lower()}")
        return helper.make_node(kind, given, own, name=name, **told)

    given = [*node.input, *[""] * 7]
    if node.op_type == "DynamicQuantizeMatMul":
        quantised = [names.unused(f"{given[0]}_{part}") for part in ("quantized", "scale", "zero_point")]
        yield made("DynamicQuantizeLinear", given[:1], quantised)
        data, scales, zeros, bias = (
            [quantised[0], given[1]],
            [quantised[1], given[2]],
            [quantised[2], given[3]],
            given[4],
        )
    else:
        data, scales, zeros, bias = given[:2], given[2:4], given[4:6], given[6]
    yield (both := made("Mul", scales))
    yield (product := made("MatMulInteger", [*data, *zeros]))
    yield (floats := made("Cast", product.output, to=TensorProto.FLOAT))
    yield (scaled := made("Mul", [*floats.output, *both.output], () if bias else node.output))
    if bias:
        yield made("Add", [*scaled.output, bias], node.output)
