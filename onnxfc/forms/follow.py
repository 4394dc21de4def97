"""Tensors that are followed in another form, of the same elements in the same order: (1, F) as a map, a map as (1, F).

They are not made in their own shape, unless something reads them that has no rule for the other form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper

from onnxfc.forms.draft import Draft, renamed
from onnxfc.forms.weights import Weight
from onnxfc.graph.index import attributes, remarks
from onnxfc.graph.op_kinds import BROADCAST, QUANTISING, SOFTMAX, UNARY, axis_of
from onnxfc.graph.quantised_operators import is_contributed, standing
from onnxfc.shapes.spec import Array, Shape, Spec

Rule: TypeAlias = "Callable[[Follower, onnx.NodeProto], str | None]"
"""The tensor that a node's output is followed as; None where the node has no such form."""


class Follower:
    """Writes a draft anew. ``form`` is what names of new tensors end in; ``followed``: tensors that are not made, and
    the one that each is followed as."""

    def __init__(self, draft: Draft, form: str, rules: Mapping[str, Rule]) -> None:
        self.draft = draft
        self.form = form
        self.followed: dict[str, str] = {}
        self._rules = {**_COMMON, **rules}
        self._names = draft.names()
        self._nodes: list[onnx.NodeProto] = []
        self._made: set[str] = set()
        self._new: dict[str, Array | onnx.TensorProto] = {}
        self._specs: dict[str, Spec] = {}

    def run(self) -> Draft:
        """The draft with every node in the other form that has one."""
        for node in self.draft.nodes:
            rule = self._rules.get(node.op_type)
            plain = node.domain in {"", "ai.onnx"} or is_contributed(node) or standing(node) is not None
            single = len(node.output) == 1 or node.op_type == "DynamicQuantizeLinear"
            made = rule(self, node) if rule is not None and plain and single else None
            if made is not None:
                self.followed[node.output[0]] = made
            else:
                own = {name: self._own(name) for name in node.input if name in self.followed}
                self._nodes += renamed([node], own)
        return self._finished()

    def shape(self, name: str) -> Shape | None:
        spec = self._specs.get(name) or self.draft.specs.get(name)
        return None if spec is None or spec.shapes is None else spec.native

    def single(self, names: Iterable[str]) -> bool:
        """Whether each of these tensors is one value."""
        shapes = map(self.shape, names)
        return all(shape is not None and math.prod(shape) == 1 for shape in shapes)

    def weight(self, weight: Weight, value: Array | onnx.TensorProto, shape: Sequence[int], axis: int) -> str:
        """A layer's weight in another shape, under its name where nothing else reads that; ``axis``: of the outputs."""
        held = self.hold(weight.name, value, own=True)
        if weight.by is None:
            return held
        made = weight.again(held, axis, self.form, self._names)
        self._nodes += made
        self._specs |= weight.specs(self.draft, made, shape)
        return str(made[-1].output[0])

    def constant(self, name: str) -> Array | None:
        """The values of a tensor that is stored."""
        tensor = self.draft.graph.constant(name)
        if tensor is None or name in self.draft.graph.overridable:
            return None
        return self.draft.model.array(tensor)

    def emit(
        self, instead: onnx.NodeProto, op_type: str, inputs: Sequence[str], shape: Sequence[int], **told: Any
    ) -> str:
        """A node in the place of another one; the name of what it makes first. ``shape``: of one batch."""
        name = self._names.unused(f"{instead.output[0]}_{self.form}")
        made = helper.make_node(op_type, list(inputs), [name, *instead.output[1:]], name=instead.name, **told)
        made.MergeFrom(remarks(instead))
        self._nodes.append(made)
        self._describe(name, self.draft.specs[instead.output[0]], shape)
        return name

    def before(
        self,
        node: onnx.NodeProto,
        op_type: str,
        given: Sequence[str],
        shape: Sequence[int],
        like: str = "",
        **told: Any,
    ) -> str:
        """A node more in front of what ``node`` becomes; ``like``: what has the type of its result, if not its data."""
        name, like = self._names.unused(f"{given[0]}_{op_type.lower()}"), like or given[0]
        label = self._names.unused(f"{node.name}_{op_type.lower()}")
        self._nodes.append(helper.make_node(op_type, given, [name], name=label, **told))
        self._describe(name, self._specs.get(like) or self.draft.specs[like], shape)
        return name

    def for_each_image(self, node: onnx.NodeProto, name: str, shape: Shape) -> str:
        """A tensor without a batch, in this shape."""
        wanted = self.hold(name, np.array(shape, np.int64))
        made = self.before(node, "Reshape", [name, wanted], shape)
        self._specs[made] = Spec(self._specs[made].dtype, (shape,))
        return made

    def _describe(self, name: str, like: Spec, shape: Sequence[int]) -> None:
        batches = [own[0] for own in like.shapes or ()]
        self._specs[name] = Spec(like.dtype, tuple((batch, *shape[1:]) for batch in batches))

    def hold(self, name: str, value: Array | onnx.TensorProto, *, own: bool = False) -> str:
        """A constant more; under the name of the one that it stands for, where nothing else reads that (``own``)."""
        if not own or self.draft.graph.uses[name] != 1 or name not in self.draft.graph.initializers:
            name = self._names.unused(f"{name}_{self.form}")
        self._new[name] = value
        return name

    def _own(self, name: str) -> str:
        """A followed tensor in its own shape."""
        made, shape = self.followed[name], self.shape(name)
        if shape == self.shape(made) or shape is None:
            return made
        if name not in self._made:
            self._made.add(name)
            target = self.hold(name, np.array([0, *shape[1:]], np.int64))
            label = self._names.unused(f"{name}_reshape")
            self._nodes.append(helper.make_node("Reshape", [made, target], [name], name=label))
        return name

    def _finished(self) -> Draft:
        """The outputs under their names."""
        new, instead = {name for node in self._nodes for name in node.output}, dict[str, str]()
        for name in self.draft.graph.outputs:
            made = self._own(name) if name in self.followed else name
            if made == name:
                continue
            if made in new and made in self._specs and made not in instead:
                instead[made] = name
            else:
                label = self._names.unused(f"{name}_copy")
                self._nodes.append(helper.make_node("Identity", [made], [name], name=label))
        return self.draft.with_nodes(renamed(self._nodes, instead), self._new, self._specs)


