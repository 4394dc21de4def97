"""Kept global: means that are written as a sum by the native count of its places, a plain number of the file.

What is right at another size is the same network, made for that size: there the number is another one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

NATIVE, OTHERS = (17, 13), ((17, 25), (29, 13), (33, 27))
C = 4
Figure = Callable[[Net, str, tuple[int, int]], str]
"""A figure of a map that has so many places."""


def network(figure: Figure, size: tuple[int, int]) -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.conv(net.image(size=size), 2, C))
    return net.model(figure(net, x, ((size[0] - 1) // 2, (size[1] - 1) // 2)))


def by(net: Net, x: str, *numbers: float) -> str:
    for number in numbers:
        x = net.op("Div", x, net.const(np.float32(number)))
    return x


def total(net: Net, x: str, *axes: int, keepdims: int = 0) -> str:
    return net.axes("ReduceSum", x, axes, keepdims=keepdims)


def as_result(net: Net, x: str, size: tuple[int, int]) -> str:
    return by(net, total(net, x, 2, 3), math.prod(size))


def scaled_first(net: Net, x: str, size: tuple[int, int]) -> str:
    return by(net, net.op("Mul", total(net, x, 2, 3), net.const(3.0)), math.prod(size))


def over_channels_too(net: Net, x: str, size: tuple[int, int]) -> str:
    return by(net, total(net, x, 1, 2, 3), C * math.prod(size))


def of_rows(net: Net, x: str, size: tuple[int, int]) -> str:
    """Means of rows, and what is largest of these."""
    return net.fc(net.axes("ReduceMax", by(net, total(net, x, 3), size[1]), (2,), keepdims=0), C, 5)


def of_rows_then_columns(net: Net, x: str, size: tuple[int, int]) -> str:
    return net.fc(by(net, total(net, by(net, total(net, x, 3), size[1]), 2), size[0]), C, 5)


def counts(net: Net, x: str, size: tuple[int, int]) -> str:
    """Two counts side by side, of all channels and of each, in another unit and counted from another number."""
    each, every = total(net, x, 2, 3), net.axes("Unsqueeze", total(net, x, 1, 2, 3), (1,))
    both = net.op("Concat", each, every, axis=1)
    return str(net.op("Add", net.op("Mul", both, net.const(0.01)), net.const(1.0)))


def beside_context(net: Net, x: str, size: tuple[int, int]) -> str:
    """What a Softmax weighed, summed up, and added to the map that is averaged then: no share of its places."""
    rows = net.op("Reshape", x, net.ints(1, C, -1))
    summed = net.axes("ReduceSum", net.op("Mul", rows, net.op("Softmax", rows, axis=2)), (2,), keepdims=1)
    made = net.op("Add", x, net.op("Unsqueeze", summed, net.ints(3)))
    return net.fc(net.axes("ReduceMean", made, (2, 3), keepdims=0), C, 5)


MEANS = (beside_context, counts, as_result, scaled_first, over_channels_too, of_rows, of_rows_then_columns)


@pytest.mark.parametrize("figure", MEANS)
def test_a_mean_by_hand_or_a_count(figure: Figure) -> None:
    done = complete(rewrite(network(figure, NATIVE), options=RewriteOptions(global_pool="keep"), check_options=CHECK))
    for size in (NATIVE, *OTHERS):
        image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
        [want], [made] = (session(model).run(None, {"image": image}) for model in (network(figure, size), done))
        np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def weighed(net: Net, x: str, size: tuple[int, int], divided: bool) -> str:
    """A sum over places of what a Softmax or norm shares out, times how many there are."""
    rows = net.op("Reshape", x, net.ints(1, C, -1))
    shares = net.op("Mul", net.op("Softmax", rows, axis=2), net.const(float(math.prod(size))))
    summed = total(net, net.op("Mul", rows, shares), 2)
    return net.fc(by(net, summed, math.prod(size)) if divided else summed, C, 5)


def test_shares_times_their_number_that_are_summed_up() -> None:
    found = refusal(network(lambda *given: weighed(*given, divided=False), NATIVE), global_pool="keep")
    why = (
        "Gemm has sums of what a Softmax or norm shares out, scaled by the native number of its places, a plain number"
    )
    assert (found.code, found.reason) == ("size-locked", why)


def rows_then_all(net: Net, x: str, size: tuple[int, int]) -> str:
    """A mean of rows, of which the mean is taken, times how long a row is."""
    rows = net.axes("ReduceMean", x, (3,), keepdims=0)
    return net.op("Mul", net.axes("ReduceMean", rows, (2,), keepdims=0), net.const(float(size[1])))


def rows_then_most(net: Net, x: str, size: tuple[int, int]) -> str:
    rows = net.axes("ReduceMean", x, (3,), keepdims=0)
    return net.op("Mul", net.axes("ReduceMax", rows, (2,), keepdims=0), net.const(float(size[1])))


def weighed_rows(net: Net, x: str, size: tuple[int, int]) -> str:
    """Rows weighed by a Softmax along each, summed up, and the mean of that times how long a row is."""
    summed = total(net, net.op("Mul", x, net.op("Softmax", x, axis=3)), 3)
    mean = net.axes("ReduceMean", summed, (2,), keepdims=0)
    return net.fc(net.op("Mul", mean, net.const(float(size[1]))), C, 5)


def weighed_places(net: Net, x: str, size: tuple[int, int]) -> str:
    """Places weighed by a Softmax over all, summed up, times how long a row is."""
    rows = net.op("Reshape", x, net.ints(1, C, -1))
    summed = total(net, net.op("Mul", rows, net.op("Softmax", rows, axis=2)), 2)
    return net.fc(net.op("Mul", summed, net.const(float(size[1]))), C, 5)


@pytest.mark.parametrize("free", [("height", "width"), ("width",)])
@pytest.mark.parametrize(
    ("figure", "code"),
    [
        (rows_then_all, "sum-over-image"),
        (rows_then_most, "sum-over-image"),
        (weighed_rows, "size-locked"),
        (weighed_places, "size-locked"),
    ],
)
def test_figures_of_the_image_times_the_length_of_a_row(figure: Figure, code: str, free: tuple[str, ...]) -> None:
    """20 rows of 22 places: at another width that is another number."""
    found = refusal(network(figure, (41, 45)), global_pool="keep", free=free)
    assert found.code == code or (figure, found.code) == (weighed_rows, "softmax-over-space")


@pytest.mark.parametrize("free", [("height", "width"), ("width",)])
def test_figures_of_the_image_times_another_number(free: tuple[str, ...]) -> None:
    """As the same network is for another size: 10 is no length of its map."""
    options, other = RewriteOptions(global_pool="keep", free=free), (41, 61)
    for figure in (rows_then_all, weighed_places):

        def scaled(net: Net, x: str, size: tuple[int, int], figure: Figure = figure) -> str:
            return figure(net, x, (10, 10))

        done = complete(rewrite(network(scaled, (41, 45)), options=options, check_options=CHECK))
        image = np.random.default_rng(0).standard_normal((1, 2, *other)).astype(np.float32)
        [want], [made] = (session(model).run(None, {"image": image}) for model in (network(scaled, other), done))
        np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_shares_times_their_number_whose_sum_is_divided_by_it() -> None:
    test_a_mean_by_hand_or_a_count(lambda *given: weighed(*given, divided=True))


@pytest.mark.parametrize("number", [3 / 48, 1 / 6, C / (C * 48), 2 / (C * 48), 1 / 48, 7.5 / 48, 1 / (17 * 13)])
def test_a_sum_times_what_may_be_one_of_its_places(number: float) -> None:
    """Three times the mean as one number, a sum divided by the width: no counts, and no means that are known."""

    def figure(net: Net, x: str, size: tuple[int, int]) -> str:
        return str(net.op("Mul", total(net, x, 1, 2, 3), net.const(np.float32(number))))

    assert refusal(network(figure, NATIVE), global_pool="keep").code == "sum-over-image"


def divided_first(net: Net, x: str, size: tuple[int, int]) -> str:
    return total(net, by(net, x, math.prod(size)), 2, 3)


def squared(net: Net, x: str, size: tuple[int, int]) -> str:
    rooted = by(net, x, math.sqrt(math.prod(size)))
    return total(net, net.op("Mul", rooted, rooted), 2, 3)


def mean(net: Net, x: str, *numbers: float) -> str:
    made = net.axes("ReduceMean", x, (2, 3), keepdims=0)
    for number in numbers:
        made = net.op("Mul", made, net.const(np.float32(number)))
    return str(made)


def of_a_row(net: Net, x: str, size: tuple[int, int]) -> str:
    return mean(net, x, size[1])


def twice(net: Net, x: str, size: tuple[int, int]) -> str:
    return mean(net, x, 2 * math.prod(size))


def by_pixels(net: Net, x: str, size: tuple[int, int]) -> str:
    return net.fc(mean(net, x, 2 * size[0] + 1, 2 * size[1] + 1), C, 5)


@pytest.mark.parametrize("figure", [divided_first, squared, of_a_row, twice, by_pixels])
def test_numbers_before_a_sum_and_behind_a_mean(figure: Figure) -> None:
    """Places are divided by their number ahead of the sum, or a mean is taken some times: by what follows the size."""
    assert refusal(network(figure, NATIVE), global_pool="keep").code == "sum-over-image"


@pytest.mark.parametrize("number", [3 * 48, 24, 17 * 13])
def test_shares_times_what_may_be_made_of_their_number(number: int) -> None:
    def figure(net: Net, x: str, size: tuple[int, int]) -> str:
        rows = net.op("Reshape", x, net.ints(1, C, -1))
        shares = net.op("Mul", net.op("Softmax", rows, axis=2), net.const(float(number)))
        return total(net, net.op("Mul", rows, shares), 2)

    assert refusal(network(figure, NATIVE), global_pool="keep").code == "size-locked"


def test_a_count_in_integers_is_not_rounded_to_the_native_scale() -> None:
    """The share of places above a threshold, as PyTorch counts a mask."""

    def figure(net: Net, x: str, size: tuple[int, int]) -> str:
        mask = net.op("Cast", net.op("Greater", x, net.const(0.3)), to=onnx.TensorProto.INT64)
        count = net.op("Cast", total(net, mask, 2, 3), to=onnx.TensorProto.FLOAT)
        return by(net, count, math.prod(size))

    found = refusal(network(figure, NATIVE), global_pool="keep", free=("height",))
    assert (found.code, found.reason) == (
        "size-locked",
        "ReduceSum cannot run at another image size: it counts in integers, which are rounded at the scale of the "
        "native size",
    )
