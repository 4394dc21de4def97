"""The walks of docs/adding-an-operator.md: their blocks, done in a copy of the package. Running this writes what its
commands print into it: ``python tests/support/doc_walks.py``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cli_runs import ROOT, environment
from doc_pages import furnish, run_all, sessions

PAGE = ROOT / "docs" / "adding-an-operator.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Walk:
    """A section: how many files it says it takes, its model, its changes, and its command with what it prints."""

    title: str
    text: str

    def blocks(self, kind: str) -> list[str]:
        return [body for name, body in _BLOCK.findall(self.text) if name == kind]

    @property
    def files(self) -> set[str]:
        """The files that it touches."""
        return {block.split(maxsplit=2)[1] for block in self.blocks("diff")}


def walks() -> list[Walk]:
    """All sections that end in a number of files."""
    parts = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return [Walk(part.partition("\n")[0], part) for part in parts if re.match(r".*: \w+ files?\n", part)]


def begun(walk: Walk, folder: Path) -> Path:
    """A folder with a copy of the package, which wins over the checkout, and the walk's model."""
    furnish(folder)
    shutil.copytree(ROOT / "onnxfc", folder / "onnxfc", ignore=shutil.ignore_patterns("__pycache__"))
    _changed(walk, folder, "udiff")  # an operator that is there already is taken out
    [code] = walk.blocks("python")
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), check=True, timeout=60)
    return folder


def followed(walk: Walk, folder: Path) -> None:
    """Make the walk's changes."""
    _changed(walk, folder, "diff")


def _changed(walk: Walk, folder: Path, kind: str) -> None:
    """Make the changes of its blocks of one kind, each of which must fit."""
    for block in walk.blocks(kind):
        head, *lines = block.splitlines()
        sign, name = head.split()
        old, new = ("".join(f"{line[1:]}\n" for line in lines if line.startswith(mark)) for mark in "-+")
        path = folder / name
        text = path.read_text("utf-8")
        if sign == "+++":
            path.write_text(f"{text}\n\n{new}", "utf-8")
        else:
            assert text.count(old) == 1, f"{name} has no longer: {old}"
            path.write_text(text.replace(old, new), "utf-8")


def printed(walk: Walk, folder: Path) -> list[str]:
    """What the walk's commands print."""
    return run_all([command for command, _ in sessions(walk.text)], folder)


def refreshed(walk: Walk) -> str:
    """The walk's text with what its commands print now."""
    with TemporaryDirectory() as folder:
        followed(walk, begun(walk, Path(folder)))
        [(command, _)], [output] = sessions(walk.text), printed(walk, Path(folder))
    return re.sub(r"^```console\n.*?^```$", f"```console\n$ {command}\n{output}```", walk.text, flags=re.M | re.S)


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    for item in walks():
        text = text.replace(item.text, refreshed(item))
    PAGE.write_text(text, "utf-8")
