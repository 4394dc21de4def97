"""A class activation map: the head without its pool, so that every place of the trunk has a score."""

import numpy as np
import onnxruntime as ort

import onnxfc

options = onnxfc.RewriteOptions(global_pool="drop")
result = onnxfc.rewrite("fixtures/torch/mini_resnet.dynamo.onnx", options=options)
result.save("activation.onnx")
image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
[scores] = ort.InferenceSession("activation.onnx").run(None, {"image": image})
[original] = ort.InferenceSession("fixtures/torch/mini_resnet.dynamo.onnx").run(None, {"image": image})
print(f"{scores.shape[2]}x{scores.shape[3]} places, {result.geometry.stride[0]} px apart")
print(f"their mean is the original's score to {np.abs(scores.mean((2, 3)) - original).max():.0e}")
