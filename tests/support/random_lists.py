"""Random networks whose outputs follow the image: lists of places, sequences along one axis, heads of several strides.

Each is made twice, with the same weights: as exporters write it, with the native lengths as numbers, and open, with
lengths that the graph computes. The open one, run at another size, says what the first must be there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import onnx
from hazards import Net
from hypothesis import assume
from random_heads import random_head
from random_networks import TRUNK, _conv, _flatten, _image, _pointwise, _pool
from random_twins import Map, Places, Twin


@dataclass(frozen=True)
class Pair:
    """``kinds`` of the outputs: list, sequence, or head; ``runs``: which of them the open model has, by number."""

    baked: onnx.ModelProto
    open: onnx.ModelProto
    network: Twin
    kinds: tuple[str, ...]
    runs: tuple[int, ...]
    options: dict[str, Any]


Output = tuple[str, str, bool]
"""Name, kind, and whether it is made at other sizes by the open model."""


def random_pair(number: int) -> Pair:
    network, outputs, options = _network(number, False)
    opened, same, _ = _network(number, True)
    runs = tuple(place for place, output in enumerate(outputs) if output[2])
    names = [same[place][0] for place in runs]
    opened.net.nodes = _ahead(opened.net.nodes, names)
    kinds, made = tuple(output[1] for output in outputs), network.net.model(*(output[0] for output in outputs))
    return Pair(made, opened.net.model(*names) if names else onnx.ModelProto(), network, kinds, runs, options)


def _ahead(nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that these tensors need."""
    wanted, kept = set(names), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def _network(number: int, opened: bool) -> tuple[Twin, list[Output], dict[str, Any]]:
    chosen = Random(number)
    kind = chosen.choice((_lists, _lists, _sequence, _sequence, _heads, _beside))
    rank = 2 if kind is _sequence else chosen.choice((2, 2, 2, 1))
    extent = [chosen.randint(12, 30) for _ in range(rank)]
    network = Twin(Net(chosen.choice((17, 11, 13, 18, 20)), number), chosen, chosen.randint(1, 3), extent, open=opened)
    network.batch = network.pick(1, 1, 1, 2, "N")
    alone = network.pick((0,), (1,)) if kind is _sequence else network.pick((0,), (1,), (), ())
    network.free = alone if alone and rank == 2 else tuple(range(rank))
    network.told("opset", network.net.opset, "batch", network.batch, "image", network.channels, "x", extent)
    tensor = _image(network, network.batch)
    if opened:
        dims = network.net.inputs[0].type.tensor_type.shape.dim
        first = 1 if "channels last" in network.story else 2
        for axis in network.free:
            dims[first + axis].dim_param = f"free{axis}"
    tensor = _conv(network, tensor)
    for _ in range(network.number(0, 2)):
        tensor = network.pick(*TRUNK)(network, tensor)
    _large_enough(network, 4)
    network.told("map", network.channels, "x", network.extent)
    outputs = kind(network, Map(tensor, network.channels, tuple(network.extent)))
    options: dict[str, Any] = {"free": ("height", "width")[alone[0] : alone[0] + 1]} if len(network.free) < rank else {}
    if any(output[1] == "head" for output in outputs):
        options["global_pool"] = network.pick("window", "keep")
    if "grid" in f"{network.story}":
        options["grids"] = network.pick(None, "step")
    return network, outputs, options


def _large_enough(network: Twin, least: int) -> None:
    assume(all(length >= least for length in network.extent))


# Levels


def _levels(network: Twin, first: Map, least: int = 1) -> list[Map]:
    """Maps of less and less places; of an FPN, each with what the coarser ones say."""
    levels = [first]
    for _ in range(network.number(least, 3) - 1):
        tensor = network.pick(_conv, _conv, _pool)(network, levels[-1].name)
        _large_enough(network, 1)
        assume(not ("Pool " in str(network.story[-1]) and max(network.extent) == 1))  # it stands for a global one
        levels.append(Map(tensor, network.channels, tuple(network.extent)))
    network.told("levels", *(level.extent for level in levels))
    return _pyramid(network, levels) if len(levels) > 1 and network.pick(True, False, False) else levels


