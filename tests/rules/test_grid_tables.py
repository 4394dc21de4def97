"""Constant grids of coordinates in every spelling: what the same network gives that was made for the other size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, proven, refusal, refusals, session
from onnx import TensorProto, helper, numpy_helper

from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

Table = Callable[[int, int], np.ndarray]
SIZES = ((12, 18), (20, 11), (19, 27))
NATIVE = (12, 16)


def places(size: tuple[int, int]) -> tuple[int, int]:
    """Of a Conv of kernel 3 and stride 2 without padding."""
    return (size[0] - 3) // 2 + 1, (size[1] - 3) // 2 + 1


def mixed(height: int, width: int, step: float = 1, first: float = 0) -> np.ndarray:
    """(2, H, W): x, then y."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows]) * step + first


def spread(length: int, low: float = -1, high: float = 1) -> np.ndarray:
    return np.linspace(low, high, length)


TABLES: dict[str, Table] = {
    "cells": lambda h, w: mixed(h, w)[None],
    "pixels": lambda h, w: mixed(h, w, 2, 1)[None],
    "halves": lambda h, w: mixed(h, w, 1, 0.5)[None],
    "backward": lambda h, w: mixed(h, w, -2, 1)[None],
    "without a batch": lambda h, w: mixed(h, w),
    "columns alone": lambda h, w: np.arange(w) - 0.5,
    "rows alone": lambda h, w: np.arange(h).reshape(h, 1) * 2,
    "both in one": lambda h, w: mixed(h, w).sum(0),
    "ends": lambda h, w: np.stack(np.meshgrid(spread(w), spread(h)))[None],
    "from 0 to 1": lambda h, w: np.stack(np.meshgrid(spread(w, 0), spread(h, 0)))[None],
    "downward": lambda h, w: np.stack(np.meshgrid(spread(w), spread(h, 1, -1)))[None],
    "centres": lambda h, w: np.stack(np.meshgrid((2 * np.arange(w) + 1) / w - 1, (2 * np.arange(h) + 1) / h - 1))[None],
    "rows spread, columns counted": lambda h, w: np.stack(np.meshgrid(np.arange(w), spread(h)))[None],
}


def moved(kind: str, table: np.ndarray, net: Net, x: str) -> str:
    """A map (N, 2, H, W) that meets the table in an operator, or in another layout."""
    count = table.shape[-1] if table.ndim else 1
    if kind in ("Add", "Sub", "Mul"):
        return str(net.op(kind, x, net.const(table)))
    if kind == "first":
        return str(net.op("Sub", net.const(table), x))
    if kind == "Concat":
        return str(net.op("Concat", net.const(table), x, axis=1))
    if kind == "last":
        turned = net.op("Transpose", x, perm=[0, 2, 3, 1])
        return str(net.op("Add", turned, net.const(table.transpose(0, 2, 3, 1))))
    if kind == "anchors":
        split = net.op("Reshape", x, net.ints(1, 2, 1, *table.shape[-2:]))
        turned = net.op("Transpose", split, perm=[0, 2, 3, 4, 1])
        return str(net.op("Mul", turned, net.const(table.transpose(0, 2, 3, 1)[:, None])))
    flat = net.op("Reshape", x, net.ints(1, 2, table.shape[-2] * count))
    if kind == "row":
        return str(net.op("Add", flat, net.const(table.reshape(1, 2, -1))))
    turned = net.op("Transpose", flat, perm=[0, 2, 1])
    return str(net.op("Add", turned, net.const(table.reshape(1, 2, -1).transpose(0, 2, 1))))


def network(table: Table, kind: str, size: tuple[int, int], dtype: type = np.float32) -> onnx.ModelProto:
    """The network as it is made for a size: the same weights, and the table for that size."""
    net = Net(seed=5, dtype=dtype)
    x = net.conv(net.image(size=size), 2, 2)
    return net.model(moved(kind, table(*places(size)), net, x))


