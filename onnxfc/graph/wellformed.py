"""Malformed graphs are found before anything works on them: one line that says what, and where.

One pass over the protobuf: names that nobody or two nodes make, circles, nodes that are no calls of their operator,
tensors whose values do not fit their dims, and versions that are none. It looks at no weight.
What onnxruntime runs passes; what no runtime can run does not. https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import AttributeProto, TensorProto, defs

from onnxfc.errors import ReadError
from onnxfc.graph.function_calls import calls_problem, circle
from onnxfc.graph.index import canonical_domain, inputs_of, label, subgraphs
from onnxfc.graph.op_kinds import MICROSOFT, NCHWC, OF_RUNTIME
from onnxfc.io.external_data import all_tensors, raw_size
from onnxfc.io.model_file import ModelFile

_LARGEST_IR = 1000  # onnx counts them one by one, and is at 14; onnxruntime says which it takes
_LARGEST_OPSET = 2**31 - 1

_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT64: "uint64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.STRING: "string_data",
    **dict.fromkeys(
        (TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT16, TensorProto.UINT8), "int32_data"
    ),
    **dict.fromkeys((TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16), "int32_data"),
}
"""Where values are that are not raw, one to an element. https://onnx.ai/onnx/repo-docs/IR.html#standard-data-types"""

_A = AttributeProto
_VALUES: Mapping[int, str] = {_A.TENSOR: "t", _A.GRAPH: "g", _A.SPARSE_TENSOR: "sparse_tensor"}
"""The attributes that are messages, without which there is no value."""


def well_formed(model: ModelFile) -> None:
    """Raises ReadError where the model is none that could be run."""
    problem = next(_problems(model), None)
    if problem is not None:
        raise malformed(model, problem)


def malformed(model: ModelFile, problem: str) -> ReadError:
    """What is said of a model that no runtime can run."""
    return ReadError(f"{model.path or 'the given model'}: is malformed: {problem}")


def objection_of_onnx(model: ModelFile) -> str:
    """What onnx's own checker says of a model, "" if nothing. It takes long, and objects to much that runs: it is asked
    only about a model that cannot be followed."""
    if model.proto.ByteSize() + sum(raw_size(tensor) or 0 for tensor in all_tensors(model.proto)) > _CHECKED:
        return ""
    try:
        onnx.checker.check_model(model.loaded(), full_check=True)
    except Exception as error:  # of no common base
        return str(error).strip().splitlines()[0].removeprefix("[ShapeInferenceError] ")[:_TOLD]
    return ""


_CHECKED, _TOLD = 1 << 28, 200
"""Bytes of a model that is given to it, and letters of what it says."""


def _problems(model: ModelFile) -> Iterator[str]:
    """The first is told; behind it, nothing else can be relied on."""
    proto = model.proto
    yield from _versions(proto)
    for tensor in all_tensors(proto):
        yield from _tensor(model, tensor)
    schemas = _Schemas(proto)
    yield from _graph(proto.graph, frozenset(), schemas, "", bound=False)
    for function in proto.functions:
        yield from _function(function, schemas)
    if problem := calls_problem(proto):
        yield problem


def _versions(proto: onnx.ModelProto) -> Iterator[str]:
    if not 0 <= proto.ir_version <= _LARGEST_IR:
        yield f"there is no IR version {proto.ir_version}"
    for item in (*proto.opset_import, *(item for function in proto.functions for item in function.opset_import)):
        if not 0 <= item.version <= _LARGEST_OPSET:
            yield f"there is no version {item.version} of operator set {item.domain or 'ai.onnx'!r}"


def _tensor(model: ModelFile, tensor: TensorProto) -> Iterator[str]:
    where = f"tensor {tensor.name!r}"
    if tensor.data_type not in TensorProto.DataType.values() or not tensor.data_type:
        yield f"{where} has no data type that is known ({tensor.data_type})"
    if any(dim < 0 for dim in tensor.dims):
        yield f"{where} has a negative dim: {dims_text(tensor.dims)}"
    span, wanted = model.store.span(tensor), math.prod(tensor.dims)
    if span is not None or tensor.raw_data:
        have, need = len(tensor.raw_data) if span is None else len(span), raw_size(tensor)
        if need is not None and have != need:
            yield f"{where} with dims {dims_text(tensor.dims)} needs {need:,} bytes, it has {have:,}"
    elif tensor.data_type in _FIELDS:
        count = len(getattr(tensor, _FIELDS[tensor.data_type]))
        if count != wanted:
            yield f"{where} with dims {dims_text(tensor.dims)} needs {wanted:,} values, it has {count:,}"


