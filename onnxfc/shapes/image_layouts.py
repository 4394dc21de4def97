"""Which axes of an input are the image's: what the first operators that slide over it say, else its dims.

A reading that is ruled out is never tried: a network that is refused as (N, C, H, W) is none of (N, H, W, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxfc.graph.index import Graph, attributes
from onnxfc.graph.op_kinds import (
    BROADCAST,
    CUTTING,
    FUSED_UNARY,
    GLOBAL_POOLS,
    POOLS,
    RESAMPLING,
    UNARY,
    WEIGHT_AT,
    perm_of,
)
from onnxfc.shapes.spec import Shape

Reading = tuple[int, ...]
"""The spatial axes."""
Axes = tuple[int | None, ...]
"""The input's axis that each axis of a tensor is; None for a new one."""

READINGS: dict[int, tuple[Reading, ...]] = {
    2: ((1,),),
    3: ((2,), (1, 2), (1,)),
    4: ((2, 3), (1, 2)),
    5: ((2, 3, 4), (1, 2, 3)),
}
"""By rank, the likelier first: channels first, then channels last (or absent). (N, L) is a signal only where the graph
says so."""
CHANNELS = {1, 2, 3, 4}
"""As many channels an image has."""

_SLIDING = {*WEIGHT_AT, *POOLS, *GLOBAL_POOLS, "ConvTranspose", "GlobalLpPool"}
"""Operators whose axis 1 is the channels, and all behind it places."""
_ALONG = {*UNARY, *FUSED_UNARY, *BROADCAST, *CUTTING, *RESAMPLING, "BatchNormalization", "Concat", "Dropout", "Pad"}
"""Operators that leave each axis what it is, where their result has as many."""


def readings(graph: Graph, name: str, shape: Shape) -> tuple[bool, list[Reading]]:
    """Whether an input has a batch, and the spatial axes that it may have, the likelier reading first; those that are
    ruled out are left out.

    It has none where an axis is put before its own ahead of all that slides over it.
    """
    told = slid_over(graph, name, shape)
    alone = {tuple(sorted(view.places)) for view in told if view.batch is None}
    if len(alone) == len(told) == 1 and len(min(alone)) == len(shape) - 1:
        return False, list(alone)
    return True, _batched(graph, name, shape, told)


def _batched(graph: Graph, name: str, shape: Shape, told: set[Slid]) -> list[Reading]:
    whole = {tuple(sorted(view.places)) for view in told if view.tells_all(len(shape))}
    if len(whole) == len(told) == 1:
        return list(whole)
    found = list(READINGS[len(shape)])
    found = [spatial for spatial in found if all(view.fits(spatial) for view in told)] or found
    free = _open(graph, name)
    found = [spatial for spatial in found if free == set(spatial)] or found
    return _by_lengths(found, shape, free)


def _by_lengths(found: list[Reading], shape: Shape, free: set[int]) -> list[Reading]:
    """The readings that the native lengths leave, by which the axis of few elements is the channels, the likelier
    first."""
    if len(shape) == 3:
        if max(shape[1:]) < 4 * min(shape[1:]) and min(shape[1:]) > max(CHANNELS):
            return sorted(found, key=lambda spatial: -len(spatial))  # as high as wide: an image without a channel axis
        return found
    few = [axis for axis in (1, len(shape) - 1) if shape[axis] in CHANNELS and axis not in free]
    if len(found) < 2 or len(few) != 1:
        return found
    likely = found if few == [1] else found[::-1]
    return likely[:1] if shape[few[0]] < min(shape[2:-1]) else likely


def _open(graph: Graph, name: str) -> set[int]:
    """The axes of an input, but for the batch, that have no length."""
    info = next(info for info in graph.inputs if info.name == name)
    dims = info.type.tensor_type.shape.dim
    return {axis for axis, dim in enumerate(dims) if axis and dim.dim_value <= 0}


@dataclass(frozen=True)
class Slid:
    """The input's axes as a sliding operator sees them; None where its batch or its channels are none of the input.

    ``frames``: the input's axis 1 is laid into one of these.
    """

    batch: int | None
    channels: int | None
    places: frozenset[int]
    frames: bool = False

    def fits(self, spatial: Reading) -> bool:
        """Whether these may be the image's axes."""
        return self.channels not in spatial and self.places <= set(spatial)

    def tells_all(self, rank: int) -> bool:
        """Whether it says of every axis what it is: (N, T, C, H, W) whose frames are rows of the batch, or whose time
        is turned to stand beside height and width."""
        return self.frames or (self.batch == 0 and self.channels is not None and len(self.places) == rank - 2)


