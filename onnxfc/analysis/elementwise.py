"""What lies on each other, element by element, and what moves elements: where the places are then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import takewhile

import numpy as np
import onnx

from onnxfc.analysis.flow import Flow, How, Kind, Rule, Step, on_data, unknown
from onnxfc.analysis.halves import halves_of
from onnxfc.analysis.layouts import LAID, NONE, Layout, Names, aligned, moved, places, reshaped, resized
from onnxfc.analysis.own_figures import by_own_figure
from onnxfc.analysis.picked_blocks import picked_blocks
from onnxfc.graph.op_kinds import (
    BROADCAST,
    CUTTING,
    FUSED_UNARY,
    LENGTHS,
    QUANTISING,
    RESHAPING,
    UNARY,
    is_border,
    perm_of,
)
from onnxfc.layout.axes import BATCH_OF_ONE, Atom, Group, Groups, channels, lengths, of_length


def same(step: Step) -> Layout:
    """Each element alone, or with others of its place."""
    if len(step.given) > 1 or not step.given:
        return unknown(step)
    name, held = step.given[0]
    step.onward(name)
    return held


def quantised(step: Step) -> Layout | None:
    """As what is quantised; its scale and zero point, where they are figures of the whole image, have no places."""
    data = step.layouts[0]
    if data is not None:
        step.onward(step.node.input[0])
    return data


def broadcast(step: Step) -> Layout:
    """Inputs spread over each other."""
    held = [layout for _, layout in step.given if layout.solid]
    flat, rows = all(layout.flat for layout in held), not any(layout.is_map for layout in held)
    how: How = "features" if flat else "tokens" if rows else ""
    kind = by_own_figure(step)
    if kind == "weights":
        made = together(step, _aligned(step, len(step.after)), how)
        missed = made.solid - frozenset.intersection(*(layout.solid for _, layout in step.given))
        return replace(made, own=made.own | step.look(kind, missed, (), [name for name, _ in step.given]))
    made = laid(step, len(step.after), how)
    if kind == "deviation" and not flat:
        step.flow.deviations.add(step.name)
        made = replace(made, own=made.own | {step.name})
    return made


def laid(step: Step, rank: int, how: How = "") -> Layout:
    """The inputs on each other; what a pool left with one place may be as long as a constant is then."""
    step.onward(*(name for name, layout in step.given if layout.solid))
    made = together(step, _aligned(step, rank), how)
    if made.axes is None:
        return made
    longer = [axis for axis, length in enumerate(lengths(made.axes)) if step.after[axis] > length]
    return laid_out(step, made, [axis for axis in longer if made.thin_at(axis)])


def _aligned(step: Step, rank: int) -> list[tuple[Layout, Groups | None]]:
    return [(layout, aligned(layout, rank)) for _, layout in step.given]


def together(step: Step, operands: Sequence[tuple[Layout, Groups | None]], how: How = "") -> Layout:
    """What is computed from operands that lie on each other; each with its axes as the result has them."""
    layouts = [layout for layout, _ in operands]
    looks = step.meet(layouts, how)
    held: frozenset[int] = frozenset().union(*(layout.solid for layout in layouts))
    thin = frozenset((p, n) for layout in layouts for p, n in layout.thin if p not in held and n in looks)
    own: Names = NONE.union(*(layout.own for layout in layouts if layout.solid))
    made = Layout(None, looks=looks, own=own, hidden=held, flat=any(layout.flat for layout in layouts))
    known = [(layout, groups) for layout, groups in operands if groups is not None]
    if len(known) < len(operands) and not any(layout.solid == held for layout, _ in known):
        return made.lost
    rows = zip(*(groups or () for _, groups in known), strict=True)
    axes = tuple(_richest(list(zip([layout for layout, _ in known], row, strict=True))) for row in rows)
    return replace(made, axes=axes, thin=thin, hidden=frozenset())


def _richest(groups: Sequence[tuple[Layout, Group]]) -> Group:
    """The axis that the others are spread over."""

    def worth(item: tuple[Layout, Group]) -> tuple[bool, int, int]:
        layout, group = item
        return bool(places(group) & layout.solid - {LAID}), math.prod(atom.length for atom in group), len(group)

    return max(groups, key=worth)[1]


def laid_out(step: Step, held: Layout, axes: Sequence[int]) -> Layout:
    """Pools' results over places again: on axes that they left with one."""
    if not axes or held.axes is None:
        return held
    pools = NONE.union(*(held.thin_at(axis) for axis in axes))
    step.flow.spread.update(pools)
    here = frozenset[int]().union(*(places(held.axes[axis]) for axis in axes))
    thin = frozenset((place, name) for place, name in held.thin if place not in here)
    longer = list(held.axes)
    for axis in axes:
        longer[axis] = tuple(replace(a, length=step.after[axis]) if a.kind == "space" else a for a in longer[axis])
    return replace(moved(held, longer), thin=thin, looks=held.looks - pools)


