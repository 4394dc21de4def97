"""The first cases of the fuzzer, and those that it has found something with."""

from __future__ import annotations

import pytest

pytest.importorskip("resource")
from fuzz_models import fuzz

FOUND = (
    23,
    87,
    181,
    334,
    544,
    1517,
    3232,
    3944,
    4604,
    5924,
    6041,
    7792,
    500290,
    502410,
    502729,
    503894,
    505459,
    507605,
    7702960,
    7703425,
    7703462,
    88000037,
    88000703,
    88100021,
    88100529,
    88200597,
    88300309,
    88301636,
    92003089,
    92005526,
    93006432,
    93007394,
    93008584,
    94000706,
    94006895,
    94008237,
    95000669,
    96002574,
    96002745,
)


def test_first_cases() -> None:
    """``python tests/support/fuzz_models.py --seconds 3600`` goes on."""
    count, found = fuzz(0, 250, 120)
    assert found == {}
    assert count > 50  # however slow the machine


@pytest.mark.parametrize("number", FOUND)
def test_cases_that_were_found(number: int) -> None:
    assert fuzz(number, 1, 120)[1] == {}
