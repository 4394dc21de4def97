"""Quantised networks come out with their own integers, and compute what they did, step for step."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import FIXTURES, fixture_file, must_run
from hazards import CHECK, FEATURES, OLD_RUNTIME, complete, head, own_crops, session
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType
from quantised import SPOILS, Layer, bias, by_onnxruntime, layers, optimised, passes_as_a_stranger

from onnxfc import RewriteOptions, check_pair, inspect
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite

INTEGERS = sorted(
    path.stem
    for path in (FIXTURES / "onnxruntime").glob("*.onnx")
    if path.stem.partition(".")[2].startswith(("qdq", "qoperator"))
)
OCTETS = [name for name in INTEGERS if not name.endswith(("int4", "int16"))]
"""Of 8 bits, for which onnxruntime has kernels."""
KERNELS = [name for name in OCTETS if name != "mobilenet.qdq"]  # one layer is in floats there, for its activation
PAD_FREE = [name for name in INTEGERS if name.startswith(("lenet", "matmul_add", "softmax"))]
SOURCES = {name: f"{name.partition('.')[0]}.torchscript" for name in INTEGERS if not name.startswith("digits")}
KEPT = {"lenet.qdq_float_scores"}
"""Scores that nothing quantises, of an FC layer on single places: it stays a Gemm."""
CHANGED = {
    "mini_resnet.qoperator": ["QLinearAveragePool"],
    "mobilenet.qoperator": ["QLinearAveragePool"],
    "softmax_opset13.qoperator": ["QLinearSoftmax"],
}
"""A global pool is each window's own, a Softmax goes along the scores of each cell."""
FC_LAYERS = {"digits": 2, "lenet": 2, "mini_vgg": 3, "mobilenet": 2}
"""One in all others."""


def fc_layers(name: str) -> int:
    return FC_LAYERS.get(name.partition(".")[0], 1)


def loaded(name: str) -> onnx.ModelProto:
    return onnx.load(fixture_file(f"{name}.onnx"))


@cache
def freed(name: str) -> onnx.ModelProto:
    """Rewritten, of each once for all tests: not to be changed."""
    return complete(rewrite(loaded(name), prove=False))


@pytest.mark.parametrize("name", PAD_FREE)
def test_cells_are_crops_to_the_bit(name: str) -> None:
    """Both by onnxruntime, as it runs them: integer kernels in one and the other."""
    must_run(name)
    original = loaded(name)
    assert own_crops(original, rewrite(original, prove=False)) == 0.0


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", INTEGERS)
def test_parity_to_the_bit(name: str) -> None:
    must_run(name)
    done = rewrite(loaded(name), check_options=CheckOptions(threads=1))
    parity = done.parity
    assert parity is not None
    assert parity.passed
    assert parity.native.compared > 100
    assert parity.window.compared > 100
    assert parity.certificate.status == "holds", parity.certificate.reason
    assert parity.native.deviation <= (1e-5 if name in KEPT else 0.0)
    assert parity.window.deviation <= parity.window.tolerance
    assert native_kernels(loaded(name), done) == 0.0


def native_kernels(original: onnx.ModelProto, done: Rewrite) -> float:
    """The largest difference at the native size as onnxruntime runs both, with integer kernels."""
    image = original.graph.input[0]
    shape = [dim.dim_value or 1 for dim in image.type.tensor_type.shape.dim]
    feed = {image.name: np.random.default_rng(4).random(shape, np.float32)}
    pairs = zip(*(session(model).run(None, feed) for model in (original, complete(done))), strict=True)
    return max(float(np.abs(old.ravel() - new.ravel()).max()) for old, new in pairs)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", KERNELS)
