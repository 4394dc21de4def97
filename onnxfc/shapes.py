"""Shapes of a model's tensors: by shape inference at one image size, or in closed form at all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxfc.extents import Extents
from onnxfc.graph import Graph
from onnxfc.images import Image
from onnxfc.model_file import ModelFile
from onnxfc.sizing import Sizing
from onnxfc.specs import Inference, InferenceFailed, Shape, Spec, of_tensor


class Shapes:
    """Asks a model for its shapes; weights are not read."""

    def __init__(self, model: ModelFile) -> None:
        self.graph = Graph(model.proto)
        self._model = model
        self._inference = Inference(self.graph.opsets, model.proto.ir_version)
        self._weights: dict[int, dict[str, Spec]] = {}

    def at(self, inputs: Mapping[str, Shape]) -> dict[str, Shape] | None:
        """Shapes of all tensors that inference can tell, for inputs of these shapes; None where the model does not
        take them. Dims of other inputs that are free count as 1."""
        specs = self._specs({name: (shape,) for name, shape in inputs.items()}, 1)
        if specs is None:
            return None
        found = {name: spec.native for name, spec in specs.items() if spec.shapes is not None}
        return None if any(min(shape, default=1) < 0 for shape in found.values()) else found

    def sizing(self, images: Sequence[Image]) -> Sizing | None:
        """The same at all image sizes; None where the model does not take those that are looked at."""
        probed = {image.name: image.probes() for image in images}
        specs = self._specs(probed, len(next(iter(probed.values()))))
        if specs is None:
            return None
        extents = Extents.of_images(self._inference, images, specs)
        extents.follow([node for position, node in enumerate(self.graph.nodes) if position in self.graph.live])
        return Sizing(extents, images[0].size)

    def _specs(self, inputs: Mapping[str, Sequence[Shape]], probes: int) -> dict[str, Spec] | None:
        """Specs of all tensors for inputs of these shapes; None where some node cannot run on them."""
        if probes not in self._weights:
            weights = self.graph.initializers.items()
            self._weights[probes] = {name: of_tensor(item, self._model.array, probes) for name, item in weights}
        specs = dict(self._weights[probes])
        for info in self.graph.inputs:
            kind = info.type.tensor_type
            declared = tuple(max(1, dim.dim_value) for dim in kind.shape.dim)
            specs[info.name] = Spec(kind.elem_type, tuple(inputs.get(info.name, (declared,) * probes)))
        for position, node in enumerate(self.graph.nodes):
            if position in self.graph.live and not self._infer(node, specs, probes):
                return None
        return specs

    def _infer(self, node: onnx.NodeProto, specs: dict[str, Spec], probes: int) -> bool:
        """Enter the specs of a node's outputs; False where it cannot run on its inputs."""
        found: Sequence[Spec | None]
        try:
            found = self._inference.infer(node, [specs.get(name) if name else None for name in node.input], probes)
        except InferenceFailed:
            if onnx.defs.has(node.op_type, node.domain):
                return False
            found = [Spec(0, None)] * len(node.output)
        specs.update({name: spec for name, spec in zip(node.output, found, strict=True) if spec is not None})
        return True
