"""check_pair(): any two models put to the test, with the claim that the second carries, or one derived for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from onnxfc import errors
from onnxfc.checker.common_layers import common_layers
from onnxfc.checker.derive_claim import Pair, derive
from onnxfc.checker.made_again import compare_made_again
from onnxfc.checker.said_less import false_field, own_rewrites, said_less
from onnxfc.claim.claim import Claim, Grid
from onnxfc.errors import OnnxfcError, UsageError
from onnxfc.geometry import Geometry
from onnxfc.graph.channel_blocks import in_blocks, read_out
from onnxfc.graph.finite_weights import finite
from onnxfc.graph.index import Graph
from onnxfc.graph.inline_functions import inlined, sorted_nodes
from onnxfc.graph.wellformed import well_formed
from onnxfc.io.model_file import Model, ModelFile
from onnxfc.proof import check
from onnxfc.proof.bounded import bounded
from onnxfc.proof.narrowest import coarser, narrowest
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.ort_session import not_from_disk
from onnxfc.proof.results import Parity
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.form import options_of
from onnxfc.rewriter.inner_tensors import begin_at, end_at
from onnxfc.shapes.freed_again import fixed_size, freed_again, size_text
from onnxfc.shapes.image_inputs import given_shapes, native_inputs
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.native import native_specs

_UNSHOWN = (
    "not shown: what the metadata says of sizes and periods that no run needs, as no rewrite of the original with the "
    "options that the metadata shows has the same outputs"
)


@dataclass(frozen=True)
class Checked:
    """A pair of models after its check.

    ``claim_from`` says who made the claim: the second model's ``metadata``, or the models themselves
    (``derived``). ``notes`` are what a reader should know of how they were compared.

    >>> checked = onnxfc.check_pair("fixtures/trained/digits.onnx", "digits-any.onnx")
    >>> checked.passed, checked.claim_from
    (True, 'metadata')
    """

    claim: Claim
    claim_from: Literal["metadata", "derived"]
    notes: tuple[str, ...]
    parity: Parity
    options: CheckOptions = field(repr=False)

    @property
    def passed(self) -> bool:
        return self.parity.passed


def check_pair(
    original: Model,
    other: Model,
    *,
    options: CheckOptions | None = None,
    size: tuple[int, ...] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    boundaries: Sequence[tuple[str, str]] = (),
    progress: Callable[[str], None] | None = None,
) -> Checked:
    """Compare two models by running both. The second need not be onnxfc's own.

    ``size``: the native size in pixels, where the original leaves it open, or ``input_shapes``: whole shapes by input.
    ``boundaries``: pairs of tensor names at
    which the heads begin, where they are not found. A failed check is no exception: see ``Checked.passed``. Raises
    ReadError, UsageError, NothingToRewrite where the original has no image input, and ProofFailed where time or
    memory that ``options`` bound run out.

    >>> checked = onnxfc.check_pair("fixtures/trained/digits.onnx", "digits-any.onnx")
    >>> checked.passed, checked.claim.verdict, checked.parity.window.status
    (True, 'approximate', 'passed')
    """
    errors.options("options", options, CheckOptions)
    options = options or CheckOptions()
    if options.bounded:
        how: dict[str, Any] = {
            "options": options.unbounded,
            "size": size,
            "input_shapes": input_shapes,
            "boundaries": boundaries,
            "progress": progress,
        }
        return bounded(lambda: check_pair(original, other, **how), options)
    size = None if size is None else errors.size("size", size)
    input_shapes = errors.shapes("input_shapes", {} if input_shapes is None else input_shapes)
    boundaries = errors.pairs("boundaries", boundaries)
    one, two = _opened(original), _opened(other)
    finite(one)
    claim = _claim(two)
    if _claim(one) is not None:
        raise UsageError("the first model was made by onnxfc itself; give the original first, then what was made of it")
    if claim is not None:
        _same_size(claim, size, given_shapes(Graph(one.proto), input_shapes))
    if claim is not None and claim.fixed_size:
        return _loaded(two, _as_made(one, two, claim, options, progress))

    def derived(other: ModelFile) -> Checked:
        pair = derive(one, other, size=size, input_shapes=input_shapes, at=boundaries, threads=options.threads)
        return _as_derived(one, other, pair, options, progress, again=not boundaries)

    lost = _lost(claim, two) if claim is not None else ""
    if claim is None or boundaries or lost:
        checked = _along_every_axis(two, derived)
    else:
        checked = _as_claimed(one, two, claim, options, progress)
        lost = "" if checked.passed else _fused(one, two, claim)
        again = derived(two) if lost else checked
        checked, lost = (again, lost) if again.passed else (checked, "")
    return _loaded(two, _still_so(one, two, checked, claim, lost) if claim is not None and lost else checked)


def _along_every_axis(two: ModelFile, derived: Callable[[ModelFile], Checked]) -> Checked:
    """A check by what is read off the models, also of a length that was fixed afterwards."""
    checked = derived(two)
    if checked.passed or not any(image.fixed for image in checked.claim.inputs):
        return checked
    return _of_every_axis(checked, lambda: derived(freed_again(two, checked.claim, fixed=True)))


def _still_so(one: ModelFile, two: ModelFile, checked: Checked, claim: Claim, lost: str) -> Checked:
    """A check by what was read off the models, as the metadata name tensors that are ``lost``: failed where the numbers
    there are others than a rewrite of the original has."""
    told = f"the metadata names {lost}, which the second model does not have"
    checked = replace(checked, notes=(f"{told}: what it claims was read off the models", *checked.notes))
    if not checked.passed:
        return checked
    wrong = f"{told}, and no rewrite of the original has such outputs: remove the onnxfc.* metadata"
    if found := own_rewrites(one, claim):
        wrong = false_field(found[0][1], claim, (Graph(one.proto).producers, Graph(two.proto).producers))
    parity = checked.parity
    failed = replace(parity.native, status="failed", reason=wrong)
    return replace(checked, parity=replace(parity, native=failed)) if wrong else checked


def _of_every_axis(checked: Checked, again: Callable[[], Checked]) -> Checked:
    """A model that fails, though not as one of which an axis was fixed afterwards: its graph is ``again`` checked
    without that length."""
    try:
        opened = again()
    except OnnxfcError:
        return checked
    if not opened.passed:
        return checked
    image = checked.claim.inputs[0]
    axes = zip(image.fixed, image.named(image.fixed), strict=True)
    told = " and ".join(f"a {name} of {image.shape[axis]} px" for axis, name in axes)
    note = f"the second model is fixed to {told}; its graph was checked at other sizes, too"
    return replace(opened, notes=(note, *opened.notes))


def _loaded(two: ModelFile, checked: Checked) -> Checked:
    """Failed where others cannot run the second model: it was run from memory."""
    parity = checked.parity
    why = not_from_disk(two) if parity.passed else ""
    if not why:
        return checked
    failed = replace(
        parity.native, status="failed", reason=f"onnxruntime does not load the second model from its file: {why}"
    )
    return replace(checked, parity=replace(parity, native=failed))


def _as_derived(
    one: ModelFile,
    two: ModelFile,
    pair: Pair,
    options: CheckOptions,
    progress: Callable[[str], None] | None,
    *,
    again: bool,
) -> Checked:
    """Put what the second model seems to be to the test; ``again``: also against a rewrite with the options that it
    shows."""
    wanted = replace(options, windows=pair.windows, larger=pair.grows or pair.freed)
    claim, parity = pair.claim, check(pair.original, pair.other, pair.claim, wanted, progress, one)
    if parity.passed and pair.unknown:
        why = "the second model takes images of other sizes, but its shapes there cannot be told"
        raise UsageError(f"{why}; check it before an optimiser fuses its operators")
    if parity.vacuous is not None:
        layers, missing = common_layers(pair, options.threads)
        claim = replace(claim, layers=layers)
        parity = check(pair.original, pair.other, claim, wanted, progress, one) if layers else parity
        if missing and parity.vacuous is not None:
            lack = f"nothing in the second model has the values of FC layer {', '.join(missing)}"
            problem, _, advice = parity.vacuous.partition("; ")
            parity = replace(parity, vacuous=f"{problem}; {lack}; {advice}")
    likest = pair.likest
    told, own = (
        [some and some.stride, *((item.name, item.form, item.axes) for item in (some.outputs if some else ()))]
        for some in (claim, likest.claim)
    )
    if again and parity.passed and pair.grows and likest.claim is not None and told == own:
        likely = [(likest.options, likest.claim)]
        other = compare_made_again(one, pair.other, claim, likely, parity, options, progress)
        parity = parity if other is None else replace(parity, form=other)
    return Checked(claim, "derived", (*pair.notes, *_precision_note(one, two)), parity, options)


def _as_made(
    one: ModelFile, two: ModelFile, claim: Claim, options: CheckOptions, progress: Callable[[str], None] | None
) -> Checked:
    """A model for one size against the original, by way of the one for any size: that is made again, as the metadata
    say, and put to the test first."""
    made = rewrite(one, options=options_of({item.key: item.value for item in two.proto.metadata_props}), prove=False)
    told = "x".join(map(str, claim.fixed_size))
    note = f"the second model is made for images of {told} px: a rewrite of the original for any size is proven, and "
    note += "the second model compared with it there"
    parity = made.proven(options, progress, one, two)
    for name in (item.name for item in fields(Claim) if parity.passed):
        claimed, found = getattr(claim, name), getattr(made.claim, name)
        if claimed != found:
            reason = f"wrong claim: {name} is {claimed}, a rewrite of the original has {found}"
            parity = replace(parity, form=replace(parity.form, status="failed", reason=reason))
    return Checked(claim, "metadata", (*_precision_note(one, two), note), parity, options)


def _as_claimed(
    one: ModelFile, two: ModelFile, claim: Claim, options: CheckOptions, progress: Callable[[str], None] | None
) -> Checked:
    """Put the second model's own claim to the test, at the one size that it takes too, if it was fixed to one."""
    notes, fixed, wanted = list(_precision_note(one, two)), fixed_size(two, claim), options
    if fixed is not None:
        told = size_text(fixed)
        notes.append(f"the second model is fixed to images of {told} px; its graph was checked at other sizes, too")
        two = freed_again(two, claim)
        fixed = tuple(n or native for n, native in zip(fixed, claim.native_size, strict=True))
        wanted = options if fixed == claim.native_size else replace(options, check_sizes=(*options.check_sizes, fixed))
    parity, moved = _compared(one, two, claim, wanted, progress)
    notes += moved
    parity = _geometry_checked(parity, claim, two)
    found = own_rewrites(one, claim) if parity.passed else []
    if not found and parity.passed:
        notes.append(_UNSHOWN)
    elif found:
        own, tensors = found[0][1], (Graph(one.proto).producers, Graph(two.proto).producers)
        if wrong := false_field(own, claim, tensors):
            parity = replace(parity, native=replace(parity.native, status="failed", reason=wrong))
        else:
            likely = [(how, made) for how, made in found if not false_field(made, claim, tensors)]
            again = compare_made_again(one, two, claim, likely, parity, options, progress)
            parity = parity if again is None else replace(parity, form=again)
            if less := said_less(own, claim):
                notes.append(f"the metadata says less than the original's graph shows: {less}")
    return Checked(claim, "metadata", tuple(notes), parity, options)


