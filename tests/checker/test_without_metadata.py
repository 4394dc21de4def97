"""Rewritten models without what they say of themselves: options are read off the pair, and the claim is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete
from onnx import helper, numpy_helper
from quantised import optimised

from onnxfc import UsageError, check_pair, rewrite
from onnxfc.checker import derive_claim
from onnxfc.checker.api import Checked
from onnxfc.checker.shown_outputs import as_long_as
from onnxfc.claim.claim import Claim, Level, Output
from onnxfc.reports.check import text as check_text
from onnxfc.rewriter.options import RewriteOptions

HEIGHT: dict[str, Any] = {"free": ("height",)}
DROP, KEEP, MEAN = {"global_pool": "drop"}, {"global_pool": "keep"}, {"output": "mean"}


def stripped(name: str, options: dict[str, Any]) -> tuple[onnx.ModelProto, Claim]:
    made = rewrite(fixture_file(f"{name}.onnx"), options=RewriteOptions(**options), prove=False)
    model = complete(made)
    del model.metadata_props[:]
    return model, made.claim


def checked(name: str, model: onnx.ModelProto) -> Checked:
    done = check_pair(fixture_file(f"{name}.onnx"), model, options=CHECK)
    assert done.claim_from == "derived"
    return done


@pytest.mark.sweep(20)
@pytest.mark.parametrize(
    ("options", "name"),
    [
        *((HEIGHT, name) for name in ("lenet.dynamo", "mini_resnet_d.dynamo", "blocks.dynamo", "evo_norm.torchscript")),
        *((HEIGHT, name) for name in ("borders_unread.dynamo", "reductions.torchscript", "grid_decoder.dynamo")),
        *((DROP, name) for name in ("mini_resnet_d.dynamo", "blocks.dynamo", "context_channels_last.dynamo")),
        *((DROP, name) for name in ("axial_attention.dynamo", "evo_norm.torchscript", "raw_audio.dynamo")),
        *((KEEP, name) for name in ("mini_squeezenet.torchscript", "kept_of_rows.dynamo", "kept_windows.torchscript")),
        *((KEEP, name) for name in ("kept_by_hand.torchscript", "blocks.torchscript")),
        *((MEAN, name) for name in ("borders_unread.torchscript", "kept_beside.dynamo", "lenet.dynamo")),
        *(({}, name) for name in ("list_flattened.dynamo", "list_last.torchscript", "list_unbatched.dynamo")),
        *(({}, name) for name in ("grid_centres.dynamo", "grid_two_rows.dynamo", "list_widths.torchscript")),
        *(
            ({}, name)
            for name in ("detect.dynamo", "detect_best.torchscript", "detect_apart.torchscript", "nms.dynamo")
        ),
        *(({}, name) for name in ("coordinate.torchscript", "kept_by_hand.dynamo", "operator_attention.dynamo")),
    ],
)
def test_what_a_rewrite_claims_is_found_without_it(options: dict[str, Any], name: str) -> None:
    model, claim = stripped(name, options)
    done = checked(name, model)
    assert done.passed
    assert done.claim.detections == claim.detections
    told = [(output.name, output.form, output.axes) for output in claim.outputs]
    assert [(output.name, output.form, output.axes) for output in done.claim.outputs] == told
    assert (done.claim.native_size, done.claim.stride) == (claim.native_size, claim.stride)
    windows = {(item.original, item.spatial, item.extent, item.step, item.folded) for item in claim.boundaries}
    found = {(item.original, item.spatial, item.extent, item.step, item.folded) for item in done.claim.boundaries}
    assert found == windows
    assert [image.free for image in done.claim.inputs] == [image.free for image in claim.inputs]


def moved(model: onnx.ModelProto) -> None:
    """The cells are a row further down; the last one is the first."""
    (output,) = model.graph.output
    _behind(model, output.name)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40]), "end"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([2]), "axis"))
    model.graph.node.append(helper.make_node("Slice", ["y", "one", "end", "axis"], ["rest"]))
    model.graph.node.append(helper.make_node("Slice", ["y", "zero", "one", "axis"], ["first"]))
    model.graph.node.append(helper.make_node("Concat", ["rest", "first"], [output.name], axis=2))


def turned(model: onnx.ModelProto) -> None:
    """A list from its last place on, where the image is not as large as natively."""
    (output,) = model.graph.output
    _behind(model, output.name)
    native = output.type.tensor_type.shape.dim
    places = next(axis for axis, dim in enumerate(native) if dim.dim_param)
    length = 400
    for name, value in {"at": places, "far": length, "last": -1, "lowest": -(1 << 40), "by": -1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    nodes = [
        helper.make_node("Shape", ["y"], ["shape"]),
        helper.make_node("Gather", ["shape", "at"], ["long"]),
        helper.make_node("Equal", ["long", "far"], ["native"]),
        helper.make_node("Slice", ["y", "last", "lowest", "at", "by"], ["back"]),
        helper.make_node("Where", ["native", "y", "back"], [output.name]),
    ]
    model.graph.node.extend(nodes)


def _behind(model: onnx.ModelProto, name: str) -> None:
    for node in model.graph.node:
        node.output[:] = ["y" if item == name else item for item in node.output]
        node.input[:] = ["y" if item == name else item for item in node.input]


def test_what_picks_places_is_the_originals_without_metadata_too() -> None:
    model, _ = stripped("detect.torchscript", {})
    node = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    node.attribute.append(helper.make_attribute("center_point_box", 1))
    done = checked("detect.torchscript", model)
    assert not done.passed
    assert "the nodes that make boxes are not the original's own" in done.parity.summary()


@pytest.mark.parametrize(
    ("options", "name", "damage"),
    [
        (HEIGHT, "lenet.dynamo", moved),
        (HEIGHT, "mini_resnet_d.dynamo", moved),
        (DROP, "mini_resnet_d.dynamo", moved),
        ({}, "grid_centres.dynamo", turned),
    ],
)
def test_what_is_damaged_off_the_native_size_is_found(
    options: dict[str, Any], name: str, damage: Callable[[onnx.ModelProto], None]
) -> None:
    model, _ = stripped(name, options)
    damage(model)
    assert not checked(name, model).passed


@pytest.mark.parametrize(
    ("name", "mean"),
    [("context_norms.dynamo", "pow_2_reducemean"), ("linear_attention.dynamo", "add_2_reducemean")],
)
def test_a_mean_of_the_native_count_is_found(name: str, mean: str) -> None:
    """A context that is summed up, and divided by the native hundred places: natively it is the mean."""
    model, _ = stripped(name, {})
    place = next(i for i, node in enumerate(model.graph.node) if mean in node.output)
    node = model.graph.node[place]
    node.op_type, node.output[0] = "ReduceSum", "summed"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.01, np.float32), "hundredth"))
    model.graph.node.insert(place + 1, helper.make_node("Mul", ["summed", "hundredth"], [mean]))
    done = checked(name, model)
    assert not done.passed
    assert done.parity.native.status == "passed"
    assert "a rewrite of the original computes otherwise" in done.parity.summary()


def test_a_model_whose_shapes_cannot_be_told_is_not_passed(tmp_path: Path) -> None:
    """One of onnxruntime's own operators, which no shape inference knows; natively, all is as it was."""
    model, _ = stripped("convnext.torchscript", KEEP)
    optimised(model, tmp_path)
    fused = onnx.load(tmp_path / "optimised.onnx")
    assert any(node.op_type == "BiasGelu" for node in fused.graph.node)
    done = checked("convnext.torchscript", fused)
    assert done.passed  # all that the optimiser fused is known
    assert done.claim.outputs[0].form == "global"
    at, conv = next((i, node) for i, node in enumerate(fused.graph.node) if node.op_type == "Conv")
    name, conv.output[0] = conv.output[0], "alone"
    last = numpy_helper.from_array(np.array(4, np.int32), "behind_all")
    fused.graph.initializer.extend([last, numpy_helper.from_array(np.array([4]), "behind_all_again")])
    fused.graph.node.insert(
        at + 1, helper.make_node("ExpandDims", ["alone", "behind_all"], ["wide"], domain="com.microsoft")
    )
    fused.graph.node.insert(at + 2, helper.make_node("Squeeze", ["wide", "behind_all_again"], [name]))
    with pytest.raises(UsageError, match="takes images of other sizes, but its shapes there cannot be told"):
        checked("convnext.torchscript", fused)


