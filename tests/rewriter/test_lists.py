"""Outputs that are lists of places, (N, places, K): at every size what PyTorch's own networks give."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import Net, complete, proven, refusal, session
from references import EXPORTERS, compare, image, run

import onnxfc
from onnxfc.claim.claim import Claim
from onnxfc.errors import NothingToRewrite, UsageError
from onnxfc.proof import reference_run
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

NAMES = ("list_places", "list_last", "list_anchors", "list_flattened", "list_tokens")
CONTEXT = ("list_gated", "list_weighed")
"""Lists of which every element looks at the whole image."""
SMALL = ((16, 40), (36, 20), (25, 33))
SIZES = ((64, 48), (36, 52), (33, 51))
MORE = np.load(fixture_file("lists_more.npz"))
ONE_ROW = np.load(fixture_file("lists_one_row.npz"))
REFERENCES = np.load(fixture_file("lists.npz"))


def rewritten(name: str, exporter: str) -> Rewrite:
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", [*NAMES, *CONTEXT])
def test_lists_of_any_size(name: str, exporter: str) -> None:
    done = rewritten(name, exporter)
    assert {output.form for output in done.claim.outputs} == {"list"}
    assert done.parity is not None
    assert done.parity.shift.status == ("not applicable" if name in CONTEXT else "passed")
    for size in SMALL if name in CONTEXT else SIZES:
        compare(done.model, {"image": image(*size)}, REFERENCES, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_list_beside_scores_of_the_whole_image(exporter: str) -> None:
    """Both are what the network makes of a larger image; as scores of windows, the list is each window's own."""
    path = fixture_file(f"list_and_bag.{exporter}.onnx")
    kept = onnxfc.rewrite(path, options=RewriteOptions(global_pool="keep"))
    assert [output.form for output in kept.claim.outputs] == ["list", "global"]
    for size in ((16, 40), (36, 20), (25, 33)):
        compare(kept.model, {"image": image(*size)}, MORE, "list_and_bag")
    assert [output.form for output in onnxfc.rewrite(path).claim.outputs] == ["map", "map"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_figures_of_several_levels_are_kept(exporter: str) -> None:
    """Each level counts as many places as it has."""
    path = fixture_file(f"list_levels_and_bag.{exporter}.onnx")
    kept = onnxfc.rewrite(path, options=RewriteOptions(global_pool="keep"))
    assert [output.form for output in kept.claim.outputs] == ["list", "global", "global"]
    for size in ((16, 40), (36, 20), (25, 33)):
        compare(kept.model, {"image": image(*size)}, MORE, "list_levels_and_bag")


@pytest.mark.parametrize(
    ("how", "code"), [("shares", "size-locked"), ("root", "sum-over-image"), ("sum", "size-locked")]
)
def test_figures_of_several_levels_that_follow_their_number_are_not_kept(how: str, code: str) -> None:
    net = Net(17)
    fine = net.conv(net.image(size=(19, 23)), 2, 3)
    levels = [net.op("Reshape", item, net.ints(1, 3, -1)) for item in (fine, net.conv(fine, 3, 3))]
    places = net.op("Concat", *levels, axis=2)
    if how == "shares":
        places = net.op("Mul", places, net.op("Softmax", places, axis=2))
    figure = (
        net.axes("ReduceSum", places, (2,), keepdims=0)
        if how == "sum"
        else net.op("ReduceMean", places, axes=[2], keepdims=0)
    )
    if how == "root":  # of 99 + 20 places
        figure = net.op("Mul", figure, net.const(np.float32(119**0.5)))
    found = refusal(net.model(net.fc(figure, 3, 4)), global_pool="keep")
    assert found.code == code


def test_features_of_windows_are_no_list_where_pools_are_kept() -> None:
    """An FC layer reads them, behind a Concat of one whose axis counts from the end (operator set 9)."""
    net = Net(9)
    flat = net.op("Concat", net.op("Flatten", net.conv(net.image(1, (9, 9)), 2, 4)), axis=-1)
    model = net.model(net.fc(flat, 64, 5), infer=False)
    done = onnxfc.rewrite(model, options=RewriteOptions(global_pool="keep"))
    assert [output.form for output in done.claim.outputs] == ["map"]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["list_best", "list_columns", "list_widths"])
