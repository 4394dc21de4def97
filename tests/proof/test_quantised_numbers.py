"""Scales, zero points, integers and their axes, one after the other and each alone wrong: read off the two files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import here
from fixture_files import FIXTURES, fixture_file
from hazards import CHECK, Net, complete
from onnx import TensorProto, numpy_helper
from onnxruntime.quantization import QuantFormat
from quantised import by_onnxruntime, optimised

from onnxfc import RewriteOptions, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.certificate import certify

NAMES = sorted(path.name for folder in ("onnxruntime", "keras") for path in (FIXTURES / folder).glob("*.onnx"))
PARTS_OF_NAMES = ("qdq", "qoperator", "dynamic", "int8.export", "mobilenet.nbits")
QUANTISED = [name for name in NAMES if any(part in name for part in PARTS_OF_NAMES)]
KINDS = ("ConvInteger", "DequantizeLinear", "MatMulInteger", "MatMulNBits", "QGemm", "QuantizeLinear")
PARTS = {"form": "conv4d", "max_kernel": 3}
FORMS = [("lenet.qdq.onnx", PARTS), ("lenet.qdq_int4.onnx", PARTS), ("se_net.qoperator.onnx", {"form": "conv4d"})]


def wrong(value: np.ndarray) -> np.ndarray:
    """A scale by 0.01 %, an integer by one, a weight by its sign."""
    made = value.copy()
    if value.dtype.kind == "f":
        made *= value.dtype.type(1.0001)
        return made
    at = int(np.argmax(np.abs(value.astype(np.int64))))
    old = int(made.flat[at])
    turned = value.size > 1 and old and value.dtype.kind == "i"
    made.flat[at] = -old if turned else old - 1 if old > 0 else old + 1
    return made


def spoilt(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model with one input of one node that quantises wrong, for each of these."""
    stored = {item.name: item for item in model.graph.initializer}
    dynamic = {name for node in model.graph.node if node.op_type == "DynamicQuantizeLinear" for name in node.output}
    for number, node in enumerate(model.graph.node):
        scales = node.op_type == "Mul" and dynamic.intersection(node.input)
        if scales or node.op_type in KINDS or node.op_type.startswith("QLinear"):
            for at, name in enumerate(node.input):
                if name in stored:
                    other = onnx.ModelProto()
                    other.CopyFrom(model)
                    value = wrong(numpy_helper.to_array(stored[name]))
                    other.graph.initializer.append(numpy_helper.from_array(value, "wrong"))
                    other.graph.node[number].input[at] = "wrong"
                    yield f"{node.op_type} {node.name} {at}", other


@pytest.mark.sweep(20)
@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in QUANTISED), *FORMS])
def test_one_number_alone(name: str, options: dict[str, Any]) -> None:
    original = ModelFile.open(fixture_file(name))
    done = rewrite(fixture_file(name), options=RewriteOptions(**options), prove=False)
    assert certify(original, done.file).status in ("holds", "none")
    every = list(spoilt(complete(done)))
    assert len(every) > 5
    assert [what for what, other in every if certify(original, ModelFile.open(other)).status != "failed"] == []


def quantised(folder: Path, **extra: Any) -> onnx.ModelProto:
    """Two Convs, the second with as many channels before as behind it."""
    net = Net()
    features = net.op("Relu", net.conv(net.op("Relu", net.conv(net.image(), 2, 6)), 6, 6))
    model = net.model(net.fc(net.op("Flatten", features), 12, 5))
    return by_onnxruntime(model, folder, QuantFormat.QDQ, extra_options=extra)


def test_scales_along_another_axis(tmp_path: Path) -> None:
    original = quantised(tmp_path)
    made = complete(rewrite(original, check_options=CHECK))
    shapes = {item.name: tuple(item.dims) for item in made.graph.initializer}
    [node] = [node for node in made.graph.node if shapes.get(node.input[0]) == (6, 6, 3, 3)]
    assert certify(ModelFile.open(original), ModelFile.open(made)).status == "holds"
    next(item for item in node.attribute if item.name == "axis").i = 1
    found = certify(ModelFile.open(original), ModelFile.open(made))
    assert found.status == "failed"
    assert f"{node.input[0]} of {node.name} is no weight or bias of the first model" in found.reason


def test_a_check_names_the_node(tmp_path: Path) -> None:
    """A zero point of 16 bits that no score shows."""
    original, made = fixture_file("lenet.qdq_int16.onnx"), tmp_path / "made.onnx"
    other = complete(rewrite(original, prove=False))
    node = [item for item in other.graph.node if item.op_type == "QuantizeLinear"][-1]
    zero = next(item for item in other.graph.initializer if item.name == node.input[2])
    other.graph.initializer.append(numpy_helper.from_array(wrong(numpy_helper.to_array(zero)), "wrong"))
    node.input[2] = "wrong"
    onnx.save(other, made)
    run = here("check", original, made)
    assert run.code == 4
    assert f"certificate failed: a zero point of {node.name} is none of the first model's" in run.err


