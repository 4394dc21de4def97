"""The README is true: its commands run as written and print what it shows."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import readme_refresh
from cli_runs import ROOT, environment
from fixture_files import fixture_file
from readme_refresh import furnish, run_all, sessions

from onnxfc.cli.check import check
from onnxfc.cli.inspect import inspect
from onnxfc.cli.rewrite import rewrite
from onnxfc.errors import ExitCode

TEXT = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(%| s\b|)")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("checkout"))


def agree(shown: str, printed: str) -> bool:
    """Same words and counts; times may be any, rounding noise within a factor of 30, shares within 2 points."""
    if NUMBER.sub("N", shown) != NUMBER.sub("N", printed):
        return False
    return all(map(_close, NUMBER.findall(shown), NUMBER.findall(printed)))


def _close(shown: tuple[str, str], printed: tuple[str, str]) -> bool:
    (old, unit), (new, _) = shown, printed
    if unit == " s":
        return float(new) < 60
    if unit == "%":
        return abs(float(old) - float(new)) <= 2
    if "e-" in old:
        return 1 / 30 < float(old) / max(float(new), 1e-12) < 30
    return old == new


def test_comparison_sees_differences() -> None:
    line = "passed, largest deviation 2.9e-06, tolerance 2e-04 (552 values) in 0.1 s"
    assert agree(line, line.replace("2.9e-06", "4.1e-06").replace("0.1 s", "3.2 s"))
    assert not agree(line, line.replace("552", "553"))
    assert not agree(line, line.replace("2.9e-06", "2.9e-03"))
    assert not agree(line, line.replace("passed", "FAILED"))
    assert not agree("by 13.6% of", "by 23.6% of")


def test_console_blocks(room: Path) -> None:
    found = sessions(TEXT)
    assert len(found) >= 6
    printed = run_all([command for command, _ in found], room)
    assert len(printed) == len(found)
    for (command, shown), text in zip(found, printed, strict=True):
        assert agree(shown, text), f"$ {command}\n{text}"
    assert (room / "alexnet-any.onnx").is_file()
    assert not (room / "again.onnx").exists()


def setups() -> list[str]:
    return [line for kind, body in BLOCKS if kind == "sh" for line in body.strip().splitlines()]


@pytest.mark.parametrize("command", setups())
def test_setup_commands(command: str, room: Path) -> None:
    """Each makes an environment, installs the checkout and goes on; what follows must run."""
    make, install, job = command.split(" && ")
    assert make == "python3 -m venv .venv"
    extras = re.fullmatch(r"\.venv/bin/pip install (?:\.|'\.\[([\w,]+)\]')", install)
    assert extras, install
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in filter(None, (extras[1] or "").split(",")):
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    if job != ".venv/bin/python -m pytest":
        assert job.startswith(".venv/bin/onnxfc rewrite ")
        assert 'onnxfc = "onnxfc.__main__:run"' in project
        [printed] = run_all([job.removeprefix(".venv/bin/")], room)
        assert "native parity   passed" in printed
        assert (room / job.split()[-1]).is_file()


def test_two_setup_commands() -> None:
    assert len(setups()) == 2


def test_python_block(room: Path) -> None:
    [code] = [body for kind, body in BLOCKS if kind == "python"]
    [shown] = [body for kind, body in BLOCKS if kind == "text"]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=room,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=True,
    )
    assert done.stdout == shown


def test_digits_figures(room: Path) -> None:
    """The trained network on its canvas: 325 cells against the original on 325 crops."""
    run_all(["onnxfc rewrite fixtures/trained/digits.onnx digits-canvas.onnx -q"], room)
    digits = np.load(fixture_file("digits.npz"))
    canvas = digits["canvas"].reshape(1, 1, 64, 112).astype(np.float32) / 16
    old, new = (ort.InferenceSession(path) for path in (fixture_file("digits.onnx"), room / "digits-canvas.onnx"))
    cells = new.run(None, {"image": canvas})[0][0].transpose(1, 2, 0)
    places = [(y, x) for y in range(0, 49, 4) for x in range(0, 97, 4)]
    crops = [old.run(None, {"image": canvas[:, :, y : y + 16, x : x + 16]})[0][0] for y, x in places]
    wanted = np.array(crops).reshape(13, 25, 10)
    assert cells.shape == wanted.shape
    deviation = np.abs(cells - wanted) / np.ptp(wanted)
    same = (cells.argmax(-1) == wanted.argmax(-1)).mean()
    figures = f"{deviation.max():.1%}", f"{np.median(deviation):.1%}", f"{same:.0%}"
    assert figures == ("32.5%", "2.1%", "70%")
    words = " ".join(TEXT.split())
    assert "its 325 cells differ from their crops by up to 32.5 % of the score range, by 2.1 % in the median" in words
    assert "name the same class in 70 % of the places" in words
    found = [cells[y // 4, x // 4].argmax() for y, x in digits["corners"]]
    assert found == digits["corner_labels"].tolist()


def test_option_table_is_complete() -> None:
    commands = (rewrite, check, inspect)
    names = {name for command in commands for option in command.params for name in option.opts if name.startswith("-")}
    told = set(re.findall(r"`(-[-\w]+)", TEXT))
    assert names <= told
    assert told <= names | {"-h", "--help", "--version"}


def test_exit_code_table() -> None:
    rows = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert [int(row) for row in rows] == [int(code) for code in ExitCode]


def codes() -> set[str]:
    """All refusal codes in the source: first arguments of ``refuse`` and ``Refusal``, and those of the walk's table."""
    found = set()
    for path in (ROOT / "onnxfc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                first = node.args[0]
                if isinstance(first, ast.Starred) and isinstance(first.value, ast.Tuple):
                    first = first.value.elts[0]
                if name in {"refuse", "Refusal", "_reasons"} and isinstance(first, ast.Constant):
                    found.add(first.value)
    return found - {"per-window"}  # a note, not a refusal


def test_refusal_table_is_complete() -> None:
    section = TEXT.partition("### What is refused")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE)
    told = [code for row in rows for code in re.findall(r"`([\w-]+)`", row)]
    assert len(told) == len(set(told))
    assert set(told) == codes()


def test_operator_table_is_current() -> None:
    assert readme_refresh.with_operators(TEXT) == TEXT, "run: python tests/support/readme_refresh.py"
    assert "| Conv," not in TEXT
    assert TEXT.count("GlobalAveragePool") >= 2


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"`(?:python )?((?:benchmarks|fixtures|tests|\.ci)/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / name).exists(), name


def test_places_for_benchmarks() -> None:
    for marker in (
        "<!-- dense_vs_crops -->",
        "<!-- native_latency -->",
        "<!-- native_nodes -->",
        "<!-- large_models -->",
    ):
        assert TEXT.count(marker) == 1


def test_licence() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence
