"""The house rules: imports downward only, small files, frozen data, public names."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from cli_runs import ROOT, environment

import onnxfc
from onnxfc.claim.claim import PREFIX, Boundary, Claim, Figure, ImageInput, Output

PACKAGE = ROOT / "onnxfc"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = (
    ("version", "errors"),
    ("interop",),
    ("io",),
    ("graph", "claim"),
    ("shapes", "proof", "reports"),
    ("layout", "forms"),
    ("builder", "geometry"),
    ("analysis",),
    ("head",),
    ("rules",),
    ("rewriter",),
    ("inspector", "checker", "scanner"),
    ("cli",),
)
"""The rooms, from the ground up: a module imports from lower floors only, a room from itself too."""

LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
ROOF = {"onnxfc", "__main__"}
"""No module may import these."""
BESIDE_PROOF = {"onnxfc", "version", "errors", "interop", "io", "claim", "proof"}
"""All that the verifier may know."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name: str) -> str:
    """The room that a dotted name lies in: a module or a package directly below onnxfc."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imported(path: Path) -> set[str]:
    """Modules of onnxfc that a file imports at run time, wherever in the file: not those for types alone."""
    found = set()
    for node in _running(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= _modules(node)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "onnxfc"}
    return found


def _modules(node: ast.ImportFrom) -> set[str]:
    if not node.module or node.module.split(".")[0] != "onnxfc":
        return set()
    below = {f"{node.module}.{alias.name}" for alias in node.names}
    return {name if name in NAMES else node.module for name in below}


def _running(node: ast.AST) -> list[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return [child for other in node.orelse for child in _running(other)]
    return [node, *(found for child in ast.iter_child_nodes(node) for found in _running(child))]


NAMES = {module_name(path) for path in FILES}


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports. Read when a test asks, not by every worker that collects this file."""
    return {module_name(path): imported(path) for path in FILES}


def test_every_module_has_its_room() -> None:
    assert {unit(name) for name in NAMES} == LEVEL.keys() | ROOF, "a new room: give it its place in FLOORS"


def test_the_house_has_thirteen_floors_at_most() -> None:
    assert len(FLOORS) <= 13


def test_folders_are_rooms() -> None:
    """And hold no further folders, but for the schemas of the reports."""
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in FILES} - {"."}
    assert folders <= LEVEL.keys()


def test_packages_load_nothing() -> None:
    """But for the table of rules, which its modules fill, and the verifier, whose face it is."""
    packages = {module_name(path) for path in FILES if path.name == "__init__.py"}
    loading = {name for name in packages if graph()[name]}
    assert loading == {"onnxfc", "onnxfc.proof", "onnxfc.rules"}


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", sorted(name for name in NAMES if unit(name) in LEVEL))
def test_imports_go_downward(name: str) -> None:
    others = {unit(other) for other in graph()[name]} - {unit(name)}
    assert [other for other in others if other in ROOF or LEVEL[other] >= LEVEL[unit(name)]] == []


def test_no_circles() -> None:
    """Not within the packages either. A package's ``__init__`` may gather its modules: it is above them."""
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join([*trail, name])
        if name not in done:
            for other in sorted(graph()[name] - {name}):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(NAMES):
        visit(name, ())


def test_the_package_itself_imports_nothing_but_its_version() -> None:
    assert graph()["onnxfc"] <= {"onnxfc.version"}


