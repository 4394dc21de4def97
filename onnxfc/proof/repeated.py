"""What looks at the whole image in a trunk, on native features repeated: twice as many along each axis, no others.

The original's trunk often has the native size written down where it mixes places: no larger image runs through it, or
its sums grow. But what such a part makes of features that are repeated is, place by place, what it makes natively of
these features alone: a mean is the same, and so is a sum that keeps its native scale. Else it is what the original's
own part makes of them, with as many places as there are wherever it has their native number. So this part is cut out of
both models, from the last tensors before which places look at their neighbours, and asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxfc.claim.claim import Boundary, Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally, nearest
from onnxfc.proof.baked import SAME_REPEATED, Shapes, place_by_place, unbiased
from onnxfc.proof.every_size import Begin, for_every_size, readings
from onnxfc.proof.evidence import Evidence
from onnxfc.proof.folded import apart
from onnxfc.proof.head import begin_at, part_of, plan_head
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner


@dataclass(frozen=True)
class Mixing:
    """A part of the trunk that mixes places: from the maps ``begins`` to a tensor of either model, which has the axes
    ``spatial`` in the rewritten one."""

    original: str
    rewritten: str
    spatial: tuple[int, ...]
    begins: tuple[str, ...]
    boundary: Boundary | None = None


def compare_repeated(
    pair: tuple[ModelFile, ModelFile],
    parts: Sequence[Mixing],
    shapes: Shapes,
    evidence: Evidence,
    options: CheckOptions,
) -> ParityResult:
    """Ask the rewritten model's parts."""
    original, rewritten = pair
    sample, tally = evidence.samples[0], Tally(options, evidence.noise)
    tensors = sorted({name for part in parts for name in (*part.begins, part.original)})
    native = Runner(original, tensors, options.engine).run(sample.feeds)
    for part in parts:
        scale = evidence.scales.get((part.original, sample.kind.name))
        maps = {name: native[name] for name in part.begins}
        model = None if scale is None or scale.problem else _cut(rewritten.proto, part.rewritten, part.begins, maps)
        if model is None or scale is None:
            continue
        twice = {name: _twice(value, range(2, value.ndim)) for name, value in maps.items()}
        want = native[part.original] if part.boundary is None else apart(part.boundary, native[part.original])
        want = _twice(want, part.spatial)
        with suppress(RunError):  # made of more than these maps
            got = Runner(rewritten.with_proto(model), (), options.engine).run(twice)[part.rewritten]
            where = "on native features repeated"
            if tally.exceeds(part.rewritten, got, want, scale, sample.kind.name):
                own = [want, *_own(original, part, maps, twice, shapes, options)]
                if len(own) == 1:
                    continue  # how the original's own part goes on is not known
                want = nearest(got, own)
            tally.compare(part.rewritten, got, want, scale, sample.kind.name, where)
    return tally.result()


def _own(
    original: ModelFile,
    part: Mixing,
    maps: Mapping[str, Array],
    twice: Arrays,
    shapes: Shapes,
    options: CheckOptions,
) -> Iterator[Array]:
    """What the original's part makes of ``twice`` the ``maps``: as it stands, and with counts of places that follow;
    nothing where it cannot."""
    model = _cut(original.proto, part.original, part.begins, maps)
    if model is None:
        return
    extents = {value.shape[2:] for value in maps.values()}
    _grow(model.graph, extents)
    places = math.prod(min(extents)) if len(extents) == 1 else 0  # else none is what a count is of
    if unbiased(model.graph.node, model.graph, shapes, places):
        return  # over rows, say
    begins = {name: Begin(tuple(value.shape[2:])) for name, value in maps.items()} if places else {}
    counted, bound = for_every_size(model, shapes, begins), part.boundary
    with suppress(RunError):
        runner = Runner(original.with_proto(model), (), options.engine)
        now = [length << 1 for length in min(extents)]
        for follow in (frozenset[int](), *readings(counted.values())):
            found = runner.run(twice | {name: item.at(now, follow) for name, item in counted.items()})[part.original]
            yield found if bound is None else apart(bound, found, [length << 1 for length in bound.extent])


