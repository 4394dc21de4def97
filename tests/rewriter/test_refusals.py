"""Why nothing of a network can be rewritten: the node that is named, and the words for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, own_crops, proven, refusal
from references import EXPORTERS

import onnxfc
from onnxfc.errors import Refusal


def network(end: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net(17)
    return net.model(end(net, net.op("Relu", net.conv(net.image(1, (16, 16), 1), 1, 4, strides=[1, 1]))))


def refused(end: Callable[[Net, str], str], **options: Any) -> Refusal:
    return refusal(network(end), **options)


def cut(net: Net, x: str) -> str:
    return net.op("Slice", x, net.ints(2, 2), net.ints(6, 6), net.ints(2, 3))


@pytest.mark.parametrize("flat", [False, True])
def test_a_piece_that_no_head_reads_is_refused_where_it_is_cut(flat: bool) -> None:
    found = refused(lambda net, x: net.op("Flatten", cut(net, x)) if flat else cut(net, x))
    assert found.code == "cut-out"
    assert found.node.startswith("node_slice")
    assert found.reason == "Slice cuts a piece out of the map of the native size, and no FC layer or pool reads it"


@pytest.mark.parametrize(("last", "piece"), [(-5, True), (-4, True), (-3, False)])
def test_half_or_less_cut_from_both_sides_is_a_piece(last: int, piece: bool) -> None:
    """Of 14 rows: -5 leaves 5, -4 leaves 7, a half, as t[h // 4 : -(h // 4)] is exported; -3 leaves a map of 8."""
    first = 3 if last == -4 else -last
    network = Net(17)
    trunk = network.conv(network.image(1, (16, 16), 1), 1, 4, strides=[1, 1])
    model = network.model(network.op("Slice", trunk, network.ints(first), network.ints(last), network.ints(2)))
    if piece:
        assert refusal(model).code == "cut-out"
    else:
        assert onnxfc.rewrite(model).claim.outputs[0].stride[0] == 1


@pytest.mark.parametrize("convolved", [False, True])
def test_stripes_that_come_back_to_the_places_of_the_map(convolved: bool) -> None:
    """chunk(2, 2) of a map, the mean of each and expand, as torch.onnx exports it: to the native 14 x 14."""

    def stripes(net: Net, x: str) -> str:
        means = [mean(net, x, slice_of) for slice_of in ((0, 7), (7, 14))]
        spread = net.op("Expand", net.op("Concat", *means, axis=1), net.ints(1, 1, 14, 14))
        return net.conv(spread, 8, 3, strides=[1, 1]) if convolved else spread

    def mean(net: Net, x: str, part: tuple[int, int]) -> str:
        piece = net.op("Slice", x, net.ints(part[0]), net.ints(part[1]), net.ints(2))
        return net.op("ReduceMean", piece, axes=[2, 3], keepdims=1)

    found = refused(stripes)
    assert (found.code, found.node[:11]) == ("cut-out", "node_expand")
    assert found.reason == "Expand spreads what was pooled of a piece over the map's native places"


def test_a_piece_beside_the_rest_of_its_map() -> None:
    """cat([t[:, :, :2] * 2, t[:, :, 2:]], 2): nothing in it was flattened."""

    def joined(net: Net, x: str) -> str:
        first, rest = (net.op("Slice", x, net.ints(a), net.ints(b), net.ints(2)) for a, b in ((0, 2), (2, 2**31)))
        both = net.op("Concat", net.op("Mul", first, net.const(2.0)), rest, axis=2)
        return net.fc(net.op("Flatten", both), COUNT, 5)

    found = refused(joined)
    assert (found.code, found.node[:11]) == ("cut-out", "node_concat")
    assert found.reason == "Concat joins a piece of the native map with what grows as the map does"


def test_places_that_no_head_reads_are_refused_where_they_are_picked() -> None:
    found = refused(lambda net, x: net.op("Gather", x, net.ints(2, 3), axis=2))
    assert found.code == "cut-out"
    assert found.node.startswith("node_gather")
    assert found.reason == "Gather picks places of the map of the native size, and no FC layer or pool reads it"


@pytest.mark.parametrize("alike", [True, False])
def test_maps_of_unlike_strides_that_figures_of_their_own_scale(alike: bool) -> None:
    """As LPRNet's levels, each over its mean of squares, which meet in a Conv: no grid has all of their places."""
    net = Net(17)
    image, levels = net.image(1, (12, 15)), list[str]()
    for kernel, stride in (((3, 3), 3), ((3, 3), 3) if alike else ((6, 7), 2)):
        made = net.op("AveragePool", image, kernel_shape=kernel, strides=[stride, stride])
        squares = net.op("Mul", made, made)
        levels.append(net.op("Div", made, net.op("Squeeze", net.axes("ReduceMean", squares, None))))
    joined = net.op("Concat", *levels, axis=1)
    model = net.model(net.conv(joined, 4, 3, (1, 1), strides=[1, 1]))
    if alike:
        assert onnxfc.rewrite(model, check_options=CHECK).claim.stride == (3, 3)
        return
    for options in ({}, {"global_pool": "keep"}):
        found = refusal(model, **options)
        assert (found.code, found.node) == ("grids-differ", f"node_{joined}")
        assert found.reason == "Concat combines maps of different stride"


def test_a_flattened_map_has_no_head() -> None:
    found = refused(lambda net, x: net.op("Flatten", x))
    assert found.code == "no-head"
    assert found.reason == "its outputs are the flattened map itself: no FC layer and no global pool reads it"


def fc(net: Net, tensor: str, features: int) -> str:
    return net.fc(net.op("Flatten", tensor), features, 5)


def last(net: Net, x: str) -> str:
    return net.op("Transpose", x, perm=[0, 2, 3, 1])


CROP = {"coordinate_transformation_mode": "tf_crop_and_resize"}
COUNT = 4 * 14 * 14
NOT_THE_IMAGES: dict[str, Callable[[Net, str], str]] = {
    "Conv slides": lambda net, x: net.op("Conv", x, net.random(2, 14, 1, 1)),
    "ConvTranspose slides": lambda net, x: net.op("ConvTranspose", x, net.random(14, 2, 1, 1)),
    "InstanceNormalization normalises": lambda net, x: net.op(
        "InstanceNormalization", x, net.random(14), net.random(14)
    ),
    "SpaceToDepth works": lambda net, x: net.op("SpaceToDepth", x, blocksize=2),
}


@pytest.mark.parametrize("said", NOT_THE_IMAGES)
def test_axes_that_are_not_the_images(said: str) -> None:
    """Channels lie last, and are taken for the width; nothing is rewritten by halves."""
    found = refused(lambda net, x: net.op("GlobalAveragePool", NOT_THE_IMAGES[said](net, last(net, x))))
    assert (found.code, found.reason.partition(" on ")[0].partition(" over ")[0]) == ("layout", said)
    assert found.reason.endswith("axes that are not the image's")


OTHERS: dict[str, tuple[str, Callable[[Net, str], str]]] = {
    "Tile puts copies of the map side by side, so that its borders would move inside": (
        "size-locked",
        lambda net, x: fc(net, net.op("Tile", x, net.ints(1, 1, 2, 1)), 2 * COUNT),
    ),
    "Tile repeats the images of a batch, or how often is not constant": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Tile", x, net.ints(2, 1, 1, 1)), COUNT),
    ),
    "Resize resizes other axes than the image's": (
        "mixes-channels",
        lambda net, x: fc(net, net.op("Resize", x, "", net.const([1, 2, 1, 1])), 2 * COUNT),
    ),
    "Resize crops to a region of the native size": (
        "size-locked",
        lambda net, x: fc(
            net,
            net.op("Resize", x, net.const([0, 0, 0, 0, 1, 1, 1, 1]), net.const([1, 1, 2, 2]), **CROP),
            4 * COUNT,
        ),
    ),
    "Concat lays what does not follow the image's size behind images, as a batch": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Concat", x, net.random(1, 4, 14, 14), axis=0), COUNT),
    ),
    "Softmax normalises over the batch": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("Softmax", x, axis=0), COUNT),
    ),
    "ReduceMean reduces over the batch": (
        "mixes-batch",
        lambda net, x: fc(net, net.op("ReduceMean", x, axes=[0]), COUNT),
    ),
    "LayerNormalization normalises over the places of the native size, each with its own scale": (
        "position-table",
        lambda net, x: fc(net, net.op("LayerNormalization", x, net.random(14), net.random(14)), COUNT),
    ),
    "LRN works on axis 1, which is one of the image's": (
        "layout",
        lambda net, x: fc(net, net.op("LRN", last(net, x), size=3), COUNT),
    ),
}


