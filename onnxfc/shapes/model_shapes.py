"""Shapes of a model's tensors: by shape inference at one image size, or in closed form at all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, reduce
from operator import and_
from typing import Any

import numpy as np
import onnx

from onnxfc.graph.block_weights import blocks_on_floats
from onnxfc.graph.channel_blocks import shaped_as
from onnxfc.graph.index import Graph
from onnxfc.graph.quantised_operators import in_own_domain, on_floats
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.extents import Extents
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.length import BATCH, Length, Sizes, at
from onnxfc.shapes.node_call import Ask
from onnxfc.shapes.spec import Array, InferenceFailed, Shape, Spec, of_tensor


class Shapes:
    """Asks a model for its shapes; weights are not read."""

    def __init__(self, model: ModelFile) -> None:
        # of operators on integers, and of those in blocks, inference knows nothing
        model = in_own_domain(on_floats(blocks_on_floats(shaped_as(model))[0]))
        self.graph = Graph(model.proto)
        self._model = model
        self._inference = Inference.of(self.graph.opsets, model.proto.ir_version)
        self._weights: dict[int, dict[str, Spec]] = {}

    def at(self, inputs: Mapping[str, Shape]) -> dict[str, Shape] | None:
        """Shapes of all tensors that inference can tell, for inputs of these shapes; None where the model does not
        take them. Dims of other inputs that are free count as 1."""
        specs = self.specs({name: (shape,) for name, shape in inputs.items()}, 1)
        if specs is None:
            return None
        found = {name: spec.native for name, spec in specs.items() if spec.shapes is not None}
        return None if any(min(shape, default=1) < 0 for shape in found.values()) else found

    def sizing(self, images: Sequence[Image], nodes: Sequence[onnx.NodeProto] | None = None) -> Sizing | None:
        """The same at all image sizes, with other ``nodes`` in place of the live ones if given; None where the model
        does not take those sizes that are looked at."""
        probed = {image.name: image.probes() for image in images}
        specs = self.specs(probed, len(next(iter(probed.values()))), nodes)
        if specs is None:
            return None
        extents = Extents.of_images(self._inference, images, specs)
        extents.follow(self.graph.live if nodes is None else nodes)
        return Sizing(extents, images[0].size)

    def specs(
        self, inputs: Mapping[str, Sequence[Shape]], probes: int, nodes: Sequence[onnx.NodeProto] | None = None
    ) -> dict[str, Spec] | None:
        """Specs of all tensors for inputs of these shapes, by the live nodes or others; None where some node cannot run
        on them."""
        if probes not in self._weights:
            weights = self.graph.initializers.items()
            known = {name: of_tensor(item, self._model.array, probes) for name, item in weights}
            for sparse in self._model.proto.graph.sparse_initializer:
                shape = tuple(sparse.dims)
                known[sparse.values.name] = Spec(int(sparse.values.data_type), (shape,) * probes)
            self._weights[probes] = known
        specs = dict(self._weights[probes])
        for info in self.graph.inputs:
            kind = info.type.tensor_type
            declared = tuple(max(1, dim.dim_value) for dim in kind.shape.dim)
            specs[info.name] = Spec(kind.elem_type, tuple(inputs.get(info.name, (declared,) * probes)))
        nodes = self.graph.live if nodes is None else nodes
        return specs if all(self._infer(node, specs, probes) for node in nodes) else None

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


_MOST = 1 << 12
"""So many sizes of an axis are looked at, at most."""


def fits(asks: Iterable[Ask], sizes: Sizes) -> Any:
    """Whether all that is asked of the image's size is so."""
    return reduce(and_, (ask.holds(sizes) for ask in asks), np.True_)


