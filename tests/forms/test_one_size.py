"""Models for images of one size: every length is a number, nothing computes lengths, and cells are the original's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import here, unwrapped
from fixture_files import fixture_file
from hazards import CHECK, complete, own_crops, session

from onnxfc import (
    CheckOptions,
    Geometry,
    ProofFailed,
    ReadError,
    Rewrite,
    RewriteOptions,
    UsageError,
    check_pair,
    inspect,
    rewrite,
    scan,
)

EXACT = [
    *("lenet.dynamo", "branches.dynamo", "branches.torchscript", "between.torchscript", "residual.dynamo"),
    *("gates.torchscript", "targets.torchscript", "bn_before_fc.torchscript", "shaped.torchscript", "conv1d.dynamo"),
    *("volume.dynamo", "keras_branches.tf2onnx", "keras_flatten.export", "listed.torchscript"),
]
"""Their trunks have no padding: cells must be the original's on crops."""


def fixed(name: str, size: tuple[int, ...], **options: object) -> Rewrite:
    """Rewritten for this size, not proven by onnxfc."""
    return rewrite(
        fixture_file(f"{name}.onnx"),
        options=RewriteOptions(fixed_size=size, **options),
        prove=False,  # type: ignore[arg-type]
    )


def open_dims(model: onnx.ModelProto) -> set[str]:
    """Tensors whose shape is not all numbers, or is not told."""
    infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    told = {info.name for info in infos if all(dim.dim_value > 0 for dim in info.type.tensor_type.shape.dim)}
    made = {name for node in model.graph.node for name in node.output if name}
    return ({info.name for info in infos} | made) - told


def computed(model: onnx.ModelProto) -> Iterator[str]:
    """Operators that work on constants alone, or ask for a length."""
    known = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" or node.op_type == "Identity":
            known.update(node.output)
        elif node.op_type in {"Shape", "Size"} or all(name in known for name in node.input if name):
            yield str(node.op_type)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", EXACT)
def test_cells_are_the_originals_on_crops(name: str) -> None:
    path = fixture_file(f"{name}.onnx")
    claim = rewrite(path, prove=False).claim
    more = (2, 3, 1)[: len(claim.native_size)]
    size = tuple(n + k * s for n, k, s in zip(claim.native_size, more, claim.stride, strict=True))
    done = fixed(name, size)
    model = complete(done)
    onnx.checker.check_model(model, full_check=True)
    assert open_dims(model) == set()
    assert list(computed(model)) == []
    assert done.claim.fixed_size == size
    assert done.geometry.cells(*size) == tuple(k + 1 for k in more)
    assert own_crops(onnx.load(path), done, more) < 1e-5


@pytest.mark.parametrize(
    "name", ["mini_resnet.dynamo", "mini_vgg.torchscript", "token_head.torchscript", "se_net.dynamo", "compared.dynamo"]
)
def test_at_the_native_size_it_is_the_original(name: str) -> None:
    path = fixture_file(f"{name}.onnx")
    size = rewrite(path, prove=False).claim.native_size
    model = complete(fixed(name, size))
    assert open_dims(model) == set()
    assert list(computed(model)) == []
    old, new = session(onnx.load(path)), session(model)
    rng = np.random.default_rng(3)
    feed = {item.name: rng.standard_normal(item.shape).astype(np.float32) for item in new.get_inputs()}
    assert [item.shape for item in old.get_inputs()] == [item.shape for item in new.get_inputs()]
    for want, got in zip(old.run(None, feed), new.run(None, feed), strict=True):
        np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


def test_what_computed_lengths_is_gone_and_idle_nodes_with_it() -> None:
    """At the native size the pieces of a map are cut to the sizes that they have."""
    before = rewrite(fixture_file("branches.torchscript.onnx"), prove=False).model.graph.node
    after = fixed("branches.torchscript", (18, 18)).model.graph.node
    assert {"Shape", "Min", "Range", "Squeeze"} <= {node.op_type for node in before}
    assert {"Shape", "Min", "Range", "Squeeze", "Slice"}.isdisjoint(node.op_type for node in after)
    assert len(after) < len(before) / 2


