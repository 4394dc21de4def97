"""Small things that real networks do, as PyTorch's exporters write them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHECK, OLD_ONNX, OLD_RUNTIME, Net, complete, own_crops, proven, refusal
from onnx import TensorProto
from references import EXPORTERS, compare, image

import onnxfc
from onnxfc.reports.rewrite import text
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("small.npz"))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["shuffled_rows", "halves_joined"])
def test_as_pytorch_at_every_size(name: str, exporter: str) -> None:
    """Channels shuffled with the batch folded in; halves that are joined again: one vector at any size."""
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(global_pool="keep"))
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["worked_halves", "worked_halves_odd"])
def test_halves_that_are_worked_on_and_joined(name: str, exporter: str) -> None:
    """Of an odd number of rows the upper half has one more, as chunk has it; plain numbers of rows say no half."""
    path = fixture_file(f"{name}.{exporter}.onnx")
    if (name, exporter) == ("worked_halves_odd", "dynamo"):
        split = next(node for node in onnx.load(path).graph.node if node.op_type == "Split")
        assert len(split.input) == 2
        assert refusal(onnx.load(path)).code == "cut-out"
        return
    done = onnxfc.rewrite(path)
    assert done.claim.outputs[0].form == "features"
    assert {blame.cause.value for blame in done.claim.blames} == {"context", "padding"}
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_halves_ahead_of_a_mean_that_is_kept(exporter: str) -> None:
    path = fixture_file(f"worked_halves_mean.{exporter}.onnx")
    done = onnxfc.rewrite(path, options=RewriteOptions(global_pool="keep"))
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, "worked_halves_mean")
    with pytest.raises(onnxfc.NothingToRewrite, match=r"piece: --input .*; --global-pool keep sums up all"):
        onnxfc.rewrite(path)  # the option that works is named beside the other one
    found = refusal(onnx.load(path))
    assert (found.code, found.node) == ("cut-out", "/Slice" if exporter == "torchscript" else "node_Split_6")


@pytest.mark.parametrize("kind", ["joined", "plain", "swapped", "met", "shorter", "alone"])
def test_which_halves_are_freed(kind: str) -> None:
    """Those that are joined in their order, each as long as it was."""
    net = Net(18)
    trunk = net.conv(net.image(1, (16, 18)), 2, 4, strides=[1, 1])
    upper, lower = net.op("Split", trunk, axis=2, num_outputs=2, outputs=2)
    if kind != "plain":
        upper = net.op("Tanh", upper)
    if kind == "met":
        lower = net.op("Add", lower, upper)
    if kind == "shorter":
        upper = net.op(
            "Pad", net.conv(upper, 4, 4, strides=[2, 1], pads=[1, 1, 1, 1]), net.ints(0, 0, 3, 0, 0, 0, 0, 0)
        )
    halves = [lower, upper] if kind == "swapped" else [upper, lower]
    made = upper if kind == "alone" else net.op("Concat", *halves, axis=2)
    model = net.model(net.conv(made, 4, 3, strides=[1, 1]))
    if kind in ("joined", "plain"):
        done = onnxfc.rewrite(model, check_options=CHECK)
        assert done.claim.verdict == ("exact" if kind == "plain" else "approximate")
        assert done.claim.stride == (1, 1)
        whole = np.random.default_rng(1).standard_normal((1, 2, 23, 21)).astype(np.float32)
        freed = onnx.ModelProto.FromString(model.SerializeToString())
        for axis in (2, 3):
            freed.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
        del freed.graph.value_info[:]
        want, found = (
            ort.InferenceSession(item.SerializeToString()).run(None, {"image": whole})[0]
            for item in (freed, complete(done))
        )
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-6)
    else:
        assert refusal(model).code == "cut-out"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["bilinear_sum", "bilinear_mean"])
def test_a_product_of_maps_in_one_einsum_is_each_window_s(name: str, exporter: str) -> None:
    """Kept for the whole image, a sum grows with that; divided by the native count, a plain number, it is a mean."""
    path, keep = fixture_file(f"{name}.{exporter}.onnx"), RewriteOptions(global_pool="keep")
    done = onnxfc.rewrite(path)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2, 2))
    assert own_crops(onnx.load(path), done) < 1e-5
    if name == "bilinear_sum":
        found = refusal(onnx.load(path), global_pool="keep")
        assert (found.code, found.reason) == ("sum-over-image", "Einsum is a sum, which grows with the image")
        return
    kept = onnxfc.rewrite(path, options=keep).model
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(kept, {"image": image(*size)}, REFERENCES, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_mean_over_a_batch_of_one_is_each_window_s(exporter: str) -> None:
    path = fixture_file(f"whole_mean.{exporter}.onnx")
    done = onnxfc.rewrite(path)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2, 2))
    assert own_crops(onnx.load(path), done) < 1e-5
    kept = onnxfc.rewrite(path, options=RewriteOptions(global_pool="keep")).model
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(kept, {"image": image(*size)}, REFERENCES, "whole_mean")


@pytest.mark.parametrize("name", ["whole_norm", "whole_deviation"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_norm_over_all_there_is_is_context(exporter: str, name: str) -> None:
    """The file has the native number of all elements, or one less, which is none at another size."""
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(global_pool="keep"))
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, name)


@pytest.mark.parametrize("file", ["maxima.torchscript", "maxima.dynamo", "maxima_as_channels.dynamo"])
def test_channels_that_became_finer_places_may_leave_none(file: str) -> None:
    """(1, 4h, 4w), over which MaxPool slides with the batch for its channels, or with one that is put before it."""
    done = onnxfc.rewrite(fixture_file(f"{file}.onnx"))
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, file.partition(".")[0])


@pytest.mark.parametrize("free", ["height", "width"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_row_of_all_places_is_a_window_whichever_axis_is_free(free: str, exporter: str) -> None:
    """Columns that stay lie within each free row: no finer rows, for a head."""
    model = onnx.load(fixture_file(f"log_sum_exp.{exporter}.onnx"))
    done = onnxfc.rewrite(model, options=RewriteOptions(free=(free,)))
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2,))
    assert own_crops(model, done) < 1e-5


@pytest.mark.parametrize("free", ["height", "width"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_products_that_sum_up_all_places_where_an_axis_stays(free: str, exporter: str) -> None:
    """Of the places in a row, those on the free axis are but a part."""
    model = onnx.load(fixture_file(f"weighted_sums.{exporter}.onnx"))
    done = onnxfc.rewrite(model, options=RewriteOptions(free=(free,)))
    assert done.claim.verdict == "exact"
    assert own_crops(model, done) < 1e-5


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["raw_audio", "filter_bank", "pre_emphasis"])
def test_raw_audio_is_a_signal(name: str, exporter: str) -> None:
    """(N, L) that gets channels of its own ahead of a Conv along L; the batch is free as well. A filter bank is a layer
    of channels, though its matrix stands on the left."""
    keep = RewriteOptions(global_pool="keep", dynamic_batch=True)
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=keep)
    assert done.claim.native_size == (160,)
    for length in (200, 161, 333):
        sound = np.random.default_rng(length).standard_normal((1, length)).astype(np.float32)
        want = REFERENCES[f"{name} scores {length}"]
        [value] = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": sound})
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_the_length_of_raw_audio_is_asked_for() -> None:
    model = onnx.load(fixture_file("raw_audio.torchscript.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "samples"
    found = refusal(model)
    advice = "give it with --size L, or keep one vector of each image: --global-pool keep"
    assert (found.code, found.advice) == ("unknown-native-size", advice)
    assert found.reason == "the input's length is dynamic, so its native size is not in the graph"


@pytest.mark.parametrize(
    "file", ["learned_queries.torchscript", "learned_queries.dynamo", "learned_queries_opset11.torchscript"]
)
def test_learned_queries_are_each_window_s(file: str) -> None:
    """Their answers are rows of a Gemm; before opset 12 there is no Einsum for a product of two that are windows'."""
    path = fixture_file(f"{file}.onnx")
    done = onnxfc.rewrite(path)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (4, 4))
    assert own_crops(onnx.load(path), done) < 1e-5


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_heads_that_round_differently_have_cells_in_common(exporter: str) -> None:
    path = fixture_file(f"two_grids.{exporter}.onnx")
    done = onnxfc.rewrite(path)
    assert (done.claim.stride, done.claim.slack, done.claim.size_step) == ((4, 4), (1, 1), (1, 1))
    assert own_crops(onnx.load(path), done) < 1e-5
    session = ort.InferenceSession(done.model.SerializeToString())
    for height, width, cells in ((42, 38, (3, 2)), (34, 35, (1, 2)), (31, 31, (1, 1))):
        shapes = [v.shape[2:] for v in session.run(None, {"image": np.zeros((1, 3, height, width), np.float32)})]
        assert shapes == [cells, cells] == [done.geometry.cells(height, width)] * 2


