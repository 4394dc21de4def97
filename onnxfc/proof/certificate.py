"""Which weight of the second model is which FC layer's weight of the first: read off the two files, nothing is run.

It holds over the reals for every input, where the numbers beside it hold for those that were tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx
from onnx import helper

from onnxfc.claim.claim import PREFIX
from onnxfc.io.model_file import ModelFile
from onnxfc.proof import channel_blocks
from onnxfc.proof.kept_weights import changed
from onnxfc.proof.quantised_numbers import foreign
from onnxfc.proof.results import Certificate, WeightResult
from onnxfc.proof.sessions import Array
from onnxfc.proof.stored_weights import Stored, Weights
from onnxfc.proof.weight_relation import Found, Matrix, added_up, gathered, permuted, same, scaled

_GEMMS = ("Gemm", "FusedGemm")
_MATMULS = ("MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
_CONVS = ("Conv", "FusedConv", "QLinearConv", "ConvInteger")
_INTEGERS = ("QGemm", "QLinearMatMul")
_BLOCKS = "MatMulNBits"
_QUANTISED = {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv"}
_QUANTISED |= {*_INTEGERS, _BLOCKS}
_CONTRACTIONS = (*_GEMMS, *_MATMULS, *_INTEGERS, _BLOCKS, "Einsum")


@np.errstate(all="ignore")  # weights that are no numbers, which equal nothing
def certify(original: ModelFile, other: ModelFile, grids: Collection[str] = ()) -> Certificate:
    """Look for every FC weight of ``original`` in ``other``, and for every quantised number of ``other`` in
    ``original``; failed where a rewrite lacks one, or has one of its own. ``grids``: tables that go on, which a proof
    compares by their values: what weighs them is no FC layer."""
    found, rewritten = _of_weights(original, other, grids), _is_rewrite(original.proto, other.proto)
    if found.status == "failed" or not rewritten:
        return found
    told = foreign(original, other, {name for item in found.weights for name in item.found}) or changed(original, other)
    return replace(found, status="failed", reason=told) if told else found


def _of_weights(original: ModelFile, other: ModelFile, grids: Collection[str]) -> Certificate:
    fully = [fc for fc in _fully_connected(original) if fc.stored.name not in grids]
    layers = _turned(fully, list(_fully_connected(other)))
    convs, computed = _convs(other)
    found, beside = _found(layers, convs)

    def unclear(fc: Matrix) -> bool:
        return computed or _is_untold(fc, convs)

    results = [
        found.get(id(fc))
        or WeightResult(fc.node, fc.stored.name, "missing" if fc.node in beside or not unclear(fc) else "untold")
        for fc in layers
        if id(fc) in found or not (_is_pool(fc) or _is_factor(fc))
    ]
    if not results:
        return Certificate("none", reason="no weight of an FC layer was turned into a Conv's")
    missing = [item for item in results if item.relation == "missing"]
    if not missing:
        untold = next((item for item in results if item.relation == "untold"), None)
        if untold is None:
            return Certificate("holds", tuple(results))
        told = f"what became of weight {untold.weight} of {untold.node} cannot be told: "
        told += "it has one output and factors folded in, features that are read several times, or a Conv whose "
        told += "weight the graph computes"
        return Certificate("none", tuple(results), told)
    first = missing[0]
    told = f"weight {first.weight} of {first.node} is in no Conv of the second model"
    told += f" with the same {beside[first.node]}" if first.node in beside else ""
    told += f", nor are {len(missing) - 1} more" if len(missing) > 1 else ""
    return Certificate("failed" if _is_rewrite(original.proto, other.proto) else "none", tuple(results), told)


def _is_rewrite(original: onnx.ModelProto, model: onnx.ModelProto) -> bool:
    """Whether it says that it was rewritten, and was not quantised afterwards, weights and all."""
    before, after = (any(node.op_type in _QUANTISED for node in one.graph.node) for one in (original, model))
    return before >= after and any(item.key.startswith(PREFIX) for item in model.metadata_props)


def _turned(layers: list[Matrix], have: list[Matrix]) -> list[Matrix]:
    """The FC layers that are FC layers no longer. Each of the second model serves once."""
    free = list(have)
    for alike in (_unchanged, _rounded):
        layers = [fc for fc in layers if _take(fc, free, alike) is None]
    return layers


def _found(layers: list[Matrix], convs: list[Matrix]) -> tuple[dict[int, WeightResult], dict[str, str]]:
    """What was found of FC layers. Each weight of the second model serves once, for the closest relation: two layers of
    one weight need two that are alike. Last, by node, what goes with a quantised weight and is another."""
    beside: dict[str, str] = {}
    found: dict[int, WeightResult] = {}
    free = list(convs)
    for relation in (same, permuted, scaled):
        for fc in layers:
            taken = None if id(fc) in found else _take(fc, free, relation)
            if taken is not None and fc.stored.step and (other := fc.other_beside(taken[0])):
                beside[fc.node] = other
            elif taken is not None:
                found[id(fc)] = _result(fc, [taken[0]], taken[1])
    rest = [fc for fc in layers if id(fc) not in found and fc.node not in beside]
    return found | _of_several(rest, free), beside


def _of_several(layers: list[Matrix], free: list[Matrix]) -> dict[int, WeightResult]:
    """FC layers whose weight is that of several Convs together."""
    found: dict[int, WeightResult] = {}
    for fc in layers:
        several = gathered(fc, [conv for conv in free if len(conv.values) == len(fc.values)])
        if several is not None:
            free = [conv for conv in free if all(conv is not item for item in several[0])]
            found[id(fc)] = _result(fc, *several)
    return found


def _is_untold(fc: Matrix, convs: list[Matrix]) -> bool:
    """Whether a weight of one output, or one whose columns were added up, may be in a Conv without being seen there."""
    return len(fc.values) == 1 or added_up(fc, convs)


def _is_pool(fc: Matrix) -> bool:
    """One and the same weight for everything: a sum or mean, which a pool may do as well."""
    return bool((fc.values == fc.values[:1, :1]).all())


def _is_factor(fc: Matrix) -> bool:
    """A multiple of the identity, which is a product element by element."""
    rows, columns = fc.values.shape
    return rows == columns and bool((fc.values == fc.values[0, 0] * np.eye(rows, dtype=fc.values.dtype)).all())


def _take(
    fc: Matrix, free: list[Matrix], relation: Callable[[Matrix, Matrix], Found | None]
) -> tuple[Matrix, Found] | None:
    """The first of ``free`` in this relation to ``fc``, which is free no longer."""
    for place, other in enumerate(free):
        result = relation(fc, other) if other.values.shape == fc.values.shape else None
        if result is not None:
            del free[place]
            return other, result
    return None


def _unchanged(fc: Matrix, other: Matrix) -> Found | None:
    found = same(fc, other) or permuted(fc, other)
    return found if found is None or "features" not in found.order else None


def _rounded(fc: Matrix, other: Matrix) -> Found | None:
    """As an FC layer still, in another number type."""
    found = scaled(fc, other)
    return found if found is not None and found.relation == "rounded" and "features" not in found.order else None


def _result(fc: Matrix, convs: Sequence[Matrix], found: Found) -> WeightResult:
    names, laid = tuple(conv.stored.name for conv in convs), next((conv.laid for conv in convs if conv.laid), "")
    relation = "permuted" if laid and found.relation == "same" else found.relation
    order = ", ".join(filter(None, (found.order, laid)))
    return WeightResult(fc.node, fc.stored.name, relation, names, order, found.error)


def _fully_connected(file: ModelFile) -> Iterator[Matrix]:
    """The weights of a model's FC layers as (M, F), one for each node that reads one and reaches an output."""
    weights = Weights(file)
    for node in _live(file.proto.graph, weights.nodes):
        if node.op_type not in _CONTRACTIONS or node.domain not in ("", "ai.onnx", "com.microsoft"):
            continue
        for position in (1, 0) if node.op_type not in (*_GEMMS, *_INTEGERS, _BLOCKS) else (1,):
            stored = _operand(weights, node, position)
            values = None if stored is None else _matrix(node, position, stored.values)
            if stored is not None and values is not None:
                yield Matrix(node.name or node.output[0], stored, values, beside=_beside(weights, node))
                break


