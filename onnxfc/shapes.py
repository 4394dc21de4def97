"""Shapes of a model's tensors at any image size, by shape inference alone."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxfc.graph import Graph
from onnxfc.model_file import ModelFile
from onnxfc.specs import Inference, InferenceFailed, Shape, Spec, of_tensor


class Shapes:
    """Asks a model for its shapes; weights are not read."""

    def __init__(self, model: ModelFile) -> None:
        self.graph = Graph(model.proto)
        self._inference = Inference.of(self.graph.opsets, model.proto.ir_version)
        self._fixed: dict[str, Spec | None] = {
            name: of_tensor(tensor, model.array, 1) for name, tensor in self.graph.initializers.items()
        }
        self._types = {info.name: info.type.tensor_type for info in self.graph.inputs}

    def at(self, inputs: Mapping[str, Shape]) -> dict[str, Shape] | None:
        """Shapes of all tensors that inference can tell, for inputs of these shapes; None where the model does not
        take them. Dims of other inputs that are free count as 1."""
        specs = dict(self._fixed)
        for name, kind in self._types.items():
            declared = tuple(max(1, dim.dim_value) for dim in kind.shape.dim)
            specs[name] = Spec(kind.elem_type, (inputs.get(name, declared),))
        for position, node in enumerate(self.graph.nodes):
            if position in self.graph.live and not self._infer(node, specs):
                return None
        found = {name: spec.shapes[0] for name, spec in specs.items() if spec is not None and spec.shapes is not None}
        return None if any(min(shape, default=1) < 0 for shape in found.values()) else found

    def _infer(self, node: onnx.NodeProto, specs: dict[str, Spec | None]) -> bool:
        """Enter the specs of a node's outputs; False where it cannot run on its inputs."""
        try:
            found = self._inference.infer(node, [specs.get(name) if name else None for name in node.input], 1)
        except InferenceFailed:
            if onnx.defs.has(node.op_type, node.domain):
                return False
            found = [Spec(0, None)] * len(node.output)
        specs.update(zip(node.output, found, strict=True))
        return True
