"""Slice assignment: ScatterND and ScatterElements of blocks, against the original with its dims freed or on crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, WINDOW, Net, proven, refusal

H, W = WINDOW
SHAPE = (1, CHANNELS, H, W)


def places(*bounds: range) -> np.ndarray:
    """What a ScatterND writes to: all places between bounds of the leading axes."""
    return np.stack(np.meshgrid(*bounds, indexing="ij"), -1)


def written(kind: str, index: np.ndarray, updates: Any, **attributes: Any) -> onnx.ModelProto:
    """The usual trunk, written into, then a pool and an FC layer. ``updates``: a shape of zeros, or channels of it."""
    net = Net(18)
    trunk = net.trunk()
    new = net.const(np.full(updates, 0.5)) if isinstance(updates, tuple) else updates(net, trunk)
    made = net.op(kind, trunk, net.const(index, dtype=np.int64), new, **attributes)
    return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", made)), CHANNELS, 5))


def first_two(net: Net, tensor: str) -> str:
    return str(net.op("Slice", tensor, net.ints(0), net.ints(2), net.ints(1)))


def within(net: Net, tensor: str) -> str:
    """Without its first row, and its last column."""
    return str(net.op("Slice", tensor, net.ints(1, 0), net.ints(2**31, -1), net.ints(2, 3)))


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("updates", [(1, 2, H, W), first_two])
def test_channels_are_written(updates: Any, negative: bool) -> None:
    """x[:, 1:3] = y, of any image size: exact, for nothing is padded."""
    index = places(range(1), range(1, 3)) - np.array([0, CHANNELS if negative else 0])
    proven(written("ScatterND", index, updates))
    along = np.broadcast_to(np.array([1, 2]).reshape(1, 2, 1, 1), (1, 2, H, W))
    proven(written("ScatterElements", along, updates, axis=1))


def test_places_are_written_behind_a_border() -> None:
    """x[:, :, 1:, :-1] = y leaves a row and a column as they are at every size: they are no part of a crop."""
    index = places(range(1), range(CHANNELS), range(1, H), range(W - 1))
    done = proven(written("ScatterND", index, within), exact=False)
    assert [str(blame).split(":")[0] for blame in done.claim.blames] == ["padding"]


@pytest.mark.parametrize(
    ("index", "updates", "more"),
    [
        (places(range(1), range(0, 3, 2)), (1, 2, H, W), {}),
        (places(range(1), range(CHANNELS), range(1, 3)), (1, CHANNELS, 2, W), {}),
        (places(range(1), range(1, 3))[:, ::-1], (1, 2, H, W), {}),
        (places(range(1), range(1, 3)), (1, 2, H, W), {"reduction": "add"}),
    ],
    ids=["every second channel", "rows of a constant", "backwards", "added"],
)
def test_what_is_no_block_is_refused(index: np.ndarray, updates: Any, more: dict[str, str]) -> None:
    found = refusal(written("ScatterND", index, updates, **more))
    assert found.code == "cut-out"
    assert found.node.startswith("node_scatternd")


def test_values_of_their_own_for_every_place_are_a_table() -> None:
    def table(net: Net, _: str) -> str:
        return net.random(1, 2, H, W)

    assert refusal(written("ScatterND", places(range(1), range(1, 3)), table)).code == "position-table"
