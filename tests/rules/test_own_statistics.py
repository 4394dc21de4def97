"""What takes its statistics from the whole map, or reads it at places of its own: as the original does, freed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hazards import CHANNELS, CHECK, FEATURES, OLD_ONNX, OLD_RUNTIME, Net, own_crops, proven, refusal

from onnxfc import RewriteOptions, rewrite

Layer = Callable[[Net, str], str]


def training(net: Net, tensor: str) -> str:
    """As an export in training mode leaves it: statistics that are constants, of which it uses none."""
    given = [net.const(value) for value in ([1, 1.2, 0.8], [0, 0.1, 0.2], [0.1, 0, 0.2], [1, 1, 2.0])]
    if net.opset < 14:
        return str(net.op("BatchNormalization", tensor, *given, outputs=5)[0])
    return str(net.op("BatchNormalization", tensor, *given, outputs=3, training_mode=1)[0])


def normalised(net: Net, tensor: str) -> str:
    return str(net.op("MeanVarianceNormalization", tensor))


def deformed(net: Net, tensor: str) -> str:
    offset = net.op("Conv", tensor, net.random(18, CHANNELS, 3, 3, gain=0.4), pads=[1] * 4)
    weight = net.random(CHANNELS, CHANNELS, 3, 3)
    return str(net.op("DeformConv", tensor, weight, offset, kernel_shape=[3, 3], pads=[1] * 4))


def model(layer: Layer, opset: int, batch: int = 1) -> onnx.ModelProto:
    net = Net(opset)
    made = net.op("Tanh", layer(net, net.trunk(batch)))
    squared = net.op("Mul", made, made)
    return net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", squared)), CHANNELS, 5), infer=opset < 19)


@pytest.mark.parametrize(
    ("layer", "opset"),
    [
        (training, 9),
        (training, 17),
        (normalised, 13),
        pytest.param(deformed, 19, marks=pytest.mark.skipif(OLD_ONNX or OLD_RUNTIME, reason="has no DeformConv yet")),
    ],
)
def test_one_vector_is_the_original_s_at_any_size(layer: Layer, opset: int) -> None:
    original = model(layer, opset)
    done = rewrite(original, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.claim.verdict == "approximate"
    assert "context" in {blame.cause.value for blame in done.claim.blames}
    freed = onnx.ModelProto()
    freed.CopyFrom(original)
    for axis in (2, 3):
        freed.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    sessions = [ort.InferenceSession(item.SerializeToString()) for item in (freed, done.model)]
    for size in ((19, 14), (12, 21), (33, 30)):
        image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
        want, value = (session.run(None, {"image": image})[0] for session in sessions)
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_statistics_over_which_onnxruntime_writes() -> None:
    """A scale of ones and a variance of ones are one tensor for onnxruntime, which it changes with every run: the proof
    holds against what the file says, and the report tells of it."""

    def untouched(net: Net, tensor: str) -> str:
        given = [net.const([value] * CHANNELS) for value in (1, 0.3, 0, 1)]
        return str(net.op("BatchNormalization", tensor, *given, outputs=3, training_mode=1)[0])

    original = model(untouched, 17)
    done = rewrite(original, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.native.deviation < 1e-5
    [note] = done.notes
    assert note.code == "training-mode"
    assert "every run of the original gives other scores" in note.reason
    image = np.random.default_rng(3).standard_normal((1, 2, 11, 9)).astype(np.float32) / 20
    merged, ours = (ort.InferenceSession(item.SerializeToString()) for item in (original, done.model))
    plain = ort.InferenceSession(original.SerializeToString(), disabled_optimizers=["ConstantSharing"])
    first, second = (merged.run(None, {"image": image})[0] for _ in range(2))
    assert np.abs(first - second).max() > 1e-3 * np.abs(first).max()
    want, value = (session.run(None, {"image": image})[0] for session in (plain, ours))
    np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())
    other = rewrite(model(training, 17), options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert other.notes == ()


def test_statistics_of_channels_are_each_place_s() -> None:
    original = model(lambda net, x: str(net.op("MeanVarianceNormalization", x, axes=[1])), 13)
    assert own_crops(original, proven(original)) < 1e-5


def test_statistics_of_several_images_or_of_rows_are_refused() -> None:
    assert refusal(model(training, 17, batch=2)).code == "training-mode"
    assert refusal(model(normalised, 13, batch=2)).code == "mixes-batch"
    rows = model(lambda net, x: str(net.op("MeanVarianceNormalization", x, axes=[3])), 13)
    assert refusal(rows).code == "along-space"


def test_boxes_are_told_where_to_end() -> None:
    net = Net(17)
    rows = net.op("Reshape", net.op("Transpose", net.trunk(), perm=[0, 2, 3, 1]), net.ints(1, -1, CHANNELS))
    boxes = net.op("Concat", rows, net.op("Slice", rows, net.ints(0), net.ints(1), net.ints(2)), axis=2, out="boxes")
    scores = net.op("Transpose", net.op("Slice", rows, net.ints(1), net.ints(3), net.ints(2)), perm=[0, 2, 1], out="s")
    best = net.op("NonMaxSuppression", boxes, scores, net.ints(10))
    assert rewrite(net.model(best), check_options=CHECK).claim.detections == (best,)
    found = refusal(net.model(best), dynamic_batch=True)
    assert (found.code, found.advice) == (
        "data-dependent",
        "leave out --dynamic-batch, or end the model before it: --output-at boxes --output-at s",
    )
    done = rewrite(net.model(best), options=RewriteOptions(output_at=("boxes", "s")), check_options=CHECK)
    assert [output.form for output in done.claim.outputs] == ["list", "list"]


def test_the_model_is_told_to_end_at_what_is_computed() -> None:
    """Not at the boxes or the class numbers that are constants."""
    net = Net(17)
    boxes = net.const(np.random.default_rng(0).random((1, 5, 4)), name="anchors")
    scores = net.op("Reshape", net.fc(net.flat(), FEATURES, 5), net.ints(1, 1, 5), out="scores")
    found = refusal(net.model(net.op("NonMaxSuppression", boxes, scores, net.ints(10))))
    assert (found.code, found.advice) == ("data-dependent", "end the model before it: --output-at scores")
    net = Net(17)
    best = net.op("ArgMax", net.fc(net.flat(), FEATURES, 5), axis=1, keepdims=0, out="best")
    classes = net.const([3, 1, 4, 1, 5], name="classes", dtype=np.int64)
    picked = net.op("ArrayFeatureExtractor", classes, best, domain="ai.onnx.ml")
    labelled = net.model(picked, infer=False)
    labelled.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    kind = onnx.TensorProto.INT64
    labelled.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(picked, kind, None))
    found = refusal(labelled)
    assert (found.code, found.advice) == ("unsupported-operator", "end the model before it: --output-at best")
    assert rewrite(labelled, options=RewriteOptions(output_at=("best",)), check_options=CHECK).claim.outputs
