"""Types, shapes and small values of tensors, at several image sizes at once.

The walk never solves equations for sizes: it carries every shape, and every small value, at a
handful of *probes* (the native size first, then sizes chosen so that no two dims coincide).
A dim depends on the image exactly where it differs between probes, and an integer that is
computed from Shape is known at each probe. Shape inference is onnx's own, node by node.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import LENGTHS, OF_RUNTIME, QUANTISING
from onnxfc.io.save import SIZED_BY_FLOATS
from onnxfc.shapes.inference_gaps import (
    is_alias,
    joined,
    multiplied,
    must_fit,
    must_hold,
    reshaped,
    standard,
    unpooled,
    without_idle,
)
from onnxfc.shapes.small_values import evaluated
from onnxfc.shapes.spec import SMALL, Array, InferenceFailed, Shape, Spec

if TYPE_CHECKING:
    from onnx.reference import ReferenceEvaluator


_REMEMBERED = 50_000
"""So many nodes are remembered from one model to the next."""

_ALL_INTEGERS = 21
_INFERENCE_ERRORS = (
    onnx.checker.ValidationError,
    onnx.defs.SchemaError,
    shape_inference.InferenceError,
    RuntimeError,
    ValueError,
)

_COUNTS = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
"""Element types of lengths, axes and switches."""

_SHAPELESS = {"GroupNormalization"}
"""Operators of which onnx infers no shape, though it is that of their input."""

_RANDOM = {
    *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"),
}


class Inference:
    """Node-by-node inference under one model's opset imports."""

    def __init__(self, opsets: Mapping[str, int], ir_version: int) -> None:
        self.opsets = dict(opsets)
        self.ir_version = ir_version
        self._imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self._evaluators: dict[bytes, ReferenceEvaluator] = {}
        self._known: dict[Hashable, tuple[Sequence[Spec | None], Sequence[Spec | None] | str]] = {}

    @staticmethod
    def of(opsets: Mapping[str, int], ir_version: int) -> Inference:
        """One for all models of these operator sets, as much of them is alike."""
        made = _shared(tuple(sorted(opsets.items())), ir_version)
        if len(made._known) > _REMEMBERED:
            made._known.clear()
            made._evaluators.clear()
        return made

    def infer(
        self, node: onnx.NodeProto, inputs: Sequence[Spec | None], probes: int, kind: Hashable = None
    ) -> Sequence[Spec | None]:
        """Specs of the node's outputs; None for absent outputs. Raises InferenceFailed.

        What is known of a node of the same kind that was given the same is not inferred again: blocks of a network are
        alike, and their tensors then share their specs. ``kind``: that of the node, where it is known already.
        """
        kind = kind or kind_of(node)
        counted = _counted(node, inputs)
        key = (kind, probes, *(None if spec is None else spec.told for spec in counted))
        known = self._known.get(key)
        if known is None:
            # The inputs are kept, as the key refers to their values.
            known = self._known[key] = counted, self._found(kind, node, counted, probes)
        if isinstance(known[1], str):
            raise InferenceFailed(known[1])
        return known[1]

    def _found(
        self, kind: Hashable, node: onnx.NodeProto, inputs: Sequence[Spec | None], probes: int
    ) -> Sequence[Spec | None] | str:
        """The outputs, or why there are none."""
        try:
            return self._inferred(kind, node, inputs, probes)
        except InferenceFailed as error:
            return str(error)

    def _inferred(
        self, kind: Hashable, node: onnx.NodeProto, inputs: Sequence[Spec | None], probes: int
    ) -> Sequence[Spec | None]:
        """What is known of each probe, put together: deeper layers have one shape for many image sizes."""
        if probes == 1:
            found = self._infer_at(node, inputs)
            return [spec if name else None for name, spec in zip(node.output, found, strict=True)]
        given = ([None if spec is None else spec.at(probe) for spec in inputs] for probe in range(probes))
        runs = [self.infer(node, each, 1, kind) for each in given]
        return [_combine(found) for found in zip(*runs, strict=True)]

    def _infer_at(self, node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> list[Spec]:
        """What is inferred of one image size."""
        if (constant := _constant(node)) is not None:
            return [constant]
        if node.op_type in _SHAPELESS and inputs and inputs[0] is not None:
            return [Spec(inputs[0].dtype, inputs[0].shapes)]
        known = multiplied(node, inputs) or reshaped(node, inputs) or joined(node, inputs) or unpooled(node, inputs)
        if known and inputs[0] is not None:
            return [Spec(inputs[0].dtype, (known,))]
        alias, node = is_alias(node), standard(node, inputs)
        described = self._described(node, inputs)  # which also finds what attributes are missing
        must_fit(node, inputs)
        outputs = [(dtype, without_idle(node, inputs[0] if inputs else None, shape)) for dtype, shape in described]
        must_hold(node, inputs[0] if inputs else None, outputs[0][1])
        values = [None] * len(outputs) if alias else self._evaluate(node, inputs, outputs)
        return [_spec(*described, value) for described, value in zip(outputs, values, strict=True)]

    def _described(self, node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> list[tuple[int, Shape | None]]:
        """Element types and shapes of the outputs, by onnx's own inference."""
        types, data = _arguments(node, inputs)
        version = self.opsets.get(node.domain, 1)
        if node.op_type in QUANTISING:  # onnxruntime has its own for the integers that ONNX took in later
            version = max(version, _ALL_INTEGERS)
        version = max(version, OF_RUNTIME.get(node.op_type, 1))
        try:
            kind = node.op_type.replace("OrEqual", "")  # of LessOrEqual onnx 1.19 infers nothing
            schema = onnx.defs.get_schema(kind, max_inclusive_version=version, domain=node.domain)
            found = shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._imports, ir_version=self.ir_version
            )
        except _INFERENCE_ERRORS as error:
            raise InferenceFailed(str(error).strip().splitlines()[-1].removeprefix("[ShapeInferenceError] ")) from error
        described = [_described(found.get(name)) for name in node.output]
        if any(min(shape, default=0) < 0 for _, shape in described if shape is not None):
            raise InferenceFailed(f"{node.op_type} has nothing left of its input")
        return described

    def _evaluate(
        self, node: onnx.NodeProto, inputs: Sequence[Spec | None], outputs: Sequence[tuple[int, Shape | None]]
    ) -> list[Array | None]:
        first = inputs[0] if inputs else None
        if node.op_type in LENGTHS and first is not None and first.shapes is not None:
            return [_counted_of(node, first.native)]
        large = any(shape is not None and math.prod(shape) > SMALL for _, shape in outputs)
        if node.op_type in _RANDOM or large or any(spec is not None and spec.values is None for spec in inputs):
            return [None] * len(outputs)
        values = [None if spec is None or spec.values is None else spec.values[0] for spec in inputs]
        return [value if value is not None and value.size <= SMALL else None for value in self.run(node, values)]

    def run(self, node: onnx.NodeProto, inputs: Sequence[Array | None]) -> list[Array | None]:
        """The node's outputs, computed here or by onnx's reference evaluator; None for each where neither can."""
        feed = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
        if any(value is None for value in feed.values()):
            return [None] * len(node.output)
        if (found := evaluated(node, inputs)) is not None:
            return [found]
        return self._referred(node, {name: value for name, value in feed.items() if value is not None})

    def _referred(self, node: onnx.NodeProto, feed: Mapping[str, Array]) -> list[Array | None]:
        try:
            with np.errstate(all="ignore"):  # a division by the length of an empty map, say
                result = [np.asarray(item) for item in self._evaluator(node, feed).run(None, dict(feed))]
        except Exception:  # the reference evaluator raises whatever its numpy code raises
            return [None] * len(node.output)
        found = dict(zip(filter(None, node.output), result, strict=True))
        return [found.get(name) for name in node.output]

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


@lru_cache(maxsize=4)
def _shared(opsets: tuple[tuple[str, int], ...], ir_version: int) -> Inference:
    return Inference(dict(opsets), ir_version)


def _constant(node: onnx.NodeProto) -> Spec | None:
    """What a Constant with a tensor in it is; some exporters write hundreds of them."""
    if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
        return None
    value = next((item.t for item in node.attribute if item.name == "value"), None)
    if value is None or value.data_location or value.data_type == onnx.TensorProto.STRING:
        return None
    shape = tuple(value.dims)
    if math.prod(shape) > SMALL:
        return None
    return Spec(int(value.data_type), (shape,), (numpy_helper.to_array(value),))


def kind_of(node: onnx.NodeProto) -> Hashable:
    """All that inference looks at in a node, apart from what it is given; names only tell equal inputs apart."""
    first: dict[str, int] = {}
    wiring = tuple(first.setdefault(name, place) if name else -1 for place, name in enumerate(node.input))
    told = tuple(_brief(item.SerializeToString(deterministic=True)) for item in node.attribute)
    return node.domain, node.op_type, wiring, tuple(map(bool, node.output)), told


def _brief(data: bytes) -> bytes:
    """Something as good as ``data`` to tell whether two are the same."""
    if len(data) <= SMALL:
        return data
    import hashlib  # seldom needed, and slow to load

    return hashlib.sha256(data).digest()


def _counted(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> Sequence[Spec | None]:
    """The inputs without values that make no difference: the weights of a Conv, say.

    All do where all are known, so that the output gets a value; else those that may say how large something is.
    """
    if node.op_type in SIZED_BY_FLOATS or all(spec is None or spec.values is not None for spec in inputs):
        return inputs
    return [
        spec if spec is None or spec.values is None or spec.dtype in _COUNTS else Spec(spec.dtype, spec.shapes)
        for spec in inputs
    ]


def _counted_of(node: onnx.NodeProto, shape: Shape) -> Array:
    """Size, or Shape, with the start and end attributes of opset 15 and later."""
    told = attributes(node)
    found = math.prod(shape) if node.op_type == "Size" else shape[told.get("start", 0) : told.get("end")]
    return np.array(found, dtype=np.int64)


def _arguments(
    node: onnx.NodeProto, inputs: Sequence[Spec | None]
) -> tuple[dict[str, onnx.TypeProto], dict[str, onnx.TensorProto]]:
    types, data = {}, {}
    for name, spec in zip(node.input, inputs, strict=True):
        if not name or spec is None:
            continue
        # of a damaged model, a product may be more than a dim can be
        told = spec.shapes is not None and max(spec.native, default=0) < 1 << 63
        types[name] = helper.make_tensor_type_proto(spec.dtype, spec.native if told else None)
        if spec.values is not None:
            value = spec.values[0]
            data[name] = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
    return types, data


def _described(found: onnx.TypeProto | None) -> tuple[int, Shape | None]:
    if found is None or not found.HasField("tensor_type"):
        return 0, None
    tensor = found.tensor_type
    if not tensor.HasField("shape") or any(not dim.HasField("dim_value") for dim in tensor.shape.dim):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(dim.dim_value for dim in tensor.shape.dim)


def _spec(dtype: int, shape: Shape | None, value: Array | None) -> Spec:
    """The spec at one probe; a value knows its shape best."""
    shape = shape if value is None else tuple(value.shape)
    return Spec(dtype, None if shape is None else (shape,), None if value is None else (value,))


def _combine(runs: Sequence[Spec | None]) -> Spec | None:
    """The spec at all probes from those at each; what is not known at one of them is not known."""
    found = [spec for spec in runs if spec is not None]
    if len(found) < len(runs):
        return None
    shapes = tuple(spec.native for spec in found if spec.shapes is not None)
    values = tuple(spec.values[0] for spec in found if spec.values is not None)
    known = len(shapes) == len(found) and len({len(shape) for shape in shapes}) == 1
    return Spec(found[0].dtype, shapes if known else None, values if len(values) == len(found) else None)
