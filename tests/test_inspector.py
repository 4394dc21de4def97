"""``onnxfc inspect``: what a model is and what a rewrite would do, without running it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_models import headless, tokens
from cli_runs import environment, listing, processor_seconds, unwrapped
from click.testing import CliRunner
from fixture_files import fixture_file, fixture_models
from onnx import helper, numpy_helper
from schemas import follows

from onnxfc import Geometry, UsageError, inspect, inspector, rewrite
from onnxfc.cli.main import main
from onnxfc.shapes.macs import multiply_adds

ALL = fixture_models()


def run(*args: object) -> Any:
    return CliRunner().invoke(main, ["inspect", *map(str, args)])


@pytest.mark.sweep(40)
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_fixture(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON follows its schema, and agrees with what a rewrite then does."""
    seen = inspect(path)
    with monkeypatch.context() as once:  # all texts are of one inspection
        once.setattr(inspector, "inspect", lambda *_, **__: seen)
        document = json.loads(run(path, "--json").output)
        follows(document, "inspect")
        assert document["status"] == seen.status
        assert run(path).exit_code == run(path, "-v").exit_code == 0
    if seen.status == "refused":
        assert seen.refusals
        assert seen.geometry is seen.cost is None
        return
    done = rewrite(path, prove=False)
    assert seen.claim == done.claim
    assert seen.replacements == done.replacements
    assert seen.geometry == Geometry.from_model(done.file)
    assert seen.cost is not None
    assert seen.cost.cells == (done.map_at_twice or seen.cost.cells)


@pytest.mark.parametrize("name", ["lenet.dynamo", "mini_alexnet.dynamo", "se_net.torchscript", "keras_flatten.export"])
def test_rewritten_models(name: str, tmp_path: Path) -> None:
    """The same geometry, verdict and costs, from the rewritten file alone."""
    before, out = inspect(fixture_file(f"{name}.onnx")), tmp_path / "out.onnx"
    rewrite(fixture_file(f"{name}.onnx"), prove=False).save(out)
    seen = inspect(out)
    assert seen.status == "rewritten"
    assert (seen.geometry, seen.claim) == (before.geometry, before.claim)
    assert seen.cost is not None
    assert before.cost is not None
    assert (seen.cost.cells, seen.cost.dense) == (before.cost.cells, before.cost.dense)
    assert seen.cost.activations == before.cost.activations
    assert [(item.stride, item.field, item.extent) for item in seen.stages] == [
        (item.stride, item.field, item.extent) for item in before.stages
    ]
    follows(json.loads(run(out, "--json").output), "inspect")
    assert "rewritten by onnxfc" in run(out).output


def test_lenet_by_hand() -> None:
    """5x5 Conv, 2x2 pool, twice, on 28x28 pixels; FC 128 → 32 → 10."""
    seen = inspect(fixture_file("lenet.dynamo.onnx"), at=(36, 40))
    assert [(head.inputs, head.outputs, head.parameters) for head in seen.heads] == [(128, 32, 4128), (32, 10, 330)]
    assert seen.native_size == (28, 28)
    stages = [(item.stride, item.field, item.start, item.extent) for item in seen.stages]
    assert stages == [
        (("1", "1"), (5, 5), (0, 0), (24, 24)),
        (("2", "2"), (14, 14), (0, 0), (8, 8)),
        (("4", "4"), (16, 16), (0, 0), (4, 4)),
    ]
    assert seen.cost is not None
    assert seen.cost.cells == (3, 4)
    first, second = next(iter(seen.inputs))[1][1], 8
    conv = [t.dims for t in onnx.load(fixture_file("lenet.dynamo.onnx")).graph.initializer if len(t.dims) == 4]
    (a, _, _, _), (b, _, _, _) = conv
    native = 24 * 24 * a * first * 25 + second * second * b * a * 25 + 128 * 32 + 32 * 10
    assert seen.cost.crops == 12 * native
    # 36x40: 32x36 and 12x14 elements, 6x7 behind the second pool, 3x4 cells.
    assert seen.cost.dense == 32 * 36 * a * first * 25 + 12 * 14 * b * a * 25 + 3 * 4 * (128 * 32 + 32 * 10)
    assert seen.cost.speedup == pytest.approx(seen.cost.crops / seen.cost.dense)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak")
@pytest.mark.parametrize("name", ["lenet.dynamo", "mini_vgg.dynamo", "mini_resnet.dynamo"])
def test_memory_is_what_onnxruntime_takes(name: str, tmp_path: Path) -> None:
    """At most, and no more than three times as much: some of it is kept in the kernels' blocks."""
    rewrite(fixture_file(f"{name}.onnx"), prove=False).save(tmp_path / "any.onnx")
    cost = inspect(tmp_path / "any.onnx", at=(1024, 1024)).cost
    assert cost is not None
    code = """if True:
    import sys
    import numpy as np, onnxruntime as ort
    def peak():
        return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) << 10
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(sys.argv[1], options)
    [image] = session.get_inputs()
    feed = {image.name: np.ones((1, image.shape[1], 1024, 1024), np.float32)}
    before = peak()
    session.run(None, feed)
    print(peak() - before)
    """
    command = [sys.executable, "-c", code, str(tmp_path / "any.onnx")]
    taken = int(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)
    assert 0.3 * cost.activations < taken < 1.1 * cost.activations
    model = onnx.load(tmp_path / "any.onnx")
    assert cost.weights == sum(len(numpy_helper.to_array(tensor).tobytes()) for tensor in model.graph.initializer)


