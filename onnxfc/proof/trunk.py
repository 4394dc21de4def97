"""Trunk parity: the original's own trunk on larger images, where it takes them, against the rewritten model's.

The original is cut off where its heads begin, and the declared size of its images is freed; nothing else is changed.
Where that runs, its tensors must be those of the rewritten model on the same images, in one of its :mod:`readings`.
A trunk with an operator in which the native size may be written down otherwise proves something where it agrees only.
A small model's is run at sizes with every remainder that its period leaves, as it may round otherwise at each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
import onnx

from onnxfc.claim.claim import OWN_FORMS, Boundary, Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.baked import Shapes, frozen, native_shapes, sized
from onnxfc.proof.edges import Edges
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.folded import together
from onnxfc.proof.head import part_of
from onnxfc.proof.node_by_node import compare_nodes
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.providers import Engine
from onnxfc.proof.readings import Readings
from onnxfc.proof.repeated import compare_repeated, mixing
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.sizes import on_grid
from onnxfc.proof.windows import Capture
from onnxfc.proof.wiring import nodes_before, reads

_STOPPED = re.compile(r"^(\w+ .+?) stops: ")


@dataclass
class _Trunk:
    """One tensor in both models; ``sized`` and ``frozen`` tell of nodes before it, see :mod:`onnxfc.proof.baked`.
    ``unread``: of one of these, no reading is as at the native size."""

    original: str
    rewritten: str
    sized: str = ""
    frozen: str = ""
    unread: bool = False
    boundary: Boundary | None = None


@dataclass
class _Found:
    """Comparisons so far, and why others were not made, by the original's tensor."""

    tally: Tally
    reasons: dict[str, str] = field(default_factory=dict)

    def without(self, trunks: Sequence[_Trunk], reason: str) -> None:
        for trunk in trunks:
            self.reasons.setdefault(trunk.original, reason)

    def result(self, trunks: Sequence[_Trunk]) -> ParityResult:
        """What was compared; ``reason`` of a pass is that of the first tensor that was not, or is no witness."""
        for trunk in trunks:
            if trunk.sized and self.tally.without_failed(trunk.rewritten):
                told = f"{trunk.original} differs from the original's own, in which {trunk.sized}"
                self.reasons[trunk.original] = told
        result = self.tally.result()
        left = [trunk.original for trunk in trunks if trunk.rewritten not in {item.name for item in result.outputs}]
        told = next((self.reasons[name] for name in left if name in self.reasons), "")
        if len(left) == len(trunks):
            return _not(told or "no size on the grid was run")
        fixed = next((trunk.frozen for trunk in trunks if trunk.frozen), "")
        if fixed:
            result = replace(result, frozen=f"{fixed} pads or rounds as at the native size, also off the stride grid")
        return replace(result, reason=f"not compared: {told}") if result.status == "passed" and told else result


def compare_trunk(
    original: ModelFile,
    rewritten: ModelFile,
    shots: Sequence[Capture],
    evidence: Evidence,
    claim: Claim,
    options: CheckOptions,
    progress: Progress,
) -> ParityResult:
    """Run the original's trunk on the images of ``shots`` and compare what both models make of them."""
    shapes = native_shapes(original.proto, claim)
    trunks = list(_trunks(original.proto, rewritten.proto, claim, shapes))
    if not trunks or not shots:
        return _not("neither a head nor a map without one is claimed, to be compared at other sizes")
    found = _Found(Tally(options, evidence.noise))
    for group in [trunks], [[trunk] for trunk in trunks]:
        found.reasons.clear()
        for some in group:
            _compare((original, rewritten), shapes, some, shots, evidence, claim, found, progress)
        if found.tally.sizes or len(trunks) == 1:
            break
    result = found.result(trunks)
    shown = {item.name for item in result.outputs}
    left = [(item.original, item.rewritten, item.boundary) for item in trunks if item.rewritten not in shown]
    parts = [] if result.status == "failed" else list(mixing(original.proto, rewritten.proto, claim, shapes, left))
    again = compare_repeated((original, rewritten), parts, shapes, evidence, options) if parts else result
    again = again if again.compared else result
    if left and "failed" not in (result.status, again.status):
        with suppress(RunError):  # a model that does not show its tensors
            again = compare_nodes((original, rewritten), [name for name, *_ in left], shapes, shots, evidence, options)
    return again if again.compared and again.status == "failed" else result


def _trunks(model: onnx.ModelProto, rewritten: onnx.ModelProto, claim: Claim, shapes: Shapes) -> Iterator[_Trunk]:
    """The tensors at which heads begin, and outputs without a head; not the images themselves. A figure of the whole
    image is one where no head begins."""
    bounds = {item.original: item for item in claim.boundaries}
    forms = OWN_FORMS - {"global"} if bounds else OWN_FORMS
    pairs = [(item.original, item.rewritten) for item in claim.boundaries]
    pairs += [(output.name, output.name) for output in claim.outputs if output.form in forms]
    makers = {name: node for node in model.graph.node for name in node.output if name}
    left = Readings.of(model, shapes, rewritten.graph).open
    for name, other in dict.fromkeys(pairs):
        if name in makers:
            nodes = [model.graph.node[i] for i in nodes_before(model.graph, [name])]
            fixed = sized(nodes, model.graph, shapes), frozen(nodes, rewritten.graph)
            unread = any(node.output[0] in left for node in nodes)
            yield _Trunk(name, other, *fixed, unread, bounds.get(name))


