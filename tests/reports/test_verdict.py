"""What the verdict says, in a sentence that is true of these outputs."""

from __future__ import annotations

from hazards import CHECK, Net

from onnxfc import rewrite
from onnxfc.proof.results import ParityResult
from onnxfc.reports.rewrite import _compared, share_of, verdict_text


def verdict(pads: int) -> str:
    """Of a network without a head."""
    net = Net()
    x = net.op("Conv", net.input("image", [1, 2, 12, 12]), net.random(3, 2, 3, 3), pads=[pads] * 4)
    return verdict_text(rewrite(net.model(net.op("Tanh", x, out="map")), check_options=CHECK).claim, verbose=True)


def test_elements_are_no_cells() -> None:
    """None of them is compared with what the original says of a crop."""
    assert verdict(0) == "exact: every element is the same in any crop that holds all that it reads"
    told = "approximate: elements differ from those of crops, because of padding, where a big image has pixels ("
    assert verdict(1).startswith(told)


def test_shares_are_told_as_they_are() -> None:
    """No 0.0 % where something differs, no percentage of more than the whole."""
    assert [share_of(value) for value in (2.3e-8, 0.1364, 3.42)] == ["2e-08", "13.6%", "3.4 times the width"]


def test_a_tolerance_is_told_no_smaller_than_what_it_allowed() -> None:
    told = [
        _compared(ParityResult("passed", deviation, tolerance))
        for deviation, tolerance in ((0.0646, 0.0648), (1e-6, 2.3e-4))
    ]
    assert "deviation 6.5e-02, tolerance 6.5e-02 (" in told[0]
    assert "deviation 1.0e-06, tolerance 2e-04 (" in told[1]
