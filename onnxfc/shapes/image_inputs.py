"""The image inputs: which they are, their native size, their possible layouts, the probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import onnx

from onnxfc.claim.claim import SIZE_NAMES, ImageInput
from onnxfc.errors import Refusal, UsageError
from onnxfc.graph.index import Graph, inputs_of
from onnxfc.graph.op_kinds import ADDING_AXES
from onnxfc.shapes.image_layouts import READINGS, is_signal, readings
from onnxfc.shapes.spec import Shape, Spec

_IMAGE_TYPES = {
    *(onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16),
    *(onnx.TensorProto.UINT8, onnx.TensorProto.INT8),
}
_WHOLE_NUMBERS = {onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64}
_GRID = 6720
_GROWTH = tuple(tuple(_GRID * count for count in counts) for counts in ((1, 2, 3), (5, 7, 9)))
"""What the probes add to the native size, axis by axis: multiples of 2^6 * 3 * 5 * 7, so that the strides of networks
divide them, and all different, so that no two dims coincide. Nothing is ever computed at these sizes."""


@dataclass(frozen=True)
class Image:
    """One image input and one reading of its layout; ``shape`` is native, ``spatial`` are the axes to be freed.
    ``batched``: its axis 0 is the batch, else it is one image, (C, H, W). ``fixed``: spatial axes that stay as they
    are. ``scale``: so many of its pixels lie on one of the first image's, with which it grows."""

    name: str
    dtype: int
    shape: Shape
    spatial: tuple[int, ...]
    free_batch: bool
    batched: bool = True
    fixed: tuple[int, ...] = ()
    scale: Fraction = Fraction(1)

    @staticmethod
    def of_input(given: ImageInput) -> Image:
        """As a claim tells it, for its shapes."""
        return Image(given.name, 0, given.shape, given.spatial, False, given.batched, scale=Fraction(*given.scale))

    def of_axes(self, names: Sequence[str]) -> Image:
        """The same, of which only these axes are to be freed. Raises UsageError."""
        own = SIZE_NAMES[len(self.spatial)]
        for name in names:
            if name not in own:
                raise UsageError(f"--free {name}: the image input {self.name} has no {name}; give {' or '.join(own)}")
        free = tuple(axis for name, axis in zip(own, self.spatial, strict=True) if name in names)
        return replace(self, spatial=free, fixed=tuple(axis for axis in self.spatial if axis not in free))

    def as_input(self) -> ImageInput:
        """What is claimed of it."""
        return ImageInput(self.name, self.shape, self.spatial, self.batched, self.fixed, self.scale.as_integer_ratio())

    @property
    def batch(self) -> int:
        """How many images at once."""
        return self.shape[0] if self.batched else 1

    @property
    def size(self) -> tuple[int, ...]:
        """Native size in pixels."""
        return tuple(self.shape[axis] for axis in self.spatial)

    def probes(self) -> tuple[Shape, ...]:
        """The native shape, and shapes at sizes that tell all dims apart."""
        sizes = [self.size]
        more = [[int(length * self.scale) for length in growth] for growth in _GROWTH]
        sizes += [tuple(a + b for a, b in zip(self.size, growth, strict=False)) for growth in more]
        return tuple(self.resized(size, batch) for batch, size in enumerate(sizes))

    def resized(self, size: Sequence[int], more_batch: int = 0) -> Shape:
        """The shape at another image size, and with another batch where the batch is free."""
        shape = list(self.shape)
        for axis, length in zip(self.spatial, size, strict=True):
            shape[axis] = length
        if self.free_batch:
            shape[0] += 10 * more_batch
        return tuple(shape)


def native_inputs(
    graph: Graph, size: Sequence[int] | None, shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Spec]:
    """Specs of all inputs at the native size: dynamic dims are 1, or taken from ``shapes`` of inputs, or from ``size``
    (height, width)."""
    found = {}
    for info in graph.inputs:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        given = (shapes or {}).get(info.name, shape)
        shape = [*shape[:1], *given[1:]] if len(shape) > 3 else [*given]  # a batch that is open stays open
        for axis, length in zip(_sized_axes(shape, size or ()), size or (), strict=False):
            shape[axis] = length
        native = tuple(length if length > 0 else 1 for length in shape)
        found[info.name] = Spec(info.type.tensor_type.elem_type, (native,))
    return found


