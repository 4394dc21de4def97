"""``--output-at``: the model ends at an inner tensor, ahead of what makes labels of its scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner, Result
from fixture_files import fixture_file
from onnx import helper

import onnxfc
from onnxfc.cli.main import main
from onnxfc.errors import NothingToRewrite, UsageError
from onnxfc.rewriter.options import RewriteOptions

LENET = fixture_file("lenet.torchscript.onnx")


def run_cli(*args: object) -> Result:
    return CliRunner().invoke(main, [str(item) for item in args])


def labelled(path: Path) -> str:
    """LeNet whose scores end in a ZipMap, as converters of classifiers put it; the name of the scores."""
    model = onnx.load(LENET)
    [scores] = [item.name for item in model.graph.output]
    node = helper.make_node("ZipMap", [scores], ["labels"], domain="ai.onnx.ml", classlabels_int64s=list(range(10)))
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    kind = helper.make_map_type_proto(onnx.TensorProto.INT64, helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, []))
    del model.graph.output[:]
    model.graph.output.append(helper.make_value_info("labels", helper.make_sequence_type_proto(kind)))
    onnx.save(model, path)
    return scores


def test_scores_ahead_of_labels(tmp_path: Path) -> None:
    path, out = tmp_path / "labelled.onnx", tmp_path / "any-size.onnx"
    scores = labelled(path)
    refused = run_cli("rewrite", path, out)
    assert refused.exit_code == 3
    assert f"end the model before it: --output-at {scores}" in refused.output
    done = run_cli("rewrite", path, out, "--output-at", scores)
    assert done.exit_code == 0, done.output
    assert [item.name for item in onnx.load(out).graph.output] == [scores]
    assert run_cli("check", path, out).exit_code == 0
    assert "rewritable" not in run_cli("inspect", path).output
    assert "an original that `onnxfc rewrite` takes" in run_cli("inspect", path, "--output-at", scores).output
    image = np.random.default_rng(0).standard_normal((1, 1, 40, 33)).astype(np.float32)
    [found] = ort.InferenceSession(out).run(None, {"image": image})
    [want] = ort.InferenceSession(onnxfc.rewrite(LENET, prove=False).model.SerializeToString()).run(
        None, {"image": image}
    )
    np.testing.assert_array_equal(found, want)


def test_an_inner_layer_is_what_the_original_makes_of_each_crop() -> None:
    hidden = next(node.output[0] for node in onnx.load(LENET).graph.node if node.op_type == "Gemm")
    done = onnxfc.rewrite(LENET, options=RewriteOptions(output_at=(hidden,)))
    assert [output.name for output in done.claim.outputs] == [hidden]
    image = np.random.default_rng(1).standard_normal((1, 1, 36, 32)).astype(np.float32)
    [found] = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": image})
    original = onnx.load(LENET)
    original.graph.output.append(onnx.ValueInfoProto(name=hidden))
    session = ort.InferenceSession(original.SerializeToString())
    assert found.shape[2:] == (3, 2)
    for i in range(3):
        for j in range(2):
            crop = image[:, :, 4 * i : 4 * i + 28, 4 * j : 4 * j + 28]
            [want] = session.run([hidden], {"image": crop})
            np.testing.assert_allclose(found[..., i, j], want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--output-at depth: no node of the model makes such a tensor"):
        onnxfc.rewrite(LENET, options=RewriteOptions(output_at=("depth",)))
    labelled(tmp_path / "labelled.onnx")
    with pytest.raises(NothingToRewrite, match="ZipMap"):
        onnxfc.rewrite(tmp_path / "labelled.onnx")
