"""Window parity: every cell equals the original's head on that window of the same features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from onnxfc.claim.claim import Claim, Output
from onnxfc.proof.accumulator import Tally, distance, nearest, not_finite
from onnxfc.proof.evidence import ADVICE, Evidence, Progress
from onnxfc.proof.folded import together
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
)
from onnxfc.proof.rough_cells import RoughCells
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.sizes import Size
from onnxfc.proof.static_checks import made_axes_problem

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
    kinds = evidence.shown(names)
    for i, size in enumerate(sizes):
        for kind in kinds:
            progress(f"size {size}, inputs {kind.name}")
            double = evidence.images_at(i)
            feeds = evidence.inputs.feeds(kind, 0, double, size.pixels)
            if double and not free:
                feeds = {name: value[: evidence.batch] for name, value in feeds.items()}
            try:
                values = rewritten.run(feeds)
            except RunError as error:
                tally.fail(f"the rewritten model does not run at {size}: {error}")
                return captures
            if problem := made_axes_problem(claim, values):
                tally.fail(f"wrong claim: {problem}")
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
    held = _Comparison(heads, evidence, claim, tally, RoughCells(evidence, tally))
    for shot in captures:
        progress(f"windows at {shot.size}")
        try:
            if heads.windows is not None:
                held.cells(heads.windows, shot)
            held.whole(shot)
        except (FormError, RunError) as error:
            tally.fail(f"{error} {shot}")
            return
    held.rough.tell()
    held.numbers_were_seen()
    held.cells_must_differ()
    if heads.tail is not None:
        held.tiled(heads.tail)


def _room(shot: Capture, claim: Claim, boundaries: Sequence[str]) -> tuple[int, ...]:
    """The number of whole windows in these boundaries: the coarsest grid over all of them. Others are of figures of the
    whole image, which have no windows."""
    grids = []
    for boundary in claim.boundaries:
        if boundary.original not in boundaries:
            continue
        shape = shot.values[boundary.rewritten].shape
        grids.append(counts([shape[axis] for axis in boundary.spatial], boundary.extent, boundary.step))
    room = tuple(min(axis) for axis in zip(*grids, strict=True))
    if shot.size.grid is not None and room != shot.size.grid:
        raise FormError(f"the boundaries give {room} cells, the claimed stride {shot.size.grid}")
    return room


def _of_batch(name: str, shape: tuple[int, ...], shot: Capture, evidence: Evidence) -> tuple[int, ...]:
    """The shape for as many images as were run: as the original says of them, wherever its batch stands; what no image
    reaches is as it is for any number of them."""
    for sample in evidence.samples:
        if sample.batch == shot.batch and name in sample.values:
            return sample.values[name].shape
    follows = shape[:1] == (evidence.batch,) and name in evidence.fed
    return (shot.batch, *shape[1:]) if follows else shape


def window_of(shot: Capture, claim: Claim, cell: Sequence[int]) -> Arrays:
    """The native window of every boundary for one cell, by the original's names."""
    windows = dict(shot.feeds)  # side inputs are those of the whole image
    windows |= {item.original: shot.values[item.rewritten] for item in claim.figures}
    for boundary in claim.boundaries:
        value = shot.values[boundary.rewritten]
        place = [slice(None)] * value.ndim
        for axis, at, extent, step in zip(boundary.spatial, cell, boundary.extent, boundary.step, strict=True):
            first = min(at * step, value.shape[axis] - 1)  # a map that is pooled whole may have fewer places than cells
            place[axis] = slice(first, first + extent)
        window = value[tuple(place)]
        extents = dict(zip(boundary.spatial, boundary.extent, strict=True))
        missing = [(0, extents.get(axis, have) - have) for axis, have in enumerate(window.shape)]
        if any(behind for _, behind in missing):
            window = np.pad(window, missing, mode="edge")
        windows[boundary.original] = np.ascontiguousarray(window)
    return windows


