"""Networks that PyTorch, Keras and TensorFlow Lite have quantised: cells are the original on crops."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file, must_run
from hazards import CHECK, complete, own_crops
from onnx import numpy_helper
from quantised import optimised

from onnxfc import check_pair
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

KERAS = {"keras_int8.export": 2, "keras_int8_gap.export": 1}
"""Products of integers that are scaled by figures of the features of each image."""
ONE_STEP = {"trained_int8.torchscript": 4.45e-2}
"""Of a layer inside: one value lies on the edge between two integers (-10.499999 steps, in a cell at 36x36 px)."""
FIXED = {"eager_int8.torchscript": 2, "keras_int8.lite": 2, "pt2e_int8.dynamo": 2, "trained_int8.torchscript": 0}
"""FC layers that are QLinearConvs in the end: none where the bias is in floats."""


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


def proven(name: str) -> tuple[onnx.ModelProto, Rewrite]:
    must_run(name)
    model = loaded(name)
    done = rewrite(model, check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.native.deviation < 1e-5
    scores = {output.name for output in done.claim.outputs}
    for found in done.parity.window.outputs:
        assert found.deviation < (1e-5 if found.name in scores else ONE_STEP.get(name, 1e-5))
    return model, done


@pytest.mark.parametrize("name", FIXED)
def test_fixed_scales(name: str, tmp_path: Path) -> None:
    """Cells are what onnxruntime gives on crops; FC layers become Convs on integers."""
    model, done = proven(name)
    assert done.claim.verdict == "exact"
    assert own_crops(model, done, as_written=True) < 1e-6
    before, after = optimised(model, tmp_path), optimised(complete(done), tmp_path)
    assert after["QGemm"] == after["Gemm"] == after["MatMul"] == 0
    assert after["QLinearConv"] - before["QLinearConv"] == FIXED[name] >= before["QGemm"]


@pytest.mark.parametrize("name", KERAS)
def test_keras(name: str, tmp_path: Path) -> None:
    """Each window's own scale; sums of the same integers, by the same operator but for its shape."""
    model, done = proven(name)
    made = complete(done)
    before, after = optimised(model, tmp_path), optimised(made, tmp_path)
    assert before["MatMulInteger"] == after["ConvInteger"] == KERAS[name]
    assert after["MatMulInteger"] == 0
    assert not done.claim.figures
    if name == "keras_int8.export":  # the other is padded
        assert done.claim.verdict == "exact"
        assert own_crops(model, done) == 0.0
    old, new = ({t.name: numpy_helper.to_array(t) for t in item.graph.initializer} for item in (model, made))
    weights = [key for key, value in new.items() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == KERAS[name]
    assert all(np.array_equal(new[key][:, :, 0, 0].T, old[key]) for key in weights)


@pytest.mark.parametrize("name", KERAS)
def test_an_integer_that_is_another_is_found(name: str) -> None:
    model = loaded(name)
    made = complete(rewrite(model, prove=False))
    kept = [item for item in made.graph.initializer if item.data_type == onnx.TensorProto.INT8]
    weight = [item for item in kept if len(item.dims) == 4][-1]
    wrong = copy.deepcopy(made)
    value = numpy_helper.to_array(weight).copy()
    value[0, 0] += 1 if value[0, 0].max() < 100 else -1
    next(t for t in wrong.graph.initializer if t.name == weight.name).CopyFrom(
        numpy_helper.from_array(value, weight.name)
    )
    assert not check_pair(model, wrong, options=CHECK).passed
