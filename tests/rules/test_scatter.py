"""Slice assignment: ScatterND and ScatterElements of blocks, against the original with its dims freed or on crops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, CHECK, WINDOW, Net, complete, proven, refusal, session

from onnxfc import RewriteOptions, rewrite

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


def bordered(turned: bool) -> onnx.ModelProto:
    """SuperPoint's removal of what lies at the border: two rows ahead, one column behind, of a map without channels.
    ``turned``: as dynamo has it, with the axis that is cut ahead."""
    net = Net(18)
    made = net.op("ReduceMax", net.trunk(), net.ints(1), keepdims=0, out="scores")
    for axis, rows in ((1, range(2)), (2, range(W - 1, W))):
        perm = [axis, *(k for k in range(3) if k != axis)] if turned else [0, 1, 2]
        shape = [(1, H, W)[k] for k in perm]
        shape[perm.index(axis)] = len(rows)
        every = [rows if k == axis else range((1, H, W)[k]) for k in perm][: perm.index(axis) + 1]
        made = net.op("Transpose", made, perm=perm) if turned else made
        made = net.op("ScatterND", made, net.const(places(*every), dtype=np.int64), net.const(np.full(shape, -1.0)))
        made = net.op("Transpose", made, perm=np.argsort(perm).tolist()) if turned else made
    return net.model("scores", made)


@pytest.mark.parametrize("turned", [False, True])
def test_a_border_that_is_filled_is_as_wide_at_any_size(turned: bool) -> None:
    original = bordered(turned)
    done = rewrite(original, check_options=CHECK)
    assert {str(blame).split(":")[0] for blame in done.claim.blames} == {"padding"}
    for size in ((11, 9), (14, 13), (23, 10), (31, 40)):
        image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
        scores, got = session(complete(done)).run(None, {"image": image})
        want = scores.copy()
        want[:, :2] = want[:, :, -1:] = -1
        np.testing.assert_array_equal(got, want)


def test_a_border_ahead_of_a_head() -> None:
    """Two channels of the last row: a figure of all of the map is that of numpy's; cells are no crops at the border."""
    index = places(range(1), range(1, 3), range(H - 1, H))
    original = written("ScatterND", index, (1, 2, 1, W))
    proven(original, exact=False)
    done = proven(original, exact=False, global_pool="keep")
    trunk = rewrite(original, options=RewriteOptions(output_at=("tanh_4",)), prove=False)
    image = np.random.default_rng(0).standard_normal((1, 2, 21, 15)).astype(np.float32)
    [features] = session(complete(trunk)).run(None, {"image": image})
    features[:, 1:3, -1:] = 0.5
    weight, bias = (
        next(t for t in original.graph.initializer if t.name == n) for n in original.graph.node[-1].input[1:]
    )
    want = features.mean((2, 3)) @ onnx.numpy_helper.to_array(weight).T + onnx.numpy_helper.to_array(bias)
    [got] = session(complete(done)).run(None, {"image": image})
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_half_of_a_map_or_a_corner_is_no_border() -> None:
    for index, updates in (
        (places(range(1), range(CHANNELS), range(2), range(2)), (1, CHANNELS, 2, 2)),
        (places(range(1), range(CHANNELS), range(3)), (1, CHANNELS, 3, W)),
    ):
        assert refusal(written("ScatterND", index, updates)).code == "cut-out"
