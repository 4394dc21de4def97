"""How the places of the image flow through the original: what looks at them, and what meets them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx

from onnxfc.analysis.layouts import LAID, NONE, Layout, Names, of_image, resized
from onnxfc.graph.index import Graph, attributes, inputs_of
from onnxfc.graph.op_kinds import LENGTHS, axes_along, axis_of
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.spec import Array, Shape, Spec, UnknownShape

Kind = Literal["pool", "cover", "layer", "product", "relation", "weights", "norm", "piece", "part"]
"""What looks at places: a pool; a kernel that just covers the native map; an FC layer; a product that sums over them;
one that relates them to each other; weights that sum up to 1 over them; a norm that keeps them; a cut at fixed places;
one at computed places."""

How = Literal["", "query", "tokens", "features"]
"""What meets: a map; a product that asks each place; rows of places; places that have become features."""


@dataclass(frozen=True)
class Look:
    """A node, named by its first output, that looks at places natively; ``gone``: those that its result lacks.

    ``axes``: of its input, along which it does. ``of``: the looks whose result it looks at. ``own``: what the places
    are made from that it looks at: weights, say.
    """

    name: str
    kind: Kind
    gone: frozenset[int]
    axes: tuple[int, ...]
    of: Names
    own: Names = NONE


@dataclass(frozen=True)
class Meeting:
    """Where the result of a look meets places that it lacks; ``own``: what these are made from."""

    at: str
    how: How
    own: Names


class Flow:
    """All that was seen.

    ``onward``: the tensors that hold the places of a tensor, one by one, computed from it. ``ends``: the looks that
    take places of a tensor. ``leaves``: tensors whose places go on as another map: something slides over them, or they
    are an output. ``slid``: covers over whose result something slides, or beside which something did; pieces likewise.
    ``spread``: pools whose result is laid out over places again. ``deviations``: maps less their own mean. ``shares``:
    what sums up to 1 along places by an own sum that it was divided by, one of the ``divisors``; ``norms``: what was
    divided by another sum of its own. ``shared``: divisors that something else reads.
    """

    def __init__(self, graph: Graph, native: Mapping[str, Spec], rank: int, free: bool) -> None:
        self.graph, self.native, self.rank, self.free = graph, native, rank, free
        self.layouts: dict[str, Layout] = {}
        self.looks: dict[str, Look] = {}
        self.meetings: dict[str, list[Meeting]] = defaultdict(list)
        self.onward: dict[str, set[str]] = defaultdict(set)
        self.ends: dict[str, set[str]] = defaultdict(set)
        self.leaves = set[str]()
        self.slid = set[str]()
        self.spread = set[str]()
        self.deviations = set[str]()
        self.shares: dict[str, frozenset[int]] = {}
        self.norms: dict[str, frozenset[int]] = {}
        self.divisors, self.shared = set[str](), set[str]()
        self.kept, self.sized = False, NONE

    def measured(self, name: str) -> bool:
        """Whether a value is computed from a shape."""
        node = self.graph.producers.get(name)
        return node is not None and (node.op_type in LENGTHS or any(map(self.measured, inputs_of(node))))

    def follows(self, name: str) -> bool:
        """Whether such a value follows the image: not where it counts places that became features, as a window does."""
        names = [name]
        for item in names:
            node = self.graph.producers.get(item)
            read = [other for other in inputs_of(node) if other not in names] if node is not None else []
            if node is not None and node.op_type in LENGTHS and any(self._is_flat(other) for other in read):
                return False
            names += [other for other in read if other not in self.layouts]
        return True

    def _is_flat(self, name: str) -> bool:
        return name in self.layouts and self.layouts[name].flat

    def of_kind(self, looks: Iterable[str], *kinds: Kind) -> Names:
        """Those that are looks of these kinds."""
        return frozenset(name for name in looks if name in self.looks and self.looks[name].kind in kinds)


def stacks(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether it lays tensors beside each other on a new axis. Pieces of a map that are so stacked may be tiles, whose
    number grows with the image, as well as the map moved by some places."""
    makers = [graph.producers.get(name) for name in node.input]
    return node.op_type == "Concat" and all(maker is not None and maker.op_type == "Unsqueeze" for maker in makers)