def _compared(
    one: ModelFile, two: ModelFile, claim: Claim, options: CheckOptions, progress: Callable[[str], None] | None
) -> tuple[Parity, list[str]]:
    """Both models by the claim; without the tables, and from other tensors on, that an optimiser took away, which notes
    say."""
    there, gone = _tables_left(claim, two)
    told = f"an optimiser took away {', '.join(gone)}, which the metadata names: its values are not compared"
    notes = [told] if gone else []
    parity = check(_begun(one, two, claim), two, replace(claim, grids=there), options, progress, one)
    others = None if parity.passed else _windows_again(one, two, claim, options)
    if others is None:
        return parity, notes
    again, shown = replace(others[0], grids=there), others[1]
    bounds = again.boundaries
    how = replace(options, windows=options.windows and bool(bounds))
    second = check(_begun(one, two, again), shown, again, how, progress, one)
    if second.passed and bounds:
        told = ", ".join(f"{item.original} = {item.rewritten}" for item in bounds)
        return second, [*notes, f"an optimiser took tensors away that the metadata names; heads begin at {told}"]
    lost = {item.rewritten for item in claim.boundaries} - Graph(two.proto).producers.keys()
    return (parity if second.passed or not lost else second), notes


def _tables_left(claim: Claim, two: ModelFile) -> tuple[tuple[Grid, ...], list[str]]:
    """The tables of coordinates that the model still has under the names of the metadata, and the names of others."""
    made = Graph(two.proto).producers
    there = [grid.rewritten in made for grid in claim.grids]
    left = tuple(grid for grid, held in zip(claim.grids, there, strict=True) if held)
    return left, [grid.rewritten for grid, held in zip(claim.grids, there, strict=True) if not held]


