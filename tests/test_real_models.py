"""Real exported models that others made: each ends in a proven rewrite, or in a refusal for the right reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxfc.errors import NothingToRewrite, ProofFailed
from onnxfc.proof import CheckOptions
from onnxfc.rewrite import RewriteOptions, rewrite

ROOT = Path(__file__).parent.parent.parent / "shared" / "models"
MISSING = f"the folder of real models is not there: {ROOT}"
MODELS = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.onnx"))

OTHERWISE = {
    # The image enters as a flat vector, or is none.
    "certificate_and_controller_mandal": "no-image-input",
    "layer-zoo__gemm": "no-image-input",
    "10_Times212_Output_0": "no-image-input",
    "test_tfidfvectorizer": "no-image-input",
    "micro_kws_m": "no-image-input",
    "PyTorch_Training_-_Data_Analysis": "no-image-input",
    # Quantised.
    "scripts__quantized_model": "quantised",
    "mobilenetv2_int8": "quantised",
    "ci_tests__tests__optimization__onnx_mnist": "quantised",
    "shufflenet-v2-12-int8": "quantised",
    # The kernel is an input of the model, of the very form of an image.
    "test_conv_with_strides_padding": "dynamic-weight",
    # Normalises over the last axis of (3, 4, 5), whatever that is.
    "test_logsoftmax_default_axis": "softmax-over-space",
    # Only the left half of each image is read.
    "mixed_ops_dynamic_batch": "cut-out",
    # Reads a line of text.
    "Olive/notebook__model__model": "recurrent",
    # ImageScaler was never in a released operator set.
    "UWP__cppcx__Assets__model": "unknown-shape",
    # All weights alike, all units dead, a softmax over one value: no input reaches an output.
    "onnx__onnx/": "vacuous",
    "tinygrad/mnist_model": "vacuous",
    "Softmax__5841": "vacuous",
}
"""By a part of the name; every other model is proven."""


def expected(name: str) -> str:
    found = {outcome for part, outcome in OTHERWISE.items() if part in name}
    assert len(found) <= 1, name
    return found.pop() if found else "proven"


def outcome(name: str, **options: object) -> str:
    try:
        result = rewrite(ROOT / name, options=RewriteOptions(**options), check_options=CheckOptions(samples=2))
    except NothingToRewrite as error:
        return error.refusals[0].code
    except ProofFailed as error:
        return "vacuous" if error.parity and error.parity.vacuous else str(error)
    assert result.parity is not None
    return "proven" if result.parity.passed else "unproven"


def test_there_are_models() -> None:
    if not ROOT.is_dir():
        pytest.skip(MISSING)
    assert len(MODELS) >= 86


@pytest.mark.parametrize("name", MODELS)
def test_outcome(name: str) -> None:
    assert outcome(name) == expected(name)


def test_keyword_spotter_from_its_inner_image() -> None:
    """Its input is a flat vector of 1960 values; the first Reshape makes a spectrogram of them."""
    name = "emmtrix__emx-onnx-cgen/tests__onnx__micro_kws_m_static_fp32.onnx"
    if name not in MODELS:
        pytest.skip(MISSING)
    inner = (
        "micro_kws/conv2d/Relu;micro_kws/conv2d/BiasAdd;micro_kws/conv2d_2/Conv2D;micro_kws/conv2d/Conv2D;"
        "micro_kws/conv2d/BiasAdd/ReadVariableOp__28:0"
    )
    result = rewrite(ROOT / name, options=RewriteOptions(inputs=(inner,)))
    assert result.claim.native_size == (49, 40)
    assert result.replacements[0].after == "Conv 6x5 16→32"
    assert result.parity is not None
    assert result.parity.passed
