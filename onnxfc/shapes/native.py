"""Type, shape and small values of every tensor of the original at its native size."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxfc.graph.index import Graph
from onnxfc.graph.inline_ifs import inferred
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.fitting import cannot_run, on_its_axes, runs_nowhere
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.spec import InferenceFailed, Spec, of_tensor

UNKNOWN = Spec(0, None)


def native_specs(
    model: ModelFile, graph: Graph, inputs: Mapping[str, Spec], *, declared_all: bool = False
) -> dict[str, Spec]:
    """Type, shape and small values of every tensor of the original at its native size.

    ``declared_all``: no dim of an input is open, so that what cannot run on them never does: raises ReadError.
    """
    inference = Inference.of(graph.opsets, graph.model.ir_version)
    specs = dict(inputs)
    specs.update({name: of_tensor(tensor, model.array, 1) for name, tensor in graph.initializers.items()})
    declared = {info.name: info for info in graph.proto.value_info}
    if graph.model.functions:  # of what a function makes only inference over the whole model can tell
        whole = inferred(graph.model)
        declared = {info.name: info for info in whole.graph.value_info} | declared
    for node in graph.live:
        on_its_axes(model, node, specs)
        try:
            found = inference.infer(node, [specs.get(name) if name else None for name in node.input], 1)
        except InferenceFailed as error:
            if runs_nowhere(graph, node, specs):  # so that what the file declares of its outputs is not so
                if declared_all:
                    raise cannot_run(model, node, specs, error) from error
                declared = {name: info for name, info in declared.items() if name not in node.output}
            found = [UNKNOWN] * len(node.output)
        for name, spec in zip(node.output, found, strict=True):
            specs[name] = spec if spec is not None and spec.shapes is not None else _declared(declared.get(name))
    return specs


def _declared(info: onnx.ValueInfoProto | None) -> Spec:
    """What the file itself says of a tensor, where inference cannot tell."""
    if info is None or not info.type.tensor_type.HasField("shape"):
        return UNKNOWN
    dims = info.type.tensor_type.shape.dim
    if any(dim.dim_value <= 0 for dim in dims):
        return Spec(info.type.tensor_type.elem_type, None)
    return Spec(info.type.tensor_type.elem_type, (tuple(dim.dim_value for dim in dims),))
