"""The verifier passes right rewrites, and says what it compared."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import FEATURES, Net, proven
from onnx import helper, numpy_helper
from proof_fc_pairs import fc_pair
from proof_odd_pairs import odd_pair
from proof_pairs import Pair
from proof_pool_pairs import pool_pair

import onnxfc.proof
from onnxfc.errors import UsageError
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import check
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.results import Parity
from onnxfc.proof.tolerance import PRECISION, Scale

RIGHT: dict[str, Pair] = {
    "pad-free": fc_pair(),
    "padded": fc_pair(pad=1),
    "dynamic batch": fc_pair(batch="N"),
    "static batch": fc_pair(batch=2),
    "1-D": fc_pair(dims=1),
    "3-D": fc_pair(dims=3),
    "two outputs": fc_pair(second=True),
    "mean": fc_pair(form="mean"),
    "max": fc_pair(form="max", second=True),
    "logits": fc_pair(softmax=False),
    "window pool": pool_pair(),
    "window pool, padded": pool_pair(pad=1),
    "activation": pool_pair(form="activation"),
    "global": pool_pair(form="global"),
    "features": pool_pair(features=True),
    "cells": pool_pair(form="cells"),
    "integers": pool_pair(argmax=True),
    "float16": pool_pair(half=True),
    "uint8": pool_pair(uint8=True),
    "side input": pool_pair(side=True),
}


def run(pair: Pair, **options: object) -> Parity:
    checked = CheckOptions(**{"threads": 1, **options})  # type: ignore[arg-type]
    return check(ModelFile.open(pair.original), ModelFile.open(pair.rewritten), pair.claim, checked)


def test_imports_nothing_that_rewrites() -> None:
    allowed = {"onnxfc.errors", "onnxfc.claim.claim", "onnxfc"}
    allowed |= {f"onnxfc.io.{name}" for name in ("byte_source", "external_data", "free_memory", "model_file")}
    for path in Path(onnxfc.proof.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, path
                names = [node.module or ""]
                if node.module == "onnxfc":
                    names = [f"onnxfc.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for name in names:
                if name.split(".")[0] == "onnxfc" and not name.startswith("onnxfc.proof"):
                    assert name in allowed, f"{path.name} imports {name}"


def test_all_is_what_the_package_promises() -> None:
    assert onnxfc.proof.__all__ == [
        "CheckOptions",
        "Conditions",
        "CropResult",
        "OutputResult",
        "Parity",
        "ParityResult",
        "VerdictResult",
        "check",
    ]
    assert all(hasattr(onnxfc.proof, name) for name in onnxfc.proof.__all__)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_right_rewrites_pass(name: str, seed: int) -> None:
    result = run(RIGHT[name], seed=seed)
    assert result.passed, result.summary()
    assert result.native.status == "passed"
    assert result.native.compared >= 8
    assert result.native.deviation <= 0.5 * result.native.tolerance


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", sorted(set(RIGHT) - {"global", "features", "float16", "integers"}))
def test_rounding_is_far_below_the_tolerance_and_the_tolerance_below_a_thousandth(name: str) -> None:
    result = run(RIGHT[name])
    for line in (*result.native.outputs, *result.window.outputs):
        assert line.deviation < 5e-5, line
        assert line.tolerance < 5e-4, line
    assert result.window.status == "passed"
    assert result.window.compared >= 8


def test_four_results_are_kept_apart() -> None:
    exact, padded = run(RIGHT["pad-free"]), run(RIGHT["padded"])
    assert exact.crops.status == padded.crops.status == "measured"
    assert exact.crops.deviation < 1e-5
    assert exact.crops.top1 == 1.0
    assert exact.crops.cells == 5
    assert exact.crops.size == (16, 18)
    assert padded.crops.deviation > 1e-2
    assert padded.crops.median < padded.crops.deviation
    assert padded.window.deviation < 1e-4
    assert (exact.verdict.verdict, padded.verdict.verdict) == ("exact", "approximate")
    assert padded.verdict.blame == ("c1",)


def test_says_what_was_compared() -> None:
    result = run(RIGHT["pad-free"], check_sizes=((20, 30),))
    assert result.window.sizes[:3] == ((16, 18), (19, 17), (20, 30))
    assert result.conditions.inputs[:2] == ("natural", "normal")
    assert [line.name for line in result.native.outputs] == ["features", "scores"]
    assert result.native.outputs[1].noise is not None
    assert result.summary().startswith("proven on ")


def test_batches_of_two_where_both_are_free() -> None:
    assert run(RIGHT["dynamic batch"]).conditions.batches == (1, 2)
    assert run(RIGHT["static batch"]).conditions.batches == (2,)
    assert run(RIGHT["pad-free"]).conditions.batches == (1,)


def test_progress_gets_short_phrases() -> None:
    pair, said = RIGHT["pad-free"], []
    first, second = ModelFile.open(pair.original), ModelFile.open(pair.rewritten)
    check(first, second, pair.claim, CheckOptions(samples=3), said.append)
    assert any("sample 2 of" in phrase for phrase in said)
    assert all(len(phrase) < 70 for phrase in said)


def test_same_seed_same_result() -> None:
    first, second = run(RIGHT["padded"], seed=5), run(RIGHT["padded"], seed=5)
    assert first.crops == second.crops
    assert first.native == second.native
    assert run(RIGHT["padded"], seed=6).crops.deviation != first.crops.deviation


# ---------------------------------------------------------------- vacuity


@pytest.mark.parametrize("case", ["dead", "constant", "saturated", "nan"])
def test_outputs_that_do_not_answer_prove_nothing(case: str) -> None:
    pair = fc_pair(vacuous=case)
    result = run(pair)
    assert not result.passed
    assert result.vacuous is not None
    assert "--data" in result.vacuous
    assert result.summary().startswith("the proof is vacuous: output scores is ")


def test_tolerance_that_swallows_the_signal_proves_nothing() -> None:
    assert run(RIGHT["pad-free"], atol=10.0).vacuous is not None


def test_user_tolerances() -> None:
    pair = fc_pair(wrong="fc2 scale 1 %")
    assert not run(pair).passed
    assert run(pair, rtol=0.2).passed
    assert not run(RIGHT["pad-free"], rtol=1e-12, atol=0.0).passed


# ---------------------------------------------------------------- the user's inputs and sizes


def test_user_data_is_what_is_run() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 5):
        for size in (14, 20):
            result = run(RIGHT["pad-free"], data=rng.standard_normal((count, 3, size, size)))
            assert result.passed, result.summary()
            assert result.conditions.inputs == ("data",)
    assert run(RIGHT["pad-free"], data={"image": np.zeros((2, 3, 14, 14))}).vacuous


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (np.zeros((2, 3, 13, 14)), "14 or more"),
        (np.zeros((2, 1, 14, 14)), "shape (2, 1, 14, 14)"),
        (np.zeros((3, 14, 14)), "shape (3, 14, 14)"),
        (np.zeros((0, 3, 14, 14)), "shape (0, 3, 14, 14)"),
        (np.full((2, 3, 14, 14), np.nan), "NaN"),
        (np.full((2, 3, 14, 14), "x"), "float32"),
        ({"picture": np.zeros((2, 3, 14, 14))}, "picture"),
    ],
)
def test_unfit_data_is_a_usage_error(data: object, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(").replace(")", r"\)")):
        run(RIGHT["pad-free"], data=data)


@pytest.mark.parametrize("size", [(13, 20), (20,)])
def test_unfit_sizes_are_a_usage_error(size: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="--check-size"):
        run(RIGHT["pad-free"], check_sizes=(size,))


# ---------------------------------------------------------------- odd heads


@pytest.mark.parametrize("spelling", ["no trunk", "image shape", "subgraph", "wide", "baked batch"])
def test_odd_heads_are_cut_out_of_the_original(spelling: str) -> None:
    result = run(odd_pair(spelling))
    assert result.passed, result.summary()
    assert result.window.compared >= 14 * 6
    assert max(line.deviation for line in (*result.native.outputs, *result.window.outputs)) < 2e-5
    wrong = run(odd_pair(spelling, wrong="scale 0.1 %"))
    assert not wrong.passed
    assert wrong.native.deviation > 5e-4


def test_overridable_initializers_are_not_inputs() -> None:
    pair = fc_pair()
    for model in (pair.original, pair.rewritten):
        model.graph.input.extend(
            onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer
        )
    assert run(pair).passed


@pytest.mark.parametrize(
    ("step", "sizes"),
    [(1, ((16, 18), (19, 17))), (2, ((16, 18), (18, 16))), (3, ((20, 26), (26, 20))), (4, ((18, 22), (22, 18)))],
)
def test_only_sizes_that_the_model_takes(step: int, sizes: tuple[tuple[int, ...], ...]) -> None:
    pair = fc_pair()
    result = run(replace(pair, claim=replace(pair.claim, size_step=(step, step))))
    assert result.passed, result.summary()
    assert result.window.sizes[:2] == sizes
    native = pair.claim.native_size
    assert all((n - own) % step == 0 for size in result.window.sizes for n, own in zip(size, native, strict=True))
    if step > 1:
        with pytest.raises(UsageError, match="plus multiples of"):
            run(replace(pair, claim=replace(pair.claim, size_step=(step, step))), check_sizes=((15, 15),))


# ---------------------------------------------------------------- reasons


def test_a_model_that_does_not_run_is_a_failure_with_a_reason() -> None:
    pair = fc_pair()
    broken = fc_pair()
    broken.rewritten.graph.node[0].op_type = "NoSuchOp"
    assert "does not load" in run(broken).summary()
    locked = replace(pair, rewritten=pair.original)
    assert not run(locked).passed
    broken.original.graph.node[0].op_type = "NoSuchOp"
    assert "the original does not run" in run(broken).summary()


def test_way_around_the_boundary_is_a_failure() -> None:
    result = run(pool_pair(leak=True))
    assert result.window.status == "failed"
    assert "besides through the named boundaries" in result.window.reason


@pytest.mark.parametrize("samples", [2, 3])
def test_a_batch_that_is_cut_off_is_found(samples: int) -> None:
    """A model that says that its batch is free and gives the first image's scores alone."""
    net = Net()
    done = proven(net.model(net.fc(net.flat(), FEATURES, 5)), dynamic_batch=True)
    wrong = onnx.ModelProto.FromString(done.file.proto.SerializeToString())
    last = next(node for node in wrong.graph.node if node.output[0] == wrong.graph.output[0].name)
    last.output[0] = "all"
    for name, value in (("first", 0), ("end", 1), ("axis", 0)):
        wrong.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    wrong.graph.node.append(helper.make_node("Slice", ["all", "first", "end", "axis"], [wrong.graph.output[0].name]))
    wrong.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "rows"
    parity = check(done.original, done.file.with_proto(wrong), done.claim, CheckOptions(threads=1, samples=samples))
    assert not parity.passed


def test_where_the_original_is_not_a_number_nothing_is_proven() -> None:
    """Nor is anything refuted; what the original does say is compared all the same."""
    scale, want = Scale(1.0, 1.0, PRECISION["float32"]), np.array([[1.0, np.nan, -np.inf]])
    for got, status in ((want, "passed"), (np.array([[1.0, 2.0, 3.0]]), "passed"), (np.full((1, 3), np.nan), "failed")):
        tally = Tally(CheckOptions())
        tally.compare("scores", got, want, scale, "natural", "in cell (0, 2) at 18x20")
        assert tally.result().status == status
        [said] = tally.vacuous
        assert said.startswith("the original's own output scores is not finite in cell (0, 2) at 18x20: mend the net")
