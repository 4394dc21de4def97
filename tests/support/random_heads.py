"""Random heads for the property test: bodies and outputs, from the features on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hazards import Net
from hypothesis import strategies as st

Draw = Callable[[Any], Any]


@dataclass
class Network:
    """A network under construction: the map's channels and extent so far, and whether a cell equals its crop."""

    net: Net
    draw: Draw
    channels: int
    extent: list[int]
    clean: bool = True
    story: list[str] = field(default_factory=list)

    @property
    def rank(self) -> int:
        return len(self.extent)

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))


def random_head(network: Network, flat: str, features: int) -> list[str]:
    """Outputs of a head over ``flat`` (N, features)."""
    scores, width = flat, features
    for _ in range(network.number(0, 4)):
        piece = network.pick(*BODY)
        network.story.append(piece.__name__.strip("_"))
        scores, width = piece(network, scores, width)
    if network.pick(True, False, False):  # a second FC layer from the same features
        network.story.append("again")
        scores = network.net.op("Add", scores, network.net.fc(flat, features, width))
    return _outputs(network, network.net.fc(scores, width, 4), scores, width)


def norm(network: Network, tensor: str, length: int) -> str:
    """BatchNormalization of axis 1."""
    net = network.net
    rest = [
        net.const(1 + 0.3 * net.rng.standard_normal(length)),
        net.random(length, gain=0.3),
        net.random(length, gain=0.3),
    ]
    return str(net.op("BatchNormalization", tensor, *rest, net.const(0.5 + net.rng.random(length))))


# Bodies: (N, features) to (N, features)


def _fc(network: Network, x: str, width: int) -> tuple[str, int]:
    after = network.number(2, 6)
    return network.net.fc(x, width, after), after


def _matmul(network: Network, x: str, width: int) -> tuple[str, int]:
    net, after = network.net, network.number(2, 6)
    product = net.op("MatMul", x, net.random(width, after))
    return str(net.op("Add", net.random(after), product)), after


def _einsum(network: Network, x: str, width: int) -> tuple[str, int]:
    net, after = network.net, network.number(2, 6)
    if net.opset < 12:
        return _matmul(network, x, width)
    equation, shape = network.pick(("bf,of->bo", (after, width)), ("bf,fo->bo", (width, after)))
    return str(net.op("Einsum", x, net.random(*shape), equation=equation)), after


def _twice(network: Network, x: str, width: int) -> tuple[str, int]:
    """One weight, two FC layers."""
    net = network.net
    weight = net.random(width, width, gain=0.4)
    first = net.op("Tanh", net.op("Gemm", x, weight, net.random(width, gain=0.2), transB=network.number(0, 1)))
    return str(net.op("MatMul", first, weight)), width


