"""What one reading of a model comes to: its heads and outputs, or why it is refused."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxfc.builder.state import State
from onnxfc.claim.claim import Output
from onnxfc.errors import Refusal
from onnxfc.graph.index import needed
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.provenance import Provenance
from onnxfc.rewriter.detections import Tail
from onnxfc.shapes.extents import Extents
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.model_shapes import Sizing


@dataclass(frozen=True)
class Analysis:
    """The reading of the model that can be rewritten, else the likeliest, with its ``refusals``.

    ``original`` is the model with functions and constant Ifs inlined; it was walked with products of floats in place of
    those of integers. ``state`` holds the views of all
    its tensors and the nodes of the new graph; it belongs to the walk and may not be changed. ``tail``: what is left as
    it is behind it; ``original`` ends ahead of that.
    """

    original: ModelFile = field(repr=False)
    state: State = field(repr=False)
    reading: tuple[Image, ...]
    outputs: tuple[Output, ...]
    provenances: tuple[Provenance, ...] = field(repr=False)
    refusals: tuple[Refusal, ...]
    tail: Tail | None = field(default=None, repr=False)

    def sizing(self) -> Sizing:
        """Shapes of the rewritten graph at any size."""
        builder = self.state.builder
        extents = Extents.of_images(builder.inference, self.reading, builder.specs)
        ends = (*self.state.graph.outputs, *(self.tail.makes if self.tail else ()))
        extents.follow(needed(builder.nodes, ends))
        return Sizing(extents, self.reading[0].size)
