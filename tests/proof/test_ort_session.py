"""Sessions over weights that stay on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import environment
from file_models import external, mlp, model, noise, with_data, write
from fixture_files import fixture_file
from onnx import TensorProto, helper, numpy_helper

from onnxfc import RewriteOptions, rewrite
from onnxfc.errors import ReadError
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import ort_session
from onnxfc.proof.ort_session import session
from onnxfc.proof.providers import Engine

X = {"x": noise(1, 64, seed=9)}


def expected() -> np.ndarray:
    plain = ort.InferenceSession(mlp().SerializeToString(), providers=["CPUExecutionProvider"])
    return plain.run(None, X)[0]


@pytest.mark.parametrize("kind", ["file", "bytes", "proto", "external", "all external", "held", "link"])
def test_same_result_wherever_the_weights_are(tmp_path: Path, kind: str) -> None:
    if "external" in kind:
        size = 1000 if kind == "external" else 0
        path = with_data(tmp_path, mlp(), all_tensors_to_one_file=kind == "external", size_threshold=size)
    else:
        path = write(tmp_path / "in.onnx", mlp())
    if kind == "link":
        (tmp_path / "sub").mkdir()
        path = tmp_path / "sub" / "link.onnx"
        path.symlink_to("../in.onnx")
    opened = ModelFile.open({"bytes": path.read_bytes(), "proto": mlp()}.get(kind, path))
    if kind == "held":
        proto = onnx.ModelProto()
        proto.CopyFrom(opened.proto)
        proto.graph.initializer[0].CopyFrom(opened.tensor("w1", noise(48, 64)))
        opened = opened.with_proto(proto)
    made = session(opened, engine=Engine(1))
    del opened
    np.testing.assert_allclose(made.run(None, X)[0], expected(), rtol=1e-5, atol=1e-5)


def test_without_optimisation(tmp_path: Path) -> None:
    made = session(ModelFile.open(write(tmp_path / "in.onnx", mlp())), engine=Engine(1), optimize=False)
    assert made.get_session_options().graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    np.testing.assert_allclose(made.run(None, X)[0], expected(), rtol=1e-5, atol=1e-5)


def test_large_models_are_not_copied_into_another_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last level lays the weights of Convs out anew, all of them in memory."""
    opened = ModelFile.open(write(tmp_path / "in.onnx", mlp()))
    levels = ort.GraphOptimizationLevel
    small = session(opened, engine=Engine(1)).get_session_options().graph_optimization_level
    monkeypatch.setattr(ort_session, "LARGE_MODEL", 4 * (48 * 64 + 48 + 10 * 48 + 10))
    large = session(opened, engine=Engine(1)).get_session_options().graph_optimization_level
    assert (small, large) == (levels.ORT_ENABLE_ALL, levels.ORT_ENABLE_EXTENDED)
    monkeypatch.setattr(ort_session, "LARGE_MODEL", ort_session.LARGE_MODEL + 1)
    assert session(opened, engine=Engine(1)).get_session_options().graph_optimization_level == levels.ORT_ENABLE_ALL


def test_extra_outputs(tmp_path: Path) -> None:
    opened = ModelFile.open(write(tmp_path / "in.onnx", mlp()))
    made = session(opened, extra_outputs=["h", "y", "h"], engine=Engine(1))
    assert [o.name for o in made.get_outputs()] == ["y", "h"]
    y, h = made.run(None, X)
    assert h.shape == (1, 48)
    np.testing.assert_allclose(h, X["x"] @ noise(48, 64).T + noise(48, seed=1), rtol=1e-4, atol=1e-4)
    assert [o.name for o in opened.proto.graph.output] == ["y"]
    np.testing.assert_allclose(y, expected(), rtol=1e-5, atol=1e-5)


def test_external_tensor_in_an_attribute_and_as_a_shape(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(np.array([1, 4, 16], np.int64).tobytes() + noise(64).tobytes())
    value, shape = TensorProto(name="v", data_type=1, dims=[64]), TensorProto(name="s", data_type=7, dims=[3])
    external(value, "w", "24")
    external(shape, "w", "0", "24")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    path = write(tmp_path / "in.onnx", model(nodes, [shape], [1, 64], [1, 4, 16]))
    made = session(ModelFile.open(path), engine=Engine(1))
    np.testing.assert_array_equal(made.run(None, X)[0].ravel(), (X["x"] + noise(64)).ravel())


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT16, TensorProto.INT8, TensorProto.BFLOAT16, TensorProto.INT4])
def test_other_types_at_odd_offsets(tmp_path: Path, data_type: int) -> None:
    raw = bytes([0, 60] * 2048)
    count = {TensorProto.INT8: 4096, TensorProto.INT4: 8192}.get(data_type, 2048)
    weight = TensorProto(name="w" * 7, data_type=data_type, dims=[count], raw_data=raw)
    nodes = [helper.make_node("Cast", [weight.name], ["f"], to=1), helper.make_node("Add", ["x", "f"], ["y"])]
    proto = model(nodes, [weight], [1], [count])
    proto.opset_import[0].version = 21
    proto.ir_version = 10
    path = write(tmp_path / "in.onnx", proto)
    made = session(ModelFile.open(path), engine=Engine(1))
    want = numpy_helper.to_array(weight).astype(np.float32)
    np.testing.assert_array_equal(made.run(None, {"x": np.zeros(1, np.float32)})[0], want)


