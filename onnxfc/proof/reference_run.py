"""What the original does: on inputs that reach its outputs, at native size and on crops.

The original is run first and closed again, so that only one model is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.head import reads
from onnxfc.proof.inputs import NORMAL, Inputs, Kind
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import REDUCED, WINDOWED, pick_cells
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.sizes import Size
from onnxfc.proof.tolerance import Precision, Scale, confirmed, measure, precision_of

Progress = Callable[[str], None]
SMALL = 2_000_000
"""Weights up to which a model is looked at more closely: four kinds of inputs instead of two."""
JUDGED = 4
"""Samples that a kind of inputs is judged on where the first two leave its worth open."""
OPEN = 2
"""Kinds of inputs that are judged on so many for a large model; any number for a small one."""

ADVICE = "give real inputs with --data FILE.npy"


@dataclass(frozen=True)
class Sample:
    """Inputs at native size and what the original made of them."""

    kind: Kind
    number: int
    batch: int | None
    feeds: Arrays
    values: Arrays


@dataclass
class Evidence:
    """All that was seen of the original. ``kinds`` are informative; ``scales`` go by output and kind.

    ``noise``: how much rounding alone moves a tensor; a deep trunk amplifies it, though in both models alike.
    """

    inputs: Inputs
    batch: int
    free_batch: bool
    samples: list[Sample] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    scales: dict[tuple[str, str], Scale] = field(default_factory=dict)
    noise: dict[tuple[str, str], float] = field(default_factory=dict)
    crops: list[tuple[tuple[int, ...], Arrays]] = field(default_factory=list)
    whole: dict[str, Arrays] = field(default_factory=dict)
    vacuous: str | None = None
    drowned: str = ""
    small: bool = False

    def cover(self, outputs: Sequence[str]) -> list[Kind]:
        """The fewest kinds, best first, with which every one of ``outputs`` is informative."""
        left, chosen = list(outputs), []
        for kind in self.kinds:
            fresh = [name for name in left if not self.scales[name, kind.name].problem]
            if fresh:
                chosen.append(kind)
                left = [name for name in left if name not in fresh]
        return chosen


def observe(
    original: ModelFile,
    claim: Claim,
    tensors: Sequence[str],
    size: Size,
    options: CheckOptions,
    progress: Progress,
) -> Evidence:
    """Run the original: choose inputs, native samples, crops of an image of ``size``, rounding noise.

    ``tensors`` are observed beside the outputs. Raises RunError if the original does not run.
    """
    progress("loading the original")
    runner = Runner(original, tensors, options.engine)
    images = [image.name for image in claim.inputs]
    inputs = Inputs(claim, runner.inputs, options)
    evidence = Evidence(inputs, claim.inputs[0].shape[0], runner.free_batch(images))
    evidence.small = sum(int(np.prod(t.dims)) for t in original.proto.graph.initializer) <= SMALL
    _choose(evidence, runner, original, options, progress)
    if evidence.vacuous is None:
        _more_samples(evidence, runner, options, progress)
        _run_crops(evidence, runner, claim, size, options, progress)
        _run_whole(evidence, runner, claim, size)
        del runner
        _measure_noise(evidence, original, tensors, options, progress)
        _leave_drowned(evidence, claim)
    return evidence


def _leave_drowned(evidence: Evidence, claim: Claim) -> None:
    """Do without the kinds of inputs under which rounding moves an output nearly as much as an error would.

    Where all do, agreement still proves something (rounding was the same in both), but a deviation may be none's fault.
    """
    outputs = [output.name for output in claim.outputs]

    def drowned(name: str, kind: Kind) -> bool:
        scale = evidence.scales[name, kind.name]
        return not scale.problem and scale.drowned(evidence.noise.get((name, kind.name), 0.0))

    clear = [kind for kind in evidence.kinds if not any(drowned(name, kind) for name in outputs)]
    if clear and set(clear) >= set(evidence.cover(outputs)):
        evidence.kinds = clear
        evidence.samples = [sample for sample in evidence.samples if sample.kind in clear]
        return
    for name in outputs:
        if all(drowned(name, kind) or evidence.scales[name, kind.name].problem for kind in evidence.kinds):
            evidence.drowned = f"; but rounding alone may move output {name} as much: {ADVICE}"


def _choose(evidence: Evidence, runner: Runner, original: ModelFile, options: CheckOptions, progress: Progress) -> None:
    """Try kinds of inputs until enough are good for every output; keep the best."""
    tried = _tried(evidence, runner, original, options, progress)
    _across_kinds(evidence, runner.outputs, [sample for _, pair in tried for sample in pair])
    worth = {kind: _worth(evidence, runner.outputs, kind) for kind, _ in tried}
    ranked = sorted(tried, key=lambda entry: worth[entry[0]])
    useful = [entry for entry in ranked if worth[entry[0]][0] < 0]
    evidence.kinds = [kind for kind, _ in useful]
    for name in runner.outputs:
        problems = [evidence.scales[name, kind.name].problem for kind, _ in ranked]
        if all(problems):
            evidence.vacuous = f"output {name} is {problems[0]}; {ADVICE}"
    evidence.kinds = _kept(evidence, runner.outputs, worth)
    evidence.samples = [sample for kind, taken in useful if kind in evidence.kinds for sample in taken]


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
    evidence: Evidence, runner: Runner, original: ModelFile, options: CheckOptions, progress: Progress
) -> list[tuple[Kind, list[Sample]]]:
    """Samples of each kind, until enough kinds are good for every output; their scales are noted.

    There are two of them, and more of a kind that the outputs answer to, though not clearly, and of normal inputs.
    """
    measured = _Scales(precision_of(original.proto), _dependent(original.proto.graph, evidence.inputs.images), options)
    tried: list[tuple[Kind, list[Sample]]] = []
    for kind in evidence.inputs.kinds:
        progress(f"looking for inputs that reach the outputs: {kind.name}")
        taken = [_sample(evidence, runner, kind, number) for number in (0, 1)]
        measured.note(evidence, taken)
        longer = sum(len(samples) > 2 for _, samples in tried)
        if _open(evidence, runner.outputs, kind) and (evidence.small or longer < OPEN):
            taken += [_sample(evidence, runner, kind, number) for number in range(2, JUDGED)]
            measured.note(evidence, taken)
        tried.append((kind, taken))
        good = [k for k, _ in tried if all(evidence.scales[n, k.name].good for n in runner.outputs)]
        if len(good) == (4 if evidence.small else 2):
            break
    return tried


def _open(evidence: Evidence, outputs: Sequence[str], kind: Kind) -> bool:
    """Whether more samples may show a kind to be better than it seems."""
    poor = [scale for name in outputs if not (scale := evidence.scales[name, kind.name]).good]
    return any(evidence.small or kind.name == NORMAL or not scale.problem for scale in poor)


@dataclass(frozen=True)
class _Scales:
    """How scales are measured: the model's precision, the tensors that depend on an image, the tolerances."""

    precision: Precision
    moving: set[str]
    options: CheckOptions

    def note(self, evidence: Evidence, samples: Sequence[Sample]) -> None:
        """Measure every tensor on ``samples``, all of one kind, the second time on more of them."""
        for name in samples[0].values:
            values = [sample.values[name] for sample in samples]
            found = measure(values, evidence.batch, self.precision, self.options.of(name))
            scale = found if name in self.moving else replace(found, exact=True, problem="")
            key = name, samples[0].kind.name
            evidence.scales[key] = confirmed(evidence.scales[key], scale) if key in evidence.scales else scale


