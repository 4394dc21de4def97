"""From a finished graph to a model: everything the rules did not write is the original's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from onnxfc.builder.state import State
from onnxfc.claim.claim import PREFIX
from onnxfc.graph.index import copied, inputs_of, needed, refill
from onnxfc.layout.views import Fixed
from onnxfc.rewriter.block_weights import block_weights
from onnxfc.rewriter.in_integers import contributed_again, in_integers
from onnxfc.rewriter.integer_products import integer_products
from onnxfc.shapes.dim_params import DimNames
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.spec import Spec


def assemble(
    state: State,
    images: Sequence[Image],
    axes: Mapping[str, tuple[int, ...]],
    metadata: Mapping[str, str],
    names: DimNames,
    source: onnx.GraphProto,
    walked: onnx.ModelProto,
) -> onnx.ModelProto:
    """The rewritten model.

    ``source`` is the graph as the file has it, ``walked`` the model with all on the image's way inlined. ``axes`` are
    the size-dependent axes of each output, ``metadata`` its ``metadata_props``.
    """
    graph, builder = state.graph, state.builder
    nodes = in_integers(needed(builder.nodes, graph.outputs), graph, source)
    nodes = block_weights(integer_products(nodes, builder, walked), state.quantised.blocks)
    nodes = contributed_again(nodes, walked.graph)
    model = copied(graph.model)
    refill(model.graph, node=nodes)
    _initializers(state, model, nodes)
    for image in images:
        info = next(info for info in model.graph.input if info.name == image.name)
        _set_shape(info, Spec(image.dtype, image.probes()), names, image.spatial)
    for info in model.graph.output:
        if isinstance(state.views[info.name], Fixed) and info.type.tensor_type.HasField("shape"):
            continue  # what the image does not reach is as it was declared, its batch too
        _set_shape(info, builder.spec(info.name), names, axes.get(info.name, ()))
    _value_infos(state, model, nodes, names)
    kept = [item for item in model.metadata_props if not item.key.startswith(PREFIX)]
    new = [onnx.StringStringEntryProto(key=key, value=value) for key, value in metadata.items()]
    refill(model, metadata_props=[*kept, *new])
    return model


def _initializers(state: State, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Originals that are still read (or never were), changed ones in their place, new ones behind."""
    graph, new = state.graph, dict(state.builder.tensors)
    used = {name for node in nodes for name in inputs_of(node)} | set(graph.outputs)
    kept = []
    for tensor in graph.proto.initializer:
        replacement = new.pop(tensor.name, tensor)
        if tensor.name in used or graph.uses[tensor.name] == 0:
            kept.append(replacement)
    kept.extend(tensor for tensor in new.values() if tensor.name in used)
    gone = graph.initializers.keys() - {tensor.name for tensor in kept}
    annotations = [item for item in model.graph.quantization_annotation if item.tensor_name not in gone]
    refill(model.graph, initializer=kept, quantization_annotation=annotations)
    _initializer_inputs(model, gone, state)


def _initializer_inputs(model: onnx.ModelProto, gone: set[str], state: State) -> None:
    """Before IR version 4 every initializer is an input as well."""
    inputs = [info for info in model.graph.input if info.name not in gone]
    listed = {info.name for info in inputs}
    new = state.builder.tensors
    for info in inputs:
        if info.name in new:
            info.type.CopyFrom(helper.make_tensor_type_proto(new[info.name].data_type, list(new[info.name].dims)))
    if model.ir_version < 4:
        missing = [tensor for tensor in model.graph.initializer if tensor.name not in listed]
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in missing]
    refill(model.graph, input=map(copied, inputs))


def _set_shape(info: onnx.ValueInfoProto, spec: Spec, names: DimNames, axes: Sequence[int]) -> None:
    """Dims that follow the image become dim_params; the batch keeps the name it has."""
    if spec.shapes is None:
        info.type.tensor_type.ClearField("shape")
        return
    before = list(info.type.tensor_type.shape.dim)
    shape = onnx.TensorShapeProto()
    for axis in range(spec.rank):
        value = names.of(info.name, spec, axis, list(axes).index(axis) if axis in axes else None)
        dim = shape.dim.add()
        if len(before) == spec.rank and before[axis].denotation:
            dim.denotation = before[axis].denotation
        if isinstance(value, int):
            dim.dim_value = value
        else:
            dim.dim_param = value
    info.type.tensor_type.elem_type = spec.dtype or info.type.tensor_type.elem_type
    info.type.tensor_type.shape.CopyFrom(shape)


def _value_infos(state: State, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: DimNames) -> None:
    """The file's own where no dim changed, fresh ones for all that follows the image; none for those that are gone.

    Without names onnxruntime cannot tell that two maps have one size, and leaves a Conv and the Add behind it apart.
    """
    made = [name for node in nodes for name in node.output if name]
    present = set(made)
    kept = {info.name: copied(info) for info in model.graph.value_info if info.name in present}
    outputs = {info.name for info in model.graph.output}
    for name in made:
        spec = state.builder.specs.get(name)
        if name in outputs or spec is None or spec.shapes is None or not spec.dtype:
            continue
        if len(set(spec.shapes)) > 1 or (name in kept and not isinstance(state.views.get(name), Fixed)):
            _set_shape(kept.setdefault(name, onnx.ValueInfoProto(name=name)), spec, names, ())
    refill(model.graph, value_info=kept.values())
