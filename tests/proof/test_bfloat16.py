"""bfloat16: of what onnxruntime and operator sets do not have it for, that is what is said."""

from __future__ import annotations

import onnx
import pytest
from hazards import Net, own_crops
from onnx import TensorProto, helper

from onnxfc import check_pair, rewrite
from onnxfc.errors import NothingToRewrite, ProofFailed

HALF, FULL = TensorProto.BFLOAT16, TensorProto.FLOAT


def half(net: Net, *shape: int) -> str:
    """A weight of bfloat16."""
    rows = net.rng.standard_normal(shape) / 6
    name = net.fresh("half")
    net.weights.append(helper.make_tensor(name, HALF, shape, rows.ravel().tolist()))
    return name


def typed(model: onnx.ModelProto, kind: int) -> onnx.ModelProto:
    """With the type of its scores, which cannot be asked for."""
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", kind, [1, 5]))
    return model


def trunk(net: Net) -> str:
    return str(net.op("Relu", net.conv(net.image(1, (8, 8), channels=3), 3, 4)))


def head_in_half(opset: int) -> onnx.ModelProto:
    net = Net(opset=opset)
    x = net.op("Cast", net.op("Flatten", trunk(net)), to=HALF)
    scores = net.op("Cast", net.op("Gemm", x, half(net, 5, 36), transB=1), to=FULL, out="scores")
    return typed(net.model(scores, infer=False), FULL)


def test_a_head_before_there_was_a_conv_of_its_type() -> None:
    with pytest.raises(NothingToRewrite) as found:
        rewrite(head_in_half(17))
    told = "needs an operator on bfloat16 numbers that operator set 17 does not have"
    assert [(item.code, item.reason) for item in found.value.refusals][:1] == [("old-opset", f"Gemm {told}")]


def test_a_head_that_onnxruntime_cannot_run() -> None:
    model = head_in_half(22)
    with pytest.raises(ProofFailed, match=r"the original does not run: .*Could not find an implementation for Gemm"):
        rewrite(model)
    made = rewrite(model, prove=False).model
    assert [node.op_type for node in made.graph.node].count("Conv") == 2
    onnx.checker.check_model(made)


def test_weights_that_are_stored_in_it() -> None:
    """Nothing rounds to it: tolerances are those of float32."""
    net = Net()
    x, weight = net.op("Flatten", trunk(net)), net.op("Cast", half(net, 5, 36), to=FULL)
    model = net.model(net.op("Gemm", x, weight, transB=1, out="scores"))
    done = rewrite(model)
    assert done.parity is not None
    assert done.parity.window.tolerance < 1e-3
    assert done.parity.certificate.status == "holds"
    assert own_crops(model, rewrite(model, prove=False)) < 1e-5


def test_features_that_are_rounded_to_it() -> None:
    net = Net()
    x = net.op("Cast", net.op("Cast", trunk(net), to=HALF), to=FULL)
    model = net.model(net.fc(net.op("Flatten", x), 36, 5, out="scores"))
    done = rewrite(model)
    assert done.parity is not None
    assert 1e-2 < done.parity.window.tolerance < 0.2
    assert done.parity.window.deviation < 1e-5
    assert own_crops(model, rewrite(model, prove=False)) < 1e-5


@pytest.mark.parametrize("which", ["input", "output", "trunk"])
def test_tensors_that_python_cannot_have(which: str) -> None:
    net = Net()
    image = net.input("image", [1, 3, 8, 8], HALF if which == "input" else FULL)
    x = net.op("Relu", net.conv(net.op("Cast", image, to=FULL) if which == "input" else image, 3, 4))
    if which == "trunk":
        x = net.op("Cast", net.op("Flatten", net.op("Cast", x, to=HALF)), to=FULL)
    else:
        x = net.op("Flatten", x)
    if which == "output":
        net.op("Cast", net.fc(x, 36, 5), to=HALF, out="scores")
    else:
        net.fc(x, 36, 5, out="scores")
    model = typed(net.model("scores", infer=False), HALF if which == "output" else FULL)
    told = r"the original cannot be looked at: \w+ is bfloat16, which onnxruntime neither takes from Python nor gives "
    with pytest.raises(ProofFailed, match=told):
        rewrite(model)
    parity = check_pair(model, rewrite(model, prove=False).model).parity
    assert not parity.passed
    assert "is bfloat16" in parity.native.reason
