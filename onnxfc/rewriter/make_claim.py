"""The claim of a rewritten model, from what the walk has found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import onnx

from onnxfc.builder.state import State
from onnxfc.claim.blame import Blame, Cause
from onnxfc.claim.claim import OWN_FORMS, Boundary, Claim, Figure, Grid, Layer, Level, Output, Verdict, elements_of
from onnxfc.geometry import Geometry, cell_axes, slack_of
from onnxfc.graph.index import Graph, label, needed
from onnxfc.graph.op_kinds import GEMMS, READABLE
from onnxfc.layout.axis_map import Field
from onnxfc.layout.lists import levels, row_axis
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import Context, Lifted, Placed, ScoreMap, View
from onnxfc.rewriter.analysis import Analysis
from onnxfc.shapes.model_shapes import Sizing


def claim_of(found: Analysis, sizing: Sizing) -> Claim:
    """What the rewritten model will say of itself."""
    renamed: Mapping[str, str] = found.state.builder.renamed
    windows: frozenset[Boundary] = frozenset().union(*(provenance.windows for provenance in found.provenances))
    named = [replace(item, rewritten=renamed.get(item.rewritten, item.rewritten)) for item in windows]
    native = found.reading[0].size
    fields = _cell_fields(found)
    stride = tuple(max(1, math.ceil(item.stride)) for item in fields)
    period = tuple(sizing.period(axis) for axis in range(len(native)))
    blames = frozenset[Blame]().union(*(_felt(found, provenance, native, period) for provenance in found.provenances))
    blames |= {Blame(Cause.CONTEXT, label(node)) for node in (found.tail.picking if found.tail else ())}
    step = tuple(math.lcm(a, b) for a, b in zip(stride, period, strict=True))
    grids = tuple(_grids(found))
    verdict: Verdict = "extrapolated" if any(grid.given for grid in grids) else "approximate" if blames else "exact"
    claim = Claim(
        native_size=native,
        stride=stride,
        start=tuple(math.floor(item.start) for item in fields),
        size=tuple(_whole_size(item) for item in fields),
        size_step=sizing.steps(step),
        verdict=verdict,
        blame=tuple(sorted(map(str, blames))),
        inputs=tuple(image.as_input() for image in found.reading),
        boundaries=tuple(sorted(named, key=lambda item: (item.original, item.rewritten, item.extent, item.step))),
        outputs=_with_fields(found),
        period=period,
        layers=tuple(_layers(found, fields, windows)),
        grids=grids,
        figures=tuple(_figures(found, {item.original for item in windows})),
        detections=found.tail.makes if found.tail else (),
    )
    return _with_sizes(claim, sizing)


def _felt(found: Analysis, provenance: Provenance, native: Sequence[int], period: Sequence[int]) -> frozenset[Blame]:
    """What makes cells differ from crops: no padding where all that a cell reads are pixels of its crop, nor where a
    map ends that is cropped; no resampling inside its map where cells are whole periods apart.

    What was cut off counts as read, so that a field tells of all that was padded; but not of padding that follows the
    image's size, of which the native size has none.
    """
    blames = frozenset(provenance.blames)
    cells = bool(provenance.windows) and not provenance.dropped and all(blame.cause.local for blame in blames)
    axes = zip(provenance.fields, native, strict=True)
    inside = cells and all(field.start >= 0 and field.start + field.size <= length for field, length in axes)
    steady = cells and all(field.stride % step == 0 for field, step in zip(provenance.fields, period, strict=True))
    unread = {Cause.CROPPED, Cause.PADDING} if inside else set()
    unread |= {Cause.STEPS} if steady else set()
    filled = _filled(found) if inside else set()
    felt = (blame for blame in blames if blame.cause not in unread or blame.node in filled)
    return frozenset(replace(item, cause=Cause.RESAMPLING) if item.cause is Cause.STEPS else item for item in felt)


def _filled(found: Analysis) -> set[str]:
    """The nodes that pad by amounts that are computed from the image's size."""
    specs, nodes = found.state.builder.specs, found.state.graph.live
    pads = [node for node in nodes if node.op_type == "Pad" and len(node.input) > 1 and node.input[1] in specs]
    return {label(node) for node in pads if specs[node.input[1]].constant is None}