@dataclass(frozen=True)
class _Comparison:
    """What larger images made, against what the heads say. ``seen``: of which cells, by output and kind of inputs;
    ``told``: what is wrong with outputs that are no windows, "" where nothing is, by output and kind of inputs."""

    heads: Heads
    evidence: Evidence
    claim: Claim
    tally: Tally
    rough: RoughCells
    seen: dict[tuple[str, str], list[Array]] = field(default_factory=dict)
    told: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def cells(self, head: Head, shot: Capture) -> None:
        """Outputs that are made of windows, in some of their cells."""
        grid = self._grid(shot, head.plan.boundaries)
        outputs = [output for output in self._telling(shot) if output.form in WINDOWED]
        every = any(output.form in REDUCED for output in outputs)
        cells = pick_cells(grid, self.evidence.batch, int(np.prod(grid)) if every else CELLS)
        for output in outputs:
            self._check_grid(output, shot, grid)
        if not cells or not outputs:
            return
        windows = [window_of(shot, self.claim, cell) for cell in cells]
        expected = head.run_windows(windows)
        for output in outputs:
            wanted = [values[output.name] for values in expected]
            key = output.name, shot.kind.name
            self.seen.setdefault(key, []).extend(value[:1] if value.ndim else value for value in wanted)
            self.rough.count(key, 1 if output.form in REDUCED else len(wanted))
            if output.form in REDUCED:
                self.rough.reduced(head, key, output.form, str(shot), shot.values[output.name], windows, wanted)
            else:
                self._each(head, output, shot, dict(zip(cells, windows, strict=True)), wanted)

    def _telling(self, shot: Capture) -> list[Output]:
        """The outputs of which the original's values at the native size can be relied on."""
        return [item for item in self.claim.outputs if not self.evidence.scales[item.name, shot.kind.name].problem]

    def _native(self, name: str) -> tuple[int, ...]:
        return self.evidence.samples[0].values[name].shape

    def _grid(self, shot: Capture, boundaries: Sequence[str]) -> tuple[int, ...]:
        """The number of cells that are due, for which the ``boundaries`` of the windows must have room.

        A boundary far up in the trunk may lack the last elements of the last window: those that no later layer reads.
        """
        room = _room(shot, self.claim, boundaries)
        due = self._due(shot, room)
        if any(not have <= want <= have + 1 for have, want in zip(room, due, strict=True)):
            raise FormError(f"the boundaries give {room} cells, claimed were {due}")
        return due

    def _due(self, shot: Capture, room: tuple[int, ...]) -> tuple[int, ...]:
        """The cells that the claim promises; where it does not say, those of the first map, if there is room."""
        claim = self.claim
        if shot.size.grid is not None:
            return shot.size.grid
        if claim.slack:
            axes = zip(shot.size.pixels, claim.native_size, claim.slack, claim.stride, strict=True)
            return tuple((now - native + slack) // stride + 1 for now, native, slack, stride in axes)
        found = (
            grid_of(output, shot.values[output.name], len(self._native(output.name)), claim)
            for output in claim.outputs
            if output.form in WINDOWED and shot.values[output.name].ndim > max(output.axes, default=0)
        )
        own = next((grid for grid in found if grid is not None), room)
        return own if all(have <= n <= have + 1 for have, n in zip(room, own, strict=True)) else room

    def _check_grid(self, output: Output, shot: Capture, grid: tuple[int, ...]) -> None:
        """Raise FormError unless the output has exactly the cells that the boundaries imply. What an FC layer makes
        inside may have more, where the outputs are cut to as many."""
        shape = self._check_shape(output, shot)
        found = grid_of(output, shot.values[output.name], len(shape), self.claim)
        inner = found is not None and output.name not in self.evidence.own
        if found not in (None, grid) and not (inner and all(n >= due for n, due in zip(found, grid, strict=True))):
            raise FormError(f"{output.name} has {found} cells, the boundaries imply {grid}")

    def _check_shape(self, output: Output, shot: Capture) -> tuple[int, ...]:
        """The original's shape for as many images; raises FormError where the output has none of its form."""
        shape = _of_batch(output.name, self._native(output.name), shot, self.evidence)
        check_shape(output, shot.values[output.name], shape, len(self.claim.native_size), native=False)
        return shape

    def _each(
        self,
        head: Head,
        output: Output,
        shot: Capture,
        windows: Mapping[tuple[int, ...], Arrays],
        wanted: Sequence[Array],
    ) -> None:
        """Cell by cell, but for a few in which rounding alone moves the output far, or the original is no number."""
        name, kind, cells = output.name, shot.kind.name, list(windows)
        scale = self.evidence.scales[name, kind].over(wanted)
        found = [cell_value(output, shot.values[name], cell, wanted[0].ndim, self.claim) for cell in cells]
        places = [f"in cell {cell} {shot}" for cell in cells]
        if self.tally.compare_together(name, found, wanted, scale, kind, places):
            return
        far = [k for k, got in enumerate(found) if self.tally.exceeds(name, got, wanted[k], scale, kind)]
        noise = dict.fromkeys(far, 0.0)
        for made in self.rough.moved(head, kind, [windows[cells[k]] for k in far]):
            for k, values in zip(far, made, strict=True):
                noise[k] = max(noise[k], distance(values[name], wanted[k]))
        for k, cell in enumerate(cells):
            others = partial(head.others, name, windows[cell])
            compare = partial(self.tally.compare, name, found[k], wanted[k], scale, kind, places[k], others=others)
            self.rough.put((name, kind), compare, found[k], wanted[k], scale, noise.get(k))

    def _has_not_grown(self, output: Output, got: Array, pixels: Sequence[int]) -> bool:
        """Whether an axis is as long as natively, though the image is larger by a period at least: then all grow."""
        native, strides = self._native(output.name), self.claim.period or output.stride or self.claim.stride
        far = [now - before >= s for now, before, s in zip(pixels, self.claim.native_size, strides, strict=True)]
        far = far if len(far) == len(output.axes) else [all(far)] * len(output.axes)
        return any(more and got.shape[axis] <= native[axis] for axis, more in zip(output.axes, far, strict=True))

    def whole(self, shot: Capture) -> None:
        """Outputs that are no windows: their shape, and their values where the original can tell them."""
        expected = self._expected(shot)
        for output in self._telling(shot):
            if output.form in WINDOWED:
                continue
            name, got, shape = output.name, shot.values[output.name], self._check_shape(output, shot)
            wanted = [values[name] for values in expected if name in values]
            if not self._is_told(name, got, wanted, shot):
                continue
            if shot.size.grid is not None and self._has_not_grown(output, got, shot.size.pixels):
                raise FormError(f"{name} has not grown with the image, claimed were features {output.axes}")
            if wanted:
                want = nearest(got, wanted)
                scale = self.evidence.scales[name, shot.kind.name].over([want])
                if want.shape != got.shape and want.shape[:1] != shape[:1]:
                    want = want[: shot.batch]
                where = f"on the whole image {shot}{' in the original itself' if self._itself(shot) else ''}"
                self.tally.compare(name, got, want, scale, shot.kind.name, where)

    def _is_told(self, name: str, got: Array, wanted: Sequence[Array], shot: Capture) -> bool:
        """Whether an output is a number; raises FormError where the original's is one and it is not."""
        told = got.dtype.kind != "f" or bool(np.isfinite(got).all())
        if not told and wanted and all(np.isfinite(want).all() for want in wanted):
            raise FormError(f"{name} is not finite")
        asked = (
            not_finite(name, str(shot)) if wanted else f"{name} is not finite {shot}, nor is it known there; {ADVICE}"
        )
        self.told.setdefault((name, shot.kind.name), []).append("" if told else asked)
        return told

    def numbers_were_seen(self) -> None:
        """Where the original's is none either, or cannot be asked, they are left out, as cells are, if they are few."""
        for found in self.told.values():
            without = list(filter(None, found))
            self.tally.vacuous += without[:1] if 2 * len(without) > len(found) else []

    def _expected(self, shot: Capture) -> list[Arrays]:
        """What the original says of the whole image where it runs itself, and its head as it stands where both trunks
        agree; else what it may say, in each reading of its head."""
        itself, head = self._itself(shot), self.heads.whole
        if head is None or (itself and not self._agrees(shot, itself)):
            return [itself]
        if not itself and head.reads_sizes(shot.feeds, self.evidence.whole.values()):
            return [{}]
        features = shot.feeds | {b.original: shot.values[b.rewritten] for b in self.claim.boundaries}
        made = head.readings(features)
        return [itself, *(itself | values for values in made[:1])] if itself else made or [{}]

    def _itself(self, shot: Capture) -> Arrays:
        return self.evidence.whole.get((shot.kind.name, shot.size.pixels), {})

    def _agrees(self, shot: Capture, itself: Arrays) -> bool:
        """Whether what heads begin at is what the original has there."""
        kind = shot.kind.name
        for item in self.claim.boundaries:
            want, got = itself[item.original][: shot.batch], together(item, shot.values[item.rewritten])
            scale = self.evidence.scales[item.original, kind]
            if got.shape != want.shape or self.tally.exceeds(item.rewritten, got, want, scale, kind):
                return False
        return True

    def cells_must_differ(self) -> None:
        """Cells that are all alike would hide a shifted map."""
        informative: dict[str, bool] = {}
        for (name, kind), cells in self.seen.items():
            scale = self.evidence.scales[name, kind]
            if scale.exact or scale.hidden or len(cells) < 2:
                informative[name] = True
                continue
            rows = np.stack(cells).astype(np.float64)
            with np.errstate(invalid="ignore"):  # infinite scores, which are compared elsewhere
                spread = float((rows.max(axis=0) - rows.min(axis=0)).max()) / 2
            enough = spread > 2 * scale.tolerance(self.tally.options.of(name), self.tally.noise.get((name, kind)))
            informative[name] = informative.get(name, False) or enough
        for name, enough in informative.items():
            if not enough:
                self.tally.vacuous.append(f"the cells of {name} do not differ from one another; {ADVICE}")

    def tiled(self, tail: Head) -> None:
        """A global pool does not see that its features are repeated: twice the native map, native scores.

        This also holds where the original's head is made for the native size and cannot be asked. Where it can, and
        counts the places itself (the N - 1 of a standard deviation), what it says holds.
        """
        sample, tiled, whole = self.evidence.samples[0], dict[str, Array](), self.heads.whole
        for boundary in self.claim.boundaries:
            value = sample.values[boundary.original]
            tiled[boundary.original] = np.tile(value, [1 + (a in boundary.spatial) for a in range(value.ndim)])
        made = [] if whole is None else whole.readings(sample.feeds | tiled)
        try:
            found = tail.run_whole({item.rewritten: tiled[item.original] for item in self.claim.boundaries})
        except RunError as error:
            self.tally.fail(f"the rewritten head does not run on features of twice the native size: {error}")
            return
        for name in tail.plan.outputs:
            scale = self.evidence.scales[name, sample.kind.name]
            if not scale.problem:
                wanted = made[:1] if made and self.heads.sizeless else [*made, sample.values]
                want = nearest(found[name], [values[name] for values in wanted])
                self.tally.compare(name, found[name], want, scale, sample.kind.name, "on native features repeated")
