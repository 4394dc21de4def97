"""Which inputs a proof rests on: several kinds of them, and no features that a head cannot take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hazards import Net, complete, proven
from onnx import numpy_helper

from onnxfc import CheckOptions, check_pair, rewrite
from onnxfc.proof import reference_run
from onnxfc.proof.inputs import FLOAT_KINDS, INTEGER_KINDS, Kind
from onnxfc.proof.options import CheckOptions as Options
from onnxfc.proof.synthetic_features import _clear
from onnxfc.proof.tolerance import PRECISION, Scale, confirmed, measure

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
ONE = CheckOptions(threads=1)
FLOAT = PRECISION["float32"]


def classifier(seed: int, gain: float) -> onnx.ModelProto:
    """Two Convs, 16 hidden units, four classes by softmax; scores that move little or are nearly saturated."""
    net = Net(17, seed)
    x = net.op("Relu", net.conv(net.image(1, (20, 16), 1), 1, 8))
    x = net.op("Relu", net.conv(x, 8, 8, strides=[1, 1]))
    hidden = net.op("Gemm", net.op("Flatten", x), net.random(16, 280), net.random(16), transB=1)
    scores = net.op("Gemm", net.op("Relu", hidden), net.random(4, 16, gain=gain), net.random(4), transB=1)
    return net.model(net.op("Softmax", scores, axis=1))


def with_weight(model: onnx.ModelProto, position: int, spoil: Any) -> onnx.ModelProto:
    """The rewrite of ``model`` without its claim, the kernel of one of its Convs spoilt."""
    other = complete(rewrite(model, prove=False))
    del other.metadata_props[:]
    name = [node for node in other.graph.node if node.op_type == "Conv"][position].input[1]
    held = next(tensor for tensor in other.graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(held).copy()
    spoil(values)
    held.CopyFrom(numpy_helper.from_array(values, name))
    return other


def mirror(unit: int) -> Any:
    def spoil(values: np.ndarray) -> None:
        values[unit] = values[unit, :, :, ::-1].copy()

    return spoil


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    ("seed", "gain"), [(25, 0.1), (31, 0.1), (36, 0.1), (10, 0.3), (38, 0.3), (3, 1), (9, 1), (35, 1)]
)
def test_more_than_one_kind_and_normal_inputs_among_them(seed: int, gain: float) -> None:
    """Nets of which two samples found one kind of inputs good, or none."""
    model = classifier(seed, gain)
    parity = check_pair(model, with_weight(model, 2, lambda values: None), options=ONE).parity
    assert parity.passed
    assert len(parity.conditions.inputs) >= 2
    assert "normal" in parity.conditions.inputs


@pytest.mark.parametrize(("seed", "gain", "unit"), [(9, 1, 3), (9, 1, 8), (35, 1, 2), (38, 0.3, 5)])
def test_an_error_that_inputs_of_one_kind_do_not_show(seed: int, gain: float, unit: int) -> None:
    model = classifier(seed, gain)
    assert not check_pair(model, with_weight(model, 2, mirror(unit)), options=ONE).passed


@pytest.mark.parametrize("seed", range(3))
def test_one_mirrored_unit_of_a_stranger(seed: int) -> None:
    pair = [CASES / f"pair-one-unit-mirrored.{which}.onnx" for which in ("original", "other")]
    if not all(path.exists() for path in pair):
        pytest.skip("the shared cases are not here")
    done = check_pair(*pair, options=CheckOptions(threads=1, seed=seed))
    assert "normal" in done.parity.conditions.inputs
    assert done.parity.vacuous is None
    assert not done.passed


def test_a_large_model_is_not_run_much_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples of each of eight kinds, two more of two of them, and a batch of two."""
    monkeypatch.setattr(reference_run, "SMALL", 0)
    taken: list[str] = []
    sample = reference_run._sample

    def counted(evidence: Any, runner: Any, kind: Any, number: int, batch: int | None = None) -> Any:
        taken.append(kind.name)
        return sample(evidence, runner, kind, number, batch)

    monkeypatch.setattr(reference_run, "_sample", counted)
    model = classifier(9, 1)
    done = check_pair(model, with_weight(model, 2, lambda values: None), options=ONE)
    assert done.passed
    assert len(taken) <= 20
    assert taken.count("normal") == 4


def test_a_kind_of_inputs_without_a_scale_is_known_as_wild() -> None:
    def scale(*sizes: float) -> Scale:
        return measure([np.array([[size, 0.3 * size, 0.1]]) for size in sizes], 1, FLOAT, Options())

    first = scale(2.6e5, 2.7e5)
    assert confirmed(first, scale(2.6e5, 2.7e5, 4e5)) == scale(2.6e5, 2.7e5, 4e5)
    found = confirmed(first, scale(2.6e5, 2.7e5, 2e8, 1e3))
    assert found.wild
    assert not found.good
    assert found.signal == first.signal
    constant = scale(1, 1)
    assert confirmed(constant, scale(1, 1, 1e3)) == constant


# Features put together from several windows


