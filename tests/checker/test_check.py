"""``onnxfc check``: right pairs pass, wrong ones never, whoever made them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as etree

import jsonschema
import numpy as np
import onnx
import pytest
from cli_models import flat_reshaped
from cli_runs import here, unwrapped
from click.testing import CliRunner, Result
from fixture_files import fixture_file
from hazards import CHECK, complete
from mutations import MUTATIONS, NotHere, Rewritten
from onnx import helper, numpy_helper
from quantised import optimised
from schemas import follows, schema

from onnxfc import CheckOptions, NothingToRewrite, RewriteOptions, UsageError, check_pair, rewrite
from onnxfc.claim.claim import PREFIX
from onnxfc.cli.main import main

ONE = CheckOptions(threads=1)
NETS = (
    "lenet.dynamo",
    "lenet_batch.torchscript",
    "mini_alexnet.dynamo",
    "mini_vgg.torchscript",
    "mini_resnet.dynamo",
    "softmax.dynamo",
    "keras_same.tf2onnx",
    "se_net.dynamo",
    "two_outputs.torchscript",
    "digits",
)


def fixture(name: str) -> Path:
    return fixture_file(f"{name}.onnx")


@cache
def rewritten(name: str) -> bytes:
    return rewrite(fixture(name), prove=False).model.SerializeToString()


def copy_of(name: str) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(rewritten(name))


def stranger(name: str) -> onnx.ModelProto:
    """A rewritten model that does not say so: as if somebody else had made it."""
    model = copy_of(name)
    kept = [item for item in model.metadata_props if not item.key.startswith(PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["check", "--threads", "1", *map(str, args)])


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """lenet, and its rewrite."""
    other = tmp_path / "other.onnx"
    other.write_bytes(rewritten("lenet.dynamo"))
    return fixture("lenet.dynamo"), other


# Wrong rewrites of real networks


def applicable() -> list[tuple[str, str]]:
    found = []
    for net in NETS:
        for wrong in MUTATIONS:
            try:
                MUTATIONS[wrong](Rewritten(copy_of(net)))
            except NotHere:
                continue
            found.append((net, wrong))
    return found


CASES = applicable()


@pytest.mark.sweep(12)
@pytest.mark.parametrize("net", NETS)
def test_right_rewrite_passes(net: str, tmp_path: Path) -> None:
    other = tmp_path / "right.onnx"
    other.write_bytes(rewritten(net))
    result = run(fixture(net), other)
    assert result.exit_code == 0, result.output
    assert "result          passed: proven on" in result.output


def test_of_a_model_that_has_the_first_cell_only(tmp_path: Path) -> None:
    """It is right, and nothing is said of cells that it has not."""
    model = copy_of("lenet.dynamo")
    del model.metadata_props[:]
    last = model.graph.output[0]
    given = last.name
    last.CopyFrom(helper.make_tensor_value_info("first", onnx.TensorProto.FLOAT, [1, 10]))
    limits = {"begin": [0, 0], "end": [1, 1], "axes": [2, 3], "shape": [1, 10]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(n), name) for name, n in limits.items())
    model.graph.node.append(helper.make_node("Slice", [given, "begin", "end", "axes"], ["cell"]))
    model.graph.node.append(helper.make_node("Reshape", ["cell", "shape"], ["first"]))
    onnx.save(model, tmp_path / "first.onnx")
    result = run(fixture("lenet.dynamo"), tmp_path / "first.onnx")
    assert result.exit_code == 0, result.output
    assert "every cell" not in result.output
    assert "note            outputs matched by position: scores = first\n" in result.output
    assert "verdict         exact: nothing makes cells differ from crops, but no output has more than one cell" in (
        result.output
    )


@pytest.mark.sweep(40)
@pytest.mark.parametrize(("net", "wrong"), CASES)
def test_wrong_rewrite_is_found(net: str, wrong: str, tmp_path: Path) -> None:
    model = Rewritten(copy_of(net))
    MUTATIONS[wrong](model)
    other = tmp_path / "wrong.onnx"
    onnx.save(model.proto, other)
    result = run(fixture(net), other)
    assert result.exit_code == 4, result.output
    assert "FAILED" in result.output
    assert re.search(r"\nverdict         none, as the models do not agree; \w+ is claimed\n", result.output)
    assert "vacuous" not in result.output


def test_at_least_twenty_mistakes_for_each_of_five_networks() -> None:
    counts = {net: sum(case[0] == net for case in CASES) for net in NETS}
    assert sum(count >= 20 for count in counts.values()) >= 5, counts
    assert {wrong for _, wrong in CASES} >= set(MUTATIONS) - {"weights of two layers swapped"}


SEEN_WITHOUT_CLAIM = {name for name in MUTATIONS if not name.startswith("claim: ")} - {
    "input left at the native size",  # of a model that promises nothing else, that is no mistake
    "map shifted",
    "map flipped",
    "map transposed",
    "first row of the map lost",
    "stride two in the head",
    "head padded",
    "window off by one",
    "pool of the window left global",
    "auto_pad left",
    "trunk stride off by one",
    "trunk pads moved",
    "softmax over the grid",
    "softmax over everything",
}
"""Mistakes that the native size alone gives away; for the others both graphs must have their boundary in common."""


@pytest.mark.sweep(16)
@pytest.mark.parametrize("wrong", sorted(SEEN_WITHOUT_CLAIM))
def test_wrong_models_of_strangers_are_found(wrong: str) -> None:
    found = [net for net, name in CASES if name == wrong]
    for net in found[:2]:
        model = Rewritten(copy_of(net))
        MUTATIONS[wrong](model)
        del model.proto.metadata_props[:]
        assert not check_pair(fixture(net), model.proto, options=ONE).passed, net


@pytest.mark.sweep(12)
@pytest.mark.parametrize("wrong", ["map flipped", "map transposed", "first row of the map lost", "map shifted"])
@pytest.mark.parametrize("net", ["lenet.dynamo", "mini_alexnet.dynamo"])
def test_wrong_maps_of_strangers_are_found(net: str, wrong: str) -> None:
    model = Rewritten(copy_of(net))
    MUTATIONS[wrong](model)
    del model.proto.metadata_props[:]
    done = check_pair(fixture(net), model.proto, options=ONE)
    assert not done.passed
    assert done.parity.window.status == "failed" or done.parity.native.status == "failed"


# Pairs that onnxfc did not make


@pytest.mark.sweep(12)
@pytest.mark.parametrize("net", NETS)
def test_claim_is_derived(net: str) -> None:
    """From the models alone: the very claim that the rewrite made, and a pass."""
    own = rewrite(fixture(net), prove=False).claim
    done = check_pair(fixture(net), stranger(net), options=ONE)
    assert done.passed, done.parity.summary()
    assert done.claim_from == "derived"
    assert done.notes == ()
    assert done.claim.boundaries == own.boundaries
    assert (done.claim.stride, done.claim.size_step, done.claim.outputs) == (own.stride, own.size_step, own.outputs)
    assert (done.claim.verdict, done.claim.blame) == (own.verdict, own.blame)
    assert done.parity.window.status == "passed"
    assert done.parity.window.compared > 100


def test_other_names_and_positions() -> None:
    model = stranger("two_outputs.dynamo")
    names = {"image": "x", "scores": "one", "features": "two"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for info in (*model.graph.input, *model.graph.output):
        info.name = names[info.name]
    done = check_pair(fixture("two_outputs.dynamo"), model, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.notes == (
        "inputs matched by position: image = x",
        "outputs matched by position: scores = one, features = two",
    )
    assert [item.form for item in done.claim.outputs] == ["map", "features"]


@pytest.mark.parametrize("declared", [True, False])
def test_classes_last(declared: bool) -> None:
    """A map (N, gH, gW, K), as other converters write it; the file may leave its shape open."""
    model = stranger("lenet.dynamo")
    for node in model.graph.node:
        node.output[:] = ["first" if name == "scores" else name for name in node.output]
    model.graph.node.append(helper.make_node("Transpose", ["first"], ["scores"], perm=[0, 2, 3, 1]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, "h", "w", 10]))
    if not declared:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    done = check_pair(fixture("lenet.dynamo"), model, options=ONE)
    assert done.passed, done.parity.summary()
    assert done.notes == ("the classes of scores stand last; they were put behind the batch",)
    assert done.parity.window.status == "passed"


def test_same_model_under_another_hand() -> None:
    """Without any larger size, native parity alone is shown, and that is said."""
    done = check_pair(fixture("lenet.dynamo"), fixture("lenet.dynamo"), options=ONE)
    assert done.passed
    assert done.parity.window.status == done.parity.shift.status == "not applicable"
    assert done.notes == ("the second model takes the native size only: nothing is shown for larger images",)


def _scaled_first_conv() -> onnx.ModelProto:
    """lenet's rewrite with another trunk of the same values: half the weights, twice the result."""
    model = stranger("lenet.dynamo")
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    for place in (1, 2):
        tensor = next(t for t in model.graph.initializer if t.name == conv.input[place])
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) / 2, tensor.name))
    position = next(k for k, node in enumerate(model.graph.node) if node is conv)
    name = conv.output[0]
    conv.output[0] = "half"
    model.graph.initializer.append(numpy_helper.from_array(np.array(2, np.float32), "two"))
    model.graph.node.insert(position + 1, helper.make_node("Mul", ["half", "two"], [name]))
    return model