def _freed(model: onnx.ModelProto, names: Sequence[str], claim: Claim) -> onnx.ModelProto:
    """The model up to ``names``, for images of any size; shapes written down for inner tensors are left out."""
    cut = part_of(model, "trunk", nodes_before(model.graph, names), ())
    graph = cut.graph
    needed = set().union(*(reads(node) for node in graph.node))
    graph.input.extend(value for value in model.graph.input if value.name in needed)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    spatial = {image.name: image.spatial for image in claim.inputs}
    for value in graph.input:
        for axis in spatial.get(value.name, ()):
            if axis < len(value.type.tensor_type.shape.dim):
                value.type.tensor_type.shape.dim[axis].Clear()
    return cut


@dataclass
class _Original:
    """The original's trunk in all its readings, each loaded where one before it does not agree."""

    file: ModelFile
    readings: Readings
    engine: Engine

    @cached_property
    def first(self) -> Runner:
        return Runner(self.file.with_proto(self.readings.model), (), self.engine)

    @cached_property
    def edges(self) -> Edges:
        return Edges(self.file.with_proto(self.readings.model), (), self.engine)

    @cached_property
    def others(self) -> list[Runner]:
        runners = []
        for model in self.readings.others():
            with suppress(RunError):
                runners.append(Runner(self.file.with_proto(model), (), self.engine))
        return runners

    def rest(self, feeds: Arrays) -> Iterator[Arrays]:
        """What each reading but the first makes of images."""
        for runner in self.others:
            with suppress(RunError):
                yield runner.run(feeds)


@dataclass
class _Said:
    """What the readings make of one image, each asked where those before it do not agree."""

    known: list[Arrays]
    rest: Iterator[Arrays]

    def __iter__(self) -> Iterator[Arrays]:
        yield from tuple(self.known)
        for values in self.rest:
            self.known.append(values)
            yield values


def _compare(
    pair: tuple[ModelFile, ModelFile],
    shapes: Shapes,
    trunks: Sequence[_Trunk],
    shots: Sequence[Capture],
    evidence: Evidence,
    claim: Claim,
    found: _Found,
    progress: Progress,
) -> None:
    names = list(dict.fromkeys(trunk.original for trunk in trunks))
    progress("the original's trunk at larger sizes")
    file, other = pair
    try:
        readings = Readings.of(_freed(file.proto, names, claim), shapes, other.proto.graph)
        original = _Original(file, readings, found.tally.options.engine)
        assert original.first
    except RunError as error:
        found.without(trunks, f"the original's trunk does not load for other sizes: {error}")
        return
    for shot in shots:
        chosen = [trunk for trunk in trunks if on_grid(shot.size, claim) or not (trunk.sized or trunk.unread)]
        if not chosen:
            continue
        try:
            said = _Said([original.first.run(shot.feeds)], original.rest(shot.feeds))
        except RunError as error:
            found.without(chosen, f"the original's trunk does not run {shot}: {_stopped(error)}")
            return
        for trunk in chosen:
            _compare_one(trunk, said, shot, evidence, found, original.edges)
        if shot.size.pixels not in found.tally.sizes:
            found.tally.sizes.append(shot.size.pixels)


def _stopped(error: RunError) -> str:
    """The node at which onnxruntime stopped, or all that it says."""
    node = _STOPPED.search(str(error))
    return node[1] if node else str(error)


def _compare_one(trunk: _Trunk, said: _Said, shot: Capture, evidence: Evidence, found: _Found, edges: Edges) -> None:
    first, got, kind = said.known[0][trunk.original], shot.values[trunk.rewritten], shot.kind.name
    if trunk.boundary is not None and trunk.boundary.folded:
        got = together(trunk.boundary, got)
    scale = evidence.scales[trunk.original, kind]
    if scale.problem:
        found.without([trunk], f"{trunk.original} is {scale.problem}")
        return
    if first.shape != got.shape and first.shape == evidence.native[trunk.original].shape:
        found.without([trunk], f"{trunk.original} stays as large as natively {shot}: its size is written down")
        return
    if first.dtype.kind == "f" and not np.isfinite(first).all():
        found.without([trunk], f"the original's {trunk.original} is not finite {shot}")
        return

    def agrees(want: Array) -> bool:
        return want.shape == got.shape and not found.tally.exceeds(trunk.rewritten, got, want, scale, kind)

    want = next((values[trunk.original] for values in said if agrees(values[trunk.original])), first)
    others = partial(edges.of, trunk.original, shot.feeds) if want is first else None
    found.tally.compare(trunk.rewritten, got, want, scale, kind, f"in the original's trunk {shot}", others=others)


def _not(reason: str) -> ParityResult:
    return ParityResult("not applicable", reason=reason)