def agrees(
    model: onnx.ModelProto,
    made: Callable[[tuple[int, int]], onnx.ModelProto],
    sizes: tuple[tuple[int, int], ...] = SIZES,
    **options: object,
) -> Rewrite:
    done = rewrite(model, options=RewriteOptions(**options), check_options=CHECK)  # type: ignore[arg-type]
    assert done.parity is not None
    assert done.parity.passed
    found = session(complete(done))
    for size in sizes:
        image = np.random.default_rng(1).standard_normal((1, 2, *size)).astype(np.float32)
        image = image.astype(np.float16) if "float16" in found.get_inputs()[0].type else image
        [want], [value] = (item.run(None, {"image": image}) for item in (session(made(size)), found))
        assert value.shape == want.shape
        rounding = 2e-3 if want.dtype == np.float16 else 2e-6
        np.testing.assert_allclose(value, want, rtol=0, atol=rounding * np.abs(want).max())
    return done


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str) -> None:
    table = TABLES[name]
    done = agrees(network(table, "Add", NATIVE), lambda size: network(table, "Add", size))
    assert done.claim.verdict == "approximate"
    assert [blame.cause.value for blame in done.claim.blames] == ["grid"]
    [grid] = done.claim.grids
    assert not grid.given


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", ["Sub", "Mul", "first", "Concat", "last", "anchors", "row", "tokens"])
@pytest.mark.parametrize("name", ["pixels", "ends"])
def test_spellings(name: str, kind: str) -> None:
    table = TABLES[name]
    done = agrees(network(table, kind, NATIVE), lambda size: network(table, kind, size))
    assert {rule for grid in done.claim.grids for rule in grid.rules} == {{"pixels": "step", "ends": "ends"}[name]}


def test_half_precision() -> None:
    table = TABLES["pixels"]
    agrees(network(table, "Add", NATIVE, np.float16), lambda size: network(table, "Add", size, np.float16))


@pytest.mark.parametrize("kind", ["Add", "Concat", "tokens"])
def test_one_axis_alone(kind: str) -> None:
    """What is a table along the axis that stays is one value for each of its places."""
    table = TABLES["pixels"]
    sizes = ((12, 18), (12, 31))
    done = agrees(network(table, kind, NATIVE), lambda size: network(table, kind, size), sizes, free=("width",))
    assert [grid.rules for grid in done.claim.grids] == [("step",)]


@pytest.mark.parametrize("kind", ["Add", "Concat", "row", "tokens"])
def test_a_free_batch(kind: str) -> None:
    table, size = TABLES["ends"], (20, 11)
    done = rewrite(network(table, kind, NATIVE), options=RewriteOptions(dynamic_batch=True), check_options=CHECK)
    images = np.random.default_rng(1).standard_normal((3, 2, *size)).astype(np.float32)
    [value] = session(complete(done)).run(None, {"image": images})
    one = session(network(table, kind, size))
    want = np.concatenate([one.run(None, {"image": image[None]})[0] for image in images])
    np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


def levels(size: tuple[int, int], first: float = 0.5) -> onnx.ModelProto:
    """Three levels, (N, 2, places): anchors, and the stride of each."""
    net = Net(seed=6)
    x, rows, points, strides = net.image(size=size), [], [], []
    high, wide = size
    before = 2
    for stride in (2, 4, 8):
        x = net.conv(x, before, 4, pads=[1, 1, 1, 1])
        before, high, wide = 4, (high + 1) // 2, (wide + 1) // 2
        made = net.conv(x, 4, 2, (1, 1), strides=[1, 1])
        rows.append(net.op("Reshape", made, net.ints(1, 2, high * wide)))
        points.append(mixed(high, wide, 1, first).reshape(1, 2, -1))
        strides.append(np.full((1, high * wide), stride))
    joined = net.op("Concat", *rows, axis=2)
    added = net.op("Add", joined, net.const(np.concatenate(points, 2)))
    return net.model(net.op("Mul", added, net.const(np.concatenate(strides, 1)), out="boxes"))


