"""``check_pair`` on pairs that nobody but their maker has seen: other trunks, other sizes, other layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fixture_files import fixture_file
from hazards import OLD_RUNTIME, Net, complete
from mutations import change
from onnx import helper, numpy_helper

from onnxfc import CheckOptions, UsageError, check_pair, rewrite
from onnxfc.checker.api import Checked
from onnxfc.checker.common_values import _relative
from onnxfc.claim.claim import PREFIX
from onnxfc.proof.results import Parity
from onnxfc.rewriter.options import RewriteOptions

ONE = CheckOptions(threads=1)


def dropping(pad: int = 0) -> onnx.ModelProto:
    """A trunk whose last pool leaves a row and a column of 13 unread: 32 px, stride 4, slack 2."""
    net = Net(17)
    x = net.image(1, (32, 32), 3)
    for before, after in ((3, 6), (6, 8)):
        x = net.op("Relu", net.conv(x, before, after, strides=[1, 1], pads=[pad] * 4))
        x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    side = 8 if pad else 6
    x = net.op("Relu", net.fc(net.op("Flatten", x), 8 * side**2, 12))
    return net.model(net.fc(x, 12, 5, out="scores"))


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    return complete(rewrite(model, prove=False))


def without_claim(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    del copy.metadata_props[:]
    return copy


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def other_trunk(model: onnx.ModelProto) -> onnx.ModelProto:
    """Half the weights in the first Conv, twice its result: what no comparison of graphs finds equal."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for name in conv.input[1:]:
        half = numpy_helper.to_array(weight(model, name)) / 2
        weight(model, name).CopyFrom(numpy_helper.from_array(half.astype(np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    place = next(i for i, node in enumerate(model.graph.node) if node is conv)
    made = conv.output[0]
    conv.output[0] = "half"
    model.graph.node.insert(place + 1, helper.make_node("Mul", ["half", "two"], [made]))
    return model


def appended(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> onnx.ModelProto:
    """Nodes behind the first output: they read ``y`` and make its new value ``z``."""
    name = model.graph.output[0].name
    for key, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), key))
    for node in model.graph.node:
        node.output[:] = ["y" if item == name else item for item in node.output]
    for node in nodes:
        node.output[:] = [name if item == "z" else item for item in node.output]
        model.graph.node.append(node)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def scaled_where(model: onnx.ModelProto, larger: str, smaller: str) -> onnx.ModelProto:
    """1 % too much where one side of the image has grown more than the other."""
    image = next(info for info in model.graph.input if info.name == "image")
    native = {"height": 32, "width": 14}
    assert len(image.type.tensor_type.shape.dim) == 4
    return appended(
        model,
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Gather", ["shape", "two"], ["height"]),
        helper.make_node("Gather", ["shape", "three"], ["width"]),
        helper.make_node("Sub", [larger, "native_1"], ["more"]),
        helper.make_node("Sub", [smaller, "native_2"], ["less"]),
        helper.make_node("Greater", ["more", "less"], ["wrong"]),
        helper.make_node("Where", ["wrong", "factor", "one"], ["scale"]),
        helper.make_node("Mul", ["y", "scale"], ["z"]),
        two=2,
        three=3,
        native_1=native[larger],
        native_2=native[smaller],
        factor=np.float32(1.01),
        one=np.float32(1),
    )


def rectangle() -> onnx.ModelProto:
    """32x14 px, stride 2: 0.15 of the one side and of the other are different numbers of cells."""
    net = Net(17)
    x = net.op("Tanh", net.conv(net.image(1, (32, 14), 2), 2, 4))
    return net.model(net.fc(net.op("Flatten", x), 4 * 15 * 6, 5, out="scores"))


@pytest.mark.parametrize("claimed", [True, False])
@pytest.mark.parametrize("sides", [("height", "width"), ("width", "height")])
def test_images_that_grow_more_in_one_direction(sides: tuple[str, str], claimed: bool) -> None:
    original = rectangle()
    right = rewritten(original)
    assert check_pair(original, right, options=ONE).passed
    wrong = scaled_where(right if claimed else without_claim(right), *sides)
    done = check_pair(original, wrong, options=ONE)
    assert not done.passed
    assert done.parity.window.status == "failed"


def windowed(done: Checked) -> Parity:
    assert done.parity.window.status == "passed", done.parity.summary()
    assert done.parity.window.compared > 100
    return done.parity


def test_windows_of_a_trunk_that_leaves_elements_unread() -> None:
    """The graphs differ from the image on: off the grid the last window of the image lacks what nobody reads."""
    original = dropping()
    other = without_claim(other_trunk(rewritten(original)))
    done = check_pair(original, other, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.claim.slack == (2, 2)
    assert any((n - 32) % 4 >= 2 for size in windowed(done).window.sizes for n in size)


def folded() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A padded trunk with BatchNormalization, and a rewrite in which that is part of the Conv."""
    net = Net(17)
    x = net.conv(net.image(1, (16, 16), 3), 3, 6, pads=[1] * 4)
    figures = [net.const(value) for value in (np.linspace(0.5, 2, 6), np.ones(6), np.ones(6) / 3, np.linspace(1, 3, 6))]
    x = net.op("Relu", net.op("BatchNormalization", x, *figures))
    x = net.op("Relu", net.conv(x, 6, 6, pads=[1] * 4))
    original = net.model(net.fc(net.op("Flatten", x), 96, 5, out="scores"))
    other = without_claim(rewritten(original))
    conv, norm = other.graph.node[:2]
    gain, shift, mean, var = (numpy_helper.to_array(weight(other, name)) for name in norm.input[1:])
    w, b = (numpy_helper.to_array(weight(other, name)) for name in conv.input[1:])
    scale = gain / np.sqrt(var + 1e-5)
    values = (w * scale[:, None, None, None], (b - mean) * scale + shift)
    for name, value in zip(conv.input[1:], values, strict=True):
        weight(other, name).CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    conv.output[0] = norm.output[0]
    other.graph.node.remove(norm)
    return original, other


def test_a_padded_trunk_that_is_written_differently() -> None:
    original, other = folded()
    done = check_pair(original, other, options=ONE)
    assert done.passed, done.parity.summary()
    name = done.claim.boundaries[0].original
    assert done.notes == (f"the trunks are written differently; these tensors have the same values: {name} = {name}",)
    windowed(done)


@pytest.mark.parametrize("perm", [[0, 1, 3, 2], None])
def test_wrong_maps_behind_a_trunk_that_is_written_differently(perm: list[int] | None) -> None:
    """Nothing of this is to be seen at the native size."""
    original, other = folded()
    if perm is None:
        flipped = helper.make_node("Slice", ["y", "from", "to", "axis", "step"], ["z"])
        wrong = appended(other, flipped, **{"from": [-1]}, to=[-(2**31)], axis=[2], step=[-1])
    else:
        wrong = appended(other, helper.make_node("Transpose", ["y"], ["z"], perm=perm))
    done = check_pair(original, wrong, options=ONE)
    assert not done.passed
    assert done.parity.native.status == "passed"
    assert done.parity.window.status == "failed"


@pytest.mark.parametrize("claimed", [True, False])
def test_cells_that_are_too_many_off_the_grid(claimed: bool) -> None:
    """A pool that rounds up: at the native size, and on the grid, it is the same."""
    net = Net(17)
    x = net.op("Relu", net.conv(net.image(1, (22, 22), 3), 3, 6, strides=[1, 1]))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    original = net.model(net.fc(net.op("Flatten", x), 600, 5, out="scores"))
    right = rewritten(original)
    wrong = right if claimed else without_claim(right)
    change(next(node for node in wrong.graph.node if node.op_type == "MaxPool"), ceil_mode=1)
    done = check_pair(original, wrong, options=ONE)
    assert not done.passed
    assert "cells" in done.parity.window.reason


# What the second model is


def test_a_model_for_the_native_size_alone_with_a_map_of_one_cell() -> None:
    """What a framework exports after its FC layers were replaced by Convs: (1, 5, 1, 1), or (1, 1, 1, 5)."""
    original = dropping()
    fixed = without_claim(rewritten(original))
    for axis in (2, 3):
        fixed.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 32
    done = check_pair(original, fixed, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.claim.outputs[0].form == "map"
    turned = appended(fixed, helper.make_node("Transpose", ["y"], ["z"], perm=[0, 2, 3, 1]))
    turned.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 1, 1, 5]))
    done = check_pair(original, turned, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.notes[0] == "the classes of scores stand last; they were put behind the batch"


def test_a_model_for_another_size_alone() -> None:
    fixed = without_claim(rewritten(dropping()))
    for axis in (2, 3):
        fixed.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 48
    with pytest.raises(UsageError, match="image: the second model takes 1x3x48x48, the original 1x3x32x32"):
        check_pair(dropping(), fixed, options=ONE)


def test_a_flattened_grid_is_named() -> None:
    flat = appended(
        without_claim(rewritten(dropping())), helper.make_node("Reshape", ["y", "to"], ["z"]), to=[1, 5, -1]
    )
    done = check_pair(dropping(), flat, options=ONE)
    assert not done.passed
    assert done.notes == ("output scores is [1, 5, 1], of which 1 axis grows: no grid of cells",)
    assert "scores has shape [1, 5, 1] instead of [1, 5]" in done.parity.native.reason


def test_the_first_cell_alone() -> None:
    """Right at the native size; of larger images it shows next to nothing, and that is said."""
    nodes = [helper.make_node("Slice", ["y", "from", "to", "axes"], ["cell"])]
    nodes.append(helper.make_node("Squeeze", ["cell", "axes"], ["z"]))
    first = appended(without_claim(rewritten(dropping())), *nodes, **{"from": [0, 0]}, to=[1, 1], axes=[2, 3])
    done = check_pair(dropping(), first, options=ONE)
    assert done.notes[0].startswith("output scores has one value at every image size")


def test_every_second_cell() -> None:
    model = without_claim(rewritten(dropping()))
    change(
        next(node for node in model.graph.node if node.op_type == "Conv" and "gemm" in node.output[0]), strides=[2, 2]
    )
    done = check_pair(dropping(), model, options=ONE)
    assert done.claim.stride == (8, 8)
    assert "the cells lie 8x8 px apart; a rewrite of the original has one every 4x4 px" in done.notes


def test_same_padding_beside_the_pads_that_it_means() -> None:
    """Without kernel_shape, and with a bias."""
    net = Net(11)
    x = net.image(1, (24, 24), 3)
    x = net.op("Relu", net.conv(x, 3, 6, auto_pad="SAME_UPPER"))
    x = net.op("Relu", net.conv(x, 6, 6, auto_pad="SAME_LOWER"))
    original = net.model(net.fc(net.op("Flatten", x), 216, 5, out="scores"))
    done = check_pair(original, without_claim(rewritten(original)), options=ONE)
    assert done.passed, done.parity.summary()
    windowed(done)


def test_an_empty_output_proves_nothing() -> None:
    net = Net(17)
    model = net.model(net.op("Slice", net.flat(), net.ints(0), net.ints(0), net.ints(1), out="scores"))
    done = check_pair(model, model, options=ONE)
    assert not done.passed
    assert "empty" in done.parity.summary()


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
def test_outputs_of_any_scale(scale: float) -> None:
    net = Net(17)
    flat = net.flat()
    original = net.model(net.op("Mul", net.fc(flat, 60, 4), net.const(scale), out="scores"))
    other = rewritten(original)
    assert check_pair(original, other, options=ONE).passed
    name = next(node.input[1] for node in other.graph.node if node.op_type == "Mul")
    weight(other, name).CopyFrom(numpy_helper.from_array(np.float32(1.001 * scale).reshape(1)[0:1].reshape(()), name))
    assert not check_pair(original, other, options=ONE).passed


def test_units_that_no_tried_image_makes_active() -> None:
    """A 5 % error in any of 48 units, most of which the images that are tried leave dead."""
    net = Net(15, seed=0)
    x = net.op("Relu", net.conv(net.image("N", (16, 16), 3), 3, 6))
    hidden = net.op("Gemm", net.op("Flatten", x), net.random(48, 294), net.const(net.noise(48) - 3), transB=1)
    original = net.model(net.fc(net.op("Relu", hidden), 48, 5, out="scores"))
    first = [node for node in rewritten(original).graph.node if node.op_type == "Conv"][1].input[1]
    found = 0
    for unit in range(48):
        wrong = rewritten(original)
        values = numpy_helper.to_array(weight(wrong, first)).copy()
        values[unit] *= 1.05
        weight(wrong, first).CopyFrom(numpy_helper.from_array(values, first))
        found += not check_pair(original, wrong, options=ONE).passed
    assert found >= 45  # 40 without features that no image has made


# Claims


def test_different_models() -> None:
    """Plainly said, also where the second carries a claim of its own."""
    other = Net(17)
    second = rewritten(other.model(other.fc(other.flat(), 60, 4, out="scores")))
    done = check_pair(dropping(), second, options=ONE)
    assert not done.passed
    assert done.parity.native.reason.startswith("these are different models: the head begins at ")
    third = rewritten(rectangle())
    done = check_pair(bodied_like(rectangle()), third, options=ONE)
    assert done.parity.native.reason == (
        "these are different models: image is 1x2x32x14 in the second one's claim, 1x2x32x18 in the original"
    )


def bodied_like(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph for wider images."""
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 18
    name = next(node.input[1] for node in model.graph.node if node.op_type == "Gemm")
    weight(model, name).CopyFrom(numpy_helper.from_array(np.ones((5, 4 * 15 * 8), np.float32), name))
    return model


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("size", [9, 9], "a cell of scores does not read what a cell is said to read"),
        ("start", [1, 1], "a cell of scores does not read what a cell is said to read"),
        ("halo", [[0, 0], [0, 3]], "halo is "),
        ("smallest_size", [1, 1], "smallest_size is "),
        ("slack", [1, 1], "slack is (1, 1), the graph gives (0, 0)"),
        ("stride", [10**9, 10**9], "a cell of scores does not read what a cell is said to read"),
        ("size_step", [10**9, 1], "would need images of "),
    ],
)
def test_lies_about_geometry(field: str, value: object, reason: str) -> None:
    original = dropping(pad=1)
    model = rewritten(original)
    for item in model.metadata_props:
        if item.key == PREFIX + field:
            item.value = json.dumps(value)
    done = check_pair(original, model, options=ONE)
    assert not done.passed
    assert reason in done.parity.summary()


