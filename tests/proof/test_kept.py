"""One vector at any size, proven: as PyTorch gives it, from the files of both exporters; what is wrong is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, own_crops, proven, refusal, session
from onnx import helper, numpy_helper

from onnxfc import RewriteOptions, check_pair, rewrite
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite

REFERENCES = {**np.load(fixture_file("kept.npz")), **np.load(fixture_file("kept_more.npz"))}
EXPORTERS = ("torchscript", "dynamo")
KEEP = RewriteOptions(global_pool="keep")
NETS = sorted({key.split(".")[0] for key in REFERENCES})
RIGHT = {"kept_mean_place": ("pixels",), "kept_open_parts": ("masked", "keyed")}
RIGHT["kept_tile_batch.torchscript"] = ("viewed",)
"""Of a network, or of what one exporter writes, whose other outputs are refused."""
OPEN = ("kept_open_feature_sum", "kept_open_parts", "kept_open_sums", "kept_open_written")
"""Networks whose files take images of any size: what is written in them is their own at each, not the native one's."""


def model_of(name: str, exporter: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.{exporter}.onnx"))


DYNAMO = ("kept_tiles",)
"""Networks that the older exporter writes in a way that is refused."""


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("name", "exporter"), [(n, e) for n in NETS for e in EXPORTERS if n not in DYNAMO or e == "dynamo"]
)
def test_as_pytorch_at_every_size(name: str, exporter: str) -> None:
    size = (13, 13) if name in OPEN else None
    right = RIGHT.get(f"{name}.{exporter}", RIGHT.get(name, ()))
    options = RewriteOptions(global_pool="keep", output_at=right, size=size)
    done = rewrite(model_of(name, exporter), options=options, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    kept = session(complete(done))
    for key in [key for key in REFERENCES if key.startswith(f"{name}.")]:
        _, output, size = key.split(".")
        if right and output not in right:
            continue
        height, width = map(int, size.split("x"))
        image = np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)
        [found], wanted = kept.run([output], {"image": image}), REFERENCES[key]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * (np.ptp(wanted) or np.abs(wanted).max()))


@pytest.mark.parametrize("free", [(), ("height",), ("width",)])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_across_windows_is_refused(exporter: str, free: tuple[str, ...]) -> None:
    """MaxViT's grid keeps its number of windows; kept_windows is right, as attention in windows keeps their size."""
    found = refusal(model_of("kept_grid", exporter), global_pool="keep", free=free)
    told = "Softmax relates places that lie 2 x 2 apart, and nothing tells whether their number grows or their distance"
    assert found.code in {"size-locked", *(("attention",) if free else ())}
    assert free or found.reason == told


