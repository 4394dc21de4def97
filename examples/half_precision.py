"""Rewrite in float32, convert to float16, check the result, and say for which image sizes TensorRT is to build it."""

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxfc

result = onnxfc.rewrite("fixtures/torch/lenet.dynamo.onnx")
half = convert_float_to_float16(result.model, keep_io_types=True)
onnx.save(half, "lenet-any-half.onnx")
options = onnxfc.CheckOptions(rtol=2e-2)
checked = onnxfc.check_pair("fixtures/torch/lenet.dynamo.onnx", "lenet-any-half.onnx", options=options)
print(checked.passed, checked.parity.summary())

profile = {"min": result.geometry.smallest_size, "opt": (384, 384), "max": (1024, 1024)}
print("trtexec --fp16 --onnx=lenet-any-half.onnx --saveEngine=lenet-any-half.plan", end="")
for name, size in profile.items():
    result.geometry.cells(size)  # raises UsageError where the model does not take such images
    shapes = [f"{key}:{'x'.join(map(str, shape))}" for key, shape in result.claim.image_shapes(size).items()]
    print(f" --{name}Shapes={','.join(shapes)}", end="")
print()
