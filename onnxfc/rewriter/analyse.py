"""What a walk over a model finds, before anything is assembled: heads, grids, refusals, and the claim."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from onnxfc.analysis.pool_roles import pool_roles
from onnxfc.builder.rule_context import LEAVE
from onnxfc.builder.state import Quantised, State
from onnxfc.claim.claim import SIZE_NAMES
from onnxfc.errors import NothingToRewrite, OnnxfcError, Refusal, UsageError
from onnxfc.graph.block_weights import blocks_on_floats
from onnxfc.graph.index import Graph, label
from onnxfc.graph.inline_functions import inlined
from onnxfc.graph.integer_products import products_on_floats
from onnxfc.graph.quantised_operators import in_own_domain
from onnxfc.graph.wellformed import malformed, objection_of_onnx
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.analysis import Analysis
from onnxfc.rewriter.axes_alone import Done, along_kept, free_alone, the_one, ways_of, with_axes_that_stay
from onnxfc.rewriter.detections import Tail, left_too, not_behind, objection, of_windows, tail_of
from onnxfc.rewriter.inner_tensors import begin_at, end_at
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.rewriter.outputs import finish
from onnxfc.rewriter.pools_of_all import with_reductions
from onnxfc.rewriter.refusals import objections, without_effect
from onnxfc.rewriter.walk import walk
from onnxfc.shapes.fitting import fits
from onnxfc.shapes.image_inputs import (
    Image,
    all_declared,
    given_shapes,
    images,
    inner_image,
    is_open,
    native_inputs,
    sizes_of_any,
    to_scale,
    unlike_sizes,
)
from onnxfc.shapes.native import native_specs
from onnxfc.shapes.spec import InferenceFailed, Spec

_Reader = Callable[[Sequence[Image]], Analysis]
_Readings = list[list[Image]] | Refusal


def analyse(original: ModelFile, options: RewriteOptions) -> Analysis:
    """Walk over a model; runs and writes nothing. Raises UsageError, NothingToRewrite where there is no image, and
    ReadError where the walk stumbles over what onnx's own checker objects to.

    Where some axes of the image can be freed while the others stay, these are, unless the user has said which: a note
    says so. A refusal names them where there are several ways.
    """
    try:
        return _advised(original, options)
    except OnnxfcError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, InferenceFailed) as error:
        problem = objection_of_onnx(original)
        if not problem:
            raise
        raise malformed(original, problem) from error


def _advised(original: ModelFile, options: RewriteOptions) -> Analysis:
    try:
        found = _analysed(original, options)
    except NothingToRewrite as error:
        return _of_any_size(original, options, error)
    if found.refusals:
        found = _ahead_of_detections(found, options)
    image = found.reading[0]
    names = SIZE_NAMES[len(image.spatial) + len(image.fixed)]
    first = found.refusals[0].code if found.refusals else ""
    if len(names) == 1 or (first == "no-head" and is_open(found.state.graph, found.reading)):
        return _of_open(found, names)
    done = partial(_done, original, options)
    if found.refusals:
        return _of_open(_otherwise(found, options, names, done), names)
    plain = not (options.free or options.form or found.tail) and options.output == "map"
    return (along_kept(found, names, done) if plain else None) or found


def _of_open(found: Analysis, names: Sequence[str]) -> Analysis:
    """With other advice than to leave a model at its native size, where the file takes any already."""
    if not is_open(found.state.graph, found.reading):
        return found
    told = f"its {' and '.join(names)} {'is' if len(names) == 1 else 'are'} open already: it may do as it is"
    advised = [_OPENING.sub(_COMPUTED, item.advice.replace(LEAVE, told)) for item in found.refusals]
    refusals = [replace(item, advice=advice) for item, advice in zip(found.refusals, advised, strict=True)]
    return replace(found, refusals=tuple(refusals))


_OPENING = re.compile("export (?:it|the model) with open height and width(?:, so that .* computed)?")
_COMPUTED = "let the network compute it of the size of the image"


_BY_NUMBERS = ("grid-rule", "not-kept", "size-locked", "sum-over-image")
"""Refusals for numbers of the native size, or for what an option asks: these are for the user to solve."""


def _otherwise(found: Analysis, options: RewriteOptions, names: Sequence[str], done: Done) -> Analysis:
    """What comes of freeing some of the axes, where one way is the likeliest; else the refusal, with the ways named."""
    first, told = found.refusals[0], ""
    open_to_keep = "--" not in first.advice.replace("--input", "")  # which may be the best there is
    if options.global_pool == "window" and open_to_keep and done(global_pool="keep"):
        told = "--global-pool keep sums up all places of an image, for one vector of each"
    alone = {} if told and first.code == "attention" else free_alone(names, options.free, done)
    open_to_it = not (told or options.free or options.form) and first.code not in _BY_NUMBERS
    if open_to_it and (one := the_one(alone)):
        return with_axes_that_stay(one, first.node, first.reason)
    kept = first.code == "context-beside-windows" and options.global_pool == "window" and not (told or alone)
    whole = free_alone(names, options.free, partial(done, global_pool="keep")) if kept else {}
    ways = [told, *([ways_of(alone)] if alone else []), *([f"--global-pool keep {ways_of(whole)}"] if whole else [])]
    advice = "; ".join(filter(None, ["" if first.advice == LEAVE and any(ways) else first.advice, *ways])) or LEAVE
    return replace(found, refusals=(replace(first, advice=advice), *found.refusals[1:]))


OR_KEEP = ", or keep one vector of each image: --global-pool keep"


def _of_any_size(original: ModelFile, options: RewriteOptions, error: NothingToRewrite) -> Analysis:
    """A model of open size whose outputs are all of the whole image, if the user wants them: no native size is needed.

    Raises NothingToRewrite, which offers that where it would do.
    """
    why = error.refusals[0]
    graph = Graph(inlined(original).proto)
    if why.code != "unknown-native-size" or why.node not in {info.name for info in graph.inputs}:
        raise error
    plain = not (options.fixed_size or options.form or options.free or options.input_shapes)
    for size in sizes_of_any(graph, why.node) if plain and options.global_pool != "drop" else ():
        try:
            found = _analysed(original, replace(options, size=size, global_pool="keep"))
        except OnnxfcError:
            continue
        if found.refusals or any(output.form != "global" for output in found.outputs):
            continue
        if options.global_pool == "keep":
            told = "x".join(map(str, size))
            found.state.notes.append(Refusal("assumed-size", why.node, f"{why.reason}: {told} was taken for it"))
            return found
        refusal = replace(why, advice=why.advice + OR_KEEP)
        raise NothingToRewrite(str(refusal), (refusal,)) from None
    raise error


def _ahead_of_detections(found: Analysis, options: RewriteOptions) -> Analysis:
    """What is ahead of nodes that pick places by their values, which are left as they are; as it was where there are
    none, or where what is ahead is refused for itself."""
    within: set[str] = set()
    why: tuple[Refusal, ...] = ()
    option = "--dynamic-batch" if options.dynamic_batch else f"--form {options.form}" if options.form else ""
    others = tuple(refusal for refusal in found.refusals if refusal.code not in ("data-dependent", "size-locked"))
    if option:
        first = None if others else tail_of(found.original, found.reading)
        return found if first is None else replace(found, refusals=(not_behind(first, option),))
    while tail := tail_of(found.original, found.reading, within):
        try:
            ahead = _analysed(tail.ahead, replace(options, output_at=()))
        except (NothingToRewrite, UsageError):
            break
        why = why or tuple(refusal for refusal in ahead.refusals if refusal.code != "no-head")
        if own := left_too(tail, ahead.state, ahead.outputs, ahead.refusals) - within:
            within |= own
        elif ahead.refusals or of_windows(tail, ahead.outputs):
            break
        else:
            stopped = ahead.state.builder.follow(tail.nodes)
            native = options.fixed_size == ahead.reading[0].size
            against = None if native else objection(tail, ahead.state, ahead.reading, stopped)
            if against is None:
                return replace(ahead, tail=tail)
            others, why = _but_of(others, tail), (against,)
            break
    return replace(found, refusals=others or why) if why else found


def _but_of(refusals: Sequence[Refusal], tail: Tail) -> tuple[Refusal, ...]:
    """Those of other nodes than the ones that pick, which would be left."""
    picking = {label(node) for node in tail.picking}
    return tuple(refusal for refusal in refusals if refusal.node not in picking)


def _done(original: ModelFile, options: RewriteOptions, **changes: Any) -> Analysis | None:
    """What comes of other options, where nothing is refused."""
    try:
        found = _analysed(original, replace(options, **changes))
    except (NothingToRewrite, UsageError):
        return None
    return None if found.refusals else found


def _analysed(original: ModelFile, options: RewriteOptions) -> Analysis:
    original = inlined(original)
    if options.output_at:
        original = end_at(original, options.output_at)
    walked, products = products_on_floats(in_own_domain(original))
    walked, blocks = blocks_on_floats(walked)
    rows = not (options.form or options.fixed_size or options.profile)
    quantised = Quantised(products, options.per_window_scale, blocks, options.dequantize_head, rows)
    graph = Graph(walked.proto)
    shapes = given_shapes(graph, options.input_shapes)
    inputs = native_inputs(graph, options.size, shapes)
    if within := [name for name in options.inputs if name not in inputs]:
        own = Graph(original.proto)
        begun = begin_at(original, own, native_specs(original, own, inputs), within[0])
        return _analysed(begun, replace(options, input_shapes={}))
    readings = images(graph, inputs, options.dynamic_batch, options.size, options.inputs, shapes)
    if isinstance(readings, Refusal) and readings.code == "unknown-native-size":  # of what size would anything fit?
        raise NothingToRewrite(str(readings), (readings,))
    native = native_specs(walked, graph, inputs, declared_all=all_declared(graph))
    fits(walked, graph.nodes, native)
    whole, readings = readings, _of_axes(readings, options.free)

    def local() -> frozenset[str]:
        if isinstance(whole, Refusal):
            return frozenset()
        roles = pool_roles(graph, native, whole[0], is_open(graph, whole[0]), options.global_pool)
        return frozenset(name for name, role in roles.of.items() if role == "local")

    spelled = with_reductions(original, graph, native, _beside(options, readings), local)
    if spelled is not original:
        return _analysed(spelled, options)
    if isinstance(readings, Refusal):
        raise _no_image(graph, native, readings)
    walking = partial(
        walk, walked, graph, native, global_pool=options.global_pool, grids=options.grids, quantised=quantised
    )
    read = partial(_read, original, walking, options)
    if options.grow is not None and len({image.size for image in readings[0]}) == 1:
        raise UsageError(f"--grow {options.grow} is for images of several native sizes; leave it out")
    if options.grow == "scale":
        return read(to_scale(readings[0]))
    unlike = unlike_sizes(readings[0])
    if unlike is not None and options.grow is None:
        return _to_scale(read, readings[0], unlike)
    found = _likeliest(read, readings)
    if not found.outputs and found.state.conditions:
        return _analysed(inlined(original, found.state.conditions), options)
    return found


def _of_axes(readings: _Readings, free: Sequence[str]) -> _Readings:
    """The same, of which only these axes are to be freed, where any are named: of those that have such axes.

    Raises UsageError where none has."""
    if isinstance(readings, Refusal) or not free:
        return readings
    names = [{name for image in reading for name in SIZE_NAMES[len(image.spatial)]} for reading in readings]
    having = [reading for reading, own in zip(readings, names, strict=True) if own.issuperset(free)]
    return [[image.of_axes(free) for image in reading] for reading in having or readings]


def _beside(options: RewriteOptions, readings: _Readings) -> int | None:
    """Over more axes than how many a pool is written as a reduction; None where none is."""
    if options.global_pool == "drop":
        return None
    if isinstance(readings, Refusal):
        return 0 if options.free else None
    return 0 if readings[0][0].fixed else len(readings[0][0].spatial)


def _no_image(graph: Graph, native: Mapping[str, Spec], why: Refusal) -> NothingToRewrite:
    """That there is no image among the inputs; with the inner tensor that is one, where there is such."""
    inner = inner_image(graph, native) if why.code == "no-image-input" else ""
    advice = f"the image enters flattened: name the inner tensor that is one, --input '{inner}'"
    refusal = replace(why, advice=advice) if inner else why
    return NothingToRewrite(str(refusal), (refusal,))


def _to_scale(read: _Reader, reading: Sequence[Image], unlike: Refusal) -> Analysis:
    """Images of different sizes, as images of one scene where that is what makes the model one that can be rewritten.

    Raises NothingToRewrite."""
    scaled, alike = read(to_scale(reading)), read(reading)
    if not alike.refusals:
        raise NothingToRewrite(str(unlike), (unlike,))
    return scaled


def _likeliest(read: _Reader, readings: Sequence[Sequence[Image]]) -> Analysis:
    """The first reading that comes to outputs; else the first that refuses an If whose condition never changes by it;
    else the first of all, which says why."""
    failures: list[Analysis] = []
    for reading in readings:
        found = read(reading)
        if found.outputs:
            return found
        failures.append(found)
    return next((failure for failure in failures if failure.state.conditions), failures[0])


def _read(
    original: ModelFile, walking: Callable[[Sequence[Image]], State], options: RewriteOptions, reading: Sequence[Image]
) -> Analysis:
    """What comes of one reading of the images."""
    state = walking(reading)
    finished = finish(state, options.output)
    if isinstance(finished, list):
        return Analysis(original, state, tuple(reading), (), (), tuple(finished))
    outputs, provenances = finished
    refusals = objections(state, reading, provenances, options.fixed_size)
    state.notes += without_effect(state, outputs, provenances)
    return Analysis(original, state, tuple(reading), tuple(outputs), tuple(provenances), refusals)
