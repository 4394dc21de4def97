"""Scales that are taken when the model runs: of the whole image, with the original's integers and sums of integers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import FIXTURES, NO_INTEGERS, fixture_file, must_run
from hazards import CHANNELS, CHECK, FEATURES, NATIVE, OLD_RUNTIME, Net, complete, head, own_crops, refusal
from onnx import TensorProto, helper, numpy_helper
from onnx.utils import Extractor
from quantised import SPOILS, Layer, layers, optimised, passes_as_a_stranger

from onnxfc import RewriteOptions, check_pair, inspect
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import rewrite

DYNAMIC = sorted(path.stem for path in (FIXTURES / "onnxruntime").glob("*.dynamic*.onnx"))
POOLED = {"mini_resnet.dynamic", "mobilenet.dynamic"}
"""A global pool becomes one that slides, whose sums onnxruntime makes in another order."""
FC_LAYERS = {"digits": 2, "lenet": 2, "mini_vgg": 3, "mobilenet": 2}
M = 6


def fc_layers(name: str) -> int:
    return FC_LAYERS.get(name.partition(".")[0], 1)


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


@pytest.mark.parametrize("name", DYNAMIC)
def test_parity_to_the_bit(name: str) -> None:
    must_run(name)
    done = rewrite(loaded(name), check_options=CheckOptions(threads=1))
    parity = done.parity
    assert parity is not None
    assert parity.passed
    assert done.claim.verdict == "approximate"
    assert sum("DynamicQuantizeLinear" in item or "QuantizeLinear" in item for item in done.claim.blame) >= fc_layers(
        name
    )
    assert parity.native.compared > 100
    assert parity.native.deviation <= (1e-5 if name in POOLED else 0.0)
    assert parity.window.compared > 100
    assert parity.window.deviation == 0.0
    assert parity.trunk.status == "passed"
    assert parity.trunk.deviation == 0.0
    assert parity.certificate.status == "holds", parity.certificate.reason
    assert not done.notes


@pytest.mark.parametrize("name", DYNAMIC)
def test_what_onnxruntime_makes_of_the_layers(name: str, tmp_path: Path) -> None:
    """Every one of the head is a ConvInteger; those of context stay."""
    must_run(name)
    original = loaded(name)
    before, after = optimised(original, tmp_path), optimised(complete(rewrite(original, prove=False)), tmp_path)
    assert before["DynamicQuantizeMatMul"] - after["DynamicQuantizeMatMul"] == fc_layers(name)
    sums = fc_layers(name) if name.startswith("digits") else 0  # of features, as each output has its own zero point
    assert after["ConvInteger"] - before["ConvInteger"] == fc_layers(name) + sums
    assert after["Gemm"] == after["MatMul"] == after["MatMulInteger"] == 0


@pytest.mark.parametrize("name", DYNAMIC)
def test_weights_keep_their_integers(name: str) -> None:
    original, made = loaded(name), complete(rewrite(loaded(name), prove=False))
    old, new = (
        {item.name: numpy_helper.to_array(item) for item in model.graph.initializer} for model in (original, made)
    )
    kept = {key: value for key, value in new.items() if value.dtype.kind in "iu" and value.dtype.itemsize == 1}
    matrices = [value for key, value in kept.items() if value.size > 1 and key in old and old[key].ndim == 2]
    convs = [item for item in matrices if item.ndim == 4]
    assert len(convs) == fc_layers(name)
    for key, value in kept.items():
        if key in old and value.shape != old[key].shape:
            assert value.transpose(1, 2, 3, 0).tobytes() == old[key].tobytes()
        elif key in old:
            assert value.tobytes() == old[key].tobytes()
    products = [node for node in made.graph.node if node.op_type in {"ConvInteger", "MatMulInteger"}]
    sums_of = [node for node in products if node.input[1].startswith("onnxfc_ones")]
    assert all(len(node.input) == 4 and all(node.input) for node in products if node not in sums_of)
    own = {node.output[0]: node.SerializeToString() for node in original.graph.node}
    changed = [node for node in products if own.get(node.output[0]) != node.SerializeToString()]
    inside = sum(item.op_type == "DynamicQuantizeMatMul" for item in original.graph.node)
    sums = fc_layers(name) if name.startswith("digits") else 0
    assert len(changed) == max(fc_layers(name), inside) + sums


@pytest.mark.sweep(12)
@pytest.mark.parametrize("name", DYNAMIC)
def test_a_scale_of_each_window(name: str) -> None:
    """As the original says of each window alone, to the bit; the verdict is exact if no more is of the whole image."""
    must_run(name)
    original = loaded(name)
    options = RewriteOptions(per_window_scale=True)
    done = rewrite(original, options=options, check_options=CheckOptions(threads=1))
    parity = done.parity
    assert parity is not None
    assert parity.passed
    assert parity.native.deviation <= (1e-5 if name in POOLED else 0.0)
    assert parity.window.deviation <= (1e-5 if name in POOLED else 0.0)
    assert parity.certificate.status == "holds"
    assert not done.claim.figures
    alone = name == "lenet.dynamic_quant"
    assert done.claim.verdict == ("exact" if alone else "approximate")
    made = complete(done)
    if alone:
        assert own_crops(original, done) == 0.0
    weight = [item for item in made.graph.initializer if len(item.dims) == 4 and item.name in _matrices(original)][-1]
    weight.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(weight), 1, axis=0), weight.name))
    assert not check_pair(original, made, options=CHECK).passed


def _matrices(model: onnx.ModelProto) -> set[str]:
    return {item.name for item in model.graph.initializer if len(item.dims) == 2}


def test_nothing_to_take_from_windows() -> None:
    done = rewrite(loaded("lenet.qdq"), options=RewriteOptions(per_window_scale=True), prove=False)
    assert [note.code for note in done.notes] == ["no-window-scale"]


def by_numpy(model: onnx.ModelProto, feeds: dict[str, np.ndarray], kernel: int) -> np.ndarray:
    """LeNet's cells: the original's trunk by onnxruntime, its head in integers as the operators are specified, with one
    scale for all windows."""
    named = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    cut = Extractor(model).extract_model(["image"], ["/MaxPool_1_output_0"])
    for info in (*cut.graph.input, *cut.graph.output):
        for axis in (2, 3):
            info.type.tensor_type.shape.dim[axis].Clear()
    del cut.graph.value_info[:]
    [features] = ort.InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    grid = [length - kernel + 1 for length in features.shape[2:]]
    rows = np.stack(
        [
            features[0, :, y : y + kernel, x : x + kernel].ravel()
            for y, x in itertools.product(*(range(length) for length in grid))
        ]
    )
    whole: np.ndarray | None = features
    for layer in ("fc1", "fc2"):
        taken = rows if whole is None else whole
        low, high = np.float32(min(0, taken.min())), np.float32(max(0, taken.max()))
        scale = np.float32((high - low) / np.float32(255))
        zero = np.rint(-low / scale)
        integers = np.clip(np.rint(rows / scale) + zero, 0, 255).astype(np.int64) - int(zero)
        weight, own = (named[f"{layer}.weight_Transposed_{part}"] for part in ("quantized", "zero_point"))
        sums = integers @ (weight.astype(np.int64) - own)
        factor = (scale * named[f"{layer}.weight_Transposed_scale"]).astype(np.float32)
        rows = sums.astype(np.float32) * factor + named[f"{layer}.bias"]
        rows, whole = (np.maximum(rows, 0), None) if layer == "fc1" else (rows, None)
    return rows.T.reshape(1, -1, *grid)


@pytest.mark.parametrize("name", ["lenet.dynamic", "lenet.dynamic_quant"])
@pytest.mark.parametrize("size", [(28, 28), (36, 48), (61, 33)])
def test_cells_by_numpy(name: str, size: tuple[int, int]) -> None:
    must_run(name)
    original = loaded(name)
    made = complete(rewrite(original, prove=False))
    image = np.random.default_rng(5).standard_normal((1, 1, *size)).astype(np.float32)
    [cells] = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"image": image}
    )
    np.testing.assert_array_equal(cells, by_numpy(original, {"image": image}, 4))


@pytest.mark.sweep(20)
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda item: item.__name__)
@pytest.mark.parametrize("name", [name for name in DYNAMIC if "fused" not in name])
def test_an_error_is_found(name: str, spoil: Callable[[Layer], None]) -> None:
    original = loaded(name)
    made = complete(rewrite(original, prove=False))
    for at in range(len(layers(made)))[-fc_layers(name) :]:
        wrong = copy.deepcopy(made)
        spoil(layers(wrong)[at])
        done = check_pair(original, wrong, options=CHECK)
        assert not done.passed
        assert done.parity.vacuous is None


def test_a_scale_of_a_part_is_found() -> None:
    """Of the native size's features alone: at the native size it is the same."""
    original = loaded("lenet.dynamic")
    made = complete(rewrite(original, prove=False))
    node = [item for item in made.graph.node if item.op_type == "DynamicQuantizeLinear"][-2]
    ends = [numpy_helper.from_array(np.array(value, np.int64), key) for key, value in _PART.items()]
    made.graph.initializer.extend(ends)
    place = list(made.graph.node).index(node)
    made.graph.node.insert(place, helper.make_node("Slice", [node.input[0], *_PART], ["part"]))
    made.graph.node.insert(place + 1, helper.make_node("DynamicQuantizeLinear", ["part"], ["own", *node.output[1:]]))
    quantised = helper.make_node("QuantizeLinear", [node.input[0], *node.output[1:]], [node.output[0]])
    made.graph.node.insert(place + 2, quantised)
    made.graph.node.remove(node)
    assert not check_pair(original, made, options=CHECK).passed