def _worth(evidence: Evidence, outputs: Sequence[str], kind: Kind) -> tuple[int, float]:
    """Most outputs first; then those that are good, in the order of the kinds; then by signal."""
    scales = [evidence.scales[name, kind.name] for name in outputs]
    useful = [scale for scale in scales if not scale.problem]
    if useful and all(scale.good for scale in useful):
        return -len(useful), -np.inf
    return -len(useful), -min((scale.ratio for scale in useful if not scale.exact), default=0.0)


def _dependent(graph: onnx.GraphProto, images: Sequence[str]) -> set[str]:
    """All tensors that depend on an image. What does not is a constant: it must stay as it is, to the bit."""
    found, before = set(images), 0
    while len(found) > before:  # nodes need not be in order
        before = len(found)
        for node in graph.node:
            if found & reads(node):
                found.update(node.output)
    return found


def _across_kinds(evidence: Evidence, outputs: Sequence[str], samples: Sequence[Sample]) -> None:
    """Integer outputs are compared exactly, so it is enough that they differ between kinds."""
    for name in outputs:
        scales = {kind: scale for (n, kind), scale in evidence.scales.items() if n == name}
        values = [sample.values[name] for sample in samples]
        if all(scale.exact for scale in scales.values()) and any((v != values[0]).any() for v in values):
            for kind, scale in scales.items():
                evidence.scales[name, kind] = Scale(1.0, 0.0, scale.precision, exact=True)


def _sample(evidence: Evidence, runner: Runner, kind: Kind, number: int, batch: int | None = None) -> Sample:
    feeds = evidence.inputs.feeds(kind, number, batch)
    return Sample(kind, number, batch, feeds, runner.run(feeds))


