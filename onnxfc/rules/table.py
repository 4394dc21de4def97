"""The one table of rules: (domain, operator, leading view) → rule.

The leading view of a node is the most lifted among its inputs: ScoreMap, Window, Folded, Strip, Map. A node
with none of them has nothing to do with the image's size and is kept without asking any rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from onnxfc.site import Outcome, Site
from onnxfc.views import Folded, Lifted, Map, ScoreMap, Strip, View, Window

Function = Callable[[Site], Outcome | None]
Own = TypeVar("Own", bound=Function)
LEADING: tuple[type[Lifted], ...] = (ScoreMap, Window, Folded, Strip, Map)


@dataclass(frozen=True)
class Rule:
    """A stateless function, and the attributes it reads; a node with any other is refused.

    A function for folded maps may return None: it does not hold for them, only for windows of them.
    """

    function: Function
    attributes: frozenset[str]


RULES: dict[tuple[str, str, type], Rule] = {}


def rule(
    *ops: str, on: type | Sequence[type], attributes: Sequence[str] = (), domain: str = ""
) -> Callable[[Own], Own]:
    """Enter a function for operators and leading views."""

    def enter(function: Own) -> Own:
        for op in ops:
            for view in [on] if isinstance(on, type) else on:
                key = (domain, op, view)
                if key in RULES:
                    raise ValueError(f"two rules for {key}")
                RULES[key] = Rule(function, frozenset(attributes))
        return function

    return enter


def leading(views: Sequence[View | None]) -> type | None:
    """The most lifted view type among ``views``; None where nothing depends on the image's size."""
    return next((kind for kind in LEADING if any(isinstance(view, kind) for view in views)), None)
