"""Random classifiers for the property test: trunk x flatten x body x output, in 1, 2 and 3 dimensions.

Everything is drawn through ``draw``, so that hypothesis can make a failing network small.
"""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
import onnx
from hazards import Net
from hypothesis import HealthCheck, Phase, assume, settings
from hypothesis import strategies as st
from random_heads import Draw, Network, norm, random_head

SEED = int(os.environ.get("ONNXFC_SEED", "0"))


def tried(examples: int) -> int:
    """How many random examples are tried: one in eight in a plain run, in four with ``--half``, all with ``--all``."""
    return max(min(10, examples), examples // int(os.environ.get("ONNXFC_ONE_IN", "8")))


def drawn(examples: int) -> settings:
    """How a property of random networks is tried: by so many, or ``ONNXFC_EXAMPLES``, alike in every run."""
    return settings(
        max_examples=int(os.environ.get("ONNXFC_EXAMPLES", tried(examples))),
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def random_network(draw: Draw, branched: bool = False, plain: bool = False) -> tuple[onnx.ModelProto, Network]:
    """A model and what is known of it; ``branched``: the head begins with several windows, concatenated; ``plain``:
    such as a quantiser takes."""
    opset = draw(st.sampled_from((17, 13, 20) if plain else (17, 9, 11, 13, 20, 23)))
    rank = 2 if plain else draw(st.sampled_from((2, 2, 2, 1, 3)))
    chosen = draw(st.integers(0, 99))
    net = Net(opset, seed=chosen)
    extent = [draw(st.integers(7, 13 if rank < 3 else 9)) for _ in range(rank)]
    network = Network(net, draw, draw(st.integers(1, 4)), extent)
    batch = network.pick(1, 2, "N")
    network.story.append(f"opset {opset} seed {chosen} batch {batch} image {network.channels} x {extent}")
    tensor = _image(network, batch)
    more: list[str] = []
    for _ in range(network.number(1, 3)):
        tensor = network.pick(*(TRUNK[:PLAIN] if plain else TRUNK))(network, tensor)
        assume(all(length >= 1 for length in network.extent))
        if not more and not plain and network.pick(*[False] * 7, True):
            more.append(network.pick(_features, _early_exit)(network, tensor, batch))
    assume(rank > 1 or network.channels > 1)  # (N, 1, L) flattened is (N, L): is it still a map? Either answer serves.
    network.story.append(f"map {network.channels} x {network.extent}")
    told = " ".join(network.story)
    assume("channels last" not in told or "Conv" in told or "Pool" in told)  # else nothing says which axes are space
    flat, features = network.pick(*((_both,) if branched else FLATTEN))(network, tensor, batch)
    return net.model(*random_head(network, flat, features), *more), network


def _image(network: Network, batch: int | str) -> str:
    """Channels first, or last with a Transpose."""
    net, rank = network.net, network.rank
    if network.pick(False, False, True):
        last = net.input("image", [batch, *network.extent, network.channels])
        network.story.append("channels last")
        return str(net.op("Transpose", last, perm=[0, rank + 1, *range(1, rank + 1)]))
    return net.input("image", [batch, network.channels, *network.extent])


# The trunk


def _sliding(
    network: Network, kernel: list[int], strides: list[int], dilations: list[int], ceil: bool
) -> dict[str, Any]:
    """Attributes of a Conv or pool; the network's extent behind it."""
    rank = network.rank
    how = network.pick("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "pads")
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    pads = [0] * (2 * rank)
    if how == "pads":
        pads = [network.number(0, max(0, min(1, kernel[axis % rank] - 1))) for axis in range(2 * rank)]
        attributes["pads"] = pads
    elif how != "NOTSET":
        attributes["auto_pad"] = how
    extent = []
    for axis, length in enumerate(network.extent):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        if how.startswith("SAME"):
            new = -(-length // strides[axis])
            assume((new - 1) * strides[axis] + reach - length > -2)  # pads below 0: see test_pools
            if (new - 1) * strides[axis] + reach > length:
                network.clean = False
        else:
            room = length + pads[axis] + pads[axis + rank] - reach
            assume(room >= 0)
            if ceil and room % strides[axis]:
                network.clean = False
            new = (-(-room // strides[axis]) if ceil else room // strides[axis]) + 1
            assume(not ceil or (new - 1) * strides[axis] < length + pads[axis])  # where onnx and onnxruntime differ
        extent.append(new)
    if any(pads):
        network.clean = False
    network.extent = extent
    return attributes


def _conv(network: Network, tensor: str) -> str:
    net, rank = network.net, network.rank
    kernel = [network.number(1, 3) for _ in range(rank)]
    strides = [network.number(1, 2) for _ in range(rank)]
    dilations = [network.pick(1, 1, 2)] * rank
    group = network.pick(1, 1, network.channels)
    after = group * network.number(1, 4) if group > 1 else network.number(1, 5)
    weight = net.random(after, network.channels // group, *kernel)
    if any(item > 1 for item in dilations):
        assume(rank < 3)
    attributes = _sliding(network, kernel, strides, dilations, False)
    if any(item > 1 for item in dilations):
        assume("auto_pad" not in attributes)
        attributes["dilations"] = dilations
    bias = [net.random(after, gain=0.2)] if network.pick(True, False) else []
    network.channels = after
    network.story.append(f"Conv group {group} {attributes}")
    return str(net.op("Tanh", net.op("Conv", tensor, weight, *bias, group=group, **attributes)))


def _pool(network: Network, tensor: str) -> str:
    rank = network.rank
    kind = network.pick("MaxPool", "AveragePool")
    kernel = [network.number(1, 3) for _ in range(rank)]
    strides = [network.number(1, 3) for _ in range(rank)]
    ceil = network.net.opset >= 10 and network.pick(False, False, True)
    attributes = _sliding(network, kernel, strides, [1] * rank, ceil)
    assume(not (ceil and "auto_pad" in attributes))
    if ceil:
        attributes["ceil_mode"] = 1
    if kind == "AveragePool":
        attributes["count_include_pad"] = network.number(0, 1)
        assume(not (ceil and "pads" in attributes))
    network.story.append(f"{kind} {attributes}")
    return str(network.net.op(kind, tensor, **attributes))


def _pointwise(network: Network, tensor: str) -> str:
    net, rank = network.net, network.rank
    kind = network.pick("Relu", "norm", "scale", "Dropout")
    network.story.append(kind)
    if kind == "norm":
        return norm(network, tensor, network.channels)
    if kind == "scale":
        shifted = net.op("Add", tensor, net.random(network.channels, *[1] * rank))
        return str(net.op("Mul", net.const(0.7), shifted))
    return str(net.op(kind, net.op("Add", tensor, net.const(0.3)) if kind == "Relu" else tensor))


def _residual(network: Network, tensor: str) -> str:
    """x + Conv(x), padded where its kernel is 3."""
    net, rank = network.net, network.rank
    width = network.pick(1, 3)
    weight = net.random(network.channels, network.channels, *[width] * rank)
    network.clean = network.clean and width == 1
    network.story.append(f"residual {width}")
    return str(net.op("Add", tensor, net.op("Conv", tensor, weight, pads=[width // 2] * (2 * rank))))


def _branches(network: Network, tensor: str) -> str:
    """Two Convs side by side, concatenated."""
    net, rank = network.net, network.rank
    parts = [net.op("Conv", tensor, net.random(after, network.channels, *[1] * rank)) for after in (2, 3)]
    network.channels = 5
    network.story.append("branches")
    return str(
        net.op("Concat", parts[0], net.op("Tanh", parts[1]), axis=network.pick(1, -1 - rank) if net.opset >= 11 else 1)
    )


def _gate(network: Network, tensor: str) -> str:
    """Squeeze and excitation."""
    net, rank = network.net, network.rank
    assume(math.prod(network.extent) > 1)
    weight = net.random(network.channels, network.channels, *[1] * rank)
    network.clean = False
    network.story.append("gate")
    return str(net.op("Mul", tensor, net.op("Sigmoid", net.op("Conv", net.op("GlobalAveragePool", tensor), weight))))


def _wider(network: Network, tensor: str) -> str:
    """Twice as many places."""
    net, rank = network.net, network.rank
    kind = network.pick("ConvTranspose", "Resize")
    assume(rank < 3 and (kind == "ConvTranspose" or net.opset >= 11) and max(network.extent) < 9)
    network.extent = [2 * length for length in network.extent]
    network.clean = False
    network.story.append(f"wider {kind}")
    if kind == "Resize":
        scales = net.const([1, 1, *[2] * rank], dtype=np.float32)
        modes = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
        return str(net.op(kind, tensor, net.const([], dtype=np.float32), scales, **modes))
    kernel = network.pick(2, 4)
    weight, before = net.random(network.channels, network.channels, *[kernel] * rank), network.channels
    bias = net.random(before, gain=0.2)
    return str(net.op(kind, tensor, weight, bias, strides=[2] * rank, pads=[kernel // 2 - 1] * (2 * rank)))


TRUNK = (_conv, _conv, _conv, _pool, _pool, _pointwise, _residual, _branches, _gate, _wider)
PLAIN = 8
"""So many of these a quantised trunk is made of."""


def _features(network: Network, tensor: str, batch: int | str) -> str:
    """The trunk's tensor beside the scores."""
    network.story.append("features beside")
    return str(network.net.op("Identity", tensor))


def _early_exit(network: Network, tensor: str, batch: int | str) -> str:
    """A head of its own, from an earlier depth."""
    network.story.append("early exit")
    flat, features = network.pick(_flatten, _global)(network, tensor, batch)
    return network.net.fc(flat, features, 3)


# Into the head


def _flatten(network: Network, tensor: str, batch: int | str) -> tuple[str, int]:
    net, features = network.net, network.channels * math.prod(network.extent)
    how = network.pick("Flatten", "-1", "F", "0", "computed")
    network.story.append(f"flatten {how}")
    if how == "Flatten":
        return str(net.op("Flatten", tensor)), features
    if how == "computed":
        first = net.op("Gather", net.op("Shape", tensor), net.ints(0))
        return str(net.op("Reshape", tensor, net.op("Concat", first, net.ints(-1), axis=0))), features
    target = {"-1": [-1, features], "F": [0, features], "0": [0, -1]}[how]
    return str(net.op("Reshape", tensor, net.ints(*target))), features


def _turned(network: Network, tensor: str, batch: int | str) -> tuple[str, int]:
    rank = network.rank
    perm = [0, *network.draw(st.permutations(range(1, rank + 2)))]
    network.story.append(f"transposed {perm}")
    flat, features = (
        network.net.op("Transpose", tensor, perm=perm),
        network.channels * math.prod(network.extent),
    )
    return str(network.net.op("Reshape", flat, network.net.ints(-1, features))), features


def _global(network: Network, tensor: str, batch: int | str) -> tuple[str, int]:
    net, rank = network.net, network.rank
    kind = network.pick("GlobalAveragePool", "GlobalMaxPool", "AveragePool", "ReduceMean", "ReduceMax", "kept", "steps")
    network.story.append(kind)
    axes = [-1 - axis for axis in range(rank)]
    if kind.startswith("Global"):
        return str(net.op("Flatten", net.op(kind, tensor))), network.channels
    if kind == "AveragePool":
        pool = net.op(kind, tensor, kernel_shape=network.extent, strides=network.extent)
        return str(net.op("Flatten", pool)), network.channels
    if kind == "kept":
        return str(net.op("Flatten", net.axes("ReduceMean", tensor, axes, keepdims=1))), network.channels
    if kind == "steps":
        for _ in range(rank):
            tensor = net.axes("ReduceMean", tensor, [-1], keepdims=0)
        return tensor, network.channels
    return net.axes(kind, tensor, axes, keepdims=0), network.channels


def _both(network: Network, tensor: str, batch: int | str) -> tuple[str, int]:
    """Two ways into the head, concatenated."""
    network.story.append("both")
    one, first = network.pick(_flatten, _turned, _global)(network, tensor, batch)
    two, second = network.pick(_flatten, _global)(network, tensor, batch)
    return str(network.net.op("Concat", one, two, axis=1)), first + second


FLATTEN = (_flatten, _flatten, _turned, _global, _global)


def still_varies(model: onnx.ModelProto, session: Any) -> bool:
    """Whether different images give different scores, for the sizes that the model was made for."""
    made = session(model)
    given = made.get_inputs()[0]
    shape = [item if isinstance(item, int) else 1 for item in given.shape]
    rng = np.random.default_rng(0)
    runs = [made.run(None, {given.name: rng.standard_normal(shape).astype(np.float32)}) for _ in range(3)]
    return all(float(np.ptp(np.stack(values), axis=0).max()) > 1e-3 for values in zip(*runs, strict=True))
