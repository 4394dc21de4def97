"""A claim about a pair of models that onnxfc did not make: what the second would have to be.

Nothing here is believed: the claim is put to the test like any other. What cannot be found out is left out,
and said in ``notes``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxfc.checker.common_subgraph import Common, common_tensors, frontier, padded_behind
from onnxfc.checker.common_values import common_values
from onnxfc.checker.growth import FAR, Growth
from onnxfc.checker.rename_io import alike
from onnxfc.checker.shown_options import Rewritten, freed_images, shown
from onnxfc.checker.shown_outputs import Forms, as_long_as
from onnxfc.claim.claim import OWN_FORMS, Boundary, Claim, Figure, ImageInput, Output
from onnxfc.errors import NothingToRewrite, UsageError
from onnxfc.graph.channel_blocks import WIDEST, in_blocks, read_out
from onnxfc.graph.inline_functions import inlined
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.analyse import OR_KEEP, analyse
from onnxfc.rewriter.analysis import Analysis
from onnxfc.rewriter.detections import Tail
from onnxfc.rewriter.options import RewriteOptions

_NATIVE_ONLY = "the second model takes the native size only: nothing is shown for larger images"
_NOT_TOLD = "what shapes the second model has at other sizes cannot be told: nothing is shown for larger images"
_UNKNOWN = "unknown: the models were not made by onnxfc, and the original's trunk is not understood"


@dataclass(frozen=True)
class Pair:
    """Two models with the same names, and the claim. ``grows`` is False where the second takes the native size only, or
    its shapes at others are ``unknown``. ``freed``: its dims are open nonetheless, and the original's are not.
    ``blocks``: maps in blocks of channels that ``other`` also has read out of
    them, by their channels."""

    original: ModelFile = field(repr=False)
    other: ModelFile = field(repr=False)
    claim: Claim
    grows: bool
    freed: bool
    notes: tuple[str, ...]
    likest: Rewritten = field(repr=False)
    unknown: bool
    blocks: Mapping[str, int] = field(default_factory=dict, repr=False)

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
    options = RewriteOptions(size=size, input_shapes=input_shapes or {})
    try:
        found = analyse(original, options)
    except NothingToRewrite as error:  # a check has no pools to keep
        own = tuple(replace(why, advice=why.advice.removesuffix(OR_KEEP)) for why in error.refusals)
        raise NothingToRewrite(str(own[0]) if own else str(error), own) from None
    whole = found.tail.model if found.tail else found.original
    other, notes = alike(whole, other, {image.name: image.shape for image in found.reading})
    _same_size(found, other)
    images = freed_images(found, other)
    growth = Growth(whole, other, images)
    likest = shown(original, options, found, growth, images)
    if blocks := _blocks_of_heads(likest.claim, growth, other):
        other, made = read_out(other, blocks)
        for name, channels in blocks.items():
            growth.also(made[name], name, channels)
    pair = _Deriving(likest, other, growth, images, list(notes), threads).run(at)
    return replace(pair, blocks=blocks)


def _blocks_of_heads(own: Claim | None, growth: Growth, other: ModelFile) -> dict[str, int]:
    """Maps in blocks of channels in the second model that a rewrite's heads may begin at, by their channels."""
    found: dict[str, int] = {}
    wanted = [growth.before.get(item.original, ()) for item in (own.boundaries if own else ())]
    for name in in_blocks(other):
        filled = growth.near.get(name, ())
        for shape in wanted:
            alike = len(filled) == len(shape) == 4 and (filled[0], *filled[2:]) == (shape[0], *shape[2:])
            if alike and 0 <= filled[1] - shape[1] < WIDEST:
                found[name] = shape[1]
    return found


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


