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

from onnxfc.claim.claim import Boundary, Claim, Output
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.evidence import Evidence, Progress
from onnxfc.proof.inputs import Kind
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.output_forms import FormError, level_name, unlisted
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Arrays, RunError, Runner

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


def compare_shifted(
    rewritten: Runner, evidence: Evidence, claim: Claim, options: CheckOptions, progress: Progress
) -> ParityResult:
    """Run the two crops and compare, unless there is a reason against it."""
    against = why_not(evidence, claim)
    if against is not None:
        return against
    affordable = _affordable(list(targets(claim)), evidence, claim)
    sizes = _sizes(affordable, claim)
    if _cost(sizes, claim, evidence) > PASSES:
        affordable = [min(affordable, key=lambda target: math.prod(target.size))]
        sizes = _sizes(affordable, claim)
    pair = _Pair(rewritten, evidence, claim, sizes, Tally(options, evidence.noise))
    for kind in evidence.cover([output.name for output in claim.outputs]):
        progress(f"moved by {_text(pair.period)} px, inputs {kind.name}")
        try:
            found = pair.run(kind)
        except (FormError, RunError) as error:
            pair.tally.fail(f"the rewritten model does not run at {sizes[0]} and {sizes[1]}: {error}")
            break
        for target in affordable:
            pair.compare(target, kind, *found)
    pair.tally.sizes.extend(sizes)
    return pair.tally.result()


@dataclass(frozen=True)
class _Pair:
    """Two crops of one image, of these ``sizes``: at its first pixel, and a period further on."""

    rewritten: Runner
    evidence: Evidence
    claim: Claim
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    tally: Tally

    @property
    def period(self) -> tuple[int, ...]:
        return _period(self.claim)

    def run(self, kind: Kind) -> tuple[Arrays, Arrays]:
        """Both through the rewritten model."""
        whole = tuple(max(a, b + p) for a, b, p in zip(*self.sizes, self.period, strict=True))
        feeds, made = self.evidence.inputs.feeds(kind, 0, None, whole), list[Arrays]()
        for size, origin in zip(self.sizes, ((0,) * len(whole), self.period), strict=True):
            crop, shapes = dict(feeds), self.claim.image_shapes(size)
            for image in self.claim.inputs:
                piece = image.cut(origin, [shapes[image.name][axis] for axis in image.spatial])
                crop[image.name] = np.ascontiguousarray(feeds[image.name][piece])
            found = self.rewritten.run(crop)
            made.append(found | unlisted(self.claim, found))  # lists level by level too
        return made[0], made[1]

    def compare(self, target: Target, kind: Kind, one: Arrays, two: Arrays) -> None:
        scale = self.evidence.scales.get((target.original, kind.name))
        if scale is None or scale.problem or scale.hidden:
            return
        places = self._interiors(target, one, two)
        want, got = (values[target.name][tuple(place)] for values, place in zip((one, two), places, strict=True))
        where = f"of the interior at {_text(self.sizes[1])} px, moved by {_text(self.period)} px"
        if want.size == 0:
            return
        if want.shape != got.shape:
            self.tally.fail(f"{target.name} has fewer elements than its claimed stride promises {where}")
            return
        self.tally.compare(target.name, got, want, scale, kind.name, where)

    def _interiors(self, target: Target, one: Arrays, two: Arrays) -> tuple[list[slice], list[slice]]:
        """Where the elements lie, in one and the other, that read nothing but pixels of both."""
        before, after = one[target.name].shape, two[target.name].shape
        places: tuple[list[slice], list[slice]] = ([slice(None)] * len(before), [slice(None)] * len(after))
        for k, axis in enumerate(target.axes):
            moved, first = target.moved(k, self.period[k]), target.first(k)
            stop = 1 + min(target.last(k, self.sizes[0][k]) - moved, target.last(k, self.sizes[1][k]))
            stop = min(stop, before[axis] - moved, after[axis])  # a network may cut off its border
            places[0][axis] = slice(first + moved, stop + moved)
            places[1][axis] = slice(first, stop)
        return places


def _period(claim: Claim) -> tuple[int, ...]:
    return claim.period or claim.stride


def why_not(evidence: Evidence, claim: Claim) -> ParityResult | None:
    """Not run where that is too costly, not applicable where nothing has an interior."""
    other = next((item for item in claim.blames if not item.cause.local), None)
    if other is not None:
        return _not(f"every element depends on the whole image ({other})")
    found = list(targets(claim))
    if not found:
        return _not("the receptive fields of the outputs are not known")
    if not _affordable(found, evidence, claim):
        return ParityResult("not run", reason=_too_large(found, claim))
    return None


def _affordable(found: Sequence[Target], evidence: Evidence, claim: Claim) -> list[Target]:
    return [target for target in found if _cost(_sizes([target], claim), claim, evidence) <= PASSES]


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


def _sizes(chosen: Sequence[Target], claim: Claim) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of both crops; the second is a step larger, as a trunk must not move with the size of the image."""
    first, steps, period = [], _steps(claim), _period(claim)
    for axis, (native, step) in enumerate(zip(claim.native_size, steps, strict=True)):
        needed = max(target.needs(axis, period[axis]) for target in chosen)
        first.append(native + -(-max(0, needed - native) // step) * step)
    return tuple(first), tuple(n + step for n, step in zip(first, steps, strict=True))


def _steps(claim: Claim) -> tuple[int, ...]:
    """Steps from the native size: those of all legal sizes, or whole periods where only those keep all ratios.

    The image that is moved is as large as a size of the grid where maps follow each other's sizes.
    """
    if not any(item.cause.by_size for item in claim.blames):
        return claim.size_step
    return tuple(math.lcm(step, moved) for step, moved in zip(claim.size_step, _period(claim), strict=True))


def _cost(sizes: Sequence[tuple[int, ...]], claim: Claim, evidence: Evidence) -> float:
    """Native passes that the runs cost; nothing for small images through small models."""
    pixels = [math.prod(size) for size in sizes]
    if evidence.small and max(pixels) <= PIXELS:
        return 0.0
    return sum(pixels) / math.prod(claim.native_size)


def _too_large(found: Sequence[Target], claim: Claim) -> str:
    smallest = min(found, key=lambda target: math.prod(target.size))
    size = _sizes([smallest], claim)[0]
    return f"the receptive field of {smallest.name}, {_text(smallest.size)} px, would need images of {_text(size)} px"


def _text(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))


def _not(reason: str) -> ParityResult:
    return ParityResult("not applicable", reason=reason)
