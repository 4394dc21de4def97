"""A border kept as it was beside what its map makes of itself, as pre-emphasis keeps the first sample."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.api import rewrite

NATIVE, OTHERS = 41, (42, 60, 83)
_END = 2**31 - 1


def cut(net: Net, x: str, start: int, end: int) -> str:
    return str(net.op("Slice", x, net.ints(start), net.ints(end), net.ints(2)))


def emphasised(length: int, kind: str) -> onnx.ModelProto:
    net = Net()
    x = net.input("image", [1, 1, length])
    first, last = (cut(net, x, *part) for part in ((0, 2), (length - 1, _END)))
    earlier, later = (cut(net, x, *part) for part in ((0, -2), (2, _END)))
    made = net.op("Sub", later, net.op("Mul", earlier, net.const(0.97)))
    parts = {"before": (first, made), "behind": (made, last), "both": (first, made, last), "turned": (made, first)}[
        kind
    ]
    return net.model(net.conv(net.op("Concat", *parts, axis=2), 1, 4, kernel=(5,)))


@pytest.mark.parametrize("kind", ["before", "behind", "both"])
def test_a_border_that_is_kept(kind: str) -> None:
    done = rewrite(emphasised(NATIVE, kind), check_options=CHECK)
    assert done.claim.verdict == "approximate"
    assert any(item.startswith("padding: node_concat") for item in done.claim.blame)
    for length in (NATIVE, *OTHERS):  # as the network made for that length says
        signal = np.random.default_rng(length).standard_normal((1, 1, length)).astype(np.float32)
        models = (emphasised(length, kind), complete(done))
        want, got = (session(model).run(None, {"image": signal})[0] for model in models)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    # an element reads what the claim says: what lies beyond its field does not move it
    start, size, stride = (item[0] for item in (done.claim.start, done.claim.size, done.claim.stride))
    moved = signal.copy()
    moved[..., start + 10 * stride + size :] += 1
    other = session(complete(done)).run(None, {"image": moved})[0]
    np.testing.assert_array_equal(other[..., :11], got[..., :11])
    assert np.abs(other[..., 11] - got[..., 11]).max() > 1e-3


def test_a_border_at_the_other_end_is_no_border() -> None:
    assert refusal(emphasised(NATIVE, "turned")).code == "cut-out"