@pytest.mark.parametrize("name", ["kept_grid_einsum", "kept_grid_blocks"])
@pytest.mark.parametrize("option", ["window", "keep"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_attention_across_windows_in_other_spellings(name: str, option: str, exporter: str) -> None:
    """Those between the related places on axes of their own, or windows taken apart once more."""
    found = refusal(model_of(name, exporter), global_pool=option)
    assert found.code == "size-locked"
    assert "and nothing tells whether their number grows or their distance" in found.reason


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_blocks_of_tokens_take_whole_blocks_alone(exporter: str) -> None:
    """Rows and columns are laid into one axis, of which a Reshape makes blocks: both must be so many times as long."""
    original = model_of("kept_token_blocks", exporter)
    done = rewrite(original, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert done.claim.size_step == (6, 6)
    cells_are_crops(done, original, "scores", (19, 25), (2, 3), apart=6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_deviation_along_rows_is_each_windows_own(exporter: str) -> None:
    """Less the mean of a row of the window, not of the image; the mean over what is left of the window follows."""
    original = model_of("kept_row_deviation", exporter)
    done = rewrite(original, check_options=CHECK)
    assert done.claim.verdict == "exact"
    cells_are_crops(done, original, "scores", (21, 18), (5, 3))


@pytest.mark.parametrize("name", ["kept_by_hand", "kept_einsums"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_deviation_from_a_mean_that_is_dropped_is_refused(name: str, exporter: str) -> None:
    """A covariance of each window is about the window's mean: that of the whole image is another."""
    model = model_of(name, exporter)
    assert refusal(model, global_pool="drop", output_at=("covariance",)).code == "drop-not-affine"
    assert (
        rewrite(model, options=RewriteOptions(output_at=("covariance",)), check_options=CHECK).claim.verdict == "exact"
    )


@pytest.mark.parametrize(
    ("exporter", "output"), [("dynamo", "viewed"), ("torchscript", "viewed"), ("dynamo", "unfolded")]
)
def test_tiles_that_are_images_of_a_batch(exporter: str, output: str) -> None:
    """Kernels and pools stay within each tile: cells lie a tile apart, and equal crops to the bit, nearly."""
    original = model_of("kept_tile_batch", exporter)
    done = rewrite(original, options=RewriteOptions(output_at=(output,)), check_options=CHECK)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (8, 8))
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 48)).astype(np.float32)
    [found], run = session(complete(done)).run([output], {"image": image}), session(original)
    assert found.shape == (1, 5, 3, 4)
    for row, column in np.ndindex(3, 4):
        crop = np.ascontiguousarray(image[:, :, 8 * row :, 8 * column :][:, :, :16, :24])
        [wanted] = run.run([output], {"image": crop})
        np.testing.assert_allclose(found[:, :, row, column], wanted, atol=1e-6 * np.ptp(wanted))


@pytest.mark.parametrize("free", [(), ("height",), ("width",)])
@pytest.mark.parametrize("output", ["overlapping", "around"])
def test_pieces_that_are_stacked_may_be_tiles(output: str, free: tuple[str, ...]) -> None:
    """The older exporter cuts tiles out one by one: each window's own, and no one knows how many of a larger map."""
    original = model_of("kept_tiles", "torchscript")
    assert refusal(original, global_pool="keep", output_at=(output,), free=free).code == "not-kept"
    if not free:
        done = rewrite(original, options=RewriteOptions(output_at=(output,)), check_options=CHECK)
        assert done.claim.verdict == "exact"
        cells_are_crops(done, original, output, (21, 18), (5, 3))


@pytest.mark.parametrize(
    ("output", "apart"), [("largest", 1), ("columns", 1), ("stripes", 1), ("less", 3), ("heard", 3)]
)
def test_tiles_of_each_window(output: str, apart: int) -> None:
    """Cells lie a tile apart, or a place where maps were put together of them again: there every third is a crop's."""
    original = model_of("kept_tiles", "dynamo")
    done = rewrite(original, options=RewriteOptions(output_at=(output,)), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    image = np.random.default_rng(0).standard_normal((1, 3, 25, 25)).astype(np.float32)
    [found], run = session(complete(done)).run([output], {"image": image}), session(original)
    stride = [apart * step for step in done.claim.stride]
    found = found[:, :, ::apart, ::apart]
    assert found.shape[2:] == {"columns": (7, 4), "stripes": (3, 7)}.get(output, (3, 3))
    for row, column in np.ndindex(*found.shape[2:]):
        crop = np.ascontiguousarray(image[:, :, stride[0] * row :, stride[1] * column :][:, :, :13, :13])
        [wanted] = run.run([output], {"image": crop})
        np.testing.assert_allclose(found[:, :, row, column], wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_parts_of_a_fixed_number_are_refused_in_an_open_file(exporter: str) -> None:
    """In a file of one size they follow the image: more parts of the same size."""
    found = refusal(model_of("kept_open_parts", exporter), global_pool="keep", output_at=("parted",), size=(13, 13))
    assert found.code == "size-locked"
    assert "makes a fixed number of parts, or places, of an image of any size" in found.reason


@pytest.mark.parametrize("output", ["context", "piece"])
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_numbers_that_follow_the_image_are_not_those_of_an_open_file(output: str, exporter: str) -> None:
    """The same file fixed to one size says nothing of others: its rewrite is another model than the open one."""
    opened = model_of("kept_open_written", exporter)
    outputs = [info for info in opened.graph.output if info.name == output]
    del opened.graph.output[:]
    opened.graph.output.extend(outputs)
    fixed = onnx.ModelProto.FromString(opened.SerializeToString())
    for dim in fixed.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 13
    done = rewrite(fixed, options=KEEP, check_options=CHECK)
    assert [item.form for item in done.claim.outputs] == ["global"]
    checked = check_pair(opened, complete(done), options=CHECK, size=(13, 13))
    assert not checked.passed
    assert checked.parity is not None
    assert "in the original itself" in checked.parity.window.worst


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_means_of_tables_times_the_image_are_context(exporter: str) -> None:
    """A product whose first factor is a constant."""
    done = rewrite(model_of("sums", exporter), options=KEEP, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed


def cells_are_crops(
    done: Rewrite, original: onnx.ModelProto, output: str, size: tuple[int, int], grid: tuple[int, int], apart: int = 2
) -> None:
    """Windows of 13x13 px, so many pixels ``apart``."""
    image = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
    [found], run = session(complete(done)).run([output], {"image": image}), session(original)
    assert found.shape == (1, 5, *grid)
    for row, column in np.ndindex(*grid):
        crop = np.ascontiguousarray(image[:, :, apart * row :, apart * column :][:, :, :13, :13])
        [wanted] = run.run([output], {"image": crop})
        np.testing.assert_allclose(found[:, :, row, column], wanted, atol=1e-5 * np.ptp(wanted))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_windows_beside_a_kept_pool_are_crops(exporter: str) -> None:
    original = model_of("kept_beside", exporter)
    done = rewrite(original, options=KEEP, check_options=CHECK)
    assert [output.form for output in done.claim.outputs] == ["map", "global"]
    cells_are_crops(done, original, "flat", (21, 18), (5, 3))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_cell_reads_what_the_exits_do_that_have_cells(exporter: str) -> None:
    """Not what the pool does between them. The deeper one reads 13 px from the padding on, and one more behind."""
    original = model_of("kept_exits", exporter)
    done = rewrite(original, options=KEEP, check_options=CHECK)
    assert [output.form for output in done.claim.outputs] == ["map", "map", "global"]
    assert (done.claim.stride, done.claim.start, done.claim.size) == ((4, 4), (-2, -2), (15, 15))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["kept_by_hand", "kept_einsums", "kept_vlad"])
def test_windows_of_products_of_places_are_crops(name: str, exporter: str) -> None:
    """NetVLAD's residuals; covariances of what is less the mean of its own window."""
    original = model_of(name, exporter)
    done = rewrite(original, check_options=CHECK)
    assert done.claim.verdict == "exact"
    assert own_crops(original, done) < 1e-5


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_is_no_window_but_may_be_kept_offers_that(exporter: str) -> None:
    """A map brought up again by a ratio that moves windows by a fraction of a pixel, which is pooled."""
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(model_of("kept_upsampled", exporter))
    [found] = caught.value.refusals
    assert found.code == "fractional-stride"
    assert found.advice == "--global-pool keep sums up all places of an image, for one vector of each"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_windows_of_half_a_gram_matrix_are_crops(exporter: str) -> None:
    """One exporter picks by pairs of places (GatherND), with the batch moved behind them."""
    original = model_of("kept_triangle", exporter)
    done = rewrite(original, check_options=CHECK)
    cells_are_crops(done, original, "scores", (17, 19), (3, 4))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "operator"), [("kept_times_count", "Mul"), ("kept_standard_error", "Div"), ("kept_lp_pooled", "Mul")]
)
def test_means_times_the_native_count_are_refused(name: str, operator: str, exporter: str) -> None:
    """As the sums that they are natively; windows have that count."""
    with pytest.raises(NothingToRewrite, match=f"{operator} scales a figure by the native number") as caught:
        rewrite(model_of(name, exporter), options=KEEP)
    assert [item.code for item in caught.value.refusals] == ["sum-over-image"]
    parity = rewrite(model_of(name, exporter), check_options=CHECK).parity
    assert parity is not None
    assert parity.passed


def test_variance_along_one_axis_whose_count_is_a_number_is_refused() -> None:
    """The other exporter computes the count."""
    with pytest.raises(NothingToRewrite, match="variance over N - 1 of some axes") as caught:
        rewrite(model_of("kept_row_deviation", "dynamo"), options=KEEP)
    assert [item.code for item in caught.value.refusals] == ["not-kept"]
    assert rewrite(model_of("kept_row_deviation", "torchscript"), options=KEEP, check_options=CHECK).parity


def pool(model: onnx.ModelProto, wrong: str) -> None:
    """Another pool for the maximum."""
    node = next(node for node in model.graph.node if node.op_type in ("GlobalMaxPool", "ReduceMax"))
    if wrong == "a mean":
        node.op_type = {"GlobalMaxPool": "GlobalAveragePool", "ReduceMax": "ReduceMean"}[node.op_type]
        return
    node.op_type = "MaxPool"  # of the first places
    del node.input[1:], node.attribute[:]
    node.attribute.append(helper.make_attribute("kernel_shape", [6, 6]))
    node.attribute.append(helper.make_attribute("strides", [99, 99]))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("wrong", ["a mean", "a window"])
def test_another_pool_beside_the_mean_is_found(wrong: str, exporter: str) -> None:
    original = model_of("kept_pools", exporter)
    other = complete(rewrite(original, options=KEEP, prove=False))
    pool(other, wrong)
    assert not check_pair(original, other, options=CHECK).passed


def scaled(factor: float) -> Callable[[onnx.ModelProto], None]:
    """A variance that is another one at other sizes: natively the ratio of counts is 1, whatever its power."""

    def change(model: onnx.ModelProto) -> None:
        ratio = next(node for node in model.graph.node if node.op_type == "Mul" and node.input[0].endswith("_natively"))
        exponent = numpy_helper.from_array(np.asarray(factor, np.float32), "exponent")
        model.graph.initializer.append(exponent)
        at = list(model.graph.node).index(ratio)
        model.graph.node.insert(at, helper.make_node("Pow", [ratio.input[1], "exponent"], ["ratio_raised"]))
        ratio.input[1] = "ratio_raised"

    return change


@pytest.mark.parametrize("power", [-1.0, 2.0])
def test_another_count_of_places_is_found(power: float) -> None:
    original = model_of("kept_variances", "dynamo")
    other = complete(rewrite(original, options=KEEP, prove=False))
    assert check_pair(original, other, options=CHECK).passed
    scaled(power)(other)
    parity = check_pair(original, other, options=CHECK).parity
    assert parity.native.status == "passed"
    assert parity.window.status == "failed"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["kept_added", "kept_beside"])
def test_a_dropped_pool_beside_windows_is_refused(name: str, exporter: str) -> None:
    """The mean over the elements of a map, and a score of a window that has no such elements."""
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(model_of(name, exporter), options=RewriteOptions(global_pool="drop"))
    assert caught.value.refusals[0].code == {"kept_added": "drop-not-affine", "kept_beside": "grids-differ"}[name]
    assert rewrite(model_of(name, exporter), check_options=CHECK).parity


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_class_token_among_the_places_is_the_reason(exporter: str) -> None:
    for option in ("window", "keep"):
        with pytest.raises(NothingToRewrite, match="beside a class token") as caught:
            rewrite(model_of("class_token", exporter), options=RewriteOptions(global_pool=option))
        assert caught.value.refusals[0].code == "attention"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_an_upsampling_cuts_off_counts_as_read(exporter: str) -> None:
    """Behind it lie padded zeros natively, pixels where the image goes on."""
    original = model_of("cut_and_padded", exporter)
    done = rewrite(original, check_options=CHECK)
    assert done.parity is not None
    assert done.claim.halo == ((0, 2), (2, 3))
    assert (done.parity.shift.status, done.parity.trunk.status) == ("passed", "passed")


def test_a_trunk_that_pads_otherwise_is_found() -> None:
    original = model_of("cut_and_padded", "torchscript")
    other = complete(rewrite(original, prove=False))
    node = next(node for node in other.graph.node if node.op_type == "Pad")
    amounts = numpy_helper.from_array(np.asarray([0, 0, 2, 1, 0, 0, 0, 1]), "other_pads")
    other.graph.initializer.append(amounts)
    node.input[1] = "other_pads"
    assert not check_pair(original, other, options=CHECK).passed


@pytest.mark.sweep(12)
@pytest.mark.parametrize("seed", range(7))
def test_a_division_by_small_differences_is_proven(seed: int) -> None:
    """Rounding moves a cell far where a difference is nearly none: it is measured there. Errors are found."""
    rng = np.random.default_rng(seed)
    weights = {"w": (8, 3, 3, 3), "f": (5, 8)}
    tensors = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32) / 3, n) for n, s in weights.items()]
    tensors.append(numpy_helper.from_array(np.asarray(1e-4, np.float32), "e"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["m"]),
        helper.make_node("Sub", ["r", "m"], ["d"]),
        helper.make_node("Abs", ["d"], ["p"]),
        helper.make_node("Add", ["p", "e"], ["n"]),
        helper.make_node("Div", ["r", "n"], ["q"]),
        helper.make_node("GlobalAveragePool", ["q"], ["g"]),
        helper.make_node("Flatten", ["g"], ["v"]),
        helper.make_node("Gemm", ["v", "f"], ["y"], transB=1),
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 17, 17])
    scores = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])
    graph = helper.make_graph(nodes, "net", [image], [scores], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    other = complete(done)
    weight = next(tensor for tensor in other.graph.initializer if tensor.name.startswith("f"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.003), weight.name))
    assert not check_pair(model, other, options=CHECK).passed
    other = complete(done)
    next(node for node in other.graph.node if node.op_type == "Sub").op_type = "Add"
    assert not check_pair(model, other, options=CHECK).passed


