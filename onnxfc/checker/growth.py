"""How the tensors of a second model grow with the image, beside what they are in the original at its native size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import onnx

from onnxfc.claim.claim import ImageInput
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape

FAR = 40320
"""Pixels by which images grow to see how fast a map grows: 2^7 * 3^2 * 5 * 7, a multiple of all common strides."""


class Growth:
    """Shapes of two models. ``before``: of the original's tensors; ``near`` and ``far``: of the other one's, at the
    native size and where the image is larger by ``FAR`` pixels. Empty where they cannot be told. ``declared``: how many
    axes the other model says that its outputs have."""

    def __init__(self, original: ModelFile, other: ModelFile, images: Sequence[ImageInput]) -> None:
        self._images, self._shapes, self._inputs = images, Shapes(other), other.proto.graph.input
        self.native = tuple(images[0].shape[axis] for axis in images[0].spatial)
        self.before = Shapes(original).at({image.name: image.shape for image in images}) or {}
        self.producers = {made: node for node in other.proto.graph.node for made in node.output}
        self.near, self.far = self.at(0) or {}, self.at(FAR) or {}
        self.declared = {info.name: len(info.type.tensor_type.shape.dim) for info in other.proto.graph.output}

    def at(self, *more: int) -> Mapping[str, Shape] | None:
        """Shapes of the other model's tensors for images so many pixels larger than native, on all axes or each."""
        each = more if len(more) == len(self.native) else more * len(self.native)
        return self._shapes.at({image.name: image.grown(each) for image in self._images})

    def also(self, made: str, name: str, channels: int) -> None:
        """Count in a tensor that is made of another one, with so many channels of it."""
        self.near, self.far = (
            {**shapes, made: (shapes[name][0], channels, *shapes[name][2:])} if name in shapes else shapes
            for shapes in (self.near, self.far)
        )

    @cached_property
    def takes_more(self) -> bool:
        """Whether all of the images' axes that should be are free."""
        return bool(self.near and self.far) and all(self._free)

    @property
    def unknown(self) -> bool:
        """Whether it takes images of other sizes, but its shapes there cannot be told."""
        return any(self._free) and not self.near

    def frees(self, original: ModelFile) -> bool:
        """Whether all axes that should be are open in the other model alone, though it does not run at every size; its
        shapes are known at the native one."""
        own = self._open(original.proto.graph.input)
        return bool(self.near) and not self.takes_more and all(self._free) and not any(own)

    @property
    def _free(self) -> list[bool]:
        return self._open(self._inputs)

    def _open(self, inputs: Iterable[onnx.ValueInfoProto]) -> list[bool]:
        """Which of the images' axes that should be free these declare so."""
        declared = {info.name: info.type.tensor_type.shape.dim for info in inputs}
        return [
            declared[image.name][axis].dim_value <= 0
            for image in self._images
            for axis in image.spatial
            if axis < len(declared[image.name])
        ]

    def of(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of a tensor of the other model that grow with the image, and by how much over FAR pixels."""
        near, far = self.near.get(name), self.far.get(name)
        if near is None or far is None or len(near) != len(far):
            return (), ()
        axes = tuple(axis for axis in range(len(near)) if far[axis] != near[axis])
        return axes, tuple(far[axis] - near[axis] for axis in axes)

    def grows(self, name: str) -> bool:
        """Whether a tensor of the other model is larger for larger images."""
        return bool(self.of(name)[0])
