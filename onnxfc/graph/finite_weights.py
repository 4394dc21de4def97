"""Weights that are not finite: no score can be computed with them, and no proof be made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

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


_DTYPES: Mapping[int, np.dtype[np.floating]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
}


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
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        return None  # integers; the others are rare and small
    span = model.store.span(tensor)
    if span is None:
        found = [_bad_values([np.asarray(model.array(tensor)).reshape(-1)], bad, 0)]
    else:
        begin = span.offset
        found = span.each_part(
            lambda part: _bad_values(
                (piece.view(dtype) for piece in part.pieces()), bad, (part.offset - begin) // dtype.itemsize
            )
        )
    count = sum(item[0] for item in found)
    if not count:
        return None
    _, first, value = next(item for item in found if item[0])
    place = ", ".join(str(int(index)) for index in np.unravel_index(first, tuple(tensor.dims)))
    what = "NaN" if math.isnan(value) else "infinity"
    return f"{what} at [{place}] ({count:,} such values of {math.prod(tensor.dims):,})"


def _bad_values(
    pieces: Iterable[np.ndarray], bad: Callable[[np.ndarray], np.ndarray], begin: int
) -> tuple[int, int, float]:
    """How many there are in a weight from ``begin`` on, where the first one is, and which."""
    count, first, value = 0, 0, 0.0
    for values in pieces:
        if not _all_finite(values):
            places = np.flatnonzero(bad(values))
            if len(places) and not count:
                first, value = begin + int(places[0]), float(values[places[0]])
            count += len(places)
        begin += len(values)
    return count, first, value


def _all_finite(values: np.ndarray) -> bool:
    """Quickly: a sum of squares is finite only where all its terms are, and nearly always then."""
    if values.dtype.itemsize == 2:
        return not bool((values.view("<u2") & 0x7C00 == 0x7C00).any())
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values, values)))  # in half the time of a plain sum
