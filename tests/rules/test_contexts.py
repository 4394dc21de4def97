"""Figures of the whole image in every spelling; deviations in a head; coordinates; crops to a fixed end.

The stem does not pad: of an image repeated side by side it gives the features repeated. Means, extremes, norms and
sums at their native scale are then the same as of the one image, and so is all that is made of them.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHANNELS, FEATURES, Net, bodied, complete, refusal

from onnxfc.errors import NothingToRewrite
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

EXPORTERS = ("torchscript", "dynamo")
NATIVE = 16


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    path = fixture_file(f"{name}.{exporter}.onnx")
    # type: ignore[arg-type]
    return rewrite(path, options=RewriteOptions(**options), check_options=CheckOptions(threads=1))


def run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(item) for item in session.run(None, {session.get_inputs()[0].name: image})]


def images(count: int, height: int = NATIVE, width: int = NATIVE) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 3, height, width)).astype(np.float32)


OF_ALL = {("extremes", 5), ("variances", 0)}
"""Outputs that know how many places there are: a map divided by its norm, and one beside its variance over N - 1."""


def close(actual: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["sums", "extremes", "variances"])
def test_image_repeated_gives_its_result_repeated(name: str, exporter: str) -> None:
    """Native outputs are the oracle at 2x3 times the native size; each image of a batch gives what it gives alone."""
    done = rewritten(name, exporter, dynamic_batch=True)
    assert done.claim.verdict == "approximate"
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context"}
    assert done.claim.size_step == (1, 1)
    original, model = onnx.load(fixture_file(f"{name}.{exporter}.onnx")), complete(done)
    batch = images(3)
    single = [run(original, image[None]) for image in batch]
    tiled = np.tile(batch, (1, 1, 2, 3))
    for place, made in enumerate(run(model, tiled)):
        if (name, place) in OF_ALL:  # of six times as many places, as in the network itself
            freed = onnx.load(fixture_file(f"{name}.torchscript.onnx"))  # dynamo's has sizes in it
            for node in freed.graph.node:
                for item in node.attribute if node.op_type == "Constant" else ():
                    if item.t.dims == [] and onnx.numpy_helper.to_array(item.t) == 63:
                        item.t.CopyFrom(onnx.numpy_helper.from_array(np.float32(6 * 64 - 1)))
            for axis in (2, 3):
                freed.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"axis_{axis}"
            [begin], end = (item.name for item in freed.graph.input), freed.graph.output[place].name
            freed = onnx.utils.Extractor(freed).extract_model([begin], [end])
            close(made, np.concatenate([run(freed, image[None])[0] for image in tiled]))
            continue
        close(made, np.tile(np.concatenate([found[place] for found in single]), (1, 1, 2, 3)))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["sums", "extremes", "variances"])
def test_context_follows_an_image_off_the_grid(name: str, exporter: str) -> None:
    """The last row and column of an odd image are beyond the stem's stride: without them nothing changes."""
    model = complete(rewritten(name, exporter))
    odd = images(1, 21, 27)
    for made, cut in zip(run(model, odd), run(model, odd[:, :, :20, :26]), strict=True):
        assert made.shape == (1, 6, 10, 13)
        close(made, cut)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_deviations_and_norms_of_a_head_are_those_of_its_window(exporter: str) -> None:
    """One half of the image is much brighter: a deviation from the mean of the image would be far off."""
    done = rewritten("deviations", exporter)
    assert done.claim.verdict == "exact"
    image = images(1, 24, 26)
    image[..., 14:] += 5
    maps = run(complete(done), image)
    original = onnx.load(fixture_file(f"deviations.{exporter}.onnx"))
    for row, column in ((0, 0), (2, 3), (4, 5)):
        crop = image[:, :, 2 * row : 2 * row + NATIVE, 2 * column : 2 * column + NATIVE]
        for scores, expected in zip(maps, run(original, crop), strict=True):
            assert scores.shape == (1, 5, 5, 6)
            close(scores[:, :, row, column], expected, 1e-4)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_coordinates_follow_the_size(exporter: str) -> None:
    """With one global pool for all sizes the rewritten network is the original, which takes any size by itself."""
    done = rewritten("coordinates", exporter, size=(NATIVE, NATIVE), global_pool="keep")
    assert "context" in {item.partition(":")[0] for item in done.claim.blame}
    original, image = onnx.load(fixture_file(f"coordinates.{exporter}.onnx")), images(2, 27, 40)
    close(run(complete(done), image)[0].reshape(2, 5), run(original, image)[0])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_fixed_end_beside_the_other_border_is_counted_from_the_end(exporter: str) -> None:
    """Each place is what the native network says of the crop around it, up to the last row and column."""
    done = rewritten("borders", exporter)
    image = images(1, 26, 21)
    maps = run(complete(done), image)
    assert [made.shape[1:] for made in maps] == [(6, 12, 9), (6, 12, 10), (12, 13, 8)]
    original = onnx.load(fixture_file(f"borders.{exporter}.onnx"))
    for made, native in zip(maps, run(original, image[:, :, 10:, 4:20]), strict=True):
        height, width = native.shape[2:]
        close(made[:, :, 5 : 5 + height, 2 : 2 + width], native)