@pytest.mark.parametrize("said", OTHERS)
def test_what_cannot_be_computed_window_by_window(said: str) -> None:
    code, end = OTHERS[said]
    found = refused(end)
    assert (found.code, found.reason) == (code, said)
    assert found.node.startswith(f"node_{said.partition(' ')[0].lower()}_")


def pooled(net: Net, x: str) -> str:
    return net.op("GlobalAveragePool", x)


def scores(net: Net, x: str) -> str:
    return fc(net, x, COUNT)


BEHIND: dict[str, tuple[str, Callable[[Net, str], str]]] = {
    "Pad pads what a global pool left": (
        "pools-then-convolves",
        lambda net, x: fc(net, net.op("Pad", pooled(net, x), net.ints(0, 0, 1, 1, 0, 0, 1, 1)), 36),
    ),
    "InstanceNormalization normalises over what a global pool left": (
        "pools-then-convolves",
        lambda net, x: fc(net, net.op("InstanceNormalization", pooled(net, x), net.random(4), net.random(4)), 4),
    ),
    "Conv slides over what a global pool left": (
        "pools-then-convolves",
        lambda net, x: fc(net, net.conv(pooled(net, x), 4, 5, pads=[1] * 4, strides=[1, 1]), 5),
    ),
    "ConvTranspose spreads what a global pool left over several places": (
        "pools-then-convolves",
        lambda net, x: fc(net, net.op("ConvTranspose", pooled(net, x), net.random(4, 1, 2, 2), strides=[2, 2]), 4),
    ),
    "DepthToSpace spreads what a global pool left over several places": (
        "pools-then-convolves",
        lambda net, x: fc(net, net.op("DepthToSpace", pooled(net, x), blocksize=2), 4),
    ),
    "Resize resizes to sizes that name the batch, or by scales that are not constant": (
        "mixes-batch",
        lambda net, x: net.op(
            *("Resize", net.op("Unsqueeze", scores(net, x), net.ints(1)), "", ""),
            net.op("Concat", net.ints(1), net.op("Shape", scores(net, x)), axis=0),
        ),
    ),
    "Concat puts something else than features of the same images together": (
        "concat-fixed",
        lambda net, x: net.op("Concat", scores(net, x), scores(net, x), axis=0),
    ),
    "Gemm is not an FC layer over the features of each image alone": (
        "mixes-batch",
        lambda net, x: net.op("Gemm", scores(net, x), net.random(1, 5), transA=1),
    ),
    "Gemm feeds a result of windows back into the trunk": (
        "head-rejoins-trunk",
        lambda net, x: net.op(
            "Mul", x, net.op("Reshape", net.fc(net.op("Flatten", x), COUNT, 4), net.ints(1, 4, 1, 1))
        ),
    ),
}


