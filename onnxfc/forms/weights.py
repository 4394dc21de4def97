"""The weight of a layer as the file stores it: in floats, or in integers of which a DequantizeLinear makes floats."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
from onnx import helper

from onnxfc.forms.draft import Draft
from onnxfc.graph.index import attributes
from onnxfc.shapes.spec import Array

_ANY = -1
"""The axis of a scale that is one for all."""


@dataclass(frozen=True)
class Weight:
    """``name``: of the stored tensor. ``by``: the DequantizeLinear behind it, with a scale for each place along
    ``axis``, or one for all."""

    name: str
    tensor: onnx.TensorProto = field(repr=False)
    value: Array = field(repr=False)
    by: onnx.NodeProto | None = None
    axis: int = _ANY

    def scaled_along(self, axis: int) -> bool:
        """Whether a scale goes along with each place on this axis, or with all."""
        return self.axis in (_ANY, axis)

    def dequantised(self, integers: str, made: str, name: str, axis: int) -> onnx.NodeProto:
        """The DequantizeLinear once more, of the same weight in another shape, its scales along ``axis``."""
        assert self.by is not None
        told = {**attributes(self.by), **({} if self.axis == _ANY else {"axis": axis})}
        given = [integers, *self.by.input[1:]]
        return helper.make_node(self.by.op_type, given, [made], name=name, domain=self.by.domain, **told)


def weight_of(draft: Draft, name: str) -> Weight | None:
    """What is stored of a weight; None where the graph computes it in another way."""
    by = draft.producer(name)
    own = name if by is None or by.op_type == "Constant" else by.input[0] if by.op_type == "DequantizeLinear" else ""
    tensor = draft.new.get(own, draft.graph.constant(own))
    if tensor is None or own in draft.graph.overridable:
        return None
    value = draft.model.array(tensor)
    if own == name or by is None:
        return Weight(own, tensor, value)
    axis = _axis(draft, by, value.ndim)
    return None if axis is None else Weight(own, tensor, value, by, axis)


def _axis(draft: Draft, by: onnx.NodeProto, rank: int) -> int | None:
    """Along which axis scales go; None where they are computed, or of blocks."""
    told, scale = attributes(by), draft.graph.constant(by.input[1])
    if scale is None or told.get("block_size", 0) or len(scale.dims) > 1:
        return None
    return _ANY if not any(dim > 1 for dim in scale.dims) else int(told.get("axis", 1)) % rank


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