def test_a_coarser_map_that_is_pooled_whole_beside_windows() -> None:
    """It has fewer places than the other head has cells."""
    net = Net(17)
    fine = net.op("MaxPool", net.op("Tanh", net.input("image", [1, 1, 7, 7])), kernel_shape=[2, 1], strides=[2, 1])
    coarse = net.op("Conv", net.op("MaxPool", fine, kernel_shape=[1, 1], strides=[2, 1]), net.random(3, 1, 1, 1))
    whole = net.fc(net.op("Flatten", net.op("GlobalAveragePool", coarse)), 3, 4)
    model = net.model(net.fc(net.op("Flatten", fine), 21, 5), whole)
    done = proven(model, exact=False, global_pool="keep")
    assert [output.form for output in done.claim.outputs] == ["map", "global"]


def test_a_kept_pool_in_steps_behind_padding_that_was_fixed() -> None:
    """Beside windows SAME is as natively at every size: the original's own head pads otherwise, and says nothing."""
    net = Net(17)
    trunk = net.op("Tanh", net.input("image", [1, 3, 8, 7]))
    padded = net.op("Conv", trunk, net.random(3, 3, 2, 1), strides=[2, 1], auto_pad="SAME_UPPER")
    mean = net.axes("ReduceMean", net.axes("ReduceMean", padded, [-1], keepdims=0), [-1], keepdims=0)
    model = net.model(net.fc(net.op("Flatten", trunk), 168, 5), net.fc(mean, 3, 4))
    done = proven(model, exact=False, global_pool="keep")
    assert [output.form for output in done.claim.outputs] == ["map", "global"]