def _sized_axes(shape: Sequence[int], size: Sequence[int]) -> Sequence[int]:
    """The axes that a size is of: channels before or behind them, declared lengths as it says; else those left open."""
    open_axes = [axis for axis, length in enumerate(shape) if length <= 0 and axis > 0]
    for first in (2, 1):
        axes = range(first, first + len(size))
        here = axes.stop <= len(shape) and {*open_axes} <= {*axes}
        if here and all(shape[axis] in (length, 0) for axis, length in zip(axes, size, strict=True)):
            return axes
    return open_axes


def given_shapes(graph: Graph, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs as a user gives them, by name; no name is that of the only input. Raises UsageError where the
    file declares others."""
    declared = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in graph.inputs}
    found = {}
    for name, shape in shapes.items():
        told = f"--input-shape {name}{':' if name else ''}{'x'.join(map(str, shape))}"
        own = next(iter(declared)) if not name and len(declared) == 1 else name
        if own not in declared:
            advice = f"name the input that is meant, such as {next(iter(declared), 'image')}:1x3x224x224"
            raise UsageError(f"{told}: {advice}; the inputs are {', '.join(declared)}")
        want = declared[own]
        if len(shape) != len(want) or any(n not in (given, 0) for n, given in zip(want, shape, strict=True)):
            dims = "x".join(str(n) if n > 0 else "?" for n in want)
            raise UsageError(f"{told}: does not fit {own}, which is {dims} in the file; give what is open there alone")
        found[own] = tuple(shape)
    return found


def all_declared(graph: Graph) -> bool:
    """Whether no input leaves a dim open."""
    return all(dim.dim_value > 0 for info in graph.inputs for dim in info.type.tensor_type.shape.dim)


def images(
    graph: Graph,
    inputs: dict[str, Spec],
    dynamic_batch: bool,
    size: Sequence[int] | None,
    names: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> list[list[Image]] | Refusal:
    """All readings of the image inputs, the likelier first; a refusal where there is no image, or none of known size:
    neither the file nor ``size`` nor ``shapes`` tell."""
    live = {name for node in graph.live for name in inputs_of(node)}
    infos = [info for info in graph.inputs if info.name in live]
    candidates = _candidates(graph, infos, inputs, names)
    if not candidates:
        return _no_image(infos, inputs)
    for info in candidates:
        must_be_run(info.name, inputs[info.name].native, "give its true native size")
        if size is None and info.name not in (shapes or {}) and _is_open(info):
            return _unknown_size(graph, info, inputs[info.name].native)
    found = []
    batched, axes = readings(graph, candidates[0].name, inputs[candidates[0].name].native)
    if dynamic_batch and not batched:
        why = "the image has no batch: the network puts one of 1 before it"
        return Refusal("batch-baked", candidates[0].name, why, "leave out --dynamic-batch")
    for spatial in axes:
        reading = [_image(info, inputs[info.name], spatial, dynamic_batch, batched) for info in candidates]
        if all(max(image.spatial) < len(image.shape) for image in reading):
            found.append(reading)
    if not found:
        told = " and ".join(f"{info.name} {list(inputs[info.name].native)}" for info in candidates)
        why = f"the inputs have no axes in common that could be an image's height and width: {told}"
        return Refusal("no-image-input", candidates[0].name, why, "name the one that is to grow: --input NAME")
    return found if size is None else _of_size(found, size, candidates[0])


_MOST = 1 << 30
"""Numbers of an image, and images of a batch: no model is exported for more."""


def must_be_run(name: str, shape: Shape, advice: str) -> None:
    """Raises UsageError for an image that no model runs on."""
    if max(shape[0], math.prod(shape[1:])) > _MOST:
        told = f"an image of {'x'.join(map(str, shape))} has {math.prod(shape):,} numbers"
        raise UsageError(f"{name}: {told}, and no model runs on more than {_MOST:,}; {advice}")


def _is_open(info: onnx.ValueInfoProto) -> bool:
    return any(dim.dim_value <= 0 for dim in list(info.type.tensor_type.shape.dim)[1:])


def _unknown_size(graph: Graph, info: onnx.ValueInfoProto, shape: Shape) -> Refusal:
    """Which lengths the graph leaves open, and how they are given beside those that it has."""
    lengths = _declared(info, readings(graph, info.name, shape)[1][0])
    names = SIZE_NAMES[len(lengths)]
    missing = [name for name, length in zip(names, lengths, strict=True) if not length]
    if not missing:
        given = "x".join(str(dim.dim_value or "C") for dim in list(info.type.tensor_type.shape.dim)[1:])
        why = "the number of the input's channels is dynamic, so what the network was made for is not in the graph"
        return Refusal("unknown-native-size", info.name, why, f"give the whole shape: --input-shape 1x{given}")
    what = f"{', '.join(missing[:-1])} and {missing[-1]} are" if len(missing) > 1 else f"{missing[0]} is"
    why = f"the input's {what} dynamic, so its native size is not in the graph"
    given = "x".join(str(n or name[0].upper()) for name, n in zip(names, lengths, strict=True))
    return Refusal("unknown-native-size", info.name, why, f"give it with --size {given}")


def _declared(info: onnx.ValueInfoProto, spatial: Sequence[int]) -> list[int]:
    """The lengths of these axes as the file has them; 0 where it has none."""
    return [max(info.type.tensor_type.shape.dim[axis].dim_value, 0) for axis in spatial]


_ANY: dict[int, tuple[int, ...]] = {1: (224, 16384), 2: (224,), 3: (64,)}
"""Sides of images of which networks that are trained on images of all sizes leave something; of signals also a second's
samples."""


def sizes_of_any(graph: Graph, name: str) -> list[tuple[int, ...]]:
    """Sizes at which an input may be looked at that leaves its size open, where none is native."""
    info = next(info for info in graph.inputs if info.name == name)
    shape = tuple(max(dim.dim_value, 1) for dim in info.type.tensor_type.shape.dim)
    lengths = _declared(info, readings(graph, name, shape)[1][0])
    return [tuple(n or side for n in lengths) for side in _ANY[len(lengths)]]


def _candidates(
    graph: Graph, infos: Sequence[onnx.ValueInfoProto], inputs: dict[str, Spec], names: Sequence[str]
) -> list[onnx.ValueInfoProto]:
    """Inputs that may be images: a mean or a scale that is an input, (1, 1, 1, C), is none beside one."""
    found = [info for info in infos if _is_image(inputs[info.name]) and (not names or info.name in names)]
    wide = [info for info in found if sum(length > 1 for length in inputs[info.name].native[1:]) > 1]
    return (not names and wide) or found or _signals(graph, infos, inputs, names)


def _signals(
    graph: Graph, infos: Sequence[onnx.ValueInfoProto], inputs: dict[str, Spec], names: Sequence[str]
) -> list[onnx.ValueInfoProto]:
    """Inputs (N, L) that are signals, raw audio say, where there are no images."""
    flat = [info for info in infos if inputs[info.name].rank == 2 and (not names or info.name in names)]
    return [
        info
        for info in flat
        if inputs[info.name].dtype in _IMAGE_TYPES and is_signal(graph, info.name, inputs[info.name].native)
    ]


def _of_size(found: list[list[Image]], size: Sequence[int], info: onnx.ValueInfoProto) -> list[list[Image]]:
    """The readings that agree with a size that the user gave; UsageError where none does."""
    fitting = [reading for reading in found if reading[0].size == tuple(size)]
    if not fitting:
        dims = _declared(info, found[0][0].spatial)
        given, own = ("x".join(str(n) if n > 0 else "?" for n in lengths) for lengths in (size, dims))
        if len(dims) == len(size) and all(n in (0, length) for n, length in zip(dims, size, strict=True)):
            told = "x".join(map(str, found[0][0].size))
            raise UsageError(f"--size {given}: --input-shape says {told}; give one of them")
        raise UsageError(f"--size {given}: the native size of {info.name} is {own} in the file; {_whole(dims, size)}")
    return fitting


def _whole(dims: Sequence[int], size: Sequence[int]) -> str:
    """How to give a size whose axes the file leaves open in part, of which some were given."""
    if all(dims):
        return "leave it out; the result takes any size"
    rest = iter(size if len(size) == dims.count(0) else ())
    names = SIZE_NAMES[len(dims)]
    lengths = [str(n or next(rest, name[0].upper())) for name, n in zip(names, dims, strict=True)]
    return f"give all of it: --size {'x'.join(lengths)}"


def is_open(graph: Graph, reading: Sequence[Image]) -> bool:
    """Whether the original takes images of any size already."""
    dims = {info.name: info.type.tensor_type.shape.dim for info in graph.inputs}
    return all(dims[image.name][axis].dim_value <= 0 for image in reading for axis in image.spatial)


def to_scale(reading: Sequence[Image]) -> list[Image]:
    """The images growing by so many times as many pixels as their native sizes say. Raises UsageError."""
    first = reading[0]
    for image in reading:
        ratios = {Fraction(own, length) for own, length in zip(image.size, first.size, strict=False)}
        if len(ratios) > 1 or len(image.size) != len(first.size):
            sizes = " and ".join("x".join(map(str, item.size)) for item in (first, image))
            raise UsageError(f"--grow scale: {first.name} and {image.name} are natively {sizes} px, in no one ratio")
    return [replace(image, scale=Fraction(image.size[0], first.size[0])) for image in reading]


_HOW_THEY_GROW = (
    "say it: --grow scale, as views of one scene, or --grow pixels; or name the one that grows: --input NAME"
)


def unlike_sizes(reading: Sequence[Image]) -> Refusal | None:
    """A refusal where one image is natively a whole number of times as large as another.

    Whether it then grows by as many pixels or by so many times as many, the graph tells only where but one of them
    runs; where the sizes are in no such ratio they grow by as many.
    """
    first = reading[0]
    for image in reading[1:]:
        pairs = [sorted(lengths) for lengths in zip(first.size, image.size, strict=False)]
        ratios = {large / small for small, large in pairs}
        if len(ratios) == 1 and min(ratios) > 1 and min(ratios).is_integer():
            sizes = " and ".join("x".join(map(str, item.size)) for item in (first, image))
            why = f"the images {first.name} and {image.name} are natively {sizes} px: how they grow together is open"
            return Refusal("sizes-differ", image.name, why, _HOW_THEY_GROW)
    return None


def _is_image(spec: Spec) -> bool:
    return spec.dtype in _IMAGE_TYPES and spec.rank in READINGS and spec.rank > 2


def _image(
    info: onnx.ValueInfoProto, spec: Spec, spatial: tuple[int, ...], dynamic_batch: bool, batched: bool
) -> Image:
    batch = info.type.tensor_type.shape.dim[0]
    free = batched and (dynamic_batch or batch.dim_value <= 0)
    return Image(info.name, spec.dtype, spec.native, spatial, free, batched)


def _no_image(infos: Sequence[onnx.ValueInfoProto], inputs: dict[str, Spec]) -> Refusal:
    seen = ", ".join(f"{info.name} {list(inputs[info.name].native)}" for info in infos) or "no input at all"
    advice = "onnxfc rewrites networks whose input is an image (N, C, H, W), a signal (N, C, L) or a volume"
    if infos and all(inputs[info.name].dtype in _WHOLE_NUMBERS for info in infos):
        seen += ", of whole numbers: tokens or class numbers"
        advice = "pixels are float, uint8 or int8; where one inner tensor is a map of an image, name it: --input NAME"
    return Refusal("no-image-input", "", f"no input is an image: {seen}", advice)


def inner_image(graph: Graph, native: Mapping[str, Spec]) -> str:
    """The first tensor of an image's form that a flat input is brought into; empty where there is none."""
    flat = {info.name for info in graph.inputs if native[info.name].rank == 2}
    for node in graph.live:
        if not flat.intersection(node.input[:1]):
            continue
        spec = native[node.output[0]]
        if spec.shapes is not None and _is_image(spec) and node.op_type in ADDING_AXES:
            return str(node.output[0])
        if node.op_type in {"Cast", "Div", "Identity", "Mul", "Sub"}:
            flat.add(node.output[0])
    return ""
