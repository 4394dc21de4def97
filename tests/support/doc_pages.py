"""The README and the pages of docs/: their blocks, and the parts that are generated. Running this brings all of them up
to date, what commands print too: ``python tests/support/doc_pages.py [PAGE ...]``."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from enum import Enum
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cli_runs import ROOT, environment

OWN = {"adding-an-operator.md"}
"""Pages whose blocks are run in a way of their own, by doc_walks."""
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.name not in OWN]
MARK = "@@@ end of command @@@"
_NUMBER = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(%| s\b|)")
_VERSION = re.compile(r"(onnxruntime) \d+(?:\.\d+)+")
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_GENERATED = re.compile(r"(<!-- begin (\w+)(?: (\w+))? .*? -->\n).*?(<!-- end \w+ -->)", re.DOTALL)


def operators() -> str:
    """The table of operators, from the rules: by where a rule works, and the operators' names."""
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


def options(name: str) -> str:
    """The options of a command, as its help tells them."""
    import click

    command = getattr(import_module(f"onnxfc.cli.{name}"), name)
    lines = ["| option | meaning |", "|---|---|"]
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            record = option.get_help_record(click.Context(command))
            assert record is not None, option.name
            names, told = (" ".join(part.split()).replace("|", "\\|") for part in record)
            lines.append(f"| `{names}` | {told} |")
    return "\n".join(lines) + "\n"


def api() -> str:
    """The public names: signatures and docstrings."""
    import onnxfc

    parts = []
    for name in sorted(set(onnxfc.__all__) - {"__version__"}, key=lambda word: (word[0].isupper(), word.lower())):
        thing = getattr(onnxfc, name)
        told = inspect.cleandoc(thing.__doc__ or "").replace("``", "`")
        parts.append(f"### {name}\n\n```\n{name}{_signature(thing)}\n```\n\n{told}\n")
    return "\n".join(parts)


def _signature(thing: Any) -> str:
    """As written, without annotations; empty for enumerations and errors."""
    if isinstance(thing, type) and issubclass(thing, (Enum, Exception)):
        return ""
    found = inspect.signature(thing)
    bare = [item.replace(annotation=inspect.Parameter.empty) for item in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def with_generated(text: str) -> str:
    """A page's text with its generated parts made anew."""
    makers: dict[str, Callable[..., str]] = {"operators": operators, "options": options, "api": api}
    return _GENERATED.sub(lambda m: m[1] + makers[m[2]](*filter(None, [m[3]])) + m[4], text)


def blocks(text: str) -> list[tuple[str, str]]:
    """Kind and body of all blocks that say what they are, in order."""
    return _BLOCK.findall(text)


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


def run_python(code: str, folder: Path) -> str:
    """What a piece of Python prints there."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def agree(shown: str, printed: str) -> bool:
    """Same words and counts; times and onnxruntime may be any, rounding noise none or within a factor of 30, shares
    within 2 points."""
    shown, printed = (_VERSION.sub(r"\1", text) for text in (shown, printed))
    if _NUMBER.sub("N", shown) != _NUMBER.sub("N", printed):
        return False
    return all(map(_close, _NUMBER.findall(shown), _NUMBER.findall(printed)))


def _close(shown: tuple[str, str], printed: tuple[str, str]) -> bool:
    (old, unit), (new, _) = shown, printed
    if unit == " s":
        return float(new) < 60
    if unit == "%":
        return abs(float(old) - float(new)) <= 2
    if "e-" in old:
        return not float(new) or 1 / 30 < float(old) / float(new) < 30
    return old == new


def with_outputs(text: str) -> str:
    """A page's text with what its console commands print now."""
    with TemporaryDirectory() as folder:
        room = furnish(Path(folder))

        def block(match: re.Match[str]) -> str:
            kind, body = match.groups()
            if kind == "python":
                run_python(body, room)
            if kind != "console":
                return match[0]
            commands = [command for command, _ in sessions(match[0])]
            shown = zip(commands, run_all(commands, room), strict=True)
            return "```console\n" + "".join(f"$ {command}\n{output}" for command, output in shown) + "```"

        return _BLOCK.sub(block, text)


if __name__ == "__main__":
    for page in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
        page.write_text(with_outputs(with_generated(page.read_text("utf-8"))), "utf-8")