def _layers(found: Analysis, fields: Sequence[Field], windows: frozenset[Boundary]) -> Iterator[Layer]:
    """What the FC layers make, where it has the outputs' cells, or is a figure of the whole image."""
    state = found.state
    nodes = needed(state.builder.nodes, state.graph.outputs)
    kept = {name for node in nodes for name in node.output}
    integers = {node.input[0]: node.output[0] for node in nodes if node.op_type == "QuantizeLinear"}
    known: dict[int, bool] = {}
    for name, view in _own_views(found):
        node, shapes = state.graph.producers.get(name), state.native[name].shapes if name in state.native else None
        if node is None or shapes is None or not is_layer(node, state.graph) or name not in state.builder.specs:
            continue
        tensor = state.builder.renamed.get(getattr(view, "tensor", ""), getattr(view, "tensor", ""))
        if tensor not in kept or len(shapes[0]) < 2 or shapes[0][0] != found.reading[0].batch:
            continue
        kept_sum = name in state.roles.level  # as large as natively, and divided by the native count behind
        if isinstance(view, Context) and not kept_sum and view.provenance.pools.meets(state.roles.heads, known):
            yield _in_integers(Layer(name, tensor, "global"), state, integers)
        elif isinstance(view, ScoreMap) and view.batch_axis == 0 and _has_cells(view.provenance, fields, windows):
            yield _in_integers(Layer(name, tensor, "map"), state, integers)


def _own_views(found: Analysis) -> Iterator[tuple[str, View]]:
    """Those of the original's tensors; what stands for a product of integers has others."""
    made = {name for node in found.original.proto.graph.node for name in node.output}
    yield from (item for item in found.state.views.items() if item[0] in made)


def _grids(found: Analysis) -> Iterator[Grid]:
    """The tables that go on by rule, where something reads them."""
    state = found.state
    kept = {name for node in needed(state.builder.nodes, state.graph.outputs) for name in node.output}
    for item in state.continued:
        rules = ("image",) * state.rank if item.lengths and item.alike else item.rules
        for made, axes in item.levels:
            tensor = state.builder.renamed.get(made, made)
            if tensor in kept:
                yield Grid(item.table, tensor, axes, rules, item.given or item.lengths)


def _figures(found: Analysis, begun: set[str]) -> Iterator[Figure]:
    """Scales of the whole image that windows are read with; ``begun``: the tensors that they are windows of."""
    state = found.state
    for node in state.graph.live:
        integers = state.views[node.output[0]] if node.op_type == "DynamicQuantizeLinear" else None
        of_head = isinstance(integers, Lifted) and (integers.provenance.windows or node.output[0] in begun)
        for name in node.output[1:] if of_head else ():
            tensor = getattr(state.views[name], "tensor", "")
            if state.builder.spec(tensor).rank == 0:  # not each window's own
                yield Figure(name, state.builder.renamed.get(tensor, tensor))


def _in_integers(layer: Layer, state: State, quantised: Mapping[str, str]) -> Layer:
    """The layer quantised, where nothing else reads it: onnxruntime computes in integers what it need not show."""
    readers = state.graph.readers.get(layer.original, [])
    only = len(readers) == state.graph.uses[layer.original] == 1 and readers[0].op_type == "QuantizeLinear"
    if not only or layer.rewritten not in quantised or state.native[readers[0].output[0]].dtype not in READABLE:
        return layer
    return replace(layer, original=readers[0].output[0], rewritten=quantised[layer.rewritten])


def _has_cells(provenance: Provenance, fields: Sequence[Field], windows: frozenset[Boundary]) -> bool:
    same = all(own.stride == field.stride for own, field in zip(provenance.fields, fields, strict=True))
    return not provenance.dropped and same and provenance.windows <= windows


def is_layer(node: onnx.NodeProto, graph: Graph) -> bool:
    """An FC layer, or the Add of its bias."""
    if node.op_type == "Add":
        return any(graph.producers[name].op_type == "MatMul" for name in node.input if name in graph.producers)
    return node.op_type in {*GEMMS, "MatMul", "Conv", "Einsum"}


