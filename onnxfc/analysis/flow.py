"""How the places of the image flow through the original: what pools them, and what meets them again.

Each operator says once what it does to the axes. What is decided from it is in ``pool_roles``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx

from onnxfc.analysis.layouts import LAID, NONE, Layout, Names, of_image, places, resized
from onnxfc.axes import Group, Groups, doubled
from onnxfc.graph import Graph, attributes, inputs_of
from onnxfc.images import Image
from onnxfc.specs import Array, Shape, Spec

Kind = Literal["pool", "cover", "layer", "product", "relation", "weights", "norm", "piece", "part"]
"""What looks at places: a pool; a kernel that covers the native map; an FC layer; a product that sums over them; one that
relates them to each other; weights that sum up to 1 over them; a norm that keeps them; a cut at
fixed places, or at computed ones."""


How = Literal["", "query", "tokens", "features"]


@dataclass(frozen=True)
class Look:
    """A node, named by its first output, that looks at places natively; ``gone``: those that its result lacks.

    ``axes``: of its input, along which it does. ``of``: the looks whose result it looks at.
    """

    name: str
    kind: Kind
    gone: frozenset[int]
    axes: tuple[int, ...] = ()
    of: Names = NONE


@dataclass(frozen=True)
class Meeting:
    """Where the result of a look meets places that it lacks.

    ``own``: what the other side is made from. ``how``: asked by a product; or in rows of places; or where these
    have become features.
    """

    at: str
    own: Names
    how: How = ""


@dataclass
class Flow:
    """All that was seen. ``onward``: the tensors that hold the places of a tensor, one by one, computed from it.

    ``ends``: the looks that take places of a tensor. ``leaves``: tensors whose places go on as a map: something slides
    over them, or they are an output. ``slid``: covers over whose result something slides, or beside which something did.
    ``spread``: pools whose result is laid out over places again. ``deviations``: maps less their own mean.
    """

    graph: Graph
    native: Mapping[str, Spec]
    free: bool
    layouts: dict[str, Layout] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    meetings: dict[str, list[Meeting]] = field(default_factory=lambda: defaultdict(list))
    onward: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    leaves: set[str] = field(default_factory=set)
    slid: set[str] = field(default_factory=set)
    spread: set[str] = field(default_factory=set)
    deviations: set[str] = field(default_factory=set)


class Step:
    """One node: what is known of its inputs, and what is to be noted of it."""

    def __init__(self, flow: Flow, node: onnx.NodeProto) -> None:
        self.flow, self.node = flow, node
        self.name = next(name for name in node.output if name)
        self.layouts = [flow.layouts.get(name) if name else None for name in node.input]
        self.attrs: Mapping[str, Any] = attributes(node)

    @property
    def opset(self) -> int:
        return self.flow.graph.opset

    @property
    def given(self) -> list[tuple[str, Layout]]:
        """The inputs that are computed from the image."""
        return [(n, held) for n, held in zip(self.node.input, self.layouts, strict=True) if held is not None]

    def shape(self, name: str) -> Shape:
        return self.flow.native[name].native

    @property
    def before(self) -> Shape:
        return self.shape(self.node.input[0])

    @property
    def after(self) -> Shape:
        return self.shape(self.name)

    def constant(self, position: int) -> Array | None:
        if position >= len(self.node.input) or not self.node.input[position]:
            return None
        values = self.flow.native[self.node.input[position]].values
        return None if values is None else values[0]

    def axes(self, rank: int, position: int = 1) -> list[int] | None:
        """The ``axes`` of Reduce, Squeeze ...; None where absent or unknown."""
        found = self.attrs.get("axes", self.constant(position))
        return None if found is None else [int(axis) % rank for axis in np.atleast_1d(found).tolist()]

    def measured(self, name: str) -> bool:
        """Whether a value is computed from a shape."""
        node = self.flow.graph.producers.get(name)
        return node is not None and (node.op_type in {"Shape", "Size"} or any(map(self.measured, inputs_of(node))))

    # What is noted

    def onward(self, names: Iterable[str]) -> None:
        for name in names:
            self.flow.onward[name].add(self.name)

    def leave(self) -> None:
        """The places of all inputs go on as a map that is another one."""
        for name, held in self.given:
            if held.solid and not held.flat:
                self.flow.leaves.add(name)

    def look(self, kind: Kind, gone: frozenset[int], axes: Sequence[int], read: Iterable[str]) -> Names:
        """Note that the node looks at places of tensors."""
        names = list(read)
        of = NONE.union(*(self.flow.layouts[name].looks for name in names))
        whole = frozenset(range(LAID)) if LAID in gone else frozenset[int]()
        self.flow.looks[self.name] = Look(self.name, kind, frozenset(gone) | whole, tuple(axes), of)
        for name in names:
            self.flow.ends[name].add(self.name)
        return frozenset({self.name})

    def covers(self, looks: Names) -> Names:
        """Those of them that just cover the native map."""
        return frozenset(name for name in looks if self.flow.looks[name].kind == "cover")

    def is_piece(self, name: str) -> bool:
        look = self.flow.looks.get(name)
        return look is not None and look.kind in {"piece", "part"}

    def meet(self, layouts: Sequence[Layout], how: How = "") -> Names:
        """Results of looks meet places that they lack; the looks that meet none are returned."""
        held: frozenset[int] = frozenset().union(*(layout.solid for layout in layouts))
        stay = set[str]()
        for layout in layouts:
            for name in layout.looks:
                missed = self.flow.looks[name].gone & (held - layout.solid)
                if (
                    missed
                    and all((p, name) in layout.thin and _single(layouts, p) for p in missed)
                    and self.covers(frozenset({name}))
                ):
                    self.flow.slid.add(name)
                elif missed:
                    own = NONE.union(*(other.own for other in layouts if other.solid & missed))
                    self.flow.meetings[name].append(Meeting(self.name, own, how))
                else:
                    stay.add(name)
        self._pieces(layouts)
        return frozenset(stay)

    def _piece(self, name: str) -> str:
        look = self.flow.looks.get(name)
        return name if look is not None and look.kind == "piece" else ""

    def _pieces(self, layouts: Sequence[Layout]) -> None:
        """Pieces meet the map, or one that no piece was cut out of."""
        held = [frozenset(map(self._piece, layout.own)) - {""} for layout in layouts if layout.solid]
        if not all(held):
            for name in NONE.union(*held):
                self.flow.meetings[name].append(Meeting(self.name, NONE))


def _single(layouts: Sequence[Layout], place: int) -> bool:
    return all(layout.length(place) == 1 for layout in layouts if place in layout.solid)


def laid(step: Step, operands: Sequence[tuple[Layout, Groups | None]], how: How = "") -> Layout:
    """What is computed from operands that lie on each other; each with its axes as the result has them."""
    layouts = [layout for layout, _ in operands]
    looks = step.meet(layouts, how)
    held: frozenset[int] = frozenset().union(*(layout.solid for layout in layouts))
    thin = frozenset((p, n) for layout in layouts for p, n in layout.thin if p not in held and n in looks)
    own: Names = NONE.union(*(layout.own for layout in layouts if layout.solid))
    flat = any(layout.flat for layout in layouts)
    made = Layout(None, frozenset(), looks, own, hidden=frozenset() if flat else held, flat=flat)
    known = [(layout, groups) for layout, groups in operands if groups is not None]
    if len(known) < len(operands) and not any(layout.solid == held for layout, _ in known):
        return made
    rows = zip(*(groups or () for _, groups in known), strict=True)
    axes = tuple(_richest(list(zip([layout for layout, _ in known], row, strict=True))) for row in rows)
    return replace(made, axes=axes, thin=thin, hidden=frozenset())


def _richest(groups: Sequence[tuple[Layout, Group]]) -> Group:
    """The axis that the others are spread over."""

    def worth(item: tuple[Layout, Group]) -> tuple[bool, int, int]:
        layout, group = item
        length = 1
        for atom in group:
            length *= atom.length
        return bool(places(group) & layout.solid - {LAID}), length, len(group)

    return max(groups, key=worth)[1]


def flow_of(
    graph: Graph, native: Mapping[str, Spec], images: Sequence[Image], free: bool, steps: Mapping[str, Any]
) -> Flow:
    """One pass over the graph. ``free``: it takes images of any size already. ``steps``: what each operator does."""
    flow = Flow(graph, native, free)
    for image in images:
        flow.layouts[image.name] = of_image(image.shape, image.spatial)
    for position, node in enumerate(graph.nodes):
        if position in graph.live and any(name in flow.layouts for name in inputs_of(node)):
            _visit(flow, node, steps)
    for name in graph.outputs:
        held = flow.layouts.get(name)
        if held is not None and held.solid and held.is_map:
            flow.leaves.add(name)
    return flow


def _visit(flow: Flow, node: onnx.NodeProto, steps: Mapping[str, Any]) -> None:
    step = Step(flow, node)
    known = all(flow.native[n].shapes is not None for n, _ in step.given) and flow.native[step.name].shapes is not None
    rule = steps.get(node.op_type) if known else None
    made = rule(step) if rule is not None and not any(n in flow.layouts for n in _captured(node)) else unknown(step)
    if made is None:
        return
    for name in node.output:
        if name:
            shape = flow.native[name].shapes
            fits = shape is not None and made.axes is not None and len(made.axes) == len(shape[0])
            first = name == step.name
            flow.layouts[name] = made.lost if shape is None or not fits else made if first else resized(made, shape[0])


def _captured(node: onnx.NodeProto) -> set[str]:
    return set(inputs_of(node)) - set(node.input)


def unknown(step: Step) -> Layout:
    """Nothing is known of the operator: its inputs' places go on, somewhere."""
    step.leave()
    held = [layout for _, layout in step.given] or [
        step.flow.layouts[name] for name in _captured(step.node) if name in step.flow.layouts
    ]
    looks: Names = NONE.union(*(layout.looks for layout in held))
    first = step.layouts[0] if step.layouts else None
    if (
        first is not None
        and len(held) == 1
        and step.flow.native[step.name].shapes == step.flow.native[step.node.input[0]].shapes
    ):
        return replace(first, own=NONE, mean="")
    hidden = frozenset[int]().union(*(layout.solid for layout in held if not layout.flat))
    return Layout(None, looks=looks, hidden=hidden, flat=any(layout.flat for layout in held))


def relates(axes: Groups) -> bool:
    """Whether places are related to places."""
    return doubled(axes)
