"""What no cell reads makes no cell another than its crop: padding behind the last window, the end of a cropped map."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, session

from onnxfc import rewrite

EXPORTERS = ("torchscript", "dynamo")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "verdict"), [("unread", "exact"), ("read", "approximate")])
def test_padding_that_is_read_or_not(name: str, verdict: str, exporter: str) -> None:
    original = onnx.load(fixture_file(f"borders_{name}.{exporter}.onnx"))
    done = rewrite(original, check_options=CHECK)
    assert done.claim.verdict == verdict
    assert done.parity is not None
    assert (done.parity.crops.deviation < 1e-6) == (verdict == "exact")
    image = np.random.default_rng(2).standard_normal((1, 3, 22, 27)).astype(np.float32)
    maps, run = session(complete(done)).run(None, {"image": image}), session(original)
    worst = 0.0
    for row, column in np.ndindex(maps[0].shape[2:]):
        first, left = row * done.claim.stride[0], column * done.claim.stride[1]
        crop = np.ascontiguousarray(image[:, :, first : first + 13, left : left + 13])
        for made, wanted in zip(maps, run.run(None, {"image": crop}), strict=True):
            worst = max(worst, float(np.abs(made[:, :, row, column] - wanted).max() / np.ptp(wanted)))
    assert (worst < 1e-5) == (verdict == "exact")
