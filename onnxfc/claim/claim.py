"""What a rewritten model says of itself: which image, which windows, which outputs.

The claim is made by the rewriter, travels in the model's ``metadata_props`` under ``onnxfc.*``
keys, and is put to the test by :mod:`onnxfc.proof`, which believes none of it.
Sizes, strides and starts are in input pixels, height before width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from onnxfc.claim.blame import Blame
from onnxfc.claim.damages import (
    axes_fit,
    boundary_fits,
    damaged_pixels,
    image_fits,
    integers,
    layer_fits,
    level_fits,
    named,
)
from onnxfc.errors import ReadError, UsageError

PREFIX = "onnxfc."

Verdict = Literal["exact", "approximate", "extrapolated"]
Form = Literal["map", "cells", "mean", "max", "activation", "global", "features", "list"]
"""How an output of the rewritten model relates to the original's (N, F1, ..., Fk):

- ``map``: (N, F1, ..., Fk, *grid), one cell per window.
- ``cells``: the original's own rank; its axes of extent 1 listed in ``axes`` became the grid.
- ``mean``, ``max``: reduced over all cells; the original's own shape.
- ``activation``: as ``map``, but the pool was dropped: the mean over the ``extent`` cells of a window is its score.
- ``global``: the original's own shape at every size, from the whole image (global pool kept).
- ``features``: a trunk tensor, its spatial ``axes`` freed.
- ``list``: places in a row, one of the ``levels`` behind the other, as long as the image says.
"""
OWN_FORMS = frozenset({"features", "list", "global"})
"""Of tensors that are the original's own at every size."""


SIZE_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
"""What the axes of a signal, an image, a volume are called."""


@dataclass(frozen=True)
class ImageInput:
    """An image input: its native shape (batch as in the original, 1 where dynamic) and the spatial axes that are free.
    ``batched``: its axis 0 is the batch, else it is one image, (C, H, W). ``fixed``: spatial axes that stay as they
    are. ``scale``: so many of its pixels lie on so many of the first image's.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).claim.inputs[0].spatial
    (2, 3)
    """

    name: str
    shape: tuple[int, ...]
    spatial: tuple[int, ...]
    batched: bool = True
    fixed: tuple[int, ...] = ()
    scale: tuple[int, int] = (1, 1)

    def named(self, axes: Sequence[int]) -> tuple[str, ...]:
        """What some of the image's axes are called: height, width."""
        every = sorted((*self.spatial, *self.fixed))
        return tuple(SIZE_NAMES[len(every)][every.index(axis)] for axis in axes)

    @property
    def size(self) -> tuple[int, ...]:
        """Its native size, also along the axes that stay fixed."""
        return tuple(self.shape[axis] for axis in sorted((*self.spatial, *self.fixed)))

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the free axes, where others stay fixed; empty where all are free."""
        return self.named(self.spatial) if self.fixed else ()

    def of_free(self, size: Sequence[int]) -> tuple[int, ...]:
        """What of a size, of all axes or of the free ones alone, is along the free ones. Raises UsageError."""
        every = sorted((*self.spatial, *self.fixed))
        if not self.fixed or len(size) != len(every):
            return tuple(size)
        for axis, name in zip(self.fixed, self.named(self.fixed), strict=True):
            if size[every.index(axis)] != self.shape[axis]:
                given = size[every.index(axis)]
                raise UsageError(f"the {name} of this model's images is {self.shape[axis]} px, not {given}")
        return tuple(size[every.index(axis)] for axis in self.spatial)

    @property
    def batch(self) -> int:
        """How many images at once."""
        return self.shape[0] if self.batched else 1

    def grown(self, more: Sequence[int]) -> tuple[int, ...]:
        """Its shape where the first image has so many pixels more than natively."""
        shape = list(self.shape)
        for axis, pixels in zip(self.spatial, more, strict=True):
            shape[axis] += self.of_first(pixels)
        return tuple(shape)

    def of_first(self, pixels: int) -> int:
        """So many pixels of the first image as pixels of its own."""
        return pixels * self.scale[0] // self.scale[1]

    def cut(self, begins: Sequence[int], lengths: Sequence[int]) -> tuple[slice, ...]:
        """What of images lies so many pixels from ``begins`` of the first image on, along the free axes; all of the
        others."""
        place = [slice(None)] * len(self.shape)
        for axis, first, length in zip(self.spatial, begins, lengths, strict=True):
            at = self.of_first(first)
            place[axis] = slice(max(0, at), max(0, at + length))
        return tuple(place)

    @property
    def of_samples(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and spatial axes of several images in one array, the first axis of which counts them."""
        return (self.shape, self.spatial) if self.batched else ((1, *self.shape), tuple(a + 1 for a in self.spatial))


