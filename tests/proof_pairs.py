"""Pairs of an original and a right rewrite, made by hand from one set of weights, for the verifier's tests.

The rewrite is made by a function of many options; its defaults are right, and every option is a mistake
that a rewriter could make.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxfc.claim import Boundary, Claim, ImageInput, Output

OPSET = 17


@dataclass(frozen=True)
class Pair:
    """Two models and what is claimed of the second."""

    original: onnx.ModelProto
    rewritten: onnx.ModelProto
    claim: Claim


class Net:
    """Collects nodes and weights; ``node`` gives back the name of the node's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        if all(tensor.name != name for tensor in self.weights):
            self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(
        self,
        inputs: dict[str, list[Any]],
        outputs: dict[str, list[Any]],
        kind: int = TensorProto.FLOAT,
        output_kinds: dict[str, int] | None = None,
    ) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info(name, kind, dims) for name, dims in inputs.items()],
            [
                helper.make_tensor_value_info(name, (output_kinds or {}).get(name, kind), dims)
                for name, dims in outputs.items()
            ],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def he(rng: np.random.Generator, *shape: int, gain: float = 1.0) -> np.ndarray:
    """Random weights that keep the size of what passes through them."""
    fan = int(np.prod(shape[1:])) or 1
    return (gain * rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)


# ---------------------------------------------------------------- Flatten, Gemm, Relu, Gemm, Softmax

DIMS = {1: ["length"], 2: ["height", "width"], 3: ["depth", "height", "width"]}


