"""FC weights that are permuted in tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hazards import Net, proven
from hypothesis import given
from hypothesis import strategies as st

from onnxfc.head.conv_weights import _blocks


@given(st.integers(0, 200), st.integers(0, 200), st.booleans())
def test_blocks_are_the_matrix(rows: int, columns: int, turned: bool) -> None:
    values = np.arange(rows * columns).reshape((columns, rows) if turned else (rows, columns))
    matrix = values.T if turned else values
    result = np.full(matrix.shape, -1)
    for place, block in _blocks(matrix):
        assert block.flags.c_contiguous
        result[place] = block
    np.testing.assert_array_equal(result, matrix)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("alpha", [1.0, -0.5])
@pytest.mark.parametrize("transposed", [False, True])
def test_more_outputs_and_features_than_a_tile_has(last: bool, alpha: float, transposed: bool) -> None:
    """150 outputs of 6x5x7 features behind a BatchNormalization that the FC layer takes in."""
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(size=(12, 16)), 2, 6))
    if last:
        tensor = net.op("Transpose", tensor, perm=[0, 2, 3, 1])
    flat = net.op("Flatten", tensor)
    features = 210
    vectors = [
        net.random(features),
        net.random(features),
        net.random(features),
        net.const(np.ones(features, "f"), "var"),
    ]
    flat = net.op("BatchNormalization", flat, *vectors)
    shape = (150, features) if transposed else (features, 150)
    weight = net.random(*shape)
    out = net.op("Gemm", flat, weight, net.random(150), transB=int(transposed), alpha=alpha)
    done = proven(net.model(out))
    assert [item.before for item in done.replacements] == ["Gemm 210→150"]
