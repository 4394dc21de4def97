"""What a file that takes images of any size says itself of its tensors' sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxfc.graph.index import Graph
from onnxfc.graph.op_kinds import RESAMPLING
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape, Spec

_CHOOSE_SIZE = {*RESAMPLING, "CenterCropPad", "GridSample", "Slice"}
"""Operators whose result may be as large as is written down. Pools are not: those of all places are told as such."""


def own_sizes(model: ModelFile, graph: Graph, images: Sequence[Image]) -> Mapping[str, Sequence[Shape]]:
    """The shapes of all tensors at the probes, where the file runs there; empty elsewhere, and where its batch is to be
    another than it says."""
    batch = {info.name: info.type.tensor_type.shape.dim[0].dim_value for info in graph.inputs}
    if any(image.free_batch and batch[image.name] > 0 for image in images):
        return {}
    probes = {image.name: image.probes() for image in images}
    specs = Shapes(model).specs(probes, len(images[0].probes())) or dict[str, Spec]()
    return {name: spec.shapes for name, spec in specs.items() if spec.shapes is not None}


def one_sized(graph: Graph, sizes: Mapping[str, Sequence[Shape]]) -> frozenset[str]:
    """The maps that are resized to 4x4 places, say, or cut out of the first rows and columns, one axis after the other,
    whatever the image's size: figures of the whole image."""
    found = set[str]()
    for node in reversed(graph.live):
        name, data = node.output[0], node.input[0] if node.input else ""
        if node.op_type in _CHOOSE_SIZE and name in sizes and _follow(sizes.get(data, ())):
            readers = {item.output[0] for item in graph.readers.get(name, ()) if item.op_type != "Shape"}
            cut = node.op_type == "Slice" and bool(readers) and readers <= found
            found.update([name] if cut or not _follow(sizes[name]) else ())
    return frozenset(found)


def _follow(shapes: Sequence[Shape]) -> bool:
    """Whether they depend on the image's size."""
    return len({shape[1:] for shape in shapes}) > 1
