"""Small hand-written networks that try to break the rewriting, and a proof that shares no code with onnxfc's own.

The trunks are free of padding, so that every cell of a map must equal the original on its crop: :func:`own_crops`
runs the original itself on every crop and compares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxfc.claim.claim import OWN_FORMS, SIZE_NAMES
from onnxfc.errors import NothingToRewrite, Refusal
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

OLD_ONNX, OLD_RUNTIME = (
    tuple(map(int, library.__version__.split(".")[:2])) < least for library, least in ((onnx, (1, 20)), (ort, (1, 24)))
)
"""Near their lowest versions, of which some errors are known."""
CHECK = CheckOptions(threads=1, samples=2)
NATIVE = (11, 9)
"""Native size of the usual image, in pixels."""
WINDOW = (5, 4)
"""What the usual trunk makes of it: a window that is not square, so that no axis is taken for another."""
CHANNELS = 3
STRIDE = (2, 2)
FEATURES = CHANNELS * math.prod(WINDOW)


class Net:
    """Collects nodes and weights; methods return the name of what they make."""

    def __init__(self, opset: int = 17, seed: int = 0, dtype: Any = np.float32) -> None:
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def fresh(self, hint: str) -> str:
        self.count += 1
        return f"{hint}_{self.count}"

    @property
    def kind(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def input(self, name: str, shape: Sequence[int | str], kind: int | None = None) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind or self.kind, list(shape)))
        return name

    def const(self, value: Any, name: str = "", dtype: Any = None) -> str:
        array = np.asarray(value, dtype or self.dtype)
        name = name or self.fresh("const")
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(list(values), dtype=np.int64)

    def random(self, *shape: int, gain: float = 1.0, name: str = "") -> str:
        return self.const(self.noise(*shape, gain=gain), name)

    def noise(self, *shape: int, gain: float = 1.0) -> np.ndarray:
        """Random values; matrices and kernels keep the size of what passes through them."""
        fan = math.prod(shape[1:]) if len(shape) > 2 else max(shape, default=1) if len(shape) == 2 else 1
        return (gain * self.rng.standard_normal(shape) * math.sqrt(2 / fan)).astype(self.dtype)

    def op(self, kind: str, *inputs: str, out: str = "", outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [out] if out else [self.fresh(kind.lower()) for _ in range(outputs)]
        name = f"node_{names[0]}"
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    # Operators whose axes moved from attribute to input

    def axes(self, kind: str, tensor: str, axes: Sequence[int] | None, out: str = "", **attributes: Any) -> str:
        since = {"Squeeze": 13, "Unsqueeze": 13, "ReduceSum": 13}.get(kind, 18)
        if axes is None:
            return str(self.op(kind, tensor, out=out, **attributes))
        if self.opset >= since:
            return str(self.op(kind, tensor, self.ints(*axes), out=out, **attributes))
        return str(self.op(kind, tensor, out=out, axes=list(axes), **attributes))

    # Pieces

    def image(self, batch: int | str = 1, size: Sequence[int] = NATIVE, channels: int = 2) -> str:
        return self.input("image", [batch, channels, *size])

    def trunk(self, batch: int | str = 1, channels: int = CHANNELS) -> str:
        """(N, 2, 11, 9) to (N, 3, 5, 4): one Conv of stride 2 without padding, and Tanh."""
        conv = self.conv(self.image(batch), 2, channels)
        return str(self.op("Tanh", conv))

    def conv(self, tensor: str, before: int, after: int, kernel: Sequence[int] = (3, 3), **attributes: Any) -> str:
        attributes.setdefault("strides", [2] * len(kernel))
        group = attributes.get("group", 1)
        weight = self.random(after, before // group, *kernel)
        return str(self.op("Conv", tensor, weight, self.random(after, gain=0.1), **attributes))

    def flat(self, batch: int | str = 1) -> str:
        """The usual trunk, flattened: (N, 60)."""
        return str(self.op("Flatten", self.trunk(batch)))

    def fc(self, tensor: str, before: int, after: int, out: str = "") -> str:
        """Gemm with transB=1 and a bias."""
        weight, bias = self.random(after, before), self.random(after, gain=0.2)
        return str(self.op("Gemm", tensor, weight, bias, out=out, transB=1))

    # The model

    def model(
        self, *outputs: str, overridable: Sequence[str] = (), ir: int = 0, infer: bool = True, **more: Any
    ) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=name) for name in outputs]
        inputs = list(self.inputs)
        listed = set(overridable) if ir != 3 else {tensor.name for tensor in self.weights}
        inputs += [
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in self.weights if t.name in listed
        ]
        graph = helper.make_graph(self.nodes, "net", inputs, infos, self.weights)
        imports = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir or (10 if self.opset > 20 else 8), **more)
        return _with_output_types(model) if infer else model


def _with_output_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Type and shape of the outputs as onnxruntime finds them."""
    made = session(model)
    for info, found in zip(model.graph.output, made.get_outputs(), strict=True):
        kind = {
            "float": TensorProto.FLOAT,
            "float16": TensorProto.FLOAT16,
            "double": TensorProto.DOUBLE,
            "int64": TensorProto.INT64,
            "bool": TensorProto.BOOL,
        }[found.type.removeprefix("tensor(").removesuffix(")")]
        shape = [item if isinstance(item, int | str) else None for item in found.shape]
        info.CopyFrom(helper.make_tensor_value_info(info.name, kind, shape))
    return model


