"""Outputs of one cell in the shape that they have in the original."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper

from onnxfc.claim.claim import Output
from onnxfc.forms.draft import Draft, renamed
from onnxfc.shapes.spec import Spec


def of_one_cell(draft: Draft, output: Output) -> bool:
    """Whether an output is a map that has one cell at this size."""
    shape = draft.specs[output.name].native
    return output.form == "map" and {shape[axis] for axis in output.axes} == {1}


def in_own_shape(draft: Draft, outputs: Iterable[Output]) -> Draft:
    """A Reshape behind each of these maps of one cell."""
    names, nodes, new = draft.names(), list[onnx.NodeProto](), {}
    specs, instead = dict[str, Spec](), dict[str, str]()
    for item in outputs:
        known = draft.specs[item.name]
        shapes = [[n for axis, n in enumerate(shape) if axis not in item.axes] for shape in known.shapes or ()]
        made, target = names.unused(f"{item.name}_map"), names.unused(f"{item.name}_shape")
        instead[item.name], new[target] = made, np.array([0, *shapes[0][1:]], np.int64)
        specs |= {made: known, item.name: Spec(known.dtype, tuple(map(tuple, shapes)))}
        label = names.unused(f"{item.name}_reshape")
        nodes.append(helper.make_node("Reshape", [made, target], [item.name], name=label))
    return draft.with_nodes([*renamed(draft.nodes, instead), *nodes], new, specs)
