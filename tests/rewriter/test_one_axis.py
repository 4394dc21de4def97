"""One axis of the image freed alone: lines of text and spectrograms are what PyTorch's own networks give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from fixture_files import fixture_file
from hazards import Net, complete, proven, refusal, session
from onnx import numpy_helper
from references import EXPORTERS, compare, image, run

import onnxfc
from onnxfc.cli.main import main
from onnxfc.errors import NothingToRewrite, UsageError
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

NAMES = ("columns_mean", "columns_pooled", "columns_folded", "columns_gated", "columns_lstm", "columns_gru")
NAMES += ("columns_attention",)
WIDTHS = (48, 100, 161)
REFERENCES = np.load(fixture_file("sequences.npz"))


def rewritten(name: str, exporter: str, *free: str) -> Rewrite:
    options = RewriteOptions(free=free, global_pool="keep" if name == "bins" else "window")
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=options)


def run_cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(item) for item in args])


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("free", [("width",), ()])
def test_sequences_of_any_width(free: tuple[str, ...], name: str, exporter: str) -> None:
    """The height stays where nobody says so, too: the network cannot follow it, or its output keeps the width alone."""
    done = rewritten(name, exporter, *free)
    notes = [note.reason for note in done.notes if note.code == "fixed-axis"]
    assert [reason.rpartition(": ")[2] for reason in notes] == ["the height stays 32 px"] * (not free)
    assert done.claim.native_size == (64,)
    assert (done.claim.inputs[0].spatial, done.claim.inputs[0].fixed) == ((3,), (2,))
    for width in WIDTHS:
        if (width - 64) % done.claim.size_step[0]:
            continue
        compare(done.model, {"image": image(32, width)}, REFERENCES, name)
    assert done.geometry.cells(100) == (200 if name == "columns_gated" else 25,)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("free", [("width",), ()])
def test_moments_over_all_columns_but_one_follow_the_width(free: tuple[str, ...], exporter: str) -> None:
    """The number that the file divides by is one less than how many columns there are natively."""
    done = rewritten("columns_moments", exporter, *free)
    assert not [note for note in done.notes if note.code == "native-scale"]
    for width in WIDTHS:
        compare(done.model, {"image": image(32, width)}, REFERENCES, "columns_moments", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_ends_of_recurrent_layers_are_figures_of_the_whole_line(exporter: str) -> None:
    """y[:, -1] is what the file says at every width, as its last state is."""
    done = rewritten("columns_ends", exporter, "width")
    assert {output.form for output in done.claim.outputs} == {"global"}
    for width in WIDTHS:
        compare(done.model, {"image": image(32, width)}, REFERENCES, "columns_ends", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_root_of_how_many_columns_there_are_is_told(exporter: str) -> None:
    """No file of one width says what it stands for: here for a root of the columns, which natively it is."""
    [note] = [note for note in rewritten("columns_error", exporter, "width").notes if note.code == "native-scale"]
    assert "scales a figure of the whole image by the native number of its places, or a root of that" in note.reason
    opened = onnx.load(fixture_file(f"columns_mean.{exporter}.onnx"))
    assert not [note for note in onnxfc.rewrite(opened).notes if note.code == "native-scale"]


def test_the_reading_that_has_the_axis_is_taken() -> None:
    """One image without a batch, (1, H, W), may be a signal of H channels, too."""
    net = Net(17)
    rows = net.axes("Unsqueeze", net.input("image", [1, 24, 32]), [1])
    model = net.model(net.op("Flatten", net.op("GlobalAveragePool", net.conv(rows, 1, 5, pads=[1] * 4))))
    for axis, size in (("height", (24,)), ("width", (32,))):
        assert onnxfc.rewrite(model, options=RewriteOptions(free=(axis,))).claim.native_size == size
    with pytest.raises(UsageError) as caught:
        onnxfc.rewrite(model, options=RewriteOptions(free=("depth",)))
    assert str(caught.value).startswith("--free depth: the image input image has no depth; give ")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("free", [("width",), ()])
def test_tokens_that_lie_row_by_row_with_the_height_as_it_is(free: tuple[str, ...], exporter: str) -> None:
    """The columns of each row are neighbours among the tokens, and no axis of channels need be left of a product."""
    done = rewritten("row_tokens", exporter, *free)
    for width in WIDTHS:
        compare(done.model, {"image": image(32, width)}, REFERENCES, "row_tokens")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("side", ["height", "width"])
def test_places_in_a_row_beside_an_axis_that_stays(side: str, exporter: str) -> None:
    """Rows of patches, as many in each as pixels in a stride: a window begins where a row does, at no other patch."""
    path = fixture_file(f"patch_rows.{exporter}.onnx")
    done = onnxfc.rewrite(path, options=RewriteOptions(free=(side,)))
    assert (done.claim.stride, done.claim.verdict) == ((4,), "exact")
    own = image(48, 16) if side == "height" else image(32, 40)
    found = run(done.model, {"image": own})
    assert sorted(found) == ["by_all", "by_maximum", "by_mean", "by_spread", "by_weights"]
    for name, value in found.items():
        axis = value.ndim - 1 if value.shape[-1] > 1 else value.ndim - 2
        cells = np.moveaxis(value, axis, 0).reshape(value.shape[axis], 1, -1)
        assert len(cells) == (5 if side == "height" else 7)
        for k, cell in enumerate(cells):
            crop = own[..., 4 * k : 4 * k + 32, :] if side == "height" else own[..., 4 * k : 4 * k + 16]
            want = run(onnx.load(path), {"image": crop})[name]
            np.testing.assert_allclose(cell, want, rtol=0, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("side", ["height", "width", None])
def test_attention_between_places_beside_an_axis_that_stays(side: str | None, exporter: str) -> None:
    """Patches go ahead of the batch, as PyTorch's attention has them; the mean of all is what the open twin says."""
    options = RewriteOptions(free=(side,) if side else (), global_pool="keep")
    done = onnxfc.rewrite(fixture_file(f"patch_encoder.{exporter}.onnx"), options=options)
    twin = onnx.load(fixture_file("patch_encoder_hw.dynamo.onnx"))
    for height, width in ((32, 16), (40, 16), (53, 16), (32, 28), (36, 24)):
        if (side == "height" and width != 16) or (side == "width" and height != 32):
            continue
        own = image(height, width)
        [want], [got] = (run(model, {"image": own}).values() for model in (twin, done.model))
        np.testing.assert_allclose(got, want, rtol=0, atol=3e-6 * np.abs(want).max())