@pytest.mark.parametrize("said", BEHIND)
def test_behind_a_pool_or_a_head(said: str) -> None:
    code, end = BEHIND[said]
    found = refused(end)
    assert (found.code, found.reason) == (code, said)


def test_what_an_option_cannot_do() -> None:
    best = refused(lambda net, x: net.op("ArgMax", scores(net, x), axis=1), output="mean")
    assert (best.code, best.advice) == ("no-mean", "use --output map")
    largest = refused(lambda net, x: fc(net, net.op("GlobalMaxPool", x), 4), global_pool="drop")
    assert (largest.code, largest.reason) == (
        "drop-not-affine",
        "GlobalMaxPool is no average: its map has no scores",
    )
    rows = refused(lambda net, x: fc(net, net.op("ReduceMean", x, axes=[2]), 56), global_pool="drop")
    assert (rows.code, rows.reason) == ("partial-pool", "ReduceMean pools only one of the spatial axes")


@pytest.mark.parametrize(
    "end",
    [
        lambda net, x: net.op("Gather", scores(net, x), net.ints(0), axis=0),
        lambda net, x: net.op("ReduceSum", scores(net, x), net.const([], dtype="int64"), noop_with_empty_axes=1),
        lambda net, x: net.op("Gemm", net.op("Transpose", net.op("Flatten", x)), net.random(COUNT, 5), transA=1),
        lambda net, x: net.op("Gemm", net.op("Flatten", x), net.random(COUNT, 5), scores(net, x)),
        lambda net, x: net.op("Concat", scores(net, x), net.random(1, 3), axis=1),
        lambda net, x: net.op("Conv", pooled(net, x), net.random(5, 4, 1, 1)),
        lambda net, x: net.op("Transpose", net.op("Gemm", net.random(5, COUNT), net.op("Flatten", x), transB=1)),
        lambda net, x: net.op(
            "Transpose", net.op("Gemm", net.random(COUNT, 5), net.op("Flatten", x), transA=1, transB=1)
        ),
        lambda net, x: fc(
            net, net.op("Conv", net.op("Reshape", x, net.ints(0, 4, -1)), net.random(3, 4, 1)), 3 * 14 * 14
        ),
    ],
    ids=[
        "first image",
        "no axes",
        "transposed",
        "scores for a bias",
        "constants beside",
        "Conv on a pool",
        "weight first",
        "weight first, turned",
        "Conv of rows",
    ],
)
def test_what_is_odd_and_yet_right(end: Callable[[Net, str], str]) -> None:
    """No padding, so that cells are the original's on crops."""
    proven(network(end))


