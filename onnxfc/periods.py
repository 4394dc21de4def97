"""By how many pixels an image is moved so that the whole trunk moves with it, element for element."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxfc.sizing import Sizing
from onnxfc.state import State
from onnxfc.views import Placed, is_map

_MOST = 64
"""So many times the strides are tried for what the graph computes from the rest of a division by something larger."""


def period_of(state: State, sizing: Sizing, native: Sequence[int]) -> tuple[int, ...]:
    """Pixels per axis by which an image is moved so that every trunk tensor moves by whole elements."""
    maps = [view for view in state.views.values() if is_map(view)]
    strides = zip(*(view.trace.fields for view in maps), strict=True)
    least = tuple(math.lcm(*(field.stride.numerator for field in axis)) for axis in strides)
    tried = (tuple(times * length for length in least) for times in range(1, _MOST + 1))
    return next((period for period in tried if _grows(state, sizing, native, period, maps)), least)


def _grows(state: State, sizing: Sizing, native: Sequence[int], period: Sequence[int], maps: Sequence[Placed]) -> bool:
    """Whether an image larger by a period has maps larger by as much, and what is computed for it is the same."""
    draft = state.draft
    size = [length + more for length, more in zip(native, period, strict=True)]
    shapes = sizing.shapes(size)
    if shapes is None:
        return False
    for name, value in sizing.values(size).items():
        spec = draft.specs[name]
        if spec.follows and spec.values is not None and not np.array_equal(value, spec.values[0]):
            return False
    return all(
        _by(view, shapes[view.tensor], draft.spec(view.tensor).native, period) for view in maps if view.tensor in shapes
    )


def _by(view: Placed, now: Sequence[int], before: Sequence[int], period: Sequence[int]) -> bool:
    grown = [now[axis] - before[axis] for axis in view.spatial]
    return all(
        more * field.stride == moved for more, field, moved in zip(grown, view.trace.fields, period, strict=True)
    )
