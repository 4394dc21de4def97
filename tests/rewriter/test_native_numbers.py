"""Plain numbers that are those of the native size: refused, however they are spelled; others stay, and are right."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import Net, complete, refusal, session
from references import EXPORTERS

import onnxfc
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.rewriter.side_numbers import folded

SHARES = "{} scales what a Softmax or norm shares out by the native number of its places, a plain number"


def image(net: Net, height: int, width: int) -> str:
    """A map of these many places, with four channels."""
    return net.conv(net.image(1, (2 * height + 1, 2 * width + 1)), 2, 4)


def rows(net: Net, height: int, width: int) -> str:
    """A list of them."""
    return str(net.op("Transpose", net.op("Reshape", image(net, height, width), net.ints(1, 4, -1)), perm=[0, 2, 1]))


def spelled(kind: str, times: float = 35) -> onnx.ModelProto:
    """A Softmax over 5x7 places times a number."""
    net = Net(17)
    data = rows(net, 5, 7)
    shares = net.op("Softmax", data, axis=1)
    by = net.const(np.float32(times))
    made = {
        "at once": lambda: net.op("Mul", shares, by),
        "divided": lambda: net.op("Div", shares, net.const(np.float32(1 / times))),
        "by parts": lambda: net.op("Mul", net.op("Mul", shares, net.const(5.0)), net.const(np.float32(times / 5))),
        "the other factor": lambda: net.op("Mul", shares, net.op("Mul", data, by)),
        "roots": lambda: net.op("Mul", net.op("Sqrt", shares), net.const(np.float32(times**0.5))),
        "squares": lambda: net.op("Mul", net.op("Pow", shares, net.const(2.0)), net.const(np.float32(times**2))),
        "behind a sum": lambda: net.op("Mul", net.op("Add", shares, net.const(1e-6)), by),
        "moved": lambda: net.op("Mul", net.op("Slice", shares, net.ints(0), net.ints(2), net.ints(2)), by),
    }[kind]()
    return net.model(made)


KINDS = ("at once", "divided", "by parts", "the other factor", "roots", "squares", "behind a sum", "moved")


@pytest.mark.parametrize("kind", KINDS)
def test_shares_times_the_number_of_places(kind: str) -> None:
    found = refusal(spelled(kind))
    assert (found.code, found.reason) == ("size-locked", SHARES.format("Div" if kind == "divided" else "Mul"))


@pytest.mark.parametrize("kind", KINDS)
def test_shares_times_another_number(kind: str) -> None:
    """As the original is at another size, once its Reshape takes any."""
    model = spelled(kind, 30)
    made = session(complete(onnxfc.rewrite(model)))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "h"
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "w"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    data = {"image": np.random.default_rng(0).standard_normal((1, 2, 17, 21)).astype(np.float32)}
    [want], [got] = session(onnx.shape_inference.infer_shapes(model)).run(None, data), made.run(None, data)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def weighing(kind: str, number: float) -> onnx.ModelProto:
    """A map of 5x7 places weighed by a Softmax over them, which the number stands beside, then a curve, a mean, FC."""
    net = Net(17)
    tensor = net.op("Reshape", image(net, 5, 7), net.ints(1, 4, -1))
    by = net.const(np.float32(number))
    asked = net.op("Mul", net.op("Div", tensor, by), net.const(20.0)) if kind == "Softmax" else tensor
    shares = net.op("Softmax", asked, axis=2)
    if kind == "Tanh":
        shares = net.op("Mul", shares, by)
    elif kind == "Greater":
        shares = net.op("Cast", net.op("Greater", shares, by), to=onnx.TensorProto.FLOAT)
    made = net.op("Tanh", net.op("Mul", shares, tensor))
    return net.model(net.fc(net.axes("ReduceMean", made, (2,), keepdims=0), 4, 3))


@pytest.mark.parametrize(
    ("kind", "number", "why"),
    [
        ("Tanh", 35, "bends what a Softmax or norm shares out, times"),
        ("Greater", 1 / 35, "compares what a Softmax or norm shares out with"),
        ("Softmax", 35**0.5, "shares out what was scaled by the root of"),
    ],
)
def test_what_no_sum_behind_makes_good(kind: str, number: float, why: str) -> None:
    """Of one vector of the whole image; cells are of windows of 35 places each."""
    found = refusal(weighing(kind, number), global_pool="keep")
    assert (found.code, found.reason) == (
        "size-locked",
        f"{kind} {why} the native number of its places, a plain number",
    )
    other = onnxfc.rewrite(weighing(kind, 0.02 if kind == "Greater" else 3), options=RewriteOptions(global_pool="keep"))
    assert other.parity is not None
    assert other.parity.passed


@pytest.mark.parametrize("free", ["width", "height"])
@pytest.mark.parametrize("behind", [False, True])
def test_places_along_an_axis_that_is_not_freed_count_too(behind: bool, free: str) -> None:
    net = Net(17)
    data = image(net, 5, 7)
    shares = net.op("Softmax", net.op("Reshape", data, net.ints(1, 4, 35)), axis=2)
    shares = net.op("Reshape", shares, net.ints(1, 4, 5, 7)) if behind else shares
    made = net.op("Mul", shares, net.const(35.0))
    made = net.conv(made, 4, 4) if behind else net.op("Transpose", made, perm=[0, 2, 1])
    found = refusal(net.model(made), free=(free,))
    assert (found.code, found.reason) == ("size-locked", SHARES.format("Mul"))


@pytest.mark.parametrize(("free", "number"), [("width", 22.0), ("height", 18.0)])
def test_shares_of_all_places_times_those_along_the_free_axis(free: str, number: float) -> None:
    """A Softmax over 18x22 places, laid out as the map again."""
    net = Net(17)
    data = image(net, 18, 22)
    shares = net.op("Softmax", net.op("Reshape", data, net.ints(1, 4, 396)), axis=2)
    made = net.op("Mul", net.op("Reshape", shares, net.ints(1, 4, 18, 22)), net.const(number))
    found = refusal(net.model(net.conv(made, 4, 4)), free=(free,))
    assert (found.code, found.reason) == ("size-locked", SHARES.format("Mul"))


def test_a_few_columns() -> None:
    """However few they are, a Softmax over them is known to share out among these."""
    net = Net(17)
    shares = net.op("Mul", net.op("Softmax", image(net, 5, 7), axis=3), net.const(7.0))
    assert refusal(net.model(shares)).reason == SHARES.format("Mul")


def normalised(norm: str, by: float, spread: bool, height: int = 5, width: int = 7) -> onnx.ModelProto:
    """Places of a map divided by their own norm, times a number; the sums are laid out again where ``spread``."""
    net = Net(17)
    data = net.op("Reshape", net.op("Relu", image(net, height, width)), net.ints(1, 4, -1))
    least = net.op("Clip", net.op(norm, data, axes=[2], keepdims=1), net.const(1e-12))
    whole = net.op("Expand", least, net.op("Shape", data)) if spread else least
    made = net.op("Mul", net.op("Div", data, whole), net.const(np.float32(by)))
    return net.model(net.conv(net.op("Reshape", made, net.ints(1, 4, height, width)), 4, 4))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(
    ("norm", "by"),
    [
        *(("ReduceL1", by) for by in (70.0, 17.5, 105.0, 165.0)),
        *(("ReduceL2", by) for by in (35.0, 70.0, 165.0)),
    ],
)
def test_a_norm_over_places_times_some_of_their_number(norm: str, by: float, spread: bool) -> None:
    """165 is the number of the image's pixels; one that nobody writes."""
    found = refusal(normalised(norm, by, spread))
    assert (found.code, found.reason) == ("size-locked", SHARES.format("Mul"))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize(
    ("norm", "by", "count"),
    [("ReduceL1", 35.0, 1.0), ("ReduceL1", 20.0, 0.0), ("ReduceL2", 35**0.5, 0.5), ("ReduceL2", 20.0, 0.0)],
)
def test_a_norm_over_places_times_their_number_or_another(norm: str, by: float, count: float, spread: bool) -> None:
    """As the same network is for the other size: the count follows that, another number stays."""
    made = session(complete(onnxfc.rewrite(normalised(norm, by, spread))))
    other = session(normalised(norm, by * (80 / 35) ** count, spread, 8, 10))
    data = {"image": np.random.default_rng(0).standard_normal((1, 2, 17, 21)).astype(np.float32)}
    np.testing.assert_allclose(made.run(None, data)[0], other.run(None, data)[0], rtol=1e-4, atol=1e-6)