@dataclass(frozen=True)
class Boundary:
    """A trunk tensor that both models have, where the head begins.

    ``extent`` is the native window on ``spatial`` axes, ``step`` the distance of neighbouring
    cells, both in elements of this tensor. Batch is axis 0. ``folded``: where places share an axis in the original,
    as those of tokens do, which axes of the rewritten model's tensor lie on each axis of the original's, the outermost
    first; empty where both have the same axes.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).claim.boundaries[0].extent
    (4, 4)
    """

    original: str
    rewritten: str
    spatial: tuple[int, ...]
    extent: tuple[int, ...]
    step: tuple[int, ...]
    folded: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Layer:
    """What an FC layer of the head makes: a tensor of the original, that of the rewritten model, its form (``map``, or
    ``global``). Scores may hide it, saturated say, so that it is compared beside the outputs."""

    original: str
    rewritten: str
    form: Form


@dataclass(frozen=True)
class Figure:
    """A scale or zero point of the whole image, by which windows are read: a tensor of the original, and that of the
    rewritten model."""

    original: str
    rewritten: str


@dataclass(frozen=True)
class Level:
    """Places of a list in a row on ``axis``: ``outer`` times all of them, each with ``inner`` elements.

    There are as many as the rewritten model's ``tensor`` has on its axes ``spatial``. Place ``i`` reads ``size`` pixels
    from ``start + i * stride / per`` on. ``order``: the axes of the image as the row goes through them, the outermost
    first; empty where that is their own order.
    """

    tensor: str
    spatial: tuple[int, ...]
    axis: int
    outer: int
    inner: int
    stride: tuple[int, ...]
    per: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    order: tuple[int, ...] = ()


GRID_RULES = ("", "step", "ends", "centres", "starts", "image", "resize")


@dataclass(frozen=True)
class Grid:
    """A table of the original with a value for every native place, and what goes on in the rewritten model: a tensor
    with each place on one of its ``axes`` (-1 where on none), before places are laid together.

    ``rules``, along each axis of the image, empty where it does not move: ``step`` (steps as they are), ``ends``,
    ``centres`` or ``starts`` (spread over as many places as there are; the first and last place's end, centre or
    start lie on the ends), ``image`` (parts of the image), ``resize`` (as the graph resizes it). ``given``: the values
    do not show it, the user said it.
    """

    original: str
    rewritten: str
    axes: tuple[int, ...]
    rules: tuple[str, ...]
    given: bool = False


@dataclass(frozen=True)
class Output:
    """One output and its form; ``axes`` are those of the grid (``map``, ``cells``, ``activation``) or of ``features``.

    Where it has such axes: element ``i`` reads ``size`` pixels from ``start + i * stride / per`` on; ``per`` is above 1
    in upsampled features only. Empty where unknown. ``levels`` are those of a list, whose first is told of there too.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).claim.outputs[0].axes
    (2, 3)
    """

    name: str
    form: Form
    axes: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    per: tuple[int, ...] = ()
    start: tuple[int, ...] = ()
    size: tuple[int, ...] = ()
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        levels: tuple[Any, ...] = self.levels
        if any(isinstance(item, dict) for item in levels):
            object.__setattr__(self, "levels", tuple(Level(**item) for item in levels))