def test_without_a_common_trunk_the_boundary_may_be_named(tmp_path: Path) -> None:
    model = _scaled_first_conv()
    done = check_pair(fixture("lenet.dynamo"), model, options=ONE)
    assert done.passed  # pad-free up to the image: a window of the image itself
    boundary = "max_pool2d_1"
    done = check_pair(fixture("lenet.dynamo"), model, options=ONE, boundaries=[(boundary, boundary)])
    assert done.passed
    assert [item.original for item in done.claim.boundaries] == [boundary]
    other = tmp_path / "scaled.onnx"
    onnx.save(model, other)
    assert run(fixture("lenet.dynamo"), other, "--boundary", f"{boundary}={boundary}").exit_code == 0
    wrong = run(fixture("lenet.dynamo"), other, "--boundary", "nowhere")
    assert wrong.exit_code == 2
    assert "--boundary nowhere=nowhere: is no pair of trunk tensors" in wrong.output


def test_padded_trunks_that_have_no_tensor_in_common() -> None:
    """The channels of the last Conv in another order, and the first FC layer with them."""
    model = stranger("mini_vgg.torchscript")
    last, first = [node for node in model.graph.node if node.op_type == "Conv"][2:4]
    for name, axis in ((last.input[1], 0), (last.input[2], 0), (first.input[1], 1)):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        turned = np.flip(numpy_helper.to_array(tensor), axis)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), tensor.name))
    done = check_pair(fixture("mini_vgg.torchscript"), model, options=ONE)
    assert done.passed
    assert done.parity.window.status == "not applicable"
    assert "name one with --boundary" in done.parity.window.reason
    assert done.notes[0].startswith("the models differ before ")


