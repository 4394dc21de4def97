"""A form of the rewritten model for one image size: proven by way of the rewritten model for any size.

That one is put to the test against the original, and then the form against it, on images of the form's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxfc.claim.claim import Claim, Layer, Output
from onnxfc.errors import UsageError
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.bounded import bounded
from onnxfc.proof.certificate import certify
from onnxfc.proof.check import check
from onnxfc.proof.inputs import Inputs
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import Parity, ParityResult
from onnxfc.proof.sessions import RunError, Runner
from onnxfc.proof.sizes import MOST, TooLarge, larger_sizes
from onnxfc.proof.static_checks import dims_problem


def check_form(
    original: ModelFile,
    rewritten: ModelFile,
    form: ModelFile,
    claim: Claim,
    fixed: Claim,
    options: CheckOptions,
    progress: Callable[[str], None] | None = None,
    source: ModelFile | None = None,
) -> Parity:
    """Put ``claim`` about ``rewritten`` to the test against ``original``, then ``form`` against ``rewritten`` at the
    size that its own claim, ``fixed``, tells. ``source`` as for :func:`check`. Raises UsageError where that is too
    large to be run."""
    if options.bounded:
        within = options.unbounded
        return bounded(lambda: check_form(original, rewritten, form, claim, fixed, within, progress, source), options)
    if math.prod(fixed.fixed_size) > MOST:
        told = "x".join(map(str, fixed.fixed_size))
        raise UsageError(
            f"--fixed-size {told}: is more than the {MOST} pixels that a check takes (skip it: --no-check)"
        )
    parity = check(original, rewritten, claim, _at(claim, fixed.fixed_size, options), progress, source)
    if not parity.passed:
        return parity
    found = _compared(rewritten, form, claim, fixed, options, progress)
    return replace(parity, form=found, certificate=certify(original, form, {grid.original for grid in claim.grids}))


def _at(claim: Claim, size: tuple[int, ...], options: CheckOptions) -> CheckOptions:
    """To be checked at this size too, where windows can be compared there."""
    more = replace(options, check_sizes=(*options.check_sizes, size))
    try:
        larger_sizes(claim, more)
    except (UsageError, TooLarge):
        return options
    return options if size == claim.native_size else more


def _compared(
    rewritten: ModelFile,
    form: ModelFile,
    claim: Claim,
    fixed: Claim,
    options: CheckOptions,
    progress: Callable[[str], None] | None,
) -> ParityResult:
    """Both on images of the one size; the form is the first, as its outputs may be those of one cell."""
    pairs = zip(claim.outputs, fixed.outputs, strict=True)
    outputs = [Output(item.name, "map" if item.form == "map" != own.form else "global") for item, own in pairs]
    layers = [Layer(item.rewritten, item.rewritten, "global") for item in claim.layers]
    found = compare_at(fixed.fixed_size, form, rewritten, claim, layers, outputs, options, progress)
    failed = "failed" if found.vacuous is not None else found.native.status
    told = (found.vacuous or found.native.reason).replace("the original", "the model for one size")
    one = _of_size(fixed.fixed_size, claim, outputs, layers)
    if failed == "passed" and (lost := _lost_batch(rewritten, form, one, options)):
        failed, told = "failed", lost
    opened = dims_problem(form.proto, fixed, fixed.fixed_size, every=True)
    if failed == "passed" and opened:
        failed, told = "failed", f"wrong claim: {opened}"
    return replace(found.native, status=failed, sizes=(fixed.fixed_size,), reason=told)


def _lost_batch(rewritten: ModelFile, form: ModelFile, claim: Claim, options: CheckOptions) -> str:
    """Why a form takes no two images at once where the model that it was made of does, "" if it does: as a reference
    it need not."""
    told = _of_two(form, claim, options)
    return "" if not told or _of_two(rewritten, claim, options) else f"the model for one size {told}"


def _of_two(model: ModelFile, claim: Claim, options: CheckOptions) -> str:
    """Why a model whose batch is free does not run on two images, "" if it does."""
    runner = Runner(model, (), options.engine)
    if not runner.free_batch(claim.inputs):
        return ""
    inputs = Inputs(claim, runner.inputs, options)
    try:
        runner.run(inputs.feeds(inputs.kinds[0], 0, 2))
    except RunError as error:
        return f"does not run at batch 2: {error}"
    return ""


def compare_at(
    size: tuple[int, ...],
    first: ModelFile,
    second: ModelFile,
    claim: Claim,
    layers: Sequence[Layer],
    outputs: Sequence[Output],
    options: CheckOptions,
    progress: Callable[[str], None] | None,
) -> Parity:
    """Two models made of the original that ``claim`` is about, on images of ``size`` alone. ``layers`` and ``outputs``:
    what those of the first are in the second."""
    one = _of_size(size, claim, outputs, layers)
    names = {item.original: item.rewritten for item in claim.layers}
    rtols, atols = (
        {names.get(name, name): value for name, value in given.items() if names.get(name, name) in _known(one)}
        for given in (options.rtols, options.atols)
    )
    wanted = replace(
        options, check_sizes=(), data=_grown(options.data, one), larger=False, windows=False, rtols=rtols, atols=atols
    )
    return check(first, second, one, wanted, progress)


def _of_size(size: tuple[int, ...], claim: Claim, outputs: Sequence[Output], layers: Sequence[Layer]) -> Claim:
    shapes = claim.image_shapes(size)
    images = [replace(image, shape=shapes[image.name]) for image in claim.inputs]
    return replace(Claim.of_one_size(size, images, outputs, layers), detections=claim.detections)


def _grown(data: Any, claim: Claim) -> Any:
    """The user's inputs, continued by their mirror images up to the size."""
    images = {image.name: image for image in claim.inputs}
    if data is None or not isinstance(data, Mapping):
        return data if data is None else _grown({next(iter(images)): data}, claim)
    grown = {}
    for name, value in data.items():
        short = [0] * np.ndim(value)
        for axis in images[name].spatial if name in images else ():
            short[axis] = max(0, images[name].shape[axis] - np.shape(value)[axis])
        grown[name] = np.pad(value, [(0, more) for more in short], mode="symmetric")
    return grown


def _known(claim: Claim) -> set[str]:
    return {item.name for item in claim.outputs} | {item.original for item in claim.layers}