def test_averages_of_integers() -> None:
    """Of integers there is a largest; onnxruntime has no average over windows."""

    def end(net: Net, x: str, op: str, kind: int) -> str:
        whole = net.op("Cast", net.op("Mul", x, net.const(20.0)), to=kind)
        return fc(net, net.op("Cast", net.op(op, whole, axes=[2, 3]), to=onnx.TensorProto.FLOAT), 4)

    found = refused(lambda net, x: end(net, x, "ReduceMean", onnx.TensorProto.INT32))
    assert found.code == "unsupported-reduction"
    assert found.reason == "ReduceMean works on integers, of which onnxruntime has no average over windows"
    proven(network(lambda net, x: end(net, x, "ReduceMax", onnx.TensorProto.UINT8)))


def test_an_image_that_enters_flattened_and_is_scaled_first() -> None:
    net = Net(17)
    scaled = net.op("Div", net.input("x", [1, 256]), net.const(255.0))
    image = net.op("Reshape", scaled, net.ints(1, 1, 16, 16))
    found = refusal(net.model(fc(net, net.conv(image, 1, 4, strides=[1, 1]), COUNT)))
    assert found.code == "no-image-input"
    assert found.advice == f"the image enters flattened: name the inner tensor that is one, --input {image!r}"


@pytest.mark.parametrize(
    ("batch", "options", "advice"),
    [("n", {}, "export it with a batch of 1"), (1, {"dynamic_batch": True}, "leave out --dynamic-batch")],
    ids=["open in the file", "by the option"],
)
def test_what_holds_for_one_image_is_refused_with_what_helps(
    batch: int | str, options: dict[str, Any], advice: str
) -> None:
    net = Net(17)
    flat = net.op("Flatten", net.conv(net.image(batch, (8, 8), 1), 1, 4, strides=[1, 1]))
    model = net.model(net.axes("Squeeze", net.fc(flat, 4 * 36, 5), [0]))
    found = refusal(model, **options)
    assert (found.code, found.advice) == ("batch-baked", advice)


def test_an_operator_set_older_than_any_that_runs() -> None:
    net = Net(6)
    x = net.op("Conv", net.input("image", [1, 2, 6, 6]), net.random(3, 2, 3, 3), kernel_shape=[3, 3])
    scores = net.op("Gemm", net.op("Flatten", x), net.random(5, 48), net.random(5), transB=1)
    found = refusal(net.model(scores, infer=False))
    assert (found.code, found.node) == ("old-opset", "")
    assert found.reason.startswith("operator set 6 is older than 7")


