"""Window parity: every cell equals the original's head on that window of the same features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from onnxfc.claim.claim import Claim, Output
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.evidence import ADVICE, Evidence, Progress
from onnxfc.proof.head import Head
from onnxfc.proof.inputs import Kind
from onnxfc.proof.output_forms import (
    REDUCED,
    WINDOWED,
    FormError,
    cell_value,
    check_shape,
    counts,
    grid_of,
    pick_cells,
    reduce_cells,
)
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.sizes import Size

CELLS = 8
"""Cells compared per size and kind of inputs, unless an output needs all."""


@dataclass(frozen=True)
class Heads:
    """The original's head for windowed and for whole-image outputs; the rewritten model's for the latter.

    ``sizeless``: the original's means the same on features of every size.
    """

    windows: Head | None = None
    whole: Head | None = None
    tail: Head | None = None
    sizeless: bool = False


@dataclass(frozen=True)
class Capture:
    """What the rewritten model made of one larger image: outputs and boundary tensors."""

    size: Size
    kind: Kind
    batch: int
    values: Arrays
    feeds: Arrays = field(default_factory=dict)

    def __str__(self) -> str:
        return f"at {self.size}"


def capture(
    rewritten: Runner,
    evidence: Evidence,
    claim: Claim,
    sizes: Sequence[Size],
    tally: Tally,
    progress: Progress,
) -> list[Capture]:
    """Run the rewritten model at every size; the first with a batch of two where both batches are free."""
    free = evidence.free_batch and rewritten.free_batch(claim.inputs)
    captures: list[Capture] = []
    names = [output.name for output in claim.outputs]
    kinds = evidence.kinds if evidence.small else evidence.cover(names)
    for i, size in enumerate(sizes):
        for kind in kinds:
            progress(f"size {size}, inputs {kind.name}")
            double = 2 if evidence.free_batch and i == 0 else None
            feeds = evidence.inputs.feeds(kind, 0, double, size.pixels)
            if double and not free:
                feeds = {name: value[: evidence.batch] for name, value in feeds.items()}
            try:
                values = rewritten.run(feeds)
            except RunError as error:
                tally.fail(f"the rewritten model does not run at {size}: {error}")
                return captures
            batch = 2 if double and free else evidence.batch
            captures.append(Capture(size, kind, batch, values, feeds))
        tally.sizes.append(size.pixels)
    return captures


def compare_windows(
    heads: Heads,
    captures: Sequence[Capture],
    evidence: Evidence,
    claim: Claim,
    tally: Tally,
    progress: Progress,
) -> None:
    """Compare all captures."""
    seen: dict[tuple[str, str], list[Array]] = {}
    shapes = {output.name: evidence.samples[0].values[output.name].shape for output in claim.outputs}
    for shot in captures:
        progress(f"windows at {shot.size}")
        try:
            if heads.windows is not None:
                _compare_cells(heads.windows, shot, shapes, evidence, claim, tally, seen)
            _compare_whole(heads.whole, shot, shapes, evidence, claim, tally)
        except (FormError, RunError) as error:
            tally.fail(f"{error} {shot}")
            return
    _cells_must_differ(seen, evidence, tally)
    if heads.tail is not None:
        _compare_tiled(heads, heads.tail, evidence, claim, tally)


def _compare_tiled(heads: Heads, tail: Head, evidence: Evidence, claim: Claim, tally: Tally) -> None:
    """A global pool does not see that its features are repeated: twice the native map, native scores.

    This also holds where the original's head is made for the native size and cannot be asked. Where it can, and counts
    the places itself (the N - 1 of a standard deviation), it is asked.
    """
    sample, wanted = evidence.samples[0], evidence.samples[0].values
    tiled = {}
    for boundary in claim.boundaries:
        value = sample.values[boundary.original]
        tiled[boundary.original] = np.tile(value, [1 + (a in boundary.spatial) for a in range(value.ndim)])
    if heads.sizeless and heads.whole is not None:
        with suppress(RunError):
            wanted = wanted | heads.whole.run_whole(sample.feeds | tiled)
    try:
        found = tail.run_whole({boundary.rewritten: tiled[boundary.original] for boundary in claim.boundaries})
    except RunError as error:
        tally.fail(f"the rewritten head does not run on features of twice the native size: {error}")
        return
    for name in tail.plan.outputs:
        scale = evidence.scales[name, sample.kind.name]
        if not scale.problem:
            want = wanted[name]
            tally.compare(name, found[name], want, scale, sample.kind.name, "on native features repeated")


def _of_original(head: Head | None, features: Arrays) -> Arrays:
    """What the original's head makes of features of another size; nothing where it is made for the native size."""
    try:
        return {} if head is None else head.run_whole(features)
    except RunError:
        return {}


