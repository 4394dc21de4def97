"""Attention over the whole map as context: as PyTorch and numpy have it at other sizes; and what must stay refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, bodied, complete, proven, refusal, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("attention.npz"))
BOTH = ("torchscript", "dynamo")
NAMES = sorted({key.partition(".")[0] for key in REFERENCES} - {"shifted_windows"})
M = 5
C = 8


def rewritten(name: str, exporter: str, **options: Any) -> Rewrite:
    return rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(**options), check_options=CHECK)


def run(model: onnx.ModelProto, image: np.ndarray, output: str) -> np.ndarray:
    made = session(model)
    result: np.ndarray = made.run([output], {made.get_inputs()[0].name: image})[0]
    return result


def deviation(got: np.ndarray, want: np.ndarray) -> float:
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / want.std())


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape[-2]).standard_normal(shape).astype(np.float32)


# What PyTorch writes


@pytest.mark.sweep(16)
@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        (name, exporter)
        for name in NAMES
        for exporter in BOTH
        if (name, exporter) != ("operator_attention", "torchscript")
    ],
)
def test_map_is_that_of_pytorch_at_other_sizes(name: str, exporter: str, dynamic_batch: bool) -> None:
    done = rewritten(name, exporter, dynamic_batch=dynamic_batch)
    model, sizes = complete(done), [key.partition(".")[2] for key in REFERENCES if key.startswith(f"{name}.")]
    assert len(sizes) >= 2
    for size in sizes:
        shape = [int(length) for length in size.split("x")]
        assert deviation(run(model, noise(1, 3, *shape), "map"), REFERENCES[f"{name}.{size}"]) < 1e-5
    if dynamic_batch:
        images = noise(3, 3, 24, 28)
        single = np.concatenate([run(model, image[None], "map") for image in images])
        assert deviation(run(model, images, "map"), single) < 1e-5


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("non_local", {"MatMul", "Softmax"}),
        ("context_vectors", {"MatMul", "Softmax", "ReduceSum", "Add", "Mul"}),
        ("linear_attention", {"MatMul", "Softmax", "ReduceSum", "Einsum"}),
        ("letters_attention", {"Einsum", "Softmax"}),
    ],
)
def test_verdict_names_what_looks_at_the_whole_image(name: str, nodes: set[str]) -> None:
    done = rewritten(name, "torchscript")
    named = {item.partition(": ")[2] for item in done.claim.blame if item.startswith("context: ")}
    kinds = {
        node.op_type for node in onnx.load(fixture_file(f"{name}.torchscript.onnx")).graph.node if node.name in named
    }
    assert kinds == nodes


@pytest.mark.parametrize("exporter", BOTH)
def test_windows_that_follow_are_no_context(exporter: str) -> None:
    """Blocks of 2x2 places attend to themselves: legal at every fourth pixel, each block alone."""
    done = rewritten("window_attention", exporter)
    assert done.claim.size_step == (4, 4)
    assert {item.partition(":")[0] for item in done.claim.blame} == {"padding", "resampling"}


@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("name", ["axial_attention", "shifted_windows", "window_attention"])
def test_map_alone_is_that_of_pytorch_at_other_sizes(name: str, exporter: str) -> None:
    """Without a head, rows of blocks or of places hold no batch where that is one image for good."""
    done = rewritten(name, exporter, output_at=("map",))
    assert [output.form for output in done.claim.outputs] == ["features"]
    sizes = [key.partition(".")[2] for key in REFERENCES if key.startswith(f"{name}.")]
    for size in sizes:
        shape = [int(length) for length in size.split("x")]
        assert deviation(run(complete(done), noise(1, 3, *shape), "map"), REFERENCES[f"{name}.{size}"]) < 1e-5


@pytest.mark.parametrize("exporter", BOTH)
def test_what_keeps_shifted_windows_from_other_sizes(exporter: str) -> None:
    """Cells would read the far end of the image; a map does not, but a mask is a table of the native size."""
    for name in ("shifted_windows", "masked_windows"):
        found = refusal(onnx.load(fixture_file(f"{name}.{exporter}.onnx")))
        assert (found.code, found.node.startswith(("/block", "node_"))) == ("flipped", True)
    found = refusal(onnx.load(fixture_file(f"masked_windows.{exporter}.onnx")), output_at=("map",))
    assert found.code == "position-table"
    assert found.reason.startswith("Add combines the map with ")
    assert found.reason.endswith(", which has a value for every place of the native size")


@pytest.mark.parametrize(("shift", "spelled"), [(1, (1, 0)), (-2, (-2, 0)), (2, (-3, 2)), (-1, (4, 4))])
def test_a_rolled_map_is_numpy_s_at_other_sizes(shift: int, spelled: tuple[int, int]) -> None:
    """However the exporter counts; rolled further than the middle it is rolled back. A figure of all of it is kept."""
    net = Net()
    x = net.trunk()  # 5 rows
    begin, end = spelled
    last = net.op("Slice", x, net.ints(begin), net.ints(2**31 - 1), net.ints(2))
    first = net.op("Slice", x, net.ints(0), net.ints(end or begin), net.ints(2))
    made = net.op("Mul", x, net.op("Concat", last, first, axis=2), out="made")
    scores = net.fc(net.op("Flatten", net.op("GlobalAveragePool", made)), 3, 5)
    model = net.model(x, made, scores)
    done = rewrite(model, options=RewriteOptions(output_at=(x, made)), check_options=CHECK)
    kept = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert refusal(model).code in {"flipped", "head-rejoins-trunk"}
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context"}
    for size in ((15, 9), (22, 11), (12, 17)):
        image = noise(1, 2, *size)
        want = run(complete(done), image, x)
        want = want * np.roll(want, -shift, 2)
        assert deviation(run(complete(done), image, "made"), want) < 1e-6
        assert deviation(run(complete(kept), image, "made"), want) < 1e-6


@pytest.mark.parametrize("exporter", BOTH)
def test_weighted_pools_of_a_head_are_each_windows_own(exporter: str) -> None:
    """Five heads that weigh places: every cell is what the original says of that crop."""
    done = rewritten("weighted_pools", exporter)
    assert done.claim.verdict == "exact"
    assert done.parity is not None
    assert done.parity.crops.deviation < 1e-5


@pytest.mark.parametrize("exporter", BOTH)
def test_weighted_pools_kept_global(exporter: str) -> None:
    done = rewritten("weighted_pools", exporter, global_pool="keep")
    assert {item.form for item in done.claim.outputs} == {"global"}


@pytest.mark.parametrize("exporter", BOTH)
def test_table_of_positions_is_named(exporter: str) -> None:
    model = onnx.load(fixture_file(f"placed_attention.{exporter}.onnx"))
    found = refusal(model)
    node = next(node for node in model.graph.node if node.name == found.node)
    assert (found.code, node.op_type) == ("position-table", "Add")


# By hand, against numpy


def softmax(x: np.ndarray) -> np.ndarray:
    made = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(made / made.sum(-1, keepdims=True))


def trunk(channels: int = C, batch: int | str = 1, size: tuple[int, int] = (16, 16), **options: Any) -> tuple[Net, str]:
    """Channels of places by a 1x1 Conv, so that numpy can follow: (N, C, H / 2, W / 2)."""
    net = Net(**options)
    weight = net.random(channels, 2, 1, 1, name="stem")
    return net, str(net.op("Conv", net.image(batch, size), weight, strides=[2, 2]))


def stem(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    weight = next(onnx.numpy_helper.to_array(item) for item in model.graph.initializer if item.name == "stem")
    return np.einsum("nchw,mc->nmhw", image[:, :, ::2, ::2], weight[:, :, 0, 0])


def places(net: Net, tensor: str, channels: int = C, batch: int = 1, count: int = 64) -> str:
    return str(net.op("Reshape", tensor, net.ints(batch, channels, count)))


def finished(net: Net, rows: str, channels: int = C, size: tuple[int, int] = (8, 8), batch: int = 1) -> onnx.ModelProto:
    return net.model(net.op("Reshape", rows, net.ints(batch, channels, *size), out="map"))


@pytest.mark.parametrize("channels", [C, 64])
def test_as_many_channels_as_places(channels: int) -> None:
    """64 channels beside 8x8 places: none is taken for the other."""
    net, x = trunk(channels)
    rows = places(net, x, channels)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows), axis=-1)
    model = finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1])), channels)
    done = complete(proven(model, exact=False, crops=False))
    for size in ((16, 24), (30, 18)):
        image = noise(1, 2, *size)
        x_ = stem(model, image)
        r = x_.reshape(1, channels, -1)
        want = (r @ softmax(r.transpose(0, 2, 1) @ r).transpose(0, 2, 1)).reshape(x_.shape)
        assert deviation(run(done, image, "map"), want) < 1e-4


@pytest.mark.parametrize("letters", [False, True])
def test_sum_over_places_keeps_its_native_scale(letters: bool) -> None:
    """A dot product that no Softmax normalises, scaled by 1 / 64 in the file: 1 / (places) at every size."""
    net, x = trunk()
    rows = places(net, x)
    if letters:
        gram = net.op("Einsum", rows, rows, equation="bcn,bdn->bcd")
    else:
        gram = net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1]))
    gram = net.op("Div", gram, net.const(64.0))
    model = finished(net, net.op("MatMul", gram, rows))
    done = complete(proven(model, exact=False, crops=False))
    for size in ((16, 16), (20, 34)):
        image = noise(1, 2, *size)
        x_ = stem(model, image)
        r = x_.reshape(1, C, -1)
        want = ((r @ r.transpose(0, 2, 1) / r.shape[2]) @ r).reshape(x_.shape)
        assert deviation(run(done, image, "map"), want) < 1e-5


def test_softmax_before_operator_set_13_along_the_last_axis() -> None:
    net, x = trunk(opset=11)
    rows = places(net, x)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows), axis=2)
    proven(finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1]))), exact=False, crops=False)


def test_softmax_before_operator_set_13_over_rows_and_columns_is_refused() -> None:
    """Softmax(axis=1) flattens (N, places, places): a weight of each pair, which gets smaller as the image grows."""
    net, x = trunk(opset=11)
    rows = places(net, x)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows), axis=1)
    model = finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1])))
    assert refusal(model).code == "attention"


def test_rows_by_columns_of_a_square_map_are_refused() -> None:
    """Places in the order H, W against W, H: as many, but not the same."""
    net, x = trunk()
    rows, turned = places(net, x), places(net, net.op("Transpose", x, perm=[0, 1, 3, 2]))
    gram = net.op("MatMul", rows, net.op("Transpose", turned, perm=[0, 2, 1]))
    assert refusal(finished(net, net.op("MatMul", gram, rows))).code == "attention"


def test_both_turned_are_places_again() -> None:
    net, x = trunk(size=(16, 12))
    turned = places(net, net.op("Transpose", x, perm=[0, 1, 3, 2]), count=48)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", turned, perm=[0, 2, 1]), turned), axis=-1)
    made = net.op("MatMul", turned, net.op("Transpose", near, perm=[0, 2, 1]))
    back = net.op("Transpose", net.op("Reshape", made, net.ints(1, C, 6, 8)), perm=[0, 1, 3, 2], out="map")
    model = net.model(back)
    done = complete(proven(model, exact=False, crops=False))
    image = noise(1, 2, 20, 26)
    x_ = stem(model, image)
    r = x_.reshape(1, C, -1)
    want = (r @ softmax(r.transpose(0, 2, 1) @ r).transpose(0, 2, 1)).reshape(x_.shape)
    assert deviation(run(done, image, "map"), want) < 1e-4


@pytest.mark.parametrize("kind", ["bias", "mask", "tokens"])
def test_values_of_each_place_are_refused(kind: str) -> None:
    """A bias of relative positions, a mask, a table that is added to the tokens."""
    net, x = trunk()
    rows = places(net, x)
    if kind == "tokens":
        rows = net.op("Add", rows, net.random(C, 64), out="placed")
    logits = net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows)
    if kind == "bias":
        logits = net.op("Add", logits, net.random(64, 64), out="placed")
    elif kind == "mask":
        hidden = np.random.default_rng(0).random((64, 64)) > 0.5
        logits = net.op("Where", net.const(hidden, dtype=bool), logits, net.const(-1e9), out="placed")
    near = net.op("Softmax", logits, axis=-1)
    found = refusal(finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1]))))
    assert (found.code, found.node) == ("position-table", "node_placed")
    assert "to the weights of attention" not in found.reason or kind == "bias"


def test_a_table_without_a_rule_is_named_where_attention_weighs_it() -> None:
    """Coordinates go on by their rule; numbers of chance have none."""
    net, x = trunk()
    rows = places(net, x)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows), axis=-1)
    weighed = net.op("MatMul", near, net.random(1, 64, C), out="weighed")
    found = refusal(finished(net, net.op("Transpose", weighed, perm=[0, 2, 1])))
    assert (found.code, found.node) == ("position-table", "node_weighed")
    assert "a row for every place of the native size" in found.reason


def test_bias_of_one_value_is_none_of_positions() -> None:
    net, x = trunk()
    rows = places(net, x)
    logits = net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows)
    near = net.op("Softmax", net.op("Add", logits, net.const(np.full((64, 64), 0.5))), axis=-1)
    proven(finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1]))), exact=False, crops=False)


def test_layer_over_the_places_is_refused() -> None:
    """Token mixing in the trunk: a Conv follows."""
    net, x = trunk()
    mixed = net.op("Reshape", net.op("MatMul", places(net, x), net.random(64, 64)), net.ints(1, C, 8, 8))
    found = refusal(net.model(net.conv(net.op("Add", mixed, x), C, M)))
    assert found.code in {"head-rejoins-trunk", "fc-over-space"}


def test_attention_between_the_images_of_a_batch_is_refused() -> None:
    """(places, N, C): what is meant for tokens relates the images."""
    net, x = trunk(batch=4)
    rows = net.op("Transpose", places(net, x, batch=4), perm=[2, 0, 1])
    near = net.op("Softmax", net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1])), axis=-1)
    made = net.op("Transpose", net.op("MatMul", near, rows), perm=[1, 2, 0])
    assert refusal(finished(net, made, batch=4)).code in {"attention", "mixes-batch"}


def test_as_many_heads_as_images() -> None:
    """(N * heads, places, C / heads) with two of both: the batch stays outside."""
    net, x = trunk(batch=2)
    heads = net.op("Reshape", x, net.ints(4, 4, 64))
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", heads, perm=[0, 2, 1]), heads), axis=-1)
    made = net.op("MatMul", heads, net.op("Transpose", near, perm=[0, 2, 1]))
    model = finished(net, made, batch=2)
    done = complete(proven(model, exact=False, crops=False, dynamic_batch=True))
    image = noise(3, 2, 20, 14)
    x_ = stem(model, image)
    r = x_.reshape(6, 4, -1)
    want = (r @ softmax(r.transpose(0, 2, 1) @ r).transpose(0, 2, 1)).reshape(x_.shape)
    assert deviation(run(done, image, "map"), want) < 1e-4


def test_best_places_are_refused() -> None:
    """The three largest logits of each place: which these are depends on the values."""
    net, x = trunk()
    rows = places(net, x)
    logits = net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows)
    best, _ = net.op("TopK", logits, net.ints(3), outputs=2, axis=-1)
    least = net.axes("ReduceMin", best, [2], keepdims=1)
    near = net.op("Softmax", net.op("Where", net.op("Less", logits, least), net.const(-1e9), logits), axis=-1)
    model = finished(net, net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1])))
    found = refusal(model)
    assert (found.code, "behind TopK" in found.reason) == ("data-dependent", True)


def test_query_of_the_whole_image_is_refused_in_a_head() -> None:
    """A mean that asks the places: it must not look at the whole image while the places are a window's."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(1, 3, 20))
        query = net.op("Transpose", net.axes("ReduceMean", rows, [2], keepdims=1), perm=[0, 2, 1])
        near = net.op("Softmax", net.op("MatMul", query, rows), axis=-1)
        vector = net.op("MatMul", near, net.op("Transpose", rows, perm=[0, 2, 1]))
        return net.fc(net.op("Reshape", vector, net.ints(1, 3)), 3, M)

    assert refusal(bodied(body)).code == "attention"


