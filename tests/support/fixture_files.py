"""The fixtures by name, whichever folder they lie in."""

from __future__ import annotations

from pathlib import Path

import pytest
from hazards import OLD_RUNTIME

FIXTURES = Path(__file__).parents[2] / "fixtures"
_FILES = {path.name: path for path in FIXTURES.glob("*/*") if path.suffix in {".onnx", ".npz", ".data"}}


def fixture_file(name: str) -> Path:
    """The file of this name: a model or an archive of arrays."""
    return _FILES[name]


NO_INTEGERS = "this onnxruntime has no ConvInteger of such integers yet"
_NOT_YET = {
    **dict.fromkeys(("digits.dynamic", "digits.dynamic_fused", "lenet.dynamic", "mini_vgg.dynamic"), NO_INTEGERS),
    **dict.fromkeys(("mobilenet.dynamic", "se_net.dynamic"), NO_INTEGERS),
    **dict.fromkeys(("keras_int8.export", "keras_int8_gap.export"), NO_INTEGERS),
    "response_norm.dynamo": "this onnxruntime counts no padding behind the map in its averages",
    "softmax_opset13.qoperator": "this onnxruntime takes no QLinearConv with several zero points",
    **dict.fromkeys(("versions_opset24.dynamo", "versions_opset25.dynamo"), "this onnxruntime is older"),
}
"""Fixtures that the lowest version of onnxruntime does not run, or whose rewrites it does not, and why."""


def must_run(name: str) -> None:
    """Skip a test of a fixture that this onnxruntime does not run."""
    reason = _NOT_YET.get(name.removesuffix(".onnx"))
    if OLD_RUNTIME and reason is not None:
        pytest.skip(reason)


def fixture_models() -> list[Path]:
    """All models, by name."""
    return sorted((path for path in _FILES.values() if path.suffix == ".onnx"), key=lambda path: path.name)
