"""Rewritten models that were fixed to one image size afterwards, by onnxruntime's own tool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, complete
from onnx import numpy_helper
from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_dim_param_fixed

from onnxfc import NothingToRewrite, ProofFailed, RewriteOptions, check_pair, inspect, rewrite
from onnxfc.builder.state import GlobalPool

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
NAME = "lenet.dynamo.onnx"


def fixed(height: int, width: int) -> onnx.ModelProto:
    model = complete(rewrite(fixture_file(NAME), prove=False))
    make_dim_param_fixed(model.graph, "height", height)
    make_dim_param_fixed(model.graph, "width", width)
    fix_output_shapes(model)
    return model


@pytest.mark.parametrize(("size", "cells"), [((40, 44), (4, 5)), ((28, 28), (1, 1)), ((41, 30), (4, 1))])
def test_at_the_size_that_it_has(size: tuple[int, int], cells: tuple[int, int]) -> None:
    model = fixed(*size)
    found = inspect(model)
    assert found.native_size == (28, 28)
    assert found.cost is not None
    assert (found.cost.size, found.cost.cells) == (size, cells)
    done = check_pair(fixture_file(NAME), model, options=CHECK)
    assert done.passed, done.parity.summary()
    assert size in (*done.parity.window.sizes, (28, 28))
    told = "x".join(map(str, size))
    assert f"the second model is fixed to images of {told} px; its graph was checked at other sizes, too" in done.notes


def test_an_error_in_a_fixed_model() -> None:
    model = fixed(40, 44)
    next(node for node in model.graph.node if node.op_type == "Conv").attribute[0].CopyFrom(
        onnx.helper.make_attribute("group", 1)
    )
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Tanh"
    assert not check_pair(fixture_file(NAME), model, options=CHECK).passed


def test_a_batch_that_was_lost() -> None:
    """Declared free, it is 1 in the graph: alone, each image gets what it should."""
    path = fixture_file("lenet.dynamo.onnx")
    done = rewrite(path, options=RewriteOptions(dynamic_batch=True, fixed_size=(32, 32)), prove=False)
    model = complete(done)
    assert check_pair(path, model, options=CHECK).passed
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    made, place = relu.output[0], [*model.graph.node].index(relu)
    relu.output[0] = "ahead"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    turned = [("Squeeze", ["ahead", "first"], "alone"), ("Unsqueeze", ["alone", "first"], made)]
    for kind, given, name in reversed(turned):
        model.graph.node.insert(place + 1, onnx.helper.make_node(kind, given, [name]))
    checked = check_pair(path, model, options=CHECK)
    assert not checked.passed
    assert checked.parity.form is not None
    assert checked.parity.form.reason.startswith("the model for one size does not run at batch 2: ")


@pytest.mark.parametrize(
    ("case", "global_pool"), [("mxnet-zoo-bn", "window"), ("lpips-nan", "window"), ("lpips-nan", "keep")]
)
def test_where_the_original_is_to_blame(case: str, global_pool: GlobalPool) -> None:
    path = CASES / f"{case}.onnx"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    if case == "mxnet-zoo-bn":
        with pytest.raises(NothingToRewrite, match=r"a fault of MXNet's exporter; onnxruntime cannot run it"):
            rewrite(path)
        return
    with pytest.raises(ProofFailed, match=r"the original's own output add_5 is not finite") as caught:
        rewrite(path, options=RewriteOptions(global_pool=global_pool), check_options=CHECK)
    assert "failed" not in str(caught.value)


def of_one_axis(name: str, axis: int, length: int, *, bare: bool) -> onnx.ModelProto:
    """A rewrite of which one axis was given a number afterwards."""
    model = complete(rewrite(fixture_file(name), prove=False))
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length
    if bare:
        del model.metadata_props[:]
    return model


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", ["mini_vgg.torchscript.onnx", "gates.torchscript.onnx", "unbatched.torchscript.onnx"])
@pytest.mark.parametrize("bare", [False, True])
def test_one_axis_of_two_is_fixed(name: str, *, bare: bool) -> None:
    first = 1 if name.startswith("unbatched") else 2
    for axis in (first, first + 1):
        native = rewrite(fixture_file(name), prove=False).claim.inputs[0].shape[axis]
        done = check_pair(fixture_file(name), of_one_axis(name, axis, native, bare=bare), options=CHECK)
        assert done.passed, done.parity.summary()
        assert done.parity.window.status == "passed"
        lengths = f"{native}xN" if axis == first else f"Nx{native}"
        side = f"a {('height', 'width')[axis - first]} of {native} px" if bare else f"images of {lengths} px"
        assert f"the second model is fixed to {side}; its graph was checked at other sizes, too" in done.notes


def test_one_axis_is_fixed_to_more_than_native() -> None:
    model = of_one_axis(NAME, 2, 41, bare=False)
    done = check_pair(fixture_file(NAME), model, options=CHECK)
    assert done.passed
    assert (41, 28) in done.parity.window.sizes
    found = inspect(model)
    assert found.cost is not None
    assert (found.cost.size, found.cost.cells) == ((41, 56), (4, 8))
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.op_type = "Tanh"
    assert not check_pair(fixture_file(NAME), model, options=CHECK).passed


@pytest.mark.parametrize("axis", [2, 3])
def test_an_axis_that_stays_is_open(axis: int) -> None:
    """The graph was made for one length there: a Reshape or Conv may well run at others, and mean nothing."""
    side = ("width", "height")[axis - 2]
    model = complete(rewrite(fixture_file(NAME), options=RewriteOptions(free=(side,)), prove=False))
    assert check_pair(fixture_file(NAME), model, options=CHECK).passed
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "any"
    done = check_pair(fixture_file(NAME), model, options=CHECK)
    name, own = model.graph.input[0].name, ("height", "width")[axis - 2]
    told = f"wrong claim: the {own} of {name} is 28 px alone, the second model leaves it open"
    assert done.parity.native.reason == told
    model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 40
    told = f"wrong claim: the {own} of {name} is 28 px alone, the second model has 40"
    assert check_pair(fixture_file(NAME), model, options=CHECK).parity.native.reason == told


def test_a_model_for_one_size_is_open() -> None:
    options = RewriteOptions(fixed_size=(36, 40))
    model = complete(rewrite(fixture_file(NAME), options=options, prove=False))
    assert check_pair(fixture_file(NAME), model, options=CHECK).passed
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param = dims[3].dim_param = "any"
    done = check_pair(fixture_file(NAME), model, options=CHECK)
    assert not done.passed
    assert done.parity.form is not None
    name = model.graph.input[0].name
    assert done.parity.form.reason == (
        f"wrong claim: the height of {name} is 36 px alone, the second model leaves it open"
    )


@pytest.mark.parametrize("name", ["frames_assigned.dynamo.onnx", "shuffle.torchscript.onnx", "blocks.torchscript.onnx"])
def test_heads_of_other_axes_than_the_metadata_tell(name: str) -> None:
    """A model of which the fixed axis was opened, and whose head would be found elsewhere, ended in a traceback."""
    model = complete(rewrite(fixture_file(name), options=RewriteOptions(free=("height",)), prove=False))
    model.graph.input[0].type.tensor_type.shape.dim[-1].dim_param = "any"
    done = check_pair(fixture_file(name), model, options=CHECK)
    assert done.parity.native.reason.endswith("px alone, the second model leaves it open")


def test_an_image_alone_that_was_fixed_is_told() -> None:
    """Its outputs are declared for any size still: which of both is meant, nobody knows."""
    model = complete(rewrite(fixture_file(NAME), prove=False))
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = 28
    told = check_pair(fixture_file(NAME), model, options=CHECK).parity.native.reason
    assert told.startswith("image is 28x28 px alone in the second model, whose outputs are of any size; fix both")
    del model.metadata_props[:]
    assert check_pair(fixture_file(NAME), model, options=CHECK).passed
