"""Options of the Python API: what the command line would not take, they do not take either, and say what is allowed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from typing import Any

import click
import numpy as np
import pytest
from cli_runs import LENET

from onnxfc import (
    CheckOptions,
    Geometry,
    RewriteOptions,
    SaveOptions,
    ScanOptions,
    UsageError,
    check_pair,
    inspect,
    rewrite,
    scan,
)
from onnxfc.cli.main import main
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.options import LEAST_SAMPLES

WRONG: dict[type, list[tuple[dict[str, Any], str]]] = {
    RewriteOptions: [
        ({"output": "avg"}, "output: must be one of 'map', 'mean', 'max', not 'avg'"),
        ({"output": None}, "output: must be one of 'map', 'mean', 'max', not None"),
        ({"global_pool": "keepp"}, "global_pool: must be one of 'window', 'keep', 'drop', not 'keepp'"),
        ({"dynamic_batch": "no"}, "dynamic_batch: must be True or False, not 'no'"),
        (
            {"size": (0, 32)},
            r"size: must be pixels such as \(384, 512\), one to three numbers from 1",
        ),
        ({"size": "28x28"}, "size: must be pixels"),
        ({"size": 28}, "size: must be pixels"),
        ({"size": (28.5, 28)}, "size: must be pixels"),
        ({"size": (1, 2, 3, 4)}, "size: must be pixels"),
        ({"size": ()}, "size: must be pixels"),
        (
            {"size": (1 << 63, 28)},
            f"size: {1 << 63} is more than the {(1 << 63) - 1} that the axis of a tensor can have",
        ),
        ({"input_shapes": {"image": (1, 3, 1 << 70, 8)}}, f"input_shapes: {1 << 70} is more than"),
        ({"inputs": 3}, r"inputs: must be names such as \('image',\), not 3"),
        ({"inputs": "image"}, r"inputs: must be names such as \('image',\), not 'image'"),
        ({"inputs": (1,)}, "inputs: must be names"),
        ({"output": "max", "global_pool": "drop"}, "use --output mean"),
        ({"input_shapes": (1, 3, 8, 8)}, r"input_shapes: must be shapes of inputs by name such as \{'image': "),
        ({"input_shapes": {"image": "1x3x8x8"}}, "input_shapes: must be shapes"),
        ({"input_shapes": {"image": (1, 3, 0, 8)}}, "input_shapes: must be shapes"),
    ],
    CheckOptions: [
        ({"rtol": -1}, "rtol: must be a finite number from 0 on, not -1"),
        ({"rtol": float("nan")}, "rtol: must be a finite number from 0 on, not nan"),
        ({"atol": float("inf")}, "atol: must be a finite number from 0 on, not inf"),
        ({"atol": "1e-3"}, "atol: must be a finite number from 0 on, not '1e-3'"),
        ({"rtol": True}, "rtol: must be a finite number"),
        ({"atol": 10**400}, "atol: must be a finite number from 0 on, not 10000"),
        ({"check_sizes": ((28, 1 << 70),)}, f"check_sizes: {1 << 70} is more than"),
        ({"rtols": {"scores": -1}}, r"rtols\['scores'\]: must be a finite number from 0 on, not -1"),
        ({"atols": [1e-3]}, "atols: must be a mapping from names of outputs to numbers"),
        ({"samples": 1}, "samples: must be a whole number from 2 to 10000, not 1"),
        ({"provider": 3}, "provider: must be a name such as 'CUDA', not 3"),
        ({"provider": None}, "provider: must be a name such as 'CUDA', not None"),
        ({"samples": 2.5}, "samples: must be a whole number"),
        ({"seed": -1}, "seed: must be a whole number from 0 on, not -1"),
        ({"samples": 10_001}, "samples: must be a whole number from 2 to 10000, not 10001"),
        ({"threads": 3000}, "threads: must be a whole number from 0 to 1024, not 3000"),
        ({"threads": -1}, "threads: must be a whole number from 0 to 1024, not -1"),
        ({"check_sizes": (32, 32)}, "check_sizes: must be pixels"),
        ({"check_sizes": 32}, "check_sizes: must be image sizes such as"),
        ({"against_crops": True}, "against_crops: must be one of 'measure', 'exact', not True"),
    ],
    ScanOptions: [({"mean": (10**400,)}, r"mean: must be numbers, not \(1000")],
    SaveOptions: [
        ({"external_data_size_threshold": -1}, "external_data_size_threshold: must be 0 bytes or more"),
        ({"external_data_size_threshold": 1.5}, "external_data_size_threshold: must be 0 bytes or more"),
        ({"save_as_external_data": "yes"}, "save_as_external_data: must be True or False, not 'yes'"),
        ({"external_data_location": 3}, "external_data_location: must be a file name, not 3"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [(kind, given, says) for kind, cases in WRONG.items() for given, says in cases],
    ids=str,
)
def test_wrong_options(kind: Callable[..., object], given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        kind(**given)


def test_numbers_that_python_does_not_print() -> None:
    told = "a number of thousands of digits"
    with pytest.raises(UsageError, match=f"^fixed_size: {told} is more than"):
        RewriteOptions(fixed_size=(28, 10**5000))
    with pytest.raises(UsageError, match=f"^timeout: must be a finite number from 0 on, not {told}$"):
        CheckOptions(timeout=10**5000)
    with pytest.raises(UsageError, match=f"^seed: must be a whole number from 0 on, not {told}$"):
        CheckOptions(seed=-(10**5000))


@pytest.mark.parametrize(
    ("action", "says"),
    [
        (lambda: rewrite(LENET, options=CheckOptions()), "options: must be RewriteOptions(...) or None, not CheckO"),
        (lambda: rewrite(LENET, options={"output": "map"}), "options: must be RewriteOptions(...) or None, not dict"),
        (lambda: rewrite(LENET, check_options=RewriteOptions()), "check_options: must be CheckOptions(...) or None"),
        (lambda: rewrite(LENET, prove=False).proven(RewriteOptions()), "options: must be CheckOptions(...) or None"),
        (lambda: check_pair(LENET, LENET, options=RewriteOptions()), "options: must be CheckOptions(...) or None"),
        (lambda: inspect(LENET, options=CheckOptions()), "options: must be RewriteOptions(...) or None"),
        (lambda: scan(LENET, LENET, options=CheckOptions()), "options: must be ScanOptions(...) or None"),
        (
            lambda: rewrite(LENET, prove=False).save("x.onnx", True),
            "options: must be SaveOptions(...) or None, not bool",
        ),
        (lambda: ModelFile.open(LENET).save("x.onnx", CheckOptions()), "options: must be SaveOptions(...) or None"),
        (lambda: inspect(LENET, profile=3), "profile: must be a name or a path, not 3"),
        (lambda: inspect(3), "a model is given as a path, bytes, a protobuf, an onnx-graphsurgeon graph or what rewri"),
        (lambda: rewrite(None), "a model is given as a path, bytes, a protobuf, an onnx-graphsurgeon graph or what re"),
        (lambda: check_pair(LENET, LENET, input_shapes=0), "input_shapes: must be shapes of inputs by name such as"),
        (
            lambda: check_pair(LENET, LENET, boundaries="conv"),
            "boundaries: must be pairs of names such as (('features'",
        ),
        (lambda: check_pair(LENET, LENET, boundaries=("a", "b")), "boundaries: must be pairs of names such as"),
        (lambda: check_pair(LENET, LENET, boundaries=[("a", 1)]), "boundaries: must be names such as"),
        (lambda: check_pair(LENET, LENET, boundaries={"a": "b"}), "boundaries: must be pairs of names such as"),
        (lambda: check_pair(LENET, LENET, boundaries=np.array(3)), "boundaries: must be pairs of names such as"),
        (lambda: check_pair(LENET, LENET, boundaries=3), "boundaries: must be pairs of names such as"),
        (lambda: rewrite(LENET, check_options=CheckOptions(data={1: np.ones(3)})), "the data must hold the inputs"),
    ],
)
def test_options_of_another_kind(action: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        action()


@pytest.mark.parametrize("form", [None, "conv4d"])
@pytest.mark.parametrize("length", [1 << 15, (1 << 31) - 1, 1 << 31, (1 << 63) - 1])
def test_a_fixed_size_that_no_model_runs_on(length: int, form: Any) -> None:
    options = RewriteOptions(fixed_size=(length, 1 << 16), form=form)
    says = f"^image: an image of 1x1x{length}x65536 has .* numbers, and no model runs .*; give a smaller --fixed-size$"
    with pytest.raises(UsageError, match=says):
        rewrite(LENET, options=options, prove=False)


@pytest.mark.parametrize("command", ["rewrite", "check"])
def test_samples_are_as_many_everywhere(command: str) -> None:
    param = next(item for item in main.commands[command].params if item.name == "samples")
    assert param.type.min == LEAST_SAMPLES == CheckOptions(samples=2).samples


def test_right_options() -> None:
    """Numbers of numpy, lists for tuples."""
    options = RewriteOptions(size=[np.int64(28), 28], inputs=["image"])  # type: ignore[arg-type]
    assert (options.size, options.inputs) == ((28, 28), ("image",))
    assert rewrite(LENET, options=options, prove=False).claim.native_size == (28, 28)
    # type: ignore
    checks = CheckOptions(rtol=np.float32(0), samples=np.int32(2), check_sizes=[[40, 41]], rtols={"scores": 1})
    assert checks.check_sizes == ((40, 41),)
    assert rewrite(LENET, check_options=CheckOptions(rtols={"scores": 1e-3}, samples=2)).parity.passed  # type: ignore


@pytest.mark.parametrize("name", ["rtols", "atols"])
def test_tolerances_of_no_output(name: str) -> None:
    options = CheckOptions(**{name: {"score": 1e-3}})
    for action in (lambda: rewrite(LENET, check_options=options), lambda: check_pair(LENET, LENET, options=options)):
        with pytest.raises(UsageError, match=f"{name}: score is no output; there are scores"):
            action()


FIELDS = {
    kind: {item.name for item in fields(kind)} for kind in (RewriteOptions, CheckOptions, SaveOptions, ScanOptions)
}
PYTHON = {
    "rewrite": FIELDS[RewriteOptions] | FIELDS[CheckOptions] | FIELDS[SaveOptions],
    "inspect": FIELDS[RewriteOptions] | set(signature(inspect).parameters),
    "check": FIELDS[CheckOptions] | set(signature(check_pair).parameters),
    "scan": FIELDS[ScanOptions] | set(signature(scan).parameters),
}
TERMINAL = {"help", "out", "out_dir", "report", "as_json", "junit", "quiet", "verbose"}
"""What Python says by values that it returns, by where it saves them, and by what it does with them."""


@pytest.mark.parametrize("command", PYTHON)
def test_options_have_one_name(command: str) -> None:
    """On the command line and in Python, where what may be repeated is a plural; ``--no-check`` is ``prove``."""
    known = {"no_check": "prove"} if command == "scan" else {}
    options = [param for param in main.commands[command].params if isinstance(param, click.Option)]
    names = {param.name: param.opts[0] for param in options} | {"help": "--help"}
    names = {known.get(name, name): spelled for name, spelled in names.items() if name not in TERMINAL}
    assert names.keys() - PYTHON[command] - ({"no_check"} if command == "rewrite" else set()) == set()
    for name, spelled in names.items():
        said = spelled.removeprefix("--").replace("-", "_")
        assert name in {said, f"{said}s", f"{said}es", f"{said[:-1]}ies", known.get(said)}


def test_an_option_is_the_same_in_every_command() -> None:
    """It takes what it does elsewhere, but for scan's output, and check's tolerances by name."""
    seen: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for command in (main.commands[name] for name in PYTHON):
        for param in command.params:
            if isinstance(param, click.Option):
                seen[str(param.name)].add((*param.opts, param.is_flag, type(param.type)))
    assert {len({spelled for spelled, *_ in kinds}) for kinds in seen.values()} == {1}
    assert {name for name, kinds in seen.items() if len(kinds) > 1} == {"output", "rtol", "atol"}


def test_sizes_elsewhere() -> None:
    for wrong in ((0, 3), "28x28", 28, (28.5, 28)):
        with pytest.raises(UsageError, match="at: must be pixels"):
            inspect(LENET, at=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="size: must be pixels"):
            check_pair(LENET, LENET, size=wrong)  # type: ignore[arg-type]
    geometry = Geometry.from_model(rewrite(LENET, prove=False).model)
    assert geometry.cells((36, 40)) == geometry.cells(36, 40) == geometry.cells([36, 40]) == (3, 4)
    assert geometry.box((2, 3)) == geometry.box(2, 3) == geometry.box((2, 3), size=(36, 40))
    assert geometry.field((2, 3)) == geometry.field(2, 3)
    for wrong in ((36,), "36x40", (36, 40, 1)):
        with pytest.raises(UsageError, match="an image of this model has a height and a width, such as "):
            geometry.cells(wrong)
    with pytest.raises(UsageError, match="a cell of this model has 2 indices, not 3"):
        geometry.box((1, 2, 3))
    for cells in ((28,), (28.5, 28), ("28", "28")):
        with pytest.raises(UsageError, match="an image of this model has a height and a width, such as "):
            geometry.cells(*cells)  # type: ignore[arg-type]
