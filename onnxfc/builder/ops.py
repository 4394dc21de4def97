"""New nodes in the spelling of the model's own opset: axes as attribute or as input, and so on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper

from onnxfc.builder.graph_builder import GraphBuilder


def unsqueeze(builder: GraphBuilder, tensor: str, axes: Sequence[int], output: str = "") -> str:
    """Insert axes of extent 1 at the positions ``axes`` of the result."""
    if not axes:
        return tensor
    return _with_axes(builder, "Unsqueeze", tensor, axes, output, since=13)


def squeeze(
    builder: GraphBuilder, tensor: str, axes: Sequence[int], output: str = "", instead: onnx.NodeProto | None = None
) -> str:
    """Take out axes of extent 1."""
    if not axes:
        return tensor
    return _with_axes(builder, "Squeeze", tensor, axes, output, since=13, instead=instead)


def reduce(
    builder: GraphBuilder,
    op_type: str,
    tensor: str,
    axes: Sequence[int],
    keepdims: bool,
    output: str = "",
    instead: onnx.NodeProto | None = None,
) -> str:
    """ReduceMean, ReduceMax ... over ``axes``."""
    since = 13 if op_type == "ReduceSum" else 18
    return _with_axes(builder, op_type, tensor, axes, output, since=since, keepdims=int(keepdims), instead=instead)


def _with_axes(
    builder: GraphBuilder,
    op_type: str,
    tensor: str,
    axes: Sequence[int],
    output: str,
    *,
    since: int,
    keepdims: int | None = None,
    instead: onnx.NodeProto | None = None,
) -> str:
    if builder.graph.opset >= since:
        return builder.emit(
            op_type, [tensor, builder.constant(list(axes), "axes")], output, keepdims=keepdims, instead=instead
        )
    return builder.emit(op_type, [tensor], output, axes=list(axes), keepdims=keepdims, instead=instead)


def slice_axis(builder: GraphBuilder, tensor: str, axis: int, start: int, end: int) -> str:
    """``tensor[..., start:end, ...]`` on one axis."""
    if builder.graph.opset >= 10:
        bounds = [builder.constant([item], "slice") for item in (start, end, axis)]
        return builder.emit("Slice", [tensor, *bounds])
    return builder.emit("Slice", [tensor], starts=[start], ends=[end], axes=[axis])


def every(builder: GraphBuilder, tensor: str, steps: Mapping[int, int]) -> str:
    """``tensor[..., ::step, ...]`` on the axes given."""
    axes = [axis for axis, step in steps.items() if step != 1]
    if not axes:
        return tensor
    if builder.graph.opset < 10:  # Slice has no steps yet; a pool of one element has
        strides = [steps.get(axis, 1) for axis in range(2, len(builder.spec(tensor).native))]
        return builder.emit("MaxPool", [tensor], kernel_shape=[1] * len(strides), strides=strides)
    bounds = [[0] * len(axes), [2**31 - 1] * len(axes), axes, [steps[axis] for axis in axes]]
    return builder.emit("Slice", [tensor, *(builder.constant(item, "slice") for item in bounds)])


COMMON_SINCE = 12
"""The operator set from which on Min takes integers."""


def common(builder: GraphBuilder, tensors: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    """The tensors cut to the smallest of them, each on its own axes, which follow each other, at any image size.

    Branches of different stride may end a cell apart off the grid. Before opset 12 Min takes no integers; the sizes
    at which they differ are then not legal.
    """
    if builder.graph.opset < COMMON_SINCE:
        return [tensor for tensor, _ in tensors]
    smallest = builder.emit("Min", [dims(builder, tensor, axes[0], axes[-1] + 1) for tensor, axes in tensors])
    start = builder.constant([0] * len(tensors[0][1]), "start")
    return [
        builder.emit("Slice", [tensor, start, smallest, builder.constant(list(axes), "axes")])
        for tensor, axes in tensors
    ]


def concat(builder: GraphBuilder, parts: Sequence[str]) -> str:
    """Vectors laid one behind the other."""
    return parts[0] if len(parts) == 1 else builder.emit("Concat", list(parts), axis=0)


def transpose(builder: GraphBuilder, tensor: str, perm: Sequence[int], output: str = "") -> str:
    """Permute the axes; nothing is written where they stay."""
    if list(perm) == list(range(len(perm))) and not output:
        return tensor
    return builder.emit("Transpose", [tensor], output, perm=list(perm))


def dims(builder: GraphBuilder, tensor: str, start: int, end: int) -> str:
    """The dims ``start:end`` of a tensor, as int64 of shape (end - start,).

    Constant where batch and channels do not change; computed once for all that asks.
    """
    shapes = builder.spec(tensor).shapes
    if not start and shapes is not None and len({shape[start:end] for shape in shapes}) == 1:
        return builder.constant(list(shapes[0][start:end]), "dims")
    key = (tensor, start, end)
    if (
        key not in builder.measured or builder.producer(builder.measured[key]) is None
    ):  # it was taken back with its rule
        builder.measured[key] = _measured(builder, tensor, start, end)
    return builder.measured[key]


def _measured(builder: GraphBuilder, tensor: str, start: int, end: int) -> str:
    if builder.graph.opset >= 15:  # before, Shape gives all dims
        return builder.emit("Shape", [tensor], start=start, end=end)
    return slice_axis(builder, builder.emit("Shape", [tensor]), 0, start, end)


def reshape(
    builder: GraphBuilder,
    tensor: str,
    target: Sequence[int | str],
    output: str = "",
    instead: onnx.NodeProto | None = None,
) -> str:
    """Reshape to numbers (0 and -1 as in ONNX) and to dims that were computed by :func:`dims`."""
    if all(isinstance(item, int) for item in target):
        shape = builder.constant([int(item) for item in target], "shape")
        return builder.emit("Reshape", [tensor, shape], output, instead=instead)
    return builder.emit("Reshape", [tensor, numbers(builder, target)], output, instead=instead)


def numbers(builder: GraphBuilder, items: Sequence[int | str]) -> str:
    """A vector of numbers and of vectors that were computed by :func:`dims`."""
    parts: list[str] = []
    run: list[int] = []
    for item in items:
        if isinstance(item, int):
            run.append(item)
            continue
        if run:
            parts.append(builder.constant(run, "numbers"))
            run = []
        parts.append(item)
    if run:
        parts.append(builder.constant(run, "numbers"))
    return concat(builder, parts)


def scalar(builder: GraphBuilder, value: float, like: str) -> str:
    """A constant of rank 0 in the element type of ``like``."""
    dtype = helper.tensor_dtype_to_np_dtype(builder.spec(like).dtype)
    return builder.constant(np.asarray(value, dtype=dtype), "scalar")
