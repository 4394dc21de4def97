"""How large tiles are: as large as memory allows, and no larger than helps."""

from __future__ import annotations

import math

from onnxfc.errors import UsageError
from onnxfc.io.free_memory import free_memory
from onnxfc.scanner.plan import Axis
from onnxfc.scanner.scan_model import ScanModel

_MOST = 4096
"""Pixels a side from which on larger tiles save nothing."""
_OVERLAP = 20
"""Tiles this many times as large as what neighbours both read cost a tenth more than one pass."""
_FEWEST = 512
_BUFFERS = 5
"""Copies of a tile's pixels: as they are read, as the model takes them, and those of the next two tiles."""


def memory_to_use() -> int:
    """Bytes that tiles may fill: a quarter of what is free, or of 8 GB where the system does not tell."""
    free = free_memory()
    return (8 << 30 if free is None else free) // 4


def tile_bytes(model: ScanModel, size: tuple[int, int], batch: int) -> int:
    """Memory that tiles of this size need, about."""
    taken = tuple(n + max(0, -(-(want - n) // s) * s) for n, s, want in zip(*_grid(model), size, strict=True))
    pixels = math.prod(taken) * model.channels * model.dtype.itemsize
    return batch * (model.pass_bytes((taken[0], taken[1])) + _BUFFERS * pixels)


def _grid(model: ScanModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return model.geometry.native_size, model.geometry.size_step


def tile_counts(
    model: ScanModel, axes: tuple[Axis, Axis], memory: int, batch: int, rows: int | None, largest: bool
) -> tuple[int, int]:
    """Cells of a tile, rows before columns. ``rows``: more than so many at once are slow to read; ``largest``: as large
    as memory allows. Raises UsageError where one cell needs more memory."""
    needs = tile_bytes(model, (1, 1), batch)
    if memory < needs:
        raise UsageError(f"--memory {memory / 1e6:.3g} MB: one cell needs about {needs / 1e6:.3g} MB; give more")
    sides = [_side(model, axis, memory, batch, largest) for axis in axes]
    counts = [axis.fitting(side) for axis, side in zip(axes, sides, strict=True)]
    if rows is not None:
        counts[0] = min(counts[0], axes[0].fitting(rows))
    down, across = (_even(axis.cells, count) for axis, count in zip(axes, counts, strict=True))
    return down, across


def _side(model: ScanModel, axis: Axis, memory: int, batch: int, largest: bool) -> int:
    """Pixels of a square tile that memory allows."""
    wanted = max(axis.length, 1) if largest else min(_MOST, max(_FEWEST, _OVERLAP * axis.overlap, 2 * axis.native))
    low, high = 1, wanted
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if tile_bytes(model, (middle, middle), batch) <= memory else (low, middle - 1)
    return low


def _even(cells: int, count: int) -> int:
    """As many cells for each tile as the fewest tiles need."""
    return -(-cells // -(-cells // count))
