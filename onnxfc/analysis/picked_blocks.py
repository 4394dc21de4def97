"""Blocks of places that a Gather picks by a table of two axes: one counts the blocks, the other the places of a block.

PyTorch's ``F.unfold`` (im2col) has the places first, along one axis of the image and then along the other;
``Tensor.unfold`` the blocks, and moves the places behind all axes. The table of one may be that of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from onnxfc.graph.index import Graph, attributes
from onnxfc.shapes.spec import Array


@dataclass(frozen=True)
class Blocks:
    """``step`` elements between blocks, ``dilation`` between the places of each; ``first``: the blocks are counted by
    the first axis of the table."""

    step: int
    dilation: int
    first: bool


def picked_blocks(graph: Graph, node: onnx.NodeProto, index: Array | None, length: int, rank: int) -> Blocks | None:
    """What a Gather picks along an axis of ``length`` places of a tensor of ``rank`` axes; None where it is anything
    else than blocks at even steps up to the border, or nothing tells which axis counts them."""
    if index is None or index.ndim != 2 or min(index.shape) < 2:
        return None
    places_first, blocks_first = _even(index, length, False), _even(index.T, length, True)
    if blocks_first is None or blocks_first.dilation != 1:
        return places_first
    if places_first is None:
        return blocks_first
    if _is_pair(graph, node, rank):
        return places_first
    apart = blocks_first.step > 1  # places that are so far apart, one by one, would be the other reading
    return blocks_first if apart or _ends_in_places(graph, node, rank) else None


def _even(index: Array, length: int, first: bool) -> Blocks | None:
    """The table with the places of a block first, then the blocks, where these lie at even steps."""
    step, dilation = int(index[0, 1] - index[0, 0]), int(index[1, 0] - index[0, 0])
    rows, columns = (np.arange(count) for count in index.shape)
    even = np.array_equal(index, rows[:, None] * dilation + columns * step)
    whole = step > 0 and dilation > 0 and length - step <= index[-1, -1] < length
    return Blocks(step, dilation, first) if even and whole else None


def _is_pair(graph: Graph, node: onnx.NodeProto, rank: int) -> bool:
    """Whether another Gather of blocks follows along the next axis, or precedes: im2col. Each adds an axis."""
    own, before = _axis(node, rank), graph.producers.get(node.input[0])
    after = any(_axis(other, rank + 1) == own + 2 for other in graph.readers.get(node.output[0], ()))
    return after or (before is not None and _axis(before, rank - 1) == own - 2)


def _axis(node: onnx.NodeProto, rank: int) -> int:
    """That of a Gather from a tensor of so many axes; far from all for any other node."""
    return int(attributes(node).get("axis", 0)) % rank if node.op_type == "Gather" else -_FAR


_FAR = 1 << 10


def _ends_in_places(graph: Graph, node: onnx.NodeProto, rank: int) -> bool:
    """Whether the places of a block are the last axis, or are moved there at once."""
    axis = attributes(node).get("axis", 0) % rank
    if axis == rank - 1:
        return True
    wanted = [k for k in range(rank + 1) if k != axis + 1] + [axis + 1]
    readers = graph.readers.get(node.output[0], ())
    return bool(readers) and all(
        reader.op_type == "Transpose" and list(attributes(reader).get("perm", ())) == wanted for reader in readers
    )
