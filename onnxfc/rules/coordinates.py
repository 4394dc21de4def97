"""Coordinates that GridSample reads at: a grid of the places and what a map adds to it, a flow.

-1 to 1 are the map's ends at every size. A grid from -1 to 1 goes on so, and a flow beside it is in parts of the map
already. One that counts places, scaled to -1 to 1 together with the flow, is scaled by the native number of places:
(x + flow) * s - 1 is (c + 1) * native / now - 1 of these coordinates c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx

from onnxfc.builder import ops
from onnxfc.builder.computed_constants import computed
from onnxfc.builder.rule_context import RuleContext
from onnxfc.builder.state import Continued
from onnxfc.claim.blame import Cause
from onnxfc.graph.index import dependent
from onnxfc.graph.op_kinds import ADDITIVE, CUTTING, REORDERING, SCALING
from onnxfc.layout.views import Fixed, Placed
from onnxfc.shapes.spec import Array

_MOVING = {*REORDERING, *CUTTING, "Cast", "Concat", "Expand", "Gather"}
_CLOSE = 1e-5


@dataclass
class _Made:
    """How coordinates are made: by which nodes, the last one last; of tables that go on and of what a map gives."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tables: dict[str, Continued] = field(default_factory=dict)
    flows: set[str] = field(default_factory=set)

    @cached_property
    def of_tables(self) -> set[str]:
        """What comes of tables."""
        return dependent(self.nodes, self.tables)

    @cached_property
    def of_flows(self) -> set[str]:
        """What comes of flows."""
        return dependent(self.nodes, self.flows)


def for_any_size(ctx: RuleContext, name: str, tensor: str) -> str | None:
    """The coordinates (N, *places, rank) that mean the same where there are more places; None where it is not known."""
    made = _made(ctx, name)
    native = ctx.native(name).native[1:-1]
    if made is None or not made.tables:
        return None
    rules = {rule for table in made.tables.values() for rule in table.rules if rule}
    still, base, ones = (_values(ctx, made, number) for number in (0.0, None, 1.0))
    spread = _spread(base[name], native)
    if spread is None or not _joined_unscaled(made, still, ones) or _of_native(ctx, made, native):
        return None
    if rules == {spread} and not still[name].any() and np.all(ones[name] == 1):
        return tensor
    return _rescaled(ctx, tensor, native, spread == "ends") if rules == {"step"} else None


def _made(ctx: RuleContext, name: str) -> _Made | None:
    """What coordinates are made of; None where something is done to a grid that is no scale."""
    graph, found = ctx.state.graph, _Made()
    known = {note.table: note for note in ctx.state.continued if note.moves}
    waiting, seen = [name], set[str]()
    while waiting:
        item = waiting.pop()
        node = graph.producers.get(item)
        if item in seen:
            continue
        seen.add(item)
        if item in known:
            found.tables[item] = known[item]
        elif isinstance(ctx.state.views.get(item), Fixed):
            if computed(ctx, item) is None:
                return None
        elif node is None or node.op_type not in {*ADDITIVE, *SCALING, *_MOVING}:
            own = ctx.state.views.get(item)
            if not isinstance(own, Placed) or any(blame.cause is Cause.GRID for blame in own.provenance.blames):
                return None
            found.flows.add(item)
        else:
            found.nodes.append(node)
            waiting.extend(node.input)
    order = {id(node): place for place, node in enumerate(graph.live)}
    found.nodes.sort(key=lambda node: order[id(node)])
    return found if all(_is_affine(ctx, node) for node in found.nodes) else None


def _is_affine(ctx: RuleContext, node: onnx.NodeProto) -> bool:
    """Whether it is no product of two that follow the map, nor a quotient by one."""
    moving = [k for k, name in enumerate(node.input) if not isinstance(ctx.state.views.get(name), Fixed)]
    return node.op_type not in SCALING or moving == [0] or (moving == [1] and node.op_type == "Mul")


def _values(ctx: RuleContext, made: _Made, table: float | None) -> dict[str, Array]:
    """All on the way natively, without a flow, where tables are this number; None for the tables as they are."""
    held: dict[str, Array] = {item: np.zeros(ctx.native(item).native, np.float32) for item in made.flows}
    for item in made.tables:
        own = _constant(ctx, item)
        held[item] = own if table is None else np.full_like(own, table)
    for node in made.nodes:
        given = [held[item] if item in held else _constant(ctx, item) if item else None for item in node.input]
        for output, value in zip(node.output, ctx.builder.inference.run(node, given), strict=True):
            assert value is not None
            held[output] = value
    return held


def _joined_unscaled(made: _Made, still: Mapping[str, Array], ones: Mapping[str, Array]) -> bool:
    """Whether flows are added to tables as they are: both count the same."""
    for node in made.nodes:
        tables = [name for name in node.input if name in made.of_tables]
        flows = [name for name in node.input if name in made.of_flows - made.of_tables]
        if node.op_type in ADDITIVE and tables and flows:
            scaled = [np.any(ones[name] - still[name] != 1) for name in tables]
            if any(scaled) or (node.op_type == "Sub" and tables[0] != node.input[0]):
                return False
    return True


def _constant(ctx: RuleContext, name: str) -> Array:
    found = computed(ctx, name)
    assert found is not None
    return found


def _spread(base: Array, native: Sequence[int]) -> str | None:
    """Whether a grid of shape (N, *places, rank) goes from -1 to 1 by the places' ends, or their centres."""
    ends = {"ends": [np.linspace(-1, 1, n) for n in native]}
    both: Mapping[str, list[Array]] = ends | {"centres": [(np.arange(n) * 2 + 1) / n - 1 for n in native]}
    for rule, axes in both.items():
        wanted = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)  # x before y
        if min(native) > 1 and np.allclose(base, wanted, rtol=0, atol=_CLOSE):
            return rule
    return None


def _of_native(ctx: RuleContext, made: _Made, native: Sequence[int]) -> bool:
    """Whether a flow is scaled by what may be the native number of places."""
    alone = [node for node in made.nodes if node.op_type in SCALING and not made.of_tables.issuperset(node.output)]
    scales = [name for node in alone for name in node.input]
    known = [_constant(ctx, name) for name in scales if isinstance(ctx.state.views.get(name), Fixed)]
    numbers = {abs(float(number)) for values in known for number in values.flat if number}
    sides = {side for n in native for side in (n, n - 1)}
    made_of = (times * by for number in numbers for times in (number, 1 / number) for by in (1, 2))
    return any(abs(item - side) <= _CLOSE * side for item in made_of for side in sides)


def _rescaled(ctx: RuleContext, tensor: str, native: Sequence[int], ends: bool) -> str:
    """(c + 1) * native / now - 1, along each axis by its own places; from end to end there is one less."""
    builder, one = ctx.builder, ctx.builder.constant(np.ones(1, np.float32), "one")
    turned = [ops.dims(builder, tensor, axis, axis + 1) for axis in range(len(native), 0, -1)]
    now = builder.emit("Cast", [ops.concat(builder, turned)], to=onnx.TensorProto.FLOAT)
    if ends:
        now = builder.emit("Max", [builder.emit("Sub", [now, one]), one])
    before = np.asarray([n - ends for n in reversed(native)], np.float32)
    ratio = builder.emit("Div", [builder.constant(before, "native"), now])
    return builder.emit("Sub", [builder.emit("Mul", [builder.emit("Add", [tensor, one]), ratio]), one])