def test_what_onnxruntime_makes_of_the_layers(name: str, tmp_path: Path) -> None:
    """Every QGemm of the head is a QLinearConv, or stays where nothing quantises what it makes."""
    original = loaded(name)
    before, after = optimised(original, tmp_path), optimised(freed(name), tmp_path)
    count = fc_layers(name) - int(name in KEPT)
    assert before["QGemm"] - after["QGemm"] == count
    assert after["QLinearConv"] - before["QLinearConv"] == count
    assert after["Conv"] == before["Conv"]
    assert after["Gemm"] == after["MatMul"] == 0


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", OCTETS)
def test_weights_keep_their_integers(name: str) -> None:
    """Bytes are moved, none is changed, and no weight is there in floats."""
    original, made = loaded(name), freed(name)
    old, new = (
        {item.name: numpy_helper.to_array(item) for item in model.graph.initializer} for model in (original, made)
    )
    kept = {key: value for key, value in new.items() if value.dtype.kind in "iu" and value.dtype.itemsize == 1}
    assert sum(value.ndim == 4 for value in kept.values()) >= fc_layers(name)
    for key, value in kept.items():
        assert key in old
        same = value.tobytes() == old[key].tobytes()
        turned = value.ndim == 4 and value.transpose(1, 2, 3, 0).tobytes() == old[key].tobytes()
        assert same or turned, key
    sizes = sorted(value.size for value in new.values() if value.dtype == np.float32)
    assert sizes <= sorted(value.size for value in old.values() if value.dtype == np.float32) or max(sizes) <= 32


@pytest.mark.parametrize("name", [name for name in INTEGERS if "qoperator" in name])
def test_operators_on_integers_stay_as_they_were(name: str) -> None:
    """What the rewrite leaves alone is the original's own node, byte for byte."""
    original, made = loaded(name), freed(name)
    old = {node.output[0]: node for node in original.graph.node}
    changed = [
        node for node in made.graph.node if node.op_type.startswith(("QG", "QL")) and node != old.get(node.output[0])
    ]
    pools = [node.op_type for node in changed if node.op_type != "QLinearConv"]
    assert len(changed) - len(pools) == fc_layers(name)
    assert pools == CHANGED.get(name, [])
    onnx.checker.check_model(made)


@pytest.mark.sweep(40)
@pytest.mark.parametrize("spoil", SPOILS, ids=lambda item: item.__name__)
@pytest.mark.parametrize("name", [name for name in INTEGERS if not name.endswith("int4")])
def test_an_error_is_found(name: str, spoil: Callable[[Layer], None]) -> None:
    if OLD_RUNTIME and spoil is bias and ".qdq" in name:
        pytest.skip("this onnxruntime does not read what is spoilt, in neither model")
    original = loaded(name)
    made = freed(name)
    for at in range(len(layers(made)))[-fc_layers(name) :]:
        wrong = copy.deepcopy(made)
        spoil(layers(wrong)[at])
        done = check_pair(original, wrong, options=CHECK)
        assert not done.passed
        assert done.parity.vacuous is None


@pytest.mark.parametrize("name", ["mini_vgg.qdq", "mini_vgg.qoperator", "digits.qdq"])
def test_a_stranger_is_checked(name: str) -> None:
    passes_as_a_stranger(loaded(name))


def test_scores_that_nothing_quantises() -> None:
    """The Gemm of single places stays, on a row for each cell; a form that wants Convs says what it costs."""
    original = loaded("lenet.qdq_float_scores")
    done = rewrite(original, prove=False)
    assert not done.notes
    assert [item.after for item in done.replacements] == ["Conv 4x4 8→32", "the same on each cell"]
    old, new = (next(n for n in m.graph.node if n.name == "/fc2/Gemm") for m in (original, complete(done)))
    assert list(new.input[1:]) == list(old.input[1:])
    assert new.attribute == old.attribute
    made = rewrite(original, options=RewriteOptions(form="conv4d"), prove=False)
    assert [(note.code, note.node) for note in made.notes] == [("float-layer", "/fc2/Gemm")]
    assert "computed in floats by onnxruntime" in " ".join(made.text().split())
    assert Counter(node.op_type for node in complete(made).graph.node)["Conv"] == 4


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
def test_no_layer_before_is_left_in_floats_for_it(kind: QuantType, tmp_path: Path) -> None:
    """onnxruntime makes QLinearConvs of int8 activations only where it can make uint8 of them."""
    model = head(lambda net, flat: net.fc(str(net.op("Relu", net.fc(flat, FEATURES, 8))), 8, 6))
    extra = {"OpTypesToExcludeOutputQuantization": ["Gemm"]}
    original = by_onnxruntime(model, tmp_path, QuantFormat.QDQ, activation_type=kind, extra_options=extra)
    before, after = optimised(original, tmp_path), optimised(complete(rewrite(original, prove=False)), tmp_path)
    kept = int(kind == QuantType.QUInt8)
    assert (before["QGemm"], after["QGemm"]) == (2, kept)
    assert after["QLinearConv"] - before["QLinearConv"] == 1
    assert after["Conv"] - before["Conv"] == 1 - kept


