"""Operators of a trunk that may mean something else at another size: the native size is written down in them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfc.claim.claim import Claim
from onnxfc.proof.wiring import dependent

_POINTWISE = (
    "Relu LeakyRelu PRelu Elu Selu Celu ThresholdedRelu Gelu Sigmoid HardSigmoid HardSwish Swish Mish Softplus Softsign"
    " Tanh Erf Exp Log Sqrt Reciprocal Abs Neg Sign Floor Ceil Round Sin Cos Clip Min Max Sum Mean Add Sub Mul Div Pow"
    " Cast Identity Dropout Constant QuantizeLinear DequantizeLinear BatchNormalization LRN"
)
_WHOLE = (
    "GlobalAveragePool GlobalMaxPool ReduceMean ReduceMax ReduceMin InstanceNormalization LayerNormalization"
    " Concat Transpose Squeeze Unsqueeze Flatten Softmax Pad DepthToSpace SpaceToDepth"
)
_SIZELESS = frozenset(f"{_POINTWISE} {_WHOLE}".split())
"""Operators that say the same at every size. Not ReduceSum: what divides the sum by a count was made for one size."""
_QUANTISING = frozenset(["QuantizeLinear", "DequantizeLinear"])
"""Of onnxruntime's domain, too."""
_SUMS = frozenset(["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"])
SAME_REPEATED = (
    _SIZELESS | _SUMS | frozenset(["MatMul", "Gemm", "Einsum", "Reshape", "Expand", "Shape", "Size", "Gather"])
) | frozenset(["Conv", "MaxPool", "AveragePool", "LpPool", "ConstantOfShape", "Equal", "Where", "Slice"])
"""Of these, what looks at no place's neighbours makes of features that are repeated what it makes of these alone."""
_SLIDING = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger"}
_POOLS = {"MaxPool", "AveragePool", "LpPool"}
SHARING = _SUMS | {"Softmax"}
"""What shares out over places makes, or may make, of a mean a sum that has its native scale."""
MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}
_BORDERS = {"Pad", "Slice", "Resize", "Upsample", "ConvTranspose"}

Shapes = Mapping[str, tuple[int, ...]]


def native_shapes(model: onnx.ModelProto, claim: Claim) -> Shapes:
    """Shapes at the native size, as far as onnx's own inference finds them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for node in copy.graph.node:  # onnx knows no shapes behind those of another domain
        node.domain = "" if node.op_type in _QUANTISING else node.domain
    images = {image.name: image for image in claim.inputs}
    for value in copy.graph.input:
        image = images.get(value.name)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim if image else ()):
            dim.dim_value = image.shape[axis] if image and axis < len(image.shape) else 1
    try:
        graph = onnx.shape_inference.infer_shapes(copy).graph
    except Exception:  # of no common base; a shape that is not known is taken for one of a suspect
        return {}
    infos = [*graph.value_info, *graph.output, *graph.input]
    return {info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim) for info in infos}


def sized(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, shapes: Shapes) -> str:
    """What may mean something else at another size, and the node, "" if nothing; a sum sooner than another, and what
    reads a shape last."""
    tensors = stored(graph)
    asked = dependent(graph, {value.name for value in graph.input} - tensors.keys())
    alike = {name for node in graph.node for name in node.output} - asked
    found = [node for node in nodes if alike.isdisjoint(node.output) and may_be_sized(node, tensors, shapes)]
    found = sorted(found, key=_how_unlikely) or unbiased(nodes, graph, shapes)
    if not found:
        return ""
    why = "a sum may grow with the image" if found[0].op_type in _SUMS else "the native size may be written down"
    return f"{why}: {_label(found[0])}"


def stored(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """The constants of a graph."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    return found | {node.output[0]: item.t for node in graph.node for item in node.attribute if item.HasField("t")}


def _how_unlikely(node: onnx.NodeProto) -> int:
    return 0 if node.op_type in _SUMS else 2 if node.op_type in ("Shape", "Size") else 1


def unbiased(
    nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, shapes: Shapes, but: int = 0
) -> list[onnx.NodeProto]:
    """What multiplies by N, or by N / (N - 1), a variance over N - 1 where a mean of these is over N places; ``but``:
    so many are known."""
    tensors = stored(graph)
    counts = {_averaged(node, shapes) for node in nodes if node.op_type in MEANS} - {but}
    wanted = {n for count in counts if count > 2 for n in (count, count / (count - 1), (count - 1) / count)}
    scaling = [node for node in nodes if node.op_type in ("Mul", "Div")]
    return [node for node in scaling if any(_is_one(tensors.get(name), wanted) for name in node.input)]


def _averaged(node: onnx.NodeProto, shapes: Shapes) -> int:
    """How many elements a mean is of; 0 where that is not known."""
    before, after = (math.prod(shapes.get(name, ())) for name in (node.input[0], node.output[0]))
    return before // after if after else 0


def _is_one(tensor: onnx.TensorProto | None, wanted: Collection[float]) -> bool:
    """Whether a single number is one of these."""
    if tensor is None or any(dim > 1 for dim in tensor.dims) or tensor.data_location == tensor.EXTERNAL:
        return False
    number = float(numpy_helper.to_array(tensor).ravel()[0])
    return any(math.isclose(number, n, rel_tol=1e-6) for n in wanted)