def dims_text(dims: Iterable[int]) -> str:
    return "x".join(map(str, dims)) or "()"


def _graph(
    graph: onnx.GraphProto, outer: frozenset[str], schemas: _Schemas, where: str, *, bound: bool
) -> Iterator[str]:
    """``outer``: the tensors that a subgraph can see; ``where``: how messages call it; ``bound``: it stands in a
    function, whose attributes its nodes may refer to."""
    given = [info.name for info in graph.input]
    constant = [tensor.name for tensor in graph.initializer]
    constant += [sparse.values.name for sparse in graph.sparse_initializer]
    yield from _twice(given, "input", where)
    yield from _twice(constant, "initializer", where)
    own = {*given, *constant}
    yield from _nodes(graph.node, own, outer, where)
    made = {name for node in graph.node for name in node.output}
    for info in graph.output:
        if info.name not in own | made | outer:
            yield f"nobody makes the output {info.name!r}{where}"
    yield from _lists(graph, where)
    visible = frozenset(own | made | outer)
    for node in graph.node:
        yield from _call(node, schemas, where, bound=bound)
        for inner in subgraphs(node):
            yield from _graph(inner, visible, schemas, f" in a subgraph of node {label(node)!r}", bound=bound)


_LISTS = {
    **dict.fromkeys(("Expand", "Pad", "Reshape", "Squeeze", "Tile", "Unsqueeze"), (1,)),
    "Slice": (1, 2, 3, 4),
}
"""Inputs that are a list of numbers."""


def _lists(graph: onnx.GraphProto, where: str) -> Iterator[str]:
    """What is read as a list has one axis; a single number may stand for one, but for the bounds of a Slice."""
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    ranks |= {node.output[0]: len(item.t.dims) for node in graph.node for item in node.attribute if item.HasField("t")}
    for node in graph.node:
        places = (1,) if node.op_type.startswith("Reduce") else _LISTS.get(node.op_type, ())
        for name in (node.input[place] for place in places if place < len(node.input)):
            if ranks.get(name, 1) > 1 or (ranks.get(name) == 0 and node.op_type == "Slice"):
                yield f"node {label(node)!r}{where} ({node.op_type}) reads {name!r} as a list, of {ranks[name]} axes"


def _function(function: onnx.FunctionProto, schemas: _Schemas) -> Iterator[str]:
    where = f" in function {function.name!r}"
    yield from _nodes(function.node, set(function.input), frozenset(), where)
    made = {*function.input, *(name for node in function.node for name in node.output)}
    for name in function.output:
        if name not in made:
            yield f"nobody makes the output {name!r}{where}"
    for node in function.node:
        for inner in subgraphs(node):
            yield from _graph(inner, frozenset(made), schemas, f" in a subgraph{where}", bound=True)


def _twice(names: Iterable[str], what: str, where: str) -> Iterator[str]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"there are {count} {what}s called {name!r}{where}"


def _nodes(nodes: Iterable[onnx.NodeProto], own: set[str], outer: frozenset[str], where: str) -> Iterator[str]:
    """Each tensor is made once, by a node, and each node reads what there is. ``own``: inputs and initializers."""
    nodes = list(nodes)
    makers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        if not node.op_type:
            yield f"node {label(node)!r}{where} has no operator"
        if not any(node.output):
            yield f"node {label(node)!r}{where} ({node.op_type}) has no output"
        for name in filter(None, node.output):
            if name in makers:
                yield f"two nodes make the tensor {name!r}: {label(nodes[makers[name]])!r} and {label(node)!r}{where}"
            if name in own:
                yield f"node {label(node)!r}{where} makes {name!r}, which is an input or initializer"
            makers[name] = position
    for node in nodes:
        for name in inputs_of(node):
            if name not in makers and name not in own and name not in outer:
                yield f"node {label(node)!r}{where} ({node.op_type}) reads {name!r}, which nobody makes"
    yield from _circle(nodes, makers, where)


