"""Interior shift consistency: what lies well inside two overlapping images is the same in both.

Two crops of one bigger image, ``period`` pixels apart, are run through the rewritten model. An element whose whole
receptive field lies inside both of them must have the same value: nothing that it reads is padding or border.
For freed features (no window to compare with the original's head) this is the proof at larger sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxfc.claim.claim import Boundary, Claim, ImageInput, Output
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.inputs import Kind
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import FormError, level_name, unlisted
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Arrays, RunError, Runner
from onnxfc.proof.sizes import Size
from onnxfc.proof.windows import Capture

PASSES = 4.0
"""Native forward passes that both runs together may cost ..."""
PIXELS = 1 << 14
"""... or so many pixels each, for a small model."""


@dataclass(frozen=True)
class Target:
    """A tensor to compare: element ``i`` on ``axes`` reads ``size`` pixels from ``start + i * stride / per`` on."""

    name: str
    original: str
    axes: tuple[int, ...]
    stride: tuple[int, ...]
    per: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]

    def first(self, axis: int) -> int:
        """The first element that reads nothing before the image."""
        return max(0, -(self.start[axis] * self.per[axis] // self.stride[axis]))

    def last(self, axis: int, length: int) -> int:
        """The last element that reads nothing behind an image of ``length`` pixels."""
        return (length - self.size[axis] - self.start[axis]) * self.per[axis] // self.stride[axis]

    def moved(self, axis: int, period: int) -> int:
        """By how many elements it moves when the image moves by a period."""
        return period * self.per[axis] // self.stride[axis]

    def needs(self, axis: int, period: int) -> int:
        """The smallest image in which an element of the interior is still there when the image has moved."""
        count = self.first(axis) + self.moved(axis, period)
        return self.start[axis] + -(-count * self.stride[axis] // self.per[axis]) + self.size[axis]


@dataclass(frozen=True)
class Shifted:
    """The result, and where it is a failure in the trunk, but nothing reads more of the image than it is said to, what
    was run: the original may be asked for the same."""

    result: ParityResult
    shots: Sequence[Capture] = ()


def compare_shifted(
    rewritten: Runner, evidence: Evidence, claim: Claim, options: CheckOptions, progress: Progress
) -> Shifted:
    """Run the two crops and compare, unless there is a reason against it."""
    against, period = why_not(evidence, claim), claim.period or claim.stride
    if against is not None:
        return Shifted(against)
    affordable = _affordable(list(targets(claim)), evidence, claim)
    sizes = _sizes(affordable, claim, period)
    if _cost(sizes, claim, evidence) > PASSES:
        affordable = [min(affordable, key=lambda target: math.prod(target.size))]
        sizes = _sizes(affordable, claim, period)
    tally, shots = Tally(options, evidence.noise), list[Capture]()
    for kind in evidence.cover([output.name for output in claim.outputs]):
        progress(f"moved by {'x'.join(map(str, period))} px, inputs {kind.name}")
        crops = list(_crops(evidence, kind, claim, sizes, period))
        try:
            values = [_run(rewritten, feeds, claim) for feeds in crops]
        except (FormError, RunError) as error:
            tally.fail(f"the rewritten model does not run at {sizes[0]} and {sizes[1]}: {error}")
            break
        runs = zip(sizes, values, crops, strict=True)
        shots += [Capture(Size(size), kind, evidence.batch, made, feeds) for size, made, feeds in runs]
        for target in affordable:
            _compare(target, values, sizes, period, evidence, kind, tally)
    tally.sizes.extend(sizes)
    read = not tally.reasons and _read_no_more(affordable, shots, period, rewritten, claim, evidence, tally)
    return Shifted(tally.result(), shots if read else ())


def _run(rewritten: Runner, feeds: Arrays, claim: Claim) -> Arrays:
    """Outputs and trunk tensors, lists level by level too."""
    found = rewritten.run(feeds)
    return found | unlisted(claim, found)


def _read_no_more(
    targets: Sequence[Target],
    shots: Sequence[Capture],
    period: Sequence[int],
    rewritten: Runner,
    claim: Claim,
    evidence: Evidence,
    tally: Tally,
) -> bool:
    """Whether the trunk fails, but none of what fails reads more than its field, as far as is seen of the elements that
    differ most."""
    differ = {output.name for output in tally.result().outputs if not output.passed}
    failed = [target for target in targets if target.name in differ]
    pairs = list(zip(shots[::2], shots[1::2], strict=True))
    return bool(differ & {item.rewritten for item in claim.boundaries}) and all(
        _reads_no_more(item, pair, period, rewritten, claim, evidence, tally) for item in failed for pair in pairs
    )


def _reads_no_more(
    target: Target,
    pair: tuple[Capture, Capture],
    period: Sequence[int],
    rewritten: Runner,
    claim: Claim,
    evidence: Evidence,
    tally: Tally,
) -> bool:
    """Whether the element that differs most stays what it is in both images when all else but its field is another."""
    key = target.original, pair[0].kind.name
    sizes = [shot.size.pixels for shot in pair]
    both = _interiors(target, [shot.values for shot in pair], sizes, period)
    one, two = (shot.values[target.name][tuple(place)] for shot, place in zip(pair, both, strict=True))
    if one.shape != two.shape or one.size == 0 or any(_more(image, claim) for image in claim.inputs):
        return False
    far = np.abs(one.astype(np.float64) - two).max(axis=tuple(k for k in range(one.ndim) if k not in target.axes))
    at = np.unravel_index(int(far.argmax()), far.shape)
    order = sorted(target.axes)
    for shot, place in zip(pair, both, strict=True):
        for axis, k in zip(order, at, strict=True):
            place[axis] = slice(place[axis].start + int(k), place[axis].start + int(k) + 1)
        starts = [
            target.start[n] + place[axis].start * target.stride[n] // target.per[n]
            for n, axis in enumerate(target.axes)
        ]
        feeds = dict(shot.feeds)
        for image in claim.inputs:
            field = image.cut(starts, target.size)
            feeds[image.name] = np.flip(feeds[image.name], image.spatial).copy()
            feeds[image.name][field] = shot.feeds[image.name][field]
        now = _run(rewritten, feeds, claim)[target.name][tuple(place)]
        if tally.exceeds(target.name, now, shot.values[target.name][tuple(place)], evidence.scales[key], key[1]):
            return False
    return True


def _more(image: ImageInput, claim: Claim) -> bool:
    """Whether an image is of another size than the first."""
    return tuple(image.shape[axis] for axis in image.spatial) != claim.native_size


def why_not(evidence: Evidence, claim: Claim) -> ParityResult | None:
    """Not run where that is too costly, not applicable where nothing has an interior."""
    other = next((item for item in claim.blames if not item.cause.local), None)
    if other is not None:
        return _not(f"every element depends on the whole image ({other})")
    found = list(targets(claim))
    if not found:
        return _not("the receptive fields of the outputs are not known")
    if not _affordable(found, evidence, claim):
        return ParityResult("not run", reason=_too_large(found, claim, claim.period or claim.stride))
    return None


def _affordable(found: Sequence[Target], evidence: Evidence, claim: Claim) -> list[Target]:
    period = claim.period or claim.stride
    return [target for target in found if _cost(_sizes([target], claim, period), claim, evidence) <= PASSES]


def targets(claim: Claim) -> Iterator[Target]:
    """Outputs with a grid, and the trunk tensors before the heads."""
    for output in claim.outputs:
        for number, level in enumerate(output.levels):
            axes = tuple(range(level.axis + 1, level.axis + 1 + len(level.stride)))
            name = level_name(output, number)
            yield Target(name, output.name, axes, level.stride, level.per, level.start, level.size)
        if output.stride and not output.levels:
            yield Target(output.name, output.name, output.axes, output.stride, output.per, output.start, output.size)
    for boundary in claim.boundaries:
        target = _of_boundary(boundary, claim)
        if target is not None:
            yield target


def _of_boundary(boundary: Boundary, claim: Claim) -> Target | None:
    """What an element of the trunk reads, from what a cell reads: all but the rest of its window, if it is of one."""
    known = len(claim.start) == len(claim.size) == len(claim.stride) and _told(claim.outputs)
    if not known or any(s % step for s, step in zip(claim.stride, boundary.step, strict=True)):
        return None
    stride = tuple(s // step for s, step in zip(claim.stride, boundary.step, strict=True))
    extent = boundary.extent if _of_windows(claim.outputs) else (1,) * len(stride)
    size = tuple(n - (e - 1) * s for n, e, s in zip(claim.size, extent, stride, strict=True))
    if min(size) < 1:
        return None
    ones = (1,) * len(stride)
    return Target(boundary.rewritten, boundary.original, boundary.spatial, stride, ones, claim.start, size)


def _of_windows(outputs: Sequence[Output]) -> bool:
    """Whether a cell is of a window; else the pool was dropped, and it is of one element of the map."""
    windowed = any(output.form in ("map", "cells", "mean", "max") for output in outputs)
    return windowed or not any(output.form == "activation" and output.stride for output in outputs)


def _told(outputs: Sequence[Output]) -> bool:
    """Whether the claim tells receptive fields; one that was derived, or is of an older version, does not."""
    return any(output.stride for output in outputs) or any(o.form in ("mean", "max", "activation") for o in outputs)


def _sizes(chosen: Sequence[Target], claim: Claim, period: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of both crops; the second is a step larger, as a trunk must not move with the size of the image."""
    first, steps = [], _steps(claim, period)
    for axis, (native, step) in enumerate(zip(claim.native_size, steps, strict=True)):
        needed = max(target.needs(axis, period[axis]) for target in chosen)
        first.append(native + -(-max(0, needed - native) // step) * step)
    return tuple(first), tuple(n + step for n, step in zip(first, steps, strict=True))


def _steps(claim: Claim, period: Sequence[int]) -> tuple[int, ...]:
    """Steps from the native size: those of all legal sizes, or whole periods where only those keep all ratios.

    The image that is moved is as large as a size of the grid where maps follow each other's sizes.
    """
    if not any(item.cause.by_size for item in claim.blames):
        return claim.size_step
    return tuple(math.lcm(step, moved) for step, moved in zip(claim.size_step, period, strict=True))


def _cost(sizes: Sequence[tuple[int, ...]], claim: Claim, evidence: Evidence) -> float:
    """Native passes that the runs cost; nothing for small images through small models."""
    pixels = [math.prod(size) for size in sizes]
    if evidence.small and max(pixels) <= PIXELS:
        return 0.0
    return sum(pixels) / math.prod(claim.native_size)


def _too_large(found: Sequence[Target], claim: Claim, period: Sequence[int]) -> str:
    smallest = min(found, key=lambda target: math.prod(target.size))
    size = _sizes([smallest], claim, period)[0]
    field = "x".join(map(str, smallest.size))
    return f"the receptive field of {smallest.name}, {field} px, would need images of {'x'.join(map(str, size))} px"


def _crops(
    evidence: Evidence, kind: Kind, claim: Claim, sizes: Sequence[tuple[int, ...]], period: Sequence[int]
) -> Iterator[Arrays]:
    """Two crops of one image: at its first pixel, and a period further on."""
    whole = tuple(max(a, b + p) for a, b, p in zip(*sizes, period, strict=True))
    feeds = evidence.inputs.feeds(kind, 0, None, whole)
    for size, origin in zip(sizes, ((0,) * len(whole), period), strict=True):
        crop = dict(feeds)
        for image in claim.inputs:
            shape = claim.image_shapes(size)[image.name]
            piece = image.cut(origin, [shape[axis] for axis in image.spatial])
            crop[image.name] = np.ascontiguousarray(feeds[image.name][piece])
        yield crop


def _compare(
    target: Target,
    values: Sequence[Arrays],
    sizes: Sequence[tuple[int, ...]],
    period: Sequence[int],
    evidence: Evidence,
    kind: Kind,
    tally: Tally,
) -> None:
    scale = evidence.scales.get((target.original, kind.name))
    if scale is None or scale.problem or scale.hidden:
        return
    one, two = values[0][target.name], values[1][target.name]
    places = _interiors(target, values, sizes, period)
    want, got = one[tuple(places[0])], two[tuple(places[1])]
    where = f"of the interior at {_text(sizes[1])} px, moved by {_text(period)} px"
    if want.size == 0:
        return
    if want.shape != got.shape:
        tally.fail(f"{target.name} has fewer elements than its claimed stride promises {where}")
        return
    tally.compare(target.name, got, want, scale, kind.name, where)


def _interiors(
    target: Target, values: Sequence[Arrays], sizes: Sequence[Sequence[int]], period: Sequence[int]
) -> tuple[list[slice], list[slice]]:
    """Where the elements lie, in one and the other, that read nothing but pixels of both."""
    one, two = values[0][target.name], values[1][target.name]
    places: tuple[list[slice], list[slice]] = ([slice(None)] * one.ndim, [slice(None)] * two.ndim)
    for k, axis in enumerate(target.axes):
        moved, first = target.moved(k, period[k]), target.first(k)
        stop = 1 + min(target.last(k, sizes[0][k]) - moved, target.last(k, sizes[1][k]))
        stop = min(stop, one.shape[axis] - moved, two.shape[axis])  # a network may cut off its border
        places[0][axis] = slice(first + moved, stop + moved)
        places[1][axis] = slice(first, stop)
    return places


def _text(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))


def _not(reason: str) -> ParityResult:
    return ParityResult("not applicable", reason=reason)