def test_a_softmax_over_features_shares_out_no_places() -> None:
    net = Net(17)
    made = net.op("Mul", net.op("Softmax", rows(net, 2, 2), axis=2), net.const(4.0))
    assert [output.form for output in onnxfc.rewrite(net.model(made)).claim.outputs] == ["list"]


@pytest.mark.parametrize(
    ("side", "number", "held"),
    [(7, 49.0, True), (7, 48.0, False), (3, 9.0, True), (2, 4.0, False)],
)
def test_a_list_divided_by_its_places(side: int, number: float, held: bool) -> None:
    """Of fewer than nine the number may be any (of boxes at a place, of a stride)."""
    net = Net(17)
    model = net.model(net.op("Div", rows(net, side, side), net.const(np.float32(number))))
    if held:
        assert refusal(model).reason == "Div divides a list's values by the native number of its places, a plain number"
    else:
        assert [output.form for output in onnxfc.rewrite(model).claim.outputs] == ["list"]


def cells(*steps: tuple[str, float | list[list[float]]], width: int = 13, open_sizes: bool = False) -> onnx.ModelProto:
    """A list of places, each with its corner in cells added (YOLOv2), and what is done to that."""
    net = Net(17)
    data = rows(net, 9, width)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(9)), axis=-1).reshape(1, -1, 2)
    boxes = net.op("Slice", data, net.ints(0), net.ints(2), net.ints(2))
    made = net.op("Add", net.op("Sigmoid", boxes), net.const(grid.astype(np.float32)))
    for op_type, number in steps:
        inputs = (
            (net.const(0.0), net.const(np.float32(number))) if op_type == "Clip" else (net.const(np.float32(number)),)
        )
        made = net.op(op_type, made, *inputs)
    model = net.model(made)
    for axis in (2, 3) if open_sizes else ():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    return model