# Movement


def transpose(step: Step, held: Layout) -> Layout:
    step.onward(step.node.input[0])
    axes = held.axes or ()
    return moved(held, [axes[axis] for axis in perm_of(step.attrs, len(axes))])


def reshape(step: Step, held: Layout) -> Layout:
    """Reshape, Flatten, Squeeze, Unsqueeze."""
    step.onward(step.node.input[0])
    return reshaped(held, step.after)


def concat(step: Step) -> Layout:
    """Beside each other; along places, end to end; the parts of a map in another order are the map."""
    axis, rank = step.axis, len(step.after)
    root = _rolled(step.flow, step.node)
    if root:
        step.onward(*step.node.input)
        return step.flow.layouts[root]
    along = any(layout.axes is not None and places(layout.axes[axis]) & layout.solid for _, layout in step.given)
    if along or any(layout.axes is None for _, layout in step.given):
        return _end_to_end(step, axis)
    made = laid(step, rank)
    axes = made.axes or ()
    own = of_length(axes[axis], step.after[axis]) if axes else ()
    return moved(made, [*axes[:axis], own, *axes[axis + 1 :]])


def _rolled(flow: Flow, node: onnx.NodeProto) -> str:
    """The map of which a Concat lays Slices end to end again, as many places as it has; empty where it does not."""
    makers = [flow.graph.producers.get(name) for name in node.input]
    roots = {maker.input[0] if maker is not None and maker.op_type == "Slice" else "" for maker in makers}
    root = min(roots, default="")
    same = node.op_type == "Concat" and len(makers) > 1 and len(roots) == 1 and root in flow.layouts
    return root if same and flow.native[root].shapes == flow.native[node.output[0]].shapes else ""


def _end_to_end(step: Step, axis: int) -> Layout:
    """Places that follow each other on one axis, all others as all inputs have them."""
    step.leave()
    held = [layout for _, layout in step.given]
    looks: Names = NONE.union(*(layout.looks for layout in held))
    if any(layout.flat for layout in held):
        step.onward(*(name for name, layout in step.given if layout.solid))
        return Layout(_rows_joined(step, held, axis), looks=looks, flat=True)
    every = frozenset.intersection(*(layout.solid for layout in held))
    if any(layout.axes is None for layout in held):
        return Layout(None, looks=looks, hidden=every)
    axes = [group if places(group) <= every else () for group in held[0].axes or ()]
    axes[axis] = (Atom("space", step.after[axis], LAID),)
    return Layout(tuple(axes), looks=looks)