@pytest.mark.parametrize("net", ["axial_attention.torchscript", "channel_attention.torchscript"])
def test_a_rewrite_that_onnxruntime_optimised_further(net: str, tmp_path: Path) -> None:
    """Transposes and scales are within its MatMuls then; the metadata say what is so still."""
    original = fixture_file(f"{net}.onnx")
    made = optimised(complete(rewrite(original, prove=False)), tmp_path)
    assert made["FusedMatMul"]
    done = check_pair(original, tmp_path / "optimised.onnx", options=CHECK)
    assert done.passed, done.parity


def test_counts_that_differ() -> None:
    model = stranger("lenet.dynamo")
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "more"
    model.graph.node.append(helper.make_node("Identity", ["scores"], ["more"]))
    done = check_pair(fixture("lenet.dynamo"), model, options=ONE)
    assert done.passed
    assert done.notes == ("outputs that the original does not have were left out: more",)
    with pytest.raises(UsageError, match="do not have the same outputs"):
        check_pair(fixture("two_outputs.dynamo"), stranger("lenet.dynamo"), options=ONE)


@pytest.mark.parametrize(("reduce", "form"), [("ReduceMean", "mean"), ("ReduceMax", "max")])
def test_reduced_maps_of_strangers(reduce: str, form: str) -> None:
    model = stranger("lenet_opset9.torchscript")
    for node in model.graph.node:
        node.output[:] = ["map" if name == "scores" else name for name in node.output]
    model.graph.node.append(helper.make_node(reduce, ["map"], ["scores"], axes=[2, 3], keepdims=0))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, [1, 10]))
    done = check_pair(fixture("lenet_opset9.torchscript"), model, options=ONE)
    assert done.claim.outputs[0].form == form
    assert done.claim.stride == (4, 4)
    assert done.passed, done.parity.summary()
    assert done.parity.window.status == "passed"


