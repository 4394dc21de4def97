"""``--json`` and ``--report -``: one JSON document on stdout from every command, of errors too, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from cli_models import tokens
from cli_runs import here
from fixture_files import FIXTURES, fixture_file
from schemas import follows

DIGITS, REFUSED = fixture_file("digits.onnx"), fixture_file("table.dynamo.onnx")
CANVAS = FIXTURES / "trained" / "canvas.png"
RUNS: dict[str, tuple[int, tuple[object, ...], dict[str, Any]]] = {
    "rewritten": (
        0,
        ("rewrite", DIGITS, "out.onnx"),
        {"status": "rewritten", "input": str(DIGITS), "output": "out.onnx"},
    ),
    "refused": (3, ("rewrite", REFUSED, "out.onnx"), {"status": "refused", "input": str(REFUSED)}),
    "no file": (1, ("rewrite", "no.onnx", "out.onnx"), {"status": "error", "input": "no.onnx"}),
    "agree": (0, ("check", DIGITS, DIGITS), {"status": "passed", "original": str(DIGITS), "other": str(DIGITS)}),
    "no pair": (1, ("check", DIGITS, "no.onnx"), {"status": "error", "other": "no.onnx"}),
    "seen": (0, ("inspect", REFUSED), {"status": "refused", "path": str(REFUSED)}),
    "not seen": (1, ("inspect", "no.onnx"), {"status": "error", "exit_code": 1, "path": "no.onnx"}),
    "too small": (2, ("inspect", DIGITS, "--at", "4x4"), {"status": "error", "exit_code": 2}),
    "scanned": (0, ("scan", DIGITS, CANVAS, "map.npy"), {"status": "done", "model": str(DIGITS), "image": str(CANVAS)}),
    "no image": (1, ("scan", DIGITS, "no.png", "map.npy"), {"status": "error", "image": "no.png"}),
    "no map": (3, ("scan", REFUSED, CANVAS, "map.npy"), {"status": "error", "model": str(REFUSED)}),
}


@pytest.mark.parametrize("name", RUNS)
def test_one_document(name: str, tmp_path: Path) -> None:
    code, words, told = RUNS[name]
    run = here(*words, *(("--json",) if len(name) % 2 else ("--report", "-")), cwd=tmp_path)
    assert run.code == code, run
    document = json.loads(run.out)
    assert document.items() >= told.items()
    follows(document, words[0])
    assert run.err.count("\n") == (code != 0)


@pytest.mark.parametrize("words", [("rewrite", DIGITS, "out.onnx"), ("inspect", DIGITS), ("check", DIGITS, DIGITS)])
def test_it_is_printed_or_written(words: tuple[object, ...], tmp_path: Path) -> None:
    run = here(*words, "--json", "--report", "r.json", cwd=tmp_path)
    assert run.code == 2
    assert "--json prints the report, --report FILE writes it; give one of them" in run.err
    assert list(tmp_path.iterdir()) == []


def test_threads_of_the_proof(tmp_path: Path) -> None:
    told = json.loads(here("rewrite", DIGITS, "out.onnx", "--json", "--threads", "1", cwd=tmp_path).out)
    assert told["parity"]["conditions"]["threads"] == 1


def test_a_scan_has_no_page(tmp_path: Path) -> None:
    run = here("scan", DIGITS, CANVAS, "map.npy", "--report", "r.html", cwd=tmp_path)
    assert run.code == 2
    assert run.line == "onnxfc: --report r.html: is JSON; a picture of the map is an OUT, map.png"


@pytest.mark.parametrize("command", ["check", "scan"])
def test_refusals_begin_with_their_file(command: str, tmp_path: Path) -> None:
    onnx.save(tokens(), tmp_path / "tokens.onnx")
    words = (REFUSED, CANVAS, "map.npy") if command == "scan" else ("tokens.onnx", DIGITS)
    run = here(command, *words, cwd=tmp_path)
    assert run.code == 3, run
    assert run.line.startswith(f"onnxfc: {words[0]}: [")
