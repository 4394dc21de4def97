"""Types, shapes and small values of tensors, at several image sizes at once.

The walk never solves equations for sizes: it carries every shape, and every small value, at a
handful of *probes* (the native size first, then sizes chosen so that no two dims coincide).
A dim depends on the image exactly where it differs between probes, and an integer that is
computed from Shape is known at each probe. Shape inference is onnx's own, node by node.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper, shape_inference

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Found = tuple[int, "Shape | None", "Array | None"]
"""Element type, shape and value of one output at one probe."""

SMALL = 4096
"""Tensors of at most this many elements have their values followed (sizes, axes, amounts)."""

_COMPARED = 64
"""Values of at most this many elements are the same if they are equal, larger ones if they are the same array."""

_INFERENCE_ERRORS = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)

_ALIASES = {
    ("com.microsoft", "FusedConv"): "Conv",
    ("com.microsoft", "FusedGemm"): "Gemm",
    ("com.microsoft", "Gelu"): "Relu",
    ("com.microsoft", "QuickGelu"): "Relu",
}
"""onnxruntime's fused operators, of which onnx has no schema, and standard ones with the same shapes."""

_SHAPELESS = {"GroupNormalization"}
"""Operators of which onnx infers no shape, though it is that of their input."""

_POOLS = {"MaxPool", "AveragePool", "LpPool"}

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


@dataclass(frozen=True)
class Spec:
    """Element type, the shape at every probe, and the value at every probe where it is known.

    ``shapes`` is None where inference could not tell. ``follows``: the value is computed from the image's size, though
    it is the same at all probes; then values at sizes off their grid come behind those of the probes.
    """

    dtype: int
    shapes: tuple[Shape, ...] | None
    values: tuple[Array, ...] | None = None
    follows: bool = False

    @property
    def native(self) -> Shape:
        """The shape at the native size."""
        if self.shapes is None:
            raise ValueError("shape unknown")
        return self.shapes[0]

    @property
    def rank(self) -> int:
        return len(self.native)

    def varies(self, axis: int) -> bool:
        """Whether this dim depends on the image (or on a batch that is free)."""
        assert self.shapes is not None
        return len({shape[axis] for shape in self.shapes}) > 1

    @property
    def constant(self) -> Array | None:
        """The value, where it is the same at every size."""
        return None if self.follows else self.alike

    @property
    def alike(self) -> Array | None:
        """The value, where it is the same at every size that was looked at."""
        if self.values is None or any(not _same(value, self.values[0]) for value in self.values):
            return None
        return self.values[0]


class InferenceFailed(Exception):
    """A node cannot run on the shapes it is given; ``str()`` is what shape inference said."""


def of_array(value: Array, probes: int) -> Spec:
    """The spec of a constant."""
    dtype = int(helper.np_dtype_to_tensor_dtype(value.dtype))
    values = (value,) * probes if value.size <= SMALL else None
    return Spec(dtype, (tuple(value.shape),) * probes, values)


def of_tensor(tensor: onnx.TensorProto, load: Any, probes: int) -> Spec:
    """The spec of an initializer; ``load`` reads its value where it is small."""
    shape = tuple(tensor.dims)
    if math.prod(shape) <= SMALL and tensor.data_type != onnx.TensorProto.STRING:
        return Spec(int(tensor.data_type), (shape,) * probes, (load(tensor),) * probes)
    return Spec(int(tensor.data_type), (shape,) * probes)