def _beside(weights: Weights, node: onnx.NodeProto) -> dict[str, Array]:
    """The scale and zero point of a layer's features, its bias and the step of that, as far as they are in the file."""
    integers = node.op_type in (*_INTEGERS, "QLinearConv")
    given = node.input[1:3] if integers else weights.behind(node.input[0])
    at = {"QGemm": 6, "QLinearConv": 8, "QLinearMatMul": 99, _BLOCKS: 5}.get(node.op_type, 2)
    factors = any(item.name in ("alpha", "beta") and item.f != 1 for item in node.attribute)
    names = {"scale": given[:1], "zero point": given[1:2], "bias": [] if factors else node.input[at : at + 1]}
    stored = {label: weights.of(name) for label, some in names.items() for name in some if name}
    found = {label: item.values.ravel().astype(np.float64) for label, item in stored.items() if item is not None}
    weight = weights.of(node.input[4]) if integers and "bias" in found and "scale" in found else None
    if weight is not None and found["scale"].size == 1 and weight.values.size in (1, found["bias"].size):
        # integers of this scale, which a graph that was opened has as numbers
        step = found["scale"] * weight.values.ravel().astype(np.float64)
        found |= {"bias": found["bias"] * step, "step": step.max(keepdims=True)}
    elif "bias" in stored and stored["bias"] is not None:
        found["step"] = np.full(1, stored["bias"].step)
    zero = stored.get("zero point")
    if zero is not None and zero.values.dtype.kind in "iu":  # integers of the other sign
        found["zero point"] -= np.iinfo(zero.values.dtype).min
    return found


