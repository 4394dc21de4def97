"""What a model's metadata claims, beside what a rewrite of the original would: less may be true, more is false, and so
is another number."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from onnxfc.claim.claim import Claim, Level, Output
from onnxfc.errors import OnnxfcError
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.affine import Grids
from onnxfc.rewriter.analyse import analyse
from onnxfc.rewriter.make_claim import claim_of
from onnxfc.rewriter.options import Grow, RewriteOptions


def own_rewrites(original: ModelFile, claim: Claim) -> list[tuple[RewriteOptions, Claim]]:
    """Options that ``claim`` shows, and what a rewrite with them would claim, the likest first; none where that is
    another result."""
    forms = {output.form for output in claim.outputs}
    output = next((form for form in ("mean", "max") if form in forms), "map")
    pools = {"drop"} if "activation" in forms else {"window", "keep"}
    image, inputs = claim.inputs[0], tuple(image.name for image in claim.inputs)
    outputs = tuple(output.name for output in claim.outputs)
    inner = () if claim.detections or set(outputs) <= {info.name for info in original.proto.graph.output} else outputs
    made: list[tuple[RewriteOptions, Claim]] = []
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
                grow=_grow(claim),
                per_window_scale=not claim.figures,
            )
            found = analyse(original, options)
            own = None if found.refusals else claim_of(found, found.sizing())
        except OnnxfcError:
            continue
        if own is not None and _alike(own, claim):
            made.append((options, own))
    return sorted(made, key=lambda item: len(_differences(item[1], claim)))


def _grids(claim: Claim) -> Grids | None:
    """What a user said of tables that do not show how they go on."""
    rules = {rule for grid in claim.grids if grid.given for rule in grid.rules}
    if rules & {"ends", "centres", "starts"}:
        return "map"
    return "image" if "image" in rules else "step" if "step" in rules else None


def _grow(claim: Claim) -> Grow | None:
    """How images of several sizes grow together, as a user may have said it."""
    if len({image.size for image in claim.inputs}) == 1:
        return None
    return "scale" if any(image.scale != (1, 1) for image in claim.inputs) else "pixels"


def _alike(own: Claim, claim: Claim) -> bool:
    """Whether both speak of the same outputs and heads."""
    outputs = [[(output.name, output.form, output.axes) for output in one.outputs] for one in (own, claim)]
    bounds = [{item.original for item in one.boundaries} for one in (own, claim)]
    return outputs[0] == outputs[1] and bounds[0] == bounds[1]


_APART = frozenset(
    ["rewritten", "tensor", "start", "size", "verdict", "blame", "layers", "slack", "smallest_size", "halo"]
)
"""What is no number that is so or not: names of the rewritten model, which the proof looks up, pixels of which more may
be told than are read, what the proof measures, and what is read off the graph."""
_MULTIPLE = ("size_step", "period")
"""Of which a multiple is so, too."""


def _differences(own: Claim, claim: Claim) -> list[str]:
    """Numbers that are others in ``claim`` than in ``own``, each as a line."""
    said, so = (dict(_leaves(asdict(one), "")) for one in (claim, own))
    wrong = (name for name in said | so if said.get(name) != so.get(name))
    return [
        f"{name} is {said.get(name, 'not told')}, a rewrite of the original has {so.get(name, 'none')}"
        for name in wrong
        if name not in _MULTIPLE or any(n % step for n, step in zip(said[name], so[name], strict=False))
    ]


_GONE = (
    "; the first model has no {}: if it was changed since, remove the second one's onnxfc.* metadata "
    "(the claim is read off the models then)"
)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All that is no list of parts, by where it stands: ``outputs[0].stride``."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in _APART:
                yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, tuple) and value and isinstance(value[0], dict):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def false_field(own: Claim, claim: Claim, tensors: tuple[Container[str], Container[str]]) -> str:
    """A number in the metadata that is not so, that a cell reads pixels of which the metadata does not tell, or an FC
    layer that is nowhere; "" where all is. ``tensors``: those of the original and of the second model."""
    wrong = _differences(own, claim)
    if (claim.verdict, own.verdict) == ("exact", "approximate"):
        wrong.append(f"verdict is exact, a rewrite of the original has approximate, because of {own.blame[0]}")
    forms = {layer.original: layer.form for layer in own.layers}
    for layer in claim.layers:
        if (other := forms.get(layer.original, layer.form)) != layer.form:
            wrong.append(f"FC layer {layer.original} is {layer.form}, a rewrite of the original has {other}")
    wrong += _lost_layers(own, claim, tensors)
    if wrong:
        named = {item.original for part in (claim.layers, claim.grids, claim.boundaries) for item in part}
        gone = next((name for name in sorted(named) if name not in tensors[0]), None)
        return f"wrong claim: {wrong[0]}" + (_GONE.format(gone) if gone else "")
    for said, so in zip(_fields(claim), _fields(own), strict=True):
        if said[0] and so[0] and not _within(*so, *said):
            where = (
                f"{_text(said[1])} px from {_text(said[0])} on, the graph gives {_text(so[1])} from {_text(so[0])} on"
            )
            return f"wrong claim: a cell reads {where}"
    return ""


def _lost_layers(own: Claim, claim: Claim, tensors: tuple[Container[str], Container[str]]) -> Iterator[str]:
    """FC layers that the metadata finds where nothing is, or an output in another tensor: these are not compared. An
    optimiser takes tensors away, but calls none otherwise."""
    names, outputs = {item.original: item.rewritten for item in own.layers}, {item.name for item in claim.outputs}
    for layer in claim.layers:
        told, so = layer.rewritten, names.get(layer.original)
        output = layer.original in outputs  # which is compared by its own name
        compared = layer.original in tensors[0] and told in tensors[1] and (not output or told == layer.original)
        if not compared and told != so:
            yield f"FC layer {layer.original} is made in {told}, a rewrite of the original has it in {so or 'nothing'}"


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
    parts: list[Output | Level] = []
    for output in claim.outputs:
        parts += [output, *output.levels]
    return [(claim.start, claim.size), *((part.start, part.size) for part in parts)]


def _within(start: Sequence[int], size: Sequence[int], outer: Sequence[int], wide: Sequence[int]) -> bool:
    axes = zip(start, size, outer, wide, strict=True)
    return all(first <= at and at + length <= first + most for at, length, first, most in axes)


def _text(lengths: Sequence[int]) -> str:
    return "x".join(map(str, lengths))
