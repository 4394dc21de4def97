"""The weight of a layer as the file stores it: in floats, or in integers of which a DequantizeLinear makes floats.

Floats that a QuantizeLinear makes such integers of are stored, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
from onnx import helper

from onnxfc.forms.draft import Draft
from onnxfc.graph.index import Names, attributes
from onnxfc.shapes.spec import Array, Spec

_ANY = -1
"""The axis of a scale that is one for all."""


@dataclass(frozen=True)
class Weight:
    """``name``: of the stored tensor. ``by``: the DequantizeLinear behind it, with a scale for each place along
    ``axis``, or one for all. ``rounded``: the QuantizeLinear between both, where floats are stored."""

    name: str
    tensor: onnx.TensorProto = field(repr=False)
    value: Array = field(repr=False)
    by: onnx.NodeProto | None = None
    axis: int = _ANY
    rounded: onnx.NodeProto | None = None

    def scaled_along(self, axis: int) -> bool:
        """Whether a scale goes along with each place on this axis, or with all."""
        return self.axis in (_ANY, axis)

    def again(self, stored: str, axis: int, hint: str, names: Names) -> list[onnx.NodeProto]:
        """The DequantizeLinear once more, of the same weight in another shape, its scales along ``axis``; and what is
        before it. The last one makes what ``hint`` says."""
        made: list[onnx.NodeProto] = []
        for node in filter(None, (self.rounded, self.by)):
            told = {**attributes(node), **({} if self.axis == _ANY else {"axis": axis})}
            name, given = names.unused(f"{node.output[0]}_{hint}"), [stored, *node.input[1:]]
            own = names.unused(f"{node.name}_{hint}")
            made.append(helper.make_node(node.op_type, given, [name], name=own, domain=node.domain, **told))
            stored = name
        return made

    def specs(self, draft: Draft, made: Sequence[onnx.NodeProto], shape: Sequence[int]) -> dict[str, Spec]:
        """What is known of what these nodes make."""
        like = [node for node in (self.rounded, self.by) if node is not None]
        pairs = zip(made, like, strict=True)
        return {new.output[0]: Spec(draft.specs[old.output[0]].dtype, (tuple(shape),)) for new, old in pairs}


def weight_of(draft: Draft, name: str) -> Weight | None:
    """What is stored of a weight; None where the graph computes it in another way."""
    by = draft.producer(name)
    own = name if by is None or by.op_type == "Constant" else by.input[0] if by.op_type == "DequantizeLinear" else ""
    rounded = draft.producer(own) if own != name else None
    if rounded is not None and by is not None and rounded.op_type == "QuantizeLinear":
        own = rounded.input[0] if _alike(rounded, by) else own
    tensor = draft.new.get(own, draft.graph.constant(own))
    if tensor is None or own in draft.graph.overridable:
        return None
    value = draft.model.array(tensor)
    if own == name or by is None:
        return Weight(own, tensor, value)
    axis = _axis(draft, by, value.ndim)
    return None if axis is None else Weight(own, tensor, value, by, axis, rounded)


def _alike(one: onnx.NodeProto, two: onnx.NodeProto) -> bool:
    """Whether a QuantizeLinear and a DequantizeLinear have the same scale and zero point, along the same axis."""
    return list(one.input[1:]) == list(two.input[1:]) and attributes(one).get("axis", 1) == attributes(two).get(
        "axis", 1
    )


def _axis(draft: Draft, by: onnx.NodeProto, rank: int) -> int | None:
    """Along which axis scales go; None where that is not known, or they are of blocks."""
    told, scale = attributes(by), draft.specs.get(by.input[1])
    if scale is None or scale.shapes is None or told.get("block_size", 0) or scale.rank > 1:
        return None
    return _ANY if math.prod(scale.native) == 1 else int(told.get("axis", 1)) % rank


class Again(NamedTuple):
    """A node once more: its kind, what it reads besides its data, its domain, a tensor of the type of its result."""

    op_type: str
    given: list[str]
    domain: str
    like: str


def quantised_again(draft: Draft, name: str) -> list[Again]:
    """The QuantizeLinear and DequantizeLinear that follow a change of this tensor's shape once more, as onnxruntime
    makes operators on integers of those right behind both. None where it is not made by one scale and zero point."""
    by = draft.producer(name)
    if by is None or by.op_type != "DequantizeLinear" or len(by.input) < 3:
        return []
    spec = draft.specs.get(by.input[1])
    if spec is None or spec.shapes is None or math.prod(spec.native) != 1:
        return []
    types = {"QuantizeLinear": by.input[0], "DequantizeLinear": name}
    return [Again(kind, list(by.input[1:]), by.domain, like) for kind, like in types.items()]
