"""Relations of places that are divided by how many places there are, which the graph counts."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, refusal, session

from onnxfc import RewriteOptions, rewrite


def non_local(how: str) -> onnx.ModelProto:
    """A non-local block with dot products, as PyTorch's ``f / f.size(-1)``; then a mean and an FC layer."""
    net = Net()
    x = net.op("Relu", net.conv(net.image(1, (12, 12), 1), 1, 4, strides=[1, 1]))
    rows = net.op("Reshape", x, net.ints(0, 4, -1))
    turned = net.op("Transpose", rows, perm=[0, 2, 1])
    energy = net.op("MatMul", turned, rows)
    height, width = (net.op("Gather", net.op("Shape", x), net.const(axis, dtype=np.int64), axis=0) for axis in (2, 3))
    count = net.op("Cast", net.op("Mul", height, width), to=1)
    if how == "of the map":
        energy = net.op("Div", energy, count)
    elif how == "of the rows":
        last = net.op("Gather", net.op("Shape", rows), net.const(2, dtype=np.int64), axis=0)
        energy = net.op("Div", energy, net.op("Cast", last, to=1))
    else:
        energy = net.op("Mul", energy, net.op("Div", net.const(1.0), count))
    if how == "and multiplied again":
        energy = net.op("Mul", energy, count)
    made = net.op("Transpose", net.op("MatMul", energy, turned), perm=[0, 2, 1])
    y = net.op("Add", net.op("Reshape", made, net.op("Shape", x)), x)
    return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", y)), 4, 5))


@pytest.mark.parametrize("how", ["of the map", "of the rows", "times one by"])
def test_the_original_itself_says_what_other_sizes_give(how: str) -> None:
    model = non_local(how)
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    freed = onnx.ModelProto.FromString(model.SerializeToString())
    for axis in (2, 3):
        freed.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"axis_{axis}"
    ours, own = session(complete(done)), session(freed)
    for size in ((12, 12), (14, 20), (23, 17)):
        image = np.random.default_rng(size[1]).standard_normal((1, 1, *size)).astype(np.float32)
        got, want = (made.run(None, {"image": image})[0] for made in (ours, own))
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.abs(want).max())


def test_what_follows_the_size_again_is_no_mean() -> None:
    found = refusal(non_local("and multiplied again"))
    assert (found.code, found.reason) == (
        "sum-over-image",
        "MatMul sums up what was divided by a sum over the image, and changed since",
    )
