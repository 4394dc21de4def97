"""Pairs whose head is not a plain chain of nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper
from proof_pairs import Net, Pair, he

from onnxfc.claim.claim import Boundary, Claim, ImageInput, Output


def odd_pair(spelling: str, wrong: str = "") -> Pair:
    """Heads whose cut out of the original is not a plain chain.

    ``no trunk``: the head reads the pixels; ``image shape``: the batch is read from the image's shape;
    ``subgraph``: the FC's bias is read inside an If; ``wide``: 256x6x6 features into an FC as in AlexNet;
    ``baked batch``: a Reshape to (1, F) although the batch is declared free.
    """
    rng = np.random.default_rng(0)
    channels, native, hidden, classes = (256, 12, 128, 100) if spelling == "wide" else (3, 8, 16, 6)
    trunk = spelling != "no trunk"
    extent = native // 2 if trunk else native
    fc1, fb1 = he(rng, hidden, channels * extent**2), 0.2 * rng.standard_normal(hidden)
    fc2 = he(rng, classes, hidden)
    o, m = Net(), Net()
    for net in (o, m):
        net.const("fb1", fb1)
        if trunk:
            net.node("MaxPool", ["image"], "features", kernel_shape=[2, 2], strides=[2, 2])
    features = "features" if trunk else "image"
    if spelling == "image shape":
        n = o.node(
            "Slice",
            [o.node("Shape", ["image"], "shape"), o.const("zero", [0], np.int64), o.const("one", [1], np.int64)],
            "n",
        )
        target = o.node("Concat", [n, o.const("rest", [-1], np.int64)], "target", axis=0)
        x = o.node("Reshape", [features, target], "flat")
    elif spelling == "baked batch":
        x = o.node("Reshape", [features, o.const("target", [1, channels * extent**2], np.int64)], "flat")
    else:
        x = o.node("Flatten", [features], "flat")
    x = o.node("MatMul", [x, o.const("fc1", fc1.T)], "mm")
    if spelling == "subgraph":
        branches = [
            helper.make_graph(
                [helper.make_node("Identity", ["fb1"], [f"{name}_b"])],
                name,
                [],
                [helper.make_tensor_value_info(f"{name}_b", TensorProto.FLOAT, [hidden])],
            )
            for name in ("then", "else")
        ]
        o.const("yes", True, np.bool_)
        bias = o.node("If", ["yes"], "bias", then_branch=branches[0], else_branch=branches[1])
    else:
        bias = "fb1"
    x = o.node("Relu", [o.node("Add", [x, bias], "h")], "hr")
    o.node("MatMul", [x, o.const("fc2", fc2.T)], "scores")
    kernel = fc1.reshape(hidden, channels, extent, extent) * (1.001 if wrong == "scale 0.1 %" else 1)
    x = m.node("Relu", [m.node("Conv", [features, m.const("k1", kernel), "fb1"], "h")], "hr")
    m.node("Conv", [x, m.const("k2", fc2.reshape(classes, hidden, 1, 1))], "scores")
    batch: Any = "N" if spelling == "baked batch" else 1
    claim = Claim(
        native_size=(native,) * 2,
        stride=(2 if trunk else 1,) * 2,
        start=(0, 0),
        size=(native,) * 2,
        size_step=(1, 1),
        verdict="exact",
        blame=(),
        inputs=(ImageInput("image", (1, channels, native, native), (2, 3)),),
        boundaries=(Boundary(features, features, (2, 3), (extent,) * 2, (1, 1)),),
        outputs=(Output("scores", "map", (2, 3)),),
    )
    return Pair(
        o.model({"image": [batch, channels, native, native]}, {"scores": [batch, classes]}),
        m.model({"image": [batch, channels, "height", "width"]}, {"scores": [batch, classes, "h", "w"]}),
        claim,
    )
