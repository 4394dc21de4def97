"""LayerNormalization in an operator set that has none: onnxruntime has it in each, and its optimiser writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, session
from quantised import optimised

from onnxfc import check_pair, rewrite
from onnxfc.rewriter.options import RewriteOptions


@pytest.mark.parametrize("opset", [7, 11, 16])
def test_layer_norms_that_an_optimiser_fused(opset: int, tmp_path: Path) -> None:
    model = onnx.load(fixture_file(f"versions_opset{opset}.torchscript.onnx"))
    assert optimised(model, tmp_path)["LayerNormalization"]
    fused = onnx.load(tmp_path / "optimised.onnx")
    assert [item.version for item in fused.opset_import if not item.domain] == [opset]
    done = rewrite(fused, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    image = np.random.default_rng(0).standard_normal((1, 3, 27, 35)).astype(np.float32)
    models = (complete(rewrite(model, prove=False)), complete(done))
    wanted, found = (session(item).run(None, {"image": image}) for item in models)
    for want, got in zip(wanted, found, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


def rms(net: Net, x: str) -> str:
    """Root mean squares of rows, as they are written before onnxruntime makes one node of them."""
    squares = net.op("Pow", x, net.const(np.float32(2)))
    mean = net.op("ReduceMean", squares, axes=[-1], keepdims=1)
    root = net.op("Sqrt", net.op("Add", mean, net.const(np.float32(1e-5))))
    return net.op("Mul", net.op("Div", x, root), net.const(np.linspace(0.5, 1.5, 8, dtype=np.float32)))


def test_root_mean_squares_that_an_optimiser_fused(tmp_path: Path) -> None:
    """onnxruntime's own operator, in ONNX's own operator set: in an original, and in a second model."""
    net = Net(14)
    data = net.op("Relu", net.conv(net.image(1, (20, 24)), 2, 8, (4, 4), strides=[4, 4]))
    rows = net.op("Transpose", net.op("Reshape", data, net.ints(1, 8, -1)), perm=[0, 2, 1])
    rows = rms(net, rows)
    model = net.model(net.fc(net.op("ReduceMean", rows, axes=[1], keepdims=0), 8, 5))
    assert optimised(model, tmp_path)["SimplifiedLayerNormalization"]
    fused = onnx.load(tmp_path / "optimised.onnx")
    done, plain = rewrite(fused, check_options=CHECK), rewrite(model, check_options=CHECK)
    image = np.random.default_rng(0).standard_normal((1, 2, 28, 24)).astype(np.float32)
    [want] = session(model).run(None, {"image": image[:, :, 8:]})
    for item in (done, plain):
        [got] = session(complete(item)).run(None, {"image": image})
        np.testing.assert_allclose(got[..., 2, 0], want, atol=1e-5 * np.abs(want).max())
    other = complete(plain)
    del other.metadata_props[:]
    assert optimised(other, tmp_path)["SimplifiedLayerNormalization"]
    checked = check_pair(model, onnx.load(tmp_path / "optimised.onnx"), options=CHECK)
    assert checked.passed
    assert checked.parity.window.status == "passed"


def test_a_scale_that_was_computed_of_the_size_is_the_window_s() -> None:
    """As dynamo writes a LayerNormalization over places without a scale of its own, where dims are open."""
    net = Net(17)
    data = net.op("Relu", net.conv(net.image(1, ("h", "w")), 2, 8, (4, 4), strides=[4, 4]))
    rows = net.op("Reshape", data, net.ints(1, 8, -1))
    ones = net.op("Expand", net.const(np.float32(1)), net.op("Shape", rows, start=-1))
    normed = net.op("LayerNormalization", rows, ones, axis=-1)
    model = net.model(net.fc(net.op("Flatten", normed), 8 * 30, 5))
    done = rewrite(model, options=RewriteOptions(size=(20, 24)), check_options=CHECK)
    image = np.random.default_rng(0).standard_normal((1, 2, 28, 32)).astype(np.float32)
    [got] = session(complete(done)).run(None, {"image": image})
    for i, j in ((0, 0), (2, 1), (1, 2)):
        crop = image[:, :, 4 * i : 4 * i + 20, 4 * j : 4 * j + 24]
        [want] = session(model).run(None, {"image": crop})
        np.testing.assert_allclose(got[..., i, j], want, atol=1e-5 * np.abs(want).max())