def _more_samples(evidence: Evidence, runner: Runner, options: CheckOptions, progress: Progress) -> None:
    """As many samples as asked for, the kinds in turn, and a batch of two where the batch is free."""
    have = {(sample.kind.name, sample.number): sample for sample in evidence.samples}
    count = max(2, options.samples, len(evidence.kinds))
    turns = [(evidence.kinds[i % len(evidence.kinds)], i // len(evidence.kinds)) for i in range(count)]
    chosen = []
    for i, (kind, number) in enumerate(turns):
        progress(f"original at native size, sample {i + 1} of {count}")
        chosen.append(have.get((kind.name, number)) or _sample(evidence, runner, kind, number))
    if evidence.free_batch:
        progress("original at native size, batch 2")
        try:
            chosen.append(_sample(evidence, runner, evidence.kinds[0], count, 2))
        except RunError:
            # The batch is declared free but baked into the graph: then there is nothing to agree on.
            evidence.free_batch = False
    evidence.samples = chosen


def _run_crops(
    evidence: Evidence, runner: Runner, claim: Claim, size: Size, options: CheckOptions, progress: Progress
) -> None:
    """Native-size crops at cell * stride pixels: the corners and the centre, or all for reduced outputs."""
    forms = {output.form for output in claim.outputs}
    if not forms.intersection(WINDOWED) or size.grid is None:
        return
    every = int(np.prod(size.grid))
    count = every if forms.intersection(REDUCED) and every <= 16 else 5
    kind = evidence.cover(runner.outputs)[0]
    feeds = evidence.inputs.feeds(kind, 0, 2 if evidence.free_batch else None, size.pixels)
    cells = pick_cells(size.grid, options.seed, count)
    for i, cell in enumerate(cells):
        progress(f"original on crop {i + 1} of {len(cells)}")
        crop = dict(feeds)
        for image in claim.inputs:
            place = [slice(0, image.shape[0])] + [slice(None)] * (len(image.shape) - 1)
            for axis, at, stride in zip(image.spatial, cell, claim.stride, strict=True):
                place[axis] = slice(at * stride, at * stride + image.shape[axis])
            crop[image.name] = np.ascontiguousarray(feeds[image.name][tuple(place)])
        for name in set(feeds) - {image.name for image in claim.inputs}:
            if evidence.free_batch and runner.inputs[name].shape[:1] == (None,):
                crop[name] = feeds[name][: evidence.batch]
        evidence.crops.append((cell, runner.run(crop)))


def _run_whole(evidence: Evidence, runner: Runner, claim: Claim, size: Size) -> None:
    """An original that takes any size itself says what outputs without windows must be."""
    free = all(runner.inputs[image.name].shape[axis] is None for image in claim.inputs for axis in image.spatial)
    if not free or all(output.form in WINDOWED for output in claim.outputs):
        return
    for kind in evidence.cover(runner.outputs):
        batch = 2 if evidence.free_batch else None
        try:
            evidence.whole[kind.name] = runner.run(evidence.inputs.feeds(kind, 0, batch, size.pixels))
        except RunError:
            # Free in name only: its head is made for the native size.
            return


def _measure_noise(
    evidence: Evidence, original: ModelFile, tensors: Sequence[str], options: CheckOptions, progress: Progress
) -> None:
    """How much rounding alone moves the original: sums ordered otherwise, inputs off by half a unit in the last place.

    The second tells how a network amplifies rounding (a saturated softmax does) where the first finds nothing.
    """
    progress("rounding noise of the original")
    try:
        runner = Runner(original, tensors, options.engine, optimise=False)
        for sample in evidence.samples[: len(evidence.kinds)]:
            for feeds in (sample.feeds, jittered(sample.feeds, evidence.inputs.images, options.seed)):
                for name, value in runner.run(feeds).items():
                    _note(evidence.noise, sample, name, value)
    except RunError:
        # Without graph optimisation some kernels are missing (float16); the noise stays unknown.
        evidence.noise.clear()


def _note(noise: dict[tuple[str, str], float], sample: Sample, name: str, value: Array) -> None:
    if value.dtype.kind == "f" and value.shape == sample.values[name].shape:
        with np.errstate(invalid="ignore"):  # infinite in both
            difference = np.abs(value.astype(np.float64) - sample.values[name].astype(np.float64))
        key = (name, sample.kind.name)
        noise[key] = max(noise.get(key, 0.0), float(difference.max(initial=0.0)))


def jittered(feeds: Arrays, images: Sequence[str], seed: int) -> Arrays:
    """Float images with every pixel moved by at most one rounding, up or down."""
    rng = np.random.default_rng([seed, 1])
    moved = dict(feeds)
    for name in images:
        value = feeds[name]
        if value.dtype.kind == "f":
            signs = rng.choice(np.array([-1.0, 1.0]), value.shape)
            moved[name] = (value * (1 + signs * np.finfo(value.dtype).eps / 2)).astype(value.dtype)
    return moved