@pytest.mark.parametrize("weighted", ["pool", "flatten"])
def test_softmax_over_places_before_a_layer_is_each_windows_own(weighted: str) -> None:
    """x * softmax(x over its places), then an average or an FC layer at once."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(1, 3, 20))
        gate = net.op("Reshape", net.op("Softmax", rows, axis=-1), net.ints(1, 3, 5, 4))
        gated = net.op("Mul", tensor, gate)
        if weighted == "pool":
            return net.fc(net.op("Flatten", net.op("GlobalAveragePool", gated)), 3, M)
        return net.fc(net.op("Flatten", gated), 60, M)

    proven(bodied(body))


def weighted(net: Net, x: str) -> tuple[str, str]:
    """Features in rows, and weights of the places that sum up to 1."""
    rows = places(net, x)
    weights = net.op("Softmax", net.op("MatMul", net.random(1, C), rows, out="logits"), axis=-1)
    return rows, weights


def added(net: Net, x: str, vector: str) -> onnx.ModelProto:
    """(N, C) added to every place of the map."""
    return net.model(net.op("Add", x, net.op("Reshape", vector, net.ints(1, C, 1, 1)), out="map"))


def test_weighted_sums_added_up_do_not_grow() -> None:
    """(a * x + a * tanh(x)) summed over places: still a weighted mean."""
    net, x = trunk()
    rows, weights = weighted(net, x)
    total = net.op("Add", net.op("Mul", weights, rows), net.op("Mul", weights, net.op("Tanh", rows)))
    model = added(net, x, net.axes("ReduceSum", total, [2], keepdims=0))
    done = complete(proven(model, exact=False, crops=False))
    image = noise(1, 2, 26, 34)
    x_ = stem(model, image)
    r = x_.reshape(1, C, -1)
    kernel = next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if list(t.dims) == [1, C])
    want = x_ + (softmax(kernel @ r) * (r + np.tanh(r))).sum(-1)[:, :, None, None]
    assert deviation(run(done, image, "map"), want) < 1e-5


def test_changed_weights_summed_up_are_refused() -> None:
    """Weights that are cut below 0.01: their sum grows in part."""
    net, x = trunk()
    rows, weights = weighted(net, x)
    cut = net.op("Clip", weights, net.const(0.01), net.const(1.0))
    found = refusal(added(net, x, net.axes("ReduceSum", net.op("Mul", cut, rows), [2], keepdims=0)))
    assert found.code in {"sum-over-image", "head-rejoins-trunk"}
    net, x = trunk()
    rows, weights = weighted(net, x)
    cut = net.op("Clip", weights, net.const(0.01), net.const(1.0))
    vector = net.op("MatMul", rows, net.op("Transpose", cut, perm=[0, 2, 1]))
    assert refusal(added(net, x, vector)).code == "sum-over-image"


@pytest.mark.parametrize("axis", [1, 2])
def test_divisor_that_is_computed_from_a_shape(axis: int) -> None:
    """A Gram matrix by the number of its places is a mean at every size; by that of its channels it is still a sum."""
    net, x = trunk(channels=64)
    rows = places(net, x, 64)
    gram = net.op("MatMul", rows, net.op("Transpose", rows, perm=[0, 2, 1]))
    size = net.op("Gather", net.op("Shape", rows), net.const(axis, dtype=np.int64), axis=0)
    gram = net.op("Div", gram, net.op("Cast", size, to=onnx.TensorProto.FLOAT))
    model = finished(net, net.op("MatMul", gram, rows), 64)
    done = complete(proven(model, exact=False, crops=False))
    image = noise(1, 2, 22, 30)
    x_ = stem(model, image)
    r = x_.reshape(1, 64, -1)
    want = (r @ r.transpose(0, 2, 1) / r.shape[2] @ r).reshape(x_.shape)
    assert deviation(run(done, image, "map"), want) < 1e-5


def test_attention_in_the_trunk_and_weights_in_the_head() -> None:
    """The trunk's attention looks at the whole image, the head's weights at each window."""
    net, x = trunk()
    rows = places(net, x)
    near = net.op("Softmax", net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows), axis=-1, out="near")
    seen = net.op("Reshape", net.op("MatMul", rows, net.op("Transpose", near, perm=[0, 2, 1])), net.ints(1, C, 8, 8))
    trunk_rows = net.op("Reshape", net.op("Tanh", net.conv(net.op("Add", x, seen), C, C)), net.ints(1, C, 9))
    weights = net.op("Softmax", net.op("MatMul", net.random(1, C), trunk_rows), axis=-1, out="weights")
    pooled = net.op("MatMul", trunk_rows, net.op("Transpose", weights, perm=[0, 2, 1]))
    done = proven(net.model(net.fc(net.op("Flatten", pooled), C, M)), exact=False, crops=False)
    assert [item.form for item in done.claim.outputs] == ["map"]
    assert "context: node_near" in done.claim.blame
    assert "context: node_weights" not in done.claim.blame


# However it is spelled


@st.composite
def spellings(draw: Any) -> tuple[onnx.ModelProto, int, float, int | str]:
    """One attention layer over an 8x6 map, spelled at random; its heads, heat, and batch."""
    opset, heads, batch = (
        draw(st.sampled_from([11, 13, 17, 21])),
        draw(st.sampled_from([1, 2, 4])),
        draw(st.integers(1, 2)),
    )
    net, x = trunk(batch=batch, size=(16, 12), opset=opset)
    width, heat = C // heads, draw(st.sampled_from([0.25, 1.0]))
    shape = [batch * heads, width, 48] if draw(st.booleans()) else [batch, heads, width, 48]
    rows = net.op("Reshape", x, net.ints(*shape))
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    tokens = net.op("Transpose", rows, perm=order)
    query = net.op("Mul", tokens, net.const(heat)) if draw(st.booleans()) else tokens
    stack = "abc"[: len(shape) - 2]
    letters = opset >= 12 and draw(st.booleans())
    if letters:
        logits = net.op("Einsum", query, rows, equation=f"{stack}nd,{stack}dm->{stack}nm")
    else:
        logits = net.op("MatMul", query, rows)
    if query == tokens:
        logits = net.op("Mul", logits, net.const(heat))
    turned = draw(st.booleans()) and opset >= 13
    if turned:
        logits = net.op("Transpose", logits, perm=order)
    near = net.op("Softmax", logits, axis=len(shape) - 2 if turned else len(shape) - 1)
    if turned:
        made = net.op("MatMul", rows, near)
    elif letters:
        made = net.op("Einsum", near, tokens, equation=f"{stack}nm,{stack}md->{stack}dn")
    else:
        made = net.op("Transpose", net.op("MatMul", near, tokens), perm=order)
    return finished(net, made, size=(8, 6), batch=batch), heads, heat, batch


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(spellings(), st.tuples(st.integers(16, 40), st.integers(12, 40)), st.booleans())
def test_every_spelling_is_attention(
    spelled: tuple[onnx.ModelProto, int, float, int], size: tuple[int, int], dynamic: bool
) -> None:
    """Softmax(heat * Q K^T) V of all places, in numpy, at any size and batch."""
    model, heads, heat, batch = spelled
    done = complete(rewrite(model, options=RewriteOptions(dynamic_batch=dynamic), check_options=CHECK))
    image = noise(3 if dynamic else batch, 2, *size)
    x = stem(model, image)
    rows = x.reshape(len(x), heads, C // heads, -1)
    near = softmax(heat * rows.transpose(0, 1, 3, 2) @ rows)
    want = (rows @ near.transpose(0, 1, 3, 2)).reshape(x.shape)
    assert deviation(run(done, image, "map"), want) < 1e-4
