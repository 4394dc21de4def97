"""What onnx's shape inference leaves out, node by node, at one image size.

Inputs are specs of one size; ``None`` where an optional input is absent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx

from onnxfc.graph.index import attributes, copied, refill
from onnxfc.graph.op_kinds import FUSED_UNARY, MICROSOFT, POOLS
from onnxfc.shapes.spec import InferenceFailed, Shape, Spec

_ALIASES = {
    **{(MICROSOFT, name): "Relu" for name in FUSED_UNARY},
    (MICROSOFT, "BiasGelu"): "Add",
    (MICROSOFT, "FusedConv"): "Conv",
    (MICROSOFT, "FusedGemm"): "Gemm",
    ("", "MeanVarianceNormalization"): "Relu",
    ("", "SimplifiedLayerNormalization"): "LayerNormalization",
}
"""Operators of which onnx has no schema or infers no shape, and those with the same shapes."""

_COUNTABLE = 2**62


def must_fit(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> None:
    """Raises InferenceFailed where the operator cannot run on such shapes, though inference does not say so."""
    check = {"SpaceToDepth": _must_divide, "Pad": _must_mirror, "Slice": _must_list}.get(node.op_type)
    spec = inputs[0] if inputs else None
    if check is not None and spec is not None and spec.shapes is not None:
        check(node, spec.native, inputs)


def _must_divide(node: onnx.NodeProto, shape: Shape, _: Sequence[Spec | None]) -> None:
    """SpaceToDepth takes whole blocks only."""
    block = attributes(node)["blocksize"]
    if any(length % block for length in shape[2:]):
        raise InferenceFailed(f"SpaceToDepth needs sizes that are multiples of {block}")


def _must_list(_: onnx.NodeProto, __: Shape, inputs: Sequence[Spec | None]) -> None:
    """Slice takes no single numbers, computed ones either."""
    if any(spec is not None and spec.shapes is not None and len(spec.native) != 1 for spec in inputs[1:]):
        raise InferenceFailed("Slice reads a single number, or a table, as a list")


def _must_mirror(node: onnx.NodeProto, shape: Shape, inputs: Sequence[Spec | None]) -> None:
    """Pad reflects what is there, without the place at the border itself."""
    told = attributes(node)
    given = [None if item is None or item.values is None else item.values[0].tolist() for item in inputs[1:]]
    pads, axes = told.get("pads", [*given, None][0]), [*given, None, None, None][2]
    if told.get("mode") != "reflect" or pads is None:
        return
    begins, ends = pads[: len(pads) // 2], pads[len(pads) // 2 :]
    for axis, begin, end in zip(axes or range(len(shape)), begins, ends, strict=True):
        left = shape[axis] + min(begin, 0) + min(end, 0)
        if max(begin, end) > 0 and max(begin, end) >= left:
            raise InferenceFailed(f"Pad cannot reflect {max(begin, end)} of {left} places")


def without_idle(node: onnx.NodeProto, given: Spec | None, shape: Shape | None) -> Shape | None:
    """A pool's shape without windows that would begin behind its input: with ceil_mode, onnx's inference counts them.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html: such windows are ignored, and onnxruntime ignores them.
    """
    told = attributes(node) if node.op_type in POOLS else {}
    if shape is None or given is None or given.shapes is None or not told.get("ceil_mode", 0):
        return shape
    dims = len(shape) - 2
    strides, begin = told.get("strides", [1] * dims), told.get("pads", [0] * dims)
    sizes = zip(shape[2:], given.native[2:], begin, strides, strict=False)
    return (*shape[:2], *(min(n, (length + pad - 1) // step + 1) for n, length, pad, step in sizes))


def reshaped(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> Shape | None:
    """A Reshape of more elements than onnx's inference can count: places related to places, at the largest probes."""
    given, target = (*inputs, None, None)[:2]
    if node.op_type != "Reshape" or given is None or target is None or given.shapes is None or target.values is None:
        return None
    before, wanted = given.native, [int(length) for length in target.values[0].reshape(-1)]
    if math.prod(before) < _COUNTABLE or any(n == 0 and k >= len(before) for k, n in enumerate(wanted)):
        return None
    shape = _filled(before, wanted, bool(attributes(node).get("allowzero", 0)))
    if math.prod(shape) != math.prod(before):
        raise InferenceFailed(f"Reshape of {before} to {tuple(wanted)}")
    return shape


