"""Counts of places, and what was made of shares of the image, as context: the network made for the other size says what
is right."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.api import rewrite

NATIVE, OTHERS, C = (19, 23), ((33, 29), (21, 35), (38, 39)), 4


def network(kind: str, size: tuple[int, int]) -> onnx.ModelProto:
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
        rows = net.axes("ReduceMean", x, (2,), keepdims=0) if kind == "entropy of columns" else rows
        share = net.op("Softmax", rows, axis=2)
        each = net.op("Mul", share, net.op("Log", net.op("Add", share, net.const(1e-8))))
        total = net.op("Neg", net.axes("ReduceSum", each, (2,), keepdims=1))
        figure = net.op("Unsqueeze", net.op("Div", total, net.const(math.log(count))), net.ints(3))
    return net.model(net.conv(net.op("Mul", x, net.op("Sigmoid", net.op("Mul", figure, net.const(3.0)))), C, 3))


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
        dim.dim_param = name
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
    found = refusal(opened(network("log mean", NATIVE)), size=NATIVE)
    assert found.code == "size-locked"
    assert "the native count of its places, makes a mean of it" in found.reason


@pytest.mark.parametrize("free", [(), ("height",), ("width",)])
@pytest.mark.parametrize("size", [None, NATIVE])
def test_what_became_of_shares_of_the_image(size: tuple[int, int] | None, free: tuple[str, ...]) -> None:
    """An entropy over places by the logarithm of their native number: it came out wrong, and proven, where the places
    of one axis are free, as the softmax was taken to weigh what it is multiplied with."""
    model = network("entropy", NATIVE)
    found = refusal(model if size is None else opened(model), free=free, size=size)
    assert (found.code, found.reason.partition(" sums up what")[0]) == ("sum-over-image", "ReduceSum")


@pytest.mark.parametrize("free", [(), ("width",)])
def test_what_became_of_shares_of_columns(free: tuple[str, ...]) -> None:
    """The same of the means of columns, a strip: wrong by 5 %, and proven, with both axes free."""
    found = refusal(network("entropy of columns", NATIVE), free=free)
    assert (found.code, found.reason.partition(" sums up what")[0]) == ("sum-over-image", "ReduceSum")
