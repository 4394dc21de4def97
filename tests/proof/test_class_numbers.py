"""Outputs that are class numbers: cells are a crop's number or another, and there is no deviation between."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from hazards import CHECK, Net

from onnxfc import ProofFailed, rewrite


def numbers(pad: int) -> onnx.ModelProto:
    net = Net(17, 3)
    x = net.op("Relu", net.conv(net.image(1, (12, 12), 1), 1, 6, strides=[1, 1], pads=[pad] * 4))
    x = net.op("Relu", net.conv(x, 6, 6, strides=[1, 1], pads=[pad] * 4))
    side = 8 + 4 * pad
    return net.model(net.op("ArgMax", net.fc(net.op("Flatten", x), 6 * side**2, 9), axis=1))


def test_the_crops_own_numbers() -> None:
    crops = rewrite(numbers(0), check_options=replace(CHECK, against_crops="exact")).parity.crops  # type: ignore[union-attr]
    assert (crops.status, crops.deviation, crops.top1, crops.top5) == ("measured", 0.0, 1.0, None)
    assert crops.cells >= 5


def test_other_numbers_than_the_crops() -> None:
    parity = rewrite(numbers(1), check_options=CHECK).parity
    assert parity is not None
    assert parity.passed
    assert (parity.crops.status, parity.crops.deviation) == ("measured", 1.0)
    assert parity.crops.top1 is not None
    assert 0 < parity.crops.top1 < 1
    with pytest.raises(ProofFailed, match="differs from its crop by inf times the tolerance"):
        rewrite(numbers(1), check_options=replace(CHECK, against_crops="exact"))
