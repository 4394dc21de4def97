"""Common things that networks write in ways of their own: what PyTorch's own networks give at other sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, refusal, session
from references import EXPORTERS, compare, image

import onnxfc
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("spellings.npz"))
SIZES = ((17, 33), (25, 25), (33, 41))
ALONG = {"height": ((25, 25), (33, 25), (49, 25)), "width": ((17, 33), (17, 41), (17, 65))}


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    """Rewritten, and proven."""
    chosen = RewriteOptions(**options)  # type: ignore[arg-type]
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=chosen, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    return done


def along(name: str, exporter: str, axis: str, **options: object) -> None:
    """One axis freed alone: as PyTorch along it."""
    done = rewritten(name, exporter, free=(axis,), **options)
    assert done.claim.inputs[0].spatial == ((3,) if axis == "width" else (2,))
    for size in ALONG[axis]:
        compare(done.model, {"image": image(*size)}, REFERENCES, name, 1e-5)


def model_of(name: str, exporter: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.{exporter}.onnx"))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_sums_divided_by_the_height_and_then_by_the_width(exporter: str) -> None:
    """And a deviation over N - 1 of the columns: both are kept, and proven, as the original's head reckons."""
    done = rewritten("sides_by_hand", exporter, global_pool="keep")
    for size in SIZES:
        compare(done.model, {"image": image(*size)}, REFERENCES, "sides_by_hand", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("axis", ALONG)
def test_an_einsum_that_only_sums_where_an_axis_stays(axis: str, exporter: str) -> None:
    """It is the sum that ReduceSum writes, over what stays and what follows the image."""
    along("sides_summed", exporter, axis, global_pool="keep")
    rewritten("sides_summed", exporter, free=(axis,))


@pytest.mark.parametrize("axis", ALONG)
@pytest.mark.parametrize(
    "file", ["axis_unpooled.dynamo", "axis_folded.dynamo", "axis_flow.torchscript", "axis_flow.dynamo"]
)
def test_places_and_coordinates_of_a_map_of_which_an_axis_stays(file: str, axis: str) -> None:
    """Maxima are put back, blocks laid on each other, and a map is read beside its places, along the axis that stays as
    along the other."""
    name, _, exporter = file.partition(".")
    along(name, exporter, axis)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_columns_picked_by_number_stay(exporter: str) -> None:
    """As exporters write it: Gather, or GatherND with the columns moved to the front."""
    done = rewritten("picked_columns", exporter)
    assert [note.reason.rpartition(": ")[2] for note in done.notes if note.code == "fixed-axis"] == [
        "the width stays 25 px"
    ]
    for size in ALONG["height"]:
        compare(done.model, {"image": image(*size)}, REFERENCES, "picked_columns", 1e-5)
    found = refusal(model_of("picked_columns", exporter), free=("width",))
    assert (found.code, found.reason.partition(" ")[2]) == (
        "cut-out",
        "picks places of the map of the native size, and no FC layer or pool reads it",
    )


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_neighbours_picked_by_number_are_a_piece_of_the_map(exporter: str) -> None:
    found = refusal(model_of("picked_neighbours", exporter), free=("width",))
    assert found.code == "cut-out"
    assert found.reason == "Sub combines a piece of the native map with what grows as the map does"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["axis_states", "axis_log_shares"])
def test_figures_of_all_columns_beside_them(name: str, exporter: str) -> None:
    """The first state of a recurrent layer is the mean of its sequence; LogSoftmax is over all places."""
    along(name, exporter, "width")
    along(name, exporter, "width", global_pool="keep")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_table_beside_a_figure_lies_on_no_places(exporter: str) -> None:
    """Centres of clusters, 4 x 8, as many axes as a map has of which one axis stays: no map is 8 columns wide."""
    along("axis_vlad", exporter, "width", global_pool="keep")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_figure_repeated_as_often_as_there_are_columns_is_told(exporter: str) -> None:
    """The steps of a decoder, which the file has as a number: the network's own follow the image."""
    done = rewritten("axis_decoder", exporter, free=("width",))
    [note] = [note for note in done.notes if note.code == "native-scale"]
    assert note.reason.partition(" ")[2] == (
        "repeats a figure of the whole image 12 times, as many as there are places natively; where the network's own"
        " follow the image, export it with open dims"
    )
    assert REFERENCES["axis_decoder map 17x33"].shape == (1, 16, 5)


