"""What the original does: on inputs that reach its outputs, at native size and on crops.

The original is run first and closed again, so that only one model is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

import numpy as np

from onnxfc.claim.claim import Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.alike import alike
from onnxfc.proof.choose_kinds import choose
from onnxfc.proof.edges import Edges
from onnxfc.proof.evidence import ADVICE, Evidence, Progress, Sample
from onnxfc.proof.inputs import Inputs, Kind
from onnxfc.proof.last_steps import steps
from onnxfc.proof.layers import Compared
from onnxfc.proof.narrowest import input_types
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import REDUCED, WINDOWED, pick_cells
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.sizes import Size, further_sizes, on_grid
from onnxfc.proof.wiring import dependent

SMALL = 2_000_000
"""Weights up to which a model is looked at more closely: four kinds of inputs instead of two."""
ROUNDINGS = 4
"""By so many roundings inputs are moved to see whether a window or a crop is one that rounding moves far: sums of it
are off by some."""


MASKED = 48
"""Samples of a small model that has a mask: few values lie between its threshold and one that is a little off."""
_KEPT = 1 << 16
"""Pixels up to which it is kept by what they were moved: windows are moved by the same again and again."""
ROUNDED = 12
"""Samples of a small quantised model, most of them for its features alone: an error of less than a step moves few of
these to another integer."""


def observe(
    pair: Compared,
    tensors: Sequence[str],
    sizes: Sequence[Size],
    options: CheckOptions,
    progress: Progress,
    *,
    thorough: bool,
) -> Evidence:
    """Run the original: choose inputs, native samples, crops of an image of the first of ``sizes``, rounding noise.

    ``tensors`` are observed beside the outputs. Raises RunError if the original does not run.
    """
    progress("loading the original")
    original, claim = pair.original, pair.claim
    runner = Runner(original, tensors, options.engine)
    images = [image.name for image in claim.inputs]
    inputs = Inputs(claim, runner.inputs, options, input_types(pair.rewritten.proto))
    evidence = Evidence(inputs, claim.inputs[0].batch, runner.free_batch(claim.inputs))
    evidence.small, evidence.thorough = is_small(original), thorough
    evidence.edges = Edges(original, tensors, options.engine)
    evidence.idle, evidence.alike = runner.idle, alike(original, pair.rewritten, claim)
    evidence.own, graph = pair.own, original.proto.graph
    evidence.moving, evidence.fed = dependent(graph, images), dependent(graph, list(runner.inputs))
    evidence.one_scale = any(node.op_type == "DynamicQuantizeLinear" for node in graph.node)

    def take(kind: Kind, number: int) -> Sample:
        return _sample(evidence, runner, kind, number)

    evidence.masked = evidence.small and not inputs.of_user and bool(steps(graph, evidence.moving))
    choose(evidence, runner.outputs, pair, options, progress, take)
    if evidence.vacuous is None:
        _more_samples(evidence, runner, options, progress)
        _run_crops(evidence, runner, claim, sizes[0], options, progress)
        if options.larger:  # else there is nothing to compare with it
            _run_whole(evidence, runner, claim, sizes, options.seed)
        del runner
        if thorough:
            _measure_noise(evidence, original, tensors, options, progress)
            _leave_drowned(evidence, claim)
    return evidence


def is_small(model: ModelFile) -> bool:
    """Whether running it many times costs little."""
    return sum(int(np.prod(tensor.dims)) for tensor in model.proto.graph.initializer) <= SMALL


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


def _sample(evidence: Evidence, runner: Runner, kind: Kind, number: int, batch: int | None = None) -> Sample:
    feeds = evidence.inputs.feeds(kind, number, batch)
    return Sample(kind, number, batch, feeds, runner.run(feeds))


def _more_samples(evidence: Evidence, runner: Runner, options: CheckOptions, progress: Progress) -> None:
    """As many samples as asked for, the kinds in turn, and a batch of two where the batch is free."""
    have = {(sample.kind.name, sample.number): sample for sample in evidence.samples}
    count = max(2, options.samples, MASKED if evidence.masked else 0, len(evidence.kinds))
    every = max(count, ROUNDED if evidence.small and evidence.alike and not evidence.inputs.of_user else 0)
    turns = [(evidence.kinds[i % len(evidence.kinds)], i // len(evidence.kinds)) for i in range(every)]
    chosen = []
    evidence.rounded = [_sample(evidence, runner, kind, number) for kind, number in turns[count:]]
    for i, (kind, number) in enumerate(turns[:count]):
        progress(f"original at native size, sample {i + 1} of {count}")
        chosen.append(have.get((kind.name, number)) or _sample(evidence, runner, kind, number))
    # Images run one by one say what the rewritten model makes of two, unless all in a batch have one scale.
    evidence.free_batch &= evidence.thorough or evidence.one_scale
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
    cells = pick_cells(size.grid, options.seed, count)
    if not evidence.thorough and count != every:  # a corner, where a native image may stand that was run
        cells = cells[1:2]
        if options.data is None:
            _inset(evidence, claim, size, kind, cells.pop(0))
    feeds = evidence.inputs.feeds(kind, 0, evidence.images_at(0), size.pixels)
    rough: list[tuple[int, ...]] = []
    for i, cell in enumerate(cells):
        progress(f"original on crop {i + 1} of {len(cells)}")
        crop = _crop(feeds, cell, evidence, runner, claim)
        made = runner.run(crop)
        evidence.crops.append((cell, made | crop))
        doubtful = evidence.small and len(cells) != every
        if doubtful and _is_rough(evidence, runner, kind, crop, made, runner.outputs, options.seed):
            rough.append(cell)
    if len(rough) < len(cells):
        evidence.crops = [found for found in evidence.crops if found[0] not in rough]


def _inset(evidence: Evidence, claim: Claim, size: Size, kind: Kind, cell: tuple[int, ...]) -> None:
    """Make a native sample, which was run, a part of the larger image: the crop of this cell."""
    evidence.inputs.inset = size.pixels, tuple(at * stride for at, stride in zip(cell, claim.stride, strict=True))
    whole = next(sample for sample in evidence.samples if sample.kind is kind and sample.number == 0)
    evidence.crops.append((cell, whole.values | whole.feeds))


def _crop(feeds: Arrays, cell: Sequence[int], evidence: Evidence, runner: Runner, claim: Claim) -> Arrays:
    """The inputs for the crop of a cell, of the first images of a batch."""
    crop = dict(feeds)
    for image in claim.inputs:
        begins = [at * stride for at, stride in zip(cell, claim.stride, strict=True)]
        piece = feeds[image.name][image.cut(begins, [image.shape[axis] for axis in image.spatial])]
        crop[image.name] = np.ascontiguousarray(piece[: image.batch] if image.batched else piece)
    for name in set(feeds) - {image.name for image in claim.inputs}:
        if evidence.free_batch and runner.inputs[name].shape[:1] == (None,):
            crop[name] = feeds[name][: evidence.batch]
    return crop


def _is_rough(
    evidence: Evidence, runner: Runner, kind: Kind, feeds: Arrays, values: Arrays, names: Sequence[str], seed: int
) -> bool:
    """Whether rounding alone moves one of these outputs by much, which tells nothing of what it is compared with."""
    noise = _Noise()
    moved = runner.run(jittered(feeds, evidence.inputs.images, seed, ROUNDINGS * 2.0**-23))
    for name in names:
        _note(noise, Sample(kind, 0, None, feeds, values), name, moved[name])
    return any(
        not evidence.scales[key].problem and not evidence.scales[key].steady(found) for key, found in noise.items()
    )


def _run_whole(evidence: Evidence, runner: Runner, claim: Claim, sizes: Sequence[Size], seed: int) -> None:
    """An original that takes any size itself says what outputs without windows must be, wherever it runs and rounds as
    at the native size."""
    free = all(runner.inputs[image.name].shape[axis] is None for image in claim.inputs for axis in image.spatial)
    own = [output.name for output in claim.outputs if output.form not in WINDOWED]
    if not free or not own:
        return
    further = further_sizes(claim, sizes[0]) if evidence.small and evidence.thorough else []
    for some in (sizes, further):
        for i, size in enumerate(some):
            for kind in evidence.shown(runner.outputs) if on_grid(size, claim) else ():
                with suppress(RunError):  # free in name only, or at other sizes
                    feeds = evidence.inputs.feeds(kind, 0, evidence.images_at(i), size.pixels)
                    made = runner.run(feeds)
                    if not _is_rough(evidence, runner, kind, feeds, made, own, seed):
                        evidence.whole[kind.name, size.pixels] = made


def _measure_noise(
    evidence: Evidence, original: ModelFile, tensors: Sequence[str], options: CheckOptions, progress: Progress
) -> None:
    """How much rounding alone moves the original: sums ordered otherwise, inputs off by half a unit in the last place.

    The second tells how a network amplifies rounding (a saturated softmax does) where the first finds nothing.
    """
    progress("rounding noise of the original")
    try:
        runner = Runner(original, tensors, options.engine, optimise=False)
        for sample in evidence.samples if evidence.small else evidence.samples[: len(evidence.kinds)]:
            for feeds in (sample.feeds, jittered(sample.feeds, evidence.inputs.images, options.seed)):
                for name, value in runner.run(feeds).items():
                    _note(evidence.noise, sample, name, value, evidence.flips)
    except RunError:
        # Without graph optimisation some kernels are missing (float16); the noise stays unknown.
        evidence.noise.clear()
        evidence.flips = None


_Noise = dict[tuple[str, str], float]


def _note(noise: _Noise, sample: Sample, name: str, value: Array, flips: _Noise | None = None) -> None:
    if value.dtype.kind in "fiu" and value.shape == sample.values[name].shape:
        with np.errstate(invalid="ignore"):  # infinite scores, of which there is no noise
            difference = np.abs(value.astype(np.float64) - sample.values[name].astype(np.float64))
        key = (name, sample.kind.name)
        if value.dtype.kind == "f":
            noise[key] = max(noise.get(key, 0.0), float(difference.max(initial=0.0)))
        if flips is not None and difference.size:
            flips[key] = max(flips.get(key, 0.0), float(difference.mean()))


def jittered(feeds: Arrays, images: Sequence[str], seed: int, least: float = 0.0) -> Arrays:
    """Float images with every pixel moved by at most one rounding, up or down; by a coarser one of ``least``."""
    moved = dict(feeds)
    floats = [name for name in images if feeds[name].dtype.kind == "f"]
    made = tuple((feeds[name].shape, max(least, float(np.finfo(feeds[name].dtype).eps))) for name in floats)
    small = sum(feeds[name].size for name in floats) <= _KEPT
    for name, factor in zip(floats, (_factors if small else _factors.__wrapped__)(seed, made), strict=True):
        moved[name] = (feeds[name] * factor).astype(feeds[name].dtype)
    return moved


@lru_cache(maxsize=16)
def _factors(seed: int, made: tuple[tuple[tuple[int, ...], float], ...]) -> tuple[Array, ...]:
    """What moves images of these shapes, by roundings of these sizes: the same for all windows of an image."""
    rng = np.random.default_rng([seed, 1])
    return tuple(1 + rng.choice(np.array([-1.0, 1.0]), shape) * eps / 2 for shape, eps in made)
