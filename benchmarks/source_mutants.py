"""Single mutations of the source, of which ``mutate.py`` draws a sample: cosmic-ray's, and three more."""

from __future__ import annotations

import ast
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso.python.tree import Keyword

TURNED = {
    "Comparison": {
        "Eq": ("NotEq",),
        "NotEq": ("Eq",),
        "Is": ("IsNot",),
        "IsNot": ("Is",),
        "Lt": ("LtE", "GtE"),
        "LtE": ("Lt", "Gt"),
        "Gt": ("GtE", "LtE"),
        "GtE": ("Gt", "Lt"),
    },
    "Binary": {
        "Add": ("Sub",),
        "Sub": ("Add",),
        "Mul": ("Add", "FloorDiv"),
        "Div": ("Mul",),
        "FloorDiv": ("Mul", "Mod"),
        "Mod": ("FloorDiv",),
        "Pow": ("Mul",),
        "BitOr": ("BitAnd",),
        "BitAnd": ("BitOr",),
    },
    "Unary": {"Delete": ("Not", "USub")},
}
"""An operator becomes another that is taken for it by mistake: ``<`` becomes ``<=`` or ``>=``, never ``is not``."""

OTHERS = (
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop"),
)


class _Own(Operator):
    """One mutation a node."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if self.fits(node):
            yield node.start_pos, node.end_pos

    def fits(self, node: Any) -> bool:
        raise NotImplementedError

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class ReturnNone(_Own):
    """``return x`` becomes ``return None``."""

    def fits(self, node: Any) -> bool:
        return node.type == "return_stmt" and node.children[1].get_code().strip() != "None"

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = parso.parse(" None")
        return node


class RemoveStatement(_Own):
    """A call, a ``raise``, a change of something that is there becomes ``pass``: not what gives a name its value."""

    def fits(self, node: Any) -> bool:
        if node.parent is None or node.parent.type != "simple_stmt":
            return False
        if node.type == "expr_stmt":
            return node.children[1].type == "operator" and (
                node.children[1].value != "=" or node.children[0].type in ("atom_expr", "power")
            )
        return node.type in ("atom_expr", "power", "raise_stmt", "del_stmt")

    def mutate(self, node: Any, index: int) -> Any:
        first = node.get_first_leaf()
        return Keyword("pass", first.start_pos, prefix=first.prefix)


class TurnIn(_Own):
    """``in`` becomes ``not in``, and the reverse."""

    def fits(self, node: Any) -> bool:
        return node.type == "comparison" and " ".join(node.children[1].get_code().split()) in ("in", "not in")

    def mutate(self, node: Any, index: int) -> Any:
        turned = " in" if "not" in node.children[1].get_code() else " not in"
        node.children[1] = parso.parse(turned)
        return node


@cache
def operators() -> dict[str, Operator]:
    provider = OperatorProvider()
    names = [
        f"Replace{kind}Operator_{before}_{after}"
        for kind, pairs in TURNED.items()
        for before, afters in pairs.items()
        for after in afters
    ]
    own = {kind.__name__: kind() for kind in (ReturnNone, RemoveStatement, TurnIn)}
    return {**{name: provider[name]() for name in (*names, *OTHERS)}, **own}


@dataclass(frozen=True)
class Mutant:
    """The mutation number ``occurrence`` that an operator makes of a file."""

    path: str
    operator: str
    occurrence: int
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column + 1} {self.operator}"

    def apply(self, source: str) -> str:
        mutated: str = mutate_code(source, operators()[self.operator], self.occurrence)
        return mutated


def sample(root: Path, count: int, seed: int) -> list[Mutant]:
    """``count`` mutants of onnxfc: one of each module that has any, the others of all places alike."""
    rng = random.Random(seed)
    places: dict[str, list[list[Mutant]]] = {}
    for path in sorted((root / "onnxfc").rglob("*.py")):
        found = list(_places(path.read_text("utf-8"), path.relative_to(root).as_posix()))
        if found:
            places[path.relative_to(root).as_posix()] = rng.sample(found, len(found))
    chosen = [found.pop() for found in places.values()]
    rest = [place for found in places.values() for place in found]
    chosen = rng.sample(chosen, len(chosen)) + rng.sample(rest, len(rest))
    drawn = (_drawn(root, place, rng) for place in chosen)
    return [mutant for mutant, _ in zip((mutant for mutant in drawn if mutant), range(count), strict=False)]


def _drawn(root: Path, place: list[Mutant], rng: random.Random) -> Mutant | None:
    """One of the mutants of a place; None where it would be no Python."""
    mutant = rng.choice(place)
    try:
        compile(mutant.apply((root / mutant.path).read_text("utf-8")), mutant.path, "exec")
    except SyntaxError:
        return None
    return mutant


def _places(source: str, path: str) -> Iterator[list[Mutant]]:
    """The mutants of a file by where they are, without annotations, which do nothing when it runs."""
    skipped = _annotations(ast.parse(source))
    nodes = list(ast_nodes(get_ast(source)))
    places = defaultdict(list)
    for name, operator in operators().items():
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, ((line, column), _) in enumerate(positions):
            if not any(first <= (line, column) < last for first, last in skipped):
                places[line, column].append(Mutant(path, name, occurrence, line, column))
    yield from places.values()


def _annotations(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    nodes = list(ast.walk(tree))
    found = [
        *(node.returns for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))),
        *(node.annotation for node in nodes if isinstance(node, (ast.arg, ast.AnnAssign))),
    ]
    return [
        ((node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)) for node in found if node
    ]