def _windows_again(
    one: ModelFile, two: ModelFile, claim: Claim, options: CheckOptions
) -> tuple[Claim, ModelFile] | None:
    """The claim with the trunk tensors at which heads are seen to begin, where an optimiser took away those that a
    rewrite has there, or gave their names to others; None where the metadata names others than a rewrite has. With the
    model that has these, also where the file has them in blocks of channels alone: with none where no blocks have such
    values, so that a check may say what is wrong."""
    if not claim.boundaries or claim.boundaries not in [own.boundaries for _, own in own_rewrites(one, claim)]:
        return None
    try:
        pair = derive(one, two, size=claim.inputs[0].size, threads=options.threads)
    except OnnxfcError:
        return None
    if len(pair.claim.native_size) != len(claim.native_size):
        return None  # other axes are open than the metadata tell
    bounds = tuple(sorted(pair.claim.boundaries, key=lambda item: item.original))
    if set(bounds) == set(claim.boundaries) or not (bounds or in_blocks(two)):
        return None
    return replace(claim, boundaries=bounds), read_out(two, pair.blocks)[0] if pair.blocks else two


def _same_size(claim: Claim, size: tuple[int, ...] | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise UsageError where a user gives another native size than the claim does."""
    pairs = [] if size is None else [(size, claim.inputs[0].size)]
    images = (image for image in claim.inputs if image.name in shapes)
    pairs += [(replace(image, shape=shapes[image.name]).size, image.size) for image in images]
    for given, own in pairs:
        if given != own:
            told = ("x".join(map(str, lengths)) for lengths in (given, own))
            raise UsageError("the size {} is not the native size of the second model, {}".format(*told))


def _precision_note(one: ModelFile, two: ModelFile) -> tuple[str, ...]:
    """Where one model rounds more coarsely than the other."""
    mine, theirs = (coarser(*narrowest(model.proto).values()) for model in (one, two))
    if mine == theirs:
        return ()
    which, coarse = ("first", mine) if mine.eps > theirs.eps else ("second", theirs)
    return (f"the {which} model computes with {coarse.name} numbers: tolerances are those of {coarse.name}",)


def _lost(claim: Claim, two: ModelFile) -> str:
    """A tensor that the metadata names for what cannot be told without it, and that a tool has renamed; "" if none."""
    named = [level.tensor for output in claim.outputs for level in output.levels]
    named += [output.name for output in claim.outputs] if claim.detections else []
    there = {name for node in two.proto.graph.node for name in node.output} if named else set()
    return next((name for name in named if name not in there), "")


def _fused(one: ModelFile, two: ModelFile, claim: Claim) -> str:
    """A tensor at which a head of a rewrite begins, and that an optimiser took away with the operators around it; "" if
    none, or where the metadata names others than a rewrite has."""
    there = Graph(two.proto).producers.keys() | {info.name for info in two.proto.graph.input}
    gone = next((item.rewritten for item in claim.boundaries if item.rewritten not in there), "")
    return gone if gone and claim.boundaries in [own.boundaries for _, own in own_rewrites(one, claim)] else ""


def _claim(file: ModelFile) -> Claim | None:
    return Claim.from_metadata({item.key: item.value for item in file.proto.metadata_props})


def _opened(model: Model) -> ModelFile:
    file = ModelFile.open(model)
    well_formed(file)
    return sorted_nodes(file)


def _begun(original: ModelFile, made: ModelFile, claim: Claim) -> ModelFile:
    """The original as the rewritten model was made of it: functions inlined, from an inner tensor on, or up to some."""
    original = inlined(original)
    graph = Graph(original.proto)
    ends = [info.name for info in made.proto.graph.output]
    told = {*(output.name for output in claim.outputs), *claim.detections}
    other = set(ends) - set(graph.outputs) or set(graph.outputs) - told
    if other and set(ends) <= set(graph.producers):
        original = end_at(original, ends)
        graph = Graph(original.proto)
    inputs = native_inputs(graph, claim.inputs[0].size)
    for image in claim.inputs:
        if image.name not in inputs and image.name in graph.producers:
            return begin_at(original, graph, native_specs(original, graph, inputs), image.name)
    return original


def _geometry_checked(parity: Parity, claim: Claim, file: ModelFile) -> Parity:
    """Failed where the metadata tell another geometry than the graph."""
    if parity.native.status == "failed":
        return parity
    found = Geometry.of_claim(replace(claim, slack=(), smallest_size=(), halo=()), Shapes(file))
    if not found.axes:  # an optimiser's own operators say nothing of shapes
        return parity
    for name in ("slack", "smallest_size", "halo"):
        told, own = getattr(claim, name), getattr(found, name) or ()
        if told and told != own:
            reason = f"wrong claim: {name} is {told}, the graph gives {own}"
            return replace(parity, native=replace(parity.native, status="failed", reason=reason))
    return parity
