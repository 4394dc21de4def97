"""What a walk over a model finds, before anything is assembled: heads, grids, refusals, and the claim."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from onnxfc import validate
from onnxfc.claim import PREFIX, Boundary, Claim, ImageInput, Output
from onnxfc.cut import begin_at
from onnxfc.errors import NothingToRewrite, Refusal, UsageError
from onnxfc.extents import Extents
from onnxfc.fitting import fits
from onnxfc.gathered import Gathered
from onnxfc.geometry import Geometry, cell_axes, slack_of
from onnxfc.graph import Graph, inputs_of, label
from onnxfc.images import Image, all_declared, images, inner_image, is_open, native_inputs, unlike_sizes
from onnxfc.inline import inlined
from onnxfc.model_file import ModelFile
from onnxfc.native import native_specs
from onnxfc.outputs import Form, drop_refusals, finish, maps_of_windows, reduction_contradicts
from onnxfc.receptive_field import Field
from onnxfc.site import LEAVE
from onnxfc.sizing import Sizing
from onnxfc.state import GlobalPool, State
from onnxfc.views import Lifted, Trace
from onnxfc.walk import walk


@dataclass(frozen=True)
class RewriteOptions:
    """What the result should be like.

    ``size``: native size in pixels where the graph does not tell it. ``inputs``: which inputs are images (all that look
    like one, if empty); one inner tensor may be named too, which then becomes the model's input.
    """

    output: Form = "map"
    global_pool: GlobalPool = "window"
    dynamic_batch: bool = False
    size: tuple[int, ...] | None = None
    inputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        validate.choice("output", self.output, get_args(Form))
        validate.choice("global_pool", self.global_pool, get_args(GlobalPool))
        validate.flag("dynamic_batch", self.dynamic_batch)
        if self.size is not None:
            object.__setattr__(self, "size", validate.size("size", self.size))
        object.__setattr__(self, "inputs", validate.names("inputs", self.inputs))
        contradiction = reduction_contradicts(self.output, self.global_pool)
        if contradiction:
            raise UsageError(contradiction)


@dataclass(frozen=True)
class Analysis:
    """The reading of the model that can be rewritten, else the likeliest, with its ``refusals``.

    ``original`` is the model as it was walked, functions and constant Ifs inlined. ``state`` holds the views of all
    its tensors and the drafted nodes; it belongs to the walk and may not be changed.
    """

    original: ModelFile = field(repr=False)
    state: State = field(repr=False)
    reading: tuple[Image, ...]
    outputs: tuple[Output, ...]
    traces: tuple[Trace, ...] = field(repr=False)
    refusals: tuple[Refusal, ...]

    def sizing(self) -> Sizing:
        """Shapes of the rewritten graph at any size."""
        draft = self.state.draft
        extents = Extents.of_images(draft.inference, self.reading, draft.specs)
        extents.follow(draft.prune(self.state.graph.outputs))
        return Sizing(extents, self.reading[0].size)


def analyse(original: ModelFile, options: RewriteOptions) -> Analysis:
    """Walk over a model; runs and writes nothing. Raises UsageError, and NothingToRewrite where there is no image."""
    original = inlined(original)
    graph = Graph(original.proto)
    inputs = native_inputs(graph, options.size)
    inner = [name for name in options.inputs if name not in inputs]
    if inner:
        return analyse(begin_at(original, graph, native_specs(original, graph, inputs), inner[0]), options)
    readings = images(graph, inputs, options.dynamic_batch, options.size, options.inputs)
    native = native_specs(original, graph, inputs, declared_all=all_declared(graph))
    fits(original, graph.nodes, native)
    if isinstance(readings, Refusal):
        refusal = _naming_inner(readings, inner_image(graph, native))
        raise NothingToRewrite(str(refusal), (refusal,))
    unlike = unlike_sizes(readings[0])
    if unlike is not None:
        raise NothingToRewrite(str(unlike), (unlike,))
    failures: list[Analysis] = []
    for reading in readings:
        state = walk(original, graph, native, reading, options.global_pool)
        finished = finish(state, options.output)
        if isinstance(finished, tuple):
            outputs, traces = finished
            refusals = _objections(state, reading, traces)
            return Analysis(original, state, tuple(reading), tuple(outputs), tuple(traces), refusals)
        failures.append(Analysis(original, state, tuple(reading), (), (), tuple(finished)))
    for failure in failures:
        if failure.state.conditions:
            return analyse(inlined(original, failure.state.conditions), options)
    return failures[0]  # the likeliest reading says why


def _naming_inner(refusal: Refusal, inner: str) -> Refusal:
    """An image that enters as a flat vector: which tensor to name instead."""
    if refusal.code != "no-image-input" or not inner:
        return refusal
    return replace(refusal, advice=f"the image enters flattened: name the inner tensor that is one, --input '{inner}'")


def recognise(file: ModelFile) -> None:
    """Refuse what onnxfc made already, and operator sets older than onnxruntime runs."""
    model = file.proto
    if any(item.key == f"{PREFIX}native_size" for item in model.metadata_props):
        refusal = Refusal("already-rewritten", "", "this model was rewritten by onnxfc already", "give the original")
        raise NothingToRewrite(str(refusal), (refusal,))
    opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 1)
    if opset < 7:
        reason = f"operator set {opset} is older than 7, the oldest that onnxruntime runs"
        refusal = Refusal("old-opset", "", reason, "convert it with onnx.version_converter")
        raise NothingToRewrite(str(refusal), (refusal,))


def _objections(state: State, reading: Sequence[Image], traces: Sequence[Trace]) -> tuple[Refusal, ...]:
    """What keeps a walk that came to its end from being a rewrite."""
    refusals = drop_refusals(state, traces)
    if refusals:
        return tuple(refusals)
    shifted = _shifted(state)
    if shifted is not None:
        return (shifted,)
    if not traces:
        return (_nothing(state, "no FC layer and no global pool depends on the image"),)
    if not state.replacements and _is_free(state, reading):
        return (_nothing(state, "no node of it is locked to one image size, and its dims are open already"),)
    cut = any(set(boundary.extent) != {1} for trace in traces for boundary in trace.windows)
    if not state.replacements and cut and any(trace.places for trace in traces):
        return (_whole_windows(state),)
    for name in maps_of_windows(state):
        why = "is a map of the trunk that was taken for features of a window: something made it one of the native size"
        return (Refusal("size-locked", name, f"the output {why}", LEAVE),)
    if any(trace.windows and any(f.stride != int(f.stride) for f in trace.fields) for trace in traces):
        return (Refusal("fractional-stride", "", "the head's windows are a fraction of a pixel apart"),)
    return ()


def _shifted(state: State) -> Refusal | None:
    """A map that is padded as it was natively, beside something that reckons with what the padding was at any size."""
    draft = state.draft
    for node in draft.prune(state.graph.outputs) if state.frozen else ():
        read = [draft.specs[name] for name in inputs_of(node) if name in draft.specs]
        rests = any(spec.follows for spec in read)
        if rests and all(draft.specs[name].values is None for name in node.output if name in draft.specs):
            why = f"is padded to whole blocks on both sides, and {label(node)} takes account of it"
            return Refusal("unknown-pads", state.frozen[0], f"the map {why}", LEAVE)
    return None


def _is_free(state: State, reading: Sequence[Image]) -> bool:
    """Whether the image's dims are open already and no node had to change for it."""
    own = {id(node) for node in state.graph.nodes}
    return is_open(state.graph, reading) and all(id(node) in own for node in state.draft.nodes)


