"""onnx-graphsurgeon's graphs, in and out, and what else a model may be given as."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from cli_runs import environment
from fixture_files import fixture_file
from hazards import complete, session

import onnxfc


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(1, 1, *size)).astype(np.float32)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_graph_is_rewritten(exporter: str) -> None:
    """As its file is: cells are the original's on crops."""
    path = fixture_file(f"lenet.{exporter}.onnx")
    done = onnxfc.rewrite(gs.import_onnx(onnx.load(path)))
    assert done.parity is not None
    assert done.parity.passed
    data, original = image(36, 32), ort.InferenceSession(path)
    name = original.get_inputs()[0].name
    [cells] = session(complete(done)).run(None, {name: data})
    assert cells.shape == (1, 10, 3, 2)
    for y, x in np.ndindex(3, 2):
        [want] = original.run(None, {name: data[:, :, 4 * y : 4 * y + 28, 4 * x : 4 * x + 28]})
        np.testing.assert_allclose(cells[:, :, y, x], want, atol=1e-5)


def test_a_graph_that_was_cut_is_rewritten() -> None:
    """The recipe of the examples: end the model before its Softmax."""
    graph = gs.import_onnx(onnx.load(fixture_file("softmax.dynamo.onnx")))
    softmax = next(node for node in graph.nodes if node.op == "Softmax")
    scores = softmax.inputs[0]
    scores.dtype, scores.shape = graph.outputs[0].dtype, graph.outputs[0].shape
    graph.outputs = [scores]
    graph.cleanup()
    done = onnxfc.rewrite(graph)
    edited = done.to_graphsurgeon()
    assert [node.op for node in edited.nodes].count("Softmax") == 0
    data = np.random.default_rng(3).normal(size=(1, 3, 22, 26)).astype(np.float32)
    name = graph.inputs[0].name
    data = data[:, : graph.inputs[0].shape[1]]
    [cells] = ort.InferenceSession(gs.export_onnx(edited, ir_version=10).SerializeToString()).run(None, {name: data})
    softmaxed = ort.InferenceSession(fixture_file("softmax.dynamo.onnx"))
    [want] = softmaxed.run(None, {name: data[:, :, 4:22, 8:26]})
    found = np.exp(cells[0, :, 1, 2]) / np.exp(cells[0, :, 1, 2]).sum()
    np.testing.assert_allclose(found, want[0], atol=1e-5)


def test_what_a_graph_keeps_and_drops() -> None:
    model = onnx.load(fixture_file("lenet.dynamo.onnx"))
    model.metadata_props.add(key="author", value="somebody")
    again = onnxfc.ModelFile.open(gs.import_onnx(model)).proto
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in model.graph.node]
    assert list(again.opset_import) == list(model.opset_import)
    assert {tensor.name for tensor in again.graph.initializer} >= {t.name for t in model.graph.initializer}
    assert not again.metadata_props


def test_a_graph_that_cannot_be_exported() -> None:
    graph = gs.import_onnx(onnx.load(fixture_file("lenet.dynamo.onnx")))
    graph.outputs[0].dtype = None
    with pytest.raises(onnxfc.ReadError, match=r"^the given graph: onnx-graphsurgeon cannot export it: "):
        onnxfc.rewrite(graph)


def test_a_pair_of_graphs_is_checked() -> None:
    graphs = [gs.import_onnx(onnx.load(fixture_file("lenet.dynamo.onnx"))) for _ in range(2)]
    assert onnxfc.check_pair(*graphs).passed
    weight = next(t for t in graphs[1].tensors().values() if isinstance(t, gs.Constant) and t.values.ndim == 2)
    weight.values = np.ascontiguousarray(-weight.values)
    assert not onnxfc.check_pair(*graphs).passed


def test_what_rewrite_returns_goes_on() -> None:
    path = fixture_file("lenet.dynamo.onnx")
    done = onnxfc.rewrite(path)
    assert done.geometry == onnxfc.Geometry.from_model(done) == onnxfc.Geometry.from_model(done.model)
    assert done.geometry.cells(56, 56) == (8, 8)
    assert onnxfc.check_pair(path, done).passed
    assert onnxfc.inspect(done).status == "rewritten"
    assert repr(done).startswith("<Rewrite: native size 28x28 px, stride 4x4 px, exact, proven on ")
    assert "native parity   passed" in done.text()
    assert done.report()["claim"]["native_size"] in ((28, 28), [28, 28])


def test_the_library_is_loaded_late(tmp_path: Path) -> None:
    code = f"""
import sys, onnxfc
onnxfc.rewrite({str(fixture_file("lenet.dynamo.onnx"))!r}).save({str(tmp_path / "out.onnx")!r})
assert "onnx_graphsurgeon" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=120)