def _circle(nodes: list[onnx.NodeProto], makers: Mapping[str, int], where: str) -> Iterator[str]:
    needs = {place: {makers[name] for name in inputs_of(node) if name in makers} for place, node in enumerate(nodes)}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        names = [label(nodes[place]) for place in reversed(error.args[1])]
        yield f"nodes need each other's outputs in a circle{where}: {circle(names)}"


class _Schemas:
    """The operators' schemas under one model's opset imports; None where there is none that onnx knows."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._opsets = {canonical_domain(item.domain): int(item.version) for item in proto.opset_import}
        self._own = {(canonical_domain(item.domain), item.name) for item in proto.functions}
        self._known: dict[tuple[str, str], defs.OpSchema | None] = {}

    def of(self, node: onnx.NodeProto) -> defs.OpSchema | None:
        key = (canonical_domain(node.domain), node.op_type)
        if key not in self._known:
            self._known[key] = None if key in self._own else self._find(*key)
        return self._known[key]

    def is_newer(self, node: onnx.NodeProto) -> bool:
        """Whether only a later version of the operator set has it."""
        key = (canonical_domain(node.domain), node.op_type)
        return node.op_type not in OF_RUNTIME and key not in self._own and bool(defs.has(node.op_type, domain=key[0]))

    def _find(self, domain: str, op_type: str) -> defs.OpSchema | None:
        try:
            return defs.get_schema(op_type, max_inclusive_version=self._opsets.get(domain, 1), domain=domain)
        except defs.SchemaError:
            return None


def _call(node: onnx.NodeProto, schemas: _Schemas, where: str, *, bound: bool) -> Iterator[str]:
    """The node has as many inputs and outputs as its operator, and the attributes that it needs, of their type."""
    called = f"node {label(node)!r}{where} ({node.op_type})"
    yield from (f"{called}: {problem}" for item in node.attribute for problem in _attribute(item, bound))
    yield from _twice((item.name for item in node.attribute), "attribute", f" of {called}")
    schema = schemas.of(node)
    if schema is None and canonical_domain(node.domain) == MICROSOFT:
        yield from (f"{called} {problem}" for problem in _contributed(node))
    if schema is None and node.domain == NCHWC:
        yield from (f"{called} {problem}" for problem in _in_blocks(node))
    if schema is None:
        if schemas.is_newer(node):
            yield f"{called}: there is no such operator yet in the version of its operator set that the model imports"
        return
    yield from (f"{called} {problem}" for problem in _operands(node, schema))
    yield from (f"{called}{problem}" for problem in _attributes(node, schema))


def _operands(node: onnx.NodeProto, schema: defs.OpSchema) -> Iterator[str]:
    """As many inputs and outputs as the operator has, none left out that it needs."""
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            yield f"has {count} {what}, its operator has {_range(least, most)}"
    equations = [item.s for item in node.attribute if item.name == "equation"] if node.op_type == "Einsum" else []
    if any(equation.count(b",") + 1 != len(node.input) for equation in equations):
        yield f"has {len(node.input)} inputs, its equation {equations[0].count(b',') + 1} terms"
    parts = [item.i for item in node.attribute if item.name == "num_outputs"] if node.op_type == "Split" else []
    if parts and len(node.output) > parts[0]:  # of which onnx's inference aborts
        yield f"has {len(node.output)} outputs, its num_outputs says {parts[0]}"
    formals = list(schema.inputs)
    for position, name in enumerate(node.input if formals else ()):
        formal = formals[min(position, len(formals) - 1)]  # the last one may stand for many
        if not name and formal.option != defs.OpSchema.FormalParameterOption.Optional:
            yield f"lacks its input {formal.name!r}"


def _contributed(node: onnx.NodeProto) -> Iterator[str]:
    """Inputs, outputs and attributes of onnxruntime's own operators, as far as they are read: onnx knows none."""
    least = _LEAST_INPUTS.get(node.op_type, 0)
    if len(node.input) < least or (node.op_type == "QLinearConcat" and len(node.input) % 3 != 2):
        yield f"has {len(node.input)} inputs, its operator has at least {least}"
    for place, name in enumerate(node.input[:least]):
        if not name and place not in _ZERO_POINTS:
            yield f"lacks its input {place}"
    if least and not node.output:
        yield "has no output"
    for item in node.attribute:
        wanted = _TYPES.get(item.name, item.type) if node.op_type in _LEAST_INPUTS else item.type
        if item.type != wanted:
            yield f"has an attribute {item.name!r} that is not of its type"


