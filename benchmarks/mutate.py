"""Do the tests tell? Single mutations of the source, drawn by a seed; each meets the tests that execute its line.

    python benchmarks/mutate.py WORK                     # 200 mutants
    python benchmarks/mutate.py WORK --count 50 --seed 7
    python benchmarks/mutate.py WORK --again             # after new tests: the survivors once more

Everything happens in a copy of the checkout, WORK/tree. The whole suite runs there once, to learn which test executes
which line; this is kept in WORK, as are the results, so that a run that was stopped goes on where it was. A mutant
meets the tests that execute its line, one of each function first, and those that are quick and execute little else,
until they have taken ``--seconds``; one that none of them finds has survived. With ``--again`` the survivors meet all
tests of the files of those tests, as they are now in the checkout. Needs the extra ``mutation``, and a system with
fork.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

from coverage import CoverageData
from source_mutants import Mutant, sample

ROOT = Path(__file__).resolve().parents[1]
LOADED = ("numpy", "onnx", "onnxruntime", "hypothesis", "pytest")
"""What all tests need and no mutant changes: it is loaded once, and each run is a fork."""

FOUND, SURVIVED, NO_TEST = "found", "survived", "no test"
TESTS_FAILED = 1
"""pytest's exit code; with others, a mutant could not even be loaded, or something is wrong with the run."""

KEPT_OUT = ("pytest_cov", "xdist", "cacheprovider")


@dataclass(frozen=True)
class Work:
    """The folder of a run."""

    root: Path

    @property
    def tree(self) -> Path:
        return self.root / "tree"

    @property
    def data(self) -> Path:
        return self.root / "coverage"

    @property
    def seconds(self) -> Path:
        return self.root / "seconds.json"

    @property
    def results(self) -> Path:
        return self.root / "results.jsonl"

    def copy(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        left_out = shutil.ignore_patterns(".git", ".*_cache", ".hypothesis", "__pycache__", "build", ".venv")
        shutil.copytree(ROOT, self.tree, ignore=left_out)

    def measure(self) -> None:
        """Run all tests once. Those that fail, or do while they are measured, take no part."""
        variables = {"COVERAGE_FILE": str(self.data), "TEST_SECONDS": str(self.seconds)}
        command = ["pytest", "--all", "-p", "contexts", "--cov", "--cov-context=test", "--cov-report="]
        path = os.pathsep.join([str(self.tree), str(self.tree / "tests" / "support")])
        environment = {**os.environ, **variables, "PYTHONPATH": path}
        subprocess.run([sys.executable, "-m", *command], cwd=self.tree, env=environment, check=False)


class Tests:
    """Which test executes what, and how long it takes."""

    def __init__(self, work: Work) -> None:
        self.tree = work.tree
        self.seconds: dict[str, float] = json.loads(work.seconds.read_text("utf-8"))
        self.data = CoverageData(str(work.data))
        self.data.read()
        self._shared: dict[frozenset[str], frozenset[str]] = {}
        """Neighbours are executed by the same tests: a set of them is held once."""
        self.lines = {self._path(name): self._tests(name) for name in self.data.measured_files()}

    def _path(self, name: str) -> str:
        return Path(name).relative_to(self.tree).as_posix() if Path(name).is_absolute() else Path(name).as_posix()

    def _tests(self, name: str) -> dict[int, frozenset[str]]:
        found = self.data.contexts_by_lineno(name)
        sets = {line: frozenset(context for context in contexts if context) for line, contexts in found.items()}
        return {line: self._shared.setdefault(tests, tests) for line, tests in sets.items()}

    @cached_property
    def sizes(self) -> Counter[str]:
        """How many lines each context executes."""
        return Counter(test for lines in self.lines.values() for tests in lines.values() for test in tests)

    def of(self, mutant: Mutant) -> list[str]:
        """The tests that execute the line of a mutant: one of each function first, and those that are quick, and
        execute little else."""
        contexts = self._at(mutant.path, mutant.line) or self._of_names(mutant)
        sizes: dict[str, int] = {}
        for context in sorted(contexts, key=lambda context: (self.sizes[context], context)):
            for test in self._meant(context):
                sizes.setdefault(test, self.sizes[context])
        known = [test for test in sizes if test in self.seconds]
        met: Counter[str] = Counter()
        ranks: dict[str, int] = {}
        for test in sorted(known, key=lambda test: (self.seconds[test] * sizes[test], test)):
            function = test.partition("[")[0]
            ranks[test] = met[function]
            met[function] += 1
        return sorted(ranks, key=lambda test: ranks[test])

    def _at(self, path: str, line: int) -> frozenset[str]:
        """A statement of several lines is executed where it begins."""
        nodes = [node for node in ast.walk(self._parsed(path)) if isinstance(node, ast.stmt)]
        around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or node.lineno)]
        starts = [line, *sorted({node.lineno for node in around if not hasattr(node, "body")}, reverse=True)]
        return next((found for start in starts if (found := self.lines.get(path, {}).get(start))), frozenset())

    def _of_names(self, mutant: Mutant) -> frozenset[str]:
        """The tests of what is executed when a module is loaded: those of the functions that speak of it."""
        around = [
            node
            for node in ast.walk(self._parsed(mutant.path))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign))
            and node.lineno <= mutant.line <= (node.end_lineno or node.lineno)
        ]
        found: frozenset[str] = frozenset()
        for name in {name for node in around for name in _names(node)}:
            word = re.compile(rf"\b{re.escape(name)}\b")
            for path, lines in self.lines.items():
                source = (self.tree / path).read_text("utf-8").splitlines()
                speaks = [number for number, text in enumerate(source, 1) if word.search(text)]
                found = found.union(*(lines.get(number, frozenset()) for number in speaks))
        bodies = [node for node in around if isinstance(node, ast.FunctionDef)]
        return found.union(*(self._at(mutant.path, node.body[-1].lineno) for node in bodies))

    def _parsed(self, path: str) -> ast.Module:
        return ast.parse((self.tree / path).read_text("utf-8"))

    def _meant(self, context: str) -> Iterator[str]:
        """What a fixture did for its first test, it did for all tests of the file."""
        name, _, phase = context.rpartition("|")
        if phase == "setup":
            yield from (test for test in self.seconds if test.startswith(name.split("::")[0] + "::"))
        yield name if phase in ("setup", "run", "teardown") else context


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def within(tests: Iterable[str], seconds: dict[str, float], most: float) -> list[str]:
    """The first tests that take ``most`` seconds together; the files of the quickest first, and of a file those."""
    chosen, spent = [], 0.0
    for test in tests:
        if not chosen or spent + seconds[test] <= most:
            chosen.append(test)
            spent += seconds[test]
    quickest: dict[str, float] = {}
    for test in chosen:
        file = test.split("::")[0]
        quickest[file] = min(quickest.get(file, seconds[test]), seconds[test])
    return sorted(chosen, key=lambda test: (quickest[test.split("::")[0]], test.split("::")[0], seconds[test]))