def reached(name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for other in graph()[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


@pytest.mark.sweep(1)
@pytest.mark.parametrize("name", sorted(name for name in NAMES if unit(name) == "proof"))
def test_proof_knows_nothing_of_rewriting(name: str) -> None:
    assert {unit(other) for other in reached(name)} <= BESIDE_PROOF


def test_proof_loads_nothing_of_rewriting() -> None:
    code = "import sys, onnxfc.proof; print(*sorted(n for n in sys.modules if n.startswith('onnxfc.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, encoding="utf-8", timeout=60
    )
    assert {unit(name) for name in done.stdout.split()} <= BESIDE_PROOF


@pytest.mark.sweep(1)
@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


def functions() -> list[tuple[str, ast.FunctionDef]]:
    return [
        (f"{module_name(path)}.{node.name}", node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]


def decisions(node: ast.AST) -> int:
    """How many ways more there are through a node, and through what it holds, but for functions of their own."""
    ways = {
        ast.BoolOp: lambda: len(node.values) - 1,
        ast.comprehension: lambda: 1 + len(node.ifs),
        ast.Try: lambda: len(node.handlers) + bool(node.orelse),
        ast.Match: lambda: len(node.cases),
        **dict.fromkeys((ast.For, ast.While), lambda: 1 + bool(node.orelse)),
        **dict.fromkeys((ast.If, ast.IfExp, ast.Assert), lambda: 1),
    }
    inner = () if isinstance(node, ast.FunctionDef) else ast.iter_child_nodes(node)
    return ways.get(type(node), int)() + sum(map(decisions, inner))


def test_functions_decide_little() -> None:
    """McCabe's cyclomatic complexity, as radon counts it: ways through a function."""
    ways = [(name, 1 + sum(map(decisions, node.body))) for name, node in functions()]
    assert [item for item in ways if item[1] > 20] == []


def test_functions_are_small() -> None:
    lengths = [(name, (node.end_lineno or node.lineno) - node.lineno + 1) for name, node in functions()]
    assert [item for item in lengths if item[1] > 60] == []
    assert sorted(length for _, length in lengths)[len(lengths) // 2] <= 12


def modules() -> list[ModuleType]:
    names = [info.name for info in pkgutil.walk_packages(onnxfc.__path__, "onnxfc.")]
    return [importlib.import_module(name) for name in names if name != "onnxfc.__main__"]


def test_every_module_says_what_it_is() -> None:
    assert [module.__name__ for module in modules() if not (module.__doc__ or "").strip()] == []


def test_public_dataclasses_are_frozen() -> None:
    """But for the notebooks of a walk and of a check, which no caller sees."""
    mutable = {
        f"{module.__name__}.{name}"
        for module in modules()
        for name, item in inspect.getmembers(module, inspect.isclass)
        if dataclasses.is_dataclass(item)
        and item.__module__ == module.__name__
        and not name.startswith("_")
        and not item.__dataclass_params__.frozen  # type: ignore[attr-defined]
    }
    inner = {name for name in mutable if name.startswith("onnxfc.proof.") or name == "onnxfc.builder.state.State"}
    assert mutable - inner == set()
    public = [getattr(onnxfc, name) for name in onnxfc.__all__]
    found = [item for item in public if dataclasses.is_dataclass(item)]
    assert len(found) >= 10
    assert all(item.__dataclass_params__.frozen for item in found)


def test_public_names() -> None:
    assert onnxfc.__all__ == sorted(onnxfc.__all__)
    assert set(onnxfc.__all__) == {
        *("Boundary", "CheckOptions", "Claim", "CropResult", "ExitCode", "ImageInput", "ModelFile"),
        *("Box", "Checked", "Geometry", "Inspection", "Places", "check_pair", "inspect"),
        *("NothingToRewrite", "OnnxfcError", "Output", "Parity", "ParityResult", "ProofFailed", "ReadError"),
        *("Refusal", "Replacement", "Rewrite", "RewriteOptions", "SaveOptions", "UsageError", "WriteError"),
        *("__version__", "check", "rewrite", "scan", "ScanOptions", "ScoreMap"),
    }
    for name in onnxfc.__all__:
        item = getattr(onnxfc, name)
        assert name in dir(onnxfc)
        assert item is not None
        if name != "__version__":
            assert (item.__doc__ or "").strip(), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'rewrites'"):
        _ = onnxfc.rewrites


def test_types_of_public_names_are_known_to_mypy() -> None:
    """Each lazily loaded name stands under TYPE_CHECKING as well, from the same module."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    typed = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(typed) | {"__version__"} == set(onnxfc.__all__)
    for name, module in typed.items():
        assert getattr(importlib.import_module(str(module)), name) is getattr(onnxfc, name)


def test_rewrite_is_the_function_whatever_was_imported() -> None:
    code = """if True:
    import sys, onnxfc
    assert not {"onnx", "onnxruntime", "numpy"} & set(sys.modules)
    import onnxfc.rewriter.api
    from onnxfc.rewriter.api import Rewrite
    from onnxfc import rewrite
    assert callable(rewrite) and rewrite is onnxfc.rewrite is sys.modules["onnxfc.rewriter.api"].rewrite
    assert onnxfc.Rewrite is Rewrite
    """
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=60)


def test_exit_codes() -> None:
    codes = {error.__name__: int(error.exit_code) for error in onnxfc.OnnxfcError.__subclasses__()}
    assert codes == {"ReadError": 1, "WriteError": 1, "UsageError": 2, "NothingToRewrite": 3, "ProofFailed": 4}


CLAIM = Claim(
    native_size=(28, 30),
    stride=(4, 2),
    start=(-3, 0),
    size=(40, 28),
    size_step=(1, 8),
    verdict="approximate",
    blame=("padding: conv1", "context: Übergang"),
    inputs=(ImageInput("image", (1, 3, 28, 30), (2, 3)), ImageInput("other", (1, 28, 30, 3), (1, 2))),
    boundaries=(Boundary("pool", "pool", (2, 3), (4, 5), (1, 1)),),
    outputs=(Output("scores", "map", (2, 3)), Output("mean", "mean"), Output("features", "features", (2, 3))),
    figures=(Figure("scale", "scale_again"),),
    detections=("boxes",),
)


def test_claim_survives_its_journey_as_metadata() -> None:
    metadata = CLAIM.to_metadata()
    assert set(metadata) == {PREFIX + item.name for item in dataclasses.fields(Claim)}
    assert all(isinstance(value, str) for value in metadata.values())
    assert json.loads(metadata["onnxfc.native_size"]) == [28, 30]
    assert json.loads(metadata["onnxfc.verdict"]) == "approximate"
    again = Claim.from_metadata({"somebody": "else", **metadata})
    assert again == CLAIM
    assert hash(again) == hash(CLAIM)
    few = dataclasses.replace(CLAIM, figures=(), detections=()).to_metadata()
    assert {"onnxfc.figures", "onnxfc.detections"}.isdisjoint(few)


def test_no_claim_no_metadata() -> None:
    assert Claim.from_metadata({}) is None
    assert Claim.from_metadata({"native_size": "[1, 2]"}) is None


def test_twice_native_is_legal() -> None:
    """28 + 28 px in steps of 1; 30 px and the next multiple of 8 from 30 on."""
    assert CLAIM.twice_native == (56, 62)


@pytest.mark.parametrize("broken", ["", "[28, ", "null", "3"])
def test_damaged_claim(broken: str) -> None:
    with pytest.raises(onnxfc.ReadError):
        Claim.from_metadata({**CLAIM.to_metadata(), "onnxfc.inputs": broken})
