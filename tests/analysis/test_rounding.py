"""Pools that round up (``ceil_mode``) go on so where branches meet only so; values come from PyTorch's own network."""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHANNELS, Net, complete, own_crops, proven, session
from onnx import numpy_helper

from onnxfc import Geometry, RewriteOptions, rewrite

SIZES = ((33, 47), (40, 31), (65, 34), (38, 51))
EXPORTERS = ("torchscript", "dynamo")


def image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(1, 3, *size)).astype(np.float32)


def network(exporter: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """PyTorch's network, exported for every size: its scores, the map before its pool, the FC layer's weights."""
    model = onnx.load(fixture_file(f"mini_resnet_d_hw.{exporter}.onnx"))
    nodes = {node.op_type: node for node in model.graph.node}
    pool = nodes.get("GlobalAveragePool") or nodes["ReduceMean"]
    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    model.graph.output.append(onnx.ValueInfoProto(name=pool.input[0]))
    run = session(model)
    scores, features = run.run(None, {run.get_inputs()[0].name: image(size)})
    return scores, features, *(weights[name] for name in nodes["Gemm"].input[1:])


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_one_score_vector_at_every_size(exporter: str) -> None:
    path = fixture_file(f"mini_resnet_d.{exporter}.onnx")
    done = rewrite(path, options=RewriteOptions(global_pool="keep"))
    assert done.parity is not None
    assert done.parity.trunk.status == "passed"
    assert any(size[0] % 8 for size in done.parity.trunk.sizes), "off the grid, too"
    run = session(complete(done))
    for size in SIZES:
        (found,) = run.run(None, {run.get_inputs()[0].name: image(size)})
        np.testing.assert_allclose(found, network(exporter, size)[0], atol=2e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cells_at_every_size(exporter: str) -> None:
    done = rewrite(fixture_file(f"mini_resnet_d.{exporter}.onnx"))
    model = complete(done)
    run, geometry = session(model), Geometry.from_model(model)
    assert (geometry.size_step, geometry.stride) == ((1, 1), (8, 8))
    for size in SIZES:
        (found,) = run.run(None, {run.get_inputs()[0].name: image(size)})
        _, features, weight, bias = network(exporter, size)
        cells = features.shape[2] - 3, features.shape[3] - 3
        assert found.shape[2:] == cells == geometry.cells(*size)
        for y, x in product(*map(range, cells)):
            want = weight @ features[0, :, y : y + 4, x : x + 4].mean((1, 2)) + bias
            np.testing.assert_allclose(found[0, :, y, x], want, atol=2e-6)


@pytest.mark.parametrize("pool", ["window", "keep"])
def test_a_pool_that_moves_by_one_has_nothing_to_round(pool: Literal["window", "keep"]) -> None:
    net = Net()
    most = net.op("MaxPool", net.trunk(), kernel_shape=[2, 2], ceil_mode=1)
    model = net.model(net.fc(net.op("Flatten", most), CHANNELS * 4 * 3, 5))
    assert own_crops(model, proven(model, global_pool=pool)) < 1e-4  # which is exact
