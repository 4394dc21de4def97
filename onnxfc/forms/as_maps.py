"""All on maps (1, C, H, W): FC layers as Convs, with no Flatten, Reshape or Transpose before them.

Flatten of (1, C, h, w), then Gemm, is a Conv of h x w. A tensor (1, F) between two such layers is the map (1, F, 1, 1):
it is followed as a map, and only what has no other form gets it in its own shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.forms.draft import Draft, renamed
from onnxfc.graph.index import Names, attributes, copied, dependent, label, remarks
from onnxfc.graph.op_kinds import BROADCAST, GEMMS, PLAIN_LAYERS, QUANTISING, RESHAPING, SOFTMAX, UNARY, axis_of
from onnxfc.shapes.spec import Array, Shape, Spec

_POOLS = {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}
_ADVICE = "leave out --form: --fixed-size alone writes every length as a number"


def as_maps(draft: Draft) -> Draft:
    """The draft on maps alone. Raises NothingToRewrite with what is no map."""
    walk = _Walk(draft, draft.names())
    for node in draft.nodes:
        walk.visit(node)
    made = walk.finished()
    refusals = tuple(_refusals(made))
    if refusals:
        raise NothingToRewrite(str(refusals[0]), refusals)
    return made


def _refusals(draft: Draft) -> list[Refusal]:
    """What is left that is no map, or an FC layer still. Outputs may have the original's shape."""
    images = [info.name for info in draft.graph.inputs]
    moving, found = dependent(draft.nodes, images), []
    for node in draft.nodes:
        for name in moving.intersection(node.output) - {*draft.graph.outputs}:
            spec = draft.specs[name]
            if spec.shapes is not None and spec.rank != 4:
                told = "x".join(map(str, spec.native)) or "one number"
                found.append(Refusal("form-not-4d", label(node), f"{node.op_type} makes {told}, no map", _ADVICE))
        constant = any(name not in moving for name in node.input[:2])
        if node.op_type in {*PLAIN_LAYERS, *GEMMS} and constant and moving.intersection(node.input):
            why = f"{node.op_type} has no form as a Conv: its features are no channels, or its weight is computed"
            found.append(Refusal("form-fc-left", label(node), why, _ADVICE))
    return found


@dataclass
class _Walk:
    """``maps``: tensors that are followed as a map of the same elements in the same order; they are not made."""

    draft: Draft
    names: Names
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    new: dict[str, Array | onnx.TensorProto] = field(default_factory=dict)
    shapes: dict[str, Spec] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)

    def visit(self, node: onnx.NodeProto) -> None:
        """Write the node as one on maps where that is known, else as it is."""
        rule = _RULES.get(node.op_type)
        made = None if rule is None or node.domain not in {"", "ai.onnx"} or len(node.output) != 1 else rule(self, node)
        if made is None:
            own = {name: self._own(name) for name in node.input if name in self.maps}
            self.nodes += renamed([node], own)
        elif made:
            self.maps[node.output[0]] = made

    def shape(self, name: str) -> Shape | None:
        spec = self.shapes.get(name) or self.draft.specs.get(name)
        return None if spec is None or spec.shapes is None else spec.native

    def map_of(self, name: str) -> str | None:
        """The map that a tensor is, or is followed as."""
        found = self.maps.get(name, name)
        shape = self.shape(found)
        return found if shape is not None and len(shape) == 4 else None

    def constant(self, name: str) -> tuple[onnx.TensorProto, Array] | None:
        tensor = self.draft.graph.constant(name)
        if tensor is None or name in self.draft.graph.overridable:
            return None
        return tensor, self.draft.model.array(tensor)

    def emit(
        self, instead: onnx.NodeProto, op_type: str, inputs: Sequence[str], shape: Sequence[int], **told: Any
    ) -> str:
        """A node in the place of another one; the name of the map that it makes."""
        name = self.names.unused(f"{instead.output[0]}_map")
        made = helper.make_node(op_type, list(inputs), [name], name=instead.name, **told)
        made.MergeFrom(remarks(instead))
        self.nodes.append(made)
        self.shapes[name] = Spec(self.draft.specs[instead.output[0]].dtype, (tuple(shape),))
        return name

    def hold(self, hint: str, value: Array | onnx.TensorProto) -> str:
        name = self.names.unused(hint)
        self.new[name] = value
        return name

    def _own(self, name: str) -> str:
        """A tensor that is followed as a map, in its own shape."""
        made, shape = self.maps[name], self.shape(name)
        if shape == self.shape(made) or shape is None:
            return made
        if not any(name in node.output for node in self.nodes):
            target = self.hold(f"{name}_shape", np.array(shape, np.int64))
            self.nodes.append(helper.make_node("Reshape", [made, target], [name], name=f"{name}_reshape"))
        return name

    def finished(self) -> Draft:
        """The outputs under their names; other tensors that are no more are no more kept."""
        outputs, instead = self.draft.graph.outputs, dict[str, str]()
        for name in outputs:
            made = self._own(name) if name in self.maps else name
            if made != name and made in self.shapes and made not in instead:
                instead[made] = name
            elif made != name:
                self.nodes.append(helper.make_node("Identity", [instead.get(made, made)], [name], name=f"{name}_copy"))
        return self.draft.with_nodes(renamed(self.nodes, instead), self.new, self.shapes)


