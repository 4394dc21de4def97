"""onnxfc: rewrite exported ONNX image classifiers so that they run on any image size, with proof.

>>> result = onnxfc.rewrite("fixtures/trained/digits.onnx")
>>> result
<Rewrite: native size 16x16 px, stride 4x4 px, approximate, proven on ...>
>>> data = result.save("digits-any.onnx")

``rewrite`` replaces the FC head and proves the result. ``check_pair`` puts any two models to the test. ``inspect``
looks and runs nothing. ``Geometry`` says where cells lie. ``scan`` runs a model over an image of any size, in tiles.

A model is a path, bytes, a protobuf, an onnx-graphsurgeon graph, or what ``rewrite`` returned. Sizes are tuples of
pixels, height before width. How something is done is said by frozen options: ``RewriteOptions``, ``CheckOptions``,
``SaveOptions``, ``ScanOptions``. All errors are ``OnnxfcError``: ``ReadError``, ``WriteError``, ``UsageError``,
``NothingToRewrite`` with its refusals, ``ProofFailed`` with its parity.

Everything in ``__all__`` is loaded on first use, so that ``import onnxfc`` (and ``onnxfc --help``) need neither
onnx nor onnxruntime.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfc.builder.state import Replacement
    from onnxfc.checker.api import Checked, check_pair
    from onnxfc.claim.claim import Boundary, Claim, ImageInput, Output
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
    from onnxfc.geometry import Geometry
    from onnxfc.inspector import Inspection, inspect
    from onnxfc.io.model_file import ModelFile
    from onnxfc.io.save import SaveOptions
    from onnxfc.layout.boxes import Box, Places
    from onnxfc.proof.check import check
    from onnxfc.proof.options import CheckOptions
    from onnxfc.proof.results import CropResult, Parity, ParityResult
    from onnxfc.rewriter.api import Rewrite, rewrite
    from onnxfc.rewriter.options import RewriteOptions
    from onnxfc.scanner.api import scan
    from onnxfc.scanner.options import ScanOptions
    from onnxfc.scanner.score_map import ScoreMap

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
    "Places",
    "ProofFailed",
    "ReadError",
    "Refusal",
    "Replacement",
    "Rewrite",
    "RewriteOptions",
    "SaveOptions",
    "ScanOptions",
    "ScoreMap",
    "UsageError",
    "WriteError",
    "__version__",
    "check",
    "check_pair",
    "inspect",
    "rewrite",
    "scan",
]

_HOMES = {
    "Replacement": "onnxfc.builder.state",
    **dict.fromkeys(("Checked", "check_pair"), "onnxfc.checker.api"),
    **dict.fromkeys(("Boundary", "Claim", "ImageInput", "Output"), "onnxfc.claim.claim"),
    **dict.fromkeys(
        (
            "ExitCode",
            "NothingToRewrite",
            "OnnxfcError",
            "ProofFailed",
            "ReadError",
            "Refusal",
            "UsageError",
            "WriteError",
        ),
        "onnxfc.errors",
    ),
    "Geometry": "onnxfc.geometry",
    **dict.fromkeys(("Box", "Places"), "onnxfc.layout.boxes"),
    **dict.fromkeys(("Inspection", "inspect"), "onnxfc.inspector"),
    "ModelFile": "onnxfc.io.model_file",
    "SaveOptions": "onnxfc.io.save",
    "check": "onnxfc.proof.check",
    "CheckOptions": "onnxfc.proof.options",
    **dict.fromkeys(("CropResult", "Parity", "ParityResult"), "onnxfc.proof.results"),
    "RewriteOptions": "onnxfc.rewriter.options",
    **dict.fromkeys(("Rewrite", "rewrite"), "onnxfc.rewriter.api"),
    "scan": "onnxfc.scanner.api",
    "ScanOptions": "onnxfc.scanner.options",
    "ScoreMap": "onnxfc.scanner.score_map",
}


def __getattr__(name: str) -> Any:
    """Load a public name on its first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
