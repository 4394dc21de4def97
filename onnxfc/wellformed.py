"""Malformed graphs are found before anything works on them: one line that says what, and where.

One pass over the protobuf: names that nobody or two nodes make, circles, nodes that are no calls of their operator,
tensors whose values do not fit their dims, and versions that are none. It looks at no weight; :func:`finite` does.
What onnxruntime runs passes; what no runtime can run does not. https://onnx.ai/onnx/repo-docs/IR.html
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, defs

from onnxfc.errors import ReadError
from onnxfc.external import all_tensors, raw_size
from onnxfc.graph import Graph, canonical_domain, inputs_of, label, subgraphs
from onnxfc.model_file import ModelFile
from onnxfc.specs import Shape, Spec
from onnxfc.storage import Span

_LARGEST_IR = 1000  # onnx counts them one by one, and is at 14; onnxruntime says which it takes
_LARGEST_OPSET = 2**31 - 1
_PIECE = 1 << 19  # bytes of a weight that are looked at together; so few are read, not mapped

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

_BAD: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm", "MatMul"), lambda x: ~np.isfinite(x)),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), lambda x: ~np.isfinite(x)),
    **dict.fromkeys(("Add", "Div", "Mul", "Sub", "PRelu", "LayerNormalization"), np.isnan),
}
"""What no weight of an operator can be; masks hold infinities, which are added."""


_ALONG = {
    *(
        "ArgMax",
        "ArgMin",
        "Concat",
        "Flatten",
        "Gather",
        "Hardmax",
        "LayerNormalization",
        "LogSoftmax",
        "LpNormalization",
    ),
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"),
    *("ReduceSum", "ReduceSumSquare", "Softmax", "Split", "Squeeze", "TopK"),
}
"""Operators whose axis or axes are those of their first input."""


def well_formed(model: ModelFile) -> None:
    """Raises ReadError where the model is none that could be run."""
    for problem in _problems(model):
        raise ReadError(f"{model.path or 'the given model'}: is malformed: {problem}")


def _problems(model: ModelFile) -> Iterator[str]:
    proto = model.proto
    yield from _versions(proto)
    for tensor in all_tensors(proto):
        yield from _tensor(model, tensor)
    schemas = _Schemas(proto)
    yield from _graph(proto.graph, frozenset(), schemas, "")
    for function in proto.functions:
        yield from _function(function, schemas)


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
        return
    if any(dim < 0 for dim in tensor.dims):
        yield f"{where} has a negative dim: {_dims(tensor.dims)}"
        return
    span, wanted = model.store.span(tensor), math.prod(tensor.dims)
    if span is not None or tensor.raw_data:
        have, need = len(tensor.raw_data) if span is None else len(span), raw_size(tensor)
        if need is not None and have != need:
            yield f"{where} with dims {_dims(tensor.dims)} needs {need:,} bytes, it has {have:,}"
    elif tensor.data_type in _FIELDS:
        count = len(getattr(tensor, _FIELDS[tensor.data_type]))
        if count != wanted:
            yield f"{where} with dims {_dims(tensor.dims)} needs {wanted:,} values, it has {count:,}"


def _dims(dims: Iterable[int]) -> str:
    return "x".join(map(str, dims)) or "()"


def _graph(graph: onnx.GraphProto, outer: frozenset[str], schemas: _Schemas, where: str) -> Iterator[str]:
    """``outer``: the tensors that a subgraph can see; ``where``: how messages call it."""
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
    visible = frozenset(own | made | outer)
    for node in graph.node:
        yield from _call(node, schemas, where)
        for inner in subgraphs(node):
            yield from _graph(inner, visible, schemas, f" in a subgraph of node {label(node)!r}")


def _function(function: onnx.FunctionProto, schemas: _Schemas) -> Iterator[str]:
    where = f" in function {function.name!r}"
    yield from _nodes(function.node, set(function.input), frozenset(), where)
    made = {*function.input, *(name for node in function.node for name in node.output)}
    for name in function.output:
        if name not in made:
            yield f"nobody makes the output {name!r}{where}"
    for node in function.node:
        for inner in subgraphs(node):
            yield from _graph(inner, frozenset(made), schemas, f" in a subgraph{where}")


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
        more = f" and {len(names) - 5} more" if len(names) > 6 else ""
        yield f"nodes need each other's outputs in a circle{where}: {' → '.join(names[:5] if more else names)}{more}"


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

    def _find(self, domain: str, op_type: str) -> defs.OpSchema | None:
        try:
            return defs.get_schema(op_type, max_inclusive_version=self._opsets.get(domain, 1), domain=domain)
        except defs.SchemaError:
            return None


def _call(node: onnx.NodeProto, schemas: _Schemas, where: str) -> Iterator[str]:
    """The node has as many inputs and outputs as its operator, and the attributes that it needs, of their type."""
    called = f"node {label(node)!r}{where} ({node.op_type})"
    yield from (f"{called}: {problem}" for item in node.attribute for problem in _attribute(item))
    yield from _twice((item.name for item in node.attribute), "attribute", f" of {called}")
    schema = schemas.of(node)
    if schema is None:
        return
    for what, count, least, most in (
        ("inputs", len(node.input), schema.min_input, schema.max_input),
        ("outputs", len(node.output), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            yield f"{called} has {count} {what}, its operator has {_range(least, most)}"
    for position, formal in enumerate(schema.inputs[: len(node.input)]):
        if not node.input[position] and formal.option == defs.OpSchema.FormalParameterOption.Single:
            yield f"{called} lacks its input {formal.name!r}"
    given = {item.name: item for item in node.attribute}
    for name, wanted in schema.attributes.items():
        if name not in given and wanted.required:
            yield f"{called} lacks its attribute {name!r}"
        elif name in given and int(given[name].type) != int(getattr(wanted.type, "value", 0)):
            yield f"{called}: attribute {name!r} is not of its type, {getattr(wanted.type, 'name', '?')}"
    for name in schema.attributes.keys() & given.keys():
        values = list(given[name].ints) or [given[name].i]
        if (name in _FLAGS and not set(values) <= {0, 1}) or (name in _COUNTS and min(values) < 1):
            yield f"{called}: attribute {name!r} cannot be {values if given[name].ints else values[0]}"


_FLAGS = {
    *("allowzero", "ceil_mode", "count_include_pad", "exclusive", "keepdims", "largest", "noop_with_empty_axes"),
    *("reverse", "select_last_index", "sorted", "storage_order", "training_mode", "transA", "transB"),
}
_COUNTS = {"blocksize", "dilations", "group", "kernel_shape", "strides"}


def _range(least: int, most: int) -> str:
    if least == most:
        return str(least)
    return f"{least} or more" if most > 2**30 else f"{least} to {most}"


def _attribute(item: AttributeProto) -> Iterator[str]:
    if item.type not in _A.AttributeType.values() or not item.type:
        yield f"attribute {item.name!r} has no type"
    elif (
        not item.ref_attr_name
        and item.type in (_A.TENSOR, _A.GRAPH, _A.SPARSE_TENSOR)
        and not item.HasField(_VALUES[item.type])
    ):
        yield f"attribute {item.name!r} has no value"


def fits(model: ModelFile, nodes: Iterable[onnx.NodeProto], native: Mapping[str, Spec]) -> None:
    """Raises ReadError where a weight is not made for the map that the declared input size gives.

    Windows are listed place by place, which is in proportion to the weight: not where there is no such weight.
    """
    weights = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    for node in nodes:
        sizes = _FEATURES.get(node.op_type) if len(node.input) > 1 and node.input[1] in weights else None
        given = native.get(node.input[0]) if sizes is not None else None
        if sizes is None or given is None or given.shapes is None:
            continue
        have, made_for = sizes(given.native, weights[node.input[1]].dims, {a.name: a.i for a in node.attribute})
        if have != made_for:
            raise ReadError(
                f"{model.path or 'the given model'}: is malformed: node {label(node)!r} ({node.op_type}): its weight "
                f"{node.input[1]!r} is made for {made_for:,} features, the declared input size gives {have:,}"
            )


def _of_fc(given: Shape, dims: Sequence[int], told: Mapping[str, int]) -> tuple[int, int]:
    if not given or len(dims) != 2:
        return 0, 0
    return given[0 if told.get("transA") else -1], dims[1 if told.get("transB") else 0]


def _of_conv(given: Shape, dims: Sequence[int], told: Mapping[str, int]) -> tuple[int, int]:
    return (given[1], dims[1] * told.get("group", 1)) if len(given) == len(dims) > 2 else (0, 0)


_FEATURES = {"Gemm": _of_fc, "FusedGemm": _of_fc, "MatMul": _of_fc, "Conv": _of_conv, "FusedConv": _of_conv}
"""How many features come in, and for how many the weight is made."""


def on_its_axes(model: ModelFile, node: onnx.NodeProto, specs: Mapping[str, Spec]) -> None:
    """Raises ReadError where an attribute names axes that the input has not; inference does not always say so."""
    given = specs.get(node.input[0]) if node.input else None
    if given is None or given.shapes is None or canonical_domain(node.domain):
        return
    rank = given.rank
    told = {item.name: list(item.ints) or [item.i] for item in node.attribute if item.name in ("axis", "axes", "perm")}
    if node.op_type in _ALONG:
        most = rank if node.op_type == "Flatten" else rank - 1
        wrong = [axis for axis in told.get("axis", told.get("axes", ())) if not -rank <= axis <= max(most, 0)]
    else:
        wrong = (
            told["perm"]
            if node.op_type == "Transpose" and sorted(told.get("perm", range(rank))) != [*range(rank)]
            else []
        )
    if wrong:
        raise ReadError(
            f"{model.path or 'the given model'}: is malformed: node {label(node)!r} ({node.op_type}) is along "
            f"axes {wrong} of a tensor that has {rank}"
        )


def runs_nowhere(graph: Graph, node: onnx.NodeProto, specs: Mapping[str, Spec]) -> bool:
    """Whether a node on which inference failed is of a known operator, on known shapes."""
    known = all(name in specs and specs[name].shapes is not None for name in node.input if name)
    version = graph.opsets.get(canonical_domain(node.domain), 1)
    return known and bool(defs.has(node.op_type, version, canonical_domain(node.domain)))


def cannot_run(model: ModelFile, node: onnx.NodeProto, specs: Mapping[str, Spec], why: Exception) -> ReadError:
    """What is said of such a node where every input's size is declared."""
    given = ", ".join(str(specs[name].native) for name in node.input if name)
    return ReadError(
        f"{model.path or 'the given model'}: is malformed: node {label(node)!r} ({node.op_type}) cannot run on what "
        f"the declared input size gives, {given}: {why}"
    )