def joined(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> Shape | None:
    """A Concat of more places than onnx 1.19 and 1.20 can count."""
    if node.op_type != "Concat" or not inputs or any(spec is None or spec.shapes is None for spec in inputs):
        return None
    shapes = [spec.native for spec in inputs if spec is not None]
    axis = attributes(node).get("axis", 1) % max(1, len(shapes[0]))
    before, behind = shapes[0][:axis], shapes[0][axis + 1 :]
    fits = all(len(shape) > axis and (shape[:axis], shape[axis + 1 :]) == (before, behind) for shape in shapes)
    length = sum(shape[axis] for shape in shapes) if fits else 0
    return (*before, length, *behind) if length >= 2**31 else None


def multiplied(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> Shape | None:
    """onnxruntime's MatMul of matrices that it may transpose.

    https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.FusedMatMul
    """
    if (node.domain, node.op_type) != (MICROSOFT, "FusedMatMul"):
        return None
    shapes = [tuple(spec.native) for spec in inputs if spec is not None and spec.shapes is not None]
    if len(shapes) < 2 or min(map(len, shapes)) < 2:
        return None
    told, (one, two) = attributes(node), shapes
    if told.get("transBatchA", 0):
        one = (*one[1:-1], one[0], one[-1])
    if told.get("transBatchB", 0):
        two = (*two[1:-1], two[0], two[-1])
    rows, inner = one[-2:][::-1] if told.get("transA", 0) else one[-2:]
    other, columns = two[-2:][::-1] if told.get("transB", 0) else two[-2:]
    try:
        batch = np.broadcast_shapes(one[:-2], two[:-2])
    except ValueError:
        batch, inner = (), -1
    if inner != other:
        raise InferenceFailed(f"FusedMatMul of {shapes[0]} and {shapes[1]}")
    return (*batch, rows, columns)


def unpooled(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> Shape | None:
    """A MaxUnpool to a shape that is given, of which onnx's inference says nothing."""
    given = inputs[2] if node.op_type == "MaxUnpool" and len(inputs) > 2 else None
    return None if given is None or given.values is None else tuple(given.values[0].tolist())


def _filled(before: Shape, wanted: Sequence[int], keeps_zero: bool) -> Shape:
    """A Reshape's target with lengths for 0 and -1."""
    shape = [before[k] if n == 0 and not keeps_zero else n for k, n in enumerate(wanted)]
    rest = math.prod(n for n in shape if n != -1)
    return tuple(math.prod(before) // rest if n == -1 and rest else n for n in shape)


def must_hold(node: onnx.NodeProto, given: Spec | None, shape: Shape | None) -> None:
    """A Reshape keeps its elements, of which inference says nothing where no length is left to it."""
    if node.op_type != "Reshape" or shape is None or given is None or given.shapes is None:
        return
    if math.prod(shape) != math.prod(given.native):
        raise InferenceFailed(f"Reshape of {given.native} to {shape}")


def is_alias(node: onnx.NodeProto) -> bool:
    """Whether :func:`standard` makes another operator of it: one of other values."""
    return (node.domain, node.op_type) in _ALIASES


def standard(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> onnx.NodeProto:
    """A fused node as the standard operator that has the same shapes; any other node as it is.

    Concat counts its axis from the front, as its versions before 11 must, though onnxruntime takes any.
    """
    alias = _ALIASES.get((node.domain, node.op_type))
    if alias is None and node.op_type != "Concat":
        return node
    copy = copied(node)
    if alias is None:
        rank = next((len(spec.native) for spec in inputs if spec is not None and spec.shapes is not None), 0)
        for item in copy.attribute:
            item.i += rank if item.name == "axis" and item.i < 0 else 0
        return copy
    copy.op_type, copy.domain = alias, ""
    schema = onnx.defs.get_schema(alias)
    refill(copy, attribute=[item for item in copy.attribute if item.name in schema.attributes])
    return copy
