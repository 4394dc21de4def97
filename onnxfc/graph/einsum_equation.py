"""Products in letters: those of an Einsum, the implied ones spelled out, and of a MatMul."""

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


def matmul_letters(ranks: Sequence[int]) -> tuple[list[str], str]:
    """Matrices in the last two axes, broadcast over all others; a vector has one axis."""
    stack = string.ascii_letters[3 : 1 + max(*ranks, 2)]
    ends = [("ab", "a"), ("bc", "c")]
    terms = [
        stack[len(stack) - rank + 2 :] + own if rank > 1 else "b" for rank, (own, _) in zip(ranks, ends, strict=True)
    ]
    return terms, stack + "".join(kept for rank, (_, kept) in zip(ranks, ends, strict=True) if rank > 1)
