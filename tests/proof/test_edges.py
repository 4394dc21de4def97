"""Values on the edge between two integers: a small signal behind averages, where one step more is much of it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete
from onnx import parser
from onnxruntime.quantization import QuantFormat
from quantised import SPOILS, by_onnxruntime, layers, optimised

from onnxfc import RewriteOptions, check_pair
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.edges import SHARE, WAYS, Edges, nearer
from onnxfc.proof.providers import Engine
from onnxfc.rewriter.api import rewrite


def averaged(seed: int, form: QuantFormat, folder: Path) -> onnx.ModelProto:
    """Scores of the mean over the map, by a weight that the quantiser leaves in floats, among others."""
    net = Net(17, seed=seed)
    trunk = net.input("image", [1, 3, 8, 9])
    for before, after in ((3, 5), (5, 5)):
        weight, bias = net.random(after, before, 2, 2), net.random(after, gain=0.2)
        trunk = net.op("Tanh", net.op("Conv", trunk, weight, bias))
    flat = net.op("Flatten", net.op("AveragePool", trunk, kernel_shape=[6, 7]))
    inner = net.op("Einsum", net.fc(flat, 5, 6), net.random(6, 6), equation="bf,fo->bo")
    return by_onnxruntime(net.model(net.fc(inner, 6, 4)), folder, form, per_channel=False)


@pytest.mark.sweep(12)
@pytest.mark.parametrize("form", list(QuantFormat))
@pytest.mark.parametrize("seed", range(4))
def test_steps_that_are_much_of_the_signal(seed: int, form: QuantFormat, tmp_path: Path) -> None:
    done = rewrite(averaged(seed, form, tmp_path), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.native.compared > 50
    assert done.parity.window.compared > 250


@pytest.mark.sweep(12)
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda item: item.__name__)
@pytest.mark.parametrize("form", list(QuantFormat))
def test_errors_are_much_of_the_signal_too(form: QuantFormat, spoil: object, tmp_path: Path) -> None:
    original = averaged(0, form, tmp_path)
    made = complete(rewrite(original, prove=False))
    for at in (-2, -1):
        wrong = copy.deepcopy(made)
        spoil(layers(wrong)[at])  # type: ignore[operator]
        assert not check_pair(original, wrong, options=CHECK).passed


@pytest.mark.parametrize("seed", [20, 22])
def test_an_operator_on_integers_that_averages(seed: int, tmp_path: Path) -> None:
    """Means of four integers often lie on an edge, where a pool on integers rounds otherwise than one on floats."""
    net = Net(seed=seed)
    pooled = net.op("AveragePool", net.op("Relu", net.conv(net.image(), 2, 6)), kernel_shape=[2, 2], strides=[1, 1])
    hidden = net.op("Tanh", net.fc(net.op("Flatten", pooled), 6 * 4 * 3, 24))
    optimised(by_onnxruntime(net.model(net.fc(hidden, 24, 7)), tmp_path, QuantFormat.QDQ), tmp_path)
    original = onnx.load(tmp_path / "optimised.onnx")
    assert "QLinearAveragePool" in {node.op_type for node in original.graph.node}
    done = rewrite(original, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.native.compared > 200
    for spoil in SPOILS:
        wrong = complete(done)
        spoil(layers(wrong)[-1])
        assert check_pair(original, wrong, options=CHECK).parity.native.status == "failed", spoil.__name__


def test_what_kernels_on_integers_move_is_told(tmp_path: Path) -> None:
    original = averaged(0, QuantFormat.QDQ, tmp_path)
    integers = [node.output[0] for node in original.graph.node if node.op_type == "QuantizeLinear"][-1]
    for options in (RewriteOptions(), RewriteOptions(output_at=(integers,))):  # scores as numbers, and as bytes
        parity = rewrite(original, options=options, check_options=CHECK).parity
        assert parity is not None
        assert parity.kernels is not None
        assert parity.kernels.original == 0
        assert parity.kernels.rewritten == pytest.approx(0.022959, abs=0.02)  # where Einsum became Conv
        assert parity.kernels.rewritten > 0


def edge_model() -> onnx.ModelProto:
    return parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[4] x) => (float[4] y) <float s = {0.5}, uint8 z = {9}> {
          q = QuantizeLinear(x, s, z)
          y = DequantizeLinear(q, s, z)
        }"""
    )


