"""What is said of options whose values mean nothing: the whole line, and exit code 2."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnxruntime as ort
import pytest
from cli_runs import LENET, fails, misused, onnxfc

from onnxfc import rewrite

REWRITE, CHECK = ("rewrite", "in.onnx", "out.onnx"), ("check", "in.onnx", "other.onnx")
NATIVE = "the native size of image is 28x28 in the file; leave it out; the result takes any size"
SO_MANY = "9" * 4400
"""Digits, more than Python makes a number of."""
FORM = "--provider: must be NAME or NAME:key=value,key=value, each key once, not "


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    shutil.copy(LENET, folder / "in.onnx")
    rewrite(LENET, prove=False).save(folder / "other.onnx")
    return folder


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    ("command", "option", "value", "told"),
    [
        (CHECK, "--size", "abc", "'abc' is not a size such as 384x512"),
        (CHECK, "--size", SO_MANY + "x3", f"'{SO_MANY[:60]}...' is not a size such as 384x512"),
        (CHECK, "--size", "１６x１６", "'１６x１６' is not a size such as 384x512"),
        (
            CHECK,
            "--input-shape",
            f"a:{'9' * 4400}",
            f"'a:{'9' * 58}...' is not a name and a shape such as image:1x3x224x224",
        ),
        (CHECK, "--memory", SO_MANY, f"'{SO_MANY[:60]}...' is not an amount of memory such as 800M or 2G"),
        (CHECK, "--rtol", ":1", "':1' is no number from 0 on, such as 1e-3 or scores:1e-3"),
        (REWRITE, "--size", "0x3", "'0x3' is not a size such as 384x512"),
        (REWRITE, "--size", "3x3x3x3", "'3x3x3x3' is not a size such as 384x512"),
        (REWRITE, "--timeout", "0", "0.0 is too small, it must be more than 0"),
        (CHECK, "--timeout", "-1", "-1.0 is too small, it must be more than 0"),
        (REWRITE, "--timeout", "x", "'x' is not a number"),
        (REWRITE, "--memory", "0", "'0' is not an amount of memory such as 800M or 2G"),
        (CHECK, "--memory", "-5", "'-5' is not an amount of memory such as 800M or 2G"),
        (REWRITE, "--samples", "1", "1 is too small, it must be 2 or more"),
        (CHECK, "--samples", "1", "1 is too small, it must be 2 or more"),
        (REWRITE, "--seed", "1.5", "'1.5' is not a whole number"),
        (REWRITE, "--rtol", "-1", "-1.0 is too small, it must be 0 or more"),
        (REWRITE, "--form", "conv", "'conv' is not one of 'conv4d', 'gemm'"),
        (CHECK, "--boundary", "=a", "'=a' is not NAME or NAME=OTHERNAME"),
    ],
)
def test_values_out_of_range(room: Path, command: tuple[str, ...], option: str, value: str, told: str) -> None:
    assert misused(*command, option, value, cwd=room) == f"{option}: {told}"


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        (REWRITE, ("--size", "28"), f"--size 28: {NATIVE}"),
        (REWRITE, ("--size", "30x30"), f"--size 30x30: {NATIVE}"),
        (CHECK, ("--size", "30x30"), "the size 30x30 is not the native size of the second model, 28x28"),
        (
            REWRITE,
            ("--fixed-size", f"28x{1 << 31}"),
            f"image: an image of 1x1x28x{1 << 31} has {28 << 31:,} numbers, "
            "and no model runs on more than 1,073,741,824; give a smaller --fixed-size",
        ),
        (REWRITE, ("--timeout", "nan"), "--timeout: must be a finite number from 0 on, not nan"),
        (CHECK, ("--timeout", "inf"), "--timeout: must be a finite number from 0 on, not inf"),
        (
            REWRITE,
            ("--memory", "5", "--no-check"),
            "--memory is for the proof, which --no-check leaves out; drop one of them",
        ),
        (CHECK, ("--provider", "cpu:a"), f"{FORM}'cpu:a'"),
        (CHECK, ("--provider", ":a=b"), f"{FORM}':a=b'"),
        (REWRITE, ("--provider", "cpu:a=b,a=c"), f"{FORM}'cpu:a=b,a=c'"),
        (CHECK, ("--provider", "cpu:fallback=deny"), "--provider: fallback can only be allow, not 'deny'"),
        (CHECK, ("--provider", "cpu:hardware=tpu"), "--provider: hardware must be cpu, gpu or npu, not 'tpu'"),
        (
            CHECK,
            ("--provider", "nope"),
            f"--provider nope: there is none here; onnxruntime {ort.__version__} has "
            f"{', '.join(ort.get_available_providers())}; install the package that brings it",
        ),
    ],
)
def test_values_that_do_not_fit(room: Path, command: tuple[str, ...], options: tuple[str, ...], told: str) -> None:
    said = fails(2, *command, *options, cwd=room).removeprefix("onnxfc: ")
    packages, there = said.split("; install"), told.split("; install")  # packages of plugins may be there, too
    assert packages[0].startswith(there[0])
    assert packages[1:] == there[1:]
    assert len(there) == 2 or said == told


@pytest.mark.parametrize("options", [("--memory", str(10**20)), ("--timeout", "1e300"), ("--size", "28x28")])
def test_limits_beyond_every_machine(room: Path, options: tuple[str, ...]) -> None:
    assert onnxfc(*CHECK, *options, "-q", cwd=room).code == 0