def normed(seed: int = 0) -> onnx.ModelProto:
    """One channel, brought to mean 0 and deviation 1 in each window, an FC layer, scores of length 1.

    A window whose values are all alike has no deviation to be divided by.
    """
    net = Net(17, seed)
    x = net.op("MaxPool", net.image(1, (12, 12), 1), kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Flatten", x)
    x = net.op("Sub", x, net.axes("ReduceMean", x, [1]))
    square = net.axes("ReduceMean", net.op("Mul", x, x), [1])
    x = net.op("Div", x, net.op("Sqrt", net.op("Add", square, net.const(1e-5))))
    x = net.op("Gemm", x, net.random(16, 36), net.const(np.zeros(16)), transB=1)
    return net.model(net.op("Div", x, net.op("Clip", net.axes("ReduceL2", x, [1]), net.const(1e-12))))


@pytest.mark.parametrize("seed", range(3))
def test_a_norm_over_one_channel(seed: int) -> None:
    done = proven(normed(seed), exact=True)
    assert done.parity is not None
    assert done.parity.window.deviation < 5e-4


@pytest.mark.parametrize("seed", range(3))
def test_a_layer_norm_of_a_stranger(seed: int) -> None:
    path = CASES / "layer-norm-one-channel.onnx"
    if not path.exists():
        pytest.skip("the shared cases are not here")
    done = rewrite(path, check_options=CheckOptions(threads=1, seed=seed))
    assert done.parity is not None
    assert done.parity.passed
    assert done.parity.window.deviation < 1e-4


@pytest.mark.sweep(12)
@pytest.mark.parametrize("unit", range(0, 16, 3))
def test_errors_behind_a_norm_over_one_channel_are_found(unit: int) -> None:
    model = normed()

    def scaled(values: np.ndarray) -> None:
        values[unit] *= 1.01

    def turned(values: np.ndarray) -> None:
        values[unit] = values[unit, ::-1].copy()

    assert check_pair(model, with_weight(model, -1, lambda values: None), options=ONE).passed
    assert not check_pair(model, with_weight(model, -1, scaled), options=ONE).passed
    assert not check_pair(model, with_weight(model, -1, turned), options=ONE).passed


def test_what_rounding_moves_is_left_out_and_nobodys_signal() -> None:
    values = [np.array([[float(turn), 0.5]]) for turn in range(4)] + [np.array([[1e4, 0.5]])]

    def scale_of(some: Sequence[np.ndarray]) -> Scale:
        return measure(some, 1, FLOAT, Options())

    scale, clear = _clear(values, [1e-7, 1e-6, 1e-4, 0.0, 1.0], scale_of)
    assert clear == [0, 1, 3]
    assert scale.signal == 1.5
    assert _clear(values, [0.0] * 5, scale_of) == (scale_of(values), [0, 1, 2, 3, 4])
    assert _clear(values, [1e4] * 5, scale_of)[1] == []


@pytest.mark.parametrize("kind", [*FLOAT_KINDS, *INTEGER_KINDS], ids=lambda kind: kind.name)
def test_kinds_are_what_they_are_called(kind: Kind) -> None:
    """A range that is named is filled from end to end, and not left; a number is the deviation."""
    field = np.random.default_rng(3).standard_normal((64, 64))
    made = kind.shape(field)
    if found := re.search(r"(-?\d+)\.\.(\d+)", kind.name):
        assert (made.min(), made.max()) == pytest.approx(tuple(map(float, found.groups())))
    else:
        number = re.search(r"[\d.]+", kind.name)
        assert made.std() == pytest.approx(float(number[0]) if number else 1.0, rel=0.05)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([3.0, 7, 3, 7, 7, 3], "saturated"),
        ([3.0, 7, 3, 7, 7, 3.001], "saturated"),
        ([3.0, 7, 3, 7, 7, 3.1], ""),
        ([1.0, 0, 0, 1e-5, 0, 1], "saturated"),
        ([1e-5, 0, 0, 1e-5, 0, 2e-5], ""),
    ],
    ids=str,
)
def test_values_at_two_extremes_are_saturated(values: list[float], problem: str) -> None:
    rows = [np.roll(np.array([values]), turn) for turn in range(4)]
    assert measure(rows, 1, FLOAT, Options()).problem.partition(",")[0] == problem


@pytest.mark.parametrize("seed", range(10))
def test_exponentials_that_overflow_at_one_size_and_not_at_another(seed: int) -> None:
    """Sizes of boxes as detectors decode them: nothing rests on inputs whose values come near the largest float."""
    net = Net(7)
    data = net.op("Mul", net.conv(net.image(1, (24, 32), 3), 3, 6, pads=[1] * 4), net.const(np.float32(0.25)))
    rows = net.op("Reshape", net.op("Exp", data), net.ints(1, 6, -1))
    done = rewrite(net.model(net.op("Transpose", rows, perm=[0, 2, 1])), check_options=CheckOptions(seed=seed))
    assert done.parity is not None
    assert done.parity.passed
    assert len(done.parity.conditions.inputs) >= 2


def test_values_of_which_another_image_may_have_none() -> None:
    rows = np.array([[[1.0, 3e19]], [[2.0, 4.0]]], np.float32)
    assert measure(list(rows), 1, FLOAT, Options()).problem == "so large that another image may overflow"
    assert (
        measure([row / 1e5 for row in rows], 1, FLOAT, Options()).problem != "so large that another image may overflow"
    )