def test_sizes_that_bake_the_batch_beside_computed_ones() -> None:
    """Resize to [1, C, 2 H, 2 W], H and W read by Shape: with a free batch the number of images follows."""

    def body(net: Net, tensor: str) -> str:
        shape = net.op("Shape", tensor)
        twice = net.op("Mul", net.op("Slice", shape, net.ints(2), net.ints(4), net.ints(0)), net.ints(2))
        sizes = net.op("Concat", net.ints(1, CHANNELS), twice, axis=0)
        wide = net.op("Resize", tensor, "", "", sizes, mode="nearest")
        return net.fc(net.op("Flatten", wide), 4 * 60, 5)

    done = rewrite(bodied(body, opset=13), options=RewriteOptions(dynamic_batch=True))
    model, batch = complete(done), np.random.default_rng(0).standard_normal((3, 2, 17, 13)).astype(np.float32)
    single = np.concatenate([run(model, image[None])[0] for image in batch])
    close(run(model, batch)[0], single)


def refused(name: str, exporter: str, **options: object) -> tuple[str, str]:
    with pytest.raises(NothingToRewrite) as caught:
        rewritten(name, exporter, free=("height", "width"), **options)
    first = caught.value.refusals[0]
    nodes = onnx.load(fixture_file(f"{name}.{exporter}.onnx")).graph.node
    return first.code, next(node.op_type for node in nodes if node.name == first.node)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "code", "op_type"),
    [
        ("token_mixing", "fc-over-space", {"torchscript": "MatMul", "dynamo": "MatMul"}),
        ("halves", "cut-out", {"torchscript": "Slice", "dynamo": "Split"}),
        ("halves_compared", "cut-out", {"torchscript": "Slice", "dynamo": "Slice"}),
        ("argmax_place", "along-space", {"torchscript": "ArgMax", "dynamo": "ArgMax"}),
    ],
)
def test_refusal_names_the_node_that_tells_places_apart(
    name: str, code: str, op_type: dict[str, str], exporter: str
) -> None:
    """Not the node at which its result meets the trunk again. There is no pool to be kept."""
    assert refused(name, exporter) == (code, op_type[exporter])
    if code == "cut-out":
        assert refused(name, exporter, global_pool="keep") == (code, op_type[exporter])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_blocks_of_places_follow_the_image(exporter: str) -> None:
    """Unfold as Gather by (block, place): involution, and a Conv spelled by it, each place as in a native crop."""
    done = rewritten("unfolded", exporter, dynamic_batch=True)
    batch = np.concatenate([images(1, 26, 21), images(2, 26, 21)[1:]])
    maps = run(complete(done), batch)
    assert [made.shape for made in maps] == [(2, 6, 13, 10), (2, 6, 11, 8)]
    original = onnx.load(fixture_file(f"unfolded.{exporter}.onnx"))
    for image in range(2):
        natives = run(original, batch[image : image + 1, :, 8:24, 4:20])
        border, (whole, valid) = slice(1, -1), natives
        close(maps[0][image : image + 1, :, 5:11, 3:9], whole[:, :, border, border])
        close(maps[1][image : image + 1, :, 4:10, 2:8], valid)


@pytest.mark.parametrize("target", [(0, CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (-1, CHANNELS, 1, 1)])
def test_fc_layer_as_a_gate_of_its_own_trunk_is_refused_alike(target: tuple[int, ...]) -> None:
    """However its result is brought into the map's rank."""

    def body(net: Net, tensor: str) -> str:
        scores = net.fc(net.op("Flatten", tensor), FEATURES, CHANNELS)
        gate = net.op("Sigmoid", net.op("Reshape", scores, net.ints(*target)))
        return net.fc(net.op("Flatten", net.op("Mul", tensor, gate)), FEATURES, 5)

    assert refusal(bodied(body)).code == "head-rejoins-trunk"


def test_conv_without_padding_that_leaves_one_place_is_no_pool() -> None:
    """A map of native extent 1 beside a larger one: which of its places would go with which?"""

    def body(net: Net, tensor: str) -> str:
        one = net.conv(tensor, CHANNELS, CHANNELS, (5, 4))
        return net.fc(net.op("Flatten", net.op("Mul", tensor, one)), FEATURES, 5)

    assert refusal(bodied(body)).code == "sizes-differ"


@pytest.mark.parametrize("keepdims", [0, 1])
def test_extremes_over_the_one_image_of_the_batch_too(keepdims: int) -> None:
    """A Reduce without axes, as ``x.min()`` is exported: the original with its dims freed says what is right."""

    def body(net: Net, tensor: str) -> str:
        low, high = (net.op(kind, tensor, keepdims=keepdims) for kind in ("ReduceMin", "ReduceMax"))
        return str(net.op("Div", net.op("Sub", tensor, low), net.op("Add", net.op("Sub", high, low), net.const(0.1))))

    model = bodied(body)
    done = rewrite(model, check_options=CheckOptions(threads=1))
    freed = onnx.ModelProto.FromString(model.SerializeToString())
    del freed.graph.value_info[:]
    for info in (*freed.graph.input, *freed.graph.output):
        for axis in (2, 3):
            info.type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    image = np.random.default_rng(5).standard_normal((1, 2, 21, 16)).astype(np.float32)
    for made, want in zip(run(complete(done), image), run(freed, image), strict=True):
        close(made, want)
    assert refusal(model, dynamic_batch=True).code == "mixes-batch"


def test_extremes_over_the_batch_and_columns_alone_are_refused() -> None:
    def body(net: Net, tensor: str) -> str:
        return str(net.op("Sub", tensor, net.axes("ReduceMax", tensor, [0, 1, 3], keepdims=1)))

    assert refusal(bodied(body)).code == "mixes-batch"
