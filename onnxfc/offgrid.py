"""What the draft's tensors are at a few image sizes off the grid of the probes.

The probes lie on a grid that all strides divide, where sizes follow one another in fixed ratios. What a graph computes
from the rest of a division (an amount that pads to a multiple of 32, whether a height is even) is the same at all of
them, and yet no constant. It is looked for only where something that follows the size is no longer seen to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx

from onnxfc.specs import Array, Inference, InferenceFailed, Spec

if TYPE_CHECKING:
    from onnxfc.images import Image

_OFFSETS = (
    *((1, 2, 3), (2, 1, 5), (3, 5, 1), (4, 7, 2), (5, 3, 4), (6, 4, 7), (7, 6, 8), (8, 9, 6)),
    *((15, 16, 31), (16, 31, 8), (31, 15, 16), (32, 63, 64), (63, 32, 33), (-1, -3, -2), (-4, -1, -3), (-7, -5, -6)),
    *((2, 4, 6), (4, 2, 8), (6, 8, 2), (8, 6, 4), (12, 20, 24), (20, 12, 16), (3, 6, 9), (6, 3, 12), (9, 12, 3)),
    *((8, 16, 24), (16, 8, 40), (24, 40, 8), (16, 32, 48), (48, 16, 32)),
)
"""Pixels added to the native size, axis by axis: odd ones, and multiples for graphs that take whole blocks only."""

_UNKNOWN = Spec(0, None)

_MOVES = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}
"""Operators that only pass values on: a dim that is the same at all probes does not depend on the image."""


class OffGrid:
    """Specs of drafted tensors at sizes off the grid, found when they are first asked for."""

    def __init__(self, inference: Inference, images: Sequence[Image]) -> None:
        self._inference = inference
        self._images = images
        self._done: list[onnx.NodeProto] = []
        self._specs: list[dict[str, Spec]] = []

    def values(self, name: str, nodes: Sequence[onnx.NodeProto], given: Mapping[str, Spec]) -> list[Array]:
        """The values of a tensor at those sizes where they are known. ``given``: the specs at the probes."""
        self._catch_up(nodes, given)
        found = (specs.get(name) for specs in self._specs)
        return [spec.values[0] for spec in found if spec is not None and spec.values is not None]

    def _catch_up(self, nodes: Sequence[onnx.NodeProto], given: Mapping[str, Spec]) -> None:
        done = len(self._done)
        if len(nodes) < done or any(a is not b for a, b in zip(self._done, nodes, strict=False)) or not self._specs:
            done, self._specs = 0, [self._at(offset) for offset in _OFFSETS if self._smallest() + min(offset) > 0]
        for specs in self._specs:
            for node in nodes[done:]:
                self._infer(specs, node, given)
        self._done = list(nodes)

    def _smallest(self) -> int:
        return min(length for image in self._images for length in image.size)

    def _at(self, offset: Sequence[int]) -> dict[str, Spec]:
        sizes = {
            image.name: [length + more for length, more in zip(image.size, offset, strict=False)]
            for image in self._images
        }
        return {image.name: Spec(image.dtype, (image.resized(sizes[image.name]),)) for image in self._images}

    def _infer(self, specs: dict[str, Spec], node: onnx.NodeProto, given: Mapping[str, Spec]) -> None:
        # A tensor that no drafted node makes is the same at every size.
        inputs = [specs.get(name) or natively(given.get(name, _UNKNOWN)) if name else None for name in node.input]
        try:
            found = self._inference.infer(node, inputs, 1)
        except InferenceFailed:  # not a size that it takes; what does not depend on this node is known all the same
            found = [_UNKNOWN] * len(node.output)
        specs.update({name: spec or _UNKNOWN for name, spec in zip(node.output, found, strict=True) if name})


def natively(spec: Spec) -> Spec:
    """What a tensor is at the native size alone."""
    shapes = None if spec.shapes is None else spec.shapes[:1]
    return Spec(spec.dtype, shapes, None if spec.values is None else spec.values[:1])


def may_follow(node: onnx.NodeProto, inputs: Sequence[Spec | None]) -> bool:
    """Whether a node's result may depend on the image's size though it is the same at all probes."""
    known = [spec for spec in inputs if spec is not None and spec.values is not None]
    if any(spec.follows for spec in known):
        return True
    return node.op_type not in _MOVES and any(spec.constant is None for spec in known)
