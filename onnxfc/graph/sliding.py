"""What the attributes of a Conv or a pool say at the native size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnxfc.graph.op_kinds import same_pads

if TYPE_CHECKING:
    from onnxfc.shapes.spec import Shape


LEFT_BEHIND = 2
"""Elements that a Conv of onnxruntime leaves out behind its last window; of more, SAME leaves out a part ahead. A pool
that leaves any out it does not run."""


@dataclass(frozen=True)
class Sliding:
    """Kernel, strides, dilations and native pads of a Conv or pool, per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    frozen: bool

    def on(self, places: Sequence[int]) -> Sliding:
        """The part that slides over some of the axes (others are channels that were given axes of their own).

        A place below 0 is an axis over which a pool does not slide.
        """

        def of(part: tuple[int, ...], still: int = 1) -> tuple[int, ...]:
            return tuple(part[place] if place >= 0 else still for place in places)

        ends = of(self.begin, 0), of(self.end, 0)
        return Sliding(of(self.kernel), of(self.strides), of(self.dilations), *ends, self.frozen)

    @property
    def padded(self) -> bool:
        return any((*self.begin, *self.end))

    @property
    def reach(self) -> tuple[int, ...]:
        """From the first element of a window to its last."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def left_out(self) -> int:
        """How many elements lie between two windows, at most; at some sizes SAME leaves out as many behind the last."""
        return max(stride - reach for reach, stride in zip(self.reach, self.strides, strict=True))

    @property
    def alike(self) -> bool:
        """Whether SAME pads alike at every size, apart from what it cuts off."""
        return all(1 in both for both in zip(self.reach, self.strides, strict=True))

    def moves(self, place: int) -> bool:
        """Whether it does more along an axis than to read each place alone."""
        return any(part[place] for part in (self.begin, self.end)) or not self.kernel[place] == self.strides[place] == 1


def sliding_at(attrs: Mapping[str, Any], shape: Shape, weight: Shape) -> Sliding | None:
    """``weight``: its shape, empty for a pool. None where SAME would leave out more elements than LEFT_BEHIND says,
    and where they are not of the map's rank."""
    extent = shape[2:]
    rank = len(extent)
    kernel = tuple(attrs.get("kernel_shape") or weight[2:])
    strides = tuple(attrs.get("strides") or (1,) * rank)
    dilations = tuple(attrs.get("dilations") or (1,) * rank)
    auto_pad = attrs.get("auto_pad", "NOTSET") or "NOTSET"
    pads = tuple(attrs.get("pads") or (0,) * (2 * rank))
    if {len(kernel), len(strides), len(dilations), len(pads) / 2} != {rank}:
        return None
    if auto_pad.startswith("SAME"):
        pads = same_pads(auto_pad, extent, kernel, strides, dilations)
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        spared = LEFT_BEHIND if weight else 0
        if any((n - 1) % s + 1 - part > spared for n, s, part in zip(extent, strides, reach, strict=True)):
            return None
    elif auto_pad == "VALID":
        pads = (0,) * (2 * rank)
    return Sliding(kernel, strides, dilations, pads[:rank], pads[rank:], auto_pad.startswith("SAME"))


def covers(how: Sliding, before: Shape, after: Shape, counted: bool) -> bool:
    """Whether a pool's one window holds the whole native map, and no padding that counts."""
    extent = before[2:]
    if set(how.dilations) != {1} or set(after[2:]) != {1} or (counted and how.padded):
        return False
    if set(how.strides) == {1} and all(a + b == k - 1 for a, b, k in zip(how.begin, how.end, how.kernel, strict=True)):
        return False  # it keeps any map's size, and this one has a single place natively
    return all(k - a >= size for k, a, size in zip(how.kernel, how.begin, extent, strict=True))


def covered(how: Sliding, before: Shape, after: Shape) -> list[int]:
    """The axes that a pool's one window covers natively, where it leaves all others alone."""
    if how.padded or set(how.dilations) != {1}:
        return []
    axes = [axis for axis in range(2, len(before)) if after[axis] == 1 and how.kernel[axis - 2] == before[axis] > 1]
    rest = [axis - 2 for axis in range(2, len(before)) if axis not in axes]
    return axes if all(how.kernel[place] == how.strides[place] == 1 for place in rest) else []