def test_cells_farther_apart_than_a_rewrite_has_them_are_told() -> None:
    """A pool moved by two places: each cell is what the original says of its crop."""
    model, claim = stripped("mini_resnet_d.dynamo", {})
    pool = [node for node in model.graph.node if node.op_type == "AveragePool"][-1]
    others = [item for item in pool.attribute if item.name != "strides"]
    del pool.attribute[:]
    pool.attribute.extend([*others, helper.make_attribute("strides", [2, 2])])
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    done = checked("mini_resnet_d.dynamo", model)
    assert done.passed
    assert done.claim.stride == tuple(2 * n for n in claim.stride)
    assert any("a rewrite of the original has one every" in note for note in done.notes)


def test_only_what_a_claim_names_is_looked_up_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a long network of maps of one size each has all others alike: 30,000 times 30,000 names."""
    net, seen = Net(), list[int]()
    tensor = net.trunk()
    for _ in range(200):
        tensor = net.op("Tanh", tensor)
    model = net.model(net.fc(net.op("Flatten", tensor), 60, 5))
    made = complete(rewrite(model, prove=False))
    del made.metadata_props[:]

    def counted(*given: Any) -> dict[str, list[str]]:
        found = as_long_as(*given)
        seen.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(derive_claim, "as_long_as", counted)
    assert check_pair(model, made, options=CHECK).passed
    assert seen
    assert max(seen) <= 210


def test_an_axis_that_a_plain_rewrite_keeps_is_compared_where_the_second_model_frees_it() -> None:
    """Columns of letters: a plain rewrite frees the width, one of their mean the height, too."""
    model, claim = stripped("columns_mean.dynamo", MEAN)
    assert claim.native_size == (32, 64)
    done = checked("columns_mean.dynamo", model)
    assert (done.passed, done.claim.native_size) == (True, (32, 64))
    assert {height for height, _ in (size for size in done.parity.window.sizes)} > {33}
    output = model.graph.output[0].name
    _behind(model, output)
    nodes = [
        helper.make_node("Shape", [model.graph.input[0].name], ["height"], start=2, end=3),
        helper.make_node("Cast", ["height"], ["tall"], to=1),
        helper.make_node("Div", ["tall", "thirty_two"], ["times"]),
        helper.make_node("Mul", ["y", "times"], [output]),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array([32], np.float32), "thirty_two"))
    model.graph.node.extend(nodes)
    assert not checked("columns_mean.dynamo", model).passed


@pytest.mark.parametrize("name", ["lenet.dynamo", "mini_alexnet.torchscript"])
def test_open_dims_at_which_nothing_runs_fail(name: str) -> None:
    """Its dims say more than the original's, and are no more than that."""
    model = onnx.load(fixture_file(f"{name}.onnx"))
    for dim, symbol in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], ("height", "width"), strict=True):
        dim.dim_param = symbol
    done = checked(name, model)
    assert "does not run at" in done.parity.summary()
    again = check_pair(model, model, options=CHECK, size=done.claim.native_size)
    assert again.passed  # so has the original itself
    assert again.notes == ("the second model takes the native size only: nothing is shown for larger images",)