def test_places_column_by_column_and_tables_laid_flat(name: str, exporter: str) -> None:
    done = rewritten(name, exporter)
    assert done.parity is not None
    assert done.parity.passed
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, name)


@pytest.mark.parametrize("outputs", [("whole",), ("rows",)])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_standard_deviations_over_as_many_places_as_there_are(exporter: str, outputs: tuple[str, ...]) -> None:
    """A variance over N - 1, where one exporter writes N down: it follows the image; of a part of that, refused."""
    path, options = fixture_file(f"list_standardised.{exporter}.onnx"), RewriteOptions(output_at=outputs)
    if (exporter, outputs) == ("dynamo", ("rows",)):
        found = refusal(onnx.load(path), output_at=outputs)
        assert (found.code, "N is a number of the file" in found.reason) == ("size-locked", True)
        assert "leave out" not in found.advice
        return
    done = onnxfc.rewrite(path, options=options)
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, "list_standardised")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_geometry_of_a_list_column_by_column(exporter: str) -> None:
    """A pixel that is changed changes just the elements whose places read it, by the numbers of column and row."""
    done = rewritten("list_columns", exporter)
    levels = done.geometry.places(36, 20)
    assert [(level.grid, level.order) for level in levels] == [((18, 10), (1, 0)), ((9, 5), (1, 0))]
    [first] = run(done.model, {"image": image(36, 20)}).values()
    assert onnxfc.Geometry.from_model(done.model).places(36, 20) == levels
    for place, says in (
        ((18, 0), "none at 18x0, the grid is 18x10"),
        ((0.5, 1), "not 0.5"),
        ((1,), "2 indices, not 1"),
    ):
        with pytest.raises(onnxfc.UsageError, match=says):
            levels[0].field(*place)
    with pytest.raises(onnxfc.UsageError, match=r"element: must be a whole number from 0 on, not 1\.5"):
        levels[0].at(1.5)  # type: ignore[arg-type]
    other = image(36, 20)
    other[0, :, 30, 5] += 3
    [second] = run(done.model, {"image": other}).values()
    moved = np.unique(np.nonzero(first != second)[1])
    assert len(moved)
    for index in moved.tolist():
        level = levels[index >= levels[1].first]
        box = level.field(*level.at(index))
        assert all(start <= pixel < stop for start, pixel, stop in zip(box.start, (30, 5), box.stop, strict=True))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["list_decoded", "list_one_level"])
def test_lists_that_were_flattened_wholly(name: str, exporter: str) -> None:
    """Joined as (N, H * W * K), or one level alone, and viewed as (N, places, 4) before anything works on them."""
    done = rewritten(name, exporter)
    assert {output.form for output in done.claim.outputs} == {"list"}
    assert done.parity is not None
    assert done.parity.passed
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, name)


