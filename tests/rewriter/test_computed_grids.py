"""Grids that the graph computes of its map's size, beside plain numbers: those of the native size are refused, others
stay, and are right. PyTorch's older exporter writes such grids where the batch alone is open."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

import onnxfc

HEIGHT, WIDTH = 20, 28


def computed(net: Net, data: str) -> str:
    """(1, places, 2): x and y of each place of a map, in pixels."""
    shape = net.op("Shape", data)
    sides = [net.op("Gather", shape, net.const(axis, dtype=np.int64), axis=0) for axis in (2, 3)]
    first, step = (net.const(number, dtype=np.int64) for number in (0, 1))
    extent = net.op("Slice", shape, net.ints(2), net.ints(4))
    lines = [net.op("Range", first, side, step) for side in sides]
    y, x = (net.op("Reshape", line, net.ints(*to)) for line, to in zip(lines, ((-1, 1), (1, -1)), strict=True))
    each = [net.op("Unsqueeze", net.op("Expand", one, extent), net.ints(-1)) for one in (x, y)]
    grid = net.op("Reshape", net.op("Concat", *each, axis=2), net.ints(1, -1, 2))
    return str(net.op("Mul", net.op("Cast", grid, to=1), net.const(2.0)))


def side(net: Net, data: str, times: float) -> str:
    """The width of a map, times a number."""
    width = net.op("Gather", net.op("Shape", data), net.const(3, dtype=np.int64), axis=0)
    return str(net.op("Mul", net.op("Cast", width, to=1), net.const(times)))


def network(kind: str, height: int = HEIGHT, width: int = WIDTH) -> onnx.ModelProto:
    net = Net(17)
    if kind == "few":  # 32 is half a side, and there are four values
        data = net.conv(net.image(1, (16 * height, 16 * width)), 2, 2, strides=[16, 16], pads=[1, 1, 1, 1])
    else:
        data = net.conv(net.image(1, (2 * height + 1, 2 * width + 1)), 2, 2)
    grid = computed(net, data)
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 2, -1)), perm=[0, 2, 1])
    size = np.array([2 * width + 1, 2 * height + 1])
    places = np.array([width - 1, height - 1])
    made = {
        "divided": lambda: net.op("Add", net.op("Div", grid, net.const(size)), rows),
        "times": lambda: net.op("Add", net.op("Mul", grid, net.const(1 / size)), rows),
        "centred": lambda: net.op("Mul", net.op("Sub", grid, net.const(size / 2)), rows),
        "limited": lambda: net.op("Add", net.op("Clip", grid, "", net.const(float(size[0]))), rows),
        "cells": lambda: net.op("Add", net.op("Div", net.op("Mul", grid, net.const(0.5)), net.const(places)), rows),
        "cells behind": lambda: net.op("Div", net.op("Add", grid, rows), net.const(places)),
        "offsets": lambda: net.op("Add", grid, net.op("Mul", rows, net.const(size))),
        "steps": lambda: net.op("Add", net.op("Mul", grid, net.const(3.0)), rows),
        "boxes": lambda: net.op("Add", net.op("Add", grid, net.const([-size[0] / 2, size[0] / 2])), rows),
        "computed": lambda: net.op("Add", net.op("Div", grid, side(net, data, 1.0)), rows),
        "parts": lambda: net.op("Mul", net.op("Add", net.op("Div", grid, side(net, data, 1.0)), rows), net.const(size)),
        "computed pixels": lambda: net.op(
            "Mul", net.op("Add", net.op("Div", grid, side(net, data, 1.0)), rows), side(net, "image", 1.0)
        ),
        "computed limit": lambda: net.op("Min", net.op("Add", grid, rows), side(net, data, 2.0)),
        "few": lambda: net.op("Sub", net.op("Mul", grid, net.const(8.0)), rows),
    }[kind]()
    return net.model(made)


TOLD = {
    "divided": "Div divides a list's values by a side of the native image",
    "times": "Mul divides a list's values by a side of the native image",
    "centred": "Sub counts a list's values from half a side of the native image",
    "limited": "Clip keeps a list's values below a side of the native image",
    "cells": "Div divides a list's values by a side of the map at the native size",
    "cells behind": "Div divides a list's values by a side of the map at the native size",
    "offsets": "Mul multiplies what is added to coordinates by a side of the native image",
    "parts": "Mul multiplies coordinates, parts of an image of any size, by its native size",
}


@pytest.mark.parametrize("kind", TOLD)
def test_numbers_of_the_native_size(kind: str) -> None:
    """The grid follows the image, they do not: wrong, and proven."""
    found = refusal(network(kind))
    assert (found.code, found.reason) == ("size-locked", f"{TOLD[kind]}, a plain number")


@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [(kind, HEIGHT, WIDTH) for kind in ("steps", "boxes", "computed", "computed pixels", "computed limit")]
    + [("few", 4, 4)],
)
def test_others_are_right(kind: str, height: int, width: int) -> None:
    """As the original is at another size: boxes around the places, computed sides, and a grid of few values."""
    model = network(kind, height, width)
    done = onnxfc.rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    for axis, name in ((2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for size in ((77, 93), (101, 68)):
        data = {"image": np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)}
        [want], [got] = (session(item).run(None, data) for item in (model, complete(done)))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
