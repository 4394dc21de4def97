"""Trunk parity: the original's own trunk on larger images, where it takes them, against the rewritten model's.

The original is cut off where its heads begin, and the declared size of its images is freed; nothing else is changed.
Where that runs, its tensors must be those of the rewritten model on the same images. On the grid of strides this
holds for padding and rounding that were fixed at the native size, too; off it only where there are none.
A trunk with an operator in which the native size may be written down proves something where it agrees only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import onnx

from onnxfc.claim.claim import OWN_FORMS, Boundary, Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.baked import frozen, native_shapes, sized
from onnxfc.proof.edges import Edges
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.folded import together
from onnxfc.proof.head import nodes_before, part_of, reads
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Arrays, RunError, Runner
from onnxfc.proof.sizes import Size
from onnxfc.proof.windows import Capture

_STOPPED = re.compile(r"while running (\w+) node\. Name:'([^']+)'")


def other_parity(claim: Claim, size: Size) -> Size:
    """A size one step of the grid larger on every axis: what was an odd number of steps is an even one."""
    axes = zip(size.pixels, claim.native_size, _units(claim), strict=True)
    pixels = tuple(native + ((now - native) // unit + 1) * unit for now, native, unit in axes)
    places = zip(pixels, claim.native_size, claim.stride, strict=True)
    return Size(pixels, tuple((now - native) // stride + 1 for now, native, stride in places))


def _units(claim: Claim) -> list[int]:
    """Pixels by which an image grows so that every layer of the trunk sees the native size's remainder."""
    return [math.lcm(*axis) for axis in zip(claim.stride, claim.size_step, claim.period or claim.stride, strict=True)]


@dataclass
class _Trunk:
    """One tensor in both models; ``sized`` and ``frozen`` tell of nodes before it, see :mod:`onnxfc.proof.baked`."""

    original: str
    rewritten: str
    sized: str = ""
    frozen: str = ""
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
    trunks = list(_trunks(original.proto, rewritten.proto, claim))
    if not trunks or not shots:
        return _not("neither a head nor a map without one is claimed, to be compared at other sizes")
    found = _Found(Tally(options, evidence.noise))
    for group in [trunks], [[trunk] for trunk in trunks]:
        found.reasons.clear()
        for some in group:
            _compare(original, some, shots, evidence, claim, found, progress)
        if found.tally.sizes or len(trunks) == 1:
            break
    return found.result(trunks)


def _trunks(model: onnx.ModelProto, rewritten: onnx.ModelProto, claim: Claim) -> Iterator[_Trunk]:
    """The tensors at which heads begin, and outputs without a head; not the images themselves. A figure of the whole
    image is one where no head begins."""
    bounds = {item.original: item for item in claim.boundaries}
    forms = OWN_FORMS - {"global"} if bounds else OWN_FORMS
    pairs = [(item.original, item.rewritten) for item in claim.boundaries]
    pairs += [(output.name, output.name) for output in claim.outputs if output.form in forms]
    makers = {name: node for node in model.graph.node for name in node.output if name}
    shapes = native_shapes(model, claim)
    for name, other in dict.fromkeys(pairs):
        if name in makers:
            nodes = [model.graph.node[i] for i in nodes_before(model.graph, [name])]
            fixed = sized(nodes, model.graph, shapes), frozen(nodes, rewritten.graph)
            yield _Trunk(name, other, *fixed, bounds.get(name))


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


def _compare(
    original: ModelFile,
    trunks: Sequence[_Trunk],
    shots: Sequence[Capture],
    evidence: Evidence,
    claim: Claim,
    found: _Found,
    progress: Progress,
) -> None:
    names = list(dict.fromkeys(trunk.original for trunk in trunks))
    progress("the original's trunk at larger sizes")
    try:
        model, engine = original.with_proto(_freed(original.proto, names, claim)), found.tally.options.engine
        runner, edges = Runner(model, (), engine), Edges(model, (), engine)
    except RunError as error:
        found.without(trunks, f"the original's trunk does not load for other sizes: {error}")
        return
    for shot in shots:
        chosen = [trunk for trunk in trunks if _on_grid(shot, claim) or not (trunk.sized or trunk.frozen)]
        if not chosen:
            continue
        try:
            values = runner.run(shot.feeds)
        except RunError as error:
            found.without(chosen, f"the original's trunk does not run {shot}: {_said(error)}")
            return
        for trunk in chosen:
            _compare_one(trunk, values, shot, evidence, found, edges)
        if shot.size.pixels not in found.tally.sizes:
            found.tally.sizes.append(shot.size.pixels)


def _on_grid(shot: Capture, claim: Claim) -> bool:
    axes = zip(shot.size.pixels, claim.native_size, _units(claim), strict=True)
    return all((now - native) % unit == 0 for now, native, unit in axes)


def _said(error: RunError) -> str:
    """The node at which onnxruntime stopped, or all that it says."""
    node = _STOPPED.search(str(error))
    return f"{node[1]} {node[2]}" if node else str(error)


def _compare_one(trunk: _Trunk, values: Arrays, shot: Capture, evidence: Evidence, found: _Found, edges: Edges) -> None:
    want, got = values[trunk.original], shot.values[trunk.rewritten]
    if trunk.boundary is not None and trunk.boundary.folded:
        got = together(trunk.boundary, got)
    scale = evidence.scales[trunk.original, shot.kind.name]
    if scale.problem:
        found.without([trunk], f"{trunk.original} is {scale.problem}")
        return
    if want.shape != got.shape:
        shapes = f"{list(want.shape)} in the original {shot}, {list(got.shape)} in the second model"
        found.without([trunk], f"{trunk.original} is {shapes}")
        return
    if want.dtype.kind == "f" and not np.isfinite(want).all():
        found.without([trunk], f"the original's {trunk.original} is not finite {shot}")
        return
    where = f"in the original's trunk {shot}"
    others = partial(edges.of, trunk.original, shot.feeds)
    found.tally.compare(trunk.rewritten, got, want, scale, shot.kind.name, where, others=others)


def _not(reason: str) -> ParityResult:
    return ParityResult("not applicable", reason=reason)
