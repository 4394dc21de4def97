"""Blocks of places as channels: ``F.unfold`` (im2col), written as a Gather by (block, place) on each axis."""

from __future__ import annotations

import numpy as np

from onnxfc import emit
from onnxfc.site import Outcome, Site
from onnxfc.specs import Array
from onnxfc.views import Fixed, Placed


def blocks(site: Site, view: Placed, axis: int) -> Outcome | None:
    """The map with an axis of ``size`` places within each block ahead of a spatial one that counts blocks.

    None where the Gather picks anything else than blocks at even steps up to the border.
    """
    index = site.constant(1)
    if view.trace.windows or site.opset < 11 or index is None or not isinstance(site.views[1], Fixed):
        return None
    steps = _steps(index, site.shape_in()[axis])
    if steps is None:
        return None
    step, dilation = steps
    if site.follows_size(1):
        site.keep()
    else:
        inputs = [view.tensor, _places(site, view, axis, index, step)]
        site.draft.emit("Gather", inputs, site.node.output[0], instead=site.node, axis=axis)
    place, reach = view.spatial.index(axis), (len(index) - 1) * dilation + 1
    trace = view.trace.along({place: view.trace.fields[place].through(reach, stride=step)})
    return site.placed(view, trace, {k: other + (other >= axis) for k, other in view.where.items()})


def _steps(index: Array, length: int) -> tuple[int, int] | None:
    """How many elements lie between blocks, and between places of a block; None where it is not so."""
    if index.ndim != 2 or min(index.shape) < 2:
        return None
    step, dilation = int(index[0, 1] - index[0, 0]), int(index[1, 0] - index[0, 0])
    rows, columns = (np.arange(count) for count in index.shape)
    even = np.array_equal(index, rows[:, None] * dilation + columns * step)
    whole = step > 0 and dilation > 0 and length - step <= index[-1, -1] < length
    return (step, dilation) if even and whole else None


def _places(site: Site, view: Placed, axis: int, index: Array, step: int) -> str:
    """The same index for the map's length now."""
    draft, reach = site.draft, int(index[-1, 0])
    length = emit.squeeze(draft, emit.dims(draft, view.tensor, axis, axis + 1), [0])
    zero, stride, last = (draft.constant(np.array(item, np.int64), "blocks") for item in (0, step, reach))
    starts = draft.emit("Range", [zero, draft.emit("Sub", [length, last]), stride])
    return draft.emit("Add", [draft.constant(index[:, :1].astype(np.int64), "within"), starts])
