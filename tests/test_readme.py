"""The README and the pages are true: their commands run as written and print what they show."""

from __future__ import annotations

import ast
import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from cli_runs import ROOT
from doc_pages import PAGES, agree, blocks, furnish, run_all, run_python, sessions, with_generated
from fixture_files import fixture_file

import onnxfc
from onnxfc.cli.check import check
from onnxfc.cli.inspect import inspect as inspect_command
from onnxfc.cli.rewrite import rewrite
from onnxfc.cli.scan import scan
from onnxfc.errors import ExitCode

README = ROOT / "README.md"
TEXT = README.read_text("utf-8")
PAGE = {page.stem: page.read_text("utf-8") for page in PAGES}
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return furnish(tmp_path)


def test_the_readme_is_short() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert max(map(len, TEXT.splitlines())) <= 200


def test_comparison_sees_differences() -> None:
    line = "passed, largest deviation 2.9e-06, tolerance 2e-04 (552 values) in 0.1 s"
    assert agree(line, line.replace("2.9e-06", "4.1e-06").replace("0.1 s", "3.2 s"))
    assert not agree(line, line.replace("552", "553"))
    assert not agree(line, line.replace("2.9e-06", "2.9e-03"))
    assert not agree(line, line.replace("passed", "FAILED"))
    assert not agree("by 13.6% of", "by 23.6% of")
    assert agree("seed 0, onnxruntime 1.32.0, threads", "seed 0, onnxruntime 1.23.0, threads")


WITH_BLOCKS = [page for page in PAGES if blocks(page.read_text("utf-8"))]


@pytest.mark.sweep(1)
@pytest.mark.parametrize("page", WITH_BLOCKS, ids=[page.stem for page in WITH_BLOCKS])
def test_blocks(page: Path, room: Path) -> None:
    """In order, in one folder: commands print what is shown, and Python what the next block of text shows."""
    printed = None
    for kind, body in blocks(page.read_text("utf-8")):
        if kind == "console":
            found = sessions(f"```console\n{body}```")
            for (command, shown), text in zip(found, run_all([item[0] for item in found], room), strict=True):
                assert agree(shown, text), f"$ {command}\n{text}"
        elif kind == "python":
            printed = run_python(body, room)
        elif printed is not None:
            assert body == printed
            printed = None


def test_all_pages_show_commands() -> None:
    assert {"README", "getting-started", "results", "check", "inspect-geometry", "one-vector", "deploy", "python"} <= {
        page.stem for page in WITH_BLOCKS
    }


