"""onnxfc: rewrite exported ONNX image classifiers so that they run on any image size, with proof.

    result = onnxfc.rewrite("in.onnx")
    result.save("out.onnx")

Everything in ``__all__`` is loaded on first use, so that ``import onnxfc`` (and ``onnxfc --help``) need neither
onnx nor onnxruntime.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfc.checking import Checked, check_pair
    from onnxfc.claim import Boundary, Claim, ImageInput, Output
    from onnxfc.errors import (
        ExitCode,
        NothingToRewrite,
        OnnxfcError,
        ProofFailed,
        ReadError,
        Refusal,
        UsageError,
        WriteError,
    )
    from onnxfc.geometry import Box, Geometry
    from onnxfc.inspection import Inspection, inspect
    from onnxfc.model_file import ModelFile, SaveOptions
    from onnxfc.proof import CheckOptions, CropResult, Parity, ParityResult
    from onnxfc.proof.check import check
    from onnxfc.rewrite import Rewrite, RewriteOptions, rewrite
    from onnxfc.state import Replacement

from onnxfc.version import __version__

__all__ = [
    "Boundary",
    "Box",
    "CheckOptions",
    "Checked",
    "Claim",
    "CropResult",
    "ExitCode",
    "Geometry",
    "ImageInput",
    "Inspection",
    "ModelFile",
    "NothingToRewrite",
    "OnnxfcError",
    "Output",
    "Parity",
    "ParityResult",
    "ProofFailed",
    "ReadError",
    "Refusal",
    "Replacement",
    "Rewrite",
    "RewriteOptions",
    "SaveOptions",
    "UsageError",
    "WriteError",
    "__version__",
    "check",
    "check_pair",
    "inspect",
    "rewrite",
]

_ERRORS = ("ExitCode", "NothingToRewrite", "OnnxfcError", "ProofFailed", "ReadError", "Refusal", "UsageError")
_HOMES = {
    **dict.fromkeys(("Boundary", "Claim", "ImageInput", "Output"), "onnxfc.claim"),
    **dict.fromkeys((*_ERRORS, "WriteError"), "onnxfc.errors"),
    **dict.fromkeys(("ModelFile", "SaveOptions"), "onnxfc.model_file"),
    **dict.fromkeys(("CheckOptions", "CropResult", "Parity", "ParityResult", "check"), "onnxfc.proof"),
    **dict.fromkeys(("Rewrite", "RewriteOptions"), "onnxfc.rewrite"),
    "Replacement": "onnxfc.site",
    **dict.fromkeys(("Checked", "check_pair"), "onnxfc.checking"),
    **dict.fromkeys(("Box", "Geometry"), "onnxfc.geometry"),
    **dict.fromkeys(("Inspection", "inspect"), "onnxfc.inspection"),
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """``onnxfc.rewrite`` is the function, although importing the module of that name would set it to the module."""

    @property
    def rewrite(self) -> Any:
        return import_module("onnxfc.rewrite").rewrite

    @rewrite.setter
    def rewrite(self, module: ModuleType) -> None:
        """What the import system does after it has loaded the module; the function stays."""


sys.modules[__name__].__class__ = _Package
