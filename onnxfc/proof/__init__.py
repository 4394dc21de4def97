"""The independent verifier: runs both models in onnxruntime and believes nothing else.

It knows nothing of how models are rewritten, and may not import the code that does it.
"""

from __future__ import annotations

from onnxfc.proof.check import check
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import Conditions, CropResult, OutputResult, Parity, ParityResult, VerdictResult

__all__ = [
    "CheckOptions",
    "Conditions",
    "CropResult",
    "OutputResult",
    "Parity",
    "ParityResult",
    "VerdictResult",
    "check",
]