def _reshape(walk: _Walk, node: onnx.NodeProto) -> str | None:
    """Of the same elements in the same order; images stay apart."""
    made, before, after = walk.map_of(node.input[0]), walk.shape(node.input[0]), walk.shape(node.output[0])
    return made if before and after and before[0] == after[0] else None


def _pool(walk: _Walk, node: onnx.NodeProto) -> str | None:
    """A Reduce over all places that drops their axes is a global pool, which keeps them."""
    shape, after = walk.shape(node.input[0]), walk.shape(node.output[0])
    if shape is None or after is None or len(shape) != 4 or after != shape[:2] or node.input[0] in walk.maps:
        return None
    axes = attributes(node).get("axes") or walk.draft.constant(node.input[1] if len(node.input) > 1 else "")
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3]:
        return None
    return walk.emit(node, _POOLS[node.op_type], [node.input[0]], (*after, 1, 1))


def _layer(walk: _Walk, node: onnx.NodeProto) -> str | None:
    """An FC layer over (C, h, w) is a Conv of h x w: weights that are stored outputs first keep their bytes."""
    told, data = attributes(node), walk.map_of(node.input[0])
    weight, before = walk.constant(node.input[1]), walk.shape(node.input[0])
    plain = all(told.get(name, free) == free for name, free in (("transA", 0), ("alpha", 1.0), ("beta", 1.0)))
    if data is None or weight is None or before is None or not plain or weight[1].ndim != 2:
        return None
    if math.prod(before[1:-1]) != 1 or (len(before) < 2):
        return None
    tensor, matrix = weight
    turned = bool(told.get("transB", 0))
    outputs, features = matrix.shape if turned else matrix.shape[::-1]
    _, channels, *kernel = walk.shape(data) or ()
    if channels * math.prod(kernel) != features:
        return None
    bias = _bias(walk, node, outputs)
    if bias is None:
        return None
    dims = (outputs, channels, *kernel)
    held = copied(tensor, dims=dims) if turned else np.ascontiguousarray(matrix.T).reshape(dims)
    inputs = [data, walk.hold(f"{node.input[1]}_map", held), *bias]
    return walk.emit(node, "Conv", inputs, (before[0], outputs, 1, 1), kernel_shape=kernel)


def _bias(walk: _Walk, node: onnx.NodeProto, outputs: int) -> list[str] | None:
    """A bias for each output; None where it is computed, or another for each image."""
    if len(node.input) < 3 or not node.input[2]:
        return []
    found = walk.constant(node.input[2])
    if found is None or found[1].size not in (1, outputs) or found[1].shape[-1:] not in ((), (1,), (outputs,)):
        return None
    if found[1].shape == (outputs,):
        return [node.input[2]]
    return [walk.hold(f"{node.input[2]}_map", np.broadcast_to(found[1].reshape(-1), (outputs,)).copy())]


def _elementwise(walk: _Walk, node: onnx.NodeProto) -> str | None:
    """Element by element, on tensors that are followed as maps of one shape, with constants laid out likewise."""
    after = walk.shape(node.output[0])
    followed = [name for name in node.input if name in walk.maps]
    if node.op_type in QUANTISING and any(math.prod(walk.shape(name) or (2,)) > 1 for name in node.input[1:]):
        return None  # a scale for each place along an axis
    if not followed or after is None or any(walk.shape(name) != after for name in followed):
        return None
    shapes = {walk.shape(walk.maps[name]) for name in followed}
    shape = shapes.pop()
    if shapes or shape is None:
        return None
    inputs = []
    for name in node.input:
        laid = walk.maps.get(name) or _laid_out(walk, name, after, shape)
        if laid is None:
            return None
        inputs.append(laid)
    return walk.emit(node, node.op_type, inputs, shape, **attributes(node))


def _laid_out(walk: _Walk, name: str, own: Shape, shape: Shape) -> str | None:
    """A constant for tensors of shape ``own``, for maps of shape ``shape``."""
    if not name:
        return name
    found = walk.constant(name)
    if found is None or len(found[1].shape) > len(own):
        return None
    value = found[1]
    if value.size == 1:
        return name if value.ndim < 2 else walk.hold(f"{name}_map", value.reshape(()))
    if value.ndim == len(own) and value.shape[0] != 1:
        return None
    laid = np.broadcast_to(value, (1, *own[1:])).reshape(1, *shape[1:])
    return walk.hold(f"{name}_map", np.ascontiguousarray(laid))


def _over_features(walk: _Walk, node: onnx.NodeProto) -> str | None:
    """Softmax, BatchNormalization and Concat of (1, F) are those of channels."""
    followed = node.input if node.op_type == "Concat" else node.input[:1]
    shapes = [(walk.shape(name), walk.shape(walk.maps.get(name, ""))) for name in followed]
    if any(own is None or laid != (*own, 1, 1) for own, laid in shapes):
        return None
    told = dict(attributes(node))
    if node.op_type != "BatchNormalization":
        if axis_of(node.op_type, told, 2, walk.draft.graph.opset) != 1:
            return None
        told["axis"] = 1
    inputs = [walk.maps.get(name, name) for name in node.input]
    return walk.emit(node, node.op_type, inputs, (*(walk.shape(node.output[0]) or ()), 1, 1), **told)


_RULES = {
    **dict.fromkeys(RESHAPING, _reshape),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(PLAIN_LAYERS, _layer),
    **dict.fromkeys((*UNARY, *BROADCAST), _elementwise),
    **dict.fromkeys((*SOFTMAX, "BatchNormalization", "Concat"), _over_features),
}
