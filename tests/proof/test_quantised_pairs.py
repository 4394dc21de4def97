"""Quantised models as a converter would get them wrong, and as it may write them otherwise and be right."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, OLD_RUNTIME, complete, session
from onnx import numpy_helper
from quantised import SPOILS, Layer, layers

from onnxfc import check_pair
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.certificate import certify
from onnxfc.rewriter.api import rewrite

NETS = ["lenet.qdq", "lenet.qoperator", "matmul_add.qdq", "matmul_add.qoperator", "se_net.qdq", "digits.qdq_opset21"]
IN_INTEGERS = ["lenet.qdq", "matmul_add.qdq"]
"""Their heads begin at features of uint8."""
Work = Callable[[np.ndarray], np.ndarray]


def within(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    kind = np.iinfo(like.dtype)
    return np.clip(value, kind.min, kind.max).astype(like.dtype)


def times(factor: float) -> Work:
    return lambda value: np.rint(value * factor) if value.dtype.kind in "iu" else value * np.float32(factor)


def plus(more: int) -> Work:
    return lambda value: within(value.astype(int) + more, value)


def first_times(factor: float) -> Work:
    """The first channel alone, or all where they have one scale."""

    def work(scale: np.ndarray) -> np.ndarray:
        factors = np.ones_like(scale)
        factors.flat[0] = factor
        return scale * factors

    return work


def swapped(weight: np.ndarray) -> np.ndarray:
    order = [1, 0, *range(2, len(weight))]
    return weight[order]


def clipped(weight: np.ndarray) -> np.ndarray:
    """As by one that takes 8 bits for 7."""
    middle = 128 if weight.dtype == np.uint8 else 0
    return within(np.clip(weight.astype(int) - middle, -64, 63) + middle, weight)


def mean(scale: np.ndarray) -> np.ndarray:
    """One scale for all channels, and the integers of several."""
    return np.full_like(scale, scale.mean()) if scale.size > 1 else scale * np.float32(1.05)


def silent(bias: np.ndarray) -> np.ndarray:
    """Without its largest element."""
    return np.where(np.abs(bias) == np.abs(bias).max(), 0, bias)


WRONG: dict[str, tuple[str, Work]] = {
    "every scale 1 %": ("scale", times(1.01)),
    "a scale 10 %": ("scale", first_times(1.1)),
    "one scale": ("scale", mean),
    "zero + 1": ("zero", plus(1)),
    "zero - 1": ("zero", plus(-1)),
    "features' zero + 1": ("shift", plus(1)),
    "rows swapped": ("weight", swapped),
    "clipped": ("weight", clipped),
    "bias 10 %": ("bias", times(1.1)),
    "no bias": ("bias", times(0)),
    "a bias lost": ("bias", silent),
}


@pytest.mark.sweep(40)
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("own", [True, False])
def test_what_a_converter_gets_wrong(own: bool, wrong: str, name: str) -> None:
    """In the last layer; with the claim of the rewrite, and with one that is derived."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    other = complete(rewrite(original, prove=False))
    where, work = WRONG[wrong]
    layer = layers(other)[-1]
    layer.change(getattr(layer, where), work)
    if not own:
        del other.metadata_props[:]
    done = check_pair(original, other, options=CHECK)
    assert not done.passed
    assert done.parity.vacuous is None


SLIGHT: dict[str, tuple[str, Work]] = {
    **WRONG,
    "a scale 1 %": ("scale", first_times(1.01)),
    "a scale 0.01 %": ("scale", first_times(1.0001)),
    "one weight": ("weight", lambda weight: np.where(np.arange(weight.size).reshape(weight.shape) == 7, 1, weight)),
}


@pytest.mark.sweep(20)
@pytest.mark.parametrize("wrong", SLIGHT)
@pytest.mark.parametrize("name", NETS)
def test_what_the_files_tell(wrong: str, name: str) -> None:
    """Weight, scale, zero points and bias are read off both files: no input need reach what is wrong."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    made = complete(rewrite(original, prove=False))
    files = ModelFile.open(original), ModelFile.open(made)
    assert certify(*files).status == "holds"
    where, work = SLIGHT[wrong]
    layer = layers(made)[-1]
    layer.change(getattr(layer, where), work)
    found = certify(files[0], ModelFile.open(made))
    assert found.status == "failed"
    beside = {"bias": " with the same bias", "shift": " with the same zero point"}.get(where, "")
    assert f"is in no Conv of the second model{beside}" in found.reason


def turned(layer: Layer) -> None:
    """Weights of the other sign, zero points with them: the same numbers."""
    more = {np.dtype(np.int8): 128, np.dtype(np.uint8): -128}
    for node, at in (layer.weight, layer.zero):
        tensor = next(item for item in layer.model.graph.initializer if item.name == node.input[at])
        value = numpy_helper.to_array(tensor)
        kind = np.uint8 if value.dtype == np.int8 else np.int8
        moved = (value.astype(int) + more[value.dtype]).astype(kind)
        layer.model.graph.initializer.append(numpy_helper.from_array(moved, f"{tensor.name}_turned"))
        node.input[at] = f"{tensor.name}_turned"


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", [name for name in NETS if name != "matmul_add.qoperator"])
@pytest.mark.parametrize("own", [True, False])
def test_weights_of_the_other_sign(own: bool, name: str) -> None:
    """onnxruntime has no kernel for matmul_add's: features of int8, weights of uint8."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    other = complete(rewrite(original, prove=False))
    turned(layers(other)[-1])
    if not own:
        del other.metadata_props[:]
    done = check_pair(original, other, options=CHECK)
    assert done.passed, done.parity.summary()
    assert done.parity.certificate.status != "failed"


