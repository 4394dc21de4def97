"""Features that no tried image has made, so that more of the head's units are active.

A unit behind a Relu that no image reaches could have any weights. So both heads are also run, each on its own, on
features that are put together from those of several windows: every channel holds only values that it held somewhere,
but channels and places are combined anew, or some of the channels are as low as they get.

Some of what comes of it a head cannot take: a norm over values that are all alike divides rounding by next to nothing.
So the original's head is asked twice, the second time with every feature moved by a rounding. Where that alone moves an
output as much as an error might, the features prove nothing and are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnxfc.claim.claim import Boundary, Claim, Output
from onnxfc.proof.accumulator import Tally, distance
from onnxfc.proof.evidence import Evidence
from onnxfc.proof.head import Head
from onnxfc.proof.output_forms import FormError, native_value, pick_cells
from onnxfc.proof.reference_run import jittered
from onnxfc.proof.rough_cells import FAR_OFF, RoughCells
from onnxfc.proof.sessions import Array, Arrays, RunError
from onnxfc.proof.tolerance import COARSE, Scale, measure
from onnxfc.proof.windows import Capture, window_of

SMALL_COUNT, LARGE_COUNT = 12, 6
"""How many windows are put together for each kind of inputs, for small models and for large ones."""
SEEN = 8
"""Windows of each larger image that they are made of, beside those of the native samples."""


@dataclass(frozen=True)
class Mixed:
    """Features made from windows of one kind of inputs, and the outputs that the original's head makes of them.

    ``moved``: the outputs that it makes of the same features, each moved by a rounding. ``head``: a small one,
    which may be asked again. ``leaps``, ``stackable``: see Head.
    """

    kind: str
    windows: list[Arrays]
    outputs: list[Arrays]
    moved: list[Arrays]
    head: Head | None
    leaps: bool
    stackable: bool


def mixed_windows(head: Head, captures: Sequence[Capture], claim: Claim, evidence: Evidence, seed: int) -> list[Mixed]:
    """Put windows together and ask the original's head; nothing where a head begins at several tensors, which may
    depend on one another. Raises RunError."""
    if len(claim.boundaries) != 1:
        return []
    boundary, made = claim.boundaries[0], []
    kinds = evidence.kinds if evidence.small else evidence.kinds[:1]
    for kind in kinds:
        seen = list(_seen(kind.name, captures, claim, evidence))
        seen = [value for value in seen if value.shape == seen[0].shape]  # all, but of a claim that is wrong
        rng = np.random.default_rng([seed, 2])
        count = (SMALL_COUNT if evidence.small else LARGE_COUNT) if seen else 0
        features = [_mix(np.stack(seen), boundary, rng, turn % 3) for turn in range(count)]
        given = evidence.samples[0].feeds
        windows = [given | {boundary.original: value} for value in features]
        rounding = evidence.scales[boundary.original, kind.name].precision.eps
        moved = [jittered(window, [boundary.original], seed, rounding) for window in windows]
        asked = head if evidence.small else None
        outputs, others = head.run_windows(windows), head.run_windows(moved)
        made.append(Mixed(kind.name, windows, outputs, others, asked, head.leaps, head.stackable))
    return made


def _seen(kind: str, captures: Sequence[Capture], claim: Claim, evidence: Evidence) -> Iterator[Array]:
    """Windows of one kind of inputs, as many images as the original's batch, or frames of them."""
    name = claim.boundaries[0].original
    rows = len(evidence.native[name])
    for sample in evidence.samples:
        if sample.kind.name == kind:
            yield (sample.values | sample.feeds)[name][:rows]
    for shot in captures:
        if shot.kind.name == kind and shot.size.grid is not None:
            for cell in pick_cells(shot.size.grid, 0, SEEN):
                yield window_of(shot, claim, cell)[name][:rows]


