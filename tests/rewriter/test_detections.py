"""Detectors with what picks places by their values: at every size what PyTorch's own networks give."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, refusal
from onnx import numpy_helper, version_converter
from references import EXPORTERS, image, run

import onnxfc
from onnxfc.claim.scannable import against_scan
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite

REFERENCES = np.load(fixture_file("detections.npz"))
SIZES = ((64, 48), (36, 60), (33, 91))


@cache
def rewritten(name: str, exporter: str) -> Rewrite:
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"))


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["detect", "detect_best", "detect_apart"])
def test_boxes_that_are_left_at_any_size(name: str, exporter: str) -> None:
    """Non-maximum suppression behind a threshold, behind the best twelve places, and class by class: the numbers of
    PyTorch."""
    done = rewritten(name, exporter)
    assert done.claim.detections == ("boxes", "best", "labels")
    assert {output.form for output in done.claim.outputs} == {"list"}
    assert done.parity is not None
    assert done.parity.native.deviation < 1e-5
    if exporter == "torchscript":  # the other one writes down how many places there are, ahead of all lists
        assert done.parity.trunk.status == "passed"
    for size in SIZES:
        made = run(done.model, {"image": image(*size)})
        for output in done.claim.detections:
            want = REFERENCES[f"{name} {output} {size[0]}x{size[1]}"]
            assert made[output].shape == want.shape
            assert len(want) >= 5
            np.testing.assert_allclose(made[output], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_lists_of_several_levels_meet(exporter: str) -> None:
    done = rewritten("detect_weighed", exporter)
    assert [output.form for output in done.claim.outputs] == ["list"]
    assert [level.grid for level in done.geometry.places(40, 56)] == [(20, 28), (10, 14)]
    for size in SIZES:
        want = REFERENCES[f"detect_weighed boxes {size[0]}x{size[1]}"]
        np.testing.assert_allclose(run(done.model, {"image": image(*size)})["boxes"], want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_lists_of_several_boxes_a_place_without_a_batch(exporter: str) -> None:
    done = rewritten("detect_anchored", exporter)
    assert [output.form for output in done.claim.outputs] == ["list", "list"]
    assert [(level.grid, level.inner) for level in done.geometry.places(40, 56)] == [((20, 28), 2)]
    for size in SIZES:
        made = run(done.model, {"image": image(*size)})
        for name in ("boxes", "best"):
            want = REFERENCES[f"detect_anchored {name} {size[0]}x{size[1]}"]
            np.testing.assert_allclose(made[name], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_nodes_behind_the_lists_are_the_originals(exporter: str) -> None:
    done = rewritten("detect", exporter)
    assert done.original.proto.graph.output[0].name == "boxes"
    before, after = ({node.output[0]: node for node in file.proto.graph.node} for file in (done.original, done.file))
    [node] = [node for node in after.values() if node.op_type == "NonMaxSuppression"]
    assert node == before[node.output[0]]
    assert "detections      boxes and 2 more: the nodes behind" in done.text()


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_geometry_is_that_of_the_lists_and_asks_for_enough_places(exporter: str) -> None:
    done = rewritten("detect_best", exporter)
    assert onnxfc.Geometry.from_model(done.model) == done.geometry
    assert [level.grid for level in done.geometry.places(40, 56)] == [(20, 28), (10, 14)]
    assert done.claim.smallest_size == (5, 5)  # 9 places and 4, of which twelve are picked
    assert run(done.model, {"image": image(5, 5)})["boxes"].shape[1] == 4
    with pytest.raises(Exception, match="TopK"):
        run(done.model, {"image": image(4, 4)})


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "operator", "held"),
    [
        ("detect_clipped", "Clip", "the height or width of the native image"),
        ("detect_all", "TopK", "the number of places of the native size"),
    ],
)
def test_what_was_written_down_for_the_native_size_is_refused(
    name: str, operator: str, held: str, exporter: str
) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        rewritten(name, exporter)
    [found] = caught.value.refusals
    assert (found.code, found.reason.split()[0]) == ("data-dependent", operator)
    assert f"holds {held}" in found.reason
    assert found.advice.startswith("export the model with open height and width")


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("output", "code", "told"),
    [
        ("centred", "size-locked", "Sub counts a list's values from half a side of the native image, a plain number"),
        (
            "from_middle",
            "size-locked",
            "Div divides a list's values by half a side of the native image, a plain number",
        ),
        ("flipped", "size-locked", "Sub counts a list's values from a side of the native image, a plain number"),
        ("inside", "size-locked", "Less compares a list's values with a side of the native image, a plain number"),
        ("shared", "size-locked", "Div divides a list's values by the native number of its places, a plain number"),
        (
            "softened",
            "size-locked",
            "Mul scales what a Softmax or norm shares out by the native number of its places, a plain number",
        ),
        (
            "diagonal",
            "data-dependent",
            "(Div|Pow) behind NonMaxSuppression holds the (diagonal|height or width) of the native image, which",
        ),
        (
            "cells",
            "data-dependent",
            "Clip behind NonMaxSuppression holds the height or width of the map at the native size",
        ),
        ("percent", "size-locked", "Mul divides a list's values by 56 / 100, a plain number"),
        (
            "wide",
            "data-dependent",
            "(Mul behind NonMaxSuppression holds 56 / 1920|Reciprocal behind NonMaxSuppression holds the height)",
        ),
    ],
)
def test_numbers_that_speak_of_the_native_image_are_refused(output: str, code: str, told: str, exporter: str) -> None:
    """Coordinates from the middle or the other side, parts of the diagonal, cells of the map, shares of all places."""
    path = fixture_file(f"detect_reckoning.{exporter}.onnx")
    with pytest.raises(NothingToRewrite) as caught:
        onnxfc.rewrite(path, options=onnxfc.RewriteOptions(output_at=(output,)))
    [found] = caught.value.refusals
    assert found.code == code
    assert re.match(told, found.reason)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_metadata_is_put_to_the_test_again(exporter: str) -> None:
    path = fixture_file(f"detect.{exporter}.onnx")
    done = rewritten("detect", exporter)
    checked = onnxfc.check_pair(path, complete(done))
    assert checked.passed
    assert checked.claim == done.claim
    assert "as long as the values say (boxes, best, labels)" in str(against_scan(done.claim, done.model.graph))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_some_of_the_outputs(exporter: str) -> None:
    path = fixture_file(f"detect.{exporter}.onnx")
    done = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(output_at=("boxes", "best")))
    assert done.claim.detections == ("boxes", "best")
    assert onnxfc.check_pair(path, complete(done)).passed


def damaged(done: Rewrite, kind: str) -> onnx.ModelProto:
    """With one thing behind the lists that is another."""
    model = complete(done)
    node = next(node for node in model.graph.node if node.op_type == "NonMaxSuppression")
    if kind == "attribute":
        node.attribute.append(onnx.helper.make_attribute("center_point_box", 1))
    elif kind == "columns":
        node.input[0] = "turned"
        place = list(model.graph.node).index(node)
        boxes = next(iter(complete(done).graph.node[place].input))
        model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1, 3, 2]), "turn"))
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1, 0.5], np.float32), "narrower"))
        model.graph.node.insert(place, onnx.helper.make_node("Gather", ["narrow", "turn"], ["turned"], axis=2))
        model.graph.node.insert(place, onnx.helper.make_node("Mul", [boxes, "narrower"], ["narrow"]))
    else:
        name = node.input[3]
        tensor = next((t for t in model.graph.initializer if t.name == name), None)
        maker = next((n for n in model.graph.node if name in n.output), None)
        tensor = tensor if tensor is not None else maker.attribute[0].t  # type: ignore[union-attr]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(0.1), tensor.name))
    return model


@pytest.mark.sweep(8)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("kind", ["attribute", "constant"])
def test_proof_finds_other_nodes_behind(kind: str, exporter: str) -> None:
    done = rewritten("detect", exporter)
    parity = onnxfc.check(done.original, onnxfc.ModelFile.open(damaged(done, kind)), done.claim)
    assert not parity.passed
    assert "the nodes that make boxes are not the original's own" in parity.summary()


def optimised(model: onnx.ModelProto, folder: Path, level: str) -> onnx.ModelProto:
    """As onnxruntime writes it, with what it says of itself."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    made = onnx.load(folder / "optimised.onnx")
    made.metadata_props.extend(model.metadata_props)
    return made


@pytest.mark.sweep(12)
@pytest.mark.parametrize("twin", ["converted", "BASIC", "EXTENDED"])
@pytest.mark.parametrize("name", ["detect", "detect_best", "detect_apart"])
def test_nodes_behind_that_are_written_otherwise(name: str, twin: str, tmp_path: Path) -> None:
    """They pick the same places of the same lists; with another number, or of other columns, they do not."""
    done, path = rewritten(name, "torchscript"), fixture_file(f"{name}.torchscript.onnx")

    def made(model: onnx.ModelProto) -> onnx.ModelProto:
        if twin != "converted":
            return optimised(model, tmp_path, twin)
        new = version_converter.convert_version(model, model.opset_import[0].version + 1)
        new.metadata_props.extend(model.metadata_props)
        return new

    assert onnxfc.check_pair(path, made(complete(done))).passed
    checked = onnxfc.check_pair(path, made(damaged(done, "constant")))
    assert "not the original's own, and other numbers decide what is picked" in checked.parity.summary()
    checked = onnxfc.check_pair(path, made(damaged(done, "columns")))
    assert "not the original's own, and boxes is not the same for the same lists" in checked.parity.summary()


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceL1", "ReduceLogSumExp"])
@pytest.mark.parametrize("free", [(), ("height",)])
def test_a_constant_that_lists_and_what_picks_of_them_share(free: tuple[str, ...], kind: str) -> None:
    """One row of axes for a sum, which is written anew, and for a Squeeze behind the best places, which is left: it was
    lost with the first."""
    net = Net(18)
    data = net.op("Relu", net.conv(net.image(1, (21, 25)), 2, 4))
    axes = net.ints(2)
    total = net.op(kind, net.op("Reshape", data, net.ints(1, 4, -1)), axes, keepdims=1)
    gated = net.op(
        "Mul", data, net.op("Sigmoid", net.op("Mul", net.op("Unsqueeze", total, net.ints(3)), net.const(0.01)))
    )
    heat = net.op("Reshape", net.conv(gated, 4, 1, (1, 1), strides=[1, 1]), net.ints(1, -1))
    best, _ = net.op("TopK", heat, net.ints(3), axis=1, outputs=2)
    model = net.model(gated, net.op("Squeeze", net.op("Reshape", best, net.ints(1, 3, 1)), axes))
    done = onnxfc.rewrite(model, options=onnxfc.RewriteOptions(free=free), check_options=CHECK)
    picked = model.graph.output[1].name
    assert done.claim.detections == (picked,)
    assert done.parity is not None
    assert done.parity.native.deviation < 1e-6
    pixels = np.random.default_rng(5).standard_normal((1, 2, 21, 25)).astype(np.float32)
    want = run(model, {"image": pixels})[picked]
    np.testing.assert_allclose(run(done.model, {"image": pixels})[picked], want, rtol=0, atol=1e-6)