@pytest.mark.parametrize("how", ["scaled one by one", "channels first", "summed up"])
def test_flattened_maps_that_are_read_otherwise_are_no_lists(how: str) -> None:
    """A value for each of the native features, places within channels, a figure over all of them."""
    net = Net(17)
    image = net.image(1, (9, 9), 2)
    maps = [net.conv(image, 2, 4, strides=[n, n]) for n in (1, 2)]
    if how != "channels first":
        maps = [net.op("Transpose", item, perm=[0, 2, 3, 1]) for item in maps]
    flat = net.op("Concat", *(net.op("Flatten", item) for item in maps), axis=1)
    if how == "scaled one by one":
        flat = net.op("Mul", flat, net.random(1, 260))
    if how == "summed up":
        flat = net.op("Softmax", flat, axis=1)
    assert refusal(net.model(net.op("Reshape", flat, net.ints(1, 65, 4)))).code == "no-head"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_list_of_one_image_without_a_batch(exporter: str) -> None:
    done = rewritten("list_unbatched", exporter)
    assert [output.form for output in done.claim.outputs] == ["list"]
    for size in SMALL:
        want = MORE[f"list_unbatched list {size[0]}x{size[1]}"]
        [found] = run(done.model, {"image": image(*size)[0]}).values()
        assert found.shape == want.shape
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_lists_of_one_image_that_lose_its_batch(exporter: str) -> None:
    """The batch stands between the places and their elements, or ahead of levels that are joined: SCRFD, SSD."""
    done = rewritten("list_rows", exporter)
    assert [output.form for output in done.claim.outputs] == ["list"] * 4
    for size in SMALL:
        compare(done.model, {"image": image(*size)}, MORE, "list_rows")


@pytest.mark.parametrize("how", ["flat", "map"])
def test_elements_of_places_ahead_of_which_the_batch_stands(how: str) -> None:
    """(places, 1, 8) joined and laid as rows of four: each place has two; the proof failed for levels of one."""
    net, maps = Net(17), []
    given = net.image(1, ("h", "w"), 2)  # type: ignore[arg-type]
    for stride in (1, 2):
        made = net.conv(given, 2, 8, strides=[stride] * 2)
        if how == "flat":
            rows = net.op("Transpose", net.op("Reshape", made, net.ints(1, 8, -1)), perm=[2, 0, 1])
        else:
            rows = net.op("Reshape", net.op("Transpose", made, perm=[2, 3, 0, 1]), net.ints(-1, 1, 8))
        maps.append(rows)
    joined = net.op("Concat", *maps, axis=0)
    laid = [net.op("Reshape", joined, net.ints(*shape)) for shape in ((-1, 4), (-1, 2, 4), (-1, 1, 2, 4))]
    open_size = net.model(*laid, net.op("Squeeze", joined, net.ints(1)))
    native = onnx.ModelProto.FromString(open_size.SerializeToString())
    for axis, length in ((2, 9), (3, 11)):
        native.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    done = onnxfc.rewrite(native)
    assert done.parity is not None
    assert done.parity.passed
    assert [[level.inner for level in output.levels] for output in done.claim.outputs] == [
        [2, 2],
        [1, 1],
        [1, 1],
        [1, 1],
    ]
    for size in ((9, 11), (14, 21), (30, 17)):
        want, found = (run(model, {"image": image(*size, 2)}) for model in (open_size, done.model))
        for name, value in want.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6)


def test_elements_ahead_of_all_places_on_one_axis_are_refused() -> None:
    """(N, 4, places) laid flat and cut in two: no level has its places one behind the other then. The proof failed."""
    net = Net(17)
    given = net.image(1, (9, 9), 2)
    maps = [net.op("Transpose", net.conv(given, 2, 8, strides=[n, n]), perm=[0, 2, 3, 1]) for n in (1, 2)]
    joined = net.op("Concat", *(net.op("Flatten", item) for item in maps), axis=1)
    turned = net.op("Transpose", net.op("Reshape", joined, net.ints(1, -1, 4)), perm=[0, 2, 1])
    flat = net.op("Sigmoid", net.op("Reshape", turned, net.ints(1, -1)))
    found = refusal(net.model(net.op("Reshape", flat, net.ints(1, 2, -1))))
    assert (found.code, "come ahead of all places on one axis" in found.reason) == ("size-locked", True)
    back = net.op("Reshape", flat, net.ints(1, 4, -1))
    [output] = onnxfc.rewrite(net.model(back)).claim.outputs
    assert [(level.axis, level.inner) for level in output.levels] == [(2, 2), (2, 2)]


