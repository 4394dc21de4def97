"""Gigabytes at the speed of a file copy; run with ``pytest -m large`` (5 GB of disk)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import ROOT, environment
from file_models import external, mlp, model, write
from onnx import helper, numpy_helper

from onnxfc.io.model_file import ModelFile

pytestmark = pytest.mark.large

PEAK = """
import sys, resource, onnx
from onnxfc.io.model_file import ModelFile, SaveOptions
peak = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024
before = peak()
model = ModelFile.open(sys.argv[1])
proto = onnx.ModelProto()
proto.CopyFrom(model.proto)
model = model.with_proto(proto)
if sys.argv[3] == "permute":
    tensor = proto.graph.initializer[int(sys.argv[4])]
    values = model.array(tensor)
    tensor.CopyFrom(model.tensor(tensor.name, values.T.copy()))
    del values
if sys.argv[3] == "many":
    for i in range(int(sys.argv[4])):
        proto.graph.initializer.add().CopyFrom(proto.graph.initializer[0])
        proto.graph.initializer[-1].name = f"again{i}"
model.save(sys.argv[2])
print(peak() - before)
"""


def peak(source: Path, out: Path, *what: str) -> int:
    """MB of memory beyond the interpreter's that opening and saving takes."""
    arguments = what or ("plain",)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(source), str(out), *arguments], capture_output=True, check=True, text=True
    )
    return int(done.stdout)


@pytest.fixture(scope="module")
def vgg_sized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """553 MB of noise in the initializers of VGG-16: 13 convolutions, fc6 to fc8."""
    random = np.random.default_rng(0)
    channels = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    shapes = [(m, c, 3, 3) for c, m in pairwise(channels)]
    shapes += [(4096, 25088), (4096, 4096), (1000, 4096)]
    proto = mlp()
    for i, shape in enumerate(shapes):
        proto.graph.initializer.append(numpy_helper.from_array(random.random(shape, dtype=np.float32), f"v{i}"))
    path = tmp_path_factory.mktemp("vgg") / "in.onnx"
    path.write_bytes(proto.SerializeToString())
    assert path.stat().st_size > 550e6
    return path


def test_as_fast_as_a_copy(vgg_sized: Path) -> None:
    """The median of five ratios, each measured in turn."""
    out = vgg_sized.parent / "out.onnx"
    ratios = []
    for _ in range(5):
        out.unlink(missing_ok=True)
        os.sync()  # neither pays for what the other left to be written
        start = time.perf_counter()
        subprocess.run(["cp", str(vgg_sized), str(out)], check=True)
        copied = time.perf_counter() - start
        out.unlink()
        os.sync()
        start = time.perf_counter()
        opened = ModelFile.open(vgg_sized)
        proto = onnx.ModelProto()
        proto.CopyFrom(opened.proto)
        opened.with_proto(proto).save(out)
        ratios.append((time.perf_counter() - start) / copied)
    print(f"ratios to cp: {', '.join(f'{r:.2f}' for r in ratios)}")
    assert sorted(ratios)[2] <= 2.5
    assert subprocess.run(["cmp", str(vgg_sized), str(out)]).returncode == 0


def test_memory(vgg_sized: Path) -> None:
    used = peak(vgg_sized, vgg_sized.parent / "out.onnx")
    print(f"{used} MB")
    assert used <= 150
    fc6 = next(i for i, t in enumerate(ModelFile.open(vgg_sized).proto.graph.initializer) if t.name == "v13")
    used = peak(vgg_sized, vgg_sized.parent / "out.onnx", "permute", str(fc6))
    print(f"{used} MB with a weight of 411 MB permuted")
    assert used <= 2 * 411 + 150


@pytest.mark.parametrize("form", ["inline grows", "external"])
def test_beyond_two_gigabytes(tmp_path: Path, form: str) -> None:
    """From 0.6 GB inline to 2.4 GB, which must go external; and 2.4 GB that is external already."""
    rows = 150_000
    path = tmp_path / "in.onnx"
    if form == "external":
        proto = mlp()
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(4 * rows * 4096)
            file.seek(-4096, os.SEEK_END)
            file.write(b"\x01" * 4096)
        big = onnx.TensorProto(name="big", data_type=1, dims=[rows, 1024])
        proto.graph.initializer.extend([big] * 4)
        for i, tensor in enumerate(proto.graph.initializer[4:]):
            tensor.name = f"big{i}"
            external(tensor, "w.bin", str(i * rows * 4096), str(rows * 4096))
        path.write_bytes(proto.SerializeToString())
        used = peak(path, tmp_path / "out.onnx")
    else:
        values = np.zeros((rows, 1024), np.float32)
        values[-1] = np.frombuffer(b"\x01" * 4096, np.float32)
        graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(values, "big")])
        graph.output.append(helper.make_tensor_value_info("big", 1, values.shape))
        path.write_bytes(helper.make_model(graph).SerializeToString())
        used = peak(path, tmp_path / "out.onnx", "many", "3")
    print(f"{used} MB")
    assert used <= 150
    assert (tmp_path / "out.onnx").stat().st_size < 20_000
    saved = ModelFile.open(tmp_path / "out.onnx")
    big = saved.proto.graph.initializer[-1]
    assert saved.array(big)[-1].tobytes() == b"\x01" * 4096
    skeleton = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert sum(t.data_location for t in skeleton.graph.initializer) == 4
    shutil.rmtree(tmp_path)