def test_the_best_place_of_rows_beside_an_axis_that_stays_is_no_detection() -> None:
    """A gate by each channel's largest value follows the size along one axis as along both."""
    path = fixture_file("extremes.dynamo.onnx")
    one, both = (onnxfc.rewrite(path, options=onnxfc.RewriteOptions(free=free)) for free in (("height",), ()))
    assert one.claim.detections == both.claim.detections == ()
    image = one.claim.inputs[0]
    shape = list(image.shape)
    shape[image.spatial[0]] += 9
    pixels = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    found, wanted = (run(done.model, {image.name: pixels})["extreme_3"] for done in (one, both))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_proof_finds_a_claim_that_leaves_out_an_output() -> None:
    done = rewritten("detect", "dynamo")
    parity = onnxfc.check(done.original, done.file, replace(done.claim, detections=("boxes", "best")))
    assert not parity.passed
    assert "does not speak of the output labels" in parity.summary()


def test_what_is_ahead_of_numbers_of_the_native_size_is_offered() -> None:
    """CenterNet: the best of a flattened heat map, whose numbers are divided by its places. Said was to leave the model
    alone, though the map ahead of the TopK is right at every size."""
    net = Net(17)
    heat = net.op("Sigmoid", net.conv(net.input("image", [1, 3, 33, 41]), 3, 2, strides=[2, 2]))
    best = net.op("TopK", net.op("Reshape", heat, net.ints(1, -1)), net.ints(5), axis=1, outputs=2)
    model = net.model(best[0], net.op("Div", best[1], net.ints(16 * 20)))
    found = refusal(model)
    assert (found.code, found.reason.partition(",")[0]) == (
        *("data-dependent", "Div behind TopK holds the number of places of the native size"),
    )
    assert found.advice.endswith(f"or end the model before it: --output-at {heat}")
    done = onnxfc.rewrite(model, options=onnxfc.RewriteOptions(output_at=(heat,)))
    assert [output.form for output in done.claim.outputs] == ["features"]


