"""Where the cells of a score map lie in the image: pure integers, readable from a rewritten file alone.

All lengths are in input pixels, one per spatial axis, height before width (a signal has one axis, a volume three).

Sources: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019
(https://distill.pub/2019/computing-receptive-fields), whose ``r0``, ``S0`` and ``u0`` are ``field_size``,
``stride`` and ``field_start`` here. Layer by layer an axis of ``n`` elements becomes
``floor((n + pads - reach) / stride) + 1`` (https://onnx.ai/onnx/operators/onnx__Conv.html). A chain of such floors is
monotone, and a stride more gives one cell more; so one number per axis says it all, how many pixels less than native
still give the native grid (``slack``): ``cells(n) = native_cells + floor((n - native + slack) / stride)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxfc import validate
from onnxfc.claim import Claim, Output
from onnxfc.errors import ReadError, UsageError
from onnxfc.model_file import ModelFile
from onnxfc.shapes import Shapes

Grid = tuple[int, ...]

_LOCAL = {"padding", "partial window", "resampling"}
_LOCAL |= {f"{change} to a map's size" for change in ("crop", "padding", "resampling")}
"""Causes of a verdict that act at the border, or from place to place; all others look at the whole image."""


@dataclass(frozen=True)
class Box:
    """Pixels ``start`` to ``stop`` (exclusive) per axis; before the image's first pixel they are negative."""

    start: tuple[int, ...]
    stop: tuple[int, ...]

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def slices(self) -> tuple[slice, ...]:
        """To cut the box out of an array's spatial axes; only for boxes within the image."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def clipped(self, size: Sequence[int]) -> Box:
        """What of it lies within an image of ``size`` pixels."""
        return Box(
            tuple(min(max(a, 0), n) for a, n in zip(self.start, size, strict=True)),
            tuple(max(min(b, n), 0) for b, n in zip(self.stop, size, strict=True)),
        )

    def within(self, size: Sequence[int]) -> bool:
        """Whether all of it lies within an image of ``size`` pixels."""
        return all(a >= 0 and b <= n for a, b, n in zip(self.start, self.stop, size, strict=True))


@dataclass(frozen=True)
class Geometry:
    """Cells and pixels of a rewritten model.

    Cell ``i`` stands for the *crop* of ``native_size`` pixels from ``i * stride`` on; the whole trunk behind it reads
    its *field*, ``field_size`` pixels from ``field_start + i * stride`` on (negative where the trunk pads).
    The model takes images of ``native_size`` plus multiples of ``size_step``, from ``smallest_size`` on; smaller
    ones have no cell.
    ``native_cells`` is the grid at the native size: 1 for score maps, more for freed features. Where features were
    upsampled, ``per`` elements come every ``stride`` pixels. An image moved by ``period`` pixels gives the same trunk,
    moved. ``context``: an operator looks at the whole image.

    ``halo``: pixels (before, after) per axis that a tile needs around the crops of its cells (around its own pixels,
    where the model has features and no cells). With them its cells are those of the whole image, up to the rounding
    of sums. ``before`` is a multiple of ``period``, so that a tile cut at multiples of it keeps the grid. At the
    image's own border no halo is needed, nor to be had. None where an operator looks at the whole image. Where a map
    is resized to another's size, this holds for images of native size plus multiples of ``period``.
    """

    native_size: tuple[int, ...]
    size_step: tuple[int, ...]
    stride: tuple[int, ...]
    per: tuple[int, ...]
    field_start: tuple[int, ...]
    field_size: tuple[int, ...]
    slack: tuple[int, ...]
    smallest_size: tuple[int, ...]
    native_cells: tuple[int, ...]
    period: tuple[int, ...]
    halo: tuple[tuple[int, int], ...] | None
    context: bool

    @classmethod
    def from_model(cls, model: str | Path | bytes | onnx.ModelProto | ModelFile) -> Geometry:
        """Read a rewritten model's geometry from its metadata and graph; nothing is run.

        Raises ReadError where the model cannot be read or was not rewritten by onnxfc.
        """
        file = model if isinstance(model, ModelFile) else ModelFile.open(model)
        claim = Claim.from_metadata({item.key: item.value for item in file.proto.metadata_props})
        if claim is None:
            where = file.path or "the given model"
            raise ReadError(f"{where}: was not rewritten by onnxfc; rewrite it first, or see `onnxfc inspect`")
        return cls.of_claim(claim, Shapes(file))

    @classmethod
    def of_claim(cls, claim: Claim, shapes: Shapes) -> Geometry:
        """The geometry that a claim and the shapes of its model tell."""
        return cls.of_shapes(claim, lambda size: shapes.at(claim.image_shapes(size)))

    @classmethod
    def of_shapes(cls, claim: Claim, shapes: Callable[[Sequence[int]], Mapping[str, Sequence[int]] | None]) -> Geometry:
        """The same; ``shapes`` gives the shapes of all tensors for an image size, or None."""

        def grid(size: Sequence[int]) -> Grid | None:
            found = shapes(size)
            return None if found is None else grid_of(claim, found)

        native = grid(claim.native_size)
        slack = claim.slack or slack_of(claim, grid)
        dims = len(claim.stride)
        slack = slack or (0,) * dims
        stride, per = _finest(claim)
        context = any(item.partition(": ")[0] not in _LOCAL for item in claim.blame)
        return cls(
            native_size=claim.native_size,
            size_step=claim.size_step,
            stride=stride,
            per=per,
            field_start=claim.start,
            field_size=claim.size,
            slack=slack,
            smallest_size=claim.smallest_size or smallest_of(claim, shapes, slack, native or (1,) * dims),
            native_cells=native or (1,) * dims,
            period=claim.period or claim.stride,
            halo=None if context else halo_of(claim),
            context=context,
        )

    def cells(self, *size: int) -> Grid:
        """The number of cells for an image of ``height, width`` pixels (one length, or three, likewise); 0 where it is
        too small. Raises UsageError for sizes that the model does not take."""
        self._check(size)
        return tuple(
            count + (length - native + slack) * per // stride if length >= smallest else 0
            for length, native, slack, stride, per, count, smallest in zip(
                size,
                self.native_size,
                self.slack,
                self.stride,
                self.per,
                self.native_cells,
                self.smallest_size,
                strict=True,
            )
        )

    def box(self, *cell: int) -> Box:
        """The crop that cell ``(i, j)`` stands for: what the original would be given."""
        start = self._at(cell, (0,) * len(cell))
        return Box(start, tuple(a + n for a, n in zip(start, self.native_size, strict=True)))

    def field(self, *cell: int) -> Box:
        """All pixels that cell ``(i, j)`` depends on (operators of the whole image aside); not clipped to the image."""
        start = self._at(cell, self.field_start)
        return Box(start, tuple(a + n for a, n in zip(start, self.field_size, strict=True)))

    def _at(self, cell: Sequence[int], start: Sequence[int]) -> tuple[int, ...]:
        if len(cell) != len(self.stride):
            raise UsageError(f"a cell of this model has {len(self.stride)} indices, not {len(cell)}")
        return tuple(a + i * s // p for a, i, s, p in zip(start, cell, self.stride, self.per, strict=True))

    def _check(self, size: Sequence[int]) -> None:
        native, step = self.native_size, self.size_step
        if not validate.is_size(size) or len(size) != len(native):
            raise UsageError(f"an image of this model has {len(native)} lengths from 1 px on, not {tuple(size)}")
        if any((length - n) % s for length, n, s in zip(size, native, step, strict=True)):
            raise UsageError(
                f"the model takes {'x'.join(map(str, native))} px plus multiples of {'x'.join(map(str, step))}"
            )


def halo_of(claim: Claim) -> tuple[tuple[int, int], ...]:
    """What all outputs together read beyond the crops of their cells, or beyond the pixels of their elements."""
    cells = any(output.form != "features" for output in claim.outputs)
    reach = [(claim.start, claim.size, claim.native_size)] if cells else []
    for item in claim.outputs:
        if item.form == "features" and item.stride:
            reach.append((item.start, item.size, tuple(s // p for s, p in zip(item.stride, item.per, strict=True))))
        elif item.stride:
            reach.append((item.start, item.size, claim.native_size))
    halo = []
    for axis, period in enumerate(claim.period or claim.stride):
        before = max((-start[axis] for start, _, _ in reach), default=0)
        after = max((start[axis] + size[axis] - own[axis] for start, size, own in reach), default=0)
        halo.append((-(-max(0, before) // period) * period, max(0, after)))
    return tuple(halo)


def _finest(claim: Claim) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stride and elements per stride of the cells, or of the first features where there are no cells."""
    features = _features(claim)
    if features is not None and features.per:
        return features.stride, features.per
    return claim.stride, (1,) * len(claim.stride)


