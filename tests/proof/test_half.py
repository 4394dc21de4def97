"""Half precision: twins made by onnxruntime's tool are checked, and tolerances follow the narrowest type on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete, own_crops
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers import float16

from onnxfc import check_pair, rewrite
from onnxfc.errors import OnnxfcError
from onnxfc.proof.narrowest import coarser, narrowest

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
NETS = ["head12.torchscript", "lenet.dynamo", "mini_resnet.torchscript", "se_net.dynamo"]


def half(model: onnx.ModelProto, *, keep: bool, **options: object) -> onnx.ModelProto:
    """By the tool; Casts that keep the inputs' types stand at the end of the file."""
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    made: onnx.ModelProto = float16.convert_float_to_float16(copy, keep_io_types=keep, **options)
    return made


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("stranger", [False, True])
@pytest.mark.parametrize("which", ["first", "second"])
def test_twins(name: str, keep: bool, stranger: bool, which: str) -> None:
    original = onnx.load(fixture_file(f"{name}.onnx"))
    other = complete(rewrite(original, prove=False))
    if stranger:
        del other.metadata_props[:]
    pair = (half(original, keep=keep), other) if which == "first" else (original, half(other, keep=keep))
    done = check_pair(*pair, options=CHECK)
    assert done.passed, done.parity.summary()
    assert done.parity.window.status == "passed"
    assert done.parity.window.compared >= 100
    assert 1e-5 < done.parity.native.deviation < 2e-2
    assert f"the {which} model computes with float16 numbers: tolerances are those of float16" in done.notes


@pytest.mark.parametrize("stranger", [False, True])
def test_a_wrong_twin(stranger: bool) -> None:
    original = onnx.load(fixture_file("head12.torchscript.onnx"))
    other = half(complete(rewrite(original, prove=False)), keep=True)
    if stranger:
        del other.metadata_props[:]
    name = [node for node in other.graph.node if node.op_type == "Conv"][1].input[1]
    tensor = next(item for item in other.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor).copy()
    values[5] = values[5, :, :, ::-1]
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    assert not check_pair(original, other, options=CHECK).passed


def test_casts_stand_at_the_end_of_the_file() -> None:
    """What makes this a test of nodes out of order."""
    kinds = [node.op_type for node in half(onnx.load(fixture_file("head12.torchscript.onnx")), keep=True).graph.node]
    assert kinds[-2:] == ["Cast", "Cast"]


@pytest.mark.parametrize("name", NETS)
def test_half_precision_inside_a_float_model(name: str) -> None:
    """Its FC layers alone compute in float32."""
    model = half(onnx.load(fixture_file(f"{name}.onnx")), keep=True, op_block_list=["Gemm"])
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert 5e-3 <= done.parity.native.tolerance < 5e-2
    if done.claim.verdict == "exact":
        assert own_crops(model, done) < 5e-3


def test_weights_stored_in_half_precision_round_nothing() -> None:
    model = onnx.load(fixture_file("head12.torchscript.onnx"))
    casts = []
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1:
            stored = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name} stored")
            casts.append(helper.make_node("Cast", [stored.name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(stored)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert {item.name for item in narrowest(model).values()} == {"float32"}
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.native.tolerance < 5e-4


def test_a_model_without_inputs_has_no_narrowest_type() -> None:
    """Its check says what differs, and does not end in a traceback."""
    model = onnx.load(fixture_file("flatten_method.dynamo.onnx"))
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    image = alone.graph.input.pop(0)
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    alone.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), image.name))
    assert coarser(*narrowest(alone).values()).name == "float64"
    with pytest.raises(OnnxfcError):
        check_pair(model, alone)


def test_the_narrowest_type_on_the_way() -> None:
    half_type, single = TensorProto.FLOAT16, TensorProto.FLOAT
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Cast", ["a"], ["b"], to=half_type),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=single),
        helper.make_node("Add", ["d", "a"], ["e"]),
        helper.make_node("Shape", ["a"], ["s"]),
    ]
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float16), "w")
    image = helper.make_tensor_value_info("x", single, [1, 1, 4, 4])
    found = narrowest(helper.make_model(helper.make_graph(nodes, "g", [image], [], [weight])))
    names = {name: item.name for name, item in found.items()}
    assert [names[name] for name in "xabcde"] == ["float32", "float32", *["float16"] * 4]


def test_shared_case() -> None:
    path = CASES / "mixed-fp16-fc32.onnx"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    done = rewrite(path, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
