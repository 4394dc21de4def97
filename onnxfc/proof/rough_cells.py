"""Comparisons in which the original is no number, or rounding alone moves it far: where they are few they are left out.

A division by a small difference is rough where that is small, a steep gate where it opens, an exponential where its
exponent is far larger than those of the images that its scale is of. A mean or maximum over cells is as rough as
they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from onnxfc.proof.accumulator import Tally, distance
from onnxfc.proof.evidence import Evidence
from onnxfc.proof.head import Head
from onnxfc.proof.output_forms import reduce_cells
from onnxfc.proof.reference_run import ROUNDINGS, jittered
from onnxfc.proof.sessions import Array, Arrays
from onnxfc.proof.tolerance import Scale

TRIES = 4
"""How often the features of a window that differs are moved."""
FAR_OFF = 100.0
"""So many times as far as rounding moves a rough cell none is that is right."""
_Key = tuple[str, str]


@dataclass(frozen=True)
class RoughCells:
    """``asked``: how many comparisons there were, by output and kind of inputs; ``left``: those that are rough."""

    evidence: Evidence
    tally: Tally
    asked: dict[_Key, int] = field(default_factory=dict)
    left: dict[_Key, list[Callable[[], object]]] = field(default_factory=dict)

    def count(self, key: _Key, comparisons: int) -> None:
        self.asked[key] = self.asked.get(key, 0) + comparisons

    def moved(self, head: Head, kind: str, windows: Sequence[Arrays]) -> Iterator[list[Arrays]]:
        """What the original's head makes of windows whose features, and sums of them, are rounded otherwise."""
        bounds = head.plan.boundaries
        eps = ROUNDINGS * max(self.evidence.scales[bound, kind].precision.eps for bound in bounds)
        for turn in range(TRIES if windows else 0):
            seed = self.tally.options.seed + turn
            yield head.run_windows([jittered(window, bounds, seed, eps) for window in windows])

    def put(
        self,
        key: _Key,
        compare: Callable[..., object],
        got: Array,
        want: Array,
        scale: Scale,
        moved: float | None,
    ) -> None:
        """Compare, or leave it for later where it is rough; ``moved``: how far rounding moves it, None if unknown."""
        near = moved is not None and distance(got, want) <= FAR_OFF * moved
        if not _is_finite(want) or (moved is not None and near and not scale.steady(moved)):
            self.left.setdefault(key, []).append(partial(compare, noise=moved))
        else:
            compare(noise=moved)

    def reduced(
        self,
        head: Head,
        key: _Key,
        form: str,
        shot: str,
        got: Array,
        windows: Sequence[Arrays],
        wanted: Sequence[Array],
    ) -> None:
        """A mean or a maximum over all cells."""
        (name, kind), want = key, reduce_cells(form, wanted)
        scale, moved = self.evidence.scales[key].over(wanted), None
        if self.tally.exceeds(name, got, want, scale, kind):
            others = (reduce_cells(form, [made[name] for made in values]) for values in self.moved(head, kind, windows))
            moved = max(distance(other, want) for other in others)
        compare = partial(self.tally.compare, name, got, want, scale, kind, f"over all cells {shot}")
        self.put(key, compare, got, want, scale, moved)

    def tell(self) -> None:
        """Those that were left are compared where they are most: then it is not a few that are rough."""
        for key, left in self.left.items():
            if 2 * len(left) > self.asked[key]:
                for compare in left:
                    compare()


def _is_finite(value: Array) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())
