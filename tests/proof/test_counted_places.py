"""A kept pool whose count of places is computed: the original's own head says what more places give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, session
from onnx import helper

from onnxfc import RewriteOptions, check_pair, rewrite
from onnxfc.proof.baked import says_the_same

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
KEEP = RewriteOptions(global_pool="keep")


def freed(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "length"
    return copy


def test_unbiased_deviation_over_any_length() -> None:
    model = onnx.load(fixture_file("xvector.torchscript.onnx"))
    done = rewrite(model, options=KEEP, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.window.compared >= 10
    ours, own = session(complete(done)), session(freed(model))
    for length in (20, 33, 50):
        image = np.random.default_rng(length).standard_normal((1, 6, length)).astype(np.float32)
        got, want = (made.run(None, {"image": image})[0] for made in (ours, own))
        np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_native_count_at_every_length() -> None:
    """N / (N - 1) of the native size: right there and nowhere else."""
    model = onnx.load(fixture_file("xvector.torchscript.onnx"))
    other = complete(rewrite(model, options=KEEP, prove=False))
    node = next(node for node in other.graph.node if node.op_type == "ReduceProd")
    count = helper.make_tensor("native_count", onnx.TensorProto.INT64, [], [12])
    other.graph.node.insert(0, helper.make_node("Constant", [], [node.output[0]], value=count))
    other.graph.node.remove(node)
    parity = check_pair(model, other, options=CHECK).parity
    assert parity.native.status == "passed"
    assert parity.window.status == "failed"
    assert "on native features repeated" in parity.summary() or "on the whole image" in parity.summary()


def test_which_heads_say_the_same_at_every_size() -> None:
    def nodes(*last: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Constant", [], ["one"]),
            helper.make_node("Gather", ["s", "one"], ["n"]),
            helper.make_node("ReduceMean", ["x"], ["m"]),
            *last,
        ]

    graph = helper.make_graph([], "g", [], [])
    assert says_the_same(nodes(helper.make_node("Div", ["m", "n"], ["y"])), graph)
    assert not says_the_same(nodes(helper.make_node("ReduceSum", ["x"], ["y"])), graph)
    assert not says_the_same(nodes(helper.make_node("Reshape", ["m", "one"], ["y"])), graph)


def test_shared_case() -> None:
    path = CASES / "xvector-std-keep.onnx"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    done = rewrite(path, options=KEEP, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
