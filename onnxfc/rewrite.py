"""rewrite(): the order of the steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnxfc import __version__
from onnxfc.assemble import assemble
from onnxfc.claim import PREFIX, Boundary, Claim, ImageInput, Output
from onnxfc.cut import begin_at
from onnxfc.errors import NothingToRewrite, ProofFailed, Refusal, UsageError
from onnxfc.graph import Graph
from onnxfc.images import Image, images, native_inputs
from onnxfc.inline import inlined
from onnxfc.model_file import ModelFile, SaveOptions
from onnxfc.outputs import Form, drop_refusals, finish, reduction_contradicts
from onnxfc.proof import CheckOptions, Parity, check
from onnxfc.site import GlobalPool, Replacement, State
from onnxfc.sizing import Sizing
from onnxfc.views import Trace
from onnxfc.walk import native_specs, walk


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


@dataclass(frozen=True)
class Rewrite:
    """A rewritten model, what was done to it, and the proof (None where it was not asked for)."""

    file: ModelFile = field(repr=False)
    original: ModelFile = field(repr=False)
    claim: Claim
    replacements: tuple[Replacement, ...]
    notes: tuple[Refusal, ...]
    map_at_twice: tuple[int, ...]
    parity: Parity | None = None
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def model(self) -> onnx.ModelProto:
        """The rewritten model with all its weights, as ``onnx.load`` would give it."""
        return self.file.loaded()

    def save(self, path: str | Path, options: SaveOptions | None = None) -> None:
        """Write the model atomically. Raises WriteError, or UsageError where ``path`` is the original."""
        self.file.save(path, options or SaveOptions())


def rewrite(
    model: str | Path | bytes | onnx.ModelProto | ModelFile,
    *,
    options: RewriteOptions | None = None,
    check_options: CheckOptions | None = None,
    prove: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Rewrite:
    """Rewrite a classifier so that it runs on any image size, and prove it.

    Raises ReadError, UsageError, NothingToRewrite (with all refusals) or ProofFailed (with the parity).
    """
    options = options or RewriteOptions()
    contradiction = reduction_contradicts(options.output, options.global_pool)
    if contradiction:
        raise UsageError(contradiction)
    began = time.perf_counter()
    original = model if isinstance(model, ModelFile) else ModelFile.open(model)
    done = _rewritten(original, options)
    written = time.perf_counter()
    if not prove:
        return replace(done, seconds=(written - began, 0.0))
    parity = check(done.original, done.file, done.claim, check_options or CheckOptions(), progress)
    if not parity.passed:
        raise ProofFailed(parity.summary(), parity)
    return replace(done, parity=parity, seconds=(written - began, time.perf_counter() - written))


def _rewritten(original: ModelFile, options: RewriteOptions) -> Rewrite:
    _recognise(original.proto)
    original = inlined(original)
    graph = Graph(original.proto)
    inputs = native_inputs(graph, options.size)
    inner = [name for name in options.inputs if name not in inputs]
    if inner:
        begun = begin_at(original, graph, native_specs(original, graph, inputs), inner[0])
        return _rewritten(begun, replace(options, inputs=tuple(options.inputs)))
    readings = images(graph, inputs, options.dynamic_batch, options.size, options.inputs)
    if isinstance(readings, Refusal):
        raise NothingToRewrite(str(readings), (readings,))
    native = native_specs(original, graph, inputs)
    failures: list[tuple[int, tuple[Refusal, ...]]] = []
    for reading in readings:
        state = walk(original, graph, native, reading, options.global_pool)
        finished = finish(state, options.output)
        if isinstance(finished, tuple):
            return _result(original, state, reading, *finished)
        failures.append((state.reached, tuple(finished)))
    _, refusals = max(failures, key=lambda failure: failure[0])
    raise NothingToRewrite(str(refusals[0]), refusals)


def _recognise(model: onnx.ModelProto) -> None:
    """Refuse what onnxfc made already, and operator sets older than onnxruntime runs."""
    if any(item.key == f"{PREFIX}native_size" for item in model.metadata_props):
        refusal = Refusal("already-rewritten", "", "this model was rewritten by onnxfc already")
        raise NothingToRewrite(str(refusal), (refusal,))
    opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), 1)
    if opset < 7:
        reason = f"operator set {opset} is older than 7, the oldest that onnxruntime runs"
        refusal = Refusal("old-opset", "", reason, "convert it with onnx.version_converter")
        raise NothingToRewrite(str(refusal), (refusal,))


def _result(
    original: ModelFile, state: State, reading: Sequence[Image], outputs: list[Output], traces: list[Trace]
) -> Rewrite:
    refusals = drop_refusals(state, traces)
    if refusals:
        raise NothingToRewrite(str(refusals[0]), tuple(refusals))
    if not state.replacements and (not traces or _is_free(state, reading)):
        refusal = _nothing(state)
        raise NothingToRewrite(str(refusal), (refusal,))
    sizing = Sizing(state.draft, state.draft.prune(state.graph.outputs), reading)
    uneven = next((t for t in traces if t.windows and any(f.stride != int(f.stride) for f in t.fields)), None)
    if uneven is not None:
        refusal = Refusal("fractional-stride", "", "the head's windows are a fraction of a pixel apart")
        raise NothingToRewrite(str(refusal), (refusal,))
    claim = _claim(reading, outputs, traces, sizing, state.draft.renamed)
    metadata = claim.to_metadata() | {f"{PREFIX}version": __version__}
    proto = assemble(state, reading, {output.name: output.axes for output in outputs}, metadata)
    return Rewrite(
        file=original.with_proto(proto),
        original=original,
        claim=claim,
        replacements=tuple(state.replacements),
        notes=tuple(state.notes),
        map_at_twice=_map_at_twice(claim, sizing),
    )


def _is_free(state: State, reading: Sequence[Image]) -> bool:
    """Whether the image's dims are open already and no node had to change for it."""
    dims = {info.name: info.type.tensor_type.shape.dim for info in state.graph.inputs}
    fixed = any(dims[image.name][axis].dim_value > 0 for image in reading for axis in image.spatial)
    return not fixed and all(any(node is own for own in state.graph.nodes) for node in state.draft.nodes)


