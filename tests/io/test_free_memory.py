"""Memory that is free: the machine's, and what its container or a limit leaves of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxfc.io import free_memory as module
from onnxfc.io.free_memory import free_memory
from onnxfc.scanner.tile_size import memory_to_use


def test_a_container_may_have_less_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CONTAINER", tmp_path)
    free = free_memory()
    if free is None:
        pytest.skip("this system does not tell how much memory is free")
    assert free > 300_000_000
    for most, left in (("400000000", 100_000_000), ("200000000", 0)):
        (tmp_path / "memory.max").write_text(most + "\n")
        (tmp_path / "memory.current").write_text("300000000\n")
        assert free_memory() == left
        assert memory_to_use() == left // 4
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() == pytest.approx(free, rel=0.5)
