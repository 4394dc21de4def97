"""Einsum as an FC layer, on scores, and on maps."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from hazards import CHANNELS, CHECK, FEATURES, NATIVE, Net, bodied, complete, head, own_crops, proven, refusal, session
from onnx import numpy_helper

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

M = 5


def einsum(net: Net, equation: str, *inputs: str) -> str:
    return str(net.op("Einsum", *inputs, equation=equation))


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("equation", ["bf,mf->bm", "bf,fm->bm", "bf,fm", "...f,mf->...m"])
def test_fc_layer(equation: str, batch: int | str) -> None:
    shape = (M, FEATURES) if ",mf" in equation else (FEATURES, M)
    done = proven(head(lambda net, flat: einsum(net, equation, flat, net.random(*shape)), batch=batch))
    assert done.replacements[0].after == f"Conv 5x4 {CHANNELS}→{M}"


def test_weight_first() -> None:
    done = proven(head(lambda net, flat: einsum(net, "mf,bf->bm", net.random(M, FEATURES), flat), batch=2))
    assert done.replacements[0].after == f"Conv 5x4 {CHANNELS}→{M}"


@pytest.mark.parametrize("equation", ["nchw,mchw->nm", "nchw,hwcm->nm", "nchw,wmhc->nm"])
def test_fc_layer_without_a_flatten(equation: str) -> None:
    sizes = {"c": CHANNELS, "h": 5, "w": 4, "m": M}
    weight = equation.split(",")[1].split("->")[0]
    done = proven(
        bodied(lambda net, x: einsum(net, equation, x, net.random(*(sizes[letter] for letter in weight))), batch=2)
    )
    assert done.replacements[0].after == f"Conv 5x4 {CHANNELS}→{M}"


def test_weight_in_conv_order_is_not_copied() -> None:
    done = proven(bodied(lambda net, x: einsum(net, "nchw,mchw->nm", x, net.random(M, CHANNELS, 5, 4))))
    assert [tensor.name for tensor in done.model.graph.initializer if "onnxfc" in tensor.name] == []


def test_two_output_axes() -> None:
    """A bank of classifiers: (N, F) with (A, F, K) gives (N, K, A)."""
    proven(head(lambda net, flat: einsum(net, "bf,afk->bka", flat, net.random(2, FEATURES, 3)), batch=2))


def test_pending_shift_goes_into_the_bias() -> None:
    def body(net: Net, flat: str) -> str:
        moved = net.op("Add", net.op("Mul", flat, net.random(FEATURES)), net.random(FEATURES))
        return einsum(net, "bf,mf->bm", moved, net.random(M, FEATURES))

    proven(head(body))


@pytest.mark.parametrize("batch", [1, 2])
def test_on_scores_of_two_axes(batch: int) -> None:
    """Rows of features against each other: (N, 2, 3) and (N, 3, 2) give (N, 2, 2)."""

    def body(net: Net, flat: str) -> str:
        rows = net.op("Reshape", net.fc(flat, FEATURES, 6), net.ints(batch, 2, 3))
        columns = net.op("Transpose", rows, perm=[0, 2, 1])
        return einsum(net, "bij,bjk->bik", rows, columns)

    proven(head(body, batch=batch))


def attended(size: tuple[int, int], linear: bool, layer: bool) -> onnx.ModelProto:
    """Tokens of the map against each other, bare or behind an FC layer of each token; of all tokens an FC layer."""
    net, places = Net(), math.prod((length - 1) // 2 for length in size)
    tensor = net.op("Tanh", net.conv(net.image(size=size), 2, CHANNELS))
    tokens = net.op("Transpose", net.op("Reshape", tensor, net.ints(0, CHANNELS, places)), perm=[0, 2, 1])
    asked = net.op("MatMul", tokens, net.random(CHANNELS, CHANNELS)) if linear else tokens
    near = net.op("Softmax", einsum(net, "bid,bjd->bij", asked, tokens), axis=-1)
    made = net.op("Identity", einsum(net, "bij,bjd->bid", near, tokens), out="tokens")
    return net.model(net.fc(net.op("Flatten", made), FEATURES, M, out="scores") if layer else made)


@pytest.mark.parametrize("linear", [True, False])
def test_attention_between_the_places_is_of_the_trunk(linear: bool) -> None:
    """It relates all places of the image, as it does on maps; the FC layer reads windows of what comes of it."""
    model = attended(NATIVE, linear, layer=True)
    done = proven(model, exact=False)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    matrix, bias = (weights[name] for name in model.graph.node[-1].input[1:])
    image = np.random.default_rng(1).standard_normal((1, 2, 15, 13)).astype(np.float32)
    tokens = session(attended((15, 13), linear, layer=False)).run(None, {"image": image})[0].reshape(7, 6, CHANNELS)
    got = session(complete(done)).run(None, {"image": image})[0]
    want = np.zeros((1, M, 3, 3), np.float32)
    for row, column in np.ndindex(3, 3):
        want[0, :, row, column] = matrix @ tokens[row : row + 5, column : column + 4].ravel() + bias
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


def test_weight_of_extent_one_is_spread() -> None:
    """Not an FC layer: one number for all features."""
    proven(head(lambda net, flat: einsum(net, "bf,mf->bm", net.fc(flat, FEATURES, 4), net.random(M, 1))))


def test_gram_matrix_over_the_batch_is_refused() -> None:
    model = head(lambda net, flat: einsum(net, "bf,cf->bc", flat, flat), batch=2)
    assert refusal(model).code == "mixes-batch"


def test_sum_over_one_spatial_axis_is_refused() -> None:
    model = bodied(lambda net, x: einsum(net, "nchw,hm->ncwm", x, net.random(5, M)))
    assert refusal(model).code == "fc-over-space"


def test_relation_of_places_is_refused() -> None:
    assert refusal(bodied(lambda net, x: einsum(net, "nchw,ncij->nhwij", x, x))).code == "attention"


@pytest.mark.parametrize("equation", ["nchw,hwcm->nm", "nchw,mchw->nm"])
def test_overridable_weight_stays_overridable(equation: str) -> None:
    """Turned by nodes of the graph, so that another weight takes its way."""
    shape = (5, 4, CHANNELS, M) if "hwcm" in equation else (M, CHANNELS, 5, 4)
    net = Net()
    weight = net.random(*shape)
    model = net.model(einsum(net, equation, net.trunk(), weight), overridable=[weight])
    done = proven(model, crops=False)
    given = {weight: net.rng.standard_normal(shape).astype("float32")}
    assert weight in [info.name for info in done.model.graph.input]
    assert own_crops(model, done, feed=given) < 1e-4


def test_without_a_batch_axis() -> None:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Reshape", tensor, net.ints(-1))
        return einsum(net, "mf,f->m", net.random(M, FEATURES), flat)

    assert proven(bodied(body)).replacements[0].after == f"Conv 5x4 {CHANNELS}→{M}"


def test_behind_a_dropped_pool() -> None:
    def body(net: Net, tensor: str) -> str:
        return einsum(net, "nchw,mc->nm", net.op("GlobalAveragePool", tensor), net.random(M, CHANNELS))

    done = rewrite(bodied(body), options=RewriteOptions(global_pool="drop"), check_options=CHECK)
    assert [item.after for item in done.replacements] == ["no pool", f"Conv 1x1 {CHANNELS}→{M}"]
    assert proven(bodied(body)).replacements[1].after == f"Conv 1x1 {CHANNELS}→{M}"
