"""Which image sizes the rewritten graph takes, and how large its tensors then are: by shape inference alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from onnxfc.draft import Draft
from onnxfc.images import Image
from onnxfc.offgrid import natively
from onnxfc.specs import Array, InferenceFailed, Shape, Spec, kind_of


class Sizing:
    """Asks finished nodes for their shapes at any image size."""

    def __init__(self, draft: Draft, nodes: Sequence[onnx.NodeProto], images: Sequence[Image]) -> None:
        self._inference = draft.inference
        self._nodes = [(node, kind_of(node)) for node in nodes]
        self._images = images
        made = {name for node in nodes for name in node.output}
        self._probed = {name: spec.shapes for name, spec in draft.specs.items() if spec.shapes is not None}
        self._given = {name: natively(spec) for name, spec in draft.specs.items() if name not in made}
        self._known: dict[tuple[int, ...], dict[str, Spec | None] | None] = {}

    def shapes(self, size: Sequence[int]) -> dict[str, Shape] | None:
        """Shapes of all tensors for images of ``size`` pixels; None where the graph cannot take that size."""
        specs = self._at(size)
        if specs is None:
            return None
        return {name: spec.shapes[0] for name, spec in specs.items() if spec is not None and spec.shapes is not None}

    def values(self, size: Sequence[int]) -> dict[str, Array]:
        """Small values that are computed from the image's size, for images of ``size`` pixels."""
        specs = (self._at(size) or {}).items()
        return {name: spec.values[0] for name, spec in specs if spec is not None and spec.values is not None}

    def _at(self, size: Sequence[int]) -> dict[str, Spec | None] | None:
        key = tuple(size)
        if key not in self._known:
            self._known[key] = self._inferred(key)
        return self._known[key]

    def _inferred(self, size: Sequence[int]) -> dict[str, Spec | None] | None:
        specs: dict[str, Spec | None] = dict(self._given)
        for image in self._images:
            specs[image.name] = Spec(image.dtype, (image.resized(size),))
        try:
            for node, kind in self._nodes:
                if self._disagree(node, specs):
                    return None
                found = self._inference.infer(node, [specs.get(name) for name in node.input], 1, kind)
                specs.update(zip(node.output, found, strict=True))
        except InferenceFailed:
            return None
        return specs

    def step(self, native: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
        """1 where the graph takes sizes off the stride grid too, else the stride: legal sizes are native + k * step.

        Some branches meet again only on the grid: a padded Conv and a pool of stride 2, say, round an odd size
        differently.
        """
        for offset in _offsets(max(stride)):
            if self.shapes([length + offset for length in native]) is None:
                return tuple(stride)
        return (1,) * len(stride)

    def over_a_period(self, native: Sequence[int], period: Sequence[int]) -> list[dict[str, Shape]]:
        """Shapes at the sizes from native on that the graph takes, until all that rounds has rounded in every way.

        One without any shapes where there are too many, or none is known.
        """
        if max(period) > _MANY:
            return [{}]
        sizes = [[length + more for length in native] for more in range(max(period))]
        longer = [max(native) + each for each in period]  # much longer on one axis than on the others
        sizes += [[*native[:axis], length * 2, *native[axis + 1 :]] for axis, length in enumerate(longer)]
        if min(native) > max(period):
            sizes.append([length - each for length, each in zip(native, period, strict=True)])
        return [shapes for shapes in map(self.shapes, sizes) if shapes is not None] or [{}]

    def _disagree(self, node: onnx.NodeProto, specs: Mapping[str, Spec | None]) -> bool:
        """Whether dims that are equal at the native size differ now: broadcasting would hide it.

        A dim that is 1 at every size is meant to be broadcast, also beside a map of native extent 1.
        """
        if node.op_type not in _SIDE_BY_SIDE:
            return False
        pairs = [(self._probed.get(name), specs.get(name)) for name in node.input]
        probed = self._probed.get(node.output[0])
        end_to_end = _joined_axis(node, probed[0] if probed else None)
        known = [(old, new.shapes[0]) for old, new in pairs if old is not None and new is not None and new.shapes]
        for old, now in known[1:]:
            first, first_now = known[0]
            for axis in range(1, min(len(old[0]), len(first[0])) + 1):
                if _always_one(old, axis) or _always_one(first, axis) or end_to_end == len(old[0]) - axis:
                    continue
                grew = now[-axis] != old[0][-axis] or first_now[-axis] != first[0][-axis]
                if old[0][-axis] == first[0][-axis] and grew and now[-axis] != first_now[-axis]:
                    return True
        return False


def _always_one(probed: Sequence[Shape], axis: int) -> bool:
    return {shape[-axis] for shape in probed} == {1}


def _joined_axis(node: onnx.NodeProto, shape: Shape | None) -> int | None:
    """The axis on which a Concat lays its inputs end to end: there they may be of any length."""
    if node.op_type != "Concat" or shape is None:
        return None
    axis = int(next(item.i for item in node.attribute if item.name == "axis"))
    return axis % len(shape)


_MANY = 256
"""Image sizes of one period."""

_SIDE_BY_SIDE = {"Add", "Concat", "Div", "Max", "Min", "Mul", "Sub", "Sum"}


def _offsets(stride: int) -> list[int]:
    """Sizes off the grid at which some layer rounds differently from its neighbours, over two strides."""
    if stride <= 16:
        return [offset for offset in range(1, 2 * stride) if offset != stride]
    powers = [2**k for k in range(stride.bit_length()) if 2**k < stride]
    once = {*powers, *(stride - power for power in powers), stride // 2 - 1, stride // 2 + 1} - {0, stride}
    return sorted(once | {offset + stride for offset in once})