def test_text() -> None:
    lines = unwrapped(run(fixture_file("lenet.dynamo.onnx"), "--at", "36x40").output).splitlines()
    told = {line[:15].strip(): line[16:] for line in lines if line[:15].strip()}
    assert told["status"] == "an original that `onnxfc rewrite` takes"
    assert told["native size"] == "28x28 px"
    assert told["cell"] == "every 4x4 px; reads 28x28 px from 0 on"
    assert told["image sizes"] == "from 28x28 px on"
    assert told["halo"] == "0 px before and 0 px behind"
    assert told["verdict"].startswith("exact: ")
    assert told["cells"].startswith("3x4 at 36x40 px; ")
    assert told["cells"].endswith(" times fewer")
    assert any("Gemm 128 → 32, 4.1 k parameters; " in line for line in lines)


def test_refusals_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "tokens.onnx"
    onnx.save(tokens(), path)
    result = run(path)
    assert result.exit_code == 0
    assert "an original that `onnxfc rewrite` leaves alone" in result.output
    assert "refused         [no-image-input] no input is an image: x [1, 12]" in result.output
    follows(json.loads(run(path, "--json").output), "inspect")
    table = inspect(fixture_file("table.dynamo.onnx"))
    assert table.status == "refused"
    assert table.refusals[0].advice
    assert inspect(headless()).status in {"refused", "rewritable"}


def test_native_size_that_is_not_in_the_graph() -> None:
    path = fixture_file("mini_resnet_hw.dynamo.onnx")
    assert inspect(path).refusals[0].code == "unknown-native-size"
    result = run(path, "--size", "64x64")
    assert "native size     64x64 px" in result.output
    assert "refused" not in result.output


def test_usage(tmp_path: Path) -> None:
    assert run(tmp_path / "none.onnx").exit_code == 1
    assert run(fixture_file("lenet.dynamo.onnx"), "--at", "20x20").exit_code == 2
    with pytest.raises(UsageError, match="is too small for this model, its smallest image has 28x28 px"):
        inspect(fixture_file("lenet.dynamo.onnx"), at=(20, 20))


def test_nothing_is_written_and_onnxruntime_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(fixture_file("mini_vgg.dynamo.onnx").read_bytes())
    before = listing(tmp_path)
    code = "import sys; from onnxfc.cli.main import main\ntry: main()\nfinally: print('onnxruntime' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", "model.onnx"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "False"
    assert listing(tmp_path) == before


def _large(path: Path) -> None:
    """A quarter of a VGG's head: 7x7x512 features, 1024 units, 103 MB of weights."""
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["a"], name="conv", strides=[4, 4]),
        helper.make_node("Flatten", ["a"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["scores"], name="gemm", transB=1),
    ]
    weights = [
        numpy_helper.from_array(np.ones((512, 3, 4, 4), np.float32), "w"),
        numpy_helper.from_array(np.zeros((1024, 25088), np.float32), "v"),
    ]
    given = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 28, 28])
    made = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 1024])
    graph = helper.make_graph(nodes, "large", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to measure memory")
def test_large_models_are_not_read(tmp_path: Path) -> None:
    """103 MB of weights: with them in memory it would be more than 150 MB."""
    path = tmp_path / "large.onnx"
    _large(path)
    code = (
        "from onnxfc.cli.main import main\n"
        "try: main()\n"
        "finally: print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    before = processor_seconds()
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(path)],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert processor_seconds() - before < 5
    assert int(done.stdout.splitlines()[-1]) < 100_000  # kB; not ru_maxrss, which a child inherits
    assert "FC layer        gemm: Gemm 25088 → 1024, 25.7 M parameters" in done.stdout


def test_multiply_adds() -> None:
    shapes = {"x": (1, 3, 8, 8), "w": (4, 3, 3, 3), "y": (1, 4, 6, 6), "t": (3, 5, 2, 2), "z": (1, 5, 16, 16)}
    shapes |= {"a": (2, 7), "b": (7, 3), "c": (2, 3), "at": (7, 2)}
    count = {
        helper.make_node("Conv", ["x", "w"], ["y"]).SerializeToString(): 4 * 36 * 27,
        helper.make_node("ConvTranspose", ["x", "t"], ["z"]).SerializeToString(): 3 * 64 * 20,
        helper.make_node("Gemm", ["a", "b"], ["c"]).SerializeToString(): 42,
        helper.make_node("Gemm", ["at", "b"], ["c"], transA=1).SerializeToString(): 42,
        helper.make_node("MatMul", ["a", "b"], ["c"]).SerializeToString(): 42,
        helper.make_node("Relu", ["a"], ["c"]).SerializeToString(): 0,
        helper.make_node("MatMul", ["a", "unknown"], ["c"]).SerializeToString(): 0,
    }
    for node, expected in count.items():
        assert multiply_adds([onnx.NodeProto.FromString(node)], shapes) == expected