def test_the_place_of_the_largest_is_picked_and_not_summed_up() -> None:
    """Said of --global-pool keep, which it cannot have."""
    net = Net(17)
    rows = net.op("Reshape", net.conv(net.image(1, (11, 11), 2), 2, 4), net.ints(1, 4, -1))
    model = net.model(net.op("ArgMax", rows, axis=2, keepdims=0), net.axes("ReduceMax", rows, [2], keepdims=0))
    found = refusal(model, global_pool="keep")
    assert (found.code, found.reason.partition(" that")[0]) == ("not-kept", "ArgMax picks one of the places")


def test_a_pixel_of_the_native_map_is_a_piece_of_it() -> None:
    """The map less its pixel in the middle: no head feeds anything back."""
    net = Net(17)
    trunk = net.op("Tanh", net.conv(net.image(1, (33, 33), 2), 2, 4))
    middle = net.op("Slice", trunk, net.ints(8, 8), net.ints(9, 9), net.ints(2, 3))
    model = net.model(net.conv(net.op("Sub", trunk, middle), 4, 3))
    found = refusal(model)
    assert found.code == "cut-out"
    assert found.reason == "Sub combines a piece of the native map with what grows as the map does"
    assert found.advice == "leave this model at its native size"
    for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("h", "w"), strict=True):
        dim.dim_param = name
    assert refusal(model, size=(33, 33)).advice == "its height and width are open already: it may do as it is"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_file_that_is_open_is_not_told_to_be_exported_open(exporter: str) -> None:
    found = refusal(onnx.load(fixture_file(f"kept_open_written.{exporter}.onnx")), size=(61, 77))
    assert found.code == "size-locked"
    told = "let the network compute it of the size of the image, or give a scale_factor in place of the size"
    assert found.advice.startswith(told)


def test_means_of_parts_beside_that_of_all_say_what_can_be_freed() -> None:
    """GaitSet's pyramid: the parts of rows are fixed, and of columns there may be any number, all pooled."""
    net = Net(17)
    trunk = net.op("Tanh", net.conv(net.image(1, (33, 17), 2), 2, 4))
    parts = [net.op("Reshape", trunk, net.ints(1, 4, n, -1)) for n in (1, 2, 4)]
    each = [[net.axes(f"Reduce{kind}", part, [3], keepdims=0) for kind in ("Mean", "Max")] for part in parts]
    joined = net.op("Concat", *(net.op("Add", *two) for two in each), axis=2)
    scores = net.op("MatMul", net.op("Transpose", joined, perm=[2, 0, 1]), net.random(7, 4, 3))
    model = net.model(net.op("Transpose", scores, perm=[1, 0, 2]))
    found = refusal(model, free=("height", "width"))
    assert (found.code, found.advice) == ("context-beside-windows", "--free width frees that axis alone")
    done = proven(model)
    assert [note.reason.rpartition(": ")[2] for note in done.notes if note.code == "fixed-axis"] == [
        "the height stays 33 px"
    ]
    assert own_crops(model, done) < 1e-6
    done = proven(model, exact=False, global_pool="keep", free=("width",))
    assert [output.form for output in done.claim.outputs] == ["global"]


def test_means_over_the_batch_of_kept_vectors_are_refused() -> None:
    """What is said of the whole image, less the mean of all images: other images would change each one's scores."""
    net = Net(13)
    means = net.op("GlobalAveragePool", net.op("Relu", net.conv(net.image(2, (14, 14)), 2, 4)))
    vectors = net.op("Flatten", means)
    model = net.model(net.fc(net.op("Sub", vectors, net.op("ReduceMean", vectors, axes=[0])), 4, 3))
    assert (
        onnxfc.rewrite(model, options=onnxfc.RewriteOptions(global_pool="keep"), prove=False).claim.inputs[0].batch == 2
    )
    with pytest.raises(onnxfc.NothingToRewrite) as caught:
        onnxfc.rewrite(model, options=onnxfc.RewriteOptions(global_pool="keep", dynamic_batch=True), prove=False)
    assert caught.value.refusals[0].code == "mixes-batch"
    assert str(caught.value).endswith("ReduceMean does not keep the batch (leave out --dynamic-batch)")