def test_a_count_of_the_whole_image_is_compared_at_other_sizes() -> None:
    """There is no head; a sum that grows otherwise than the original's own is told, as either may be meant."""
    net = Net()
    density = net.op("Relu", net.op("Conv", net.input("image", [1, 2, 9, 8]), net.random(1, 2, 3, 3)))
    original = net.model(net.op("ReduceSum", density, net.ints(2, 3), keepdims=0, out="count"))
    done = rewrite(original, options=KEEP, check_options=CHECK)
    assert done.parity is not None
    assert (done.parity.trunk.status, done.parity.trunk.compared) == ("passed", 4 * len(done.parity.trunk.sizes))
    other = complete(done)
    other.graph.node[-1].output[0] = "right"
    other.graph.initializer.append(numpy_helper.from_array(np.asarray(9, np.float32), "nine"))
    other.graph.initializer.append(numpy_helper.from_array(np.asarray(2, np.int64), "axis"))
    other.graph.node.extend(
        [
            helper.make_node("Shape", ["image"], ["shape"]),
            helper.make_node("Gather", ["shape", "axis"], ["height"]),
            helper.make_node("Cast", ["height"], ["float_height"], to=1),
            helper.make_node("Div", ["float_height", "nine"], ["rows"]),
            helper.make_node("Mul", ["right", "rows"], ["count"]),
        ]
    )
    trunk = check_pair(original, other, options=CHECK).parity.trunk
    assert trunk.status == "not applicable"
    assert trunk.reason.startswith("count differs from the original's own, in which a sum may grow with the image: ")