def fc_pair(
    dims: int = 2,
    pad: int = 0,
    batch: int | str = 1,
    seed: int = 0,
    softmax: bool = True,
    second: bool = False,
    form: str = "map",
    alpha: float = 0.7,
    wrong: str = "",
) -> Pair:
    """Two convolutions and a pool, stride 2, then a head on a window of 5 (or 4) features per axis.

    ``wrong`` names a mistake in the rewrite; see ``FC_MUTATIONS``.
    """
    rng = np.random.default_rng(seed)
    native = 14
    n, channels, hidden, classes = (batch if isinstance(batch, int) else 1), 6, 16, 7
    # Without pads 14 -> 12 -> 6 -> 5 with a second kernel of 2, with pads 14 -> 14 -> 7 -> 7.
    k, k2 = (3,) * dims, (3 if pad else 2,) * dims
    weights = {
        "w1": he(rng, 5, 3, *k),
        "b1": 0.1 * rng.standard_normal(5),
        "w2": he(rng, channels, 5, *k2),
        "b2": 0.1 * rng.standard_normal(channels),
    }
    extent = 7 if pad else 5
    window = (extent,) * dims
    fc1 = he(rng, hidden, channels * extent**dims)
    fb1 = (0.3 * rng.standard_normal(hidden)).astype(np.float32)
    fc2 = he(rng, classes, hidden, gain=0.7)
    fb2 = (0.3 * rng.standard_normal(classes)).astype(np.float32)
    fc3 = he(rng, 3, hidden)

    def trunk(net: Net, mistaken: bool) -> str:
        pads = [pad] * (2 * dims)
        for name, value in weights.items():
            net.const(name, value * (1.001 if mistaken and wrong == "trunk scaled" and name == "w2" else 1))
        first = [pad + (mistaken and wrong == "pads added")] * (2 * dims)
        x = net.node("Conv", ["image", "w1", "b1"], "c1", kernel_shape=k, pads=first)
        x = net.node("Relu", [x], "r1")
        x = net.node("MaxPool", [x], "p1", kernel_shape=[2] * dims, strides=[2] * dims)
        x = net.node("Conv", [x, "w2", "b2"], "c2", pads=pads)
        return net.node("Relu", [x], "features")

    original = Net()
    x = trunk(original, False)
    x = original.node("Flatten", [x], "flat")
    original.const("fc1", fc1), original.const("fb1", fb1), original.const("fc2", fc2)
    original.const("fb2", fb2)
    x = original.node("Gemm", [x, "fc1", "fb1"], "h", transB=1, alpha=alpha)
    h = original.node("Relu", [x], "hr")
    out = original.node("Gemm", [h, "fc2", "fb2"], "scores" if not softmax else "logits", transB=1)
    if softmax:
        original.node("Softmax", [out], "scores", axis=1)
    outputs: dict[str, list[Any]] = {"scores": [batch, classes]}
    if second:
        original.const("fc3", fc3)
        original.node("MatMul", [h, original.const("fc3t", fc3.T)], "extra")
        original.weights = [w for w in original.weights if w.name != "fc3"]
        outputs["extra"] = [batch, 3]
    shape = [batch, 3, *[native] * dims]
    first = original.model({"image": shape}, outputs)

    m = Net()
    x = trunk(m, True)
    kernel = (alpha * fc1).reshape(hidden, channels, *window)
    grid_rank = dims
    if wrong == "kernel transposed":
        kernel = np.swapaxes(kernel, -1, -2) if dims > 1 else kernel[..., ::-1]
    if wrong == "kernel flipped":
        kernel = kernel[(Ellipsis, *[slice(None, None, -1)] * dims)]
    if wrong == "channels swapped":
        kernel = kernel[:, ::-1]
    if wrong == "two channels swapped":
        kernel = kernel[:, [1, 0, *range(2, channels)]]
    if wrong == "flatten order HWC":
        kernel = np.moveaxis((alpha * fc1).reshape(hidden, *window, channels), -1, 1)
    if wrong == "alpha ignored":
        kernel = kernel / alpha
    for text, factor in (("scale 1 %", 1.01), ("scale 0.1 %", 1.001)):
        kernel = kernel * factor if wrong == f"fc1 {text}" else kernel
        fc2 = (fc2 * factor).astype(np.float32) if wrong == f"fc2 {text}" else fc2
    if wrong == "one unit lost":
        kernel = kernel * (np.arange(hidden) != 5).reshape(-1, *[1] * (dims + 1))
    if wrong == "units swapped":
        kernel = kernel[::-1]
    if wrong == "one weight wrong":
        kernel = kernel.copy()
        kernel[(slice(None), 2, *[0] * dims)] *= -1
    bias1 = {"bias lost": 0 * fb1, "bias scaled": alpha * fb1}.get(wrong, fb1)
    bias2 = {"last bias lost": 0 * fb2, "one bias wrong": fb2 + (np.arange(classes) == 2) * 0.01}.get(
        wrong, fb2
    )
    step = 2 if wrong == "stride two" else 1
    pads = [1] * (2 * dims) if wrong == "head padded" else [0] * (2 * dims)
    if wrong == "window off by one":
        # As if the window began one feature later: the pads make the map as large as the right one.
        pads = [0] * dims + [1] * dims
        kernel = np.pad(kernel, [(0, 0)] * 2 + [(0, 1)] * dims)
        kernel = np.roll(kernel, 1, axis=tuple(range(2, 2 + dims)))
    m.const("k1", kernel), m.const("kb1", bias1)
    m.const("k2", fc2.reshape(classes, hidden, *[1] * dims)), m.const("kb2", bias2)
    x = m.node("Conv", [x, "k1", "kb1"], "h", strides=[step] * dims, pads=pads)
    h = x if wrong == "relu lost" else m.node("Relu", [x], "hr")
    x = m.node("Conv", [h, "k2", "kb2"], "logits")
    if softmax:
        axis = {"softmax over the grid": dims + 1, "softmax over the first grid axis": 2}.get(wrong, 1)
        if wrong == "softmax lost":
            x = m.node("Identity", [x], "soft")
        elif wrong == "logsoftmax":
            x = m.node("LogSoftmax", [x], "soft", axis=1)
        elif wrong == "softmax over all":
            flat = m.node("Reshape", [x, m.const("s1", [0, -1], np.int64)], "sf")
            flat = m.node("Softmax", [flat], "sfs", axis=1)
            x = m.node("Reshape", [flat, m.node("Shape", [x], "sshape")], "soft")
        else:
            x = m.node("Softmax", [x], "soft", axis=axis)
    x = _finish(m, x, wrong, form, dims, grid_rank)
    m.node("Identity", [x], "scores")
    if second:
        kernel3 = fc3.reshape(3, hidden, *[1] * dims)
        m.const("k3", kernel3 * (1.001 if wrong == "second head 0.1 %" else 1))
        e = m.node("Conv", [h, "k3"], "e")
        e = _finish(m, e, "", form, dims, grid_rank, "e_")
        m.node("Identity", [e], "extra")
    free = DIMS[dims]
    tail: list[Any] = free if form == "map" else []
    tail = [f"map_{name}" for name in tail]
    second_outputs = {name: [*dims_, *tail] for name, dims_ in outputs.items()}
    if wrong:
        second_outputs = {name: None for name in outputs}  # type: ignore[misc]
    rewritten = m.model({"image": [batch, 3, *free]}, second_outputs)
    if wrong == "outputs swapped":
        rename = {"scores": "extra", "extra": "scores"}
        for node in rewritten.graph.node:
            node.output[:] = [rename.get(name, name) for name in node.output]
    rank = 2
    axes = tuple(range(rank, rank + dims)) if form == "map" else ()
    claim = Claim(
        native_size=(native,) * dims,
        stride=(2,) * dims,
        start=(0,) * dims,
        size=(native,) * dims,
        verdict="approximate" if pad else "exact",
        blame=("c1",) if pad else (),
        inputs=(ImageInput("image", (n, 3, *(native,) * dims), tuple(range(2, 2 + dims))),),
        boundaries=(Boundary("features", "features", tuple(range(2, 2 + dims)), window, (1,) * dims),),
        outputs=tuple(Output(name, form, axes) for name in outputs),  # type: ignore[arg-type]
    )
    return Pair(first, rewritten, _mistaken_claim(claim, wrong))


