"""Pools over one axis of the image as context: strips, compared at other sizes with the same network left free.

A hand-written network without baked sizes runs at any size once its input's dims are open: that is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, bodied, complete, proven, proven_or_refused, refusal, session

from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

EXPORTERS = ("torchscript", "dynamo")
ROUND = 1e-5
Body = Callable[[Net, str], str]


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    made = session(model)
    found: np.ndarray = made.run(None, {made.get_inputs()[0].name: image})[0]
    return found


def apart(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(other).max())


def causes(done: Rewrite) -> set[str]:
    return {item.partition(":")[0] for item in done.claim.blame}


# What exporters write


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["strip_pool", "coordinate", "triplet", "axes"])
def test_says_at_every_size_what_the_network_of_free_sizes_says(name: str, exporter: str) -> None:
    """At squares and rectangles, on the stride grid and off it, with the head's pool kept as that network has it."""
    options = RewriteOptions(global_pool="keep")
    done = rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=options, check_options=CheckOptions(threads=1))
    model, reference = complete(done), onnx.load(fixture_file(f"{name}_hw.dynamo.onnx"))
    assert done.claim.size_step == (1, 1)
    assert "context" in causes(done)
    for size in ((28, 28), (28, 44), (41, 36), (64, 30)):
        image = np.random.default_rng(sum(size)).standard_normal((1, 3, *size)).astype(np.float32)
        assert apart(run(model, image), run(reference, image)) < ROUND


