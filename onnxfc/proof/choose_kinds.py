"""Which kinds of inputs a proof rests on: those that the original's outputs answer to, judged on a few samples each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfc.proof.evidence import ADVICE, OTHER_DATA, Evidence, Progress, Sample
from onnxfc.proof.inputs import NORMAL, Kind
from onnxfc.proof.last_steps import sigmoids, steps
from onnxfc.proof.layers import Compared, behind_layers, told_apart
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import Rest
from onnxfc.proof.tolerance import NOT_FINITE, PRECISION, SHAPELESS, Precision, Scale, confirmed, measure
from onnxfc.proof.wiring import dependent

Take = Callable[[Kind, int], Sample]
JUDGED = 4
"""Samples that a kind of inputs is judged on where the first two leave its worth open."""
OPEN = 2
"""Kinds of inputs that are judged on so many for a large model; any number for a small one."""


def choose(
    evidence: Evidence, outputs: Sequence[str], pair: Compared, options: CheckOptions, progress: Progress, take: Take
) -> None:
    """Try kinds of inputs until enough are good for every output; keep the best. ``take`` runs a sample."""
    tried = _tried(evidence, outputs, pair, options, progress, take)
    _across_kinds(evidence, outputs, [sample for _, taken in tried for sample in taken])
    for name in evidence.own:
        _answers(evidence, name, pair, tried, data=options.data is not None)
    worth = {kind: _worth(evidence, outputs, kind) for kind, _ in tried}
    ranked = sorted(tried, key=lambda entry: worth[entry[0]])
    useful = [entry for entry in ranked if worth[entry[0]][0] < 0]
    evidence.kinds = [kind for kind, _ in useful]
    evidence.kinds = _kept(evidence, outputs, worth)
    evidence.samples = [sample for kind, taken in useful if kind in evidence.kinds for sample in taken]


def _answers(
    evidence: Evidence, name: str, pair: Compared, tried: Sequence[tuple[Kind, Sequence[Sample]]], *, data: bool
) -> None:
    """Note an output that no kind of inputs moves: it rests on the FC layers right before it, or nothing is proven."""
    scales = {kind.name: evidence.scales[name, kind.name] for kind, _ in tried}
    problems = [scale.problem for scale in scales.values()]
    if not all(problems):
        return
    problem = problems[0]
    layers = behind_layers(pair.original.proto.graph, name, pair.claim.layers)
    sound = layers and not {NOT_FINITE, SHAPELESS}.intersection(problems)
    if not sound or not all(_told(evidence, layer, tried) for layer in layers):
        evidence.vacuous = f"output {name} is {problem}{_beside(layers)}; {OTHER_DATA if data else ADVICE}"
        return
    evidence.rests.append(Rest(name, problem, tuple(layers)))
    for kind, scale in scales.items():
        evidence.scales[name, kind] = replace(scale, problem="", hidden=True)


def _beside(layers: Sequence[str]) -> str:
    return f", and FC layer {', '.join(layers)} before it tells no classes apart" if layers else ""


def _told(evidence: Evidence, layer: str, tried: Sequence[tuple[Kind, Sequence[Sample]]]) -> bool:
    """Whether inputs of some kind move a layer's units, and not all of them alike."""
    for kind, taken in tried:
        scale = evidence.scales[layer, kind.name]
        rows = np.stack(list(told_apart([sample.values[layer] for sample in taken])))
        moved = float((rows.max(axis=0) - rows.min(axis=0)).max()) / 2
        if not scale.problem and scale.rounding <= scale.precision.cap * moved:
            return True
    return False


def _kept(evidence: Evidence, outputs: Sequence[str], worth: Mapping[Kind, tuple[int, float]]) -> list[Kind]:
    """Kinds that cover the outputs, then other good ones; never one alone, nor without normal inputs, if they tell.

    An error may hide from inputs of one kind, natural images of little contrast say, behind units that they all leave
    dead or alive alike.
    """
    keep = evidence.cover(outputs)
    calm = [kind for kind in evidence.kinds if not any(evidence.scales[name, kind.name].wild for name in outputs)]
    others = [kind for kind in calm if kind not in keep]
    good = [kind for kind in others if worth[kind][1] == -np.inf]
    keep += good[: max(0, (4 if evidence.small else 2) - len(keep))]
    keep += [kind for kind in others if kind.name == NORMAL and kind not in keep]
    if len(keep) < 2:
        keep += [kind for kind in others if kind not in keep][: 2 - len(keep)]
    return keep


