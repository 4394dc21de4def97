"""Damaged models: random mutations of bytes and of graphs, each the same for the same generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Rng = np.random.Generator
INTERESTING = (0, 1, -1, 2, 3, 4, 7, 8, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, -(2**31), 2**62, 2**63 - 1)
OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Concat"),
    *(
        "Split",
        "Slice",
        "Gather",
        "Pad",
        "Resize",
        "Upsample",
        "Shape",
        "Size",
        "Expand",
        "Tile",
        "Where",
        "If",
        "Loop",
    ),
    *("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "LpPool", "ReduceMean", "ReduceMax", "ReduceSum"),
    *("Add", "Mul", "Div", "Sub", "Relu", "Softmax", "LogSoftmax", "Sigmoid", "Clip", "Cast", "Identity", "Dropout"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "Einsum", "ArgMax"),
    *("TopK", "CumSum", "DepthToSpace", "SpaceToDepth", "GatherND", "ScatterND", "NonZero", "LSTM", "Constant", "Nope"),
    *("ConstantOfShape", "Range", "GridSample", "RoiAlign", "Attention", "QuantizeLinear", "DequantizeLinear", "Sum"),
    *("QLinearConv", "MatMulInteger", "DynamicQuantizeLinear", "SequenceConstruct", "Optional", "LpNormalization"),
)


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def number(rng: Rng) -> int:
    """A number that some code does not reckon with."""
    return int(pick(rng, INTERESTING)) if rng.random() < 0.6 else int(rng.integers(-9, 300))


# Bytes


def damaged(rng: Rng, data: bytes) -> bytes:
    """A few bytes of a file changed, removed, doubled, put elsewhere, or the rest cut off."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        at, length = int(rng.integers(len(out) or 1)), int(2 ** rng.integers(0, 7))
        how = int(rng.integers(7))
        if how == 0:
            out[at : at + 1] = bytes([int(rng.integers(256))])
        elif how == 1 and at < len(out):
            out[at] ^= 1 << int(rng.integers(8))
        elif how == 2:
            del out[at : at + length]
        elif how == 3:
            out[at:at] = out[at : at + length]
        elif how == 4:
            out[at:at] = rng.bytes(length)
        elif how == 5:
            other = int(rng.integers(len(out) or 1))
            out[at : at + length] = out[other : other + length]
        elif rng.random() < 0.2:
            del out[at:]
    return bytes(out)


# Graphs


