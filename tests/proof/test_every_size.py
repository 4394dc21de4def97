"""Numbers of a head that count places follow these."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxfc.proof.every_size import counted_by


@given(st.integers(10, 400), st.integers(2, 3000), st.sampled_from([1, 16]))
def test_a_variance_over_n_minus_1_of_features_follows_the_places(places: int, now: int, channels: int) -> None:
    """N and N - 1, as an exporter writes them, where N counts places or all features of a map."""
    for less in (0, 1):
        found = counted_by(np.array([places * channels - less], np.float32), places, channels)
        assert found is not None
        np.testing.assert_array_equal(found.at(now), [now * channels - less])
        np.testing.assert_array_equal(found.at(0), [places * channels - less])


@pytest.mark.parametrize("number", [0.5, 3.0, 190.0, 193.0, 3070.0])
def test_other_numbers_count_nothing(number: float) -> None:
    assert counted_by(np.array(number, np.float32), 192, 16) is None
    assert counted_by(np.array(192, np.int64), 192, 16) is None
