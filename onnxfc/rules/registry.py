"""The one table of rules: (domain, operator, what leads its inputs) → rule.

A node is led by the most lifted of its inputs: features of windows (Window, ScoreMap), or a placed tensor. A node
with neither has nothing to do with the image's size and is kept without asking any rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from onnxfc.builder.rule_context import Outcome, RuleContext
from onnxfc.layout.views import Placed, ScoreMap, View, Window

Function = Callable[[RuleContext], Outcome | None]
Own = TypeVar("Own", bound=Function)
Lead = Literal["placed", "features"]
PLACED: Lead = "placed"
FEATURES: Lead = "features"


@dataclass(frozen=True)
class Rule:
    """A stateless function, and the attributes it reads; a node with any other is refused.

    A function for placed tensors may return None: it does not hold for them, only for windows of them. One for features
    that returns None does not hold at all.
    """

    function: Function
    attributes: frozenset[str]


RULES: dict[tuple[str, str, Lead], Rule] = {}


def rule(*ops: str, on: Lead, attributes: Sequence[str] = (), domain: str = "") -> Callable[[Own], Own]:
    """Enter a function for operators, led by ``on``."""

    def enter(function: Own) -> Own:
        for op in ops:
            key = (domain, op, on)
            if key in RULES:
                raise ValueError(f"two rules for {key}")
            RULES[key] = Rule(function, frozenset(attributes))
        return function

    return enter


def leading(views: Sequence[View | None]) -> Lead | None:
    """What leads these inputs; None where nothing depends on the image's size."""
    if any(isinstance(view, Window | ScoreMap) for view in views):
        return FEATURES
    return PLACED if any(isinstance(view, Placed) for view in views) else None
