"""Heads that begin at tokens behind attention: the original holds places in one axis, the rewritten model in two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, session
from onnx import numpy_helper

from onnxfc import Claim, rewrite
from onnxfc.claim.claim import Boundary
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.proof.folded import apart, together
from onnxfc.proof.results import Parity
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

CASES = Path(__file__).parents[3] / "shared" / "cases"
FIXTURE = fixture_file("token_pools.torchscript.onnx")
TOKENS = ((0,), (2, 3), (1,))
"""(N, H W, C), of a map (N, C, H, W)."""


def rewritten() -> Rewrite:
    return rewrite(FIXTURE, check_options=CHECK)


def checked(done: Rewrite, claim: Claim, model: onnx.ModelProto | None = None) -> Parity:
    return check(done.original, ModelFile.open(model or complete(done)), claim, CHECK)


def test_the_claim_says_where_the_places_are_and_is_read_back() -> None:
    done = rewritten()
    assert {item.folded for item in done.claim.boundaries} == {TOKENS, ((0,), (1, 2), ())}
    assert Claim.from_metadata({item.key: item.value for item in done.model.metadata_props}) == done.claim
    parity = checked(done, done.claim)
    assert (parity.window.status, parity.trunk.status) == ("passed", "passed")
    assert parity.window.compared > 0


def test_tokens_and_maps_are_the_same_elements() -> None:
    tokens, extent = np.arange(2 * 20 * 6).reshape(2, 20, 6), (5, 4)
    boundary = Boundary("tokens", "map", (2, 3), extent, (1, 1), TOKENS)
    made = apart(boundary, tokens)
    np.testing.assert_array_equal(made, tokens.reshape(2, 5, 4, 6).transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(together(boundary, made), tokens)
    heads = Boundary("heads", "map", (3, 4), extent, (1, 1), ((0,), (1,), (3, 4), (2,)))
    split = tokens.reshape(2, 20, 3, 2).transpose(0, 2, 1, 3)
    np.testing.assert_array_equal(apart(heads, split), split.reshape(2, 3, 5, 4, 2).transpose(0, 1, 4, 2, 3))
    np.testing.assert_array_equal(together(heads, apart(heads, split)), split)


@pytest.mark.parametrize(
    "folded",
    [((0,), (3, 2), (1,)), ((0,), (1,), (2, 3)), ((0,), (2, 1), (3,)), ((0, 1), (2, 3), ()), ((0,), (2, 3, 1))],
)
def test_a_wrong_claim_of_places_fails(folded: tuple[tuple[int, ...], ...]) -> None:
    """Rows for columns, channels for places, an axis too few: told before a head is run, or by its values."""
    done = rewritten()
    bounds = tuple(replace(item, folded=folded) if item.folded == TOKENS else item for item in done.claim.boundaries)
    parity = checked(done, replace(done.claim, boundaries=bounds))
    assert not parity.passed


@pytest.mark.parametrize("folded", [((0,), (2, 3)), ((0,), (1,)), ((0,), (2, 2), (1,)), ((0,), (9, 3), (1,)), (0, 1)])
def test_a_claim_of_axes_that_no_map_has_is_damaged(folded: tuple[tuple[int, ...], ...]) -> None:
    claim = rewritten().claim
    bound = next(item for item in claim.boundaries if item.folded == TOKENS)
    with pytest.raises(ValueError, match="boundary"):
        replace(claim, boundaries=(replace(bound, folded=folded),))


@pytest.mark.parametrize("which", range(2))
def test_a_wrong_head_behind_tokens_fails(which: int) -> None:
    done = rewritten()
    model = complete(done)
    weights = [tensor for tensor in model.graph.initializer if tensor.dims[:2] == [5, 8]]
    assert len(weights) == 2
    value = numpy_helper.to_array(weights[which]).copy()
    value[2] *= 1.1
    weights[which].CopyFrom(numpy_helper.from_array(value, weights[which].name))
    assert not checked(done, done.claim, model).passed


@pytest.mark.parametrize("case", ["attention-then-mean", "attention-then-seqpool"])
def test_shared_cases(case: str) -> None:
    """Rewritten for windows; kept global, it is the original itself, freed of its declared size, at any size."""
    path = CASES / f"{case}.onnx"
    if not path.exists():
        pytest.skip(f"not there: {path}")
    done = rewrite(path, check_options=CHECK)
    assert {item.form for item in done.claim.outputs} == {"map"}
    kept = rewrite(path, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    original = onnx.load(path)
    for dim in original.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    for size in ((64, 64), (80, 40)):
        image = np.random.default_rng(size[1]).standard_normal((1, 3, *size)).astype(np.float32)
        feed = {original.graph.input[0].name: image}
        got, want = session(complete(kept)).run(None, feed)[0], session(original).run(None, feed)[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))
