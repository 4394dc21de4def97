"""From a finished draft to a model: everything the rules did not write is the original's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from onnxfc.claim import PREFIX
from onnxfc.graph import Graph, inputs_of, unused_name
from onnxfc.images import SIZE_NAMES, Image
from onnxfc.site import State
from onnxfc.specs import Spec
from onnxfc.views import Fixed


class _Names:
    """One dim_param for each way in which a dim follows the image."""

    def __init__(self, images: Sequence[Image], graph: Graph) -> None:
        self._by_dims: dict[tuple[int, ...], str] = {}
        batches = {_declared(graph, image, 0) for image in images if image.free_batch}
        self._sizes = tuple(f"image_{name}" if name in batches else name for name in SIZE_NAMES[len(images[0].spatial)])
        for image in images:
            probes = image.probes()
            if image.free_batch:
                self._by_dims.setdefault(tuple(probe[0] for probe in probes), _declared(graph, image, 0) or "batch")
            for name, axis in zip(self._sizes, image.spatial, strict=True):
                dims = tuple(probe[axis] for probe in probes)
                if dims not in self._by_dims:  # a second image of another size has dims of its own
                    self._by_dims[dims] = unused_name(name, set(self._by_dims.values()))

    def dim(self, dims: tuple[int, ...], place: int | None) -> int | str | None:
        """A number, a name, or (inside the graph) nothing."""
        if len(set(dims)) == 1:
            return dims[0]
        if dims not in self._by_dims:
            if place is None:
                return None
            name = f"map_{self._sizes[place % len(self._sizes)]}"
            self._by_dims[dims] = unused_name(name, set(self._by_dims.values()))
        return self._by_dims[dims]


def _declared(graph: Graph, image: Image, axis: int) -> str:
    """The name that the original gives a dim of an image."""
    info = next(info for info in graph.inputs if info.name == image.name)
    return str(info.type.tensor_type.shape.dim[axis].dim_param)


def assemble(
    state: State, images: Sequence[Image], axes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """The rewritten model; ``axes`` are the size-dependent axes of each output, ``metadata`` its ``metadata_props``."""
    graph, draft = state.graph, state.draft
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    nodes = draft.prune(graph.outputs)
    names = _Names(images, graph)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _initializers(state, model, nodes)
    for image in images:
        info = next(info for info in model.graph.input if info.name == image.name)
        _set_shape(info, Spec(image.dtype, image.probes()), names, image.spatial)
    for info in model.graph.output:
        _set_shape(info, draft.spec(info.name), names, axes.get(info.name, ()))
    _value_infos(state, model, nodes, names)
    kept = [item for item in model.metadata_props if not item.key.startswith(PREFIX)]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items())
    return model


def _initializers(state: State, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Originals that are still read (or never were), changed ones in their place, new ones behind."""
    graph, new = state.graph, dict(state.draft.tensors)
    used = {name for node in nodes for name in inputs_of(node)} | set(graph.outputs)
    kept = []
    for tensor in graph.proto.initializer:
        replacement = new.pop(tensor.name, tensor)
        if tensor.name in used or graph.uses[tensor.name] == 0:
            kept.append(replacement)
    kept.extend(tensor for tensor in new.values() if tensor.name in used)
    gone = graph.initializers.keys() - {tensor.name for tensor in kept}
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    _initializer_inputs(model, gone, state)
    annotations = [item for item in model.graph.quantization_annotation if item.tensor_name not in gone]
    del model.graph.quantization_annotation[:]
    model.graph.quantization_annotation.extend(annotations)


def _initializer_inputs(model: onnx.ModelProto, gone: set[str], state: State) -> None:
    """Before IR version 4 every initializer is an input as well."""
    inputs = [info for info in model.graph.input if info.name not in gone]
    listed = {info.name for info in inputs}
    new = state.draft.tensors
    for info in inputs:
        if info.name in new:
            info.type.CopyFrom(helper.make_tensor_type_proto(new[info.name].data_type, list(new[info.name].dims)))
    if model.ir_version < 4:
        missing = [tensor for tensor in model.graph.initializer if tensor.name not in listed]
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in missing]
    copies = [onnx.ValueInfoProto.FromString(info.SerializeToString()) for info in inputs]
    del model.graph.input[:]
    model.graph.input.extend(copies)


def _set_shape(info: onnx.ValueInfoProto, spec: Spec, names: _Names, axes: Sequence[int]) -> None:
    """Dims that follow the image become dim_params; the batch keeps the name it has."""
    if spec.shapes is None:
        info.type.tensor_type.ClearField("shape")
        return
    before = list(info.type.tensor_type.shape.dim)
    shape = onnx.TensorShapeProto()
    for axis in range(spec.rank):
        dims = tuple(probe[axis] for probe in spec.shapes)
        value = names.dim(dims, list(axes).index(axis) if axis in axes else None)
        dim = shape.dim.add()
        if len(before) == spec.rank and before[axis].denotation:
            dim.denotation = before[axis].denotation
        if isinstance(value, int):
            dim.dim_value = value
        elif value is not None:
            dim.dim_param = value
    info.type.tensor_type.elem_type = spec.dtype or info.type.tensor_type.elem_type
    info.type.tensor_type.shape.CopyFrom(shape)


def _value_infos(state: State, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: _Names) -> None:
    """The file's own for tensors that did not change; fresh ones for those that did; none for those that are gone."""
    made = {name for node in nodes for name in node.output}
    kept = []
    for info in model.graph.value_info:
        if info.name not in made:
            continue
        spec = state.draft.specs.get(info.name)
        if spec is not None and spec.shapes is not None and not isinstance(state.views.get(info.name), Fixed):
            _set_shape(info, spec, names, ())
        kept.append(onnx.ValueInfoProto.FromString(info.SerializeToString()))
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
