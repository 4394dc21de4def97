"""Names for dims that follow the image: equal at every size that the graph takes, or not of one name."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

from onnxfc.claim.claim import Claim
from onnxfc.graph.index import Graph, Names
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.length import BATCH, Dim, Length, Sampled, along
from onnxfc.shapes.model_shapes import Sizing
from onnxfc.shapes.spec import Spec


class DimNames:
    """One dim_param for each way in which a dim follows the image.

    onnxruntime takes equal names for equal lengths: it fuses what they let it fuse, and gives one tensor the memory of
    another. So dims share a name only where they are equal at every size that the claim allows.
    """

    def __init__(self, images: Sequence[Image], graph: Graph, sizing: Sizing, claim: Claim) -> None:
        self._sizing = sizing
        self._legal = sizing.legal(claim.smallest_size, claim.period)
        self._names: dict[Hashable, str] = {}
        self._keys: dict[Dim, Hashable] = {}
        declared = {image.name: _declared(graph, image) for image in images}
        own = {info.name: info.type.tensor_type.shape.dim for info in graph.inputs if info.name not in declared}
        self._taken = Names(dim.dim_param for dims in own.values() for dim in dims if dim.dim_param)
        batches = {declared[image.name] for image in images if image.free_batch}
        sizes = claim.inputs[0].named(images[0].spatial)
        self._sizes = tuple(f"image_{name}" if name in batches else name for name in sizes)
        self._lengths = [[probe[axis] for probe in images[0].probes()] for axis in images[0].spatial]
        for image in images:
            dims = sizing.extents.dims(image.name) or ()
            if image.free_batch:
                self._taken.add(self._names.setdefault(self._key(dims[0]), declared[image.name] or "batch"))
            for name, axis in zip(self._sizes, image.spatial, strict=True):
                self._named(self._key(dims[axis]), name)  # of another size: dims of its own

    def of(self, tensor: str, spec: Spec, axis: int, place: int | None = None) -> int | str:
        """A number or a name; ``place``: which of its size-dependent axes it is, for an output."""
        assert spec.shapes is not None
        dims, lengths = self._sizing.extents.dims(tensor), [shape[axis] for shape in spec.shapes]
        if len(set(lengths)) == 1:
            return lengths[0]
        key = (tensor, *lengths) if dims is None else self._key(dims[axis])
        if key in self._names:
            return self._names[key]
        return self._named(
            key, self._hint(lengths) if place is None else f"map_{self._sizes[place % len(self._sizes)]}"
        )

    def _key(self, dim: Dim) -> Hashable:
        """What it is at every size."""
        if dim not in self._keys:
            self._keys[dim] = dim
            if isinstance(dim, Length) and not dim.holds(Sampled) and BATCH not in dim.axes:
                self._keys[dim] = tuple(along(dim, sizes) for sizes in self._legal)
        return self._keys[dim]

    def _named(self, key: Hashable, hint: str) -> str:
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