@pytest.mark.parametrize(
    ("op_type", "number", "told"),
    [
        ("Div", 13, "Div divides a list's values by a side of the map at the native size, a plain number"),
        ("Mul", 1 / 9, "Mul divides a list's values by a side of the map at the native size, a plain number"),
        ("Clip", 12, "Clip keeps a list's values below a side of the map at the native size, a plain number"),
        ("Sub", 6, "Sub counts a list's values from half a side of the map at the native size, a plain number"),
        ("Mul", 100 / 27, "Mul divides a list's values by 27 / 100, a plain number"),
        ("Div", 0.19, "Div divides a list's values by 19 / 100, a plain number"),
        ("Div", 9 / 640, "Div divides a list's values by 18 / 1280, a plain number"),
        ("Mul", 1920 / 26, "Mul divides a list's values by 26 / 1920, a plain number"),
        ("Div", 19**0.5, "Div divides a list's values by the root of a side of the native image, a plain number"),
        ("Div", 513**0.5, "Div divides a list's values by the root of the native image's pixels, a plain number"),
        (
            "Sub",
            float(np.log(27)),
            "Sub counts a list's values from the logarithm of a side of the native image, a plain number",
        ),
        (
            "MatMul",
            [[1 / 27, 0], [0, 1 / 19]],
            "MatMul divides a list's values by a side of the native image, a plain number",
        ),
        (
            "MatMul",
            [[1 / 30, 0], [0, 1 / 13]],
            "MatMul divides a list's values by a side of the map at the native size, a plain number",
        ),
    ],
)
def test_coordinates_in_cells_that_reckon_with_their_map(
    op_type: str, number: float | list[list[float]], told: str
) -> None:
    found = refusal(cells((op_type, number)), grids="step")
    assert (found.code, found.reason) == ("size-locked", told)
    advice = (
        "export the model with open height and width, so that it is computed; or, where the number is one by chance"
    )
    assert found.advice.startswith(advice)


