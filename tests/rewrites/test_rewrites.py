"""Rewrites as text: what each rule makes of a small model, proven, and as a reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest
from hazards import OLD_ONNX, OLD_RUNTIME
from rewrite_texts import REFUSED, Text, end_of, paths, readable

from onnxfc.rules.registry import RULES

TEXTS = {path.stem: Text.read(path) for path in paths()}
READABLE = [name for name, text in TEXTS.items() if readable(text)]


@pytest.mark.parametrize("name", READABLE)
def test_rewrite(name: str) -> None:
    """``python tests/rewrites/refresh.py`` shows as a diff what has changed."""
    text = TEXTS[name]
    if OLD_ONNX and "int8" in text.end:
        pytest.skip("this onnx writes no weights of one byte")
    if OLD_RUNTIME and "DeformConv" in text.end:
        pytest.skip("this onnxruntime has no DeformConv yet")
    assert end_of(text) == text.end


@pytest.mark.parametrize("name", READABLE)
def test_text(name: str) -> None:
    """A title that is a sentence, and an end that is a model where it is no refusal."""
    text = TEXTS[name]
    assert text.title.endswith(".")
    assert len(text.title) <= 120
    if not text.end.startswith(REFUSED):
        onnx.parser.parse_model(text.end.split("\n", 1)[1])


@pytest.mark.skipif(len(READABLE) < len(TEXTS), reason="an older onnx lacks operators")
def test_every_rule_has_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function in the table of rules is asked for at least one node of the texts."""
    asked: set[Callable[..., Any]] = set()

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(ctx: Any) -> Any:
            asked.add(function)
            return function(ctx)

        return call

    functions = {entry.function for entry in RULES.values()}
    for key, entry in RULES.items():
        monkeypatch.setitem(RULES, key, replace(entry, function=noted(entry.function)))
    for text in TEXTS.values():
        end_of(text, prove=False)
    missing = sorted(f"{function.__module__}.{function.__name__}" for function in functions - asked)
    assert missing == []


def test_every_rule_says_its_algebra() -> None:
    """In the first line of its docstring, which is a sentence."""
    first = {entry.function: (entry.function.__doc__ or "").strip().split("\n")[0] for entry in RULES.values()}
    silent = [f"{function.__module__}.{function.__name__}" for function, line in first.items() if "." not in line]
    assert silent == []


def test_there_are_enough_of_them() -> None:
    refused = [name for name, text in TEXTS.items() if text.end.startswith(REFUSED)]
    assert refused == [name for name in TEXTS if name.endswith("-refused")]
    assert len(TEXTS) - len(refused) >= 80