@pytest.mark.parametrize(
    ("channels", "by", "refused"), [(1, 1.0, False), (3, 1.0, False), (3, 20.0, True), (3, 60.0, False)]
)
def test_sums_over_channels_too(channels: int, by: float, refused: bool) -> None:
    """It is a count; by the number of all elements it is a mean, and by that of the places it may be either."""
    net = Net(17)
    density = net.op("Relu", net.conv(net.trunk(), 3, channels, (1, 1), strides=[1, 1]), out="density")
    total = net.op("Div", net.axes("ReduceSum", density, [1, 2, 3], keepdims=0), net.const(by), out="total")
    model = net.model(density, total, infer=False)
    if refused:
        assert refusal(model, global_pool="keep").code == "sum-over-image"
        return
    done = rewrite(model, options=KEEP, check_options=CHECK)
    image = np.random.default_rng(4).standard_normal((1, 2, 25, 31)).astype(np.float32)
    density, total = session(complete(done)).run(["density", "total"], {"image": image})
    np.testing.assert_allclose(total, density.sum() if by == 1 else density.mean(), rtol=1e-4)


def test_what_was_proven_at_the_native_size_alone_says_so() -> None:
    """Products of places under a Reshape to the native size: nothing tells what a larger image's would be."""
    net = Net()
    rows = net.op("Reshape", net.trunk(), net.ints(1, 3, 20))
    product = net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1]))
    mean = net.op("Div", product, net.const(20.0))
    done = rewrite(net.model(net.fc(net.op("Flatten", mean), 9, 5)), options=KEEP, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert (done.parity.window.compared, done.parity.trunk.compared) == (0, 0)
    assert f"proven on {done.parity.native.compared} values of the native size alone, " in done.parity.summary()


def by_sums(*ways: str, by: float = 20.0) -> onnx.ModelProto:
    """FC layers of a map's sum over 20 places, by that of its mask and one more; by a number; by a number after all."""
    net = Net(17)
    places = net.trunk()
    mask = net.op("Sigmoid", places)
    total, count = (net.axes("ReduceSum", item, [2, 3], keepdims=0) for item in (net.op("Mul", places, mask), mask))
    more = net.op("Add", count, net.const(np.ones(1, np.float32)))
    made = {
        "mask": lambda: net.op("Div", total, more),
        "number": lambda: net.op("Div", total, net.const(np.array([by], np.float32))),
        "both": lambda: net.op("Div", more, net.const(np.array([by], np.float32))),
    }
    return net.model(*(net.fc(made[way](), 3, 5, out=way) for way in ways))


@pytest.mark.parametrize(
    ("ways", "by", "refused"),
    [
        (["mask"], 20.0, False),
        (["number"], 20.0, False),
        (["number"], 21.0, True),  # no number of places
        (["both"], 20.0, True),  # one more than a sum, by its number of places: which count is meant?
        (["mask", "number"], 20.0, True),  # a sum as it is, and one of the native size
    ],
)
def test_sums_are_kept_where_they_are_means(ways: list[str], by: float, refused: bool) -> None:
    model = by_sums(*ways, by=by)
    if refused:
        assert refusal(model, global_pool="keep").code == "sum-over-image"
        return
    done = rewrite(model, options=KEEP, check_options=CHECK)
    image = np.random.default_rng(0).standard_normal((1, 2, 23, 19)).astype(np.float32)
    [found] = session(complete(done)).run(None, {"image": image})
    model = by_sums(*ways, by=20.0 if ways == ["mask"] else 11.0 * 9.0)  # as many places as there are
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    [wanted] = session(model).run(None, {"image": image})
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.ptp(wanted))


