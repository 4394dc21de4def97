"""Outputs that no input moves, or that leap: the FC layers before them are compared, masks and signs exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, head, own_crops
from onnx import helper, numpy_helper

from onnxfc import CheckOptions, ProofFailed, check_pair, rewrite
from onnxfc.proof.last_steps import sigmoids, steps
from onnxfc.reports.rewrite import text

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
BOTH = ["torchscript", "dynamo"]


def hidden(exporter: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"hidden.{exporter}.onnx"))


def sigmoid(bias: float, gain: float = 6.0) -> onnx.ModelProto:
    """The usual trunk and one FC layer, whose Sigmoid is near 0 everywhere."""
    net = Net()
    shift = net.const(np.full(10, bias))
    scores = net.op("Gemm", net.flat(), net.random(10, 60, gain=gain), shift, transB=1)
    return net.model(net.op("Sigmoid", scores))


def altered(model: onnx.ModelProto, change: Callable[[onnx.GraphProto], None], *, stranger: bool) -> onnx.ModelProto:
    """The rewrite with one thing wrong; a ``stranger`` has no claim and other names for what its FC layers make."""
    other = complete(rewrite(model, prove=False))
    change(other.graph)
    if stranger:
        del other.metadata_props[:]
        outputs = {info.name for info in other.graph.output} | {info.name for info in other.graph.input}
        for node in other.graph.node:
            node.output[:] = [name if name in outputs else f"their {name}" for name in node.output]
        made = {name.removeprefix("their "): name for node in other.graph.node for name in node.output}
        for node in other.graph.node:
            node.input[:] = [made.get(name, name) for name in node.input]
        del other.graph.value_info[:]
    return other


def head_weight(graph: onnx.GraphProto) -> None:
    """One unit of the FC layer has its kernel mirrored."""
    name = [node for node in graph.node if node.op_type == "Conv"][-1].input[1]
    tensor = next(item for item in graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[3] = values[3, :, :, ::-1]
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def softmax_axis(graph: onnx.GraphProto) -> None:
    node = next(node for node in graph.node if node.op_type == "Softmax")
    node.attribute[0].i = 3


def right(graph: onnx.GraphProto) -> None:
    pass


@pytest.mark.parametrize("exporter", BOTH)
def test_rests_on_the_fc_layer(exporter: str) -> None:
    model = hidden(exporter)
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    [layer] = done.claim.layers
    assert layer.form == "map"
    assert [(rest.output, rest.layers) for rest in done.parity.rests] == [
        ("saturated", (layer.original,)),
        ("dead", (layer.original,)),
    ]
    by_name = {item.name: item for item in done.parity.window.outputs}
    assert by_name[layer.original].compared >= 160
    assert by_name[layer.original].tolerance < 5e-4
    assert by_name["mask"].tolerance == by_name["sign"].tolerance == by_name["plus_minus"].tolerance == 0
    assert done.parity.crops.deviation < 1e-5
    assert own_crops(model, done, varied=False) < 1e-3


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("stranger", [False, True])
@pytest.mark.parametrize("change", [right, head_weight, softmax_axis])
def test_errors_behind_and_before_what_hides(exporter: str, stranger: bool, change: Any) -> None:
    model = hidden(exporter)
    done = check_pair(model, altered(model, change, stranger=stranger), options=CHECK)
    assert done.claim_from == ("derived" if stranger else "metadata")
    assert done.passed == (change is right), done.parity.summary()
    if stranger and change is head_weight:  # nothing in it has the layer's values
        assert "nothing in the second model has the values of FC layer " in done.parity.summary()
        return
    assert [rest.output for rest in done.parity.rests] == ["saturated", "dead"]
    assert done.parity.vacuous is None


def test_without_its_fc_layers_nothing_is_proven() -> None:
    """The claim of an older version names none."""
    model = hidden("dynamo")
    other = altered(model, right, stranger=False)
    kept = [item for item in other.metadata_props if item.key != "onnxfc.layers"]
    del other.metadata_props[:]
    other.metadata_props.extend(kept)
    parity = check_pair(model, other, options=CHECK).parity
    assert parity.vacuous is not None
    assert "--data" in parity.vacuous


@pytest.mark.parametrize("bias", [-14, -16, -17, -18, -20])
def test_sigmoids_near_zero_are_off_by_roundings_of_one(bias: float) -> None:
    done = rewrite(sigmoid(bias), check_options=CHECK)
    assert done.parity is not None
    layer = next(item for item in done.parity.window.outputs if item.name == done.claim.layers[0].original)
    assert layer.passed
    assert layer.deviation < 1e-4
    other = altered(sigmoid(bias), head_weight, stranger=True)
    assert not check_pair(sigmoid(bias), other, options=CHECK).passed


def test_class_numbers_that_are_always_the_same() -> None:
    def body(net: Net, x: str) -> str:
        scores = net.op("Gemm", x, net.random(10, 60), net.const(np.where(np.arange(10) == 4, 1e3, 0)), transB=1)
        return str(net.op("ArgMax", scores, axis=1, keepdims=0))

    done = rewrite(head(body), check_options=CHECK)
    assert done.parity is not None
    assert [rest.problem for rest in done.parity.rests] == ["the same for every input"]


def test_a_layer_whose_units_all_say_the_same_proves_nothing() -> None:
    def body(net: Net, x: str) -> str:
        scores = net.op("MatMul", x, net.const(np.repeat(net.noise(60, 1), 10, axis=1)))
        return str(net.op("Softmax", scores, axis=1))

    with pytest.raises(ProofFailed, match=r"vacuous: .*tells no classes apart; give real inputs with --data"):
        rewrite(head(body), check_options=CHECK)


# Masks


@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("data", [False, True])
def test_a_mask_is_compared_exactly(exporter: str, data: bool) -> None:
    model = onnx.load(fixture_file(f"mask.{exporter}.onnx"))
    images = np.random.default_rng(0).standard_normal((3, 3, 18, 18)).astype(np.float32)
    options = replace(CHECK, data=images if data else None)
    done = rewrite(model, check_options=options)
    assert done.parity is not None
    assert done.parity.native.tolerance == 0
    assert done.parity.native.compared >= 392

    def shifted(graph: onnx.GraphProto) -> None:
        bias = [node for node in graph.node if node.op_type == "Conv"][-1].input[2]
        tensor = next(item for item in graph.initializer if item.name == bias)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.05), bias))

    assert not check_pair(model, altered(model, shifted, stranger=False), options=options).passed


@pytest.mark.parametrize("factor", [1.0, 1.01, 1.1])
def test_a_threshold_that_is_a_little_off(factor: float) -> None:
    """Few values of the tried images lie between 0.3 and 0.303: four samples may have none."""

    net = Net()
    trunk = net.op("Relu", net.conv(net.image(1, (13, 13), 1), 1, 3, strides=[2, 2]))
    mask = net.op("Cast", net.op("Greater", trunk, net.const(0.3)), to=1)
    model = net.model(net.fc(net.op("Flatten", net.op("Mul", trunk, mask)), 108, 3))
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.conditions.samples >= 48

    def moved(graph: onnx.GraphProto) -> None:
        name = next(node for node in graph.node if node.op_type == "Greater").input[1]
        tensor = next(item for item in graph.initializer if item.name == name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(numpy_helper.to_array(tensor) * np.float32(factor)), name))

    assert check_pair(model, altered(model, moved, stranger=False), options=CHECK).passed == (factor == 1)


def test_a_mask_of_one_value_proves_nothing() -> None:
    def body(net: Net, x: str) -> str:
        return str(net.op("Cast", net.op("Greater", net.conv(x, 3, 1), net.const(1e6)), to=1))

    net = Net()
    model = net.model(body(net, net.trunk()))
    data = np.ones((2, 2, 11, 9), np.float32)
    with pytest.raises(ProofFailed, match=r"the same for every input; give real inputs with --data"):
        rewrite(model, check_options=CHECK)
    with pytest.raises(ProofFailed, match=r"the same for every input; give inputs with --data that it answers to"):
        rewrite(model, check_options=replace(CHECK, data=data))


def test_what_is_behind_a_threshold_or_a_sigmoid() -> None:
    nodes = [
        ("Conv", ["x"], "c"), ("Sigmoid", ["c"], "s"), ("Reshape", ["s", "shape"], "r"),
        ("Greater", ["r", "half"], "g"),
        ("Cast", ["g"], "m"), ("Mul", ["m", "two"], "d"), ("Add", ["d", "m"], "a"), ("Mul", ["m", "r"], "masked"),
        ("Where", ["g", "two", "half"], "w"), ("Where", ["g", "r", "half"], "v"), ("Sign", ["half"], "fixed"),
        ("ReduceSum", ["r", "axes"], "years"), ("Add", ["s", "c"], "skip"),
    ]  # fmt: skip
    graph = helper.make_graph([helper.make_node(kind, given, [made]) for kind, given, made in nodes], "g", [], [])
    moving = {made for _, _, made in nodes} - {"fixed"} | {"x"}
    assert steps(graph, moving) == {"g", "m", "d", "a", "w"}
    assert sigmoids(graph, moving) == {"s", "r", "years"}


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_instances_that_are_nearly_nothing(seed: int) -> None:
    """A Sigmoid near 0 of each image of a bag, which is behind no FC layer that has become a Conv of its own."""
    model = onnx.load(fixture_file("bag_scores.dynamo.onnx"))
    scores = next(node for node in model.graph.node if model.graph.output[1].name in node.output)
    name, scores.output[0] = scores.output[0], "logits"
    for node in model.graph.node:
        node.input[:] = ["logits" if item == name else item for item in node.input]
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(value), key) for key, value in (("gain", 3), ("shift", -12))
    )
    model.graph.node.extend(
        [
            helper.make_node("Mul", ["logits", "gain"], ["steep"]),
            helper.make_node("Add", ["steep", "shift"], ["low"]),
            helper.make_node("Sigmoid", ["low"], [name]),
        ]
    )
    done = rewrite(model, check_options=replace(CHECK, seed=seed))
    assert done.parity is not None
    assert done.parity.passed


# What an option allows


def test_an_output_close_to_rounding_names_the_tolerance_that_works() -> None:
    net = Net()
    model = net.model(net.op("Add", net.trunk(), net.const(2e3)))
    with pytest.raises(ProofFailed, match=r"--rtol \S+ allows for that") as caught:
        rewrite(model, check_options=CHECK)
    told = float(str(caught.value).split("--rtol ")[1].split()[0])
    assert rewrite(model, check_options=replace(CHECK, rtol=told)).parity is not None


# Outputs beside a free batch


def test_a_constant_beside_a_free_batch_keeps_its_shape() -> None:
    def body(net: Net, x: str) -> list[str]:
        return [net.fc(x, 60, 10), net.op("Identity", net.const([3.0])), net.op("Identity", net.const([[1.0, 2.0]]))]

    done = rewrite(head(body, batch="N"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.conditions.batches == (1, 2)


@pytest.mark.parametrize("batch", ["N", 1])
def test_an_input_that_passes_through_keeps_its_declared_batch(batch: int | str) -> None:
    net = Net()
    features, state = net.flat(batch), net.input("state", [batch, 7])
    outputs = [net.fc(features, 60, 10), net.op("Identity", state), net.op("Identity", "image")]
    done = rewrite(net.model(*outputs), check_options=CHECK)
    declared = [[d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in done.model.graph.output]
    assert declared[1] == [batch, 7]
    assert declared[2] == [batch, 2, "height", "width"]
    assert done.parity is not None
    assert done.parity.conditions.batches == ((1, 2) if batch == "N" else (1,))


@pytest.mark.parametrize("case", ["saturated-softmax", "mask-output", "constant-output-free-batch"])
def test_shared_cases(case: str) -> None:
    path = CASES / f"{case}.onnx"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    done = rewrite(path, check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.parity.passed


def test_the_report_names_the_layer_that_the_proof_rests_on() -> None:
    done = rewrite(sigmoid(-90), check_options=CHECK)
    assert done.parity is not None
    [rest] = done.parity.rests
    assert f"proof rests on  FC layer {rest.layers[0]}, compared beside {rest.output}, which is " in text(done)
