"""Memory of one pass in onnxruntime, from shapes: tensors live from the node that makes them to the last that reads
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod

import onnx
from onnx import helper

from onnxfc.graph.index import inputs_of
from onnxfc.shapes.spec import Shape

_BLOCK = 16
_WORKSPACE = 1.25
"""Memory of a pass, by that of its tensors: what onnxruntime's Convs and its arena need besides."""


def pass_bytes(nodes: Sequence[onnx.NodeProto], shapes: Mapping[str, Shape], images: Iterable[str]) -> int:
    """About what the tensors of a pass take at once, in float32: the CPU's kernels compute halves so too."""
    waiting = Counter(name for node in nodes for name in set(inputs_of(node)))
    held = {name: prod(shapes[name]) for name in images}
    most = 0
    for node in nodes:
        held.update({name: _elements(shapes.get(name, ())) for name in node.output})
        most = max(most, sum(held.values()))
        waiting.subtract(set(inputs_of(node)))
        held = {name: count for name, count in held.items() if waiting[name] > 0}
    return int(4 * most * _WORKSPACE)


def _elements(shape: Shape) -> int:
    """Of a tensor as onnxruntime lays it: the channels of maps in blocks."""
    if len(shape) == 4:
        shape = (shape[0], -(-shape[1] // _BLOCK) * _BLOCK, *shape[2:])
    return prod(shape)


def weight_bytes(graph: onnx.GraphProto) -> int:
    """What the weights take, as they are stored."""
    sizes = Counter[int]()
    for tensor in graph.initializer:
        sizes[tensor.data_type] += prod(tensor.dims)
    return sum(count * helper.tensor_dtype_to_np_dtype(kind).itemsize for kind, count in sizes.items())
