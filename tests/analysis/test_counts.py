"""Means written as a sum by a count, however far apart the two stand: as the same network with its dims free.

A sum that no count divides keeps the scale of the native size; one that another number divides is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
C = 4
SIZE = (13, 11)
Figure = Callable[[Net, str], str]


def network(figure: Figure, free: bool = False) -> onnx.ModelProto:
    """A trunk without padding whose features are scaled by a figure of the whole map, (1, C, 1, 1)."""
    net = Net()
    x = net.op("Relu", net.conv(net.input("image", [1, 2, *(("h", "w") if free else SIZE)]), 2, C))
    scaled = net.op("Mul", x, net.op("Sigmoid", figure(net, x)))
    return net.model(net.op("Conv", scaled, net.random(3, C, 1, 1), out="map"))


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    result: np.ndarray = session(model).run(["map"], {"image": image})[0]
    return result


def assert_as_free(figure: Figure, sizes: Sequence[tuple[int, int]] = ((13, 11), (25, 31), (19, 64))) -> None:
    """The rewritten network says what the same network says whose dims were open from the start."""
    done = complete(rewrite(network(figure), check_options=CHECK))
    for size in sizes:
        image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
        want = run(network(figure, free=True), image)
        assert np.abs(run(done, image) - want).max() < 1e-5 * want.std()


def count_of(net: Net, x: str, first: int = 2, last: int = 4, less: int = 0) -> str:
    """How many elements lie on axes of the map, as a number."""
    dims = net.op("Slice", net.op("Shape", x), net.ints(first), net.ints(last))
    count = net.op("Cast", net.op("ReduceProd", dims, keepdims=0), to=1)
    return str(net.op("Sub", count, net.const(float(less)))) if less else str(count)


def total(net: Net, x: str, *axes: int) -> str:
    return net.axes("ReduceSum", x, axes or (2, 3), keepdims=1)


def idle(net: Net, tensor: str, count: int) -> str:
    """So many nodes that hang on a tensor, and say nothing in the end."""
    for _ in range(count):
        tensor = net.op("Tanh", tensor)
    return str(net.op("Mul", tensor, net.const(0.0)))


def test_case_file() -> None:
    path = CASES / "mean-divided-far-away.onnx"
    if not path.is_file():
        pytest.skip(f"not there: {path}")
    free = onnx.load(path)
    for axis, name in ((2, "h"), (3, "w")):
        free.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    image = np.random.default_rng(0).random((1, 3, 24, 24), dtype=np.float32)
    done = complete(rewrite(path, check_options=CHECK))
    gates = []
    for model in (free, done):
        model.graph.output.append(onnx.ValueInfoProto(name="Sigmoid_21"))
        gates.append(session(model).run(["Sigmoid_21"], {"image": image})[0])
    np.testing.assert_allclose(gates[1], gates[0], rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 13, 50, 300])
@pytest.mark.parametrize("on", ["sum", "map"])
def test_any_number_of_nodes_between(count: int, on: str) -> None:
    """Nodes that stand between the sum and the division, and read the sum, or the map that is summed up."""

    def figure(net: Net, x: str) -> str:
        number = count_of(net, x)
        summed = total(net, x)
        nothing = idle(net, summed if on == "sum" else net.op("GlobalMaxPool", x), count)
        return str(net.op("Add", net.op("Div", summed, number), nothing))

    assert_as_free(figure)


def test_many_nodes_on_the_way_itself() -> None:
    """Each makes a multiple of the sum."""

    def figure(net: Net, x: str) -> str:
        summed = total(net, x)
        for place in range(40):
            summed = net.op("Neg", summed) if place % 2 else net.axes("Squeeze", summed, [3])
            summed = summed if place % 2 else net.axes("Unsqueeze", summed, [3])
        return str(net.op("Div", summed, count_of(net, x)))

    assert_as_free(figure)


@pytest.mark.parametrize("late", [False, True])
def test_order_of_the_nodes_in_the_file(late: bool) -> None:
    """The count stands before the sum, or at the end; a reader's nodes stand in any order that ONNX allows."""

    def figure(net: Net, x: str) -> str:
        number = "" if late else count_of(net, x)
        first = total(net, x)
        second = total(net, net.op("Tanh", x))
        nothing = net.op("Add", idle(net, first, 20), idle(net, second, 20))
        number = number or count_of(net, x)
        both = net.op("Sub", net.op("Div", first, number), net.op("Div", second, number))
        return str(net.op("Add", both, nothing))

    assert_as_free(figure)


def test_two_sums_of_two_counts() -> None:
    """A mean over rows and one over the whole map: each by its own count."""

    def figure(net: Net, x: str) -> str:
        rows = net.op("Div", total(net, x, 3), count_of(net, x, 3, 4))
        mean = net.op("Div", total(net, net.op("Tanh", rows), 2), count_of(net, x, 2, 3))
        return str(net.op("Sub", mean, net.op("Div", total(net, x), count_of(net, x))))

    assert_as_free(figure)


