"""Names for dims that follow the image: equal at every size that the graph takes, or not of one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from onnxfc.graph import Graph, Names
from onnxfc.images import SIZE_NAMES, Image
from onnxfc.specs import Shape, Spec

Key = tuple[object, ...]


class DimNames:
    """One dim_param for each way in which a dim follows the image.

    onnxruntime takes equal names for equal lengths: it fuses what they let it fuse, and gives one tensor the memory of
    another. So dims share a name only where they agree at the probes and at the further image sizes of ``shapes``,
    which are all those of one period of the strides.
    """

    def __init__(self, images: Sequence[Image], graph: Graph, shapes: Sequence[Mapping[str, Shape]]) -> None:
        self._shapes = shapes
        self._images = {image.name for image in images}
        self._names: dict[Key, str] = {}
        self._told: dict[Key, int | str] = {}
        declared = {image.name: _declared(graph, image) for image in images}
        own = {info.name: info.type.tensor_type.shape.dim for info in graph.inputs if info.name not in declared}
        self._taken = Names(dim.dim_param for dims in own.values() for dim in dims if dim.dim_param)
        batches = {declared[image.name] for image in images if image.free_batch}
        self._sizes = tuple(f"image_{name}" if name in batches else name for name in SIZE_NAMES[len(images[0].spatial)])
        self._lengths = [[probe[axis] for probe in images[0].probes()] for axis in images[0].spatial]
        for image in images:
            spec = Spec(image.dtype, image.probes())
            if image.free_batch:
                name = declared[image.name] or "batch"
                self._names.setdefault(tuple(shape[0] for shape in image.probes()), name)
                self._taken.add(name)
            for name, axis in zip(self._sizes, image.spatial, strict=True):
                self._named(self._key(image.name, spec, axis), name)  # of another size: dims of its own

    def of(self, tensor: str, spec: Spec, axis: int, place: int | None = None) -> int | str:
        """A number or a name; ``place``: which of its size-dependent axes it is, for an output."""
        further = tuple(shapes.get(tensor) for shapes in self._shapes)
        asked = (spec.shapes, axis, place, tensor if None in further else further)
        if asked not in self._told:
            self._told[asked] = self._of(tensor, spec, axis, place)
        return self._told[asked]

    def _of(self, tensor: str, spec: Spec, axis: int, place: int | None) -> int | str:
        assert spec.shapes is not None
        key, lengths = self._key(tensor, spec, axis), [shape[axis] for shape in spec.shapes]
        if {length for length in key if isinstance(length, int)} == {lengths[0]}:
            return lengths[0]
        if key in self._names:
            return self._names[key]
        hint = self._hint(lengths) if place is None else f"map_{self._sizes[place % len(self._sizes)]}"
        return self._named(key, hint)

    def _key(self, tensor: str, spec: Spec, axis: int) -> Key:
        found = [shapes.get(tensor) for shapes in self._shapes]
        probed = tuple(shape[axis] for shape in spec.shapes or ())
        if probed in self._names:  # a batch, which no size changes
            return probed
        if any(shape is None or len(shape) != spec.rank for shape in found):
            return (*probed, "" if tensor in self._images else tensor)  # nothing is known between the probes
        return (*probed, *(shape[axis] for shape in found if shape is not None))

    def _named(self, key: Key, hint: str) -> str:
        if key not in self._names:
            self._names[key] = self._taken.unused(hint)
        return self._names[key]

    def _hint(self, lengths: Sequence[int]) -> str:
        """What a dim is called that is so much shorter than the image."""
        for name, own in zip(self._sizes, self._lengths, strict=True):
            growth = [(b - a, y - x) for a, b, x, y in zip(own, own[1:], lengths, lengths[1:], strict=False)]
            ratios = {Fraction(*pair) if pair[1] else None for pair in growth}
            ratio = ratios.pop()
            if not ratios and ratio is not None and ratio > 0:
                return f"{name}_by_{ratio}".replace("/", "_of_")
        return "size"


def _declared(graph: Graph, image: Image) -> str:
    """The name that the original gives an image's batch."""
    info = next(info for info in graph.inputs if info.name == image.name)
    return str(info.type.tensor_type.shape.dim[0].dim_param)
