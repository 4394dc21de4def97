"""Rewrites that onnxruntime saved at its highest level, with Convs in blocks of channels, against their originals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixture_files import fixture_file
from hazards import complete
from onnx import numpy_helper

from onnxfc import CheckOptions, check_pair, rewrite
from onnxfc.graph.op_kinds import NCHWC
from onnxfc.proof.channel_blocks import readings

ONE = CheckOptions(threads=1)


def in_blocks(name: str, folder: Path) -> onnx.ModelProto:
    """The rewrite as onnxruntime saves it for this processor."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.log_severity_level = 3  # that such a file is for one kind of processor
    done = rewrite(fixture_file(name), prove=False)
    onnxruntime.InferenceSession(complete(done).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    model = onnx.load(settings.optimized_model_filepath)
    if not any(node.domain == NCHWC for node in model.graph.node):
        pytest.skip("onnxruntime has no blocks of channels for this processor")
    return model


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
@pytest.mark.parametrize(
    "name",
    [
        *("lenet.torchscript.onnx", "se_net.dynamo.onnx", "frames_mean.torchscript.onnx"),
        *("upsampled.dynamo.onnx", "reductions.torchscript.onnx", "residual.dynamo.onnxsim.onnx"),
    ],
)
def test_pairs_in_blocks(name: str, claimed: bool, tmp_path: Path) -> None:
    """Also without metadata: windows are told, of shapes that the blocks do not hide."""
    model = in_blocks(name, tmp_path)
    if not claimed:
        del model.metadata_props[:]
    checked = check_pair(fixture_file(name), model, options=ONE)
    assert checked.passed, checked.parity.summary()
    assert checked.parity.window.status == "passed"
    assert checked.parity.certificate.status == "holds"
    blocked = [item for item in checked.parity.certificate.weights if item.order]
    assert {item.relation for item in blocked} == {"permuted"}
    assert all("in blocks of channels" in item.order for item in blocked)


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
def test_an_fc_weight_that_is_another_one(claimed: bool, tmp_path: Path) -> None:
    """A thousandth of one weight: less than the numbers that were tried show."""
    name = "lenet.torchscript.onnx"
    model = in_blocks(name, tmp_path)
    if not claimed:
        del model.metadata_props[:]
    largest = max(model.graph.initializer, key=lambda tensor: math.prod(tensor.dims) * (tensor.dims[-1] == 4))
    values = numpy_helper.to_array(largest).copy()
    values.flat[np.abs(values).argmax()] *= 1.00001
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    checked = check_pair(fixture_file(name), model, options=ONE)
    assert checked.parity.certificate.status == ("failed" if claimed else "none")
    assert checked.passed is not claimed


@pytest.mark.parametrize("width", [8, 16])
def test_layouts(width: int) -> None:
    """OIHWBo and OIHWBiBo, element by element, of outputs and channels that fill no whole blocks."""
    weight = np.random.default_rng(3).standard_normal((21, 27, 2, 3)).astype(np.float32)
    outputs, channels = (math.ceil(length / width) * width for length in weight.shape[:2])
    for inner in (1, width):
        filled = channels if inner > 1 else 27
        laid = np.zeros((outputs // width, filled // inner, 2, 3, inner, width), np.float32)
        for o, c, y, x in np.ndindex(weight.shape):
            laid[o // width, c // inner, y, x, c % inner, o % width] = weight[o, c, y, x]
        found = list(readings(laid.reshape(outputs, filled, 2, 3)))
        assert sum(item.shape == weight.shape and np.array_equal(item, weight) for item in found) == 1
