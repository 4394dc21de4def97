"""Give one model the names and the layout of another's inputs and outputs, so that the two can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from onnxfc.errors import UsageError
from onnxfc.graph.index import copied, refill
from onnxfc.io.model_file import ModelFile
from onnxfc.shapes.model_shapes import Shapes
from onnxfc.shapes.spec import Shape


def alike(original: ModelFile, other: ModelFile, images: Mapping[str, Shape]) -> tuple[ModelFile, list[str]]:
    """``other`` with the original's input and output names: by name where they agree, else by position.

    Score maps with their classes last, (N, *grid, K) for the original's (N, K), get them behind the batch. Outputs that
    the original does not have are left out. Notes say what was done. Raises UsageError where the counts differ.
    """
    proto = copied(other.proto)
    notes: list[str] = []
    mine, theirs = _inputs(original.proto), _inputs(proto)
    _rename(proto, _paired("inputs", mine, theirs, notes))
    outputs = [info.name for info in original.proto.graph.output]
    have = [info.name for info in proto.graph.output]
    if set(outputs) < set(have):
        left = [name for name in have if name not in outputs]
        notes.append(f"outputs that the original does not have were left out: {', '.join(left)}")
        have = outputs
    _rename(proto, _paired("outputs", outputs, have, notes))
    infos = {info.name: info for info in proto.graph.output}
    refill(proto.graph, output=[copied(infos[name]) for name in outputs])
    wanted, found = _shapes(original, images), _shapes(other.with_proto(proto), images)
    dims = len(next(iter(images.values()))) - 2
    for info in proto.graph.output:
        if info.name in wanted and info.name in found:
            _classes_first(proto, info, wanted[info.name], found[info.name], dims, notes)
    return other.with_proto(proto), notes


def _shapes(model: ModelFile, images: Mapping[str, Shape]) -> dict[str, Shape]:
    """Of the outputs: as they are declared, free dims 0; where a file does not say, as they are at native size."""
    found = {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in model.proto.graph.output
        if info.type.tensor_type.HasField("shape")
    }
    if len(found) == len(model.proto.graph.output):
        return found
    return {**(Shapes(model).at(images) or {}), **found}


def _inputs(model: onnx.ModelProto) -> list[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    return [info.name for info in model.graph.input if info.name not in weights]


def _paired(what: str, mine: Sequence[str], theirs: Sequence[str], notes: list[str]) -> dict[str, str]:
    """The original's name for each of theirs that is called otherwise."""
    if set(mine) == set(theirs):
        return {}
    if len(mine) != len(theirs):
        raise UsageError(
            f"the models do not have the same {what}: the original has {', '.join(mine)}; "
            f"the other one {', '.join(theirs)}"
        )
    if len(set(mine)) < len(mine) or len(set(theirs)) < len(theirs):
        raise UsageError(f"the {what} cannot be matched by position, as one is there twice; give them the same names")
    pairs = {their: own for own, their in zip(mine, theirs, strict=True) if own != their}
    notes.append(f"{what} matched by position: " + ", ".join(f"{own} = {their}" for their, own in pairs.items()))
    return pairs


def _rename(proto: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Call graph inputs or outputs otherwise; tensors that bear the new names already make room."""
    if not names:
        return
    used = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    used |= {tensor.name for tensor in proto.graph.initializer}
    room = {new: f"{new}_other" for new in names.values() if new in used and new not in names}
    renamed = {**room, **names}
    for node in proto.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for named in (proto.graph.input, proto.graph.output, proto.graph.initializer, proto.graph.value_info):
        for item in named:
            item.name = renamed.get(item.name, item.name)


def _classes_first(
    proto: onnx.ModelProto, info: onnx.ValueInfoProto, want: Shape, got: Shape, dims: int, notes: list[str]
) -> None:
    """Append a Transpose where the grid, free or of one cell, stands between the batch and the classes."""
    if len(want) != 2 or len(got) != 2 + dims or got[-1] != want[1] or got[1] == want[1] or max(got[1:-1]) > 1:
        return
    inner = f"{info.name}_classes_last"
    for node in proto.graph.node:
        node.input[:] = [inner if name == info.name else name for name in node.input]
        node.output[:] = [inner if name == info.name else name for name in node.output]
    perm = [0, 1 + dims, *range(1, 1 + dims)]
    proto.graph.node.append(helper.make_node("Transpose", [inner], [info.name], perm=perm))
    info.type.tensor_type.ClearField("shape")
    notes.append(f"the classes of {info.name} stand last; they were put behind the batch")