class Step:
    """One node: what is known of its inputs, and what is to be noted of it."""

    def __init__(self, flow: Flow, node: onnx.NodeProto) -> None:
        self.flow, self.node, self.op_type = flow, node, node.op_type
        self.name = next(name for name in node.output if name)
        self.layouts = [flow.layouts.get(name) if name else None for name in node.input]
        self.given = [(n, held) for n, held in zip(node.input, self.layouts, strict=True) if held is not None]

    @cached_property
    def attrs(self) -> Mapping[str, Any]:
        return attributes(self.node)

    @property
    def opset(self) -> int:
        return self.flow.graph.opset

    @property
    def data(self) -> Layout | None:
        """The first input, where its axes are known and nothing else is computed from the image."""
        first = self.layouts[0] if self.layouts else None
        return None if first is None or first.axes is None or len(self.given) > 1 else first

    def shape(self, name: str) -> Shape:
        return self.flow.native[name].native

    @property
    def before(self) -> Shape:
        return self.shape(self.node.input[0])

    @property
    def after(self) -> Shape:
        return self.shape(self.name)

    @property
    def changed(self) -> list[int]:
        """The axes of another length than before."""
        pairs = zip(self.before, self.after, strict=False)  # a damaged model may declare another rank
        return [axis for axis, (before, after) in enumerate(pairs) if before != after]

    def constant(self, position: int) -> Array | None:
        if position >= len(self.node.input) or not self.node.input[position]:
            return None
        values = self.flow.native[self.node.input[position]].values
        return None if values is None else values[0]

    def axes(self, position: int = 1) -> list[int] | None:
        """The ``axes`` of Reduce, Slice ...; None where absent or unknown."""
        found = self.attrs.get("axes", self.constant(position))
        return None if found is None else [int(axis) % len(self.before) for axis in np.atleast_1d(found).tolist()]

    @property
    def axis(self) -> int:
        """The axis that the operator works along."""
        return axis_of(self.op_type, self.attrs, len(self.before), self.opset)

    @property
    def along(self) -> range:
        """The axes that it takes together."""
        return axes_along(self.op_type, self.attrs, len(self.before), self.opset)

    # What is noted

    def onward(self, *names: str) -> None:
        for name in names:
            self.flow.onward[name].add(self.name)

    def leave(self) -> None:
        """The places of all inputs go on as another map."""
        self.flow.leaves.update(name for name, held in self.given if held.solid and not held.flat)

    def look(self, kind: Kind, gone: frozenset[int], axes: Sequence[int], read: Sequence[str]) -> Names:
        """Note that the node looks at places of tensors."""
        of = NONE.union(*(self.flow.layouts[name].looks for name in read))
        own = NONE.union(*(self.flow.layouts[name].own for name in read))
        whole = frozenset(range(self.flow.rank)) if LAID in gone else frozenset[int]()
        self.flow.looks[self.name] = Look(self.name, kind, gone | whole, tuple(axes), of, own)
        for name in read:
            self.flow.ends[name].add(self.name)
        return frozenset({self.name})

    def meet(self, layouts: Sequence[Layout], how: How = "") -> Names:
        """Results of looks meet places that they lack; the looks that meet none are returned.

        Places that were laid end to end are of any axis.
        """
        held: frozenset[int] = frozenset().union(*(layout.solid for layout in layouts))
        held |= frozenset(range(self.flow.rank) if LAID in held else ())
        stay = set[str]()
        for layout in layouts:
            for name in layout.looks:
                missed = self.flow.looks[name].gone & (held - layout.solid)
                if missed and self._just_covers(name, missed, layout, layouts):
                    self.flow.slid.add(name)
                elif missed:
                    own = NONE.union(*(other.own for other in layouts if other.solid & missed))
                    self.flow.meetings[name].append(Meeting(self.name, how, own))
                else:
                    stay.add(name)
        self._meet_pieces(layouts)
        return frozenset(stay)

    def _just_covers(self, name: str, missed: frozenset[int], own: Layout, layouts: Sequence[Layout]) -> bool:
        """Whether a pool's result is natively as large as what a kernel that slides has left beside it."""
        thin = self.flow.looks[name].kind == "cover" and all((place, name) in own.thin for place in missed)
        beside = [layout for layout in layouts if layout.solid & missed]
        return (
            thin
            and bool(beside)
            and all(layout.length(place) == 1 for layout in beside for place in missed & layout.solid)
        )

    def _meet_pieces(self, layouts: Sequence[Layout]) -> None:
        """Pieces meet a map of their size that none was cut out of."""
        cut = [layout for layout in layouts if self.flow.of_kind(layout.own, "piece")]
        whole = [layout for layout in layouts if layout.solid and layout not in cut]
        for layout in cut if not stacks(self.flow.graph, self.node) else ():
            common = [(other, layout.solid & other.solid) for other in whole]
            if any(all(layout.length(p) == other.length(p) for p in both) for other, both in common):
                for name in self.flow.of_kind(layout.own, "piece"):
                    self.flow.meetings[name].append(Meeting(self.name, "", NONE))