class Inference:
    """Node-by-node inference under one model's opset imports."""

    def __init__(self, opsets: Mapping[str, int], ir_version: int) -> None:
        self.opsets = dict(opsets)
        self.ir_version = ir_version
        self._imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self._evaluators: dict[bytes, ReferenceEvaluator] = {}
        self._known: dict[Hashable, tuple[Sequence[Spec | None], list[Found]]] = {}

    def infer(
        self, node: onnx.NodeProto, inputs: Sequence[Spec | None], probes: int, kind: Hashable = None
    ) -> list[Spec | None]:
        """Specs of the node's outputs; None for absent outputs. Raises InferenceFailed.

        ``kind``: that of the node, where it is known already.
        """
        kind = kind or kind_of(node)
        runs = [self._inferred(kind, node, inputs, probe) for probe in range(probes)]
        return [_combine([run[k] for run in runs]) if name else None for k, name in enumerate(node.output)]

    def _inferred(self, kind: Hashable, node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int) -> list[Found]:
        """What is known of a node of the same kind that was given the same, else inferred now.

        Blocks of a network are alike, and deeper layers have one shape for many image sizes.
        """
        key = (kind, *(_given(spec, probe) for spec in inputs))
        if key not in self._known:
            # The inputs are kept, as the key refers to their values.
            self._known[key] = inputs, self._infer_at(node, inputs, probe)
        return self._known[key][1]

    def _infer_at(self, node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int) -> list[Found]:
        if (constant := _constant(node)) is not None:
            return [constant]
        if node.op_type in _SHAPELESS and inputs[0] is not None:
            return [(inputs[0].dtype, None if inputs[0].shapes is None else inputs[0].shapes[probe], None)]
        if (large := _reshaped(node, inputs, probe)) is not None:
            return [large]
        types, data = _arguments(node, inputs, probe)
        node = _standard(node)
        _must_divide(node, inputs, probe)
        _must_mirror(node, inputs, probe)
        try:
            schema = onnx.defs.get_schema(
                node.op_type, max_inclusive_version=self.opsets.get(node.domain, 1), domain=node.domain
            )
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports, ir_version=self.ir_version
            )
        except _INFERENCE_ERRORS as error:
            raise InferenceFailed(str(error).strip().splitlines()[-1]) from error
        described = [_described(found.get(name)) for name in node.output]
        if any(min(shape, default=0) < 0 for _, shape in described if shape is not None):
            raise InferenceFailed(f"{node.op_type} has nothing left of its input")
        if node.op_type in _POOLS:
            described = [(dtype, _without_idle(node, inputs[0], probe, shape)) for dtype, shape in described]
        if node.op_type == "Reshape":
            _must_hold(inputs[0], probe, described[0][1])
        values = self._evaluate(node, inputs, described, probe)
        return [
            (dtype, tuple(value.shape) if value is not None else shape, value)
            for (dtype, shape), value in zip(described, values, strict=True)
        ]

    def _evaluate(
        self,
        node: onnx.NodeProto,
        inputs: Sequence[Spec | None],
        outputs: Sequence[tuple[int, Shape | None]],
        probe: int,
    ) -> list[Array | None]:
        unknown: list[Array | None] = [None] * len(outputs)
        if node.op_type == "Shape" and inputs[0] is not None and inputs[0].shapes is not None:
            return [_shape_value(node, inputs[0].shapes[probe])]
        if node.op_type == "Size" and inputs[0] is not None and inputs[0].shapes is not None:
            return [np.array(math.prod(inputs[0].shapes[probe]), np.int64)]
        if node.op_type in _RANDOM or any(shape is not None and math.prod(shape) > SMALL for _, shape in outputs):
            return unknown
        if any(spec is not None and spec.values is None for spec in inputs):
            return unknown
        values = [None if spec is None or spec.values is None else spec.values[probe] for spec in inputs]
        return [value if value is not None and value.size <= SMALL else None for value in self.run(node, values)]

    def run(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array | None]:
        """The node's outputs by onnx's reference evaluator; None for each where it cannot run."""
        given = zip(node.input, inputs, strict=True)
        feed = {name: value for name, value in given if name and value is not None}
        try:
            with np.errstate(all="ignore"):  # a division by the length of an empty map, say
                result = self._evaluator(node, feed).run(None, feed)
        except Exception:  # the reference evaluator raises whatever its numpy code raises
            return [None] * len(node.output)
        return [np.asarray(value) for value in result]

    def _evaluator(self, node: onnx.NodeProto, feed: Mapping[str, Array]) -> ReferenceEvaluator:
        from onnx.reference import ReferenceEvaluator  # takes longer to import than most models to walk

        key = node.SerializeToString(deterministic=True)
        if key not in self._evaluators:
            infos = [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), None)
                for name, value in feed.items()
            ]
            outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = helper.make_graph([node], "node", infos, outputs)
            model = helper.make_model(graph, opset_imports=self._imports, ir_version=self.ir_version)
            self._evaluators[key] = ReferenceEvaluator(model)
        return self._evaluators[key]


