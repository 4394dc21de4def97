"""inspect(): what a model is and what a rewrite would do, without running or writing anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from onnxfc import errors
from onnxfc.builder.state import Replacement
from onnxfc.claim.claim import Claim
from onnxfc.errors import NothingToRewrite, Refusal, UsageError
from onnxfc.geometry import Geometry
from onnxfc.graph.finite_weights import finite
from onnxfc.graph.index import Graph, attributes, label, needed
from onnxfc.graph.inline_functions import sorted_nodes
from onnxfc.graph.op_kinds import GEMMS
from onnxfc.graph.wellformed import well_formed
from onnxfc.io.model_file import Model, ModelFile
from onnxfc.layout.boxes import Grid
from onnxfc.layout.views import Context, is_map
from onnxfc.rewriter.analyse import analyse
from onnxfc.rewriter.analysis import Analysis
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.make_claim import claim_of
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.rewriter.refusals import recognise
from onnxfc.shapes.freed_again import fixed_size, freed_again
from onnxfc.shapes.macs import multiply_adds
from onnxfc.shapes.memory import pass_bytes, weight_bytes
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape

if TYPE_CHECKING:
    from onnxfc.forms.profile import Fit


@dataclass(frozen=True)
class FcLayer:
    """An FC layer whose input depends on the image: its node, its features and its parameters (with its bias)."""

    node: str
    operator: str
    inputs: int
    outputs: int
    parameters: int


@dataclass(frozen=True)
class Stage:
    """A map of the trunk: what its elements read of the image (pixels), its native extent."""

    tensor: str
    node: str
    stride: tuple[str, ...]
    field: tuple[int, ...]
    start: tuple[int, ...]
    extent: tuple[int, ...]


@dataclass(frozen=True)
class Cost:
    """What an image of ``size`` pixels takes: multiply-adds of one dense pass, and of one native pass for each
    crop, None where the model takes no crops.

    ``activations``: about so many bytes of memory take the tensors of the dense pass; ``weights``: so many the weights.
    """

    size: tuple[int, ...]
    cells: Grid
    dense: int
    crops: int | None
    activations: int
    weights: int

    @property
    def speedup(self) -> float | None:
        """How many times less the dense pass costs; 1 where nothing is known to cost anything."""
        return None if self.crops is None else self.crops / self.dense if self.dense else 1.0


@dataclass(frozen=True)
class Inspection:
    """What was seen. ``geometry`` and ``cost`` are None where the model cannot be rewritten, ``claim`` as well.

    ``stages``: the last map of each stride; ``nodes``: those of all nodes that make one.

    >>> onnxfc.inspect("digits-any.onnx").claim.verdict
    'approximate'
    """

    path: Path | None
    status: Literal["rewritable", "rewritten", "refused"]
    opset: int
    parameters: int
    inputs: tuple[tuple[str, Shape], ...]
    native_size: tuple[int, ...]
    heads: tuple[FcLayer, ...]
    replacements: tuple[Replacement, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[Refusal, ...]
    stages: tuple[Stage, ...]
    geometry: Geometry | None = None
    claim: Claim | None = field(default=None, repr=False)
    cost: Cost | None = None
    nodes: tuple[Stage, ...] = field(default=(), repr=False)
    fit: Fit | None = None


def inspect(
    model: Model,
    *,
    options: RewriteOptions | None = None,
    at: tuple[int, ...] | None = None,
    profile: str | None = None,
) -> Inspection:
    """Look at a model, an original or a rewritten one.

    ``at``: the image size in pixels to count cells and costs for, twice native if None. ``profile``: an accelerator, by
    name or a file of its limits: what of the model fits it, at its fixed or native size; of an original, what of the
    ``conv4d`` that could be made of it.

    What cannot be rewritten is in ``refusals``. Raises ReadError, and UsageError for sizes that do not fit.

    >>> seen = onnxfc.inspect("fixtures/trained/digits.onnx", at=(64, 112))
    >>> seen.status, seen.native_size, seen.cost.cells
    ('rewritable', (16, 16), (13, 25))
    """
    errors.options("options", options, RewriteOptions)
    if profile is not None:
        seen = inspect(model, options=options, at=at)
        return replace(seen, fit=_fit(ModelFile.open(model), seen, profile, options))
    at = None if at is None else errors.size("at", at)
    file = ModelFile.open(model)
    well_formed(file)
    finite(file)
    claim = Claim.from_metadata({item.key: item.value for item in file.proto.metadata_props})
    if claim is not None:
        return _rewritten(sorted_nodes(file), claim, at)
    try:
        recognise(file)
        found = analyse(file, options or RewriteOptions())
    except NothingToRewrite as error:
        return _refused(file, error.refusals)
    if found.refusals:
        return _refused(file, found.refusals, found)
    sizing = found.sizing()
    claim = claim_of(found, sizing)
    geometry = Geometry.of_sizing(claim, sizing)
    nodes = needed(found.state.builder.nodes, found.state.graph.outputs)
    maps = _maps(found)
    before = {name: spec.shapes[0] for name, spec in found.state.native.items() if spec.shapes is not None}
    crop = multiply_adds(found.state.graph.live, before)
    return _inspection(
        file,
        "rewritable",
        native_size=claim.native_size,
        heads=tuple(_heads(found)),
        replacements=tuple(found.state.replacements),
        notes=tuple(found.state.remarks),
        nodes=maps,
        stages=_stages(found, maps),
        geometry=geometry,
        claim=claim,
        cost=_cost(file, claim, geometry, claim.inputs[0].of_free(at) if at else None, nodes, sizing.shapes, crop),
    )


def _fit(file: ModelFile, seen: Inspection, name: str, options: RewriteOptions | None) -> Fit | None:
    """What fits of a rewritten model as it is, of an original in the first form that it has; None where in none."""
    from onnxfc.forms.one_size import at_one_size
    from onnxfc.forms.profile import Profile

    profile = Profile.of(name)
    if seen.claim is None:
        return None
    if seen.status == "rewritten":
        size = seen.claim.fixed_size or seen.claim.native_size
        told = f"the file at {'x'.join(map(str, size))} px"
        return profile.fit(at_one_size(sorted_nodes(file), seen.claim, size, free_batch=False), told)
    own = replace(options or RewriteOptions(), output="map", dynamic_batch=False)
    try:
        return rewrite(file, options=replace(own, form="conv4d", profile=name), prove=False).fit
    except NothingToRewrite:
        return rewrite(file, options=replace(own, fixed_size=seen.claim.native_size, profile=name), prove=False).fit


def _rewritten(file: ModelFile, claim: Claim, at: tuple[int, ...] | None) -> Inspection:
    fixed = fixed_size(file, claim)
    if fixed is not None:
        file = freed_again(file, claim)
        fixed = tuple(n or twice for n, twice in zip(fixed, claim.twice_native, strict=True))
    at = claim.inputs[0].of_free(at) if at else fixed
    shapes = Shapes(file)
    geometry = Geometry.of_claim(claim, shapes)
    graph = shapes.graph

    def at_size(size: Sequence[int]) -> dict[str, Shape] | None:
        return shapes.at(claim.image_shapes(size))

    if claim.fixed_size:
        dense = _cost(file, claim, geometry, at or claim.fixed_size, graph.live, at_size, 0)
        own = replace(dense, size=claim.fixed_size, crops=None)
        return _inspection(file, "rewritten", native_size=claim.native_size, geometry=geometry, claim=claim, cost=own)
    try:
        image = claim.inputs[0]
        again = analyse(file, RewriteOptions(size=image.size, free=image.free))
        maps = _maps(again)
        stages = _stages(again, maps, [item.rewritten for item in claim.boundaries])
    except NothingToRewrite:
        maps, stages = {}, ()
    crop = multiply_adds(graph.live, at_size(claim.native_size) or {})
    return _inspection(
        file,
        "rewritten",
        native_size=claim.native_size,
        nodes=maps,
        stages=stages,
        geometry=geometry,
        claim=claim,
        cost=_cost(file, claim, geometry, at, graph.live, at_size, crop),
    )


def _refused(file: ModelFile, refusals: tuple[Refusal, ...], found: Analysis | None = None) -> Inspection:
    if found is None:
        return _inspection(file, "refused", refusals=refusals)
    maps = _maps(found)
    return _inspection(
        file,
        "refused",
        native_size=found.reading[0].size,
        heads=tuple(_heads(found)),
        refusals=refusals,
        notes=tuple(found.state.remarks),
        nodes=maps,
        stages=_stages(found, maps),
    )


def _inspection(
    file: ModelFile,
    status: Literal["rewritable", "rewritten", "refused"],
    *,
    native_size: tuple[int, ...] = (),
    heads: tuple[FcLayer, ...] = (),
    replacements: tuple[Replacement, ...] = (),
    refusals: tuple[Refusal, ...] = (),
    notes: tuple[Refusal, ...] = (),
    nodes: Mapping[str, Stage] | None = None,
    stages: tuple[Stage, ...] = (),
    geometry: Geometry | None = None,
    claim: Claim | None = None,
    cost: Cost | None = None,
) -> Inspection:
    graph = Graph(file.proto)
    inputs = [(info.name, tuple(d.dim_value for d in info.type.tensor_type.shape.dim)) for info in graph.inputs]
    return Inspection(
        path=file.path,
        status=status,
        opset=graph.opset,
        parameters=sum(prod(tensor.dims) for tensor in file.proto.graph.initializer),
        inputs=tuple(inputs),
        native_size=native_size,
        heads=heads,
        replacements=replacements,
        refusals=refusals,
        notes=notes,
        stages=stages,
        geometry=geometry,
        claim=claim,
        cost=cost,
        nodes=tuple((nodes or {}).values()),
    )


def _cost(
    file: ModelFile,
    claim: Claim,
    geometry: Geometry,
    at: tuple[int, ...] | None,
    nodes: Sequence[onnx.NodeProto],
    shapes_at: Callable[[Sequence[int]], Mapping[str, Shape] | None],
    crop: int,
) -> Cost:
    """Of the rewritten graph's ``nodes``; ``crop``: multiply-adds of the original at its native size."""
    size = at or claim.twice_native
    cells = geometry.cells(*size)
    if any(n < small for n, small in zip(size, geometry.smallest_size, strict=True)):
        told, least = ("x".join(map(str, lengths)) for lengths in (size, geometry.smallest_size))
        raise UsageError(f"--at {told}: is too small for this model, its smallest image has {least} px")
    count = prod(cells) if set(geometry.native_cells) == {1} else 1
    shapes = claim.image_shapes(size) | dict(shapes_at(size) or {})
    memory = pass_bytes(nodes, shapes, claim.image_shapes(size))
    return Cost(tuple(size), cells, multiply_adds(nodes, shapes), count * crop, memory, weight_bytes(file.proto.graph))


