"""Weights that are stored sparse: read whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxfc.io.byte_source import FileSource, Span
from onnxfc.proof.stored_weights import _dense

WHOLE = np.array([[0, 0, 2.5], [0, -1, 0]], np.float32)


def sparse(indices: list[int] | list[list[int]], dims: tuple[int, ...] = (2, 3)) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([2.5, -1], np.float32), "weight")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, np.int64)), list(dims))


@pytest.mark.parametrize("indices", [[2, 4], [[0, 2], [1, 1]]], ids=["counted on", "row and column"])
def test_both_ways_to_say_where_values_are(indices: list[int]) -> None:
    made = _dense("weight", sparse(indices))
    assert made is not None
    np.testing.assert_array_equal(made.values, WHOLE)


@pytest.mark.parametrize(
    ("indices", "dims"),
    [([2, 6], (2, 3)), ([[0, 2], [2, 0]], (2, 3)), ([2, 4], (-2, 3)), ([2, 4], (1 << 13, 1 << 12))],
    ids=["beyond the end", "beyond the last row", "negative", "too large"],
)
def test_what_is_damaged_or_too_large_is_no_weight(indices: list[int], dims: tuple[int, ...]) -> None:
    assert _dense("weight", sparse(indices, dims)) is None


def test_the_same_place_of_another_file_is_no_proof(tmp_path: Path) -> None:
    """Weights of equal length that begin both models' data files, and differ in their last byte."""
    (tmp_path / "one").write_bytes(bytes(64))
    (tmp_path / "two").write_bytes(bytes(63) + b"\1")
    one, two = FileSource(tmp_path / "one"), FileSource(tmp_path / "two")
    assert Span(one, 0, 64).equals(Span(one, 0, 64))
    assert not Span(one, 0, 64).equals(Span(one, 0, 63))
    assert not Span(one, 0, 64).equals(Span(two, 0, 64))
    assert Span(one, 0, 63).equals(Span(two, 0, 63))