@pytest.mark.parametrize("batch", [1, 3])
def test_rows_of_a_batch(batch: int) -> None:
    original = loaded("lenet.qdq_float_scores")
    made = rewrite(original, options=RewriteOptions(dynamic_batch=True), check_options=CHECK)
    assert made.parity is not None
    assert made.parity.native.compared > 600
    images = np.random.default_rng(batch).standard_normal((batch, 1, 32, 36)).astype(np.float32)
    [cells] = session(complete(made)).run(None, {"image": images})
    assert cells.shape == (batch, 10, 2, 3)
    for number, (y, x) in enumerate([(0, 0), (1, 2), (0, 1)][:batch]):
        crop = images[number, None, :, 4 * y : 4 * y + 28, 4 * x : 4 * x + 28]
        [want] = session(original).run(None, {"image": crop})
        np.testing.assert_array_equal(cells[number, None, :, y, x], want)


def test_trained_for_quantisation(tmp_path: Path) -> None:
    """As PyTorch exports it: weights in floats, rounded in the graph. Their bytes stay; as many layers are integers."""
    original = loaded("fake_quantised.torchscript")
    done = rewrite(original, check_options=CheckOptions(threads=1))
    assert done.parity is not None
    assert done.parity.passed
    assert done.claim.verdict == "exact"
    assert done.parity.window.deviation < 1e-3
    made = complete(done)
    assert own_crops(original, done) == 0.0
    old, new = ({t.name: t for t in model.graph.initializer} for model in (original, made))
    for name, fc in (("fc1.weight", 54), ("fc2.weight", 16)):
        conv = new[f"{name}_conv"]  # the scales are computed of the weight as it was
        assert numpy_helper.to_array(conv).tobytes() == numpy_helper.to_array(old[name]).tobytes()
        assert conv.dims[1] * conv.dims[2] * conv.dims[3] == fc
    before, after = optimised(original, tmp_path), optimised(made, tmp_path)
    assert after["QLinearConv"] - before["QLinearConv"] == before["QGemm"] == 1
    assert after["FusedConv"] - before["FusedConv"] == before["FusedGemm"] == 1


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", INTEGERS)
def test_seen_by_inspect_as_the_floats_are(name: str, tmp_path: Path) -> None:
    """FC layers, geometry, multiply-adds, before and after, but for QGemms of the trunk."""
    floats = inspect(fixture_file(f"{SOURCES.get(name, name.partition('.')[0])}.onnx"))
    seen = inspect(fixture_file(f"{name}.onnx"))
    path = tmp_path / "any.onnx"
    rewrite(loaded(name), prove=False).save(path)
    made = inspect(path)
    assert [(head.inputs, head.outputs) for head in seen.heads] == [
        (head.inputs, head.outputs) for head in floats.heads
    ]
    for found in (seen, made):
        assert found.geometry is not None
        assert floats.geometry is not None
        assert found.geometry.cells(99, 98) == floats.geometry.cells(99, 98)
        assert found.geometry.smallest_size == floats.geometry.smallest_size
        assert found.cost is not None
        assert floats.cost is not None
        assert found.cost.dense == pytest.approx(floats.cost.dense, rel=1e-2 if name.startswith("se_net") else 0)
