"""Keeps the worst of many comparisons, output by output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxfc.proof.edges import nearer
from onnxfc.proof.evidence import ADVICE
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import OutputResult, ParityResult
from onnxfc.proof.sessions import Array
from onnxfc.proof.tolerance import FLIPPED, SPARE, Scale, flipped


@dataclass(frozen=True)
class _Room:
    """What one comparison may find: of each value, of all together, and how many of them a step off; ``spare``: more
    of all together, once for an output."""

    tolerance: float
    step: float
    total: float
    spare: float
    steps: float

    def stepped(self, difference: Array) -> int:
        return int((difference > self.tolerance - self.step).sum())

    def holds(self, difference: Array, spent: float = 0.0) -> bool:
        """``spent``: how much of what is spare other comparisons have had."""
        within = difference.max() <= self.tolerance and self.stepped(difference) <= self.steps
        return bool(within and not (self.step and difference.sum() > self.total + max(self.spare - spent, 0.0)))


@dataclass
class _Line:
    """One output so far: the comparison nearest to, or furthest beyond, its tolerance."""

    excess: float = -1.0
    deviation: float = 0.0
    tolerance: float = 0.0
    scale: Scale | None = None
    noise: float | None = None
    compared: int = 0
    step: float = 0.0
    total: float = 0.0
    allowed: float = 0.0
    spare: float = 0.0
    stepped: int = 0
    may_step: float = 0.0
    worst: str = ""
    reason: str = ""

    def note(self, difference: Array, room: _Room, scale: Scale, noise: float | None) -> list[int]:
        """Add a comparison; gives the place of its largest difference if it is the worst so far, else nothing."""
        self.step, self.spare = room.step, room.spare
        self.stepped += room.stepped(difference)
        self.may_step += room.steps
        self.compared += difference.size
        self.total += float(difference.sum())
        self.allowed += room.total
        worst = float(difference.max())
        excess = worst / room.tolerance if room.tolerance else (np.inf if worst else 0.0)
        if excess <= self.excess:
            return []
        self.excess, self.deviation, self.tolerance = excess, worst, room.tolerance
        self.scale, self.noise = scale, noise
        return [int(i) for i in np.unravel_index(int(difference.argmax()), difference.shape)]


@dataclass
class Tally:
    """Collects comparisons; a failure of form (shape, count) is noted by ``fail``. ``flips``: see Evidence."""

    options: CheckOptions
    noise: dict[tuple[str, str], float] = field(default_factory=dict)
    flips: dict[tuple[str, str], float] | None = None
    reasons: list[str] = field(default_factory=list)
    vacuous: list[str] = field(default_factory=list)
    sizes: list[tuple[int, ...]] = field(default_factory=list)
    _lines: dict[str, _Line] = field(default_factory=dict)

    def fail(self, reason: str) -> None:
        """Note a failure that is not a deviation."""
        self.reasons.append(reason)

    def exceeds(self, name: str, got: Array, want: Array, scale: Scale, kind: str) -> bool:
        """Whether numbers differ by more than they may. What is not a number is no deviation."""
        if scale.exact or got.shape != want.shape or not (np.isfinite(got).all() and np.isfinite(want).all()):
            return False
        return distance(got, want) > scale.tolerance(self.options.of(name), self.noise.get((name, kind)))

    def compare(
        self,
        name: str,
        got: Array,
        want: Array,
        scale: Scale,
        kind: str,
        where: str,
        noise: float | None = None,
        others: Callable[[], Iterable[Array]] | None = None,
        alike: bool = False,
    ) -> None:
        """Compare values of one output, made from inputs of one kind; ``where`` names the place.

        ``noise``: what rounding alone does in this place, where it was measured and is more than for this kind.
        ``others``: what the original says as well, where a value lies on the edge between two integers.
        ``alike``: both make it by the same operators, so that no value may be a step off unless rounding does that to
        the original.
        """
        line = self._lines.setdefault(name, _Line())
        if got.shape != want.shape or got.dtype.kind != want.dtype.kind:
            line.reason = line.reason or (
                f"{name} is {got.dtype} {list(got.shape)} instead of {want.dtype} {list(want.shape)} {where}"
            )
            return
        if want.size == 0:
            self.vacuous.append(f"{name} is empty {where}")
            return
        noise = max((n for n in (noise, self.noise.get((name, kind))) if n is not None), default=None)
        room = self._room(name, want.size, scale, kind, noise, alike)
        difference = self._difference(name, got, want, where, exact=scale.exact)
        if others is not None and line.excess <= 1 and not room.holds(difference, max(line.total - line.allowed, 0.0)):
            want = nearer(got, want, others(), room.tolerance - room.step)
            difference = self._difference(name, got, want, where, exact=scale.exact)
        if place := line.note(difference, room, scale, noise):
            line.worst = f"element {place} {where}, inputs {kind}"
            if scale.exact:
                line.deviation = float(difference.mean())

    def compare_together(
        self, name: str, got: Sequence[Array], want: Sequence[Array], scale: Scale, kind: str, where: Sequence[str]
    ) -> bool:
        """Compare one output in several places at once, with what rounding does for this kind; says whether all agree.

        Nothing is noted if they do not, or are no numbers alone: then each place is to be compared by itself.
        """
        if len({(value.shape, value.dtype) for value in got}) != 1 or scale.exact:
            return False
        found, wanted, noise = np.stack(got), np.stack(want), self.noise.get((name, kind))
        if found.shape != wanted.shape or found.dtype.kind != "f" or wanted.dtype.kind != "f" or not found.size:
            return False
        room = self._room(name, found.size, scale, kind, noise, alike=False)
        with np.errstate(invalid="ignore"):
            difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
        if not room.holds(difference):  # nor where a difference is not a number
            return False
        line = self._lines.setdefault(name, _Line())
        if worst := line.note(difference, room, scale, noise):
            first, *place = worst
            line.worst = f"element {place} {where[first]}, inputs {kind}"
        return True

    def _room(self, name: str, size: int, scale: Scale, kind: str, noise: float | None, alike: bool) -> _Room:
        options = self.options.of(name)
        tolerance, step = scale.tolerance(options, noise), scale.step(options)
        moved = None if self.flips is None else self.flips.get((name, kind), 0.0)
        share = FLIPPED if moved is None else flipped(moved, step)
        fewest = flipped(moved, step, 0.0) if alike and step and moved is not None else 1.0
        spare = 0.0 if self.flips is None else SPARE * step
        return _Room(tolerance, step, size * (tolerance - (1 - share) * step), spare, fewest * size)

    def _difference(self, name: str, got: Array, want: Array, where: str, *, exact: bool) -> Array:
        """Absolute difference; infinite where only ``got`` is not finite, 0 where the original is not, which proves
        nothing, 1 or 0 for integers."""
        if exact:
            return np.atleast_1d((got != want).astype(np.float64))
        with np.errstate(invalid="ignore"):
            difference = np.atleast_1d(np.abs(got.astype(np.float64) - want.astype(np.float64)))
        if np.isfinite(difference).all():
            return difference
        told = np.isfinite(want.astype(np.float64))
        if not told.all():
            self.vacuous.append(not_finite(name, where))
        return np.where(np.isfinite(difference), difference, np.where(told, np.inf, 0.0))

    def without_failed(self, name: str) -> bool:
        """Leave out what was compared of one output, where it failed; says whether it did."""
        failed = name in self._lines and not _output(name, self._lines[name]).passed
        return failed and self._lines.pop(name) is not None

    def result(self) -> ParityResult:
        """Everything so far as a result; nothing compared is not a pass."""
        outputs = tuple(_output(name, line) for name, line in self._lines.items())
        worst = max(self._lines.items(), key=lambda item: item[1].excess, default=None)
        reasons = [*self.reasons, *(output.reason for output in outputs if output.reason)]
        compared = sum(output.compared for output in outputs)
        if not reasons and not compared:
            reasons = ["nothing was compared"]
        failed = next((output for output in outputs if output.reason), None)  # the one that the reason names
        top = failed or (_output(*worst) if worst is not None else None)
        return ParityResult(
            status="failed" if reasons else "passed",
            deviation=top.deviation if top else 0.0,
            tolerance=top.tolerance if top else 0.0,
            compared=compared,
            worst=f"{top.name} {top.worst}" if top else "",
            outputs=outputs,
            reason=reasons[0] if reasons else "",
            sizes=tuple(self.sizes),
        )


def not_finite(name: str, where: str) -> str:
    """What is wrong with an original that is not a number itself."""
    return (
        f"the original's own output {name} is not finite {where}: mend the network (a division by a root of 0, say), "
        f"or {ADVICE}"
    )


def distance(values: Array, others: Array) -> float:
    """The largest difference of two elements."""
    with np.errstate(invalid="ignore"):  # infinite scores, of which there is no scale either
        return float(np.abs(values.astype(np.float64) - others.astype(np.float64)).max(initial=0.0))


def _output(name: str, line: _Line) -> OutputResult:
    unit = (line.scale.signal or line.scale.magnitude or 1.0) if line.scale and not line.scale.exact else 1.0
    reason = line.reason
    if not reason and line.excess <= 1 and line.step and line.total > line.allowed + line.spare:
        steps = line.total / line.compared / line.step
        reason = f"{name} deviates by {steps:.2f} quantisation steps on average, which only single values may"
    if not reason and line.excess <= 1 and line.stepped > line.may_step:
        reason = (
            f"{line.stepped / line.compared:.1e} of the values of {name} are a quantisation step off, though both "
            f"models make it by the same operators and rounding moves {line.may_step / line.compared:.0e} at most"
        )
    if not reason and line.excess > 1:
        reason = (
            f"{name} deviates by {line.deviation / unit:.1e} of its signal "
            f"(allowed {line.tolerance / unit:.1e}), {line.worst}"
        )
    return OutputResult(
        name=name,
        passed=not reason,
        deviation=line.deviation / unit,
        tolerance=line.tolerance / unit,
        compared=line.compared,
        worst=line.worst,
        signal=line.scale.signal if line.scale else 0.0,
        magnitude=line.scale.magnitude if line.scale else 0.0,
        noise=None if line.noise is None else line.noise / unit,
        reason=reason,
    )


def nearest(got: Array, wanted: Sequence[Array]) -> Array:
    """That of several readings of the original which is meant: the native size is written down in a file as any number
    is, so that only what agrees tells. All but the first are as far off from anything wrong as that is."""

    def far(want: Array) -> float:
        if want.shape != got.shape or want.dtype.kind not in "fiu":
            return np.inf
        return float(np.nan_to_num(distance(got, want), nan=np.inf))

    return min(wanted, key=far)