def test_floats_that_onnxruntime_quantises(tmp_path: Path) -> None:
    """The biases that are floats still become integers where it loads a quantised model: these are none of ours."""
    original = quantised(tmp_path, QuantizeBias=False)
    made = complete(rewrite(original, prove=False))
    optimised(made, tmp_path)
    other = onnx.load(tmp_path / "optimised.onnx")
    new = [item for item in other.graph.initializer if item.data_type == TensorProto.INT32]
    assert not any(item.data_type == TensorProto.INT32 for item in made.graph.initializer)
    assert certify(ModelFile.open(original), ModelFile.open(other)).status == "holds"
    if new:  # newer versions
        new[0].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(new[0]) + np.int32(1), new[0].name))
        assert certify(ModelFile.open(original), ModelFile.open(other)).status == "failed"


def test_floats_behind_a_quantizelinear(tmp_path: Path) -> None:
    """Weights in floats that the model quantises itself: by their integers, which an optimiser may fold."""
    original = quantised(tmp_path, AddQDQPairToWeight=True)
    first = ModelFile.open(original)
    made = complete(rewrite(original, prove=False))
    found = certify(first, ModelFile.open(made))
    assert (found.status, [item.relation for item in found.weights]) == ("holds", ["same"])
    optimised(made, tmp_path, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC)
    folded = onnx.load(tmp_path / "optimised.onnx")
    assert not any(item.data_type == TensorProto.FLOAT and len(item.dims) > 1 for item in folded.graph.initializer)
    assert certify(first, ModelFile.open(folded)).status == "holds"
    stored = {item.name: item for item in made.graph.initializer}
    weights = [node for node in made.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in stored]
    assert len(weights) == 3
    for node in weights:
        value, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
        scale = scale.reshape(-1, *[1] * (value.ndim - 1))
        for step, status in ((1.0, "failed"), (0.0, "holds")):
            moved = np.rint(value / scale)  # on the grid itself, then one integer off
            moved.flat[3] -= step * np.sign(moved.flat[3] or 1)
            stored[node.input[0]].CopyFrom(numpy_helper.from_array((moved * scale).astype(np.float32), node.input[0]))
            assert certify(first, ModelFile.open(made)).status == status, (node.name, step)
        stored[node.input[0]].CopyFrom(numpy_helper.from_array(value, node.input[0]))


@pytest.mark.parametrize(
    ("name", "options", "relation"),
    [
        ("mobilenet.nbits4.onnx", {"dequantize_head": True}, "same"),
        ("mobilenet.nbits8.onnx", {"dequantize_head": True}, "same"),
        ("lenet.nbits_qdq.onnx", {}, "permuted"),
    ],
)
def test_weights_in_blocks(name: str, options: dict[str, Any], relation: str) -> None:
    """In floats, to the last bit; in integers, with the scale of each block."""
    original = ModelFile.open(fixture_file(name))
    made = complete(rewrite(fixture_file(name), options=RewriteOptions(**options), prove=False))
    found = certify(original, ModelFile.open(made))
    assert found.status == "holds"
    assert found.weights
    assert {item.relation for item in found.weights} == {relation}
    stored = {item.name: item for item in made.graph.initializer}
    for item in found.weights:
        value = numpy_helper.to_array(stored[item.found[0]]).copy()
        value.flat[3] = value.flat[3] * 1.0001 if value.dtype.kind == "f" else 1 - value.flat[3]
        kept = stored[item.found[0]].SerializeToString()
        stored[item.found[0]].CopyFrom(numpy_helper.from_array(value, item.found[0]))
        assert certify(original, ModelFile.open(made)).status == "failed"
        stored[item.found[0]].ParseFromString(kept)


def test_a_block_of_one_output_is_told(tmp_path: Path) -> None:
    """A single output's weight is in no Conv that could be told: it is the blocks that are read."""
    net = Net()
    flat = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv(net.image(), 2, 16))))
    packed = net.const(net.rng.integers(0, 256, (1, 1, 8)), dtype=np.uint8)
    more = {"domain": "com.microsoft", "K": 16, "N": 1, "bits": 4, "block_size": 16}
    product = net.op("MatMulNBits", flat, packed, net.const([0.1]), net.const([[7]], dtype=np.uint8), **more)
    original = net.model(product)
    made = complete(rewrite(original, prove=False))
    assert certify(ModelFile.open(original), ModelFile.open(made)).status in ("holds", "none")
    every = list(spoilt(made))
    assert len(every) == 3
    for _, other in every:
        assert certify(ModelFile.open(original), ModelFile.open(other)).status == "failed"