def compare_mixed(head: Head, mixed: Sequence[Mixed], claim: Claim, evidence: Evidence, tally: Tally) -> None:
    """Ask the rewritten model's head the same."""
    head.stackable &= all(some.stackable for some in mixed)
    for some in mixed:
        try:
            bound = claim.boundaries[0]
            found = head.run_windows([{bound.rewritten: window[bound.original]} for window in some.windows])
        except RunError:
            return  # it is made of more than its windows; larger images were run as a whole
        for output in claim.outputs:
            if output.name in head.plan.outputs and not evidence.scales[output.name, some.kind].problem:
                _compare(output, found, some, claim, evidence, tally)


def _compare(
    output: Output, found: Sequence[Arrays], some: Mixed, claim: Claim, evidence: Evidence, tally: Tally
) -> None:
    name, where = output.name, "on features put together from several windows"
    wanted = [values[name] for values in some.outputs]
    noise = [distance(values[name], want) for values, want in zip(some.moved, wanted, strict=True)]
    precision = evidence.scales[name, some.kind].precision
    precision = replace(precision, rtol=COARSE) if some.leaps else precision
    scale, clear = _clear(
        wanted, noise, lambda values: measure(values, evidence.batch, precision, tally.options.of(name))
    )
    if scale.problem or scale.exact:  # class numbers: a tie may go either way
        return
    rank = len(claim.native_size)
    try:
        got = {turn: native_value(output, found[turn][name], wanted[turn].shape, rank) for turn in clear}
    except FormError as error:
        tally.fail(f"{error} {where}")
        return
    told = [wanted[turn] for turn in clear]
    if tally.compare_together(name, list(got.values()), told, scale, some.kind, [where] * len(told)):
        return
    rough = RoughCells(evidence, tally)
    for turn in clear:
        if some.head is not None and tally.exceeds(name, got[turn], wanted[turn], scale, some.kind):
            made = rough.moved(some.head, some.kind, [some.windows[turn]])
            noise[turn] = max(noise[turn], *(distance(values[name], wanted[turn]) for [values] in made))
            if not scale.steady(noise[turn]) and distance(got[turn], wanted[turn]) <= FAR_OFF * noise[turn]:
                continue  # one rounding happened to leave it as it is
        others = partial(some.head.others, name, some.windows[turn]) if some.head is not None else None
        tally.compare(name, got[turn], wanted[turn], scale, some.kind, where, noise[turn], others)


def _clear(
    wanted: Sequence[Array], noise: Sequence[float], scale_of: Callable[[Sequence[Array]], Scale]
) -> tuple[Scale, list[int]]:
    """Those that rounding leaves as they are, by number, and their scale: the others' values are nobody's signal."""
    clear, left = list(range(len(wanted))), 0
    scale = scale_of(wanted)
    while left != len(clear) > 0:
        left = len(clear)
        clear = [turn for turn in clear if scale.steady(noise[turn])]
        scale = scale_of([wanted[turn] for turn in clear]) if clear else scale
    return scale, clear


def _mix(seen: Array, boundary: Boundary, rng: np.random.Generator, how: int) -> Array:
    """One window, (N, ...) from (windows, N, ...); axes of ``boundary`` are those of one window."""
    axes = [axis + 1 for axis in boundary.spatial]
    if how == 2:  # every place from any window
        source = rng.integers(len(seen), size=seen.shape[1:])
        return np.asarray(np.take_along_axis(seen, source[None], axis=0)[0])
    channels = [1 if axis + 1 in axes else n for axis, n in enumerate(seen.shape[1:])]
    source = np.broadcast_to(rng.integers(len(seen), size=channels), seen.shape[1:])
    value: Array = np.take_along_axis(seen, source[None], axis=0)[0]
    if how == 1:  # every second channel is as low as it gets
        low = seen.min(axis=(0, *axes), keepdims=True)[0]
        value = np.where(rng.random(channels) < 0.5, low, value).astype(seen.dtype)
    return np.ascontiguousarray(value)
