"""Where the cells of a score map lie in the image: pure integers, readable from a rewritten file alone.

All lengths are in input pixels, one per spatial axis, height before width (a signal has one axis, a volume three).

Sources: A. Araujo, W. Norris, J. Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019
(https://distill.pub/2019/computing-receptive-fields), whose ``r0``, ``S0`` and ``u0`` are ``field_size``,
``stride`` and ``field_start`` here. Layer by layer an axis of ``n`` elements becomes
``floor((n + pads - reach) / stride) + 1`` (https://onnx.ai/onnx/operators/onnx__Conv.html). A chain of such floors is
one floor again; so one number per axis says it all, how many pixels less than native still give the native grid
(``slack``): ``cells(n) = native_cells + floor((n - native + slack) / stride)``. Where that is no single floor (features
upsampled, then strided) it holds in steps of ``size_step``, and between them the closed form of the axis tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from onnxfc import errors
from onnxfc.claim.claim import Claim, Level, Output, elements_of
from onnxfc.errors import ReadError, UsageError
from onnxfc.io.model_file import Model, ModelFile
from onnxfc.layout.axis_map import AxisMap
from onnxfc.layout.boxes import Box, Grid, Places
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.length import BATCH, Dim, Length, at, least
from onnxfc.shapes.model_shapes import Shapes, Sizing, fits
from onnxfc.shapes.node_call import Ask
from onnxfc.shapes.spec import Shape


@dataclass(frozen=True)
class Geometry:
    """Cells and pixels of a rewritten model.

    Cell ``i`` stands for the *crop* of ``native_size`` pixels from ``i * stride`` on; the whole trunk behind it reads
    its *field*, ``field_size`` pixels from ``field_start + i * stride`` on (negative where the trunk pads).
    The model takes images of ``native_size`` plus multiples of ``size_step``, from ``smallest_size`` on; smaller
    ones have no cell.
    ``native_cells`` is the grid at the native size: 1 for score maps, more for freed features and where a global pool
    was dropped: cells are the elements of that map. Where features were upsampled, ``per`` elements come every
    ``stride`` pixels; where there is one score for the whole image (``whole_image``), ``per`` is 0: no more of them
    come. An image moved by ``period`` pixels gives the same trunk, moved. ``context``: an operator looks at the whole
    image.

    ``halo``: pixels (before, after) per axis that a tile needs around the crops of its cells (around its own pixels,
    where the model has features or the map of a dropped pool, and no other cells). With them its cells are those of
    the whole image, up to the rounding of sums. ``before`` is a multiple of ``period``, so that a tile cut at multiples
    of it keeps the grid. At the image's own border no halo is needed, nor to be had. None where an operator looks at
    the whole image. Where a map is resized to another's size, this holds for images of native size plus multiples of
    ``period``.

    ``fixed_size``: the one size of images that a model takes which was made for one, with ``fixed_cells``; else empty.

    ``axes``: the cells as exact maps of the image, ``asks``: lengths that must be equal or large enough where the model
    runs; both empty where every size is one of ``size_step``.

    >>> geometry = onnxfc.Geometry.from_model("digits-any.onnx")
    >>> geometry.cells((64, 112))
    (13, 25)
    >>> geometry.box((2, 3))
    Box(start=(8, 12), stop=(24, 28))
    >>> geometry.field((2, 3), size=(64, 112))
    Box(start=(5, 9), stop=(27, 31))
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
    fixed_size: tuple[int, ...] = ()
    fixed_cells: tuple[int, ...] = ()
    axes: tuple[AxisMap, ...] = field(default=(), repr=False, compare=False)
    asks: tuple[Ask, ...] = field(default=(), repr=False, compare=False)
    levels: tuple[tuple[Level, tuple[Dim, ...]], ...] = field(default=(), repr=False, compare=False)

    @classmethod
    def from_model(cls, model: Model) -> Geometry:
        """Read a rewritten model's geometry from its metadata and graph; nothing is run.

        Raises ReadError where the model cannot be read or was not rewritten by onnxfc.
        """
        file = ModelFile.open(model)
        claim = Claim.from_metadata({item.key: item.value for item in file.proto.metadata_props})
        if claim is None:
            where = file.path or "the given model"
            raise ReadError(f"{where}: was not rewritten by onnxfc; rewrite it first, or see `onnxfc inspect`")
        return cls.of_claim(claim, Shapes(file))

    @classmethod
    def of_claim(cls, claim: Claim, shapes: Shapes) -> Geometry:
        """The geometry that a claim and the shapes of its model tell."""
        if claim.fixed_size:
            return cls._of_fixed(claim, shapes.at(claim.image_shapes(claim.fixed_size)) or {})
        lists = any(output.levels for output in claim.outputs)
        whole = claim.slack and claim.smallest_size and set(claim.size_step) == {1} and not lists
        sizing = None if whole else shapes.sizing([Image.of_input(item) for item in claim.inputs])
        if sizing is None or cell_axes(claim, sizing) is None:  # no more is to be found than the native grid
            found = shapes.at(claim.image_shapes(claim.native_size))
            return cls._told(claim, None if found is None else grid_of(claim, found))
        return cls.of_sizing(claim, sizing)

    @classmethod
    def _of_fixed(cls, claim: Claim, shapes: Mapping[str, Shape]) -> Geometry:
        """That of a model for one size: its graph tells no other grid than that of this size."""
        grid = grid_of(claim, shapes) or (1,) * len(claim.fixed_size)
        told = replace(cls._told(claim, None), fixed_size=claim.fixed_size, fixed_cells=grid)
        grown = zip(claim.fixed_size, claim.native_size, told.slack, told.per, told.stride, strict=True)
        more = [(now - native + slack) * per // stride for now, native, slack, per, stride in grown]
        return replace(told, native_cells=tuple(n - extra for n, extra in zip(grid, more, strict=True)))

    @classmethod
    def of_sizing(cls, claim: Claim, sizing: Sizing | None) -> Geometry:
        """The same from the closed forms of the model's dims."""
        axes = None if sizing is None else cell_axes(claim, sizing)
        if sizing is None or axes is None:
            return cls._told(claim, None)
        slack = claim.slack or slack_of(claim, axes) or (0,) * len(axes)
        native = tuple(axis.count(length) for axis, length in zip(axes, claim.native_size, strict=True))
        smallest = claim.smallest_size or smallest_of(claim, sizing, slack, native)
        told = cls._told(replace(claim, slack=slack, smallest_size=smallest), native)
        asks = tuple(ask for ask in sizing.asks if ask.axes < {BATCH, *range(len(axes))})
        return replace(told, axes=axes, asks=asks, levels=tuple(_levels(claim, sizing)))

    @classmethod
    def _told(cls, claim: Claim, native: Grid | None) -> Geometry:
        """What a claim says that is complete."""
        dims = len(claim.stride)
        stride, per = _finest(claim)
        context = not all(item.cause.local for item in claim.blames) or set(per) == {0}
        own = elements_of(claim.outputs)
        start, size = (own.start, own.size) if own is not None and own.size else (claim.start, claim.size)
        return cls(
            native_size=claim.native_size,
            size_step=claim.size_step,
            stride=stride,
            per=per,
            field_start=start,
            field_size=size,
            slack=claim.slack or (0,) * dims,
            smallest_size=claim.smallest_size or claim.native_size,
            native_cells=native or (1,) * dims,
            period=claim.period or claim.stride,
            halo=None if context else halo_of(claim),
            context=context,
        )

    def cells(self, *size: int | Sequence[int]) -> Grid:
        """The number of cells for an image of ``(height, width)`` pixels, as a tuple or one by one (one length, or
        three, likewise); 0 where it is too small. Raises UsageError for sizes that the model does not take."""
        lengths = _as_one(size)
        step = self._on_step(lengths)
        if self.fixed_size:
            return self.fixed_cells
        if not step:
            return self._between(lengths)
        return tuple(
            count + (length - native + slack) * per // stride if length >= smallest else 0
            for length, native, slack, stride, per, count, smallest in zip(
                lengths,
                self.native_size,
                self.slack,
                self.stride,
                self.per,
                self.native_cells,
                self.smallest_size,
                strict=True,
            )
        )

    def places(self, *size: int) -> tuple[Places, ...]:
        """Where the places of a list output stand in its row, level by level, for an image of ``height, width`` pixels;
        empty where there is no list. Raises UsageError for sizes that the model does not take."""
        self.cells(*size)
        found: list[Places] = []
        for level, dims in self.levels:
            grid = tuple(int(at(dim, dict(enumerate(size)))) for dim in dims)
            first = found[-1].first + found[-1].count if found else 0
            told = (level.stride, level.per, level.start, level.size)
            found.append(Places(first, grid, level.outer, level.inner, *told, level.order))
        return tuple(found)

    def _between(self, size: Sequence[int]) -> Grid:
        """The cells between the steps, where the model runs there."""
        rooms = [item for item in self.asks if item.kind == "room"]
        equals = [item for item in self.asks if item.kind != "room"]
        native = {BATCH: 1, **dict(enumerate(self.native_size))}
        if not self.axes or not fits(equals, native | dict(enumerate(size))):
            sizes, step = ("x".join(map(str, lengths)) for lengths in (self.native_size, self.size_step))
            raise UsageError(f"the model takes {sizes} px plus multiples of {step}; pad the image to one")
        each = zip(self.axes, size, strict=True)
        return tuple(max(0, axis.count(n)) if fits(rooms, native | {axis.axis: n}) else 0 for axis, n in each)

    def box(self, *cell: int | Sequence[int], size: Sequence[int] | None = None) -> Box:
        """The crop that cell ``(i, j)``, as a tuple or one by one, stands for: what the original would be given.

        Boxes of the last cells may end beyond the image: the trunk pads, or rounds its sizes up to whole elements, and
        so has cells of which the image holds a part only. ``size``: what lies within an image of that size. Raises
        UsageError for a cell that such an image, or any, does not have, and for sizes that the model does not take.
        Where the pool was dropped, the mean over the ``native_cells`` cells from ``(i, j)`` on is the score of the box.
        That of one score for the whole image is the image, of the native size where ``size`` is not given.
        """
        return self._clipped(_as_one(cell), (0,) * len(self.stride), self.native_size, size)

    def field(self, *cell: int | Sequence[int], size: Sequence[int] | None = None) -> Box:
        """All pixels that cell ``(i, j)`` depends on (operators of the whole image aside).

        It begins before the image or ends beyond it where the trunk pads. ``size``: what lies within an image of that
        size. One score for the whole image depends on all of it, of the native size where ``size`` is not given.
        Raises UsageError as ``box`` does.
        """
        return self._clipped(_as_one(cell), self.field_start, self.field_size, size)

    def _clipped(
        self, cell: Sequence[int], start: Sequence[int], length: Sequence[int], size: Sequence[int] | None
    ) -> Box:
        """``length`` pixels from the cell's ``start`` on, within an image of ``size`` where that is given."""
        known = self.native_cells if self.whole_image else self.fixed_cells or None
        grid = known if size is None else self.cells(size)
        errors.place("a cell of this model", cell, len(self.stride), grid)
        each = zip(start, cell, self.stride, self.per, strict=True)
        start = tuple(a + int(i) * s // (p or 1) for a, i, s, p in each)
        found = Box(start, tuple(a + n for a, n in zip(start, length, strict=True)))
        if size is None:
            return found
        return Box((0,) * len(start), tuple(size)) if self.whole_image else found.clipped(size)

    @property
    def whole_image(self) -> bool:
        """Whether there is one score for the whole image, of any size: its global pool was kept."""
        return set(self.per) == {0}

    def _on_step(self, size: Sequence[int]) -> bool:
        native, step = self.native_size, self.size_step
        if not errors.is_size(size) or len(size) != len(native):
            told = "x".join(map(str, size))
            what = ("a length", "a height and a width", "a depth, a height and a width")[len(native) - 1]
            raise UsageError(f"size {told}: an image of this model has {what}, such as {'x'.join(map(str, native))} px")
        if self.fixed_size and tuple(size) != self.fixed_size:
            raise UsageError(f"the model takes images of {'x'.join(map(str, self.fixed_size))} px alone")
        return all((length - n) % s == 0 for length, n, s in zip(size, native, step, strict=True))


def _as_one(given: Sequence[int | Sequence[int]]) -> tuple[int, ...]:
    """A size, or a cell, that is given as one tuple or one by one."""
    first = given[0] if len(given) == 1 else None
    return tuple(first if isinstance(first, Sequence) else given)  # type: ignore[arg-type]


def _levels(claim: Claim, sizing: Sizing) -> Iterator[tuple[Level, tuple[Dim, ...]]]:
    """The levels of the first list, with the numbers of their places."""
    known = sizing.extents.all_dims
    for level in next((output.levels for output in claim.outputs if output.levels), ()):
        dims = known.get(level.tensor)
        if dims is None:
            return
        yield level, tuple(dims[axis] for axis in level.spatial)


def halo_of(claim: Claim) -> tuple[tuple[int, int], ...]:
    """What all outputs together read beyond the crops of their cells, or beyond the pixels of their elements."""
    cells = any(not _of_elements(output) for output in claim.outputs)
    reach = [(claim.start, claim.size, claim.native_size)] if cells else []
    for item in (part for output in claim.outputs for part in output.levels or (output,)):
        if isinstance(item, Level) or (_of_elements(item) and item.stride):
            reach.append((item.start, item.size, tuple(s // p for s, p in zip(item.stride, item.per, strict=True))))
        elif item.stride:
            reach.append((item.start, item.size, claim.native_size))
    halo = []
    for axis, period in enumerate(claim.period or claim.stride):
        before = max((-start[axis] for start, _, _ in reach), default=0)
        after = max((start[axis] + size[axis] - own[axis] for start, size, own in reach), default=0)
        halo.append((-(-max(0, before) // period) * period, max(0, after)))
    return tuple(halo)


def _of_elements(output: Output) -> bool:
    """Whether it stands for its own pixels, not for crops: features, or the map whose pool was dropped."""
    return output.form in ("features", "list") or (output.form == "activation" and bool(output.stride))


def _finest(claim: Claim) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Stride and elements per stride of the cells, or of elements where there are no cells; none of one score."""
    own = elements_of(claim.outputs)
    if own is not None and own.per:
        return own.stride, own.per
    return claim.stride, (0 if _is_global(claim) else 1,) * len(claim.stride)


def _is_global(claim: Claim) -> bool:
    """Whether nothing but figures of the whole image comes out."""
    return all(output.form == "global" for output in claim.outputs)


def grid_of(claim: Claim, shapes: Mapping[str, Sequence[Dim]]) -> tuple[Any, ...] | None:
    """Cells per axis, from the dims of a model's tensors: the map's own, also where its pool was dropped, or of the
    first features; one for a score of the whole image; else the windows that the boundaries have room for. None where
    dims are unknown."""
    maps = [output for output in claim.outputs if output.form in {"map", "cells"}]
    own = maps[0] if maps else elements_of(claim.outputs)
    if own is not None and own.levels:
        return _extents(shapes.get(own.levels[0].tensor), own.levels[0].spatial)
    if own is not None:
        return _extents(shapes.get(own.name), own.axes)
    if _is_global(claim):
        return (1,) * len(claim.native_size)
    grids = []
    for item in claim.boundaries:
        extents = _extents(shapes.get(item.rewritten), item.spatial)
        if extents is not None:
            grids.append([(n - e) // s + 1 for n, e, s in zip(extents, item.extent, item.step, strict=True)])
    return tuple(least(*axis) for axis in zip(*grids, strict=True)) if grids else None


def _extents(shape: Sequence[Dim] | None, axes: Sequence[int]) -> tuple[Any, ...] | None:
    if shape is None or not axes or max(axes) >= len(shape):
        return None
    return tuple(shape[axis] for axis in axes)


def cell_axes(claim: Claim, sizing: Sizing) -> tuple[AxisMap, ...] | None:
    """The cells of each axis as exact maps of the image; None where they are unknown, or no such maps."""
    grid = grid_of(claim, sizing.extents.all_dims)
    if grid is None or any(isinstance(dim, Length) and dim.axes - {k} for k, dim in enumerate(grid)):
        return None  # not of this image alone
    each = zip(*_finest(claim), claim.size, claim.start, grid, strict=True)
    found = enumerate(each)
    return tuple(AxisMap(size, Fraction(s, p or 1), start, extent, k) for k, (s, p, size, start, extent) in found)


def slack_of(claim: Claim, axes: Sequence[AxisMap]) -> tuple[int, ...] | None:
    """How many pixels less than native give the native grid, per axis; None where the grid is no single floor."""
    if any(axis.growth != 1 / axis.stride for axis in axes):
        return None
    if any(step != 1 for step in claim.size_step):
        return (0,) * len(axes)
    found = [axis.slack(native) for axis, native in zip(axes, claim.native_size, strict=True)]
    slack = tuple(item for item in found if item is not None)
    return slack if len(slack) == len(found) else None


def smallest_of(claim: Claim, sizing: Sizing, slack: Sequence[int], native_cells: Sequence[int]) -> tuple[int, ...]:
    """The smallest image that has a cell, and whose trunk nowhere runs out of elements (padding could hide that)."""
    low = []
    for length, stride, per, cells, less in zip(claim.native_size, *_finest(claim), native_cells, slack, strict=True):
        room = (cells - 1) * stride // per + less if per else length - 1
        low.append(length - max(0, min(room, length - 1)))  # a damaged claim may have no cell natively
    return sizing.smallest(low, claim.size_step)