def _whole_windows(state: State) -> Refusal:
    """No FC layer and no pool sums up the features of a window: what made windows of the map?"""
    cuts = frozenset().union(*(view.trace.pools for view in state.views.values() if isinstance(view, Lifted)))
    for node in state.graph.nodes:
        if cuts & state.roles.pieces & set(node.output):
            does = "cuts a piece out of the map" if node.op_type in {"Slice", "Split"} else "picks places of the map"
            why = f"{node.op_type} {does} of the native size, and no FC layer or pool reads it"
            return Refusal("cut-out", label(node), why, LEAVE)
    if not state.notes:
        why = "its outputs are the flattened map itself: no FC layer and no global pool reads it"
        return Refusal("no-head", "", why, _NO_HEAD)
    first = state.notes[0]
    why = f"{first.reason.split()[0]} works on the whole map of the native size, and no FC layer or pool follows"
    return Refusal("size-locked", first.node, why, LEAVE)


_NO_HEAD = "nothing in it is made for one image size"


def _nothing(state: State, why: str) -> Refusal:
    kinds: dict[str, int] = {}
    for position in state.graph.live:
        op_type = state.graph.nodes[position].op_type
        kinds[op_type] = kinds.get(op_type, 0) + 1
    seen = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items(), key=lambda item: -item[1])[:6])
    return Refusal("no-head", "", f"{why}; it has {seen}", _NO_HEAD)


