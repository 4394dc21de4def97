"""Trunk parity: the original's own trunk on larger images against the rewritten model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net
from onnx import helper, numpy_helper

from onnxfc import CheckOptions, check_pair, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.proof.baked import sized
from onnxfc.proof.readings import Readings
from onnxfc.proof.results import Parity, ParityResult
from onnxfc.proof.sizes import Size, further_sizes, other_parity
from onnxfc.rewriter.api import Rewrite

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
EVEN_STRIDE, ODD_STRIDE = 2, 3


def classifier(stride: int = EVEN_STRIDE) -> onnx.ModelProto:
    """18x18 px, one Conv without padding, and two FC layers."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[stride, stride]))
    side = (18 - 3) // stride + 1
    x = net.op("Relu", net.fc(net.op("Flatten", x), 4 * side**2, 6))
    return net.model(net.fc(x, 6, 5, out="scores"))


def resampled() -> onnx.ModelProto:
    """Enlarged on the way, whose field is taken to be larger than it is: the last rows of an image are not compared."""
    net = Net()
    x = net.op("Relu", net.conv(net.image(1, (18, 18)), 2, 4, strides=[1, 1]))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Resize", x, "", net.const([1, 1, 2, 2]), mode="linear")
    x = net.op("Relu", net.conv(x, 4, 4, strides=[1, 1]))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.fc(net.op("Flatten", x), 4 * 7 * 7, 5, out="scores"))


def squeezed(pool: str) -> onnx.ModelProto:
    """Squeeze-and-excitation over a map of 8x8 before the FC layer."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[2, 2]))
    how: dict[str, Any] = {"kernel_shape": [8, 8], "strides": [8, 8]} if pool == "AveragePool" else {}
    gate = net.op("Sigmoid", net.conv(net.op(pool, x, out="pooled", **how), 4, 4, (1, 1), strides=[1, 1]), out="gate")
    x = net.op("Mul", x, gate)
    return net.model(net.fc(net.op("Flatten", x), 4 * 8 * 8, 5, out="scores"))


def headless() -> onnx.ModelProto:
    net = Net()
    x = net.op("Relu", net.conv(net.image(1, (18, 18)), 2, 4, strides=[1, 1], pads=[1] * 4))
    return net.model(net.conv(x, 4, 3, strides=[1, 1], pads=[1] * 4))


def first(model: onnx.ModelProto, *nodes: onnx.NodeProto, **constants: Any) -> None:
    """Nodes before all others, which make ``moved`` of the image."""
    for node in model.graph.node:
        node.input[:] = ["moved" if item == "image" else item for item in node.input]
    for position, node in enumerate(nodes):
        model.graph.node.insert(position, node)
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def moved(axis: int, count: Callable[[], list[onnx.NodeProto]], **constants: Any) -> Callable[[onnx.ModelProto], None]:
    """Move the image by as many pixels (none or one) as ``count`` makes of its length ``n`` on ``axis``."""

    def spoil(model: onnx.ModelProto) -> None:
        first(
            model,
            helper.make_node("Shape", ["image"], ["lengths"]),
            helper.make_node("Gather", ["lengths", "axis_"], ["n"], axis=0),
            *count(),
            helper.make_node("Slice", ["image", "by", "far", "axis_"], ["later"]),
            helper.make_node("Concat", ["none_before", "by", "none_behind"], ["pads_"], axis=0),
            helper.make_node("Pad", ["later", "pads_"], ["moved"]),
            axis_=np.array([axis]),
            far=np.array([2**31 - 1]),
            none_before=np.zeros(4 + axis, np.int64),
            none_behind=np.zeros(3 - axis, np.int64),
            **constants,
        )

    return spoil


def above(axis: int) -> Callable[[onnx.ModelProto], None]:
    return moved(
        axis,
        lambda: [
            helper.make_node("Greater", ["n", "native_"], ["more"]),
            helper.make_node("Cast", ["more"], ["by"], to=onnx.TensorProto.INT64),
        ],
        native_=np.array([18]),
    )


def at_steps(axis: int, odd: bool, stride: int) -> Callable[[onnx.ModelProto], None]:
    """Only at sizes an odd, or an even, number of strides above native; the native size itself is let alone."""
    return moved(
        axis,
        lambda: [
            helper.make_node("Sub", ["n", "native_"], ["more"]),
            helper.make_node("Div", ["more", "stride_"], ["steps"]),
            helper.make_node("Mod", ["steps", "two_"], ["rest"]),
            helper.make_node("Equal", ["rest", "wanted_"], ["fits"]),
            helper.make_node("Greater", ["n", "native_"], ["larger"]),
            helper.make_node("And", ["fits", "larger"], ["wrong"]),
            helper.make_node("Cast", ["wrong"], ["by"], to=onnx.TensorProto.INT64),
        ],
        native_=np.array([18]),
        stride_=np.array([stride]),
        two_=np.array([2]),
        wanted_=np.array([int(odd)]),
    )


def spoiled(done: Rewrite, spoil: Callable[[onnx.ModelProto], None]) -> Parity:
    model = done.model
    spoil(model)
    return check(done.original, ModelFile.open(model), done.claim, CHECK)


def trunk_of(model: onnx.ModelProto | Path) -> ParityResult:
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    return done.parity.trunk


def test_a_right_rewrite() -> None:
    found = trunk_of(classifier())
    assert found.status == "passed", found.reason
    assert [item.name for item in found.outputs] == ["tanh_4"]
    assert found.deviation < 1e-6
    on, off, other, *_ = found.sizes
    assert all((now - 18) % 2 == 0 for now in (*on, *other))
    assert {((a - 18) // 2 % 2, (b - 18) // 2 % 2) for a, b in zip(on, other, strict=True)} == {(0, 1), (1, 0)}
    assert any(now % 2 for now in off)


@pytest.mark.parametrize("axis", [2, 3])
def test_an_image_that_is_moved_above_the_native_size(axis: int) -> None:
    """Windows of moved features are windows, and what is moved everywhere moves with the image."""
    parity = spoiled(rewrite(resampled(), prove=False), above(axis))
    assert [parity.native.status, parity.window.status, parity.shift.status] == ["passed"] * 3
    assert parity.crops.status != "failed"
    assert parity.trunk.status == "failed"
    assert not parity.passed
    assert parity.summary().startswith("trunk parity failed: ")


@pytest.mark.parametrize("axis", [2, 3])
def test_features_that_are_moved_above_the_native_size(axis: int) -> None:
    parity = spoiled(rewrite(headless(), prove=False), above(axis))
    assert (parity.native.status, parity.trunk.status) == ("passed", "failed")
    assert parity.trunk.reason.startswith("conv_")


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("stride", [EVEN_STRIDE, ODD_STRIDE])
def test_an_image_that_is_moved_at_some_sizes(stride: int, odd: bool, axis: int) -> None:
    parity = spoiled(rewrite(classifier(stride), prove=False), at_steps(axis, odd, stride))
    assert parity.native.status == "passed"
    assert parity.trunk.status == "failed"


def begun(model: onnx.ModelProto, how: str) -> onnx.ModelProto:
    """With nodes before all others in which no native size is written: amounts of padding that are made of constants,
    as PyTorch's older exporter writes them; all places, or every first one."""
    if how == "Pad":
        made = helper.make_node("ConstantOfShape", ["eight"], ["none"], value=numpy_helper.from_array(np.array([0])))
        first(model, made, helper.make_node("Pad", ["image", "none"], ["moved"]), eight=np.array([8]))
    if how == "Slice":
        ends = np.array([np.iinfo(np.int64).max] * 2)
        given = {"starts": np.array([0, 0]), "ends": ends, "axes": np.array([2, 3]), "steps": np.array([1, 1])}
        first(model, helper.make_node("Slice", ["image", *given], ["moved"]), **given)
    return model


