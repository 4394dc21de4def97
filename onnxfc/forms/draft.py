"""A model while its form is changed: its nodes, what is known of its tensors, its new initializers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx
from onnx import helper

from onnxfc.graph.index import Graph, Names, copied, inputs_of, needed, refill, subgraphs
from onnxfc.graph.op_kinds import MICROSOFT
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Array, Spec


@dataclass(frozen=True)
class Draft:
    """``specs``: all tensors at the size of the image that the form is for, at several batches where that is free.
    ``kept``: tensors that must be there under their names. ``new``: initializers to be added. ``done``: nodes that were
    written in another way, what they were and what they are."""

    model: ModelFile = field(repr=False)
    graph: Graph = field(repr=False)
    nodes: tuple[onnx.NodeProto, ...]
    specs: Mapping[str, Spec] = field(repr=False)
    kept: frozenset[str]
    new: Mapping[str, onnx.TensorProto] = field(default_factory=dict)
    done: tuple[tuple[str, str, str], ...] = ()

    def with_nodes(
        self,
        nodes: Iterable[onnx.NodeProto],
        new: Mapping[str, Array | onnx.TensorProto] | None = None,
        specs: Mapping[str, Spec] | None = None,
    ) -> Draft:
        """These nodes, as far as an output needs them, with some constants more and what is known of new tensors."""
        live = needed(list(nodes), self.kept)
        tensors = {name: self._tensor(name, value) for name, value in (new or {}).items()}
        shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
        own = {name: spec.native for name in shapes if (spec := self.specs.get(name)) is not None}
        known = {name: Spec(tensors[name].data_type, (dims,)) for name, dims in shapes.items() if own.get(name) != dims}
        return replace(
            self, nodes=tuple(live), new={**self.new, **tensors}, specs={**self.specs, **known, **(specs or {})}
        )

    def remarked(self, done: Iterable[tuple[str, str, str]]) -> Draft:
        """The same, with more to be told of it."""
        return replace(self, done=(*self.done, *done))

    def _tensor(self, name: str, value: Array | onnx.TensorProto) -> onnx.TensorProto:
        if not isinstance(value, onnx.TensorProto):
            return self.model.tensor(name, value)
        tensor = copied(value)
        tensor.name = name
        return tensor

    def names(self) -> Names:
        """All names in use, of tensors and of nodes."""
        found = self.graph.names()
        for name in (*self.specs, *self.new, *(node.name for node in self.graph.nodes)):
            found.add(name)
        return found

    def constant(self, name: str) -> Array | None:
        """The small value of a tensor that no input reaches."""
        spec = self.specs.get(name)
        return None if spec is None else spec.constant

    def producer(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a tensor."""
        return next((node for node in self.nodes if name in node.output), None)

    def is_idle_shape(self, before: str, after: str) -> bool:
        """Whether two tensors have one shape and type."""
        one, other = self.specs.get(before), self.specs.get(after)
        known = one is not None and other is not None and one.shapes is not None
        return known and (one.dtype, one.shapes) == (other.dtype, other.shapes)  # type: ignore[union-attr]


def renamed(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> list[onnx.NodeProto]:
    """The nodes with other names of tensors; those that have none of them are the very same."""
    found = []
    for node in nodes:
        if any(name in names for name in (*node.input, *node.output)):
            ends = {"input": node.input, "output": node.output}
            node = copied(node, **{key: [names.get(name, name) for name in own] for key, own in ends.items()})
        found.append(node)
    return found


def captured_names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """What subgraphs read, which is not renamed."""
    return {name for node in nodes if any(subgraphs(node)) for name in inputs_of(node)}


def finished(draft: Draft) -> onnx.ModelProto:
    """The model with the draft's nodes, and all shapes as far as they are known."""
    model = copied(draft.model.proto)
    refill(model.graph, node=draft.nodes)
    new = {node.domain for node in draft.nodes} & {MICROSOFT} - draft.graph.opsets.keys()
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in new)
    _initializers(draft, model)
    for info in (*model.graph.input, *model.graph.output):
        if info.name in draft.specs and info.name not in draft.graph.initializers:
            _declare(info, draft.specs[info.name])
    told = {info.name: copied(info) for info in model.graph.value_info}
    for name in (made for node in draft.nodes for made in node.output if made and made not in draft.graph.outputs):
        spec = draft.specs.get(name)
        if spec is not None and spec.shapes is not None and (spec.dtype or name in told):
            _declare(told.setdefault(name, onnx.ValueInfoProto(name=name)), spec)
    made = {name for node in draft.nodes for name in node.output} - {*draft.graph.outputs}
    refill(model.graph, value_info=[info for name, info in told.items() if name in made])
    return model


def _initializers(draft: Draft, model: onnx.ModelProto) -> None:
    """Those that are read, and those that never were; before IR version 4 they are inputs as well."""
    used = {name for node in draft.nodes for name in inputs_of(node)} | draft.kept
    old = [item for item in model.graph.initializer if item.name in used or draft.graph.uses[item.name] == 0]
    old = [item for item in old if item.name not in draft.new]
    new = [item for item in draft.new.values() if item.name in used]
    gone = draft.graph.initializers.keys() - {item.name for item in (*old, *new)}
    inputs = [copied(info) for info in model.graph.input if info.name not in gone | draft.new.keys()]
    if model.ir_version < 4:
        inputs += [helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)) for item in new]
    annotations = [item for item in model.graph.quantization_annotation if item.tensor_name not in gone]
    refill(model.graph, initializer=[*old, *new], input=inputs, quantization_annotation=map(copied, annotations))


def _declare(info: onnx.ValueInfoProto, spec: Spec) -> None:
    """The shape as numbers; a dim of the batch, where that is free, keeps its name."""
    tensor = info.type.tensor_type
    tensor.elem_type = tensor.elem_type or spec.dtype
    if spec.shapes is None:
        return
    before = (
        list(tensor.shape.dim)
        if len(tensor.shape.dim) == spec.rank
        else [onnx.TensorShapeProto.Dimension()] * spec.rank
    )
    dims = []
    for axis, dim in enumerate(map(copied, before)):
        if not spec.varies(axis):
            dim.dim_value = spec.native[axis]
        elif not dim.dim_param:
            dim.ClearField("value")
        dims.append(dim)
    tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=dims))
