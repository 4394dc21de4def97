"""Every field of every proto of what real exporters wrote, before and after a rewrite."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file, fixture_models
from google.protobuf.message import Message
from onnx import helper, numpy_helper

from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import rewrite

UNKNOWN = bytes([0xFA, 0x3E, 3]) + b"new"  # field 1007, three bytes
TRUNK = {"Conv", "Relu", "Clip", "BatchNormalization", "Tanh", "Sigmoid", "HardSwish", "HardSigmoid"}
OTHER_NODES = ("halves_joined", "kept_by_hand", "kept_unbatched", "unbatched_pooled")
"""Pieces that are joined again are the map itself; an axis for the batch is not put there and taken away again; what
works on figures of a window reads another tensor."""
MODELS = sorted(path.name for path in fixture_models() if not path.name.startswith(OTHER_NODES))
"""All but those of which each layer takes an image without a batch: what turns it into one and back goes."""


def decorated(model: onnx.ModelProto) -> onnx.ModelProto:
    """With doc strings, metadata and unknown fields everywhere, and kinds of protos that exporters seldom write."""
    graph = model.graph
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.doc_string += f" says {item.name}"
        item.metadata_props.add(key=f"of {item.name}", value="kept")
        item.MergeFromString(UNKNOWN)
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = "an attribute"
            attribute.MergeFromString(UNKNOWN)
    note = graph.quantization_annotation.add(tensor_name=graph.node[0].output[0])
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    values, indices = numpy_helper.from_array(np.ones(3, "f"), "sparse"), numpy_helper.from_array(np.arange(3))
    graph.sparse_initializer.add(values=values, indices=indices, dims=[9])
    training = model.training_info.add()
    training.algorithm.name = "training"
    training.initialization.initializer.append(numpy_helper.from_array(np.ones(300, "f"), "start"))
    body = helper.make_node("Relu", ["x"], ["y"], doc_string="of a function")
    function = helper.make_function("own", "Unused", ["x"], ["y"], [body], [helper.make_opsetid("", 17)])
    function.metadata_props.add(key="function", value="kept")
    function.MergeFromString(UNKNOWN)
    model.functions.append(function)
    model.opset_import.add(domain="own", version=1)
    model.configuration.add(name="devices", num_devices=2)
    for message in (model, graph):
        message.metadata_props.add(key="whole", value="kept")
        message.doc_string += "the whole"
        message.MergeFromString(UNKNOWN)
    return model


def content(message: Message, *but: str) -> bytes:
    """The serialized message, unknown fields included, without the fields named."""
    rest = type(message)()
    rest.CopyFrom(message)
    for name in but:
        rest.ClearField(name)
    data: bytes = rest.SerializeToString(deterministic=True)
    return data


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = decorated(onnx.load(fixture_file(request.param)))
    try:
        return model, rewrite(model, prove=False).model
    except NothingToRewrite as error:
        pytest.skip(f"refused: {error}")


@pytest.mark.sweep(40)
def test_what_is_no_node(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = pair
    own = [item for item in after.metadata_props if not item.key.startswith("onnxfc.")]
    assert own == list(before.metadata_props)
    assert content(after, "graph", "metadata_props") == content(before, "graph", "metadata_props")
    changing = ("node", "initializer", "input", "output", "value_info")
    assert content(after.graph, *changing) == content(before.graph, *changing)


@pytest.mark.sweep(40)
def test_inputs_outputs_and_inner_values(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """Types and shapes may change, and inner values may be gone; nothing else."""
    before, after = pair
    for kind in ("input", "output", "value_info"):
        found = {info.name: content(info, "type") for info in getattr(after.graph, kind)}
        weights = {tensor.name for tensor in before.graph.initializer}  # inputs, too, in old models
        for info in (info for info in getattr(before.graph, kind) if info.name not in weights):
            assert found.get(info.name, content(info, "type") if kind == "value_info" else b"") == content(info, "type")


@pytest.mark.sweep(40)
def test_nodes(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    before, after = pair
    made = {tuple(node.output): node for node in after.graph.node}
    same, ways = 0, ("input", "attribute", "domain")  # an empty domain may be written or not
    for node in before.graph.node:
        found = made.get(tuple(node.output))
        if found is None or found.op_type != node.op_type:
            continue
        if node.op_type in TRUNK:
            assert content(found) == content(node)
        assert found.domain == node.domain
        assert content(found, *ways) == content(node, *ways)
        same += content(found) == content(node)
    assert same >= 1
    said = {item.key for node in after.graph.node for item in node.metadata_props}
    layers = [node for node in before.graph.node if node.op_type in {"Gemm", "MatMul"}]
    assert {f"of {node.name}" for node in layers} <= said


@pytest.mark.sweep(40)
def test_weights(pair: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    """A weight that is permuted keeps all but its dims and values, one that becomes a Conv's all but its dims."""
    before, after = pair
    found = {tensor.name: tensor for tensor in after.graph.initializer}
    kept = 0
    for tensor in before.graph.initializer:
        now = found.get(tensor.name)
        if now is not None:
            kept += 1
            assert content(now, "dims", "raw_data") == content(tensor, "dims", "raw_data")
            assert len(tensor.dims) == 2 or content(now) == content(tensor)
    assert kept >= 1 or not before.graph.initializer  # but Constants
