"""Why nothing of a network can be rewritten: the node that is named, and the words for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hazards import Net, refusal

from onnxfc.errors import Refusal


def refused(end: Callable[[Net, str], str]) -> Refusal:
    net = Net(17)
    return refusal(net.model(end(net, net.conv(net.image(1, (16, 16), 1), 1, 4, strides=[1, 1]))))


def cut(net: Net, x: str) -> str:
    return net.op("Slice", x, net.ints(2, 2), net.ints(6, 6), net.ints(2, 3))


@pytest.mark.parametrize("flat", [False, True])
def test_a_piece_that_no_head_reads_is_refused_where_it_is_cut(flat: bool) -> None:
    found = refused(lambda net, x: net.op("Flatten", cut(net, x)) if flat else cut(net, x))
    assert found.code == "cut-out"
    assert found.node.startswith("node_slice")
    assert found.reason == "Slice cuts a piece out of the map of the native size, and no FC layer or pool reads it"


def test_places_that_no_head_reads_are_refused_where_they_are_picked() -> None:
    found = refused(lambda net, x: net.op("Gather", x, net.ints(2, 3), axis=2))
    assert found.code == "cut-out"
    assert found.node.startswith("node_gather")
    assert found.reason == "Gather picks places of the map of the native size, and no FC layer or pool reads it"


def test_a_flattened_map_has_no_head() -> None:
    found = refused(lambda net, x: net.op("Flatten", x))
    assert found.code == "no-head"
    assert found.reason == "its outputs are the flattened map itself: no FC layer and no global pool reads it"
