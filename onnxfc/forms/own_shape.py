"""Outputs of one cell in the shape that they have in the original."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from onnxfc.claim.claim import Output
from onnxfc.forms.draft import Draft, renamed
from onnxfc.graph.index import copied, inputs_of
from onnxfc.shapes.spec import Spec


def of_one_cell(draft: Draft, output: Output) -> bool:
    """Whether an output is a map that has one cell at this size."""
    shape = draft.specs[output.name].native
    return output.form == "map" and {shape[axis] for axis in output.axes} == {1}


def in_own_shape(draft: Draft, outputs: Iterable[Output]) -> Draft:
    """A Reshape behind each of these maps of one cell; of the integers, where they were integers.

    onnxruntime 1.32 does not load a DequantizeLinear of int8 and a Reshape in operator set 21.
    """
    names, nodes, new = draft.names(), list[onnx.NodeProto](), {}
    specs, instead, unread = dict[str, Spec](), dict[str, str](), set[str]()
    makers = {name: node for node in draft.nodes for name in node.output}
    for item in outputs:
        known, maker = draft.specs[item.name], makers.get(item.name)
        shapes = [[n for axis, n in enumerate(shape) if axis not in item.axes] for shape in known.shapes or ()]
        made, target = names.unused(f"{item.name}_map"), names.unused(f"{item.name}_shape")
        instead[item.name], new[target] = made, np.array([0, *shapes[0][1:]], np.int64)
        specs |= {made: known, item.name: Spec(known.dtype, tuple(map(tuple, shapes)))}
        label = names.unused(f"{item.name}_reshape")
        if maker is None or maker.op_type != "DequantizeLinear" or draft.specs[maker.input[1]].rank:
            nodes.append(helper.make_node("Reshape", [made, target], [item.name], name=label))
            continue
        moved = names.unused(f"{item.name}_integers")
        specs[moved] = Spec(draft.specs[maker.input[0]].dtype, specs[item.name].shapes)
        nodes.append(helper.make_node("Reshape", [maker.input[0], target], [moved], name=label))
        nodes.append(copied(maker, input=[moved, *maker.input[1:]]))
        nodes[-1].name = names.unused(f"{item.name}_dequantizelinear")
        if all(item.name not in inputs_of(node) for node in draft.nodes):  # of the map only the integers are read
            unread.add(made)
    kept = [node for node in renamed(draft.nodes, instead) if unread.isdisjoint(node.output)]
    return draft.with_nodes([*kept, *nodes], new, specs)
