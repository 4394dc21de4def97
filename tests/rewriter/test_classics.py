"""The classic cases, with their numbers; and the light models of the onnx package, with random weights and without."""

from __future__ import annotations

from pathlib import Path

import light
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file

from onnxfc.errors import ProofFailed
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

CHECK = CheckOptions(samples=2)


def after(result: Rewrite) -> list[str]:
    return [item.after for item in result.replacements]


def run(result: Rewrite, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(result.model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0]
    return scores


LIGHT = {
    "bvlc_alexnet": ["Conv 6x6 256→4096", "Conv 1x1 4096→4096", "Conv 1x1 4096→1000"],
    "vgg19": ["Conv 7x7 512→4096", "Conv 1x1 4096→4096", "Conv 1x1 4096→1000"],
    "zfnet512": ["Conv 6x6 512→4096", "Conv 1x1 4096→1024", "Conv 1x1 1024→1000"],
    "resnet50": ["AveragePool 7x7, stride 1", "Conv 1x1 2048→1000"],
    "inception_v1": ["AveragePool 6x6, stride 1", "Conv 1x1 1024→1000"],
    "inception_v2": ["AveragePool 7x7, stride 1", "Conv 1x1 1024→1000"],
    "densenet121": ["AveragePool 7x7, stride 1"],
    "squeezenet": ["AveragePool 13x13, stride 1"],
    "shufflenet": ["AveragePool 7x7, stride 1", "Conv 1x1 544→1000"],
}


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", LIGHT)
def test_light_model_with_random_weights_is_proven(name: str, tmp_path: Path) -> None:
    file = light.randomised(name, tmp_path)
    result = rewrite(file, check_options=CHECK)
    assert after(result) == LIGHT[name]
    assert result.parity is not None
    assert result.parity.window.status == "passed"
    assert result.parity.window.compared >= 1000
    assert result.claim.verdict == "approximate"
    left = {node.op_type for node in result.model.graph.node} & {"Gemm", "MatMul", "Flatten"}
    assert not left
    (tmp_path / "weights").unlink()  # half a gigabyte


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", LIGHT)
def test_light_model_as_it_is(name: str) -> None:
    """Its weights are made by ConstantOfShape: they stay so, and the file stays small."""
    result = rewrite(light.path(name), prove=False)
    assert after(result) == LIGHT[name]
    assert result.model.ByteSize() < light.path(name).stat().st_size + 60_000
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("name", ["bvlc_alexnet", "squeezenet"])
def test_light_model_as_it_is_proves_nothing(name: str) -> None:
    with pytest.raises(ProofFailed, match=r"vacuous.*--data.*--no-check"):
        rewrite(light.path(name), check_options=CHECK)


def test_vgg_at_384_gives_6x6_scores() -> None:
    result = rewrite(light.path("vgg19"), prove=False)
    assert result.claim.native_size == (224, 224)
    assert result.claim.stride == (32, 32)
    assert run(result, np.zeros((1, 3, 384, 384), np.float32)).shape == (1, 1000, 6, 6)


@pytest.mark.parametrize(
    ("file", "replaced", "cells"),
    [
        ("lenet.torchscript.onnx", ["Conv 4x4 8→32", "Conv 1x1 32→10"], (8, 8)),
        ("lenet.dynamo.onnx", ["Conv 4x4 8→32", "Conv 1x1 32→10"], (8, 8)),
        ("head12.torchscript.onnx", ["Conv 12x12 4→20", "Conv 1x1 20→10"], (15, 15)),
        ("mini_alexnet.dynamo.onnx", ["Conv 6x6 8→32", "Conv 1x1 32→32", "Conv 1x1 32→10"], (9, 9)),
        ("mini_vgg.torchscript.onnx", ["Conv 7x7 8→24", "Conv 1x1 24→24", "Conv 1x1 24→10"], (8, 8)),
        ("mini_resnet.torchscript.onnx", ["AveragePool 4x4, stride 1", "Conv 1x1 16→2"], (5, 5)),
        ("mini_squeezenet.dynamo.onnx", ["AveragePool 7x7, stride 1"], (8, 8)),
    ],
)
def test_what_a_head_becomes(file: str, replaced: list[str], cells: tuple[int, int]) -> None:
    result = rewrite(fixture_file(file), prove=False)
    assert after(result) == replaced
    assert result.map_at_twice == cells


def test_fc_weights_are_the_very_same_bytes() -> None:
    original = onnx.load(fixture_file("mini_alexnet.torchscript.onnx"))
    result = rewrite(fixture_file("mini_alexnet.torchscript.onnx"), prove=False).model
    before = {tensor.name: tensor for tensor in original.graph.initializer}
    now = {tensor.name: tensor for tensor in result.graph.initializer}
    assert before.keys() == now.keys()
    for name, tensor in before.items():
        assert now[name].raw_data == tensor.raw_data
    assert list(now["classifier.1.weight"].dims) == [32, 8, 6, 6]


def test_trained_digits_on_a_canvas() -> None:
    """A map over four digits finds each where it is; its cells are not those of crops, as the net is padded."""
    digits = np.load(fixture_file("digits.npz"))
    images, labels = digits["images"], digits["labels"]
    result = rewrite(fixture_file("digits.onnx"))
    side = result.claim.native_size[0]
    canvas = np.zeros((1, 1, 2 * side, 2 * side), np.float32)
    for place in range(4):
        top, left = side * (place // 2), side * (place % 2)
        canvas[0, 0, top : top + side, left : left + side] = images[place].reshape(side, side)
    scores = run(result, canvas)
    stride = result.claim.stride[0]
    for place in range(4):
        cell = scores[0, :, side * (place // 2) // stride, side * (place % 2) // stride]
        assert cell.argmax() == labels[place]
    assert result.parity is not None
    assert 0.01 < result.parity.crops.deviation < 1.0
