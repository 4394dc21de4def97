"""One score vector of an image, whatever its size."""

import numpy as np
import onnxruntime as ort

import onnxfc

image = np.random.default_rng(0).normal(size=(1, 3, 96, 80)).astype(np.float32)
for name, options in {
    "mean of the map": onnxfc.RewriteOptions(output="mean"),
    "largest of the map": onnxfc.RewriteOptions(output="max"),
    "one pool for the whole image": onnxfc.RewriteOptions(global_pool="keep"),
}.items():
    onnxfc.rewrite("fixtures/torch/mini_resnet.dynamo.onnx", options=options).save("vector.onnx")
    [scores] = ort.InferenceSession("vector.onnx").run(None, {"image": image})
    print(f"{name:<30} {scores.shape} {np.round(scores[0], 3)}")
