"""LayerNormalization in an operator set that has none: onnxruntime has it in each, and its optimiser writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, session
from quantised import optimised

from onnxfc import rewrite


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