def test_a_head_that_takes_the_native_map_alone_is_not_left() -> None:
    """TopK picks among features behind an FC layer that reads a flattened map of one place, beside its mean."""
    net = Net(17)
    features = net.op("Relu", net.conv(net.input("image", [1, 4, 7]), 4, 2, (7,)))
    mean = net.op("ReduceMean", features, axes=[-1], keepdims=0)
    joined = net.op("Concat", mean, net.op("Reshape", features, net.ints(0, 2)), axis=1)
    scores = net.fc(joined, 4, 5)
    best = net.op("TopK", scores, net.ints(3), axis=-1, outputs=2)
    told = refusal(net.model(net.fc(best[0], 3, 4)), global_pool="drop")
    assert told.code == "drop-not-affine"


def test_detections_of_windows_are_refused() -> None:
    """Scores of an FC layer are each window's own; which of them are positive is no list of places."""
    net = Net()
    scores = net.fc(net.flat(), 60, 5)
    found = refusal(net.model(net.op("NonZero", scores)))
    assert found.code == "data-dependent"


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["detect", "detect_best", "detect_apart"])
def test_detectors_of_one_other_size(name: str, exporter: str) -> None:
    """The nodes that pick are the original's own there, too; what PyTorch gives at that size."""
    for size in SIZES:
        done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=onnxfc.RewriteOptions(fixed_size=size))
        assert done.parity is not None
        assert done.parity.form is not None
        assert done.parity.form.status == "passed"
        [declared] = done.model.graph.input
        assert [dim.dim_value for dim in declared.type.tensor_type.shape.dim] == [1, 3, *size]
        made = run(done.model, {"image": image(*size)})
        for output in done.claim.detections:
            want = REFERENCES[f"{name} {output} {size[0]}x{size[1]}"]
            assert made[output].shape == want.shape
            np.testing.assert_allclose(made[output], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["attribute", "constant"])
def test_proof_finds_other_nodes_in_a_form(form: str) -> None:
    options = onnxfc.RewriteOptions(fixed_size=SIZES[0])
    done = onnxfc.rewrite(fixture_file("detect.torchscript.onnx"), options=options)
    parity = done.proven(form=onnxfc.ModelFile.open(damaged(done, form)))
    assert not parity.passed
    assert "the nodes that make boxes are not" in parity.summary()


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("option", "told"), [({"dynamic_batch": True}, "--dynamic-batch"), ({"form": "conv4d"}, "--form conv4d")]
)
def test_options_that_do_not_hold_behind_detections_are_named(option: dict[str, Any], told: str, exporter: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        onnxfc.rewrite(fixture_file(f"detect.{exporter}.onnx"), options=onnxfc.RewriteOptions(**option))
    [found] = caught.value.refusals
    assert found.code == "data-dependent"
    assert found.reason == f"NonZero leaves as many as the values of one image say, which {told} cannot have"
    assert found.advice.startswith(f"leave out {told}, or end the model before it: --output-at ")
