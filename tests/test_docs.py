"""The pages for contributors are true: what they walk through works, what they name exists."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import ROOT, environment
from doc_pages import agree, sessions
from doc_walks import Walk, begun, followed, printed, walks
from test_house import FLOORS, PACKAGE

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text("utf-8")
PAGES = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
WALKS = walks()
COUNTS = {"one": 1, "two": 2}
TITLES = [walk.title for walk in WALKS]


@pytest.fixture(scope="module", params=WALKS, ids=TITLES)
def walk(request: pytest.FixtureRequest) -> Walk:
    return request.param


def test_three_walks() -> None:
    assert [title.partition(":")[0] for title in TITLES] == [
        *("An activation", "A pool", "A sliding operator with other inputs")
    ]


def test_a_walk_touches_as_many_files_as_it_says(walk: Walk) -> None:
    said = walk.title.partition(": ")[2].split()[0]
    assert len(walk.files) == COUNTS[said]


def test_a_walk_works(walk: Walk, tmp_path: Path) -> None:
    """Its model is refused before; behind its changes it is rewritten, and its cells are the original's on crops."""
    folder = begun(walk, tmp_path)
    [refused] = printed(walk, folder)
    assert "is not supported here" in refused
    assert not (folder / "any-size.onnx").exists()
    followed(walk, folder)
    [(_, shown)], [output] = sessions(walk.text), printed(walk, folder)
    assert agree(shown, output), output
    _compare(folder)


def _compare(folder: Path) -> None:
    old, new = (ort.InferenceSession(folder / name) for name in ("model.onnx", "any-size.onnx"))
    image = np.random.default_rng(1).integers(0, 255, (1, 3, 20, 24))
    image = image.astype(np.uint8 if "uint8" in old.get_inputs()[0].type else np.float32)
    cells = new.run(None, {"image": image})[0]
    assert cells.shape == (1, 10, 3, 5)
    places = [(y, x) for y in range(3) for x in range(5)]
    crops = [image[:, :, 2 * y : 2 * y + 16, 2 * x : 2 * x + 16] for y, x in places]
    wanted = np.stack([old.run(None, {"image": crop})[0][0] for crop in crops], axis=-1).reshape(cells.shape)
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(cells, wanted, atol=1e-5 * np.ptp(wanted))


def _changed(walk: Walk, folder: Path, change: str, by: str) -> str:
    """What the walk's command prints of another model."""
    code = walk.blocks("python")[0]
    assert change in code
    other = Walk(walk.title, walk.text.replace(change, by))
    followed(other, begun(other, folder))
    return printed(other, folder)[0]


def test_an_activation_with_a_bias_is_refused(tmp_path: Path) -> None:
    """It lies along the width, and would fit no other."""
    change = "  active = com.microsoft.FastGelu(map)"
    by = "  bias = Constant<value_floats=[1.0,2.0,3.0,4.0,5.0,6.0,7.0]>()\n  active = com.microsoft.FastGelu(map, bias)"
    assert "[unknown-shape]" in _changed(WALKS[0], tmp_path, change, by)


def test_a_pool_that_meets_its_map_is_refused(tmp_path: Path) -> None:
    change = "  features = Flatten(pooled)"
    by = "  gated = Mul(map, pooled)\n  mean = GlobalAveragePool(gated)\n  features = Flatten(mean)"
    assert "GlobalLpPool is a sum, which grows with the image" in _changed(WALKS[1], tmp_path, change, by)


def test_a_padded_sliding_operator_is_blamed(tmp_path: Path) -> None:
    change, by = "QLinearConv<strides=[2,2]>", "QLinearConv<strides=[2,2], pads=[1,1,0,0]>"
    said = _changed(WALKS[2], tmp_path, change, by)
    assert "approximate" in said
    assert "padding" in said


# Sets of operators


OPERATORS = {schema.name for schema in onnx.defs.get_all_schemas_with_history()} | {"FusedConv", "FusedGemm"}


def _sets(tree: ast.AST) -> Iterator[frozenset[str]]:
    """Sets, tuples and lists of two operators' names or more; those that a rule is entered for are its own."""
    if isinstance(tree, ast.Set | ast.Tuple | ast.List):
        names = [item.value for item in tree.elts if isinstance(item, ast.Constant)]
        if 1 < len(names) == len(tree.elts) and OPERATORS.issuperset(names):
            yield frozenset(map(str, names))
    for child in ast.iter_child_nodes(tree):
        yield from _sets(child)


def test_a_set_of_operators_is_said_once() -> None:
    """A set that two modules need has its place in graph/op_kinds; the verifier alone stands by itself."""
    found: dict[frozenset[str], set[str]] = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "proof":
            for names in _sets(ast.parse(path.read_text("utf-8"))):
                found[names].add(path.relative_to(PACKAGE).as_posix())
    assert len(found) > 20
    assert {tuple(sorted(names)): places for names, places in found.items() if len(places) > 1} == {}


# What is named


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for name in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (page.parent / name).exists(), (page.name, name)
        for name in re.findall(r"`(?:python )?((?:benchmarks|docs|fixtures|onnxfc|tests|\.ci)/[\w./-]*)", text):
            assert (ROOT / name).exists(), (page.name, name)
        for room, name in re.findall(r"`([a-z]+)/([\w.]*)`", text):
            assert room not in ROOMS or (PACKAGE / room / name).exists(), (page.name, room, name)


ROOMS = {room for floor in FLOORS for room in floor}


def test_the_picture_shows_all_rooms() -> None:
    """From the roof down, as the floors are."""
    picture = CONTRIBUTING.partition("```\n")[2].partition("```")[0]
    floors = [re.findall(r"(?:^| · )(\w+)", line.partition("   ")[0].strip()) for line in picture.splitlines()]
    assert [set(floor) for floor in floors] == [set(floor) for floor in reversed(FLOORS)]


def _commands() -> list[list[str]]:
    lines = [
        line.partition("#")[0].split() for line in CONTRIBUTING.splitlines() if line.startswith("python -m pytest")
    ]
    return [line[3:] for line in lines]


def test_commands_are_shown() -> None:
    assert [] in _commands()
    assert sum("tests" in "".join(words) for words in _commands()) >= 3


@pytest.mark.sweep(1)
@pytest.mark.parametrize("words", [words for words in _commands() if "tests" in "".join(words)], ids=" ".join)
def test_commands_find_tests(words: list[str]) -> None:
    """pytest knows what each asks for."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *words],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_words_of_the_glossary_are_used() -> None:
    sources = "\n".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    words = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY, re.MULTILINE)
    assert len(words) >= 30
    assert len(words) == len(set(words))
    for word in words:
        assert re.search(rf"\b{re.escape(word)}", sources, re.IGNORECASE), word
    for name in re.findall(r"`([A-Z]\w+)`", GLOSSARY):
        assert re.search(rf"^(?:class )?{name}\b", sources, re.MULTILINE), name
