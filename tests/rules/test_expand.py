"""What a pool of the whole image gives, spread over the places of the map again: left to broadcasting, or spread anew.

Every network is written at its native size and once more at another: the freed one must give there what that one gives.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import Net, complete, refusal, session

from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import rewrite

Pixels = tuple[int, int]
CHECK = CheckOptions(threads=1)


def spread(net: Net, how: str, vector: str, size: Pixels) -> str:
    if how == "Expand":
        return str(net.op("Expand", vector, net.ints(1, 4, *size)))
    if how == "Resize":
        return str(net.op("Resize", vector, "", "", net.ints(1, 4, *size), mode="nearest"))
    if how == "Tile":
        return str(net.op("Tile", vector, net.ints(1, 1, *size)))
    return str(net.op("Add", net.const(np.full((1, 1, *size), 0.25)), vector))


def read(net: Net, how: str, tensor: str) -> str:
    if how == "Conv":
        return str(net.conv(tensor, 4, 4, strides=[1, 1], pads=[1] * 4))
    if how == "AveragePool":
        return str(net.op("AveragePool", tensor, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1))
    if how == "Relu":
        return str(net.op("Relu", tensor))
    return tensor


def network(size: Pixels, how: str, reader: str) -> onnx.ModelProto:
    """As in a pyramid of pools: the image's mean beside the map."""
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(1, size), 2, 4, strides=[1, 1], pads=[1] * 4))
    vector = net.conv(net.op("GlobalAveragePool", tensor), 4, 4, (1, 1), strides=[1, 1])
    whole = read(net, reader, spread(net, how, vector, size))
    if reader == "output":
        return net.model(tensor, whole)
    return net.model(net.conv(net.op("Concat", tensor, whole, axis=1), 8, 3, strides=[1, 1]))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("reader", ["Concat", "Relu", "Conv", "AveragePool", "output"])
@pytest.mark.parametrize("how", ["Expand", "Resize", "Tile", "Add"])
def test_spread_over_a_map_of_any_size(how: str, reader: str) -> None:
    """A Conv behind it sees a border, which a value that is left to broadcasting has not."""
    done = rewrite(network((16, 14), how, reader), check_options=CHECK)
    assert any(item.startswith("context") for item in done.claim.blame)
    image = np.random.default_rng(1).standard_normal((1, 2, 21, 25)).astype(np.float32)
    wanted = session(network((21, 25), how, reader)).run(None, {"image": image})
    for want, got in zip(wanted, session(complete(done)).run(None, {"image": image}), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_size_that_nothing_has_is_refused() -> None:
    """No map is 8 by 7: half of the image, or a size of its own?"""
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(1, (16, 14)), 2, 4, strides=[1, 1], pads=[1] * 4))
    made = spread(net, "Expand", str(net.op("GlobalAveragePool", tensor)), (8, 7))
    found = refusal(net.model(tensor, made))
    assert (found.code, found.node) == ("size-locked", f"node_{made}")


def test_places_of_a_constant_that_differ_are_a_table() -> None:
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(1, (16, 14)), 2, 4, strides=[1, 1], pads=[1] * 4))
    table = net.op("Add", net.random(1, 1, 16, 14), net.op("GlobalAveragePool", tensor))
    found = refusal(net.model(net.conv(net.op("Concat", tensor, table, axis=1), 8, 3, strides=[1, 1])))
    assert (found.code, found.node) == ("position-table", f"node_{table}")
