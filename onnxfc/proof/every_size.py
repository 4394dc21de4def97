"""The original's head for features of every size: what stands in it for the whole map or counts its places follows."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.proof.baked import Shapes, attributes
from onnxfc.proof.sessions import Array
from onnxfc.proof.wiring import reads

_COUNTS: tuple[Callable[[int], float], ...] = (
    lambda n: float(n),
    lambda n: n - 1.0,
    lambda n: n / (n - 1.0),
    lambda n: (n - 1.0) / n,
    lambda n: math.sqrt(n / (n - 1.0)),
    lambda n: math.sqrt((n - 1.0) / n),
    lambda n: 1.0 / n,
    lambda n: 1.0 / (n - 1.0),
)
"""What a network reckons with that counts places: means by hand, unbiased variances."""
_FEW = 2
"""So few places are no count to be told from other numbers."""
_CLOSE = 1e-6
Follow = frozenset[int]
"""Which counts follow an image's size: along which axes, and those of all places (ALL)."""
ALL = -1


@dataclass(frozen=True)
class Begin:
    """A map at which a head begins, of this native ``extent``, with so many ``channels`` at each place."""

    extent: tuple[int, ...]
    channels: int = 1

    @property
    def places(self) -> int:
        return math.prod(self.extent)


def for_every_size(head: onnx.ModelProto, shapes: Shapes, begins: Mapping[str, Begin]) -> dict[str, Counted]:
    """Change a head so that it takes features of any size; its counts of places, or of all their features, have become
    inputs. A number counts the places of the maps that what it scales is made of, which all have the same extent."""
    graph = head.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.output[0]: item.t
        for node in graph.node
        for item in node.attribute
        if node.op_type == "Constant" and item.HasField("t")
    }
    tensors = {name: item for name, item in tensors.items() if item.data_location != item.EXTERNAL}
    made_of = _made_of(graph, begins)
    for node in graph.node:
        if is_global(node, shapes):
            _pool_all(head, node, len(shapes[node.input[0]]))
        elif node.op_type == "Reshape" and node.input[1] in tensors:
            begin = _one(made_of[node.input[0]], begins)
            places = begins[begin].places if begin else 0
            if places > _FEW:
                _reshape_all(graph, node, numpy_helper.to_array(tensors[node.input[1]]), places)
    return _counts_as_inputs(graph, tensors, made_of, begins)


def _made_of(graph: onnx.GraphProto, begins: Iterable[str]) -> Mapping[str, frozenset[str]]:
    """Of which of these maps each tensor is made."""
    found = defaultdict(frozenset[str], {name: frozenset({name}) for name in begins})
    for node in graph.node:
        made = frozenset[str]().union(*(found[name] for name in reads(node)))
        found.update((name, made) for name in node.output if name not in begins)
    return found


def _one(names: Iterable[str], begins: Mapping[str, Begin]) -> str:
    """One of these maps, if all have the same extent; else ""."""
    found = sorted(names)
    return found[0] if len({begins[name].extent for name in found}) == 1 else ""


def is_global(node: onnx.NodeProto, shapes: Shapes) -> bool:
    """Whether a pool's one window is the whole native map: it is the export of a global one."""
    if node.op_type not in ("AveragePool", "MaxPool"):
        return False
    found, before = attributes(node), shapes.get(node.input[0], ())[2:]
    after = shapes.get(node.output[0], ())[2:]
    if len(node.output) > 1 or not before or set(after) != {1} or max(before) == 1:
        return False
    counted = "count_include_pad" in found and found["count_include_pad"].i == 1
    padded = "pads" in found and any(found["pads"].ints)
    kernel = found["kernel_shape"].ints
    return not (counted and padded) and all(k >= n > 0 for k, n in zip(kernel, before, strict=True))


def _pool_all(head: onnx.ModelProto, node: onnx.NodeProto, rank: int) -> None:
    """Over however many places there are; a maximum by ReduceMax, which integers have, too."""
    node.ClearField("attribute")
    if node.op_type == "AveragePool":
        node.op_type = "GlobalAveragePool"
        return
    node.op_type, axes = "ReduceMax", list(range(2, rank))
    if next(item.version for item in head.opset_import if item.domain in ("", "ai.onnx")) < 18:
        node.attribute.append(helper.make_attribute("axes", axes))
    else:
        node.input.append(f"{node.output[0]}, over all places")
        head.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), node.input[1]))


