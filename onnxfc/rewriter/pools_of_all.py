"""Pools over the whole image, and sums that an Einsum writes, as reductions, which say of each axis whether it is
pooled: for where some axes stay."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.einsum_equation import letters_of
from onnxfc.graph.index import Graph, attributes, canonical_domain, copied, refill
from onnxfc.graph.op_kinds import COVERING, GLOBAL_POOLS
from onnxfc.graph.sliding import sliding_at
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Spec

_AXES = "onnxfc_pooled_axes"


def with_reductions(
    model: ModelFile, graph: Graph, native: Mapping[str, Spec], axes: int | None, local: Callable[[], Container[str]]
) -> ModelFile:
    """The model with reductions in place of its pools over the whole native map, and of Einsums that only sum up; the
    same without.

    ``axes``: only those over more axes than the image's, frequencies beside the length of a signal; None: none.
    ``local``: the pools, by their outputs, that slide where all axes are free, and only happen to cover the native map.
    """
    over = {} if axes is None else _over(graph, native, axes, local)
    if not over:
        return model
    made = {name: _reduction(node, gone, graph.opset) for name, (node, gone) in over.items()}
    proto = copied(model.proto)
    refill(proto.graph, node=[made.get(node.output[0], node) for node in proto.graph.node])
    asked = {name for node in made.values() for name in node.input[1:]}
    tables = {_named(gone): np.array(gone, np.int64) for _, gone in over.values()}
    proto.graph.initializer.extend(numpy_helper.from_array(tables[name], name) for name in sorted(asked))
    return model.with_proto(proto)


def _over(
    graph: Graph, native: Mapping[str, Spec], axes: int, local: Callable[[], Container[str]]
) -> dict[str, tuple[onnx.NodeProto, tuple[int, ...]]]:
    """Pools and sums by their outputs, with the axes that each is over."""
    pools = [node for node in graph.live if _pools_all(node, native) and native[node.input[0]].rank > 2 + axes]
    slid = () if all(node.op_type in GLOBAL_POOLS for node in pools) else local()
    pools = [node for node in pools if node.op_type in GLOBAL_POOLS or node.output[0] not in slid]
    summed = {} if axes else {node.output[0]: (node, _summed_up(node, native)) for node in graph.live}
    found = {node.output[0]: (node, tuple(range(2, native[node.input[0]].rank))) for node in pools}
    return found | {name: (node, gone) for name, (node, gone) in summed.items() if gone}


def _pools_all(node: onnx.NodeProto, native: Mapping[str, Spec]) -> bool:
    """Whether it is a pool over all places, by its name or by a kernel as large as the native map."""
    if node.op_type not in {*COVERING, *GLOBAL_POOLS} or canonical_domain(node.domain) or len(node.output) > 1:
        return False
    spec = native[node.input[0]]
    if spec.shapes is None or spec.rank < 3:
        return False
    shape = spec.native
    how = None if node.op_type in GLOBAL_POOLS else sliding_at(attributes(node), shape, ())
    return node.op_type in GLOBAL_POOLS or (how is not None and not how.padded and how.kernel == tuple(shape[2:]))


def _summed_up(node: onnx.NodeProto, native: Mapping[str, Spec]) -> tuple[int, ...]:
    """Which axes an Einsum sums up that does nothing else; none of any other."""
    if node.op_type != "Einsum" or canonical_domain(node.domain) or len(node.input) != 1:
        return ()
    if native[node.input[0]].shapes is None:
        return ()
    (own,), out = letters_of(attributes(node)["equation"], [native[node.input[0]].rank])
    left = "".join(letter for letter in own if letter in out)
    alone = left == out and len(set(own)) == len(own)
    return tuple(axis for axis, letter in enumerate(own) if letter not in out) if alone else ()


def _reduction(node: onnx.NodeProto, axes: Sequence[int], opset: int) -> onnx.NodeProto:
    sums = node.op_type == "Einsum"
    kind = "ReduceSum" if sums else "ReduceMax" if "Max" in node.op_type else "ReduceMean"
    made = helper.make_node(kind, [node.input[0]], list(node.output), name=node.name, keepdims=int(not sums))
    if opset >= (13 if sums else 18):
        made.input.append(_named(axes))
    else:
        made.attribute.append(helper.make_attribute("axes", list(axes)))
    return made


def _named(axes: Sequence[int]) -> str:
    return "_".join([_AXES, *map(str, axes)])