def _features(claim: Claim) -> Output | None:
    if any(output.form != "features" for output in claim.outputs):
        return None
    return claim.outputs[0]


def grid_of(claim: Claim, shapes: Mapping[str, Sequence[int]]) -> Grid | None:
    """Cells per axis, from the shapes of a model's tensors: the map's own, else the windows that its boundaries have
    room for, else the extent of the first features. None where shapes are unknown."""
    for output in claim.outputs:
        if output.form in {"map", "cells"}:
            return _extents(shapes.get(output.name), output.axes)
    grids = []
    for item in claim.boundaries:
        extents = _extents(shapes.get(item.rewritten), item.spatial)
        if extents is not None:
            grids.append([(n - e) // s + 1 for n, e, s in zip(extents, item.extent, item.step, strict=True)])
    if grids:
        return tuple(max(0, min(axis)) for axis in zip(*grids, strict=True))
    features = _features(claim)
    return None if features is None else _extents(shapes.get(features.name), features.axes)


def _extents(shape: Sequence[int] | None, axes: Sequence[int]) -> Grid | None:
    if shape is None or not axes or max(axes) >= len(shape):
        return None
    return tuple(shape[axis] for axis in axes)


def slack_of(claim: Claim, grid: Callable[[Sequence[int]], Grid | None]) -> tuple[int, ...] | None:
    """How many pixels less than native give the native grid, per axis; None where the grid is no single floor.

    ``grid`` gives the cells at an image size, None where the graph does not take it. Found by halving: one more cell
    comes somewhere between native and native + stride.
    """
    native, steps = claim.native_size, claim.size_step
    stride, per = _finest(claim)
    dims = range(len(native))
    zero = (0,) * len(native)
    first, period = grid(native), [math.lcm(s, step) for s, step in zip(stride, steps, strict=True)]
    last = grid([n + p for n, p in zip(native, period, strict=True)])
    if first is None or last is None:
        return zero
    if any(last[a] - first[a] != period[a] * per[a] // stride[a] for a in dims):
        return None
    if any(step != 1 for step in steps):
        return zero
    slack = _halved(native, stride, grid, first) if set(per) == {1} else zero
    return slack if _features(claim) is None or _follows(claim, grid, first, slack) else None


def _halved(
    native: Sequence[int], stride: Sequence[int], grid: Callable[[Sequence[int]], Grid | None], first: Grid
) -> tuple[int, ...]:
    """The slack, by halving, on all axes at once."""
    dims = range(len(native))
    low, high = [0] * len(native), list(stride)  # at low the native grid, at high one more
    while any(high[a] - low[a] > 1 for a in dims):
        middle = [(low[a] + high[a]) // 2 for a in dims]
        now = grid([native[a] + middle[a] for a in dims])
        if now is None:
            return (0,) * len(native)
        for a in dims:
            if now[a] > first[a]:
                high[a] = middle[a]
            else:
                low[a] = middle[a]
    return tuple(stride[a] - high[a] for a in dims)


def _follows(claim: Claim, grid: Callable[[Sequence[int]], Grid | None], first: Grid, slack: Sequence[int]) -> bool:
    """Whether features grow with every pixel as their stride says, not in leaps of a deeper layer's stride."""
    stride, per = _finest(claim)
    most = max(claim.period or stride)
    for more in sorted({*range(1, min(most, 64)), most // 2, most - 1} - {0}):
        now = grid([n + more for n in claim.native_size])
        wanted = [first[a] + (more + slack[a]) * per[a] // stride[a] for a in range(len(stride))]
        if now is not None and list(now) != wanted:
            return False
    return True


def smallest_of(
    claim: Claim,
    shapes: Callable[[Sequence[int]], Mapping[str, Sequence[int]] | None],
    slack: Sequence[int],
    native_cells: Sequence[int],
) -> tuple[int, ...]:
    """The smallest image that has a cell, and whose trunk nowhere runs out of elements (padding could hide that)."""
    stride, per = _finest(claim)
    native, steps = claim.native_size, claim.size_step
    low = []
    for axis, (length, step) in enumerate(zip(native, steps, strict=True)):
        room = (native_cells[axis] - 1) * stride[axis] // per[axis] + slack[axis]
        low.append(length - min(room, length - 1) // step * step)
    period = claim.period or [math.lcm(s, step) for s, step in zip(stride, steps, strict=True)]
    growth = _growth(shapes, native, period)
    further = _growth(shapes, [n + p for n, p in zip(native, period, strict=True)], period)
    steady = {name: more for name, more in growth.items() if further.get(name) == more}  # not places laid together

    def runs(size: Sequence[int]) -> bool:
        # Where a kernel is larger than its input, onnx rounds towards one element; there a period adds one less.
        found = shapes(size)
        return (
            found is not None
            and steady.items() <= _growth(shapes, size, period).items()
            and all(min(found[name], default=1) > 0 for name in growth)
        )

    if runs(low):
        return tuple(low)
    for axis, step in enumerate(steps):  # high runs; the largest that does not is below it
        high, size = native[axis], list(native)
        while low[axis] < high:
            size[axis] = low[axis] + (high - low[axis]) // step // 2 * step
            if runs(size):
                high = size[axis]
            else:
                low[axis] = size[axis] + step
        low[axis] = high
    return tuple(low)


def _growth(
    shapes: Callable[[Sequence[int]], Mapping[str, Sequence[int]] | None], size: Sequence[int], period: Sequence[int]
) -> dict[str, list[int]]:
    """By how much all tensors that grow with the image grow over one period."""
    one, two = shapes(size), shapes([n + p for n, p in zip(size, period, strict=True)])
    if one is None or two is None:
        return {}
    pairs = {name: (shape, two[name]) for name, shape in one.items() if name in two and len(shape) == len(two[name])}
    return {
        name: [b - a for a, b in zip(*shapes_of, strict=True)]
        for name, shapes_of in pairs.items()
        if shapes_of[0] != shapes_of[1]
    }