def test_levels_one_behind_the_other() -> None:
    done = agrees(levels((16, 24)), levels)
    assert sorted({grid.rules for grid in done.claim.grids}) == [("", ""), ("step", "step")]


def test_one_place_shows_no_step() -> None:
    """Rows of a map of one row: whether they are counted cannot be seen."""
    found = refusal(network(lambda h, w: mixed(h, w)[None], "Add", (4, 16)))
    assert found.code == "grid-rule"
    assert "shows no step" in found.reason


def test_a_level_of_one_place_shows_no_step() -> None:
    """Beside one of more places, whose steps are seen."""
    assert refusals(levels((8, 8)))


def test_strides_alone_are_not_counted_from_the_border() -> None:
    """Of one value for each level: a box moves with the image, which the proof tries."""
    model = levels((16, 24))
    added = next(node for node in model.graph.node if node.op_type == "Add")
    mul = next(node for node in model.graph.node if node.op_type == "Mul")
    mul.input[0] = added.input[0]
    model.graph.node.remove(added)
    done = rewrite(model, check_options=CHECK)
    assert {blame.cause.value for blame in done.claim.blames} == {"padding"}
    assert done.parity is not None
    assert done.parity.shift.status == "passed"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (lambda h, w: mixed(h, w, 0.3)[None], "values show no rule"),
        (lambda h, w: (mixed(h, w, 1, 0.5) / np.reshape([w, h], (2, 1, 1)))[None], "values show no rule"),
        (lambda h, w: (mixed(h, w, 1) / np.reshape([w, h], (2, 1, 1)))[None], "values show no rule"),
        (lambda h, w: np.linspace(-2, 2, w), "values show no rule"),
    ],
)
def test_no_rule_is_guessed(table: Table, why: str) -> None:
    found = refusal(network(table, "Add", NATIVE))
    assert found.code == "grid-rule"
    assert why in found.reason
    assert "--grids step" in found.advice


def test_several_rules_are_not_guessed() -> None:
    """-1/2, 1/2 are steps of 1 from half a step before the border and centres, 0, 1 steps and from end to end."""
    found = refusal(network(lambda h, w: np.arange(w) * 1.0, "Add", (12, 6)))
    assert found.code == "grid-rule"
    assert "fit several rules (ends, step)" in found.reason


ELSEWHERE: dict[str, Callable[[int], np.ndarray]] = {
    "the middle": lambda n: np.arange(n) - (n - 1) / 2,
    "a place in the middle": lambda n: np.arange(n) - n // 2 * 1.0,
    "the last place": lambda n: np.arange(n)[::-1] * 1.0,
    "behind the last place": lambda n: n - np.arange(n) * 1.0,
    "pixels of the last place": lambda n: np.arange(n)[::-1] * 2 + 1.0,
}