def _residual(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    return str(net.op("Add", x, net.op("Tanh", net.fc(x, width, width)))), width


def _batch_norm(network: Network, x: str, width: int) -> tuple[str, int]:
    return norm(network, x, width), width


def _constant(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    shape = network.pick((width,), (1, width), (), (1,))
    return str(net.op(network.pick("Mul", "Sub", "Add", "Div"), x, net.const(0.5 + net.rng.random(shape)))), width


def _activation(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    kind = network.pick("Relu", "Dropout", "LeakyRelu", "Elu", "Sigmoid", "PRelu", "gelu", "silu", "where", "Cast")
    if kind == "PRelu":
        return str(net.op(kind, x, net.random(*network.pick((width,), (1,))))), width
    if kind == "gelu":
        inner = net.op("Add", net.op("Erf", net.op("Div", x, net.const(2**0.5))), net.const(1.0))
        return str(net.op("Mul", net.op("Mul", x, inner), net.const(0.5))), width
    if kind == "silu":
        return str(net.op("Mul", x, net.op("Sigmoid", x))), width
    if kind == "where":
        return str(net.op("Where", net.op("Less", x, net.const(0.1)), net.op("Tanh", x), x)), width
    return str(net.op(kind, x, to=1) if kind == "Cast" else net.op(kind, x)), width


def _cut(network: Network, x: str, begin: int, end: int) -> str:
    net = network.net
    if net.opset < 10:
        return str(net.op("Slice", x, starts=[begin], ends=[end], axes=[1]))
    return str(net.op("Slice", x, net.ints(begin), net.ints(end), net.ints(network.pick(1, -1))))


def _glu(network: Network, x: str, width: int) -> tuple[str, int]:
    net, half = network.net, width // 2
    if half == 0:
        return x, width
    left = net.op("Gather", x, net.ints(*range(half)), axis=1)
    return str(net.op("Mul", left, net.op("Sigmoid", _cut(network, x, width - half, width)))), half


def _part(network: Network, x: str, width: int) -> tuple[str, int]:
    return (_cut(network, x, 1, width), width - 1) if width > 2 else (x, width)


def _center(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    return (str(net.op("Sub", x, net.axes("ReduceMean", x, [-1], keepdims=1))), width) if width > 1 else (x, width)


def _layer_norm(network: Network, x: str, width: int) -> tuple[str, int]:
    """As exporters before opset 17 spell it."""
    net = network.net
    if width < 3:
        return x, width
    centered = net.op("Sub", x, net.axes("ReduceMean", x, [-1], keepdims=1))
    square = net.op("Pow", centered, net.const(2.0))
    deviation = net.op("Sqrt", net.op("Add", net.axes("ReduceMean", square, [1], keepdims=1), net.const(0.1)))
    return str(net.op("Mul", net.op("Div", centered, deviation), net.random(width))), width


def _unit(network: Network, x: str, width: int) -> tuple[str, int]:
    """Divided by its own length."""
    net = network.net
    if width < 2:
        return x, width
    length = net.op("Add", net.axes("ReduceL2", x, [network.pick(1, -1)], keepdims=1), net.const(0.2))
    if network.pick(True, False):
        length = net.op("Expand", length, net.op("Shape", x))
    return str(net.op("Div", x, length)), width


def _dueling(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    value, gain = net.fc(x, width, 1), net.fc(x, width, 4)
    return str(net.op("Add", value, net.op("Sub", gain, net.axes("ReduceMean", gain, [1], keepdims=1)))), 4


def _pairs(network: Network, x: str, width: int) -> tuple[str, int]:
    """(N, F) to (N, 2, F / 2), transposed, and flat again."""
    net = network.net
    if width % 2 or width < 4:
        return x, width
    rows = net.op("Reshape", x, net.ints(*network.pick((0, 2, width // 2), (-1, 2, width // 2), (0, 2, -1))))
    if network.pick(True, False):
        rows = net.op("Softmax", rows, axis=2)
    turned = net.op("Transpose", rows, perm=[0, 2, 1])
    return str(
        net.op("Reshape", turned, net.ints(-1, width)) if network.pick(0, 1) else net.op("Flatten", turned)
    ), width


def _along(network: Network, x: str, width: int) -> tuple[str, int]:
    """A 1-D Conv over the features."""
    net = network.net
    if width < 4:
        return x, width
    made = net.op("Conv", net.axes("Unsqueeze", x, [1]), net.random(2, 1, 3), kernel_shape=[3])
    return str(net.op("Flatten", made)), 2 * (width - 2)


def _picked(network: Network, x: str, width: int) -> tuple[str, int]:
    """The score at the place that another FC layer found, beside the features."""
    net = network.net
    if net.opset < 11 or width < 2:
        return x, width
    place = net.op("ArgMax", net.fc(x, width, width), axis=1, keepdims=1)
    return str(net.op("Concat", x, net.op("GatherElements", x, place, axis=1), axis=1)), width + 1


def _sorted(network: Network, x: str, width: int) -> tuple[str, int]:
    net = network.net
    if net.opset < 11 or width < 2 or width > 40:
        return x, width
    count = min(width, 3)
    return net.op("TopK", x, net.ints(count), axis=network.pick(1, -1), outputs=2)[0], count


BODY = (
    *(_fc, _fc, _fc, _matmul, _einsum, _twice, _residual, _batch_norm, _constant, _activation, _activation),
    *(_glu, _part, _center, _layer_norm, _unit, _dueling, _pairs, _along, _picked, _sorted),
)


# Outputs


def _outputs(network: Network, scores: str, before: str, width: int) -> list[str]:
    net = network.net
    kinds = ("scores", "Softmax", "LogSoftmax", "Sigmoid", "pairs", "two", "reduced", "classes", "chosen")
    kind = network.pick(*kinds)
    network.story.append(kind)
    if kind in {"Softmax", "LogSoftmax"}:
        return [net.op(kind, scores, axis=network.pick(1, -1))]
    if kind == "Sigmoid":
        return [net.op("Sigmoid", scores)]
    if kind == "pairs":
        return [net.op("Softmax", net.op("Reshape", scores, net.ints(-1, 2, 2)), axis=network.pick(1, 2))]
    if kind == "two":
        return [scores, net.fc(net.op("Tanh", scores), 4, 2)]
    if kind == "reduced":
        return [net.axes("ReduceMax", scores, [1], keepdims=network.pick(0, 1))]
    if kind == "classes":
        return [scores, net.op("ArgMax", scores, axis=1, keepdims=network.pick(0, 1))]
    if kind == "chosen" and net.opset >= 11:
        best = net.op("ArgMax", scores, axis=-1, keepdims=network.pick(0, 1))
        return [scores, net.op("Gather", net.random(4, *network.pick((), (3,))), best, axis=0)]
    return [scores]