@pytest.mark.parametrize("named", [False, True])
def test_with_the_users_images(named: bool) -> None:
    """They are continued up to the size, as it is larger."""
    images = np.random.default_rng(0).standard_normal((4, 1, 28, 28)).astype(np.float32)
    checks = CheckOptions(threads=1, data={"image": images} if named else images)
    done = rewrite(fixture_file("lenet.dynamo.onnx"), options=RewriteOptions(fixed_size=(40, 44)), check_options=checks)
    assert done.parity is not None
    assert (done.parity.form.status, done.parity.form.sizes) == ("passed", ((40, 44),))
    assert done.parity.form.compared >= 4 * 10 * 4 * 5
    assert "data" in done.parity.form.worst


def test_a_map_of_features_smaller_than_native() -> None:
    path = fixture_file("super_resolution.dynamo.onnx")
    done = rewrite(path, options=RewriteOptions(fixed_size=(9, 13)), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.form.status == "passed"
    assert done.parity.form.sizes == ((9, 13),)
    assert (
        list(done.geometry.cells(9, 13))
        == [dim.dim_value for dim in done.model.graph.output[0].type.tensor_type.shape.dim][2:]
    )


def test_a_free_batch_is_a_number_unless_it_is_asked_for() -> None:
    one = fixed("lenet_batch.dynamo", (36, 40)).model
    assert [dim.dim_value for dim in one.graph.input[0].type.tensor_type.shape.dim] == [1, 1, 36, 40]
    done = fixed("lenet_batch.dynamo", (36, 40), dynamic_batch=True)
    shape = done.model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [dim.dim_value for dim in shape][1:] == [1, 36, 40]
    images = np.random.default_rng(0).standard_normal((3, 1, 36, 40)).astype(np.float32)
    name, run = done.claim.inputs[0].name, session(complete(done))
    maps = run.run(None, {name: images})[0]
    old = session(onnx.load(fixture_file("lenet_batch.dynamo.onnx")))
    crop = old.run(None, {old.get_inputs()[0].name: images[:, :, 8:36, 12:40]})[0]
    np.testing.assert_allclose(maps[..., 2, 3], crop, atol=1e-5)


def test_what_the_caller_may_override_is_not_folded() -> None:
    path = fixture_file("overridable.torchscript.onnx")
    done = fixed("overridable.torchscript", (18, 18))
    old, new = session(onnx.load(path)), session(complete(done))
    rng = np.random.default_rng(0)
    feed = {
        item.name: rng.standard_normal(item.shape).astype(np.float32) for item in old.get_overridable_initializers()
    }
    assert {item.name for item in new.get_overridable_initializers()} == set(feed)
    feed[done.claim.inputs[0].name] = rng.standard_normal(done.claim.inputs[0].shape).astype(np.float32)
    [want], [got] = old.run(None, feed), new.run(None, feed)
    np.testing.assert_allclose(got.reshape(want.shape), want, atol=1e-5 * np.ptp(want))


@pytest.mark.parametrize("name", ["lenet.qdq", "se_net.qoperator"])
def test_integers_stay_what_they_are(name: str) -> None:
    """What dequantises a small bias is no computed length."""
    before = rewrite(fixture_file(f"{name}.onnx"), prove=False).model.graph
    after = fixed(name, (30, 32)).model.graph
    kinds = [[node.op_type for node in graph.node if "Linear" in node.op_type] for graph in (before, after)]
    assert kinds[0] == kinds[1]
    assert {item.name for item in before.initializer} >= {item.name for item in after.initializer if item.dims != [4]}


def test_proven_and_checked() -> None:
    path = fixture_file("branches.torchscript.onnx")
    done = rewrite(path, options=RewriteOptions(fixed_size=(26, 30)), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.form.status == "passed"
    assert done.parity.form.compared == 4 * 3 * 6 * 3 * 4, "a sample of each kind, three outputs of 6 in 3x4 cells"
    assert (26, 30) in done.parity.window.sizes
    checked = check_pair(path, complete(done), options=CHECK)
    assert checked.passed
    assert checked.claim == done.claim
    assert checked.parity.form.sizes == ((26, 30),)
    assert "made for images of 26x30 px" in checked.notes[0]


def _break(model: onnx.ModelProto, how: str) -> None:
    nodes = {node.op_type: node for node in model.graph.node}
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    if how == "another operator":
        nodes["Tanh"].op_type = "Sigmoid"
    elif how == "a place off by one":
        tensor = values[nodes["Gather"].input[1]]
        places = onnx.numpy_helper.to_array(tensor).copy()
        places.flat[0] += 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(places, tensor.name))
    elif how == "a weight's sign":
        tensor = values["mixed.weight"]
        weight = onnx.numpy_helper.to_array(tensor).copy()
        weight.flat[7] *= -1
        tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    else:
        item = next(item for item in model.metadata_props if item.key == "onnxfc.stride")
        item.value = "[2, 4]"


@pytest.mark.parametrize("how", ["another operator", "a place off by one", "a weight's sign", "the stride"])
def test_errors_are_found(how: str) -> None:
    path = fixture_file("branches.torchscript.onnx")
    model = complete(fixed("branches.torchscript", (26, 30)))
    _break(model, how)
    checked = check_pair(path, model, options=CHECK)
    assert not checked.passed
    assert checked.parity.form.status == "failed"
    if how == "the stride":
        assert checked.parity.form.reason == "wrong claim: stride is (2, 4), a rewrite of the original has (4, 4)"


def test_damaged_options() -> None:
    model = complete(fixed("lenet.dynamo", (36, 40)))
    next(item for item in model.metadata_props if item.key == "onnxfc.options").value = '{"output": "avg"}'
    with pytest.raises(ReadError, match=r"onnxfc\.options metadata is damaged: output: must be one of"):
        check_pair(fixture_file("lenet.dynamo.onnx"), model, options=CHECK)


def test_its_geometry_is_that_of_one_size() -> None:
    done = fixed("lenet.dynamo", (40, 52))
    geometry = Geometry.from_model(complete(done))
    assert geometry.fixed_size == (40, 52)
    assert geometry.cells(40, 52) == (4, 7)
    assert geometry.box(3, 6).stop == (40, 52)
    with pytest.raises(UsageError, match="takes images of 40x52 px alone"):
        geometry.cells(44, 52)
    seen = inspect(complete(done))
    assert (seen.status, seen.native_size) == ("rewritten", (28, 28))
    assert seen.cost is not None
    assert (seen.cost.size, seen.cost.cells, seen.cost.crops, seen.cost.speedup) == ((40, 52), (4, 7), None, None)
    free = inspect(fixture_file("lenet.dynamo.onnx"), at=(40, 52))
    assert free.cost is not None
    assert seen.cost.dense == free.cost.dense
    with pytest.raises(UsageError, match="takes images of 40x52 px alone"):
        inspect(complete(done), at=(44, 52))


def test_scan_wants_a_model_for_any_size(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((64, 64), np.float32))
    with pytest.raises(UsageError, match="takes images of 40x52 px alone; scan with one for any size"):
        scan(complete(fixed("lenet.dynamo", (40, 52))), tmp_path / "image.npy", tmp_path / "map.npy")


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("lenet.dynamo", (27, 40), "--fixed-size 27x40: is too small for this model, its smallest image has 28x28 px"),
        ("lenet.dynamo", (40,), "an image of this model has a height and a width"),
        ("window_attention.dynamo", (22, 20), "the model takes 20x20 px plus multiples of 4x4; pad the image to one"),
    ],
)
def test_sizes_that_it_does_not_take(name: str, size: tuple[int, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        fixed(name, size)


def test_a_proof_that_fails_says_where() -> None:
    """Nothing is near enough for a tolerance of nothing; the form is exact all the same."""
    with pytest.raises(ProofFailed) as caught:
        rewrite(
            fixture_file("lenet.dynamo.onnx"),
            options=RewriteOptions(fixed_size=(36, 40)),
            check_options=CheckOptions(rtol=0, atol=0, samples=2),
        )
    assert caught.value.parity is not None
    assert caught.value.parity.form.status == "not applicable"


def test_on_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "fixed.onnx"
    done = here("rewrite", fixture_file("lenet.dynamo.onnx"), out, "--fixed-size", "40x52")
    assert done.code == 0, done.err
    text = unwrapped(done.out)
    assert "image size      40x52 px alone, 4x7 cells\n" in text
    assert "form parity     passed, largest deviation" in text
    assert "values at 40x52 px)" in text
    seen = here("inspect", out)
    assert "image size      40x52 px alone\n" in seen.out
    assert "cells           4x7 at 40x52 px; " in seen.out
    checked = here("check", fixture_file("lenet.dynamo.onnx"), out)
    assert checked.code == 0
    assert "form parity     passed" in checked.out
    wrong = here("rewrite", fixture_file("lenet.dynamo.onnx"), out, "--fixed-size", "20x52")
    assert (wrong.code, wrong.line) == (
        2,
        "onnxfc: --fixed-size 20x52: is too small for this model, its smallest image has 28x28 px",
    )