@pytest.mark.parametrize(
    ("op_type", "told"),
    [
        ("Clip", "Clip keeps a list's values below a side of a native map in pixels, a plain number"),
        ("Sub", "Sub counts a list's values from a side of a native map in pixels, a plain number"),
    ],
)
def test_coordinates_in_pixels_that_reckon_with_their_map(op_type: str, told: str) -> None:
    """14 places at a stride of 4 px are 56 px, of an image of 53: such numbers stayed, and were proven."""
    net = Net(17)
    data = net.conv(net.image(size=(37, 53)), 2, 2, strides=[4, 4], pads=[1, 1, 1, 1])
    listed = net.op("Transpose", net.op("Reshape", data, net.ints(1, 2, 140)), perm=[0, 2, 1])
    grid = np.stack(np.meshgrid(np.arange(14), np.arange(10)), axis=-1).reshape(1, -1, 2)
    made = net.op("Add", listed, net.const((4 * grid).astype(np.float32)))
    limits = [net.const(0.0)] if op_type == "Clip" else []
    found = refusal(net.model(net.op(op_type, made, *limits, net.const(np.float32(56)))), grids="step")
    assert (found.code, found.reason) == ("size-locked", told)


@pytest.mark.parametrize(
    "steps",
    [
        *([("Div", 13), ("Mul", 26)], [("Mul", 2)], [("Div", 4)], [("Clip", 1000)]),
        *([("Mul", 1.25)], [("Mul", 4 / 3)], [("Div", 0.3)], [("Mul", 1 / 29**0.5)], [("Mul", 27 / 255)]),
    ],
)
def test_coordinates_in_cells_that_do_not(steps: list[tuple[str, float]]) -> None:
    """Divided by the map's width and multiplied by the image's, which is a stride: pixels at every size."""
    model = cells(*steps)
    made = session(complete(onnxfc.rewrite(model, options=RewriteOptions(grids="step"))))
    data = np.random.default_rng(0).standard_normal((1, 2, 27, 35)).astype(np.float32)
    [got] = made.run(None, {"image": data})
    weight, bias = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer[:2])
    patches = np.lib.stride_tricks.sliding_window_view(data[0], (3, 3), axis=(1, 2))[:, ::2, ::2]
    want = 1 / (1 + np.exp(-(np.einsum("chwij,ocij->hwo", patches, weight[:2]) + bias[:2])))
    want += np.stack(np.meshgrid(np.arange(17), np.arange(13)), axis=-1)
    for op_type, number in steps:
        want = {"Div": want / number, "Mul": want * number, "Clip": want}[op_type]
    np.testing.assert_allclose(got[0], want.reshape(-1, 2), rtol=1e-4, atol=1e-5)


def moved(op_type: str, number: float) -> onnx.ModelProto:
    """A list of places whose scores are scaled, and added to coordinates behind a Tanh."""
    net = Net(17)
    grid = np.stack(np.meshgrid(np.arange(13), np.arange(9)), axis=-1).reshape(1, -1, 2)
    boxes = net.op("Slice", rows(net, 9, 13), net.ints(0), net.ints(2), net.ints(2))
    offsets = net.op("Tanh", net.op(op_type, boxes, net.const(np.float32(number))))
    return net.model(net.op("Add", offsets, net.const(grid.astype(np.float32))))


