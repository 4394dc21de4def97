"""One quantisation step: how far it reaches, how many values may be one off, and what onnxruntime does to outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete
from onnx import numpy_helper, parser

from onnxfc import check_pair
from onnxfc.errors import ProofFailed
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.quantisation import quantisation_steps
from onnxfc.proof.tolerance import PRECISION, Scale, measure
from onnxfc.rewriter.api import rewrite

GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1,2] x, float[1,2] y) => (float[1,2] out)
<float s = {0.5}, float t = {0.25}, uint8 z = {3}, int8 w = {-3}, float[2,2] f = {1, -8, 2, 4}, float r = {10}> {
  plain = Relu(x)
  a = QuantizeLinear(x, s, z)
  b = DequantizeLinear(a, s, z)
  relu = Relu(b)
  layer = MatMul(relu, f)
  again = QuantizeLinear(layer, t, z)
  back = DequantizeLinear(again, t, z)
  tenfold = Mul(back, r)
  sum = Add(tenfold, relu)
  wide = DequantizeLinear(w, s)
  out = Add(sum, y)
}"""


def test_how_far_a_step_reaches() -> None:
    """An element of the layer is off by one step times the largest weight, which is sixteen of the next steps."""
    found = quantisation_steps(ModelFile.open(parser.parse_model(GRAPH)))
    steps = {"a": 1.0, "b": 0.5, "relu": 0.5, "layer": 4.0, "again": 16.0, "back": 4.0, "tenfold": 40.0}
    assert found == steps | {"sum": 40.5, "out": 40.5}