def _heads(found: Analysis) -> Iterator[FcLayer]:
    """Gemm and MatMul with a constant weight, as far as they depend on the image."""
    graph, native = found.state.graph, found.state.native
    moving = {image.name for image in found.reading}
    for node in graph.live:
        if not moving.intersection(node.input):
            continue
        moving.update(node.output)
        stored = [_stored(graph, name) for name in node.input[:2]]
        weight = next((graph.initializers[name] for name in stored if name in graph.initializers), None)
        if node.op_type not in {*GEMMS, "MatMul"} or weight is None or len(weight.dims) != 2:
            continue
        if isinstance(found.state.views.get(node.output[0]), Context):
            continue  # of a squeeze-and-excitation, which is no head
        swapped = bool(attributes(node).get("transB", 0))
        inputs, outputs = (weight.dims[1], weight.dims[0]) if swapped else (weight.dims[0], weight.dims[1])
        bias = native[node.input[2]].shapes if len(node.input) > 2 and node.input[2] else None
        parameters = inputs * outputs + (prod(bias[0]) if bias else 0)
        yield FcLayer(label(node), node.op_type, inputs, outputs, parameters)


def _stored(graph: Graph, name: str) -> str:
    """The tensor of integers that a weight is, where it is one."""
    node = graph.producers.get(name)
    return str(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else name


def _maps(found: Analysis) -> dict[str, Stage]:
    """The map that each node makes, by its name, in order; windows and score maps are none."""
    state = found.state
    native: Mapping[str, Shape] = {n: spec.shapes[0] for n, spec in state.native.items() if spec.shapes is not None}
    maps = {}
    for node in state.graph.live:
        view = state.views.get(node.output[0])
        if not is_map(view) or view.provenance.windows or view.original not in native:
            continue
        fields, shape = view.provenance.fields, native[view.original]
        maps[node.output[0]] = Stage(
            tensor=node.output[0],
            node=label(node),
            stride=tuple(str(item.stride) for item in fields),
            field=tuple(math.ceil(item.size) for item in fields),
            start=tuple(math.floor(item.start) for item in fields),
            extent=tuple(shape[axis] for axis in view.spatial),
        )
    return maps


def _stages(found: Analysis, maps: Mapping[str, Stage], ends: Sequence[str] = ()) -> tuple[Stage, ...]:
    """For each stride of the trunk, in order, its last map; a row for each change of the stride.

    Of a rewritten model the head is a map too: what lies behind the trunk's ``ends`` is left out.
    """
    behind = set(ends)
    rows: list[Stage] = []
    last: dict[tuple[str, ...], Stage] = {}
    for node in found.state.graph.live:
        if behind.intersection(node.input):
            behind.update(node.output)
            continue
        stage = maps.get(node.output[0])
        if stage is None:
            continue
        if rows and rows[-1].stride == stage.stride:
            rows[-1] = stage
        else:
            rows.append(stage)
        last[stage.stride] = stage
    return tuple(rows) if len(rows) <= 2 * len(last) else tuple(last.values())
