"""Numbers of a head that count places follow these."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import parser

from onnxfc.proof.every_size import ALL, Begin, counted_by, for_every_size, readings


@given(st.integers(10, 400), st.integers(2, 3000), st.sampled_from([1, 16]))
def test_a_variance_over_n_minus_1_of_features_follows_the_places(places: int, now: int, channels: int) -> None:
    """N and N - 1, as an exporter writes them, where N counts places or all features of a map."""
    for less in (0, 1):
        found = counted_by(np.array([places * channels - less], np.float32), places, channels)
        assert found is not None
        np.testing.assert_allclose(found.at([now], frozenset({ALL})), [now * channels - less], rtol=1e-6)
        np.testing.assert_array_equal(found.at([now], frozenset()), [places * channels - less])


@pytest.mark.parametrize("number", [0.5, 3.0, 190.0, 193.0, 3070.0])
def test_other_numbers_count_nothing(number: float) -> None:
    assert counted_by(np.array(number, np.float32), 192, 16) is None
    assert counted_by(np.array(192, np.int64), 192, 16) is None


def test_divided_by_the_height_and_then_by_the_width() -> None:
    """The last number stands for all places, as the first does not follow; alone it counts places along its axis."""
    head = parser.parse_model("""
<ir_version: 8, opset_import: ["": 17]>
head (float[1,4] total, float[1,4] row) => (float[1,4] mean, float[1,4] deviation)
<float height = {8}, float width = {12}, float less = {11}> {
  part = Div(total, height)
  mean = Div(part, width)
  deviation = Div(row, less)
}""")
    begins = {"total": Begin((8, 12)), "row": Begin((8, 12))}
    found = for_every_size(head, {}, begins)
    now = {name.partition(",")[0]: item for name, item in found.items()}
    everywhere = frozenset({ALL, 0, 1})
    assert [sorted(item) for item in readings(found.values())] == [[-1], [-1, 0], [-1, 1], [-1, 0, 1]]
    np.testing.assert_allclose(now["width"].at([16, 20], frozenset({ALL})), 16 * 20 / 8)
    np.testing.assert_allclose(now["less"].at([16, 20], everywhere), 19)
    np.testing.assert_allclose(now["less"].at([16, 20], frozenset({ALL, 0})), 11)
