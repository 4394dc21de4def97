"""What a model's metadata claims, beside what a rewrite of the original would: less may be true, more is false."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from onnxfc.claim.claim import Claim
from onnxfc.errors import OnnxfcError
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.affine import Grids
from onnxfc.rewriter.analyse import RewriteOptions, analyse
from onnxfc.rewriter.make_claim import claim_of


def own_claim(original: ModelFile, claim: Claim) -> Claim | None:
    """What a rewrite with the options that ``claim`` shows would claim; None where that is another result."""
    forms = {output.form for output in claim.outputs}
    output = next((form for form in ("mean", "max") if form in forms), "map")
    pools = {"drop"} if "activation" in forms else {"window", "keep"} if "global" in forms else {"window"}
    image, inputs = claim.inputs[0], tuple(image.name for image in claim.inputs)
    outputs = tuple(output.name for output in claim.outputs)
    inner = () if claim.detections or set(outputs) <= {info.name for info in original.proto.graph.output} else outputs
    for pool in sorted(pools, reverse=True):
        try:
            options = RewriteOptions(
                output,  # type: ignore[arg-type]
                pool,  # type: ignore[arg-type]
                size=image.size,
                inputs=inputs,
                free=image.free,
                output_at=inner,
                grids=_grids(claim),
            )
            found = analyse(original, options)
            own = None if found.refusals else claim_of(found, found.sizing())
        except OnnxfcError:
            continue
        if own is not None and _alike(own, claim):
            return own
    return None


def _grids(claim: Claim) -> Grids | None:
    """What a user said of tables that do not show how they go on."""
    rules = {rule for grid in claim.grids if grid.given for rule in grid.rules}
    if rules & {"ends", "centres", "starts"}:
        return "map"
    return "image" if "image" in rules else "step" if "step" in rules else None


def _alike(own: Claim, claim: Claim) -> bool:
    """Whether both speak of the same cells."""
    shape = [[(output.name, output.form, output.axes) for output in one.outputs] for one in (own, claim)]
    bounds = [[replace(item, rewritten="") for item in one.boundaries] for one in (own, claim)]
    return shape[0] == shape[1] and bounds[0] == bounds[1] and own.stride == claim.stride


def false_field(own: Claim, claim: Claim) -> str:
    """That a cell reads pixels that the metadata does not tell; "" where it tells them all."""
    for said, so in zip(_fields(claim), _fields(own), strict=True):
        if said[0] and so[0] and not _within(*so, *said):
            where = (
                f"{_text(said[1])} px from {_text(said[0])} on, the graph gives {_text(so[1])} from {_text(so[0])} on"
            )
            return f"wrong claim: a cell reads {where}"
    return ""


def said_less(own: Claim, claim: Claim) -> str:
    """What the metadata does not say, or not as exactly as the graph shows it; "" where it says all."""
    return ", ".join(_less(own, claim))


def _less(own: Claim, claim: Claim) -> Iterator[str]:
    if (claim.verdict, own.verdict) == ("approximate", "exact"):
        yield "verdict approximate, which is exact"
    elif claim.verdict == own.verdict and set(claim.blame) != set(own.blame):
        yield f"other blame than {', '.join(own.blame[:1])} and {len(own.blame) - 1} more"
    for name in ("size_step", "period"):
        told, so = getattr(claim, name), getattr(own, name)
        if told != so and so and all(n % step == 0 for n, step in zip(told, so, strict=False)):
            yield f"{name} {_text(told) or 'unknown'}, which is {_text(so)}"
    yield from (
        f"no {name}" for name in ("slack", "smallest_size", "halo") if getattr(own, name) > getattr(claim, name) == ()
    )
    if _fields(claim) != _fields(own):
        yield f"other fields than that a cell reads {_text(own.size)} px from {_text(own.start)} on"
    if len(claim.layers) < len(own.layers):
        yield f"{len(claim.layers)} of {len(own.layers)} FC layers"


def _fields(claim: Claim) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(claim.start, claim.size), *((output.start, output.size) for output in claim.outputs)]


def _within(start: Sequence[int], size: Sequence[int], outer: Sequence[int], wide: Sequence[int]) -> bool:
    axes = zip(start, size, outer, wide, strict=True)
    return all(first <= at and at + length <= first + most for at, length, first, most in axes)


def _text(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))