def by_rows_then_columns(net: Net, x: str) -> str:
    return str(net.op("Div", net.op("Div", total(net, x), count_of(net, x, 2, 3)), count_of(net, x, 3, 4)))


def times_the_inverse(net: Net, x: str) -> str:
    return str(net.op("Mul", net.op("Reciprocal", count_of(net, x)), total(net, x)))


def of_one_element_each(net: Net, x: str) -> str:
    return str(net.op("Div", total(net, x), net.op("Reshape", count_of(net, x), net.ints(1, 1, 1, 1))))


def norm(net: Net, x: str) -> str:
    """The root of a mean of squares, by the root of the count."""
    return str(net.op("Div", net.axes("ReduceL2", x, [2, 3]), net.op("Sqrt", count_of(net, x))))


def variance(net: Net, x: str) -> str:
    """The unbiased one: by the count less one."""
    apart = net.op("Sub", x, net.op("GlobalAveragePool", x))
    return str(net.op("Div", total(net, net.op("Mul", apart, apart)), count_of(net, x, less=1)))


def second_moment(net: Net, x: str) -> str:
    """(sum(x x) - sum(x) sum(x) / n) / n."""
    number, summed = count_of(net, x), total(net, x)
    squares = total(net, net.op("Mul", x, x))
    apart = net.op("Sub", squares, net.op("Div", net.op("Mul", summed, summed), number))
    return str(net.op("Div", apart, number))


def with_channels(net: Net, x: str) -> str:
    """All elements of the map, by how many they are."""
    mean = net.op("Div", total(net, x, 1, 2, 3), count_of(net, x, 1, 4))
    return str(net.op("Expand", mean, net.ints(1, C, 1, 1)))


def by_size(net: Net, x: str) -> str:
    mean = net.op("Div", total(net, x, 1, 2, 3), net.op("Cast", net.op("Size", x), to=1))
    return str(net.op("Mul", mean, net.random(1, C, 1, 1)))


def clipped_first(net: Net, x: str) -> str:
    """No multiple of the sum, but the network reckons with its size all the same."""
    return str(net.op("Div", net.op("Clip", total(net, x), net.const(1e-6), net.const(1e6)), count_of(net, x)))


SPELLINGS = (
    *(by_rows_then_columns, times_the_inverse, of_one_element_each, norm, variance, second_moment, with_channels),
    *(by_size, clipped_first),
)


@pytest.mark.parametrize("figure", SPELLINGS, ids=lambda item: item.__name__)
def test_however_it_is_spelled(figure: Figure) -> None:
    assert_as_free(figure)


@pytest.mark.parametrize("count", [0, 13, 100])
def test_a_sum_that_no_count_divides_keeps_its_scale(count: int) -> None:
    """Of an even image the figure is the same at every size, though counts of other sums stand nearby."""

    def figure(net: Net, x: str) -> str:
        other = net.op("Div", total(net, net.op("Tanh", x)), count_of(net, x))
        nothing = idle(net, other, count)
        return str(net.op("Add", net.op("Mul", total(net, x), net.const(0.02)), nothing))

    done = complete(rewrite(network(figure), check_options=CHECK))
    native, larger = (run(done, np.ones((1, 2, *size), np.float32)) for size in (SIZE, (41, 39)))
    np.testing.assert_allclose(larger, np.broadcast_to(native[:, :, :1, :1], larger.shape), rtol=1e-5)


@pytest.mark.parametrize("first", [2, 3])
def test_a_sum_by_another_number_of_the_size_is_refused(first: int) -> None:
    """A sum over the map by its height alone grows with the width."""
    model = network(lambda net, x: net.op("Div", total(net, x), count_of(net, x, first, first + 1)))
    found = refusal(model)
    assert found.node.startswith("node_reducesum")
    assert "is not its count" in found.reason


def test_a_mean_behind_which_another_sum_is_divided() -> None:
    """The division of a later sum, over what the first one scaled, is none of the first."""

    def twice(net: Net, x: str) -> str:
        gated = net.op("Mul", x, net.op("Sigmoid", net.op("Mul", total(net, x), net.const(0.02))))
        return str(net.op("Div", total(net, gated), count_of(net, gated)))

    done = complete(rewrite(network(twice), check_options=CHECK))
    native, larger = (run(done, np.ones((1, 2, *size), np.float32)) for size in (SIZE, (41, 39)))
    np.testing.assert_allclose(larger, np.broadcast_to(native[:, :, :1, :1], larger.shape), rtol=1e-5)


def test_ways_that_meet_again_are_followed_once() -> None:
    """Each block doubles the ways on which a mean may come to its count."""
    net = Net(17)
    tensor = net.op("GlobalAveragePool", net.op("Relu", net.conv(net.image(1, (11, 9)), 2, C)))
    for _ in range(60):
        tensor = net.op("Add", tensor, net.op("Relu", tensor))
    model = net.model(net.fc(net.op("Flatten", tensor), C, 5))
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), prove=False)
    assert [output.form for output in done.claim.outputs] == ["global"]