@pytest.mark.parametrize("batch", [2, "N"])
def test_lists_of_several_images_in_one_row_are_refused(batch: int | str) -> None:
    """The places of one image would lie between those of another."""
    net = Net(17)
    turned = net.op("Transpose", net.conv(net.image(batch, (9, 9), 2), 2, 4), perm=[2, 3, 0, 1])
    model = net.model(net.op("Tanh", net.op("Reshape", turned, net.ints(-1, 2))))
    assert refusal(model).code in {"mixes-batch", "no-head"}


def test_elements_behind_places_stay_theirs_in_other_axes() -> None:
    """(N, places, 4) to a row and back; and what cuts them otherwise, (N, 4, places) as rows of four, is refused."""
    net = Net(17)
    given = net.image(1, (9, 9), 2)
    maps = [net.op("Transpose", net.conv(given, 2, 8, strides=[n, n]), perm=[0, 2, 3, 1]) for n in (1, 2)]
    joined = net.op("Concat", *(net.op("Reshape", item, net.ints(1, -1, 4)) for item in maps), axis=1)
    row = net.op("Tanh", net.op("Reshape", net.op("Tanh", joined), net.ints(1, 520)))
    done = onnxfc.rewrite(net.model(net.op("Exp", net.op("Reshape", row, net.ints(1, 260, 2)))))
    assert [(level.inner, level.outer) for level in done.geometry.places(9, 9)] == [(4, 1), (4, 1)]
    turned = net.op("Reshape", net.op("Transpose", joined, perm=[0, 2, 1]), net.ints(-1, 4))
    assert refusal(net.model(net.op("Tanh", turned))).code == "size-locked"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["list_one_row", "list_one_column", "list_one_place"])
def test_levels_of_one_row_are_lists(name: str, exporter: str) -> None:
    """A level that has one row, one column or one place natively has more of them in larger images."""
    done = rewritten(name, exporter)
    assert {output.form for output in done.claim.outputs} == {"list"}
    for size in SIZES:
        compare(done.model, {"image": image(*size)}, ONE_ROW, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_grid_of_a_level_of_one_place_shows_no_step(exporter: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        rewritten("list_one_place_grid", exporter)
    assert [refusal.code for refusal in caught.value.refusals] == ["grid-rule"]
    assert "has but one place along an axis and shows no step there" in caught.value.refusals[0].reason


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_figure_of_the_window_behind_the_places_is_refused(exporter: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        rewritten("list_and_pooled", exporter)
    assert [refusal.code for refusal in caught.value.refusals] == ["mixes-map-and-window"]
    assert caught.value.refusals[0].reason.startswith("Concat lays figures of the whole window behind the places")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "operator"),
    [("kept_soft_argmax", "Softmax"), ("kept_queries", "MatMul")],
)
def test_figures_that_are_not_kept_global_are_refused(name: str, operator: str, exporter: str) -> None:
    options = onnxfc.RewriteOptions(global_pool="keep")
    with pytest.raises(NothingToRewrite) as caught:
        onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=options)
    assert [refusal.code for refusal in caught.value.refusals] == ["not-kept"]
    assert caught.value.refusals[0].reason.startswith(f"{operator} takes together places")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NAMES)
