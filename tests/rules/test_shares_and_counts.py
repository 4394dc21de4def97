"""Counts of places, and what was made of shares of the image, as context: the network made for the other size says what
is right."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.analyse import RewriteOptions
from onnxfc.rewriter.api import rewrite

NATIVE, OTHERS, C = (19, 23), ((33, 29), (21, 35), (38, 39)), 4


def network(kind: str, size: tuple[int, int], opened: bool = False) -> onnx.ModelProto:
    """A gate for each channel of a map, by a figure of all its places."""
    net = Net(17)
    x = net.op("Relu", net.conv(net.image(size=size), 2, C))
    count = math.prod((n - 1) // 2 for n in size)
    rows = net.op("Reshape", x, net.ints(0, C, -1))
    if kind == "fraction":  # of places above a threshold, counted in integers
        above = net.op("Cast", net.op("Greater", x, net.const(0.4)), to=onnx.TensorProto.INT64)
        total = net.op("Cast", net.axes("ReduceSum", above, (2, 3), keepdims=1), to=onnx.TensorProto.FLOAT)
        figure = net.op("Div", total, net.const(float(count)))
    elif kind == "log mean":
        total = net.axes("ReduceLogSumExp", rows, (2,), keepdims=1)
        figure = net.op("Unsqueeze", net.op("Sub", total, net.const(math.log(count))), net.ints(3))
    else:
        share = net.op("Softmax", rows, axis=2)
        each = net.op("Mul", share, net.op("Log", net.op("Add", share, net.const(1e-8))))
        total = net.op("Neg", net.axes("ReduceSum", each, (2,), keepdims=1))
        figure = net.op("Unsqueeze", net.op("Div", total, net.const(math.log(count))), net.ints(3))
    model = net.model(net.conv(net.op("Mul", x, net.op("Sigmoid", net.op("Mul", figure, net.const(3.0)))), C, 3))
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        dim.ClearField("value") if opened else None
        dim.dim_param = name if opened else dim.dim_param
    if not opened:
        for dim, n in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
            dim.dim_value = n
    return model


@pytest.mark.parametrize("kind", ["fraction", "log mean"])
def test_as_the_network_of_another_size(kind: str) -> None:
    """A count that is made a float at once is not rounded at its native scale."""
    done = rewrite(network(kind, NATIVE), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    for size in OTHERS:
        image = {"image": np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)}
        [want], [got] = (session(model).run(None, image) for model in (network(kind, size), complete(done)))
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_a_number_of_places_in_an_open_file() -> None:
    """Its own network has another at another size, which the file has not: no proof could hold."""
    found = refusal(network("log mean", NATIVE, opened=True), size=NATIVE)
    assert found.code == "size-locked"
    assert "the native count of its places, makes a mean of it" in found.reason


@pytest.mark.parametrize("free", [(), ("height",), ("width",)])
@pytest.mark.parametrize("opened", [False, True])
def test_what_became_of_shares_of_the_image(opened: bool, free: tuple[str, ...]) -> None:
    """An entropy over places by the logarithm of their native number: it came out wrong, and proven, where the places
    of one axis are free, as the softmax was taken to weigh what it is multiplied with."""
    options = RewriteOptions(free=free, size=NATIVE if opened else None)
    found = refusal(network("entropy", NATIVE, opened), free=options.free, size=options.size)
    assert (found.code, found.reason.partition(" sums up what")[0]) == ("sum-over-image", "ReduceSum")
