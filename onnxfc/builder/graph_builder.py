"""The new graph while it is being written: nodes in order, changed initializers, specs of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.graph.index import Graph, Names, copied, inputs_of, remarks
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.extents import Extents
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.spec import SMALL, Array, InferenceFailed, Shape, Spec, UnknownShape, of_array

if TYPE_CHECKING:
    from onnxfc.shapes.image_inputs import Image


class GraphBuilder:
    """Collects what the rules write. Original nodes that are kept are the original's own protos.

    ``final`` are the outputs that have their tensors already, ``renamed`` what tensors were called before.
    """

    def __init__(
        self, model: ModelFile, graph: Graph, inference: Inference, probes: int, images: Sequence[Image]
    ) -> None:
        self.model = model
        self.graph = graph
        self.probes = probes
        self.nodes: list[onnx.NodeProto] = []
        self.specs: dict[str, Spec] = {}
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.inference = inference
        self._places: dict[str, int] = {}
        self.extents = Extents.of_images(inference, images, self.specs)
        self._names = graph.names()
        self._node_names = Names(node.name for node in graph.nodes)
        self._built: set[str] = set()
        self.final: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.measured: dict[tuple[str, int, int], str] = {}
        self.reshaped: dict[tuple[str, tuple[int, ...]], str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}

    # Nodes

    def keep(self, node: onnx.NodeProto, inputs: Sequence[str], attributes: Mapping[str, Any] | None = None) -> None:
        """Append an original node, as it is where nothing changed. Raises InferenceFailed.

        ``attributes`` are set on a copy; a value of None removes the attribute.
        """
        if list(inputs) != list(node.input) or attributes:
            node = _changed(node, inputs, attributes or {})
        self._append(node)

    def try_keep(self, node: onnx.NodeProto, inputs: Sequence[str], wanted: Sequence[Shape]) -> bool:
        """As :meth:`keep`, but only if the output gets the ``wanted`` shapes; else nothing is appended."""
        before = len(self.nodes)
        try:
            self.keep(node, inputs)
        except InferenceFailed:
            return False
        if self.specs[node.output[0]].shapes == tuple(wanted):
            return True
        del self.nodes[before:]
        return False

    def emit(
        self,
        op_type: str,
        inputs: Sequence[str],
        outputs: Sequence[str] | str = "",
        *,
        instead: onnx.NodeProto | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a new node and return its first output.

        ``outputs`` given by name are taken as they are. ``instead``: the original node it stands for, whose name, doc
        string and metadata it takes over.
        """
        hint = f"{(instead.name if instead else '') or (inputs[0] if inputs else 'onnxfc')}_{op_type.lower()}"
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        node = helper.make_node(op_type, inputs, [item or self.fresh(hint) for item in names], domain=domain)
        if instead is not None:
            node.MergeFrom(remarks(instead))
        node.name = self.node_name(instead.name if instead else "", hint)
        for key, value in attributes.items():
            if value is not None:
                node.attribute.append(helper.make_attribute(key, value))
        self._append(node)
        return str(node.output[0])

    def node_name(self, wanted: str, hint: str) -> str:
        """``wanted`` for the first node that asks for it, else a name that nothing uses."""
        name = wanted if wanted and wanted not in self._built else self._node_names.unused(hint)
        self._built.add(name)
        return name

    def _append(self, node: onnx.NodeProto) -> None:
        inputs = [self.spec(name) if name else None for name in node.input]
        found = self.inference.infer(node, inputs, self.probes)
        self._place(node)
        for name, spec in zip(node.output, found, strict=True):
            if name and spec is not None:
                self.specs[name] = spec
        if any(spec is not None and spec.values is not None and spec.constant is None for spec in inputs):
            for name in filter(None, node.output):
                self.specs[name] = self._settled(name)

    def _settled(self, name: str) -> Spec:
        """The spec of a value that is computed from the size; where it is alike at all probes, with others too.

        The probes lie on a grid that all strides divide. What is computed from the rest of a division (an amount that
        pads to a multiple of 32, whether a height is even) is the same at all of them, and yet no constant.
        """
        spec = self.specs[name]
        if spec.values is None or spec.constant is None:
            return spec
        self.extents.follow(self.nodes)
        elsewhere = self.extents.elsewhere(name)
        return spec if elsewhere == [] else replace(spec, values=(*spec.values, *(elsewhere or ())), follows=True)

    def follow(self, nodes: Iterable[onnx.NodeProto]) -> onnx.NodeProto | None:
        """Know what comes behind, as far as inference does; nodes that are there already are left out.

        Returns the first that cannot run at all the sizes of the probes, if there is one."""
        stopped: onnx.NodeProto | None = None
        for node in nodes:
            if not self._places.keys() & set(node.output):
                try:
                    self._append(node)
                except InferenceFailed as error:
                    stopped = stopped or (None if isinstance(error, UnknownShape) else node)
                    self.append_unknown(node)
                for name in node.output:
                    self.specs.setdefault(name, Spec(0, None))
        return stopped

    def append_unknown(self, node: onnx.NodeProto) -> None:
        """Append a node of which shape inference knows nothing."""
        self._place(node)

    def _place(self, node: onnx.NodeProto) -> None:
        self._places.update(dict.fromkeys(node.output, len(self.nodes)))
        self.nodes.append(node)

    def amend(self, node: onnx.NodeProto, inputs: Sequence[str], output: str) -> None:
        """Give a node of the new graph other inputs and another name for its one output."""
        self.specs[output] = self.specs.pop(node.output[0])
        self._places[output] = self._places[node.output[0]]
        self.extents.forget()
        node.input[:] = inputs
        node.output[:] = [output]

    def is_new(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the new graph was written by a rule rather than kept from the original."""
        return node.name in self._built

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """The node of the new graph that makes a tensor."""
        place = self._places.get(tensor, len(self.nodes))
        if place < len(self.nodes) and tensor in self.nodes[place].output:
            return self.nodes[place]
        return None  # taken back, or never drafted

    # Tensors

    def spec(self, name: str) -> Spec:
        return self.specs[name]

    def fresh(self, hint: str) -> str:
        """A tensor name that nothing uses."""
        return self._names.unused(hint)

    def constant(self, value: Array | Sequence[int] | int, hint: str = "const") -> str:
        """A new initializer, shared where an equal small one exists. Python numbers become int64."""
        array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.asarray(value, np.int64)
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= SMALL else (object(),)
        if key not in self._constants:
            name = self.fresh(f"onnxfc_{hint}")
            self.add_tensor(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name), array)
            self._constants[key] = name
        return self._constants[key]

    def add_tensor(self, tensor: onnx.TensorProto, array: Array | None = None) -> None:
        """Add or replace an initializer."""
        self._names.add(tensor.name)
        self.tensors[tensor.name] = tensor
        shape = tuple(tensor.dims)
        spec = of_array(array, self.probes) if array is not None else None
        self.specs[tensor.name] = spec or Spec(int(tensor.data_type), (shape,) * self.probes)

    def rename(self, old: str, new: str) -> bool:
        """Call a tensor of the new graph ``new`` everywhere; False where its name is not ours to change.

        A tensor of the new graph that is called ``new`` already makes room.
        """
        if self.producer(old) is None or old in self.final:
            return False
        if any(old not in node.input and old in inputs_of(node) for node in self.nodes):  # a subgraph reads it
            return False
        if self.producer(new) is not None and not self.rename(new, self.fresh(f"{new}_inner")):
            return False
        self.nodes = [_renamed(node, old, new) for node in self.nodes]
        self._places[new] = self._places[old]
        self.specs[new] = self.specs.pop(old)
        self.extents.forget()
        self.renamed = {before: new if now == old else now for before, now in self.renamed.items()} | {old: new}
        return True


def _changed(node: onnx.NodeProto, inputs: Sequence[str], attributes: Mapping[str, Any]) -> onnx.NodeProto:
    kept = [item for item in node.attribute if item.name not in attributes]
    new = [helper.make_attribute(key, value) for key, value in attributes.items() if value is not None]
    return copied(node, input=inputs, attribute=[*kept, *new])


def _renamed(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    if old not in node.input and old not in node.output:
        return node
    inputs, outputs = ([new if name == old else name for name in names] for names in (node.input, node.output))
    return copied(node, input=inputs, output=outputs)
