"""Weights in blocks of few bits, each with a scale: MatMulNBits stays on single places, or is written in floats."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import complete, own_crops
from onnx import helper, numpy_helper

from onnxfc import RewriteOptions, check_pair
from onnxfc.errors import NothingToRewrite, OnnxfcError
from onnxfc.graph.block_weights import blocks_on_floats
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

KEPT = ["mobilenet.nbits4", "mobilenet.nbits8"]
FLOATS = RewriteOptions(dequantize_head=True)


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


def proven(model: onnx.ModelProto, options: RewriteOptions | None = None) -> Rewrite:
    done = rewrite(model, options=options, check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.native.deviation < 2e-5
    assert done.parity.window.compared > 900
    return done


def of_kind(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


@pytest.mark.parametrize("name", KEPT)
def test_on_single_places_it_stays(name: str) -> None:
    """Its integers, scales and zero points are the very same; a row is the features of a cell."""
    original = loaded(name)
    made = complete(proven(original))
    before, after = of_kind(original, "MatMulNBits"), of_kind(made, "MatMulNBits")
    assert [list(node.input[1:]) for node in after] == [list(node.input[1:]) for node in before]
    assert [node.attribute for node in after] == [node.attribute for node in before]
    for node in after:
        assert next(item for item in made.graph.node if node.input[0] in item.output).op_type == "Transpose"
    old, new = ({item.name: item for item in model.graph.initializer} for model in (original, made))
    assert all(new[name] == old[name] for node in after for name in node.input[1:])
    assert not any("floats" in name for name in new)


@pytest.mark.parametrize("name", KEPT)
def test_an_error_is_found(name: str) -> None:
    original = loaded(name)
    made = complete(rewrite(original, prove=False))
    for node in of_kind(made, "MatMulNBits"):
        for at in (1, 2, 3):
            wrong = onnx.ModelProto.FromString(made.SerializeToString())
            tensor = next(item for item in wrong.graph.initializer if item.name == node.input[at])
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.roll(value, 1, axis=0), tensor.name))
            assert not check_pair(original, wrong, options=CheckOptions(threads=1)).passed


@pytest.mark.parametrize("at", [1, 2, 3])
def test_blocks_of_another_type_are_no_blocks(at: int) -> None:
    """No traceback: such a layer is refused, or is none that onnxruntime loads."""
    model = loaded(KEPT[0])
    tensor = next(t for t in model.graph.initializer if t.name == of_kind(model, "MatMulNBits")[0].input[at])
    kind = np.int32 if at == 2 else np.float32
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(kind), tensor.name))
    with pytest.raises(OnnxfcError):
        rewrite(model)


def test_larger_windows_are_refused_by_name() -> None:
    with pytest.raises(NothingToRewrite, match="--dequantize-head") as caught:
        rewrite(loaded("lenet.nbits4"))
    [refusal] = caught.value.refusals
    assert refusal.code == "weight-blocks"
    assert "reads windows of 4x4 places" in refusal.reason


def test_in_floats() -> None:
    original = loaded("lenet.nbits4")
    done = proven(original, FLOATS)
    assert done.claim.verdict == "exact"
    assert own_crops(original, done) < 1e-5
    made = complete(done)
    assert not of_kind(made, "MatMulNBits")
    assert [len(node.input) for node in of_kind(made, "Conv")] == [3] * 4


@pytest.mark.parametrize("name", ["lenet.nbits4", *KEPT])
def test_what_a_weight_stands_for(name: str) -> None:
    """onnxruntime's own product with the rows of the identity is the weight."""
    model = ModelFile.open(fixture_file(f"{name}.onnx"))
    opened, own = blocks_on_floats(model)
    floats = {item.name: numpy_helper.to_array(item) for item in opened.loaded().graph.initializer}
    for weight, node in own.items():
        columns = floats[weight].shape[0]
        stored = [item for item in loaded(name).graph.initializer if item.name in node.input]
        graph = helper.make_graph(
            [node],
            "one",
            [helper.make_tensor_value_info(node.input[0], 1, [columns, columns])],
            [helper.make_tensor_value_info(node.output[0], 1, None)],
            stored,
        )
        alone = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=10)
        session = ort.InferenceSession(alone.SerializeToString(), providers=["CPUExecutionProvider"])
        [value] = session.run(None, {node.input[0]: np.eye(columns, dtype=np.float32)})
        np.testing.assert_allclose(floats[weight], value, rtol=1e-6, atol=1e-7)


def test_nothing_to_write_in_floats() -> None:
    done = rewrite(loaded("lenet.qdq"), options=FLOATS, prove=False)
    assert [note.code for note in done.notes] == ["no-weight-blocks"]


def test_blocks_of_a_dequantize_linear_stay_integers() -> None:
    original = loaded("lenet.nbits_qdq")
    done = proven(original)
    assert own_crops(original, done) < 5e-3  # onnxruntime rounds the original's features to integers, too
    old, new = ({n.output[0]: n for n in of_kind(m, "DequantizeLinear")} for m in (original, complete(done)))
    assert new == old
    assert len(new) == 2


@pytest.mark.parametrize("name", KEPT)
def test_a_bias_of_its_own(name: str) -> None:
    """As onnxruntime's optimiser writes it: added to the product."""
    plain, model = loaded(name), loaded(name)
    rng = np.random.default_rng(1)
    for node in of_kind(model, "MatMulNBits"):
        count = next(item.i for item in node.attribute if item.name == "N")
        bias = numpy_helper.from_array(rng.standard_normal(count).astype(np.float32), f"{node.output[0]}_bias")
        model.graph.initializer.append(bias)
        node.input.extend(["", "", bias.name][len(node.input) - 3 :])
        assert len(node.input) == 6
    made = complete(proven(model))
    assert len(of_kind(made, "MatMulNBits")) == len(of_kind(plain, "MatMulNBits"))
    assert len(of_kind(made, "Add")) == len(of_kind(model, "Add")) + len(of_kind(model, "MatMulNBits"))
    assert all(len(node.input) == 4 for node in of_kind(made, "MatMulNBits"))