@pytest.mark.parametrize(
    ("rank", "said", "given", "taken"),
    [
        (1, "length is", "L", "224"),
        (2, "height and width are", "HxW", "224x224"),
        (3, "depth, height and width are", "DxHxW", "64x64x64"),
    ],
)
def test_a_size_that_is_missing_is_asked_for_in_its_own_axes(rank: int, said: str, given: str, taken: str) -> None:
    """A figure of the whole image needs none."""
    net = Net(17)
    image = net.input("image", [1, 2, *["n"] * rank])
    weight = net.random(3, 2, *[3] * rank)
    model = net.model(net.op("GlobalAveragePool", net.op("Conv", image, weight)))
    found = refusal(model)
    keep = "keep one vector of each image: --global-pool keep"
    assert (found.code, found.advice) == ("unknown-native-size", f"give it with --size {given}, or {keep}")
    assert found.reason.startswith(f"the input's {said} dynamic")
    done = proven(model, exact=False, global_pool="keep")
    assert [item.form for item in done.claim.outputs] == ["global"]
    assert [note.reason for note in done.notes if note.code == "assumed-size"] == [
        f"{found.reason}: {taken} was taken for it"
    ]


def test_tokens_are_told() -> None:
    net = Net(17)
    tokens = net.op("Gather", net.random(20, 6), net.input("ids", [1, 16], TensorProto.INT64))
    found = refusal(net.model(net.op("MatMul", tokens, net.random(6, 3))))
    assert (found.code, found.reason) == (
        "no-image-input",
        "no input is an image: ids [1, 16], of whole numbers: tokens or class numbers",
    )


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_pools_whose_strides_do_not_divide_each_other(exporter: str) -> None:
    """Of 8 and 12 pixels: cells lie 24 apart, each what the original says of its crop, and the report says why."""
    path = fixture_file(f"pyramid_unlike.{exporter}.onnx")
    done = proven(onnx.load(path))
    assert (done.claim.stride, done.claim.verdict) == ((24, 24), "exact")
    [note] = done.notes
    assert note.code == "common-multiple"
    assert note.reason == "meets windows that lie 8x8 and 12x12 px apart: cells lie at their common multiple, 24x24 px"
    assert "common multiple" in text(done)
    assert onnxfc.rewrite(fixture_file(f"two_grids.{exporter}.onnx"), prove=False).notes == ()