@pytest.mark.sweep(12)
@pytest.mark.parametrize("output", ["map", "mean", "max"])
@pytest.mark.parametrize("pool", ["window", "keep", "drop"])
def test_every_form(output: str, pool: str, tmp_path: Path) -> None:
    """What the file says of itself is enough, whatever it was asked to be."""
    if (output, pool) == ("max", "drop"):
        return  # refused
    options = RewriteOptions(output=output, global_pool=pool)  # type: ignore[arg-type]
    other = tmp_path / "other.onnx"
    rewrite(fixture("mini_resnet.dynamo"), prove=False, options=options).save(other)
    assert run(fixture("mini_resnet.dynamo"), other).exit_code == 0


def test_from_an_inner_tensor_on(tmp_path: Path) -> None:
    """The original takes a flat vector; the rewrite begins where that has become an image."""
    original, other = tmp_path / "original.onnx", tmp_path / "other.onnx"
    onnx.save(flat_reshaped(), original)
    rewrite(original, prove=False, options=RewriteOptions(inputs=("picture",))).save(other)
    result = run(original, other)
    assert result.exit_code == 0, result.output
    assert "passed: proven on" in result.output


def test_native_size_that_is_not_in_the_graph() -> None:
    path = fixture("mini_resnet_hw.dynamo")
    model = rewrite(path, prove=False, options=RewriteOptions(size=(64, 64))).model
    assert check_pair(path, model, options=ONE).passed
    del model.metadata_props[:]
    assert check_pair(path, model, options=ONE, size=(64, 64)).passed
    with pytest.raises(NothingToRewrite, match="give it with --size HxW"):
        check_pair(path, model, options=ONE)


# Options


