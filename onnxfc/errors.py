"""Options that are what they should be; anything else is a UsageError that says what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxfc.proof.results import Parity


def choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """One of several words."""
    words = tuple(allowed)
    if not isinstance(value, str) or value not in words:
        raise UsageError(f"{name}: must be one of {', '.join(map(repr, words))}, not {value!r}")


def flag(name: str, value: object) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{name}: must be True or False, not {value!r}")


def options(name: str, value: object, kind: type) -> None:
    """Options of one kind; None stands for the default ones."""
    if value is not None and not isinstance(value, kind):
        raise UsageError(f"{name}: must be {kind.__name__}(...) or None, not {type(value).__name__}")


def whole(name: str, value: Any, least: int, unit: str = "", most: int | None = None) -> None:
    """A whole number from ``least`` on, up to ``most``."""
    if _as_int(value) is None or value < least or (most is not None and value > most):
        upward = "on" if most is None else f"to {most}"
        allowed = f"{least} {unit} or more" if unit else f"a whole number from {least} {upward}"
        raise UsageError(f"{name}: must be {allowed}, not {_shown(value)}")


def place(name: str, value: Sequence[Any], dims: int, grid: Sequence[int] | None = None) -> None:
    """An index for each of ``dims`` axes, of a place that a ``grid`` has."""
    if len(value) != dims:
        raise UsageError(f"{name} has {dims} {'index' if dims == 1 else 'indices'}, not {len(value)}")
    for index in value:
        whole(f"{name}: an index", index, 0)
    if grid is not None and any(index >= count for index, count in zip(value, grid, strict=True)):
        told, there = ("x".join(map(str, numbers)) for numbers in (value, grid))
        raise UsageError(f"{name}: there is none at {told}, the grid is {there}")


def tolerance(name: str, value: Any) -> None:
    """A finite number from 0 on; with NaN nothing compares."""
    number = None if isinstance(value, (bool, str)) else value
    try:
        fits = number is not None and math.isfinite(number) and number >= 0
    except (OverflowError, TypeError):  # a whole number that no float holds
        fits = False
    if not fits:
        raise UsageError(f"{name}: must be a finite number from 0 on, not {_shown(value)}")


def tolerances(name: str, value: Any) -> None:
    """Such numbers by the name of an output."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UsageError(f"{name}: must be a mapping from names of outputs to numbers, not {_shown(value)}")
    for key, number in value.items():
        tolerance(f"{name}[{key!r}]", number)


def is_size(value: Any) -> bool:
    """Whether it is one to three lengths in pixels."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        return False
    lengths = [_as_int(item) for item in value]
    return 1 <= len(lengths) <= 3 and all(length is not None and length > 0 for length in lengths)


def size(name: str, value: Any) -> tuple[int, ...]:
    """An image size as a tuple: pixels, height before width; one number for a signal, three for a volume."""
    if not is_size(value):
        raise UsageError(
            f"{name}: must be pixels such as (384, 512), one to three numbers from 1 on, not {_shown(value)}"
        )
    return _lengths(name, value)


def _lengths(name: str, value: Iterable[Any]) -> tuple[int, ...]:
    """Lengths of axes, as plain whole numbers."""
    found = tuple(operator.index(length) for length in value)
    if max(found) > _LONGEST:
        raise UsageError(f"{name}: {_shown(max(found))} is more than the {_LONGEST} that the axis of a tensor can have")
    return found


_LONGEST = (1 << 63) - 1
"""A file holds the length of an axis in so many bits."""


def sizes(name: str, value: Any) -> tuple[tuple[int, ...], ...]:
    """Several image sizes."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UsageError(f"{name}: must be image sizes such as ((384, 512),), not {_shown(value)}")
    return tuple(size(name, item) for item in value)


