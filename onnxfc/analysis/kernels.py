"""Kernels that slide, and changes of resolution: a map of other places of the same image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx

from onnxfc.analysis.elementwise import laid_out
from onnxfc.analysis.flow import Rule, Step, on_data, unknown
from onnxfc.analysis.layouts import NONE, Layout, aligned, moved, places, resized
from onnxfc.analysis.reductions import pooled
from onnxfc.graph.op_kinds import (
    BROADCAST,
    COVERING,
    GLOBAL_POOLS,
    PLAIN_LAYERS,
    RECURRENT,
    REDUCTIONS,
    SLIDING,
    SPREADING,
    weight_position,
)
from onnxfc.graph.sliding import Sliding, covered, covers, sliding_at
from onnxfc.layout.axes import channels


def convolved(step: Step) -> Layout:
    """A kernel may be made of what was pooled, which meets its map again here."""
    held, *made = [layout for layout in step.layouts if layout is not None]
    if not made or step.layouts[0] is None or any(layout.solid for layout in made):
        return on_data(slide)(step) or held
    return slide(step, replace(held, looks=step.meet([held, *made])))


def recurrent(step: Step) -> Layout:
    """First states may be made of what was pooled, which meets its map again here."""
    made = unknown(step)
    return made if len(step.given) < 2 else replace(made, looks=step.meet([held for _, held in step.given]))


def slide(step: Step, held: Layout) -> Layout:
    """A Conv or a pool: over places, over channels alone, or over all that there is natively."""
    at = weight_position(step.op_type)
    weight = step.shape(step.node.input[at]) if len(step.node.input) > at else ()
    how = sliding_at(step.attrs, step.before, weight)
    if held.axes is None or how is None:
        return unknown(step)
    if places(held.axes[1]) & held.solid and "Conv" in step.op_type:
        return _layer_of_rows(step, held)
    axes = _covered(step, held, how)
    if axes:
        return pooled(step, held, axes, "pool" if _is_meant(step, axes) else "cover", keep=True)
    if held.solid:
        step.flow.slid.update(step.flow.of_kind(held.own, "piece", "part"))
    moves = [axis for axis in range(2, len(step.before)) if places(held.axes[axis]) and how.moves(axis - 2)]
    made = resized(under_kernel(step, held, moves), step.after)
    if moves:
        step.leave()
        return replace(made, own=NONE)
    step.onward(step.node.input[0])
    return made


def under_kernel(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    """A map over some axes of which something slides: so did the pools that just cover the native map before it.

    Where it slides over other axes than theirs, they may still meet a map that has those: they are kept in mind.
    """
    over = step.flow.of_kind(NONE.union(*(held.thin_at(axis) for axis in axes)), "cover")
    beside = any(places(held.axes[axis]) & held.solid for axis in axes if held.axes is not None)
    step.flow.slid.update(over | (step.flow.of_kind(held.looks, "cover") if beside else NONE))
    thin = frozenset((place, name) for place, name in held.thin if name not in over)
    return replace(held, thin=thin, looks=held.looks - over)


def _covered(step: Step, held: Layout, how: Sliding) -> list[int]:
    """The axes that a pool's one window covers natively. In a graph of free sizes a kernel is as large as it says.

    Of pools that are to stay global it is the last: one before it only happens to cover the native map.
    """
    axes = _under_window(step, held, how)
    return [] if axes and step.flow.kept and _is_pooled_again(step) and not _is_meant(step, axes) else axes


def _is_meant(step: Step, axes: Sequence[int]) -> bool:
    """Whether a pool that is to stay global was written to cover some axes, others of the map being pooled apart: their
    length is none of usual kernels, or they are taken away behind it."""
    rank, readers = len(step.before), step.flow.graph.readers.get(step.name, ())
    if not step.flow.kept or len(axes) == rank - 2 or _leads_to_layer(step):
        return False
    left = {len(step.shape(node.output[0])) for node in readers if node.op_type in {"Reshape", "Squeeze"}}
    return all(step.before[axis] >= _LONG for axis in axes) or left == {rank - len(axes)}


_LONG = 4
"""So long a kernel, of a single place along the other axes, covers an axis by purpose."""


def _under_window(step: Step, held: Layout, how: Sliding) -> list[int]:
    if step.op_type not in COVERING or held.axes is None:
        return []
    spatial = [axis for axis in range(2, len(step.before)) if places(held.axes[axis]) & held.solid]
    counted = step.op_type == "AveragePool" and bool(step.attrs.get("count_include_pad", 0))
    whole = len(spatial) == len(step.before) - 2 and covers(how, step.before, step.after, counted)
    if whole and (not step.flow.free or _leads_to_layer(step)):
        return spatial
    return [] if step.flow.free else [axis for axis in covered(how, step.before, step.after) if axis in spatial]


def _is_pooled_again(step: Step) -> bool:
    """Whether a pool follows, before anything changes the shape."""
    waiting, seen = [step.name], {step.name}
    while waiting:
        for node in step.flow.graph.readers.get(waiting.pop(), ()):
            if _pools_places(step, node):
                return True
            name, spec = node.output[0], step.flow.native.get(node.output[0])
            if name not in seen and spec is not None and (spec.shapes or ())[:1] == (step.after,):
                seen.add(name)
                waiting.append(name)
    return False


def _pools_places(step: Step, node: onnx.NodeProto) -> bool:
    """Whether a node pools over more than images and channels, of which a norm is the last part of a head's pool."""
    if node.op_type not in REDUCTIONS:
        return node.op_type in {*GLOBAL_POOLS, *COVERING}
    axes, rank = Step(step.flow, node).axes(), len(step.after)
    return axes is None or len(step.shape(node.input[0])) != rank or not {0, 1}.issuperset(axes)