Rule = Callable[[Step], Layout | None]


def on_data(rule: Callable[[Step, Layout], Layout | None]) -> Rule:
    """A rule for where the first input alone comes from the image, and its axes are known."""
    return lambda step: unknown(step) if step.data is None else rule(step, step.data)


def flow_of(
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    free: bool,
    rules: Mapping[str, Rule],
    kept: bool = False,
    sized: Names = NONE,
) -> Flow:
    """One pass over the graph. ``free``: it takes images of any size already. ``rules``: what each operator does.
    ``kept``: global pools are to stay global. ``sized``: what is no map, as it has one size at all sizes."""
    flow = Flow(graph, native, len(images[0].spatial), free)
    flow.kept, flow.sized = kept, sized
    for image in images:
        flow.layouts[image.name] = of_image(image.shape, image.spatial, image.batched, image.fixed)
    for node in graph.live:
        if sized.isdisjoint(node.output) and any(name in flow.layouts for name in inputs_of(node)):
            _visit(flow, node, rules)
    for name in graph.outputs:
        held = flow.layouts.get(name)
        if held is not None and held.solid and not held.flat:
            flow.leaves.add(name)
    return flow


def _visit(flow: Flow, node: onnx.NodeProto, rules: Mapping[str, Rule]) -> None:
    step = Step(flow, node)
    known = all(flow.native[name].shapes is not None for name in (*(n for n, _ in step.given), step.name))
    captures = any(name in flow.layouts for name in set(inputs_of(node)) - set(node.input))
    try:
        made = rules.get(node.op_type, unknown)(step) if known and not captures else unknown(step)
    except UnknownShape:  # of a weight that is computed, say
        made = unknown(step)
    for name in filter(None, node.output):
        shapes = flow.native[name].shapes
        if made is None or shapes is None or made.axes is None or len(made.axes) != len(shapes[0]):
            flow.layouts.update({} if made is None else {name: made.lost})
        else:
            flow.layouts[name] = made if name == step.name else resized(made, shapes[0])


def unknown(step: Step) -> Layout:
    """Nothing is known of the operator: its inputs' places go on, somewhere."""
    step.leave()
    held = [step.flow.layouts[name] for name in inputs_of(step.node) if name in step.flow.layouts]
    first, native = step.layouts[0] if step.layouts else None, step.flow.native
    if first is not None and len(held) == 1 and native[step.name].shapes == native[step.node.input[0]].shapes:
        return replace(first, own=NONE)
    hidden = frozenset[int]().union(*(layout.solid for layout in held if not layout.flat))
    looks: Names = NONE.union(*(layout.looks for layout in held))
    return Layout(None, looks=looks, hidden=hidden, flat=any(layout.flat for layout in held))