def _constant(node: onnx.NodeProto) -> Found | None:
    """What a Constant with a tensor in it is; some exporters write hundreds of them."""
    value = next((item.t for item in node.attribute if item.name == "value"), None)
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"} or value is None:
        return None
    shape = tuple(value.dims)
    if value.data_location or value.data_type == onnx.TensorProto.STRING or math.prod(shape) > SMALL:
        return None
    return int(value.data_type), shape, numpy_helper.to_array(value)


def kind_of(node: onnx.NodeProto) -> Hashable:
    """All that inference looks at in a node, apart from what it is given; names only tell equal inputs apart."""
    first = {name: place for place, name in reversed(list(enumerate(node.input)))}
    wiring = tuple(first[name] if name else -1 for name in node.input)
    told = tuple(_brief(item.SerializeToString(deterministic=True)) for item in node.attribute)
    return node.domain, node.op_type, wiring, tuple(map(bool, node.output)), told


def _brief(data: bytes) -> bytes:
    """Something as good as ``data`` to tell whether two are the same."""
    return data if len(data) <= SMALL else hashlib.sha256(data).digest()


def _given(spec: Spec | None, probe: int) -> Hashable:
    """One input at one probe. A large value counts as the same only if it is the same array."""
    if spec is None:
        return None
    shape = None if spec.shapes is None else spec.shapes[probe]
    if spec.values is None:
        return spec.dtype, shape
    value = spec.values[probe]
    same: Hashable = value.tobytes() if value.size <= _COMPARED and value.dtype != object else id(value)
    return spec.dtype, shape, value.shape, same


