"""Covariance pooling with its matrix root (iSQRT-COV): products of features that have no places any more.

Source: P. Li et al., "Towards Faster Training of Global Covariance Pooling Networks by Iterative Matrix Square Root
Normalization", CVPR 2018.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import WINDOW, Net, proven, refusal

PLACES = WINDOW[0] * WINDOW[1]


def root(net: Net, covariance: str, width: int, expand: bool) -> str:
    """Two Newton-Schulz iterations by MatMul, scaled by the trace."""
    identity = net.const(np.eye(width))
    trace = net.axes("ReduceSum", net.op("Mul", covariance, identity), [1, 2], keepdims=1)
    unit = net.op("Expand", identity, net.op("Shape", covariance)) if expand else net.const(np.eye(width)[None])
    y, z = net.op("Div", covariance, trace), unit
    for _ in range(2):
        less = net.op("Sub", net.const(3 * np.eye(width)), net.op("MatMul", z, y))
        less = net.op("Mul", less, net.const(0.5))
        y, z = net.op("MatMul", y, less), net.op("MatMul", less, z)
    return str(net.op("Mul", y, net.op("Sqrt", trace)))


def model(width: int, centred: str, expand: bool = False) -> onnx.ModelProto:
    net = Net()
    x = net.op("Reshape", net.trunk(channels=width), net.ints(1, width, PLACES))
    if centred == "mean":
        x = net.op("Sub", x, net.axes("ReduceMean", x, [2], keepdims=1))
    turned = net.op("Transpose", x, perm=[0, 2, 1])
    if centred == "matrix":
        x = net.op("MatMul", x, net.const(np.eye(PLACES) / PLACES - np.full((PLACES, PLACES), PLACES**-2.0)))
    pooled = root(net, net.op("MatMul", x, turned), width, expand)
    return net.model(net.fc(net.op("Flatten", pooled), width * width, 5))


@pytest.mark.parametrize("centred", ["", "mean", "matrix"])
@pytest.mark.parametrize("width", [6, PLACES, 2 * PLACES])
def test_each_window_has_its_own_root(width: int, centred: str) -> None:
    """As many channels as places, or twice as many, make no attention of it; the mean is each window's own."""
    proven(model(width, centred))


@pytest.mark.parametrize("width", [6, 80])
def test_a_large_identity_that_is_expanded_is_a_constant(width: int) -> None:
    proven(model(width, "", expand=True))


def test_what_is_refused_ahead_of_the_root_is_the_reason() -> None:
    """The Newton iterations behind it are not told to be attention."""
    net = Net()
    x = net.op("Reshape", net.trunk(channels=6), net.ints(1, 6, PLACES))
    covariance = net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1]))
    diagonal = net.op("GatherND", covariance, net.const([[0, k, k] for k in range(6)], dtype=np.int64), out="diagonal")
    scaled = net.op("Div", covariance, net.axes("ReduceSum", diagonal, [0], keepdims=1))
    pooled = root(net, scaled, 6, expand=False)
    found = refusal(net.model(net.fc(net.op("Flatten", pooled), 36, 5)))
    assert (found.code, found.node) == ("mixes-batch", "node_diagonal")
