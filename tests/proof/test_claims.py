"""Claims that contradict the two models: each is told, with what is wrong. What no claim may be, Claim itself says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete
from onnx import numpy_helper

from onnxfc import Claim, Rewrite, rewrite
from onnxfc.proof import check
from onnxfc.proof.results import Parity


@cache
def done() -> Rewrite:
    return rewrite(fixture_file("lenet.dynamo.onnx"), prove=False)


def told(claim: Claim, change: Callable[[onnx.ModelProto], Any] = lambda proto: None) -> Parity:
    second = onnx.ModelProto.FromString(done().file.proto.SerializeToString())
    change(second)
    return check(done().original, done().file.with_proto(second), claim, CHECK)


def boundary(**changes: Any) -> Callable[[Claim], Claim]:
    return lambda claim: replace(claim, boundaries=(replace(claim.boundaries[0], **changes),))


def image(**changes: Any) -> Callable[[Claim], Claim]:
    return lambda claim: replace(claim, inputs=(replace(claim.inputs[0], **changes),))


CONTRADICTIONS: dict[str, Callable[[Claim], Claim]] = {
    "the claim does not speak of exactly the outputs": lambda claim: replace(claim, outputs=claim.outputs * 2),
    "the claimed native size": lambda claim: replace(claim, native_size=(20, 20)),
    "image input picture does not exist": image(name="picture"),
    "a cell of .* does not read what a cell is said to read": lambda claim: replace(claim, size=(9, 9)),
    "spatial axes \\(2, 9\\)": boundary(spatial=(2, 9)),
    "the claimed window \\(1, 1\\) of": boundary(extent=(1, 1)),
    "which the original does not have": boundary(original="elsewhere"),
    "which the second one does not have": boundary(rewritten="elsewhere"),
    "but no boundary of the head is named": lambda claim: replace(claim, boundaries=()),
}


@pytest.mark.parametrize("said", CONTRADICTIONS)
def test_contradictions(said: str) -> None:
    parity = told(CONTRADICTIONS[said](done().claim))
    failed = next(result for result in (parity.native, parity.window) if result.status != "passed")
    assert failed.status == "failed"
    assert re.search(said, failed.reason)


def test_other_outputs_and_inputs() -> None:
    def renamed(values: str) -> Parity:
        return told(done().claim, lambda proto: setattr(getattr(proto.graph, values)[0], "name", "other"))

    outputs, inputs = renamed("output"), renamed("input")
    own = done().original.proto.graph
    assert f"the second one's outputs are other, not {own.output[0].name}" in outputs.native.reason
    assert f"the second one's inputs are other, not {own.input[0].name}" in inputs.native.reason
    assert not outputs.passed
    assert not inputs.passed


def test_what_is_allowed_is_told_as_it_is_measured() -> None:
    second = complete(done())
    weight = next(tensor for tensor in second.graph.initializer if len(tensor.dims) == 4)
    values = 1.5 * numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    output = check(done().original, done().file.with_proto(second), done().claim, CHECK).native.outputs[0]
    assert not output.passed
    assert output.signal != pytest.approx(1, abs=0.1)
    assert f"deviates by {output.deviation:.1e} of its signal (allowed {output.tolerance:.1e})" in output.reason


def test_strides_that_are_not_claimed_promise_no_growth() -> None:
    """Elements along an axis of the image, of which a claim does not say how far apart they are."""
    made = rewrite(fixture_file("columns_mean.dynamo.onnx"), prove=False)
    [output] = made.claim.outputs
    assert (output.form, output.axes, output.stride) == ("features", (1,), (4,))
    less = replace(output, stride=(), per=(), start=(), size=())
    checked = check(made.original, made.file, replace(made.claim, outputs=(less,)), CHECK)
    assert (checked.passed, checked.native.compared) == (True, 576)
    other = replace(output, stride=(8,))
    assert not check(made.original, made.file, replace(made.claim, outputs=(other,)), CHECK).passed
