"""Bring the generated part of the README up to date: ``python tests/readme_tables.py``."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- begin operators (python tests/readme_tables.py) -->\n", "<!-- end operators -->"


def operators() -> str:
    """The table of operators, from the rules: by where a rule works, and the operators' names."""
    from onnxfc.rules import RULES
    from onnxfc.views import Map

    places: dict[str, set[str]] = defaultdict(set)
    for domain, name, view in RULES:
        places[f"{domain}.{name}" if domain else name].add("trunk" if view is Map else "head")
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


def current(text: str) -> str:
    """The README's text with the generated part made anew."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + operators() + END, text, flags=re.DOTALL)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    README.write_text(current(README.read_text("utf-8")), "utf-8")
