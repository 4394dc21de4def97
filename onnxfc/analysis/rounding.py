"""Whether the branches of a network round odd sizes alike: some do only while their pools round up."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from onnxfc.graph.index import copied
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.model_shapes import Shapes


def meets_rounded_up(model: ModelFile, images: Sequence[Image]) -> bool:
    """Whether branches meet at every size as the pools are (``ceil_mode``), but not if these rounded down.

    AveragePool of 2 and stride 2 that rounds up has ceil(n / 2) elements, as a padded 3x3 Conv of stride 2 has; these
    two are the branches of ResNet-D.
    """
    if not any(_rounds_up(node) for node in model.proto.graph.node):
        return False
    shapes = Shapes(model)
    nodes = shapes.graph.live
    return _any_size(shapes, images, nodes) and not _any_size(shapes, images, [_down(node) for node in nodes])


def _rounds_up(node: onnx.NodeProto) -> bool:
    return any(item.name == "ceil_mode" and item.i == 1 for item in node.attribute)


def _down(node: onnx.NodeProto) -> onnx.NodeProto:
    if not _rounds_up(node):
        return node
    made = copied(node)
    next(item for item in made.attribute if item.name == "ceil_mode").i = 0
    return made


def _any_size(shapes: Shapes, images: Sequence[Image], nodes: Sequence[onnx.NodeProto]) -> bool:
    sizing = shapes.sizing(images, nodes)
    if sizing is None:
        return False
    period = [sizing.period(axis) for axis in range(len(images[0].size))]
    return set(sizing.steps(period)) == {1}
