"""What of a model fits an accelerator: limits from small data files, each number with its source.

A profile is a JSON file: ``title``, and ``limits``, each with a ``figure`` (see :mod:`onnxfc.forms.figures`, or
``opset``), the operators that it is ``of`` (all if left out), what is allowed (``least``, ``most``, ``among`` or
``none``), and its ``source``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from onnxfc.errors import ReadError, UsageError
from onnxfc.forms.draft import Draft
from onnxfc.forms.figures import FIGURES, Seen, Value
from onnxfc.graph.index import dependent, label


@dataclass(frozen=True)
class Limit:
    """What is allowed of a figure; raises ValueError for what means nothing."""

    figure: str
    source: str
    of: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    among: tuple[Value, ...] = ()
    none: tuple[Value, ...] = ()
    parallel: int = 1

    def __post_init__(self) -> None:
        if self.figure not in {*FIGURES, "opset"}:
            raise ValueError(f"figure {self.figure!r} is none of {', '.join((*FIGURES, 'opset'))}")
        if not self.source or not isinstance(self.source, str):
            raise ValueError(f"the limit of {self.figure!r} has no source")
        if (self.least, self.most) == (None, None) and not self.among and not self.none:
            raise ValueError(f"the limit of {self.figure!r} allows everything: give least, most, among or none")

    def allows(self, value: Value) -> bool:
        if isinstance(value, str):
            return (not self.among or value in self.among) and value not in self.none
        low = self.least is None or value >= self.least
        return low and (self.most is None or value <= self.most) and (not self.among or value in self.among)

    def __str__(self) -> str:
        """``kernel of Conv from 1 to 16``."""
        of = f" of {', '.join(self.of)}" if self.of else ""
        ends = [f"{word} {end:.15g}" for word, end in (("from", self.least), ("to", self.most)) if end is not None]
        sets = [f"one of {', '.join(map(str, self.among))}"] if self.among else []
        sets += [f"none of {', '.join(map(str, self.none))}"] if self.none else []
        return f"{self.figure}{of} {' '.join([*ends, *sets])}"


@dataclass(frozen=True)
class Finding:
    """A limit, how many nodes were looked at, and those that do not fit, with their figure."""

    limit: str
    source: str
    nodes: int
    outside: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Fit:
    """What of a model fits an accelerator; ``form``: how the model was written that was looked at."""

    profile: str
    form: str
    findings: tuple[Finding, ...]

    @property
    def kept(self) -> int:
        """Limits that every node keeps."""
        return sum(not item.outside for item in self.findings)


@dataclass(frozen=True)
class Profile:
    """An accelerator and its limits."""

    title: str
    limits: tuple[Limit, ...] = field(repr=False)

    @staticmethod
    def of(name: str) -> Profile:
        """A profile of the package by its name, or a file of the user's. Raises UsageError and ReadError."""
        own = {Path(item.name).stem: item for item in resources.files("onnxfc").joinpath("forms", "profiles").iterdir()}
        if not isinstance(name, (str, Path)):
            raise UsageError(f"profile: must be a name or a path, not {name!r}")
        path = Path(name)
        try:
            found = name in own or path.is_file()
        except OSError:  # a name that is too long
            found = False
        if not found:
            raise UsageError(f"profile {name}: is no file, and none of {', '.join(sorted(own))}")
        try:
            told = json.loads(own[name].read_text("utf-8") if name in own else path.read_text("utf-8"))
            limits = tuple(Limit(**{key: _tuple(value) for key, value in item.items()}) for item in told["limits"])
            return Profile(str(told["title"]), limits)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ReadError(f"profile {name}: cannot be read as a JSON file of limits: {error}") from error

    def fit(self, draft: Draft, form: str) -> Fit:
        """What fits and what does not of a model for one image size, which is written in this ``form``."""
        moving = dependent(draft.nodes, [info.name for info in draft.graph.inputs])
        nodes = [Seen.of(draft, node) for node in draft.nodes if moving.intersection(node.output)]
        return Fit(self.title, form, tuple(self._finding(item, nodes, draft.graph.opset) for item in self.limits))

    def _finding(self, limit: Limit, nodes: list[Seen], opset: int) -> Finding:
        if limit.figure == "opset":
            outside = () if limit.allows(opset) else (("the model", str(opset)),)
            return Finding(str(limit), limit.source, 1, outside)
        chosen = [seen for seen in nodes if not limit.of or seen.node.op_type in limit.of]
        found = [(seen, FIGURES[limit.figure](seen, limit.parallel)) for seen in chosen]
        found = [(seen, values) for seen, values in found if values]
        wrong = [(label(seen.node), values) for seen, values in found if not all(map(limit.allows, values))]
        told = tuple((name, "x".join(map(str, values))) for name, values in wrong)
        return Finding(str(limit), limit.source, len(found), told)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