def test_only_values_on_an_edge_are_moved() -> None:
    values = np.array([0.25, 0.2, 0.75, -0.25 - 0.2 * SHARE], np.float32)  # 0.5, 0.4, 1.5 and -0.5 steps
    found = list(Edges(ModelFile.open(edge_model()), [], Engine(as_written=True)).of("y", {"x": values}))
    assert len(found) == WAYS
    assert found[0].tolist() == [0.5, 0.0, 1.0, 0.0]
    assert found[1].tolist() == [0.0, 0.0, 0.5, -0.5]
    assert all(set(column) <= {0.0, 0.5, 1.0, -0.5} for column in np.array(found).T)
    assert len({tuple(column) for column in found}) > 2  # not all to one side
    assert list(Edges(ModelFile.open(edge_model()), [], Engine()).of("y", {"x": values})) == []


def test_values_on_edges_fall_to_all_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a layer makes of four together is one of 16 sums. All are multiples of half a step: some sums were never
    found, and a right rewrite of pooled integers, of which many lie halfway, failed."""
    monkeypatch.setattr("onnxfc.proof.edges.WAYS", 200)
    model = edge_model()
    model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "w"], ["sum"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 4, 8, 16], np.float32), "w"))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, []))
    edges = Edges(ModelFile.open(model), [], Engine(as_written=True))
    for values in ([0.25, 0.75, 1.25, 1.75], [2.25, -0.75, 0.25, 3.25], [-0.25, 1.25, -1.25, 0.75]):
        found = {float(value) for value in edges.of("sum", {"x": np.array(values, np.float32)})}
        least = sum(weight * (value - 0.25) for weight, value in zip((2, 4, 8, 16), values, strict=True))
        assert found == {least + more for more in range(16)}


@pytest.mark.parametrize("kind", ["DynamicQuantizeLinear", "Round"])
def test_values_that_are_rounded_when_the_model_runs(kind: str) -> None:
    """By a scale of 1 both: from -128 to 127."""
    net = Net(17)
    made = net.op(kind, net.input("x", [4]), outputs=1 if kind == "Round" else 3)
    rounded = made if kind == "Round" else net.op("Sub", *(net.op("Cast", made[at], to=1) for at in (0, 2)))
    values = np.array([-128, 127, 2.5, 3.2], np.float32)
    file = ModelFile.open(net.model(str(rounded)))
    name = file.proto.graph.output[0].name
    found = np.array(list(Edges(file, [], Engine()).of(name, {"x": values})))
    assert set(map(tuple, found)) == {(-128, 127, 2, 3), (-128, 127, 3, 3)}


def test_scales_of_each_output_are_left_alone() -> None:
    """A weight that the graph rounds is the same in both models; nothing of it is moved, and all else is."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[1, 2] x) => (float[1, 2] y) <float s = {0.5}, uint8 z = {9}, float[2, 2] w = {1, 2, 3, 4},
          float[2] each = {1, 1}, int8[2] none = {0, 0}> {
          wq = QuantizeLinear <axis = 0> (w, each, none)
          wd = DequantizeLinear <axis = 0> (wq, each, none)
          q = QuantizeLinear(x, s, z)
          d = DequantizeLinear(q, s, z)
          y = Gemm <transB = 1> (d, wd)
        }"""
    )
    edges = Edges(ModelFile.open(model), [], Engine(as_written=True))
    found = np.array(list(edges.of("y", {"x": np.array([[0.25, 1.1]], np.float32)})))
    assert {tuple(row) for row in found.reshape(-1, 2)} == {(2, 4), (2.5, 5.5)}


def test_the_nearest_of_several() -> None:
    got, want = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])
    assert nearer(got, want, [np.array([0.0, 2.5, 1.5]), np.array([5.0, 5.0])]).tolist() == [1.0, 2.5, 1.5]
