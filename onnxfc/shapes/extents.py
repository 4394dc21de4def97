"""How long every axis of a graph's tensors is at any image size, node by node, and what is computed from it.

Each dim is a number, or a :class:`onnxfc.shapes.length.Length`; so is each element of the small values that a graph
computes from shapes. What the rules say is compared with onnx's shape inference at the probes. Where an operator has no
rule, dims that are as long as an input's at all probes are that input's; what is still unknown then is asked for size
by size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxfc.graph.op_kinds import LENGTHS
from onnxfc.shapes.dim_rules import dims_of
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.length import BATCH, Length, Number, Sizes, at, bounds, pixels
from onnxfc.shapes.node_call import FEW, Ask, Dims, NodeCall, Values, exact
from onnxfc.shapes.spec import Array, Spec
from onnxfc.shapes.value_rules import values_of


class Extents:
    """Closed forms of the tensors that nodes make.

    ``images``: dims of the images. ``probes``: image sizes at which ``specs`` tells shapes and values.
    """

    def __init__(
        self, inference: Inference, images: Mapping[str, Dims], probes: Sequence[Sizes], specs: Mapping[str, Spec]
    ) -> None:
        self.inference = inference
        self.specs = specs
        self.probes = probes
        self._images = images
        self._probed: dict[Length, tuple[Any, ...]] = {}
        self.forget()

    @staticmethod
    def of_images(inference: Inference, images: Sequence[Image], specs: Mapping[str, Spec]) -> Extents:
        """Of a graph on these images, with specs at their probes. Those of another size have axes of their own, but for
        those that grow to scale with the first."""
        first, dims = images[0], {}
        probes: list[dict[int, int]] = [{BATCH: shape[0]} for shape in first.probes()]
        sizes = list(dict.fromkeys(image.size for image in images if image.scale == 1))
        for image in images:
            shape, to_scale = list[Any](image.shape), image.scale != 1
            own = 0 if to_scale else sizes.index(image.size) * len(first.size)
            for k, axis in enumerate(image.spatial, own):
                shape[axis] = math.floor(pixels(k) * image.scale) if to_scale else pixels(k)
                if not to_scale:
                    for probe, probed in zip(probes, image.probes(), strict=True):
                        probe[k] = probed[axis]
            if image.free_batch:
                shape[0] += pixels(BATCH) - first.shape[0]
            dims[image.name] = tuple(shape)
        return Extents(inference, dims, probes, specs)

    def forget(self) -> None:
        """Nodes were changed: begin again when something is asked for."""
        self._nodes: list[onnx.NodeProto] = []
        self._asks: list[Sequence[Ask]] = []
        self._dims: dict[str, Dims | None] = dict(self._images)
        self._values: dict[str, Values | None] = {}

    def follow(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Know these nodes; those that are known already, but were taken back, are forgotten."""
        known = min(len(self._nodes), len(nodes))
        while known and self._nodes[known - 1] is not nodes[known - 1]:
            known -= 1
        for name in (name for node in self._nodes[known:] for name in node.output):
            self._dims.pop(name, None)
            self._values.pop(name, None)
        del self._nodes[known:], self._asks[known:]
        for node in nodes[known:]:
            self._add(node)

    def dims(self, name: str) -> Dims | None:
        """The dims of a tensor; None where they are unknown."""
        if name not in self._dims:
            spec = self.specs.get(name)
            self._dims[name] = None if spec is None or spec.shapes is None or _varies(spec) else spec.native
        return self._dims[name]

    def values(self, name: str) -> Values | None:
        """The elements of a small tensor; None where they are unknown."""
        if name not in self._values:
            spec = self.specs.get(name)
            self._values[name] = None if spec is None or spec.constant is None else exact(spec.constant)
        return self._values[name]

    def elsewhere(self, name: str) -> list[Array] | None:
        """What a computed value is at sizes between the probes; empty where it is the same at every size, and None
        where that is not known."""
        spec, values = self.specs[name], self.values(name)
        if values is None:
            return None
        lengths = {item for item in values.flat if isinstance(item, Length)}
        if all((found := bounds(item)) and found[0] == found[1] for item in lengths):
            return []
        axes = sorted(frozenset[int]().union(*(item.axes for item in lengths)))
        most = math.lcm(*(item.period(axis) for item in lengths for axis in axes))
        sizes = [
            {axis: size + more for axis, size in self.probes[0].items()} for more in range(1, min(most, _MOST) + 1)
        ]
        kind = helper.tensor_dtype_to_np_dtype(spec.dtype)
        return [np.array([at(item, each) for item in values.flat], kind).reshape(values.shape) for each in sizes]

    @property
    def asks(self) -> list[Ask]:
        """All that the nodes ask of the image's size."""
        return list(dict.fromkeys(item for found in self._asks for item in found))

    @property
    def all_dims(self) -> dict[str, Dims]:
        """The dims of the images and of all that is read and made, where they are known."""
        return {name: dims for name, dims in self._dims.items() if dims is not None}

    @property
    def computed(self) -> Iterator[Length]:
        """Lengths that the graph computes with."""
        known = (values for values in self._values.values() if values is not None)
        return (item for values in known for item in values.flat if isinstance(item, Length))

    def _add(self, node: onnx.NodeProto) -> None:
        call = NodeCall(self, node)
        follows = any(isinstance(dim, Length) for k in call.inputs for dim in call.dims(k) or ())
        made = dims_of(call) if follows or any(spec is not None and _varies(spec) for spec in call.made) else None
        for k, name in enumerate(node.output):
            if name:
                self._dims[name] = self._checked(call, k, made)
                self._values[name] = self._valued(call, k)
        self._nodes.append(node)
        self._asks.append(call.asks)

    def _checked(self, call: NodeCall, output: int, made: Sequence[Dims] | None) -> Dims | None:
        """What a rule says, if it is so at the probes; else what else can be known."""
        spec = call.made[output]
        if spec is None or spec.shapes is None:
            return None
        found = made[output] if made is not None and output < len(made) else None
        if found is not None and not self._agree(found, zip(*spec.shapes, strict=True)):
            found = None
        if not _varies(spec):
            for dim, length in zip(found or (), spec.native, strict=False):
                call.bond(dim, length)  # smaller only where the image is too small
            return spec.native
        if found is None and made is None:
            found = call.like_inputs(spec.shapes)
        if found is not None:
            return found
        found = call.sampled_dims(output)
        return found if found is not None and self._agree(found, zip(*spec.shapes, strict=True)) else None

    def _valued(self, call: NodeCall, output: int) -> Values | None:
        spec = call.made[output]
        if spec is None or spec.shapes is None or spec.values is None or _varies(spec):
            return None
        if spec.values[0].size > FEW or spec.values[0].dtype == object:
            return None
        if call.node.op_type not in LENGTHS and not any(call.moving(k) for k in call.inputs):
            return None if spec.alike is None else exact(spec.alike)
        for rule in (values_of, NodeCall.sampled_values):
            found = rule(call, output)
            if found is not None and self._agree(found.flat, zip(*(v.flat for v in spec.values), strict=True)):
                return found
        return None

    def _agree(self, found: Any, rows: Any) -> bool:
        """Whether closed forms are what is known at the probes."""
        return all(self._at_probes(item) == row[: len(self.probes)] for item, row in zip(found, rows, strict=True))

    def _at_probes(self, item: Number) -> tuple[Any, ...]:
        if not isinstance(item, Length):
            return (item,) * len(self.probes)
        if item not in self._probed:
            self._probed[item] = tuple(item.at(sizes) for sizes in self.probes)
        return self._probed[item]


_MOST = 64
"""So many sizes at most are looked at to see how a value moves."""


def _varies(spec: Spec) -> bool:
    return spec.shapes is not None and any(shape != spec.shapes[0] for shape in spec.shapes)
