"""What the proof of a large model costs: fewer runs than that of a small one, and all of them again where it fails."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete
from onnx import numpy_helper

from onnxfc import check_pair, rewrite
from onnxfc.proof import reference_run, sessions

NETS = ["lenet_batch.torchscript", "lenet.dynamo", "mini_vgg.torchscript", "mini_resnet.dynamo"]


def passes(monkeypatch: pytest.MonkeyPatch, model: onnx.ModelProto, other: onnx.ModelProto) -> tuple[float, Any]:
    """Native forward passes of a check, and what it found; larger images and batches count as so many."""
    native, counted = 0.0, []
    shape = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    name, native = model.graph.input[0].name, float(np.prod(shape))
    run = sessions.Runner.run

    def counting(self: sessions.Runner, feeds: Mapping[str, Any]) -> Any:
        if name in self.inputs:
            counted.append(feeds[name].size / native)
        return run(self, feeds)

    with monkeypatch.context() as patch:
        patch.setattr(sessions.Runner, "run", counting)
        done = check_pair(model, other, options=CHECK)
    return sum(counted), done


@pytest.mark.parametrize("net", NETS)
def test_passes_of_a_large_model(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(fixture_file(f"{net}.onnx"))
    other = complete(rewrite(model, prove=False))
    small, _ = passes(monkeypatch, model, other)
    monkeypatch.setattr(reference_run, "SMALL", 0)
    large, done = passes(monkeypatch, model, other)
    assert done.passed
    assert large < 13
    assert large < 0.6 * small
    assert done.parity.trunk.status == "passed"
    assert done.parity.shift.status == "not run"
    assert done.parity.crops.cells == 1


@pytest.mark.parametrize("net", NETS)
def test_what_fails_is_looked_at_again_with_all_runs(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(fixture_file(f"{net}.onnx"))
    other = complete(rewrite(model, prove=False))
    name = [node for node in other.graph.node if node.op_type == "Conv"][-1].input[1]
    tensor = next(item for item in other.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.002), name))
    monkeypatch.setattr(reference_run, "SMALL", 0)
    parity = check_pair(model, other, options=CHECK).parity
    assert not parity.passed
    assert all(item.noise is not None for item in parity.native.outputs)


def gated(count: int) -> onnx.ModelProto:
    """A network of so many gates of the whole image."""
    net = Net()
    tensor = net.trunk()
    for _ in range(count):
        gate = net.op("Conv", net.op("GlobalAveragePool", tensor), net.random(3, 3, 1, 1))
        tensor = net.op("Tanh", net.op("Add", tensor, net.op("Mul", tensor, net.op("Sigmoid", gate))))
    return net.model(net.fc(net.op("Flatten", tensor), 60, 5))


def test_a_node_of_a_long_network_costs_what_one_of_a_short_one_does() -> None:
    """In calls of functions: for each Sigmoid all nodes before it were looked at."""
    rewrite(gated(1), check_options=CHECK)  # what is imported and remembered by the first is not counted
    calls = []
    for count in (10, 40, 160):
        profile = cProfile.Profile()
        model = gated(count)
        profile.enable()
        done = rewrite(model, check_options=CHECK)
        profile.disable()
        assert done.parity is not None
        assert done.parity.passed
        calls.append(pstats.Stats(profile).total_calls)
    assert calls[2] - calls[1] < 1.1 * 4 * (calls[1] - calls[0])
