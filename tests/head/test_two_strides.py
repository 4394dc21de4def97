"""Heads on two strides of a trunk meet on their common grid, in every operator set."""

from __future__ import annotations

import pytest
from hazards import Net, proven


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