def _rows_joined(step: Step, held: Sequence[Layout], axis: int) -> Groups | None:
    """The axes of flattened maps, (N, H * W * C), one behind the other: a row of places again, with as many channels
    each as divide those of all. None where they are none."""
    axes = [[_images_apart(group) for group in layout.axes] for layout in held if layout.axes is not None]
    ends = [_first_channels(own[axis][::-1]) for own in axes]
    whole = all(_stays(own[axis], end) for own, end in zip(axes, ends, strict=True)) and _rows_stay_alike(axes, axis)
    alike = len({(*own[:axis], *own[axis + 1 :]) for own in axes}) == 1
    if len(axes) < len(step.node.input) or not whole or not alike or not all(places(own[axis]) for own in axes):
        return None
    each = math.gcd(*(math.prod(atom.length for atom in end) for end in ends))
    row = (Atom("space", step.after[axis] // each, LAID), *channels(each))
    return (*axes[0][:axis], row, *axes[0][axis + 1 :])


def _stays(group: Group, end: Sequence[Atom]) -> bool:
    """Whether places lie between channels alone."""
    return len(_first_channels(group)) + len(places(group)) + len(end) == len(group)


def _rows_stay_alike(axes: Sequence[Sequence[Group]], axis: int) -> bool:
    """Whether what lies ahead of the places, if anything does, are rows of an axis that stays: as many as the places
    are, level by level, and all have the same channels behind. Channels ahead are no such rows."""
    ahead = [math.prod(atom.length for atom in _first_channels(own[axis])) for own in axes]
    behind = {math.prod(atom.length for atom in _first_channels(own[axis][::-1])) for own in axes}
    along = [math.prod(atom.length for atom in own[axis] if atom.kind == "space") for own in axes]
    ratios = {Fraction(rows, max(columns, 1)) for rows, columns in zip(ahead, along, strict=True)}
    return set(ahead) == {1} or (len(ratios) == len(behind) == 1 < len(set(ahead)))


def _first_channels(group: Group) -> list[Atom]:
    return list(takewhile(lambda atom: atom.kind == "channel", group))


def _images_apart(group: Group) -> Group:
    """An axis without the batch of one image that shares it with places."""
    return tuple(atom for atom in group if (atom,) != BATCH_OF_ONE) if places(group) else group


def gather_rows(step: Step, held: Layout) -> Layout:
    """GatherND by one number each is Gather along the first axis."""
    single = step.shape(step.node.input[1])[1:] == (1,) and not step.attrs.get("batch_dims", 0)
    return gather(step, held) if single else unknown(step)


def gather(step: Step, held: Layout) -> Layout:
    """Channels by number; places by number are a piece, or blocks."""
    rows = step.op_type == "GatherND"
    axis, rank = (0, 1) if rows else (step.axis, len(step.shape(step.node.input[1])))
    name = step.node.input[0]
    axes = held.axes or ()
    ahead, group, behind = axes[:axis], axes[axis], axes[axis + 1 :]
    picked = [channels(length) for length in step.after[axis : axis + rank]]
    if not places(group) & held.solid:
        step.onward(name)
        return moved(held, [*ahead, *picked, *behind])
    blocks = picked_blocks(step.flow.graph, step.node, step.constant(1), step.before[axis], len(step.before))
    if blocks is not None:
        step.leave()
        counted = (replace(group[0], length=step.after[axis + (not blocks.first)]),)
        made = (counted, picked[1]) if blocks.first else (picked[0], counted)
        return replace(moved(held, [*ahead, *made, *behind]), own=NONE)
    return moved(_piece(step, held, [axis], "piece"), [*ahead, *picked, *behind])


def cut(step: Step, held: Layout) -> Layout:
    """Channels, or a piece of the places: it ends at a fixed place, is computed or no border; else that is cut."""
    computed = step.op_type == "Slice" and any(map(step.flow.measured, step.node.input[1:]))
    touched = (step.axes(3) or range(len(step.before))) if computed else step.changed
    along = [axis for axis in touched if places((held.axes or ())[axis]) & held.solid]
    readers = step.flow.graph.readers.get(step.name, ())
    if not along or (readers and all(_rolled(step.flow, node) for node in readers)) or _halves(step, along):
        step.onward(step.node.input[0])
        return resized(held, step.after)
    if step.op_type == "Slice" and not computed and not any(_fixed_end(step, axis) for axis in along):
        step.leave()
        return resized(replace(held, own=NONE), step.after)
    return resized(_piece(step, held, along, "part" if computed else "piece"), step.after)


def _halves(step: Step, along: Sequence[int]) -> bool:
    """Whether it makes halves that are worked on and joined again."""
    flow = step.flow
    return len(along) == 1 and halves_of(flow.graph, flow.native, step.node, along[0]) is not None


def _fixed_end(step: Step, axis: int) -> bool:
    """Whether a Slice ends at a fixed place of the native map, or leaves no more than half of it."""
    starts, ends = (step.attrs.get(name, step.constant(place)) for place, name in ((1, "starts"), (2, "ends")))
    steps = step.constant(4)
    at = (step.axes(3) or list(range(len(np.atleast_1d(starts))))).index(axis)
    start, end, length = int(np.atleast_1d(starts)[at]), int(np.atleast_1d(ends)[at]), step.before[axis]
    return bool((steps is None or steps[at] > 0) and (0 <= end < length or not is_border(start, end, length)))


def _piece(step: Step, held: Layout, axes: Sequence[int], kind: Kind) -> Layout:
    look = step.look(kind, frozenset(), axes, [step.node.input[0]])
    return replace(held, own=held.own | look)


ELEMENTWISE: dict[str, Rule] = {
    **dict.fromkeys((*UNARY, *FUSED_UNARY, "BatchNormalization", "Dropout", "LRN"), same),
    **dict.fromkeys((*QUANTISING, "DynamicQuantizeLinear"), quantised),
    **dict.fromkeys(BROADCAST, broadcast),
    **dict.fromkeys(RESHAPING, on_data(reshape)),
    **dict.fromkeys(CUTTING, on_data(cut)),
    **dict.fromkeys(LENGTHS, lambda step: None),
    "Concat": concat,
    "Gather": on_data(gather),
    "GatherND": on_data(gather_rows),
    "Transpose": on_data(transpose),
}