def _reshape_all(graph: onnx.GraphProto, node: onnx.NodeProto, target: Array, places: int) -> None:
    """As many rows as there are places, of which as many as there are."""
    rows = target.ravel() == places
    if rows.sum() == 1 and (target >= 0).all():
        name = f"{node.output[0]}, of all places"
        graph.initializer.append(numpy_helper.from_array(np.where(rows, -1, target.ravel()), name))
        node.input[1] = name


@dataclass(frozen=True)
class Counted:
    """A number of the file that the native count of places may have given, or one along an axis of the map ``begin``:
    it scales something by ``of`` so many times ``each`` natively, ``power`` -1 where it divides. ``axes``: along which
    axes these are counted; none where they are all."""

    native: Array
    of: Callable[[int], float]
    count: int
    each: int = 1
    power: int = 1
    begin: str = ""
    axes: frozenset[int] = frozenset()

    def at(self, now: Sequence[int], follow: Follow) -> Array:
        """The number for a map of these lengths; the native one where it does not follow."""
        along = sorted(self.axes & follow)
        places = now[along[0]] if along else 1 if self.axes or not follow else math.prod(now)
        if places < 2:
            return self.native
        grown = self.of(places * self.each) / self.of(self.count * self.each)
        return np.asarray(self.native * grown**self.power, self.native.dtype)


def readings(found: Iterable[Counted]) -> list[Follow]:
    """What may follow an image's size beside all counts of places: nothing else, or counts along one axis, or along
    each; none of these where nothing counts."""
    found = list(found)
    axes = sorted(frozenset[int]().union(*(item.axes for item in found)))
    along = [{axis} for axis in axes] + ([set(axes)] if len(axes) > 1 else [])
    return [frozenset({ALL, *some}) for some in ([set[int](), *along] if found else [])]


def _counts_as_inputs(
    graph: onnx.GraphProto,
    tensors: Mapping[str, onnx.TensorProto],
    made_of: Mapping[str, frozenset[str]],
    begins: Mapping[str, Begin],
) -> dict[str, Counted]:
    """Let numbers that may count places be inputs, where something is multiplied with them or divided by them: one for
    each node, as one number may count the places of several maps. Divided by the height and then by the width is
    divided by all places."""
    found, scaled = {}, dict[str, float]()
    for node in graph.node:
        maps = made_of[node.output[0]] or frozenset(begins)
        begin = _one(maps, begins)
        if not begin or node.op_type not in ("Mul", "Div", "Reciprocal"):
            continue
        channels = begins[begin].channels if len({begins[each].channels for each in maps}) == 1 else 1
        for at, name in enumerate(node.input):
            if name not in tensors or any(dim > 1 for dim in tensors[name].dims):
                continue
            value = numpy_helper.to_array(tensors[name])
            power = -1 if node.op_type == "Div" and at == 1 else 1
            scales = node.op_type == "Mul" or power < 0
            before = scaled.get(node.input[1 - at], 1.0) if scales else 1.0
            made = _counted_in(value, before, power, begins[begin], channels)
            if scales and value.all():
                scaled[node.output[0]] = before * float(value.ravel()[0]) ** power
            if made is not None:
                node.input[at] = f"{name}, of {node.output[0]}"
                graph.input.append(helper.make_tensor_value_info(node.input[at], tensors[name].data_type, value.shape))
                found[node.input[at]] = replace(made, begin=begin)
    return found


def _counted_in(value: Array, before: float, power: int, begin: Begin, channels: int) -> Counted | None:
    """What a number counts: all places, by itself or with those that scaled ahead of it; or those along an axis."""
    if (made := counted_by(value, begin.places, channels)) is not None:
        return made
    if before != 1 and value.all() and (made := counted_by(before * value**power, begin.places, channels)) is not None:
        return replace(made, native=value, power=power)
    along = [counted_by(value, length) for length in begin.extent]
    axes = frozenset(axis for axis, made in enumerate(along) if made is not None)
    return replace(next(filter(None, along)), axes=axes) if axes else None


def counted_by(value: Array, places: int, channels: int = 1) -> Counted | None:
    """What a number counts: places, or all their features, of which there are so many ``channels``."""
    for each in (1, *([channels] if channels > 1 else [])):
        for of in _COUNTS if places > _FEW and value.dtype.kind == "f" else ():
            if np.isclose(value.astype(np.float64), of(places * each), rtol=_CLOSE, atol=0).all():
                return Counted(value, of, places, each)
    return None
