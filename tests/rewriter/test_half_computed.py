"""Lists of several levels beside tables that the graph computes of the image's size, wholly or in part."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, refusal
from references import run

import onnxfc


def two_levels(first: str, second: str) -> tuple[onnx.ModelProto, str, list[str]]:
    """Lists of two maps times a table that has a row for each place: of numbers of the native size, computed of the
    shape of its level, scaled by how many places there are, or less where these are more than a thousand."""
    net = Net(17)
    one = net.op("Tanh", net.conv(net.image(1, (17, 21)), 2, 4))
    two = net.op("Tanh", net.conv(one, 4, 4))
    rows = [net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 3, 1]), net.ints(1, -1, 4)) for x in (one, two)]
    sizes = [net.op("Slice", net.op("Shape", x), net.ints(2), net.ints(4)) for x in (one, two)]
    parts = []
    for how, size, places in ((first, sizes[0], 80), (second, sizes[1], 12)):
        count = net.op("ReduceProd", size, keepdims=1)
        part = net.op("Expand", net.const([[0.5] * 4]), net.op("Concat", count, net.ints(4), axis=0))
        if how == "scaled":
            part = net.op("Mul", part, net.op("Div", net.op("Cast", count, to=1), net.const([float(places)])))
        if how == "far":
            over = net.op("Greater", net.op("Cast", count, to=1), net.const([1000.0]))
            part = net.op("Where", over, net.op("Mul", part, net.const([[0.5]])), part)
        parts.append(net.const([[0.5] * 4] * places) if how == "numbers" else part)
    joined = net.op("Concat", *parts, axis=0)
    made = net.op("Mul", net.op("Concat", *rows, axis=1), net.op("Unsqueeze", joined, net.ints(0)))
    return net.model(made), joined, parts


def agree_at_sizes(model: onnx.ModelProto, truth: onnx.ModelProto) -> None:
    """As what the network itself gives, all of which is computed."""
    for image_input in truth.graph.input:
        for axis in (2, 3):
            image_input.type.tensor_type.shape.dim[axis].dim_param = f"free{axis}"
    del truth.graph.output[0].type.tensor_type.shape.dim[:]
    for size in ((17, 21), (25, 30), (40, 19)):
        whole = np.random.default_rng(4).standard_normal((1, 2, *size)).astype(np.float32)
        [found], [wanted] = (run(each, {"image": whole}).values() for each in (model, truth))
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("how", ["computed", "scaled"])
def test_what_is_alike_at_the_native_size_alone(how: str) -> None:
    """Each level's number grows with its places: natively they are one for all, and known as small lists are."""
    done = onnxfc.rewrite(two_levels(how, how)[0], check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    agree_at_sizes(done.model, two_levels(how, how)[0])


@pytest.mark.parametrize("numbers", [0, 1])
def test_a_level_of_numbers_goes_on_as_the_computed_one(numbers: int) -> None:
    kinds = ["computed", "computed"]
    truth = two_levels(*kinds)[0]
    kinds[numbers] = "numbers"
    done = onnxfc.rewrite(two_levels(*kinds)[0], check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    agree_at_sizes(done.model, truth)


@pytest.mark.parametrize("how", ["scaled", "far", "image", "map"])
def test_a_level_of_numbers_beside_one_that_is_computed_otherwise(how: str) -> None:
    """What is computed is not as it is natively in larger images; or it is no such part of the image as was said."""
    own = how in {"scaled", "far"}
    model, joined, parts = two_levels(how if own else "computed", "numbers")
    found = refusal(model, **({} if own else {"grids": how}))
    assert (found.code, found.node) == ("size-locked", f"node_{joined}")
    why = f"Concat lays {parts[1]}, a list for the native size, beside {parts[0]}, which is computed for any"
    assert (found.reason, found.advice) == (why, "export it with open height and width")


def test_steps_of_the_native_number_that_follow_the_size() -> None:
    """As PyTorch's newer exporter writes torch.linspace(0, w - 1, w) of an open file: a step that is computed, times as
    many numbers as there are natively. No such file runs at another size."""
    net = Net(17)
    data = net.op("Tanh", net.conv(net.input("image", [1, 2, "height", "width"]), 2, 4, strides=[1, 1]))
    width = net.op("Cast", net.op("Slice", net.op("Shape", data), net.ints(3), net.ints(4)), to=1)
    step = net.op("Div", net.op("Sub", width, net.const([1.0])), net.const([11.0]))
    table = net.op("Mul", step, net.const(np.arange(12, dtype=np.float32)))
    model = net.model(net.op("Mul", data, table))
    found = refusal(model, size=(10, 14))
    assert (found.code, found.reason) == (
        "position-table",
        f"Mul reads a table made of {table}, of which the file has as many values as natively, though they follow the"
        " image's size: the exporter writes linspace and affine_grid so",
    )
    assert found.advice.startswith("make the table of torch.arange, which is exported as it is computed")
    run(model, {"image": np.zeros((1, 2, 10, 14), np.float32)})
    with pytest.raises(Exception, match="BroadcastIterator"):
        run(model, {"image": np.zeros((1, 2, 10, 18), np.float32)})
