"""Weights of units that no input wakes: the two files show what no run does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete
from onnx import numpy_helper

from onnxfc import RewriteOptions, check_pair, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.kept_weights import changed
from onnxfc.proof.sessions import Array

FACTORS, SHIFTS, SQUARES = np.float32([[0.5, -2, 1.3], [0.2, 0.1, -0.4], [1.5, 0.3, 0.7]])


def dead() -> onnx.ModelProto:
    """LeNet whose second map is 0 for every image."""
    model = onnx.load(fixture_file("lenet.torchscript.onnx"))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    put(model, conv.input[2], (1,), -1e4)
    return model


def put(model: onnx.ModelProto, name: str, place: tuple[int, ...], value: float) -> None:
    tensor = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[place] = value
    tensor.CopyFrom(numpy_helper.from_array(values, name))


@pytest.mark.parametrize(("place", "at", "value"), [(1, (1, 0, 2, 2), 3.0), (2, (1,), -9e3)])
def test_a_weight_of_a_dead_unit(place: int, at: tuple[int, ...], value: float) -> None:
    original = dead()
    model = complete(rewrite(original, check_options=CHECK))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    put(model, conv.input[place], at, value)
    parity = check_pair(original, model, options=CHECK).parity
    assert (parity.native.status, parity.window.status, parity.trunk.status) == ("passed", "passed", "passed")
    told = f"weight {conv.input[place]} of {conv.name} is not what it is in the first model"
    assert parity.summary() == f"certificate failed: {told}"


def test_what_is_another_weight_on_purpose() -> None:
    """In another number type, of a node that reads something else, or that is another."""
    original = onnx.load(fixture_file("lenet.torchscript.onnx"))
    one, model = ModelFile.open(original), complete(rewrite(original, prove=False))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(item for item in model.graph.initializer if item.name == conv.input[1])
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(values.astype(np.float16), weight.name))
    assert changed(one, ModelFile.open(model)) == ""
    weight.CopyFrom(numpy_helper.from_array(values * np.float32(1.001), weight.name))
    assert changed(one, ModelFile.open(model)).startswith(f"weight {weight.name} of ")
    conv.input[0] = "scaled"
    assert changed(one, ModelFile.open(model)) == ""


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_a_grid_that_was_computed_anew_is_near_enough(exporter: str) -> None:
    """Of a form for one size it is a constant again, a rounding off."""
    options = RewriteOptions(form="conv4d")
    done = rewrite(fixture_file(f"grid_weighed.{exporter}.onnx"), options=options, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed


BEHIND: dict[str, tuple[Callable[[Net, str], str], Array | float, Array | float]] = {
    "factor": (lambda net, x: net.op("Mul", net.const(1.7), x), 1.7, 0),
    "factors": (lambda net, x: net.op("Mul", x, net.const(FACTORS[:, None, None])), FACTORS, 0),
    "quotient": (lambda net, x: net.op("Div", x, net.const(FACTORS[:, None, None])), 1 / FACTORS, 0),
    "sum": (
        lambda net, x: net.op("Add", net.op("Mul", x, net.const(3.0)), net.const(FACTORS[:, None, None])),
        3,
        FACTORS,
    ),
    "difference": (lambda net, x: net.op("Sub", net.const(0.3), x), -1, 0.3),
    "norm": (
        lambda net, x: net.op("BatchNormalization", x, *map(net.const, (FACTORS, SHIFTS, SHIFTS, SQUARES))),
        FACTORS / np.sqrt(SQUARES + 1e-5),
        SHIFTS - SHIFTS * FACTORS / np.sqrt(SQUARES + 1e-5),
    ),
}  # fmt: skip
"""What stands behind a Conv, what each output is multiplied by then, and what is added."""


def folded(kind: str, turned: bool = False) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.NodeProto]:
    """A network whose second channel is 0 for every image, its rewrite with what stands behind the Conv folded into it,
    and that Conv; ``turned``: a ConvTranspose."""
    behind, scale, shift = BEHIND[kind]
    net = Net()
    image = net.image(channels=2, size=(12, 12))
    weight, bias = net.noise(3, 2, 3, 3), net.noise(3)
    bias[1] = -1e4 * np.sign(np.broadcast_to(scale, 3)[1])
    stored = weight.transpose(1, 0, 2, 3) if turned else weight
    conv = net.op("ConvTranspose" if turned else "Conv", image, net.const(stored, "weight"), net.const(bias, "bias"))
    mapped = net.op("Relu", behind(net, conv))
    original = net.model(net.fc(net.op("Flatten", net.op("GlobalMaxPool", mapped)), 3, 5))
    made = complete(rewrite(original, check_options=CHECK))
    first = next(node for node in made.graph.node if node.output[0] == conv)
    relu = next(node for node in made.graph.node if node.op_type == "Relu")
    between = {node.output[0] for node in made.graph.node} - {conv}
    gone = [node for node in made.graph.node if node.op_type in ("Mul", "Div", "Add", "Sub", "BatchNormalization")]
    assert between >= {node.output[0] for node in gone}
    for node in gone:
        made.graph.node.remove(node)
    relu.input[0] = conv
    wide = np.broadcast_to(np.asarray(scale, np.float32), 3)
    values = {"weight": weight * wide[:, None, None, None], "bias": bias * wide + np.float32(shift)}
    values["weight"] = values["weight"].transpose(1, 0, 2, 3) if turned else values["weight"]
    for item in made.graph.initializer:
        if item.name in values:
            item.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[item.name], np.float32), item.name))
    return original, made, first


@pytest.mark.sweep(12)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", BEHIND)
def test_what_an_optimiser_folded_in(kind: str, turned: bool) -> None:
    original, made, conv = folded(kind, turned)
    parity = check_pair(original, made, options=CHECK).parity
    assert parity.passed, parity.summary()
    for name, place in (("weight", (0, 1, 1, 1) if turned else (1, 0, 1, 1)), ("bias", (1,))):
        damaged = onnx.ModelProto.FromString(made.SerializeToString())
        tensor = next(item for item in damaged.graph.initializer if item.name == name)
        put(damaged, name, place, float(numpy_helper.to_array(tensor)[place]) * 1.001)
        parity = check_pair(original, damaged, options=CHECK).parity
        told = f"weight {name} of {conv.name} is not what it is in the first model"
        assert parity.summary() == f"certificate failed: {told}"


def test_a_factor_that_is_still_there_is_not_folded_in() -> None:
    """The weight is multiplied and the product, too: of a channel that no image wakes."""
    original, made, conv = folded("factor")
    mine = ModelFile.open(original)
    assert changed(mine, ModelFile.open(made)) == ""
    made.graph.node.append(next(node for node in original.graph.node if node.op_type == "Mul"))
    assert changed(mine, ModelFile.open(made)) == f"weight bias of {conv.name} is not what it is in the first model"


@pytest.mark.parametrize("kind", ["Gemm", "Gemm turned", "MatMul"])
def test_a_factor_folded_into_a_matrix(kind: str) -> None:
    operator, _, turned = kind.partition(" ")
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((6, 3), np.float32), rng.standard_normal(3, np.float32)

    def model(scale: Array | None) -> ModelFile:
        net, by = Net(), np.float32(1) if scale is None else scale.astype(np.float32)
        stored, more = (weight * by).T if turned else weight * by, [net.const(bias * by)] if operator == "Gemm" else []
        how = {"transB": 1} if turned else {}
        out = net.op(operator, net.input("x", [1, 6]), net.const(stored, "weight"), *more, out="rows", **how)
        return ModelFile.open(net.model(out if scale is not None else net.op("Mul", out, net.const(FACTORS))))

    assert changed(model(None), model(FACTORS)) == ""
    assert changed(model(None), model(FACTORS * np.float32([1, 1.001, 1]))).startswith(
        f"weight {'const_1' if operator == 'Gemm' else 'weight'} of node_rows is not what"
    )