def says_the_same(nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto) -> bool:
    """Whether these nodes mean the same at every size: what they count is computed from the image, not written down."""
    fixed, counted, rest = {tensor.name for tensor in graph.initializer}, set[str](), []
    for node in nodes:
        given = {name for name in node.input if name}
        if node.op_type == "Constant":
            fixed.update(node.output)
        elif node.op_type in ("Shape", "Size") or (given & counted and given <= counted | fixed):
            counted.update(node.output)
        else:
            rest.append(node)
    return not sized(rest, graph, {})


def may_be_sized(node: onnx.NodeProto, fixed: Mapping[str, onnx.TensorProto], shapes: Shapes) -> bool:
    kind = node.op_type
    if node.domain not in ("", "ai.onnx"):
        return kind not in _QUANTISING
    if kind in ("MatMul", "Gemm"):
        return fixed.keys().isdisjoint(node.input[:2])
    if kind in ("Resize", "Upsample"):
        return len(node.input) > 3 and bool(node.input[3])
    if kind in _SLIDING:
        unknown = not shapes.get(node.input[0]) or not shapes.get(node.output[0])
        return "output_shape" in attributes(node) or unknown or _counts_borders(node, shapes)
    return kind not in _SIZELESS and not (kind == "Slice" and _ends_openly(node, fixed))


def _ends_openly(node: onnx.NodeProto, fixed: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a Slice takes all from a first element on, or every second one, as a space-to-depth does."""
    told = [fixed.get(name) for name in node.input[1:3]]
    if len(told) < 2 or any(item is None or item.data_location == item.EXTERNAL for item in told):
        return False
    starts, ends = (numpy_helper.to_array(item) for item in told if item is not None)
    return bool((starts >= 0).all() and (starts < _FIRST).all() and (ends >= np.iinfo(np.int32).max).all())


_FIRST = 4
"""So small a start is no native length."""


def _covers(node: onnx.NodeProto, shapes: Shapes) -> bool:
    """Whether the window may be the whole native map on an axis: a pool or Conv that stands for a global one."""
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    if len(before) < 3 or len(before) != len(after) or 0 in (*before[2:], *after[2:]):
        return True
    return any(now == 1 and was > 1 for was, now in zip(before[2:], after[2:], strict=True))


def covered(node: onnx.NodeProto, shapes: Shapes) -> list[int]:
    """Axes of the map that a pool's window covers natively, so that it may be meant to be over all there is; none
    where it counts what it pads, which no mean over all does."""
    before, after = shapes.get(node.input[0], ()) if node.input else (), shapes.get(node.output[0], ())
    if node.op_type not in _POOLS or len(node.output) > 1 or _counts_borders(node, shapes):
        return []
    kernel = attributes(node)["kernel_shape"].ints
    if not len(kernel) + 2 == len(before) == len(after):
        return []
    axes = zip(kernel, before[2:], after[2:], strict=True)
    return [axis + 2 for axis, (k, was, now) in enumerate(axes) if now == 1 and k >= was > 1]


def _counts_borders(node: onnx.NodeProto, shapes: Shapes) -> bool:
    """Whether a pool that may stand for one over the whole map is none that can be written so."""
    found = attributes(node)
    padded = ("pads" in found and any(found["pads"].ints)) or auto_pad(found).startswith(b"SAME")
    counted = padded and is_on(found, "count_include_pad")
    return node.op_type in _POOLS and _covers(node, shapes) and (counted or node.op_type == "LpPool")


def stands_for_global(nodes: Sequence[onnx.NodeProto], shapes: Shapes) -> bool:
    """Whether a pool or Conv among these may be a global one by its native size: asked at another, it is none."""
    return any(node.op_type in _SLIDING and _covers(node, shapes) for node in nodes)


def place_by_place(nodes: Sequence[onnx.NodeProto], shapes: Shapes) -> bool:
    """Whether these make of a map that is repeated what they make of the map: none looks at a place's neighbours."""
    return not any(_looks_around(node, shapes) for node in nodes)


def _looks_around(node: onnx.NodeProto, shapes: Shapes) -> bool:
    if node.op_type == "Gather":  # of blocks of places, by a table
        return len(shapes.get(node.output[0], ())) > len(shapes.get(node.input[0], ()))
    if node.op_type not in _SLIDING:
        return node.op_type in _BORDERS
    found = attributes(node)
    alone = all(set(found[name].ints) == {1} for name in ("kernel_shape", "strides") if name in found)
    pool = node.op_type in _POOLS and _covers(node, shapes)
    return not pool and not (alone and "kernel_shape" in found)


def frozen(nodes: Sequence[onnx.NodeProto], other: onnx.GraphProto) -> str:
    """The first node whose padding or rounding follows the image's size, which the other model fixes; "" if none."""
    kept = {node.output[0]: node.attribute for node in other.node if node.output}
    follow = (node for node in nodes if follows(node))
    return next((_label(node) for node in follow if node.attribute != kept.get(node.output[0])), "")


def follows(node: onnx.NodeProto) -> bool:
    """Whether its padding or rounding follows the image's size."""
    found = attributes(node)
    return auto_pad(found).startswith(b"SAME") or is_on(found, "ceil_mode")


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: attribute for attribute in node.attribute}


def is_on(found: Mapping[str, Any], name: str) -> bool:
    """Whether a switch among the attributes is 1."""
    return name in found and found[name].i == 1


def auto_pad(found: Mapping[str, Any]) -> bytes:
    """That among the attributes."""
    return found["auto_pad"].s if "auto_pad" in found else b""


def _label(node: onnx.NodeProto) -> str:
    return node.name or f"the {node.op_type} that makes {node.output[0]}"
