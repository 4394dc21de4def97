"""Nodes that cannot run on the shapes that the declared input size gives, as far as shape inference does not say so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from onnx import defs

from onnxfc.errors import ReadError
from onnxfc.graph.index import Graph, canonical_domain, label
from onnxfc.graph.op_kinds import ARG, MICROSOFT, REDUCTIONS, ROW_NORMS, SOFTMAX
from onnxfc.graph.wellformed import dims_text, malformed
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.spec import Shape, Spec

_ALONG = {
    *(*ARG, *REDUCTIONS, *ROW_NORMS, *SOFTMAX),
    *("Concat", "Flatten", "Gather", "Split", "Squeeze", "TopK"),
}
"""Operators whose axis or axes are those of their first input."""


def fits(model: ModelFile, nodes: Iterable[onnx.NodeProto], native: Mapping[str, Spec]) -> None:
    """Raises ReadError where a weight is not made for the map that the declared input size gives.

    Windows are listed place by place, which is in proportion to the weight: not where there is no such weight.
    """
    weights = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    for node in nodes:
        own = canonical_domain(node.domain) in {"", MICROSOFT} and len(node.input) > 1
        sizes = _FEATURES.get(node.op_type) if own else None
        if sizes is None:
            continue
        _bias(model, node, native)
        given = native.get(node.input[0]) if node.input[1] in weights else None
        if given is None or given.shapes is None:
            continue
        have, made_for = sizes(given.native, weights[node.input[1]].dims, {a.name: a.i for a in node.attribute})
        if have != made_for:
            raise malformed(
                model,
                f"node {label(node)!r} ({node.op_type}): its weight "
                f"{node.input[1]!r} is made for {made_for:,} features, the declared input size gives {have:,}",
            )


def _bias(model: ModelFile, node: onnx.NodeProto, native: Mapping[str, Spec]) -> None:
    """A bias is one number, or one for each output of the weight."""
    weight, bias = (native.get(name) for name in (node.input[1], node.input[2] if len(node.input) > 2 else ""))
    if weight is None or bias is None or weight.shapes is None or bias.shapes is None:
        return
    dims, own = weight.native, bias.native
    if len(dims) < 2 or not own:
        return
    swapped = any(item.name == "transB" and item.i for item in node.attribute)
    outputs = dims[0] if swapped or len(dims) > 2 else dims[1]
    if own[-1] not in (1, outputs):
        raise malformed(
            model,
            f"node {label(node)!r} ({node.op_type}): its bias "
            f"{node.input[2]!r} with dims {dims_text(own)} does not fit the {outputs:,} outputs of its weight",
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
        raise malformed(
            model, f"node {label(node)!r} ({node.op_type}) is along axes {wrong} of a tensor that has {rank}"
        )


def runs_nowhere(graph: Graph, node: onnx.NodeProto, specs: Mapping[str, Spec]) -> bool:
    """Whether a node on which inference failed is of a known operator, on known shapes."""
    known = all(name in specs and specs[name].shapes is not None for name in node.input if name)
    version = graph.opsets.get(canonical_domain(node.domain), 1)
    return known and bool(defs.has(node.op_type, version, canonical_domain(node.domain)))


def cannot_run(model: ModelFile, node: onnx.NodeProto, specs: Mapping[str, Spec], why: Exception) -> ReadError:
    """What is said of such a node where every input's size is declared."""
    given = ", ".join(str(specs[name].native) for name in node.input if name)
    return malformed(
        model, f"node {label(node)!r} ({node.op_type}) cannot run on what the declared input size gives, {given}: {why}"
    )
