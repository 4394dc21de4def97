"""Bring the README up to date, its operator table and what its commands print: ``python
tests/support/readme_refresh.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from cli_runs import ROOT, environment

README = ROOT / "README.md"
BEGIN, END = "<!-- begin operators (python tests/support/readme_refresh.py) -->\n", "<!-- end operators -->"
MARK = "@@@ end of command @@@"
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def operators() -> str:
    """The table of operators, from the rules: by where a rule works, and the operators' names."""
    sys.path.insert(0, str(ROOT))
    from onnxfc.rules.registry import PLACED, RULES

    places: dict[str, set[str]] = defaultdict(set)
    for domain, name, lead in RULES:
        places[f"{domain}.{name}" if domain else name].add("trunk" if lead == PLACED else "head")
    rows = [
        ("in trunk and head", {"trunk", "head"}),
        ("in the trunk, or leading into the head", {"trunk"}),
        ("in the head", {"head"}),
    ]
    lines = ["| where | operators |", "|---|---|"]
    for title, where in rows:
        names = sorted((name for name, found in places.items() if found == where), key=str.lower)
        if names:
            lines.append(f"| {title} | {', '.join(names)} |")
    return "\n".join(lines) + "\n"


def with_operators(text: str) -> str:
    """The README's text with its table of operators made anew."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + operators() + END, text, flags=re.DOTALL)


def sessions(text: str) -> list[tuple[str, str]]:
    """Command and shown output of all console blocks, in order."""
    parts = [part for body in _CONSOLE.findall(text) for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]]
    return [(command, shown) for command, _, shown in (part.partition("\n") for part in parts)]


def furnish(folder: Path) -> Path:
    """Make a folder like a checkout, in which ``onnxfc`` and ``python`` are those that run this."""
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    tools = folder / "tools"
    tools.mkdir()
    for name, command in {"onnxfc": f"{sys.executable} -m onnxfc", "python": sys.executable}.items():
        (tools / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (tools / name).chmod(0o755)
    return folder


def run_all(commands: Iterable[str], folder: Path) -> list[str]:
    """What each command prints, run in one shell."""
    script = "".join(f'{command}\ncode=$?; echo "{MARK}"; (exit $code)\n' for command in commands)
    path = f"{folder / 'tools'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(PATH=path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    return done.stdout.split(MARK + "\n")[:-1]


def with_outputs(text: str) -> str:
    """The README's text with what its console commands print now."""
    commands = [command for command, _ in sessions(text)]
    with TemporaryDirectory() as folder:
        printed = iter(zip(commands, run_all(commands, furnish(Path(folder))), strict=True))

    def block(match: re.Match[str]) -> str:
        shown = [next(printed) for _ in sessions(match[0])]
        return "```console\n" + "".join(f"$ {command}\n{output}" for command, output in shown) + "```"

    return _CONSOLE.sub(block, text)


if __name__ == "__main__":
    README.write_text(with_outputs(with_operators(README.read_text("utf-8"))), "utf-8")
