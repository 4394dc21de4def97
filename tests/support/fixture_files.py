"""The fixtures by name, whichever folder they lie in."""

from __future__ import annotations

from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "fixtures"
_FILES = {path.name: path for path in FIXTURES.glob("*/*") if path.suffix in {".onnx", ".npz", ".data"}}


def fixture_file(name: str) -> Path:
    """The file of this name: a model or an archive of arrays."""
    return _FILES[name]


def fixture_models() -> list[Path]:
    """All models, by name."""
    return sorted((path for path in _FILES.values() if path.suffix == ".onnx"), key=lambda path: path.name)