def _leads_to_layer(step: Step) -> bool:
    """Whether all that reads the node, moved at most, is an FC layer: it is the head's pool, whatever its stride."""
    names, graph = [step.name], step.flow.graph
    for name in names:
        for node in graph.readers.get(name, ()):
            if node.op_type in {"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose"}:
                names.append(node.output[0])
            elif node.op_type not in PLAIN_LAYERS or node.input[1] not in graph.initializers:
                return False
    return len(names) > 1 or bool(graph.readers.get(names[0]))


def _layer_of_rows(step: Step, held: Layout) -> Layout:
    """A Conv that sums places which were folded into its channels."""
    assert held.axes is not None
    look = step.look("layer", places(held.axes[1]) & held.solid, [1], [step.node.input[0]])
    axes = [held.axes[0], channels(step.after[1]), *held.axes[2:]]
    return resized(replace(moved(held, axes), looks=held.looks | look, own=NONE), step.after)


def grid(step: Step, held: Layout) -> Layout:
    """Another resolution, or more around it."""
    if held.axes is None or len(step.before) != len(step.after):
        return unknown(step)
    moves = [axis for axis in step.changed if places(held.axes[axis])]
    if not moves and step.op_type == "Pad":
        step.onward(step.node.input[0])
        return resized(held, step.after)
    step.leave()
    return replace(resized(under_kernel(step, held, moves), step.after), own=NONE)


def blocks(step: Step, held: Layout) -> Layout:
    """Col2Im: places in a row, each a block of a finer map."""
    rows = held.axes[-1] if held.axes else ()
    if [atom.place for atom in rows if atom.kind == "space"] != list(range(step.flow.rank)) or held.axes is None:
        return unknown(step)
    step.leave()
    finer = ((replace(atom, length=n),) for atom, n in zip(rows, step.after[2:], strict=False))
    return replace(moved(held, [held.axes[0], channels(step.after[1]), *finer]), own=NONE)


def framed(step: Step, held: Layout) -> Layout:
    """STFT: frames along a signal, and the frequencies of each."""
    if held.axes is None or len(held.axes) != 3:
        return unknown(step)
    step.leave()
    length = (replace(held.axes[1][0], length=step.after[1]),) if len(held.axes[1]) == 1 else held.axes[1]
    axes = [held.axes[0], length, *map(channels, step.after[2:])]
    return replace(moved(under_kernel(step, held, [1]), axes), own=NONE)


def copies(step: Step, held: Layout) -> Layout:
    """Expand, Tile, Resize: what a pool left laid out again, or a map resampled."""
    rank = len(step.after)
    held = moved(held, aligned(held, rank) or ())
    before = (1,) * (rank - len(step.before)) + step.before
    longer = [axis for axis in range(rank) if step.after[axis] != before[axis]]
    thin = [axis for axis in longer if before[axis] == 1 and held.thin_at(axis)]
    if thin and thin == longer and _broadcast_at_once(step):
        step.onward(step.node.input[0])
        return held
    if thin:
        return _thin_copied(step, held, thin)
    if longer and not held.solid and rank == 2 + step.flow.rank and min(longer) > 1:
        step.flow.spread.update(held.looks - step.flow.of_kind(held.looks, "layer"))
    if any(places((held.axes or ())[axis]) for axis in longer):
        step.leave()
        return resized(replace(held, own=NONE), step.after)
    step.onward(step.node.input[0])
    return resized(held, step.after)


def _broadcast_at_once(step: Step) -> bool:
    """Whether all that read an Expand lay its result on a map of that size, as they would lay its input."""
    readers = step.flow.graph.readers.get(step.name, []) if step.op_type == "Expand" else []
    return bool(readers) and all(
        node.op_type in BROADCAST
        and any(
            step.shape(name) == step.after and step.flow.layouts.get(name, Layout(None)).solid for name in node.input
        )
        for node in readers
    )


def _thin_copied(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    """One place of a pool on each of these axes, as many now. One that just covers the native map is scaled with it."""
    scaled = step.op_type == "Resize" and step.opset >= 11 and step.constant(3) is None
    if scaled and step.flow.of_kind(NONE.union(*(held.thin_at(axis) for axis in axes)), "cover"):
        step.leave()
        return resized(under_kernel(step, held, axes), step.after)
    return resized(laid_out(step, held, axes), step.after)


KERNELS: dict[str, Rule] = {
    **dict.fromkeys(SLIDING, convolved),
    **dict.fromkeys(("CenterCropPad", "ConvTranspose", "DepthToSpace"), on_data(grid)),
    **dict.fromkeys(("MaxUnpool", "Pad", "SpaceToDepth"), on_data(grid)),
    **dict.fromkeys(RECURRENT, recurrent),
    **dict.fromkeys(SPREADING, on_data(copies)),
    "Col2Im": on_data(blocks),
    "STFT": on_data(framed),
}
