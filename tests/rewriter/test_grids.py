"""Grids of coordinates that were folded into constants: at every size what PyTorch's own networks give."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, refusal
from onnx import helper, numpy_helper
from references import EXPORTERS, compare, image, run

import onnxfc
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite

LISTS = ("grid_decoder", "grid_distances", "grid_added", "grid_centres", "grid_positions")
MAPS = ("grid_coordinates", "grid_halves", "grid_weighed", "grid_position_map")
SIZES = ((64, 48), (36, 52), (33, 51))
REFERENCES, MORE = np.load(fixture_file("grids.npz")), np.load(fixture_file("grids_more.npz"))
SMALL = ((16, 12), (12, 20), (24, 28))


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    given = onnxfc.RewriteOptions(**options)  # type: ignore[arg-type]
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=given)


def agrees(done: Rewrite, name: str, rounding: float = 4e-6) -> None:
    for size in SIZES:
        compare(done.model, {"image": image(*size)}, REFERENCES, name, rounding)


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", [*LISTS, *MAPS])
def test_grids_of_any_size(name: str, exporter: str) -> None:
    done = rewritten(name, exporter)
    assert done.parity is not None
    assert done.parity.passed
    agrees(done, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_turned_grid_does_not_show_what_lies_on_its_ends(exporter: str) -> None:
    """Turned and made smaller: linspace or affine_grid, with either align_corners, may have made it."""
    with pytest.raises(NothingToRewrite, match="show no rule by which it goes on") as caught:
        rewritten("grid_turned", exporter)
    assert [item.code for item in caught.value.refusals] == ["grid-rule"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_parts_of_the_image_are_asked_for(exporter: str) -> None:
    """Centres of priors are (i + 1/2) * stride / image: what is behind may multiply them by the native size."""
    with pytest.raises(NothingToRewrite, match="show no rule by which it goes on") as caught:
        rewritten("grid_priors", exporter)
    assert [(item.code, "--grids step" in item.advice) for item in caught.value.refusals] == [("grid-rule", True)]
    with pytest.raises(NothingToRewrite, match="of what is it a part"):
        rewritten("grid_priors", exporter, grids="map")
    agrees(rewritten("grid_priors", exporter, grids="image"), "grid_priors")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_steps_that_stay_are_boxes_in_native_images(exporter: str) -> None:
    """Each box in parts of the native image: what a network gives whose priors are always made for that."""
    done = rewritten("grid_priors", exporter, grids="step")
    assert done.claim.verdict == "extrapolated"
    agrees(done, "native grid_priors")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_two_rows_from_minus_a_half_on_are_no_centres(exporter: str) -> None:
    """-0.5 and 0.5 could lie around the centres of a map from -1 to 1; three columns beside them show steps."""
    done = rewritten("grid_two_rows", exporter)
    assert {rule for grid in done.claim.grids for rule in grid.rules} <= {"", "step"}
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, "grid_two_rows", 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_two_rows_and_nothing_beside_them_are_asked_for(exporter: str) -> None:
    path, options = fixture_file(f"grid_two_rows.{exporter}.onnx"), onnxfc.RewriteOptions(free=("height",))
    with pytest.raises(NothingToRewrite, match=r"fit several rules \(centres, middle, step\)"):
        onnxfc.rewrite(path, options=options)


ALONG = [("height", (48, 40)), ("height", (37, 40)), ("width", (32, 64)), ("width", (32, 47))]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("free", "size"), ALONG)
@pytest.mark.parametrize("name", ["grid_added", "grid_distances", "grid_coordinates"])
def test_grids_along_one_axis(name: str, free: str, size: tuple[int, int], exporter: str) -> None:
    path, options = fixture_file(f"{name}.{exporter}.onnx"), onnxfc.RewriteOptions(free=(free,))
    done = onnxfc.rewrite(path, options=options, prove=name != "grid_added")  # exp of strong inputs is infinite
    compare(done.model, {"image": image(*size)}, MORE, name, 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("free", "size"), ALONG)
def test_parts_of_the_image_along_one_axis(free: str, size: tuple[int, int], exporter: str) -> None:
    """Lengths along the axis that stays are the parts that they were."""
    done = rewritten("grid_priors", exporter, free=(free,), grids="image")
    compare(done.model, {"image": image(*size)}, MORE, "grid_priors", 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_grid_of_few_values_is_no_number_of_the_native_size(exporter: str) -> None:
    """Corners of four by four places, one of them at half a side of the image."""
    done = rewritten("grid_coarse", exporter)
    assert done.parity is not None
    assert done.parity.passed
    for size in ((96, 80), (64, 112), (75, 69)):
        compare(done.model, {"image": image(*size)}, MORE, "grid_coarse", 4e-6)


@pytest.mark.parametrize(("beside", "told"), [(24.0, True), (47.0, True), (48.0, True), (32.0, False)])
def test_a_number_beside_a_grid_of_few_values(beside: float, told: bool) -> None:
    """It is laid into the table as a further column, as an exporter folds it."""
    net = Net()
    tensor = net.conv(net.image(1, (48, 48)), 2, 2, (16, 16), strides=[16, 16])
    rows = net.op("Transpose", net.op("Reshape", tensor, net.ints(1, 2, 9)), perm=[0, 2, 1])
    table = np.stack([np.tile(np.arange(3) * 16.0, 3), np.full(9, beside)], -1).astype(np.float32)
    model = net.model(net.op("Add", rows, net.const(table)))
    if told:
        found = refusal(model)
        assert found.code == "size-locked"
        assert "a side of the native image" in found.reason
    else:
        assert onnxfc.rewrite(model, check_options=CHECK).claim.outputs[0].form == "list"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_matrix_times_a_grid_is_no_layer(exporter: str) -> None:
    """Rays of pixels: steps of no known unit, which the product of two constants has."""
    with pytest.raises(NothingToRewrite, match="show no rule by which it goes on"):
        rewritten("grid_multiplied", exporter)
    done = rewritten("grid_multiplied", exporter, grids="step")
    assert done.parity is not None
    assert done.parity.passed
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, "grid_multiplied", 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_parts_of_the_image_times_the_native_size_are_refused(exporter: str) -> None:
    """The size is a plain number in the graph. What the message advises is right: to multiply by one's own."""
    path = fixture_file(f"grid_in_pixels.{exporter}.onnx")
    for grids in ("step", "map", "image"):
        with pytest.raises(NothingToRewrite, match="Mul multiplies by the native size, a plain number") as caught:
            rewritten("grid_in_pixels", exporter, grids=grids)
        assert [item.code for item in caught.value.refusals] == ["grid-rule"]
    ends = caught.value.refusals[0].advice.split("--output-at ")[1]
    done = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(grids="image", output_at=(ends,)))
    for size in SMALL:
        [parts] = run(done.model, {"image": image(*size)}).values()
        want = MORE[f"grid_in_pixels list {size[0]}x{size[1]}"][..., :2]
        np.testing.assert_allclose(parts * np.float32(size[::-1]), want, rtol=0, atol=4e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", ["coordinates", "boxes"])
def test_grids_of_keras(name: str) -> None:
    """Channels last."""
    done = onnxfc.rewrite(fixture_file(f"keras_{name}.torch.onnx"))
    wanted = np.load(fixture_file("keras_grids.npz"))
    session = ort.InferenceSession(done.model.SerializeToString())
    for size in SIZES:
        given = np.random.default_rng(size[0]).standard_normal((1, *size, 3)).astype(np.float32)
        [value] = session.run(None, {session.get_inputs()[0].name: given})
        want = wanted[f"{name} {size[0]}x{size[1]}"]
        assert value.shape == want.shape
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_mean_place_of_the_whole_image(exporter: str) -> None:
    """Kept, it counts all places; without, each window its own."""
    done = rewritten("grid_argmax", exporter, global_pool="keep")
    assert {grid.rules for grid in done.claim.grids} == {("", "step"), ("step", "")}
    agrees(done, "grid_argmax")
    assert rewritten("grid_argmax", exporter).claim.grids == ()


Sized = dict[str, np.ndarray]


def grid(height: int, width: int) -> np.ndarray:
    """(H, W, 2): x and y."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def yolov8(height: int, width: int) -> Sized:
    levels = [(-(-height // stride), -(-width // stride)) for stride in (4, 8)]
    count = sum(high * wide for high, wide in levels)
    centres = np.concatenate([grid(*level).reshape(-1, 2) + 0.5 for level in levels]).T[None]
    strides = np.concatenate(
        [np.full(high * wide, s, np.float32) for (high, wide), s in zip(levels, (4, 8), strict=True)]
    )
    shapes = {"/Constant_2_output_0": np.array([1, 4, 4, count]), "/Constant_3_output_0": np.array([1, 4, count])}
    tables = dict.fromkeys(("/Constant_10_output_0", "/Constant_11_output_0"), centres)
    return shapes | tables | {"/Constant_13_output_0": strides[None]}


def yolo_grid(height: int, width: int) -> Sized:
    high, wide = -(-height // 4), -(-width // 4)
    shape = np.array([1, 3, 7, high, wide])
    return {"/Constant_output_0": shape, "/Constant_7_output_0": grid(high, wide)[None, None]}


def coordconv(height: int, width: int) -> Sized:
    axes = (np.linspace(-1, 1, (length - 3) // 2 + 1, dtype=np.float32) for length in (width, height))
    columns, rows = np.meshgrid(*axes)
    return {"/Constant_output_0": columns[None, None], "/Constant_1_output_0": rows[None, None]}


def position_resize(height: int, width: int) -> Sized:
    shape = np.array([1, 16, height // 4, width // 4])
    return {"onnx::Resize_79": shape, "/Constant_6_output_0": shape, "/Constant_10_output_0": np.array([height, width])}


@pytest.mark.parametrize(
    ("case", "made", "size"),
    [
        ("yolov8-decode", yolov8, (64, 48)),
        ("yolo-grid-constant", yolo_grid, (48, 80)),
        ("coordconv-constant", coordconv, (32, 26)),
        ("position-resize-in-graph", position_resize, (32, 40)),
    ],
)
def test_shared_cases(case: str, made: Callable[[int, int], Sized], size: tuple[int, int]) -> None:
    """The original itself with what its exporter would have folded at that size."""
    path = Path(__file__).parents[3] / "shared" / "cases" / f"{case}.onnx"
    if not path.exists():
        pytest.skip(f"not there: {path}")
    model = onnx.load(path)
    values = made(*size)
    for node in model.graph.node:
        if node.output[0] in values:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(values.pop(node.output[0])))
    for tensor in model.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values.pop(tensor.name), tensor.name))
    assert not values
    for info in (*model.graph.input, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim[1:]:
            dim.Clear()
    del model.graph.value_info[:]
    given = {"x": np.random.default_rng(2).standard_normal((1, 3, *size)).astype(np.float32)}
    [want], [found] = (
        ort.InferenceSession(item.SerializeToString()).run(None, given) for item in (model, onnxfc.rewrite(path).model)
    )
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, rtol=0, atol=4e-6 * np.abs(want).max())


def test_a_grid_without_end_is_told_without_a_warning() -> None:
    """Coordinates of which one is infinite have no steps."""
    done = onnxfc.rewrite(fixture_file("grid_coordinates.torchscript.onnx"), prove=False)
    name, damaged = done.claim.grids[0].rewritten, onnx.ModelProto()
    damaged.CopyFrom(done.model)
    place, maker = next((i, node) for i, node in enumerate(damaged.graph.node) if name in node.output)
    maker.output[list(maker.output).index(name)] = "whole"
    damaged.graph.initializer.append(numpy_helper.from_array(np.array(np.inf, np.float32), "endless"))
    damaged.graph.node.insert(place + 1, helper.make_node("Mul", ["whole", "endless"], [name]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not onnxfc.check_pair(fixture_file("grid_coordinates.torchscript.onnx"), damaged).passed


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_anchors_of_a_map_that_is_resized_to_anothers_size(exporter: str) -> None:
    """Computed of its shape by the older exporter, which knows the size of the other level."""
    done = rewritten("grid_anchors", exporter)
    assert done.parity is not None
    assert done.parity.passed
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, "grid_anchors", 4e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_sums_weighed_by_computed_places_are_each_window_s(exporter: str) -> None:
    """A centre of mass whose coordinates an open file computes: those of a window are its own."""
    path = fixture_file(f"grid_centroid.{exporter}.onnx")
    done = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(size=(24, 28)))
    assert done.claim.verdict == "exact"
    own = image(36, 44)
    [found] = run(done.model, {"image": own}).values()
    assert found.shape == (1, 2, 2, 4, 5)
    for i in range(4):
        for j in range(5):
            crop = own[..., 4 * i : 4 * i + 24, 4 * j : 4 * j + 28]
            [want] = run(onnx.load(path), {"image": crop}).values()
            np.testing.assert_allclose(found[..., i, j], want, rtol=0, atol=2e-6)
    if exporter == "dynamo":  # which has one size
        return
    kept = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(size=(24, 28), global_pool="keep"))
    [got], [want] = (run(model, {"image": own}).values() for model in (kept.model, onnx.load(path)))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)