def test_sizes_that_are_taken_are_told() -> None:
    model, _ = stripped("reductions.torchscript", DROP)
    for node in model.graph.node:
        for item in node.attribute:
            item.i = 1 if item.name == "ceil_mode" else item.i
    done = checked("reductions.torchscript", model)
    assert done.claim.size_step == (4, 4)
    assert "7x7 px plus multiples of 4x4 px; pad other images to one" in check_text(done)


@pytest.mark.parametrize("name", ["list_flattened.dynamo", "list_unbatched.dynamo", "list_widths.torchscript"])
def test_renamed_tensors_of_a_list_are_found(name: str) -> None:
    """The metadata names the maps of a list's levels as they were."""
    model = complete(rewrite(fixture_file(f"{name}.onnx"), prove=False))
    outside = {info.name for info in [*model.graph.input, *model.graph.output, *model.graph.initializer]} | {""}
    for node in model.graph.node:
        node.input[:] = [item if item in outside else f"{item} again" for item in node.input]
        node.output[:] = [item if item in outside else f"{item} again" for item in node.output]
    del model.graph.value_info[:]
    done = checked(name, model)
    assert done.passed
    assert done.notes[0].endswith("which the second model does not have: what it claims was read off the models")


def test_what_metadata_say_beside_a_tensor_that_was_renamed_is_compared() -> None:
    """With the strides doubled, a place of the list is told at twice as many pixels as it lies."""
    made = rewrite(fixture_file("list_tokens.torchscript.onnx"), prove=False)
    model = complete(made)

    def twice(output: Output | Level) -> dict[str, tuple[int, ...]]:
        return {"stride": tuple(2 * item for item in output.stride)}

    def told(claim: Claim) -> None:
        levels = [tuple(replace(level, tensor="renamed") for level in item.levels) for item in claim.outputs]
        pairs = zip(claim.outputs, levels, strict=True)
        outputs = tuple(replace(item, levels=some) for item, some in pairs)
        props = {item.key: item.value for item in model.metadata_props}
        helper.set_model_props(model, props | replace(claim, outputs=outputs).to_metadata())

    told(made.claim)
    done = checked("list_tokens.torchscript", model)
    assert done.passed
    assert done.notes[0].startswith("the metadata names renamed, which the second model does not have: ")
    outputs = tuple(
        replace(item, **twice(item), levels=tuple(replace(level, **twice(level)) for level in item.levels))
        for item in made.claim.outputs
    )
    told(replace(made.claim, outputs=outputs, **twice(made.claim)))  # type: ignore[arg-type]
    done = checked("list_tokens.torchscript", model)
    assert done.parity.native.reason == "wrong claim: stride is (8, 8), a rewrite of the original has (4, 4)"