@contextlib.contextmanager
def mutated(path: Path, mutant: Mutant) -> Iterator[None]:
    source = path.read_text("utf-8")
    try:
        _write(path, mutant.apply(source))
        yield
    finally:
        _write(path, source)


def _write(path: Path, text: str) -> None:
    """Python takes a compiled file by time and size, which a mutant may share with its original: it is removed."""
    path.write_text(text, "utf-8")
    for old in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        old.unlink()


def code_of(tree: Path, tests: list[str], limit: float) -> int:
    """pytest's exit code, in a fork of this process; that of a failed test where it takes too long."""
    child = os.fork()
    if not child:
        _test(tree, tests)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TESTS_FAILED


def _test(tree: Path, tests: list[str]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(tree)
        os.environ["PYTHONPATH"] = str(tree)
        sys.path[0] = str(tree)  # in place of this folder, whose modules the tests must not meet
        log = os.open(tree.parent / "last.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        out = [option for name in KEPT_OUT for option in ("-p", f"no:{name}")]
        code = int(import_module("pytest").main([*out, "--all", "-x", "-q", "--no-header", "--tb=line", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def judge(work: Work, tests: Tests, mutant: Mutant, args: argparse.Namespace) -> dict[str, object]:
    covering = tests.of(mutant)
    if args.again:
        chosen = sorted({test.split("::")[0] for test in covering})
        limit = 3 * args.seconds + 60
    else:
        chosen = within(covering, tests.seconds, args.seconds)
        limit = 3 * sum(tests.seconds[test] for test in chosen) + 60
    start = time.monotonic()
    if not chosen:
        outcome = NO_TEST
    else:
        with mutated(work.tree / mutant.path, mutant):
            code = code_of(work.tree, chosen, limit)
        if code not in (0, TESTS_FAILED) and code_of(work.tree, chosen, limit):
            raise SystemExit(f"these tests do not pass without a mutation; see {work.root / 'last.log'}")
        outcome = FOUND if code else SURVIVED
    took = round(time.monotonic() - start, 1)
    return {**asdict(mutant), "outcome": outcome, "tests": len(chosen), "of": len(covering), "seconds": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60, help="of tests for a mutant")
    parser.add_argument("--again", action="store_true", help="the survivors alone, with the checkout's tests of now")
    args = parser.parse_args()
    work = Work(args.work.resolve())
    if not work.data.exists():
        work.copy()
        work.measure()
    for name in LOADED:
        import_module(name)
    tests = Tests(work)
    told = [json.loads(line) for line in work.results.read_text("utf-8").splitlines()] if work.results.exists() else []
    last = {_mutant(row): row["outcome"] for row in told}
    if args.again:
        shutil.copytree(ROOT / "tests", work.tree / "tests", dirs_exist_ok=True)
        waiting = [mutant for mutant, outcome in last.items() if outcome != FOUND]
    else:
        waiting = [mutant for mutant in sample(work.tree, args.count, args.seed) if mutant not in last]
    for mutant in waiting:
        row = judge(work, tests, mutant, args)
        last[mutant] = str(row["outcome"])
        with work.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{row['outcome']:9} {row['seconds']:6} s  {row['tests']:4} tests  {mutant}", flush=True)
    found = sum(outcome == FOUND for outcome in last.values())
    print(f"{found} of {len(last)} found: {found / max(1, len(last)):.1%}")


def _mutant(row: dict[str, object]) -> Mutant:
    return Mutant(**{name: row[name] for name in Mutant.__dataclass_fields__})


if __name__ == "__main__":
    main()