def test_lists_of_large_models_are_moved(name: str, exporter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large models are moved in a session of their own, and only where their trunk told nothing."""
    monkeypatch.setattr(reference_run, "SMALL", 0)
    parity = rewritten(name, exporter).parity
    assert parity is not None
    assert parity.passed
    if parity.trunk.status == "passed":
        assert parity.shift.status == "not run"
    else:
        assert parity.shift.status == "passed"
        assert parity.shift.compared > 0


@pytest.mark.parametrize(
    ("name", "outer", "inner"), [("list_places", 1, 2), ("list_last", 1, 1), ("list_anchors", 2, 1)]
)
def test_geometry_says_which_place_stands_where(name: str, outer: int, inner: int) -> None:
    """A pixel that is changed changes just the elements whose places read it."""
    done = rewritten(name, "torchscript")
    size = (52, 44)
    levels = done.geometry.places(*size)
    assert [(level.grid, level.outer, level.inner, level.stride) for level in levels] == [
        ((26, 22), outer, inner, (2, 2)),
        ((13, 11), outer, inner, (4, 4)),
    ]
    assert done.geometry.cells(*size) == (26, 22)
    axis = 2 if name == "list_last" else 1
    before = image(*size)
    after = before.copy()
    after[0, :, 20, 31] += 3
    one, two = (next(iter(run(done.model, {"image": item}).values())) for item in (before, after))
    moved = {int(index) for index in np.unique(np.nonzero(one != two)[axis])}
    assert one.shape[axis] == levels[-1].first + levels[-1].count
    assert moved
    for index in moved:
        level = next(item for item in levels if item.first <= index < item.first + item.count)
        box = level.field(*level.at(index))
        assert all(start <= pixel < stop for start, pixel, stop in zip(box.start, (20, 31), box.stop, strict=True))
    with pytest.raises(UsageError, match="element 9999 is not of this level"):
        levels[0].at(9999)


def test_geometry_is_read_from_the_file() -> None:
    done = rewritten("list_places", "dynamo")
    assert onnxfc.Geometry.from_model(done.model).places(33, 51) == done.geometry.places(33, 51)
    assert onnxfc.Geometry.from_model(onnxfc.rewrite(fixture_file("lenet.dynamo.onnx")).model).places(40, 40) == ()


@pytest.mark.parametrize("change", ["stride", "inner", "start"])
def test_a_level_that_is_told_wrong_is_found(change: str) -> None:
    """The dynamo export does not run at other sizes itself: what an image moved by a period shows is the proof."""
    done = rewritten("list_places", "dynamo")
    model = done.model
    for item in model.metadata_props:
        if item.key == "onnxfc.outputs":
            told = {"stride": ('"stride": [4, 4]', '"stride": [2, 2]'), "inner": ('"inner": 2', '"inner": 1')}
            told["start"] = ('"start": [-7, -7]', '"start": [-1, -1]')
            old, new = told[change]
            assert old in item.value
            item.value = item.value.replace(old, new)
    assert Claim.from_metadata({item.key: item.value for item in model.metadata_props}) is not None
    assert not onnxfc.check_pair(fixture_file("list_places.dynamo.onnx"), model).passed


def test_a_map_that_is_flattened_wholly_is_no_list() -> None:
    with pytest.raises(NothingToRewrite, match="flattened map itself"):
        onnxfc.rewrite(_flattened())


def _flattened() -> onnx.ModelProto:
    """The first level of the list alone, flattened."""
    model = onnx.load(fixture_file("list_flattened.dynamo.onnx"))
    rows = next(node for node in model.graph.node if node.op_type == "Reshape")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(rows.output[0], onnx.TensorProto.FLOAT, [1, 1536]))
    return model


def freed(path: str, axis: int) -> onnx.ModelProto:
    """The original with one axis of its image declared free: nothing in its graph names a size."""
    model = onnx.load(fixture_file(path))
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "free"
    for info in [*model.graph.output, *model.graph.value_info]:
        info.type.tensor_type.ClearField("shape")
    return model


def test_a_list_along_one_axis_is_that_of_the_freed_original() -> None:
    """Rows of places of one axis alone, the anchors behind each."""
    path = "list_places.torchscript.onnx"
    done = onnxfc.rewrite(fixture_file(path), options=onnxfc.RewriteOptions(free=("height",)))
    assert [output.form for output in done.claim.outputs] == ["list"]
    for height in (32, 45, 72):
        given = {"image": image(height, 32)}
        [want] = run(freed(path, 2), given).values()
        [found] = run(done.model, given).values()
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-6 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("fc", [False, True])
def test_a_figure_of_the_places_behind_them(kind: str, fc: bool) -> None:
    """In a row of features a head reads both; without a head there is no list of such."""
    net = Net()
    trunk = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[4, 4]))
    places = net.op("Reshape", trunk, net.const([1, 4, 16], dtype=np.int64))
    row = net.op("Concat", places, net.axes(kind, places, [2], keepdims=1), axis=2)
    if fc:
        proven(net.model(net.fc(net.op("Flatten", row), 4 * 17, 5)))
    else:
        assert refusal(net.model(row)).code == "mixes-map-and-window"


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_list_beside_a_head_is_each_windows_own(kernel: int) -> None:
    """A cell of it reads the window, not a place alone: what is told of it was that of a place."""
    net = Net()
    trunk = net.op("Tanh", net.conv(net.image(1, (19, 15)), 2, 4))
    made = net.op("Conv", trunk, net.random(3, 4, kernel, kernel), pads=[kernel // 2] * 4)
    rows = net.op("Transpose", net.op("Reshape", made, net.ints(1, 3, 63)), perm=[0, 2, 1])
    scores = net.fc(net.op("Flatten", net.op("GlobalMaxPool", trunk)), 4, 5)
    done = proven(net.model(rows, scores), exact=kernel == 1)
    beyond = 2 * (kernel // 2)
    assert [item.size for item in done.claim.outputs] == [(19 + 2 * beyond, 15 + 2 * beyond), (19, 15)]
    assert [item.start for item in done.claim.outputs] == [(-beyond, -beyond), (0, 0)]
    assert done.claim.size == done.claim.outputs[0].size


def test_a_list_of_a_signal_that_is_decoded_in_parts_beside_a_head() -> None:
    """(N, places, K) cut into features looks like (N, C, places) to the proof: the wrong axis was repeated."""
    net = Net(13)
    trunk = net.op("Tanh", net.conv(net.input("image", [1, 3, 18]), 3, 4, (2,)))
    rows = net.op("Reshape", net.op("Transpose", trunk, perm=[0, 2, 1]), net.ints(1, 9, 4))
    parts = [net.op("Slice", rows, net.ints(a), net.ints(a + 2), net.ints(2)) for a in (0, 2)]
    decoded = net.op("Concat", net.op("Sigmoid", parts[0]), net.op("Exp", parts[1]), axis=2)
    both = net.op("Concat", rows, decoded, axis=1)
    proven(net.model(both, net.fc(net.op("Flatten", net.op("GlobalMaxPool", trunk)), 4, 5)))


def test_lists_of_a_signal_with_anchors_ahead_of_the_places() -> None:
    """They are not repeated as the signal is, which the proof took for granted."""
    net = Net(17)
    trunk = net.op("Tanh", net.conv(net.input("image", [1, 2, 26]), 2, 8, (2,), strides=[1]))
    one = net.op("Conv", trunk, net.random(2, 8, 3), pads=[1, 1])
    first = net.op("Transpose", net.op("Reshape", one, net.ints(1, 2, 25)), perm=[0, 2, 1])
    apart = net.op("Reshape", net.op("Conv", trunk, net.random(6, 8, 1)), net.ints(0, 3, 2, 25))
    second = net.op("Reshape", net.op("Transpose", apart, perm=[0, 1, 3, 2]), net.ints(0, -1, 2))
    done = onnxfc.rewrite(net.model(first, net.op("Mul", second, net.const([0.6, 0.5]))))
    assert [output.form for output in done.claim.outputs] == ["features", "list"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_list_that_is_kept_within_the_native_image_is_refused(exporter: str) -> None:
    """Distances that are clamped to a height that the file holds as a number; ahead of that they are right."""
    path = fixture_file(f"detect_within.{exporter}.onnx")
    with pytest.raises(NothingToRewrite) as told:
        onnxfc.rewrite(path)
    [found] = told.value.refusals
    assert found.code == "size-locked"
    assert found.reason == "Clip keeps a list's values below a side of the native image, a plain number"
    ahead = found.advice.rpartition("--output-at ")[2].partition(";")[0]
    assert found.advice.endswith("--free width frees that axis alone")
    for options in (RewriteOptions(output_at=(ahead,)), RewriteOptions(free=("width",))):
        done = onnxfc.rewrite(path, options=options)
        assert [output.form for output in done.claim.outputs] == ["list"]


def test_limits_that_are_no_size_of_the_image_stay() -> None:
    net = Net(17)
    data = net.op("Clip", net.conv(net.image(1, (6, 6), 2), 2, 4), net.const(0.0), net.const(6.0))
    done = onnxfc.rewrite(net.model(net.op("Transpose", net.op("Reshape", data, net.ints(1, 4, 4)), perm=[0, 2, 1])))
    assert [output.form for output in done.claim.outputs] == ["list"]


@pytest.mark.parametrize(
    ("size", "number", "held"), [(8, 1.0, False), (8, 8.0, False), (40, 40 * 2**0.5, True), (40, 1600.0, True)]
)
def test_a_square_image_and_one_too_small_to_tell(size: int, number: float, held: bool) -> None:
    """Its diagonal and its pixels; below 16 rows a number is any number."""
    net = Net(17)
    data = net.conv(net.image(1, (size, size), 2), 2, 4, strides=[2, 2])
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 4, -1)), perm=[0, 2, 1])
    model = net.model(net.op("Div", rows, net.const(np.float32(number))))
    if held:
        assert refusal(model).code == "size-locked"
    else:
        assert [output.form for output in onnxfc.rewrite(model).claim.outputs] == ["list"]


@pytest.mark.parametrize("number", [50.0, 1200.0])
def test_an_image_of_which_one_side_stays(number: float) -> None:
    """Its diagonal and its pixels change with the other side, too."""
    net = Net(17)
    data = net.conv(net.image(1, (30, 40), 2), 2, 4, strides=[2, 2])
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 4, -1)), perm=[0, 2, 1])
    model = net.model(net.op("Div", rows, net.const(np.float32(number))))
    assert refusal(model, free=("width",)).code == "size-locked"


@pytest.mark.parametrize(
    ("op_type", "number", "held"),
    [("Div", 20, True), ("Mul", 1 / 20, True), ("Mul", 1 / 1333, True), ("Div", 21, False), ("Mul", 1 / 1330, False)],
)
def test_a_list_that_is_divided_by_a_side_of_the_native_image_is_refused(
    op_type: str, number: float, held: bool
) -> None:
    """As boxes that are given in parts of the image are; other numbers are scales."""
    net = Net(17)
    data = net.conv(net.image(1, (20, 1333), 2), 2, 4, strides=[2, 2])
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 4, -1)), perm=[0, 2, 1])
    model = net.model(net.op(op_type, rows, net.const(np.float32(number))))
    if held:
        found = refusal(model)
        told = f"{op_type} divides a list's values by a side of the native image, a plain number"
        assert (found.code, found.reason) == ("size-locked", told)
        return
    assert [output.form for output in onnxfc.rewrite(model).claim.outputs] == ["list"]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "height"), [("list_flattened", 32), ("list_best", 24)])
def test_flattened_rows_whose_height_stays(name: str, height: int, exporter: str) -> None:
    """The same list as of both axes, which is PyTorch's, with the width alone free."""
    path = fixture_file(f"{name}.{exporter}.onnx")
    both, one = (onnxfc.rewrite(path, options=RewriteOptions(free=free), prove=False) for free in ((), ("width",)))
    assert one.claim.native_size == (32,)
    for width in (40, 56):
        taken = np.random.default_rng(width).standard_normal((1, 3, height, width)).astype(np.float32)
        wanted, found = (session(complete(each)).run(None, {"image": taken}) for each in (both, one))
        for want, got in zip(wanted, found, strict=True):
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * max(1.0, float(np.abs(want).max())))
