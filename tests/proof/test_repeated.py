"""Context that is wrong at other sizes, where the original's own trunk says nothing there: native features repeated."""

from __future__ import annotations

import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net

from onnxfc import RewriteOptions, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.proof.baked import native_shapes
from onnxfc.proof.repeated import mixing
from onnxfc.rewriter.api import Rewrite

SUMS = ["non_local.dynamo", "non_local.torchscript", "channel_attention.dynamo"]
RIGHT = [
    *("context_vectors.dynamo", "extremes.dynamo", "variances.dynamo", "grid_weighed.torchscript", "sums.dynamo"),
    *("linear_attention.dynamo", "axes.dynamo"),
]


def turned(done: Rewrite) -> onnx.ModelProto:
    """Counts of places divided the wrong way round, natively 1 either way."""
    model = done.model
    own = {name for node in done.original.proto.graph.node for name in node.output}
    found = [node for node in model.graph.node if node.op_type == "Div" and node.output[0] not in own]
    assert found
    for node in found:
        node.input[0], node.input[1] = node.input[1], node.input[0]
    return model


@pytest.mark.parametrize("name", SUMS)
def test_sums_that_are_divided_the_wrong_way_round(name: str) -> None:
    done = rewrite(fixture_file(f"{name}.onnx"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    wrong = check(done.original, ModelFile.open(turned(done)), done.claim, CHECK)
    assert (wrong.native.status, wrong.trunk.status) == ("passed", "failed")
    assert "on native features repeated" in wrong.trunk.reason


@pytest.mark.sweep(12)
@pytest.mark.parametrize("pool", ["window", "keep"])
@pytest.mark.parametrize("name", RIGHT)
def test_what_does_not_repeat_is_as_the_originals_own(name: str, pool: str) -> None:
    """Norms that grow, weights that are shared out over more places, variances over N - 1, and coordinates."""
    path = fixture_file(f"{name}.onnx")
    done = rewrite(path, options=RewriteOptions(global_pool=pool), check_options=CHECK)  # type: ignore[arg-type]
    assert done.parity is not None
    assert done.parity.passed


def test_a_pool_of_a_map_of_which_no_length_is_known() -> None:
    """Behind padding by computed amounts it is not taken for one over the whole map."""
    net = Net()
    tensor = net.op("Relu", net.conv(net.image(1, (13, 11)), 2, 4, strides=[1, 1], pads=[1] * 4))
    tensor = net.op("Add", tensor, net.op("Resize", tensor, "", "", net.ints(1, 4, 13, 11), mode="nearest"))
    tensor = net.op("Pad", tensor, net.op("Reshape", net.ints(*[0] * 8), net.ints(8)))
    whole = net.op("Tanh", net.conv(tensor, 4, 4, strides=[1, 1]))
    local = net.op("AveragePool", whole, kernel_shape=[3, 3], strides=[2, 2])
    means = [net.op("ReduceMean", item, axes=[2, 3], keepdims=0) for item in (whole, local)]
    model = net.model(net.fc(net.op("Concat", *means, axis=1), 8, 5))
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    shapes, asked = native_shapes(model, done.claim), [(means[1], means[1], None)]
    assert 0 in shapes[whole]
    assert list(mixing(model, done.model, done.claim, shapes, asked)) == []
    known = {**shapes, whole: (1, 4, 11, 9), local: (1, 4, 5, 4), means[1]: (1, 4)}
    assert [part.begins for part in mixing(model, done.model, done.claim, known, asked)] == [(local,)]
