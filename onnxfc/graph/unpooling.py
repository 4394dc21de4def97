"""PyTorch's unpooling as its exporter writes it, as the MaxUnpool that it is.

ONNX's MaxPool counts all elements of its map, PyTorch's those of one channel. The exporter takes off what a MaxPool of
one element counts at a channel's first place, adds it again as a table, and scatters the values over zeros:
Reshape(ScatterND(0, Sub(i, Slice(i of 1x1)) + table, values)) is MaxUnpool(values, i).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxfc.graph.index import Graph, attributes, copied, needed, refill
from onnxfc.io.model_file import ModelFile

_MOVING = frozenset({"Expand", "Reshape", "Unsqueeze"})


def with_unpools(model: ModelFile) -> ModelFile:
    """The model with MaxUnpools in place of what scatters maxima; the very same where there are none."""
    if not any(node.op_type == "ScatterND" for node in model.proto.graph.node):
        return model
    graph = Graph(model.proto)
    made = {id(node): node if (found := _unpooled(model, graph, node)) is None else found for node in graph.nodes}
    if all(made[id(node)] is node for node in graph.nodes):
        return model
    proto = copied(model.proto)
    refill(proto.graph, node=needed([made[id(node)] for node in graph.nodes], graph.outputs))
    return model.with_proto(proto)


def _unpooled(model: ModelFile, graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """What stands in the place of a Reshape of scattered maxima; None where it is none."""
    scattered = _scattered(graph, node)
    values = _reader(model, graph)
    shape = values(node.input[1]) if scattered is not None else None
    if scattered is None or shape is None:
        return None
    data, added = (graph.maker(name, _MOVING) for name in scattered.input[:2])
    if data is None or added is None or added.op_type != "Add" or not _is_zero(data):
        return None
    pools = [pool for name in added.input if (pool := _pool_of(graph, values, name)) is not None]
    tables = [found for name in added.input if (found := values(name)) is not None]
    if len(pools) != 1 or len(tables) != 1 or not _counts_channels(tables[0], shape.tolist()):
        return None
    kept = [item for item in pools[0].attribute if item.name in ("kernel_shape", "pads", "strides")]
    given = _given(graph, scattered.input[2])
    if given is None:
        return None
    made = helper.make_node("MaxUnpool", [given, pools[0].output[1], node.input[1]], node.output, node.name)
    made.attribute.extend(kept)
    return made


def _scattered(graph: Graph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The ScatterND whose result is laid out."""
    found: onnx.NodeProto | None = graph.producers.get(node.input[0]) if node.op_type == "Reshape" else None
    if found is None or found.op_type != "ScatterND" or attributes(found).get("reduction", "none") != "none":
        return None
    return found


def _reader(model: ModelFile, graph: Graph) -> Callable[[str], np.ndarray | None]:
    def values(name: str) -> np.ndarray | None:
        tensor = graph.constant(name)
        return None if tensor is None or name in graph.overridable else np.asarray(model.array(tensor))

    return values


def _given(graph: Graph, name: str) -> str | None:
    """What was laid in a row; None where it is a row already (of another unpooling)."""
    node = graph.maker(name, {"Expand"})
    return None if node is None or node.op_type != "Reshape" else str(node.input[0])


def _is_zero(node: onnx.NodeProto) -> bool:
    value = attributes(node).get("value")
    return node.op_type == "ConstantOfShape" and (value is None or not onnx.numpy_helper.to_array(value).any())


def _counts_channels(table: np.ndarray, shape: Sequence[int]) -> bool:
    """Whether it says how many elements are ahead of each channel."""
    channels = math.prod(shape[:2])
    own = np.arange(channels) * math.prod(shape[2:])
    wanted = (*shape[:2], *(1,) * (len(shape) - 2))
    return table.shape == wanted and np.array_equal(table.ravel(), own)


def _pool_of(graph: Graph, values: Callable[[str], np.ndarray | None], name: str) -> onnx.NodeProto | None:
    """The MaxPool whose places, counted in each channel, these are."""
    less = graph.producers.get(name)
    pool, cut = map(graph.producers.get, less.input) if less is not None and less.op_type == "Sub" else (None, None)
    first = None if cut is None or cut.op_type != "Slice" or len(cut.input) != 4 else graph.producers.get(cut.input[0])
    if less is None or pool is None or cut is None or first is None or {pool.op_type, first.op_type} != {"MaxPool"}:
        return None
    counted = [*pool.output[1:], *first.output[1:]] == [less.input[0], cut.input[0]]
    told, bounds = attributes(first), [values(item) for item in cut.input[1:]]
    rank = len(told["kernel_shape"])
    each = [told["kernel_shape"], told.get("strides") or [1] * rank, told.get("pads") or [0] * 2 * rank]
    single = [*map(list, each)] == [[1] * rank, [1] * rank, [0] * 2 * rank]
    ahead = [[0] * rank, [1] * rank, [*range(2, 2 + rank)]]
    begins = [None if item is None else item.tolist() for item in bounds] == ahead
    return pool if counted and single and begins and pool.input[0] == first.input[0] else None
