"""What is computed from lengths alone is one number at one size: Shape, Gather, Concat become a constant."""

from __future__ import annotations

import onnx

from onnxfc.forms.draft import Draft
from onnxfc.graph.index import dependent, inputs_of
from onnxfc.graph.op_kinds import LENGTHS, QUANTISING

_COUNTS = {onnx.TensorProto.BOOL, onnx.TensorProto.INT32, onnx.TensorProto.INT64}


def fold_sizes(draft: Draft) -> Draft:
    """The draft without the nodes that compute with lengths, or with numbers that are written in the file.

    Other constants stay as they are: weights that are turned or quantised in the graph, initializers that the caller
    may override, and what is computed from these.
    """
    lengths = [name for node in draft.nodes if node.op_type in LENGTHS for name in node.output]
    counted = dependent(draft.nodes, lengths) | _numbers(draft)
    quantised = {name for node in draft.nodes if node.op_type in QUANTISING for name in node.output}
    left = dependent(draft.nodes, quantised | draft.graph.overridable) | draft.kept
    computed = {name for node in draft.nodes if node.op_type != "Constant" for name in node.output if name} - left
    values = {name: value for name in computed & counted if (value := draft.constant(name)) is not None}
    return draft.with_nodes((node for node in draft.nodes if not {*filter(None, node.output)} <= values.keys()), values)


def _numbers(draft: Draft) -> set[str]:
    """Whole numbers and single ones that are written in the file, and all that is computed of nothing else."""
    stored = {name for node in draft.nodes if node.op_type == "Constant" for name in node.output}
    stored |= draft.graph.initializers.keys()
    known = {name: value for name in stored if (value := draft.constant(name)) is not None}
    found = {name for name, value in known.items() if value.size == 1 or draft.specs[name].dtype in _COUNTS}
    for node in draft.nodes:
        reads = set(inputs_of(node))
        if reads and reads <= found:
            found.update(node.output)
    return found