def _operand(weights: Weights, node: onnx.NodeProto, position: int) -> Stored | None:
    if node.op_type in _INTEGERS:
        turned = any(item.name == "transB" and item.i for item in node.attribute)
        return weights.of_integers(node.input[3:6], 0 if turned else 1)
    if node.op_type == _BLOCKS:
        return weights.in_blocks(node)
    return _as_numbers(weights, node, position) if position < len(node.input) else None


def _as_numbers(weights: Weights, node: onnx.NodeProto, position: int) -> Stored | None:
    """Integers from their zero point on, where a product of integers reads them; as what they are, where outputs have
    several."""
    stored = weights.of(node.input[position])
    if stored is None or stored.values.dtype.kind not in "iu":
        return stored
    at = position + (4 if node.op_type == "MatMulIntegerToFloat" else 2)
    zero = weights.of(node.input[at]) if at < len(node.input) and node.input[at] else None
    values = stored.values.astype(np.float32)
    if zero is None or not zero.values.any() or (zero.values != zero.values.flat[0]).any():
        return replace(stored, values=values)
    return replace(stored, values=values - np.float32(zero.values.flat[0]), span=None)


def _matrix(node: onnx.NodeProto, position: int, values: Array) -> Array | None:
    """The constant operand of a contraction as outputs and features; None where it is no matrix."""
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == _BLOCKS:
        return values
    if values.ndim > 2 and node.op_type in _MATMULS:
        values = values.squeeze()
    if values.ndim == 1 and node.op_type in _MATMULS:
        values = values[:, None] if position else values[None]
    if node.op_type == "Einsum":
        return _einsum_matrix(attributes["equation"].decode(), position, values)
    if values.ndim != 2 or attributes.get("alpha", 1.0) == 0:
        return None
    turned = attributes.get("transB" if position else "transA", 0)
    return values if bool(turned) == bool(position) else values.T


def _einsum_matrix(equation: str, position: int, values: Array) -> Array | None:
    """The axis of the result is the outputs', those that are summed are features; None where there are several."""
    terms, _, result = equation.replace(" ", "").partition("->")
    operands = terms.split(",")
    if not result or "." in equation or position >= len(operands) or len(operands[position]) != values.ndim:
        return None
    letters = operands[position]
    outputs = [axis for axis, letter in enumerate(letters) if letter in result]
    features = [axis for axis in range(values.ndim) if axis not in outputs]
    if len(outputs) != 1:
        return None
    return values.transpose(*outputs, *features).reshape(values.shape[outputs[0]], -1)


def _convs(file: ModelFile) -> tuple[list[Matrix], bool]:
    """The weights of a model's Convs as (M, C * places), and whether there are any that the graph computes."""
    weights, found, computed = Weights(file), list[Matrix](), False
    for node in _live(file.proto.graph, weights.nodes):
        if node.op_type in _CONVS and len(node.input) > 1:
            integers = node.op_type == "QLinearConv"
            stored = weights.of_integers(node.input[3:6]) if integers else _as_numbers(weights, node, 1)
            computed = computed or stored is None
            if stored is not None and stored.values.ndim > 1 and stored.values.size:
                found += [replace(conv, beside=_beside(weights, node)) for conv in _conv(node, stored)]
    return found, computed


def _conv(node: onnx.NodeProto, stored: Stored) -> Iterator[Matrix]:
    """The weight as (M, C * places): by each layout that fits, where it lies in blocks of channels."""
    name = node.name or node.output[0]
    if node.domain == channel_blocks.DOMAIN:
        for laid in channel_blocks.readings(stored.values):
            values = laid.reshape(len(laid), -1)
            yield Matrix(name, replace(stored, span=None), values, laid.shape[1:], laid="in blocks of channels")
        return
    values = stored.values.reshape(len(stored.values), -1)
    inner = stored.span if values.flags.c_contiguous else None
    yield Matrix(name, replace(stored, span=inner), values, stored.values.shape[1:])


def _live(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes that an output is computed of and that read of an input, which no optimiser computes beforehand; those of
    subgraphs all."""
    stored = {tensor.name for tensor in graph.initializer}
    read = {info.name for info in graph.input if info.name not in stored}
    for node in graph.node:
        read.update(node.output if not read.isdisjoint(_reads(node)) else ())
    makers = {name: node for node in graph.node for name in node.output if name}
    waiting, live = [value.name for value in graph.output], set[int]()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in live and not read.isdisjoint(node.output):
            live.add(id(node))
            waiting += _reads(node)
    own = {id(node) for node in graph.node}
    yield from (node for node in nodes if id(node) in live or id(node) not in own)


def _reads(node: onnx.NodeProto) -> list[str]:
    inner = [item.g for item in node.attribute if item.HasField("g")]
    return [*node.input, *(name for graph in inner for other in graph.node for name in _reads(other))]