def _without_idle(node: onnx.NodeProto, given: Spec | None, probe: int, shape: Shape | None) -> Shape | None:
    """A pool's shape without windows that would begin behind its input: with ceil_mode, onnx's inference counts them.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html: such windows are ignored, and onnxruntime ignores them.
    """
    told = {item.name: item for item in node.attribute}
    if shape is None or given is None or given.shapes is None or "ceil_mode" not in told or not told["ceil_mode"].i:
        return shape
    dims = len(shape) - 2
    strides = list(told["strides"].ints) if "strides" in told else [1] * dims
    begin = list(told["pads"].ints)[:dims] if "pads" in told else [0] * dims
    room = [(n + pad - 1) // step + 1 for n, pad, step in zip(given.shapes[probe][2:], begin, strides, strict=True)]
    return (*shape[:2], *(min(n, most) for n, most in zip(shape[2:], room, strict=True)))


def _must_divide(node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int) -> None:
    """SpaceToDepth takes whole blocks only, of which inference says nothing."""
    spec = inputs[0] if inputs else None
    if node.op_type == "SpaceToDepth" and spec is not None and spec.shapes is not None:
        block = next((item.i for item in node.attribute if item.name == "blocksize"), 1)
        if any(length % block for length in spec.shapes[probe][2:]):
            raise InferenceFailed(f"SpaceToDepth needs sizes that are multiples of {block}")


def _must_mirror(node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int) -> None:
    """Pad reflects what is there, without the place at the border itself, of which inference says nothing."""
    spec = inputs[0] if inputs else None
    if node.op_type != "Pad" or spec is None or spec.shapes is None:
        return
    told = {item.name: item for item in node.attribute}
    given = [None if item is None or item.values is None else item.values[probe].tolist() for item in inputs[1:]]
    pads = list(told["pads"].ints) if "pads" in told else next(iter(given), None)
    if "mode" not in told or told["mode"].s != b"reflect" or pads is None:
        return
    rank = len(spec.shapes[probe])
    axes = given[2] if len(given) > 2 and given[2] is not None else range(rank)
    for axis, begin, end in zip(axes, pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True):
        left = spec.shapes[probe][axis] + min(begin, 0) + min(end, 0)
        if max(begin, end) > 0 and max(begin, end) >= left:
            raise InferenceFailed(f"Pad cannot reflect {max(begin, end)} of {left} places")


def _reshaped(node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int) -> Found | None:
    """A Reshape of more elements than onnx's inference can count: places related to places, at the largest probes."""
    given, target = (*inputs, None, None)[:2]
    if node.op_type != "Reshape" or given is None or target is None or given.shapes is None or target.values is None:
        return None
    before, wanted = given.shapes[probe], [int(length) for length in target.values[probe].reshape(-1)]
    if math.prod(before) < _COUNTABLE or any(n == 0 and k >= len(before) for k, n in enumerate(wanted)):
        return None
    keeps_zero = any(item.name == "allowzero" and item.i for item in node.attribute)
    shape = [before[k] if n == 0 and not keeps_zero else n for k, n in enumerate(wanted)]
    rest = math.prod(n for n in shape if n != -1)
    shape = [math.prod(before) // rest if n == -1 and rest else n for n in shape]
    if math.prod(shape) != math.prod(before):
        raise InferenceFailed(f"Reshape of {before} to {tuple(wanted)}")
    return given.dtype, tuple(shape), None


_COUNTABLE = 2**62


def _must_hold(given: Spec | None, probe: int, shape: Shape | None) -> None:
    """A Reshape keeps its elements, of which inference says nothing where no length is left to it."""
    if shape is None or given is None or given.shapes is None:
        return
    if math.prod(shape) != math.prod(given.shapes[probe]):
        raise InferenceFailed(f"Reshape of {given.shapes[probe]} to {shape}")


def _standard(node: onnx.NodeProto) -> onnx.NodeProto:
    """A fused node as the standard operator that has the same shapes; any other node as it is."""
    alias = _ALIASES.get((node.domain, node.op_type))
    if alias is None:
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.op_type, copy.domain = alias, ""
    schema = onnx.defs.get_schema(alias)
    kept = [item for item in copy.attribute if item.name in schema.attributes]
    del copy.attribute[:]
    copy.attribute.extend(kept)
    return copy


def _shape_value(node: onnx.NodeProto, shape: Shape) -> Array:
    """Shape, with the start and end attributes of opset 15 and later."""
    bounds = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[bounds.get("start", 0) : bounds.get("end")], dtype=np.int64)


def _arguments(
    node: onnx.NodeProto, inputs: Sequence[Spec | None], probe: int
) -> tuple[dict[str, onnx.TypeProto], dict[str, onnx.TensorProto]]:
    types, data = {}, {}
    for name, spec in zip(node.input, inputs, strict=True):
        if not name or spec is None:
            continue
        shape = None if spec.shapes is None else spec.shapes[probe]
        types[name] = helper.make_tensor_type_proto(spec.dtype, shape)
        if spec.values is not None:
            value = spec.values[probe]
            data[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
    return types, data


def _described(found: onnx.TypeProto | None) -> tuple[int, Shape | None]:
    if found is None or not found.HasField("tensor_type"):
        return 0, None
    tensor = found.tensor_type
    if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def _combine(runs: Sequence[Found]) -> Spec:
    shapes = tuple(shape for _, shape, _ in runs if shape is not None)
    values = tuple(value for _, _, value in runs if value is not None)
    known = len(shapes) == len(runs) and len({len(shape) for shape in shapes}) == 1
    return Spec(runs[0][0], shapes if known else None, values if len(values) == len(runs) else None)


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == b.dtype.kind == "f"))
