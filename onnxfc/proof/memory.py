"""What a proof will need, before it is begun: batches that are cut down to a few images, and an estimate of memory.

A model that is declared for thousands of images at once treats them alike: few tell as much. Where the batch is written
down in the graph too, those few are repeated for each run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import onnx

from onnxfc.claim.claim import Claim
from onnxfc.io.free_memory import free_memory
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.baked import native_shapes
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.providers import Engine
from onnxfc.proof.sessions import SLICE, RunError, Runner
from onnxfc.proof.sizes import Size

FEWEST = 4 * SLICE
"""Images of the smallest batch that is cut down."""
_WORTH = 1 << 24
"""Elements of an image, batch and all, from which on an estimate is made; less is there always."""
_MAKING = 48
"""Bytes that each element of an image takes while it is made, in float64, and held."""
_ARENA = 3
"""How much more than its largest operator a session takes."""

Pair = tuple[ModelFile, ModelFile, Claim, CheckOptions]


@dataclass(frozen=True)
class _Whole(CheckOptions):
    """Options for models that take whole batches only."""

    batch: int = 0

    @property
    def engine(self) -> Engine:
        return replace(super().engine, batch=self.batch)


def sliced(original: ModelFile, other: ModelFile, claim: Claim, options: CheckOptions) -> Pair:
    """The pair for batches of a few images; as it is where theirs is small."""
    batch = claim.inputs[0].batch
    if batch < FEWEST or any(image.batch != batch for image in claim.inputs):
        return original, other, claim, options
    images = tuple(replace(image, shape=(SLICE, *image.shape[1:])) for image in claim.inputs)
    few = replace(claim, inputs=images)
    pair = tuple(file.with_proto(_with_batch(file.proto, batch)) for file in (original, other))
    shapes = {image.name: image.shape for image in images}
    if all(_takes(file, shapes, batch, options.engine) for file in pair):
        return pair[0], pair[1], few, options
    own = {item.name: getattr(options, item.name) for item in fields(CheckOptions)}
    return original, other, few, _Whole(**own, batch=batch)


def _with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    weights = {tensor.name for tensor in copy.graph.initializer}
    for value in (*copy.graph.input, *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == batch and value.name not in weights:
            dims[0].dim_value = SLICE
    return copy


def _takes(file: ModelFile, shapes: Mapping[str, Sequence[int]], batch: int, engine: Engine) -> bool:
    """Whether a model runs so, and gives as many results."""
    try:
        runner = Runner(file, [], engine)
        feeds = {
            name: np.zeros([n or 1 for n in shapes.get(name, info.shape)], info.dtype)
            for name, info in runner.inputs.items()
        }
        found = runner.run(feeds)
    except RunError:
        return False
    return all(value.shape[:1] != (batch,) for value in found.values())


def shortage(model: onnx.ModelProto, claim: Claim, sizes: Sequence[Size]) -> str:
    """That the proof needs more memory than there is, and where; "" where it does not."""
    largest = max((size.pixels for size in sizes), key=math.prod, default=claim.native_size)
    elements = sum(math.prod(shape) for shape in claim.image_shapes(largest).values())
    if elements < _WORTH:
        return ""
    there = free_memory()
    grown = math.prod(largest) / math.prod(claim.native_size)
    needed = _MAKING * elements + _ARENA * grown * _widest(model, claim)
    if there is None or needed <= there:
        return ""
    size = "x".join(map(str, largest))
    batch = claim.inputs[0].batch
    told = f"the proof needs about {needed / 1e9:.0f} GB of memory for {batch} images of {size} px at once"
    return f"{told}, and {there / 1e9:.0f} GB are free here; take smaller sizes, or a smaller or free batch"


def _widest(model: onnx.ModelProto, claim: Claim) -> int:
    """Bytes of what the widest operator reads and writes at the native size."""
    shapes = native_shapes(model, claim)
    fixed = {tensor.name for tensor in model.graph.initializer}
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items() if name not in fixed}
    nodes = ([*node.input, *node.output] for node in model.graph.node)
    return max((sum(sizes.get(name, 0) for name in names) for names in nodes), default=0)
