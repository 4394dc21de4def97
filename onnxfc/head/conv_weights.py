"""FC weights as Conv weights (M, C, *kernel), with as little copying as the case allows.

Gemm with transB=1 over features in the order C, spatial *is* the Conv weight: only its dims change.
A weight in another order is loaded and permuted, alone. A weight that is computed in the graph, or that the
caller may override, stays what it is: the nodes that turn it are written into the graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxfc.builder import ops
from onnxfc.builder.rule_context import RuleContext, tensor_of
from onnxfc.graph.index import attributes, copied, remarks
from onnxfc.graph.op_kinds import QUANTISING
from onnxfc.layout.views import Fixed, Source, Window
from onnxfc.shapes.spec import Array

_TILE = 64  # rows and columns that are copied at a time; a tile of float32 fits into the first cache


@dataclass(frozen=True)
class Weight:
    """An FC weight: a tensor of the original, times ``factor``.

    Its axes in the ``order`` given are first those of the outputs, then those of the features: (0, 1) for a stored
    (M, F), (1, 0) for (F, M), (0,) for a vector (F,) that makes one output.
    ``alone``: nothing else reads it, nor the tensors on the way from it to this FC layer. ``quantised``: what quantises
    and dequantises it on this way, with one scale for all or one for each output.
    """

    name: str
    order: tuple[int, ...]
    inputs: int
    outputs: int
    factor: float = 1.0
    alone: bool = True
    quantised: tuple[onnx.NodeProto, ...] = ()

    @property
    def out_first(self) -> bool:
        """Whether its bytes are those of the (M, F) matrix."""
        return self.order == tuple(range(len(self.order)))


def resolve(ctx: RuleContext, weight: Weight) -> Weight:
    """Follow Identity, Transpose and quantisation back to the initializer that they read."""
    graph = ctx.state.graph
    weight = replace(weight, alone=graph.uses[weight.name] == 1)
    producer = graph.producers.get(weight.name)
    while producer is not None and producer.op_type in {"Identity", "Transpose", *QUANTISING} and not producer.domain:
        if producer.op_type in QUANTISING:
            if weight.factor != 1.0 or not _each_output_alone(ctx, producer, weight):
                break
            weight = replace(weight, quantised=(producer, *weight.quantised))
        elif producer.op_type == "Transpose":
            perm = attributes(producer).get("perm", range(len(weight.order))[::-1])
            weight = replace(weight, order=tuple(perm[axis] for axis in weight.order))
        name = producer.input[0]
        weight = replace(weight, name=name, alone=weight.alone and graph.uses[name] == 1)
        producer = graph.producers.get(name)
    return weight


def _each_output_alone(ctx: RuleContext, node: onnx.NodeProto, weight: Weight) -> bool:
    """Whether a weight is quantised with one scale, or with one for each output."""
    scales = ctx.native(node.input[1]).native
    axis = attributes(node).get("axis", 1) % max(1, len(weight.order))
    return math.prod(scales) == 1 or (len(scales) == 1 and len(weight.order) == 2 and axis == weight.order[0])


def is_stored(ctx: RuleContext, name: str) -> bool:
    """Whether the weight is a constant of the file: an initializer (not overridable) or a Constant node."""
    graph = ctx.state.graph
    if name in graph.initializers:
        return name not in graph.overridable
    producer = graph.producers.get(name)
    return producer is not None and producer.op_type == "Constant" and "value" in attributes(producer)


def is_constant(ctx: RuleContext, name: str) -> bool:
    """Whether it is a constant of the file, or one that is stored in integers."""
    producer = ctx.state.graph.producers.get(name)
    dequantised = producer is not None and producer.op_type == "DequantizeLinear"
    return is_stored(ctx, producer.input[0] if producer is not None and dequantised else name)


def kernel(ctx: RuleContext, weight: Weight, view: Window) -> list[str]:
    """Conv weights for the window's sources, pending scale included."""
    sources = view.sources
    plain = weight.out_first and weight.factor == 1.0 and view.scale is None and view.in_order
    if not is_stored(ctx, weight.name):
        return [_dequantised(ctx, weight, _in_graph(ctx, weight, view))]
    if plain and len(sources) == 1:
        return [_dequantised(ctx, weight, _in_place(ctx, weight, sources[0]))]
    matrix = _arranged(_matrix(ctx, weight), weight, view)
    ends = np.cumsum([source.features for source in sources])
    parts = np.split(matrix, ends[:-1], axis=1) if len(sources) > 1 else [matrix]
    return [
        _dequantised(ctx, weight, _stored(ctx, weight, part.reshape(weight.outputs, source.channels, *source.extent)))
        for part, source in zip(parts, sources, strict=True)
    ]


def _dequantised(ctx: RuleContext, weight: Weight, tensor: str) -> str:
    """What quantises the weight, on its Conv form: the axis of the outputs is the first there.

    Zero points are written, as onnxruntime computes in integers only with them.
    """
    for node in weight.quantised:
        scale, *zero = (tensor_of(ctx.state.views[name]) for name in node.input[1:] if name)
        if not zero and "output_dtype" not in attributes(node):
            integers = ctx.native(node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]).dtype
            shape = ctx.native(node.input[1]).native
            zero = [ctx.builder.constant(np.zeros(shape, helper.tensor_dtype_to_np_dtype(integers)), "zero_point")]
        told = {key: value for key, value in attributes(node).items() if key != "block_size"} | {"axis": 0}
        known = node if weight.alone else None
        axis = told if ctx.opset >= 13 else {}
        tensor = ctx.builder.emit(node.op_type, [tensor, scale, *zero], instead=known, **axis)
    return tensor