@pytest.mark.parametrize("how", ["", "Pad", "Slice"])
def test_context_that_is_wrong_at_other_sizes(how: str) -> None:
    """A mean over the whole image that a fixed count was put into: nothing else runs the original there."""

    def spoil(model: onnx.ModelProto) -> None:
        place, pool = next((i, n) for i, n in enumerate(model.graph.node) if n.op_type == "GlobalAveragePool")
        axes = numpy_helper.from_array(np.array([2, 3]), "axes_")
        count = numpy_helper.from_array(np.float32(8 * 8), "count_")
        model.graph.initializer.extend([axes, count])
        model.graph.node.insert(place, helper.make_node("ReduceSum", [pool.input[0], "axes_"], ["sum_"]))
        pool.CopyFrom(helper.make_node("Div", ["sum_", "count_"], list(pool.output)))

    done = rewrite(begun(squeezed("GlobalAveragePool"), how), prove=False)
    parity = spoiled(done, spoil)
    assert parity.native.status == "passed"
    assert (parity.window.status, parity.shift.status) == ("passed", "not applicable")
    assert parity.trunk.status == "failed"


@pytest.mark.parametrize("pool", ["GlobalAveragePool", "AveragePool"])
def test_a_pool_of_the_native_map(pool: str) -> None:
    """At other sizes the original's own pool sees a part of the map only, or is read as one over the whole of it."""
    found = trunk_of(squeezed(pool))
    assert (found.status, found.reason) == ("passed", "")
    assert len(found.sizes) > 3


