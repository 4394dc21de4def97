"""Pools over the whole image as reductions, which say of each axis whether it is pooled: for where some axes stay."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.index import Graph, attributes, canonical_domain, copied, refill
from onnxfc.graph.op_kinds import COVERING, GLOBAL_POOLS
from onnxfc.graph.sliding import sliding_at
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Spec

_AXES = "onnxfc_pooled_axes"


def with_reductions(
    model: ModelFile, graph: Graph, native: Mapping[str, Spec], axes: int | None, local: Callable[[], Container[str]]
) -> ModelFile:
    """The model with ReduceMean and ReduceMax in place of its pools over the whole native map; the same without.

    ``axes``: only those over more axes than the image's, frequencies beside the length of a signal; None: none.
    ``local``: the pools, by their outputs, that slide where all axes are free, and only happen to cover the native map.
    """
    pools = [] if axes is None else [node for node in graph.live if _pools_all(node, native)]
    pools = [node for node in pools if native[node.input[0]].rank > 2 + (axes or 0)]
    slid = () if all(node.op_type in GLOBAL_POOLS for node in pools) else local()
    pools = [node for node in pools if node.op_type in GLOBAL_POOLS or node.output[0] not in slid]
    made = {node.output[0]: _reduction(node, native, graph.opset) for node in pools}
    if not made:
        return model
    proto = copied(model.proto)
    refill(proto.graph, node=[made.get(node.output[0], node) for node in proto.graph.node])
    if graph.opset >= 18:
        ranks = {len(native[node.input[0]].native) for node in made.values()}
        proto.graph.initializer.extend(
            numpy_helper.from_array(np.arange(2, rank, dtype=np.int64), f"{_AXES}_{rank}") for rank in sorted(ranks)
        )
    return model.with_proto(proto)


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


def _reduction(node: onnx.NodeProto, native: Mapping[str, Spec], opset: int) -> onnx.NodeProto:
    kind = "ReduceMax" if "Max" in node.op_type else "ReduceMean"
    rank = len(native[node.input[0]].native)
    made = helper.make_node(kind, [node.input[0]], list(node.output), name=node.name, keepdims=1)
    if opset >= 18:
        made.input.append(f"{_AXES}_{rank}")
    else:
        made.attribute.append(helper.make_attribute("axes", [*range(2, rank)]))
    return made