def _pyramid(network: Twin, levels: list[Map]) -> list[Map]:
    net, rank = network.net, network.rank
    assume(network.batch != "N")
    network.told("pyramid")
    above: list[Map] = []
    for level in reversed(levels):
        data = net.op("Conv", level.name, net.random(4, level.channels, *[1] * rank))
        lateral = Map(data, 4, level.extent)
        if above:
            target = network.numbers(int(network.batch), 4, *(Places(lateral, (axis,)) for axis in range(rank)))
            none = net.const([]) if net.opset < 13 else ""
            how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            data = net.op("Add", data, net.op("Resize", above[-1].name, none, none, target, **how))
        above.append(Map(data, 4, level.extent))
    network.clean = False
    return above[::-1]


# Lists of places


def _lists(network: Twin, first: Map) -> list[Output]:
    levels = _levels(network, first)
    return [output for _ in range(network.pick(1, 1, 2)) for output in _list(network, levels)]


def _list(network: Twin, levels: list[Map]) -> list[Output]:
    """One list of all levels, decoded level by level or at its end."""
    net, rank = network.net, network.rank
    lay = network.pick("flat", "turned", "last", "outer", "inner", "columns", "channels")
    anchors, width = network.number(1, 3), network.pick(1, 2, 4, 6)
    each, kernel = network.pick(True, False), network.pick(1, 1, 3)
    network.told("list", lay, "anchors", anchors, "width", width, "kernel", kernel)
    parts = []
    for level in levels:
        weight = net.random(anchors * width, level.channels, *[kernel] * rank)
        bias = net.random(anchors * width, gain=0.3)
        data = net.op("Conv", level.name, weight, bias, pads=[kernel // 2] * (2 * rank))
        tensor = _laid(network, Map(data, anchors * width, level.extent), lay, anchors, width)
        own = width * anchors if lay in {"flat", "turned", "columns"} else width
        parts.append(_decoded(network, tensor, lay, own, level if anchors == 1 else None) if each else tensor)
    tensor, axis = parts[0], 3 - _features(lay)
    if len(parts) > 1:
        tensor = net.op("Concat", *parts, axis=network.pick(axis, axis - 3))
    if not each:
        tensor = _decoded(network, tensor, lay, own, levels[0] if anchors == len(levels) == 1 else None)
    return _ended(network, tensor, _features(lay), own)


def _features(lay: str) -> int:
    """The axis of the features of a place."""
    return 1 if lay in {"flat", "channels"} else 2


def _laid(network: Twin, data: Map, lay: str, anchors: int, width: int) -> str:
    """(N, K, places) or (N, places, K) of (N, anchors K, h, w)."""
    net, rank = network.net, network.rank
    space, images = tuple(range(rank)), network.images()
    every = Places(data, space)
    if lay == "flat":
        return network.reshaped(data.name, images, data.channels, every)
    if lay == "turned":
        return str(net.op("Transpose", network.reshaped(data.name, images, data.channels, every), perm=[0, 2, 1]))
    if lay in {"last", "columns"}:
        order = [2 + axis for axis in (space if lay == "last" else space[::-1])]
        turned = net.op("Transpose", data.name, perm=[0, *order, 1])
        own = (Places(data, space, anchors), width) if lay == "last" else (every, data.channels)
        return network.reshaped(turned, images, *own)
    if lay == "channels":
        rows = network.reshaped(data.name, images, anchors, width, every)
        turned = net.op("Transpose", rows, perm=[0, 2, 1, 3])
        return network.reshaped(turned, images, width, Places(data, space, anchors))
    apart = network.reshaped(data.name, images, anchors, width, *(Places(data, (axis,)) for axis in space))
    places = [3 + axis for axis in space]
    turned = net.op("Transpose", apart, perm=[0, 1, *places, 2] if lay == "outer" else [0, *places, 1, 2])
    return network.reshaped(turned, images, Places(data, space, anchors), width)


def _decoded(network: Twin, tensor: str, lay: str, width: int, level: Map | None) -> str:
    """Some steps on the features of each place; ``level``: the one whose places these are, one by one."""
    net, axis = network.net, _features(lay)
    for _ in range(network.number(0, 2)):
        kind = network.pick("Sigmoid", "Exp", "Tanh", "affine", "number", "Softmax", "parts", "grid", "grid")
        least = {"Softmax": 2, "parts": 2, "grid": network.rank if level else width + 1}
        if width < least.get(kind, 1):
            continue
        network.told("decoded", kind)
        if kind == "affine":
            shape = (width,) if axis == 2 else (width, 1)
            tensor = net.op("Mul", tensor, net.const(0.5 + net.rng.random(shape)))
            tensor = net.op("Sub", tensor, net.const(net.rng.random((1, *shape))))
        elif kind == "number":
            tensor = net.op("Mul", tensor, net.const(network.pick(0.1, 0.5, 2, 4, 8)))
        elif kind == "Softmax":
            tensor = net.op(kind, tensor, axis=axis) if net.opset >= 13 or axis == 2 else net.op("Sigmoid", tensor)
        elif kind == "parts":
            one, two = _cut(net, tensor, axis, width // 2, width)
            tensor = net.op("Concat", net.op("Sigmoid", one), _exp(net, two), axis=axis)
        elif kind == "grid" and level is not None:
            tensor = _on_grid(network, tensor, lay, width, level)
        else:
            tensor = _exp(net, tensor) if kind == "Exp" else net.op(kind, tensor)
    return tensor


def _exp(net: Net, tensor: str) -> str:
    """Of lengths that are limited, as decoders do it."""
    return str(net.op("Exp", net.op("Clip", tensor, net.const(-4.0), net.const(4.0))))


def _cut(net: Net, tensor: str, axis: int, at: int, width: int) -> tuple[str, str]:
    bounds = ((0, at), (at, width))
    one, two = (net.op("Slice", tensor, net.ints(begin), net.ints(end), net.ints(axis)) for begin, end in bounds)
    return one, two


def _on_grid(network: Twin, tensor: str, lay: str, width: int, level: Map) -> str:
    """The first features are added to the place's coordinates, in pixels."""
    net, rank, axis = network.net, network.rank, _features(lay)
    order, offset = range(rank)[:: -1 if lay == "columns" else 1], network.pick(0.0, 0.5)
    step = network.pick(1.0, 2.0, 8.0)
    if network.open:
        grids = []
        for a in range(rank):
            count = net.axes("Squeeze", network.length(Places(level, (a,))), [0])
            row = net.op("Range", net.const(0, dtype=np.int64), count, net.const(1, dtype=np.int64))
            row = net.op("Reshape", net.op("Cast", row, to=1), net.ints(1, 1, *(-1 if a == b else 1 for b in order)))
            whole = net.op("Concat", net.ints(1, 1), *(network.length(Places(level, (b,))) for b in order), axis=0)
            grids.append(net.op("Expand", row, whole))
        grid = net.op("Reshape", net.op("Concat", *grids, axis=1), net.ints(1, rank, -1))
        grid = grid if axis == 1 else net.op("Transpose", grid, perm=[0, 2, 1])
        grid = net.op("Mul", net.op("Add", grid, net.const(offset)), net.const(step))
    else:
        rows = np.stack(np.meshgrid(*(np.arange(n) for n in level.extent), indexing="ij"))
        flat = rows.transpose(0, *(1 + a for a in order)).reshape(1, rank, -1)
        grid = net.const((flat + offset) * step if axis == 1 else ((flat + offset) * step).transpose(0, 2, 1))
    if width == rank:
        return str(net.op("Add", tensor, grid))
    one, two = _cut(net, tensor, axis, rank, width)
    return str(net.op("Concat", net.op("Add", one, grid), two, axis=axis))


def _ended(network: Twin, tensor: str, axis: int, width: int) -> list[Output]:
    """As it is, without an axis of length 1, or what is best of each place."""
    net = network.net
    how = network.pick("plain", "plain", "one image", "one feature", "best", "class", "two")
    fits = {"one image": network.batch == 1, "one feature": width == 1}
    if not fits.get(how, how == "plain" or width > 1):
        how = "plain"
    network.told("ended", how)
    if how == "two":
        return [(part, "list", True) for part in _cut(net, tensor, axis, width // 2, width)]
    if how.startswith("one"):
        return [(net.axes("Squeeze", tensor, [0 if how == "one image" else axis]), "list", True)]
    if how == "best":
        return [(net.axes("ReduceMax", tensor, [axis], keepdims=0), "list", True)]
    made = net.op("ArgMax", tensor, axis=axis, keepdims=0) if how == "class" else net.op("Identity", tensor)
    return [(made, "list", True)]


# Sequences along one axis


def _sequence(network: Twin, first: Map) -> list[Output]:
    """(N, C, T), some steps on it, then scores of classes for each step."""
    net = network.net
    tensor = _rows(network, first)
    for _ in range(network.number(0, 2)):
        tensor = network.pick(_conv, _conv, _pool, _pointwise)(network, tensor)
    _large_enough(network, 2)
    width, steps = network.channels, Map(tensor, network.channels, tuple(network.extent))
    how = network.pick("places first", "images first", "features first", "recurrent", "recurrent", "attention")
    network.told("sequence", how, "of", steps.extent)
    if how == "features first":
        made = net.op("Conv", tensor, net.random(5, width, 1), net.random(5, gain=0.2))
        return [(net.op("Softmax", made, axis=1) if net.opset >= 13 and network.pick(0, 1) else made, "sequence", True)]
    if how == "recurrent":
        return _classes(network, *_recurrent(network, steps), 0, steps)
    if how == "attention":
        rows = net.op("Transpose", tensor, perm=[0, 2, 1])
        alike = net.op("Mul", net.op("MatMul", rows, tensor), net.const(width**-0.5))
        return _classes(network, net.op("MatMul", net.op("Softmax", alike, axis=2), rows), width, 1, steps)
    place = 0 if how == "places first" else 1
    rows = net.op("Transpose", tensor, perm=[0, 2, 1] if place else [2, 0, 1])
    return _classes(network, rows, width, place, steps)


def _rows(network: Twin, first: Map) -> str:
    """(N, C, T): what lies on the axis that stays is averaged, compared, or laid into the channels."""
    net, (along,) = network.net, network.free
    across = 1 - along
    how = network.pick("mean", "max", "pool", "folded", "folded")
    network.told("rows", how)
    network.extent = [first.extent[along]]
    if how == "folded":
        network.channels = first.channels * first.extent[across]
        data = first.name if along else net.op("Transpose", first.name, perm=[0, 1, 3, 2])
        return network.reshaped(data, network.images(), network.channels, Places(first, (along,)))
    if how == "pool":
        kernel = [first.extent[axis] if axis == across else 1 for axis in (0, 1)]
        kind = network.pick("AveragePool", "MaxPool")
        return net.axes("Squeeze", net.op(kind, first.name, kernel_shape=kernel), [2 + across])
    return net.axes({"mean": "ReduceMean", "max": "ReduceMax"}[how], first.name, [2 + across], keepdims=0)


def _recurrent(network: Twin, steps: Map) -> tuple[str, int]:
    """(T, N, hidden) of (N, C, T)."""
    net, hidden = network.net, network.number(2, 5)
    kind, direction = network.pick("LSTM", "GRU", "RNN"), network.pick("forward", "reverse", "bidirectional")
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind], 2 if direction == "bidirectional" else 1
    network.told(kind, direction)
    rows = net.op("Transpose", steps.name, perm=[2, 0, 1])
    weights = [net.const(net.noise(ways, gates * hidden, n)) for n in (steps.channels, hidden)]
    states = ["", net.const(np.zeros((ways, network.batch, hidden)))] if network.batch == 1 else []
    more = {"linear_before_reset": network.pick(0, 1)} if kind == "GRU" else {}
    bias = net.random(ways, 2 * gates * hidden, gain=0.3)
    made = net.op(kind, rows, *weights, bias, *states, hidden_size=hidden, direction=direction, **more)
    if ways == 1:
        return net.axes("Squeeze", made, [1]), hidden
    turned = net.op("Transpose", made, perm=[0, 2, 1, 3])
    first, batch = network.pick(0, Places(steps, (0,))), 0 if network.batch == "N" else int(network.batch)
    return network.reshaped(turned, first, batch, ways * hidden), ways * hidden


def _classes(network: Twin, rows: str, width: int, place: int, steps: Map) -> list[Output]:
    """Scores of (T, N, C), or (N, T, C); ``place`` is the axis of T."""
    net, batch = network.net, network.batch
    if network.pick(True, False, False) and batch != "N" and width > 1:  # (T, 1) is read as a window of T
        network.told("as rows")  # all steps of all images under each other
        flat = network.reshaped(rows, Places(steps, (0,), int(batch)), width)
        apart = [Places(steps, (0,)), int(batch)]
        scores = network.reshaped(net.fc(flat, width, 5), *(apart[::-1] if place else apart), 5)
    else:
        scores = net.op("Add", net.op("MatMul", rows, net.random(width, 5)), net.random(5, gain=0.2))
    ended = network.pick("scores", "Softmax", "LogSoftmax", "turned", "one image", "class")
    network.told(ended)
    if ended.endswith("Softmax"):
        scores = net.op(ended, scores, axis=2)
    elif ended == "turned":
        perm = network.pick(*((1, 0, 2), (1, 2, 0)) if place == 0 else ((0, 2, 1), (1, 0, 2)))
        scores = net.op("Transpose", scores, perm=list(perm))
    elif ended == "one image" and batch == 1:
        scores = net.axes("Squeeze", scores, [1 - place])
    elif ended == "class":
        scores = net.op("ArgMax", scores, axis=2, keepdims=0)
    return [(scores, "sequence", True)]


# Heads of several strides, and beside lists


def _heads(network: Twin, first: Map) -> list[Output]:
    """Of their own, or one of what all levels say."""
    net, levels = network.net, _levels(network, first, 2)
    how = network.pick("apart", "apart", "joined", "added")
    network.told("heads", how)
    ways = [_into(network, level) for level in levels]
    if how == "apart":
        return [item for flat, width, runs in ways for item in _scores(network, flat, width, runs)]
    if how == "joined":
        flat, width = net.op("Concat", *(way[0] for way in ways), axis=1), sum(way[1] for way in ways)
    else:
        width, flat = 4, net.fc(*ways[0][:2], 4)
        for way in ways[1:]:
            flat = net.op("Add", flat, net.fc(*way[:2], 4))
        flat = net.op("Tanh", flat)
    return _scores(network, flat, width, all(way[2] for way in ways))


def _scores(network: Twin, flat: str, width: int, runs: bool) -> list[Output]:
    return [(name, "head", runs) for name in random_head(network, flat, width)]


def _into(network: Twin, level: Map) -> tuple[str, int, bool]:
    """A level's features; whether there are as many of a larger map."""
    net, rank = network.net, network.rank
    kind = network.pick("flatten", "GlobalAveragePool", "GlobalMaxPool", "AveragePool", "ReduceMean", "ReduceMax")
    network.channels, network.extent = level.channels, list(level.extent)
    if kind == "flatten":
        return (*_flatten(network, level.name, network.batch), False)
    network.told(kind)
    if kind.startswith("Reduce"):
        return net.axes(kind, level.name, [-1 - axis for axis in range(rank)], keepdims=0), level.channels, True
    covers = {"kernel_shape": list(level.extent)} if kind == "AveragePool" and not network.open else {}
    pool = net.op(kind if covers or kind != "AveragePool" else "GlobalAveragePool", level.name, **covers)
    return str(net.op("Flatten", pool)), level.channels, True


def _beside(network: Twin, first: Map) -> list[Output]:
    """A list and a head on one trunk."""
    levels = _levels(network, first)
    outputs = _list(network, levels)
    network.told("beside")
    return outputs + _scores(network, *_into(network, network.pick(*levels)))
