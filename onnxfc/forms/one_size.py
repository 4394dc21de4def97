"""A rewritten model for images of one size: every length is a number, and what computed lengths is gone.

The graph computes what it computed at that size, node by node.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxfc.claim.claim import Claim
from onnxfc.errors import UsageError
from onnxfc.forms.draft import Draft
from onnxfc.forms.drop_idle import drop_idle
from onnxfc.forms.fold_sizes import fold_sizes
from onnxfc.graph.index import Graph, inputs_of
from onnxfc.graph.op_kinds import LENGTHS
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape

_BATCHES = (0, 1, 96)
"""What is added to a free batch to see which lengths follow it; nothing is computed at these."""


def at_one_size(model: ModelFile, claim: Claim, size: Sequence[int], free_batch: bool) -> Draft:
    """The rewritten model for images of ``size`` pixels; the batch is the original's, or 1, unless it stays free.

    Raises UsageError where the model does not run at this size.
    """
    graph, shapes = Graph(model.proto), Shapes(model)
    more = _BATCHES if free_batch else _BATCHES[:1]
    specs = shapes.specs(_inputs(graph, claim, size, more), len(more))
    if specs is None:
        told = "x".join(map(str, size))
        raise UsageError(f"fixed size {told}: the rewritten model does not run on images of this size")
    named = {item.rewritten for item in claim.boundaries} | {item.rewritten for item in claim.layers}
    named |= {item.name for item in claim.outputs}
    kept = frozenset(graph.outputs) | (named & graph.producers.keys()) | _left(graph, claim)
    return drop_idle(fold_sizes(Draft(model, graph, tuple(graph.live), specs, kept)))


def _left(graph: Graph, claim: Claim) -> set[str]:
    """What detections are made of, up to the outputs that the claim tells of: it stays as it is."""
    told, found = {item.name for item in claim.outputs}, list(claim.detections)
    for name in found:
        node = graph.producers.get(name)
        read = () if node is None or node.op_type in LENGTHS else inputs_of(node)
        found.extend(item for item in read if item not in told and item not in found)
    return set(found) & graph.producers.keys()


def _inputs(graph: Graph, claim: Claim, size: Sequence[int], more: Sequence[int]) -> dict[str, list[Shape]]:
    """Shapes of all inputs at each batch; other inputs share the batch where their first dim is called so."""
    images = claim.image_shapes(size)
    dims = {info.name: info.type.tensor_type.shape.dim for info in graph.inputs}
    batch = next(iter(claim.inputs)).shape[0]
    names = {dims[name][0].dim_param for name in images if not dims[name][0].dim_value} - {""}
    found = {}
    for name, own in dims.items():
        shape = images.get(name) or tuple(max(1, dim.dim_value) for dim in own)
        follows = bool(own) and not own[0].dim_value and (name in images or own[0].dim_param in names)
        found[name] = [(batch + extra, *shape[1:]) if follows else shape for extra in more]
    return found
