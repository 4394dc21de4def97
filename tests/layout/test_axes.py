"""Axes that a Reshape leaves whole."""

from __future__ import annotations

from onnxfc.layout.axes import survivors


def test_a_reshape_to_the_same_shape_leaves_axes_where_they_are() -> None:
    """One place with its one channel behind it was taken to have moved to the last axis."""
    assert survivors((1, 1, 1), (1, 1, 1), [1]) == (1,)
    assert survivors((1, 3, 1, 1), (1, 3, 1, 1), [1, 2]) == (1, 2)


def test_axes_keep_their_order_where_others_become_one() -> None:
    assert survivors((2, 8, 6, 5), (2, 4, 2, 6, 5), [2, 3]) == (3, 4)
    assert survivors((2, 8, 6, 5), (2, 8, 30), [2, 3]) is None
