"""Which axis of a Gather's table counts blocks of places: hand-written graphs, as both readings may fit a table."""

from __future__ import annotations

import numpy as np
import pytest
from hazards import Net

from onnxfc.analysis.picked_blocks import Blocks, picked_blocks
from onnxfc.graph.index import Graph

WIDTH = 16


def table(count: int, step: int, size: int, dilation: int = 1) -> np.ndarray:
    """(blocks, places of a block)."""
    return np.arange(count)[:, None] * step + np.arange(size) * dilation


def read(index: np.ndarray, *then: str, axis: int = 2) -> Blocks | None:
    """What a Gather from (1, 2, 16, 16) picks; ``then``: what is done to its result."""
    net = Net(17)
    name = net.op("Gather", net.image(1, (WIDTH, WIDTH), 2), net.const(index, dtype=np.int64), axis=axis)
    for kind in then:
        perm = {"last": (0, 1, 2, 4, 3), "first": (0, 1, 3, 2, 4)}
        if kind == "gather":
            name = net.op("Gather", name, net.const(index, dtype=np.int64), axis=axis % 4 + 2)
        else:
            name = net.op("Transpose", name, perm=perm[kind])
    graph = Graph(net.model(name))
    node = next(node for node in graph.nodes if node.op_type == "Gather")
    return picked_blocks(graph, node, index, WIDTH, 4)


def test_a_table_may_tell_by_itself() -> None:
    """Windows that end ahead of the border, or with places that lie apart; a kernel of two steps."""
    assert read(table(2, 7, 7)) == Blocks(7, 1, first=True)
    assert read(table(7, 2, 3).T) == Blocks(2, 1, first=False)
    assert read(table(6, 2, 3, 2).T) == Blocks(2, 2, first=False)
    assert read(np.array([[0, 1, 3], [4, 5, 7]])) is None


@pytest.mark.parametrize("axis", [2, -2])
def test_im2col_picks_along_both_axes_one_after_the_other(axis: int) -> None:
    """A kernel of two places, eight apart, at each of eight places: the same numbers as two windows of eight."""
    both = table(2, 8, 8)
    assert read(both, "gather", axis=axis) == Blocks(1, 8, first=False)
    assert read(both, "last", axis=axis) == Blocks(8, 1, first=True)
    assert read(both, axis=axis) == Blocks(8, 1, first=True)


def test_windows_around_each_place() -> None:
    """At a step of one nothing tells them from a kernel, but that their places are moved behind all axes."""
    around = table(14, 1, 3)
    assert read(around, "last") == Blocks(1, 1, first=True)
    assert read(around, "gather") == Blocks(1, 1, first=False)
    assert read(around, axis=3) == Blocks(1, 1, first=True)
    assert read(around, "first") is None
    assert read(around) is None
