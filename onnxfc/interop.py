"""onnx-graphsurgeon's graphs, in and out. The library is loaded only where a graph of it is met or asked for."""

from __future__ import annotations

from typing import Any

import onnx

from onnxfc.errors import ReadError

_ALL_TYPES = 10
"""The first IR version with functions and all types of numbers that onnxruntime computes with."""


def is_surgeon(source: object) -> bool:
    """Whether it is a ``onnx_graphsurgeon.Graph``; does not load the library."""
    return any(kind.__module__.split(".")[0] == "onnx_graphsurgeon" for kind in type(source).__mro__)


def from_surgeon(graph: Any) -> onnx.ModelProto:
    """The model of a graph, with its weights. Raises ReadError where that library cannot export it.

    Its export keeps nodes, weights, value_info, functions and opset imports. It drops metadata_props, so also what a
    rewritten model says of itself, and the model's doc string; initializers that were inputs too become constants.
    """
    import onnx_graphsurgeon

    try:
        model: onnx.ModelProto = onnx_graphsurgeon.export_onnx(graph)
    except Exception as error:  # of no common base
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ReadError(f"the given graph: onnx-graphsurgeon cannot export it: {line}") from error
    if vars(graph).get("ir_version") is None:  # then it is onnx's newest, which onnxruntime may not know yet
        needed = onnx.helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
        model.ir_version = max(needed, _ALL_TYPES)
    return model


def to_surgeon(model: onnx.ModelProto) -> Any:
    """A graph to be edited, with the model's weights."""
    import onnx_graphsurgeon

    return onnx_graphsurgeon.import_onnx(model)