def mutated(rng: Rng, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with one to four things in it changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(int(rng.integers(1, 5))):
        with suppress(ValueError, TypeError, LookupError, OverflowError, onnx.checker.ValidationError):
            pick(rng, MUTATIONS)(rng, copy)  # nothing of the kind may be there, and protobuf takes no such values
    return copy


def _node(rng: Rng, model: onnx.ModelProto) -> onnx.NodeProto:
    return pick(rng, model.graph.node)


def _tensors(model: onnx.ModelProto) -> list[str]:
    names = [tensor.name for tensor in model.graph.initializer] + [info.name for info in model.graph.input]
    return names + [name for node in model.graph.node for name in node.output if name]


def _drop_node(rng: Rng, model: onnx.ModelProto) -> None:
    del model.graph.node[int(rng.integers(len(model.graph.node)))]


def _bypass_node(rng: Rng, model: onnx.ModelProto) -> None:
    place = int(rng.integers(len(model.graph.node)))
    gone = model.graph.node[place]
    source, name = gone.input[0], gone.output[0]
    for node in model.graph.node:
        for i, read in enumerate(node.input):
            if read == name:
                node.input[i] = source
    del model.graph.node[place]


def _double_node(rng: Rng, model: onnx.ModelProto) -> None:
    model.graph.node.add().CopyFrom(_node(rng, model))


def _double_under_another_name(rng: Rng, model: onnx.ModelProto) -> None:
    node = model.graph.node.add()
    node.CopyFrom(_node(rng, model))
    for i, name in enumerate(node.output):
        node.output[i] = f"{name}_again"
    model.graph.output.add().name = node.output[0]


def _shuffle(rng: Rng, model: onnx.ModelProto) -> None:
    nodes = [model.graph.node[int(i)] for i in rng.permutation(len(model.graph.node))]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _other_operator(rng: Rng, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    node.op_type = pick(rng, OPERATORS) if rng.random() < 0.9 else ""
    if rng.random() < 0.1:
        node.domain = pick(rng, ("com.microsoft", "ai.onnx", "ai.onnx.ml", "nowhere"))


def _other_input(rng: Rng, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    node.input[int(rng.integers(len(node.input)))] = pick(rng, [*_tensors(model), "", "nobody"])


def _swap_inputs(rng: Rng, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    names = [node.input[int(i)] for i in rng.permutation(len(node.input))]
    node.input[:] = names


def _more_inputs(rng: Rng, model: onnx.ModelProto) -> None:
    _node(rng, model).input.append(pick(rng, [*_tensors(model), ""]))


def _fewer_inputs(rng: Rng, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    del node.input[int(rng.integers(len(node.input)))]


def _other_output(rng: Rng, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    how = int(rng.integers(3))
    if how == 0:
        del node.output[int(rng.integers(len(node.output)))]
    elif how == 1:
        node.output.append(pick(rng, ("", "more", *_tensors(model))))
    else:
        node.output[int(rng.integers(len(node.output)))] = pick(rng, ["", *_tensors(model)])


def _attribute(rng: Rng, model: onnx.ModelProto) -> None:
    node = pick(rng, [node for node in model.graph.node if node.attribute])
    item = pick(rng, node.attribute)
    how = int(rng.integers(8))
    if how == 0:
        node.attribute.remove(item)
    elif how == 1:
        node.attribute.add().CopyFrom(item)
    elif how == 2:
        item.type = pick(rng, AttributeProto.AttributeType.values())
    elif how == 3:
        item.ints.append(number(rng))
    elif how == 4 and item.ints:
        del item.ints[int(rng.integers(len(item.ints)))]
    elif how == 5 and item.ints:
        item.ints[int(rng.integers(len(item.ints)))] = number(rng)
    elif item.type == AttributeProto.INT:
        item.i = number(rng)
    elif item.type == AttributeProto.FLOAT:
        item.f = float(pick(rng, (0, -1, 1e-30, 1e30, np.nan, np.inf)))
    elif item.type == AttributeProto.STRING:
        item.s = pick(rng, (b"", b"SAME_UPPER", b"VALID", b"reflect", b"\xff", b"linear", b"ij,jk->ik", b"NOTSET"))
    elif item.ints:
        item.ints[int(rng.integers(len(item.ints)))] = number(rng)


def _new_attribute(rng: Rng, model: onnx.ModelProto) -> None:
    names = ("axis", "axes", "group", "strides", "pads", "kernel_shape", "ceil_mode", "auto_pad", "perm", "keepdims")
    value = pick(rng, (number(rng), [number(rng) for _ in range(int(rng.integers(1, 5)))], 0.5, "SAME_LOWER"))
    _node(rng, model).attribute.append(helper.make_attribute(pick(rng, names), value))


def _dims(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = pick(rng, model.graph.initializer)
    how = int(rng.integers(4))
    if how == 0:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = number(rng)
    elif how == 1:
        tensor.dims.append(number(rng))
    elif how == 2:
        del tensor.dims[int(rng.integers(len(tensor.dims)))]
    else:
        dims = [tensor.dims[int(i)] for i in rng.permutation(len(tensor.dims))]
        tensor.dims[:] = dims


def _values(rng: Rng, model: onnx.ModelProto) -> None:
    """Small values replaced by others of the same type; floats by what is no number."""
    tensor = pick(rng, model.graph.initializer)
    array = numpy_helper.to_array(tensor).copy()
    flat = array.reshape(-1)
    at = int(rng.integers(flat.size))
    flat[at] = pick(rng, (np.nan, np.inf, 0, 1e38)) if array.dtype.kind == "f" else number(rng)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _data_type(rng: Rng, model: onnx.ModelProto) -> None:
    where = pick(rng, [*model.graph.initializer, *(info.type.tensor_type for info in model.graph.input)])
    value = int(pick(rng, (*TensorProto.DataType.values(), 99, 2**20)))
    if isinstance(where, TensorProto):
        where.data_type = value
    else:
        where.elem_type = value


def _data(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = pick(rng, model.graph.initializer)
    how = int(rng.integers(4))
    if how == 0:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(len(tensor.raw_data)))]
    elif how == 1:
        tensor.ClearField("raw_data")
    elif how == 2:
        tensor.float_data.append(1.0)
    else:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=pick(rng, ("in.onnx", "none", "..", "", "/dev/zero", ".")))


def _drop_initializer(rng: Rng, model: onnx.ModelProto) -> None:
    del model.graph.initializer[int(rng.integers(len(model.graph.initializer)))]


def _initializer_as_input(rng: Rng, model: onnx.ModelProto) -> None:
    tensor = pick(rng, model.graph.initializer)
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _input_dims(rng: Rng, model: onnx.ModelProto) -> None:
    info = pick(rng, [*model.graph.input, *model.graph.input, *model.graph.output, *model.graph.value_info])
    dims = info.type.tensor_type.shape.dim
    how = int(rng.integers(5))
    if how == 0:
        pick(rng, dims).dim_value = number(rng)
    elif how == 1:
        pick(rng, dims).dim_param = pick(rng, ("N", "height", "", "x" * 300))
    elif how == 2:
        del dims[int(rng.integers(len(dims)))]
    elif how == 3:
        dims.add().dim_value = number(rng)
    else:
        pick(rng, dims).Clear()


def _kind_of_value(rng: Rng, model: onnx.ModelProto) -> None:
    info = pick(rng, [*model.graph.input, *model.graph.output])
    kind = info.type.tensor_type.elem_type
    how = int(rng.integers(4))
    if how == 0:
        info.ClearField("type")
    elif how == 1:
        info.type.tensor_type.ClearField("shape")
    elif how == 2:
        info.type.sequence_type.elem_type.tensor_type.elem_type = kind
    else:
        info.type.optional_type.elem_type.tensor_type.elem_type = kind


def _outputs(rng: Rng, model: onnx.ModelProto) -> None:
    how = int(rng.integers(4))
    if how == 0:
        del model.graph.output[int(rng.integers(len(model.graph.output)))]
    elif how == 1:
        model.graph.output.add().name = pick(rng, [*_tensors(model), "nobody", ""])
    elif how == 2:
        model.graph.output.add().CopyFrom(pick(rng, model.graph.output))
    else:
        pick(rng, model.graph.output).name = pick(rng, [*_tensors(model), "nobody"])


def _inputs(rng: Rng, model: onnx.ModelProto) -> None:
    how = int(rng.integers(3))
    if how == 0:
        del model.graph.input[int(rng.integers(len(model.graph.input)))]
    elif how == 1:
        model.graph.input.add().CopyFrom(pick(rng, model.graph.input))
    else:
        info = pick(rng, model.graph.input)
        info.name = pick(rng, [*_tensors(model), "", "other"])


def _versions(rng: Rng, model: onnx.ModelProto) -> None:
    how = int(rng.integers(4))
    if how == 0:
        model.ir_version = number(rng)
    elif how == 1:
        pick(rng, model.opset_import).version = number(rng) if rng.random() < 0.5 else int(rng.integers(5, 26))
    elif how == 2:
        del model.opset_import[int(rng.integers(len(model.opset_import)))]
    else:
        model.opset_import.add(domain=pick(rng, ("", "ai.onnx", "com.microsoft")), version=number(rng))


def _metadata(rng: Rng, model: onnx.ModelProto) -> None:
    """What a rewritten model says of itself."""
    item = pick(rng, model.metadata_props)
    how = int(rng.integers(4))
    if how == 0:
        model.metadata_props.remove(item)
    elif how == 1:
        item.value = pick(
            rng, ("", "[]", "null", "[1]", "{}", "1e999", "[[[[]]]]", "\N{SNOWMAN}", "[-1, 9999999999999]")
        )
    elif how == 2:
        item.value = damaged(rng, item.value.encode()).decode(errors="replace")
    else:
        model.metadata_props.add(key=item.key, value=item.value)


def _subgraph(rng: Rng, model: onnx.ModelProto) -> None:
    """A node moved into both branches of an If whose condition is a constant, an initializer or whatever."""
    place = int(rng.integers(len(model.graph.node)))
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[place])
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    branch = helper.make_graph([node], "branch", [], outputs)
    condition = pick(rng, [*_tensors(model), "yes"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    made = helper.make_node(pick(rng, ("If", "If", "Loop", "Scan")), [condition], [f"{n}_out" for n in node.output])
    made.attribute.extend([helper.make_attribute("then_branch", branch), helper.make_attribute("else_branch", branch)])
    for other in model.graph.node:
        for i, name in enumerate(other.input):
            if name in node.output:
                other.input[i] = f"{name}_out"
    model.graph.node[place].CopyFrom(made)


def _names(rng: Rng, model: onnx.ModelProto) -> None:
    """All nodes of one name, or a tensor of a strange one."""
    if rng.random() < 0.5:
        for node in model.graph.node:
            node.name = "same"
        return
    name, new = (
        pick(rng, _tensors(model)),
        pick(rng, (" ", "a/b\\c", "\n", "\0", "é" * 200, "{}", "%s", "onnxfc:source")),
    )
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, found in enumerate(names):
                if found == name:
                    names[i] = new
    for info in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        if info.name == name:
            info.name = new


MUTATIONS: tuple[Callable[[Rng, onnx.ModelProto], None], ...] = (
    *(_drop_node, _bypass_node, _double_node, _double_under_another_name, _shuffle, _other_operator, _other_operator),
    *(_other_input, _other_input, _swap_inputs, _more_inputs, _fewer_inputs, _other_output, _attribute, _attribute),
    *(_attribute, _new_attribute, _dims, _values, _data_type, _data, _drop_initializer, _initializer_as_input),
    *(_input_dims, _input_dims, _kind_of_value, _outputs, _inputs, _versions, _metadata, _subgraph, _names),
)
