"""Weights of units that no input wakes: the two files show what no run does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete
from onnx import numpy_helper

from onnxfc import RewriteOptions, check_pair, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.kept_weights import changed


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