def finite(model: ModelFile) -> None:
    """Raises ReadError where a weight cannot be computed with. Reads the weights, a piece at a time."""
    weights = dict(_weights(model.proto.graph))
    seen: set[str] = set()
    for node in model.proto.graph.node:
        bad = _BAD.get(node.op_type) if canonical_domain(node.domain) in {"", "com.microsoft"} else None
        for name in node.input if bad is not None else ():
            if bad is None or name not in weights or name in seen:
                continue
            seen.add(name)
            problem = _not_finite(model, weights[name], bad)
            if problem is not None:
                raise ReadError(
                    f"{model.path or 'the given model'}: weight {name!r} of node {label(node)!r} ({node.op_type}) "
                    f"has {problem}: no score can be computed with it; export a trained model"
                )


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant":
            yield from ((node.output[0], item.t) for item in node.attribute if item.name == "value")


def _not_finite(model: ModelFile, tensor: TensorProto, bad: Callable[[np.ndarray], np.ndarray]) -> str | None:
    """What is wrong in a weight, where first and how often; None where all is well."""
    first, count, value = 0, 0, 0.0
    for begin, values in _pieces(model, tensor):
        places = np.flatnonzero(bad(values))
        if len(places) and not count:
            first, value = begin + int(places[0]), float(values[places[0]])
        count += len(places)
    if not count:
        return None
    place = ", ".join(str(int(index)) for index in np.unravel_index(first, tuple(tensor.dims)))
    what = "NaN" if math.isnan(value) else "infinity"
    return f"{what} at [{place}] ({count:,} such values of {math.prod(tensor.dims):,})"


def _pieces(model: ModelFile, tensor: TensorProto) -> Iterator[tuple[int, np.ndarray]]:
    """Stretches of a weight that hold something that is not finite, and where each begins."""
    dtypes: Mapping[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
    dtype = dtypes.get(tensor.data_type)
    if dtype is None:
        return  # integers; the others are rare and small
    span = model.store.span(tensor)
    if span is None:
        yield 0, np.asarray(model.array(tensor)).reshape(-1)
        return
    for begin in range(0, len(span), _PIECE):
        piece = Span(span.source, span.offset + begin, min(_PIECE, len(span) - begin))
        values = piece.view().view(dtype)
        if not _all_finite(values):
            yield begin // values.itemsize, values


def _all_finite(values: np.ndarray) -> bool:
    """Quickly: a sum is finite only where all its terms are, and nearly always then."""
    if values.dtype.itemsize == 2:
        return not bool((values.view("<u2") & 0x7C00 == 0x7C00).any())
    with np.errstate(all="ignore"):
        return bool(np.isfinite(values.sum()))