def test_sums_of_products_are_told_what_helps() -> None:
    """They have no windows."""
    net = Net(17)
    rows = net.op("Reshape", net.trunk(), net.ints(1, 3, 20))
    gram = net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1]))
    found = refusal(net.model(net.fc(net.op("Flatten", gram), 9, 5)), global_pool="keep")
    assert (found.code, found.advice) == ("sum-over-image", "divide it by the number of places, so that it is a mean")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_maximum_of_the_whole_map_that_is_normalised_stays_one(exporter: str) -> None:
    """R-MAC: a norm over channels is no pool, so that the maximum before it is no pool of the trunk. What it is added
    to grows with the number of regions: refused, and right by windows."""
    model = model_of("kept_rmac", exporter)
    found = refusal(model, global_pool="keep")
    assert (found.code, found.reason) == ("sum-over-image", "ReduceSum is a sum, which grows with the image")
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_sum_that_the_file_itself_shows_at_every_size_needs_no_rewriting(exporter: str) -> None:
    """Of an open file: its gates are of the whole image, and grow with it as the network's own do."""
    model = model_of("kept_open_sums", exporter)
    gated = [node.input[0] for node in model.graph.node if node.op_type == "ReduceMean"]
    found = refusal(model, output_at=tuple(gated), size=(13, 13))
    assert found.code == "no-head"
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.ClearField("dim_param")
        dim.dim_value = 13
    done = rewrite(model, options=KEEP, prove=False)
    told = sorted(note.reason.split(" ")[0] for note in done.notes if note.code == "native-scale")
    assert told == ["ReduceLogSumExp", "ReduceSum"]  # the norm's count is computed