def narrow(kind: str) -> onnx.ModelProto:
    """A pool slides: natively its window just covers the width, and 2 rows of 4."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 10)), 2, 4, strides=[4, 4]))
    x = net.op(kind, x, out="pooled", kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.fc(net.op("Flatten", net.op("Tanh", x, out="trunk")), 4 * 2 * 1, 5, out="scores"))


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_a_pool_that_is_one_place_wide(kind: str) -> None:
    """Sliding, or over all of the width: of an image that was moved, either makes something else."""
    done = rewrite(narrow(kind), check_options=CHECK)
    assert done.parity is not None
    assert (done.parity.trunk.status, done.parity.trunk.reason) == ("passed", "")
    wrong = spoiled(done, above(2))
    assert (wrong.native.status, wrong.window.status, wrong.trunk.status) == ("passed", "passed", "failed")


@pytest.mark.parametrize("rest", [1, 2, 3])
@pytest.mark.parametrize("axis", [2, 3])
def test_an_image_that_is_moved_at_sizes_with_one_remainder(axis: int, rest: int) -> None:
    """Every remainder of the period is run, on each axis."""

    def count() -> list[onnx.NodeProto]:
        return [
            helper.make_node("Mod", ["n", "four_"], ["rest_"]),
            helper.make_node("Equal", ["rest_", "wanted_"], ["wrong"]),
            helper.make_node("Cast", ["wrong"], ["by"], to=onnx.TensorProto.INT64),
        ]

    spoil = moved(axis, count, four_=np.array([4]), wanted_=np.array([(18 + rest) % 4]))
    parity = spoiled(rewrite(classifier(4), prove=False), spoil)
    assert (parity.native.status, parity.trunk.status) == ("passed", "failed")


def test_remainders_of_a_period() -> None:
    """All of a short one; of a long one as many as it has powers of two, twice; each axis alone, one step of the grid
    and twice native, also of one axis alone; only sizes that the model takes."""
    claim = replace(rewrite(classifier(4), prove=False).claim, period=(4, 4))
    on = Size((22, 26), (2, 3))
    found = [size.pixels for size in further_sizes(claim, on)]
    others = [(23, 18), (18, 23), (22, 22), (36, 36), (36, 18), (18, 36)]
    assert found == [other_parity(claim, on).pixels, *others, (19, 21), (20, 20), (21, 19)]
    long = replace(claim, period=(32, 32))
    rests = {size.pixels[0] - 18 for size in further_sizes(long, on)[1:]}
    assert rests == {0, 33, 18, 1, 2, 4, 8, 16, 31, 30, 28, 24}
    steps = [size.pixels for size in further_sizes(replace(claim, size_step=(4, 4)), on)[1:]]
    assert steps == [(22, 18), (18, 22), (22, 22), (38, 38), (38, 18), (18, 38)]
    huge = replace(claim, inputs=(replace(claim.inputs[0], shape=(1, 1, 2018, 2018)),), native_size=(2018, 2018))
    assert len(further_sizes(huge, Size((2022, 2026)))) == 1


def padded() -> onnx.ModelProto:
    """Natively padded by none, at other sizes as they ask for."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[1, 1]))
    x = net.op("MaxPool", net.op("Tanh", x), out="pooled", kernel_shape=[3, 3], strides=[3, 3], auto_pad="SAME_UPPER")
    return net.model(net.fc(net.op("Flatten", net.op("Tanh", x)), 4 * 6 * 6, 5, out="scores"))


def test_padding_that_was_fixed_is_compared_at_every_size() -> None:
    """As it is natively, which the original's own is not elsewhere."""
    done = rewrite(padded(), check_options=CHECK)
    assert done.parity is not None
    trunk = done.parity.trunk
    assert (trunk.status, trunk.reason) == ("passed", "")
    assert {size[0] % 3 for size in trunk.sizes} == {0, 1, 2}
    assert trunk.frozen.startswith("node_pooled pads or rounds as at the native size")

    def spoil(model: onnx.ModelProto) -> None:
        pool = next(node for node in model.graph.node if node.output[0] == "pooled")
        pads = next(item for item in pool.attribute if item.name == "pads")
        pads.ints[3] += 1

    wrong = spoiled(done, spoil)
    assert (wrong.native.status, wrong.passed) == ("passed", False)