@pytest.mark.parametrize("side", ["height", "width", None])
def test_scores_of_places_beside_their_maximum(side: str | None) -> None:
    """A row of scores and the largest of them: each window's, along one axis as along both. It was told that no pool
    reads the map."""
    net = Net(17)
    data = net.op("Relu", net.conv(net.image(1, (32, 16)), 2, 6, (4, 4), strides=[4, 4]))
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 6, -1)), perm=[0, 2, 1])
    scores = net.op("Sigmoid", net.op("MatMul", rows, net.random(6, 3)))
    model = net.model(scores, net.op("ReduceMax", scores, axes=[1], keepdims=0))
    done = onnxfc.rewrite(model, options=RewriteOptions(free=(side,) if side else ()))
    assert done.claim.verdict == "exact"
    own = np.random.default_rng(1).standard_normal((1, 2, 44, 24)).astype(np.float32)
    own = own[:, :, :32] if side == "width" else own[..., :16] if side == "height" else own
    every, best = run(done.model, {"image": own}).values()
    grid = [(i, j) for i in range((own.shape[2] - 32) // 4 + 1) for j in range((own.shape[3] - 16) // 4 + 1)]
    assert len(grid) == {"height": 4, "width": 3, None: 12}[side]
    for i, j in grid:
        cell = (i, j) if side is None else (i,) if side == "height" else (j,)
        crop = own[:, :, 4 * i : 4 * i + 32, 4 * j : 4 * j + 16]
        for found, want in zip((every, best), run(model, {"image": crop}).values(), strict=True):
            np.testing.assert_allclose(found[(..., *cell)], want, rtol=0, atol=2e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_sequences_whose_batch_is_the_second_axis(exporter: str) -> None:
    """(T, N, K), as CTC wants it: each image of a batch has the sequence that it has alone. States of zeros for one
    image are what an LSTM begins with by itself."""
    options = RewriteOptions(free=("width",), dynamic_batch=True)
    done = onnxfc.rewrite(fixture_file(f"columns_lstm.{exporter}.onnx"), options=options)
    for width in WIDTHS[:2]:
        own = image(32, width)
        [value] = run(done.model, {"image": np.concatenate([own[..., ::-1], own])}).values()
        want = REFERENCES[f"columns_lstm letters 32x{width}"]
        assert value.shape == (len(want), 2, want.shape[2])
        np.testing.assert_allclose(value[:, 1:], want, rtol=0, atol=2e-6 * np.abs(want).max())
        assert np.abs(value[:, :1] - want).max() > 0.01


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("free", [("width",), ("height",), ()])
def test_rows_that_are_sequences_of_a_batch(free: tuple[str, ...], exporter: str) -> None:
    """CTPN: as many rows as there are, each as long as it is, and a list of what each place says."""
    done = onnxfc.rewrite(fixture_file(f"rows_gru.{exporter}.onnx"), options=RewriteOptions(free=free))
    assert [item.form for item in done.claim.outputs] == ["list"]
    assert ("context" in {item.cause.value for item in done.claim.blames}) == (free != ("height",))
    both = onnxfc.rewrite(fixture_file(f"rows_gru.{exporter}.onnx")).model
    for height, width in ((48, 100), (20, 52), (35, 161)):
        own = image(height, width)
        if free:
            own = own[..., :32, :] if free == ("width",) else own[..., :64]
        if free and own.shape[2:] not in {(32, width), (height, 64)}:
            continue
        if not free:
            compare(done.model, {"image": own}, REFERENCES, "rows_gru")
        else:
            [want], [value] = (run(model, {"image": own}).values() for model in (both, done.model))
            np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize(("states", "told"), [(np.zeros(1), False), (np.full((2, 1, 10), 0.5), True)])
def test_states_of_the_native_batch(states: np.ndarray, told: bool) -> None:
    """Zeros without the axis of the batch, which onnxruntime refuses, are no states; others are each image's."""
    model = onnx.load(fixture_file("columns_lstm.dynamo.onnx"))
    lstm = next(node for node in model.graph.node if node.op_type == "LSTM")
    model.graph.initializer.append(numpy_helper.from_array(states.astype(np.float32), "number"))
    lstm.input[5] = "number"
    options = RewriteOptions(free=("width",), dynamic_batch=True)
    if told:
        with pytest.raises(NothingToRewrite, match="states of the native batch"):
            onnxfc.rewrite(model, options=options)
        options = RewriteOptions(free=("width",))
    made = onnxfc.rewrite(model, options=options, prove=False).model
    [kept] = [node for node in made.graph.node if node.op_type == "LSTM"]
    assert bool(kept.input[5]) == told


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("free", [("height",), ()])
def test_bins_stay_while_time_is_free(free: tuple[str, ...], exporter: str) -> None:
    done = rewritten("bins", exporter, *free)
    for length in (40, 100, 129):
        compare(done.model, {"image": image(length, 16)}, REFERENCES, "bins")


@pytest.mark.parametrize("name", ["columns_lstm", "columns_gru"])
def test_recurrent_layers_look_at_the_whole_image(name: str) -> None:
    done = rewritten(name, "torchscript", "width")
    assert done.claim.verdict == "approximate"
    assert {item.cause.value for item in done.claim.blames} == {"context", "padding"}
    assert done.claim.halo == ()


@pytest.mark.parametrize("step", [-1, -3, 0, 15, 4])
def test_a_step_of_a_sequence_is_no_windows(step: int) -> None:
    """y[:, -1] is one vector of the whole image, as h_n is: a vector for each window was made of it. y[:, 15] is the
    last step of the native image alone."""
    model = onnx.load(fixture_file("columns_lstm.dynamo.onnx"))
    graph = model.graph
    rows = next(node for node in graph.node if node.op_type == "LSTM").output[0]
    del graph.output[:]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(step), "last_step"))
    graph.node.append(onnx.helper.make_node("Gather", [rows, "last_step"], ["step"], "node_last"))
    graph.node.append(onnx.helper.make_node("Flatten", ["step"], ["vector"], "node_flat", axis=1))
    graph.output.append(onnx.helper.make_tensor_value_info("vector", onnx.TensorProto.FLOAT, None))
    if step < 1:
        done = onnxfc.rewrite(model, options=RewriteOptions(free=("width",)))
        assert [output.form for output in done.claim.outputs] == ["global"]
        return
    with pytest.raises(NothingToRewrite) as caught:
        onnxfc.rewrite(model, options=RewriteOptions(free=("width",)))
    assert [(item.code, item.node) for item in caught.value.refusals] == [("recurrent", "node_last")]


def test_a_refusal_names_the_axis_that_could_be_freed() -> None:
    options = RewriteOptions(global_pool="keep", free=("height", "width"))
    for name, free in (("columns_folded", "width"), ("columns_lstm", "width"), ("bins", "height")):
        with pytest.raises(NothingToRewrite) as caught:
            onnxfc.rewrite(fixture_file(f"{name}.dynamo.onnx"), options=options)
        assert f"--free {free} frees that axis alone" in caught.value.refusals[0].advice


def test_a_refusal_names_the_axes_that_can_be_freed_together() -> None:
    """A volume whose slices are turned around: height and width go together."""
    net = Net(18)
    volume = net.input("image", [1, 3, 6, 10, 12])
    turned = net.op("Slice", volume, net.ints(-1), net.ints(-100), net.ints(2), net.ints(-1))
    found = refusal(net.model(net.conv(turned, 3, 4, (3, 3, 3))))
    assert found.advice.endswith("--free height --free width frees these axes alone")


def test_the_other_axis_is_named_where_one_cannot_be_freed() -> None:
    options = RewriteOptions(free=("height",))
    with pytest.raises(NothingToRewrite) as caught:
        onnxfc.rewrite(fixture_file("columns_lstm.torchscript.onnx"), options=options)
    assert "--free width frees that axis alone" in caught.value.refusals[0].advice


def test_an_unknown_axis_is_told() -> None:
    with pytest.raises(UsageError, match="free: must be one of 'length', 'height', 'width', 'depth', not 'rows'"):
        RewriteOptions(free=("rows",))
    with pytest.raises(UsageError, match="the image input image has no depth; give height or width"):
        rewritten("columns_mean", "dynamo", "depth")


def test_all_axes_by_name_are_all_axes() -> None:
    path = fixture_file("lenet.dynamo.onnx")
    named = onnxfc.rewrite(path, options=RewriteOptions(free=("width", "height")), prove=False)
    assert named.model.SerializeToString() == onnxfc.rewrite(path, prove=False).model.SerializeToString()


def test_the_commands_say_what_stays(tmp_path: Path) -> None:
    path, out = fixture_file("columns_lstm.dynamo.onnx"), tmp_path / "any-width.onnx"
    done = run_cli("rewrite", path, out, "--free", "width", "--check-size", "32x100")
    assert done.exit_code == 0, done.output
    assert "width 64 px (height 32 px stays), stride 4 px" in done.output
    assert run_cli("check", path, out).exit_code == 0
    for size in ("100", "32x100"):
        assert "25 elements at 100 px" in run_cli("inspect", out, "--at", size).output
    seen = run_cli("inspect", out, "--at", "33x100")
    assert (seen.exit_code, seen.output.strip()) == (2, "onnxfc: the height of this model's images is 32 px, not 33")
    planned = run_cli("inspect", path, "--free", "width", "--at", "32x100")
    assert "25 elements at 100 px" in planned.output
    with pytest.raises(UsageError, match="the model takes images of any width only; scan needs both"):
        onnxfc.scan(out, image(32, 64)[0].transpose(1, 2, 0))


@pytest.mark.parametrize(("kind", "attributes"), [("MaxPool", {}), ("AveragePool", {}), ("LpPool", {"p": 2})])
def test_a_pool_that_rounds_up_on_the_axis_that_stays(kind: str, attributes: dict[str, int]) -> None:
    """Its last window there reaches beyond the map, at every width."""
    net = Net(18)
    trunk = net.op("Tanh", net.conv(net.image(1, (16, 16)), 2, 4, strides=[1, 1]))
    pooled = net.op(kind, trunk, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, **attributes)
    done = proven(net.model(net.fc(net.op("Flatten", pooled), 4 * 7 * 7, 5)), free=("width",))
    assert done.claim.native_size == (16,)


def test_what_an_average_counts_beyond_the_axis_that_stays_is_told() -> None:
    net = Net(18)
    trunk = net.conv(net.image(1, (16, 16)), 2, 4, strides=[1, 1])
    how = {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1}
    model = net.model(net.fc(net.op("Flatten", net.op("AveragePool", trunk, **how)), 4 * 7 * 7, 5))
    assert "beyond an axis of the image that stays" in refusal(model, free=("width",)).reason


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["heads_attention", "non_local", "linear_attention"])
def test_attention_of_tokens_row_by_row(name: str, exporter: str) -> None:
    """Heads of it may lie on the axis of the batch: (heads, places, features)."""
    options = RewriteOptions(free=("width",), global_pool="keep")
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=options)
    wanted = np.load(fixture_file("attention.npz"))[f"{name}.20x28"]
    np.testing.assert_allclose(run(done.model, {"image": image(20, 28)})["map"], wanted, rtol=0, atol=2e-5)