def _grow(graph: onnx.GraphProto, extents: set[tuple[int, ...]]) -> None:
    """Twice the native extent, and as many places as that is, where shapes are written down."""
    asked = {node.input[1] for node in graph.node if node.op_type in ("Reshape", "Expand") and len(node.input) > 1}
    tensors = [tensor for tensor in graph.initializer if tensor.name in asked]
    made = (node for node in graph.node if node.op_type == "Constant" and node.output[0] in asked)
    tensors += [item.t for node in made for item in node.attribute if item.HasField("t")]
    places, rank = {math.prod(extent) for extent in extents}, len(min(extents))
    for tensor in tensors:
        shape, at = numpy_helper.to_array(tensor).ravel().tolist(), 0
        while at < len(shape):
            if tuple(shape[at : at + rank]) in extents:
                shape[at : at + rank] = [length << 1 for length in shape[at : at + rank]]
                at += rank
            else:
                shape[at] <<= rank if shape[at] in places else 0
                at += 1
        tensor.CopyFrom(numpy_helper.from_array(np.array(shape, np.int64), tensor.name))


def _twice(value: Array, axes: Sequence[int]) -> Array:
    return np.tile(value, [1 + (axis in axes) for axis in range(value.ndim)])


def mixing(
    original: onnx.ModelProto,
    rewritten: onnx.ModelProto,
    claim: Claim,
    shapes: Shapes,
    tensors: Sequence[tuple[str, str, Boundary | None]],
) -> Iterator[Mixing]:
    """The parts that make ``tensors`` (of the original and the rewritten model), where both models have the maps."""
    axes = {output.name: output.axes for output in claim.outputs}
    lists = {output.name for output in claim.outputs if output.form == "list"}  # in other orders than maps
    made = {name for node in rewritten.graph.node for name in node.output}
    for name, other, boundary in tensors:
        begins = _begins(original.graph, name, shapes, len(claim.native_size))
        spatial = axes.get(name, ()) if boundary is None else boundary.spatial
        if begins and begins <= made and name not in begins | lists:
            yield Mixing(name, other, spatial, tuple(sorted(begins)), boundary)


def _begins(graph: onnx.GraphProto, name: str, shapes: Shapes, rank: int) -> set[str]:
    """The maps from which on places do not look at their neighbours; none where that is not known."""
    makers = {output: node for node in graph.node for output in node.output if output}
    found, seen, stack = set[str](), set[str](), [name]
    while stack:
        tensor = stack.pop()
        if tensor in seen or tensor not in makers:
            continue
        seen.add(tensor)
        node = makers[tensor]
        if any(0 in shapes.get(item, ()) for item in (*node.input[:1], *node.output)):
            return set()  # not known
        if _of_channels(node, shapes, rank):
            stack.append(node.input[0])
        elif not place_by_place([node], shapes):
            if not _is_map(node, shapes.get(tensor, ()), rank):
                return set()
            found.add(tensor)
        elif node.op_type not in SAME_REPEATED or node.domain not in ("", "ai.onnx"):
            return set()
        elif node.op_type not in ("Shape", "Size"):
            stack.extend(filter(None, node.input))
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    return set() if inputs & {item for tensor in seen - found for item in makers[tensor].input} else found


_CUTS = ("Slice", "Split")


def _is_map(node: onnx.NodeProto, shape: Sequence[int], rank: int) -> bool:
    """Whether it makes (N, C, *places): features cut out of (N, places, C) look like a signal's."""
    return len(shape) == rank + 2 and not (rank == 1 and node.op_type in _CUTS)


def _of_channels(node: onnx.NodeProto, shapes: Shapes, rank: int) -> bool:
    """Whether it cuts some of a map's channels out, at all places."""
    before = shapes.get(node.input[0], ()) if node.op_type in _CUTS else ()
    after = [shapes.get(name, ()) for name in node.output]
    fits = rank > 1 and len(before) == rank + 2 and all(len(shape) == rank + 2 for shape in after)
    return fits and all((*shape[:1], *shape[2:]) == (*before[:1], *before[2:]) for shape in after)


def _cut(model: onnx.ModelProto, end: str, begins: Sequence[str], maps: Mapping[str, Array]) -> onnx.ModelProto | None:
    """The part that makes ``end`` as a model of its own; None where it reads more than its maps."""
    inputs = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    plan = plan_head(model.graph, [end], begins, sorted(inputs))
    if plan.leak or plan.shapes or plan.sides:
        return None
    cut = part_of(model, "mixing", plan.nodes, [end])
    begin_at(cut.graph, plan.boundaries, maps)
    cut.graph.output.append(onnx.ValueInfoProto(name=end))
    return cut