class Sizing:
    """Sizes of a graph whose dims are known. ``native``: the image's size that its weights are made for."""

    def __init__(self, extents: Extents, native: Sequence[int]) -> None:
        self.extents = extents
        self._native = extents.probes[0]
        self._rank, self._natives = len(native), native

    @cached_property
    def asks(self) -> tuple[Ask, ...]:
        """All that is asked of the image's size: by the nodes, and that nothing runs out of elements."""
        return *self.extents.asks, *(Ask("room", length, 1) for length in self._lengths)

    def shapes(self, size: Sequence[int]) -> dict[str, Shape] | None:
        """Shapes of all tensors for images of ``size`` pixels; None where the graph cannot take that size."""
        sizes = self._moved(dict(enumerate(size)))
        if not self._takes(sizes):
            return None
        dims = {name: self.extents.dims(name) for name in self.extents.specs}
        return {name: tuple(int(at(dim, sizes)) for dim in known) for name, known in dims.items() if known is not None}

    def _moved(self, size: Sizes) -> Sizes:
        """These lengths of the image; images of other sizes grow by as many pixels."""
        more = {axis: size[axis] - self._native[axis] for axis in size}
        return {axis: n + more.get(axis % self._rank, 0) if axis >= 0 else n for axis, n in self._native.items()}

    def _takes(self, sizes: Sizes) -> Any:
        """Whether the graph runs: what is asked is so, and nothing has run out of elements."""
        return fits((item for item in self.asks if item.kind != "still"), sizes)

    def period(self, axis: int) -> int:
        """After so many pixels all lengths have grown by a whole number, and what is computed goes on as before."""
        axes = [other for other in self._native if other >= 0 and other % self._rank == axis]
        lengths = self._lengths.union(self.extents.computed)
        return math.lcm(1, *(length.period(other) for length in lengths for other in axes))

    def steps(self, period: Sequence[int]) -> tuple[int, ...]:
        """1 where the graph takes all sizes from the native one on, else the period: legal are native + k * step.

        Some branches meet again only on the grid: a padded Conv and a pool of stride 2, say, round an odd size
        differently.
        """
        asks = [item for item in self.asks if item.kind != "room"]
        ranges = {axis: self._native[axis] + np.arange(min(_MOST, 2 * more)) for axis, more in enumerate(period)}
        always = all(np.all(fits(asks, self._moved(sizes))) for sizes in _sweeps(ranges))
        return (1,) * len(period) if always else tuple(period)

    def smallest(self, low: Sequence[int], steps: Sequence[int]) -> tuple[int, ...]:
        """The smallest size of each axis, not below ``low``, from which on the graph runs in steps up to native; all of
        them grow by as many steps where it does not run at all of them at once, as for a number of places."""
        found = []
        for axis, (first, step) in enumerate(zip(low, steps, strict=True)):
            sizes = np.arange(self._native[axis], first - 1, -step)
            runs = np.broadcast_to(self._takes(self._moved({axis: sizes})), sizes.shape)
            count = len(sizes) if runs.all() else max(1, int(np.argmin(runs)))
            found.append(int(sizes[count - 1]))
        while found != list(self._natives) and not self._takes(self._moved(dict(enumerate(found)))):
            found = [min(n + step, most) for n, step, most in zip(found, steps, self._natives, strict=True)]
        return tuple(found)

    def legal(self, smallest: Sequence[int], period: Sequence[int]) -> list[Sizes]:
        """Sizes that the graph takes, in which all that rounds has rounded in every way: along each axis, and along
        all of them."""
        ranges = {}
        for axis in self._native.keys() - {BATCH}:
            k, native = axis % self._rank, self._native[axis]
            ranges[axis] = np.arange(native - self._native[k] + smallest[k], native + 2 * period[k])[-_MOST:]
        return [self._taken({**self._native, **sizes}) for sizes in _sweeps(ranges)]

    def _taken(self, sizes: Sizes) -> Sizes:
        """Those of many sizes that the graph takes."""
        runs, *axes = np.broadcast_arrays(self._takes(sizes), *sizes.values())
        return {axis: found[runs] for axis, found in zip(sizes, axes, strict=True)}

    @cached_property
    def _lengths(self) -> frozenset[Length]:
        """All lengths of axes; each once."""
        shapes = set(self.extents.all_dims.values())
        return frozenset(dim for dims in shapes for dim in dims if isinstance(dim, Length))


def _sweeps(ranges: Mapping[int, Array]) -> list[dict[int, Any]]:
    """Each range for itself, and all at once, as far as the shortest goes."""
    every = min(len(sizes) for sizes in ranges.values())
    return [*({axis: sizes} for axis, sizes in ranges.items()), {axis: sizes[:every] for axis, sizes in ranges.items()}]
