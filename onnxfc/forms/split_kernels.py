"""Kernels that are larger than an accelerator takes, as smaller ones.

A Conv whose kernel covers its map is a 1x1 Conv of as many channels as the map has elements: Reshape moves nothing, and
the weight keeps its bytes. Any other is the sum of Convs of parts of its kernel, each on the part of the map that it
reads, which costs an Add for each part but the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.forms.draft import Draft
from onnxfc.forms.weights import Weight, quantised_again, weight_of
from onnxfc.graph.index import Names, attributes, copied, label, remarks
from onnxfc.graph.op_kinds import KERNELS, WEIGHT_AT
from onnxfc.shapes.spec import Array, Shape, Spec

_QDQ = "leave out --max-kernel, or quantise the floats as QDQ (quant_format=QuantFormat.QDQ)"


def split_kernels(draft: Draft, most: int) -> Draft:
    """No Conv with a kernel above ``most`` on an axis; all attributes of Convs are told. Raises NothingToRewrite."""
    return _Splitting(draft, most).run()


class _Splitting:
    def __init__(self, draft: Draft, most: int) -> None:
        self.draft, self.most = draft, most
        self.names: Names = draft.names()
        self.nodes: list[onnx.NodeProto] = []
        self.new: dict[str, Array | onnx.TensorProto] = {}
        self.specs: dict[str, Spec] = {}
        self.remarks: list[tuple[str, str, str]] = []

    def run(self) -> Draft:
        for node in self.draft.nodes:
            kernel = attributes(node).get("kernel_shape", [0]) if node.op_type in KERNELS else [0]
            if max(kernel) <= self.most:
                self.nodes.append(node)
                continue
            weight = weight_of(self.draft, node.input[WEIGHT_AT[node.op_type]])
            if weight is None or not weight.scaled_along(0):
                raise _refused(node, "has a kernel that is larger than wanted, and a weight that the graph computes")
            outputs, channels = weight.value.shape[:2]
            before = f"{node.op_type} {'x'.join(map(str, kernel))} {channels}→{outputs}"
            self.remarks.append((label(node), before, self._split(node, weight)))
        return self.draft.with_nodes(self.nodes, self.new, self.specs).remarked(self.remarks)

    def _split(self, node: onnx.NodeProto, weight: Weight) -> str:
        """Write the node in another way; says in which."""
        told = attributes(node)
        data, after = self.draft.specs[node.input[0]].native, self.draft.specs[node.output[0]].native
        one = told["group"] == 1 and not any(told["pads"]) and set(after[2:]) == {1}
        if one and weight.value.shape[1:] == data[1:]:
            self._as_channels(node, weight, data)
            return f"Reshape and {node.op_type} 1x1 {math.prod(data[1:])}→{after[1]}"
        if node.op_type != "Conv":
            raise _refused(node, "is on integers: a sum of parts of its kernel would be rounded part by part", _QDQ)
        count = self._as_sum(node, weight, data, after)
        return f"the sum of {count} Convs up to {self.most}x{self.most}{', in floats' if weight.by else ''}"

    def _as_channels(self, node: onnx.NodeProto, weight: Weight, data: Shape) -> None:
        """The whole map as channels of one place."""
        dims = (1, math.prod(data[1:]), 1, 1)
        target = self._hold(f"{node.input[0]}_shape", np.array([0, *dims[1:]], np.int64))
        flat = self._made(f"{node.input[0]}_channels", node.input[0], (data[0], *dims[1:]))
        self._add("Reshape", [node.input[0], target], flat, node)
        for item in quantised_again(self.draft, node.input[0]):
            made = self._made(f"{flat}_{item.op_type.lower()}", item.like, (data[0], *dims[1:]))
            flat = self._add(item.op_type, [flat, *item.given], made, node, domain=item.domain)
        tensor = copied(weight.tensor, dims=(len(weight.value), *dims[1:]))
        held = self._weight(weight, f"{weight.name}_channels", tensor, tuple(tensor.dims))
        window = {"kernel_shape": [1, 1], "strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "group": 1}
        at = WEIGHT_AT[node.op_type]
        given = [flat, *node.input[1:at], held, *node.input[at + 1 :]]
        self._add(node.op_type, given, node.output[0], node, **window)

    def _weight(self, weight: Weight, hint: str, value: Array | onnx.TensorProto, shape: Shape) -> str:
        """A weight more, of integers behind a DequantizeLinear where it is."""
        held = self._hold(hint, value)
        if weight.by is None:
            return held
        made = weight.again(held, 0, "part", self.names)
        self.nodes += made
        self.specs |= weight.specs(self.draft, made, shape)
        return str(made[-1].output[0])

    def _as_sum(self, node: onnx.NodeProto, weight: Weight, data: Shape, after: Shape) -> int:
        """Parts of the kernel, each on what it reads of the map; the bias is the first one's."""
        told, total = attributes(node), ""
        found = [
            (part, *zip(*_reads(part, told, data[2:], after[2:]), strict=True)) for part in self._parts(weight.value)
        ]
        parts = [item for item in found if all(first < last for first, last in item[1])]  # others read pads alone
        for number, (part, cut, pads) in enumerate(parts, 1):
            place = tuple(slice(first, last) for first, last in part)
            value = np.ascontiguousarray(weight.value[(slice(None), slice(None), *place)])
            name = self._weight(weight, f"{weight.name}_part", value, value.shape)
            window = {
                "kernel_shape": [last - first for first, last in part],
                "strides": told["strides"],
                "pads": [*(before for before, _ in pads), *(behind for _, behind in pads)],
                "dilations": told["dilations"],
                "group": told["group"],
            }
            inputs = [self._cut(node, data, cut), name, *(node.input[2:] if number == 1 else [])]
            last = node.output[0] if number == len(parts) else ""
            made = last if number == len(parts) == 1 else self._made(f"{node.output[0]}_part", node.output[0], after)
            self._add("Conv", inputs, made, node, **window)
            if total:
                made = self._add("Add", [total, made], last or self._made(f"{total}_sum", node.output[0], after), node)
            total = made
        return len(parts)

    def _parts(self, weight: Array) -> Iterator[tuple[tuple[int, int], ...]]:
        """Where each part of a kernel begins and ends, on both axes; parts are as alike as can be."""
        axes = []
        for length in weight.shape[2:]:
            count = -(-length // self.most)
            axes.append(list(pairwise(length * number // count for number in range(count + 1))))
        yield from ((rows, columns) for rows in axes[0] for columns in axes[1])

    def _cut(self, node: onnx.NodeProto, data: Shape, cut: Sequence[tuple[int, int]]) -> str:
        """These rows and columns of the map; the map itself where that is all of it."""
        if all(pair == (0, length) for pair, length in zip(cut, data[2:], strict=True)):
            return str(node.input[0])
        bounds = {"starts": [first for first, _ in cut], "ends": [last for _, last in cut], "axes": [2, 3]}
        made = self._made(f"{node.input[0]}_cut", node.input[0], (*data[:2], *(last - first for first, last in cut)))
        if self.draft.graph.opset < 10:
            return self._add("Slice", [node.input[0]], made, node, **bounds)
        held = [self._hold(f"{made}_{key}", np.array(value, np.int64)) for key, value in bounds.items()]
        return self._add("Slice", [node.input[0], *held], made, node)

    def _add(self, op_type: str, inputs: Sequence[str], output: str, node: onnx.NodeProto, **told: Any) -> str:
        """One of the nodes that ``node`` becomes."""
        name = self.names.unused(f"{node.name}_{op_type.lower()}")
        made = helper.make_node(op_type, list(inputs), [output], name=name, **told)
        if op_type == node.op_type:
            made.MergeFrom(remarks(node))
        self.nodes.append(made)
        return output

    def _made(self, hint: str, like: str, shape: Sequence[int]) -> str:
        name = self.names.unused(hint)
        self.specs[name] = Spec(self.draft.specs[like].dtype, (tuple(shape),))
        return name

    def _hold(self, hint: str, value: Array | onnx.TensorProto) -> str:
        name = self.names.unused(hint)
        self.new[name] = value
        return name


def _refused(node: onnx.NodeProto, why: str, advice: str = "leave out --max-kernel") -> NothingToRewrite:
    refusal = Refusal("form-kernel", label(node), why, advice)
    return NothingToRewrite(str(refusal), (refusal,))


def _reads(
    part: Sequence[tuple[int, int]], told: Mapping[str, Any], extent: Sequence[int], after: Sequence[int]
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """What a part of a kernel reads of each axis, and the pads around that."""
    for axis, (first, last) in enumerate(part):
        stride, dilation, pad = (told[key][axis] for key in ("strides", "dilations", "pads"))
        begin = first * dilation - pad
        end = begin + (after[axis] - 1) * stride + (last - first - 1) * dilation + 1
        inner = max(0, begin), min(extent[axis], end)
        yield inner, (inner[0] - begin, end - inner[1])