def stays(follower: Follower, node: onnx.NodeProto) -> str | None:
    """A Reshape, Flatten or the like of a followed tensor: the same elements in the same order, images apart."""
    before, after = follower.shape(node.input[0]), follower.shape(node.output[0])
    return follower.followed.get(node.input[0]) if before and after and before[0] == after[0] else None


def _elementwise(follower: Follower, node: onnx.NodeProto) -> str | None:
    """Element by element, on tensors that are followed in one shape, with constants laid out likewise."""
    after, followed = follower.shape(node.output[0]), [name for name in node.input if name in follower.followed]
    if not followed or after is None or any(follower.shape(name) != after for name in followed):
        return None
    if node.op_type in QUANTISING and not follower.single(node.input[1:]):
        return None  # a scale for each place along an axis
    shapes = {follower.shape(follower.followed[name]) for name in followed}
    shape = shapes.pop()
    if shapes or shape is None:
        return None
    inputs = [follower.followed.get(name) or _laid_out(follower, node, name, after, shape) for name in node.input]
    if any(name is None for name in inputs):
        return None
    told = {"domain": node.domain, **attributes(node)}
    return follower.emit(node, node.op_type, [name or "" for name in inputs], shape, **told)


def _laid_out(follower: Follower, node: onnx.NodeProto, name: str, own: Shape, shape: Shape) -> str | None:
    """A constant for tensors of shape ``own``, for those of ``shape``; or a scale that is taken when the model runs."""
    value = follower.constant(name) if name else None
    if value is None and name and follower.shape(name) in ((), (1,)):
        return name
    if value is None and name and follower.shape(name) == own[1:]:
        return follower.for_each_image(node, name, (1, *shape[1:]))
    if value is None:
        return None if name else ""
    if value.size == 1:
        return name if value.ndim < 2 else follower.hold(name, value.reshape(()))
    if value.ndim > len(own) or (value.ndim == len(own) and value.shape[0] != 1):
        return None
    return follower.hold(name, np.broadcast_to(value, (1, *own[1:])).reshape(1, *shape[1:]).copy())


def _over_features(follower: Follower, node: onnx.NodeProto) -> str | None:
    """Softmax, BatchNormalization and Concat over F are the same for (1, F) and for (1, F, 1, 1)."""
    stands = standing(node)
    kind = node.op_type if stands is None else stands.floats
    data = node.input if kind == "Concat" else node.input[:1]
    if stands is not None:
        data = [node.input[at] for at in stands.data]
    forms = [(follower.shape(name), follower.shape(follower.followed.get(name, ""))) for name in data]
    if any(not own or not form or {*own[2:], *form[2:]} - {1} or own[:2] != form[:2] for own, form in forms):
        return None
    (own, form), *_ = forms
    told, after = dict(attributes(node)), follower.shape(node.output[0])
    if own is None or form is None or after is None:
        return None
    if kind != "BatchNormalization":
        if axis_of(kind, told, len(own), follower.draft.graph.opset) != 1:
            return None
        told["axis"] = 1
    inputs = [follower.followed.get(name, name) for name in node.input]
    told["domain"] = node.domain
    return follower.emit(node, node.op_type, inputs, (*after[:2], *form[2:]), **told)


def _by_own_scale(follower: Follower, node: onnx.NodeProto) -> str | None:
    """A DynamicQuantizeLinear takes the same scale of the same elements."""
    data = follower.followed.get(node.input[0], "")
    shape = follower.shape(data)
    return None if shape is None else follower.emit(node, node.op_type, [data], shape)


_IN_INTEGERS = ("QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid")
_COMMON: dict[str, Rule] = {
    **dict.fromkeys((*UNARY, *BROADCAST, *_IN_INTEGERS), _elementwise),
    "DynamicQuantizeLinear": _by_own_scale,
    **dict.fromkeys((*SOFTMAX, "BatchNormalization", "Concat", "QLinearSoftmax", "QLinearConcat"), _over_features),
}