def test_outputs_whose_strides_do_not_divide_each_other() -> None:
    """Heads of windows 4 and 6 pixels apart; 4 and 12 apart nothing is told."""
    for kernel in (3, 6):
        net = Net(17)
        trunk = net.op("Tanh", net.conv(net.image(1, (25, 25)), 2, 3, (2, 2)))
        pools = [net.op("MaxPool", trunk, kernel_shape=[k, k], strides=[k, k]) for k in (2, kernel)]
        sizes = [12 // k for k in (2, kernel)]
        heads = [net.fc(net.op("Flatten", pool), 3 * n * n, 4) for pool, n in zip(pools, sizes, strict=True)]
        done = proven(net.model(*heads))
        assert done.claim.stride == (12, 12)
        assert [note.code for note in done.notes] == ["common-multiple"] * (kernel == 3)


@pytest.mark.skipif(OLD_ONNX or OLD_RUNTIME, reason="has no DeformConv yet")
@pytest.mark.parametrize("name", ["deformed", "deformed_step"])
def test_a_convolution_that_reads_where_it_was_moved_to(name: str) -> None:
    """DCNv2, its offsets and mask made by another convolution: one vector at any size."""
    done = onnxfc.rewrite(fixture_file(f"{name}.dynamo.onnx"), options=RewriteOptions(global_pool="keep"))
    assert "DeformConv" in {node.op_type for node in done.model.graph.node}
    assert done.parity is not None
    assert done.parity.passed
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, name)
