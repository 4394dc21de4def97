"""Two images that grow together, as PyTorch's own networks take them."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from fixture_files import fixture_file

import onnxfc

EXPORTERS = ("torchscript", "dynamo")
REFERENCES = np.load(fixture_file("pairs.npz"))


def image(size: tuple[int, ...], ahead: tuple[int, ...], number: int) -> np.ndarray:
    return np.random.default_rng(size[0] + 1000 * number).standard_normal((*ahead, *size)).astype(np.float32)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_volume_that_was_written_slice_by_slice(exporter: str) -> None:
    """Every place is written down in the file; what is left free beside a slice stays as wide as it is natively."""
    done = onnxfc.rewrite(fixture_file(f"cost_volume.{exporter}.onnx"))
    assert done.claim.native_size == (24, 32)
    session = ort.InferenceSession(done.model.SerializeToString())
    for size in ((48, 40), (34, 52), (24, 64)):
        want = REFERENCES[f"cost_volume scores {size[0]}x{size[1]}"]
        [value] = session.run(None, {"image": image(size, (1, 3), 0), "right": image(size, (1, 3), 1)})
        assert value.shape == want.shape == (1, 4, size[0] // 2, size[1] // 2)
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())
