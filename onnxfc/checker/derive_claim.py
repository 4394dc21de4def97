"""A claim about a pair of models that onnxfc did not make: what the second would have to be.

Nothing here is believed: the claim is put to the test like any other. What cannot be found out is left out,
and said in ``notes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxfc.checker.common_subgraph import Common, frontier, padded_behind
from onnxfc.checker.common_values import common_values
from onnxfc.checker.rename_io import alike
from onnxfc.claim.claim import Boundary, Claim, Figure, Form, ImageInput, Output
from onnxfc.errors import OnnxfcError, UsageError
from onnxfc.graph.inline_functions import inlined
from onnxfc.graph.op_kinds import SAME_VALUES
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.analyse import Analysis, RewriteOptions, analyse
from onnxfc.rewriter.make_claim import claim_of
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape

FAR = 40320
"""Pixels by which images grow to see how fast a map grows: 2^7 * 3^2 * 5 * 7, a multiple of all common strides."""

_REDUCTIONS: dict[str, Form] = {"ReduceMean": "mean", "GlobalAveragePool": "mean", "ReduceMax": "max"}
_REDUCTIONS["GlobalMaxPool"] = "max"
_IDLE = {*SAME_VALUES, "Flatten", "Reshape", "Squeeze"}
_UNKNOWN = "unknown: the models were not made by onnxfc, and the original's trunk is not understood"


@dataclass(frozen=True)
class Pair:
    """Two models with the same names, and the claim. ``grows`` is False where the second takes the native size only."""

    original: ModelFile = field(repr=False)
    other: ModelFile = field(repr=False)
    claim: Claim
    grows: bool
    notes: tuple[str, ...] = ()

    @property
    def windows(self) -> bool:
        """Whether the heads can be compared window by window."""
        return bool(self.claim.boundaries) or not any(
            item.form in {"map", "cells", "mean", "max"} for item in self.claim.outputs
        )


def derive(
    original: ModelFile,
    other: ModelFile,
    *,
    size: tuple[int, ...] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    at: Sequence[tuple[str, str]] = (),
    threads: int = 0,
) -> Pair:
    """Find out what ``other`` claims to be. ``size`` is the native size where the original leaves it open, or
    ``input_shapes`` are whole shapes by input.

    ``at`` are pairs of tensor names at which both heads begin. Where the graphs do not show them, both models are run
    on ``threads`` to see which tensors have the same values. Raises UsageError where the two do not
    match, or NothingToRewrite where the original has no image input.
    """
    original, other = inlined(original), inlined(other)
    found = analyse(original, RewriteOptions(size=size, input_shapes=input_shapes or {}))
    original = found.original
    other, notes = alike(original, other, {image.name: image.shape for image in found.reading})
    _same_size(found, other)
    spatial = _spatial(found, other)
    images = tuple(replace(image.as_input(), spatial=axes) for image, axes in zip(found.reading, spatial, strict=True))
    return _Deriving(original, other, found, images, list(notes), threads).run(at)


def _same_size(found: Analysis, other: ModelFile) -> None:
    """Raise UsageError where the second model is made for other images alone."""
    infos = {info.name: info for info in other.proto.graph.input}
    for image in found.reading:
        if image.name not in infos:
            raise UsageError(f"{image.name}: the second model has no such input, it has {', '.join(infos) or 'none'}")
        dims = [dim.dim_value for dim in infos[image.name].type.tensor_type.shape.dim]
        fits = len(dims) == len(image.shape)
        if not fits or any(
            n not in (0, want) for n, want in zip(dims[image.batched :], image.shape[image.batched :], strict=True)
        ):
            told = ("x".join(str(n if n > 0 else "N") for n in shape) for shape in (dims, image.shape))
            no_pair = "they are no pair, give what was made of the original"
            raise UsageError("{}: the second model takes {}, the original {}; {}".format(image.name, *told, no_pair))


def _spatial(found: Analysis, other: ModelFile) -> list[tuple[int, ...]]:
    """Spatial axes: those of the original's likelier layout, unless the other model has freed other ones."""
    inputs = {info.name: info for info in other.proto.graph.input}
    axes = []
    for image in found.reading:
        dims = inputs[image.name].type.tensor_type.shape.dim
        free = {axis for axis in range(1, len(dims)) if dims[axis].dim_value <= 0}
        rank = len(image.shape)
        last = tuple(range(1, rank - 1))
        axes.append(last if free and free <= set(last) and not free <= set(image.spatial) else image.spatial)
    return axes


