"""Heads on two strides of a trunk meet on their common grid, in every operator set."""

from __future__ import annotations

import numpy as np
import pytest
from hazards import Net, complete, own_crops, proven, refusal, session


@pytest.mark.parametrize(("opset", "picks"), [(9, "MaxPool"), (11, "Slice"), (17, "Slice")])
def test_the_finer_grid_is_picked_from(opset: int, picks: str) -> None:
    """Slice has no steps before operator set 10. Without padding, cells are the original's on crops."""
    net = Net(opset)
    x = net.op("Relu", net.conv(net.image(1, (16, 16), 1), 1, 4, strides=[1, 1]))
    y = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    fine, coarse = net.fc(net.op("Flatten", x), 4 * 14 * 14, 5), net.fc(net.op("Flatten", y), 4 * 7 * 7, 5)
    done = proven(net.model(net.op("Add", fine, coarse)))
    assert done.claim.stride == (2, 2)
    assert [node.op_type for node in done.model.graph.node][5] == picks


@pytest.mark.parametrize("opset", [9, 17])
def test_every_second_of_cells_that_are_in_pairs(opset: int) -> None:
    """A pool of one element goes over the pairs as well, along which nothing is left out."""
    net = Net(opset)
    fine = net.op("Tanh", net.conv(net.input("image", [1, 1, 7]), 1, 2, (1,), strides=[1]))
    finer = net.op("ConvTranspose", fine, net.random(2, 2, 2), strides=[2])
    pairs = net.op("Reshape", net.fc(net.op("Flatten", finer), 28, 4), net.ints(1, 2, 2))
    model = net.model(net.fc(net.op("Flatten", fine), 14, 3), pairs)
    done = proven(model)
    assert [output.axes for output in done.claim.outputs] == [(2,), (3,)]
    assert own_crops(model, done, more=(3,)) < 1e-5


@pytest.mark.parametrize("opset", [9, 11, 12])
def test_outputs_that_round_apart_are_cut_to_as_many_cells(opset: int) -> None:
    """At 13 pixels they have three and four cells; before operator set 12 nothing cuts them to as many."""
    net = Net(opset)
    fine = net.op("Relu", net.conv(net.input("image", [1, 1, 8]), 1, 2, (2,), strides=[1]))
    coarse = net.op("MaxPool", fine, kernel_shape=[2], strides=[2])
    model = net.model(net.fc(net.op("Flatten", fine), 14, 3), net.fc(net.op("Flatten", coarse), 6, 4))
    if opset < 12:
        found = refusal(model)
        assert (found.code, found.advice) == ("old-opset", "convert it with onnx.version_converter")
        return
    done = proven(model)
    values = session(complete(done)).run(None, {"image": np.ones((1, 1, 13), np.float32)})
    assert [value.shape for value in values] == [(1, 3, 3), (1, 4, 3)]


@pytest.mark.parametrize("features", [1, 2])
def test_outputs_of_other_forms_that_round_apart_are_cut_too(features: int) -> None:
    """An early exit beside a pool that no FC layer reads, whose scores may have more axes than one."""
    net = Net(13)
    fine = net.op("Relu", net.conv(net.input("image", [1, 1, 8]), 1, 2, (2,), strides=[1]))
    coarse = net.op("MaxPool", fine, kernel_shape=[2], strides=[2])
    pooled = net.op("Flatten", net.op("GlobalMaxPool", coarse))
    if features == 2:
        pooled = net.op("Reshape", pooled, net.ints(1, 2, 1))
    done = proven(net.model(net.fc(net.op("Flatten", fine), 14, 3), pooled))
    image = np.random.default_rng(0).standard_normal((1, 1, 13)).astype(np.float32)
    scores, highest = session(complete(done)).run(None, {"image": image})
    assert scores.shape == (1, 3, 3)
    original = session(net.model(pooled))
    for cell in range(3):
        (crop,) = original.run(None, {"image": image[:, :, 2 * cell : 2 * cell + 8]})
        np.testing.assert_allclose(highest[:, :, cell], crop.reshape(1, 2), rtol=1e-5)


def test_an_fc_layer_inside_may_have_more_cells_than_outputs() -> None:
    """That of the finer map, before a second one: the outputs alone are cut to as many."""
    net = Net(13)
    fine = net.op("Relu", net.conv(net.input("image", [1, 1, 11]), 1, 2, (1,), strides=[1]))
    coarse = net.op("MaxPool", fine, kernel_shape=[3], strides=[3])
    inner = net.fc(net.op("Flatten", coarse), 6, 4)
    done = proven(net.model(net.fc(net.op("Relu", inner), 4, 2), net.fc(net.op("Flatten", fine), 22, 3)))
    assert inner in {layer.original for layer in done.claim.layers}
    values = session(complete(done)).run(None, {"image": np.ones((1, 1, 18), np.float32)})
    assert [value.shape for value in values] == [(1, 2, 3), (1, 3, 3)]


@pytest.mark.parametrize("deepest", [False, True], ids=["the first exit first", "the last exit first"])
def test_exits_at_several_depths_read_more_together(deepest: bool) -> None:
    """A cell reads what any of its scores does, whatever the order of the outputs."""
    net = Net(17)
    first = net.op("Relu", net.conv(net.image(1, (16, 16), 2), 2, 3, strides=[2, 2], pads=[1, 1, 1, 1]))
    second = net.op("Relu", net.conv(first, 3, 4, strides=[2, 2], pads=[1, 1, 1, 1]))
    outputs = [net.fc(net.op("Flatten", first), 192, 3), net.fc(net.op("Flatten", second), 64, 4)]
    claim = proven(net.model(*outputs[:: -1 if deepest else 1]), exact=False).claim
    fields = {output.name: (output.start, output.size) for output in claim.outputs}
    assert fields == {outputs[0]: ((-1, -1), (17, 17)), outputs[1]: ((-3, -3), (19, 19))}
    assert (claim.start, claim.size) == ((-3, -3), (19, 19))
