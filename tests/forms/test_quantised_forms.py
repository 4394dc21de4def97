"""Forms of quantised models: the same integers, in other operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import CHECK, Net, complete, session
from onnx import helper
from onnxruntime.quantization import QuantFormat
from quantised import by_onnxruntime

from onnxfc import RewriteOptions, rewrite

IMAGE = np.random.default_rng(7).standard_normal((1, 2, 23, 19)).astype(np.float32)


def pooled(folder: Path, opset: int) -> onnx.ModelProto:
    """A maximum over the whole image, which onnxruntime's quantiser leaves on integers."""
    net = Net(opset)
    features = net.op("Relu", net.conv(net.image(size=(23, 19)), 2, 8))  # 11x9
    pool = net.op("MaxPool", features, kernel_shape=[11, 9], strides=[1, 1])
    scores = net.fc(net.op("Flatten", pool), 8, 6)
    return by_onnxruntime(net.model(scores), folder, QuantFormat.QOperator)


@pytest.mark.parametrize("opset", [13, 18])
def test_a_maximum_of_integers_over_the_whole_image(opset: int, tmp_path: Path) -> None:
    """There is no global pool of integers."""
    original = pooled(tmp_path, opset)
    [want] = session(original).run(None, {"image": IMAGE})
    form = rewrite(original, options=RewriteOptions(form="conv4d"), check_options=CHECK)
    [got] = session(complete(form)).run(None, {"image": IMAGE})
    np.testing.assert_array_equal(got.reshape(want.shape), want)
    kept = complete(rewrite(original, options=RewriteOptions(global_pool="keep"), check_options=CHECK))
    assert "GlobalMaxPool" not in {node.op_type for node in kept.graph.node}
    for image in (IMAGE, IMAGE.repeat(2, axis=2)[:, :, :41]):
        grown = session(_for_size(original, image.shape[2:])).run(None, {"image": image})
        np.testing.assert_array_equal(session(kept).run(None, {"image": image})[0], grown[0])


def _for_size(model: onnx.ModelProto, size: tuple[int, ...]) -> onnx.ModelProto:
    """The network as it would be made for another image size."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for dim, length in zip(made.graph.input[0].type.tensor_type.shape.dim[2:], size, strict=True):
        dim.dim_value = length
    del made.graph.value_info[:]
    pool = next(node for node in made.graph.node if node.op_type == "MaxPool")
    kernel = helper.make_attribute("kernel_shape", [(length - 1) // 2 for length in size])
    pool.attribute.remove(next(item for item in pool.attribute if item.name == "kernel_shape"))
    pool.attribute.append(kernel)
    return made
