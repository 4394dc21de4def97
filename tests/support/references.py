"""Models of any size against what PyTorch's own networks gave, which the scripts in fixtures/ wrote down."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort

EXPORTERS = ("torchscript", "dynamo")


def image(height: int, width: int, channels: int = 3, number: int = 0) -> np.ndarray:
    """The image of this size that the scripts took; the second one of a pair has ``number`` 1."""
    numbers = np.random.default_rng(height + 1000 * number)
    return numbers.standard_normal((1, channels, height, width)).astype(np.float32)


def run(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs by name."""
    session = ort.InferenceSession(model.SerializeToString())
    return dict(zip([item.name for item in session.get_outputs()], session.run(None, feeds), strict=True))


def compare(
    model: onnx.ModelProto,
    feeds: Mapping[str, np.ndarray],
    references: Mapping[str, np.ndarray],
    name: str,
    rounding: float = 2e-6,
) -> None:
    """All outputs equal the network's of this ``name`` at the size of the image, up to a share of the largest."""
    height, width = feeds["image"].shape[2:]
    for output, value in run(model, feeds).items():
        want = references[f"{name} {output} {height}x{width}"]
        assert value.shape == want.shape
        np.testing.assert_allclose(value, want, rtol=0, atol=rounding * np.abs(want).max())