def test_the_first_model_is_an_original() -> None:
    original, model = dropping(), rewritten(dropping())
    for second in (original, model):
        with pytest.raises(UsageError, match="the first model was made by onnxfc itself"):
            check_pair(model, second, options=ONE)
    with pytest.raises(UsageError, match="the size 28x28 is not the native size of the second model, 32x32"):
        check_pair(original, model, options=ONE, size=(28, 28))


def test_too_large_a_size_is_not_tried() -> None:
    options = CheckOptions(threads=1, check_sizes=((10**14, 32),))
    with pytest.raises(UsageError, match="more than the 268435456 pixels that a check takes"):
        check_pair(dropping(), rewritten(dropping()), options=options)


def test_an_output_that_is_there_twice_has_no_partner_by_position() -> None:
    model = dropping()
    other = without_claim(rewritten(model))
    other.graph.node.append(helper.make_node("Identity", ["scores"], ["marks"]))
    other.graph.output[0].name = "marks"
    for graph in (model.graph, other.graph):
        graph.output.append(graph.output[0])
    with pytest.raises(UsageError, match="the outputs cannot be matched by position, as one is there twice"):
        check_pair(model, other, options=ONE)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_values_are_compared_by_their_size(scale: float) -> None:
    """Of tensors that two trunks make in different ways."""
    values = np.linspace(0, scale, 9)
    assert _relative(values, values * (1 + 1e-6)) < 2e-6
    assert 0.09 < _relative(values, values[None] * 1.1) < 0.11
    assert _relative(values, values.reshape(3, 3)) == np.inf


