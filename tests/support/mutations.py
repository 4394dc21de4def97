"""Wrong rewrites: every function spoils a right one in one way that a rewriter could, or says that it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.claim.claim import PREFIX, Claim


class NotHere(Exception):
    """The network has nothing that could be spoilt in this way."""


@dataclass
class Rewritten:
    """A rewritten model that is about to be spoilt."""

    proto: onnx.ModelProto

    def __post_init__(self) -> None:
        self.graph = self.proto.graph
        self.metadata = {item.key: item.value for item in self.proto.metadata_props}
        claim = Claim.from_metadata(self.metadata)
        assert claim is not None
        self.claim = claim
        self.behind = self._behind()

    def _behind(self) -> list[onnx.NodeProto]:
        """The head: what comes behind the boundaries."""
        reached, found = {item.rewritten for item in self.claim.boundaries}, []
        for node in self.graph.node:
            if reached.intersection(node.input):
                reached.update(node.output)
                found.append(node)
        return found

    @property
    def trunk(self) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if all(node is not other for other in self.behind)]

    def first(self, nodes: list[onnx.NodeProto], *ops: str) -> onnx.NodeProto:
        found = next((node for node in nodes if node.op_type in ops), None)
        if found is None:
            raise NotHere
        return found

    def last(self, nodes: list[onnx.NodeProto], *ops: str) -> onnx.NodeProto:
        return self.first(nodes[::-1], *ops)

    def weight(self, node: onnx.NodeProto, position: int = 1) -> np.ndarray:
        if len(node.input) <= position:
            raise NotHere
        tensor = next((t for t in self.graph.initializer if t.name == node.input[position]), None)
        if tensor is None:
            raise NotHere
        return numpy_helper.to_array(tensor).copy()

    def put(self, node: onnx.NodeProto, value: np.ndarray, position: int = 1) -> None:
        """Give a node a weight of its own."""
        if np.array_equal(value, self.weight(node, position)):
            raise NotHere
        name = f"{node.input[position]}_wrong"
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        node.input[position] = name

    def head(self) -> onnx.NodeProto:
        """The first Conv of the head."""
        return self.first(self.behind, "Conv")

    def claims(self, **values: object) -> None:
        for item in self.proto.metadata_props:
            key = item.key.removeprefix(PREFIX)
            if key in values:
                item.value = json.dumps(values[key])

    def append(self, *nodes: onnx.NodeProto) -> None:
        """Put nodes between the last one and the first output; they read ``y`` and make ``z``."""
        name = self.graph.output[0].name
        for node in self.graph.node:
            node.input[:] = ["right" if item == name else item for item in node.input]
            node.output[:] = ["right" if item == name else item for item in node.output]
        for node in nodes:
            node.input[:] = ["right" if item == "y" else item for item in node.input]
            node.output[:] = [name if item == "z" else item for item in node.output]
            self.graph.node.append(node)
        for info in self.graph.output:
            info.type.tensor_type.ClearField("shape")


def attribute(node: onnx.NodeProto, name: str, default: list[int]) -> list[int]:
    return next((list(item.ints) for item in node.attribute if item.name == name), default)


def change(node: onnx.NodeProto, **values: object) -> None:
    kept = [item for item in node.attribute if item.name not in values]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in values.items() if value is not None)


def rank(model: Rewritten) -> int:
    return len(model.claim.native_size)


Mutation = Callable[[Rewritten], None]
MUTATIONS: dict[str, Mutation] = {}


def mutation(name: str) -> Callable[[Mutation], Mutation]:
    def enter(function: Mutation) -> Mutation:
        MUTATIONS[name] = function
        return function

    return enter


def on_weight(name: str, function: Callable[[np.ndarray], np.ndarray], position: int = 1, last: bool = False) -> None:
    def spoil(model: Rewritten) -> None:
        node = model.last(model.behind, "Conv") if last else model.head()
        value = function(model.weight(node, position))
        model.put(node, value.astype(model.weight(node, position).dtype), position)

    MUTATIONS[name] = spoil


def _transposed(w: np.ndarray) -> np.ndarray:
    if w.ndim < 4 or w.shape[2] != w.shape[3] or w.shape[2] == 1:
        raise NotHere
    return np.swapaxes(w, 2, 3)


def _strongest(w: np.ndarray) -> int:
    """The unit with the largest weights: others may be dead, and then nothing that is done to them is wrong."""
    return int(np.abs(w.reshape(len(w), -1)).sum(axis=1).argmax())


def _one(w: np.ndarray) -> np.ndarray:
    row = w[_strongest(w)].reshape(-1) if w.ndim > 1 else w
    row[int(np.abs(row).argmax())] += w.std() + 0.1
    return w


def _lost(w: np.ndarray) -> np.ndarray:
    w[_strongest(w)] = 0
    return w


def _exchanged(w: np.ndarray) -> np.ndarray:
    if len(w) < 2:
        raise NotHere
    unit = _strongest(w)
    order = np.arange(len(w))
    order[[unit, unit - 1]] = order[[unit - 1, unit]]
    return np.asarray(w[order])


def _hwc(w: np.ndarray) -> np.ndarray:
    return np.moveaxis(w.reshape(w.shape[0], *w.shape[2:], w.shape[1]), -1, 1)


def _swapped(w: np.ndarray, axis: int) -> np.ndarray:
    if w.shape[axis] < 2:
        raise NotHere
    order = [1, 0, *range(2, w.shape[axis])]
    return np.take(w, order, axis)


on_weight("kernel transposed", _transposed)
on_weight("kernel flipped", lambda w: np.flip(w, tuple(range(2, w.ndim))))
on_weight("channels permuted", lambda w: np.roll(w, 1, 1))
on_weight("two channels swapped", lambda w: _swapped(w, 1))
on_weight("flatten order HWC", _hwc)
on_weight("bias lost", np.zeros_like, 2)
on_weight("bias doubled", lambda b: 2 * b, 2)
on_weight("one bias wrong", _one, 2)
on_weight("last bias lost", np.zeros_like, 2, last=True)
on_weight("scaled by 0.1 %", lambda w: w * 1.001)
on_weight("scaled by 1 %", lambda w: w * 1.01)
on_weight("last layer scaled by 0.1 %", lambda w: w * 1.001, last=True)
on_weight("one unit lost", _lost)
on_weight("two units swapped", _exchanged)
on_weight("last units swapped", lambda w: _swapped(w, 0), last=True)
on_weight("one weight wrong", _one)
on_weight("transB ignored", lambda w: w.reshape(-1, w.shape[0]).T.reshape(w.shape))


@mutation("stride two in the head")
def _(model: Rewritten) -> None:
    change(model.head(), strides=[2] * rank(model))


@mutation("head padded")
def _(model: Rewritten) -> None:
    change(model.head(), pads=[1] * (2 * rank(model)))


@mutation("window off by one")
def _(model: Rewritten) -> None:
    node = model.head()
    w = model.weight(node)
    if w.shape[2] == 1:
        raise NotHere
    model.put(node, w[:, :, 1:])
    change(node, kernel_shape=None)


@mutation("activation lost")
def _(model: Rewritten) -> None:
    node = model.first(model.behind, "Relu", "Tanh", "Sigmoid", "HardSwish", "Clip")
    node.op_type = "Identity"
    del node.attribute[:]
    del node.input[1:]


@mutation("activation added")
def _(model: Rewritten) -> None:
    model.append(helper.make_node("Sigmoid", ["y"], ["z"]))


@mutation("softmax over the grid")
def _(model: Rewritten) -> None:
    if any(node.op_type == "Softmax" for node in model.behind):
        change(model.last(model.behind, "Softmax"), axis=2)
    else:
        model.append(helper.make_node("Softmax", ["y"], ["z"], axis=-1))


@mutation("softmax over everything")
def _(model: Rewritten) -> None:
    shape = helper.make_node("Shape", ["y"], ["whole"])
    flat = helper.make_node("Flatten", ["y"], ["flat"], axis=1)
    soft = helper.make_node("Softmax", ["flat"], ["soft"], axis=1)
    model.append(shape, flat, soft, helper.make_node("Reshape", ["soft", "whole"], ["z"]))


@mutation("output negated")
def _(model: Rewritten) -> None:
    model.append(helper.make_node("Neg", ["y"], ["z"]))


@mutation("classes rolled")
def _(model: Rewritten) -> None:
    for name, value in (("a0", 0), ("a1", 1), ("far", 2**31), ("axis", 1)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    front = helper.make_node("Slice", ["y", "a0", "a1", "axis"], ["front"])
    rest = helper.make_node("Slice", ["y", "a1", "far", "axis"], ["rest"])
    model.append(front, rest, helper.make_node("Concat", ["rest", "front"], ["z"], axis=1))


def _sliced(model: Rewritten, start: int, step: int) -> None:
    stop = 2**31 if step > 0 else -(2**31)
    for name, value in (("from", start), ("to", stop), ("axis", 2), ("step", step)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    model.append(helper.make_node("Slice", ["y", "from", "to", "axis", "step"], ["z"]))


@mutation("first row of the map lost")
def _(model: Rewritten) -> None:
    _sliced(model, 1, 1)


@mutation("map flipped")
def _(model: Rewritten) -> None:
    _sliced(model, -1, -1)


@mutation("map transposed")
def _(model: Rewritten) -> None:
    if rank(model) != 2:
        raise NotHere
    model.append(helper.make_node("Transpose", ["y"], ["z"], perm=[0, 1, 3, 2]))


@mutation("map shifted")
def _(model: Rewritten) -> None:
    """Each row holds what belongs to the next, around the corner."""
    for name, value in (("a0", 0), ("a1", 1), ("far", 2**31), ("axis", 2)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    front = helper.make_node("Slice", ["y", "a0", "a1", "axis"], ["front"])
    rest = helper.make_node("Slice", ["y", "a1", "far", "axis"], ["rest"])
    model.append(front, rest, helper.make_node("Concat", ["rest", "front"], ["z"], axis=2))


@mutation("trunk scaled by 0.1 %")
def _(model: Rewritten) -> None:
    node = model.last(model.trunk, "Conv", "FusedConv")
    model.put(node, model.weight(node) * np.float32(1.001))


@mutation("trunk pads moved")
def _(model: Rewritten) -> None:
    node = model.last(model.trunk, "Conv", "FusedConv")
    pads = attribute(node, "pads", [0] * (2 * rank(model)))
    half = len(pads) // 2
    change(node, pads=[pad + 1 for pad in pads[:half]] + [max(0, pad - 1) for pad in pads[half:]])


@mutation("trunk stride off by one")
def _(model: Rewritten) -> None:
    node = model.last(model.trunk, "MaxPool", "Conv")
    strides = attribute(node, "strides", [1] * rank(model))
    change(node, strides=[stride + 1 for stride in strides])


@mutation("other pool in the trunk")
def _(model: Rewritten) -> None:
    node = model.last(model.trunk, "MaxPool")
    node.op_type = "AveragePool"
    kept = [item for item in node.attribute if item.name not in {"storage_order", "dilations"}]
    del node.attribute[:]
    node.attribute.extend(kept)


@mutation("pool of the window left global")
def _(model: Rewritten) -> None:
    node = model.first(model.behind, "AveragePool", "MaxPool")
    node.op_type = f"Global{node.op_type}"
    del node.attribute[:]


@mutation("pool of the window too small")
def _(model: Rewritten) -> None:
    node = model.first(model.behind, "AveragePool", "MaxPool")
    change(node, kernel_shape=[k - 1 for k in attribute(node, "kernel_shape", [])])


@mutation("pool of the window of the other kind")
def _(model: Rewritten) -> None:
    node = model.first(model.behind, "AveragePool", "MaxPool")
    node.op_type = "MaxPool" if node.op_type == "AveragePool" else "AveragePool"


@mutation("squeeze and excitation made local")
def _(model: Rewritten) -> None:
    node = model.first(model.trunk, "GlobalAveragePool", "ReduceMean")
    node.op_type = "AveragePool"
    del node.attribute[:]
    del node.input[1:]
    change(node, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


@mutation("auto_pad left")
def _(model: Rewritten) -> None:
    """SAME, which at the native size means the very pads that are there."""
    found = False
    for node in model.trunk:
        pads = attribute(node, "pads", [])
        half = len(pads) // 2
        if node.op_type in {"Conv", "MaxPool"} and any(a != b for a, b in zip(pads[:half], pads[half:], strict=True)):
            change(node, pads=None, auto_pad="SAME_UPPER")
            found = True
    if not found:
        raise NotHere


@mutation("input left at the native size")
def _(model: Rewritten) -> None:
    for info in model.graph.input:
        for image in model.claim.inputs:
            if image.name == info.name:
                for axis in image.spatial:
                    info.type.tensor_type.shape.dim[axis].dim_value = image.shape[axis]


@mutation("weights of two layers swapped")
def _(model: Rewritten) -> None:
    convs = [node for node in model.behind if node.op_type == "Conv"]
    shapes = [model.weight(node).shape for node in convs]
    for one, node in enumerate(convs):
        for two in range(one):
            if shapes[one] == shapes[two] and node.input[1] != convs[two].input[1]:
                node.input[1], convs[two].input[1] = convs[two].input[1], node.input[1]
                return
    raise NotHere


@mutation("claim: stride doubled")
def _(model: Rewritten) -> None:
    model.claims(stride=[2 * n for n in model.claim.stride])


@mutation("claim: native size")
def _(model: Rewritten) -> None:
    model.claims(native_size=[n + 1 for n in model.claim.native_size])


@mutation("claim: padded trunk called exact")
def _(model: Rewritten) -> None:
    if model.claim.verdict == "exact":
        raise NotHere
    model.claims(verdict="exact", blame=[])


@mutation("claim: window too small")
def _(model: Rewritten) -> None:
    raw = json.loads(model.metadata[f"{PREFIX}boundaries"])
    raw[0]["extent"] = [n - 1 for n in raw[0]["extent"]]
    model.claims(boundaries=raw)


@mutation("claim: every second window")
def _(model: Rewritten) -> None:
    raw = json.loads(model.metadata[f"{PREFIX}boundaries"])
    raw[0]["step"] = [2 * n for n in raw[0]["step"]]
    model.claims(boundaries=raw)


@mutation("claim: no boundary")
def _(model: Rewritten) -> None:
    model.claims(boundaries=[])
