"""Real exported models that others made: each ends in a proven rewrite, or in a refusal for the right reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import NO_INTEGERS
from hazards import OLD_RUNTIME
from references import run

from onnxfc.errors import NothingToRewrite, ProofFailed
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

ROOT = Path(__file__).parent.parent.parent.parent / "shared" / "models"
MISSING = f"the folder of real models is not there: {ROOT}"
MODELS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.onnx"))

OUTCOMES: dict[str, str] = json.loads((Path(__file__).parent / "real_models.json").read_text("utf-8"))
"""What each model ends in: a proof with its verdict; a refusal, with its code and node; no proof, as no input
reaches an output (all weights alike, all units dead, a softmax over one value).

Why the others are refused: the keyword spotters' spectrogram enters as a flat vector; certificates, tables and text are
no images; ``test_conv_with_strides_padding`` has its kernel as an input of the very form of an image; ImageScaler is in
no released operator set. ``mixed_ops_dynamic_batch`` reads the left half of each image only: its width stays.
"""


def outcome(name: str) -> str:
    try:
        result = rewrite(ROOT / name, check_options=CheckOptions(samples=2))
    except NothingToRewrite as error:
        refusal = error.refusals[0]
        assert refusal.reason
        return f"{refusal.code} at {refusal.node}" if refusal.node else refusal.code
    except ProofFailed as error:
        return "vacuous" if error.parity and error.parity.vacuous else str(error)
    assert result.parity is not None
    assert result.parity.passed
    return result.claim.verdict if result.replacements else f"{result.claim.verdict}, no FC layer"


def test_there_are_models() -> None:
    if not ROOT.is_dir():
        pytest.skip(MISSING)
    assert sorted(OUTCOMES) == MODELS


@pytest.mark.sweep(40)
@pytest.mark.parametrize("name", MODELS)
def test_outcome(name: str) -> None:
    if OLD_RUNTIME and "int8" in name:
        pytest.skip(NO_INTEGERS)
    assert outcome(name) == OUTCOMES[name]


INNER = (
    "micro_kws/conv2d/Relu;micro_kws/conv2d/BiasAdd;micro_kws/conv2d_2/Conv2D;micro_kws/conv2d/Conv2D;"
    "micro_kws/conv2d/BiasAdd/ReadVariableOp__28:0"
)


@pytest.mark.parametrize(
    "kind",
    [
        *("qdq", "static_qdq", "static_qoperator"),
        *("qoperator_add_shape", "qoperator_avg_pool", "qoperator_softmax"),
    ],
)
def test_keyword_spotters_in_integers(kind: str) -> None:
    if OLD_RUNTIME and "qoperator" in kind:
        pytest.skip("this onnxruntime computes their QLinearConv otherwise than the file says")
    name = f"emmtrix__emx-onnx-cgen/tests__onnx__micro_kws_m_{kind}.onnx"
    if name not in MODELS:
        pytest.skip(MISSING)
    result = rewrite(ROOT / name, options=RewriteOptions(inputs=(INNER,)))
    assert result.parity is not None
    assert result.parity.passed
    assert result.parity.native.deviation == result.parity.window.deviation == 0.0
    assert result.parity.certificate.status == "holds"


def test_keyword_spotter_from_its_inner_image() -> None:
    """Its input is a flat vector of 1960 values; the first Reshape makes a spectrogram of them."""
    name = "emmtrix__emx-onnx-cgen/tests__onnx__micro_kws_m_static_fp32.onnx"
    if name not in MODELS:
        pytest.skip(MISSING)
    with pytest.raises(NothingToRewrite, match="BiasAdd/ReadVariableOp__28:0'"):
        rewrite(ROOT / name)
    result = rewrite(ROOT / name, options=RewriteOptions(inputs=(INNER,)))
    assert result.claim.native_size == (49, 40)
    assert result.replacements[0].after == "Conv 6x5 16→32"
    assert result.parity is not None
    assert result.parity.passed


def test_piece_of_the_image_that_is_all_the_network_reads() -> None:
    """Its width stays. The refusal of all axes says which tensor to name; its weights let little of it through."""
    name = "emmtrix__emx-onnx-cgen/tests__onnx__mixed_ops_dynamic_batch.onnx"
    if name not in MODELS:
        pytest.skip(MISSING)
    with pytest.raises(NothingToRewrite, match="--input slice_out"):
        rewrite(ROOT / name, options=RewriteOptions(free=("height", "width")))
    result = rewrite(ROOT / name, options=RewriteOptions(inputs=("slice_out",)), prove=False)
    assert result.claim.native_size == (32, 16)

    result = rewrite(ROOT / name, prove=False)
    assert result.claim.native_size == (32,)
    (note,) = (note for note in result.notes if note.code == "fixed-axis")
    assert note.node == "Slice -> slice_out"
    images = 1e4 * np.random.default_rng(5).standard_normal((2, 3, 35, 32), np.float32)
    original = onnx.load(ROOT / name)
    want = [run(original, {"input": images[:, :, top : top + 32]})["gemm_out"] for top in range(4)]
    got = run(result.model, {"input": images})["gemm_out"]
    assert got.shape == (2, 10, 4)
    assert got.std(axis=2).min() > 1e-6
    np.testing.assert_allclose(got, np.stack(want, axis=-1), rtol=0, atol=2e-8)
