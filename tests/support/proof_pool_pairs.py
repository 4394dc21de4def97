"""Pairs with a global pool and one FC layer as head."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto
from proof_pairs import Net, Pair, he, mistaken_claim

from onnxfc.claim.claim import Boundary, Claim, ImageInput, Output

POOL_MUTATIONS = (
    "window too small",
    "max pool",
    "pool kept",
    "pool padded",
    "pool strides",
    "scale 0.1 %",
    "scale 1 %",
    "channels swapped",
    "classes swapped",
    "bias lost",
    "relu added",
    "claim: extent",
    "claim: step",
    "claim: spatial axes",
    "claim: boundary missing",
    "claim: boundary unknown",
    "claim: stride",
    "claim: native size",
    "claim: form features",
    "claim: form mean",
    "claim: axes",
    "claim: outputs",
)


def pool_pair(
    pad: int = 0,
    form: str = "map",
    features: bool = False,
    argmax: bool = False,
    half: bool = False,
    uint8: bool = False,
    side: bool = False,
    leak: bool = False,
    seed: int = 0,
    wrong: str = "",
) -> Pair:
    """Two convolutions of stride 2 in all, a global average pool, one FC layer; ``wrong`` as in ``fc_pair``."""
    rng = np.random.default_rng(seed)
    native, channels, classes = 16, 8, 5
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    w1, w2 = he(rng, 6, 3, 3, 3), he(rng, channels, 6, 3, 3, gain=2.0)
    fc, bias = he(rng, classes, channels, gain=2.0), 0.2 * rng.standard_normal(classes)
    fside = he(rng, classes, 4)
    # 16 -> 7 -> 5 without pads, 16 -> 8 -> 8 with pads of 1.
    extent = 8 if pad else 5

    def trunk(net: Net) -> str:
        x = "image"
        if uint8:
            x = net.node("Cast", [x], "float", to=TensorProto.FLOAT)
            x = net.node("Div", [x, net.const("d", 128.0)], "unit")
            x = net.node("Sub", [x, net.const("one", 1.0)], "centred")
        x = net.node("Conv", [x, net.const("w1", w1, dtype)], "c1", strides=[2, 2], pads=[pad] * 4)
        x = net.node("Relu", [x], "r1")
        x = net.node("Conv", [x, net.const("w2", w2, dtype)], "c2", pads=[pad] * 4)
        return net.node("Relu", [x], "features")

    original = Net()
    x = trunk(original)
    x = original.node("GlobalAveragePool", [x], "pooled")
    if form == "cells":
        x = original.node("Conv", [x, original.const("k", fc.reshape(classes, channels, 1, 1), dtype)], "scores")
    else:
        x = original.node("Flatten", [x], "flat")
        weight = fc
        if side:
            x = original.node("Concat", [x, "side"], "joined", axis=1)
            weight = np.concatenate([fc, fside], axis=1)
        gemm = [x, original.const("fc", weight, dtype), original.const("b", bias, dtype)]
        x = original.node("Gemm", gemm, "raw" if leak else "scores", transB=1)
        if leak:
            level = original.node("ReduceMean", ["image"], "level", axes=[1, 2, 3], keepdims=0)
            original.node("Add", [x, level], "scores")
    if argmax:
        original.node("ArgMax", ["scores"], "best", axis=1, keepdims=0)

    m = Net()
    x = trunk(m)
    if form == "global":
        x = m.node("GlobalAveragePool", [x], "pooled")
        if wrong == "global maximum":
            m.nodes[-1].op_type = "GlobalMaxPool"
        if wrong == "made local":
            x = m.node("ReduceMax", [m.node("AveragePool", ["features"], "ap", kernel_shape=[5, 5])], "l", axes=[2, 3])
        x = m.node("Flatten", [x], "flat")
        m.node("Gemm", [x, m.const("fc", fc, dtype), m.const("b", bias, dtype)], "scores", transB=1)
    else:
        window = {"window too small": extent - 1}.get(wrong, extent)
        if wrong == "max pool":
            x = m.node("MaxPool", [x], "pooled", kernel_shape=[window] * 2)
        elif wrong == "pool kept":
            x = m.node("GlobalAveragePool", [x], "pooled")
        elif wrong == "pool padded":
            x = m.node("AveragePool", [x], "pooled", kernel_shape=[window] * 2, pads=[1, 1, 1, 1])
        elif wrong == "pool strides":
            x = m.node("AveragePool", [x], "pooled", kernel_shape=[window] * 2, strides=[window] * 2)
        elif form != "activation":
            x = m.node("AveragePool", [x], "pooled", kernel_shape=[window] * 2)
        kernel = fc * {"scale 0.1 %": 1.001, "scale 1 %": 1.01, "scale 10 %": 1.1}.get(wrong, 1)
        kernel = {"channels swapped": kernel[:, ::-1], "classes swapped": kernel[::-1]}.get(wrong, kernel)
        if side:
            grid = m.node("Shape", [x], "grid", start=2)
            one = m.const("ones", [1, 1, 1, 1], np.int64)
            s = m.node("Unsqueeze", ["side", m.const("ax", [2, 3], np.int64)], "s4")
            full = m.node("Concat", [m.const("ones2", [1, 1], np.int64), grid], "full", axis=0)
            del one
            s = m.node("Expand", [s, full], "spread")
            if wrong == "side lost":
                s = m.node("Mul", [s, m.const("zero", 0.0, dtype)], "nothing")
            x = m.node("Concat", [x, s], "joined", axis=1)
            kernel = np.concatenate([kernel, fside], axis=1)
        kernel = kernel.reshape(classes, -1, 1, 1)
        inputs = [x, m.const("k", kernel, dtype)]
        if form != "cells" and wrong != "bias lost":
            inputs.append(m.const("b", bias, dtype))
        x = m.node("Conv", inputs, "scores0")
        if wrong == "relu added":
            x = m.node("Relu", [x], "relu")
        m.node("Identity", [x], "scores")
        if argmax:
            axis = 2 if wrong == "argmax over the grid" else 1
            m.node("ArgMin" if wrong == "argmin" else "ArgMax", ["scores"], "best", axis=axis, keepdims=0)
    x_kind = TensorProto.UINT8 if uint8 else kind
    inputs_of: dict[str, list[Any]] = {"image": [1, 3, native, native]}
    outputs: dict[str, Any] = {"scores": [1, classes, 1, 1] if form == "cells" else [1, classes]}
    kinds = {"scores": kind}
    if side:
        inputs_of["side"] = [1, 4]
    if argmax:
        outputs["best"], kinds["best"] = [1], TensorProto.INT64
    if features:
        outputs["r1"], kinds["r1"] = None, kind
    free = inputs_of | {"image": [1, 3, "height", "width"]}
    first = original.model(inputs_of, outputs, x_kind, kinds)
    second = m.model(free, dict.fromkeys(outputs), x_kind, kinds)
    axes = {"map": (2, 3), "activation": (2, 3), "cells": (2, 3)}.get(form, ())
    claimed = [Output("scores", form, axes)]  # type: ignore[arg-type]
    claimed += [Output("best", form, (1, 2))] if argmax else []  # type: ignore[arg-type]
    claimed += [Output("r1", "features", (2, 3))] if features else []
    claim = Claim(
        native_size=(native, native),
        stride=(2, 2),
        start=(-3 * pad,) * 2,
        size=(native, native),
        size_step=(1, 1),
        verdict="approximate" if pad else "exact",
        blame=("c1", "c2") if pad else (),
        inputs=(ImageInput("image", (1, 3, native, native), (2, 3)),),
        boundaries=(Boundary("features", "features", (2, 3), (extent, extent), (1, 1)),),
        outputs=tuple(claimed),
    )
    return Pair(first, second, mistaken_claim(claim, wrong))
