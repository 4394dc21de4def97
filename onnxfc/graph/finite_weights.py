"""Weights that are not finite: no score can be computed with them, and no proof be made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto

from onnxfc.errors import ReadError
from onnxfc.graph.index import canonical_domain, label
from onnxfc.graph.op_kinds import GEMMS, MICROSOFT, WEIGHT_AT
from onnxfc.io.model_file import ModelFile

_BAD: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys((*WEIGHT_AT, *GEMMS, "ConvTranspose", "MatMul"), lambda x: ~np.isfinite(x)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), lambda x: ~np.isfinite(x)),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub", "PRelu", "LayerNormalization"), np.isnan),
}
"""What no weight of an operator can be; masks hold infinities, which are added."""


def finite(model: ModelFile) -> None:
    """Raises ReadError where a weight cannot be computed with. Reads the weights, a piece at a time."""
    weights = dict(_weights(model.proto.graph))
    seen: set[str] = set()
    for node in model.proto.graph.node:
        bad = _BAD.get(node.op_type) if canonical_domain(node.domain) in {"", MICROSOFT} else None
        for name in node.input if bad is not None else ():
            if bad is None or name not in weights or name in seen:
                continue
            seen.add(name)
            problem = _not_finite(model, weights[name], bad)
            if problem is not None:
                raise ReadError(
                    f"{model.path or 'the given model'}: weight {name!r} of node {label(node)!r} ({node.op_type}) "
                    f"has {problem}: no score can be computed with it; export a trained model"
                )


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], item.t) for item in node.attribute if item.name == "value")


def _not_finite(model: ModelFile, tensor: TensorProto, bad: Callable[[np.ndarray], np.ndarray]) -> str | None:
    """What is wrong in a weight, where first and how often; None where all is well."""
    first, count, value = 0, 0, 0.0
    for begin, values in _pieces(model, tensor):
        places = np.flatnonzero(bad(values))
        if len(places) and not count:
            first, value = begin + int(places[0]), float(values[places[0]])
        count += len(places)
    if not count:
        return None
    place = ", ".join(str(int(index)) for index in np.unravel_index(first, tuple(tensor.dims)))
    what = "NaN" if math.isnan(value) else "infinity"
    return f"{what} at [{place}] ({count:,} such values of {math.prod(tensor.dims):,})"


def _pieces(model: ModelFile, tensor: TensorProto) -> Iterator[tuple[int, np.ndarray]]:
    """Stretches of a weight that hold something that is not finite, and where each begins."""
    dtypes: Mapping[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
    dtype = dtypes.get(tensor.data_type)
    if dtype is None:
        return  # integers; the others are rare and small
    span = model.store.span(tensor)
    if span is None:
        yield 0, np.asarray(model.array(tensor)).reshape(-1)
        return
    begin = 0
    for piece in span.pieces():
        values = piece.view(dtype)
        if not _all_finite(values):
            yield begin, values
        begin += len(values)


def _all_finite(values: np.ndarray) -> bool:
    """Quickly: a sum of squares is finite only where all its terms are, and nearly always then."""
    if values.dtype.itemsize == 2:
        return not bool((values.view("<u2") & 0x7C00 == 0x7C00).any())
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values, values)))  # in half the time of a plain sum
