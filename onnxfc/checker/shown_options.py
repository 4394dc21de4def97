"""Which options of a rewrite a model shows that does not tell, and what a rewrite with them would claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from onnxfc.checker.growth import Growth
from onnxfc.checker.shown_outputs import reduced
from onnxfc.claim.claim import OWN_FORMS, Claim, ImageInput
from onnxfc.errors import OnnxfcError
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.analyse import analyse
from onnxfc.rewriter.analysis import Analysis
from onnxfc.rewriter.make_claim import claim_of
from onnxfc.rewriter.options import RewriteOptions


@dataclass(frozen=True)
class Rewritten:
    """What a rewrite of the original would be. ``claim`` is None where there is none."""

    options: RewriteOptions
    found: Analysis = field(repr=False)
    claim: Claim | None

    @staticmethod
    def of(original: ModelFile, options: RewriteOptions) -> Rewritten:
        return Rewritten.read(analyse(original, options), options)

    @staticmethod
    def read(found: Analysis, options: RewriteOptions) -> Rewritten:
        if found.refusals or not found.provenances:
            return Rewritten(options, found, None)
        try:
            return Rewritten(options, found, claim_of(found, found.sizing()))
        except OnnxfcError:
            return Rewritten(options, found, None)


def freed_images(found: Analysis, other: ModelFile) -> tuple[ImageInput, ...]:
    """The images with the axes that ``other`` has freed: those of the original's likelier layout, unless they are of
    another one. All where it has freed none, or of several images not as many."""
    inputs = {info.name: info for info in other.proto.graph.input}
    images = []
    for image in (reading.as_input() for reading in found.reading):
        dims = inputs[image.name].type.tensor_type.shape.dim
        free = {axis for axis in range(image.batched, len(dims)) if dims[axis].dim_value <= 0}
        last = tuple(range(image.batched, len(image.shape) - 1))
        whole = tuple(sorted({*image.spatial, *image.fixed}))  # of which a plain rewrite may free some alone
        all_free = bool(free.intersection(image.fixed)) and free <= set(whole)
        turned = bool(free) and free <= set(last) and not free <= set(image.spatial)
        own = whole if all_free else last if turned else image.spatial
        spatial = tuple(axis for axis in own if axis in free) or own
        images.append(replace(image, spatial=spatial, fixed=tuple(axis for axis in own if axis not in spatial)))
    if len({len(image.spatial) for image in images}) > 1:
        return tuple(reading.as_input() for reading in found.reading)
    return tuple(images)


def shown(
    original: ModelFile, options: RewriteOptions, found: Analysis, growth: Growth, images: Sequence[ImageInput]
) -> Rewritten:
    """The rewrite that is likest to a second model, whose ``images`` are as they are freed there; ``found`` with
    ``options``."""
    pairs = zip(images, found.reading, strict=True)
    if images[0].free and all({*image.spatial, *image.fixed} == set(own.spatial) for image, own in pairs):
        options = replace(options, free=images[0].free)
    outputs = [info.name for info in found.original.proto.graph.output]
    if any(_has_places(name, growth) for name in outputs):
        return Rewritten.of(original, replace(options, global_pool="drop"))
    own = Rewritten.of(original, options) if options.free else Rewritten.read(found, options)
    one = [item.name for item in own.claim.outputs if item.form not in OWN_FORMS] if own.claim else []
    one = [name for name in one if growth.takes_more and not growth.grows(name)]
    forms = {reduced(growth, name) for name in one}
    if "global" in forms:
        kept = Rewritten.of(original, replace(options, global_pool="keep"))
        return kept if kept.claim else own
    form = next(iter(forms), None)
    return Rewritten.of(original, replace(options, output=form)) if form in {"mean", "max"} else own


def _has_places(name: str, growth: Growth) -> bool:
    """Whether an output has several places at the native size where the original's has none."""
    want, got, dims = growth.before.get(name), growth.near.get(name, ()), len(growth.native)
    return want is not None and len(got) == len(want) + dims and got[:-dims] == want and max(got[-dims:]) > 1