@dataclass
class _Deriving:
    """``likest``: the rewrite of the original that ``other`` is likest to."""

    likest: Rewritten
    other: ModelFile
    growth: Growth
    images: tuple[ImageInput, ...]
    notes: list[str]
    threads: int = 0

    def run(self, at: Sequence[tuple[str, str]]) -> Pair:
        grows = self.growth.takes_more
        self.original, self.own = self.likest.found.original, self._own() if grows else None
        self.alike = as_long_as(self.likest.found, self.growth, self.own) if self.own else {}
        freed = self.growth.frees(self.original)
        self.notes += [] if grows or freed else [_NOT_TOLD if self.growth.unknown else _NATIVE_ONLY]
        forms = Forms(self.growth, self.own, self.alike, self.notes)
        tail = self._tail()
        outputs = [forms.of(info.name) for info in self.original.proto.graph.output]
        whole = not any(item.axes for item in outputs)
        stride = self.own.stride if self.own and whole else self._stride(outputs)
        boundaries = self._boundaries(at, outputs, stride) if grows else ()
        if grows and whole and self.own is None:
            stride, boundaries = self._of_trunk(boundaries, stride)
        claim = self._claim(outputs, stride, boundaries)
        claim = replace(claim, detections=tail.makes) if tail else claim
        original = tail.model if tail else self.original
        notes = tuple(dict.fromkeys(self.notes))
        return Pair(original, self.other, claim, grows, freed, notes, self.likest, self.growth.unknown)

    def _tail(self) -> Tail | None:
        """The nodes that pick places by their values, which are left as they are."""
        tail = self.likest.found.tail
        if tail and (lost := [name for name in tail.reads if name not in self.growth.producers]):
            told = f"{tail.picking[0].op_type} reads {lost[0]} of the original, which the second model does not have"
            raise UsageError(f"{told}; let it keep that name")
        return tail

    def _own(self) -> Claim | None:
        """What a rewrite claims; None where other axes are free in it."""
        own = self.likest.claim
        return own if own is not None and len(own.native_size) == len(self.growth.native) else None

    def _stride(self, outputs: Sequence[Output]) -> tuple[int, ...]:
        """Pixels between neighbouring cells, from the first output that grows."""
        for output in outputs:
            _, growth = self.growth.of(output.name)
            if output.axes and len(growth) == len(self.growth.native) and all(growth):
                if any(FAR % item for item in growth):
                    self.notes.append(f"the stride of {output.name} is no whole number of pixels")
                return tuple(max(1, round(FAR / item)) for item in growth)
        return (1,) * len(self.growth.native)

    def _boundaries(
        self, at: Sequence[tuple[str, str]], outputs: Sequence[Output], stride: tuple[int, ...]
    ) -> tuple[Boundary, ...]:
        if at:
            given = [self._boundary(Common(*pair), stride) for pair in at]
            for pair, item in zip(at, given, strict=True):
                if item is None:
                    raise UsageError(
                        f"--boundary {'='.join(pair)}: is no pair of trunk tensors that grow with the image"
                    )
            return tuple(item for item in given if item is not None)
        common = common_tensors(self.original, self.other, (self.growth.before, self.growth.near))
        known = self.own.boundaries if self.own else ()
        if self.own and not known:
            return ()
        pairs = [Common(item.original, common[item.original]) for item in known if item.original in common]
        if known and len(pairs) == len(known) and (made := self._all(pairs, stride)):
            return made
        return self._by_value(outputs, stride) or self._deepest(common, stride)

    def _all(self, pairs: Sequence[Common], stride: Sequence[int]) -> tuple[Boundary, ...]:
        """The windows of all pairs; none where one has none."""
        found = [self._boundary(pair, stride) for pair in pairs]
        return tuple(item for item in found if item is not None) if all(found) else ()

    def _deepest(self, common: Mapping[str, str], stride: Sequence[int]) -> tuple[Boundary, ...]:
        """Boundaries where the graphs part."""
        pairs = frontier(self.original, common, [item.name for item in self.images])
        border = padded_behind(self.original, {pair.original for pair in pairs}, self.growth.before)
        if border is None:
            return self._all(pairs, stride)
        self.notes.append(f"the models differ before {border}, which is no part of a head")
        return ()

    def _by_value(self, outputs: Sequence[Output], stride: tuple[int, ...]) -> tuple[Boundary, ...]:
        """Boundaries where a rewrite of the original would have them, at tensors of the same values."""
        known = {item.original: item for item in (self.own.boundaries if self.own else ())}
        order = [made for node in self.other.proto.graph.node for made in node.output]
        folded = {name: item for name, item in known.items() if item.folded}
        candidates = {
            name: self.alike.get(item.rewritten, []) if item.folded else self._like(item, order, stride)
            for name, item in known.items()
        }
        if not candidates or not all(candidates.values()):
            return ()
        claim = self._claim(outputs, stride, ())
        pairs = common_values(self.original, self.other, claim, candidates, self.threads, folded)
        if len(pairs) < len(candidates):
            return ()
        rows = [replace(folded[it.original], rewritten=it.other) for it in pairs if it.original in folded]
        maps = [pair for pair in pairs if pair.original not in folded]
        told = ", ".join(f"{pair.original} = {pair.other}" for pair in pairs)
        self.notes.append(f"the trunks are written differently; these tensors have the same values: {told}")
        return (*self._all(maps, stride), *rows)

    def _like(self, known: Boundary, names: Sequence[str], stride: Sequence[int]) -> list[str]:
        """Which tensors of the other model have windows along the axes on which a rewrite's have them."""
        found = {name: self._boundary(Common(known.original, name), stride) for name in names}
        return [name for name, item in found.items() if item is not None and item.spatial == known.spatial]

    def _boundary(self, pair: Common, stride: Sequence[int]) -> Boundary | None:
        """The window of a pair of tensors; None where they are no maps, or do not fit the stride."""
        want, got = self.growth.before.get(pair.original), self.growth.near.get(pair.other)
        axes, growth = self.growth.of(pair.other)
        if want is None or want != got or len(axes) != len(self.growth.native) or 0 in axes:
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
        _, growth = self.growth.of(boundaries[0].rewritten)
        if len(growth) != len(stride):  # places in a row, or some that do not grow
            return stride, boundaries
        return tuple(max(1, round(FAR / item)) for item in growth), boundaries

    def _claim(self, outputs: Sequence[Output], stride: tuple[int, ...], bounds: tuple[Boundary, ...]) -> Claim:
        known = self._known(stride)
        dims = len(self.growth.native)
        claim = Claim(
            native_size=self.growth.native,
            stride=stride,
            start=known.start if known else (0,) * dims,
            size=known.size if known else self.growth.native,
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
        claim = self.own
        if claim is None:
            return None
        fits = claim.stride == stride and claim.native_size == self.growth.native
        cells = any(item.axes for item in claim.outputs)
        if (
            cells
            and not fits
            and all(a % b == 0 for a, b in zip(stride, claim.stride, strict=True))
            and stride > claim.stride
        ):
            more = ("x".join(map(str, lengths)) for lengths in (stride, claim.stride))
            self.notes.append("the cells lie {} px apart; a rewrite of the original has one every {} px".format(*more))
        return claim if fits or all(item.form in OWN_FORMS for item in claim.outputs) else None

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
        if not finer and all(self.growth.at(more) is not None for more in odd):
            return (1,) * len(stride)
        return tuple(stride) if known is None else tuple(map(max, stride, known.size_step))


def _with_field(output: Output, known: Mapping[str, Output]) -> Output:
    own = known.get(output.name)
    if own is None or own.form != output.form:
        return output
    return replace(output, stride=own.stride, per=own.per, start=own.start, size=own.size)