STORED = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1,2] x) => (float[1,2] out)
<float s = {0.5}, uint8 z = {3}, int8 w = {-3}, int8[2,2] q = {2, -100, 50, 4}, float[2,2] f = {1, -8, 2, 4}> {
  a = QuantizeLinear(x, s, z)
  b = DequantizeLinear(a, s, z)
  weight = DequantizeLinear(q, s, w)
  turned = Transpose(weight)
  stored = MatMul(b, turned)
  constant = Constant<value = float[2,2] {1, 2, -3, 0}>()
  written = MatMul(b, constant)
  computed = Relu(f)
  unknown = MatMul(b, computed)
  sum = Add(stored, written)
  out = Add(sum, unknown)
}"""


def test_how_large_weights_are_wherever_they_are_kept() -> None:
    """Half a step times 0.5 * |-100 + 3|, times 3; what is computed counts as 1."""
    found = quantisation_steps(ModelFile.open(parser.parse_model(STORED)))
    assert (found["stored"], found["written"], found["unknown"]) == (0.5 * 48.5, 0.5 * 3, 0.5)


def scale_of(step: float) -> object:
    coarse = PRECISION["float32"]
    values = [np.linspace(-1, 1, 50)[None] * factor for factor in (1.0, -1.0, 0.5)]
    return measure(values, 1, type(coarse)(**{**vars(coarse), "step": step}), CheckOptions())


@pytest.mark.parametrize(
    ("off", "passes"),
    [
        ({0: 0.1}, True),
        ({0: 0.11}, False),
        (dict.fromkeys(range(9), 0.1), True),
        (dict.fromkeys(range(12), 0.1), False),
    ],
)
def test_few_values_may_be_one_step_off(off: dict[int, float], passes: bool) -> None:
    tally, want = Tally(CheckOptions()), np.zeros((1, 50))
    got = want.copy()
    got[0, list(off)] = list(off.values())
    tally.compare("scores", got, want, scale_of(0.1), "normal", "here")  # type: ignore[arg-type]
    found = tally.result()
    assert (found.status == "passed") == passes
    assert passes or len(off) == 1 or "quantisation steps on average" in found.reason


def test_what_is_spare_is_spare_once() -> None:
    """An output of few values, of which each comparison finds one a step off: what the original says as well is asked
    before that has added up to a failure."""
    want, got = np.zeros((1, 7)), np.zeros((1, 7))
    got[0, 3] = 0.1
    for others, passes in ((lambda: [got], True), (lambda: [want], False), (None, False)):
        tally = Tally(CheckOptions(), flips={})
        for number in range(9):
            tally.compare("scores", got, want, scale_of(0.1), "normal", f"sample {number}", others=others)  # type: ignore[arg-type]
        found = tally.result()
        assert (found.status == "passed") == passes
        assert passes or "quantisation steps on average" in found.reason


def test_no_step_without_signal_or_beside_a_tolerance_by_hand() -> None:
    for step, options in ((0.6, CheckOptions()), (0.1, CheckOptions(rtol=1e-4))):
        tally, want = Tally(options), np.zeros((1, 50))
        tally.compare("scores", want + 0.05, want, scale_of(step), "normal", "here")  # type: ignore[arg-type]
        assert tally.result().status == "failed"


@pytest.mark.parametrize(("half", "off", "passes"), [(16, 1, True), (16, 2, False), (1, 1, False)])
def test_integers_may_be_one_off_where_steps_before_them_are_as_large_as_their_range(
    half: int, off: int, passes: bool
) -> None:
    values = [np.linspace(-half, half, 50)[None].round().astype(np.int8) * sign for sign in (1, -1)]
    precision = replace(PRECISION["float32"], step=half * 0.6)
    scale = measure(values, 1, precision, CheckOptions())
    tally, want = Tally(CheckOptions()), np.zeros((1, 50), np.int8)
    got = want.copy()
    got[0, 3] = off
    tally.compare("scores", got, want, scale, "normal", "here")
    assert (tally.result().status == "passed") == passes


def test_outputs_are_not_quantised_by_what_follows_them(tmp_path: Path) -> None:
    """onnxruntime moves a QuantizeLinear ahead of a Reshape, to the output that stands before it: clipped there."""
    net = Net(17)
    trunk = net.trunk()
    scaled = net.op("Mul", trunk, net.const(4.0), out="features")
    given = [net.const(0.01), net.const(128, dtype=np.uint8)]
    flat = net.op("Reshape", net.op("Transpose", scaled, perm=[0, 2, 3, 1]), net.ints(1, -1))
    back = net.op("DequantizeLinear", net.op("QuantizeLinear", flat, *given), *given)
    model = net.model(net.fc(back, 60, 5, out="scores"), "features")
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.native.deviation < 1e-5
    assert check_pair(model, complete(done), options=CHECK).passed
    onnx.checker.check_model(done.model)


def test_an_original_that_onnxruntime_computes_otherwise() -> None:
    """Its QGemm takes a bias for one of the scale that it should have; the reason is said, and nothing is written."""
    model = onnx.load(fixture_file("lenet.qdq.onnx"))
    scale = next(item for item in model.graph.initializer if item.name == "fc1.bias_quantized_scale")
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(50), scale.name))
    if np.allclose(scores(model), scores(complete(rewrite(model, prove=False))), atol=0.1):
        pytest.skip("this version of onnxruntime takes the bias of a Conv for such a one, too")
    with pytest.raises(ProofFailed, match="the scale of a bias may not be that of the input times that of the weight"):
        rewrite(model, check_options=CHECK)


def scores(model: onnx.ModelProto) -> np.ndarray:
    """As onnxruntime computes them with all its optimisations."""
    image = np.random.default_rng(1).random((1, 1, 28, 28), np.float32)
    return np.ravel(ort.InferenceSession(model.SerializeToString()).run(["scores"], {"image": image})[0])


PAIR = """
<ir_version: 8, opset_import: ["": 17]>
net (float[2,2] x, float[2,2] y) => (float[2,2] out)
<float s = {0.5}, float zero = {0}, uint8 z = {3}> {
  q = QuantizeLinear(x, s, z)
  a = DequantizeLinear(q, s, z)
  both = MatMul(a, y)
  b = QuantizeLinear(both, zero, z)
  out = DequantizeLinear(b, s, z)
}"""


def test_layers_without_a_weight_and_a_scale_of_nothing() -> None:
    """Two tensors that the image moves, as in attention: their values are not known, and count as 1."""
    found = quantisation_steps(ModelFile.open(parser.parse_model(PAIR)))
    assert found == {"q": 1.0, "a": 0.5, "both": 0.5, "b": 1.0, "out": 0.5}


def test_where_the_original_is_not_finite_nothing_is_proven() -> None:
    """Of the rewrite that is no deviation there, whatever it says; elsewhere it is."""
    want = np.array([[np.nan, 0.5, np.inf]])
    for got, passes in ((np.array([[np.inf, 0.5, np.nan]]), True), (np.array([[0.1, np.nan, 0.1]]), False)):
        tally = Tally(CheckOptions())
        tally.compare("scores", got, want, scale_of(0.0), "normal", "here")  # type: ignore[arg-type]
        assert (tally.result().status == "passed") == passes
        assert "the original's own output scores is not finite here" in tally.vacuous[0]


def test_fine_steps_add_up() -> None:
    """Of 16 bits a layer adds up several flips, of 8 bits none may be more than one step."""
    plain, options = PRECISION["float32"], CheckOptions()
    steps = [Scale(1.0, 1.0, replace(plain, step=step)).step(options) for step in (0.0, 4e-4, 1e-3, 1e-2)]
    assert steps == [0.0, 16e-4, 2e-3, 1e-2]
