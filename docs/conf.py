"""The site of these pages: ``sphinx-build -W docs site``, with the extra ``docs``."""

import re
from typing import Any

import onnxfc

project = "onnxfc"
release = onnxfc.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_click"]
exclude_patterns = ["pictures.py"]
html_theme = "furo"
html_title = "onnxfc"
myst_heading_anchors = 4
autodoc_typehints = "none"

_GENERATED = re.compile(r"<!-- begin (options|api) ?(\w*) .*?<!-- end \1 -->", re.DOTALL)


def _live(match: re.Match[str]) -> str:
    """What sphinx-click or autodoc makes of a part that is generated, with an anchor for each option or name."""
    if match[1] == "options":
        lines = [f".. click:: onnxfc.cli.{match[2]}:{match[2]}", f"   :prog: onnxfc {match[2]}"]
    else:
        lines = [line for name in sorted(onnxfc.__all__) if name != "__version__" for line in _documented(name)]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def _documented(name: str) -> list[str]:
    thing = getattr(onnxfc, name)
    kind = "function" if not isinstance(thing, type) else "exception" if issubclass(thing, Exception) else "class"
    return [f".. auto{kind}:: onnxfc.{name}", *(["   :members:"] if kind == "class" else []), ""]


def _read(app: Any, page: str, content: list[str]) -> None:
    if page in ("cli", "python"):
        content[0] = _GENERATED.sub(_live, content[0])


def setup(app: Any) -> None:
    app.connect("source-read", _read)