@pytest.mark.parametrize(
    ("op_type", "number", "told"),
    [
        ("Mul", 27 / 12, None),  # a number that people write
        ("Mul", 27 / 7, "27 / 7"),
        ("Mul", 19 / 12, "19 / 12"),
        ("Div", 12 / 19, "19 / 12"),
        ("Mul", 13 / 7, "26 / 14"),
        ("Mul", 27, "a side of the native image"),
        ("Mul", 4 / 3, None),
        ("Mul", 0.7, None),
    ],
)
def test_scores_that_are_scaled_before_they_are_added_to_coordinates(
    op_type: str, number: float, told: str | None
) -> None:
    if told:
        why = f"{op_type} multiplies what is added to coordinates by {told}, a plain number"
        assert refusal(moved(op_type, number), grids="step").reason == why
        return
    made = session(complete(onnxfc.rewrite(moved(op_type, number), options=RewriteOptions(grids="step"))))
    data = np.random.default_rng(0).standard_normal((1, 2, 27, 35)).astype(np.float32)
    [got] = made.run(None, {"image": data})
    weight, bias = (onnx.numpy_helper.to_array(tensor) for tensor in moved(op_type, number).graph.initializer[:2])
    patches = np.lib.stride_tricks.sliding_window_view(data[0], (3, 3), axis=(1, 2))[:, ::2, ::2]
    want = np.tanh(number * (np.einsum("chwij,ocij->hwo", patches, weight[:2]) + bias[:2]))
    want += np.stack(np.meshgrid(np.arange(17), np.arange(13)), axis=-1)
    np.testing.assert_allclose(got[0], want.reshape(-1, 2), rtol=1e-4, atol=1e-5)


def masked(kind: str, number: float, *, step: float = 2.0) -> onnx.ModelProto:
    """A map of scores where coordinates that these moved are beyond a number, and their half elsewhere."""
    net = Net(17)
    data = image(net, 9, 13)
    grid = np.stack(np.meshgrid(np.arange(13), np.arange(9)))[None] * step
    moved_by = net.op(
        "Add", net.op("Tanh", net.op("Slice", data, net.ints(0), net.ints(2), net.ints(1))), net.const(grid)
    )
    held = net.op(kind, net.op("Slice", moved_by, net.ints(0), net.ints(1), net.ints(1)), net.const(np.float32(number)))
    return net.model(net.op("Where", held, data, net.op("Mul", data, net.const(0.5))))


@pytest.mark.parametrize(("kind", "number"), [("GreaterOrEqual", 27 * 0.75), ("Less", 27 - 12.0), ("Greater", 27 / 7)])
def test_masks_of_coordinates_that_may_hold_the_native_size(kind: str, number: float) -> None:
    found = refusal(masked(kind, number), grids="step")
    why = f"{kind} compares coordinates with {number:g}, a plain number, which may be a part of the native image's size"
    assert (found.code, found.reason) == ("size-locked", why)
    assert "--output-at slice_" in found.advice


@pytest.mark.parametrize(("kind", "number"), [("GreaterOrEqual", 4.0), ("Less", 1000.0)])
def test_masks_of_coordinates_that_do_not(kind: str, number: float) -> None:
    """As the same network, made for that size, says."""
    made = session(complete(onnxfc.rewrite(masked(kind, number), options=RewriteOptions(grids="step"))))
    data = np.random.default_rng(0).standard_normal((1, 2, 27, 35)).astype(np.float32)
    [got] = made.run(None, {"image": data})
    weight, bias = (onnx.numpy_helper.to_array(tensor) for tensor in masked(kind, number).graph.initializer[:2])
    patches = np.lib.stride_tricks.sliding_window_view(data[0], (3, 3), axis=(1, 2))[:, ::2, ::2]
    scores = np.einsum("chwij,ocij->ohw", patches, weight) + bias[:, None, None]
    across = np.tanh(scores[0]) + 2.0 * np.arange(17)
    held = across >= number if kind == "GreaterOrEqual" else across < number
    np.testing.assert_allclose(got[0], np.where(held, scores, scores / 2), rtol=1e-4, atol=1e-5)


