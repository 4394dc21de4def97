"""--form gemm: a network whose head is made of Convs, with Gemms in their place, at its native size."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from onnxfc.builder.state import Replacement
from onnxfc.claim.claim import PREFIX, Claim, ImageInput, Output
from onnxfc.errors import NothingToRewrite, Refusal, UsageError
from onnxfc.forms import weight_order
from onnxfc.forms.as_rows import Replaced, as_rows
from onnxfc.forms.draft import finished
from onnxfc.forms.one_size import at_one_size
from onnxfc.forms.own_shape import in_own_shape, of_one_cell
from onnxfc.graph.index import Graph, label, refill
from onnxfc.graph.inline_functions import sorted_nodes
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.shapes.image_inputs import images, native_inputs


@dataclass(frozen=True)
class Rows:
    """The model with Gemms, and what is claimed of it: that it computes what the given one computes at this size."""

    file: ModelFile = field(repr=False)
    claim: Claim
    replacements: tuple[Replacement, ...]


def rows(given: ModelFile, options: RewriteOptions) -> Rows:
    """The given model with Gemms; a rewritten one gets the original's output shape back. Raises NothingToRewrite."""
    given = sorted_nodes(given)
    graph, metadata = Graph(given.proto), {item.key: item.value for item in given.proto.metadata_props}
    told = Claim.from_metadata(metadata)
    if told is not None and told.fixed_size not in ((), told.native_size):
        size = "x".join(map(str, told.fixed_size))
        raise UsageError(f"--form gemm is for the native size; this model takes images of {size} px alone")
    inputs = _inputs(graph, options) if told is None else told.inputs
    native = tuple(inputs[0].shape[axis] for axis in inputs[0].spatial)
    first = next(info for info in graph.inputs if info.name == inputs[0].name)
    free = not first.type.tensor_type.shape.dim[0].dim_value
    draft = at_one_size(given, Claim.of_one_size(native, inputs, ()), native, free)
    cells = [item for item in (told.outputs if told else ()) if of_one_cell(draft, item)]
    draft, convs = as_rows(in_own_shape(draft, cells), weight_order.read(metadata))
    if not any(conv.stored for conv in convs):
        raise _nothing(native, convs)
    proto = finished(draft)
    refill(proto, metadata_props=[item for item in proto.metadata_props if not item.key.startswith(PREFIX)])
    maps = {item.name for item in cells}
    outputs = [Output(name, "map" if name in maps else "global") for name in graph.outputs]
    replaced = tuple(_replaced(conv) for conv in convs if conv.stored)
    return Rows(given.with_proto(proto), Claim.of_one_size(native, inputs, outputs, fixed=native), replaced)


def _nothing(native: tuple[int, ...], convs: tuple[Replaced, ...]) -> NothingToRewrite:
    """That no Conv is a Gemm, and why not."""
    why = f"no Conv's kernel covers its whole map at {'x'.join(map(str, native))} px: none is an FC layer there"
    refusals = [Refusal("no-covering-conv", "", why, "give another native size with --size HxW")]
    if convs:
        why = "is an FC layer whose weight the graph computes, not one that is stored"
        advice = "leave out --form gemm: the Convs compute the same"
        refusals = [Refusal("form-fc-left", label(conv.node), why, advice) for conv in convs]
    return NothingToRewrite(str(refusals[0]), tuple(refusals))


def _replaced(conv: Replaced) -> Replacement:
    outputs, channels, *kernel = conv.weight
    size = "x".join(map(str, kernel))
    name = conv.node.op_type
    made = {"Conv": "Gemm", "ConvInteger": "MatMulInteger"}.get(name, "QGemm")
    return Replacement(
        label(conv.node), f"{name} {size} {channels}→{outputs}", f"{made} {channels * prod(kernel)}→{outputs}"
    )


def _inputs(graph: Graph, options: RewriteOptions) -> tuple[ImageInput, ...]:
    found = images(graph, native_inputs(graph, options.size), False, options.size, options.inputs)
    if isinstance(found, Refusal):
        raise NothingToRewrite(str(found), (found,))
    return tuple(image.as_input() for image in found[0])