def session(model: onnx.ModelProto, as_written: bool = False) -> ort.InferenceSession:
    """On one thread; ``as_written``: without kernels on integers for what a file says in floats."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", str(int(as_written)))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def head(body: Any, *, opset: int = 17, batch: int | str = 1, seed: int = 0, **more: Any) -> onnx.ModelProto:
    """The usual trunk, flattened, and ``body(net, features)`` → output name(s)."""
    net = Net(opset, seed)
    made = body(net, net.flat(batch))
    return net.model(*([made] if isinstance(made, str) else made), **more)


def bodied(body: Any, *, opset: int = 17, batch: int | str = 1, seed: int = 0, **more: Any) -> onnx.ModelProto:
    """The usual trunk and ``body(net, map)`` → output name(s)."""
    net = Net(opset, seed)
    made = body(net, net.trunk(batch))
    return net.model(*([made] if isinstance(made, str) else made), **more)


# Rewriting and proving


def complete(done: Rewrite) -> onnx.ModelProto:
    """The rewritten model with all its weights in it; ``done.model`` may refer to memory or to a file."""
    model = onnx.ModelProto()
    model.CopyFrom(done.model)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            array = done.file.array(tensor)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
            tensor.raw_data = array.tobytes()
    return model


def proven(model: onnx.ModelProto, *, exact: bool = True, crops: bool = True, **options: Any) -> Rewrite:
    """Rewritten, proven by onnxfc, and (for a trunk without padding) proven on every crop by this file."""
    done = rewrite(model, options=RewriteOptions(**options), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.native.compared > 0
    assert done.claim.verdict == ("exact" if exact else "approximate"), done.claim.blame
    onnx.checker.check_model(complete(done), full_check=True)
    if exact:
        integers = all(info.type.tensor_type.elem_type == TensorProto.INT64 for info in done.model.graph.output)
        assert integers or done.parity.crops.status == "measured"
        assert done.parity.crops.deviation < 1e-4
        if crops:
            assert own_crops(model, done) < 1e-4
    return done


def refusals(model: onnx.ModelProto, **options: Any) -> tuple[Refusal, ...]:
    """All reasons why not all axes of the image were freed; empty where they were, and then it was proven."""
    try:
        done = rewrite(model, options=RewriteOptions(**options), check_options=CHECK)
    except NothingToRewrite as error:
        return error.refusals or (Refusal("", "", ""),)
    image = done.claim.inputs[0]
    if image.fixed and not options.get("free"):
        return refusals(model, **{**options, "free": SIZE_NAMES[len(image.size)]})
    return ()


def refusal(model: onnx.ModelProto, **options: Any) -> Refusal:
    """The first reason why nothing was rewritten."""
    found = refusals(model, **options)
    assert found, "the model was rewritten"
    assert all(item.code and item.reason for item in found)
    return found[0]


def proven_or_refused(model: onnx.ModelProto, *codes: str, exact: bool | None = None, **options: Any) -> Rewrite | None:
    """For what a tool may leave alone: refused (with one of ``codes``), or right. ``exact`` None: either verdict."""
    found = refusals(model, **options)
    if found:
        assert all(item.code and item.reason for item in found)
        assert not codes or found[0].code in codes
        return None
    done = rewrite(model, options=RewriteOptions(**options), check_options=CHECK)
    verdict = "exact" if exact else "approximate"
    assert exact is None or done.claim.verdict == verdict
    if done.claim.verdict == "exact":
        assert own_crops(model, done) < 1e-4
    return done


def own_crops(
    original: onnx.ModelProto,
    done: Rewrite,
    more: Sequence[int] = (2, 1, 1),
    feed: dict[str, np.ndarray] | None = None,
    varied: bool = True,
    beyond: int = 0,
    as_written: bool = False,
) -> float:
    """Largest deviation of any cell from the original on its crop, relative to the range of the crops' scores.

    ``more`` is how many cells the map has beyond the first, per axis. ``feed`` gives inputs that are no images.
    Where scores need not be ``varied``, the deviation is relative to their size. The image has so many pixels
    ``beyond`` the grid of the strides.
    """
    old, new = (session(model, as_written) for model in (original, complete(done)))
    claim = done.claim
    grid = [1 + count for count in more[: len(claim.native_size)]]
    strides = zip(claim.native_size, grid, claim.stride, claim.size_step, strict=True)
    given = _images(claim, [n + (g - 1) * s + beyond * step for n, g, s, step in strides])
    result = dict(zip([item.name for item in new.get_outputs()], new.run(None, {**given, **(feed or {})}), strict=True))
    names = [item.name for item in old.get_outputs()]
    crops = {}
    for cell in np.ndindex(*grid):
        begin = [place * stride for place, stride in zip(cell, claim.stride, strict=True)]
        cut = {image.name: _cut(given[image.name], image.spatial, begin, claim.native_size) for image in claim.inputs}
        crops[cell] = dict(zip(names, old.run(None, {**cut, **(feed or {})}), strict=True))
    cells = [output for output in claim.outputs if output.form not in OWN_FORMS]
    return max(_deviation(output, result[output.name], crops, varied) for output in cells)


def _images(claim: Any, size: Sequence[int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    images = {}
    for image in claim.inputs:
        shape = list(image.shape)
        for axis, length in zip(image.spatial, size, strict=True):
            shape[axis] = length
        images[image.name] = rng.standard_normal(shape).astype(np.float32)
    return images


def _cut(image: np.ndarray, spatial: Sequence[int], begin: Sequence[int], size: Sequence[int]) -> np.ndarray:
    place: list[slice] = [slice(None)] * image.ndim
    for axis, first, length in zip(spatial, begin, size, strict=True):
        place[axis] = slice(first, first + length)
    return image[tuple(place)]


def _deviation(
    output: Any, got: np.ndarray, crops: dict[tuple[int, ...], dict[str, np.ndarray]], varied: bool
) -> float:
    wanted = {cell: values[output.name].astype(np.float64) for cell, values in crops.items()}
    every = np.stack(list(wanted.values()))
    spread = float(np.ptp(every)) if varied else max(float(np.abs(every).max()), 1e-3)
    assert spread > 0, "the scores do not vary"
    if output.form in {"mean", "max"}:
        want = every.mean(axis=0) if output.form == "mean" else every.max(axis=0)
        assert got.shape == want.shape
        return float(np.abs(got - want).max()) / spread
    assert output.form in {"map", "cells"}, output.form
    worst = 0.0
    for cell, want in wanted.items():
        place: list[Any] = [slice(None)] * got.ndim
        for axis, index in zip(output.axes, cell, strict=True):
            place[axis] = index if output.form == "map" else slice(index, index + 1)
        assert got[tuple(place)].shape == want.shape
        worst = max(worst, float(np.abs(got[tuple(place)] - want).max()) / spread)
    return worst
