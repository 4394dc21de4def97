"""Lists of places, sequences, and heads of several strides: what the network gives whose lengths are computed.

``ONNXFC_EXAMPLES=5000`` tries so many networks, ``ONNXFC_SEED`` other ones.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
from hazards import CHECK, Net, complete, own_crops, session
from hypothesis import Phase, assume, event, given, note, seed, settings
from hypothesis import strategies as st
from random_lists import Pair, random_pair
from random_networks import SEED, drawn, still_varies

from onnxfc.claim.claim import OWN_FORMS
from onnxfc.errors import NothingToRewrite, OnnxfcError, ProofFailed
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

REFUSED = {
    "no-head": "(N, places * anchors), one figure of each, looks like a flattened map",
    "grid-rule": "a grid of few places, or in steps that are not its map's, shows no rule",
    "position-table": "likewise, where one axis stays",
    "grids-differ": "strides that do not divide each other",
    "same-padding": "SAME that cuts a border off",
    "mixes-map-and-window": "a level of one column, where the width is free alone",
    "size-locked": "a factor that may be one over the number of places",
    "softmax-over-space": "a level of one place of a signal, with anchors",
    "partial-pool": "a pool that counts beyond an axis that stays",
}
"""Codes that lists and sequences may be refused with, and why; heads have many (see the random networks)."""


def test_random_lists_sequences_and_heads_of_several_strides() -> None:
    """What is rewritten is right, and most are."""
    told: Counter[str] = Counter()

    @seed(SEED)
    @settings(drawn(80), phases=(Phase.generate,))
    @given(st.integers(0, 1 << 31))
    def law(number: int) -> None:
        pair = random_pair(number)
        note(f"{pair.network.story} {pair.options}")
        assume(_runs(pair.baked))
        found = obeys_the_law(pair)
        event(found)
        told[found] += 1

    law()
    assert told["rewritten"] > 0.8 * told.total(), told


def test_two_anchors_of_each_place_grow_by_two_at_once() -> None:
    """An element for every 2 px, and none more at 2 px more: it was told not to grow with the image."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18,), 1), 1, 4, kernel=(2,), auto_pad="VALID"))
    x = net.op("AveragePool", x, kernel_shape=[1], strides=[2], auto_pad="SAME_UPPER")
    rows = net.op("Reshape", net.conv(x, 4, 12, kernel=(1,), strides=[1]), net.ints(1, 2, 6, 5))
    rows = net.op("Reshape", net.op("Transpose", rows, perm=[0, 3, 1, 2]), net.ints(1, 10, 6))
    best = net.axes("ReduceMax", rows, (2,), keepdims=0)
    pooled = net.fc(net.op("Flatten", net.op("GlobalAveragePool", x)), 4, 3)
    done = rewrite(net.model(best, pooled), options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed


def test_a_column_of_one_channel_is_a_level_of_places() -> None:
    """Columns of (3, 1) places with one channel, (N, 3, 1, 1) as (N, 3, 1): it was taken for a map of 3x1 without
    channels, and the list for a head's."""
    assert obeys_the_law(random_pair(69147097)) == "rewritten"


def test_one_figure_of_each_place_beside_an_axis_that_stays_is_a_list() -> None:
    """(N, 8 * w), where the height stays: they were taken for scores of windows, and the proof failed."""
    assert obeys_the_law(random_pair(25550719)) == "rewritten"


def test_one_row_of_places_lies_beside_the_axis_that_stays() -> None:
    """A level of 1x6 places, (N, 1, 1, 6) as (N, 1, 6), where the height is free: the list was given as cells."""
    assert obeys_the_law(random_pair(4309443)) == "rewritten"


def test_borders_of_a_head_that_reads_places_are_those_of_the_native_size_with_any_option() -> None:
    """With global pools kept a SAME padding went on by itself, though a Flatten makes windows: their grid moved."""
    assert obeys_the_law(random_pair(366922)) == "rewritten"


def test_a_layer_behind_what_is_refused_has_the_reason_of_that() -> None:
    """A pool whose SAME cuts a border off, ahead of an LSTM, which was blamed."""
    assert obeys_the_law(random_pair(14991173)) == "refused: same-padding"


def _runs(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime runs the original, and its values vary."""
    try:
        return still_varies(model, session)
    except Exception:
        return False


def obeys_the_law(pair: Pair) -> str:
    """What became of it; fails where that is wrong."""
    found: OnnxfcError | None = None
    try:
        done = rewrite(pair.baked, options=RewriteOptions(**pair.options), check_options=CHECK)
    except (NothingToRewrite, ProofFailed) as error:
        found = error
    if isinstance(found, NothingToRewrite):
        assert found.refusals
        assert "head" in pair.kinds or found.refusals[0].code in REFUSED, f"{found}"
        return f"refused: {found.refusals[0].code}"
    if isinstance(found, ProofFailed):
        assert found.parity is not None
        assert found.parity.vacuous is not None, f"{found}"
        return "vacuous"
    _is_right(pair, done)
    return "rewritten"


def _is_right(pair: Pair, done: Rewrite) -> None:
    assert done.parity is not None
    assert done.parity.passed
    told = {output.name: output.form for output in done.claim.outputs}
    forms = [told.get(value.name, "left behind what picks") for value in done.model.graph.output]
    own = [place for place in pair.runs if forms[place] in OWN_FORMS]
    if "head" not in pair.kinds:  # beside the scores of windows, lists are their own
        assert len(own) == len(forms)
    if own:
        worst = opened_deviation(pair, done, own)
        assert worst < 1e-4, worst
    if done.claim.verdict == "exact" and len(own) < len(forms):
        assert own_crops(pair.baked, done, more=(1, 1, 1), varied=False) < 1e-3
    onnx.checker.check_model(complete(done), full_check=True)


def opened_deviation(pair: Pair, done: Rewrite, own: list[int]) -> float:
    """Largest difference from the network that computes its lengths, at the native size and three others, relative to
    each output's range."""
    claim, network = done.claim, pair.network
    image, old, new = claim.inputs[0], session(pair.open), session(complete(done))
    rng, worst = np.random.default_rng(len(f"{network.story}")), 0.0
    steps = [math.lcm(*item) for item in zip(claim.size_step, claim.period or claim.stride, strict=True)]
    rounds = "ceil_mode" in f"{network.story}" and len(own) < len(claim.outputs)
    if not rounds and "SAME" not in f"{network.story}":  # else it is frozen to what the native size has
        steps = list(claim.size_step)
    for more in ([0] * len(steps), *rng.integers(-2, 12, (3, len(steps)))):
        size = [native + step * int(k) for native, step, k in zip(claim.native_size, steps, more, strict=True)]
        size = [max(a, b) for a, b in zip(size, claim.native_size, strict=True)] if _too_small(done, size) else size
        given = {image.name: rng.standard_normal(claim.image_shapes(size)[image.name]).astype(np.float32)}
        wanted, found = old.run(None, given), new.run(None, given)
        for place in own:
            want, got = wanted[pair.runs.index(place)], found[place]
            assert got.shape == want.shape, (size, got.shape, want.shape)
            scale = max(float(np.abs(want).max()), 1e-3)
            worst = max(worst, float(np.abs(got - want).max()) / scale)
    return worst


def _too_small(done: Rewrite, size: list[int]) -> bool:
    return any(a < b for a, b in zip(size, done.geometry.smallest_size, strict=True))
