"""Operators on integers in trunk and head, each as onnxruntime's quantiser writes it, against the same on crops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hazards import CHANNELS, FEATURES, Net, bodied, complete, own_crops, refusal
from onnx import helper
from onnxruntime.quantization import QuantFormat
from quantised import by_onnxruntime, optimised

from onnxfc.builder.state import GlobalPool
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

M = 6
FORMS = [QuantFormat.QDQ, QuantFormat.QOperator]
Body = Callable[[Net, str], str]


def classified(net: Net, tensor: str, features: int = FEATURES) -> str:
    return net.fc(str(net.op("Flatten", tensor)), features, M)


def leaky(net: Net, before: str) -> str:
    return classified(net, str(net.op("LeakyRelu", before, alpha=0.2)))


def gated_window(net: Net, before: str) -> str:
    """An activation of what is flattened already."""
    return net.fc(str(net.op("Sigmoid", net.op("Flatten", before))), FEATURES, M)


def joined(net: Net, before: str) -> str:
    both = net.op("Concat", before, net.op("Sigmoid", before), axis=1)
    return classified(net, str(both), 2 * FEATURES)


def joined_scores(net: Net, before: str) -> str:
    flat = str(net.op("Flatten", before))
    return str(net.op("Concat", net.fc(flat, FEATURES, M), net.fc(flat, FEATURES, 2), axis=1))


def two_layers(net: Net, before: str) -> str:
    hidden = net.op("LeakyRelu", classified(net, before), alpha=0.1)
    return str(net.op("Softmax", net.fc(str(hidden), M, 4), axis=1))


def summed_scores(net: Net, before: str) -> str:
    flat = str(net.op("Flatten", before))
    return str(net.op("Add", net.fc(flat, FEATURES, M), net.fc(flat, FEATURES, M)))


def gated_scores(net: Net, before: str) -> str:
    flat = str(net.op("Flatten", before))
    return str(net.op("Mul", net.fc(flat, FEATURES, M), net.op("Sigmoid", net.fc(flat, FEATURES, M))))


def product(net: Net, before: str) -> str:
    """A MatMul, and its bias by an Add that is quantised by itself."""
    made = net.op("MatMul", net.op("Flatten", before), net.random(FEATURES, M))
    return str(net.op("Add", made, net.random(M)))


def pooled(net: Net, before: str) -> str:
    return net.fc(
        str(net.op("Flatten", net.op("GlobalAveragePool", net.op("LeakyRelu", before, alpha=0.2)))), CHANNELS, M
    )


def means(net: Net, before: str) -> str:
    """A pool of the trunk: windows of (4, 3) places."""
    smaller = net.op("AveragePool", before, kernel_shape=[2, 2])
    return classified(net, str(smaller), CHANNELS * 12)


BODIES = [leaky, gated_window, joined, joined_scores, two_layers, summed_scores, gated_scores, product, pooled, means]
POOLS = (pooled, means)
"""Means of integers lie on the edge between two of them now and then."""


def proven(model: onnx.ModelProto, global_pool: GlobalPool = "window") -> Rewrite:
    done = rewrite(
        model, options=RewriteOptions(global_pool=global_pool), check_options=CheckOptions(threads=1, samples=2)
    )
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.window.status == "passed" or global_pool == "keep"
    onnx.checker.check_model(complete(done))
    return done


@pytest.mark.sweep(16)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("body", BODIES, ids=lambda item: item.__name__)
def test_cells_are_crops(body: Body, form: QuantFormat, tmp_path: Path) -> None:
    model = by_onnxruntime(bodied(body), tmp_path, form)
    done = proven(model)
    assert done.claim.verdict == "exact"
    assert own_crops(model, done) <= (0.03 if body in POOLS else 0.0)
    before, after = (optimised(item, tmp_path) for item in (model, complete(done)))
    layers = before["QGemm"] + before["QLinearMatMul"]
    floats = before["Gemm"]  # onnxruntime leaves layers in floats that share what they read
    assert layers + floats > 0
    assert after["QGemm"] == after["QLinearMatMul"] == after["Gemm"] == 0
    assert after["Conv"] - before["Conv"] == floats
    assert after["QLinearConv"] - before["QLinearConv"] == layers


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_pool_kept(form: QuantFormat, tmp_path: Path) -> None:
    model = by_onnxruntime(bodied(pooled), tmp_path, form)
    done = proven(model, "keep")
    assert done.claim.outputs[0].form == "global"


def test_scores_in_floats(tmp_path: Path) -> None:
    """A QGemm without a scale for its result: what it makes of integers is in floats."""
    model = by_onnxruntime(bodied(leaky), tmp_path, QuantFormat.QOperator)
    node = next(item for item in model.graph.node if item.op_type == "QGemm")
    behind = next(item for item in model.graph.node if node.output[0] in item.input)
    assert behind.op_type == "DequantizeLinear"
    del node.input[7:]
    node.output[:] = behind.output
    model.graph.node.remove(behind)
    done = proven(model)
    assert [note.code for note in done.notes] == ["float-layer"]
    assert own_crops(model, done) < 1e-6


def changed(model: onnx.ModelProto, kind: str, **attributes: object) -> onnx.ModelProto:
    nodes = [node for node in model.graph.node if node.op_type == kind]
    assert nodes
    for node in nodes:
        kept = [item for item in node.attribute if item.name not in attributes]
        del node.attribute[:]
        node.attribute.extend([*kept, *(helper.make_attribute(key, value) for key, value in attributes.items())])
    return model


@pytest.mark.parametrize(
    ("body", "kind", "attributes"),
    [(leaky, "QGemm", {"alpha": 0.5}), (pooled, "QLinearGlobalAveragePool", {"channels_last": 1})],
)
def test_forms_without_a_counterpart_are_refused(
    body: Body, kind: str, attributes: dict[str, object], tmp_path: Path
) -> None:
    model = changed(by_onnxruntime(bodied(body), tmp_path, QuantFormat.QOperator), kind, **attributes)
    assert refusal(model).code in {"unsupported-operator", "unknown-shape"}


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_scale_for_each_output_before_operator_set_13(per_channel: bool, tmp_path: Path) -> None:
    """DequantizeLinear had one scale for all: QLinearConv goes, QLinearMatMul of several is refused."""
    model = by_onnxruntime(bodied(product, opset=12), tmp_path, QuantFormat.QOperator, per_channel=per_channel)
    model.opset_import[0].version = 12
    if per_channel:
        assert refusal(model).code == "quantised"
        return
    assert own_crops(model, proven(model)) == 0.0


def test_scales_that_are_given_when_the_model_runs(tmp_path: Path) -> None:
    """Nothing is made of a scale that may be another: the operator is refused."""
    model = by_onnxruntime(bodied(leaky), tmp_path, QuantFormat.QOperator)
    node = next(item for item in model.graph.node if item.op_type == "QGemm")
    scale = next(item for item in model.graph.initializer if item.name == node.input[4])
    model.graph.input.append(helper.make_tensor_value_info(scale.name, scale.data_type, scale.dims))
    assert refusal(model).code == "unsupported-operator"


def test_a_bias_that_is_a_matrix(tmp_path: Path) -> None:
    model = by_onnxruntime(bodied(leaky), tmp_path, QuantFormat.QOperator)
    node = next(item for item in model.graph.node if item.op_type == "QGemm")
    next(item for item in model.graph.initializer if item.name == node.input[6]).dims[:] = [1, M]
    assert refusal(model).code == "unsupported-operator"
