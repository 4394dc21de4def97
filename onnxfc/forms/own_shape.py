"""Outputs of one cell in the shape that they have in the original."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper

from onnxfc.claim.claim import Output
from onnxfc.errors import UsageError
from onnxfc.forms.draft import Draft, renamed
from onnxfc.shapes.spec import Spec


def in_own_shape(draft: Draft, outputs: Sequence[Output]) -> tuple[Draft, tuple[Output, ...]]:
    """A Reshape behind every map, which must have one cell; the outputs that there are now. Raises UsageError."""
    names, nodes, new, specs, found = draft.names(), list[onnx.NodeProto](), {}, dict[str, Spec](), []
    instead = {}
    for item in outputs:
        shape = draft.specs[item.name].native
        if item.form not in ("map", "activation"):
            found.append(item)
            continue
        cells = tuple(shape[axis] for axis in item.axes)
        if set(cells) != {1} or item.form != "map":
            told = "x".join(map(str, cells))
            raise UsageError(
                f"keep output shape: output {item.name} has {told} cells, which have no room in one vector"
            )
        own = tuple(n for axis, n in enumerate(shape) if axis not in item.axes)
        instead[item.name], target = names.unused(f"{item.name}_map"), names.unused(f"{item.name}_shape")
        new[target] = np.array(own, np.int64)
        node = helper.make_node("Reshape", [instead[item.name], target], [item.name], name=f"{item.name}_reshape")
        nodes.append(node)
        specs |= {item.name: Spec(draft.specs[item.name].dtype, (own,)), instead[item.name]: draft.specs[item.name]}
        found.append(Output(item.name, "global"))
    return draft.with_nodes([*renamed(draft.nodes, instead), *nodes], new, specs), tuple(found)