def test_models_that_onnxruntime_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for change in ("op", "dims", "opset"):
        proto = mlp()
        if change == "op":
            proto.graph.node[0].op_type = "NoSuchOperator"
        elif change == "dims":
            proto.graph.initializer[0].dims[:] = [1, 2]
        else:
            proto.opset_import[0].version = 9999
        path = write(tmp_path / f"{change}.onnx", proto)
        with pytest.raises(ReadError, match="onnxruntime cannot load it") as caught:
            session(ModelFile.open(path))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_file_that_changed(tmp_path: Path) -> None:
    path = write(tmp_path / "in.onnx", mlp())
    opened = ModelFile.open(path)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ReadError, match="changed while it was being read"):
        session(opened)


def dense(fold: bool, **attributes: object) -> tuple[onnx.ModelProto, np.ndarray]:
    """A Conv whose weight is to be held in memory; ``fold``: with what onnxruntime folds into it."""
    weight = noise(32, 8, 3, 3)
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv", **attributes)]
    vectors = {
        "scale": noise(32, seed=1),
        "shift": noise(32, seed=2),
        "mean": noise(32, seed=3),
        "var": np.ones(32, "f"),
    }
    if fold:
        nodes += [
            helper.make_node("BatchNormalization", ["c", *vectors], ["n"]),
            helper.make_node("Mul", ["n", "half"], ["y"]),
        ]
    else:
        nodes[0].output[0] = "y"
    tensors = [numpy_helper.from_array(a, n) for n, a in vectors.items()]
    tensors.append(numpy_helper.from_array(np.full((1, 32, 1, 1), 0.5, np.float32), "half"))
    return model(nodes, [numpy_helper.from_array(weight, "w"), *tensors], [1, 8, 6, 6], [1, 32, 4, 4]), weight


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("optimize", [False, True])
@pytest.mark.parametrize("large", [False, True])
def test_held_conv_weights(fold: bool, optimize: bool, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are shared with the session, and still folded, laid out anew, and read by others as they are."""
    monkeypatch.setattr(ort_session, "LARGE_MODEL", 0 if large else 10**9)
    proto, weight = dense(fold)
    x = {"x": noise(1, 8, 6, 6, seed=9)}
    want = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, x)[0]
    opened = ModelFile.open(proto)
    proto.graph.initializer[0].CopyFrom(opened.tensor("w", weight))
    made = session(opened.with_proto(proto), engine=Engine(1), optimize=optimize)
    np.testing.assert_allclose(made.run(None, x)[0], want, rtol=1e-4, atol=1e-4)


MEMORY = """
import sys
import numpy as np
from onnx import TensorProto, helper
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.ort_session import session
from onnxfc.proof.providers import Engine
anonymous = lambda: next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon")) / 1024
info = helper.make_tensor_value_info
graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", [info("x", 1, [1, 2048, 4, 4])],
                          [info("y", 1, None)])
model = ModelFile.open(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
model.proto.graph.initializer.append(model.tensor("w", np.ones((1024, 2048, 4, 4), np.float32)))
before = anonymous()
made = session(model, engine=Engine(1))
y = made.run(None, {"x": np.ones((1, 2048, 4, 4), np.float32)})[0]
assert y.shape == (1, 1024, 1, 1) and (y == 2**15).all()
print(anonymous() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_held_conv_weights_are_not_copied() -> None:
    """A weight of 128 MB."""
    done = subprocess.run([sys.executable, "-c", MEMORY], env=environment(), capture_output=True, text=True, check=True)
    assert float(done.stdout) < 64


@pytest.mark.parametrize("name", ["lenet.qdq_int4", "lenet.qdq_own_int4", "lenet.nbits_qdq"])
def test_weights_of_4_bits_in_memory(name: str) -> None:
    """onnxruntime makes no values of them: as bytes, rewritten from bytes, and the rewritten model's own bytes."""
    path = fixture_file(f"{name}.onnx")
    plain = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    feed = {plain.get_inputs()[0].name: noise(1, 1, 28, 28, seed=3)}
    wanted = plain.run(None, feed)[0]
    assert np.ptp(wanted) > 0.1
    done = rewrite(Path(path).read_bytes(), options=RewriteOptions(size=(28, 28)))
    for source in (Path(path).read_bytes(), done.file, done.file.loaded().SerializeToString()):
        found = session(ModelFile.open(source) if isinstance(source, bytes) else source).run(None, feed)[0]
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=5e-3)  # kernels of 8 bits sum so


def test_a_node_at_which_it_stops_is_told_without_its_source() -> None:
    """Its own text begins with a file and a function of its source, which tell nobody of the model."""
    graph = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        net (float[n] x, int64[2] shape) => (float[a,b] y) { [rows] y = Reshape(x, shape) }""")
    feeds = {"x": np.zeros(5, np.float32), "shape": np.array([2, 2], np.int64)}
    with pytest.raises(Exception, match="Reshape") as caught:
        ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    told = ort_session.one_line(caught.value)
    assert told.startswith("Reshape rows stops: ")
    assert "requested shape:{2,2}" in told
    assert not any(part in told for part in (".h:", ".cc:", "Non-zero", "::"))