@pytest.mark.sweep(16)
@pytest.mark.parametrize("free", [(), ("width",)])
@pytest.mark.parametrize("kind", ["Add", "row"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_is_counted_from_elsewhere_has_no_rule(name: str, kind: str, free: tuple[str, ...]) -> None:
    """Its steps are 1, and where they start from moves with the size."""
    for native in (NATIVE, (9, 9), (16, 21)):
        high, wide = places(native)
        table = np.broadcast_to(ELSEWHERE[name](wide), (1, 2, high, wide))
        found = refusal(network(lambda h, w, table=table: table, kind, native), free=free)  # type: ignore[misc]
        assert (found.code, "show no rule" in found.reason) == ("grid-rule", True)
        assert found.advice.startswith("say how to go on: --grids step (steps as they are)")  # the one word that fits
        assert "image" not in found.advice
        for grids in ("map", "image"):
            asked = refusal(network(lambda h, w, table=table: table, kind, native), free=free, grids=grids)  # type: ignore[misc]
            assert f"--grids {grids} does not fit it" in asked.advice
    model = network(lambda h, w: ELSEWHERE[name](w), "Add", NATIVE)
    done = rewrite(model, options=RewriteOptions(grids="step", free=free))
    assert {grid.given for grid in done.claim.grids} == {True}


def test_one_level_that_is_counted_from_its_middle_is_seen() -> None:
    model = levels((24, 32), -0.5)
    assert rewrite(model, check_options=CHECK).claim.grids
    table = next(item for item in model.graph.initializer if item.name == model.graph.node[-2].input[1])
    value = numpy_helper.to_array(table).copy()
    value[..., :192] -= np.reshape([7, 5], (1, 2, 1))
    table.CopyFrom(numpy_helper.from_array(value, table.name))
    assert refusal(model).code == "grid-rule"


def test_corners_of_boxes_are_counted_from_the_first_place() -> None:
    """Half a box before and behind a place."""

    def corners(height: int, width: int) -> np.ndarray:
        return np.stack([np.arange(width) * 2 + 1 + way * 5 for way in (-1, 1)])[None, :, None]

    assert [
        grid.rules
        for grid in agrees(network(corners, "Add", NATIVE), lambda size: network(corners, "Add", size)).claim.grids
    ] == [("", "step")]


@pytest.mark.parametrize(
    ("grids", "table", "rule"),
    [
        ("step", lambda h, w: np.arange(w) * 0.3, "step"),
        ("map", lambda h, w: (np.arange(w) + 0.5) / w, "centres"),
        ("map", lambda h, w: np.arange(w) / w, "starts"),
    ],
)
def test_the_user_says_it(grids: str, table: Table, rule: str) -> None:
    done = agrees(network(table, "Add", NATIVE), lambda size: network(table, "Add", size), grids=grids)
    assert done.claim.verdict == "extrapolated"
    assert [(grid.rules, grid.given) for grid in done.claim.grids] == [(("", rule), True)]


def test_what_the_user_says_must_fit() -> None:
    for table in (lambda h, w: np.arange(w) * 0.3, TABLES["cells"]):
        model = network(table, "Add", NATIVE)
        for grids in ("map", "image"):
            assert refusal(model, grids=grids).advice.startswith(f"--grids {grids} does not fit it")


@pytest.mark.parametrize("grids", [None, "step"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_places_that_are_numbered_row_by_row_have_no_rule(order: str, grids: str | None) -> None:
    def table(height: int, width: int) -> np.ndarray:
        return np.arange(height * width).reshape((height, width), order=order) * 2.0  # type: ignore[call-overload]

    found = refusal(network(table, "Add", NATIVE), grids=grids)
    assert found.code == "grid-rule"
    assert "counts the places row by row" in found.reason


def numbered(height: int, width: int) -> np.ndarray:
    return np.arange(height * width).reshape(1, 1, height, width) * np.full((1, 2, 1, 1), 2.0)


ONE_ROW = [((3, 9), "width"), ((3, 17), "width"), ((17, 3), "height")]


@pytest.mark.parametrize("grids", [None, "step"])
@pytest.mark.parametrize(("native", "free"), ONE_ROW)
def test_the_one_row_does_not_show_where_the_next_begins(native: tuple[int, int], free: str, grids: str | None) -> None:
    """Coordinates along it and the places' numbers, which go on in the next row, are the same there."""
    found = refusal(network(numbered, "Add", native), grids=grids)
    assert found.code == "grid-rule"
    assert "which moves along the one row of places" in found.reason
    assert f"--free {free}" in found.advice


@pytest.mark.parametrize("kind", ["Add", "row", "tokens"])
@pytest.mark.parametrize(("native", "free"), ONE_ROW)
def test_along_the_one_row_alone_its_numbers_go_on(native: tuple[int, int], free: str, kind: str) -> None:
    larger = ((3, 23),) if free == "width" else ((23, 3),)
    for options in ({"free": (free,)}, {"free": (free,), "grids": "step"}):
        agrees(network(numbered, kind, native), lambda size: network(numbered, kind, size), larger, **options)


@pytest.mark.parametrize("kind", ["Add", "row", "tokens"])
def test_numbers_of_rows_that_stay(kind: str) -> None:
    """How many places there are in a row is in the first number of each: these stayed as they were natively."""

    def table(height: int, width: int) -> np.ndarray:
        return np.stack([np.arange(height * width).reshape(height, width)] * 2)[None]

    found = refusal(network(table, kind, NATIVE), free=("width",), grids="step")
    assert "counts the places row by row" in found.reason


def test_what_has_no_row_goes_on_beside_one() -> None:
    """A number for each column, without an axis of rows, is no count of all places."""
    agrees(network(TABLES["columns alone"], "Add", (3, 16)), lambda size: network(TABLES["columns alone"], "Add", size))


@pytest.mark.parametrize("name", ["bent", "random", "one value off"])
def test_a_table_that_is_not_affine_is_refused(name: str) -> None:
    def table(height: int, width: int) -> np.ndarray:
        if name == "bent":
            return np.arange(width) ** 2.0
        found = mixed(height, width)[None] if name == "one value off" else np.zeros((1, 2, height, width))
        noise = np.random.default_rng(0).standard_normal(found.shape)
        return found + (noise if name == "random" else 1e-3 * (np.arange(found.size).reshape(found.shape) == 17))

    assert refusal(network(table, "Add", NATIVE)).code == "position-table"


def warp(size: tuple[int, int], name: str = "ends", scale: float = 1, corners: int = 1) -> onnx.ModelProto:
    """Read at a grid from -1 to 1, or at a part of it; by offsets that a Conv makes where ``scale`` is 0."""
    net = Net(seed=7)
    x = net.conv(net.image(size=size), 2, 2)
    table = TABLES[name](*places(size)).transpose(0, 2, 3, 1)
    grid = net.const(table * (scale or 1))
    if not scale:
        grid = net.op("Add", grid, net.op("Transpose", net.op("Tanh", x), perm=[0, 2, 3, 1]))
    return net.model(net.op("GridSample", x, grid, align_corners=corners, mode="bilinear"))


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("name", ["ends", "centres", "downward"])
def test_a_fixed_warp_goes_on_as_its_own_values_show(name: str, corners: int) -> None:
    """align_corners says where the operator reads, not how the table was made."""
    done = agrees(warp(NATIVE, name, 1, corners), lambda size: warp(size, name, 1, corners))
    rule = "centres" if name == "centres" else "ends"
    assert [(grid.rules, grid.given) for grid in done.claim.grids] == [((rule, rule), False)]


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25])
@pytest.mark.parametrize("name", ["ends", "centres"])
def test_a_part_of_a_fixed_warp_shows_no_rule(name: str, scale: float) -> None:
    found = refusal(warp(NATIVE, name, scale, 0))
    assert (found.code, "show no rule" in found.reason) == ("grid-rule", True)


def test_offsets_on_a_grid_from_end_to_end_are_parts_of_it() -> None:
    agrees(warp(NATIVE, scale=0), lambda size: warp(size, scale=0))


@pytest.mark.parametrize("change", ["scaled", "shifted", "rule"])
@pytest.mark.parametrize("name", ["pixels", "ends", "centres"])
def test_the_proof_finds_a_grid_that_goes_on_wrong(name: str, change: str) -> None:
    """Native parity alone does not see it."""
    model = network(TABLES[name], "Add", NATIVE)
    done = rewrite(model, check_options=CHECK)
    [grid] = done.claim.grids
    claim, wrong = done.claim, complete(done)
    if change == "rule":
        other = {"step": "ends", "ends": "centres", "centres": "step"}[grid.rules[0]]
        claim = replace(claim, grids=(replace(grid, rules=(other, other)),))
    else:
        _spoil(wrong, grid.rewritten, change)
    parity = check(ModelFile.open(model), ModelFile.open(wrong), claim, CHECK)
    assert parity.native.status == "passed"
    assert parity.window.status == "failed"
    assert "wrong claim" in parity.window.reason


def _spoil(model: onnx.ModelProto, grid: str, change: str) -> None:
    """A grid times the number of rows over the native one, or that quotient less 1 on top: right at the native size."""
    maker = next(node for node in model.graph.node if grid in node.output)
    maker.output[0] = "right"
    first = next(node for node in model.graph.node if node.op_type == "Conv").output[0]
    values = {"two": np.array([2]), "native": np.array([places(NATIVE)[0]], np.float32), "one": np.ones(1, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    nodes = [
        helper.make_node("Shape", [first], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["number", "native"], ["quotient"]),
        helper.make_node("Sub", ["quotient", "one"], ["more"]),
        helper.make_node(
            *(("Mul", ["right", "quotient"]) if change == "scaled" else ("Add", ["right", "more"])), [grid]
        ),
    ]
    rest = list(model.graph.node)
    shapes = 1 + next(k for k, node in enumerate(rest) if node.op_type == "Conv")
    at = max(rest.index(maker) + 1, shapes)
    for node in reversed(nodes):
        model.graph.node.insert(at, node)


def unfolded(size: tuple[int, int]) -> onnx.ModelProto:
    """A grid of more elements than exporters fold: left in the graph, made from constants."""
    net = Net(seed=8)
    x = net.conv(net.image(size=size), 2, 2)
    high, wide = places(size)
    columns, rows = (net.op("Range", *(net.const(value) for value in (0, length, 1))) for length in (wide, high))
    rows = net.axes("Unsqueeze", rows, [1])
    pair = [net.op("Expand", item, net.ints(1, 1, high, wide)) for item in (columns, rows)]
    grid = net.op("Mul", net.op("Concat", *pair, axis=1), net.const(2))
    return net.model(net.op("Add", x, grid))


def test_a_grid_that_exporters_left_unfolded() -> None:
    done = agrees(unfolded((142, 120)), unfolded)
    assert [grid.rules for grid in done.claim.grids] == [("step", "step")]


def classifier(size: tuple[int, int], pooled: bool = True, folded: bool = False) -> onnx.ModelProto:
    """Coordinates, then a head."""
    net = Net(seed=9)
    x = net.conv(net.image(size=size), 2, 2)
    high, wide = places(size)
    if folded:
        x = net.op("Reshape", x, net.ints(1, 2, high * wide))
    table = TABLES["ends"](high, wide)
    x = net.op("Add", x, net.const(table.reshape(1, 2, -1) if folded else table))
    x = net.op("Tanh", x)
    if pooled:
        return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", x)), 2, 5))
    return net.model(net.fc(net.op("Flatten", x), 2 * high * wide, 5))


def test_windows_have_no_coordinates_of_the_large_image() -> None:
    """A cell is what the original says of the crop, whose coordinates go from -1 to 1."""
    found = refusal(classifier(NATIVE))
    assert found.code == "grid-rule"
    assert "others than the crop has" in found.reason
    assert "--global-pool keep" in found.advice
    agrees(classifier(NATIVE), classifier, global_pool="keep")
    assert "--global-pool keep" not in refusal(classifier(NATIVE, pooled=False)).advice


def test_a_window_of_features_has_the_crop_s_own_coordinates() -> None:
    """Flattened before: the table is one of features."""
    proven(classifier(NATIVE, pooled=False, folded=True))


def priors(order: str, size: tuple[int, int], apart: bool = False) -> onnx.ModelProto:
    """Centres and lengths as parts of the image, (1, places, 4), in the order xywh or yxhw; in one table or in two."""
    net = Net(seed=10)
    x = net.conv(net.image(size=size), 2, 4, (2, 2))
    high, wide = size[0] // 2, size[1] // 2
    rows = net.op("Transpose", net.op("Reshape", x, net.ints(1, 4, high * wide)), perm=[0, 2, 1])
    made = {"x": (np.arange(wide) + 0.5) / wide, "y": ((np.arange(high) + 0.5) / high)[:, None]}
    made |= {"w": np.array(5 / size[1]), "h": np.array(9 / size[0])}
    table = np.stack([np.broadcast_to(made[name], (high, wide)) for name in order], -1).reshape(1, -1, 4)
    if not apart:
        return net.model(net.op("Add", rows, net.const(table), out="boxes"))
    parts = net.op("Split", rows, net.ints(2, 2), axis=2, outputs=2)
    centres, lengths = (net.const(table[..., k : k + 2]) for k in (0, 2))
    both = net.op("Add", parts[0], centres), net.op("Mul", parts[1], lengths)
    return net.model(net.op("Concat", *both, axis=2, out="boxes"))


EVEN = ((12, 18), (20, 16), (18, 28))


@pytest.mark.parametrize("order", ["xywh", "yxhw"])
def test_lengths_are_parts_of_the_axis_of_their_centres(order: str) -> None:
    done = agrees(priors(order, NATIVE), lambda size: priors(order, size), EVEN, grids="image")
    assert done.claim.verdict == "extrapolated"
    assert refusal(priors(order, NATIVE)).code == "grid-rule"


def test_lengths_alone_are_width_then_height() -> None:
    """Where the centres beside them lie the other way round, that is no reading of them."""
    agrees(priors("xywh", NATIVE, True), lambda size: priors("xywh", size, True), EVEN, grids="image")
    assert refusal(priors("yxhw", NATIVE, True), grids="image").code == "grid-rule"


AXES: dict[str, Callable[[int], np.ndarray]] = {
    "cells": lambda n: np.arange(n) + 0.5,
    "backward": lambda n: 1 - 2.0 * np.arange(n),
    "ends": lambda n: np.linspace(1, -1, n),
    "centres": lambda n: (2 * np.arange(n) + 1) / n - 1,
    "alike": lambda n: np.full(n, 1.5),
    "odd steps": lambda n: 0.37 * np.arange(n),
    "none": lambda n: np.random.default_rng(n).standard_normal(n),
}


@pytest.mark.sweep(16)
@pytest.mark.parametrize("seed", range(30))
def test_random_grids_are_right_or_refused(seed: int) -> None:
    rng = np.random.default_rng(seed)
    high, wide = (str(name) for name in rng.choice(list(AXES), 2))
    kind = str(rng.choice(["Add", "Sub", "Mul", "first", "Concat", "last", "anchors", "row", "tokens"]))
    native = (int(rng.integers(7, 40)), int(rng.integers(7, 40)))

    def table(height: int, width: int) -> np.ndarray:
        found = np.broadcast_arrays(AXES[wide](width)[None], AXES[high](height)[:, None])
        return np.stack(found)[None]

    model = network(table, kind, native)
    sizes = ((native[0] + 5, native[1] + 2), (native[0] + 8, native[1] + 31))
    found = refusals(model)
    if found:
        plain = found[0].code == "grid-rule" or "none" in (high, wide)
        assert plain, found[0]
    else:
        assert not {high, wide} & {"none", "odd steps"}
        agrees(model, lambda size: network(table, kind, size), sizes)


@pytest.mark.parametrize("kind", ["row", "tokens"])
def test_a_table_beside_rows_of_places_is_named(kind: str) -> None:
    """Without a head there are no windows whose features it could be of."""
    found = refusal(network(lambda h, w: np.random.default_rng(h).standard_normal((1, 2, h, w)), kind, NATIVE))
    assert (found.code, found.node.split("_")[1]) == ("position-table", "add")