def _tried(
    evidence: Evidence, outputs: Sequence[str], pair: Compared, options: CheckOptions, progress: Progress, take: Take
) -> list[tuple[Kind, list[Sample]]]:
    """Samples of each kind, until enough kinds are good for every output; their scales are noted.

    There are two of them, and more of a kind that the outputs answer to, though not clearly, and of normal inputs.
    """
    measured = _Scales.of(pair, evidence.moving, options)
    tried: list[tuple[Kind, list[Sample]]] = []
    for kind in evidence.inputs.kinds:
        progress(f"looking for inputs that reach the outputs: {kind.name}")
        taken = [take(kind, number) for number in (0, 1)]
        measured.note(evidence, taken)
        longer = sum(len(samples) > 2 for _, samples in tried)
        if _open(evidence, outputs, kind) and (evidence.small or longer < OPEN):
            taken += [take(kind, number) for number in range(2, JUDGED)]
            measured.note(evidence, taken)
        tried.append((kind, taken))
        good = [k for k, _ in tried if all(evidence.scales[n, k.name].good for n in outputs)]
        if len(good) == (4 if evidence.small else 2):
            break
    return tried


def _open(evidence: Evidence, outputs: Sequence[str], kind: Kind) -> bool:
    """Whether more samples may show a kind to be better than it seems."""
    poor = [scale for name in outputs if not (scale := evidence.scales[name, kind.name]).good]
    return any(evidence.small or kind.name == NORMAL or not scale.problem for scale in poor)


@dataclass(frozen=True)
class _Scales:
    """How scales are measured: the precision of each tensor, the tensors that depend on an image, the tolerances.

    ``steps`` are tensors behind a threshold, ``sigmoids`` those that a Sigmoid has made of what an FC layer
    makes, and such outputs.
    """

    precision: Mapping[str, Precision]
    moving: set[str]
    options: CheckOptions
    steps: set[str]
    sigmoids: set[str]

    @staticmethod
    def of(pair: Compared, moving: set[str], options: CheckOptions) -> _Scales:
        graph = pair.original.proto.graph
        behind = dependent(graph, [layer.original for layer in pair.claim.layers])
        squashed = sigmoids(graph, moving) & (behind | {value.name for value in graph.output})
        return _Scales(pair.precision, moving, options, steps(graph, moving), squashed)

    def note(self, evidence: Evidence, samples: Sequence[Sample]) -> None:
        """Measure every tensor on ``samples``, all of one kind, the second time on more of them."""
        for name in samples[0].values:
            values = [sample.values[name] for sample in samples]
            least, stepped = float(name in self.sigmoids), name in self.steps
            options = self.options.of(name)
            precision = self.precision.get(name, PRECISION["float32"])
            found = measure(values, evidence.batch, precision, options, least=least, steps=stepped)
            scale = found if name in self.moving else replace(found, exact=True, problem="")
            key = name, samples[0].kind.name
            evidence.scales[key] = confirmed(evidence.scales[key], scale) if key in evidence.scales else scale


def _worth(evidence: Evidence, outputs: Sequence[str], kind: Kind) -> tuple[int, float]:
    """Most outputs first; then those that are good, in the order of the kinds; then by signal."""
    scales = [scale for name in outputs if not (scale := evidence.scales[name, kind.name]).hidden]
    useful = [scale for scale in scales if not scale.problem]
    if useful and all(scale.good for scale in useful):
        return -len(useful), -np.inf
    return -len(useful), -min((scale.ratio for scale in useful if not scale.exact), default=0.0)


def _across_kinds(evidence: Evidence, outputs: Sequence[str], samples: Sequence[Sample]) -> None:
    """Integer outputs are compared exactly, so it is enough that they differ between kinds."""
    kinds = dict.fromkeys(kind for _, kind in evidence.scales)
    for name in outputs:
        scales = {kind: evidence.scales[name, kind] for kind in kinds if (name, kind) in evidence.scales}
        values = [sample.values[name] for sample in samples]
        if all(scale.exact for scale in scales.values()) and any((v != values[0]).any() for v in values):
            for kind, scale in scales.items():
                evidence.scales[name, kind] = Scale(1.0, 0.0, scale.precision, exact=True)