@dataclass(frozen=True)
class Claim:
    """All that a rewritten model says of itself.

    ``stride``, ``start`` and ``size`` are those of a cell; where the pool was dropped, of the map that it had pooled;
    where every output is ``global``, the whole native image. The model takes images of ``native_size`` plus any
    multiple of ``size_step`` on each axis. An image moved by ``period`` pixels gives the same trunk, moved by whole
    elements. ``slack``: so many pixels less than native still give the native grid. ``smallest_size`` has the
    first cell. ``halo``: pixels (before, after) that a tile needs around the crops of its cells, on each axis, empty
    where an operator looks at the whole image. All are empty where unknown. ``fixed_size``: the model takes images of
    this size alone; all else is said of the model for any size that it was made of. ``grids``: tables of
    coordinates that go on by rule; the verdict is ``extrapolated`` where the user chose the rule. ``detections``:
    outputs that nodes of the original, left as they are, make of what ``outputs`` tells of, as long as the values say;
    what of that is no output is an inner tensor then.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).claim.native_size
    (16, 16)
    """

    native_size: tuple[int, ...]
    stride: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    size_step: tuple[int, ...]
    verdict: Verdict
    blame: tuple[str, ...]
    inputs: tuple[ImageInput, ...]
    boundaries: tuple[Boundary, ...]
    outputs: tuple[Output, ...]
    period: tuple[int, ...] = ()
    slack: tuple[int, ...] = ()
    smallest_size: tuple[int, ...] = ()
    halo: tuple[tuple[int, int], ...] = ()
    layers: tuple[Layer, ...] = ()
    fixed_size: tuple[int, ...] = ()
    grids: tuple[Grid, ...] = ()
    figures: tuple[Figure, ...] = ()
    detections: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        damage = next(_damages(self), None)
        if damage is not None:
            raise ValueError(damage)

    @classmethod
    def of_one_size(
        cls,
        size: tuple[int, ...],
        inputs: Sequence[ImageInput],
        outputs: Sequence[Output],
        layers: Sequence[Layer] = (),
        fixed: tuple[int, ...] = (),
    ) -> Claim:
        """That a model computes the same at this size; ``fixed``: the size, where it takes no other."""
        ones, zeros = (1,) * len(size), (0,) * len(size)
        told = tuple(inputs), (), tuple(outputs)
        return cls(size, ones, zeros, size, ones, "exact", (), *told, layers=tuple(layers), fixed_size=fixed)

    def image_shapes(self, size: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Shapes of the image inputs for images of ``size`` pixels; those of another native size grow by as many."""
        more = [length - native for length, native in zip(size, self.native_size, strict=True)]
        return {image.name: image.grown(more) for image in self.inputs}

    @property
    def blames(self) -> tuple[Blame, ...]:
        """``blame`` as causes and nodes."""
        return tuple(map(Blame.parse, self.blame))

    @property
    def twice_native(self) -> tuple[int, ...]:
        """Twice the native size, or the first legal size from there on."""
        return tuple(
            length + -(-length // step) * step for length, step in zip(self.native_size, self.size_step, strict=True)
        )

    def to_metadata(self) -> dict[str, str]:
        """The claim as ``metadata_props`` entries: one JSON value per key, of some only where there is something."""
        told = {key: value for key, value in asdict(self).items() if value or key not in {"figures", "detections"}}
        for item in told["inputs"]:
            if item["scale"] == (1, 1):
                del item["scale"]
        return {PREFIX + key: json.dumps(value) for key, value in told.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Claim | None:
        """Read a claim back; None where the model carries none. Raises ReadError where it is damaged."""
        if PREFIX + "native_size" not in metadata:
            return None
        known = {PREFIX + key: key for key in cls.__dataclass_fields__}
        try:
            raw: dict[str, Any] = {
                known[key]: _tuples(json.loads(value)) for key, value in metadata.items() if key in known
            }
            raw["inputs"] = tuple(ImageInput(**item) for item in raw["inputs"])
            raw["boundaries"] = tuple(Boundary(**item) for item in raw["boundaries"])
            raw["outputs"] = tuple(Output(**item) for item in raw["outputs"])
            raw["grids"] = tuple(Grid(**item) for item in raw.get("grids", ()))
            raw["layers"] = tuple(Layer(**item) for item in raw.get("layers", ()))
            raw["figures"] = tuple(Figure(**item) for item in raw.get("figures", ()))
            return cls(**raw)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            damage = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            told = f"the model's {PREFIX}* metadata is damaged: {damage}; rewrite the original again"
            raise ReadError(told) from error


def elements_of(outputs: Sequence[Output]) -> Output | None:
    """The first map whose pool was dropped, else the first features, where there are no cells of windows."""
    if any(output.form in {"map", "cells", "mean", "max"} for output in outputs):
        return None
    found = [output for form in ("activation", "features", "list") for output in outputs if output.form == form]
    return found[0] if found else None


def _tuples(value: Any) -> Any:
    """JSON has lists only; the claim is made of tuples."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return value


def _damages(claim: Claim) -> Iterator[str]:
    """What makes a claim in the metadata unreadable, as no rewrite could have written it: values of the wrong type,
    length or range. Whether it is true is another matter. Behind one damage, nothing else can be relied on."""
    yield from damaged_pixels(claim)
    if claim.verdict not in get_args(Verdict):
        yield f"verdict is {claim.verdict!r}"
    if not isinstance(claim.blame, tuple) or not all(isinstance(item, str) for item in claim.blame):
        yield f"blame is {claim.blame!r}"
    yield from _damaged_parts(claim, len(claim.native_size))


def _damaged_parts(claim: Claim, dims: int) -> Iterator[str]:
    yield from (f"input {image.name!r} is {image}" for image in claim.inputs if not image_fits(image, dims))
    yield from (f"boundary {item.original!r} is {item}" for item in claim.boundaries if not boundary_fits(item, dims))
    yield from (f"output {item.name!r} is {item}" for item in claim.outputs if not _output(item, dims))
    yield from (f"layer {item.original!r} is {item}" for item in claim.layers if not layer_fits(item))
    yield from (f"grid {item.original!r} is {item}" for item in claim.grids if not _grid(item, dims))
    yield from (f"figure {item}" for item in claim.figures if not named(item))
    if not isinstance(claim.detections, tuple) or not all(isinstance(name, str) for name in claim.detections):
        yield f"detections is {claim.detections!r}"


def _grid(item: Grid, dims: int) -> bool:
    told = named(item) and isinstance(item.given, bool)
    rules = isinstance(item.rules, tuple) and len(item.rules) == dims == len(item.axes)
    return told and rules and integers(item.axes, dims, dims) and all(rule in GRID_RULES for rule in item.rules)


def _output(item: Output, dims: int) -> bool:
    if not isinstance(item.name, str) or item.form not in get_args(Form):
        return False
    if item.axes != () and not axes_fit(item.axes, dims, 0, 99):
        return False
    told = [value for value in (item.stride, item.per, item.start, item.size) if value != ()]
    if len(told) not in (0, 4) or (told and item.axes == () and item.form != "list"):
        return False
    if not isinstance(item.levels, tuple) or (item.form == "list") != bool(item.levels):
        return False
    if not all(isinstance(level, Level) and level_fits(level, dims) for level in item.levels):
        return False
    return all(integers(value, dims, dims) for value in told) and (
        not told or min(*item.stride, *item.per, *item.size) > 0
    )
