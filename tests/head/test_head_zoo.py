"""Heads of published networks: prototypes, capsules, statistics, fusion of two heads, ensembles."""

from __future__ import annotations

import numpy as np
import pytest
from hazards import CHANNELS, CHECK, FEATURES, Net, bodied, head, own_crops, proven, refusal

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

M = 5
BATCHES = (1, 2, "N")


@pytest.mark.parametrize("batch", BATCHES)
def test_distance_to_prototypes(batch: int | str) -> None:
    """Squared distances of the features to five stored ones: no FC layer, and made for one size all the same."""

    def body(net: Net, flat: str) -> str:
        apart = net.op("Sub", net.axes("Unsqueeze", flat, [1]), net.random(M, FEATURES))
        return net.axes("ReduceSum", net.op("Mul", apart, apart), [2], keepdims=0)

    proven(head(body, batch=batch))


@pytest.mark.parametrize("batch", BATCHES)
def test_deviation_over_the_places(batch: int | str) -> None:
    """x.flatten(2).std(2): each window has its own mean, not that of the whole image."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(0, CHANNELS, -1))
        apart = net.op("Sub", rows, net.axes("ReduceMean", rows, [2], keepdims=1))
        mean = net.axes("ReduceMean", net.op("Mul", apart, apart), [2], keepdims=0)
        return net.fc(net.op("Sqrt", mean), CHANNELS, M)

    proven(bodied(body, batch=batch))


@pytest.mark.parametrize("batch", BATCHES)
def test_outer_product_of_two_heads(batch: int | str) -> None:
    def body(net: Net, flat: str) -> str:
        column = net.axes("Unsqueeze", net.fc(flat, FEATURES, 4), [2])
        row = net.axes("Unsqueeze", net.fc(flat, FEATURES, 3), [1])
        return net.fc(net.op("Flatten", net.op("MatMul", column, row)), 12, M)

    proven(head(body, batch=batch))


def test_gram_matrix_of_the_places() -> None:
    """(N, C, H * W) times its transpose, as bilinear pooling has it: each window has its own."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(0, CHANNELS, -1))
        gram = net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1]))
        return net.fc(net.op("Flatten", gram), CHANNELS * CHANNELS, M)

    proven(bodied(body))


@pytest.mark.parametrize("batch", BATCHES)
def test_votes_of_capsules(batch: int | str) -> None:
    """Constant matrices (1, 3, 5, 2) times features (N, 3, 2, 1)."""

    def body(net: Net, flat: str) -> str:
        capsules = net.op("Reshape", net.fc(flat, FEATURES, 6), net.ints(-1, 3, 2, 1))
        return str(net.op("MatMul", net.random(1, 3, M, 2), capsules))

    proven(head(body, batch=batch))


def test_matrix_of_each_image_is_refused() -> None:
    """A side input (N, 6, 4) times features: which image's, once the grid is in the batch?"""

    def body(net: Net, flat: str) -> str:
        rows = net.op("Reshape", net.fc(flat, FEATURES, 12), net.ints(-1, 2, 6))
        side = net.op("Reshape", net.input("side", [2, 24]), net.ints(-1, 6, 4))
        return str(net.op("MatMul", rows, side))

    assert refusal(head(body, batch=2)).code == "mixes-batch"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_of_a_stack_ahead_of_the_batch(keepdims: int, batch: int | str) -> None:
    """torch.stack([...], 0).mean(0)."""

    def body(net: Net, flat: str) -> str:
        members = [net.axes("Unsqueeze", net.op("Tanh", net.fc(flat, FEATURES, M)), [0]) for _ in range(3)]
        mean = net.axes("ReduceMean", net.op("Concat", *members, axis=0), [0], keepdims=keepdims)
        return net.axes("Squeeze", mean, [0]) if keepdims else mean

    proven(head(body, batch=batch))


def test_groups_of_features_normalised() -> None:
    """GroupNorm of a vector as an older exporter writes it: five groups that are no groups of the map's channels."""

    def body(net: Net, flat: str) -> str:
        groups = net.op("Reshape", flat, net.ints(0, 5, -1))
        normal = net.op("InstanceNormalization", groups, net.const(np.ones(5)), net.const(np.zeros(5)))
        return net.fc(net.op("Reshape", normal, net.ints(0, -1)), FEATURES, M)

    model = head(body, batch=2)
    assert own_crops(model, proven(model)) < 1e-4


@pytest.mark.parametrize("output", ["map", "mean", "max"])
def test_output_that_is_listed_twice(output: str) -> None:
    net = Net()
    scores = net.fc(net.flat(), FEATURES, M)
    done = rewrite(net.model(scores, scores, infer=False), options=RewriteOptions(output=output), check_options=CHECK)
    assert [info.name for info in done.model.graph.output] == [scores] * 2


@pytest.mark.parametrize("batch", BATCHES)
def test_excitation_by_einsum(batch: int | str) -> None:
    """bchw,bc->bchw: the pool stays global, and what it scales stays a map."""

    def body(net: Net, tensor: str) -> str:
        gate = net.op("Sigmoid", net.op("Flatten", net.op("GlobalAveragePool", tensor)))
        excited = net.op("Einsum", tensor, gate, equation="bchw,bc->bchw")
        return str(net.op("Conv", excited, net.random(M, CHANNELS, 1, 1)))

    done = rewrite(bodied(body, batch=batch), check_options=CHECK)
    assert done.claim.outputs[0].form == "features"
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context"}


def test_soft_argmax() -> None:
    """The expectation of stored coordinates under a softmax over the places: made for one size."""

    def body(net: Net, tensor: str) -> str:
        near = net.op("Softmax", net.op("Reshape", tensor, net.ints(0, CHANNELS, -1)), axis=-1)
        return net.axes("ReduceSum", net.op("Mul", near, net.random(20)), [2], keepdims=0)

    proven(bodied(body))


def test_normalisation_that_locks_a_dense_network_is_named() -> None:
    def body(net: Net, tensor: str) -> str:
        normal = net.op("LayerNormalization", tensor, net.random(CHANNELS, 5, 4), axis=1)
        return str(net.op("Conv", normal, net.random(M, CHANNELS, 1, 1)))

    found = refusal(bodied(body))
    assert found.code == "size-locked"
    assert "layernormalization" in found.node


@pytest.mark.parametrize("again", [True, False])
def test_groups_of_channels_normalised_over_the_map_or_over_the_window(again: bool) -> None:
    """GroupNorm of a map goes back to its shape; what stays flat is a vector, with statistics of its own window."""

    def body(net: Net, tensor: str) -> str:
        group = net.op("Reshape", tensor, net.ints(0, 1, -1))
        normal = net.op("InstanceNormalization", group, net.const(np.ones(1)), net.const(np.zeros(1)))
        if again:
            normal = net.op("Relu", net.op("Reshape", normal, net.ints(0, CHANNELS, 5, 4)))
        return net.fc(net.op("Flatten", normal), FEATURES, M)

    proven(bodied(body, batch=2), exact=not again)