_PART = {"starts": [0, 0], "ends": [4, 4], "axes": [2, 3]}


@pytest.mark.sweep(8)
@pytest.mark.parametrize("name", ["lenet.dynamic", "mini_vgg.dynamic", "se_net.dynamic", "digits.dynamic_fused"])
def test_a_stranger_is_checked(name: str) -> None:
    must_run(name)
    passes_as_a_stranger(loaded(name))


@pytest.mark.parametrize("name", DYNAMIC)
def test_seen_by_inspect(name: str) -> None:
    source = "digits" if name.startswith("digits") else f"{name.partition('.')[0]}.torchscript"
    floats, seen = inspect(fixture_file(f"{source}.onnx")), inspect(fixture_file(f"{name}.onnx"))
    assert [(item.inputs, item.outputs) for item in seen.heads] == [
        (item.inputs, item.outputs) for item in floats.heads
    ]
    assert seen.geometry is not None
    assert floats.geometry is not None
    assert seen.geometry.cells(99, 98) == floats.geometry.cells(99, 98)


def static(weight_zero: list[int], dtype: type = np.uint8, *, floats: bool = True) -> onnx.ModelProto:
    """A QuantizeLinear, a MatMulInteger with a zero point for each output, and what makes floats of it."""

    def body(net: Net, flat: str) -> str:
        kind = np.iinfo(dtype)
        scale, zero = net.const(np.array(0.03)), net.const(np.array((kind.max + kind.min + 1) // 2), dtype=dtype)
        integers = net.op("QuantizeLinear", flat, scale, zero)
        weight = net.const(net.rng.integers(0, 255, (FEATURES, M)), dtype=np.uint8)
        own = net.const(np.array(weight_zero), dtype=np.uint8)
        product = net.op("MatMulInteger", integers, weight, zero, own)
        if not floats:
            return str(net.op("Cast", product, to=TensorProto.FLOAT))
        both = net.op("Mul", scale, net.const(net.rng.uniform(0.0005, 0.001, M)))
        made = net.op("Mul", net.op("Cast", product, to=TensorProto.FLOAT), both)
        return str(net.op("Add", made, net.random(M)))

    return head(body)


@pytest.mark.skipif(OLD_RUNTIME, reason=NO_INTEGERS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("zeros", [[128] * M, [7, 255, 0, 128, 127, 129]], ids=["one", "several"])
def test_zero_points_of_each_output(zeros: list[int], dtype: type) -> None:
    """onnxruntime's ConvInteger takes one: several are taken off times the sum of the features, in integers."""
    done = rewrite(static(zeros, dtype), check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.claim.verdict == "exact"
    assert done.parity.native.deviation == done.parity.window.deviation == 0.0
    kinds = [node.op_type for node in complete(done).graph.node]
    assert kinds.count("ConvInteger") == (1 if len(set(zeros)) == 1 else 2)


@pytest.mark.skipif(OLD_RUNTIME, reason=NO_INTEGERS)
@pytest.mark.parametrize("zeros", [[128] * M, [7, 255, 0, 128, 127, 129]], ids=["one", "several"])
def test_integers_without_their_scale(zeros: list[int]) -> None:
    """The sums are ConvInteger's, without a Cast to floats and back."""
    done = rewrite(static(zeros, floats=False), check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.parity.native.deviation == done.parity.window.deviation == 0.0
    assert done.parity.certificate.status == "holds"
    kinds = [node.op_type for node in complete(done).graph.node]
    assert kinds.count("ConvInteger") == (1 if len(set(zeros)) == 1 else 2)
    assert kinds.count("Cast") == 1
    assert own_crops(static(zeros, floats=False), done) == 0.0


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 0, 0)])
def test_a_conv_without_its_scale(pads: tuple[int, ...]) -> None:
    """In the trunk it stays what it was; what it pads with is its zero point."""
    net = Net(17)
    image, middle = net.input("image", [1, 2, *NATIVE], TensorProto.UINT8), net.const(np.array(128), dtype=np.uint8)
    kernel = net.const(net.rng.integers(28, 228, (CHANNELS, 2, 3, 3)), dtype=np.uint8)
    sums = net.op("ConvInteger", image, kernel, middle, middle, strides=[2, 2], pads=list(pads))
    real = net.op("Mul", net.op("Cast", sums, to=TensorProto.FLOAT), net.const(np.array(1e-3)))
    rows = ((NATIVE[0] + pads[0] - 1) // 2) * ((NATIVE[1] + pads[1] - 1) // 2)
    model = net.model(net.fc(str(net.op("Flatten", real)), CHANNELS * rows, M))
    done = rewrite(model, check_options=CHECK)
    assert done.claim.verdict == ("approximate" if any(pads) else "exact")
    assert any("padding" in item for item in done.claim.blame) == any(pads)
    [made] = [node for node in complete(done).graph.node if node.op_type == "ConvInteger"]
    assert made == next(node for node in model.graph.node if node.op_type == "ConvInteger")


def test_a_zero_point_of_each_row_is_refused() -> None:
    def body(net: Net, flat: str) -> str:
        integers = net.op("Cast", net.op("Mul", flat, net.const(np.array(9.0))), to=TensorProto.INT8)
        weight, zero = (net.const(net.rng.integers(0, 99, shape), dtype=np.int8) for shape in ((FEATURES, M), (2,)))
        return str(net.op("Cast", net.op("MatMulInteger", integers, weight, zero), to=TensorProto.FLOAT))

    found = refusal(head(body, batch=2))
    assert found.code == "quantised"
    assert "computes with integers in a form that is not supported here" in found.reason
