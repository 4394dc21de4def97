"""What can go wrong, as an exception tree, exit codes and refusals.

OnnxfcError
├── ReadError         the model or data file cannot be read            exit 1
├── WriteError        the result cannot be written                     exit 1
├── UsageError        the options contradict the model or each other   exit 2
├── NothingToRewrite  every reason is listed in ``refusals``           exit 3
└── ProofFailed       ``parity`` says where; nothing was written       exit 4

A refusal is data, not an exception: rules return it, and only the top of the program
decides that a model with refusals is not rewritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxfc.parity import Parity

__all__ = [
    "ExitCode",
    "NothingToRewrite",
    "OnnxfcError",
    "ProofFailed",
    "ReadError",
    "Refusal",
    "UsageError",
    "WriteError",
]


class ExitCode(IntEnum):
    """Exit codes of the command line, for pipelines."""

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
    """Base of everything that onnxfc raises on purpose; ``str()`` is one clear line."""

    exit_code = ExitCode.IO


class ReadError(OnnxfcError):
    """A file cannot be read, or is not what it should be."""


class WriteError(OnnxfcError):
    """The result cannot be written; whatever stood at the target still stands."""


class UsageError(OnnxfcError):
    """The options contradict each other or the model."""

    exit_code = ExitCode.USAGE


class NothingToRewrite(OnnxfcError):
    """The model has nothing that could be rewritten; ``refusals`` says why."""

    exit_code = ExitCode.NOTHING

    def __init__(self, message: str, refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals


class ProofFailed(OnnxfcError):
    """The rewritten model could not be proven equal to the original; nothing was written."""

    exit_code = ExitCode.PROOF

    def __init__(self, message: str, parity: Parity | None = None) -> None:
        super().__init__(message)
        self.parity = parity