@pytest.mark.parametrize("name", [name for name in NETS if "qdq" in name])
def test_features_of_the_other_sign(name: str) -> None:
    original = onnx.load(fixture_file(f"{name}.onnx"))
    other = complete(rewrite(original, prove=False))
    stored = {tensor.name: tensor for tensor in other.graph.initializer}
    made = dict[str, onnx.TensorProto]()
    for node in other.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in stored:
            zero = numpy_helper.to_array(stored[node.input[2]])
            if zero.dtype == np.uint8:
                node.input[2] = f"{node.input[2]}_int8" if not node.input[2].endswith("_int8") else node.input[2]
                made[node.input[2]] = numpy_helper.from_array((zero.astype(int) - 128).astype(np.int8), node.input[2])
    other.graph.initializer.extend(made.values())
    del other.graph.value_info[:]
    image = original.graph.input[0].name
    begun = [(image, image)] if name in IN_INTEGERS else []
    assert check_pair(original, other, options=CHECK, boundaries=begun).passed
    del other.metadata_props[:]
    done = check_pair(original, other, options=CHECK)
    assert done.passed, done.parity.summary()
    assert done.parity.window.compared > 100
    wrong = copy.deepcopy(other)
    layer = layers(wrong)[-1]
    layer.change(layer.shift, plus(1))
    assert not check_pair(original, wrong, options=CHECK).passed


def test_the_weight_of_a_quantised_original_is_found_or_the_check_fails() -> None:
    original = onnx.load(fixture_file("digits.qoperator.onnx"))
    other = complete(rewrite(original, prove=False))
    layer = layers(other)[-2]
    assert check_pair(original, other, options=CHECK).parity.certificate.status == "holds"
    layer.change(layer.weight, lambda weight: np.where(weight == weight.max(), weight - 1, weight))
    done = check_pair(original, other, options=CHECK)
    assert (done.passed, done.parity.certificate.status) == (False, "failed")


TRUNKS = ["lenet.qdq", "lenet.qdq_int4", "lenet.qoperator", "matmul_add.qdq", "mini_resnet.qdq", "se_net.qdq"]
"""Features that both models make by the same operators."""


@pytest.mark.sweep(40)
@pytest.mark.skipif(OLD_RUNTIME, reason="this onnxruntime loads no bias that has a zero point")
@pytest.mark.parametrize("name", TRUNKS)
def test_a_zero_point_of_the_trunk(name: str) -> None:
    """Off by one in one node, of activations and of biases: found wherever it moves one in a thousand features."""
    original = onnx.load(fixture_file(f"{name}.onnx"))
    done = rewrite(original, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.native.deviation == 0
    made, features = complete(done), [item.rewritten for item in done.claim.boundaries]
    images = np.random.default_rng(5).standard_normal((8, *done.claim.inputs[0].shape)).astype(np.float32)
    want, moved, missed = _features(made, features, images), 0, []
    stored = {item.name: numpy_helper.to_array(item) for item in made.graph.initializer}
    for number, at in _zero_points(made, features):
        other = copy.deepcopy(made)
        node = other.graph.node[number]
        value = stored[node.input[at]]
        most = np.iinfo(value.dtype).max if value.dtype.kind in "iu" else 7  # of 4 bits
        wrong = np.where(value < most, value + 1, value - 1)
        other.graph.initializer.append(numpy_helper.from_array(wrong.astype(value.dtype), "wrong"))
        node.input[at] = "wrong"
        got = _features(other, features, images)
        if np.mean(got != want) > 1e-3:
            moved += 1
            missed += [] if not check_pair(original, other, options=CHECK).passed else [(node.name, at)]
    assert moved >= 3
    assert missed == []


def _zero_points(model: onnx.ModelProto, features: list[str]) -> list[tuple[int, int]]:
    """Nodes ahead of the features, and which of their inputs is a zero point."""
    kinds = {"QuantizeLinear": (2,), "DequantizeLinear": (2,), "QLinearConv": (2, 7)}
    wanted, found = {*features}, []
    for number, node in reversed([*enumerate(model.graph.node)]):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            found += [(number, at) for at in kinds.get(node.op_type, ()) if at < len(node.input)]
    return found


def _features(model: onnx.ModelProto, names: list[str], images: np.ndarray) -> np.ndarray:
    shown = copy.deepcopy(model)
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runtime = session(shown, as_written=True)
    return np.concatenate([value.ravel() for image in images for value in runtime.run(names, {"image": image})])


ROWS = [item for item in SPOILS if item.__name__ != "input_zero"]


@pytest.mark.sweep(12)
@pytest.mark.parametrize("spoil", ROWS, ids=lambda item: item.__name__)
@pytest.mark.parametrize("own", [True, False])
def test_a_layer_on_a_row_for_each_cell(own: bool, spoil: Callable[[Layer], None]) -> None:
    """The Gemm of uint8 that stays one."""
    original = onnx.load(fixture_file("lenet.qdq_float_scores.onnx"))
    other = complete(rewrite(original, prove=False))
    if not own:
        del other.metadata_props[:]
    assert check_pair(original, other, options=CHECK).passed
    layer = Layer(other, next(node for node in other.graph.node if node.name == "/fc2/Gemm"))
    spoil(layer)
    assert not check_pair(original, other, options=CHECK).passed
