"""Execution providers: a check runs where it was asked to, or fails and says what does not."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import LENET, fails, here, onnxfc
from hazards import Net

from onnxfc import CheckOptions, UsageError, check_pair, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.providers import Provider
from onnxfc.proof.sessions import Runner

TELLS = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def has(name: str) -> pytest.MarkDecorator:
    missing = name not in ort.get_available_providers()
    return pytest.mark.skipif(missing, reason=f"this onnxruntime has no {name}; another distribution of it may")


def plugin(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the package {package} is not installed")


azure = has("AzureExecutionProvider")  # it is built in nearly everywhere, and takes no node of an image classifier
tells = pytest.mark.skipif(not TELLS, reason="onnxruntime tells which nodes fall back from 1.24 on")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    rewrite(LENET, prove=False).save(tmp_path / "other.onnx")
    return LENET, tmp_path / "other.onnx"


def test_spellings() -> None:
    assert Provider.parse("CPUExecutionProvider") == Provider("CPUExecutionProvider")
    found = Provider.parse("openvino:device_type=CPU,hardware=GPU,fallback=allow")
    assert found == Provider("openvino", (("device_type", "CPU"),), fallback=True, hardware="gpu")
    assert str(found) == "openvino (device_type=CPU)"
    assert Provider.parse("cpu").found().name == "CPUExecutionProvider"


@pytest.mark.parametrize("text", [":a=1", "cpu:a", "cpu:=1", "cpu:a=1,a=2", "cpu:,", "x:fallback=no", "x:hardware=tpu"])
def test_misspelt(text: str) -> None:
    with pytest.raises(UsageError, match=r"^provider: "):
        CheckOptions(provider=text)


def test_unknown_and_unfit(pair: tuple[Path, Path], tmp_path: Path) -> None:
    told = fails(2, "check", *pair, "--provider", "NopeExecutionProvider", cwd=tmp_path)
    assert "provider NopeExecutionProvider: there is none here; onnxruntime" in told
    assert "CPUExecutionProvider" in told
    assert "none here" in fails(2, "rewrite", pair[0], "out.onnx", "--provider", "nope", cwd=tmp_path)
    told = fails(2, "check", *pair, "--provider", "CPUExecutionProvider:use_arena=0", cwd=tmp_path)
    assert told.endswith("CPUExecutionProvider takes no options; onnxruntime would pass over use_arena")
    told = fails(2, "rewrite", pair[0], "out.onnx", "--no-check", "--provider", "cpu", cwd=tmp_path)
    assert "--provider is for the proof" in told


def test_the_cpu_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = here("check", *pair, "--provider", "cpu", "--report", tmp_path / "r.json")
    assert run.code == 0, run
    assert "provider        CPUExecutionProvider\n" in run.out
    assert "CPU against it  passed, largest deviation 0.0e+00" in run.out
    told = json.loads((tmp_path / "r.json").read_text())["parity"]
    assert told["provider"]["compared"] > 0
    assert (told["conditions"]["provider"], told["conditions"]["on_cpu"]) == ("CPUExecutionProvider", [])
    run = here("rewrite", pair[0], tmp_path / "out.onnx", "--provider", "cpu")
    assert "CPU against it" in run.out


@azure
def test_nodes_that_fall_back_fail_the_check(pair: tuple[Path, Path], tmp_path: Path) -> None:
    run = here("check", *pair, "--provider", "azure")
    assert run.code == 4
    assert "the rewritten model does not load" in run.err
    if TELLS:
        assert "9 nodes are not for AzureExecutionProvider: node_conv2d (Conv), " in run.err
        assert "--provider azure:fallback=allow lets them run on the CPU" in run.err
    else:
        assert "fallback to CPU EP has been explicitly disabled" in run.err
    told = fails(4, "rewrite", pair[0], "out.onnx", "--provider", "azure", cwd=tmp_path)
    assert told.endswith("; nothing was written")


@azure
@tells
def test_a_provider_that_takes_nothing(pair: tuple[Path, Path]) -> None:
    result = check_pair(*pair, options=CheckOptions(provider="azure:fallback=allow"))
    assert not result.passed
    assert result.parity.native.reason.endswith("AzureExecutionProvider takes none of its nodes")
    assert result.parity.provider.status == "not applicable"  # the CPU would be compared with itself


@azure
@pytest.mark.skipif(TELLS, reason="this onnxruntime tells which nodes fall back")
def test_fallback_that_cannot_be_told_is_not_allowed() -> None:
    with pytest.raises(UsageError, match=r"does not tell what falls back; use 1\.24 or newer"):
        Provider.parse("azure:fallback=allow").found()


def test_two_distributions_own_the_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    info = tmp_path / "path" / "onnxruntime_gpu-1.30.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.30.0\n")
    (info / "RECORD").write_text("onnxruntime/__init__.py,,\n")
    (info / "top_level.txt").write_text("onnxruntime\n")  # all that Python 3.10 reads
    run = onnxfc("check", *pair, "--provider", "cpu", PYTHONPATH=f"{info.parent}:{Path(__file__).parents[2]}")
    assert run.code == 2
    assert re.search("the folder onnxruntime belongs to onnxruntime.* and onnxruntime-.*, which overwrote", run.line)


@has("OpenVINOExecutionProvider")
def test_openvino(pair: tuple[Path, Path]) -> None:
    result = check_pair(*pair, options=CheckOptions(provider="openvino:device_type=CPU"))
    assert result.passed, result.parity.summary()
    parity = result.parity
    assert parity.conditions.provider == "OpenVINOExecutionProvider (device_type=CPU)"
    assert 0 < parity.provider.deviation < 1e-4
    assert any(item.noise for item in parity.native.outputs)


@plugin("onnxruntime_ggml")
def test_a_plugin_that_leaves_nodes(pair: tuple[Path, Path]) -> None:
    """It has no MaxPool."""
    result = check_pair(*pair, options=CheckOptions(provider="ggml"))
    assert "nodes are not for ggml: node_conv2d (Conv), " in result.parity.native.reason


@plugin("onnxruntime_ggml")
def test_a_plugin_computes() -> None:
    net = Net()
    conv = net.op("Conv", net.input("image", [1, 2, 40]), net.random(6, 2, 5), net.random(6), strides=[2], out="map")
    model = ModelFile.open(net.model(conv))
    image = {"image": net.noise(1, 2, 40)}
    runner = Runner(model, [], CheckOptions(provider="ggml").engine)
    found, want = runner.run(image)["map"], Runner(model, [], CheckOptions().engine).run(image)["map"]
    assert runner.fallen == ()
    assert np.abs(found - want).max() < 1e-2


@plugin("onnxruntime_ep_openvino")
def test_a_plugin_without_a_device(pair: tuple[Path, Path]) -> None:
    """OpenVINO's plugin runs on Intel's processors alone."""
    try:
        passed = check_pair(*pair, options=CheckOptions(provider="OpenVINOExecutionProvider")).passed
    except UsageError as error:
        assert "finds no device on this machine that it can use" in str(error)  # noqa: PT017
    else:
        assert passed


# A plugin for processors of every make, whose package does not tell its provider's name. It takes few operators, and
# Convs of declared sizes alone.


def classifier(*, fc: bool, factor: float = 1.0) -> onnx.ModelProto:
    """An FC layer, or the Conv that it is, on maps of 4x4."""
    net = Net()
    x = net.op("Relu", net.op("Conv", net.input("image", [1, 2, 6, 6]), net.random(3, 2, 3, 3)))
    weight, bias = net.rng.standard_normal((5, 48)) / 7, net.rng.standard_normal(5)
    if fc:
        x = net.op("Reshape", x, net.ints(1, 48))
        return net.model(net.op("Gemm", x, net.const(weight), net.const(bias), transB=1, out="scores"))
    x = net.op("Conv", x, net.const(weight.reshape(5, 3, 4, 4) * factor), net.const(bias))
    return net.model(net.op("Reshape", x, net.ints(1, 5), out="scores"))


@plugin("nxrt_ep_cpu")
def test_a_whole_check_on_a_plugin(tmp_path: Path) -> None:
    onnx.save(classifier(fc=True), tmp_path / "a.onnx")
    onnx.save(classifier(fc=False), tmp_path / "b.onnx")
    run = onnxfc("check", "a.onnx", "b.onnx", "--provider", "nxrt_ep_cpu", "--report", "r.json", cwd=tmp_path)
    assert run.code == 0, run
    run = onnxfc("check", "a.onnx", "b.onnx", "--provider", "nxrt_ep_cpu", cwd=tmp_path)
    assert "provider        cpu_ep\n" in run.out
    told = json.loads((tmp_path / "r.json").read_text())["parity"]
    assert (told["conditions"]["provider"], told["conditions"]["on_cpu"]) == ("cpu_ep", [])
    assert told["native"]["compared"] == 20
    assert told["provider"]["status"] == "passed"
    assert 0 < told["provider"]["deviation"] < 1e-4  # other kernels than the CPU's own
    onnx.save(classifier(fc=False, factor=1.001), tmp_path / "b.onnx")
    assert onnxfc("check", "a.onnx", "b.onnx", "--provider", "nxrt_ep_cpu", cwd=tmp_path).code == 4


@plugin("nxrt_ep_cpu")
def test_a_plugin_that_takes_no_free_size(tmp_path: Path) -> None:
    onnx.save(classifier(fc=True), tmp_path / "a.onnx")
    told = fails(4, "rewrite", "a.onnx", "b.onnx", "--provider", "nxrt_ep_cpu", cwd=tmp_path)
    assert "3 nodes are not for cpu_ep: " in told
    assert "node_scores (Conv); --provider nxrt_ep_cpu:fallback=allow lets them run on the CPU; nothing" in told


@plugin("nxrt_ep_cpu")
def test_a_plugin_that_takes_no_maximum(pair: tuple[Path, Path], tmp_path: Path) -> None:
    told = fails(4, "rewrite", LENET, "out.onnx", "--provider", "nxrt_ep_cpu", cwd=tmp_path)
    assert "9 nodes are not for cpu_ep: node_conv2d (Conv), " in told
    assert "--provider nxrt_ep_cpu:fallback=allow lets them run on the CPU" in told
    again = check_pair(*pair, options=CheckOptions(provider="nxrt_ep_cpu:fallback=allow"))
    assert again.parity.native.reason.endswith("cpu_ep takes none of its nodes")
