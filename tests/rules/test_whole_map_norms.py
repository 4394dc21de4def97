"""LayerNormalization over all places of the image, with the same scale at each: context, as the network made for the
other size says."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

NATIVE, OTHERS, C = (13, 11), ((13, 19), (21, 11), (33, 30)), 4


def network(size: tuple[int, int], axis: int, scales: str, pooled: bool = False) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.conv(net.image(size=size), 2, C))
    table = np.ones((C, (size[0] - 1) // 2, (size[1] - 1) // 2), np.float32)
    if scales == "channels":
        table = table * np.arange(1, C + 1, dtype=np.float32)[:, None, None]
    elif scales == "places":
        table = table + net.noise(*table.shape)
    given = [net.const(table[0] if axis == 2 else table)]
    given += [net.const(table + 1)] if scales == "channels" else []
    x = net.op("LayerNormalization", x, *given, axis=axis, epsilon=0.1)
    if pooled:
        return net.model(net.fc(net.axes("ReduceMean", x, (2, 3), keepdims=0), C, 3))
    return net.model(net.op("Conv", x, net.random(3, C, 1, 1)))


@pytest.mark.parametrize(
    ("axis", "scales", "pooled"), [(1, "one", False), (1, "channels", False), (2, "one", False), (1, "channels", True)]
)
def test_one_scale_at_all_places(axis: int, scales: str, pooled: bool) -> None:
    options = RewriteOptions(global_pool="keep" if pooled else "window")
    done = rewrite(network(NATIVE, axis, scales, pooled), options=options, check_options=CHECK)
    assert [item for item in done.claim.blame if "context: node_layernormalization" in item]
    for size in (NATIVE, *OTHERS):
        image = np.random.default_rng(size[1]).standard_normal((2, 1, 2, *size)).astype(np.float32)[0]
        models = (network(size, axis, scales, pooled), complete(done))
        want, got = (session(model).run(None, {"image": image})[0] for model in models)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


def test_a_scale_of_each_place_is_of_the_native_size() -> None:
    assert refusal(network(NATIVE, 1, "places")).code == "size-locked"