def shifted(ctx: RuleContext, weight: Weight, shift: Array) -> Array:
    """What a pending shift adds to the outputs (M,), in float64."""
    matrix = _matrix(ctx, weight)
    result = np.empty(len(matrix))
    for place, rows in _blocks(matrix):
        result[place] = _scaled(rows, weight).astype(np.float64) @ shift.ravel()
    return result


def _matrix(ctx: RuleContext, weight: Weight) -> Array:
    """(M, F) as it is stored."""
    value = ctx.weights(weight.name)
    assert value is not None
    return value.transpose(weight.order).reshape(weight.outputs, weight.inputs)


def _arranged(matrix: Array, weight: Weight, view: Window) -> Array:
    """(M, F) of the window's features in their order, scaled; beside the result it needs little memory."""
    total = sum(source.features for source in view.sources)
    result = np.empty((len(matrix), total), matrix.dtype)
    for place, block in _blocks(matrix):
        rows = _scaled(block, weight)
        if view.scale is not None:
            rows = (rows.astype(np.float64) * view.scale.ravel()).astype(rows.dtype)
        result[place] = rows if view.in_order else _scattered(rows, view.index.ravel(), total)
    return result


def _scaled(rows: Array, weight: Weight) -> Array:
    return rows if weight.factor == 1.0 else (rows.astype(np.float64) * weight.factor).astype(rows.dtype)


def _blocks(matrix: Array) -> Iterator[tuple[slice, Array]]:
    """Some rows at a time, each block contiguous: a large matrix is turned several times faster in tiles."""
    for first in range(0, len(matrix), _TILE):
        place = slice(first, first + _TILE)
        rows = matrix[place]
        block = np.empty(rows.shape, rows.dtype)
        for column in range(0, rows.shape[1], _TILE):
            tile = slice(column, column + _TILE)
            block[:, tile] = rows[:, tile]
        yield place, block


def _scattered(matrix: Array, index: Any, total: int) -> Array:
    """Columns laid where the index says; features read twice add up."""
    if len(np.unique(index)) == len(index):
        result = np.zeros((len(matrix), total), matrix.dtype)
        result[:, index] = matrix
        return result
    wide = np.zeros((total, len(matrix)), np.float64)
    np.add.at(wide, index, matrix.T.astype(np.float64))
    return np.asarray(wide.T.astype(matrix.dtype))


def _in_place(ctx: RuleContext, weight: Weight, source: Source) -> str:
    """The very same bytes under Conv dims."""
    graph, builder = ctx.state.graph, ctx.builder
    dims = [weight.outputs, source.channels, *source.extent]
    tensor = graph.constant(weight.name)
    assert tensor is not None
    key = (weight.name, tuple(dims))
    if key not in builder.reshaped:
        copy = copied(tensor, dims=dims)
        copy.name = _own_name(ctx, weight)
        builder.add_tensor(copy)
        builder.reshaped[key] = copy.name
    return builder.reshaped[key]


def _own_name(ctx: RuleContext, weight: Weight) -> str:
    """The initializer's own name where only this node reads it, else a new one."""
    own = weight.name in ctx.state.graph.initializers and weight.alone and weight.name not in ctx.builder.tensors
    return weight.name if own else ctx.builder.fresh(f"{weight.name}_conv")


def _stored(ctx: RuleContext, weight: Weight, value: Array) -> str:
    tensor = ctx.builder.model.tensor(_own_name(ctx, weight), np.ascontiguousarray(value))
    if tensor.name == weight.name:
        tensor.MergeFrom(remarks(ctx.state.graph.initializers[weight.name]))
    ctx.builder.add_tensor(tensor)
    return str(tensor.name)


def can_turn(ctx: RuleContext, weight: Weight, view: Window) -> bool:
    """Whether the weight can serve as it is stored; where not, the window must be computed first."""
    stored = is_stored(ctx, weight.name)
    if stored and not weight.quantised:
        return True
    total = sum(source.features for source in view.sources)
    permuted = view.index.size == total and len(np.unique(view.index)) == total
    return permuted and (stored or len(view.sources) == 1) and view.scale is None and view.shift is None


def _in_graph(ctx: RuleContext, weight: Weight, view: Window) -> str:
    """Transpose, Gather and Reshape nodes on a weight that is computed or overridable."""
    builder, source = ctx.builder, view.sources[0]
    fixed = ctx.state.views[weight.name]
    assert isinstance(fixed, Fixed)
    tensor = fixed.tensor
    if not weight.out_first:
        tensor = ops.transpose(builder, tensor, weight.order)
    if not view.in_order:
        if len(weight.order) != 2:
            tensor = ops.reshape(builder, tensor, [weight.outputs, weight.inputs])
        order = np.argsort(view.index.ravel(), kind="stable")
        tensor = builder.emit("Gather", [tensor, builder.constant(order, "order")], axis=1)
    if weight.factor != 1.0:
        tensor = builder.emit("Mul", [tensor, ops.scalar(builder, weight.factor, tensor)])
    return ops.reshape(builder, tensor, [weight.outputs, source.channels, *source.extent])


def vector(ctx: RuleContext, value: Array, outputs: int, like: str) -> str:
    """A Conv bias (M,) in the type of ``like``."""
    dtype = helper.tensor_dtype_to_np_dtype(ctx.builder.spec(like).dtype)
    return ctx.builder.constant(np.broadcast_to(value, (outputs,)).astype(dtype), "bias")