def test_a_sum_of_the_map_is_no_witness_either() -> None:
    """It grows with the image; the rewrite keeps the scale that it has natively. What reads the shape is not blamed."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[2, 2]))
    total = net.axes("ReduceL2", net.op("Neg", net.op("Reshape", x, net.op("Shape", x))), [2, 3], out="total")
    x = net.op("Mul", x, net.op("Sigmoid", net.conv(total, 4, 4, (1, 1), strides=[1, 1])))
    found = trunk_of(net.model(net.fc(net.op("Flatten", x), 4 * 8 * 8, 5, out="scores")))
    assert (found.status, found.reason.split(", ")[1]) == (
        "not applicable",
        "in which a sum may grow with the image: node_total",
    )


def test_a_trunk_that_does_not_run_at_other_sizes() -> None:
    net = Net()
    x = net.op("Tanh", net.conv(net.image(1, (18, 18)), 2, 4, strides=[2, 2]))
    x = net.op("Reshape", x, net.ints(1, 2, 2, 8, 8))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1, 3, 4]), net.ints(1, 4, 8, 8))
    x = net.op("Relu", net.conv(x, 4, 4, strides=[1, 1]))
    found = trunk_of(net.model(net.fc(net.op("Flatten", x), 4 * 6 * 6, 5, out="scores")))
    assert found.status == "not applicable"
    assert found.reason.startswith("the original's trunk does not run at ")
    assert ": Reshape node_" in found.reason


@pytest.mark.parametrize("name", ["keras_same.tf2onnx", "se_net.dynamo", "mini_googlenet.dynamo"])
def test_fixtures(name: str) -> None:
    """Padding and rounding that a rewrite fixes are compared on the grid; the deviation is rounding."""
    found = trunk_of(fixture_file(f"{name}.onnx"))
    assert found.status == "passed", found.reason
    assert found.deviation < 1e-5


def test_what_was_fixed_at_the_native_size_is_told() -> None:
    """Off the grid of strides the original's own ceil_mode would begin another window: which node, in every report."""
    done = rewrite(fixture_file("mini_googlenet.dynamo.onnx"), check_options=CHECK)
    assert done.parity is not None
    assert (
        done.parity.trunk.frozen == "node_max_pool2d_1 pads or rounds as at the native size, also off the stride grid"
    )
    assert done.parity.trunk.frozen in " ".join(done.text().split())
    step = done.claim.period[0]
    assert {(size[0] - done.claim.native_size[0]) % step for size in done.parity.trunk.sizes} > {0, 1, step - 1}
    assert trunk_of(fixture_file("lenet.dynamo.onnx")).frozen == ""


def test_the_native_size_only() -> None:
    done = rewrite(classifier(), prove=False)
    parity = check(done.original, done.file, done.claim, replace(CHECK, larger=False))
    assert parity.trunk.status == "not applicable"
    assert parity.passed


def test_the_other_parity_lies_on_the_grid() -> None:
    claim = replace(rewrite(classifier(), prove=False).claim, stride=(2, 4), size_step=(3, 1), period=(4, 4))
    assert other_parity(claim, Size((24, 26))) == Size((30, 30), (7, 4))


def test_a_pair_of_which_the_second_is_moved() -> None:
    paths = [CASES / f"pair-shifted-above-native.{which}.onnx" for which in ("original", "other")]
    if not all(path.is_file() for path in paths):
        pytest.skip(f"not there: {paths}")
    done = check_pair(*paths, options=CheckOptions(threads=1))
    assert not done.passed
    assert done.parity.summary().startswith("trunk parity failed: ")


def test_onnxruntimes_own_quantisation_says_the_same_at_every_size() -> None:
    """QuantizeLinear and DequantizeLinear of its domain: off the stride grid, too, the trunks are compared."""
    path = fixture_file("lenet.qdq_own_int16.onnx")
    original = ModelFile.open(path)
    done = rewrite(path, check_options=replace(CHECK, check_sizes=((33, 38),)))
    graph = original.proto.graph
    quantising = [node for node in graph.node if node.domain == "com.microsoft"]
    assert {node.op_type for node in quantising} == {"QuantizeLinear", "DequantizeLinear"}
    assert sized(quantising, graph, {}) == ""
    assert done.parity is not None
    assert done.parity.trunk.status == "passed"
    assert (33, 38) in done.parity.trunk.sizes


def test_a_constant_that_says_it_pads() -> None:
    """An attribute that means nothing there; a node without inputs has no padding."""
    net = Net()
    trunk = net.op("Relu", net.conv(net.image(1, (16, 16), 2), 2, 4))
    made = net.op("Mul", trunk, net.op("Constant", value=numpy_helper.from_array(np.float32(2))))
    model = net.model(net.fc(net.op("Flatten", made), 196, 3))
    next(node for node in model.graph.node if node.op_type == "Constant").attribute.append(
        helper.make_attribute("auto_pad", "SAME_UPPER")
    )
    assert Readings.of(model, {}, onnx.GraphProto()).open == frozenset()
