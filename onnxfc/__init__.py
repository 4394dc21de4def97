"""onnxfc: rewrite exported ONNX image classifiers so that they run on any image size, with proof."""

from __future__ import annotations

__version__ = "0.1.0"