def weighed(kind: str) -> onnx.ModelProto:
    """A list of two columns, divided by its image's sides."""
    net = Net(17)
    data = net.op("Slice", rows(net, 9, 13), net.ints(0), net.ints(2), net.ints(2))
    sides = np.array([27, 19], np.float32)
    apart = net.op("Transpose", data, perm=[0, 2, 1])
    made = {
        "Conv": lambda: net.op("Conv", apart, net.const(np.diag(1 / sides)[:, :, None]), net.const(np.float32([1, 2]))),
        "Einsum": lambda: net.op("Einsum", data, net.const(1 / sides), equation="bnk,k->bnk"),
        "BatchNormalization": lambda: net.op(
            "BatchNormalization", apart, *(net.const(np.float32(each)) for each in ([1, 1], [0, 0], [0, 0], sides**2))
        ),
    }[kind]()
    return net.model(made)


@pytest.mark.parametrize("kind", ["Conv", "Einsum", "BatchNormalization"])
def test_a_list_divided_by_weights(kind: str) -> None:
    told = f"{kind} divides a list's values by a side of the native image, a plain number"
    assert refusal(weighed(kind)).reason == told


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_mean_coordinates_that_are_kept(exporter: str) -> None:
    """Summed up over the places, they are coordinates still; test_kept has those that are right."""
    found = refusal(
        onnx.load(fixture_file(f"kept_mean_place.{exporter}.onnx")), global_pool="keep", output_at=("parts",)
    )
    assert found.reason == "Div divides a list's values by a side of the map at the native size, a plain number"


def test_advice_where_the_size_is_open_already() -> None:
    """Another size is not that of the coincidence."""
    model = cells(("Div", 27), open_sizes=True)
    found = refusal(model, grids="step", size=(19, 27))
    assert found.code == "size-locked"
    assert "name another native --size" in found.advice
    assert "export" not in found.advice


@pytest.mark.parametrize("kind", ["softmax", "cells"])
def test_at_the_native_size_alone_its_numbers_are_right(kind: str) -> None:
    model, grids = (spelled("roots"), None) if kind == "softmax" else (cells(("Div", 13)), "step")
    size = (11, 15) if kind == "softmax" else (19, 27)
    done = onnxfc.rewrite(model, options=RewriteOptions(fixed_size=size, grids=grids))
    data = {"image": np.random.default_rng(0).standard_normal((1, 2, *size)).astype(np.float32)}
    [want], [got] = session(model).run(None, data), session(complete(done)).run(None, data)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    larger = (size[0] + 4, size[1] + 4)
    assert refusal(model, fixed_size=larger, grids=grids).code == "size-locked"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_numbers_behind_what_picks_places(exporter: str) -> None:
    """Clip(0, W) behind NonMaxSuppression."""
    path = fixture_file(f"detect_clipped.{exporter}.onnx")
    size = tuple(dim.dim_value for dim in onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2:])
    done = onnxfc.rewrite(path, options=RewriteOptions(fixed_size=size))
    data = {"image": np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)}
    for want, got in zip(
        session(onnx.load(path)).run(None, data), session(complete(done)).run(None, data), strict=True
    ):
        assert np.size(want) > 0
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_share_to_any_power_is_no_number_of_places() -> None:
    """Squared so often, its count of places is more than a float holds."""
    net = Net(17)
    rows = net.op("Reshape", net.conv(net.image(1, (11, 9)), 2, 4), net.ints(0, 4, -1))
    share = net.op("Softmax", rows, axis=2)
    for _ in range(9):
        share = net.op("Mul", share, share)
    summed = net.op("ReduceSum", net.op("Mul", rows, share), net.ints(2), keepdims=0)
    done = onnxfc.rewrite(net.model(net.fc(summed, 4, 5)), options=RewriteOptions(global_pool="keep"), prove=False)
    assert [output.form for output in done.claim.outputs] == ["global"]


@pytest.mark.parametrize("number", [5e-324, 1e-39, float("inf"), float("nan")])
def test_a_divisor_of_almost_nothing_is_no_part_of_a_side(number: float) -> None:
    assert folded([number], "Div", [40, 56]) == ""