WIDE, OUTPUTS = 2048, 2250  # channels; outputs of each of two FC layers side by side
ONE = 4 * OUTPUTS * WIDE * 64  # bytes of the weight of one


@pytest.fixture(scope="module")
def beyond(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of 2.36 GB: Conv, Relu, two FC layers of 8x8 places, whose first rows are noise and the rest zeros.

    Two, since onnxruntime at its default level takes no Conv weight above 2 GB.
    """
    folder = tmp_path_factory.mktemp("beyond")
    with (folder / "w.bin").open("wb") as file:
        for start in (0, ONE):
            file.seek(start)
            file.write((np.random.default_rng(start).standard_normal((64, WIDE * 64), np.float32) / 300).tobytes())
        file.truncate(2 * ONE)
    random = np.random.default_rng(2)
    weights = {
        "w": random.standard_normal((WIDE, 3, 2, 2), np.float32),
        "v": random.standard_normal((10, 2 * OUTPUTS), np.float32) / 10,
        "b": random.standard_normal(10, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Flatten", ["r"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "big0"], ["h0"], name="fc0", transB=1),
        helper.make_node("Gemm", ["f", "big1"], ["h1"], name="fc1", transB=1),
        helper.make_node("Concat", ["h0", "h1"], ["h"], name="join", axis=1),
        helper.make_node("Gemm", ["h", "v", "b"], ["y"], name="fc2", transB=1),
    ]
    proto = model(nodes, [numpy_helper.from_array(a, n) for n, a in weights.items()], [1, 3, 16, 16], [1, 10])
    for i in range(2):
        big = proto.graph.initializer.add(name=f"big{i}", data_type=1, dims=[OUTPUTS, WIDE * 64])
        external(big, "w.bin", str(i * ONE), str(ONE))
    return write(folder / "in.onnx", proto)


def usage(*args: object) -> dict[str, float]:
    """Peak memory in MB of one onnxfc command, and the part of it that no file stands behind."""
    launcher = ROOT / "benchmarks" / "usage.py"
    command = [sys.executable, "-I", "-S", launcher, sys.executable, "-m", "onnxfc", *args]
    done = subprocess.run(list(map(str, command)), env=environment(), capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["code"] == 0, done.stderr
    print(args[0], figures)
    return {key: figures[key] / 1e6 for key in ("peak", "anonymous")}


def test_beyond_two_gigabytes_is_rewritten_and_checked(beyond: Path) -> None:
    """The weights are in memory as pages of their file only; and those once, not once for each model."""
    out, size = beyond.with_name("out.onnx"), 2 * ONE / 1e6
    proven = usage("rewrite", beyond, out, "-q")
    assert proven["anonymous"] < 60 + 150
    assert proven["peak"] < size + 60 + 2 * 150
    assert out.stat().st_size < 500_000
    assert out.with_name("out.onnx.data").stat().st_size >= 2 * ONE > 2**31
    assert usage("check", beyond, out, "-q")["anonymous"] < 60 + 150
    assert usage("inspect", out)["peak"] < 60 + 50
    assert usage("rewrite", beyond, out, "-q", "--no-check")["peak"] < 60 + 150
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED  # or it takes 10 GB
    made = ort.InferenceSession(str(out), options, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 20, 18), np.float32)
    scores = made.run(None, {"x": image})[0]
    assert scores.shape == (1, 10, 3, 2)
    assert scores.std() > 0


def test_above_two_gigabytes_and_permuted(beyond: Path) -> None:
    """A weight of 1.18 GB that must be turned is in memory, and once more while onnxruntime loads it; no other is."""
    proto = onnx.load(beyond, load_external_data=False)
    next(t for t in proto.graph.initializer if t.name == "big1").dims[:] = [WIDE * 64, OUTPUTS]
    proto.graph.node[4].attribute[0].i = 0
    turned, out = write(beyond.with_name("turned.onnx"), proto), beyond.with_name("turned.out.onnx")
    assert usage("rewrite", turned, out, "-q")["anonymous"] < 2 * ONE / 1e6 + 60 + 150
    written = ModelFile.open(out)
    now = written.array(next(t for t in written.proto.graph.initializer if t.name == "big1")).reshape(OUTPUTS, -1)
    was = np.memmap(beyond.with_name("w.bin"), np.float32, "r", ONE, (WIDE * 64, OUTPUTS))
    for row in (0, 1, OUTPUTS - 1):
        np.testing.assert_array_equal(now[row], was[:, row])
