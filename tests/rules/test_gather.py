"""Look-ups by computed places: class numbers, sorted scores, tables, masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hazards import CHANNELS, FEATURES, Net, bodied, head, proven, refusal

M = 6


def scores(net: Net, flat: str, count: int = M) -> str:
    return net.fc(flat, FEATURES, count)


def best(net: Net, flat: str, keepdims: int) -> str:
    return str(net.op("ArgMax", scores(net, flat), axis=-1, keepdims=keepdims))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_one_hot_of_the_best_class(batch: int | str, axis: int) -> None:
    def body(net: Net, flat: str) -> str:
        hot = net.op("OneHot", best(net, flat, 0), net.ints(M), net.const([0.0, 1.0]), axis=axis)
        return str(net.op("Mul", hot, scores(net, flat)))

    proven(head(body, batch=batch))


def test_one_hot_ahead_of_the_features() -> None:
    def body(net: Net, flat: str) -> str:
        hot = net.op("OneHot", best(net, flat, 1), net.ints(M), net.const([0.0, 1.0]), axis=1)
        return str(net.op("Mul", hot, net.axes("Unsqueeze", scores(net, flat), [-1])))

    proven(head(body, batch=2))


def test_one_hot_ahead_of_the_batch_is_refused() -> None:
    model = head(
        lambda net, flat: net.op("OneHot", best(net, flat, 0), net.ints(M), net.const([0.0, 1.0]), axis=0), batch=2
    )
    assert refusal(model).code == "mixes-batch"


@pytest.mark.parametrize("batch", [1, 2, "N"])
@pytest.mark.parametrize("rows", [(), (3,), (2, 2)])
def test_table_read_by_class_number(rows: tuple[int, ...], batch: int | str) -> None:
    """The table's own axes follow the features, and the grid stays last."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Gather", net.random(M, *rows), best(net, flat, 1), axis=0))

    done = proven(head(body, batch=batch))
    assert done.claim.outputs[0].axes == (2 + len(rows), 3 + len(rows))


def test_table_read_along_its_last_axis_is_refused() -> None:
    model = head(lambda net, flat: net.op("Gather", net.random(3, M), best(net, flat, 1), axis=1))
    assert refusal(model).code == "mixes-batch"


def test_scores_read_by_class_number_of_every_image_are_refused() -> None:
    """Gather along the classes with computed numbers pairs every image with every other."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Gather", scores(net, flat), best(net, flat, 0), axis=1))

    assert refusal(head(body, batch=2)).code == "mixes-batch"


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_gather_elements(batch: int | str) -> None:
    """One head's score at the class that the other head found."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("GatherElements", net.fc(flat, FEATURES, M), best(net, flat, 1), axis=-1))

    proven(head(body, batch=batch))


def test_gather_elements_from_the_window() -> None:
    def body(net: Net, flat: str) -> str:
        return str(net.op("GatherElements", flat, best(net, flat, 1), axis=1))

    proven(head(body))


def test_gather_elements_by_constant_places() -> None:
    def body(net: Net, flat: str) -> str:
        picked = net.op("GatherElements", scores(net, flat), net.ints([4, 0, 0]), axis=1)
        return str(net.op("Tanh", picked))

    proven(head(body))


def test_gather_elements_along_the_batch_is_refused() -> None:
    model = head(
        lambda net, flat: net.op("GatherElements", scores(net, flat), net.ints([0, 1, 0], [1, 0, 1]), axis=0), batch=2
    )
    assert refusal(model).code == "mixes-batch"


def test_scatter_elements_masks_the_best_class() -> None:
    """The second best score, by laying a small number over the best."""

    def body(net: Net, flat: str) -> str:
        found = scores(net, flat)
        place = net.op("ArgMax", found, axis=1, keepdims=1)
        masked = net.op("ScatterElements", found, place, net.const([[-1e3]]), axis=1)
        return str(net.axes("ReduceMax", masked, [1], keepdims=1))

    proven(head(body, batch=1))


@pytest.mark.parametrize("upper", [0, 1])
def test_triangle_of_pairs(upper: int) -> None:
    def body(net: Net, flat: str) -> str:
        pairs = net.op("Reshape", scores(net, flat, 9), net.ints(-1, 3, 3))
        return str(net.op("Trilu", pairs, upper=upper))

    proven(head(body, batch=2))


def test_triangle_of_the_batch_is_refused() -> None:
    model = head(lambda net, flat: net.op("Trilu", scores(net, flat)), batch=2)
    assert refusal(model).code == "mixes-batch"


@pytest.mark.parametrize(("kind", "mask"), [("BitwiseAnd", 7), ("BitwiseOr", 8), ("BitwiseXor", 8)])
def test_bits_of_class_numbers(kind: str, mask: int) -> None:
    def body(net: Net, flat: str) -> Any:
        bits = net.op(kind, best(net, flat, 1), net.ints(mask))
        return net.op("Cast", net.op("BitwiseNot", bits), to=1)

    proven(head(body, opset=18, batch=2))


def test_cast_like() -> None:
    proven(head(lambda net, flat: net.op("CastLike", best(net, flat, 1), net.const(np.float32(0))), batch=2))


def test_table_read_by_the_map_s_own_numbers() -> None:
    """A palette: every place's best channel picks a row, whose numbers are channels again (last)."""

    def body(net: Net, tensor: str) -> str:
        best = net.op("ArgMax", tensor, axis=1, keepdims=0)
        rows = net.op("Gather", net.random(CHANNELS, 4), best, axis=0)
        return net.fc(net.op("Flatten", rows), 4 * 20, M)

    proven(bodied(body))


@pytest.mark.parametrize("kind", ["Gather", "GatherElements"])
def test_without_a_batch_axis(kind: str) -> None:
    """Reshape to (F,) took the batch of 1 away; axes are counted without it."""

    def body(net: Net, tensor: str) -> str:
        found = net.op("MatMul", net.op("Reshape", tensor, net.ints(-1)), net.random(FEATURES, M))
        place = net.op("ArgMax", found, axis=0)
        data = net.random(M, 3) if kind == "Gather" else found
        return str(net.op(kind, data, place, **({"axis": 0} if kind == "Gather" else {})))

    proven(bodied(body))