@pytest.mark.parametrize("free", ["height", "width"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_strip_that_is_resized_to_an_axis_that_stays(exporter: str, free: str) -> None:
    """Refused, as it has values for the native size alone; a Resize leaves inputs out."""
    model = onnx.load(fixture_file(f"strip_pool.{exporter}.onnx"))
    assert refusal(model, free=(free,)).code == "position-table"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_rows_and_columns_of_a_batch_come_apart_again(exporter: str) -> None:
    """Coordinate attention: both lengths are computed, and the batch is free."""
    path = fixture_file(f"coordinate.{exporter}.onnx")
    model = complete(rewrite(path, options=RewriteOptions(dynamic_batch=True), check_options=CHECK))
    images = np.random.default_rng(0).standard_normal((3, 3, 44, 30)).astype(np.float32)
    single = np.concatenate([run(model, image[None]) for image in images])
    assert single.shape == (3, 5, 9, 2)
    assert apart(run(model, images), single) < ROUND


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_rows_that_begin_a_head_are_no_context(exporter: str) -> None:
    """Each window pools its own rows, two pixels on in both directions."""
    done = rewrite(fixture_file(f"row_head.{exporter}.onnx"), check_options=CHECK)
    assert causes(done) == {"padding"}
    assert done.claim.stride == (2, 2)
    assert [item.after for item in done.replacements] == ["pool 1x14, stride 1", "Conv 14x1 6→5"]


# Hand-written networks


def free_too(
    body: Body, size: Sequence[int] = (12, 12), channels: int = 3, opset: int = 17, **options: Any
) -> tuple[Rewrite, onnx.ModelProto]:
    """The network rewritten, and the same network with the image's dims open from the start. No FC head."""
    models = []
    for dims in (list(size), [f"d{axis}" for axis in range(len(size))]):
        net = Net(opset)
        trunk = net.conv(net.input("image", [1, 2, *dims]), 2, channels, (3,) * len(size))
        out = net.conv(body(net, net.op("Tanh", trunk)), channels, 4, (1,) * len(size), strides=[1] * len(size))
        models.append(net.model(out))
    return proven(models[0], exact=False, **options), models[1]


def assert_right(body: Body, size: Sequence[int] = (12, 12), **more: Any) -> Rewrite:
    done, reference = free_too(body, size, **more)
    assert "context" in causes(done)
    for grown in ((0, 0, 0), (4, 0, 2), (3, 9, 5), (0, 6, 1)):
        shape = [length + item for length, item in zip(size, grown, strict=False)]
        image = np.random.default_rng(sum(shape)).standard_normal((1, 2, *shape)).astype(np.float32)
        assert apart(run(complete(done), image), run(reference, image)) < ROUND
    return done


def gate(net: Net, tensor: str, strip: str) -> str:
    return str(net.op("Mul", tensor, net.op("Sigmoid", strip)))


def mean(net: Net, tensor: str, *axes: int, keepdims: int = 1, kind: str = "ReduceMean") -> str:
    return net.axes(kind, tensor, axes, keepdims=keepdims)


def moved(net: Net, tensor: str, *perm: int) -> str:
    return str(net.op("Transpose", tensor, perm=list(perm)))


def outer(net: Net, tensor: str) -> str:
    """Rows times columns, both (5, 5) natively: a map that was never one of the trunk's."""
    return gate(net, tensor, net.op("Mul", mean(net, tensor, 3), mean(net, tensor, 2)))


def turned(net: Net, tensor: str) -> str:
    """Columns first, as rows take the channels' place; back at the end."""
    first = moved(net, tensor, 0, 3, 2, 1)
    return moved(net, gate(net, first, mean(net, first, 1)), 0, 3, 2, 1)


def channels_last(net: Net, tensor: str) -> str:
    last = moved(net, tensor, 0, 2, 3, 1)
    strip = net.op("MatMul", mean(net, last, 1), net.random(3, 3))
    return moved(net, gate(net, last, strip), 0, 3, 1, 2)


def without_axis(net: Net, tensor: str) -> str:
    """(N, C, H), a Conv along it, and the axis again."""
    rows = net.conv(mean(net, tensor, 3, keepdims=0), 3, 3, (3,), strides=[1], pads=[1, 1])
    return gate(net, tensor, net.axes("Unsqueeze", rows, [3]))


def stacked(net: Net, tensor: str) -> str:
    """Mean and maximum beside each other where the axis was, which a kernel of two then reads."""
    both = net.op("Concat", mean(net, tensor, 3), mean(net, tensor, 3, kind="ReduceMax"), axis=3)
    return gate(net, tensor, net.conv(both, 3, 3, (1, 2), strides=[1, 1]))


def end_to_end(net: Net, tensor: str) -> str:
    """Means and maxima of rows end to end, a Conv across the seam, and one place each by its own gate."""
    both = net.op("Concat", mean(net, tensor, 3), mean(net, tensor, 3, kind="ReduceMax"), axis=2)
    one = mean(net, net.conv(both, 3, 3, (3, 1), strides=[1, 1], pads=[1, 0, 1, 0]), 2)
    return gate(net, tensor, one)


def excited(net: Net, tensor: str) -> str:
    """A strip that is gated by its own mean."""
    rows = mean(net, tensor, 3)
    return gate(net, tensor, gate(net, rows, net.op("GlobalAveragePool", rows)))


def weighed(net: Net, tensor: str) -> str:
    """The mean of rows by softmax weights: its sum is over as many places as there are, and never grows."""
    weights = net.op("Softmax", net.conv(tensor, 3, 1, (1, 1), strides=[1, 1]), axis=3)
    return gate(net, tensor, mean(net, net.op("Mul", tensor, weights), 3, kind="ReduceSum"))


def beside_the_whole(net: Net, tensor: str) -> str:
    """A strip meets the mean of the image, before either meets the trunk."""
    whole = mean(net, tensor, 2, 3)
    return gate(net, tensor, net.op("Sub", mean(net, tensor, 3, kind="ReduceMin"), whole))


def shared_out(net: Net, tensor: str) -> str:
    return str(net.op("Mul", tensor, net.op("Softmax", tensor, axis=2)))


BODIES: dict[str, Body] = {
    "rows": lambda net, x: gate(net, x, mean(net, x, 3)),
    "columns less their maximum": lambda net, x: net.op("Sub", x, mean(net, x, 2, kind="ReduceMax")),
    "smallest": lambda net, x: net.op("Sub", x, mean(net, x, -1, kind="ReduceMin")),
    "with the channels": lambda net, x: gate(net, x, mean(net, x, 1, 3)),
    "kernel of a row": lambda net, x: gate(net, x, net.op("AveragePool", x, kernel_shape=[1, 5], strides=[1, 5])),
    "ceil_mode": lambda net, x: gate(net, x, net.op("MaxPool", x, kernel_shape=[5, 1], strides=[5, 1], ceil_mode=1)),
    "outer": outer,
    "turned": turned,
    "channels last": channels_last,
    "without axis": without_axis,
    "stacked": stacked,
    "end to end": end_to_end,
    "excited": excited,
    "weighed": weighed,
    "beside the whole": beside_the_whole,
    "shared out": shared_out,
    "two steps": lambda net, x: gate(net, x, mean(net, mean(net, x, 3), 2)),
}


@pytest.mark.parametrize("name", [name for name in BODIES if name not in {"kernel of a row", "ceil_mode"}])
def test_as_the_free_network(name: str) -> None:
    """Square natively, so that an axis taken for the other would show at rectangles only."""
    assert_right(BODIES[name])


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
@pytest.mark.parametrize("name", ["rows", "outer", "without axis", "shared out"])
def test_in_old_and_new_operator_sets(name: str, opset: int) -> None:
    assert_right(BODIES[name], opset=opset)


@pytest.mark.parametrize("name", ["rows", "outer", "turned", "channels last", "without axis"])
def test_as_many_channels_as_rows(name: str) -> None:
    """(N, 5, 5, 5): no axis is known by its length."""

    def five(net: Net, tensor: str) -> str:
        wide = net.conv(tensor, 3, 5, (1, 1), strides=[1, 1])
        if name == "channels last":
            last = moved(net, wide, 0, 2, 3, 1)
            wide = moved(net, gate(net, last, net.op("MatMul", mean(net, last, 1), net.random(5, 5))), 0, 3, 1, 2)
        elif name == "without axis":
            rows = net.conv(mean(net, wide, 3, keepdims=0), 5, 5, (3,), strides=[1], pads=[1, 1])
            wide = gate(net, wide, net.axes("Unsqueeze", rows, [3]))
        else:
            wide = BODIES[name](net, wide)
        return net.conv(wide, 5, 3, (1, 1), strides=[1, 1])

    assert_right(five)


@pytest.mark.parametrize(
    ("name", "kind", "axis"), [("kernel of a row", "ReduceMean", 3), ("ceil_mode", "ReduceMax", 2)]
)
def test_pool_whose_kernel_is_one_axis(name: str, kind: str, axis: int) -> None:
    """It is the mean or maximum over that axis, however long it is."""
    done, _ = free_too(BODIES[name])
    _, reference = free_too(lambda net, x: gate(net, x, mean(net, x, axis, kind=kind)))
    assert {"ReduceMean", "ReduceMax"} & {node.op_type for node in done.model.graph.node} == {kind}
    image = np.random.default_rng(1).standard_normal((1, 2, 17, 24)).astype(np.float32)
    assert apart(run(complete(done), image), run(reference, image)) < ROUND


def test_spread_over_the_channels_too() -> None:
    """expand_as: (N, 1, H, 1) to (N, C, H, W)."""
    done, _ = free_too(lambda net, x: gate(net, x, net.op("Expand", mean(net, x, 1, 3), net.ints(1, 3, 5, 5))))
    _, reference = free_too(lambda net, x: gate(net, x, mean(net, x, 1, 3)))
    image = np.random.default_rng(2).standard_normal((1, 2, 15, 26)).astype(np.float32)
    assert apart(run(complete(done), image), run(reference, image)) < ROUND


VOLUMES: dict[str, Body] = {
    "one axis": lambda net, x: gate(net, x, mean(net, x, 3)),
    "two axes": lambda net, x: gate(net, x, mean(net, x, 2, 4)),
    "one by one": lambda net, x: gate(net, x, mean(net, mean(net, x, 2), 4)),
    "two strips": lambda net, x: gate(net, x, net.op("Add", mean(net, x, 2, 3), mean(net, x, 3, 4))),
    "three strips": lambda net, x: gate(net, x, outer3(net, x)),
}


def outer3(net: Net, tensor: str) -> str:
    strips = [mean(net, tensor, *axes) for axes in ((3, 4), (2, 4), (2, 3))]
    return str(net.op("Mul", net.op("Mul", strips[0], strips[1]), strips[2]))


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes(name: str) -> None:
    assert_right(VOLUMES[name], (8, 8, 8))


def spread(kind: str) -> Body:
    """Laid along the axis again, to the native size of 5, and a Conv over it whose padding sees where it ends."""

    def body(net: Net, tensor: str) -> str:
        rows = mean(net, tensor, 3)
        if kind == "Tile":
            wide = net.op("Tile", rows, net.ints(1, 1, 1, 5))
        elif kind == "Expand":
            wide = net.op("Expand", rows, net.ints(1, 3, 5, 5))
        else:
            wide = net.op("Resize", rows, "", "", net.ints(1, 3, 5, 5), mode="linear")
        return gate(net, tensor, net.conv(wide, 3, 3, (3, 3), strides=[1, 1], pads=[1, 1, 1, 1]))

    return body


def spread_by_nature(net: Net, tensor: str) -> str:
    """The same without a size."""
    wide = net.op("Add", mean(net, tensor, 3), net.op("Mul", tensor, net.const(0.0)))
    return gate(net, tensor, net.conv(wide, 3, 3, (3, 3), strides=[1, 1], pads=[1, 1, 1, 1]))


@pytest.mark.parametrize("kind", ["Expand", "Resize", "Tile"])
def test_spread_to_the_size_of_its_own_map(kind: str) -> None:
    done, _ = free_too(spread(kind))
    net_image = np.random.default_rng(2).standard_normal((1, 2, 15, 26)).astype(np.float32)
    _, reference = free_too(spread_by_nature)
    # the weights are drawn in the same order: a constant draws none
    assert apart(run(complete(done), net_image), run(reference, net_image)) < ROUND


def coordinates(split: bool, seam: int = 5, stride: int = 1) -> Body:
    """Rows (5) and columns (5) end to end, cut at ``seam``."""

    def body(net: Net, tensor: str) -> str:
        columns = moved(net, mean(net, tensor, 2), 0, 1, 3, 2)
        both = net.op("Concat", mean(net, tensor, 3), columns, axis=2)
        if stride > 1:
            both = net.conv(both, 3, 3, (1, 1), strides=[stride, 1])
        if split:
            one, two = net.op("Split", both, net.ints(seam, 10 // stride - seam), axis=2, outputs=2)
        else:
            one = net.op("Slice", both, net.ints(0), net.ints(seam), net.ints(2))
            two = net.op("Slice", both, net.ints(seam), net.ints(2**31 - 1), net.ints(-2))
        if seam != 5:
            return gate(net, tensor, net.op("Sub", mean(net, one, 2), mean(net, two, 2)))
        return gate(net, gate(net, tensor, one), moved(net, two, 0, 1, 3, 2))

    return body


def apart_all_along(net: Net, tensor: str) -> str:
    return gate(net, gate(net, tensor, mean(net, tensor, 3)), mean(net, tensor, 2))


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("split", [True, False])
def test_strips_end_to_end_come_apart_at_their_seam(split: bool, opset: int) -> None:
    """Natively both are 5 long, at other sizes they are not."""
    if split and opset == 11:
        pytest.skip("Split has its lengths as an attribute there: the next test")
    done, _ = free_too(coordinates(split), opset=opset)
    _, reference = free_too(apart_all_along, opset=opset)
    image = np.random.default_rng(3).standard_normal((1, 2, 15, 26)).astype(np.float32)
    assert apart(run(complete(done), image), run(reference, image)) < ROUND


def test_split_whose_lengths_are_an_attribute() -> None:
    def body(net: Net, tensor: str) -> str:
        columns = moved(net, mean(net, tensor, 2), 0, 1, 3, 2)
        both = net.op("Concat", mean(net, tensor, 3), columns, axis=2)
        one, two = net.op("Split", both, axis=2, split=[5, 5], outputs=2)
        return gate(net, gate(net, tensor, one), moved(net, two, 0, 1, 3, 2))

    done, _ = free_too(body, opset=11)
    _, reference = free_too(apart_all_along, opset=11)
    image = np.random.default_rng(3).standard_normal((1, 2, 15, 26)).astype(np.float32)
    assert apart(run(complete(done), image), run(reference, image)) < ROUND


def test_sum_of_a_row_keeps_the_scale_of_the_native_size() -> None:
    done, _ = free_too(lambda net, x: gate(net, x, mean(net, x, 3, kind="ReduceSum")))
    _, reference = free_too(lambda net, x: gate(net, x, net.op("Mul", mean(net, x, 3), net.const(5.0))))
    image = np.random.default_rng(4).standard_normal((1, 2, 15, 26)).astype(np.float32)
    assert apart(run(complete(done), image), run(reference, image)) < ROUND


def test_verdict_names_the_pool() -> None:
    done = assert_right(BODIES["rows"])
    [pool] = [node.name for node in done.original.proto.graph.node if node.op_type == "ReduceMean"]
    assert f"context: {pool}" in done.claim.blame
    assert done.claim.halo == ()


@pytest.mark.parametrize("pool", ["window", "keep", "drop"])
def test_whatever_becomes_of_the_head(pool: str) -> None:
    """Strips are context under every --global-pool."""

    def body(net: Net, tensor: str) -> str:
        tensor = gate(net, tensor, mean(net, tensor, 3))
        tensor = net.op("Add", tensor, mean(net, mean(net, tensor, 2), 3))
        return net.fc(net.op("Flatten", net.op("GlobalAveragePool", tensor)), 3, 4)

    done = proven(bodied(body), exact=False, global_pool=pool)
    assert "context" in causes(done)


# Pools that are none


def test_pool_of_a_row_that_begins_a_head_is_each_windows_own() -> None:
    def body(net: Net, tensor: str) -> str:
        rows = net.op("MaxPool", tensor, kernel_shape=[1, 4], strides=[1, 4])
        return net.fc(net.op("Flatten", rows), 15, 4)

    assert proven(bodied(body)).claim.stride == (2, 2)


def test_two_pools_of_a_row_that_begin_a_head() -> None:
    """They meet each other, not their trunk."""

    def body(net: Net, tensor: str) -> str:
        pools = [net.op(kind, tensor, kernel_shape=[1, 4], strides=[1, 4]) for kind in ("MaxPool", "AveragePool")]
        return net.fc(net.op("Flatten", net.op("Add", *pools)), 15, 4)

    assert proven(bodied(body)).claim.stride == (2, 2)


def test_pool_of_a_row_under_a_kernel_is_one_of_the_trunk() -> None:
    """A Conv slides over what is left: the pool slides too, four places on."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("AveragePool", tensor, kernel_shape=[1, 4], strides=[1, 4])
        return net.fc(net.op("Flatten", net.conv(rows, 3, 3, (3, 1), strides=[1, 1])), 9, 4)

    done = proven(bodied(body))
    assert done.claim.stride == (2, 8)


def test_pool_of_a_row_that_is_resized_by_a_scale_is_one_of_the_trunk() -> None:
    """Blocks of four columns are pooled and laid out again: nothing speaks of the whole row."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("AveragePool", tensor, kernel_shape=[1, 4], strides=[1, 4])
        scales = net.const([1, 1, 1, 4])
        wide = net.op("Resize", rows, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
        return net.fc(net.op("Flatten", gate(net, tensor, wide)), 60, 4)

    done = proven(bodied(body), exact=False)
    assert "context" not in causes(done)


# Refused


def table_of_columns(net: Net, tensor: str) -> str:
    strip = net.op("Mul", mean(net, tensor, 3), net.random(1, 1, 1, 4))
    return gate(net, tensor, strip)


def fc_over_rows(net: Net, tensor: str) -> str:
    rows = net.op("MatMul", mean(net, tensor, 3, keepdims=0), net.random(5, 5))
    return gate(net, tensor, net.axes("Unsqueeze", rows, [3]))


def flattened(net: Net, tensor: str) -> str:
    flat = net.op("Flatten", mean(net, tensor, 3))
    return gate(net, tensor, net.op("Reshape", net.fc(flat, 15, 3), net.ints(1, 3, 1, 1)))


def first_row(net: Net, tensor: str) -> str:
    rows = mean(net, tensor, 3)
    return gate(net, tensor, net.op("Slice", rows, net.ints(0), net.ints(1), net.ints(2)))


def spread_elsewhere(net: Net, tensor: str) -> str:
    """To twice the width of its map, which no map has."""
    wide = net.op("Expand", mean(net, tensor, 3), net.ints(1, 3, 5, 8))
    return gate(net, tensor, net.conv(wide, 3, 3, (1, 2), strides=[1, 2]))


def summed_otherwise(net: Net, tensor: str) -> str:
    """Weighed over columns, summed over rows: no mean."""
    weights = net.op("Softmax", tensor, axis=3)
    return gate(net, tensor, mean(net, net.op("Mul", tensor, weights), 2, kind="ReduceSum"))


FORBIDDEN: dict[str, tuple[Body, set[str]]] = {
    "table": (table_of_columns, {"axes-differ", "position-table", "size-locked"}),
    "fc": (fc_over_rows, {"fc-over-space"}),
    "flattened": (flattened, {"partial-pool"}),
    "first row": (first_row, {"partial-pool", "cut-out"}),
    "spread elsewhere": (spread_elsewhere, {"partial-pool"}),
    "summed otherwise": (summed_otherwise, {"softmax-over-space"}),
    "place of the maximum": (
        lambda net, x: gate(net, x, net.op("Cast", net.op("ArgMax", x, axis=3, keepdims=1), to=1)),
        {"along-space"},
    ),
    "running sum": (
        lambda net, x: gate(net, x, net.op("CumSum", x, net.const(3, dtype=np.int64))),
        {"unsupported-operator"},
    ),
    "running sum of rows": (
        lambda net, x: gate(net, x, net.op("CumSum", mean(net, x, 3), net.const(2, dtype=np.int64))),
        {"unsupported-operator"},
    ),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_refused(name: str) -> None:
    """With a reason, not by what another pass made of it."""
    body, codes = FORBIDDEN[name]
    found = refusal(bodied(lambda net, x: net.fc(net.op("Flatten", body(net, x)), 60, 4)))
    assert found.code in codes
    assert found.node


@pytest.mark.parametrize("kind", ["ReduceMean", "AveragePool"])
def test_strip_that_lies_along_the_other_axis(kind: str) -> None:
    """Natively square: rows are multiplied along columns. No rectangle could be, but a head's windows are."""
    net = Net()
    tensor = net.conv(net.conv(net.image(size=(12, 12)), 2, 3), 3, 3, (1, 1), strides=[1, 1])
    rows = mean(net, tensor, 3) if kind == "ReduceMean" else net.op("AveragePool", tensor, kernel_shape=[1, 5])
    model = net.model(net.op("GlobalMaxPool", gate(net, tensor, moved(net, rows, 0, 1, 3, 2))))
    done = proven_or_refused(model, "axes-differ", "head-rejoins-trunk", exact=True)
    assert done is None or kind == "AveragePool"


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
def test_axis_of_one_place_natively(kind: str) -> None:
    """Whether the pool over it is context or nothing at all cannot be told."""
    net = Net()
    trunk = net.conv(net.image(size=(12, 3)), 2, 3)
    model = net.model(net.conv(gate(net, trunk, mean(net, trunk, 3, kind=kind)), 3, 3, (1, 1), strides=[1, 1]))
    assert refusal(model).code == "partial-pool"


@pytest.mark.parametrize(("seam", "stride"), [(4, 1), (3, 2)])
@pytest.mark.parametrize("split", [True, False])
def test_cut_elsewhere_than_at_the_seam(split: bool, seam: int, stride: int) -> None:
    """Pieces that are no strips: of another length, or of another stride than when they were laid end to end."""
    net = Net()
    trunk = net.conv(net.image(size=(12, 12)), 2, 3)
    made = net.conv(coordinates(split, seam, stride)(net, trunk), 3, 3, (1, 1), strides=[1, 1])
    assert refusal(net.model(made)).code in {"cut-out", "partial-pool"}


def test_strip_as_an_output() -> None:
    net = Net()
    trunk = net.conv(net.image(), 2, 3)
    rows = mean(net, trunk, 3)
    scores = net.fc(net.op("Flatten", gate(net, trunk, rows)), 60, 4)
    assert refusal(net.model(scores, rows)).code == "partial-pool"


@pytest.mark.parametrize("body", [coordinates(True), outer])
def test_deviations_of_a_head_behind_strips_have_a_mean_of_their_own(body: Body) -> None:
    """The strips' means are tried as context together with all of their kind, the head's is none of them."""
    net = Net()
    trunk = body(net, net.conv(net.image(size=(12, 12)), 2, 3))
    rest = net.op("Sub", trunk, mean(net, trunk, 2, 3))
    variance = mean(net, net.op("Mul", rest, rest), 2, 3, keepdims=0)
    done = proven(net.model(net.fc(variance, 3, 4)), exact=False, crops=False)
    assert [boundary.original for boundary in done.claim.boundaries] == [trunk]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_figures_of_columns_are_each_windows_own(exporter: str) -> None:
    """Norms, ranges, Softmax: what has no pool that slides is reduced in each window, of all that it reads."""
    original = onnx.load(fixture_file(f"row_figures.{exporter}.onnx"))
    done = rewrite(original, check_options=CHECK)
    assert done.parity is not None
    assert (done.parity.passed, done.claim.verdict, len(done.claim.outputs)) == (True, "exact", 5)
    image = np.random.default_rng(0).standard_normal((1, 3, 22, 29)).astype(np.float32)
    found, run = session(complete(done)).run(None, {"image": image}), session(original)
    for row, column in np.ndindex(3, 3):
        crop = np.ascontiguousarray(image[:, :, 2 * row :, 2 * column :][:, :, :17, :25])
        for scores, wanted in zip(found, run.run(None, {"image": crop}), strict=True):
            assert scores.shape == (1, 5, 3, 3)
            np.testing.assert_allclose(scores[:, :, row, column], wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_rows_that_an_fc_layer_reads_are_cells_with_any_option(exporter: str) -> None:
    """An adaptive pool to (None, 1) ahead of it is none over the whole image, and nothing is kept global."""
    original = onnx.load(fixture_file(f"row_head.{exporter}.onnx"))
    done = rewrite(original, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert [output.form for output in done.claim.outputs] == ["map"]
