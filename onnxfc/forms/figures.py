"""Figures of a node at one image size that accelerators put limits on, by the names that profiles use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx

from onnxfc.forms.draft import Draft
from onnxfc.graph.index import attributes
from onnxfc.graph.op_kinds import GLOBAL_POOLS, WEIGHT_AT

Value: TypeAlias = "int | float | str"


@dataclass(frozen=True)
class Seen:
    """A node, its attributes, and the shapes of its data, its weight and its output; () where there are none."""

    node: onnx.NodeProto
    told: Mapping[str, Any]
    data: tuple[int, ...]
    weight: tuple[int, ...]
    made: tuple[int, ...]

    @staticmethod
    def of(draft: Draft, node: onnx.NodeProto) -> Seen:
        def shape(names: Sequence[str]) -> tuple[int, ...]:
            spec = draft.specs.get(names[0]) if names else None
            return () if spec is None or spec.shapes is None else spec.native

        at = WEIGHT_AT.get(node.op_type)
        weight = shape(node.input[at : at + 1]) if at is not None else ()
        return Seen(node, attributes(node), shape(node.input), weight, shape(node.output))

    @property
    def kernel(self) -> tuple[int, ...]:
        """What slides over the map; all of it under a global pool."""
        if self.node.op_type in GLOBAL_POOLS:
            return self.data[2:]
        return tuple(self.told.get("kernel_shape") or self.weight[2:])

    def each(self, name: str) -> tuple[int, ...]:
        """Strides or dilations, one for each axis."""
        return tuple(self.told.get(name) or (1,) * len(self.kernel))

    @property
    def reach(self) -> tuple[int, ...]:
        """The kernel with the gaps that dilation makes."""
        pairs = zip(self.kernel, self.each("dilations"), strict=False)
        return tuple((length - 1) * gap + 1 for length, gap in pairs)


def _banks(seen: Seen, parallel: int) -> tuple[int, ...]:
    return (math.prod(seen.kernel) * -(-seen.weight[1] // parallel),) if seen.weight else ()


FIGURES: dict[str, Callable[[Seen, int], Sequence[Value]]] = {
    "kernel": lambda seen, _: seen.kernel,
    "kernel height": lambda seen, _: seen.reach[:1],
    "kernel area": lambda seen, _: (math.prod(seen.reach),) if seen.reach else (),
    "stride": lambda seen, _: seen.each("strides") if seen.kernel else (),
    "stride height": lambda seen, _: seen.each("strides")[:1] if seen.kernel else (),
    "dilation times channels": lambda seen, _: [gap * seen.data[1] for gap in seen.each("dilations") if seen.weight],
    "output channels": lambda seen, _: seen.weight[:1],
    "banks": _banks,
    "weight sum": lambda seen, _: (math.prod(seen.weight[1:]) * 127,) if seen.weight else (),
    "batch": lambda seen, _: seen.made[:1],
    "rank": lambda seen, _: (len(seen.made),) if seen.made else (),
    "operator": lambda seen, _: (seen.node.op_type,),
    "auto_pad": lambda seen, _: (seen.told.get("auto_pad", "NOTSET"),),
    "alpha": lambda seen, _: (seen.told.get("alpha", 1.0),),
    "beta": lambda seen, _: (seen.told.get("beta", 1.0),),
    "transA": lambda seen, _: (seen.told.get("transA", 0),),
}
"""What each figure is, of a node; the second argument is a profile's ``parallel``. Empty where a node has no such one.

``kernel area`` counts the places under a kernel or a pool, gaps included. ``banks``: kernel places times the input
channels in groups of ``parallel``. ``weight sum``: the most that an output's weights can add up to as 8-bit integers.
"""
