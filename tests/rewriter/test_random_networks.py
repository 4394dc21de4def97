"""The law for any network: rewritten and proven, or refused with a reason. Nothing else, and nothing wrong.

``ONNXFC_EXAMPLES=5000`` tries so many networks, ``ONNXFC_SEED`` other ones.
"""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import NO_INTEGERS
from hazards import CHECK, OLD_RUNTIME, complete, own_crops, session
from hypothesis import Phase, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from onnxruntime.quantization import QuantFormat
from quantised import by_onnxruntime, dynamic_by_onnxruntime
from random_networks import SEED, Network, drawn, random_network, still_varies

from onnxfc.errors import NothingToRewrite, OnnxfcError, ProofFailed
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

SETTINGS = drawn(150)
MODES = (
    *(("map", "window"), ("map", "window"), ("map", "window"), ("map", "keep"), ("map", "keep"), ("map", "drop")),
    *(("mean", "window"), ("max", "window"), ("mean", "keep"), ("max", "keep"), ("mean", "drop")),
)
"""Forms of the outputs, and what becomes of global pools."""


@seed(SEED)
@SETTINGS
@given(st.data())
def test_random_networks(data: Any) -> None:
    _obeys_the_law(data, branched=False)


@seed(SEED)
@settings(SETTINGS, phases=(Phase.generate,))
@given(st.data())
def test_random_networks_with_branched_heads(data: Any) -> None:
    _obeys_the_law(data, branched=True)


@seed(SEED)
@settings(drawn(20), phases=(Phase.generate,))
@given(st.data())
def test_random_networks_in_integers(data: Any) -> None:
    """As onnxruntime's quantiser writes them."""
    model, network = random_network(data.draw, plain=True)
    note(f"{network.story}")
    assume(_runs(model))
    form = data.draw(st.sampled_from(tuple(QuantFormat)))
    pool = data.draw(st.sampled_from(("window", "window", "keep")))
    with TemporaryDirectory() as folder:
        model = by_onnxruntime(model, Path(folder), form, data.draw(st.booleans()))
    assume(_runs(model))
    note(f"{form} {pool}")
    found: OnnxfcError | None = None
    try:
        done = rewrite(model, options=RewriteOptions(global_pool=pool), check_options=CHECK)
    except (NothingToRewrite, ProofFailed) as error:
        found = error
    if isinstance(found, NothingToRewrite):
        assert found.refusals
        event(f"refused: {found.refusals[0].code}")
        return
    if isinstance(found, ProofFailed):
        assert found.parity is not None
        close = all(
            part.deviation <= max(2 * part.tolerance, 0.05) for part in (found.parity.native, found.parity.window)
        )
        otherwise = "of the original otherwise than its file says" in str(found)  # a scale for each feature, say
        otherwise = otherwise or ("once it is inlined" in str(found) and _counts_beyond(model))
        assert found.parity.vacuous is not None or otherwise or close, f"{found}"
        event("vacuous" if found.parity.vacuous else "otherwise" if otherwise else "close to its steps")
        return
    event(f"rewritten: {done.claim.verdict}")
    assert native_deviation(model, done, as_written=True) < 0.1  # a few steps
    if done.claim.verdict == "exact" and "global" not in {output.form for output in done.claim.outputs}:
        assert own_crops(model, done, more=(1, 1, 1), varied=False, as_written=True) < 0.1


def _counts_beyond(model: onnx.ModelProto) -> bool:
    """Whether it has pools of integers in which onnxruntime counts places beyond the edge."""
    told = [
        {item.name: item.i for item in node.attribute}
        for node in model.graph.node
        if node.op_type == "QLinearAveragePool"
    ]
    return any(item.get("ceil_mode") and item.get("count_include_pad") for item in told)


@pytest.mark.skipif(OLD_RUNTIME, reason=NO_INTEGERS)
@seed(SEED)
@settings(drawn(20), phases=(Phase.generate,))
@given(st.data())
def test_random_networks_with_dynamic_scales(data: Any) -> None:
    """As onnxruntime's quantiser writes them: the same sums of the same integers."""
    model, network = random_network(data.draw, plain=True)
    note(f"{network.story}")
    assume(_runs(model))
    with TemporaryDirectory() as folder:
        model = dynamic_by_onnxruntime(model, Path(folder), data.draw(st.booleans()), data.draw(st.booleans()))
    assume(_runs(model))
    options = RewriteOptions(
        global_pool=data.draw(st.sampled_from(("window", "window", "keep"))), per_window_scale=data.draw(st.booleans())
    )
    note(f"{options}")
    found: OnnxfcError | None = None
    try:
        done = rewrite(model, options=options, check_options=CHECK)
    except (NothingToRewrite, ProofFailed) as error:
        found = error
    if isinstance(found, NothingToRewrite):
        assert found.refusals
        event(f"refused: {found.refusals[0].code}")
        return
    if isinstance(found, ProofFailed):
        assert found.parity is not None
        slides = "Pool" in f"{network.story}" or "ReduceMean" in network.story  # and adds up in another order
        assert found.parity.vacuous is not None or slides, f"{found}"
        event("vacuous" if found.parity.vacuous else "a pool that slides")
        return
    event(f"rewritten: {done.claim.verdict}")
    assert native_deviation(model, done) < 0.02  # a value behind a pool may fall to the other side of an edge