def test_steps_first_of_an_open_width() -> None:
    """(T, N, K) of a larger image has more on axis 0, which is no batch. The original runs at any width itself."""
    net = Net(17)
    data = net.op("Tanh", net.conv(net.input("image", [1, 1, 8, "width"]), 1, 2, (5, 3), strides=[1, 2]))
    shape = net.op("Shape", data)
    parts = [net.op("Slice", shape, net.ints(a), net.ints(a + 1)) for a in (0, 3)]
    rows = net.op("Reshape", data, net.op("Concat", parts[0], net.ints(-1), parts[1], axis=0))
    made = net.op("Conv", rows, net.const(np.linspace(-1, 1, 96, dtype=np.float32).reshape(4, 8, 3)), pads=[1, 1])
    model = net.model(net.op("Transpose", made, perm=[2, 0, 1]))
    done = onnxfc.rewrite(model, options=RewriteOptions(free=("width",), size=(8, 21)))
    image = np.random.default_rng(0).standard_normal((1, 1, 8, 33)).astype(np.float32)
    [wanted], [found] = (session(item).run(None, {"image": image}) for item in (model, complete(done)))
    assert found.shape == (16, 1, 4)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("high", "told"), [(8, True), (16, False)])
def test_a_grid_of_one_row_shows_no_step_along_the_height(high: int, told: bool) -> None:
    """Its columns stay, so that it looked like a number for each of them; in a higher image it went on without rows."""
    net = Net(17)
    data, levels = net.image(1, (high, 40)), []
    for stride, step in ((4, 4), (2, 8)):
        data = net.conv(data, 2, 2, (2, 2), strides=[stride, stride])
        shape = (high // step, 40 // step)
        turned = net.op("Transpose", net.op("Reshape", data, net.ints(1, 1, 2, *shape)), perm=[0, 3, 4, 1, 2])
        rows = net.op("Reshape", turned, net.ints(1, shape[0] * shape[1], 2))
        grid = np.stack(np.meshgrid(*map(np.arange, shape[::-1]))).reshape(1, 2, -1).transpose(0, 2, 1)
        levels.append(net.op("Add", rows, net.const(float(step) * grid)))
    model = net.model(net.op("Concat", *levels, axis=1))
    if told:
        found = refusal(model, free=("height",))
        assert found.code == "grid-rule"
        assert "has but one place along an axis and shows no step there" in found.reason
        return
    done = onnxfc.rewrite(model, options=RewriteOptions(free=("height",)))
    image = np.random.default_rng(0).standard_normal((1, 2, 24, 40)).astype(np.float32)
    [whole] = session(complete(done)).run(None, {"image": image})
    [above] = session(model).run(None, {"image": image[:, :, :16]})
    [below] = session(model).run(None, {"image": image[:, :, 8:]}) + np.asarray([0, 8], np.float32)
    np.testing.assert_allclose(whole[:, :40], above[:, :40], atol=1e-5)
    np.testing.assert_allclose(whole[:, 20:60], below[:, :40], atol=1e-5)
    np.testing.assert_allclose(whole[:, 60:70], above[:, 40:], atol=1e-5)
    np.testing.assert_allclose(whole[:, 65:], below[:, 40:], atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_pyramid_whose_sizes_are_written_down(axis: int) -> None:
    """A level is resized to the next one's size on both axes, of which one stays. The same network with computed sizes
    says what is right."""
    models = []
    for computed in (False, True):
        net = Net(17)
        size: list[int | str] = [22, 31]
        if computed:
            size[axis] = "free"
        fine = net.op("Tanh", net.conv(net.input("image", [1, 2, *size]), 2, 4))
        coarse = net.op("Tanh", net.conv(fine, 4, 4))
        beside = net.op("Conv", fine, net.random(4, 4, 1, 1))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        target = net.op("Shape", beside) if computed else net.ints(1, 4, 10, 15)
        models.append(net.model(net.op("Add", beside, net.op("Resize", coarse, "", "", target, **how))))
    written, open_ = models
    done = onnxfc.rewrite(written, options=RewriteOptions(free=(("height", "width")[axis],)))
    for length in (17, 40, 63):
        shape = [1, 2, 22, 31]
        shape[2 + axis] = length
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        [wanted], [found] = (session(item).run(None, {"image": image}) for item in (open_, complete(done)))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_rows_of_the_map_laid_into_the_batch() -> None:
    """(1, h, w, C) as (h, w C, 1): h images of one column. Along the width alone they are no map's rows any more."""
    net = Net(17)
    data = net.op("Transpose", net.conv(net.image(1, (14, 14)), 2, 6, strides=[4, 4]), perm=[0, 2, 3, 1])
    flat = net.op("Reshape", net.op("Reshape", data, net.ints(3, 18, 1)), net.ints(1, 54))
    found = refusal(net.model(net.fc(flat, 54, 5)), free=("width",))
    assert (found.code, found.reason) == ("mixes-batch", "Reshape moves data between the images of a batch")