def _useful(output: Output, shot: Capture, evidence: Evidence) -> bool:
    return not evidence.scales[output.name, shot.kind.name].problem


def _grid(shot: Capture, claim: Claim, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The number of cells that are due, for which the boundaries must have room.

    A boundary far up in the trunk may lack the last elements of the last window: those that no later layer reads.
    """
    room = _room(shot, claim)
    due = _due(shot, claim, shapes, room)
    if any(not have <= want <= have + 1 for have, want in zip(room, due, strict=True)):
        raise FormError(f"the boundaries give {room} cells, claimed were {due}")
    return due


def _due(shot: Capture, claim: Claim, shapes: dict[str, tuple[int, ...]], room: tuple[int, ...]) -> tuple[int, ...]:
    """The cells that the claim promises; where it does not say, those of the first map, if there is room."""
    if shot.size.grid is not None:
        return shot.size.grid
    if claim.slack:
        axes = zip(shot.size.pixels, claim.native_size, claim.slack, claim.stride, strict=True)
        return tuple((now - native + slack) // stride + 1 for now, native, slack, stride in axes)
    found = (
        grid_of(output, shot.values[output.name], len(shapes[output.name]), claim)
        for output in claim.outputs
        if output.form in WINDOWED and shot.values[output.name].ndim > max(output.axes, default=0)
    )
    own = next((grid for grid in found if grid is not None), room)
    return own if all(have <= n <= have + 1 for have, n in zip(room, own, strict=True)) else room


def _room(shot: Capture, claim: Claim) -> tuple[int, ...]:
    """The number of whole windows in the boundaries: the coarsest grid over all of them."""
    grids = []
    for boundary in claim.boundaries:
        shape = shot.values[boundary.rewritten].shape
        grids.append(counts([shape[axis] for axis in boundary.spatial], boundary.extent, boundary.step))
    room = tuple(min(axis) for axis in zip(*grids, strict=True))
    if shot.size.grid is not None and room != shot.size.grid:
        raise FormError(f"the boundaries give {room} cells, the claimed stride {shot.size.grid}")
    return room


def _compare_cells(
    head: Head,
    shot: Capture,
    shapes: dict[str, tuple[int, ...]],
    evidence: Evidence,
    claim: Claim,
    tally: Tally,
    seen: dict[tuple[str, str], list[Array]],
) -> None:
    grid = _grid(shot, claim, shapes)
    outputs = [o for o in claim.outputs if o.form in WINDOWED and _useful(o, shot, evidence)]
    every = any(output.form in REDUCED for output in outputs)
    cells = pick_cells(grid, evidence.batch, int(np.prod(grid)) if every else CELLS)
    for output in outputs:
        _check_grid(output, shot, shapes[output.name], grid, evidence, claim)
    if not cells or not outputs:
        return
    expected = head.run_windows([window_of(shot, claim, cell) for cell in cells])
    for output in outputs:
        name, kind, rank = output.name, shot.kind.name, len(shapes[output.name])
        wanted = [values[name] for values in expected]
        scale = evidence.scales[name, kind].over(wanted)
        seen.setdefault((name, kind), []).extend(value[:1] if value.ndim else value for value in wanted)
        if output.form in REDUCED:
            want = reduce_cells(output.form, wanted)
            tally.compare(name, shot.values[name], want, scale, kind, f"over all cells {shot}")
            continue
        for cell, want in zip(cells, wanted, strict=True):
            got = cell_value(output, shot.values[name], cell, rank, claim)
            tally.compare(name, got, want, scale, kind, f"in cell {cell} {shot}")


def _check_grid(
    output: Output,
    shot: Capture,
    shape: tuple[int, ...],
    grid: tuple[int, ...],
    evidence: Evidence,
    claim: Claim,
) -> None:
    """Raise FormError unless the output has exactly the cells that the boundaries imply."""
    shape = _of_batch(output.name, shape, shot, evidence)
    got = shot.values[output.name]
    check_shape(output, got, shape, len(claim.native_size), native=False)
    found = grid_of(output, got, len(shape), claim)
    if found not in (None, grid):
        raise FormError(f"{output.name} has {found} cells, the boundaries imply {grid}")


def _of_batch(name: str, shape: tuple[int, ...], shot: Capture, evidence: Evidence) -> tuple[int, ...]:
    """The shape for as many images as were run; what no image reaches is as it is for any number of them."""
    follows = shape[:1] == (evidence.batch,) and name in evidence.fed
    return (shot.batch, *shape[1:]) if follows else shape


def window_of(shot: Capture, claim: Claim, cell: Sequence[int]) -> Arrays:
    """The native window of every boundary for one cell, by the original's names."""
    windows = dict(shot.feeds)  # side inputs are those of the whole image
    for boundary in claim.boundaries:
        value = shot.values[boundary.rewritten]
        place = [slice(None)] * value.ndim
        for axis, at, extent, step in zip(boundary.spatial, cell, boundary.extent, boundary.step, strict=True):
            place[axis] = slice(at * step, at * step + extent)
        window = value[tuple(place)]
        missing = [
            (0, extent - window.shape[axis]) for axis, extent in zip(boundary.spatial, boundary.extent, strict=True)
        ]
        pads = dict(zip(boundary.spatial, missing, strict=True))
        window = np.pad(window, [pads.get(axis, (0, 0)) for axis in range(window.ndim)], mode="edge")
        windows[boundary.original] = np.ascontiguousarray(window)
    return windows


def _compare_whole(
    head: Head | None,
    shot: Capture,
    shapes: dict[str, tuple[int, ...]],
    evidence: Evidence,
    claim: Claim,
    tally: Tally,
) -> None:
    """Outputs that are no windows: their shape, and their values where the original can tell them."""
    outputs = [o for o in claim.outputs if o.form not in WINDOWED and _useful(o, shot, evidence)]
    expected = _of_original(head, shot.feeds | {b.original: shot.values[b.rewritten] for b in claim.boundaries})
    if shot.size.grid is not None:
        expected = evidence.whole.get(shot.kind.name, {}) | expected
    for output in outputs:
        name, got = output.name, shot.values[output.name]
        shape = _of_batch(name, shapes[name], shot, evidence)
        check_shape(output, got, shape, len(claim.native_size), native=False)
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            if name in expected and not np.isfinite(expected[name]).all():
                told = f"the original's own output {name} is not finite, nor is the rewritten model's, {shot}"
                tally.vacuous.append(f"{told}: mend the network (a division by a root of 0, say), or {ADVICE}")
                continue
            raise FormError(f"{name} is not finite")
        native = [shapes[name][axis] for axis in output.axes]
        if shot.size.grid is not None and any(got.shape[a] <= n for a, n in zip(output.axes, native, strict=True)):
            raise FormError(f"{name} has not grown with the image, claimed were features {output.axes}")
        if name in expected:
            want = expected[name]
            scale = evidence.scales[name, shot.kind.name].over([want])
            if want.shape[:1] != shape[:1]:
                want = want[: shot.batch]
            tally.compare(name, got, want, scale, shot.kind.name, f"on the whole image {shot}")


def _cells_must_differ(seen: dict[tuple[str, str], list[Array]], evidence: Evidence, tally: Tally) -> None:
    """Cells that are all alike would hide a shifted map."""
    informative: dict[str, bool] = {}
    for (name, kind), cells in seen.items():
        scale = evidence.scales[name, kind]
        if scale.exact or scale.hidden or len(cells) < 2:
            informative[name] = True
            continue
        rows = np.stack(cells).astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite scores, which are compared elsewhere
            spread = float((rows.max(axis=0) - rows.min(axis=0)).max()) / 2
        enough = spread > 2 * scale.tolerance(tally.options.of(name), tally.noise.get((name, kind)))
        informative[name] = informative.get(name, False) or enough
    for name, enough in informative.items():
        if not enough:
            tally.vacuous.append(f"the cells of {name} do not differ from one another; {ADVICE}")