def _finish(m: Net, x: str, wrong: str, form: str, dims: int, grid: int, prefix: str = "") -> str:
    """Mistakes in the map, then the reduction over the cells."""
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
        x1 = m.node(
            "Slice", [x, m.const("short0", [0], np.int64), end, m.const("shorta", [2], np.int64)], "ms"
        )
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
    if form in ("mean", "max"):
        kind = "ReduceMean" if (form == "mean") != (wrong == "wrong reduction") else "ReduceMax"
        attributes: dict[str, Any] = {"axes": axes if wrong != "one axis left" else axes[:-1], "keepdims": 0}
        x = m.node(kind, [x], prefix + "reduced", **attributes)
        if wrong == "one axis left":
            x = m.node("ReduceMax", [x], prefix + "reduced2", axes=[2], keepdims=0)
    return x


def _mistaken_claim(claim: Claim, wrong: str) -> Claim:
    """The claim with the mistake named ``wrong``, if it is one in the claim."""
    dims = len(claim.native_size)
    boundary, image = claim.boundaries[0], claim.inputs[0]
    changes: dict[str, dict[str, Any]] = {
        "claim: extent": {"boundaries": (replace(boundary, extent=tuple(e - 1 for e in boundary.extent)),)},
        "claim: step": {"boundaries": (replace(boundary, step=(2,) * dims),)},
        "claim: spatial axes": {"boundaries": (replace(boundary, spatial=tuple(range(1, 1 + dims))),)},
        "claim: boundary": {
            "boundaries": (replace(boundary, original="r1", rewritten="r1", extent=(12,) * dims),)
        },
        "claim: boundary missing": {"boundaries": ()},
        "claim: boundary unknown": {"boundaries": (replace(boundary, rewritten="nowhere"),)},
        "claim: stride": {"stride": (4,) * dims},
        "claim: native size": {
            "native_size": (16,) * dims,
            "inputs": (replace(image, shape=(*image.shape[:2], *[16] * dims)),),
        },
        "claim: form": {"outputs": tuple(replace(o, form="activation") for o in claim.outputs)},
        "claim: form features": {"outputs": tuple(replace(o, form="features") for o in claim.outputs)},
        "claim: form mean": {"outputs": tuple(replace(o, form="mean", axes=()) for o in claim.outputs)},
        "claim: axes": {"outputs": tuple(replace(o, axes=tuple(range(1, 1 + dims))) for o in claim.outputs)},
        "claim: outputs": {"outputs": claim.outputs[1:]},
        "claim: verdict": {"verdict": "exact"},
    }
    return replace(claim, **changes.get(wrong, {}))


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