def _whole_size(field: Field) -> int:
    """Whole pixels that cover what is read, from the whole pixel on in which it starts."""
    return math.ceil(field.start + field.size) - math.floor(field.start)


def _cell_fields(found: Analysis) -> Sequence[Field]:
    """What a cell reads: of a window, else of the map whose pool was dropped, else an element of features.

    One score for the whole image reads the whole image.
    """
    if all(output.form == "global" for output in found.outputs):
        return [Field(size=length) for length in found.reading[0].size]
    own = elements_of(found.outputs)
    view = found.state.views[own.name] if own is not None else None
    if isinstance(view, Lifted):
        return view.provenance.fields
    views = [found.state.views[output.name] for output in found.outputs if output.form != "global"]
    cells = [view.provenance for view in views if isinstance(view, Lifted)] or found.provenances
    crossed = sorted((item for item in cells if item.windows), key=lambda item: item.dropped)
    first = (crossed or found.provenances)[0]
    beside = [item.fields for item in crossed if item.dropped == first.dropped] or [first.fields]
    joined = [Field.join(fields) for fields in zip(*beside, strict=True)]  # outputs may begin at other depths
    return [own if both is None else both for own, both in zip(first.fields, joined, strict=True)]


def _with_sizes(claim: Claim, sizing: Sizing) -> Claim:
    """The claim with what is read off the dims of the rewritten graph."""
    axes = cell_axes(claim, sizing)
    slack = (0,) * len(claim.stride) if axes is None else slack_of(claim, axes)
    forms = {output.form for output in claim.outputs}
    if slack is None and (forms <= {"features", "list"} or forms - OWN_FORMS):  # it follows whole periods only
        claim = replace(claim, size_step=claim.period)
    found = Geometry.of_sizing(replace(claim, slack=slack or (0,) * len(claim.stride)), sizing)
    return replace(claim, slack=found.slack, smallest_size=found.smallest_size, halo=found.halo or ())


def _with_fields(found: Analysis) -> tuple[Output, ...]:
    """The outputs, with what one cell (or element) of each reads of the image."""
    builder, made = found.state.builder, []
    for output in found.outputs:
        view = found.state.views[output.name]
        if output.form == "list":
            output = _with_levels(found, output)
        placed = output.form in {"map", "cells", "activation", "features"}
        if placed and isinstance(view, Lifted) and output.name in builder.specs:
            stride, per, start, size = _told(view.provenance.fields)
            output = replace(output, stride=stride, per=per, start=start, size=size)
        made.append(output)
    return tuple(made)


_Told = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def _told(fields: Sequence[Field]) -> _Told:
    """Stride, elements in a stride, start and size."""
    return (
        tuple(item.stride.numerator for item in fields),
        tuple(item.stride.denominator for item in fields),
        tuple(math.floor(item.start) for item in fields),
        tuple(_whole_size(item) for item in fields),
    )


def _with_levels(found: Analysis, output: Output) -> Output:
    """A list, with the places of each of its levels."""
    view, rank, renamed = found.state.views[output.name], found.state.rank, found.state.builder.renamed
    assert isinstance(view, Placed)
    axis, made = row_axis(view, rank), []
    for part, row in levels(view, rank):
        like, told = part.like, _told(part.provenance.fields)
        tensor = renamed.get(like.tensor, like.tensor)
        made.append(Level(tensor, like.spatial, axis or 0, row.outer, row.inner, *told, row.order))
    first = made[0]
    return replace(output, levels=tuple(made), stride=first.stride, per=first.per, start=first.start, size=first.size)


def map_at_twice(claim: Claim, sizing: Sizing) -> tuple[int, ...]:
    """Cells per axis of the first map at about twice the native size; empty where no output is a map."""
    shapes = sizing.shapes(claim.twice_native)
    for output in claim.outputs:
        if output.form in {"map", "cells", "activation"} and shapes is not None and output.name in shapes:
            return tuple(shapes[output.name][axis] for axis in output.axes)
    return ()
