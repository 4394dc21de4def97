"""The law for any network: rewritten and proven, or refused with a reason. Nothing else, and nothing wrong.

``ONNXFC_EXAMPLES=5000`` tries so many networks, ``ONNXFC_SEED`` other ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hazards import CHECK, complete, own_crops, session
from hypothesis import Phase, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from random_networks import SEED, Network, drawn, random_network, still_varies

from onnxfc.errors import NothingToRewrite, OnnxfcError, ProofFailed
from onnxfc.rewriter.analyse import RewriteOptions
from onnxfc.rewriter.api import Rewrite, rewrite

SETTINGS = drawn(150)


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


def _obeys_the_law(data: Any, branched: bool) -> None:
    model, network = random_network(data.draw, branched)
    note(f"{network.story}")
    assume(_runs(model))
    # A pool that is kept global beside a window is a bug of its own: see test_pools.
    pools = ("window",) if branched else ("window", "window", "keep")
    options = RewriteOptions(
        output=data.draw(st.sampled_from(("map", "map", "mean", "max"))),
        global_pool=data.draw(st.sampled_from(pools)),
    )
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
    if network.clean and "global" not in forms:
        assert done.claim.verdict == "exact", done.claim.blame
    if done.claim.verdict == "exact":
        assert "global" not in forms
        assert own_crops(model, done, more=(1, 1, 1), varied=False) < 1e-3
    onnx.checker.check_model(complete(done), full_check=True)


def native_deviation(model: onnx.ModelProto, done: Rewrite) -> float:
    """Largest difference at the native size, relative to the range of the output."""
    image = done.claim.inputs[0]
    feed = {image.name: np.random.default_rng(2).standard_normal(image.shape).astype(np.float32)}
    worst = 0.0
    for old, new in zip(session(model).run(None, feed), session(complete(done)).run(None, feed), strict=True):
        assert new.size == old.size
        scale = max(float(np.abs(old).max()), 1e-3)
        worst = max(worst, float(np.abs(new.reshape(old.shape) - old).max()) / scale)
    return worst