def _obeys_the_law(data: Any, branched: bool) -> None:
    model, network = random_network(data.draw, branched)
    note(f"{network.story}")
    assume(_runs(model))
    output, pool = data.draw(st.sampled_from(MODES))
    options = RewriteOptions(output=output, global_pool=pool)
    note(f"{options}")
    found: OnnxfcError | None = None
    try:
        done = rewrite(model, options=options, check_options=CHECK)
    except (NothingToRewrite, ProofFailed) as error:
        found = error
    if isinstance(found, NothingToRewrite):
        assert found.refusals
        assert all(item.code and item.reason for item in found.refusals)
        event(f"refused: {found.refusals[0].code}")
        assert not _must_work(network, options), str(found)
    elif isinstance(found, ProofFailed):
        assert found.parity is not None
        noise = max(found.parity.native.deviation, found.parity.window.deviation)
        assert found.parity.vacuous is not None or 0 < noise < 5e-3, f"{found}"
        event("vacuous" if found.parity.vacuous else "close to its noise")
    else:
        event(f"rewritten: {done.claim.verdict}")
        network.clean = network.clean and not (pool == "keep" and "ceil_mode" in f"{network.story}")
        _is_right(model, done, network)


def _runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs the original, and its scores vary."""
    try:
        return still_varies(model, session)
    except Exception:
        return False


def _must_work(network: Network, options: RewriteOptions) -> bool:
    """A plain network may not be refused."""
    plain = {"fc", "batch_norm", "constant", "activation", "matmul", "einsum", "again", "twice", "opset"}
    plain |= {"residual", "scores", "Softmax", "two", "dueling", "classes"}
    told = {word.split()[0] for word in network.story}
    trunk = {"Conv", "map", "scale", "branches", "MaxPool", "flatten", "Flatten", "Relu", "norm", "Dropout"}
    if "classes" in told and options.output != "map":  # the mean of class numbers says nothing
        return False
    return network.clean and told <= plain | trunk and options.global_pool == "window"


def _is_right(model: onnx.ModelProto, done: Rewrite, network: Network) -> None:
    assert done.parity is not None
    assert done.parity.passed
    forms = {output.form for output in done.claim.outputs}
    assert native_deviation(model, done) < 1e-3
    whole = "global" in forms or bool(done.claim.detections)  # what is picked of all places by their values, too
    if network.clean and not whole:
        assert done.claim.verdict == "exact", done.claim.blame
    if done.claim.verdict == "exact":
        assert not whole
        if "activation" not in forms:
            assert own_crops(model, done, more=(1, 1, 1), varied=False) < 1e-3
        if forms <= {"map", "cells", "features"}:
            assert own_crops(model, done, more=(1, 1, 1), varied=False, beyond=1) < 1e-3
    if whole and "AveragePool" not in network.story:  # whose kernel is that of the native size
        assert freed_deviation(model, done) < 1e-3
    onnx.checker.check_model(complete(done), full_check=True)


def freed_deviation(model: onnx.ModelProto, done: Rewrite) -> float:
    """Largest difference of what looks at the whole image from the original itself, its declared dims freed, at twice
    the native size or more, relative to the range of the output; 0 where it does not run there, or takes places of the
    native size for images."""
    image, claim = done.claim.inputs[0], done.claim
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    shape = freed.graph.input[0].type.tensor_type.shape
    for axis in image.spatial:
        shape.dim[axis].dim_param = f"length{axis}"
    for output in freed.graph.output:
        output.type.tensor_type.ClearField("shape")
    steps = [math.lcm(*axis) for axis in zip(claim.period or claim.stride, claim.size_step, strict=True)]
    size = [native + -(-native // step) * step for native, step in zip(claim.native_size, steps, strict=True)]
    given = np.random.default_rng(3).standard_normal(claim.image_shapes(size)[image.name]).astype(np.float32)
    new = session(complete(done)).run(None, {image.name: given})
    try:
        old = session(freed).run(None, {image.name: given})
    except Exception:
        return 0.0
    whole = [place for place, output in enumerate(claim.outputs) if output.form == "global"]
    whole = list(range(len(new))) if claim.detections else whole
    event("freed: runs")
    pairs = [(new[i], old[i]) for i in whole if new[i].shape == old[i].shape]
    return max((float(np.abs(a - b).max()) / max(float(np.abs(b).max()), 1e-3) for a, b in pairs), default=0.0)


def native_deviation(model: onnx.ModelProto, done: Rewrite, as_written: bool = False) -> float:
    """Largest difference at the native size, relative to the range of the output."""
    image = done.claim.inputs[0]
    feed = {image.name: np.random.default_rng(2).standard_normal(image.shape).astype(np.float32)}
    worst = 0.0
    forms = [output.form for output in done.claim.outputs]
    forms = ["global"] * len(model.graph.output) if done.claim.detections else forms  # the claim's lie ahead of these
    runs = (session(given, as_written).run(None, feed) for given in (model, complete(done)))
    for form, old, new in zip(forms, *runs, strict=True):
        if form == "activation":
            new = new.mean(axis=tuple(range(old.ndim, new.ndim)))
        assert new.size == old.size
        scale = max(float(np.abs(old).max()), 1e-3)
        worst = max(worst, float(np.abs(new.reshape(old.shape) - old).max()) / scale)
    return worst
