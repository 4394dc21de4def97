"""The first cases of the fuzzer, and what it has found, made small."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

pytest.importorskip("resource")
from fuzz_models import fuzz
from hazards import Net, own_crops, proven, refusals
from random_networks import tried

from onnxfc.builder.rule_context import _dequantised
from onnxfc.checker.common_values import _distance
from onnxfc.errors import OnnxfcError
from onnxfc.graph.block_weights import blocks_on_floats
from onnxfc.graph.wellformed import objection_of_onnx
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.quantisation import quantisation_steps
from onnxfc.rewriter.api import rewrite
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.spec import InferenceFailed, Spec, of_array


def test_first_cases() -> None:
    """``python tests/support/fuzz_models.py --seconds 3600`` goes on."""
    count, found = fuzz(0, max(75, tried(300)), 150)
    assert found == {}
    assert count > 50  # however slow the machine


@pytest.mark.parametrize("domain", ["", "ai.onnx.ml"])
def test_pools_that_are_none_with_one_axis_free(domain: str) -> None:
    """One that nothing reads, one of another domain on features."""
    net = Net()
    trunk = net.trunk()
    net.op("GlobalAveragePool", net.op("Relu", trunk))
    scores = net.fc(net.op("Flatten", trunk), 60, 5)
    model = net.model(net.op("GlobalAveragePool", scores, domain=domain) if domain else scores, infer=False)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    assert [item.code for item in refusals(model, free=("height",))] == (["unsupported-operator"] if domain else [])


def test_a_size_that_is_text_is_no_count_of_images() -> None:
    """A length of an open batch of images as a string, and a number again."""
    net = Net()
    trunk = net.conv(net.input("image", ("N", 2, 11, 9)), 2, 3)
    text = net.op("Cast", net.op("Gather", net.op("Shape", trunk), net.ints(2)), to=8)
    pooled = net.axes("ReduceMean", net.op("Mul", trunk, net.op("Cast", text, to=1)), (2, 3), keepdims=0)
    assert {item.code for item in refusals(net.model(net.fc(pooled, 3, 5), infer=False))} <= {"size-locked"}


def test_scales_that_do_not_fit() -> None:
    integers = np.array([[100, 2]], np.int8)
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=5)
    assert _dequantised(node, [integers, np.array([1, 2], np.float32)]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _dequantised(node, [integers, np.array(3e38, np.float32)])
    assert found is not None
    assert np.isinf(found).all()


def test_values_that_are_not_finite_are_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _distance("x", "x", [{"x": np.array([1.0, np.inf])}], [{"x": np.array([1.0, np.inf])}], None) == np.inf


def test_a_concat_of_nothing_and_a_sequence_are_not_known() -> None:
    inference = Inference({"": 17}, 8)
    pieces = helper.make_node("SplitToSequence", ["x", "n"], ["parts"])
    given = [of_array(np.arange(3, dtype=np.int64), 1), of_array(np.array([1, 2], np.int64), 1)]
    assert inference.run(pieces, [np.arange(3), np.array([1, 2])]) == [None]
    assert inference.infer(pieces, given, 1)


def test_blocks_of_weights_that_do_not_fit() -> None:
    net = Net()
    blocks, scales = net.const(np.zeros((4, 2, 8)), dtype=np.uint8), net.random(8)
    told = {"domain": "com.microsoft", "K": 32, "N": 99, "bits": 4, "block_size": 16}
    model = net.model(net.op("MatMulNBits", net.input("x", [1, 32]), blocks, scales, **told), infer=False)
    assert blocks_on_floats(ModelFile.open(model))[1] == {}


def test_quantisation_of_a_domain_that_nobody_knows() -> None:
    net = Net()
    made = net.op("DequantizeLinear", net.input("x", [1, 4]), domain="org.none")
    assert quantisation_steps(ModelFile.open(net.model(made, infer=False))) == {}


def test_frames_of_one_image_are_rows_that_no_reshape_swallows() -> None:
    """They are features of it again: the mean is of all its frames."""
    net = Net()
    x = net.op("Reshape", net.input("image", [1, 12, 9, 9]), net.ints(4, 3, 9, 9))
    x = net.op("AveragePool", net.op("Conv", x, net.random(8, 3, 3, 3)), kernel_shape=[7, 7])
    x = net.op("Reshape", net.op("Conv", x, net.random(6, 8, 1, 1)), net.ints(1, 4, 6, 1, 1))
    model = net.model(net.op("ReduceMean", x, axes=[1], keepdims=0), infer=False)
    done = proven(model)
    assert own_crops(model, done) < 1e-6


def test_axes_and_bounds_of_another_rank() -> None:
    """Axes of a reduction as a table, bounds of a Slice as single numbers."""
    for kind, given, dims in (("ReduceMean", [(2, 3)], [1, 2]), ("Slice", [(0,), (2,), (1,)], [])):
        net = Net(18)
        data = net.conv(net.image(1, (11, 9)), 2, 4)
        made = net.op("Flatten", net.op(kind, data, *(net.ints(*numbers) for numbers in given)))
        model = net.model(net.fc(made, 4 if kind == "ReduceMean" else 40, 3))
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT64:
                tensor.dims[:] = dims
        with pytest.raises(OnnxfcError, match=rf"{kind}\) reads '.*' as a list, of {len(dims)} axes"):
            rewrite(model)


def test_what_onnx_objects_to_is_told_where_a_walk_stumbles(tmp_path: Path) -> None:
    """A length among strings, of which shapes are computed; and not that its weights are still on disk."""
    net = Net(18)
    data = net.conv(net.image(1, (11, 9)), 2, 4)
    shape = net.op("Concat", net.op("Slice", net.op("Shape", data), net.ints(0), net.ints(1)), net.ints(-1), axis=0)
    model = net.model(net.fc(net.op("Reshape", data, shape), 80, 40))
    onnx.save(model, tmp_path / "model.onnx")
    assert objection_of_onnx(ModelFile.open(model)) == objection_of_onnx(ModelFile.open(tmp_path / "model.onnx")) == ""
    named = {name for node in model.graph.node if node.op_type == "Concat" for name in node.input}
    constant = next(tensor for tensor in model.graph.initializer if tensor.name in named)
    constant.CopyFrom(helper.make_tensor(constant.name, onnx.TensorProto.STRING, [1], [b"-1"]))
    assert "Concat" in objection_of_onnx(ModelFile.open(model))
    with pytest.raises(OnnxfcError):
        rewrite(model)


def test_tokens_without_channels_have_no_window() -> None:
    net = Net(18)
    data = net.conv(net.image(1, (11, 9)), 2, 4)
    tokens = net.op("Transpose", net.op("Reshape", data, net.ints(0, 4, -1)), perm=[0, 2, 1])
    none = net.op("Slice", tokens, net.ints(0), net.ints(0), net.ints(2))
    model = net.model(net.op("Add", none, net.random(20, 1)), infer=False)
    assert [item.code for item in refusals(model)] == ["size-locked"]


def test_a_shape_that_is_not_known_is_a_refusal() -> None:
    with pytest.raises(InferenceFailed, match="cannot be inferred"):
        _ = Spec(1, None).native


def test_a_rounding_that_nobody_knows() -> None:
    net = Net(18)
    data = net.conv(net.image(1, (11, 9)), 2, 4)
    scales = net.const(np.array([1, 1, 2, 2], np.float32))
    model = net.model(net.op("Resize", data, "", scales, mode="nearest", nearest_mode="up"), infer=False)
    with pytest.raises(OnnxfcError):
        rewrite(model)
