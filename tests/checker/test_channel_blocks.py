"""Rewrites that onnxruntime saved at its highest level, with Convs in blocks of channels, against their originals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixture_files import fixture_file
from hazards import Net, complete
from onnx import numpy_helper

from onnxfc import CheckOptions, check_pair, rewrite
from onnxfc.errors import ReadError
from onnxfc.graph.op_kinds import NCHWC
from onnxfc.proof.channel_blocks import readings
from onnxfc.rewriter.options import RewriteOptions

ONE = CheckOptions(threads=1)


def in_blocks(original: str | Path | onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The rewrite as onnxruntime saves it for this processor."""
    return saved(complete(rewrite(original, prove=False)), folder)


def saved(made: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A model as onnxruntime saves it for this processor."""
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.optimized_model_filepath = str(folder / "optimised.onnx")
    settings.log_severity_level = 3  # that such a file is for one kind of processor
    onnxruntime.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    model = onnx.load(settings.optimized_model_filepath)
    if not any(node.domain == NCHWC for node in model.graph.node):
        pytest.skip("onnxruntime has no blocks of channels for this processor")
    return model


@pytest.mark.sweep(12)
@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
@pytest.mark.parametrize(
    "name",
    [
        *("lenet.torchscript.onnx", "se_net.dynamo.onnx", "frames_mean.torchscript.onnx"),
        *("upsampled.dynamo.onnx", "reductions.torchscript.onnx", "residual.dynamo.onnxsim.onnx"),
    ],
)
def test_pairs_in_blocks(name: str, claimed: bool, tmp_path: Path) -> None:
    """Also without metadata: windows are told, of shapes that the blocks do not hide."""
    model = in_blocks(fixture_file(name), tmp_path)
    if not claimed:
        del model.metadata_props[:]
    checked = check_pair(fixture_file(name), model, options=ONE)
    assert checked.passed, checked.parity.summary()
    assert checked.parity.window.status == "passed"
    assert checked.parity.certificate.status == "holds"
    blocked = [item for item in checked.parity.certificate.weights if item.order]
    assert {item.relation for item in blocked} == {"permuted"}
    assert all("in blocks of channels" in item.order for item in blocked)


def test_tensors_that_are_counted_in_each_model(tmp_path: Path) -> None:
    """Original and rewrite in blocks, in another order: the same name is another tensor's, and another weight's."""
    name = "linear_attention.dynamo.onnx"
    done = rewrite(fixture_file(name), options=RewriteOptions(global_pool="drop"), prove=False)
    before, after = (saved(model, tmp_path) for model in (onnx.load(fixture_file(name)), complete(done)))
    checked = check_pair(before, after, options=ONE)
    assert checked.passed, checked.parity.summary()
    weights = [item for item in after.graph.initializer if item.name.startswith("reorder")]
    shapes = [tuple(item.dims) for item in weights]
    first = next(item for item in weights if len(item.dims) == 4 and shapes.count(tuple(item.dims)) == 1)
    values = numpy_helper.to_array(first).copy()
    values[values != 0] *= 1.05
    first.CopyFrom(numpy_helper.from_array(values, first.name))
    assert not check_pair(before, after, options=ONE).passed


@pytest.mark.parametrize("lost", ["attribute", "input"])
def test_maps_of_no_known_number_of_channels(lost: str, tmp_path: Path) -> None:
    """Malformed, and no traceback."""
    model = in_blocks(fixture_file("lenet.torchscript.onnx"), tmp_path)
    node = next(node for node in model.graph.node if node.op_type == "ReorderOutput")
    del getattr(node, lost)[:]
    with pytest.raises(ReadError, match="'channels'" if lost == "attribute" else "lacks its input or output"):
        check_pair(fixture_file("lenet.torchscript.onnx"), model, options=ONE)


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
def test_an_fc_weight_that_is_another_one(claimed: bool, tmp_path: Path) -> None:
    """A thousandth of one weight: less than the numbers that were tried show."""
    name = "lenet.torchscript.onnx"
    model = in_blocks(fixture_file(name), tmp_path)
    if not claimed:
        del model.metadata_props[:]
    largest = max(model.graph.initializer, key=lambda tensor: math.prod(tensor.dims) * (tensor.dims[-1] == 4))
    values = numpy_helper.to_array(largest).copy()
    values.flat[np.abs(values).argmax()] *= 1.00001
    largest.CopyFrom(numpy_helper.from_array(values, largest.name))
    checked = check_pair(fixture_file(name), model, options=ONE)
    assert checked.parity.certificate.status == ("failed" if claimed else "none")
    assert checked.passed is not claimed


HEADS = ("gap", "flat", "pooled", "silu", "bare")


def of_whole_blocks(head: str, channels: int = 48) -> onnx.ModelProto:
    """A network whose channels fill whole blocks, in which no map behind the image is laid as ONNX has it."""
    net = Net(17)
    first = net.op("Relu", net.conv(net.input("image", [1, 3, 16, 16]), 3, 32, pads=[1] * 4))
    second = net.conv(first, 32, 32, pads=[1] * 4, strides=[1, 1])
    maps = net.conv(net.op("Relu", net.op("Add", second, first)), 32, channels, pads=[1] * 4)
    if head == "silu":
        maps = net.op("Mul", maps, net.op("Sigmoid", maps))
    elif head != "bare":
        maps = net.op("Relu", maps)
    if head == "gap":
        maps = net.op("GlobalAveragePool", maps)
    if head == "pooled":
        maps = net.op("MaxPool", maps, kernel_shape=[4, 4])
    return net.model(net.fc(net.op("Flatten", maps), channels * (1 if head in ("gap", "pooled") else 16), 10))


@pytest.mark.sweep(12)
@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
@pytest.mark.parametrize("head", HEADS)
def test_heads_that_begin_at_maps_in_blocks(head: str, claimed: bool, tmp_path: Path) -> None:
    """These are read out of their blocks, by the operator that the file has for that, and compared as others are."""
    original = of_whole_blocks(head)
    model = in_blocks(original, tmp_path)
    made = {name for node in model.graph.node for name in node.output}
    begins = {item.rewritten for item in rewrite(original, prove=False).claim.boundaries}
    assert not begins & made
    if not claimed:
        del model.metadata_props[:]
    checked = check_pair(original, model, options=ONE)
    assert checked.passed, checked.parity.summary()
    assert (checked.parity.window.status, checked.parity.trunk.status) == ("passed", "passed")
    assert checked.parity.window.compared > 200
    assert checked.parity.certificate.status == "holds"
    [told] = [note for note in checked.notes if "in NCHW" in note]
    assert begins == {told.rsplit(" = ", 1)[0].rsplit(" ", 1)[1]}


@pytest.mark.parametrize("head", ["gap", "flat"])
def test_channels_that_leave_a_block_unfilled(head: str, tmp_path: Path) -> None:
    original = of_whole_blocks(head, 44)
    checked = check_pair(original, in_blocks(original, tmp_path), options=ONE)
    assert checked.passed, checked.parity.summary()
    assert checked.parity.window.status == "passed"


def _weight(model: onnx.ModelProto, place: int) -> None:
    """One number of a Conv's weight a little larger."""
    tensor = [item for item in model.graph.initializer if len(item.dims) == 4][place]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _pads(model: onnx.ModelProto) -> None:
    [pads, *_] = [item for node in model.graph.node for item in node.attribute if list(item.ints) == [1] * 4]
    pads.ints[:] = [0, 1, 2, 1]


def _activation(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if any(item.name == "activation" for item in node.attribute))
    node.attribute.remove(next(item for item in node.attribute if item.name == "activation"))


@pytest.mark.parametrize("claimed", [True, False], ids=["claimed", "bare"])
@pytest.mark.parametrize("damage", ["trunk", "last of trunk", "head", "pads", "activation"])
def test_damaged_maps_in_blocks(damage: str, claimed: bool, tmp_path: Path) -> None:
    """What is wrong is told by numbers, not as a tensor that is missing."""
    original = of_whole_blocks("flat")
    model = in_blocks(original, tmp_path)
    shapes = [tuple(item.dims) for item in model.graph.initializer if len(item.dims) == 4]
    places = {"trunk": shapes.index((32, 32, 3, 3)), "last of trunk": shapes.index((48, 32, 3, 3))}
    places["head"] = next(k for k, shape in enumerate(shapes) if shape[1:] == (48, 4, 4))
    if damage in places:
        _weight(model, places[damage])
    else:
        {"pads": _pads, "activation": _activation}[damage](model)
    if not claimed:
        del model.metadata_props[:]
    checked = check_pair(original, model, options=ONE)
    assert not checked.passed
    assert " deviates by " in checked.parity.native.reason


@pytest.mark.parametrize("width", [8, 16])
def test_layouts(width: int) -> None:
    """OIHWBo and OIHWBiBo, element by element, of outputs and channels that fill no whole blocks."""
    weight = np.random.default_rng(3).standard_normal((21, 27, 2, 3)).astype(np.float32)
    outputs, channels = (math.ceil(length / width) * width for length in weight.shape[:2])
    for inner in (1, width):
        filled = channels if inner > 1 else 27
        laid = np.zeros((outputs // width, filled // inner, 2, 3, inner, width), np.float32)
        for o, c, y, x in np.ndindex(weight.shape):
            laid[o // width, c // inner, y, x, c % inner, o % width] = weight[o, c, y, x]
        found = list(readings(laid.reshape(outputs, filled, 2, 3)))
        assert sum(item.shape == weight.shape and np.array_equal(item, weight) for item in found) == 1