@pytest.mark.sweep(1)
@pytest.mark.parametrize("page", PAGES, ids=list(PAGE))
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text("utf-8")
    assert with_generated(text) == text, "run: python tests/support/doc_pages.py"


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
    words = " ".join(PAGE["results"].split())
    assert "its 325 cells differ from their crops by up to 32.5 % of the score range, by 2.1 % in the median" in words
    assert "name the same class in 70 % of the places" in words
    found = [cells[y // 4, x // 4].argmax() for y, x in digits["corners"]]
    assert found == digits["corner_labels"].tolist()


def test_options_that_are_named_exist() -> None:
    commands = (rewrite, check, inspect_command, scan)
    names = {name for command in commands for option in command.params for name in option.opts}
    assert {name for name in names if name.startswith("-")} <= set(re.findall(r"(--?[a-z][-\w]*)", PAGE["cli"]))
    for page, text in PAGE.items():
        told = set(re.findall(r"`(--[-\w]+)", text))
        assert told <= names | {"--help", "--version"}, page


def test_exit_code_table() -> None:
    rows = re.findall(r"^\| (\d+) \|", PAGE["cli"].partition("## Exit codes")[2], re.MULTILINE)
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
    notes = {"assumed-size", "fixed-axis", "per-window", "no-global-pool", "no-weight-blocks", "no-window-scale"}
    return found - notes


def test_every_refusal_has_its_place() -> None:
    told = re.findall(r"^### ([\w-]+)$", PAGE["refusals"], re.MULTILINE)
    assert len(told) == len(set(told))
    assert set(told) == codes()


def test_every_refusal_has_a_cause_a_graph_and_a_remedy() -> None:
    for code, told in re.findall(r"^### ([\w-]+)\n(.*?)(?=^##|\Z)", PAGE["refusals"], re.MULTILINE | re.DOTALL):
        cause, graph, remedy = re.split(r"\n\n(?=    \S|Remedy: )", told.strip())
        assert cause, code
        assert graph.startswith("    "), code
        assert remedy.startswith("Remedy: "), code


def test_operator_table() -> None:
    assert "| Conv," not in PAGE["coverage"]
    assert PAGE["coverage"].count("GlobalAveragePool") >= 2


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as code hosts make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("page", PAGES, ids=list(PAGE))
def test_what_is_named_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in re.findall(r"`(?:python )?((?:benchmarks|fixtures|tests|\.ci)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    for name, _, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#([^)]+))?\)", text):
        other = page.parent / name if name else page
        assert other.exists(), name
        assert not anchor or anchor in anchors(other.read_text("utf-8")), (name, anchor)


def test_all_pages_are_linked() -> None:
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"](docs/{page.name})" in TEXT, page.name
        assert page.name == "index.md" or page.stem in PAGE["index"], page.name


def test_places_for_benchmarks() -> None:
    for marker in (
        "<!-- dense_vs_crops -->",
        "<!-- native_latency -->",
        "<!-- quantised -->",
        "<!-- native_forms -->",
        "<!-- native_nodes -->",
        "<!-- large_models -->",
    ):
        assert PAGE["performance"].count(marker) == 1


def test_licence() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_one_vector_figures(room: Path) -> None:
    """Pieces of the canvas with one digit each, at every offset: how often the largest class is the digit."""
    run_all(["onnxfc rewrite fixtures/trained/digits.onnx digits-any.onnx -q --no-check"], room)
    digits, session = np.load(fixture_file("digits.npz")), ort.InferenceSession(room / "digits-any.onnx")
    canvas = digits["canvas"].astype(np.float32) / 16
    rows = re.findall(r"^\| (\d+)x\d+ px, (\d+) cells \| (\d+) \|(.*)\|$", PAGE["one-vector"], re.MULTILINE)
    assert [int(row[0]) for row in rows] == [20, 24, 28]
    for side, cells, pieces, shown in ((*map(int, row[:3]), row[3]) for row in rows):
        right = []
        for (y, x), label in zip(digits["corners"], digits["corner_labels"], strict=True):
            for top, left in np.ndindex(side - 15, side - 15):
                piece = canvas[:, :, max(y - top, 0) :, max(x - left, 0) :][:, :, :side, :side]
                if min(y - top, x - left) < 0 or piece.shape[2:] != (side, side):
                    continue
                scores = session.run(None, {"image": piece})[0][0].reshape(10, -1)
                shares = np.exp(scores - scores.max(0)) / np.exp(scores - scores.max(0)).sum(0)
                assert scores.shape[1] == cells
                ways = scores.mean(1), shares.mean(1), scores.max(1), shares.max(1)
                right.append([way.argmax() == label for way in ways])
        assert len(right) == pieces
        assert [float(share) for share in re.findall(r"([\d.]+) %", shown)] == [
            round(100 * share) for share in np.mean(right, 0)
        ]


DOCUMENTED = {name: getattr(onnxfc, name) for name in onnxfc.__all__ if name != "__version__"} | {"onnxfc": onnxfc}
EXAMPLES = [name for name, thing in DOCUMENTED.items() if ">>>" in (inspect.getdoc(thing) or "")]


def test_every_public_name_is_documented() -> None:
    assert {name for name, thing in DOCUMENTED.items() if not inspect.getdoc(thing)} == set()
    assert set(EXAMPLES) == DOCUMENTED.keys()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In which the digits model was rewritten."""
    folder = furnish(tmp_path_factory.mktemp("checkout"))
    onnxfc.rewrite(folder / "fixtures/trained/digits.onnx", prove=False).save(folder / "digits-any.onnx")
    return folder


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_of_docstrings(name: str, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout)
    text = inspect.getdoc(DOCUMENTED[name]) or ""
    test = doctest.DocTestParser().get_doctest(text, {"onnxfc": onnxfc}, name, None, None)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0
