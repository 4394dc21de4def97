"""Ifs in the head: with a constant condition, with one that is given at run time, nested, and those that must stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from hazards import CHECK, FEATURES, Net, bodied, complete, head, own_crops, proven, refusal, session
from onnx import TensorProto, helper

from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.rewriter.api import rewrite

M = 5

Ops = Callable[[str], list[onnx.NodeProto]]


def branch(name: str, nodes: Sequence[onnx.NodeProto], output: str = "out", *weights: Any) -> onnx.GraphProto:
    info = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(list(nodes), name, [], [info], list(weights))


def one(kind: str, tensor: str, out: str = "out", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, [tensor], [out], **attributes)


def either(net: Net, condition: str, yes: onnx.GraphProto, no: onnx.GraphProto) -> str:
    return str(net.op("If", condition, then_branch=yes, else_branch=no))


def flag(net: Net, *shape: int) -> str:
    net.inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, list(shape)))
    return "flag"


def scores(net: Net, flat: str) -> str:
    return net.fc(flat, FEATURES, M)


@pytest.mark.parametrize("condition", [True, False])
def test_constant_condition(condition: bool) -> None:
    def body(net: Net, flat: str) -> str:
        found = scores(net, flat)
        always = net.const(condition, dtype=np.bool_)
        return either(net, always, branch("yes", [one("Relu", found)]), branch("no", [one("Neg", found)]))

    kinds = {node.op_type for node in proven(head(body)).model.graph.node}
    assert kinds & {"Relu", "Neg"} == {"Relu" if condition else "Neg"}


def test_two_ifs_whose_branches_use_the_same_names() -> None:
    def body(net: Net, flat: str) -> str:
        found, always = scores(net, flat), net.const(True, dtype=np.bool_)
        for _ in range(2):
            nodes = [one("Tanh", found, "x"), one("Exp", "x")]
            found = either(net, always, branch("yes", nodes), branch("no", nodes))
        return found

    proven(head(body))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_condition_that_is_an_input(shape: tuple[int, ...], value: bool) -> None:
    """Both branches are kept, and the condition chooses when the model runs."""

    def body(net: Net, flat: str) -> str:
        found, condition = scores(net, flat), flag(net, *shape)
        yes = branch("yes", [one("Softmax", found, axis=-1)])
        return either(net, condition, yes, branch("no", [one("Tanh", found)]))

    model = head(body)
    done = proven(model, crops=False)
    given = np.full(shape, value)
    assert own_crops(model, done, feed={"flag": given}) < 1e-4
    runs = [
        session(complete(done)).run(None, {"image": np.ones((1, 2, 13, 11), np.float32), "flag": np.full(shape, item)})
        for item in (True, False)
    ]
    assert np.abs(runs[0][0] - runs[1][0]).max() > 0.01


def test_branch_with_weights_of_its_own() -> None:
    def body(net: Net, flat: str) -> str:
        found, condition = scores(net, flat), flag(net)
        weight = onnx.numpy_helper.from_array(net.rng.standard_normal((M, M)).astype(np.float32), "w")
        yes = branch("yes", [helper.make_node("MatMul", [found, "w"], ["out"])], "out", weight)
        return either(net, condition, yes, branch("no", [one("Tanh", found)]))

    model = head(body)
    done = proven(model, crops=False)
    assert own_crops(model, done, feed={"flag": np.array(True)}) < 1e-4


def test_nested() -> None:
    """The inner If reads what its own branch made."""

    def body(net: Net, flat: str) -> str:
        found, condition = scores(net, flat), flag(net)
        inner = helper.make_node(
            "If",
            [condition],
            ["out"],
            then_branch=branch("a", [one("Exp", "x", "a")], "a"),
            else_branch=branch("b", [one("Neg", "x", "b")], "b"),
        )
        yes = branch("yes", [one("Tanh", found, "x"), inner])
        return either(net, condition, yes, branch("no", [one("Sigmoid", found)]))

    model = head(body)
    done = proven(model, crops=False)
    for value in (True, False):
        assert own_crops(model, done, feed={"flag": np.array(value)}) < 1e-4


def test_branch_that_gives_an_outer_tensor() -> None:
    def body(net: Net, flat: str) -> str:
        found, condition = scores(net, flat), flag(net)
        return either(net, condition, branch("yes", [one("Identity", found)]), branch("no", [one("Tanh", found)]))

    model = head(body)
    done = proven(model, crops=False)
    assert own_crops(model, done, feed={"flag": np.array(True)}) < 1e-4


def test_in_the_trunk() -> None:
    def body(net: Net, tensor: str) -> str:
        condition = flag(net)
        chosen = either(net, condition, branch("yes", [one("Relu", tensor)]), branch("no", [one("Exp", tensor)]))
        return scores(net, net.op("Flatten", chosen))

    model = bodied(body)
    done = proven(model, crops=False)
    for value in (True, False):
        assert own_crops(model, done, feed={"flag": np.array(value)}) < 1e-4


def test_branches_of_different_shape_are_refused() -> None:
    """A Where would spread the one over the other, which the If does not."""

    def body(net: Net, flat: str) -> str:
        found, condition = scores(net, flat), flag(net)
        axes = onnx.numpy_helper.from_array(np.array([1]), "axes")
        yes = branch("yes", [helper.make_node("ReduceSum", [found, "axes"], ["out"])], "out", axes)
        return either(net, condition, yes, branch("no", [one("Tanh", found)]))

    assert refusal(head(body, infer=False)).code == "subgraph"


def test_condition_that_the_image_decides_is_each_cells_own() -> None:
    """One image decides for itself, and so does each window; with a free batch all images would decide together."""

    def body(net: Net, flat: str) -> str:
        found = scores(net, flat)
        best = net.axes("ReduceMax", found, [0, 1], keepdims=0)
        condition = net.op("Greater", best, net.const(0.0))
        return either(net, condition, branch("yes", [one("Exp", found)]), branch("no", [one("Tanh", found)]))

    kinds = [node.op_type for node in proven(head(body)).model.graph.node]  # each cell equals its crop
    assert "Where" in kinds
    assert "If" not in kinds
    assert refusal(head(body), dynamic_batch=True).code == "mixes-batch"


def with_function(defaults: Sequence[onnx.AttributeProto]) -> onnx.ModelProto:
    """A head that is a model-local function, whose activation has its alpha from an attribute of the function."""
    act = helper.make_node("LeakyRelu", ["m"], ["Y"])
    act.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT))
    nodes = [helper.make_node("Flatten", ["X"], ["f"]), helper.make_node("MatMul", ["f", "W"], ["m"]), act]
    function = helper.make_function("own", "Head", ["X", "W"], ["Y"], nodes, [helper.make_opsetid("", 17)])
    function.attribute_proto.extend(defaults)
    if not defaults:
        function.attribute.append("alpha")
    net = Net()
    given = {} if defaults else {"alpha": 0.7}
    out = net.op("Head", net.trunk(), net.random(FEATURES, M), domain="own", **given)
    model = net.model(out, infer=False, functions=[function])
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(out, TensorProto.FLOAT, [1, M]))
    return model


@pytest.mark.parametrize("default", [True, False])
def test_function_with_an_attribute(default: bool) -> None:
    """The inliner leaves out what a function's attribute is where the call does not say."""
    done = proven(with_function([helper.make_attribute("alpha", 0.7)] if default else []))
    [act] = [node for node in done.model.graph.node if node.op_type == "LeakyRelu"]
    assert [item.f for item in act.attribute] == [pytest.approx(0.7)]


def test_what_is_inlined_wrongly_is_found() -> None:
    """The proof also runs the file as it stands."""
    model = with_function([helper.make_attribute("alpha", 0.7)])
    done = rewrite(model, check_options=CHECK)
    wrong = complete(done)
    for node in wrong.graph.node:
        if node.op_type == "LeakyRelu":
            node.attribute[0].f = 0.01
    original = onnx.inliner.inline_local_functions(model)
    parity = check(ModelFile.open(original), ModelFile.open(wrong), done.claim, CHECK, source=ModelFile.open(model))
    assert parity.native.status == "failed"
    assert "once it is inlined" in parity.native.reason
