"""Which image sizes the rewritten graph takes, and how large its tensors then are: by shape inference alone."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxfc.draft import Draft
from onnxfc.images import Image
from onnxfc.specs import Inference, InferenceFailed, Shape, Spec


class Sizing:
    """Asks finished nodes for their shapes at any image size."""

    def __init__(self, draft: Draft, nodes: Sequence[onnx.NodeProto], images: Sequence[Image]) -> None:
        graph = draft.graph
        self._inference = Inference(graph.opsets, graph.model.ir_version)
        self._nodes = nodes
        self._images = images
        made = {name for node in nodes for name in node.output}
        self._given = {name: _first(spec) for name, spec in draft.specs.items() if name not in made}

    def shapes(self, size: Sequence[int]) -> dict[str, Shape] | None:
        """Shapes of all tensors for images of ``size`` pixels; None where the graph cannot take that size."""
        specs: dict[str, Spec | None] = dict(self._given)
        for image in self._images:
            specs[image.name] = Spec(image.dtype, (image.resized(size),))
        try:
            for node in self._nodes:
                found = self._inference.infer(node, [specs.get(name) for name in node.input], 1)
                specs.update(zip(node.output, found, strict=True))
        except InferenceFailed:
            return None
        return {name: spec.shapes[0] for name, spec in specs.items() if spec is not None and spec.shapes is not None}

    def step(self, native: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
        """1 where the graph takes sizes off the stride grid too, else the stride: legal sizes are native + k * step.

        Some branches meet again only on the grid: a padded Conv and a pool of stride 2, say, round an odd size
        differently.
        """
        for offset in _offsets(max(stride)):
            if self.shapes([length + offset % step for length, step in zip(native, stride, strict=True)]) is None:
                return tuple(stride)
        return (1,) * len(stride)


def _offsets(stride: int) -> list[int]:
    """Sizes off the grid at which some layer of stride 2 rounds differently from its neighbours."""
    powers = [2**k for k in range(stride.bit_length()) if 2**k < stride]
    return sorted({*powers, *(stride - power for power in powers), *(stride // 2 + d for d in (-1, 1))} - {0, stride})


def _first(spec: Spec) -> Spec:
    shapes = None if spec.shapes is None else spec.shapes[:1]
    return Spec(spec.dtype, shapes, None if spec.values is None else spec.values[:1])