def _nothing(state: State) -> Refusal:
    kinds: dict[str, int] = {}
    for position in state.graph.live:
        op_type = state.graph.nodes[position].op_type
        kinds[op_type] = kinds.get(op_type, 0) + 1
    seen = ", ".join(f"{count} {name}" for name, count in sorted(kinds.items(), key=lambda item: -item[1])[:6])
    return Refusal("no-head", "", f"no FC layer and no global pool depends on the image; it has {seen}")


def _claim(
    reading: Sequence[Image], outputs: list[Output], traces: list[Trace], sizing: Sizing, renamed: Mapping[str, str]
) -> Claim:
    cell = next((trace for trace in traces if trace.windows), traces[0])
    taints = frozenset().union(*(trace.taints for trace in traces))
    windows: frozenset[Boundary] = frozenset().union(*(trace.windows for trace in traces))
    named = [replace(item, rewritten=renamed.get(item.rewritten, item.rewritten)) for item in windows]
    stride = tuple(max(1, math.ceil(field.stride)) for field in cell.fields)
    return Claim(
        native_size=reading[0].size,
        stride=stride,
        start=tuple(math.floor(field.start) for field in cell.fields),
        size=tuple(math.ceil(field.size) for field in cell.fields),
        size_step=sizing.step(reading[0].size, stride),
        verdict="approximate" if taints else "exact",
        blame=tuple(sorted(f"{taint.cause}: {taint.node}" for taint in taints)),
        inputs=tuple(ImageInput(image.name, image.shape, image.spatial) for image in reading),
        boundaries=tuple(sorted(named, key=lambda item: item.original)),
        outputs=tuple(outputs),
    )


def _map_at_twice(claim: Claim, sizing: Sizing) -> tuple[int, ...]:
    """Cells per axis of the first map at about twice the native size; empty where no output is a map."""
    shapes = sizing.shapes(claim.twice_native)
    for output in claim.outputs:
        if output.form in {"map", "cells", "activation"} and shapes is not None and output.name in shapes:
            return tuple(shapes[output.name][axis] for axis in output.axes)
    return ()
