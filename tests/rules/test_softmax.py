"""Softmax, LogSoftmax and Hardmax with the meaning of the model's own operator set, over every axis and shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import FEATURES, Net, bodied, complete, head, proven, proven_or_refused, refusal, session

KINDS = ("Softmax", "LogSoftmax", "Hardmax")
OPSETS = (7, 10, 11, 12, 13, 18, onnx.defs.onnx_opset_version() - 3)
M = 6


def normalised(net: Net, kind: str, tensor: str, **attributes: Any) -> str:
    """Hardmax says so little that no proof would rest on it alone: its scores are added to it."""
    made = str(net.op(kind, tensor, **attributes))
    if kind != "Hardmax":
        return made
    return str(net.op("Add", net.op("Mul", tensor, net.const(0.2)), made))


@pytest.mark.sweep(20)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("axis", [None, 1, -1])
def test_scores(kind: str, opset: int, axis: int | None) -> None:
    """(N, K): the default axis is 1 before operator set 13, the last since."""
    given: dict[str, Any] = {} if axis is None else {"axis": axis}
    if axis == -1 and opset < 11:
        pytest.skip("negative axes came with operator set 11")
    done = proven(
        head(lambda net, flat: normalised(net, kind, net.fc(flat, FEATURES, M), **given), opset=opset, batch=2)
    )
    assert done.map_at_twice == (6, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [7, 12, 13])
def test_over_the_batch_is_refused(kind: str, opset: int) -> None:
    model = head(lambda net, flat: normalised(net, kind, net.fc(flat, FEATURES, M), axis=0), opset=opset, batch=2)
    assert refusal(model).code == "mixes-batch"


@pytest.mark.sweep(20)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [7, 11, 12, 13, 18])
@pytest.mark.parametrize("axis", [None, 1, 2, -1, -2])
def test_scores_of_two_axes(kind: str, opset: int, axis: int | None) -> None:
    """(N, A, B): before operator set 13, axis 1 normalises A and B together."""
    if axis is not None and axis < 0 and opset < 11:
        pytest.skip("negative axes came with operator set 11")
    given: dict[str, Any] = {} if axis is None else {"axis": axis}

    def body(net: Net, flat: str) -> str:
        pairs = net.op("Reshape", net.fc(flat, FEATURES, M), net.ints(-1, 2, 3))
        return normalised(net, kind, pairs, **given)

    done = proven(head(body, opset=opset, batch=2))
    assert len(done.claim.outputs[0].axes) == 2
    assert done.claim.outputs[0].axes == (3, 4)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opset", [7, 12, 13, 18])
@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "GlobalMaxPool"])
def test_cells(kind: str, opset: int, axis: int, pool: str) -> None:
    """(N, K, 1, 1): before operator set 13 the two axes of 1 are normalised, too; over a grid they must not be."""
    if axis < 0 and opset < 11:
        pytest.skip("negative axes came with operator set 11")
    done = proven(
        bodied(lambda net, tensor: normalised(net, kind, net.op(pool, tensor), axis=axis), opset=opset, batch=2)
    )
    assert done.claim.outputs[0].form == "cells"


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axis", [2, 3, -1])
def test_over_one_element(opset: int, axis: int) -> None:
    """Over an axis of 1 each score becomes 1; over the grid it would not. Refused, or still 1 times the scores."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("GlobalAveragePool", tensor)
        return str(net.op("Add", point, net.op("Softmax", point, axis=axis)))

    proven_or_refused(bodied(body, opset=opset))


@pytest.mark.parametrize("opset", [11, 13])
def test_flattened_default_axis_on_a_map_of_the_trunk(opset: int) -> None:
    """Softmax(axis=1) over (N, C, H, W): before operator set 13 over all places, each window's own."""

    def body(net: Net, tensor: str) -> str:
        return net.fc(net.op("Flatten", net.op("Softmax", tensor, axis=1)), FEATURES, M)

    done = proven(bodied(body, opset=opset))
    assert done.claim.verdict == "exact"


@pytest.mark.parametrize("opset", [11, 13])
def test_channels_last_over_the_channels(opset: int) -> None:
    """The last axis of (N, H, W, C) is the channels' in both meanings."""

    def body(net: Net, tensor: str) -> str:
        last = net.op("Transpose", tensor, perm=[0, 2, 3, 1])
        return net.fc(net.op("Flatten", net.op("Softmax", last, axis=3)), FEATURES, M)

    proven(bodied(body, opset=opset))


@pytest.mark.parametrize("opset", [11, 13])
def test_on_features_before_the_fc(opset: int) -> None:
    """Over the flattened window: all its places and channels."""
    proven(head(lambda net, flat: net.fc(net.op("Softmax", flat, axis=1), FEATURES, M), opset=opset))


@pytest.mark.parametrize("opset", [11, 13])
def test_attention_weights_between_fc_layers(opset: int) -> None:
    """Softmax in the middle of the head, and LogSoftmax at its end."""

    def body(net: Net, flat: str) -> str:
        gate = net.op("Softmax", net.fc(flat, FEATURES, 8), axis=1)
        return str(net.op("LogSoftmax", net.fc(net.op("Mul", gate, net.fc(flat, FEATURES, 8)), 8, M), axis=1))

    proven(head(body, opset=opset))


@pytest.mark.parametrize("form", ["mean", "max"])
@pytest.mark.parametrize("opset", [11, 13])
def test_reduced_over_the_cells(form: str, opset: int) -> None:
    """The mean of the cells' probabilities is taken after the Softmax, so that it still sums up to 1."""
    model = head(lambda net, flat: net.op("Softmax", net.fc(flat, FEATURES, M), axis=1), opset=opset)
    done = proven(model, output=form)
    dims = done.model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, M]


def test_native_values_are_those_of_numpy() -> None:
    """Each cell of the map sums to 1, and no cell knows of another."""

    model = head(lambda net, flat: net.op("Softmax", net.fc(flat, FEATURES, M)), opset=9)
    done = proven(model)
    image = np.random.default_rng(0).standard_normal((1, 2, 31, 27)).astype(np.float32)
    made = session(complete(done))
    scores = made.run(None, {"image": image})[0]
    assert scores.shape == (1, M, 11, 10)
    np.testing.assert_allclose(scores.sum(axis=1), np.ones((1, 11, 10)), rtol=1e-5)