def test_cells_that_come_two_by_two() -> None:
    """Halved, then doubled: a cell every pixel, two more with every second. Of sizes between there is no such count."""
    net = Net(17)
    half = net.op("MaxPool", net.image(size=(14, 14)), kernel_shape=[2, 2], strides=[2, 2])
    again = net.op("Resize", half, "", net.const([1, 1, 2, 2]), mode="nearest", nearest_mode="floor")
    feature = net.op("Tanh", net.conv(again, 2, 4, strides=[1, 1]))
    original = net.model(net.fc(net.op("Flatten", net.op("GlobalMaxPool", feature)), 4, 3))
    checked = check_pair(original, without_claim(rewritten(original)))
    assert checked.passed, checked.parity.summary()
    assert (checked.claim.stride, checked.claim.size_step) == ((1, 1), (2, 2))
    assert checked.parity.crops.compared


def test_a_table_that_an_optimiser_took_away(tmp_path: Path) -> None:
    """A step of 1 is no product any more: what the metadata names is gone, its values are in what reads it."""
    path = fixture_file("grid_weighed.torchscript.onnx")
    done = rewrite(path, prove=False)
    session = onnxruntime.SessionOptions()
    session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(complete(done).SerializeToString(), session, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimised.onnx")
    gone = done.claim.grids[1].rewritten
    assert gone not in {tensor for node in model.graph.node for tensor in node.output}
    checked = check_pair(path, model, options=ONE)
    assert checked.passed, checked.parity.summary()
    assert f"an optimiser took away {gone}, which the metadata names: its values are not compared" in checked.notes
    for node in model.graph.node:
        if node.op_type == "Range":  # from 1 on
            node.input[0] = node.input[2]
    assert not check_pair(path, model, options=ONE).passed


@pytest.mark.parametrize("name", ["orders.torchscript", "targets.dynamo", "swin_tail.dynamo"])
def test_a_transpose_at_which_a_head_begins_is_gone(name: str, tmp_path: Path) -> None:
    """Two after each other are one: onnxruntime left no tensor that the metadata names."""
    options = RewriteOptions(free=("height",))
    done = rewrite(fixture_file(f"{name}.onnx"), options=options, prove=False)
    session = onnxruntime.SessionOptions()
    session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(complete(done).SerializeToString(), session, providers=["CPUExecutionProvider"])
    model = onnx.load(tmp_path / "optimised.onnx")
    model.metadata_props.extend(done.model.metadata_props)
    made = {tensor for node in model.graph.node for tensor in node.output}
    assert not {item.rewritten for item in done.claim.boundaries} <= made
    checked = check_pair(fixture_file(f"{name}.onnx"), model, options=ONE)
    assert checked.passed
    assert checked.parity.window.status == "passed"
    assert any("an optimiser took tensors away that the metadata names" in note for note in checked.notes)
    lost = replace(done.claim.boundaries[0], rewritten="nowhere")
    props = {item.key: item.value for item in model.metadata_props}
    wrong = replace(done.claim, boundaries=(lost, *done.claim.boundaries[1:])).to_metadata()
    helper.set_model_props(model, props | wrong)
    assert not check_pair(fixture_file(f"{name}.onnx"), model, options=ONE).passed


def _optimised(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """As onnxruntime fuses it."""
    session = onnxruntime.SessionOptions()
    session.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    session.optimized_model_filepath = str(folder / "fused.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), session, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "fused.onnx")


def _scaled(model: onnx.ModelProto, name: str, factor: float) -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    tensor = next(item for item in copy.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    return copy


@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime fuses otherwise")
def test_a_head_whose_beginning_was_fused(tmp_path: Path) -> None:
    """Operators on integers are made of those around it: the metadata is read off the models then, as without it."""
    path = fixture_file("keras_int8_gap.lite.onnx")
    done = rewrite(path, prove=False)
    model = _optimised(complete(done), tmp_path)
    onnx.helper.set_model_props(model, {item.key: item.value for item in done.model.metadata_props})
    made = {tensor for node in model.graph.node for tensor in node.output}
    gone = done.claim.boundaries[0].rewritten
    assert gone not in made
    checked = check_pair(path, model, options=ONE)
    assert checked.passed, checked.parity.summary()
    assert checked.notes[0].startswith(f"the metadata names {gone}, which the second model does not have")
    scale = next(
        node.input[1] for node in reversed(model.graph.node) if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )
    assert not check_pair(path, _scaled(model, scale, 1.05), options=ONE).passed


@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime fuses otherwise")
def test_fused_operators_whose_shapes_cannot_be_told(tmp_path: Path) -> None:
    """A map was taken for one value of the whole image, of a wrong shape."""
    path = fixture_file("mean_tokens.torchscript.onnx")
    model = _optimised(complete(rewrite(path, prove=False)), tmp_path)
    del model.metadata_props[:]
    with pytest.raises(UsageError, match="its shapes there cannot be told; check it before an optimiser fuses"):
        check_pair(path, model, options=ONE)
    wrong = check_pair(path, _scaled(model, "fc.weight", 1.05), options=ONE)
    assert not wrong.passed
    assert "deviates by" in wrong.parity.summary()
    told = "what shapes the second model has at other sizes cannot be told: nothing is shown for larger images"
    assert told in wrong.notes
