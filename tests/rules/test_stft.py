"""STFT and MelWeightMatrix: frames slide along a signal as a Conv's windows do; the frequencies stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import Net, complete, own_crops, proven, refusal, session
from onnx import TensorProto

import onnxfc
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("small.npz"))


@pytest.mark.parametrize("name", ["spectrogram", "centred"])
def test_as_pytorch_at_every_length(name: str) -> None:
    """(N, L) that an STFT reads is a signal, also where its ends are mirrored first."""
    path = fixture_file(f"{name}.dynamo.onnx")
    done = onnxfc.rewrite(path, options=RewriteOptions(global_pool="keep", dynamic_batch=True))
    assert done.claim.native_size == (160,)
    for length in (200, 161, 333):
        sound = np.random.default_rng(length).standard_normal((1, length)).astype(np.float32)
        want = REFERENCES[f"{name} scores {length}"]
        [value] = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": sound})
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())
    cells = onnxfc.rewrite(path)
    mirrored = name == "centred"
    assert (cells.claim.verdict, cells.claim.stride) == ("approximate" if mirrored else "exact", (8,))
    if not mirrored:
        assert own_crops(onnx.load(path), cells) < 1e-5


def spectrogram(onesided: int = 1, window: bool = True, more: int = 0, head: str = "pool") -> onnx.ModelProto:
    """(N, L, 1), as the operator reads it: the power of each frequency, in bands, as an image of one channel."""
    net = Net(17)
    frame = net.const(np.hanning(16)) if window else ""
    length = () if window else (net.const(16, dtype=np.int64),)
    found = net.op(
        "STFT", net.input("image", [1, 100 + more, 1]), net.const(4, dtype=np.int64), frame, *length, onesided=onesided
    )
    bands = net.axes("ReduceSum", net.op("Mul", found, found), [3], keepdims=0)
    if onesided:
        counts = [net.const(number, dtype=np.int64) for number in (6, 16, 8000)]
        bands = net.op("MatMul", bands, net.op("MelWeightMatrix", *counts, net.const(50.0), net.const(3900.0)))
    lines = net.op("Log", net.op("Add", bands, net.const(0.1)))
    if head == "lines":
        return net.model(lines)
    behind = net.op("Relu", net.conv(net.axes("Unsqueeze", lines, [1]), 1, 3))
    if head == "pool":
        return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", behind)), 3, 4))
    return net.model(net.fc(net.op("Flatten", behind), 3 * 10 * 2, 4))


@pytest.mark.parametrize("head", ["pool", "flatten"])
@pytest.mark.parametrize("more", [0, 3])
def test_cells_are_those_of_crops(head: str, more: int) -> None:
    """Samples that are left over behind the last frame are in no crop's."""
    model = spectrogram(more=more, head=head)
    done = proven(model)
    assert (done.claim.native_size, done.claim.stride) == ((100 + more,), (8,))
    assert own_crops(model, done) < 1e-5


@pytest.mark.parametrize(
    "how", [{}, {"onesided": 0}, {"window": False}, {"onesided": 0, "window": False}], ids=lambda how: " ".join(how)
)
def test_frames_at_any_length_are_the_original_s(how: dict[str, Any]) -> None:
    """Its graph names no length: with an open one it runs at any."""
    model = spectrogram(**how, head="lines")
    done = onnxfc.rewrite(model)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (4,))
    free = onnx.ModelProto()
    free.CopyFrom(model)
    free.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    free.graph.output[0].type.tensor_type.ClearField("shape")
    new, old = session(complete(done)), session(free)
    for length in (100, 103, 164, 37):
        sound = np.random.default_rng(length).standard_normal((1, length, 1)).astype(np.float32)
        [got], [want] = (item.run(None, {"image": sound}) for item in (new, old))
        np.testing.assert_array_equal(got, want)


def test_a_step_that_the_signal_says_is_refused() -> None:
    net = Net(17)
    sound = net.image(1, (100,), 1)
    rows = net.op("Transpose", sound, perm=[0, 2, 1])
    step = net.op("Cast", net.axes("ReduceMax", sound, None, keepdims=0), to=TensorProto.INT64)
    model = net.model(
        net.op("STFT", rows, net.op("Max", step, net.const(4, dtype=np.int64)), net.const(np.hanning(16)))
    )
    assert refusal(model).code in ("dynamic-parameter", "unknown-shape")