def shapes(name: str, value: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of inputs by name, batch first."""
    told = f"{name}: must be shapes of inputs by name such as {{'image': (1, 3, 224, 224)}}, not {_shown(value)}"
    if not isinstance(value, Mapping):
        raise UsageError(told)
    found = {}
    for key, shape in value.items():
        lengths = [_as_int(n) for n in shape] if isinstance(shape, Sequence) and not isinstance(shape, str) else []
        if not isinstance(key, str) or not lengths or not all(n is not None and n > 0 for n in lengths):
            raise UsageError(told)
        found[key] = _lengths(name, shape)
    return found


def names(name: str, value: Any) -> tuple[str, ...]:
    """Several names of tensors."""
    told = f"{name}: must be names such as ('image',), not {value!r}"
    items = several(value, told)
    if not all(isinstance(item, str) and item for item in items):
        raise UsageError(told)
    return items


def pairs(name: str, value: Any) -> tuple[tuple[str, str], ...]:
    """Several pairs of such names, one of either model."""
    told = f"{name}: must be pairs of names such as (('features', 'relu_2'),), not {value!r}"
    items = several(value, told)
    if isinstance(value, Mapping) or not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
        raise UsageError(told)
    return tuple((one, two) for one, two in (names(name, item) for item in items))


def several(value: Any, told: str) -> tuple[Any, ...]:
    """Its items; UsageError where it has none, as an array of one number has, though it says that it can be gone
    through."""
    try:
        items = tuple(value)
    except TypeError:
        raise UsageError(told) from None
    if isinstance(value, (str, bytes)):
        raise UsageError(told)
    return items


def known(name: str, given: Iterable[str], own: Iterable[str]) -> None:
    """Only names that there are."""
    there = tuple(own)
    for item in given:
        if item not in there:
            raise UsageError(f"{name}: {item} is no output; there are {', '.join(dict.fromkeys(there))}")


def _shown(value: object) -> str:
    """As Python writes it, which it refuses to do with numbers of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _as_int(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


class ExitCode(IntEnum):
    """Exit codes of the command line, for pipelines.

    >>> int(onnxfc.ExitCode.PROOF)
    4
    """

    DONE = 0
    IO = 1
    USAGE = 2
    NOTHING = 3
    PROOF = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Refusal:
    """A reason why something was left alone.

    ``code`` is stable and short (``"no-image-input"``), ``node`` names the node or tensor,
    ``reason`` is one sentence, ``advice`` says what the user can do.

    >>> onnxfc.inspect("fixtures/torch/table.dynamo.onnx").refusals[0].code
    'position-table'
    """

    code: str
    node: str
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        where = f"{self.node}: " if self.node else ""
        advice = f" ({self.advice})" if self.advice else ""
        return f"[{self.code}] {where}{self.reason}{advice}"


class OnnxfcError(Exception):
    """Base of everything that onnxfc raises on purpose; ``str()`` is one clear line.

    >>> issubclass(onnxfc.ProofFailed, onnxfc.OnnxfcError)
    True
    """

    exit_code = ExitCode.IO


class ReadError(OnnxfcError):
    """A file cannot be read, or is not what it should be.

    >>> onnxfc.inspect("none.onnx")
    Traceback (most recent call last):
    onnxfc.errors.ReadError: none.onnx: there is no such file; check the path
    """


class WriteError(OnnxfcError):
    """The result cannot be written; whatever stood at the target still stands.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).save("no/such/folder/out.onnx")
    Traceback (most recent call last):
    onnxfc.errors.WriteError: ...
    """


class UsageError(OnnxfcError):
    """The options contradict each other or the model.

    >>> onnxfc.RewriteOptions(output="sum")
    Traceback (most recent call last):
    onnxfc.errors.UsageError: output: ...
    """

    exit_code = ExitCode.USAGE


class NothingToRewrite(OnnxfcError):
    """The model has nothing that could be rewritten; ``refusals`` says why.

    >>> onnxfc.rewrite("digits-any.onnx")
    Traceback (most recent call last):
    onnxfc.errors.NothingToRewrite: [already-rewritten] this model was rewritten by onnxfc already (give the original)
    """

    exit_code = ExitCode.NOTHING

    def __init__(self, message: str, refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals


class ProofFailed(OnnxfcError):
    """The rewritten model could not be proven equal to the original; nothing was written.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", check_options=onnxfc.CheckOptions(rtol=0, atol=1e-12))
    Traceback (most recent call last):
    onnxfc.errors.ProofFailed: native parity failed: ...
    """

    exit_code = ExitCode.PROOF

    def __init__(self, message: str, parity: Parity | None = None) -> None:
        super().__init__(message)
        self.parity = parity