def test_against_crops(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert run(*pair, "--against-crops", "exact").exit_code == 0
    padded = tmp_path / "padded.onnx"
    padded.write_bytes(rewritten("digits"))
    assert run(fixture("digits"), padded).exit_code == 0
    result = run(fixture("digits"), padded, "--against-crops", "exact")
    assert result.exit_code == 4
    assert "crop agreement failed" in result.output
    reduced = tmp_path / "mean.onnx"
    kept = RewriteOptions(global_pool="keep")
    rewrite(fixture("mini_resnet.dynamo"), prove=False, options=kept).save(reduced)
    assert run(fixture("mini_resnet.dynamo"), reduced).exit_code == 0
    assert run(fixture("mini_resnet.dynamo"), reduced, "--against-crops", "exact").exit_code == 4


def test_tolerances_by_output(tmp_path: Path) -> None:
    model = Rewritten(copy_of("two_outputs.dynamo"))
    MUTATIONS["scaled by 1 %"](model)
    other = tmp_path / "other.onnx"
    onnx.save(model.proto, other)
    original = fixture("two_outputs.dynamo")
    assert run(original, other).exit_code == 4
    assert run(original, other, "--rtol", "features:0.1").exit_code == 4
    assert run(original, other, "--rtol", "scores:0.1").exit_code == 0
    assert run(original, other, "--rtol", "0.1", "--rtol", "scores:1e-4").exit_code == 4
    assert run(original, other, "--rtol", "0.1").exit_code == 0
    for wrong in ("nobody:1", "x", "-1", "scores:inf", "scores:"):
        result = run(original, other, "--rtol", wrong)
        assert result.exit_code == 2, wrong
    assert "nobody is no output; there are scores, features" in run(original, other, "--atol", "nobody:1").output


def test_data_sizes_and_seed(pair: tuple[Path, Path], tmp_path: Path) -> None:
    digits, images = tmp_path / "digits.onnx", tmp_path / "images.npy"
    digits.write_bytes(rewritten("digits"))
    with np.load(fixture_file("digits.npz")) as data:
        np.save(images, data["images"].reshape(-1, 1, 16, 16).astype(np.float32) / 16)
    report = tmp_path / "report.json"
    result = run(
        fixture("digits"), digits, "--data", images, "--check-size", "40x52", "--seed", "7", "--report", report
    )
    assert result.exit_code == 0, result.output
    parity = json.loads(report.read_text())["parity"]
    assert parity["conditions"]["inputs"] == ["data"]
    assert parity["conditions"]["seed"] == 7
    assert [40, 52] in parity["window"]["sizes"]
    assert run(*pair, "--check-size", "20x20").exit_code == 2


def test_a_check_of_nothing_fails() -> None:
    """Weights of 0: all outputs are alike, whatever the image."""
    original = onnx.load(fixture("lenet.torchscript"))
    other = copy_of("lenet.torchscript")
    for model in (original, other):
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                zero = np.zeros_like(numpy_helper.to_array(tensor))
                tensor.CopyFrom(numpy_helper.from_array(zero, tensor.name))
    done = check_pair(original, other, options=ONE)
    assert not done.passed
    assert "vacuous" in done.parity.summary()


# What is told


def test_text(pair: tuple[Path, Path]) -> None:
    lines = unwrapped(run(*pair).output).splitlines()
    told = {line[:15].strip(): line[16:] for line in lines if line[:15].strip()}
    assert told["native size"] == "28x28 px, stride 4x4 px"
    assert told["claim"] == "the second model's metadata"
    assert told["head begins"] == "at max_pool2d_1"
    assert told["native parity"].startswith("passed, largest deviation ")
    assert told["window parity"].startswith("passed, largest deviation ")
    assert told["shift"].startswith("passed, largest deviation ")
    assert "(5 cells)" in told["crop agreement"]
    assert "noise floor" in told["conditions"]
    assert "seed 0" in told["conditions"]
    assert "threads 1" in told["conditions"]
    assert "onnxruntime " in told["conditions"]
    assert lines[-1].startswith("result          passed: proven on ")


def test_worst_crop(tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(rewritten("mini_alexnet.dynamo"))
    report = tmp_path / "report.json"
    result = run(fixture("mini_alexnet.dynamo"), other, "--report", report)
    crops = json.loads(report.read_text())["parity"]["crops"]
    assert crops["status"] == "measured"
    assert crops["deviation"] > 0.001
    assert crops["median"] < crops["deviation"]
    assert 0 <= crops["top1"] <= crops["top5"] <= 1
    (i, j), (rows, columns) = crops["worst_cell"], crops["worst_box"]
    assert rows == [8 * i, 8 * i + 64]
    assert columns == [8 * j, 8 * j + 64]
    assert f"cell {i}x{j}, pixels {rows[0]}..{rows[1]} x {columns[0]}..{columns[1]} of " in result.output


@pytest.mark.sweep(12)
@pytest.mark.parametrize("net", ["lenet.dynamo", "mini_resnet.dynamo", "se_net.dynamo", "two_outputs.dynamo"])
@pytest.mark.parametrize("wrong", ["", "scaled by 1 %"])
def test_report_and_junit(net: str, wrong: str, tmp_path: Path) -> None:
    model = Rewritten(copy_of(net))
    if wrong:
        MUTATIONS[wrong](model)
    other, report, junit = tmp_path / "other.onnx", tmp_path / "r.json", tmp_path / "j.xml"
    onnx.save(model.proto, other)
    result = run(fixture(net), other, "--report", report, "--junit", junit, "-q")
    assert result.exit_code == (4 if wrong else 0)
    document = json.loads(report.read_text())
    follows(document, "check")
    assert document["status"] == ("failed" if wrong else "passed")
    assert document["exit_code"] == result.exit_code
    suites = etree.parse(junit).getroot()
    assert suites.tag == "testsuites"
    cases = suites.findall("testsuite/testcase")
    assert int(suites.get("tests") or 0) == len(cases) >= 4
    assert int(suites.get("failures") or 0) == len(suites.findall("testsuite/testcase/failure"))
    assert bool(int(suites.get("failures") or 0)) == bool(wrong)
    assert [case.get("classname") for case in cases].count("onnxfc.native_parity") >= len(document["claim"]["outputs"])


def test_reports_of_errors(tmp_path: Path) -> None:
    report, junit = tmp_path / "r.json", tmp_path / "j.xml"
    result = run(tmp_path / "none.onnx", fixture("lenet.dynamo"), "--report", report, "--junit", junit)
    assert result.exit_code == 1
    document = json.loads(report.read_text())
    follows(document, "check")
    assert (document["status"], document["exit_code"]) == ("error", 1)
    assert etree.parse(junit).getroot().get("errors") == "1"
    model = tmp_path / "model.onnx"
    model.write_bytes(fixture("lenet.dynamo").read_bytes())
    for option in ("--report", "--junit"):
        assert run(fixture("lenet.dynamo"), model, option, model).exit_code == 2
        assert model.read_bytes() == fixture("lenet.dynamo").read_bytes()


def test_what_was_given_twice(pair: tuple[Path, Path], tmp_path: Path) -> None:
    report = tmp_path / "report"
    result = run(*pair, "--report", report, "--junit", report)
    assert result.exit_code == 2
    assert result.output == f"onnxfc: --junit {report}: is the file of --report too; give it one of its own\n"
    assert not report.exists()
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((2, 1, 28, 28), np.float32))
    result = run(*pair, "--data", f"image={images}", "--data", f"image={images}")
    assert (result.exit_code, result.output) == (2, "onnxfc: --data: image is given twice\n")


def test_advice_is_for_this_command() -> None:
    """`check` has no --no-check."""
    constant = onnx.load(fixture("lenet.torchscript"))
    for tensor in constant.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    summary = check_pair(constant, constant, options=ONE).parity.summary()
    assert summary.endswith("give real inputs with --data FILE.npy")


@pytest.mark.parametrize("option", [("--data", "x.npy"), ("--check-size", "32x32"), ("--rtol", "1"), ("--atol", "0")])
def test_options_of_the_proof_without_a_proof(option: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = CliRunner().invoke(main, ["rewrite", str(fixture("lenet.dynamo")), str(out), "--no-check", *option])
    assert result.exit_code == 2
    wanted = f"onnxfc: {option[0]} is for the proof, which --no-check leaves out; drop one of them\n"
    assert result.output == wanted
    assert not out.exists()


def test_command_of_its_own(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = here("check", *pair, cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    model = Rewritten(copy_of("lenet.dynamo"))
    MUTATIONS["bias lost"](model)
    onnx.save(model.proto, pair[1])
    done = here("check", *pair, "-q", cwd=tmp_path)
    assert (done.code, done.out) == (4, "")
    assert done.err.startswith(f"onnxfc: {pair[1]}: native parity failed: scores deviates by ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("net", ["lenet.dynamo", "mini_resnet.dynamo"])
def test_rewrite_report_follows_its_schema(net: str, tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    args = ["rewrite", str(fixture(net)), str(tmp_path / "out.onnx"), "--report", str(report)]
    assert CliRunner().invoke(main, args).exit_code == 0
    follows(json.loads(report.read_text()), "rewrite")
    args[1] = str(fixture("table.dynamo"))
    assert CliRunner().invoke(main, args).exit_code == 3
    follows(json.loads(report.read_text()), "rewrite")


@pytest.mark.parametrize("name", ["rewrite", "check", "inspect", "scan"])
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


@pytest.mark.parametrize("claimed", [True, False])
def test_a_file_that_others_cannot_load(claimed: bool, tmp_path: Path) -> None:
    """Its shapes and axes are in a data file, where onnxruntime does not find them."""
    made = copy_of if claimed else stranger
    for least in (0, 100):
        file = tmp_path / f"{least}.onnx"
        how = {"save_as_external_data": True, "size_threshold": least, "location": f"{least}.data"}
        onnx.save(made("se_net.dynamo"), file, **how)
        checked = check_pair(fixture("se_net.dynamo"), file, options=ONE)
        assert checked.passed == (least > 0)
        told = "onnxruntime does not load the second model from its file: " in checked.parity.native.reason
        assert told == (least == 0)


def _changed(document: Any, path: str, value: object) -> Any:
    """A copy with another value at ``a.b.c``."""
    copy = json.loads(json.dumps(document))
    *way, last = path.split(".")
    place = copy
    for key in way:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    return copy


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "onnxfc-check/2"),
        ("status", "failed"),
        ("exit_code", 4),
        ("surprise", 1),
        ("parity.passed", False),
        ("parity.vacuous", "nothing was compared"),
        ("parity.native.compared", 0),
        ("parity.native.compared", -1),
        ("parity.native.reason", "off by one"),
        ("parity.native.status", "failed"),
        ("parity.native.status", "good"),
        ("parity.native.outputs.0.passed", False),
        ("parity.native.outputs.0.surprise", 1),
        ("parity.crops.top1", 1.5),
        ("parity.crops.status", "passed"),
        ("parity.verdict.verdict", "sure"),
        ("claim.stride", [4.5, 4]),
        ("claim.halo", [[1]]),
        ("claim.surprise", 1),
        ("claim_from", "heaven"),
    ],
)
def test_schema_forbids_reports_that_contradict_themselves(path: str, value: object, pair: tuple[Path, Path]) -> None:
    from onnxfc.reports.check import as_json

    document = json.loads(json.dumps(as_json(check_pair(*pair, options=ONE))))
    follows(document, "check")
    with pytest.raises(jsonschema.ValidationError):
        follows(_changed(document, path, value), "check")
