"""Pairs with Flatten, Gemm, Relu, Gemm and perhaps Softmax as head, in one, two or three dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper
from proof_pairs import Net, Pair, he, mistaken_claim

from onnxfc.claim.claim import Boundary, Claim, ImageInput, Output

FC_MUTATIONS = (
    "trunk scaled",
    "pads added",
    "kernel transposed",
    "kernel flipped",
    "channels swapped",
    "two channels swapped",
    "flatten order HWC",
    "alpha ignored",
    "fc1 scale 1 %",
    "fc1 scale 0.1 %",
    "fc2 scale 1 %",
    "fc2 scale 0.1 %",
    "one unit lost",
    "units swapped",
    "one weight wrong",
    "bias lost",
    "bias scaled",
    "last bias lost",
    "one bias wrong",
    "stride two",
    "head padded",
    "window off by one",
    "relu lost",
    "map short",
    "claim: extent",
    "claim: step",
    "claim: spatial axes",
    "claim: boundary missing",
    "claim: boundary unknown",
    "claim: stride",
    "claim: native size",
    "claim: form",
    "claim: form features",
    "claim: axes",
    "claim: outputs",
)
SOFTMAX_MUTATIONS = (
    "softmax over the grid",
    "softmax over the first grid axis",
    "softmax over all",
    "softmax lost",
    "logsoftmax",
)
MAP_MUTATIONS = ("map shifted", "map flipped", "map transposed", "claim: form mean")
REDUCED_MUTATIONS = ("wrong reduction",)
SECOND_MUTATIONS = ("second head 0.1 %", "outputs swapped")

NATIVE, CHANNELS, HIDDEN, CLASSES = 14, 6, 16, 7
DIMS = {1: ["length"], 2: ["height", "width"], 3: ["depth", "height", "width"]}


@dataclass(frozen=True)
class Weights:
    """All weights of one network; the head reads ``extent`` features per axis."""

    dims: int
    pad: int
    trunk: dict[str, np.ndarray]
    fc1: np.ndarray
    fb1: np.ndarray
    fc2: np.ndarray
    fb2: np.ndarray
    fc3: np.ndarray

    @property
    def extent(self) -> int:
        """14 -> 12 -> 6 -> 5 without pads (the second kernel is 2), 14 -> 14 -> 7 -> 7 with pads."""
        return 7 if self.pad else 5


def fc_pair(
    dims: int = 2,
    pad: int = 0,
    batch: int | str = 1,
    seed: int = 0,
    softmax: bool = True,
    second: bool = False,
    form: str = "map",
    alpha: float = 0.7,
    vacuous: str = "",
    wrong: str = "",
) -> Pair:
    """Two convolutions and a pool, stride 2, then two FC layers; ``wrong`` is one of the mutations.

    ``vacuous`` makes both models dead, constant, saturated or nan.
    """
    weights = _weights(np.random.default_rng(seed), dims, pad, vacuous)
    original = _original(weights, softmax, second, alpha)
    rewritten = _rewritten(weights, softmax, second, alpha, form, wrong)
    outputs: dict[str, Any] = {"scores": [batch, CLASSES]} | ({"extra": [batch, 3]} if second else {})
    axes = tuple(range(2, 2 + dims)) if form == "map" else ()
    window = (weights.extent,) * dims
    claim = Claim(
        native_size=(NATIVE,) * dims,
        stride=(2,) * dims,
        start=(0,) * dims,
        size=(NATIVE,) * dims,
        size_step=(1,) * dims,
        verdict="approximate" if pad else "exact",
        blame=("c1",) if pad else (),
        # type: ignore[arg-type]
        inputs=(ImageInput("image", (1 if batch == "N" else batch, 3, *(NATIVE,) * dims), tuple(range(2, 2 + dims))),),
        boundaries=(Boundary("features", "features", tuple(range(2, 2 + dims)), window, (1,) * dims),),
        outputs=tuple(Output(name, form, axes) for name in outputs),  # type: ignore[arg-type]
    )
    first = original.model({"image": [batch, 3, *[NATIVE] * dims]}, outputs)
    second_model = rewritten.model({"image": [batch, 3, *DIMS[dims]]}, dict.fromkeys(outputs))
    if wrong == "outputs swapped":
        rename = {"scores": "extra", "extra": "scores"}
        for node in second_model.graph.node:
            node.output[:] = [rename.get(name, name) for name in node.output]
    return Pair(first, second_model, mistaken_claim(claim, wrong))


def _weights(rng: np.random.Generator, dims: int, pad: int, vacuous: str) -> Weights:
    k, k2, extent = (3,) * dims, (3 if pad else 2,) * dims, 7 if pad else 5
    trunk = {
        "w1": he(rng, 5, 3, *k),
        "b1": 0.1 * rng.standard_normal(5),
        "w2": he(rng, CHANNELS, 5, *k2),
        "b2": 0.1 * rng.standard_normal(CHANNELS) - 1e9 * (vacuous == "dead"),
    }
    fc1 = he(rng, HIDDEN, CHANNELS * extent**dims)
    fb1 = 0.3 * rng.standard_normal(HIDDEN)
    fc2 = he(rng, CLASSES, HIDDEN, gain=0.7) * {"constant": 0, "saturated": 1e6}.get(vacuous, 1)
    fb2 = 0.3 * rng.standard_normal(CLASSES) + {"nan": np.nan}.get(vacuous, 0)
    return Weights(dims, pad, trunk, fc1, fb1, fc2, fb2, he(rng, 3, HIDDEN))


def _trunk(net: Net, w: Weights, wrong: str = "") -> str:
    for name, value in w.trunk.items():
        net.const(name, value * (1.001 if wrong == "trunk scaled" and name == "w2" else 1))
    first = [w.pad + (wrong == "pads added")] * (2 * w.dims)
    x = net.node("Conv", ["image", "w1", "b1"], "c1", pads=first)
    x = net.node("Relu", [x], "r1")
    x = net.node("MaxPool", [x], "p1", kernel_shape=[2] * w.dims, strides=[2] * w.dims)
    x = net.node("Conv", [x, "w2", "b2"], "c2", pads=[w.pad] * (2 * w.dims))
    return net.node("Relu", [x], "features")


def _original(w: Weights, softmax: bool, second: bool, alpha: float) -> Net:
    net = Net()
    x = net.node("Flatten", [_trunk(net, w)], "flat")
    x = net.node("Gemm", [x, net.const("fc1", w.fc1), net.const("fb1", w.fb1)], "h", transB=1, alpha=alpha)
    h = net.node("Relu", [x], "hr")
    last = [h, net.const("fc2", w.fc2), net.const("fb2", w.fb2)]
    out = net.node("Gemm", last, "logits" if softmax else "scores", transB=1)
    if softmax:
        net.node("Softmax", [out], "scores", axis=1)
    if second:
        net.node("MatMul", [h, net.const("fc3", w.fc3.T)], "extra")
    return net


def _rewritten(w: Weights, softmax: bool, second: bool, alpha: float, form: str, wrong: str) -> Net:
    m, dims, ones = Net(), w.dims, [1] * w.dims
    x = _trunk(m, w, wrong)
    kernel, pads = _mistaken_kernel(w, alpha, wrong)
    bias1 = {"bias lost": 0 * w.fb1, "bias scaled": alpha * w.fb1}.get(wrong, w.fb1)
    off = w.fb2 + (np.arange(CLASSES) == 2) * 0.01
    bias2 = {"last bias lost": 0 * w.fb2, "one bias wrong": off}.get(wrong, w.fb2)
    fc2 = w.fc2 * {"fc2 scale 1 %": 1.01, "fc2 scale 0.1 %": 1.001}.get(wrong, 1)
    steps = [2 if wrong == "stride two" else 1] * dims
    x = m.node("Conv", [x, m.const("k1", kernel), m.const("kb1", bias1)], "h", strides=steps, pads=pads)
    h = x if wrong == "relu lost" else m.node("Relu", [x], "hr")
    x = m.node("Conv", [h, m.const("k2", fc2.reshape(CLASSES, HIDDEN, *ones)), m.const("kb2", bias2)], "logits")
    if softmax:
        x = _mistaken_softmax(m, x, dims, wrong)
    m.node("Identity", [_reduced(m, _mistaken_map(m, x, dims, wrong), form, dims, wrong)], "scores")
    if second:
        kernel3 = w.fc3.reshape(3, HIDDEN, *ones) * (1.001 if wrong == "second head 0.1 %" else 1)
        x = m.node("Conv", [h, m.const("k3", kernel3)], "e")
        m.node("Identity", [_reduced(m, x, form, dims, "", "e_")], "extra")
    return m


def _mistaken_kernel(w: Weights, alpha: float, wrong: str) -> tuple[np.ndarray, list[int]]:
    """The first FC as a Conv kernel, and its pads."""
    dims, window = w.dims, (w.extent,) * w.dims
    right = (alpha * w.fc1).reshape(HIDDEN, CHANNELS, *window)
    hwc = np.moveaxis((alpha * w.fc1).reshape(HIDDEN, *window, CHANNELS), -1, 1)
    lost = (np.arange(HIDDEN) != 5).reshape(-1, *[1] * (dims + 1))
    one = right.copy()
    one[(slice(None), 2, *[0] * dims)] *= -1
    # As if the window began one feature later: the pads make the map as large as the right one.
    late = np.roll(np.pad(right, [(0, 0)] * 2 + [(0, 1)] * dims), 1, axis=tuple(range(2, 2 + dims)))
    kernel = {
        "kernel transposed": np.swapaxes(right, -1, -2) if dims > 1 else right[..., ::-1],
        "kernel flipped": right[(Ellipsis, *[slice(None, None, -1)] * dims)],
        "channels swapped": right[:, ::-1],
        "two channels swapped": right[:, [1, 0, *range(2, CHANNELS)]],
        "flatten order HWC": hwc,
        "alpha ignored": right / alpha,
        "fc1 scale 1 %": right * 1.01,
        "fc1 scale 0.1 %": right * 1.001,
        "one unit lost": right * lost,
        "units swapped": right[::-1],
        "one weight wrong": one,
        "window off by one": late,
    }.get(wrong, right)
    pads = {"head padded": [1] * (2 * dims), "window off by one": [0] * dims + [1] * dims}
    return kernel, pads.get(wrong, [0] * (2 * dims))


def _mistaken_softmax(m: Net, x: str, dims: int, wrong: str) -> str:
    if wrong == "softmax lost":
        return m.node("Identity", [x], "soft")
    if wrong == "softmax over all":
        flat = m.node("Reshape", [x, m.const("s1", [0, -1], np.int64)], "sf")
        flat = m.node("Softmax", [flat], "sfs", axis=1)
        return m.node("Reshape", [flat, m.node("Shape", [x], "sshape")], "soft")
    axis = {"softmax over the grid": dims + 1, "softmax over the first grid axis": 2}.get(wrong, 1)
    return m.node("LogSoftmax" if wrong == "logsoftmax" else "Softmax", [x], "soft", axis=axis)


def _mistaken_map(m: Net, x: str, dims: int, wrong: str) -> str:
    """Mistakes in how the cells lie."""
    axes = list(range(2, 2 + dims))
    if wrong == "map transposed":
        x = m.node("Transpose", [x], "mt", perm=[0, 1, *axes[::-1]])
    if wrong == "map shifted":
        begin = m.const("roll0", [1], np.int64)
        end, last = m.const("roll1", [2**31], np.int64), m.const("rolla", [axes[-1]], np.int64)
        a = m.node("Slice", [x, begin, end, last], "ra")
        b = m.node("Slice", [x, m.const("roll2", [0], np.int64), begin, last], "rb")
        x = m.node("Concat", [a, b], "mr", axis=axes[-1])
    if wrong == "map short":
        # One row short where there are several.
        end = m.const("short1", [-1], np.int64)
        x1 = m.node("Slice", [x, m.const("short0", [0], np.int64), end, m.const("shorta", [2], np.int64)], "ms")
        first = m.node("Slice", [x, "short0", m.const("one", [1], np.int64), "shorta"], "m1")
        size = m.node("Gather", [m.node("Shape", [x], "mshape"), m.const("two", 2, np.int64)], "msize")
        many = m.node("Greater", [size, m.const("onei", 1, np.int64)], "many")
        then = helper.make_graph(
            [helper.make_node("Identity", [x1], ["mthen"])],
            "t",
            [],
            [helper.make_empty_tensor_value_info("mthen")],
        )
        other = helper.make_graph(
            [helper.make_node("Identity", [first], ["melse"])],
            "e",
            [],
            [helper.make_empty_tensor_value_info("melse")],
        )
        x = m.node("If", [many], "mif", then_branch=then, else_branch=other)
    if wrong == "map flipped":
        start, end = m.const("flip0", [-1], np.int64), m.const("flip1", [-(2**31)], np.int64)
        axis, step = m.const("flipa", [axes[-1]], np.int64), m.const("flips", [-1], np.int64)
        x = m.node("Slice", [x, start, end, axis, step], "mf")
    return x


def _reduced(m: Net, x: str, form: str, dims: int, wrong: str, prefix: str = "") -> str:
    """The mean or maximum over the cells."""
    if form not in ("mean", "max"):
        return x
    kind = "ReduceMean" if (form == "mean") != (wrong == "wrong reduction") else "ReduceMax"
    return m.node(kind, [x], prefix + "reduced", axes=list(range(2, 2 + dims)), keepdims=0)
