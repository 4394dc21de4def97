"""What a model says of which one axis is free, where the other is native: what it says with both free."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from references import EXPORTERS, run

import onnxfc
from onnxfc.rewriter.options import RewriteOptions

BOTH_AXES = (
    *("fire", "reductions", "few_parts", "maxima", "rows_gru", "patch_encoder", "kept_windows"),
    *("heads_attention", "joined_heads", "linear_attention", "lite_attention", "token_pools", "window_attention"),
    *("list_tokens", "list_weighed", "extremes", "letters_attention", "unfolded", "super_resolution"),
)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("side", ["height", "width"])
@pytest.mark.parametrize("name", BOTH_AXES)
def test_one_axis_says_what_both_say(name: str, side: str, exporter: str) -> None:
    """Where the other length is native: a pool that only happens to cover the native map slides in both, attention asks
    all places, and rows are in the same order."""
    path, kept = fixture_file(f"{name}.{exporter}.onnx"), {"global_pool": "keep"}
    one = onnxfc.rewrite(path, options=RewriteOptions(free=(side,), **kept), prove=False)  # type: ignore[arg-type]
    both = onnxfc.rewrite(path, options=RewriteOptions(**kept), prove=False)  # type: ignore[arg-type]
    own, at = both.claim.inputs[0], ("height", "width").index(side)
    step = max(both.claim.size_step[at], one.claim.size_step[0])
    shape = [n + (axis == own.spatial[at]) * step * (2 if step > 1 else 9) for axis, n in enumerate(own.shape)]
    feeds = {own.name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    found, wanted = (run(done.model, feeds) for done in (one, both))
    forms = [{item.name: item.form for item in done.claim.outputs} for done in (one, both)]
    names = [name for name in found if {form[name] for form in forms} <= {"features", "list", "global"}]
    assert names
    for name in names:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max())


def test_a_pool_that_covers_the_native_map_is_what_the_original_has() -> None:
    """A maximum of 3x3 places with a stride of 2, behind which a Conv slides: no pool of the whole image."""
    path = fixture_file("fire.torchscript.onnx")
    opened = onnx.load(path)
    for dim in opened.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    del opened.graph.value_info[:]
    for side, size in (("height", (16, 7)), ("width", (7, 21))):
        options = RewriteOptions(free=(side,), global_pool="keep")
        done = onnxfc.rewrite(path, options=options)
        assert {item.cause.value for item in done.claim.blames} == {"context", "padding"}
        own = np.random.default_rng(0).standard_normal((1, 3, *size)).astype(np.float32)
        [want], [got] = (run(model, {done.claim.inputs[0].name: own}).values() for model in (opened, done.model))
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