def slid_over(graph: Graph, name: str, shape: Shape) -> set[Slid]:
    """What the operators say that slide over an input, or over it with its axes moved, before any other does."""
    queue: list[tuple[str, Axes]] = [(name, tuple(range(len(shape))))]
    seen, found = {name}, set[Slid]()
    for tensor, axes in queue:
        for node in graph.readers.get(tensor, ()):
            if node.op_type in _SLIDING and node.input[0] == tensor:
                found.add(Slid(axes[0], axes[1], _of_input(axes[2:])))
                continue
            if node.op_type == "STFT" and node.input[0] == tensor and len(axes) == 3:  # (N, L, 1)
                found.add(Slid(axes[0], axes[2], _of_input(axes[1:2])))
                continue
            if len(axes) == 5 and node.op_type == "Reshape" and _slides_over_images(graph, node.output[0]):
                found.add(Slid(axes[0], axes[2], _of_input(axes[3:]), frames=True))
                continue
            after = _behind(graph, node, axes, shape)
            if after is not None and len(after) > 1 and node.output[0] not in seen:
                seen.update(node.output)
                queue += [(out, after) for out in node.output if out]
    return found


def _of_input(axes: Axes) -> frozenset[int]:
    return frozenset(axis for axis in axes if axis is not None)


def is_signal(graph: Graph, name: str, shape: Shape) -> bool:
    """Whether an input (N, L) gets channels before a Conv or pool that slides along L."""
    return slid_over(graph, name, shape) == {Slid(0, None, frozenset((1,)))}


def _slides_over_images(graph: Graph, name: str) -> bool:
    """Whether all that reads a tensor is Convs over height and width."""
    weights = [
        graph.constant(node.input[1]) if node.op_type == "Conv" else None for node in graph.readers.get(name, ())
    ]
    return bool(weights) and all(weight is not None and len(weight.dims) == 4 for weight in weights)


def _behind(graph: Graph, node: onnx.NodeProto, axes: Axes, shape: Shape) -> Axes | None:
    """The input's axis that each axis of the node's outputs is; None where that is not known."""
    if node.op_type == "Reshape":
        return _led(graph, node, axes, shape)
    if node.op_type in _ALONG:
        return axes
    if node.op_type == "Transpose":
        perm = perm_of(attributes(node), len(axes))
        return tuple(axes[place] for place in perm) if sorted(perm) == list(range(len(axes))) else None
    given = _axes(graph, node) if node.op_type in {"Squeeze", "Unsqueeze"} else None
    if given is None:
        return None
    rank = len(axes) + (len(given) if node.op_type == "Unsqueeze" else 0)
    touched = {axis % rank for axis in given}
    if node.op_type == "Squeeze":
        return tuple(axis for place, axis in enumerate(axes) if place not in touched)
    rest = iter(axes)
    return tuple(None if place in touched else next(rest, None) for place in range(rank))


def _led(graph: Graph, node: onnx.NodeProto, axes: Axes, shape: Shape) -> Axes | None:
    """The axes behind a Reshape that puts ones before those of the input, as torch.stft does to mirror the ends of a
    signal, or takes such away."""
    value = graph.constant(node.input[1])
    target = [] if value is None else onnx.numpy_helper.to_array(value).ravel().tolist()
    more = len(target) - len(axes)
    if not target:
        return None
    if more > 0 and axes == tuple(range(len(shape))) and target == [*[1] * more, *shape]:
        return (*[None] * more, *axes)
    own = axes[-len(target) :]
    return own if more < 0 and own[0] == 0 and target[0] == shape[0] and not any(axes[: -len(own)]) else None


def _axes(graph: Graph, node: onnx.NodeProto) -> list[int] | None:
    """The axes that come or go: attribute, or a constant input."""
    found = attributes(node).get("axes")
    if found is None and len(node.input) > 1:
        value = graph.constant(node.input[1])
        found = None if value is None else onnx.numpy_helper.to_array(value).ravel().tolist()
    return None if found is None else [int(axis) for axis in found]