def _in_blocks(node: onnx.NodeProto) -> Iterator[str]:
    """Of onnxruntime's operators on blocks of channels: what is read of them."""
    name, kind = _NEEDED.get(node.op_type, ("", onnx.AttributeProto.UNDEFINED))
    if not all(node.input[:1]) or not node.input or not node.output:
        yield "lacks its input or output"
    if name and not any((item.name, item.type) == (name, kind) for item in node.attribute):
        yield f"lacks its attribute {name!r}"


_NEEDED = {
    "ReorderOutput": ("channels", onnx.AttributeProto.INT),
    "Upsample": ("scales", onnx.AttributeProto.INTS),
}
_LEAST_INPUTS = {
    "NhwcMaxPool": 1,
    **dict.fromkeys(("FusedConv", "FusedGemm"), 2),
    "MatMulNBits": 3,
    **dict.fromkeys(("QLinearAveragePool", "QLinearLeakyRelu", "QLinearSigmoid"), 4),
    **dict.fromkeys(("QLinearConcat", "QLinearGlobalAveragePool", "QLinearSoftmax"), 5),
    "QGemm": 6,
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), 7),
    "QLinearConv": 8,
    "QLinearWhere": 9,
}
"""https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md"""

_ZERO_POINTS = (2, 5)
"""Inputs of these that may be absent, as far as they are counted there."""

_TYPES = {
    **dict.fromkeys(("K", "N", "axis", "bits", "block_size", "channels_last", "opset"), onnx.AttributeProto.INT),
    **dict.fromkeys(("kernel_shape", "strides", "pads", "dilations"), onnx.AttributeProto.INTS),
}


def _attributes(node: onnx.NodeProto, schema: defs.OpSchema) -> Iterator[str]:
    """The attributes that the operator needs, of their type, flags and counts within their bounds."""
    given = {item.name: item for item in node.attribute}
    for name, wanted in schema.attributes.items():
        if name not in given and wanted.required:
            yield f" lacks its attribute {name!r}"
        elif name in given and int(given[name].type) != int(getattr(wanted.type, "value", 0)):
            yield f": attribute {name!r} is not of its type, {getattr(wanted.type, 'name', '?')}"
    for name in schema.attributes.keys() & given.keys():
        values = list(given[name].ints) or [given[name].i]
        least = _LEAST.get(name, min(values))
        if (name in _FLAGS and not set(values) <= {0, 1}) or min(values) < least:
            yield f": attribute {name!r} cannot be {values if given[name].ints else values[0]}"


_FLAGS = {
    *("allowzero", "ceil_mode", "count_include_pad", "exclusive", "keepdims", "largest", "noop_with_empty_axes"),
    *("reverse", "select_last_index", "sorted", "storage_order", "training_mode", "transA", "transB"),
}
_LEAST = {"batch_dims": 0, **dict.fromkeys(("blocksize", "dilations", "group", "kernel_shape", "strides"), 1)}


def _range(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most > 2**30 else f"{least} to {most}"


def _attribute(item: AttributeProto, bound: bool) -> Iterator[str]:
    if item.type not in _A.AttributeType.values() or not item.type:
        yield f"attribute {item.name!r} has no type"
    elif item.ref_attr_name and not bound:
        yield f"attribute {item.name!r} refers to {item.ref_attr_name!r} of a function, and it stands in none"
    elif (
        not item.ref_attr_name
        and item.type in (_A.TENSOR, _A.GRAPH, _A.SPARSE_TENSOR)
        and not item.HasField(_VALUES[item.type])
    ):
        yield f"attribute {item.name!r} has no value"
    elif item.name in _SLIDING and any(abs(number) > _LARGEST_OPSET for number in item.ints):
        yield f"attribute {item.name!r} has a number that is larger than any image"


_SLIDING = {"dilations", "kernel_shape", "pads", "strides"}