def claim_of(found: Analysis, sizing: Sizing) -> Claim:
    """What the rewritten model will say of itself."""
    renamed: Mapping[str, str] = found.state.draft.renamed
    cell = next((trace for trace in found.traces if trace.windows), found.traces[0])
    taints = frozenset(Gathered.joined(trace.taints for trace in found.traces))
    windows: frozenset[Boundary] = frozenset().union(*(trace.windows for trace in found.traces))
    named = [replace(item, rewritten=renamed.get(item.rewritten, item.rewritten)) for item in windows]
    native = found.reading[0].size
    fields = _cell_fields(cell)
    stride = tuple(max(1, math.ceil(item.stride)) for item in fields)
    period = tuple(sizing.period(axis) for axis in range(len(native)))
    step = tuple(math.lcm(a, b) for a, b in zip(stride, period, strict=True))
    claim = Claim(
        native_size=native,
        stride=stride,
        start=tuple(math.floor(item.start) for item in fields),
        size=tuple(_whole_size(item) for item in fields),
        size_step=sizing.steps(step),
        verdict="approximate" if taints else "exact",
        blame=tuple(sorted(f"{taint.cause}: {taint.node}" for taint in taints)),
        inputs=tuple(ImageInput(image.name, image.shape, image.spatial) for image in found.reading),
        boundaries=tuple(sorted(named, key=lambda item: item.original)),
        outputs=_with_fields(found),
        period=period,
    )
    return _with_sizes(claim, sizing)


def _whole_size(field: Field) -> int:
    """Whole pixels that cover what is read, from the whole pixel on in which it starts."""
    return math.ceil(field.start + field.size) - math.floor(field.start)


def _cell_fields(trace: Trace) -> Sequence[Field]:
    """What a cell reads; where the pool was dropped, a cell is the mean over a window of the map."""
    if not trace.dropped:
        return trace.fields
    extent = next(iter(trace.windows)).extent
    return [item.through(length) for item, length in zip(trace.fields, extent, strict=True)]


def _with_sizes(claim: Claim, sizing: Sizing) -> Claim:
    """The claim with what is read off the dims of the rewritten graph."""
    axes = cell_axes(claim, sizing)
    slack = (0,) * len(claim.stride) if axes is None else slack_of(claim, axes)
    forms = {output.form for output in claim.outputs}
    if slack is None and (forms == {"features"} or forms - {"features", "global"}):  # it follows whole periods only
        claim = replace(claim, size_step=claim.period)
    found = Geometry.of_sizing(replace(claim, slack=slack or (0,) * len(claim.stride)), sizing)
    return replace(claim, slack=found.slack, smallest_size=found.smallest_size, halo=found.halo or ())


def _with_fields(found: Analysis) -> tuple[Output, ...]:
    """The outputs, with what one cell (or element) of each reads of the image."""
    draft, made = found.state.draft, []
    for output in found.outputs:
        view = found.state.views[output.name]
        trace = getattr(view, "trace", None)
        if output.form in {"map", "cells", "features"} and trace is not None and output.name in draft.specs:
            fields: Sequence[Field] = trace.fields
            output = replace(
                output,
                stride=tuple(item.stride.numerator for item in fields),
                per=tuple(item.stride.denominator for item in fields),
                start=tuple(math.floor(item.start) for item in fields),
                size=tuple(_whole_size(item) for item in fields),
            )
        made.append(output)
    return tuple(made)


def map_at_twice(claim: Claim, sizing: Sizing) -> tuple[int, ...]:
    """Cells per axis of the first map at about twice the native size; empty where no output is a map."""
    shapes = sizing.shapes(claim.twice_native)
    for output in claim.outputs:
        if output.form in {"map", "cells", "activation"} and shapes is not None and output.name in shapes:
            return tuple(shapes[output.name][axis] for axis in output.axes)
    return ()
