"""Pairs that differ at some sizes alone: one axis larger, odd sums, one step of the grid, far more than native."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete
from onnx import helper, numpy_helper

from onnxfc import check_pair, rewrite
from onnxfc.claim.claim import PREFIX

Step = tuple[str, list[str]]

HEIGHT_ALONE: list[Step] = [
    ("Greater", ["h", "own_h"]),
    ("Equal", ["w", "own_w"]),
    ("And", ["Greater", "Equal"]),
]
WIDTH_ALONE: list[Step] = [
    ("Greater", ["w", "own_w"]),
    ("Equal", ["h", "own_h"]),
    ("And", ["Greater", "Equal"]),
]
ODD_SUM: list[Step] = [
    ("Add", ["h", "w"]),
    ("Mod", ["Add", "two"]),
    ("Equal", ["Mod", "one"]),
]
ONE_STEP: list[Step] = [("Sub", ["h", "own_h"]), ("Equal", ["Sub", "stride"])]
ONE_STRIDE: list[Step] = [
    ("Sub", ["h", "own_h"]),
    ("Equal", ["Sub", "stride"]),
    ("Greater", ["w", "own_w"]),
    ("And", ["Equal", "Greater"]),
]
FAR: list[Step] = [("Add", ["own_h", "own_h"]), ("Sub", ["Add", "stride"]), ("Greater", ["h", "Sub"])]

TWICE_HIGH: list[Step] = [
    ("Add", ["own_h", "own_h"]),
    ("Sub", ["Add", "one"]),
    ("Greater", ["h", "Sub"]),
    ("Mul", ["own_w", "two"]),
    ("Less", ["w", "Mul"]),
    ("And", ["Greater", "Less"]),
]


def damaged(name: str, steps: list[Step], output: bool = False) -> onnx.ModelProto:
    """A rewrite whose first Conv's features, or whose ``output``, are halved where ``steps`` are true of the image's
    height and width."""
    done = rewrite(fixture_file(name), prove=False)
    model, (height, width) = complete(done), done.claim.native_size
    numbers = {
        "own_h": height,
        "own_w": width,
        "two": 2,
        "one": 1,
        "stride": done.claim.stride[0],
        "at_h": 2,
        "at_w": 3,
    }
    constants = {key: np.int64(value) for key, value in numbers.items()}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(n), f"if_{key}") for key, n in constants.items())
    model.graph.initializer.extend(
        numpy_helper.from_array(np.float32(n), f"if_{key}") for key, n in {"half": 0.5, "whole": 1.0}.items()
    )
    made = model.graph.output[0].name
    at, first = next(
        (i, node)
        for i, node in enumerate(model.graph.node)
        if (made in node.output if output else node.op_type == "Conv")
    )
    before, first.output[0] = first.output[0], "as_it_was"
    nodes = [helper.make_node("Shape", [model.graph.input[0].name], ["if_dims"])]
    nodes += [helper.make_node("Gather", ["if_dims", f"if_at_{side}"], [f"if_{side}"]) for side in "hw"]
    nodes += [helper.make_node(kind, [f"if_{item}" for item in given], [f"if_{kind}"]) for kind, given in steps]
    nodes.append(helper.make_node("Where", [f"if_{steps[-1][0]}", "if_half", "if_whole"], ["if_scale"]))
    nodes.append(helper.make_node("Mul", ["as_it_was", "if_scale"], [before]))
    for k, node in enumerate(nodes):
        model.graph.node.insert(at + 1 + k, node)
    return model


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", ["lenet.dynamo.onnx", "head12.torchscript.onnx", "mini_resnet_d.dynamo.onnx"])
@pytest.mark.parametrize("steps", [HEIGHT_ALONE, WIDTH_ALONE, ODD_SUM, ONE_STEP, FAR, TWICE_HIGH])
@pytest.mark.parametrize("bare", [False, True])
def test_what_differs_at_some_sizes_alone(name: str, steps: list[Step], *, bare: bool) -> None:
    model = damaged(name, steps)
    if bare:
        del model.metadata_props[:]
    done = check_pair(fixture_file(name), model, options=CHECK)
    assert done.parity.native.status == "passed"
    assert not done.passed


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", ["list_columns.torchscript.onnx", "sums.torchscript.onnx"])
@pytest.mark.parametrize("steps", [HEIGHT_ALONE, WIDTH_ALONE, ONE_STEP, FAR, ONE_STRIDE, TWICE_HIGH])
def test_sizes_at_which_the_original_s_trunk_is_not_run(name: str, steps: list[Step]) -> None:
    """A rewrite that is made again says what is right there."""
    done = check_pair(fixture_file(name), damaged(name, steps, output=True), options=CHECK)
    assert done.parity.native.status == "passed"
    told = done.parity.summary()
    assert "a rewrite of the original computes otherwise: " in told or "trunk parity failed" in told


def test_a_window_larger_than_the_native_map() -> None:
    """By such metadata the native image has no cell."""
    model = complete(rewrite(fixture_file("lenet.dynamo.onnx"), prove=False))
    told = next(item for item in model.metadata_props if item.key == f"{PREFIX}boundaries")
    told.value = told.value.replace('"extent": [4, 4]', '"extent": [9, 4]')
    done = check_pair(fixture_file("lenet.dynamo.onnx"), model, options=CHECK)
    boundary = done.claim.boundaries[0].original
    assert done.parity.window.reason == f"the claimed window (9, 4) of {boundary} is (4, 4) at native size"


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    "name",
    [
        *("detect.torchscript.onnx", "detect_best.dynamo.onnx", "boxes.torchscript.onnx"),
        "detect_weighed.torchscript.onnx",
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_a_batch_of_which_one_image_is_read(name: str, *, bare: bool) -> None:
    """Declared free afterwards: only the first image's boxes come out."""
    model = complete(rewrite(fixture_file(name), prove=False))
    if bare:
        del model.metadata_props[:]
    assert check_pair(fixture_file(name), model, options=CHECK).passed
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")
    told = check_pair(fixture_file(name), model, options=CHECK).parity.summary()
    assert any(
        why in told for why in ("by the values of one image", "is of one image at batch 2", "native size, batch 2")
    )


@pytest.mark.parametrize(
    ("name", "key", "before", "after", "told"),
    [
        ("grid_two_rows", "grids", '"axes": [2, 3]', '"axes": [2, 2]', "does not go on by the rule 'step'"),
        ("kept_spread", "boundaries", "", "", "has 1 axes, claimed were spatial axes (2, 3)"),
    ],
)
def test_metadata_of_other_axes(name: str, key: str, before: str, after: str, told: str) -> None:
    original = fixture_file(f"{name}.torchscript.onnx")
    model = complete(rewrite(original, prove=False))
    item = next(item for item in model.metadata_props if item.key == f"{PREFIX}{key}")
    if before:
        item.value = item.value.replace(before, after)
    else:  # a trunk tensor with places is said to be a vector
        vector = next(node.output[0] for node in model.graph.node if node.op_type in ("Constant", "Shape"))
        item.value = re.sub(r'"rewritten": "[^"]*"', f'"rewritten": "{vector}"', item.value)
    done = check_pair(original, model, options=CHECK).parity
    assert not done.passed
    assert told in done.window.reason
