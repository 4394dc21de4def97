"""The letters of an Einsum, the implied ones spelled out."""

from __future__ import annotations

import string
from collections.abc import Sequence


def letters_of(equation: str, ranks: Sequence[int]) -> tuple[tuple[str, ...], str]:
    """One letter per axis of each input and of the output, without ellipsis.

    https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [letter for letter in string.ascii_letters if letter not in left]
    widths = [
        rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)
    ]
    hidden = "".join(spare[: max(widths)])
    if not arrow:
        shown = left.replace("...", "").replace(",", "")
        out = "..." + "".join(sorted(letter for letter in set(shown) if shown.count(letter) == 1))
    full = [term.replace("...", hidden[len(hidden) - width :]) for term, width in zip(terms, widths, strict=True)]
    return tuple(full), out.replace("...", hidden)
