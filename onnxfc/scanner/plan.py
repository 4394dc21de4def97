"""Which pixels each tile reads, so that its cells are those of the whole image in one pass.

Along one axis, cells ``first`` to ``last`` stand for the pixels from ``first * stride`` on to the end of the last one's
crop, and depend on ``halo`` pixels more on either side. A tile begins at a multiple of the period, where the grid of
every tensor of the trunk begins anew, and ends where the model takes its size. What lies beyond the image is padded by
the trunk itself, in a tile as in the whole image. Cells that only a tile's own border gave rise to are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from onnxfc.errors import UsageError
from onnxfc.geometry import Geometry

Halo = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Span:
    """Cells ``first`` to ``last`` (exclusive) of one axis: what a tile from pixel ``start`` to ``stop`` gives,
    without its first ``skip`` cells and those beyond ``last``."""

    first: int
    last: int
    start: int
    stop: int
    skip: int

    @property
    def cells(self) -> slice:
        """Of the whole map."""
        return slice(self.first, self.last)

    @property
    def kept(self) -> slice:
        """Of the cells that the tile gives."""
        return slice(self.skip, self.skip + self.last - self.first)

    @property
    def pixels(self) -> int:
        """What is read."""
        return self.stop - self.start


@dataclass(frozen=True)
class Axis:
    """One axis of an image, and what a model makes of it.

    ``length``: pixels that the model takes of the image. Cell ``i`` stands for ``own`` pixels from
    ``i * stride / per`` on. Tiles begin at multiples of ``period`` and have ``native`` pixels plus multiples of
    ``step``, or end where the image does. ``whole``: it is never cut.
    """

    length: int
    cells: int
    native: int
    own: int
    stride: int
    per: int
    period: int
    step: int
    before: int
    after: int
    whole: bool = False

    def begin(self, cell: int) -> int:
        """The first pixel that a cell stands for."""
        return cell * self.stride // self.per

    def least(self, first: int, last: int) -> Span:
        """The smallest tile of these cells."""
        if self.whole:
            return Span(first, last, 0, self.length, first)
        latest = min(self.begin(first) - self.before, self.length - self.native)
        start = max(0, latest) // self.period * self.period
        end = self.begin(last - 1) + self.own + self.after
        more = -(-max(0, end - start - self.native) // self.step) * self.step
        stop = self.length if last == self.cells else min(self.length, start + self.native + more)
        return Span(first, last, start, stop, first - start * self.per // self.stride)

    def span(self, first: int, last: int, size: int) -> Span:
        """The tile of these cells that has :meth:`size` pixels."""
        start = min(self.least(first, last).start, self.length - size)
        return Span(first, last, start, start + size, first - start * self.per // self.stride)

    def size(self, count: int) -> int:
        """Pixels of tiles of ``count`` cells. They are all of one size: a session that meets several takes memory for
        each. The last one begins on the grid, too, and ends where the image does."""
        firsts = range(0, self.cells, count)
        widest = max(self.least(first, min(first + count, self.cells)).pixels for first in firsts)
        return self.length - (self.length - widest) // self.period * self.period

    def fitting(self, pixels: int) -> int:
        """As many cells as a tile of so many pixels gives, one at least."""
        low, high = 1, self.cells
        while low < high:
            middle = (low + high + 1) // 2
            end = self.begin(middle - 1) + self.own + self.after + self.before + 2 * self.period + self.step
            low, high = (middle, high) if min(end, self.length) <= pixels else (low, middle - 1)
        return low

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring tiles both read."""
        return self.before + self.after + self.own - self.stride // self.per

    def of_crops(self) -> Axis:
        """For crops that are run one by one: those that lie within the image."""
        cells = min(self.cells, (self.length - self.native) // self.stride + 1)
        return Axis(self.length, cells, self.native, self.native, self.stride, 1, self.stride, 1, 0, 0)


@dataclass(frozen=True)
class Tile:
    """Rows and columns."""

    number: int
    rows: Span
    columns: Span


@dataclass(frozen=True)
class Plan:
    """The tiles of an image: ``count`` cells each, rows before columns."""

    axes: tuple[Axis, Axis]
    count: tuple[int, int]

    @property
    def grid(self) -> tuple[int, int]:
        """Cells of the whole map."""
        return self.axes[0].cells, self.axes[1].cells

    @cached_property
    def size(self) -> tuple[int, int]:
        """Pixels of every tile."""
        down, across = (axis.size(count) for axis, count in zip(self.axes, self.count, strict=True))
        return down, across

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        down, across = (-(-axis.cells // count) for axis, count in zip(self.axes, self.count, strict=True))
        return down, across

    def __len__(self) -> int:
        return math.prod(self.tiles)

    def __iter__(self) -> Iterator[Tile]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Tile:
        if not 0 <= number < len(self):
            raise IndexError(number)
        places = divmod(number, self.tiles[1])
        rows, columns = (
            axis.span(place * count, min(axis.cells, (place + 1) * count), size)
            for axis, place, count, size in zip(self.axes, places, self.count, self.size, strict=True)
        )
        return Tile(number, rows, columns)


def axes_of(
    geometry: Geometry, size: tuple[int, int], halo: Halo, *, elements: bool, whole: bool, even: bool
) -> tuple[Axis, Axis]:
    """How an image of ``size`` pixels is cut for a model.

    ``elements``: its cells stand for their own pixels, not for crops; ``whole``: one pass; ``even``: it resizes maps to
    the size of others, and is the same everywhere only at native size plus multiples of the period.
    Raises UsageError where the image is too small.
    """
    steps = [math.lcm(s, p) if even else s for s, p in zip(geometry.size_step, geometry.period, strict=True)]
    used = [n + (have - n) // s * s for n, have, s in zip(geometry.native_size, size, steps, strict=True)]
    if any(n < least for n, least in zip(used, geometry.smallest_size, strict=True)):
        needs, grow = "x".join(map(str, geometry.smallest_size)), "--edge reflect or constant grows it"
        raise UsageError(f"the image has {size[0]}x{size[1]} px, the model needs {needs} at least; {grow}")
    cells = geometry.cells(*used)
    found = []
    for k, step in enumerate(steps):
        stride, per = geometry.stride[k], geometry.per[k] or 1
        period = math.lcm(geometry.period[k], geometry.size_step[k])
        own = -(-stride // per) if elements else geometry.native_size[k]
        found.append(
            Axis(used[k], cells[k], geometry.native_size[k], own, stride, per, period, step, *halo[k], whole=whole)
        )
    return found[0], found[1]