@pytest.mark.parametrize("sums", ["MatMul", "ReduceSum"])
def test_logarithms_of_shares_that_are_raised_again_are_not_summed_up(sums: str) -> None:
    """They are shares of all places then, whose sum is a mean; nothing tells, so that it is not taken for one that
    grows."""
    net = Net(17)
    rows = net.op("Reshape", net.op("Tanh", net.conv(net.image(1, (9, 11)), 2, 4)), net.ints(1, 4, 20))
    shares = net.op("Exp", net.op("LogSoftmax", rows, axis=2))
    if sums == "MatMul":
        pooled = net.op("MatMul", shares, net.op("Transpose", rows, perm=[0, 2, 1]))
    else:
        pooled = net.axes("ReduceSum", net.op("Mul", shares, rows), [2], keepdims=0)
    model = net.model(net.fc(net.op("Flatten", pooled), 16 if sums == "MatMul" else 4, 5))
    assert refusal(model, global_pool="keep").code in ("sum-over-image", "softmax-over-space")


def test_what_was_pooled_of_rows_is_no_map() -> None:
    """Along the height alone a mean of rows is a figure of each window, in which nothing slides."""
    net = Net(17)
    rows = net.axes("ReduceMean", net.op("Tanh", net.conv(net.image(1, (16, 24)), 2, 4)), [2], keepdims=0)
    model = net.model(net.op("Tanh", net.conv(rows, 4, 5, (3,), strides=[1])))
    found = refusal(model, free=("height",))
    assert (found.code, found.node.partition("_")[2].partition("_")[0]) == ("partial-pool", "reducemean")
    assert (
        found.reason == "ReduceMean takes together places of each window, and Conv works on what it leaves as on a map"
    )


def test_a_matrix_over_all_places_is_named() -> None:
    """As many rows and columns as the map has places, natively: what it makes is a map again, of no other size."""
    net = Net(17)
    data = net.op("Tanh", net.conv(net.image(1, (11, 13)), 2, 4))
    mixed = net.op("MatMul", net.op("Reshape", data, net.ints(1, 4, 30)), net.random(30, 30))
    model = net.model(net.op("Relu", net.op("Reshape", mixed, net.ints(1, 4, 5, 6))))
    found = refusal(model)
    assert (found.code, found.node) == ("size-locked", next(n.name for n in model.graph.node if n.op_type == "MatMul"))
    assert found.reason == (
        f"MatMul reads a map of the native size as features of one window, and the output {model.graph.output[0].name}"
        " is a map again"
    )


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mean_behind_unsqueezes_meets_its_map_where_an_axis_stays(axis: int) -> None:
    """Less the mean of each window: the cells are those of crops, whichever axis is free."""
    net = Net(17)
    data = net.op("Tanh", net.conv(net.image(1, (11, 13)), 2, 4))
    mean = net.op("Unsqueeze", net.axes("ReduceMean", data, [2, 3], keepdims=0), net.ints(2))
    less = net.op("Sub", data, net.op("Unsqueeze", mean, net.ints(3)))
    figures = net.axes("ReduceMean", net.op("Abs", less), [2, 3], keepdims=0)
    model = net.model(net.fc(figures, 4, 5))
    options = RewriteOptions(free=(("height", "width")[axis],))
    done = onnxfc.rewrite(model, options=options, check_options=CHECK)
    assert done.claim.verdict == "exact"
    shape = [1, 2, 11, 13]
    shape[2 + axis] += 6
    whole = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    [found] = session(complete(done)).run(None, {"image": whole})
    assert found.shape == (1, 5, 4)
    for cell in range(4):
        crop = whole.take(range(2 * cell, 2 * cell + (11, 13)[axis]), 2 + axis)
        [wanted] = session(model).run(None, {"image": crop})
        np.testing.assert_allclose(found[:, :, cell], wanted, atol=1e-5)