@dataclass
class _Deriving:
    original: ModelFile
    other: ModelFile
    found: Analysis
    images: tuple[ImageInput, ...]
    notes: list[str]
    threads: int = 0

    def run(self, at: Sequence[tuple[str, str]]) -> Pair:
        self.border = ""
        self.native = tuple(self.images[0].shape[axis] for axis in self.images[0].spatial)
        self.shapes = Shapes(self.other)
        self.before = Shapes(self.original).at({image.name: image.shape for image in self.images}) or {}
        self.near, self.far = self._at(0), self._at(FAR)
        grows = self._takes_more() and self.near is not None and self.far is not None
        if not grows:
            self.notes.append("the second model takes the native size only: nothing is shown for larger images")
        outputs = [self._output(info.name, grows) for info in self.original.proto.graph.output]
        stride = self._stride(outputs) if grows else (1,) * len(self.native)
        boundaries = self._boundaries(at, stride) if grows else ()
        if grows and not boundaries:
            boundaries = self._by_value(outputs, stride)
        if grows and not any(item.form in {"map", "cells", "features"} for item in outputs):
            stride, boundaries = self._of_trunk(boundaries, stride)
        return Pair(
            self.original, self.other, self._claim(outputs, stride, boundaries), grows, tuple(dict.fromkeys(self.notes))
        )

    def _at(self, more: int) -> Mapping[str, Shape] | None:
        """Shapes of the other model's tensors for images so many pixels larger than native."""
        return self.shapes.at({image.name: image.grown([more] * len(image.spatial)) for image in self.images})

    def _takes_more(self) -> bool:
        """Whether all of the images' spatial dims are free."""
        declared = {info.name: info.type.tensor_type.shape.dim for info in self.other.proto.graph.input}
        return not any(
            declared[image.name][axis].dim_value > 0
            for image in self.images
            for axis in image.spatial
            if axis < len(declared[image.name])
        )

    def _growth(self, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Axes of a tensor of the other model that grow with the image, and by how much over FAR pixels."""
        near, far = (self.near or {}).get(name), (self.far or {}).get(name)
        if near is None or far is None or len(near) != len(far):
            return (), ()
        axes = tuple(axis for axis in range(len(near)) if far[axis] != near[axis])
        return axes, tuple(far[axis] - near[axis] for axis in axes)

    def _output(self, name: str, grows: bool) -> Output:
        want = self.before.get(name)
        axes, _ = self._growth(name)
        if not grows:
            return self._single(name)
        if want is None or not axes:
            return self._whole(name)
        got = (self.near or {})[name]
        if len(axes) != len(self.native):
            self.notes.append(f"output {name} is {list(got)}, of which {len(axes)} axis grows: no grid of cells")
            return Output(name, "global")
        if len(got) == len(want) + len(axes) and axes == tuple(range(len(want), len(got))):
            return Output(name, "map", axes)
        if len(got) == len(want) and all(want[axis] == 1 for axis in axes):
            return Output(name, "cells", axes)
        if len(got) == len(want):
            return Output(name, "features", axes)
        self.notes.append(f"output {name} is {list(got)} where the original has {list(want)}: no form of score map")
        return Output(name, "global")

    def _single(self, name: str) -> Output:
        """Of a model that takes the native size only: a map of one cell, or as the original's."""
        want, got = self.before.get(name), (self.near or {}).get(name)
        dims = len(self.native)
        if want is not None and got == (*want, *[1] * dims):
            return Output(name, "map", tuple(range(len(want), len(got))))
        return Output(name, "global")

    def _whole(self, name: str) -> Output:
        """An output that does not grow."""
        form = self._reduced(name)
        if form == "global":
            self.notes.append(
                f"output {name} has one value at every image size: larger images show only that it is that of "
                "repeated native features"
            )
        return Output(name, form)

    def _reduced(self, name: str) -> Form:
        """What an output that does not grow is: reduced over its cells, if its last nodes say so."""
        producers = {made: node for node in self.other.proto.graph.node for made in node.output}
        node = producers.get(name)
        while node is not None and node.op_type in _IDLE:
            node = producers.get(node.input[0])
        form = _REDUCTIONS.get(node.op_type, "global") if node is not None else "global"
        axes, _ = self._growth(node.input[0]) if node is not None else ((), ())
        return form if axes else "global"

    def _stride(self, outputs: Sequence[Output]) -> tuple[int, ...]:
        """Pixels between neighbouring cells, from the first output that grows."""
        for output in outputs:
            _, growth = self._growth(output.name)
            if output.axes and all(growth):
                if any(FAR % item for item in growth):
                    self.notes.append(f"the stride of {output.name} is no whole number of pixels")
                return tuple(max(1, round(FAR / item)) for item in growth)
        return (1,) * len(self.native)

    def _boundaries(self, at: Sequence[tuple[str, str]], stride: tuple[int, ...]) -> tuple[Boundary, ...]:
        if at:
            made = [self._boundary(Common(*pair), stride) for pair in at]
            for pair, item in zip(at, made, strict=True):
                if item is None:
                    raise UsageError(
                        f"--boundary {'='.join(pair)}: is no pair of trunk tensors that grow with the image"
                    )
            return tuple(item for item in made if item is not None)
        pairs = frontier(self.original, self.other, (self.before, self.near or {}), [item.name for item in self.images])
        border = padded_behind(self.original, {pair.original for pair in pairs}, self.before)
        if border is not None:
            self.border = f"the models differ before {border}, which is no part of a head"
            return ()
        found = [self._boundary(pair, stride) for pair in pairs]
        return tuple(item for item in found if item is not None) if all(found) else ()

    def _by_value(self, outputs: Sequence[Output], stride: tuple[int, ...]) -> tuple[Boundary, ...]:
        """Boundaries where a rewrite of the original would have them, at tensors of the same values."""
        try:
            known = () if self.found.refusals else claim_of(self.found, self.found.sizing()).boundaries
        except OnnxfcError:
            known = ()
        order = [made for node in self.other.proto.graph.node for made in node.output]
        candidates = {
            item.original: [name for name in order if self._boundary(Common(item.original, name), stride) is not None]
            for item in known
        }
        pairs: list[Common] = []
        if candidates and all(candidates.values()):
            claim = self._claim(outputs, stride, ())
            pairs = common_values(self.original, self.other, claim, candidates, self.threads)
        if len(pairs) < len(candidates):
            pairs = []
        if pairs:
            told = ", ".join(f"{pair.original} = {pair.other}" for pair in pairs)
            self.notes.append(f"the trunks are written differently; these tensors have the same values: {told}")
        elif self.border:
            self.notes.append(self.border)
        found = [self._boundary(pair, stride) for pair in pairs]
        return tuple(item for item in found if item is not None)

    def _boundary(self, pair: Common, stride: Sequence[int]) -> Boundary | None:
        """The window of a pair of tensors; None where they are no maps, or do not fit the stride."""
        want, got = self.before.get(pair.original), (self.near or {}).get(pair.other)
        axes, growth = self._growth(pair.other)
        if want is None or want != got or len(axes) != len(self.native) or 0 in axes:
            return None
        own = [round(FAR / item) for item in growth]
        finer = 0 in own  # than pixels: no whole number of places from cell to cell is known
        if finer or (any(s % n for s, n in zip(stride, own, strict=True)) and set(stride) != {1}):
            return None
        step = tuple(max(1, s // n) for s, n in zip(stride, own, strict=True))
        return Boundary(pair.original, pair.other, axes, tuple(want[axis] for axis in axes), step)

    def _of_trunk(
        self, boundaries: tuple[Boundary, ...], stride: tuple[int, ...]
    ) -> tuple[tuple[int, ...], tuple[Boundary, ...]]:
        """Where no output tells the stride: that of the trunk."""
        if not boundaries:
            return stride, boundaries
        _, growth = self._growth(boundaries[0].rewritten)
        return tuple(max(1, round(FAR / item)) for item in growth), boundaries

    def _claim(self, outputs: Sequence[Output], stride: tuple[int, ...], bounds: tuple[Boundary, ...]) -> Claim:
        known = self._known(stride)
        dims = len(self.native)
        claim = Claim(
            native_size=self.native,
            stride=stride,
            start=known.start if known else (0,) * dims,
            size=known.size if known else self.native,
            size_step=self._step(stride, known),
            verdict=known.verdict if known else "approximate",
            blame=known.blame if known else (_UNKNOWN,),
            inputs=self.images,
            boundaries=bounds,
            outputs=tuple(outputs),
            figures=self._figures() if bounds else (),
        )
        if known is None:
            return claim
        fields = {item.name: item for item in known.outputs if item.stride}
        return replace(
            claim,
            period=known.period,
            slack=self._slack(known, stride),
            outputs=tuple(_with_field(item, fields) for item in outputs),
        )

    def _figures(self) -> tuple[Figure, ...]:
        """Scales and zero points of the whole image that both models have by the same names."""
        nodes = [model.proto.graph.node for model in (self.original, self.other)]
        dynamic = [[node for node in some if node.op_type == "DynamicQuantizeLinear"] for some in nodes]
        scales = [{name for node in some for name in node.output[1:]} for some in dynamic]
        return tuple(Figure(name, name) for name in sorted(scales[0] & scales[1]))

    def _known(self, stride: tuple[int, ...]) -> Claim | None:
        """What onnxfc itself would claim of a rewrite of the original, where it fits the other model."""
        if self.found.refusals or not self.found.provenances:
            return None
        try:
            claim = claim_of(self.found, self.found.sizing())
        except OnnxfcError:
            return None
        fits = claim.stride == stride and claim.native_size == self.native
        if not fits and all(a % b == 0 for a, b in zip(stride, claim.stride, strict=True)) and stride > claim.stride:
            more = ("x".join(map(str, lengths)) for lengths in (stride, claim.stride))
            self.notes.append("the cells lie {} px apart; a rewrite of the original has one every {} px".format(*more))
        return claim if fits or all(item.form == "features" for item in claim.outputs) else None

    def _slack(self, known: Claim, stride: Sequence[int]) -> tuple[int, ...]:
        """How far the known count of cells holds for the other model: off the stride's grid, or not at all."""
        holds = known.size_step == self._step(known.stride, known)
        return known.slack if holds and all(a < b for a, b in zip(known.slack, stride, strict=True)) else ()

    def _step(self, stride: Sequence[int], known: Claim | None) -> tuple[int, ...]:
        """1 where the other model takes sizes off the stride's grid too, else what a rewrite takes, or the stride; also
        where that is not enough for one cell more with every stride, as where a finer map follows a coarse one."""
        largest = max(stride)
        odd = {1, largest // 4, largest // 2, largest - 1}
        finer = known is not None and any(own > far for own, far in zip(known.size_step, stride, strict=True))
        if not finer and all(self._at(more) is not None for more in odd):
            return (1,) * len(stride)
        return tuple(stride) if known is None else tuple(map(max, stride, known.size_step))


def _with_field(output: Output, known: Mapping[str, Output]) -> Output:
    own = known.get(output.name)
    if own is None or own.form != output.form:
        return output
    return replace(output, stride=own.stride, per=own.per, start=own.start, size=own.size)
